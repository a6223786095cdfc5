"""Fine-tuning on a Ray cluster: the same training by workers that share every batch, one for each place in the cluster.

Checkpoints, and what comes out, are in the run's folder, which all machines must see under the same path.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from datasetops.audits.record import plain
from datasetops.engine.ray_engine import RayEngine
from datasetops.errors import DatasetOpsError, MissingDependencyError
from datasetops.manifest import Repository, Version
from datasetops.progress import Progress
from datasetops.records import canonical_json
from datasetops.settings import Settings
from datasetops.training.data import Parts, choose_parts
from datasetops.training.recipe import FinetuneRecipe, parse_recipe
from datasetops.training.record import Trained

_WEIGHTS: Final = "trained.safetensors"
_REST: Final = "trained.json"
_SETTINGS: Final = tuple(f"DSOPS_{name.upper()}" for name in Settings.model_fields)


def train_on_ray(
    repository: Repository,
    version: Version,
    parts: Parts,
    recipe: FinetuneRecipe,
    folder: Path,
    *,
    split: str,
    skip_unreadable: bool,
    threads: int,
    address: str | None,
    gpus: float,
    progress: Progress,
) -> tuple[Trained, Parts]:
    """As `train_finetune`, by as many workers as the cluster has room for, each of `threads` processors and `gpus` GPUs.

    Raises what that raises, and DatasetOpsError where there is no cluster or its machines do not see the folder.
    """
    try:
        import ray.train
        from ray.train.torch import TorchConfig, TorchTrainer
    except ImportError:
        raise MissingDependencyError("ray[train]", extra="ray-train", purpose="Training on a cluster") from None
    engine = RayEngine(jobs=threads, address=address, gpus=gpus)
    told = {
        "repository": repository.store.url if repository.root is None else str(repository.root.absolute()),
        "version": version.name,
        "recipe": recipe.canonical_bytes(),
        "split": split,
        "folder": str(folder.absolute()),
        "skip": skip_unreadable,
        "threads": threads,
        "device": "cuda" if gpus else "cpu",
        "cwd": str(Path.cwd()),  # from which relative paths are meant
        "environment": {name: os.environ[name] for name in _SETTINGS if name in os.environ},
    }
    for name in (_WEIGHTS, _REST):
        (folder / name).unlink(missing_ok=True)
    with engine.cluster():
        trainer = TorchTrainer(
            _work,
            train_loop_config=told,
            # NCCL has no two workers on one GPU.
            torch_config=TorchConfig(backend="nccl" if gpus >= 1 else "gloo"),
            scaling_config=ray.train.ScalingConfig(
                num_workers=engine.workers(),
                use_gpu=bool(gpus),
                resources_per_worker={"CPU": threads} | ({"GPU": gpus} if gpus else {}),
            ),
            run_config=ray.train.RunConfig(name="ray", storage_path=str(folder.absolute())),
        )
        label = f"Training on {engine.workers():,} workers"
        try:
            for _ in progress(iter([None]), 1, label):
                trainer.fit()
        except Exception as error:
            raise _reason(error) from None
    return _received(folder, parts)


def _work(told: dict[str, Any]) -> None:
    """One worker's part, in a process of its own."""
    from datasetops.training.arithmetic import same_arithmetic
    from datasetops.training.finetune import train_finetune
    from datasetops.training.finetune_team import Workers

    os.environ |= told["environment"]
    with suppress(OSError):  # not on every machine
        os.chdir(told["cwd"])
    repository = Repository.open(told["repository"])
    version = repository.version(told["version"])
    recipe = parse_recipe(told["recipe"], "recipe")
    if not isinstance(recipe, FinetuneRecipe):
        raise ValueError(f"recipe: expected one of the kind finetune; got {recipe.kind}")
    parts = choose_parts(version, told["split"], recipe)
    folder = Path(told["folder"])
    with same_arithmetic(told["threads"], recipe):
        trained, kept = train_finetune(
            repository,
            version,
            parts,
            recipe,
            folder,
            skip_unreadable=told["skip"],
            device=told["device"],
            team=Workers,
        )
    if trained is None:
        return
    rest = {name: value for name, value in vars(trained).items() if name != "weights"}
    (folder / _WEIGHTS).write_bytes(trained.weights)
    (folder / _REST).write_bytes(canonical_json(plain({"trained": rest, "kept": sorted(kept.samples["sample_id"])})))


def _received(folder: Path, parts: Parts) -> tuple[Trained, Parts]:
    try:
        weights = (folder / _WEIGHTS).read_bytes()
        found = json.loads((folder / _REST).read_bytes())
    except FileNotFoundError:
        raise DatasetOpsError(
            f"The cluster left no model in {folder}.",
            remedy="Let the setting cache name a folder that all machines see under one path.",
        ) from None
    told = found["trained"]
    trained = Trained(**told | {"weights": weights, "classes": tuple(told["classes"]), "notes": tuple(told["notes"])})
    train, validation = (part[part["sample_id"].isin(set(found["kept"]))] for part in (parts.train, parts.validation))
    return trained, Parts(train, validation)


def _reason(error: Exception) -> DatasetOpsError:
    """What a worker met, or what else went wrong."""
    for failure in getattr(error, "worker_failures", {}).values():
        if isinstance(failure, DatasetOpsError):
            return failure
    lines = [line for line in str(error).splitlines() if line.strip()]
    return DatasetOpsError(
        f"The cluster could not do the training: {lines[-1].strip() if lines else type(error).__name__}",
        remedy="Look at its machines with 'ray status'; run the command again, and it goes on from the last checkpoint.",
    )
