"""Labeling guides: Markdown with a heading per class, and what each class must say.

# Labeling guide: blood cells        general part: everything before the first class
## RBC                               a class, named exactly as in the schema
### Definition
### What counts
### What does not count
### Edge cases
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from itertools import zip_longest
from pathlib import Path
from typing import Final

from datasetops.errors import did_you_mean
from datasetops.schema.model import LabelSchema
from datasetops.schema.names import nearest_name
from datasetops.schema.yamlfile import decode, read_file

PARTS: Final = {
    "definition": "Definition",
    "counts": "What counts",
    "does_not_count": "What does not count",
    "edge_cases": "Edge cases",
}
_VARIANTS: Final = {
    "definition": ("definition", "what it is", "meaning"),
    "counts": ("what counts", "counts", "what to label", "include", "includes", "included"),
    "does_not_count": (
        *("what does not count", "what doesn't count", "does not count", "doesn't count", "what not to label"),
        *("exclude", "excludes", "excluded", "not included"),
    ),
    "edge_cases": ("edge cases", "edge case", "borderline cases", "corner cases", "difficult cases"),
}
_PART_OF: Final = {variant: part for part, variants in _VARIANTS.items() for variant in variants}
_PLACEHOLDER: Final = re.compile(r"(?:to ?do|tbd|tba|fixme|xxx|n/?a|[-.…?_*\s])*", re.IGNORECASE)


@dataclass(frozen=True)
class GuideSection:
    """One `##` section. `text` is its Markdown without the heading; `parts` has the body of each part found in it."""

    name: str
    line: int  # of the heading, 1-based
    text: str
    parts: Mapping[str, str]  # by the keys of PARTS
    part_lines: Mapping[str, int]
    repeated: tuple[tuple[str, int], ...] = ()  # parts that stand here once more, and where


@dataclass(frozen=True)
class Guide:
    """A parsed guide. `general` is the text before the first `##` heading; `text` has `\\n` line ends."""

    text: str
    general: str
    sections: tuple[GuideSection, ...]
    digest: str = field(init=False)  # SHA-256 of the UTF-8 text with \n line ends

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", hashlib.sha256(self.text.encode()).hexdigest())


@dataclass(frozen=True, order=True)
class GuideProblem:
    """What a guide lacks, or says too much. `line` is 1-based; for a missing class it is the guide's last line."""

    line: int
    class_name: str
    message: str


@cache
def packaged_guides() -> tuple[str, ...]:
    """Names of the guides that come with the package, sorted; each is that of the schema of the same name."""
    files = resources.files("datasetops.labeling_guides").iterdir()
    return tuple(sorted(f.name.removesuffix(".md") for f in files if f.name.endswith(".md")))


def load_guide(source: str | Path | bytes) -> Guide:
    """Read a guide: the name of a packaged one, a path, or bytes. Raises NotFoundError; SchemaError if not UTF-8."""
    if isinstance(source, bytes):
        data = source
    elif source in packaged_guides():
        data = resources.files("datasetops.labeling_guides").joinpath(f"{source}.md").read_bytes()
    else:
        hint = did_you_mean(str(source), packaged_guides(), noun="packaged guides")
        data = read_file(Path(source), noun="labeling guide", remedy=f"Name a file, or a packaged guide. {hint}")
    return parse_guide(decode(data, "labeling guide" if isinstance(source, bytes) else str(source)))


