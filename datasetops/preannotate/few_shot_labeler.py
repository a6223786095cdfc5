"""The few-shot labeler as a model: it learns classes from the labels that people gave in a version."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from datasetops.engine import Engine, Fault, Item
from datasetops.errors import ModelError
from datasetops.labeling.base import ImageSize
from datasetops.manifest import Repository, Version
from datasetops.models import Embedder, EmbeddingCache, elsewhere, embed_images, open_embedder
from datasetops.models.predictor import Prediction
from datasetops.models.reference import Joined
from datasetops.preannotate.fewshot import learn
from datasetops.preannotate.human import human_labels
from datasetops.preannotate.labelers import packages_of
from datasetops.preannotate.predictions import ModelInfo, Outcome
from datasetops.progress import Progress, no_progress
from datasetops.records import canonical_json, sha256_hex

SCHEME: Final = "fewshot"
_METHOD: Final = 1  # raised whenever the same labels and embeddings would give other probabilities
_KIND: Final = "classification"


@dataclass(frozen=True)
class Taught:
    """A labeled image: its class, and the group whose images are not to teach each other."""

    uri: str
    label: str
    group: str


class FewShotLabeler:
    """Classes of whole images from embeddings of the images of a version, and from the labels that people gave there.

    Labeled images are judged without their own label and those of their group, so that what it says of them measures it.
    """

    kinds = (_KIND,)
    vocabulary = None

    def __init__(
        self, repository: Repository, reference: str, embedder: Embedder, taught: Mapping[str, Taught],
        classes: Sequence[str], read: Callable[[str], bytes], engine: str, runner: Engine | None,
    ) -> None:  # fmt: skip
        """`reference` is the embedder's; `taught` has labeled images by digest; `runner` embeds."""
        self.name, self.engine = f"{SCHEME}:{reference}", engine
        self._repository, self._embedder, self._read, self._runner = repository, embedder, read, runner
        self.packages = packages_of(embedder, runner)
        self._reference, self._taught, self._classes = reference, taught, tuple(classes)

    def info(self, items: Sequence[Item]) -> ModelInfo:
        told = [[key, one.label, one.group] for key, one in sorted(self._taught.items())]
        about = sha256_hex("".join(sorted({item.key for item in items})).encode())
        parts = [SCHEME, _METHOD, [self._embedder.digest], list(self._classes), told, about]
        return ModelInfo(self.name, None, sha256_hex(canonical_json(parts)), self.kinds, self.vocabulary)

    def label(
        self, items: Sequence[Item], wanted: Sequence[int], *, progress: Progress = no_progress
    ) -> Iterator[tuple[int, Outcome | Fault]]:
        if not wanted:
            return
        known = sorted(self._taught)
        everything = self._everything(items)
        features = self._features(everything, progress, kept=True)
        codes = {name: code for code, name in enumerate(self._classes)}
        labels = np.full(len(everything), -1, dtype=np.int64)
        groups = np.array([item.key for item in everything], dtype=object).astype(str)
        for row, key in enumerate(known):
            labels[row] = codes[self._taught[key].label]
        groups[: len(known)] = [self._taught[key].group for key in known]
        found = learn(
            features, labels, len(self._classes), groups=groups, jobs=self._repository.settings.jobs, progress=progress
        )
        place = {item.key: row for row, item in enumerate(everything)}
        for index in wanted:
            key = items[index].key
            chances = found.probabilities[place[key]]
            if np.isnan(chances).any():
                yield index, Fault(key, "the image cannot be read or decoded")
                continue
            scores = {name: float(chance) for name, chance in zip(self._classes, chances, strict=True)}
            best = self._classes[int(chances.argmax())]
            yield index, Outcome(ImageSize(0, 0), (Prediction(_KIND, best, min(scores[best], 1.0), scores=scores),))

    beside = "learning from the labels"

    @property
    def known(self) -> Mapping[str, str]:
        return {key: one.label for key, one in self._taught.items()}

    def to_look_at(self, items: Sequence[Item]) -> list[Item]:
        everything = self._everything(items)
        keys = [item.key for item in everything]
        seen = self._cache().fetch(keys, np.empty((len(keys), self._embedder.dim), dtype=np.float32))
        return [everything[row] for row in np.flatnonzero(~seen)]

    def trial(self, items: Sequence[Item]) -> int:
        return int((~np.isnan(self._features(items, no_progress, kept=False).sum(axis=1))).sum())

    def _everything(self, items: Sequence[Item]) -> list[Item]:
        """Each image once: those with labels first, by digest, then the other items."""
        others = {item.key: item.uri for item in items if item.key not in self._taught}
        known = [Item(key, one.uri) for key, one in sorted(self._taught.items())]
        return known + [Item(key, uri) for key, uri in sorted(others.items())]

    def _cache(self) -> EmbeddingCache:
        return EmbeddingCache(self._repository.cache / "embeddings", self._embedder.digest)

    def _features(self, items: Sequence[Item], progress: Progress, *, kept: bool) -> npt.NDArray[np.float32]:
        """Embeddings (N, D); where several networks are joined, each one's are brought to the same spread."""
        uris = [item.uri for item in items]
        vectors = embed_images(
            self._embedder, [item.key for item in items], lambda row: self._read(uris[row]),
            cache=self._cache() if kept else None, jobs=self._repository.settings.jobs, progress=progress,
            away=elsewhere(self._repository, self._reference, uris, engine=self._runner),
        )  # fmt: skip
        if isinstance(self._embedder, Joined):
            for part in np.split(vectors, np.cumsum(self._embedder.dims)[:-1], axis=1):
                part /= _spread(part)  # in place, in `vectors`
        return vectors


