"""Files beside a store that name erased items: reports, exports and tables that were written into the repository's folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from datasetops.erasure.scrub import Words
from datasetops.manifest import Repository

_TEXT: Final = frozenset({".html", ".json", ".jsonl", ".md", ".csv", ".tsv", ".txt", ".xml", ".yaml", ".yml"})
_LARGEST: Final = 1 << 28  # bytes of a file that is searched


def files_that_name(repository: Repository, words: Words) -> tuple[str, ...]:
    """By path from the repository's folder, in order; the store itself is not looked at."""
    if repository.root is None:
        return ()
    root = repository.root.absolute()
    return tuple(
        file.relative_to(root).as_posix()
        for file in _texts(root)
        if words.in_text(file.read_text(encoding="utf-8", errors="replace"))
    )


def _texts(root: Path) -> Iterator[Path]:
    """Hidden folders, such as the store, are left out."""
    for folder, below, names in os.walk(root):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in sorted(names):
            file = Path(folder, name)
            if file.suffix.lower() in _TEXT and file.is_file() and file.stat().st_size <= _LARGEST:
                yield file
