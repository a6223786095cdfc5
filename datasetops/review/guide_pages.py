"""Sections of a labeling guide as HTML that is safe to show: HTML within it is shown as text, images are left out."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Final

from datasetops.manifest import Version
from datasetops.review.texts import cut
from datasetops.schema.guide import Guide, guide_section, parse_guide

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

_LONGEST: Final = 50_000  # characters of a section


def guide_pages(version: Version, classes: Iterable[tuple[str, str | None]]) -> list[dict[str, str]]:
    """What the guide says about classes, each told once: {"class", "role", "html"}.

    `classes`: (role, class name or None), for example ("given", "cat"). A class that the guide is silent about has its
    definition in the schema; one that neither knows is left out.
    """
    guide = _guide(version.guide) if version.guide else None
    pages: dict[str, dict[str, str]] = {}
    for role, name in classes:
        if not name or name in pages:
            continue
        section = guide_section(guide, name) if guide else None
        known = version.schema.find(name)
        text = section.text if section else known.definition if known else ""
        if text:
            pages[name] = {"class": name, "role": role, "html": safe_html(text)}
    return list(pages.values())


@lru_cache(maxsize=256)
def safe_html(markdown: str) -> str:
    """HTML of a Markdown text, with nothing in it that runs, loads or tells where a reader came from."""
    return str(_renderer().render(cut(markdown, _LONGEST)))


@lru_cache(maxsize=8)
def _guide(text: str) -> Guide:
    return parse_guide(text)


@cache
def _renderer() -> MarkdownIt:
    from markdown_it import MarkdownIt

    made = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    made.add_render_rule("link_open", _outward)
    return made


def _outward(renderer: Any, tokens: Any, at: int, options: Any, environment: Any) -> Any:
    """Links open beside the review, so that nothing in hand is lost."""
    tokens[at].attrSet("rel", "noopener noreferrer")
    tokens[at].attrSet("target", "_blank")
    return renderer.renderToken(tokens, at, options, environment)
