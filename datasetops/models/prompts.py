"""What an open-vocabulary model is asked: texts for each class, from a schema or a YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from datasetops.errors import FormatError, ModelError, did_you_mean
from datasetops.records import canonical_json, sha256_hex
from datasetops.schema import LabelSchema
from datasetops.schema.yamlfile import read_file, read_yaml

# For whole images: phrasings of the CLIP paper (Radford et al. 2021, section 3.1.4) that fit any subject.
TEMPLATES: Final = ("a photo of a {}.", "a photo of the {}.", "a close-up photo of a {}.", "an image of a {}.")
BOX_TEMPLATES: Final = ("{}",)  # detectors are trained on bare noun phrases


@dataclass(frozen=True)
class Prompts:
    """By class name of the schema: texts. Raises ModelError for no class, no text, or one text for two classes.

    A class's score comes from the mean of its texts' embeddings (classification) or is their best score (boxes).
    """

    texts: Mapping[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        texts = {name: tuple(text.strip() for text in given) for name, given in self.texts.items()}
        remedy = "Give every class at least one text, for example 'cat: [a photo of a cat]'."
        if not texts:
            raise ModelError("There are no prompts: the model would look for nothing.", remedy=remedy)
        owners: dict[str, str] = {}
        for name, given in texts.items():
            if not given or not all(given):
                raise ModelError(f"The prompts of the class {name!r} are empty.", remedy=remedy)
            for text in given:
                if owners.setdefault(text, name) != name:
                    raise ModelError(
                        f"The prompt {text!r} is given for both {owners[text]!r} and {name!r}.",
                        remedy="Give each class texts of its own, or leave one of the classes out.",
                    )
        object.__setattr__(self, "texts", texts)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.texts)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over classes and texts in their order, 64 hex digits."""
        return sha256_hex(canonical_json([[name, *texts] for name, texts in self.texts.items()]))


def prompts_from_schema(
    schema: LabelSchema,
    templates: tuple[str, ...] | None = None,
    *,
    kind: str = "classification",
    definitions: bool | None = None,
) -> Prompts:
    """Each class in use for `kind`, its name put into each template at `{}`, and with `definitions` "name: definition".

    Where not given: TEMPLATES and definitions for classification, BOX_TEMPLATES and none for all else. Underscores are
    read as spaces. Raises ModelError where no class is left, ValueError for a template without `{}`.
    """
    if templates is None:
        templates = TEMPLATES if kind == "classification" else BOX_TEMPLATES
    if definitions is None:
        definitions = kind == "classification"
    for template in templates:
        if "{}" not in template:
            raise ValueError(f"templates: expected {{}} where the class name goes; got {template!r}")
    texts = {}
    for entry in schema.classes:
        if entry.deprecated or (entry.kinds and kind not in entry.kinds):
            continue
        spoken = entry.name.replace("_", " ")
        described = (f"{spoken}: {' '.join(entry.definition.split())}",) if definitions and entry.definition else ()
        texts[entry.name] = tuple(template.replace("{}", spoken) for template in templates) + described
    return Prompts(texts)


def read_prompts(path: Path, schema: LabelSchema) -> Prompts:
    """Prompts from a YAML file of `class: text` or `class: [text, …]`. A class that it leaves out is not looked for.

    Raises NotFoundError, SchemaError for bad YAML, FormatError for anything but texts, ModelError for a class that the
    schema does not have and for empty prompts; each names the file and, where there is one, the line.
    """
    name = str(path)
    document = read_yaml(read_file(path, noun="file of prompts"), name)
    if not isinstance(document.value, dict):
        raise FormatError(
            f"{name}: expected classes with their texts; got {type(document.value).__name__}.",
            remedy="Write a line such as 'cat: [a photo of a cat, a kitten]' for each class.",
        )
    texts = {}
    for key, value in document.value.items():
        where = f"{name}, line {document.key_lines.get((key,), 1)}"
        if key not in schema.class_names:
            raise ModelError(
                f"{where}: the schema has no class {key!r}.",
                remedy=did_you_mean(str(key), schema.class_names, noun="classes"),
            )
        given = value if isinstance(value, list) else [value]
        if not all(isinstance(text, str) for text in given):
            raise FormatError(
                f"{where}: {key}: expected a text or a list of texts; got {value!r}.",
                remedy="Put texts that look like numbers in quotes.",
            )
        texts[key] = tuple(given)
    try:
        return Prompts(texts)
    except ModelError as error:
        raise ModelError(f"{name}: {error.message}", remedy=error.remedy) from None
