"""The whole verb on a Ray cluster of two workers: the same version as on one machine, whatever is killed meanwhile."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import write_digits

from datasetops.audits.run import audit
from datasetops.ingest import ingest
from datasetops.manifest import Change, Repository
from datasetops.preannotate.opening import open_labeler
from datasetops.preannotate.result import PreannotateResult
from datasetops.preannotate.run import preannotate
from datasetops.records import ANNOTATIONS
from datasetops.schema import LabelSchema

pytestmark = [
    pytest.mark.server,
    pytest.mark.slow,
    pytest.mark.xdist_group("ray"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'dsops[ray]'"
    ),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Address of a cluster with room for two workers; this process is connected to it."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        context = ray.init("local", num_cpus=2, log_to_driver=False, logging_level="ERROR")
        try:
            yield context.address_info["gcs_address"]
        finally:
            ray.shutdown()


def schema_of(kind: str, names: list[str]) -> LabelSchema:
    classes = [{"id": index, "name": name} for index, name in enumerate(names)]
    return LabelSchema.model_validate({"name": "s", "version": 1, "tasks": [{"kind": kind}], "classes": classes})


@pytest.fixture(scope="module")
def yolox(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """How to open YOLOX-nano."""
    truth = json.loads((data / "coco_tiny" / "coco.json").read_text())
    names = [category["name"] for category in sorted(truth["categories"], key=lambda item: item["id"])]
    config = tmp_path_factory.mktemp("model") / "yolox.yaml"
    config.write_text(json.dumps({"family": "yolox", "names": names}))
    weights = data / "yolox_nano" / "yolox_nano.onnx"
    return {"reference": f"onnx:{weights}", "config": str(config), "min_score": "0.01", "names": names}


def photos(data: Path, root: Path, yolox: dict[str, Any]) -> Repository:
    """100 photos of COCO, and one file that is no image."""
    repository = Repository.init(root, schema_of("box", yolox["names"]))
    ingest(repository, str(data / "coco_tiny" / "images"), format="folder")
    (root / "broken.jpg").write_bytes(b"no image")
    broken = {"sample_id": "broken", "uri": "broken.jpg", "sha256": "0" * 64}
    repository.commit(Change(samples=[broken]), message="one that cannot be read")
    return repository


def detect(repository: Repository, yolox: dict[str, Any], engine: str, **options: Any) -> PreannotateResult:
    given = {name: yolox[name] for name in ("config", "min_score")}
    version = repository.version()
    labeler, _ = open_labeler(repository, version, yolox["reference"], engine=engine, **given)
    return preannotate(repository, version, labeler, thresholds=0.01, **options)


def content(repository: Repository) -> list[dict[str, Any]]:
    """All of every row but the event, whose number and time are the run's own."""
    names = [name for name in ANNOTATIONS.names if name not in ("event_id", "created_at")]
    rows: list[dict[str, Any]] = repository.version().table("annotations", names).to_pylist()
    for row in rows:
        if row["source"] == "model":
            row["answer"] = {name: value for name, value in json.loads(row["answer"]).items() if name != "event"}
    return rows


def kept_keys(repository: Repository) -> list[str]:
    """Images of all files of predictions."""
    files = [repository.store.path(key) for key in repository.store.list("predictions/") if key.endswith(".parquet")]
    return [key for file in files for key in pq.read_table(file, columns=["key"])["key"].to_pylist()]


