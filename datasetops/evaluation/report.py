"""An evaluation as HTML, Markdown or JSON, and as a model card with known limits."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from datasetops.audits import charts
from datasetops.audits.record import plain
from datasetops.evaluation.gallery import Group, failure_groups
from datasetops.evaluation.judged import verdict_of
from datasetops.evaluation.record import Evaluation
from datasetops.evaluation.sections import Section, interval, sections, shown
from datasetops.manifest import Repository, Version
from datasetops.progress import Progress, no_progress

_FEW: Final = 30  # examples of a class below which the card warns of its numbers
_BAD: Final = 0.5  # recall or AP of a class below which the card names it
_LIMITS: Final = 12  # lines of one kind in a card
_DIGITS: Final = 12  # of a commit
_ROWS: Final = 12  # errors of a group in Markdown
_HEADLINES: Final = {
    "classification": ("accuracy", "macro_f1", "mean_average_precision", "ece"),
    "text": ("cer", "wer", "exact"),
}
_REGION_HEADLINES: Final = ("mean_iou", "AP", "AP50", "AP75", "AR100", "pooled_AP")


def report_writer(file: Path) -> str:
    """What a report's file name asks for: html, md or json. Raises ValueError for another."""
    kind = file.suffix.lower().removeprefix(".")
    if kind not in ("html", "md", "json"):
        raise ValueError(f"report: expected a file name that ends in .html, .md or .json; got {file.name!r}")
    return kind


def write_report(
    repository: Repository,
    version: Version,
    evaluation: Evaluation,
    out: Path,
    *,
    progress: Progress = no_progress,
) -> None:
    """Write a report to a file in a folder that exists. Raises OSError where it cannot, ValueError as `report_writer`."""
    kind = report_writer(out)
    if kind == "json":
        out.write_text(json.dumps(plain(evaluation.as_dict()), indent=2, ensure_ascii=False), encoding="utf-8")
        return
    groups = failure_groups(repository, version, evaluation.failures, pictures=kind == "html", progress=progress)
    if kind == "md":
        out.write_text(_markdown(evaluation, groups), encoding="utf-8")
        return
    info = evaluation.info
    facts = {
        "groups": groups,
        "headlines": _headlines(info),
        "gallery": _gallery(info),
        "heading": heading(info),
        "about": _about(info),
        "drawn": info["kind"] not in ("classification", "text"),
    }
    out.write_text(page("evaluation.html", info, sections(info), **facts), encoding="utf-8")


