"""Everything that a reviewer sees about one finding, but its history (review.history, which is asked for later)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from datasetops.audits.decisions import Decision, DecisionLog
from datasetops.labeling.orientation import shown_size
from datasetops.manifest import Repository, Version
from datasetops.review.filters import Filters
from datasetops.review.fixes import fix_in_words, suggested_fix
from datasetops.review.guide_pages import guide_pages
from datasetops.review.lookalikes import Lookalikes
from datasetops.review.queue import Queue
from datasetops.review.shown import colour_of, fix_as_shown, shown_annotations, shown_box
from datasetops.review.texts import cut_values
from datasetops.store.media import base_name

NEIGHBOURS: Final = 12  # lookalikes shown
VERDICTS_IN_WORDS: Final = {"error": "an error", "fine": "right as it is", "unsure": "unsure"}


def item(
    repository: Repository,
    version: Version,
    queue: Queue,
    log: DecisionLog,
    finding_id: str,
    lookalikes: Lookalikes | None = None,
    *,
    filters: Filters | None = None,
) -> dict[str, Any]:
    """A finding, its image, annotations, suggestion, guide, lookalikes, decisions and place in the filtered queue.

    JSON-able. Places are pixels of the image as viewers show it; texts of the data are cut at 2,000 characters.
    `history` is None (review.history tells it) and `held_by` is None: the server knows. Raises NotFoundError.
    """
    filters = filters or Filters()
    finding = queue.row(finding_id)
    name = finding["sample_id"]
    looks_like = lookalikes.nearest(name, NEIGHBOURS) if lookalikes else []
    annotations = queue.rows.annotations([name, *(other for other, _ in looks_like)])
    sample = queue.rows.samples([name]).get(name)
    size = queue.sizes(repository).of(sample) if sample else None
    fix = suggested_fix(finding, annotations[name], version.schema)
    before, after, position = queue.neighbours_of(filters, finding_id)
    schema = version.schema
    return {
        "finding": {field: value for field, value in finding.items() if field != "decisions"}
        | {"box": shown_box(finding["box"], size), "evidence": evidence(queue, finding)},
        "sample": _sample(sample or {"sample_id": name}, shown_size(size) if size else None),
        "annotations": shown_annotations(annotations[name], schema, size, finding["annotation_id"]),
        "suggestion": None
        if fix is None
        else {"words": fix_in_words(fix, annotations[name]), "fix": fix_as_shown(fix, size).as_dict()},
        "classes": [{"name": one, "colour": colour_of(schema, one)} for one in schema.class_names],
        "kinds": list(schema.kinds),
        "multi_label": schema.multi_label,
        "guide": guide_pages(version, [("given", finding["given"]), ("suggested", finding["suggested"])]),
        "neighbours": [_neighbour(other, distance, annotations[other], version) for other, distance in looks_like],
        "history": None,
        "others": [_other(queue, row) for row in queue.of_sample(name) if row["finding_id"] != finding_id],
        "decisions": [_decision(one, annotations[name]) for one in log.of(finding_id)],
        "position": position,
        "total": queue.page(filters, 0, 0).total,
        "previous": before,
        "next": after,
        "held_by": None,
    }


def evidence(queue: Queue, finding: Mapping[str, Any]) -> str:
    """In sentences, how sure this is: how it compares with its check's findings, and how often those were right."""
    check, severity = finding["check"], finding["severity"]
    named = check.replace("_", " ")
    worse, others = queue.items.compared(finding["rank"])
    words = [f"Score {finding['score']:.3f}, where 1 is clean."]
    if others == 1:
        words.append(f"The other finding of {named} {'looks' if worse else 'does not look'} worse.")
    elif others:
        words.append(
            f"{worse:,} of the other {others:,} findings of {named} {'looks' if worse == 1 else 'look'} worse."
            if worse
            else f"None of the other {others:,} findings of {named} looks worse."
        )
    errors, settled = queue.settled(check, severity)
    if settled:
        words.append(f"Of {settled:,} of {named} and severity {severity} that were decided, {errors:,} were errors.")
    if finding["at_random"]:
        words.append("Drawn at random, not because it looks worst.")
    return " ".join(words)


def _sample(sample: Mapping[str, Any], shown: tuple[int, int] | None) -> dict[str, Any]:
    told = {name: sample.get(name) for name in ("sample_id", "uri", "split", "group", "origin", "license")}
    width, height = shown or (sample.get("width"), sample.get("height"))
    taken = sample.get("captured_at")
    return cut_values(  # type: ignore[no-any-return]
        told
        | {"name": base_name(sample.get("uri") or ""), "width": width, "height": height}
        | {"captured_at": taken.isoformat() if taken else None, "metadata": sample.get("metadata") or {}}
    )


def _neighbour(name: str, distance: float, rows: Sequence[Mapping[str, Any]], version: Version) -> dict[str, Any]:
    labels = list(dict.fromkeys(row["label"] for row in rows if row["label"]))
    colour = colour_of(version.schema, labels[0] if labels else None)
    return {"sample_id": name, "distance": distance, "labels": labels, "colour": colour}


def _other(queue: Queue, row: Mapping[str, Any]) -> dict[str, Any]:
    names = ("finding_id", "check", "severity", "message")
    return {name: row[name] for name in names} | {"decided": queue.is_decided(row["finding_id"])}


def _decision(made: Decision, annotations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    words = fix_in_words(made.fix, annotations) if made.fix else VERDICTS_IN_WORDS[made.verdict]
    return {"words": words} | {name: getattr(made, name) for name in ("actor", "verdict", "note", "time")}
