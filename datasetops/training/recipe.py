"""Recipes: how a model is trained, as a YAML file. What a recipe leaves out has a default; what it misspells is named."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Final, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from datasetops.errors import SchemaError, did_you_mean
from datasetops.records import canonical_json, sha256_hex
from datasetops.schema.model import Count, Name, Positive, Record, Text, wrong
from datasetops.schema.yamlfile import read_file, read_yaml, validated

PACKAGED: Final = ("probe", "head", "vit", "detr", "segformer")

Share = Annotated[float, Field(gt=0, lt=1)]
Weight = Annotated[float, Field(ge=0, lt=1)]
Severity = Literal["low", "medium", "high"]


class Noise(Record):
    """What happens to labels that an audit of the version doubts and nobody called fine.

    They are kept, excluded, or count with `weight`. `checks` are the audit's, `at` the least severity.
    """

    findings: Literal["keep", "exclude", "down-weight"] = "keep"
    weight: Weight = 0.2
    checks: tuple[Name, ...] = ("label_noise", "swapped_box", "misplaced_box", "duplicate_box")
    at: Severity = "low"


class Recipe(Record):
    """What all recipes have.

    `validation`: share of the samples that is set apart for choosing and calibrating, where the version has no split for
    that. `class_weights`: whether rare classes count as much as frequent ones. `without_examples`: whether a class of the
    schema of which nothing can be learned stops the training or is left out.
    """

    name: Name
    description: Text = ""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    validation: Share = 0.15
    class_weights: Literal["none", "balanced"] = "none"
    without_examples: Literal["refuse", "leave out"] = "refuse"
    noise: Noise = Noise()

    def canonical_bytes(self) -> bytes:
        return canonical_json(self.model_dump(mode="json"))

    @property
    def digest(self) -> str:
        """SHA-256 of everything that it says, defaults included."""
        return sha256_hex(self.canonical_bytes())


class ProbeRecipe(Recipe):
    """A linear classifier on frozen embeddings. `model` is the embedder's reference, the repository's unless told."""

    kind: Literal["probe"]
    model: Name | None = None
    method: Literal["auto", "logistic", "discriminant"] = "auto"
    calibrate: bool = True

    @model_validator(mode="after")
    def _can_weigh(self) -> Self:
        weighed = self.class_weights != "none" or self.noise.findings == "down-weight"
        if self.method == "discriminant" and weighed:
            raise wrong("method", "a discriminant cannot weigh examples; take logistic or auto")
        return self


class Flips(Record):
    """Mirror images that are learned from besides the images themselves."""

    horizontal: bool = True
    vertical: bool = False


class HeadRecipe(Recipe):
    """A small detector on frozen activations of the built-in network.

    `side`: pixels of the longer side of an image. `width`: channels of the head. `epochs`: times that as many images are
    looked at as there are. `batch`: images of a step.
    """

    kind: Literal["head"]
    side: Annotated[int, Field(ge=128, le=2048)] = 640
    width: Annotated[int, Field(ge=16, le=512, multiple_of=8)] = 64
    epochs: Count = 16
    batch: Count = 4
    learning_rate: Positive = 2e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    flips: Flips = Flips()


class Augmentation(Record):
    """Random changes of the images that are learned from, other ones in each epoch. `flips`: mirrored or not, by chance.
    `crop`: least share of the area that a crop keeps; 1 for none. `colour`: most by which brightness, contrast and
    saturation change, as a share."""

    flips: Flips = Flips()
    crop: Annotated[float, Field(gt=0, le=1)] = 1.0
    colour: Annotated[float, Field(ge=0, lt=1)] = 0.2


class FinetuneRecipe(Recipe):
    """All weights of a model of transformers. `model`: hf:NAME@REVISION or local:DIR, in safetensors.

    `batch`: images of a step, taken in parts where memory is short. `backbone_rate`: learning rate of the backbone over
    that of the rest; 0 leaves it as it is. `warmup`: share of the steps. `clip`: norm of a step's gradient at most.
    `patience`: epochs without a better validation loss after which training stops; null for never. `sampling`: whether an
    epoch looks at each image once, or as often at rare classes as at frequent ones. `unlabeled` (masks): whether pixels
    without a label are of no class, or are not learned from.
    """

    kind: Literal["finetune"]
    task: Literal["classification", "box", "mask"]
    model: Name
    epochs: Count = 20
    batch: Count = 16
    learning_rate: Positive = 1e-4
    backbone_rate: Annotated[float, Field(ge=0, le=1)] = 0.1
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    clip: Positive = 1.0
    precision: Literal["float32", "bfloat16"] = "float32"
    patience: Count | None = 5
    sampling: Literal["all", "balanced"] = "all"
    unlabeled: Literal["background", "ignore"] = "background"
    augmentation: Augmentation = Augmentation()

    @model_validator(mode="after")
    def _detectors_weigh_nothing(self) -> Self:
        if self.task == "box" and self.class_weights != "none":
            raise wrong("class_weights", "detectors of transformers cannot weigh classes; take 'sampling: balanced'")
        if self.task == "box" and self.noise.findings == "down-weight":
            raise wrong("noise", "detectors of transformers cannot weigh boxes; take 'findings: exclude'")
        return self


AnyRecipe: TypeAlias = ProbeRecipe | HeadRecipe | FinetuneRecipe
_KINDS: Final[dict[str, type[ProbeRecipe] | type[HeadRecipe] | type[FinetuneRecipe]]] = {
    "probe": ProbeRecipe,
    "head": HeadRecipe,
    "finetune": FinetuneRecipe,
}


def load_recipe(source: str | Path) -> AnyRecipe:
    """Read a recipe from a YAML file, or a packaged one by its name. One without `name` is called by its file's stem.

    Raises NotFoundError for a file that is not there, SchemaError that names line and field.
    """
    if str(source) in PACKAGED:
        name = f"{source}.yaml"
        return parse_recipe(resources.files("datasetops.training").joinpath("recipes", name).read_bytes(), name)
    remedy = did_you_mean(str(source), PACKAGED, noun="packaged recipes") + " Or name a YAML file."
    return parse_recipe(read_file(Path(source), noun="recipe", remedy=remedy), str(source))


def parse_recipe(data: bytes, name: str) -> AnyRecipe:
    """A recipe from YAML; `name` is what errors call it, and its stem the recipe's own where it has none. Raises
    SchemaError."""
    document = read_yaml(data, name)
    if isinstance(document.value, dict):
        document.value.setdefault("name", Path(name).stem)
    kind = document.value.get("kind") if isinstance(document.value, dict) else None
    if not isinstance(kind, str) or kind not in _KINDS:
        line = document.key_lines.get(("kind",), 1)
        got = "nothing" if kind is None else repr(kind)
        raise SchemaError(
            f"{name}, line {line}: kind: expected {', '.join(_KINDS)}; got {got}.",
            remedy=did_you_mean(str(kind), _KINDS, noun="kinds"),
        )
    return validated(_KINDS[kind], document)
