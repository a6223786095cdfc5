"""Commands that find what is wrong: audit, findings."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from datasetops.cli.session import CHECK_FAILED, Session, command, counted, table
from datasetops.cli.versions import VersionName

if TYPE_CHECKING:
    from datasetops.audits.record import AuditRecord
    from datasetops.manifest import Repository, Version

_COLUMNS: Final = ("severity", "check", "score", "uri", "message")
_ID_SHOWN: Final = 8  # digits of a finding's id; dsops decide takes beginnings


def register(app: typer.Typer) -> None:
    for function in (audit, findings, decide):
        command(app)(function)


def audit(
    session: Session,
    version: VersionName = "main",
    check: Annotated[list[str] | None, typer.Option("--check", help="Only this check. May be repeated.")] = None,
    split: Annotated[str | None, typer.Option(help="Only samples of this split.")] = None,
    where: Annotated[str | None, typer.Option(help="Only samples that fulfil this SQL condition.")] = None,
    probabilities: Annotated[
        Path | None, typer.Option(help="CSV or Parquet: sample_id (or uri) and a column a class, out-of-sample.")
    ] = None,
    detections: Annotated[
        Path | None,
        typer.Option(
            help="A detector's boxes: COCO results (.json), or CSV or Parquet with sample_id, label, x1 … score."
        ),
    ] = None,
    pixels: Annotated[
        Path | None,
        typer.Option(help="Folder of class probabilities by pixel: SAMPLE_ID.npy or .npz, shape (K, H, W)."),
    ] = None,
    predictions: Annotated[
        str | None,
        typer.Option(
            help="A model whose predictions dsops preannotate --also-labeled kept: its probabilities and boxes are taken. It "
            "must not have learned from these labels."
        ),
    ] = None,
    mapping: Annotated[
        Path | None, typer.Option(help="For --predictions: YAML of 'model name: class' where its last run had another.")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(help="What drift is measured from: a version, a folder of images, or a table of samples."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="builtin:NAME, hf:NAME[@REVISION] or local:DIR.")] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            help="Where to write the HTML report (default: VERSION-audit.html, or VERSION-CHECK.html of some checks)."
        ),
    ] = None,
    fail_on: Annotated[str | None, typer.Option(help="Exit with status 3 on findings of low, medium or high.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same findings.")] = 0,
    again: Annotated[bool, typer.Option("--again", help="Compute it anew even if it was done before.")] = False,
    list_checks: Annotated[bool, typer.Option("--list", help="List the checks and what they need.")] = False,
) -> None:
    """Find labels that are probably wrong, duplicates, leaks between splits, bad images, outliers, and more.

    Leaves a record with every finding and score, and a report to open in a browser.
    """
    from datasetops.errors import NotFoundError
    from datasetops.plugins import load_plugin, plugin_names
    from datasetops.records import SEVERITIES

    if list_checks:
        rows = [
            {"check": name}
            | {field: getattr(load_plugin("checks", name), field) for field in ("title", "needs", "cost")}
            for name in plugin_names("checks")
        ]
        lines = [
            line
            for row in rows
            for line in (
                row["check"],
                f"    finds {row['title']}",
                f"    needs {row['needs']}",
                f"    costs {row['cost']}",
            )
        ]
        session.emit(rows, lines)
        return
    if fail_on is not None and fail_on not in SEVERITIES:
        raise ValueError(f"--fail-on: expected low, medium or high; got {fail_on!r}")
    if predictions is not None and (probabilities is not None or detections is not None):
        raise ValueError("--predictions: give it, or --probabilities and --detections")
    if mapping is not None and predictions is None:
        raise ValueError("--mapping says what the names of a model mean: give --predictions too")

    repository = session.repository
    chosen = repository.version(version)
    some = "audit" if not check else "-".join(check) if len(check) < 3 else f"{len(check)}-checks"
    out = report or Path(f"{chosen.name}-{some}.html")
    if not out.parent.is_dir():
        raise NotFoundError(
            f"There is no folder {out.parent} to write the report to.", remedy="Make it, or name another."
        )

    from datasetops.audits.boxes.detections import read_detections
    from datasetops.audits.decisions import decisions, open_findings
    from datasetops.audits.labels.probabilities import read_probabilities
    from datasetops.audits.outlines.pixel_probabilities import read_pixel_probabilities
    from datasetops.audits.report import write_report
    from datasetops.audits.run import audit as run_audit
    from datasetops.audits.sets.baseline import baseline_of, refuse_itself

    samples = chosen.table("samples").to_pandas()

    classes = read_probabilities(probabilities) if probabilities else None
    boxes = read_detections(detections, samples, chosen.schema) if detections else None
    if predictions is not None:
        from datasetops.preannotate.stored import for_audit

        classes, boxes = for_audit(repository, chosen, predictions, mapping)
    baseline = baseline_of(repository, against, model=model, progress=session.progress) if against else None
    if baseline is not None:
        refuse_itself(chosen, baseline)
    record = run_audit(
        repository,
        chosen,
        checks=check or (),
        split=split,
        where=where,
        probabilities=classes,
        detections=boxes,
        pixels=read_pixel_probabilities(pixels, samples, chosen.schema) if pixels else None,
        against=baseline,
        model=model,
        seed=seed,
        again=again,
        progress=session.progress,
    )
    if record.reused:
        session.say(f"This audit of {record.version} was made before and is shown again; --again makes it anew.")
    write_report(repository, chosen, record, out, progress=session.progress)
    answer = dict(record.info) | {"findings": len(record.findings), "reused": record.reused}
    answer["report"] = str(out.absolute())
    for note in record.info.get("notes", ()):
        session.say(note)
    undecided = open_findings(record.findings, decisions(repository))
    session.emit(answer, _summary(record, undecided, out, check or ()))
    if fail_on is not None and (worst := record.worst()) and SEVERITIES.index(worst) >= SEVERITIES.index(fail_on):
        raise typer.Exit(CHECK_FAILED)


def _summary(record: Any, undecided: Any, out: Path, asked: Collection[str]) -> list[str]:
    """Checks that had nothing to look at are told in one line, unless they were asked for by name."""
    levels = ("high", "medium", "low")
    checks = record.info["checks"]
    idle = [name for name, facts in checks.items() if facts.get("skipped") and name not in asked]
    lines = table(
        (
            [
                name,
                *("–".rjust(len(level)) if facts.get("skipped") else facts["severity"][level] for level in levels),
                facts.get("skipped") and f"skipped: {facts['skipped']}",
            ]
            for name, facts in checks.items()
            if name not in idle
        ),
        header=("check", *levels, ""),
    )
    if idle:
        lines += ["", f"Skipped, for reasons that the report gives: {', '.join(idle)}."]
    noise = record.summaries.get("label_noise", {})
    if "estimated_errors" in noise:
        lines += [
            "",
            f"Of {noise['items']:,} labels about {noise['estimated_errors']:,.0f} may be wrong "
            "(an estimate from the model, not a bound).",
        ]
    if "left_out" in noise:
        lines += ["", f"label_noise: {noise['left_out']}."]
    lines += [
        line for name, said in record.summaries.items() if "doubt" in said for line in ("", f"{name}: {said['doubt']}.")
    ]
    worst = undecided.slice(0, 5).to_pylist()
    if worst:
        lines += ["", "Worst first:", *table([f["severity"], f["uri"] or f["sample_id"], f["message"]] for f in worst)]
    return [*lines, "", f"Report: {out.absolute()}", f"All findings: dsops findings {record.version}"]


def findings(
    session: Session,
    version: VersionName = "main",
    check: Annotated[list[str] | None, typer.Option("--check", help="Only this check. May be repeated.")] = None,
    severity: Annotated[str | None, typer.Option(help="Only high, medium or low.")] = None,
    split: Annotated[str | None, typer.Option(help="Only this split.")] = None,
    label: Annotated[str | None, typer.Option(help="Only items labeled so.")] = None,
    budget: Annotated[
        int | None,
        typer.Option(
            min=1, help="What to review first: so many undecided findings, by true errors to expect a minute."
        ),
    ] = None,
    open_only: Annotated[bool, typer.Option("--open", help="Leave out what was decided to be fine.")] = False,
    all_scores: Annotated[
        bool, typer.Option("--all-scores", help="Every item's score of the checks, flagged or not.")
    ] = False,
    format: Annotated[str | None, typer.Option(help="csv, json or parquet.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write to this file.")] = None,
    audit: Annotated[str | None, typer.Option(help="Only this audit, by its id.")] = None,
) -> None:
    """List, filter and export what the newest audits of a version found, check by check. Scores are in [0, 1]; 1 is clean."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from datasetops.audits.decisions import decisions, open_findings
    from datasetops.audits.worklist import worklist
    from datasetops.cli.files import write_table
    from datasetops.records import SEVERITIES

    if severity is not None and severity not in SEVERITIES:
        raise ValueError(f"--severity: expected low, medium or high; got {severity!r}")
    if all_scores and (severity or split or label):
        raise ValueError("--all-scores has a score for every item, and takes no --severity, --split or --label")
    chosen = session.repository.version(version)
    record = _record(session.repository, chosen, audit, check or [])
    _check_filters(chosen, record, check or [], split, label)
    for name in check or []:
        if reason := record.info["checks"][name].get("skipped"):
            session.say(f"{name} was skipped: {reason}")
    rows = record.scores.sort_by("score") if all_scores else record.findings
    for column, values in (("check", check), ("severity", [severity]), ("split", [split]), ("given", [label])):
        if values and values != [None] and column in rows.column_names:
            rows = rows.filter(pc.is_in(rows[column], pa.array(values, pa.string())))
    if open_only:
        rows = open_findings(rows, decisions(session.repository))
    if budget is not None and not all_scores:
        work = worklist(rows, decisions(session.repository), budget)
        rows = work.findings
        session.say(
            f"{counted(len(rows), 'finding')} to review, {_time(work.minutes)}; "
            f"{counted(round(work.expected_errors), 'true error')} to expect "
            f"(from {counted(work.decisions, 'decision')} so far; dsops decide records more)."
        )
    rows = rows.slice(0, budget)
    if out or format:
        write_table(rows, out, format)
        if out:
            session.say(f"Wrote {counted(len(rows), 'row')} to {out}")
        return
    shown = rows.to_pylist() if session.as_json else rows.slice(0, 50).to_pylist()
    names = ("check", "sample_id", "score") if all_scores else ("finding_id", *_COLUMNS)
    if not all_scores:
        verdicts = {item.finding_id: item.verdict for item in decisions(session.repository)}
        shown = [row | {"decided": verdicts.get(row["finding_id"])} for row in shown]
        names = (*names, "decided") if any(row["decided"] for row in shown) else names
    lines = table(([_cell(name, row[name]) for name in names] for row in shown), header=names)
    if len(rows) > len(shown):
        lines.append(f"… {len(rows) - len(shown):,} more; --out FILE.csv writes them all")
    session.emit(shown, lines if shown else "No findings.")


