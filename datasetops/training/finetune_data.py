"""What a model of transformers is fine-tuned on: which images, with which classes, boxes or outlines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson
import pandas as pd

from datasetops.audits.outlines.overlaps import draw, pixels
from datasetops.errors import ModelError, NotFoundError
from datasetops.formats.geometry import geometry_area
from datasetops.labeling.base import ImageSize
from datasetops.labeling.orientation import mask_to_shown, shown_size
from datasetops.manifest import Repository, Version
from datasetops.progress import Progress
from datasetops.training.data import (
    Parts,
    attributes,
    balance,
    class_names,
    label_weights,
    labels_that_count,
    refuse_unlearnable,
    refuse_unreadable,
)
from datasetops.training.head_data import Picture, gather, look_at
from datasetops.training.probe import class_counts, learnable, row_weights
from datasetops.training.recipe import FinetuneRecipe
from datasetops.training.targets import Objects

REST: Final = "(none)"  # what pixels of no class are called
SILENT: Final = -1  # a pixel that is not asked
_OUTLINED: Final = ("mask", "polygon")
_SEVERAL: Final = 0.05  # share of the classes of images with several regions, from which regions are told apart
_NOTHING: Final = Objects(
    *(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.float32)), np.zeros((0, 4), np.float32)
)


@dataclass(frozen=True)
class Outlines:
    """Outlines of an image, the largest first: those that come later lie on top. `codes` (N,): classes, or SILENT."""

    size: ImageSize
    codes: tuple[int, ...]
    weights: tuple[float, ...]
    geometry: tuple[str, ...]

    def painted(self, rest: int) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.float32]]:
        """Class and weight (height, width) of each pixel as shown; `rest` is the class of those without an outline."""
        shape = (self.size.height, self.size.width)
        labels, weights = np.full(shape, rest, np.int16), np.ones(shape, np.float32)
        for code, weight, geometry in zip(self.codes, self.weights, self.geometry, strict=True):
            inside = pixels(draw(orjson.loads(geometry), *shape))
            labels[inside], weights[inside] = code, weight
        return mask_to_shown(labels, self.size), mask_to_shown(weights, self.size)


@dataclass(frozen=True)
class Example:
    """An image; `target` is its class's number, a row of flags where several hold, its Outlines, or None for boxes.

    `weight`: how much it counts. `rarity`: how often a balanced epoch looks at it, over the mean.
    """

    picture: Picture
    target: Any = None
    weight: float = 1.0
    rarity: float = 1.0


@dataclass(frozen=True)
class Examples:
    """`names` of the model's classes by number; the last one is REST where pixels of no class are learned. `several`: of
    an image several classes may hold, or an image has several regions of one class. `weights` (K,): of classes of pixels.
    """

    names: tuple[str, ...]
    several: bool
    train: list[Example]
    validation: list[Example]
    notes: tuple[str, ...]
    weights: npt.NDArray[np.float64] | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Those of the schema."""
        return tuple(name for name in self.names if name != REST)


def examples(
    repository: Repository, version: Version, parts: Parts, recipe: FinetuneRecipe, skip: bool, progress: Progress
) -> tuple[Examples, Parts]:
    """Raises what `refuse_unlearnable` and `label_weights` raise, and ModelError for what the schema does not ask for."""
    make: dict[str, Callable[..., tuple[Examples, Parts]]] = {"classification": _classes, "box": _boxes, "mask": _masks}
    found, kept = make[recipe.task](repository, version, parts, recipe, skip, progress)
    if not found.train:
        raise NotFoundError(
            f"Nothing to learn from: no image of {version.name} that can be read has a label that counts.",
            remedy="Label some, or name another split.",
        )
    return found, kept


def _boxes(
    repository: Repository, version: Version, parts: Parts, recipe: FinetuneRecipe, skip: bool, progress: Progress
) -> tuple[Examples, Parts]:
    pictures, kept = gather(repository, version, parts, recipe, None, skip=skip, progress=progress)
    counts = np.bincount(np.concatenate([one.objects.labels for one in pictures.train]), minlength=len(pictures.names))
    by_class = _rarity(counts)
    train = [Example(one, rarity=float(by_class[one.objects.labels].max(initial=0.0)) or 1.0) for one in pictures.train]
    validation = [Example(one) for one in pictures.validation]
    return Examples(pictures.names, True, train, validation, pictures.notes), kept


def _classes(
    repository: Repository, version: Version, parts: Parts, recipe: FinetuneRecipe, skip: bool, progress: Progress
) -> tuple[Examples, Parts]:
    _require(version, ["classification"], "gives classes of whole images", "box or mask")
    there, train, validation = learnable(repository, version, parts, recipe)
    counts = class_counts(train.labels[train.weight > 0], len(there))
    own = train.samples[train.weight > 0]
    seen, told = _looked_at(repository, Parts(own, validation.samples), skip, progress)
    weight = train.weight * row_weights(train.labels, counts, recipe)
    by_class = _rarity(counts)
    rarity: Any = by_class[train.labels] if train.labels.ndim == 1 else (train.labels * by_class).max(axis=1)

    def of(samples: pd.DataFrame, labels: Any, weights: Any, rarities: Any) -> list[Example]:
        rows = zip(samples["sample_id"], labels, weights, rarities, strict=True)
        return [
            Example(_picture(*seen[one]), label, float(value), float(rare))
            for one, label, value, rare in rows
            if one in seen and value > 0
        ]

    learned = of(train.samples, train.labels, weight, rarity)
    judged = of(validation.samples, validation.labels, *(np.ones(len(validation.samples)),) * 2)
    made = Examples(there, version.schema.multi_label, learned, judged, (*parts.notes, *train.notes, *told))
    return made, _kept(Parts(own, validation.samples), set(seen))


