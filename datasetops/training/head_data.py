"""What a detector learns from: objects of each image as it is shown, and for a head maps that are computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from datasetops.errors import DatasetOpsError, ModelError
from datasetops.images import ImageError, check_image, decode_rgb, read_header
from datasetops.labeling.base import ImageSize
from datasetops.labeling.orientation import shown_size, to_shown
from datasetops.manifest import Repository, Version
from datasetops.models.dense import in_threads
from datasetops.progress import Progress, no_progress
from datasetops.store.media import Media
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
from datasetops.training.maps import Flip, Halves, MapBank, scale_of
from datasetops.training.recipe import HeadRecipe, Recipe
from datasetops.training.targets import Objects, mirrored

KIND: Final = "box"
_OUTLINED: Final = ("polygon", "mask")  # whose extents are boxes too


@dataclass(frozen=True)
class Picture:
    """An image: `size` is width and height as shown, `objects` are in pixels of the shown image."""

    sample_id: str
    uri: str
    key: str
    size: tuple[int, int]
    objects: Objects


@dataclass(frozen=True)
class Pictures:
    """To train and to validate on, with the classes by number."""

    names: tuple[str, ...]
    train: list[Picture]
    validation: list[Picture]
    notes: tuple[str, ...]


def flips_of(recipe: HeadRecipe) -> list[Flip]:
    across = (False, True) if recipe.flips.horizontal else (False,)
    down = (False, True) if recipe.flips.vertical else (False,)
    return [(one, other) for other in down for one in across]


def gather(
    repository: Repository, version: Version, parts: Parts, recipe: Recipe, bank: MapBank | None,
    flips: Sequence[Flip] = (), *, skip: bool, progress: Progress = no_progress,
) -> tuple[Pictures, Parts]:  # fmt: skip
    """Objects of all images, with the maps of all flips in the bank where there is one.

    Raises what `refuse_unlearnable` and `label_weights` raise."""
    kinds = [KIND] if KIND in version.schema.kinds else [kind for kind in _OUTLINED if kind in version.schema.kinds]
    if not kinds:
        raise ModelError(
            f"A detector finds boxes, which the schema {version.schema.name!r} does not ask for.",
            remedy="Take a recipe for classes of whole images: probe.",
        )
    names = class_names(version, kinds)
    rows = labels_that_count(version, kinds)
    rows = rows[rows["sample_id"].isin(set(parts.samples["sample_id"])) & rows["label"].isin(names)]
    rows = rows.sort_values("annotation_id", kind="stable").reset_index(drop=True)
    weight, notes = label_weights(repository, version, rows, recipe)
    crowd = rows["attributes"].map(lambda text: bool(attributes(text).get("iscrowd"))).to_numpy(bool)
    taught = rows["sample_id"].isin(set(parts.train["sample_id"])).to_numpy() & (weight > 0) & ~crowd
    counts = rows["label"][taught].value_counts()
    names = refuse_unlearnable(version, {name: int(counts.get(name, 0)) for name in names}, recipe, "box")
    by_class = balance(np.array([int(counts.get(name, 0)) for name in names]), recipe)
    code = rows["label"].map({name: number for number, name in enumerate(names)}).to_numpy(float)
    asked = ~crowd & ~np.isnan(code)
    weight = np.where(asked, weight * by_class[np.where(asked, code, 0).astype(np.int64)], 0)
    owned = {sample: own.index.to_numpy() for sample, own in rows.groupby("sample_id", sort=False)}
    pictures, faults = look_at(repository, parts, bank, flips, progress)
    told = refuse_unreadable(faults, skip)

    def with_objects(sample: str, uri: str, key: str, size: ImageSize) -> Picture:
        own = owned.get(sample, np.zeros(0, np.int64))
        corners = rows.loc[own, ["x1", "y1", "x2", "y2"]].to_numpy(np.float64)
        shown = _shown(corners, size)
        sound = np.isfinite(shown).all(axis=1) & (shown[:, 2] > shown[:, 0]) & (shown[:, 3] > shown[:, 1])
        used = sound & (weight[own] > 0)
        objects = Objects(
            shown[used].astype(np.float32),
            code[own][used].astype(np.int64),
            weight[own][used].astype(np.float32),
            shown[sound & ~used].astype(np.float32),
        )
        return Picture(sample, uri, key, shown_size(size), objects)

    made = {item[0]: with_objects(*item) for item in pictures}
    train, validation = (
        [made[one] for one in part["sample_id"] if one in made] for part in (parts.train, parts.validation)
    )
    empty = sum(not len(picture.objects.boxes) for picture in train)
    if empty:
        notes += (f"{empty:,} images without a box teach what is background.",)
    usable, validating = (part[part["sample_id"].isin(made)] for part in (parts.train, parts.validation))
    kept = Parts(usable, validating)
    return Pictures(names, train, validation, (*parts.notes, *notes, *told)), kept


def scaled(picture: Picture, side: int, flip: Flip = (False, False)) -> Objects:
    """Its objects in scaled pixels, mirrored."""
    across, down = scale_of(picture.size, side)
    by = np.array([across, down, across, down], dtype=np.float32)
    own = picture.objects
    width, height = picture.size[0] * across, picture.size[1] * down
    boxes, ignored = (mirrored(boxes * by, flip, width, height) for boxes in (own.boxes, own.ignored))
    return Objects(boxes, own.labels, own.weights, ignored)


def load_maps(bank: MapBank, picture: Picture, flip: Flip, read: Callable[[str], bytes]) -> list[Halves]:
    """From the bank, or computed again where it keeps none."""
    found = bank.find(picture.key, flip)
    return bank.make(decode_rgb(read(picture.uri)), flip, picture.key) if found is None else found


def look_at(
    repository: Repository, parts: Parts, bank: MapBank | None, flips: Sequence[Flip], progress: Progress = no_progress
) -> tuple[list[tuple[str, str, str, ImageSize]], dict[str, str]]:
    """(sample, uri, key, size) of every image that can be read, and why others cannot, by uri.

    Fills the bank with the maps of all `flips` of images to train on, and of the others as they are.
    """
    read = Media(repository.store, repository.root).read
    both = ((parts.train, flips), (parts.validation, flips[:1]))
    tasks: list[tuple[Any, Sequence[Flip]]] = [(row, wanted) for part, wanted in both for row in part.itertuples()]

    def work(index: int, data: bytes | str) -> ImageSize | str:
        if isinstance(data, str):
            return data
        row, wanted = tasks[index]
        try:
            header = check_image(data) if bank is None else read_header(data)
            size = ImageSize(header.width, header.height, header.orientation or 1)
            if bank is not None and (missing := [flip for flip in wanted if bank.find(row.sha256, flip) is None]):
                image = decode_rgb(data)
                for flip in missing:
                    bank.make(image, flip, row.sha256)
        except ImageError as error:
            return str(error)
        return size

    def content(index: int) -> bytes | str:
        row = tasks[index][0]
        if not isinstance(row.sha256, str):
            return "it was not at hand when it was ingested"
        try:
            return read(row.uri)
        except DatasetOpsError as error:
            return error.message

    done: Iterator[tuple[int, ImageSize | str]] = in_threads(content, work, range(len(tasks)), repository.settings.jobs)
    found, faults = [], {}
    for index, size in progress(done, len(tasks), "Looking at images"):
        row = tasks[index][0]
        if isinstance(size, str):
            faults[row.uri] = size
        else:
            found.append((row.sample_id, row.uri, row.sha256, size))
    return found, faults


def _shown(corners: Any, size: ImageSize) -> Any:
    """Boxes (N, 4) as stored in the file, as they stand in the shown image."""
    points = np.stack([to_shown(corners[:, :2], size), to_shown(corners[:, 2:], size)])
    return np.concatenate([points.min(axis=0), points.max(axis=0)], axis=1)
