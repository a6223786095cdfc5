"""Parts of the tests of the review app: rows, findings without an audit, a server that answers."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from fastapi import FastAPI
from pictures import photos
from PIL import Image

from datasetops.audits.record import AuditRecord, scores_table, store_audit
from datasetops.manifest import Repository, Version
from datasetops.records import Finding, findings_table, sha256_hex

CLASSES = ("cat", "dog", "bird")
PASSWORD = "a long enough password"
WIDTH, HEIGHT = 80, 60


_photos = cache(photos)


def photo(number: int, kind: str = "JPEG", **options: Any) -> bytes:
    """A part of a photo, another one for each number."""
    left, top = 7 * number % 500, 5 * number % 300
    sink = io.BytesIO()
    _photos()[number % 2].crop((left, top, left + WIDTH, top + HEIGHT)).save(sink, kind, **options)
    return sink.getvalue()


def sample(repository: Repository, name: str, data: bytes, **more: Any) -> dict[str, Any]:
    """A row of the samples table, its file written beside the repository."""
    file = Path(str(repository.root)) / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    try:
        width, height = Image.open(io.BytesIO(data)).size
    except OSError:
        width, height = WIDTH, HEIGHT
    facts = {"sha256": sha256_hex(data), "width": width, "height": height}
    return {"sample_id": Path(name).stem, "uri": name, **facts, **more}


def class_row(name: str, label: str, actor: str = "mia") -> dict[str, Any]:
    return {"annotation_id": f"{name}/label", "sample_id": name, "kind": "classification", "label": label,
            "source": "human", "actor": actor}  # fmt: skip


def box_row(name: str, label: str, box: Sequence[float] = (10, 10, 40, 30), number: int = 0) -> dict[str, Any]:
    corners = dict(zip(("x1", "y1", "x2", "y2"), map(float, box), strict=True))
    return {"annotation_id": f"{name}#box{number}", "sample_id": name, "kind": "box", "label": label,
            "source": "human", "actor": "mia", **corners}  # fmt: skip


def audited(repository: Repository, version: Version, findings: list[Finding]) -> list[str]:
    """Store findings as an audit would; returns their ids."""
    checks = sorted({item.check for item in findings})
    facts = {
        name: {"findings": sum(item.check == name for item in findings), "seconds": 0.1, "severity": {}}
        for name in checks
    }
    info = {
        "audit": sha256_hex(json.dumps([version.digest, checks]).encode())[:12], "version": version.name,
        "commit": version.digest, "parameters": {"checks": checks, "split": None, "where": None}, "models": {},
        "notes": [], "samples": version.commit.counts["samples"],
        "annotations": version.commit.counts["annotations"], "unreadable": 0, "checks": facts,
    }  # fmt: skip
    store_audit(repository, AuditRecord(str(info["audit"]), info, findings_table(findings), scores_table({}), {}))
    return [item.finding_id for item in findings]


@dataclass
class Dataset:
    """`noise` are findings of wrong classes, one a sample; `boxes` of boxes with a wrong class."""

    repository: Repository
    version: Version
    noise: list[str]
    boxes: list[str]


@dataclass
class Site:
    """A server that answers. `url` has no slash at its end."""

    url: str
    app: FastAPI
    clients: list[httpx.Client] = field(default_factory=list)

    def browser(self, actor: str | None = None) -> httpx.Client:
        """A client that is signed in, sends the token of its pages and stays where it is led."""
        client = httpx.Client(base_url=self.url, timeout=60, follow_redirects=False)
        self.clients.append(client)
        if actor is not None:
            desk = self.app.state.desk
            value = desk.sessions.issue(actor, desk.users.stamp(actor))
            client.cookies.set(desk.sessions.cookie, value, domain="127.0.0.1")
            client.headers["X-CSRF"] = desk.sessions.read(value, desk.users.stamp).csrf
        return client


Serve = Callable[..., Site]


class Refusing(NamedTuple):
    """A server, its data, and a browser that is signed in."""

    site: Site
    dataset: Dataset
    client: httpx.Client
