"""Rows for the tests of versions."""

from __future__ import annotations

from typing import Any

from datasetops.manifest import Change


def samples(*names: str, **columns: Any) -> list[dict[str, Any]]:
    return [{"sample_id": name, "uri": f"{name}.png", "width": 8, "height": 8, **columns} for name in names]


def labels(**by_sample: str) -> list[dict[str, Any]]:
    return [
        {
            "annotation_id": f"{name}/label",
            "sample_id": name,
            "kind": "classification",
            "label": label,
            "source": "import",
        }
        for name, label in by_sample.items()
    ]


def labeled(**by_sample: str) -> Change:
    return Change(samples=samples(*by_sample), annotations=labels(**by_sample))
