"""How far read texts are from the true ones: character and word error rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datasetops.audits.texts.reading import edit_distance
from datasetops.evaluation.regions import Ints
from datasetops.evaluation.resampling import Ratio


@dataclass(frozen=True)
class TextErrors:
    """Of N pairs: edits of characters and of words that lead from the read text to the true one, and their numbers there."""

    edits: Ints
    characters: Ints
    word_edits: Ints
    words: Ints

    @property
    def cer(self) -> Ratio:
        """All edits over all characters; above 1 where more was read than there is."""
        return Ratio(self.edits.astype(np.float64), self.characters.astype(np.float64))

    @property
    def wer(self) -> Ratio:
        return Ratio(self.word_edits.astype(np.float64), self.words.astype(np.float64))


def text_errors(read: Sequence[str], truth: Sequence[str]) -> TextErrors:
    """Levenshtein distances of pairs of texts; words are what white space parts. Equal texts cost nothing."""
    numbers = np.zeros((4, len(truth)), np.int64)
    for row, (one, other) in enumerate(zip(read, truth, strict=True)):
        words = other.split()
        numbers[1, row], numbers[3, row] = len(other), len(words)
        if one != other:
            numbers[0, row] = edit_distance(one, other)
            numbers[2, row] = _word_distance(one.split(), words)
    return TextErrors(*numbers)


def _word_distance(one: Sequence[str], other: Sequence[str]) -> int:
    """As many edits as between texts with a letter for each word."""
    letters = {word: chr(0xE000 + place) for place, word in enumerate(dict.fromkeys([*one, *other]))}
    return edit_distance("".join(letters[word] for word in one), "".join(letters[word] for word in other))
