"""What a finding suggests to change, and any change in words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from datasetops.audits.decisions.fix import CORNERS, Fix
from datasetops.schema import LabelSchema

Row = Mapping[str, Any]  # columns of records.ANNOTATIONS; JSON columns as text or as objects

_SHOWN: Final = 4  # changes that a sentence tells one by one
_EXCLUDE: Final = ("exact_duplicate", "image_quality")
_CLASS: Final = "classification"


def suggested_fix(finding: Row, annotations: Sequence[Row], schema: LabelSchema) -> Fix | None:
    """What would settle a finding (columns of records.FINDINGS), None where it does not say or the class is not in use.

    `annotations` are those of its sample. Of copies that are labeled differently the first is relabeled and the others
    are excluded, so that one always stays.
    """
    check, suggested, given = (finding.get(name) for name in ("check", "suggested", "given"))
    if suggested is not None and check != "text" and suggested not in schema.class_names:
        return None
    box = _box(finding)
    subject = _subject(finding, annotations)
    if check == "exact_duplicate" and suggested and finding["sample_id"] < min(_parsed(finding.get("related")) or [""]):
        return _with_label(subject or _only_class(annotations, given), suggested)
    if check in _EXCLUDE:
        return Fix("exclude")
    if check == "label_noise" and schema.multi_label:
        subject = subject or (_only_class(annotations, given) if given else None)
        if suggested is None:
            return Fix("edit", remove=(subject["annotation_id"],)) if subject else None
        return _with_label(subject, suggested) if given else Fix("edit", (_new_class(suggested),))
    if check == "label_noise" and suggested is not None:
        return _with_label(subject or _only_class(annotations, given), suggested)
    if check == "swapped_box" and suggested is not None:
        return _with_label(subject, suggested)
    if check == "missing_box" and box is not None and suggested is not None:
        return Fix("edit", (_new_box(suggested, box),))
    if (
        check == "misplaced_box"
        and box is not None
        and subject
        and subject["kind"] == "box"
        and not subject.get("geometry")
    ):
        return Fix("edit", ({"annotation_id": subject["annotation_id"], **box},))
    if check == "duplicate_box" and subject is not None:
        return Fix("edit", remove=(subject["annotation_id"],))
    return None


def relabel_to(finding: Row, annotations: Sequence[Row], label: str) -> Fix:
    """What the finding is about gets a class: its annotation, the box that it misses, or the class of its image.

    Raises ValueError where it is about none of these.
    """
    box = _box(finding)
    if subject := _subject(finding, annotations):
        return Fix("edit", ({"annotation_id": subject["annotation_id"], "label": label},))
    if finding.get("check") == "missing_box":
        if box is None:
            raise ValueError("label: the finding does not say where the box is; draw it")
        return Fix("edit", (_new_box(label, box),))
    classes = [row for row in annotations if row["kind"] == _CLASS and not row.get("role")]
    if not classes or (finding.get("check") == "label_noise" and not finding.get("given")):
        return Fix("edit", (_new_class(label),))
    if (only := _only_class(annotations, finding.get("given"))) is None:
        raise ValueError("label: the image has several classes, and the finding does not say which one is meant")
    return Fix("edit", ({"annotation_id": only["annotation_id"], "label": label},))


def fix_in_words(fix: Fix, annotations: Sequence[Row]) -> str:
    """One line; `annotations` are those of the sample as they were before."""
    if fix.kind == "exclude":
        return "image leaves the dataset"
    if fix.kind == "relabel":
        return "back to the annotators"
    rows = {row["annotation_id"]: row for row in annotations}
    said = [words for row in fix.put for words in _put_in_words(row, rows.get(row.get("annotation_id")))]
    said += [f"{describe(rows[name])} removed" if name in rows else f"{name} removed" for name in fix.remove]
    more = [f"and {len(said) - _SHOWN} more"] if len(said) > _SHOWN else []
    return "; ".join([*said[:_SHOWN], *more]) or "nothing changes"


def describe(row: Row) -> str:
    """What an annotation is, in a word or three."""
    if row["kind"] == _CLASS:
        return f"class {row.get('label')}"
    if row["kind"] == "text":
        return f"text {row.get('text') or ''!r}"
    return f"{row.get('label') or 'unnamed'} {row['kind']}"


def _put_in_words(new: Row, old: Row | None) -> list[str]:
    if old is None:
        if new.get("annotation_id"):
            return [f"{new['annotation_id']} changed"]
        return [f"{describe(new)} {'added' if new['kind'] in (_CLASS, 'text') else 'drawn'}"]
    said = []
    if "label" in new and new["label"] != old.get("label"):
        said.append(f"{old.get('label') or 'no class'} becomes {new['label'] or 'no class'}")
    if "kind" in new and new["kind"] != old["kind"]:
        said.append(f"{old['kind']} becomes {new['kind']}")
    if (moved := moved_by(old, new)) is not None:
        said.append(f"{old['kind']} moved by {moved:.0f} px" if moved >= 0 else f"{old['kind']} redrawn")
    if "text" in new and (new["text"] or "") != (old.get("text") or ""):
        said.append(f"text becomes {new['text'] or ''!r}")
    before, after = _parsed(old.get("attributes")) or {}, _parsed(new.get("attributes")) or {}
    if "attributes" in new:
        said += [
            f"{name} becomes {json.dumps(after.get(name))}"
            for name in sorted(before.keys() | after.keys())
            if before.get(name) != after.get(name)
        ]
    return said


def moved_by(old: Row, new: Row) -> float | None:
    """How far the farthest side moves, in pixels; -1 where the shape is another, None where nothing moves."""
    if "geometry" in new and (_parsed(new["geometry"]) or None) != (_parsed(old.get("geometry")) or None):
        return -1.0
    pairs = [(old.get(name), new[name]) for name in CORNERS if name in new]
    if all(one == other for one, other in pairs):
        return None
    if any(value is None for pair in pairs for value in pair):
        return -1.0
    return max(abs(float(one) - float(other)) for one, other in pairs)  # type: ignore[arg-type]


def _subject(finding: Row, annotations: Sequence[Row]) -> Row | None:
    name = finding.get("annotation_id")
    return next((row for row in annotations if row["annotation_id"] == name), None) if name else None


def _only_class(annotations: Sequence[Row], given: Any) -> Row | None:
    """The image's class: the one of this name, or the only one."""
    rows = [row for row in annotations if row["kind"] == _CLASS and not row.get("role")]
    same = [row for row in rows if row["label"] == given] if given else rows
    return same[0] if len(same) == 1 else None


def _with_label(row: Row | None, label: str) -> Fix | None:
    return None if row is None else Fix("edit", ({"annotation_id": row["annotation_id"], "label": label},))


def _new_class(label: str) -> dict[str, Any]:
    return {"annotation_id": None, "kind": _CLASS, "label": label}


def _new_box(label: str, box: Row) -> dict[str, Any]:
    return {"annotation_id": None, "kind": "box", "label": label, **box}


def _box(finding: Row) -> dict[str, float] | None:
    corners = _parsed(finding.get("box"))
    return dict(zip(CORNERS, map(float, corners), strict=True)) if corners else None


def _parsed(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value
