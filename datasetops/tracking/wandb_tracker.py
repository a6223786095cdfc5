"""Weights & Biases, offline: a folder that `wandb sync` sends when the user wants it. Online only by WANDB_MODE."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from datasetops.errors import MissingDependencyError
from datasetops.tracking.base import Dataset, Place, Run, Tracker

_OFFLINE: Final = "offline"
_DONE: Final = "dsops-done"  # empty file in the folder of a run that was told in full


def open_wandb(place: Place) -> Tracker:
    """Runs go to the folder wandb, or where WANDB_MODE is online, to `place.uri` or what WANDB_BASE_URL says.

    Raises MissingDependencyError.
    """
    return WandbTracker(place)


class WandbTracker:
    name = "wandb"

    def __init__(self, place: Place) -> None:
        try:
            with _quiet():
                import wandb  # noqa: F401
        except ImportError:
            raise MissingDependencyError("wandb", extra="wandb", purpose="Tracking by Weights & Biases") from None
        self._place = place

    def check(self) -> None:
        return None

    def start(self, key: str, name: str, parameters: Mapping[str, str], tags: Mapping[str, str]) -> Run | None:
        import wandb

        mode = os.environ.get("WANDB_MODE", _OFFLINE)
        folder = self._place.folder.absolute()
        # Files wait below it as well, so that all that `wandb sync` sends is in one place.
        os.environ.setdefault("WANDB_DATA_DIR", str(folder))
        if mode == _OFFLINE and any((folder / "wandb").glob(f"offline-run-*-{key}/{_DONE}")):
            return None
        options: dict[str, Any] = {"silent": True, "console": "off", "disable_git": True, "disable_code": True}
        options |= {"x_disable_meta": True, "x_disable_stats": True}
        if self._place.uri:
            options["base_url"] = self._place.uri
        with _quiet():
            run = wandb.init(
                project=self._place.project,
                dir=str(folder),
                id=key,
                name=name,
                config={**parameters, **tags},
                mode=mode,  # type: ignore[arg-type]  # an unknown word is wandb's to refuse
                reinit="create_new",
                settings=wandb.Settings(**options),
            )
        return WandbRun(run, self._place.project, offline=mode == _OFFLINE)

    def production(self, model: str | None) -> str | None:
        return None  # what was kept in a folder cannot be marked later


class WandbRun:
    def __init__(self, run: Any, project: str, *, offline: bool) -> None:
        self._run = run
        self._project = project
        self._offline = offline
        self.address = f"run {run.id} in {run.settings.sync_dir}" if offline else str(run.url)

    def log(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        with _quiet():
            if step is None:
                self._run.summary.update(dict(metrics))
            else:
                self._run.log(dict(metrics), step=step)

    def attach(self, files: Mapping[str, bytes]) -> None:
        self._keep("files", "record", files, {})

    def uses(self, dataset: Dataset) -> None:
        import wandb

        facts = vars(dataset)
        with _quiet():
            self._run.config.update({"dataset": dict(facts)})
            if not self._offline:  # links to what a server knows are the server's to make
                named = wandb.Artifact(f"{self._project}-{dataset.version}", type="dataset", metadata=dict(facts))
                self._run.use_artifact(named)

    def register(self, model: str, files: Mapping[str, bytes], facts: Mapping[str, str]) -> str | None:
        self._keep("model", "model", files, {"model": model, **facts})
        return None

    def finish(self, *, failed: bool = False) -> None:
        with _quiet():
            self._run.finish(exit_code=1 if failed else 0)
        if self._offline and not failed:
            Path(self._run.settings.sync_dir, _DONE).touch()

    def _keep(self, name: str, kind: str, files: Mapping[str, bytes], facts: Mapping[str, str]) -> None:
        import wandb

        with _quiet():
            artifact = wandb.Artifact(f"{self._run.id}-{name}", type=kind, metadata=dict(facts))
            for file, data in files.items():
                with artifact.new_file(file, mode="wb") as sink:
                    sink.write(data)
            self._run.log_artifact(artifact)


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