def parse_guide(text: str) -> Guide:
    """Parse Markdown with ATX headings (`## name`). Headings inside code fences and HTML comments do not count."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    lines = text.split("\n")
    headings = list(_headings(lines))
    tops = [h for h in headings if h.level <= 2]
    sections = [
        _section(heading, lines[:end], [h for h in headings if heading.line < h.line <= end])
        for heading, end in _until_next(tops, len(lines))
        if heading.level == 2
    ]
    general = lines[: sections[0].line - 1] if sections else lines
    return Guide(text, "\n".join(general).strip(), tuple(sections))


def guide_section(guide: Guide, class_name: str) -> GuideSection | None:
    """What the guide says about one class; None where it says nothing. Its `text` is Markdown."""
    return next((s for s in guide.sections if s.name == class_name), None)


def check_guide(guide: Guide, schema: LabelSchema) -> list[GuideProblem]:
    """Everything that keeps the guide from describing exactly the classes in use, each with all four parts, by line.

    `##` sections before the first class are taken for general ones, unless they have such parts or nearly the name of a
    class.
    """
    problems: list[GuideProblem] = []
    first: dict[str, int] = {}
    described = [s.line for s in guide.sections if schema.find(s.name)]
    for section in guide.sections:
        known = schema.find(section.name)
        if known is None:
            is_general = bool(described) and section.line < described[0] and not section.parts
            if not is_general or nearest_name(section.name, schema.class_names):
                problems.append(_unknown(section, schema))
        elif section.name in first:
            message = f"is described already in line {first[section.name]}: remove one of the two"
            problems.append(GuideProblem(section.line, section.name, message))
        elif known.deprecated:
            message = "is deprecated in the schema: remove its section"
            problems.append(GuideProblem(section.line, section.name, message))
        else:
            problems += _incomplete(section)
        first.setdefault(section.name, section.line)
    last = guide.text.rstrip("\n").count("\n") + 1
    for name in schema.class_names:
        if name not in first:
            problems.append(GuideProblem(last, name, f"has no section: add the heading '## {name}'"))
    return sorted(problems)


def _unknown(section: GuideSection, schema: LabelSchema) -> GuideProblem:
    near = nearest_name(section.name, schema.class_names)
    hint = f"did you mean {near!r}?" if near else did_you_mean(section.name, schema.class_names, noun="classes")
    return GuideProblem(section.line, section.name, f"is no class of schema {schema.name!r}: {hint}")


def _incomplete(section: GuideSection) -> Iterator[GuideProblem]:
    for part, title in PARTS.items():
        if part not in section.parts:
            message = f"has no part {title!r}: add the heading '### {title}'"
            yield GuideProblem(section.line, section.name, message)
        elif _is_empty(section.parts[part]):
            yield GuideProblem(section.part_lines[part], section.name, f"has an empty part {title!r}: write it")
    for part, line in section.repeated:
        message = f"has the part {PARTS[part]!r} twice, first in line {section.part_lines[part]}: remove one of the two"
        yield GuideProblem(line, section.name, message)


def _is_empty(body: str) -> bool:
    visible = re.sub(r"<!--.*?(?:-->|\Z)", "", body, flags=re.DOTALL)
    prose = [line for line in visible.split("\n") if not _HEADING.match(line)]
    return _PLACEHOLDER.fullmatch("".join(prose)) is not None


@dataclass(frozen=True)
class _Heading:
    line: int
    level: int
    title: str


_HEADING: Final = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))??(?:[ \t]+#+)?[ \t]*$")
_FENCE: Final = re.compile(r" {0,3}(`{3,}(?=[^`]*$)|~{3,})(.*)$")


def _headings(lines: list[str]) -> Iterator[_Heading]:
    fence = ""
    in_comment = False
    for number, line in enumerate(lines, 1):
        mark = _FENCE.match(line)
        if fence:
            if mark and mark[1].startswith(fence) and not mark[2].strip():
                fence = ""
        elif in_comment:
            in_comment = "-->" not in line
        elif mark:
            fence = mark[1]
        elif heading := _HEADING.match(line):
            yield _Heading(number, len(heading[1]), _title(heading[2] or ""))
        else:
            in_comment = "<!--" in line and "-->" not in line[line.rindex("<!--") :]


def _title(markdown: str) -> str:
    """A heading's words: emphasis, code marks and backslash escapes taken off."""
    inner = re.fullmatch(r"(\*{1,2}|_{1,2}|`+)(.+)\1", markdown.strip())
    return re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", inner[2] if inner else markdown).strip()


def _until_next(headings: list[_Heading], last: int) -> Iterator[tuple[_Heading, int]]:
    """Each heading with the last line that belongs to it."""
    for heading, following in zip_longest(headings, headings[1:]):
        yield heading, following.line - 1 if following else last


def _section(heading: _Heading, lines: list[str], inner: list[_Heading]) -> GuideSection:
    inner = [h for h in inner if h.level == 3]
    parts: dict[str, str] = {}
    part_lines: dict[str, int] = {}
    repeated: list[tuple[str, int]] = []
    for head, end in _until_next(inner, len(lines)):
        part = _PART_OF.get(re.sub(r"[^a-z' ]", "", head.title.casefold().replace("’", "'")).strip())
        if part in part_lines:
            repeated.append((part, head.line))
        elif part:
            parts[part] = "\n".join(lines[head.line : end]).strip()
            part_lines[part] = head.line
    text = "\n".join(lines[heading.line :]).strip()
    return GuideSection(heading.title, heading.line, text, parts, part_lines, tuple(repeated))
