"""A model by reference, ready to be asked about the images of a version."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from datasetops.engine import open_engine
from datasetops.errors import ModelError
from datasetops.manifest import Repository, Version
from datasetops.models.predictor import Prompts, open_predictor, prompts_from_schema, read_prompts
from datasetops.preannotate.few_shot_labeler import SCHEME, open_few_shot
from datasetops.preannotate.labelers import EngineLabeler, Labeler
from datasetops.preannotate.outlines import boxes_to_outline
from datasetops.schema import LabelSchema
from datasetops.store.media import Media

OWN_BOXES: Final = "version"  # as `boxes`: those that the version has


def open_labeler(
    repository: Repository,
    version: Version,
    reference: str,
    *,
    task: str | None = None,
    prompts: Path | None = None,
    boxes: str | None = None,
    where: str | None = None,
    engine: str = "local",
    address: str | None = None,
    gpus: float = 0.0,
    batch: int | None = None,
    device: str = "auto",
    **options: Any,
) -> tuple[Labeler, Prompts | None]:
    """The model that a reference names, on an engine, and the prompts that it was given.

    References are those of `open_predictor`, and `fewshot:EMBEDDER`, which learns from the version's labels. `prompts`
    is a YAML file (see `read_prompts`); without one the schema's names and definitions are taken. `boxes` are what a
    model for masks outlines: "version" for the boxes of the version (of samples that fulfil `where`), or the reference
    of a model that finds them. Raises ModelError, FormatError, MissingDependencyError and NotFoundError as these do.
    """
    media = Media(repository.store, repository.root)
    scheme, _, name = reference.strip().partition(":")
    if scheme == SCHEME:
        if engine != "local" or prompts is not None or boxes is not None:
            raise ValueError("fewshot takes no --engine, --prompts or --boxes: it learns from labels, on this machine")
        return open_few_shot(repository, version, name or repository.settings.model, media.read), None
    if boxes is not None and boxes != OWN_BOXES:
        options["boxes"] = boxes
    asked = read_prompts(prompts, version.schema) if prompts else _prompts(version.schema, task)
    opener = partial(open_predictor, reference, cache=repository.settings.cache, task=task, device=device, **options)
    predictor = opener(prompts=asked)
    if predictor.vocabulary is not None:
        asked = None
    elif prompts is None and task is None and predictor.kinds[0] != _first_kind(version.schema):
        asked = prompts_from_schema(version.schema, kind=predictor.kinds[0])  # its texts are others for other kinds
        predictor = opener(prompts=asked)
    runner = open_engine(
        engine, jobs=repository.settings.jobs if engine == "local" else None, batch=batch, address=address, gpus=gpus
    )
    return EngineLabeler(
        predictor,
        runner,
        media.read,
        engine=engine,
        make=None if engine == "local" else partial(opener, prompts=asked),
        outlines=boxes_to_outline(version, where=where) if boxes == OWN_BOXES else None,
    ), asked


def _prompts(schema: LabelSchema, task: str | None) -> Prompts | None:
    """What a model with an open vocabulary is asked; None where the schema has no class to ask for."""
    with suppress(ModelError):
        return prompts_from_schema(schema, kind=task or _first_kind(schema))
    return None


def _first_kind(schema: LabelSchema) -> str:
    return schema.kinds[0]