@pytest.fixture(scope="module")
def expected(data: Path, yolox: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What one machine gives."""
    repository = photos(data, tmp_path_factory.mktemp("local") / "set", yolox)
    made = detect(repository, yolox, "local")
    assert (made.computed, [fault.sample_id for fault in made.faults]) == (100, ["broken"])
    rows = content(repository)
    assert len(rows) > 1000
    return rows


def test_the_same_version_row_for_row(
    cluster: str, data: Path, yolox: dict[str, Any], expected: list[dict[str, Any]], root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    photos(data, root, yolox)
    monkeypatch.chdir(root)  # relative paths are meant from there in other processes, too
    shutil.copy(yolox["config"], "own.yaml")
    repository = Repository.open(".")
    made = detect(repository, yolox | {"config": "own.yaml"}, "ray")
    assert (made.computed, [fault.sample_id for fault in made.faults]) == (100, ["broken"])
    assert content(repository) == expected
    entry = repository.ledger.tail()
    assert entry is not None
    assert entry.event.parameters["engine"] == "ray"
    again = detect(repository, yolox, "local")
    assert (again.version, again.known, again.computed) == (None, 100, 0)


def descendants(pid: int) -> list[int]:
    """Processes that this one started, and those that they did."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


def workers_of_this_process() -> list[int]:
    found = []
    for pid in descendants(os.getpid()):
        try:
            told = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if b"ray::" in told and b"_Actor" in told:
            found.append(pid)
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the workers in /proc")
def test_a_worker_that_is_killed_costs_nothing(
    cluster: str, data: Path, yolox: dict[str, Any], expected: list[dict[str, Any]], root: Path
) -> None:
    killed: list[int] = []

    def kill_one(results: Iterable[Any], total: int, label: str) -> Iterator[Any]:
        for done, result in enumerate(results):
            if done == 0:
                killed.append(workers_of_this_process()[0])
                os.kill(killed[0], signal.SIGKILL)
            yield result

    repository = photos(data, root, yolox)
    made = detect(repository, yolox, "ray", progress=kill_one)
    assert len(killed) == 1
    assert made.computed == 100
    assert sorted(kept_keys(repository)) == sorted(set(kept_keys(repository)))
    assert content(repository) == expected


def test_a_driver_that_is_killed_goes_on_where_it_was(
    cluster: str, data: Path, yolox: dict[str, Any], expected: list[dict[str, Any]], root: Path
) -> None:
    repository = photos(data, root, yolox)
    code = f"""
        import os, signal
        from datasetops.manifest import Repository
        from datasetops.preannotate import compute, run
        from datasetops.preannotate.opening import open_labeler

        def deadly(results, total, label):
            for done, result in enumerate(results):
                if done == 40:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield result

        compute._FLUSH_IMAGES = 8
        repository = Repository.open({str(root)!r})
        options = {{"config": {yolox["config"]!r}, "min_score": "0.01"}}
        labeler, _ = open_labeler(
            repository, repository.version(), {yolox["reference"]!r}, engine="ray", address={cluster!r}, **options
        )
        run.preannotate(repository, repository.version(), labeler, thresholds=0.01, progress=deadly)
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(code)]).returncode == -signal.SIGKILL
    assert len(list(repository.versions())) == 2
    kept = len(kept_keys(repository))
    assert 8 <= kept <= 40
    made = detect(repository, yolox, "ray")
    assert (made.known, made.computed) == (kept, 100 - kept)
    assert len(kept_keys(repository)) == len(set(kept_keys(repository))) == 100
    assert content(repository) == expected


@pytest.mark.parametrize("family", ["detr", "owlv2"])
def test_checkpoints_of_transformers_give_the_same(cluster: str, data: Path, tmp_path: Path, family: str) -> None:
    """Photos of many shapes; DETR takes each in a shape of its own."""
    pytest.importorskip("transformers", reason="the extra 'transformers' is not installed")
    from tiny_checkpoints import save_family

    folder = save_family(family, tmp_path / family)
    mapping = tmp_path / "mapping.yaml"
    mapping.write_text("crane (2): tree\ncrane (3): tree\n")  # names of the small models
    answers = []
    for engine in ("local", "ray"):
        schema = schema_of("box", ["cat", "dog", "tree"])
        repository = Repository.init(tmp_path / engine, schema)
        ingest(repository, str(data / "coco_tiny" / "images"), format="folder")
        labeler, prompts = open_labeler(
            repository, repository.version(), f"local:{folder}", engine=engine, device="cpu", min_score=0.0
        )
        named = None if prompts else mapping
        made = preannotate(
            repository, repository.version(), labeler, prompts=prompts, mapping=named, thresholds=0.0, limit=20
        )
        assert made.computed == 20
        answers.append(content(repository))
    assert answers[0]
    assert answers[0] == answers[1]


def half_labeled(folder: Path, root: Path) -> None:
    """192 scans of four digits."""
    repository = Repository.init(root, schema_of("classification", list("0123")))
    ingest(repository, str(folder), format="folder")
    given = repository.version().annotations().sort_values("sample_id")["annotation_id"].tolist()
    repository.commit(Change(remove_annotations=given[::2]), message="half of the labels")


def vectors_of(repository: Repository) -> dict[str, list[float]]:
    tables = [pa.ipc.open_file(str(file)).read_all() for file in (repository.cache / "embeddings").rglob("*.arrow")]
    return {row["key"]: row["vector"] for table in tables for row in table.to_pylist()}


def test_embeddings_for_few_labels_and_for_audits_are_made_there(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_digits(tmp_path / "digits", 48, side=64, classes=4)
    answers, vectors, findings = [], [], []
    for engine in ("local", "ray"):
        monkeypatch.setenv("DSOPS_ENGINE", engine)
        for name in ("taught", "audited"):
            half_labeled(tmp_path / "digits", tmp_path / engine / name)
        repository = Repository.open(tmp_path / engine / "taught")
        labeler, _ = open_labeler(repository, repository.version(), "fewshot:builtin:efficientnet-lite0")
        assert labeler.engine == engine
        assert preannotate(repository, repository.version(), labeler).computed == 96
        answers.append(content(repository))
        repository = Repository.open(tmp_path / engine / "audited")
        record = audit(repository, repository.version(), checks=["outlier"])
        findings.append(record.findings.drop_columns(["finding_id"]).to_pylist())
        vectors.append(vectors_of(repository))
    assert answers[0] == answers[1]
    assert findings[0] == findings[1]
    assert len(vectors[0]) == 192
    assert vectors[0] == vectors[1]
