"""A page as one file that needs no server: styles inside, pictures as data URLs, scripts left out."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

from datasetops.errors import DatasetOpsError
from datasetops.web.media import Pictures
from datasetops.web.render import HERE
from datasetops.web.workplace import Desk

_MOST: Final = 64 << 20  # bytes of pictures in one file
_POLICY: Final = (
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
    "style-src 'unsafe-inline'\">"
)
_PICTURES: Final = {".svg": "image/svg+xml", ".png": "image/png"}  # of the app's own
_LIVE: Final = ("form", "button", "input", "select", "textarea")  # they need the server
_VOID: Final = frozenset({"area", "br", "col", "hr", "img", "input", "link", "meta", "source", "wbr"})
_IMPORT: Final = re.compile(r"""@import\s+(?:url\()?["']?([^"')]+)["']?\)?\s*;""")

Fetch = Callable[[str], str | None]  # address of a picture → data URL


def standalone(html: str, desk: Desk) -> str:
    """The page `html` of this server as one file."""
    budget = [_MOST]

    def fetch(address: str) -> str | None:
        found = _picture(address, desk) if budget[0] > 0 else None
        budget[0] -= len(found or "")
        return found

    writer = _Writer(fetch)
    writer.feed(html)
    writer.close()
    return "".join(writer.parts)


class _Writer(HTMLParser):
    """Writes what it reads, but for scripts, styles from files, pictures, and links that lead to the server."""

    def __init__(self, fetch: Fetch) -> None:
        super().__init__(convert_charrefs=False)
        self.parts: list[str] = []
        self._fetch = fetch
        self._skipping = ""  # the element that is being left out
        self._depth = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if self._skipping:
            self._depth += tag == self._skipping
            return
        if tag == "script":
            self._skipping, self._depth = tag, 1
            return
        if tag == "meta" and given.get("name") == "csrf":
            return
        if tag == "link":
            if given.get("rel") == "stylesheet":
                self.parts.append(f"<style>\n{_css(given.get('href') or '')}</style>")
            return
        if tag == "img":
            attrs = [(name, value) for name, value in attrs if name not in ("srcset", "loading")]
            attrs = [(name, self._image(value) if name == "src" else value) for name, value in attrs]
        elif tag == "image":  # of an SVG
            attrs = [(name, self._image(value) if name in ("href", "xlink:href") else value) for name, value in attrs]
        elif tag == "a":
            attrs = [(name, value) for name, value in attrs if name != "href" or (value or "").startswith("#")]
        elif tag in _LIVE:
            attrs = [(name, value) for name, value in attrs if name not in ("action", "formaction")]
            if tag != "form" and "disabled" not in given:
                attrs.append(("disabled", None))
        self.parts.append(_tag(tag, attrs))
        if tag == "head":
            self.parts.append(f"\n{_POLICY}")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._skipping:
            self._depth -= tag == self._skipping
            if not self._depth:
                self._skipping = ""
            return
        self.parts.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        self._write(data)

    def handle_entityref(self, name: str) -> None:
        self._write(f"&{name};")

    def handle_charref(self, name: str) -> None:
        self._write(f"&#{name};")

    def handle_decl(self, decl: str) -> None:
        self._write(f"<!{decl}>")

    def _write(self, text: str) -> None:
        if not self._skipping:
            self.parts.append(text)

    def _image(self, address: str | None) -> str:
        if not address or address.startswith("data:"):
            return address or ""
        return self._fetch(address) or ""


def _tag(tag: str, attrs: list[tuple[str, str | None]]) -> str:
    written = [name if value is None else f'{name}="{escape(value)}"' for name, value in attrs]
    return f"<{' '.join([tag, *written])}>"


def _picture(address: str, desk: Desk) -> str | None:
    """A picture of this server as a data URL; None where there is none."""
    parts = urlsplit(address)
    if parts.netloc or parts.scheme:
        return None
    folders = parts.path.split("/", 4)
    if folders[1:2] == ["static"]:
        file = _static(parts.path)
        kind = _PICTURES.get(file.suffix) if file else None
        return f"data:{kind};base64,{_base64(file.read_bytes())}" if file and kind else None
    if len(folders) < 5 or folders[1] != "media":
        return None
    version, what, name = (unquote(part) for part in folders[2:5])
    try:
        found = _made(desk.pictures, desk, version, what, name, parse_qs(parts.query))
    except (DatasetOpsError, ValueError):
        return None
    return found


def _made(
    pictures: Pictures, desk: Desk, version: str, what: str, name: str, query: dict[str, list[str]]
) -> str | None:
    chosen = desk.version(version)
    if what == "full":
        picture = pictures.full(chosen, name)
    elif what == "mask":
        picture = pictures.mask(chosen, name.removesuffix(".png"))
    elif what == "thumb":
        x1, y1, x2, y2 = [float(part) for part in query.get("box", ["0,0,0,0"])[0].split(",")]
        box = (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None
        annotation_id = query.get("annotation", [None])[0]
        picture = pictures.thumb(chosen, name, int(query.get("side", ["160"])[0]), box, annotation_id)
    else:
        return None
    return f"data:{picture.media_type};base64,{_base64(picture.data)}"


def _css(address: str) -> str:
    """A style sheet of the app, with those that it imports."""
    file = _static(urlsplit(address).path)
    if file is None or file.suffix != ".css":
        return ""
    text = file.read_text(encoding="utf-8")
    return _IMPORT.sub(lambda match: _css(f"/static/{match[1].removeprefix('./').removeprefix('/static/')}"), text)


def _static(path: str) -> Path | None:
    root = HERE / "static"
    file = (root / unquote(path).removeprefix("/static/")).resolve()
    return file if file.is_relative_to(root.resolve()) and file.is_file() else None


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