def decide(
    session: Session,
    version: VersionName,
    finding: Annotated[
        list[str] | None, typer.Argument(metavar="[FINDING]...", help="Ids, or their beginnings.")
    ] = None,
    verdict: Annotated[str | None, typer.Option(help="error: the finding is right; fine: it is not; unsure.")] = None,
    note: Annotated[str, typer.Option(help="Why.")] = "",
    file: Annotated[
        Path | None, typer.Option("--file", help="CSV with finding_id and verdict, and perhaps note, seconds, actor.")
    ] = None,
) -> None:
    """Record what you found when you looked at findings. They keep it over audits and versions."""
    from datasetops.audits.decisions import decide as keep
    from datasetops.audits.decisions import read_decisions
    from datasetops.audits.record import latest_audit

    if (file is None) == (not finding):
        raise ValueError("name findings, or a --file with them")
    if file is None and verdict is None:
        raise ValueError("--verdict: expected error, fine or unsure")
    repository = session.repository
    chosen = repository.version(version)
    said = (
        read_decisions(file) if file else [{"finding_id": f, "verdict": verdict, "note": note} for f in finding or []]
    )
    made = keep(repository, chosen, latest_audit(repository, chosen).findings, said)
    counts = {name: sum(item.verdict == name for item in made) for name in ("error", "fine", "unsure")}
    told = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    session.emit(
        {"decisions": len(made)} | counts, f"{counted(len(made), 'decision')} kept{f': {told}' if told else ''}."
    )


