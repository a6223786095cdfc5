"""A repository of grey images with a coloured square in each, asked about in one of three ways."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datasetops.manifest import Change, Repository
from datasetops.records import canonical_json, sha256_hex
from datasetops.schema import LabelSchema
from datasetops.training.recipe import FinetuneRecipe
from datasetops.training.record import ModelRecord
from datasetops.training.train import train

Make = Callable[..., Repository]
SIDE = 64
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 230)}
NAMES = tuple(COLOURS)


def squares(
    root: Path, kind: str, *, multi: bool = False, count: int = 18, names: tuple[str, ...] = NAMES
) -> Repository:
    """Image N has a square of colour N modulo 3; two of three are to train on. `kind`: classification, box or mask."""
    schema = {
        "name": "squares",
        "version": 1,
        "tasks": [{"kind": "polygon" if kind == "mask" else kind} | ({"multi": True} if multi else {})],
        "classes": [{"id": number, "name": name} for number, name in enumerate(names)],
    }
    repository = Repository.init(root, LabelSchema.model_validate(schema))
    samples, annotations = [], []
    for number in range(count):
        rng = np.random.default_rng(number)
        name = names[number % len(names)]
        x, y = (int(value) for value in rng.integers(4, 28, 2))
        side = int(rng.integers(24, 33))
        pixels = rng.integers(120, 136, (SIDE, SIDE, 3)).astype(np.uint8)
        pixels[y : y + side, x : x + side] = COLOURS[name]
        file = root / f"{number:02}.png"
        Image.fromarray(pixels).save(file)
        sample: dict[str, Any] = {"sample_id": f"s{number:02}", "uri": file.name, "media_type": "image/png"}
        sample |= {"sha256": sha256_hex(file.read_bytes()), "width": SIDE, "height": SIDE}
        samples.append(sample | {"split": ("train", "train", "val")[number // len(names) % 3]})
        row = {"annotation_id": f"s{number:02}/a", "sample_id": f"s{number:02}", "label": name, "source": "human"}
        corners = dict(zip(("x1", "y1", "x2", "y2"), (x, y, x + side, y + side), strict=True))
        if kind == "mask":
            ring = [x, y, x + side, y, x + side, y + side, x, y + side]
            row |= {"geometry": canonical_json({"polygons": [ring]}).decode(), **corners}
        annotations.append({**row, "kind": "polygon" if kind == "mask" else kind, **(corners if kind == "box" else {})})
    repository.commit(Change(samples=samples, annotations=annotations), message="squares")
    return repository


def recipe(task: str, family: str, folder: Path, **changes: Any) -> FinetuneRecipe:
    """For a small checkpoint that is made in the folder."""
    from tiny_checkpoints import save_family

    given: dict[str, Any] = {"kind": "finetune", "name": "small", "task": task, "epochs": 6, "batch": 8}
    given |= {"model": f"local:{save_family(family, folder / family)}", "learning_rate": 3e-3, "backbone_rate": 1}
    return FinetuneRecipe.model_validate(given | changes)


def fit(repository: Repository, chosen: FinetuneRecipe, **more: Any) -> ModelRecord:
    return train(repository, repository.version(), chosen, experiment=True, device="cpu", **more)