def _masks(
    repository: Repository, version: Version, parts: Parts, recipe: FinetuneRecipe, skip: bool, progress: Progress
) -> tuple[Examples, Parts]:
    kinds = _require(version, _OUTLINED, "gives masks", "classification or box")
    names = class_names(version, kinds)
    rows = labels_that_count(version, kinds)
    rows = rows[rows["sample_id"].isin(set(parts.samples["sample_id"])) & rows["geometry"].notna()]
    rows["area"] = [geometry_area(orjson.loads(text)) or 0.0 for text in rows["geometry"]]
    rows = rows.sort_values(["area", "annotation_id"], ascending=[False, True], kind="stable").reset_index(drop=True)
    weight, notes = label_weights(repository, version, rows, recipe)
    crowd = rows["attributes"].map(lambda text: bool(attributes(text).get("iscrowd"))).to_numpy(bool)
    taught = rows["sample_id"].isin(set(parts.train["sample_id"])).to_numpy() & (weight > 0) & ~crowd
    counts = rows["label"][taught].value_counts()
    names = refuse_unlearnable(version, {name: int(counts.get(name, 0)) for name in names}, recipe, "outline")
    number = rows["label"].map({name: number for number, name in enumerate(names)}).to_numpy(float)
    code = np.where(np.isnan(number) | crowd | (weight == 0), SILENT, number).astype(np.int64)
    seen, told = _looked_at(repository, parts, skip, progress)
    owned = {sample: own.index.to_numpy() for sample, own in rows.groupby("sample_id", sort=False)}

    def with_outlines(sample: str) -> Outlines:
        size = seen[sample][3]
        own = [row for row in owned.get(sample, ()) if _fits(rows["geometry"][row], size)]
        geometry = tuple(rows["geometry"][row] for row in own)
        return Outlines(size, tuple(int(code[row]) for row in own), tuple(float(weight[row]) for row in own), geometry)

    found = {sample: with_outlines(sample) for sample in seen}
    learned = [one for one in parts.train["sample_id"] if one in seen]
    judged = [one for one in parts.validation["sample_id"] if one in seen]
    empty = sum(not found[one].codes for one in learned)
    if recipe.unlabeled == "ignore":
        learned, judged = ([one for one in part if found[one].codes] for part in (learned, judged))
    elif empty:
        notes += (f"{empty:,} images without an outline teach what is background.",)
    every = names if recipe.unlabeled == "ignore" else (*names, REST)
    asked = taught & (code >= 0)
    areas = np.bincount(code[asked], rows["area"].to_numpy()[asked], len(every))
    if recipe.unlabeled == "background":
        total = sum(found[one].size.width * found[one].size.height for one in learned)
        areas[-1] = max(total - areas.sum(), 0.0)
    by_class = _rarity(np.bincount(code[asked], minlength=len(names)))
    train = [Example(_picture(*seen[one]), found[one], rarity=_rarest(found[one], by_class)) for one in learned]
    validation = [Example(_picture(*seen[one]), found[one]) for one in judged]
    pairs = pd.DataFrame({"sample": rows["sample_id"], "code": code})[asked].groupby(["sample", "code"]).size()
    several = bool((pairs > 1).mean() > _SEVERAL)
    made = Examples(every, several, train, validation, (*parts.notes, *notes, *told), balance(areas, recipe))
    return made, _kept(parts, {*learned, *judged})


def _require(version: Version, kinds: Sequence[str], does: str, other: str) -> list[str]:
    """Those of the kinds that the schema asks for. Raises ModelError where there is none."""
    there: list[str] = [kind for kind in version.schema.kinds if kind in kinds]
    if not there:
        raise ModelError(
            f"The recipe {does}, which the schema {version.schema.name!r} does not ask for.",
            remedy=f"Take a recipe with task: {other}.",
        )
    return there


_Seen = tuple[str, str, str, ImageSize]


def _looked_at(
    repository: Repository, parts: Parts, skip: bool, progress: Progress
) -> tuple[dict[str, _Seen], tuple[str, ...]]:
    """What `look_at` found by sample, and what there is to say of images that cannot be read."""
    found, faults = look_at(repository, parts, None, [], progress)
    return {one[0]: one for one in found}, refuse_unreadable(faults, skip)


def _picture(sample: str, uri: str, key: str, size: ImageSize) -> Picture:
    return Picture(sample, uri, key, shown_size(size), _NOTHING)


def _kept(parts: Parts, ids: set[str]) -> Parts:
    train, validation = (part[part["sample_id"].isin(ids)] for part in (parts.train, parts.validation))
    return Parts(train, validation)


def _rarity(counts: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """(K,) of classes with so many examples: the fewer the larger."""
    there = np.maximum(counts, 1)
    return np.where(counts > 0, counts.sum() / (max(1, np.count_nonzero(counts)) * there), 0.0)


def _rarest(outlines: Outlines, by_class: npt.NDArray[np.float64]) -> float:
    """Of the classes in an image; 1 where there is none."""
    return max((float(by_class[code]) for code in outlines.codes if code >= 0), default=1.0)


def _fits(text: str, size: ImageSize) -> bool:
    """Whether an outline can be drawn on the image: a mask has to be as large."""
    geometry = orjson.loads(text)
    return "polygons" in geometry or ("rle" in geometry and geometry["rle"]["size"] == [size.height, size.width])
