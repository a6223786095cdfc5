import hashlib
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from datasetops.errors import NotFoundError, SchemaError
from datasetops.schema import (
    GuideProblem,
    LabelSchema,
    check_guide,
    guide_section,
    load_guide,
    load_schema,
    packaged_guides,
    packaged_schemas,
    parse_guide,
)
from datasetops.schema.guide import PARTS, _headings

SCHEMA = LabelSchema.model_validate(
    {
        "name": "blood",
        "version": 1,
        "tasks": [{"kind": "box"}],
        "classes": [
            {"id": 0, "name": "RBC"},
            {"id": 1, "name": "Platelets"},
            {"id": 2, "name": "old", "deprecated": True},
        ],
    }
)


def section(name: str, **bodies: str) -> str:
    texts = {part: bodies.get(part, f"Some {title}.") for part, title in PARTS.items()}
    return f"## {name}\n\n" + "".join(f"### {PARTS[part]}\n\n{body}\n\n" for part, body in texts.items())


WHOLE = "# Guide\n\nHow to work.\n\n" + section("RBC") + section("Platelets")


def problems(text: str) -> list[GuideProblem]:
    return check_guide(parse_guide(text), SCHEMA)


def test_a_whole_guide_has_no_problem() -> None:
    guide = parse_guide(WHOLE)
    assert check_guide(guide, SCHEMA) == []
    assert guide.general == "# Guide\n\nHow to work."
    found = guide_section(guide, "RBC")
    assert found is not None
    assert found.line == 5
    assert found.parts["edge_cases"] == "Some Edge cases."
    assert found.text.startswith("### Definition")
    assert found.text.endswith("Some Edge cases.")
    assert guide_section(guide, "rbc") is None


def test_digest_does_not_depend_on_line_ends() -> None:
    for ends in ("\n", "\r\n", "\r"):
        assert parse_guide(WHOLE.replace("\n", ends)).digest == hashlib.sha256(WHOLE.encode()).hexdigest()
    assert load_guide(b"\xef\xbb\xbf" + WHOLE.encode()).digest == parse_guide(WHOLE).digest


def test_a_class_without_a_section() -> None:
    text = "# Guide\n\n" + section("RBC")
    last = text.rstrip("\n").count("\n") + 1
    assert problems(text) == [GuideProblem(last, "Platelets", "has no section: add the heading '## Platelets'")]


@pytest.mark.parametrize("title", PARTS.values())
def test_a_part_that_is_missing(title: str) -> None:
    lines = WHOLE.replace(f"### {title}\n", "", 1)
    assert problems(lines) == [GuideProblem(5, "RBC", f"has no part {title!r}: add the heading '### {title}'")]


@pytest.mark.parametrize("body", ["", "  ", "TODO", "- TBD.", "<!-- to be\nwritten -->", "...", "#### Cells\n"])
def test_a_part_without_content(body: str) -> None:
    text = "# Guide\n\n" + section("RBC") + section("Platelets", counts=body)
    found = problems(text)
    assert (found[0].class_name, found[0].message) == ("Platelets", "has an empty part 'What counts': write it")
    assert text.splitlines()[found[0].line - 1] == "### What counts"


def test_a_comment_that_is_never_closed_hides_the_rest() -> None:
    text = "# Guide\n\n" + section("RBC") + section("Platelets", edge_cases="<!-- Some text.")
    assert [p.message for p in problems(text)] == ["has an empty part 'Edge cases': write it"]


@pytest.mark.parametrize("body", ["None known.", "No.", "![](cell.png)", "`x`", "TODO lists count."])
def test_short_content_is_content(body: str) -> None:
    assert problems("# Guide\n\n" + section("RBC", edge_cases=body) + section("Platelets")) == []


def test_headings_of_parts_may_be_written_in_other_ways() -> None:
    other = WHOLE.replace("### What does not count", "### What doesn’t count:").replace(
        "### Edge cases", "### EDGE CASE"
    )
    other = other.replace("### What counts", "### **Includes**").replace("## RBC", "## `RBC` ##")
    assert problems(other) == []