def _record(repository: Repository, version: Version, audit_id: str | None, checks: list[str]) -> AuditRecord:
    """The newest audits' record. What ingest found needs none: it is told also where no audit ran that check."""
    from datasetops.audits.record import latest_audit
    from datasetops.audits.sets.ingested import ingest_record
    from datasetops.errors import NotFoundError

    only_ingest = audit_id is None and set(checks) == {"ingest"}
    try:
        record = latest_audit(repository, version, audit_id)
    except NotFoundError:
        if not only_ingest:
            raise
        return ingest_record(repository, version)
    return ingest_record(repository, version) if only_ingest and "ingest" not in record.info["checks"] else record


def _cell(name: str, value: Any) -> Any:
    return round(value, 3) if name == "score" else value[:_ID_SHOWN] if name == "finding_id" else value


def _time(minutes: float) -> str:
    return "less than a minute" if minutes < 1 else f"about {counted(round(minutes), 'minute')}"


def _check_filters(version: Any, record: Any, checks: list[str], split: str | None, label: str | None) -> None:
    """Raises NotFoundError for a check that did not run, and for a split or class that the version does not have."""
    from datasetops.audits.run import check_split
    from datasetops.errors import NotFoundError, did_you_mean
    from datasetops.plugins import plugin_names

    for name in checks:
        if name not in plugin_names("checks"):
            remedy = did_you_mean(name, plugin_names("checks"), noun="checks")
            raise NotFoundError(f"There is no check {name!r}.", remedy=remedy)
        if name not in record.info["checks"]:
            raise NotFoundError(
                f"No audit of {record.version} ran {name}.", remedy=f"Run: dsops audit {record.version} --check {name}"
            )
    if split is not None:
        check_split(version, split)
    if label is not None:
        known = {item.name for item in version.schema.classes}.union(record.findings["given"].to_pylist())
        if label not in known:
            remedy = did_you_mean(label, (name for name in known if name), noun="classes")
            raise NotFoundError(f"{record.version} has no class {label!r}.", remedy=remedy)