def _spread(vectors: npt.NDArray[np.float32]) -> np.float32:
    """Root of the mean variance of the columns, over the rows that are there."""
    there = vectors[~np.isnan(vectors[:, 0])]
    spread = np.sqrt(there.var(axis=0, dtype=np.float64).mean()) if len(there) else 0.0
    return np.float32(spread if spread > 0 else 1.0)


def open_few_shot(
    repository: Repository,
    version: Version,
    reference: str,
    read: Callable[[str], bytes],
    *,
    engine: str | None = None,
    runner: Engine | None = None,
) -> FewShotLabeler:
    """The labeler that `fewshot:EMBEDDER` names, with the labels of a version; `read` gives the bytes of a uri.

    `reference` names the embedder (see `open_embedder`). Labels of sealed splits teach nothing, nor do those of an
    image that has several. `runner` is the engine called `engine`, on which images are embedded; the settings' unless
    told. Raises ModelError where the schema asks for no single class an image, or where too few are labeled.
    """
    schema = version.schema
    if _KIND not in schema.kinds or schema.multi_label:
        raise ModelError(
            f"Few-shot labeling gives each image one class, which the schema {schema.name!r} does not ask for.",
            remedy="Take a detector for boxes, or a classifier of several labels.",
        )
    said: dict[str, dict[str, Taught]] = {}
    for row in human_labels(version, _KIND).to_pylist():
        known = row["sha256"] is not None and row["label"] in schema.class_names
        if known and row["split"] not in version.commit.sealed:
            one = Taught(row["uri"], row["label"], row["group"] or row["sha256"])
            said.setdefault(row["sha256"], {}).setdefault(row["label"], one)
    taught = {key: next(iter(found.values())) for key, found in said.items() if len(found) == 1}
    if len({one.label for one in taught.values()}) < 2:
        raise ModelError(
            f"{version.name} has labels by people for {len(taught)} images, and few-shot labeling learns from those.",
            remedy="Label at least two images of each class, of at least two classes; ten of each are a good start: "
            f"dsops select {version.name} --n 100, then dsops label push.",
        )
    embedder = open_embedder(reference, cache=repository.settings.cache)
    named = engine or repository.settings.engine
    return FewShotLabeler(repository, reference, embedder, taught, schema.class_names, read, named, runner)
