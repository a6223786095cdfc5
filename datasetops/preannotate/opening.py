"""A model by reference, ready to be asked about the images of a version."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from datasetops.engine import engine_of
from datasetops.errors import ModelError, did_you_mean
from datasetops.manifest import Repository, Version
from datasetops.models.predictor import Prompts, open_predictor, prompts_from_schema, read_prompts, with_scheme
from datasetops.plugins import plugin_names
from datasetops.preannotate.few_shot_labeler import SCHEME, open_few_shot
from datasetops.preannotate.labelers import EngineLabeler, Labeler
from datasetops.preannotate.outlines import boxes_to_outline
from datasetops.schema import LabelSchema
from datasetops.store.media import Media

_REFERENCES: Final = (
    "Write fewshot:EMBEDDER, hf:NAME@REVISION, local:DIR, onnx:FILE, ocr:rapidocr or m1 for one trained here."
)
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
    engine: str | None = None,
    address: str | None = None,
    gpus: float | None = None,
    batch: int | None = None,
    device: str = "auto",
    **options: Any,
) -> tuple[Labeler, Prompts | None]:
    """The model that a reference names, on an engine, and the prompts that it was given.

    References are those of `open_predictor`, and `fewshot:EMBEDDER`, which learns from the version's labels. `prompts`
    is a YAML file (see `read_prompts`); without one the schema's names and definitions are taken. `boxes` are what a
    model for masks outlines: "version" for the boxes of the version (of samples that fulfil `where`), or the reference
    of a model that finds them. `engine`, `address` and `gpus` are the settings' unless told. Raises ModelError,
    FormatError, MissingDependencyError and NotFoundError as these do.
    """
    media = Media(repository.store, repository.root)
    reference = with_scheme(reference.strip())
    scheme, _, name = reference.partition(":")
    known = (SCHEME, *plugin_names("predictors"))
    if scheme not in known:
        remedy = did_you_mean(scheme, known, noun="kinds of model")
        raise ModelError(f"{reference!r} is no model that labels images.", remedy=f"{_REFERENCES} {remedy}")
    named = engine or repository.settings.engine
    runner = engine_of(repository.settings, engine, batch=batch, address=address, gpus=gpus)
    if scheme == SCHEME:
        if prompts is not None or boxes is not None:
            raise ValueError("fewshot takes no --prompts and no --boxes: it learns from labels")
        if options:
            raise ValueError(f"--option: fewshot has none; got {', '.join(options)}")
        taught_by = name or repository.settings.model
        return open_few_shot(repository, version, taught_by, media.read, engine=named, runner=runner), None
    if boxes is not None and boxes != OWN_BOXES:
        options["boxes"] = boxes
    asked = read_prompts(prompts, version.schema) if prompts else _prompts(version.schema, task)
    home = repository.store.url if repository.root is None else str(repository.root.absolute())
    told: dict[str, Any] = {"cache": repository.settings.cache, "task": task, "device": device, "repository": home}
    opener = partial(open_predictor, reference, **told, **options)
    predictor = opener(prompts=asked)
    if predictor.vocabulary is not None:
        if prompts is not None and boxes is None:
            raise ValueError(f"--prompts: {predictor.name!r} cannot be asked for anything in words")
        asked = None
    elif prompts is None and task is None and predictor.kinds[0] != _first_kind(version.schema):
        asked = prompts_from_schema(version.schema, kind=predictor.kinds[0])  # its texts are others for other kinds
        predictor = opener(prompts=asked)
    return EngineLabeler(
        predictor,
        runner,
        media.read,
        engine=named,
        make=None if named == "local" else partial(opener, prompts=asked),
        outlines=boxes_to_outline(version, where=where) if boxes == OWN_BOXES else None,
    ), asked


def _prompts(schema: LabelSchema, task: str | None) -> Prompts | None:
    """What a model with an open vocabulary is asked; None where the schema has no class to ask for."""
    with suppress(ModelError):
        return prompts_from_schema(schema, kind=task or _first_kind(schema))
    return None


def _first_kind(schema: LabelSchema) -> str:
    return schema.kinds[0]
