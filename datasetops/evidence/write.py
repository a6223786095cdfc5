"""Write a version's evidence: the pack, or one part of it, to a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from datasetops.errors import NotFoundError, did_you_mean
from datasetops.evidence.card import dataset_card
from datasetops.evidence.croissant import croissant, validated
from datasetops.evidence.lineage import lineage, prov_json, provn
from datasetops.evidence.openlineage import json_lines, run_events
from datasetops.evidence.pack import evidence_pack
from datasetops.evidence.story import Story

CROISSANT: Final = "croissant"
OPENLINEAGE: Final = "openlineage"


def write_pack(story: Story, out: Path, *, draft: bool = False) -> bytes:
    """Write the evidence pack; returns its bytes. Raises RejectedError as `evidence_pack`, NotFoundError for a folder."""
    _refuse_nowhere(out)
    data = evidence_pack(story, draft=draft)
    _put(out, data)
    return data


def write_part(story: Story, part: str, out: Path) -> bytes:
    """Write one of PARTS; returns its bytes. Raises ValueError for another, NotFoundError for a folder that is not there.

    `out` with the suffix .provn gets lineage as PROV-N. A Croissant file is loaded again before it stays.
    """
    check_part(part)
    _refuse_nowhere(out)
    data = PARTS[part](story, out)
    if part == CROISSANT:
        trial = out.with_name(out.name + ".part")
        trial.write_bytes(data)
        try:
            validated(trial)
        finally:
            trial.unlink(missing_ok=True)
    _put(out, data)
    return data


def check_part(part: str) -> None:
    """Raise ValueError for what is no part."""
    if part not in PARTS:
        raise ValueError(f"--only: there is no part {part!r}. {did_you_mean(part, PARTS, noun='parts')}")


def _prov(story: Story, out: Path) -> bytes:
    document = lineage(story)
    data = prov_json(document)  # read back, whatever is written
    return provn(document) if out.suffix == ".provn" else data


def _croissant(story: Story, out: Path) -> bytes:
    return json.dumps(croissant(story, out.absolute().parent), indent=1, ensure_ascii=False).encode() + b"\n"


PARTS: Final[Mapping[str, Callable[[Story, Path], bytes]]] = {
    "prov": _prov,
    OPENLINEAGE: lambda story, _: json_lines(run_events(story)),
    CROISSANT: _croissant,
    "card": lambda story, _: dataset_card(story).encode(),
}


def _refuse_nowhere(out: Path) -> None:
    """Before anything is worked out."""
    folder = out.absolute().parent
    if not folder.is_dir():
        raise NotFoundError(f"{out}: there is no folder {folder}.", remedy="Make the folder, or name another place.")
    if out.is_dir():
        raise IsADirectoryError(21, "is a directory", str(out))


def _put(out: Path, data: bytes) -> None:
    """Whole or not at all."""
    temporary = out.with_name(out.name + ".part")
    try:
        temporary.write_bytes(data)
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
