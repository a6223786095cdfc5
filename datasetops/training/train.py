"""Train a model on a version by a recipe, and train it again to see whether the same comes out."""

from __future__ import annotations

import json
import math
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from datasetops.audits.record import plain
from datasetops.errors import ConflictError, ModelError
from datasetops.gate.status import require_accepted
from datasetops.ledger import Event, releases
from datasetops.manifest import Repository, Version
from datasetops.plugins import load_plugin
from datasetops.progress import Progress, no_progress
from datasetops.records import canonical_json, sha256_hex
from datasetops.settings import Settings
from datasetops.training.arithmetic import same_arithmetic
from datasetops.training.data import Parts, choose_parts
from datasetops.training.lock import alone
from datasetops.training.recipe import AnyRecipe, HeadRecipe, ProbeRecipe, parse_recipe
from datasetops.training.record import (
    WEIGHTS,
    ModelRecord,
    Trained,
    code_identity,
    load_model_record,
    record_model,
    samples_digest,
)
from datasetops.training.state import Say, silent

REPRODUCE: Final = "reproduce"
_CHECKPOINTS: Final = "training"  # folder of the cache
_PACKAGES: Final = (  # whose releases a training's numbers depend on
    *("accelerate", "albumentations", "dsops", "numpy", "onnxruntime", "opencv-python-headless", "pillow"),
    *("safetensors", "scipy", "torch", "transformers"),
)


@dataclass(frozen=True)
class _Cluster:
    """Of Ray: its address, None for one on this machine, and the GPUs of each worker."""

    address: str | None
    gpus: float


@dataclass(frozen=True)
class Reproduction:
    """What training a model again gave. `differences`: metric, then what was recorded and what came out, where they differ
    by more than the tolerance. `same_weights`: bit for bit. `changed`: what is not as it was, such as packages."""

    model: str
    tolerance: float
    agrees: bool
    same_weights: bool
    metrics: Mapping[str, Any]
    differences: Mapping[str, tuple[Any, Any]]
    changed: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return dict(plain(vars(self)))


def train(
    repository: Repository,
    version: Version,
    recipe: AnyRecipe,
    *,
    experiment: bool = False,
    split: str = "train",
    parent: str | None = None,
    skip_unreadable: bool = False,
    device: str = "auto",
    engine: str | None = None,
    address: str | None = None,
    gpus: float | None = None,
    progress: Progress = no_progress,
    say: Say = silent,
) -> ModelRecord:
    """Train on a split of an accepted version, and keep the model under the next free name.

    `engine` is local or ray, the repository's setting unless told, as are the `address` of a Ray cluster and the `gpus`
    of each of its workers; recipes of the kind finetune use it, others are trained on this machine.
    `experiment` takes any version, and the record says so. `parent`: the model that this one is to replace, for the
    record. A run that was stopped goes on where it was when it is started again with the same arguments; its checkpoints
    are in the repository's cache until it ends. Where nothing was stopped, the same arguments give the same weights on
    the same processor, packages and number of threads. `say` is told the losses of each epoch.

    Raises ConflictError while another process does the same training, RejectedError for a version that is not accepted
    and for a sealed split, NotFoundError for an unknown engine, an empty split, classes without examples, one class alone,
    and images that cannot be read (by name, unless `skip_unreadable`), ModelError where the recipe cannot learn what the
    schema asks for, or where training diverges at once.
    """
    if not experiment:
        require_accepted(repository, version, purpose="Training")
    if parent is not None:
        load_model_record(repository, parent)
    cluster = _cluster(repository.settings, engine, address, gpus)
    threads = repository.settings.jobs
    folder = _run_folder(repository, version, recipe, split, skip_unreadable, threads)
    with alone(folder):
        with same_arithmetic(threads, recipe):
            trained, parts = _train(
                repository, version, recipe, split, folder, skip_unreadable, device, progress, say, cluster
            )
        record = record_model(
            repository,
            version,
            trained,
            split=split,
            samples=parts.ids(),
            recipe=recipe.model_dump(mode="json"),
            recipe_digest=recipe.digest,
            code=code_identity(),
            environment=_environment(threads, trained),
            seed=recipe.seed,
            experiment=experiment,
            skip_unreadable=skip_unreadable,
            parent=parent,
        )
        shutil.rmtree(folder, ignore_errors=True)
    return record


