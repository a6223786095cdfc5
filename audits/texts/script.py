"""Characters of texts: which are not allowed, cannot be seen, or look like letters of another script."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

_NAMED: Final = 4  # characters that a sentence names at most
_JOINERS: Final = "\u200c\u200d"  # they shape letters of Arabic and Indic scripts, and pictures of several parts
# Letters of Cyrillic and Greek, and the Latin ones that most fonts draw the same.
_TWINS: Final = dict(
    zip(
        "АВЕКМНОРСТХУІЈЅаеорсухіјѕԁһԛԝѵΑΒΕΖΗΙΚΜΝΟΡΤΥΧοϲϳν",
        "ABEKMHOPCTXYIJSaeopcyxijsdhqwvABEZHIKMNOPTYXocjv",
        strict=True,
    )
)
_BACK: Final = {
    script: {latin: one for one, latin in _TWINS.items() if unicodedata.name(one).startswith(script.upper())}
    for script in ("Cyrillic", "Greek")
}
_LETTERS: Final = {
    "Latin": r"A-Za-zªºÀ-ÖØ-öø-ɏḀ-ỿ",
    "Cyrillic": r"Ѐ-ԯ",
    "Greek": r"Ͱ-Ͽἀ-῿",
}
_SCRIPTS: Final = {script: re.compile(f"[{letters}]") for script, letters in _LETTERS.items()}
_WORD: Final = re.compile(rf"[{''.join(_LETTERS.values())}\u0300-\u036f]+")


def unlisted(text: str, alphabet: frozenset[str]) -> str:
    """Characters outside of an alphabet and where they stand."""
    return _listed([(place, one) for place, one in enumerate(text) if one not in alphabet])


def stray_controls(text: str) -> str:
    """Control and format characters and where they stand, but for line feeds, and joiners where they have a use."""
    found = []
    for place, one in enumerate(text):
        if one == "\n" or unicodedata.category(one) not in ("Cc", "Cf", "Co"):
            continue
        if (
            one in _JOINERS
            and 0 < place < len(text) - 1
            and not _plain(text[place - 1])
            and not _plain(text[place + 1])
        ):
            continue
        found.append((place, one))
    return _listed(found)


def look_alikes(text: str) -> tuple[str, str]:
    """What is told of letters that stand in a word of another script and look like its own, and the text without them.

    An empty sentence where there are none. Other mixtures, such as μm and kΩ, are usual.
    """
    told, result = [], list(text)
    for word in _WORD.finditer(text):
        counts = {script: len(pattern.findall(word[0])) for script, pattern in _SCRIPTS.items()}
        if sum(count > 0 for count in counts.values()) < 2:
            continue
        main = max(counts, key=lambda script: counts[script])  # Latin, the first, where two have as many
        for place in range(word.start(), word.end()):
            twin = _twin(text[place], main)
            if twin and not _SCRIPTS[main].match(text[place]):
                result[place] = twin
                told.append(
                    f"{_shown(text[place])} at {place + 1} stands in a {main} word and looks like {main} {twin}"
                )
    more = f" and {len(told) - _NAMED} more" if len(told) > _NAMED else ""
    return ", ".join(told[:_NAMED]) + more, "".join(result)


def _twin(letter: str, script: str) -> str | None:
    if script == "Latin":
        return _TWINS.get(letter)
    return _BACK[script].get(_TWINS.get(letter, letter))


def _plain(character: str) -> bool:
    """Whether it is of a script whose letters are not shaped by their neighbours."""
    return character.isascii() or any(pattern.match(character) for pattern in _SCRIPTS.values())


def _listed(found: list[tuple[int, str]]) -> str:
    places: dict[str, list[int]] = {}
    for place, one in found:
        places.setdefault(one, []).append(place + 1)
    parts = [f"{_shown(one)} at {', '.join(map(str, where[:_NAMED]))}" for one, where in places.items()]
    more = f" and {len(parts) - _NAMED} more" if len(parts) > _NAMED else ""
    return "; ".join(parts[:_NAMED]) + more


def _shown(character: str) -> str:
    """The character, if it can be seen, its code and its name."""
    name = unicodedata.name(character, "").capitalize()
    seen = f"{character} " if character.isprintable() and not character.isspace() else ""
    return f"{seen}(U+{ord(character):04X}{', ' + name if name else ''})"
