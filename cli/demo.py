"""`dsops demo`: the main job on real scans, from images in folders to an accepted version and its evidence pack."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from datasetops.cli.session import Session, command, counted

if TYPE_CHECKING:
    from datasetops.gate.policy import Policy
    from datasetops.manifest import Repository, Version


def register(app: typer.Typer) -> None:
    command(app)(demo)


def demo(
    session: Session,
    folder: Annotated[Path, typer.Argument(help="A new folder for it.")] = Path("demo"),
    flip: Annotated[float, typer.Option(min=0.0, max=0.5, help="Share of labels to make wrong on purpose.")] = 0.05,
    seed: Annotated[int, typer.Option(help="Which labels are made wrong.")] = 0,
    images: Annotated[int, typer.Option(min=300, max=1797, help="How many of the scans.")] = 1797,
) -> None:
    """Show what dsops does: version 1,797 handwritten digits, make some labels wrong, find them, mend them, and prove it.

    The digits are scans that come with scikit-learn; nothing is downloaded. Reviewers who know the truth stand in for people.
    """
    from datasetops.errors import ConflictError

    if folder.exists() and any(folder.iterdir()):
        raise ConflictError(f"{folder} is not empty.", remedy="Name a new folder: dsops demo FOLDER")
    with _removed_if_stopped(folder):
        _show(session, folder, flip, seed, images)


@contextmanager
def _removed_if_stopped(folder: Path) -> Iterator[None]:
    """So that the same command starts anew after Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _show(session: Session, folder: Path, flip: float, seed: int, images: int) -> None:
    from datasetops.audits.report import write_report
    from datasetops.audits.run import audit
    from datasetops.cli.demo_data import ROUNDS, check_sample, flip_labels, review, write_digits
    from datasetops.gate.policy import current_policy
    from datasetops.ingest import ingest
    from datasetops.manifest import Repository
    from datasetops.schema import load_guide, load_schema
    from datasetops.splits import assign_splits

    photos = folder / "photos"
    count = write_digits(photos, images)
    session.say(
        f"1. Wrote {count:,} scans of handwritten digits to {photos}, with a table of their labels and licence."
    )
    repository = Repository.init(folder, load_schema("digits"), guide=load_guide("digits").text)
    first = ingest(repository, str(photos / "scans.csv"), progress=session.progress)
    truth = {row["sample_id"]: row["label"] for row in first.version.labels().to_pylist()}
    assign_splits(repository, {"train": 0.8, "test": 0.2})
    session.say(
        f"2. Ingested them: {counted(first.samples, 'sample')}, {counted(first.annotations, 'label')}, in splits."
    )
    version, wrong = flip_labels(repository, flip, seed)
    session.say(f"3. Made {counted(len(wrong), 'label')} ({flip:.0%}, seed {seed}) wrong on purpose: {version.name}.")
    session.say(f"4. Auditing {version.name}; a model that never saw an image's own label judges it …")
    record = audit(repository, version, progress=session.progress)
    report = (folder / f"{version.name}-audit.html").absolute()
    write_report(repository, version, record, report, progress=session.progress)
    flagged = {row["sample_id"] for row in record.findings.to_pylist() if row["check"] == "label_noise"}
    found = len(flagged & wrong)
    answer = {
        "version": version.name,
        "samples": first.samples,
        "wrong": len(wrong),
        "flagged": len(flagged),
        "found": found,
        "precision": found / len(flagged) if flagged else None,
        "recall": found / len(wrong) if wrong else None,
        "report": str(report),
    }
    session.say("5. A reviewer decides on what was found; the next version is audited again …")
    policy = current_policy(repository)
    asked = (*policy.findings.checks, "coverage", "balance") if policy.findings else ()
    for _ in range(ROUNDS):
        mended = review(repository, record, version, truth)
        if mended.name == version.name:
            break
        version = mended
        record = audit(repository, version, checks=asked, progress=session.progress)
    result = check_sample(repository, version, truth)
    session.say(
        f"6. {result.checked} drawn at random were checked: at most {result.high:.1%} of {version.name} is wrong."
    )
    answer |= _accept(session, repository, version, policy, folder)
    session.emit(answer, _words(answer, folder))


def _accept(session: Session, repository: Repository, version: Version, policy: Policy, folder: Path) -> dict[str, Any]:
    """Accept the version by the packaged policy, and write its evidence pack where the extra for it is installed."""
    from datasetops.cli.demo_data import OFFICER, as_actor
    from datasetops.errors import MissingDependencyError
    from datasetops.evidence.story import Story
    from datasetops.evidence.write import write_pack
    from datasetops.gate.accept import accept

    result = accept(as_actor(repository, OFFICER), version, policy)
    answer: dict[str, Any] = {"mended": version.name, "accepted": result.accepted, "evidence": None}
    if not result.accepted:
        session.say("7. Not accepted: " + "; ".join(item.message for item in result.failed))
        return answer
    pack = (folder / f"{version.name}-evidence.zip").absolute()
    try:
        write_pack(Story(repository, version), pack)
    except MissingDependencyError as error:
        session.say(f"7. {version.name} was accepted. Its evidence pack: {error.remedy}")
        return answer
    session.say(f"7. {version.name} was accepted by the packaged policy; its evidence pack is written.")
    return answer | {"evidence": str(pack)}


def _words(answer: dict[str, Any], folder: Path) -> list[str]:
    lines = [""]
    if answer["flagged"] and answer["wrong"]:
        lines += [
            f"{answer['flagged']} labels were flagged; {answer['found']} of them are among the {answer['wrong']} wrong ones:",
            f"  precision {answer['precision']:.0%}, recall {answer['recall']:.0%}",
        ]
    lines += ["", f"Report, to open in a browser: {answer['report']}"]
    if answer["evidence"]:
        lines.append(f"Evidence pack of {answer['mended']}; unpack it and open index.html: {answer['evidence']}")
    return [
        *lines,
        "",
        "Try next:",
        f"  dsops -C {folder} findings {answer['version']} --check label_noise",
        f"  dsops -C {folder} diff {answer['version']} {answer['mended']}",
        f"  dsops -C {folder} blame {answer['mended']}",
        f'  dsops -C {folder} query "select label, count(*) as n from annotations group by label order by label"',  # noqa: S608
    ]