def page(template: str, info: Mapping[str, Any], shown_sections: Sequence[Section], **facts: Any) -> str:
    """One self-contained HTML file; `facts` are what else the template shows."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader

    loader = ChoiceLoader([PackageLoader("datasetops.evaluation"), PackageLoader("datasetops.audits")])
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True)
    drawn = [
        replace(section, charts=[{**chart, "svg": charts.draw(chart)} for chart in section.charts])
        for section in shown_sections
    ]
    return environment.get_template(template).render(info=info, sections=drawn, **facts)


def heading(info: Mapping[str, Any]) -> str:
    """What was judged on what, and when: enough to find the record again."""
    model = info["model"]
    told = [
        model["label"] + (f", recipe {model['recipe']}" if model.get("recipe") else ""),
        f"{info['version']}, {judged_on(info)}",
        f"commit {info['commit'][:_DIGITS]}",
        f"evaluation {info['evaluation']}",
        moment(info["time"]),
    ]
    return " · ".join(told)


def judged_on(info: Mapping[str, Any]) -> str:
    split = f"split {info['split']}" if info["split"] else "all samples"
    return split + (f", where {info['where']}" if info["where"] else "")


def moment(time: str) -> str:
    return f"{time[:16].replace('T', ' ')} UTC"


def _headlines(info: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    names = _HEADLINES.get(info["kind"], _REGION_HEADLINES)
    return [
        (name, shown(info["metrics"][name], digits=3), interval(info["intervals"].get(name)))
        for name in names
        if name in info["metrics"]
    ]


def _gallery(info: Mapping[str, Any]) -> str:
    return (
        f"{info['items']['errors']:,} errors in all; here are some of each kind, in groups of images that look alike, those "
        "most like their group first."
    )


def _markdown(evaluation: Evaluation, groups: Sequence[Group]) -> str:
    info = evaluation.info
    lines = [f"# {info['model']['name']} on {info['version']}", "", heading(info), "", _about(info), ""]
    lines += [f"- {line}" for line in info["warnings"]]
    lines += in_markdown(sections(info))
    if groups:
        lines += ["", "## Errors by how their images look", "", _gallery(info), ""]
        names = ("error", "truth", "predicted", "score", "note")
        for group in groups:
            traits = f": {'; '.join(group.traits)}" if group.traits else ""
            lines += [f"### {group.size:,} errors in {group.images:,} images{traits}", ""]
            rows = [(card.uri, *(row[name] for name in names)) for card in group.cards for row in card.rows]
            lines += [*_table(("uri", *names), [[shown(cell) for cell in row] for row in rows[:_ROWS]]), ""]
            if group.size > _ROWS:
                lines += [f"… and {group.size - _ROWS:,} more.", ""]
    if info["faults"]:
        lines += ["", "## Samples without an answer", ""]
        lines += [f"- {fault['uri'] or fault['sample_id']}: {fault['reason']}" for fault in info["faults"]]
    return "\n".join(lines) + "\n"


def in_markdown(told: Sequence[Section]) -> list[str]:
    lines = []
    for section in told:
        lines += ["", f"## {section.title}", ""]
        lines += [section.note, ""] if section.note else []
        lines += _table(section.header, section.rows) if section.rows else []
    return lines


def model_card(evaluation: Evaluation) -> str:
    """Markdown: what the model is, what it was judged on, how good it is, and what it must not be trusted with.

    Mitchell et al., "Model cards for model reporting" (FAT* 2019).
    """
    info = evaluation.info
    rows = [(name, shown(value), interval(info["intervals"].get(name))) for name, value in info["metrics"].items()]
    lines = [
        f"# Model card: {info['model']['name']}",
        "",
        f"- Model: `{info['model']['label']}`, digest `{info['model']['digest']}`"
        + (f", recipe {info['model']['recipe']}" if info["model"].get("recipe") else ""),
        f"- Task: {info['kind']}",
        f"- Judged on: {info['version']} (commit `{info['commit']}`), {info['split'] or 'all samples'}"
        + (f", where `{info['where']}`" if info["where"] else ""),
        f"- Evaluation: `{info['evaluation']}`, {info['time'][:10]}",
        "",
        _about(info),
        "",
        "## Metrics",
        "",
        *_table(("metric", "value", "95 % interval"), rows),
        "",
        "## Known limits",
        "",
        *(f"- {line}" for line in known_limits(info)),
    ]
    return "\n".join(lines) + "\n"


def known_limits(info: Mapping[str, Any]) -> list[str]:
    """What the evaluation shows that the model cannot do, and what it could not show, in sentences."""
    limits = list(info["warnings"])
    for rate in info["details"].get("critical", ()):
        if rate["verdict"] != "met":
            limits.append(
                f"{rate['class']}: {rate['rate'].upper()} {shown(rate['value'])} ({interval(rate)}) against "
                f"{rate['target']:g} allowed: {verdict_of(rate)}."
            )
    classes = [item for item in info["details"].get("classes", ()) if item["examples"]]
    key = "AP" if classes and "AP" in classes[0] else "recall"
    bad = [item for item in classes if item[key] is not None and item[key] < _BAD]
    bad.sort(key=lambda item: item[key])
    limits += [f"{item['name']}: {key} {item[key]:.2f} on {item['examples']:,} examples." for item in bad[:_LIMITS]]
    if len(bad) > _LIMITS:
        limits.append(f"{len(bad) - _LIMITS:,} more classes have {key} below {_BAD:g}.")
    few = [item["name"] for item in classes if item["examples"] < _FEW]
    if few:
        limits.append(f"Fewer than {_FEW} examples, so that the numbers say little: {', '.join(few)}.")
    sign = 1 if info["metric"]["larger_is_better"] else -1
    for name, found in info["slices"].items():
        overall = info["intervals"][name]["value"]
        for item in found[:_LIMITS]:
            edge = item["high"] if sign > 0 else item["low"]
            if edge is not None and sign * (edge - overall) < 0:
                limits.append(
                    f"{item['name']}: {name} {shown(item['value'])} ({interval(item)}) on {item['items']:,} samples, "
                    f"against {shown(overall)} over all."
                )
        small = [item["name"] for item in found if item["small"]]
        if small:
            shown_names = ", ".join(small[:_LIMITS]) + (" and others" if len(small) > _LIMITS else "")
            limits.append(f"Too few samples to judge: {shown_names}.")
    return [*limits, "Parts of the world that the data does not hold were not judged."]


def _about(info: Mapping[str, Any]) -> str:
    items = info["items"]
    return f"{items['judged']:,} of {items['chosen']:,} samples judged; errors listed: {items['errors']:,}."


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return [line(header), "|" + " --- |" * len(header), *(line(row) for row in rows)]
