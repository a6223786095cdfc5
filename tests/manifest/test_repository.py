from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from rows import labeled, labels, samples

from datasetops.errors import ConflictError, NotFoundError, RejectedError, SchemaError
from datasetops.manifest import Change, QueryError, Repository
from datasetops.schema import LabelSchema


def test_commit_makes_numbered_versions_that_keep_what_they_held(repository: Repository) -> None:
    first = repository.commit(labeled(a="cat", b="dog"), message="two").version
    second = repository.commit(Change(annotations=labels(a="bird")), message="one more look").version

    assert (first.name, second.name) == ("v1", "v2")
    assert first.annotations()["label"].tolist() == ["cat", "dog"]
    assert second.annotations()["label"].tolist() == ["bird", "dog"]
    assert [version.name for version in repository.versions()] == ["v2", "v1"]
    assert second.commit.parents == (first.digest,)


def test_a_commit_that_changes_nothing_makes_no_version(repository: Repository) -> None:
    repository.commit(labeled(a="cat"), message="one")
    again = repository.commit(labeled(a="cat"), message="the same")

    assert not again.changed
    assert again.version.name == "v1"


def test_rows_get_event_and_time_and_a_dataframe_round_trips(repository: Repository) -> None:
    frame = pd.DataFrame(
        [{"sample_id": "a", "uri": "a.png", "metadata": {"light": "day", "age": 4.5}, "group": np.nan}]
    )
    version = repository.commit(
        Change(samples=frame, annotations=[labels(a="cat")[0] | {"attributes": {"occluded": True}}]), message="one"
    ).version

    sample, annotation = version.samples().iloc[0], version.annotations().iloc[0]
    assert sample["metadata"] == {"light": "day", "age": 4.5}
    assert pd.isna(sample["group"])
    assert annotation["attributes"] == {"occluded": True}
    assert annotation["event_id"] == version.commit.event_id
    assert repository.ledger.tail().event.event_id == version.commit.event_id
    again = repository.commit(Change(samples=version.samples(), annotations=version.annotations()), message="same")
    assert not again.changed