def reproduce(
    repository: Repository,
    record: ModelRecord,
    *,
    tolerance: float = 0.0,
    device: str | None = None,
    progress: Progress = no_progress,
    say: Say = silent,
) -> Reproduction:
    """Train again from the record alone, and compare weights and metrics; the ledger keeps what came out.

    Metrics agree that differ by `tolerance` at most. Raises ConflictError where the version is not the one that was
    trained on, and what `train` raises.
    """
    version = repository.version(record.version)
    if version.digest != record.commit:
        raise ConflictError(
            f"{version.name} is not the version that {record.name} was trained on.",
            remedy="Put the repository back from a backup.",
        )
    recipe = parse_recipe(canonical_json(dict(record.recipe)), record.name)
    threads = int(record.environment["threads"])
    folder = repository.cache / _CHECKPOINTS / f"{record.name}-again"
    chosen = device or str(record.environment["device"])
    with alone(folder):
        shutil.rmtree(folder, ignore_errors=True)
        with same_arithmetic(threads, recipe):
            trained, parts = _train(
                repository, version, recipe, record.split, folder, record.skip_unreadable, chosen, progress, say
            )
        shutil.rmtree(folder, ignore_errors=True)
    changed = _changed(record, parts, _environment(threads, trained))
    differences = _differences(record.metrics, plain(dict(trained.metrics)), tolerance)
    same = sha256_hex(trained.weights) == record.files[WEIGHTS].sha256
    found = Reproduction(record.name, tolerance, not differences, same, trained.metrics, differences, changed)
    event = Event(
        REPRODUCE,
        repository.settings.actor,
        inputs={"version": version.name, "commit": version.digest, "model": record.name, "digest": record.digest},
        outputs={"agrees": found.agrees, "same_weights": same, "metrics": plain(dict(trained.metrics))},
        parameters={"tolerance": tolerance, "changed": list(changed)},
    )
    repository.ledger.record(event)
    return found


def _train(
    repository: Repository, version: Version, recipe: AnyRecipe, split: str, folder: Path, skip: bool, device: str,
    progress: Progress, say: Say, cluster: _Cluster | None = None,
) -> tuple[Trained, Parts]:  # fmt: skip
    parts = choose_parts(version, split, recipe)
    if isinstance(recipe, ProbeRecipe):
        from datasetops.training.probe import train_probe

        return train_probe(repository, version, parts, recipe, skip_unreadable=skip, progress=progress)
    if isinstance(recipe, HeadRecipe):
        from datasetops.training.head import train_head

        return train_head(
            repository, version, parts, recipe, folder, skip_unreadable=skip, device=device, progress=progress, say=say
        )
    if cluster is not None:
        from datasetops.training.finetune_ray import train_on_ray

        return train_on_ray(
            repository, version, parts, recipe, folder, split=split, skip_unreadable=skip,
            threads=repository.settings.jobs, address=cluster.address, gpus=cluster.gpus, progress=progress,
        )  # fmt: skip
    from datasetops.training.finetune import train_finetune

    trained, kept = train_finetune(
        repository, version, parts, recipe, folder, skip_unreadable=skip, device=device, progress=progress, say=say
    )
    if trained is None:  # only a worker that is not the first gives none
        raise ModelError("The training gave no model.", remedy="Run the command again.")
    return trained, kept


def _cluster(settings: Settings, engine: str | None, address: str | None, gpus: float | None) -> _Cluster | None:
    """None where the engine is local. Raises NotFoundError for an unknown one, ModelError for one that cannot train."""
    name = engine or settings.engine
    if name == "ray":
        return _Cluster(address or settings.ray_address, settings.ray_gpus if gpus is None else gpus)
    load_plugin("engines", name)
    if name != "local":
        raise ModelError(f"The engine {name} cannot train.", remedy="Take local or ray.")
    return None


def _run_folder(
    repository: Repository, version: Version, recipe: AnyRecipe, split: str, skip: bool, threads: int
) -> Path:
    """The same for the same training, whichever process does it."""
    parts = [version.digest, recipe.digest, split, skip, threads, code_identity(), releases(_PACKAGES)]
    return repository.cache / _CHECKPOINTS / sha256_hex(canonical_json(parts))[:16]


def _environment(threads: int, trained: Trained) -> dict[str, Any]:
    told = {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": _processor(),
        "packages": releases(_PACKAGES),
        "threads": threads,
        "device": "cpu",
    }
    return told | dict(trained.environment)


def _processor() -> str:
    """The processor's name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _changed(record: ModelRecord, parts: Parts, now: Mapping[str, Any]) -> tuple[str, ...]:
    """What is not as it was when the model was trained, and may be why numbers differ."""
    before = json.loads(canonical_json(plain(dict(record.environment))))
    found = []
    for name in ("python", "machine", "processor", "device", "workers", "start"):
        if before.get(name) != now.get(name):
            found.append(f"{name}: {before.get(name)}, now {now.get(name)}")
    packages = before.get("packages", {})
    for name in sorted(set(packages) | set(now["packages"])):
        if packages.get(name) != now["packages"].get(name):
            found.append(f"{name}: {packages.get(name)}, now {now['packages'].get(name)}")
    if dict(record.code) != code_identity():
        found.append("the code that trains")
    if samples_digest(parts.ids()["train"]) != record.samples_digest:
        found.append("the samples that are trained on")
    return tuple(found)


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], tolerance: float) -> dict[str, tuple[Any, Any]]:
    """Numbers by their dotted name that are farther apart than the tolerance, or only in one of the two."""
    one, other = _flat(before), _flat(now)
    return {
        name: (one.get(name), other.get(name))
        for name in sorted(set(one) | set(other))
        if not _agree(one.get(name), other.get(name), tolerance)
    }


def _agree(one: Any, other: Any, tolerance: float) -> bool:
    numbers = all(isinstance(value, int | float) for value in (one, other))
    return math.isclose(one, other, rel_tol=0, abs_tol=tolerance) if numbers else one == other


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found
