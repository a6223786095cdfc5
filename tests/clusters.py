"""A repository of noise whose embeddings were computed before: clusters that one can label, round by round."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datasetops.manifest import Change, Repository
from datasetops.models import EmbeddingCache, open_embedder
from datasetops.records import canonical_json, sha256_hex
from datasetops.schema import LabelSchema

NAMES = ("cat", "dog", "bird", "fish")
SCHEMA = LabelSchema.model_validate(
    {
        "name": "clusters",
        "version": 1,
        "tasks": [{"kind": "classification"}],
        "classes": [{"id": index, "name": name} for index, name in enumerate(NAMES)],
    }
)


class Clusters:
    """v1: `count` samples s000, …; the last `validation` of them labeled, in the split validation.

    `truth` has the right class of each sample.
    """

    def __init__(self, root: Path, count: int = 200, validation: int = 60, spread: float = 3.0, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.repository = Repository.init(root, SCHEMA)
        names = [f"s{number:03}" for number in range(count)]
        codes = rng.integers(0, len(NAMES), count)
        self.truth = {name: NAMES[code] for name, code in zip(names, codes, strict=True)}
        keys = {}
        for name, pixels in zip(names, rng.integers(0, 256, (count, 8, 8), dtype=np.uint8), strict=True):
            Image.fromarray(pixels).save(root / f"{name}.png")
            keys[name] = sha256_hex((root / f"{name}.png").read_bytes())
        embedder = open_embedder(self.repository.settings.model, cache=self.repository.settings.cache)
        low = rng.normal(size=(len(NAMES), 16))[codes] * 2 + rng.normal(size=(count, 16)) * spread
        vectors = low @ rng.normal(size=(16, embedder.dim)) / 4
        cache = EmbeddingCache(self.repository.cache / "embeddings", embedder.digest)
        cache.add([keys[name] for name in names], vectors.astype(np.float32))
        apart = set(names[count - validation :])
        samples = [
            {"sample_id": name, "uri": f"{name}.png", "sha256": keys[name], "width": 8, "height": 8}
            | {"media_type": "image/png", "split": "validation" if name in apart else "train"}
            for name in names
        ]
        rows = [self.row(name) for name in sorted(apart)]
        self.repository.commit(Change(samples=samples, annotations=rows), message="clusters")

    def row(self, name: str, label: str | None = None, source: str = "human", **fields: Any) -> dict[str, Any]:
        return {
            "annotation_id": f"{name}/label",
            "sample_id": name,
            "kind": "classification",
            "label": label or self.truth[name],
            "source": source,
        } | fields

    def label(self, names: Iterable[str], seconds: float = 6.0) -> str:
        """Give samples their right class, as people who took so long; returns the version."""
        rows = [
            self.row(
                name,
                actor="ann",
                answer=canonical_json({"answer_id": f"{name}-1", "lead_time": seconds, "changed": True}).decode(),
            )
            for name in names
        ]
        return self.repository.commit(Change(annotations=rows), message="labels").version.name
