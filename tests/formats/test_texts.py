from __future__ import annotations

from typing import Any
from xml.etree.ElementTree import Element, fromstring, indent, tostring

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from datasetops.formats.texts import from_text, to_text
from datasetops.formats.xmlvalue import add_value, value_of

TEXTS = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(
    ["7", "007", "true", "null", "", " a", '"x"', "[1]", "1e5", "nan", "{}", "-0", "a\nb", "a\rb", "\ufffe", "\x00"]
)
NAMES = TEXTS | st.sampled_from(["a", "b", "@a", "#text", "@"])
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=10,
)


@given(VALUES)
@example({"\ufffe": None})
def test_every_value_comes_back_from_its_text(value: Any) -> None:
    text = to_text(value)
    assert text != ""
    assert text == text.strip()
    again = from_text(text)
    assert (again, type(again)) == (value, type(value))


@given(TEXTS)
def test_every_text_comes_back_as_itself_or_as_what_it_is_the_writing_of(text: str) -> None:
    value = from_text(text)
    assert value == text or to_text(value) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("65", 65),
        ("-3", -3),
        ("0.139", 0.139),
        ("65.0", 65.0),
        ("true", True),
        ('{"a":[1,null]}', {"a": [1, None]}),
        *((text, text) for text in ("007", "013M", "1.50", "1e5", "+1", "nan", "inf", "True", "{a}", "[1, 2]", "12 ")),
        ("1" * 5000, "1" * 5000),
    ],
)
def test_only_canonical_writings_are_values(text: str, value: Any) -> None:
    assert from_text(text) == value


def test_nan_has_no_text() -> None:
    with pytest.raises(ValueError, match="no text form"):
        to_text(float("nan"))


@given(VALUES)
def test_every_value_comes_back_from_xml(value: Any) -> None:
    root = Element("root")
    add_value(root, "v", value)
    indent(root)
    assert value_of(fromstring(tostring(root, encoding="utf-8"))) == {"v": value}
