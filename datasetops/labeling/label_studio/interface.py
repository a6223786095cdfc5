"""The labeling interface of a schema, in Label Studio's XML, and what differs between two interfaces.

The names of its controls say what they ask: `label` (classes of the whole image), `box`, `polygon`, `mask`, `keypoints`,
`text` (regions), `transcription` (text of a region), `whole_text` (text of the image), `visibility` and `instance` (of a
point), `attribute_…`.
"""

from __future__ import annotations

import re
from typing import Final
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from defusedxml.ElementTree import ParseError, fromstring

from datasetops.schema import Attribute, ClassDef, LabelSchema

IMAGE: Final = "image"
LABEL: Final = "label"
TRANSCRIPTION: Final = "transcription"
WHOLE_TEXT: Final = "whole_text"
VISIBILITY: Final = "visibility"
INSTANCE: Final = "instance"
VISIBLE: Final = "visible"
HIDDEN: Final = "hidden"
_REGIONS: Final = {
    "box": "RectangleLabels",
    "polygon": "PolygonLabels",
    "mask": "BrushLabels",
    "keypoints": "KeyPointLabels",
    "text": "RectangleLabels",
}
_TITLES: Final = {
    "classification": "The whole image",
    "box": "Boxes",
    "polygon": "Outlines",
    "mask": "Masks",
    "keypoints": "Points",
    "text": "Text",
}
_HOTKEYS: Final = "1234567890qwetasdfgzxcvb"
_YES: Final = "yes"


def label_config(schema: LabelSchema) -> str:
    """XML of a schema's interface; the same schema gives the same text."""
    view = Element("View")
    SubElement(view, "Image", name=IMAGE, value="$image", zoom="true", zoomControl="true", rotateControl="false")
    keys = _Hotkeys(schema)
    for kind in schema.kinds:
        if len(schema.kinds) > 1:
            SubElement(view, "Header", value=_TITLES[kind], size="5")
        classes = [item for item in schema.classes if not item.deprecated and (not item.kinds or kind in item.kinds)]
        if kind == "classification":
            _whole_image(view, schema, classes, keys)
        else:
            _regions(view, schema, kind, classes, keys)
    for attribute, name in attribute_names(schema).items():
        _attribute(view, schema, attribute, name)
    indent(view)
    return tostring(view, encoding="unicode")


class _Hotkeys:
    """Each key once; a class whose name is a single character has that one, if it has only one task to stand in."""

    def __init__(self, schema: LabelSchema) -> None:
        self._own = {item.name for item in schema.classes if item.name in _HOTKEYS} if len(schema.tasks) == 1 else set()
        self._others = iter([key for key in _HOTKEYS if key not in self._own])

    def of(self, value: str) -> str | None:
        return value if value in self._own else next(self._others, None)


def attribute_names(schema: LabelSchema) -> dict[Attribute, str]:
    """The control's name of each attribute."""
    names: dict[Attribute, str] = {}
    for attribute in schema.attributes:
        name = "attribute_" + re.sub(r"\W", "_", attribute.name)
        while name in names.values():
            name += "_"
        names[attribute] = name
    return names


def point_label(class_name: str, point: str) -> str:
    """How a keypoint of a class is called in the interface."""
    return f"{class_name}: {point}"


def asks_of_regions(schema: LabelSchema) -> bool:
    """Whether attributes belong to regions; otherwise to the whole image."""
    return any(kind in _REGIONS for kind in schema.kinds)


