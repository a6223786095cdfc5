"""`dsops demo`: the main job on real scans, from images in folders to a ranked list of wrong labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from datasetops.cli.session import Session, command


def register(app: typer.Typer) -> None:
    command(app)(demo)


def demo(
    session: Session,
    folder: Annotated[Path, typer.Argument(help="A new folder for it.")] = Path("demo"),
    flip: Annotated[float, typer.Option(min=0.0, max=0.5, help="Share of labels to make wrong on purpose.")] = 0.05,
    seed: Annotated[int, typer.Option(help="Which labels are made wrong.")] = 0,
) -> None:
    """Show what dsops does: version 1,797 handwritten digits, make some labels wrong, and find them again.

    The digits are scans that come with scikit-learn; nothing is downloaded.
    """
    from datasetops.audits.report import write_report
    from datasetops.audits.run import audit
    from datasetops.errors import ConflictError
    from datasetops.ingest import ingest
    from datasetops.manifest import Repository
    from datasetops.schema import load_guide, load_schema

    if folder.exists() and any(folder.iterdir()):
        raise ConflictError(f"{folder} is not empty.", remedy="Name a new folder: dsops demo FOLDER")
    photos = folder / "photos"
    count = _write_digits(photos)
    session.say(f"1. Wrote {count:,} scans of handwritten digits to {photos}, a folder a class.")
    repository = Repository.init(folder, load_schema("digits"), guide=load_guide("digits").text)
    first = ingest(repository, str(photos), format="folder", progress=session.progress)
    session.say(f"2. Ingested them: {first.version.name}, {first.samples:,} samples, {first.annotations:,} labels.")
    second, wrong = _flip_labels(repository, flip, seed)
    session.say(f"3. Made {len(wrong):,} labels ({flip:.0%}, seed {seed}) wrong on purpose: {second.name}.")
    session.say(f"4. Auditing {second.name}; a model that never saw an image's own label judges it …")
    record = audit(repository, second, progress=session.progress)
    report = (folder / f"{second.name}-audit.html").absolute()
    write_report(repository, second, record, report, progress=session.progress)
    flagged = {row["sample_id"] for row in record.findings.to_pylist() if row["check"] == "label_noise"}
    found = len(flagged & wrong)
    answer = {
        "version": second.name,
        "samples": first.samples,
        "wrong": len(wrong),
        "flagged": len(flagged),
        "found": found,
        "precision": found / len(flagged) if flagged else None,
        "recall": found / len(wrong) if wrong else None,
        "report": str(report),
    }
    session.emit(answer, _words(answer, folder))


def _words(answer: dict[str, Any], folder: Path) -> list[str]:
    lines = [""]
    if answer["flagged"] and answer["wrong"]:
        lines += [
            f"{answer['flagged']} labels were flagged; {answer['found']} of them are among the {answer['wrong']} wrong ones:",
            f"  precision {answer['precision']:.0%}, recall {answer['recall']:.0%}",
        ]
    return [
        *lines,
        "",
        f"Report, to open in a browser: {answer['report']}",
        "",
        "Try next:",
        f"  dsops -C {folder} findings {answer['version']} --check label_noise --budget 20",
        f"  dsops -C {folder} diff v1 {answer['version']}",
        f'  dsops -C {folder} sql "SELECT label, count(*) AS n FROM annotations GROUP BY label ORDER BY label"',  # noqa: S608
    ]


def _write_digits(folder: Path) -> int:
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        file = folder / str(label) / f"{number:04}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 15).astype(np.uint8)).save(file)
    return len(digits.images)


def _flip_labels(repository: Any, share: float, seed: int) -> tuple[Any, set[str]]:
    """Give a random share of the images another class, as a new version; returns it and the samples concerned."""
    import numpy as np
    import pyarrow as pa

    from datasetops.ledger import Event
    from datasetops.manifest import Change

    rng = np.random.default_rng(seed)
    head = repository.version()
    rows = head.table("annotations")
    names = list(head.schema.class_names)
    chosen = np.sort(rng.choice(len(rows), round(share * len(rows)), replace=False))
    flipped = rows.take(pa.array(chosen))
    labels = [
        names[(names.index(label) + int(rng.integers(1, len(names)))) % len(names)]
        for label in flipped["label"].to_pylist()
    ]
    flipped = flipped.set_column(flipped.column_names.index("label"), "label", pa.array(labels))
    event = Event("demo", repository.settings.actor, parameters={"share": share, "seed": seed})
    change = Change(annotations=flipped.drop(["event_id", "created_at"]))
    result = repository.commit(change, message=f"Make {len(labels)} labels wrong (seed {seed})", event=event)
    return result.version, set(flipped["sample_id"].to_pylist())
