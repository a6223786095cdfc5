"""What Hugging Face's `datasets` says of columns: classes by number, images; as kept in Parquet and Arrow files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as pa
import yaml

KEY: Final = b"huggingface"  # of the metadata of a file's schema
OWN: Final = b"dsops"  # of those that were written from here
_LISTS: Final = ("Sequence", "List", "LargeList")

Features = Mapping[str, Any]  # column → its feature, as in the file


def features_of(schema: pa.Schema) -> dict[str, Any]:
    """By column; empty where the file does not say."""
    try:
        told = json.loads((schema.metadata or {})[KEY])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    return dict(told) if isinstance(told, dict) else {}


def own_of(schema: pa.Schema) -> dict[str, Any] | None:
    """What `hf_write` noted in a file, None for one of others."""
    try:
        told = json.loads((schema.metadata or {})[OWN])
    except (KeyError, ValueError):
        return None
    return told if isinstance(told, dict) else None


def class_id(sample_id: str, label: str, *, multi: bool) -> str:
    """The id of an image's class, which is not written."""
    return f"{sample_id}/label" + (f"/{label}" if multi else "")


def card_head(text: str) -> dict[str, Any]:
    """The YAML at the beginning of README.md; empty where there is none."""
    if not text.startswith("---"):
        return {}
    try:
        head = yaml.safe_load(text.split("\n---", 1)[0].removeprefix("---"))
    except yaml.YAMLError:
        return {}
    return head if isinstance(head, dict) else {}


def card_features(head: Mapping[str, Any]) -> dict[str, Any]:
    """Features of a card's `dataset_info`, in the form of `features_of`, as far as they are classes."""
    info = head.get("dataset_info")
    first = info[0] if isinstance(info, list) and info else info
    listed = first.get("features") if isinstance(first, dict) else None
    return _of_card(listed)


def _of_card(listed: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in listed if isinstance(listed, list) else ():
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            continue
        inner = next((item[key] for key in ("struct", "sequence", "list") if key in item), None)
        if isinstance(inner, list):
            found[item["name"]] = _of_card(inner)
        else:
            kind = item.get("dtype", inner)
            kind = inner if isinstance(inner, dict) else kind
            found[item["name"]] = _class_of_card(kind)
    return found


def _class_of_card(kind: Any) -> Any:
    names = kind.get("class_label", {}).get("names") if isinstance(kind, dict) else None
    if isinstance(names, dict):
        names = [names[key] for key in sorted(names, key=lambda key: int(key))]
    return {"_type": "ClassLabel", "names": names} if isinstance(names, list) else {"_type": "Value"}


def class_names(feature: Any) -> list[str] | None:
    """Names by number of a column of classes, or of lists of them; None for another one."""
    while isinstance(feature, list) and feature:
        feature = feature[0]
    if not isinstance(feature, Mapping):
        return None
    if feature.get("_type") in _LISTS:
        return class_names(feature.get("feature"))
    names = feature.get("names")
    if feature.get("_type") == "ClassLabel" and isinstance(names, Sequence) and not isinstance(names, str):
        return [str(name) for name in names]
    return None


def members(feature: Any) -> dict[str, Any]:
    """The features inside of a column of objects: one dict of lists, or a list of dicts; empty where it has none."""
    while isinstance(feature, list) and feature:
        feature = feature[0]
    if isinstance(feature, Mapping) and feature.get("_type") in _LISTS:
        return members(feature.get("feature"))
    return dict(feature) if isinstance(feature, Mapping) and "_type" not in feature else {}