def choices_of(config: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Tag and values of each control of an interface, by name. Raises ValueError for broken XML."""
    try:
        root = fromstring(config)
    except ParseError as error:
        raise ValueError(f"the labeling interface is not XML: {error}") from None
    return {
        element.attrib["name"]: (element.tag, tuple(child.attrib.get("value", "") for child in element))
        for element in root.iter()
        if "name" in element.attrib and "toName" in element.attrib
    }


def interface_changes(before: str, after: str) -> list[str]:
    """Sentences about what differs between two interfaces, as far as answers depend on it."""
    old, new = choices_of(before), choices_of(after)
    changes = [f"the control {name!r} is gone" for name in old if name not in new]
    changes += [f"the control {name!r} is new" for name in new if name not in old]
    for name in old.keys() & new.keys():
        (old_tag, old_values), (new_tag, new_values) = old[name], new[name]
        if old_tag != new_tag:
            changes.append(f"{name!r} was {old_tag} and is {new_tag}")
        changes += [f"{name!r} lost {value!r}" for value in old_values if value not in new_values]
        changes += [f"{name!r} gained {value!r}" for value in new_values if value not in old_values]
    return sorted(changes)


def _whole_image(view: Element, schema: LabelSchema, classes: list[ClassDef], keys: _Hotkeys) -> None:
    several = "multiple" if schema.multi_label else "single"
    control = SubElement(view, "Choices", name=LABEL, toName=IMAGE, choice=several, showInline="true")
    if not schema.multi_label:
        control.set("required", "true")
        control.set("requiredMessage", "Choose a class, or skip the image.")
    for item in classes:
        _value(control, "Choice", item.name, item, keys)


def _regions(view: Element, schema: LabelSchema, kind: str, classes: list[ClassDef], keys: _Hotkeys) -> None:
    tag = _REGIONS[kind] if classes else "Rectangle"
    control = SubElement(view, tag, name=kind, toName=IMAGE)
    if tag in ("RectangleLabels", "Rectangle"):
        control.set("canRotate", "false")
    task = schema.task(kind)
    for item in classes:
        for point in task.keypoints if task and kind == "keypoints" else ("",):
            _value(control, "Label", point_label(item.name, point) if point else item.name, item, keys)
    if kind == "keypoints":
        shared = {"toName": IMAGE, "perRegion": "true", "whenTagName": kind}
        visibility = SubElement(
            view, "Choices", {"name": VISIBILITY, "choice": "single", "showInline": "true", **shared}
        )
        for value in (VISIBLE, HIDDEN):
            SubElement(visibility, "Choice", value=value)
        asked = SubElement(view, "View", visibleWhen="region-selected", whenTagName=kind)
        SubElement(asked, "Header", value="Which one it belongs to, where there are several:", size="6")
        SubElement(asked, "Number", {"name": INSTANCE, "min": "1", "step": "1", **shared})
    if kind == "text":
        text = {"toName": IMAGE, "editable": "true", "maxSubmissions": "1"}
        region = {"perRegion": "true", "whenTagName": kind, "displayMode": "region-list"}
        SubElement(view, "TextArea", {"name": TRANSCRIPTION, "placeholder": "Text of this region", **text, **region})
        SubElement(view, "TextArea", {"name": WHOLE_TEXT, "placeholder": "Text of the whole image", **text})


def _value(control: Element, tag: str, value: str, item: ClassDef, keys: _Hotkeys) -> None:
    element = SubElement(control, tag, value=value, background=item.colour)
    if item.definition:
        element.set("hint", item.definition)
    if key := keys.of(value):
        element.set("hotkey", key)


def _attribute(view: Element, schema: LabelSchema, attribute: Attribute, name: str) -> None:
    fields = {"name": name, "toName": IMAGE}
    classes = ",".join(attribute.classes)
    if asks_of_regions(schema):
        fields |= {"perRegion": "true"} | ({"whenLabelValue": classes} if classes else {})
    elif classes:
        fields |= {"visibleWhen": "choice-selected", "whenTagName": LABEL, "whenChoiceValue": classes}
    if asks_of_regions(schema):  # nothing is shown until a region that it is about is selected
        view = SubElement(
            view, "View", {"visibleWhen": "region-selected"} | ({"whenLabelValue": classes} if classes else {})
        )
    about = f"{attribute.name}: {attribute.definition}" if attribute.definition else attribute.name
    SubElement(view, "Header", value=about, size="6")
    if attribute.type in ("choice", "bool"):
        control = SubElement(view, "Choices", {**fields, "choice": "single", "showInline": "true"})
        for value in attribute.values or (_YES, "no"):
            SubElement(control, "Choice", value=value)
    elif attribute.type == "number":
        SubElement(view, "Number", fields)
    else:
        SubElement(view, "TextArea", {**fields, "editable": "true", "maxSubmissions": "1"})


def attribute_value(attribute: Attribute, value: object) -> object:
    """An attribute's value from what the interface gave."""
    return value == _YES if attribute.type == "bool" else value


def attribute_choice(attribute: Attribute, value: object) -> object:
    """What the interface shows for an attribute's value."""
    return (_YES if value else "no") if attribute.type == "bool" else value
