"""A label schema as CVAT's labels: the raw JSON of its label constructor."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Final
from xml.sax.saxutils import quoteattr

from datasetops.labeling.exchange import ID_ATTRIBUTE, asked_of, kinds_of, qualified, text_attribute, textless_label
from datasetops.schema import Attribute, LabelSchema, Task

UNANSWERED: Final = "__undefined__"  # CVAT shows this value of a select as an empty line
_TYPES: Final = {"box": "rectangle", "polygon": "polygon", "mask": "mask", "classification": "tag"}
_GREY: Final = "#7f7f7f"


class CvatLabels:
    """The labels for a schema. `used`: kinds of the annotations to be shown, by class, allowed even where not asked for.

    A label of CVAT that has a skeleton can hold nothing else: a class of several kinds gets a second one for it.
    """

    def __init__(self, schema: LabelSchema, used: Mapping[str, set[str]]) -> None:
        self._schema = schema
        self._used = used

    def name(self, label: str | None, kind: str) -> str:
        """CVAT's label for an annotation of this class and kind."""
        if label is None:
            return textless_label(self._schema)
        return qualified(label, kind) if kind == "keypoints" and len(self._kinds(label)) > 1 else label

    @cached_property
    def specs(self) -> list[dict[str, Any]]:
        """What `labels.json` holds."""
        specs = []
        for item in self._schema.classes:
            if item.deprecated and item.name not in self._used:
                continue
            kinds = self._kinds(item.name)
            plain = [kind for kind in kinds if kind != "keypoints"]
            if plain:
                form = _TYPES.get(plain[0], "any") if len(plain) == 1 else "any"
                specs.append(self._spec(item.name, item.name, item.colour, form, with_text="text" in kinds))
            task = self._schema.task("keypoints")
            if "keypoints" in kinds and task is not None:
                name = self.name(item.name, "keypoints")
                specs.append(self._spec(name, item.name, item.colour, "skeleton") | _skeleton(task))
        if "text" in self._schema.kinds:
            specs.append(self._spec(textless_label(self._schema), None, _GREY, "any", with_text=True))
        return specs

    def _kinds(self, label: str) -> list[str]:
        kinds = kinds_of(self._schema, label)
        return [*kinds, *sorted(self._used.get(label, set()) - set(kinds))]

    def _spec(self, name: str, label: str | None, colour: str, form: str, *, with_text: bool = False) -> dict[str, Any]:
        texts = [ID_ATTRIBUTE] + ([text_attribute(self._schema)] if with_text else [])
        attributes = [_input(text, "text", [""]) for text in texts]
        attributes[1:1] = [_attribute(item) for item in asked_of(self._schema, label)]
        return {"name": name, "color": colour, "type": form, "attributes": attributes}


def _attribute(attribute: Attribute) -> dict[str, Any]:
    if attribute.type == "bool":
        return _input(attribute.name, "checkbox", ["false"])
    if attribute.type == "choice":
        return _input(attribute.name, "select", [UNANSWERED, *attribute.values])
    if attribute.type == "number":  # values: least, most, step of the arrows
        return _input(attribute.name, "number", ["-1000000000", "1000000000", "1"], default="0")
    return _input(attribute.name, "text", [""])


def _input(name: str, form: str, values: Sequence[str], *, default: str | None = None) -> dict[str, Any]:
    return {
        "name": name,
        "mutable": False,
        "input_type": form,
        "default_value": values[0] if default is None else default,
        "values": list(values),
    }


def _skeleton(task: Task) -> dict[str, Any]:
    """Points on a circle, in percent, joined as the schema says; the annotator drags them into place."""
    count = len(task.keypoints)
    places = {
        name: (50 + 40 * math.sin(2 * math.pi * number / count), 50 - 40 * math.cos(2 * math.pi * number / count))
        for number, name in enumerate(task.keypoints)
    }
    number_of = {name: number for number, name in enumerate(task.keypoints, start=1)}
    lines = [
        f'<line x1="{places[a][0]:.2f}" y1="{places[a][1]:.2f}" x2="{places[b][0]:.2f}" y2="{places[b][1]:.2f}" '
        f'data-type="edge" data-node-from="{number_of[a]}" data-node-to="{number_of[b]}"></line>'
        for a, b in task.skeleton
    ]
    circles = [
        f'<circle r="0.75" cx="{x:.2f}" cy="{y:.2f}" data-type="element node" data-element-id="{number_of[name]}" '
        f'data-node-id="{number_of[name]}" data-label-name={quoteattr(name)}></circle>'
        for name, (x, y) in places.items()
    ]
    sublabels = [{"name": name, "color": _GREY, "type": "points", "attributes": []} for name in task.keypoints]
    return {"sublabels": sublabels, "svg": "".join(lines + circles)}
