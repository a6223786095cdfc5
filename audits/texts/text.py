"""What is wrong with texts: their characters, their length, and what a reader makes of the picture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from datasetops.audits.base import AuditContext, CheckResult, skipped
from datasetops.audits.charts import bars
from datasetops.audits.rowwise import Doubt, RowFindings, by_class, deviations, with_sizes
from datasetops.audits.texts.reading import Reader, misread, read_texts
from datasetops.audits.texts.script import look_alikes, stray_controls, unlisted
from datasetops.errors import DatasetOpsError
from datasetops.models.ocr import installed_reader
from datasetops.schema import Task

Bools: TypeAlias = npt.NDArray[np.bool_]

_FEWEST: Final = 30  # texts of a class by which their usual width is known
_SHORTEST: Final = 3  # characters below which a box says little about their number
_FAR: Final = 6.0  # robust deviations by which a box is too wide or too narrow
_SPREAD: Final = 0.15  # the least deviation of log widths: letters of one font differ by as much
_WIDE: Final = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}]"  # twice as wide as other letters
_MIXED: Final = r"\p{Latin}[\p{M}\d_]*[\p{Cyrillic}\p{Greek}]|[\p{Cyrillic}\p{Greek}][\p{M}\d_]*\p{Latin}"
_CONTROLS: Final = r"[^\P{Cc}\n]|[\p{Cf}\p{Co}]"  # lines of one text are parted by \n


class Texts:
    """`reader`: what reads the pictures; an installed one by default."""

    name = "text"
    title = "texts with odd characters, of an odd length, or that a reader reads otherwise"
    needs = "texts; the package rapidocr for reading the images"
    cost = "seconds for a million texts; reading, about 20 texts a second"

    def __init__(self, reader: Reader | None = None) -> None:
        self._reader = reader

    def run(self, context: AuditContext) -> CheckResult:
        given = context.annotations[context.annotations["kind"] == "text"]
        if not len(given):
            return skipped("there are no texts")
        rows = with_sizes(given, context.samples)
        told = RowFindings(self.name, context.samples, rows, given="text")
        told.add(character_faults(rows["text"], context.schema.task("text")))
        told.add(length_faults(rows))
        summary: dict[str, Any] = {"texts": len(rows)}
        try:
            reader = self._reader or installed_reader()
        except DatasetOpsError as error:
            summary["reader"] = f"none: {error.message} {error.remedy}"
        else:
            summary["reader"] = reader.name
            told.add(misread(rows["text"], read_texts(rows, context, reader), summary))
        summary |= told.summary()
        summary["charts"] = [bars("Doubts about texts", told.counts)] if told.counts else []
        return CheckResult(told.findings(), told.scores(), summary)


def character_faults(column: pd.Series[Any], task: Task | None) -> Iterator[Doubt]:
    """Doubts about texts by themselves. `task`: whose alphabet and length they must keep."""
    texts = _strings(column)
    trimmed = pc.utf8_trim_whitespace(texts)
    size = _numbers(pc.utf8_length(texts))
    empty = _numbers(pc.utf8_length(trimmed)) == 0
    yield Doubt(
        "empty",
        empty,
        "medium",
        0.1,
        lambda row: "the text is empty" if size[row] == 0 else "the text is blank",
        among=np.ones_like(empty),
    )
    around = _bools(pc.not_equal(trimmed, texts)) & ~empty
    yield Doubt("space around", around, "low", 0.7, lambda row: "there is space before or behind the text")
    if task is not None and task.max_length is not None:
        limit = task.max_length
        long = size > limit
        yield Doubt(
            "too long",
            long,
            "high",
            0.1,
            lambda row: f"the text has {size[row]} characters; at most {limit} are allowed",
        )
    if task is not None and task.alphabet is not None:
        alphabet = frozenset(task.alphabet)
        outside = _matching(texts, "[^" + "".join(rf"\x{{{ord(one):X}}}" for one in sorted(alphabet)) + "]") & ~empty
        yield Doubt(
            "alphabet",
            outside,
            "high",
            0.1,
            lambda row: f"not in the alphabet: {unlisted(texts[row].as_py(), alphabet)}",
        )
    plain = _bools(pc.string_is_ascii(texts))
    controls = _matching(texts, _CONTROLS)
    controls[controls] = [bool(stray_controls(text)) for text in _chosen(texts, controls)]
    yield Doubt(
        "control characters",
        controls,
        "medium",
        0.3,
        lambda row: f"it has characters that cannot be seen: {stray_controls(texts[row].as_py())}",
    )
    if plain.all():
        return
    composed = pc.utf8_normalize(texts, "NFC")
    decomposed = _bools(pc.not_equal(composed, texts))
    yield Doubt(
        "not normalised",
        decomposed,
        "low",
        0.7,
        lambda row: "it is not in the normal form NFC: the same text can be written with other characters",
        suggested=lambda row: str(composed[row].as_py()),
    )
    mixed = _matching(texts, _MIXED)
    mixed[mixed] = [bool(look_alikes(text)[0]) for text in _chosen(texts, mixed)]
    yield Doubt(
        "look-alikes",
        mixed,
        "medium",
        0.2,
        lambda row: look_alikes(texts[row].as_py())[0],
        suggested=lambda row: look_alikes(texts[row].as_py())[1],
    )


def length_faults(rows: pd.DataFrame) -> Iterator[Doubt]:
    """Texts of far more or fewer characters than fit their box, by what is usual in their class: one line each."""
    texts = _strings(rows["text"])
    width = (rows["x2"] - rows["x1"]).to_numpy(dtype=np.float64)
    height = (rows["y2"] - rows["y1"]).to_numpy(dtype=np.float64)
    letters = _numbers(pc.utf8_length(pc.utf8_trim_whitespace(texts)))
    size = letters + _numbers(pc.count_substring_regex(texts, pattern=_WIDE))
    with np.errstate(invalid="ignore"):
        usable = (width > 0) & (height > 0) & (letters >= _SHORTEST) & ~_matching(texts, "\n")
    across = np.full(len(rows), np.nan)  # width of a character as a share of the line's height
    across[usable] = np.maximum(width, height)[usable] / np.minimum(width, height)[usable] / size[usable]
    groups = by_class(rows["label"], _FEWEST)
    off = deviations(np.log(across), groups, fewest=_FEWEST, floor=_SPREAD)
    with np.errstate(invalid="ignore"):
        some = np.abs(off) > _FAR
    yield Doubt(
        "length against box",
        some,
        "low",
        0.9 * _FAR / np.fmax(np.abs(off), _FAR),
        lambda row: (
            f"{letters[row]} characters in a box of {width[row]:.0f} x {height[row]:.0f} pixels: "
            f"{'too few' if off[row] > 0 else 'too many'} by {abs(off[row]):.1f} deviations"
        ),
    )


def _strings(column: pd.Series[Any]) -> pa.LargeStringArray:
    texts = pa.array(column, pa.large_string(), from_pandas=True)
    return pc.fill_null(texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts, "")


def _matching(texts: pa.LargeStringArray, pattern: str) -> Bools:
    return _bools(pc.match_substring_regex(texts, pattern))


def _bools(values: pa.BooleanArray) -> Bools:
    found: Bools = values.to_numpy(zero_copy_only=False)
    return found.copy()


def _numbers(values: pa.Array) -> npt.NDArray[np.int64]:
    found: npt.NDArray[np.int64] = values.to_numpy().astype(np.int64)
    return found


def _chosen(texts: pa.LargeStringArray, chosen: Bools) -> list[str]:
    found: list[str] = texts.filter(pa.array(chosen)).to_pylist()
    return found