def test_removing_a_sample_removes_its_annotations(repository: Repository) -> None:
    repository.commit(labeled(a="cat", b="dog"), message="two")
    version = repository.commit(Change(remove_samples=["a"]), message="less").version

    assert version.samples()["sample_id"].tolist() == ["b"]
    assert version.annotations()["sample_id"].tolist() == ["b"]
    assert version.commit.counts == {"samples": 1, "annotations": 1}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (Change(samples=[{"sample_id": "a", "colour": "red"}]), ValueError, "unknown column 'colour'"),
        (Change(samples=samples("a", "a")), ValueError, "'a' stands in more than one row"),
        (Change(samples=[{"uri": "a.png"}]), ValueError, "sample_id: a value is missing"),
        (Change(annotations=labels(a="cat")), ValueError, "there is no sample 'a'"),
        (labeled(a="catt"), SchemaError, "has no class 'catt'"),
        (
            Change(samples("a"), [labels(a="cat")[0] | {"kind": "guess"}]),
            ValueError,
            "kind: expected one of classification",
        ),
        (Change(samples("a"), [labels(a="cat")[0] | {"score": float("inf")}]), ValueError, "not a finite number"),
    ],
)
def test_malformed_rows_are_refused_by_name(
    repository: Repository, change: Change, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        repository.commit(change, message="bad")
    assert list(repository.versions()) == []


def test_a_writer_that_lost_the_race_goes_on_top_where_rows_differ(repository: Repository) -> None:
    base = repository.commit(labeled(a="cat", b="dog"), message="base").version
    repository.commit(Change(annotations=labels(a="bird")), message="theirs")
    mine = repository.commit(Change(annotations=labels(b="bird")), message="mine", parent=base).version

    assert mine.name == "v3"
    assert mine.annotations()["label"].tolist() == ["bird", "bird"]


def test_a_writer_that_lost_the_race_is_told_where_rows_are_the_same(repository: Repository) -> None:
    base = repository.commit(labeled(a="cat"), message="base").version
    repository.commit(Change(annotations=labels(a="bird")), message="theirs")
    with pytest.raises(ConflictError, match="a/label"):
        repository.commit(Change(annotations=labels(a="dog")), message="mine", parent=base)

    assert repository.version().annotations()["label"].tolist() == ["bird"]


def test_annotating_a_sample_that_was_removed_meanwhile_is_a_conflict(repository: Repository) -> None:
    base = repository.commit(labeled(a="cat", b="cat"), message="base").version
    repository.commit(Change(remove_samples=["a"]), message="theirs")
    box = {"annotation_id": "a/1", "sample_id": "a", "kind": "box", "label": "cat", "x1": 0, "y1": 0, "x2": 1, "y2": 1}
    with pytest.raises(ConflictError, match="samples changed in v2"):
        repository.commit(Change(annotations=[box]), message="mine", parent=base)


def test_a_sealed_split_only_grows(repository: Repository) -> None:
    repository.commit(Change(samples=samples("a", "b", split="test"), sealed=["test"]), message="sealed")
    repository.commit(Change(samples=samples("c", split="test")), message="growing is fine")
    for change in (
        Change(remove_samples=["a"]),
        Change(samples=samples("a", split="train")),
        Change(sealed=[]),
    ):
        with pytest.raises(RejectedError, match="sealed split"):
            repository.commit(change, message="no")
    moved = repository.commit(Change(remove_samples=["a"]), message="yes", unseal="the patient withdrew")
    assert repository.ledger.tail().event.parameters["unseal"] == "the patient withdrew"
    assert moved.version.commit.sealed == ("test",)


def test_branches_are_apart_and_numbered_together(repository: Repository) -> None:
    repository.commit(labeled(a="cat"), message="base")
    repository.create_branch("trial")
    on_branch = repository.commit(Change(annotations=labels(a="dog")), message="trial", branch="trial").version
    on_main = repository.commit(labeled(b="bird"), message="main").version

    assert (on_branch.name, on_main.name) == ("v2", "v3")
    assert repository.branches() == {"main": "v3", "trial": "v2"}
    assert [version.name for version in repository.versions("trial")] == ["v2", "v1"]
    with pytest.raises(ConflictError, match="exists already"):
        repository.create_branch("trial")
    with pytest.raises(ValueError, match="not a version name"):
        repository.create_branch("v7")


def test_unknown_names_list_the_valid_ones(repository: Repository) -> None:
    with pytest.raises(NotFoundError, match="dsops ingest"):
        repository.version()
    repository.commit(labeled(a="cat"), message="one")
    with pytest.raises(NotFoundError, match="v1"):
        repository.version("v9")
    with pytest.raises(NotFoundError, match="Did you mean 'main'"):
        repository.version("mian")


def test_open_finds_the_repository_upwards_and_init_refuses_a_second_one(
    tmp_path: Path, repository: Repository, schema: LabelSchema
) -> None:
    below = tmp_path / "repository" / "images" / "deep"
    below.mkdir(parents=True)
    repository.commit(labeled(a="cat"), message="one")
    assert Repository.open(below).version().name == "v1"
    with pytest.raises(ConflictError, match="already"):
        Repository.init(tmp_path / "repository", schema)
    with pytest.raises(NotFoundError, match="dsops init"):
        Repository.open(tmp_path)


def test_sql_reads_a_version_and_nothing_else(repository: Repository, tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    version = repository.commit(labeled(a="cat", b="dog"), message="two").version
    answer = version.sql(
        "SELECT label, count(*) AS n FROM annotations JOIN samples USING (sample_id) GROUP BY 1 ORDER BY 1"
    )
    assert answer.to_dict("list") == {"label": ["cat", "dog"], "n": [1, 1]}
    for query in (
        "DROP TABLE samples",
        "SELECT 1; SELECT 2",
        f"SELECT * FROM read_csv('{secret}')",
        f"COPY samples TO '{tmp_path / 'out.csv'}'",
        "SELECT nothing FROM samples",
        "PRAGMA database_list",
    ):
        with pytest.raises(QueryError):
            version.sql(query)
    assert not (tmp_path / "out.csv").exists()


def test_where_takes_conditions_over_samples_and_their_annotations(repository: Repository) -> None:
    rows = [
        row | {"metadata": {"light": "night" if row["sample_id"] == "b" else "day"}} for row in samples("a", "b", "c")
    ]
    version = repository.commit(Change(rows, labels(a="cat", b="cat", c="dog")), message="three").version
    assert version.where("label = 'cat'") == ["a", "b"]
    assert version.where("metadata->>'light' = 'night'") == ["b"]
    assert version.where("width > 100") == []


def test_the_same_content_has_the_same_segments(repository: Repository) -> None:
    first = repository.commit(labeled(a="cat", b="dog"), message="two").version
    repository.commit(Change(remove_samples=["a", "b"]), message="none")
    rows = first.table("samples"), first.table("annotations")
    repository.create_branch("again", repository.version("v2"))
    again = repository.commit(Change(*rows), message="back", branch="again").version
    assert again.table("annotations").equals(first.table("annotations"))
    assert isinstance(again.table("samples"), pa.Table)
