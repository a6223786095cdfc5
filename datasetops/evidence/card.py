"""A dataset card: Markdown with a YAML head as the Hugging Face Hub reads it; every figure is counted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

import yaml

from datasetops.evaluation.sections import Section
from datasetops.evidence.figures import NONE, Figures
from datasetops.evidence.story import Story
from datasetops.evidence.told import dataset_sections

_TASKS: Final = {
    "classification": "image-classification",
    "box": "object-detection",
    "polygon": "image-segmentation",
    "mask": "image-segmentation",
    "keypoints": "keypoint-detection",
    "text": "image-to-text",
}
_SIZES: Final = (
    "1K",
    "10K",
    "100K",
    "1M",
    "10M",
    "100M",
    "1B",
    "10B",
    "100B",
    "1T",
)  # upper ends, each ten times as much
# Identifiers of the Hub's list of licences; anything else is "other" there, with its name beside it.
_LICENSES: Final = re.compile(
    r"apache-2\.0|mit|cc0-1\.0|cc-by(-nc)?(-sa|-nd)?-[234]\.[05]|cc-by-2\.0|odbl|pddl|odc-by|bsd(-[23]-clause)?|"
    r"gpl-[23]\.0|agpl-3\.0|lgpl-(2\.1|3\.0)|mpl-2\.0|unlicense|wtfpl|cdla-(sharing|permissive)-[12]\.0"
)


def dataset_card(story: Story) -> str:
    """The card of a version, as Markdown."""
    head = yaml.safe_dump(card_head(story, story.figures), sort_keys=False, allow_unicode=True, width=10_000)
    version, schema, commit = story.version, story.version.schema, story.version.commit
    title = f"{schema.name} {version.name}"
    lines = ["---", head.rstrip(), "---", "", f"# {escaped(title)}", ""]
    if schema.description:
        lines += [escaped(schema.description), ""]
    lines += [f"{sentence(story.figures)} {standing(story)}", ""]
    for section in dataset_sections(story):
        lines += in_markdown(section)
    lines += ["## Identity", ""]
    lines += [
        f"- version {version.name}, made {commit.time[:19].replace('T', ' ')} UTC",
        f"- commit `{version.digest}`",
        f"- label schema {escaped(schema.name)} version {schema.version}, `{commit.schema}`",
        f"- labeling guide {'`' + commit.guide + '`' if commit.guide else 'none'}",
    ]
    return "\n".join(lines) + "\n"


def card_head(story: Story, counted: Figures) -> dict[str, Any]:
    """The card's metadata, with the names that the Hub gives them."""
    schema = story.version.schema
    named = [name for name in counted.licenses if name != NONE]
    known = [name.lower() for name in named if _LICENSES.fullmatch(name.lower())]
    licences = [*known, *(["other"] if len(known) < len(named) else []), *(["unknown"] if not named else [])]
    head: dict[str, Any] = {
        "pretty_name": f"{schema.name} {story.version.name}",
        "license": licences[0] if len(licences) == 1 else licences,
    }
    if others := [name for name in named if name.lower() not in known]:
        head["license_name"] = ", ".join(others)
    head["task_categories"] = list(dict.fromkeys(_TASKS[kind] for kind in schema.kinds))
    if "classification" in schema.kinds:
        head["task_ids"] = [f"multi-{'label' if schema.multi_label else 'class'}-image-classification"]
    head["size_categories"] = [size_category(counted.samples)]
    sources = {"model": "machine-generated", "rule": "machine-generated", "import": "found"}
    if found := sorted({sources[name] for name in counted.sources if name in sources}):
        head["annotations_creators"] = found
    head["tags"] = ["image", *schema.kinds, story.status.status, f"version:{story.version.name}"]
    head["dataset_info"] = {
        "splits": [{"name": name, "num_examples": count} for name, count in counted.splits.items() if name != NONE],
    }
    return head


def size_category(samples: int) -> str:
    """The Hub's name for a number of examples: n<1K, 1K<n<10K, …"""
    limit, below = 1_000, ""
    for name in _SIZES:
        if samples < limit:
            return f"{below}<n<{name}" if below else f"n<{name}"
        limit, below = limit * 10, name
    return f"n>{_SIZES[-1]}"


def sentence(counted: Figures) -> str:
    """What it is, in one sentence."""
    kinds = ", ".join(f"{count:,} of kind {kind}" for kind, count in counted.kinds.items()) or "none yet"
    used = sum(1 for item in counted.classes if item.labels)
    told = f"{counted.samples:,} images with {counted.labels:,} labels ({kinds}) of {used:,} classes."
    if counted.sizes:
        left, right, low, high = counted.sizes
        told += f" Images are {_span(left, right)} pixels wide and {_span(low, high)} high."
    if any(counted.erased):
        told += " Rows erased since it was made: {:,} of images, {:,} of annotations.".format(*counted.erased)
    return told


def standing(story: Story) -> str:
    """Whether it was accepted, and by whom."""
    status = story.status
    if status.status == "draft":
        return "This version is a draft: nobody has accepted it."
    told = f"This version was {status.status} on {str(status.time)[:10]}."
    if status.overridden:
        told += f" Rules that did not pass and were overridden: {', '.join(status.overridden)}."
    return told + (f" Reason: {escaped(status.reason)}" if status.reason else "")


def in_markdown(section: Section) -> list[str]:
    lines = [f"## {section.title}", ""]
    if section.note:
        lines += [escaped(section.note), ""]
    if section.rows:
        lines += [_line(section.header), "|" + " --- |" * len(section.header), *map(_line, section.rows), ""]
    return lines


def escaped(text: str) -> str:
    """Text that Markdown and HTML show as it is, in one line."""
    safe = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|~])", r"\\\1", safe)


def _line(cells: Sequence[str] | Iterable[str]) -> str:
    return "| " + " | ".join(escaped(cell) for cell in cells) + " |"


def _span(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
