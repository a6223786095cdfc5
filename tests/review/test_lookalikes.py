"""Samples that look alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from datasetops.audits.decisions import DecisionLog
from datasetops.errors import NotFoundError
from datasetops.ingest import ingest
from datasetops.manifest import Change, Repository, Version
from datasetops.models import EmbeddingCache, open_embedder
from datasetops.records import Finding, findings_table, sha256_hex
from datasetops.review import lookalikes as module
from datasetops.review.filters import Filters
from datasetops.review.lookalikes import Lookalikes
from datasetops.review.queue import Queue

pytestmark = pytest.mark.slow

N = 60


def names(version: Version) -> list[str]:
    found: list[str] = version.table("samples", ["sample_id"])["sample_id"].to_pylist()
    return found


@pytest.fixture(scope="module")
def dim_and_digest(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, str]:
    embedder = open_embedder("builtin:efficientnet-lite0", cache=tmp_path_factory.mktemp("models"))
    return embedder.dim, embedder.digest


@pytest.fixture
def vectors(dim_and_digest: tuple[int, str]) -> npt.NDArray[np.float32]:
    """In a few directions, so that distances are far apart."""
    rng = np.random.default_rng(0)
    few = rng.standard_normal((N, 8)) @ rng.standard_normal((8, dim_and_digest[0]))
    few[7] = few[3]
    return (few + 1).astype(np.float32)


@pytest.fixture
def version(repository: Repository, vectors: npt.NDArray[np.float32], dim_and_digest: tuple[int, str]) -> Version:
    """Samples whose embeddings are in the cache and whose images are not there."""
    samples = [
        {"sample_id": f"s{number:03}", "uri": f"{number}.png", "sha256": sha256_hex(str(number).encode())}
        for number in range(N)
    ]
    repository.commit(Change(samples=[*samples, {"sample_id": "t", "uri": "no image"}]), message="pictures")
    cache = EmbeddingCache(repository.cache / "embeddings", dim_and_digest[1])
    cache.add([str(row["sha256"]) for row in samples], vectors)
    return repository.version()


def by_hand(vectors: npt.NDArray[np.float32], row: int) -> npt.NDArray[np.float64]:
    units = vectors / np.linalg.norm(vectors.astype(float), axis=1, keepdims=True)
    return 1 - units @ units[row]


@pytest.mark.parametrize("whole", [True, False])
def test_the_nearest_are_those_of_the_cached_embeddings(
    repository: Repository,
    version: Version,
    vectors: npt.NDArray[np.float32],
    monkeypatch: pytest.MonkeyPatch,
    whole: bool,
) -> None:
    if not whole:
        monkeypatch.setattr(module, "_WHOLE", 0)
    found = Lookalikes(repository, version, names(version))
    assert (found.reason, found.has_any) == ("", True)
    expected = by_hand(vectors, 3)
    order = [row for row in np.argsort(expected, kind="stable").tolist() if row != 3]
    near = found.nearest("s003", 10)
    assert near[0] == ("s007", 0.0)
    assert [name for name, _ in near] == [f"s{row:03}" for row in order[:10]]
    np.testing.assert_allclose([distance for _, distance in near], expected[order[:10]], atol=2e-3)
    far = found.distances("s003", ["s003", "t", "s010", "nobody"])
    assert far[0] < 1e-6
    assert far[1] == far[3] == np.inf
    assert far[2] == pytest.approx(expected[10], abs=2e-3)
    assert len(found.nearest("s003", 1_000)) == N - 1
    assert found.nearest("t", 5) == found.nearest("nobody", 5) == found.nearest("s003", 0) == []


def test_the_queue_shows_what_looks_alike_first(
    repository: Repository, version: Version, vectors: npt.NDArray[np.float32]
) -> None:
    findings = findings_table(
        [Finding("outlier", "low", number / N, "odd", sample_id=f"s{number:03}") for number in range(N)]
        + [Finding("ingest", "low", 0.9, "no image", sample_id="t")]
    )
    like = Lookalikes(repository, version, names(version))
    queue = Queue(version, findings, DecisionLog(repository), like)
    rows = queue.page(Filters(like="s003"), 0, N + 1).rows
    told = [row["sample_id"] for row in rows]
    assert set(told[:2]) == {"s003", "s007"}
    assert told[-1] == "t"
    expected = by_hand(vectors, 3)[[int(name[1:]) for name in told[2:-1]]]
    assert (np.diff(expected) > -2e-3).all()
    ids = [row["finding_id"] for row in rows]
    assert queue.neighbours_of(Filters(like="s003"), ids[5]) == (ids[4], ids[6], 5)
    assert queue.next(Filters(like="s003"), ids[5]) == ids[6]
    assert queue.page(Filters(like="nobody")).total == N + 1


def test_missing_images_are_told(repository: Repository, version: Version) -> None:
    more = [{"sample_id": "x", "uri": "x.png", "sha256": "0" * 64}]
    repository.commit(Change(samples=more), message="one more")
    found = Lookalikes(repository, repository.version(), [*names(version), "x"])
    assert found.reason == f"1 of {N + 1} images cannot be read."
    assert found.nearest("x", 3) == []
    assert len(found.nearest("s001", 3)) == 3


def test_too_many_are_left_to_an_audit(
    repository: Repository, version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COMPUTED_UP_TO", 1)
    more = [{"sample_id": f"x{number}", "uri": f"x{number}.png", "sha256": f"{number}" * 64} for number in range(2)]
    repository.commit(Change(samples=more), message="two more")
    found = Lookalikes(repository, repository.version(), [*names(version), "x0", "x1"])
    assert found.reason == f"2 of {N + 2} images have no embedding yet. Run: dsops audit v2 --check outlier"


def test_without_images_there_is_a_reason(repository: Repository, schema: object) -> None:
    repository.commit(Change(samples=[{"sample_id": "t", "uri": "t.png"}]), message="no images")
    version = repository.version()
    found = Lookalikes(repository, version, ["t"])
    assert not found.has_any
    assert "no images at hand" in found.reason
    queue = Queue(
        version, findings_table([Finding("outlier", "low", 0.5, "odd", sample_id="t")]), DecisionLog(repository), found
    )
    with pytest.raises(NotFoundError, match="no images at hand"):
        queue.page(Filters(like="t"))


def test_missing_embeddings_are_computed(tmp_path: Path) -> None:
    from pictures import write_digits

    from datasetops.schema import LabelSchema

    write_digits(tmp_path / "digits", 3, side=32, classes=2)
    schema = LabelSchema.model_validate(
        {
            "name": "digits",
            "version": 1,
            "tasks": [{"kind": "classification"}],
            "classes": [{"id": number, "name": str(number)} for number in range(2)],
        }
    )
    repository = Repository.init(tmp_path, schema)
    ingest(repository, tmp_path / "digits", format="folder")
    version = repository.version()
    found = Lookalikes(repository, version, names(version))
    assert found.reason == ""
    labels = {row["sample_id"]: row["label"] for row in version.table("annotations").to_pylist()}
    right = [labels[found.nearest(name, 1)[0][0]] == labels[name] for name in names(version)]
    assert sum(right) >= 5
