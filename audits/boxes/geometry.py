"""What is odd about boxes by their geometry alone: drawn twice, nested, of odd size, shape or place, too few of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from datasetops.audits.boxes.pairs import Flags, Floats, Ints, Overlaps, overlaps_within
from datasetops.audits.boxes.rows import BoxRows
from datasetops.audits.boxes.scores import MATCH
from datasetops.audits.rowwise import Doubt, deviations
from datasetops.audits.samplewise import texts
from datasetops.schema import LabelSchema

_TWIN: Final = 0.8  # intersection over union: of 149,813 persons in COCO 42 pairs have more, one in 3,600
_COPY: Final = 0.95  # two people hardly draw the same box so alike: it was saved twice
_TWO_CLASSES: Final = 0.9  # things of two classes that fill each other's box, like a cap and a head, mostly have less
_INSIDE: Final = 0.9  # share of a box in a larger one that makes it nested
_RARE: Final = 0.01  # share of a class's boxes up to which something is not how the class is
_KNOWN: Final = 100  # boxes of a class from which a share of a hundredth can be told
_HABIT: Final = 0.1  # share of a class's boxes from which a second class on the same box is meant so,
_FEW: Final = 5  # as long as there are at least so many of them
_FEWEST: Final = 30  # images, with the class, by which it is known what is usual: boxes of one image are alike
_FAR: Final = 5.0  # robust deviations; one in 1.7 million of a normal distribution is farther
_VERY_FAR: Final = 8.0
_SPREAD: Final = 0.05  # the least deviation, of log quotients and of shares of the image: less does not matter
_EDGE: Final = 1.0  # pixels from the image's edge within which an object may be cut off, so that its shape says little
_NEARLY_ALL: Final = 0.9  # share of the images with a class from which one without it is odd
_TOO_FEW: Final = 3.0  # deviations of the root of the count, which for chance counts has a deviation of a half


@dataclass(frozen=True)
class Lack:
    """An image with fewer boxes than usual: the row of its sample, and of which class."""

    image: int
    label: str | None
    severity: str
    score: float
    message: str


def doubles(given: BoxRows, schema: LabelSchema) -> Iterator[Doubt]:
    """Boxes that mark what another box of the image marks already. The later of two is told."""
    pairs = overlaps_within(given.boxes, covered=min(_TWIN, _INSIDE))
    drawn = given.drawn[pairs.first] & given.drawn[pairs.second]
    kind = given.rows["kind"].to_numpy()
    pairs = pairs[drawn & (kind[pairs.first] == kind[pairs.second])]
    label = given.boxes.label
    same = label[pairs.first] == label[pairs.second]
    ids = texts(given.rows["annotation_id"])

    def told(say: Callable[[int, float], str], found: dict[int, tuple[int, float]]) -> Callable[[int], str]:
        return lambda row: say(*found[row])

    twins = pairs[same & (pairs.iou >= _TWIN)]
    for severity, low, high in (("high", _COPY, np.inf), ("medium", _TWIN, _COPY)):
        found = _closest(twins.second, twins.first, twins.iou, low, high)
        say = told(lambda other, iou: f"it shares {iou:.0%} with another box of its class, {ids[other]}", found)
        yield _doubt("drawn twice", given, severity, found, lambda iou: (1 - iou) / (1 - MATCH), say)

    mixed = pairs[~same & (pairs.iou >= _TWO_CLASSES)]
    mixed = mixed[~_meant(mixed, given, schema)]
    found = _closest(mixed.second, mixed.first, mixed.iou, 0, np.inf)
    say = told(
        lambda other, iou: (
            f"it shares {iou:.0%} with a box of the class {given.name(int(label[other]))!r}, {ids[other]}"
        ),
        found,
    )
    yield _doubt("two classes", given, "medium", found, lambda iou: (1 - iou) / (1 - MATCH), say)

    inside = pairs[same & (pairs.iou < _TWIN) & (pairs.covered >= _INSIDE)]
    inner, outer = _by_size(inside, given.boxes.area)
    nested = np.bincount(label[np.unique(inner)], minlength=len(given.names))
    total = np.bincount(label[given.drawn & (label >= 0)], minlength=len(given.names))
    rare = (nested <= _RARE * total) & (total >= _KNOWN)
    odd = rare[label[inner]] & (label[inner] >= 0)
    found = _closest(inner[odd], outer[odd], inside.covered[odd], 0, np.inf)

    def within(row: int) -> str:
        other, share = found[row]
        name = given.name(int(label[row]))
        return (
            f"{share:.0%} of it lies in a larger box of its class, {ids[other]}; "
            f"of {total[label[row]]:,} boxes of {name} {nested[label[row]]:,} lie so"
        )

    yield _doubt("nested", given, "low", found, lambda share: np.full(len(share), 0.5), within)


def outlying(given: BoxRows) -> Iterator[Doubt]:
    """Boxes whose size, shape or place is far from those of their class. Unknown image sizes tell nothing."""
    corners, sides = given.boxes.corners, given.boxes.sides
    label = (
        np.where(given.drawn & (np.append(_images_of(given), 0)[given.boxes.label] >= _FEWEST), given.boxes.label, -1)
        + 1
    )
    with np.errstate(invalid="ignore"):
        share = sides.prod(axis=1) / given.sides.prod(axis=1)
        middle = (corners[:, :2] + corners[:, 2:]) / 2 / given.sides
        cut = (corners[:, :2] <= _EDGE).any(axis=1) | (corners[:, 2:] >= given.sides - _EDGE).any(axis=1)
        outside = ((corners[:, :2] < -_EDGE) | (corners[:, 2:] > given.sides + _EDGE)).any(axis=1)
    aspect = sides[:, 0] / sides[:, 1]
    measures: dict[str, tuple[Floats, Callable[[float], str]]] = {
        "share of the image": (np.where(cut, np.nan, np.log(share)), lambda value: f"{np.exp(value):.2%}"),
        "width over height": (np.where(cut, np.nan, np.log(aspect)), lambda value: f"{np.exp(value):.3g}"),
        "middle from the left": (middle[:, 0], lambda value: f"{value:.0%} of the width"),
        "middle from the top": (middle[:, 1], lambda value: f"{value:.0%} of the height"),
    }
    for what, (values, show) in measures.items():
        values = np.where((label > 0) & ~outside, values, np.nan)  # the check `schema` tells those outside
        off = np.nan_to_num(deviations(values, label, fewest=_FEWEST, floor=_SPREAD))
        for severity, low, high in (("medium", _VERY_FAR, np.inf), ("low", _FAR, _VERY_FAR)):
            far = (np.abs(off) >= low) & (np.abs(off) < high)

            usual = {one: float(np.nanmedian(values[label == one])) for one in np.unique(label[far]).tolist()}
            text = {
                row: f"{what}: {show(values[row])}; usual for {given.names[label[row] - 1]}: {show(usual[label[row]])}"
                for row in np.flatnonzero(far).tolist()
            }
            yield Doubt(what, far, severity, _faint(np.abs(off), _FAR), text.__getitem__)


def sparse(given: BoxRows) -> Iterator[Lack]:
    """Images without annotations where most have some, or with far fewer boxes of a class than nearly all others."""
    labeled = given.labeled
    if given.mostly_labeled and len(labeled) >= _FEWEST:
        share = float(labeled.mean())
        text = f"nothing is annotated; {share:.1%} of the images have annotations"
        for image in np.flatnonzero(~labeled).tolist():
            yield Lack(image, None, "low", 0.5, text)  # images without any object belong into many sets
    images = int(labeled.sum())
    if images < _FEWEST:
        return
    boxes, held = given.boxes, _images_of(given)
    for label in np.flatnonzero(held >= _NEARLY_ALL * images).tolist():
        name = given.names[label]
        count = np.bincount(boxes.image[boxes.label == label], minlength=len(labeled))
        root = np.sqrt(count)
        middle = float(np.median(root[labeled]))
        below = middle - root[labeled & (root < middle)]
        off = (middle - root) / max(float(np.median(below)) / 0.6745 if len(below) else 0.0, 0.5)
        for image in np.flatnonzero(labeled & ((off >= _TOO_FEW) | (count == 0))).tolist():
            gone, far = count[image] == 0, off[image] >= _TOO_FEW
            usual = f"{middle**2:.0f} as a rule"
            text = f"no box of {name}; {held[label] / images:.1%} of the annotated images have some, {usual}"
            yield Lack(
                image,
                name,
                "medium" if gone and far else "low",
                min(float(_faint(off[image], _TOO_FEW)), 0.5),
                text if gone else f"{count[image]} of {name}, {usual}",
            )


def _images_of(given: BoxRows) -> Ints:
    """In how many images each class has a box."""
    boxes, classes = given.boxes, len(given.names)
    known = boxes.label >= 0
    return np.bincount(np.unique(boxes.image[known] * classes + boxes.label[known]) % classes, minlength=classes)


def _doubt(
    kind: str,
    given: BoxRows,
    severity: str,
    found: dict[int, tuple[int, float]],
    score: Callable[[Floats], Floats],
    message: Callable[[int], str],
) -> Doubt:
    doubtful = np.zeros(len(given.boxes), dtype=bool)
    doubtful[list(found)] = True
    scores = np.ones(len(doubtful))
    scores[list(found)] = score(np.array([share for _, share in found.values()]))
    return Doubt(kind, doubtful, severity, scores, message)


def _closest(row: Ints, other: Ints, share: Floats, low: float, high: float) -> dict[int, tuple[int, float]]:
    """For each row, in ascending order, the other box that shares most with it, if that is from `low` to below `high`."""
    order = np.lexsort((share, row))
    last = order[np.flatnonzero(np.diff(row[order], append=-1))]
    kept = last[(share[last] >= low) & (share[last] < high)]
    return {int(row[i]): (int(other[i]), float(share[i])) for i in kept}


def _by_size(pairs: Overlaps, area: Floats) -> tuple[Ints, Ints]:
    """The smaller and the larger of each pair."""
    swap = area[pairs.first] <= area[pairs.second]
    return np.where(swap, pairs.first, pairs.second), np.where(swap, pairs.second, pairs.first)


def _meant(pairs: Overlaps, given: BoxRows, schema: LabelSchema) -> Flags:
    """Pairs of two classes that go together: one is a kind of the other, or they share boxes as a habit."""
    parents: dict[str, set[str]] = {}
    for item in schema.classes:
        above, at = parents.setdefault(item.name, set()), item.parent
        while at is not None and at not in above:
            above.add(at)
            found = schema.find(at)
            at = found.parent if found else None
    classes = len(given.names)
    label = given.boxes.label
    low, high = np.sort(np.stack([label[pairs.first], label[pairs.second]]), axis=0)
    total = np.bincount(label[given.drawn & (label >= 0)], minlength=classes)
    meant = (low < 0) | (high < 0)
    for code, count in zip(*np.unique(low * classes + high, return_counts=True), strict=True):
        one, other = divmod(int(code), classes)
        if one < 0:
            continue
        names = given.names[one], given.names[other]
        kin = names[0] in parents.get(names[1], ()) or names[1] in parents.get(names[0], ())
        if kin or (count >= _FEW and count >= _HABIT * min(total[one], total[other])):
            meant |= (low == one) & (high == other)
    return np.asarray(meant, dtype=np.bool_)


def _faint(off: Any, far: float) -> Any:
    """A score of a half at `far` deviations, less beyond."""
    return 1 / (1 + np.exp(np.clip(off - far, -50, 50)))