def test_a_heading_that_names_no_class() -> None:
    found = problems(WHOLE.replace("## Platelets", "## Platetlets"))
    assert [(p.class_name, p.message) for p in found] == [
        ("Platetlets", "is no class of schema 'blood': did you mean 'Platelets'?"),
        ("Platelets", "has no section: add the heading '## Platelets'"),
    ]
    assert "Valid classes: Platelets, RBC." in problems(WHOLE + "## Basophils\n\nText.\n")[0].message


def test_general_sections_stand_before_the_first_class() -> None:
    assert problems("# Guide\n\n## When unsure\n\nAsk.\n\n" + WHOLE) == []
    assert problems("# Guide\n\n## Platelet\n\nAsk.\n\n" + WHOLE)[0].class_name == "Platelet"
    assert problems(section("Basophil") + WHOLE)[0].class_name == "Basophil"
    assert problems(WHOLE + "## When unsure\n\nAsk.\n")[0].class_name == "When unsure"


def test_text_without_any_heading_describes_no_class() -> None:
    for text in ("", "Just text.\n", "# Title\n"):
        assert [p.class_name for p in problems(text)] == ["Platelets", "RBC"]


def test_deprecated_and_repeated() -> None:
    found = problems(WHOLE + section("old") + section("RBC"))
    assert [(p.class_name, p.message) for p in found] == [
        ("old", "is deprecated in the schema: remove its section"),
        ("RBC", "is described already in line 5: remove one of the two"),
    ]
    twice = WHOLE.replace("### Edge cases", "### Definition\n\nAgain.\n\n### Edge cases", 1)
    assert problems(twice) == [
        GuideProblem(19, "RBC", "has the part 'Definition' twice, first in line 7: remove one of the two")
    ]


def test_headings_in_code_and_comments_do_not_count() -> None:
    code = "```md\n## Basophil\n### Definition\n```\n\n~~~~\n## X\n~~~\n## Y\n~~~~\n\n    ## Z\n\n<!--\n## C\n-->\n"
    assert problems(WHOLE.replace("Some Definition.", "Text.\n\n" + code)) == []


TRICKY = """\
# One
#No space
####### Seven
## Two ##
 ## Indented
```
## in a fence
``` not closed by this
~~~
```
## After *fence*
~~~ `x`
## in tildes
~~~~
##
## Trailing #hash
## Closed #### \t
\t## in a tab
<!-- one line --> text
## After a comment
`` ``` ``
## Not after a fence
"""


def test_headings_are_those_that_a_markdown_parser_sees() -> None:
    texts = [TRICKY, *(load_guide(name).text for name in packaged_guides())]
    for text in texts:
        tokens = MarkdownIt("commonmark").parse(text)
        seen = [
            (t.map[0] + 1, int(t.tag[1])) for t in tokens if t.type == "heading_open" and t.map and t.markup[0] == "#"
        ]
        assert [(h.line, h.level) for h in _headings(text.split("\n"))] == seen


def test_load(tmp_path: Path) -> None:
    path = tmp_path / "own.md"
    path.write_bytes(WHOLE.encode())
    assert load_guide(path) == load_guide(str(path)) == parse_guide(WHOLE)
    with pytest.raises(NotFoundError, match="Did you mean 'digits'"):
        load_guide("digit")
    path.write_bytes(b"# A\n\n\xff")
    with pytest.raises(SchemaError, match=r"own.md, line 3: not UTF-8"):
        load_guide(path)


def test_every_packaged_schema_has_a_guide_that_passes() -> None:
    assert packaged_guides() == packaged_schemas()
    for name in packaged_guides():
        assert check_guide(load_guide(name), load_schema(name)) == []


@pytest.mark.parametrize("name", packaged_schemas())
def test_guide_and_schema_define_each_class_in_the_same_words(name: str) -> None:
    guide, schema = load_guide(name), load_schema(name)
    said = {s.name: " ".join(s.parts["definition"].split()) for s in guide.sections}
    assert said == {c.name: c.definition for c in schema.classes}
    assert [s.name for s in guide.sections] == list(schema.class_names)
