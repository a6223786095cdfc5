"""Predictors from the Hugging Face hub or a local folder, by the architecture that their config.json names.

One module a family: `classify`, `zero_shot_classify`, `detect`, `zero_shot_detect`, `segment`, `masks`. Nothing here
imports torch before a model is opened.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any, Final

from datasetops.errors import ModelError
from datasetops.models.checkpoint import hub_answers, load_checkpoint, read_config
from datasetops.models.predictor import Predictor, Request

_DETECTORS: Final = (
    *("ConditionalDetr", "DFine", "DeformableDetr", "Detr", "RTDetr", "RTDetrV2", "TableTransformer", "Yolos"),
)
_SEGMENTERS: Final = (
    *("Beit", "Data2VecVision", "DPT", "MobileNetV2", "MobileViT", "MobileViTV2", "Segformer", "UperNet"),
)
_ZERO_SHOT_DETECTORS: Final = ("GroundingDino", "MMGroundingDino", "OwlViT", "Owlv2")
_FAMILIES: Final = {
    "CLIPModel": "zero_shot_classify:ZeroShotClassifier",
    "SiglipModel": "zero_shot_classify:ZeroShotClassifier",
    "SamModel": "masks:MaskPredictor",
    **{f"{name}ForObjectDetection": "detect:Detector" for name in _DETECTORS},
    **{f"{name}ForSemanticSegmentation": "segment:Segmenter" for name in _SEGMENTERS},
    **{f"{name}ForObjectDetection": "zero_shot_detect:GroundedDetector" for name in _ZERO_SHOT_DETECTORS[:2]},
    **{f"{name}ForObjectDetection": "zero_shot_detect:OwlDetector" for name in _ZERO_SHOT_DETECTORS[2:]},
}
_KNOWN: Final = (
    "Known are image classifiers (ViT, DINOv2, ConvNeXt and all others of transformers, with their head), CLIP and "
    "SigLIP, OWLv2 and Grounding DINO, DETR, RT-DETR and D-FINE, SegFormer and its kin, and SAM."
)


def open_hub(name: str, cache: Path, request: Request) -> Predictor:
    """`NAME` or `NAME@REVISION` on the hub; what was fetched before where the hub cannot be reached."""
    model, _, revision = name.partition("@")
    return _open(model, model, revision or None, cache, request, local_only=not hub_answers(model))


def open_local(name: str, cache: Path, request: Request) -> Predictor:
    """A folder with a saved model, called by the folder's name. Raises ModelError where there is none."""
    folder = Path(name)
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{name} holds no saved model.", remedy="Name a folder with config.json and model.safetensors."
        )
    return _open(str(folder), folder.resolve().name, None, cache, request, local_only=True)


def _open(
    source: str, name: str, revision: str | None, cache: Path, request: Request, *, local_only: bool
) -> Predictor:
    config, commit = read_config(source, name=name, revision=revision, local_only=local_only)
    architecture = next(iter(getattr(config, "architectures", None) or ()), "")
    family = family_of(name, architecture)
    request.require_task(name, family.kinds)
    if family.reads_text:
        request.require_prompts(name)
    checkpoint = load_checkpoint(
        source,
        architecture,
        name=name,
        revision=commit,
        local_only=local_only,
        reads_text=family.reads_text,
        device=request.device,
    )
    predictor: Predictor = family(checkpoint, request, cache)
    return predictor


def family_of(name: str, architecture: str) -> Any:
    """The class for an architecture. Raises ModelError that says what the model is instead."""
    place = _FAMILIES.get(architecture)
    if place is None and architecture in _classifiers():
        place = "classify:Classifier"
    if place is None:
        what = f"is a {architecture}, which does not say what is in an image" if architecture else ""
        raise ModelError(
            f"The model {name!r} {what or 'names no architecture in its config.json'}.",
            remedy=f"{_KNOWN} A vision model without a head gives embeddings, from which few-shot labeling learns.",
        )
    module, _, attribute = place.partition(":")
    return getattr(import_module(f"datasetops.models.families.{module}"), attribute)


def _classifiers() -> set[str]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

    names: set[str] = set()
    for entry in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES.values():
        names.update([entry] if isinstance(entry, str) else entry)
    return names
