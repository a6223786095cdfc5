"""What depends on something, held against the rows of every version read one by one; and proofs of the reverse."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from provenance_kit import MODEL, change, train
from typer.testing import CliRunner

from datasetops.cli.main import app
from datasetops.erasure.erase import erase
from datasetops.errors import NotFoundError
from datasetops.ledger import Event
from datasetops.manifest import Change, Repository
from datasetops.provenance.impact import impact, impact_rows
from datasetops.provenance.proof import parse_without, prove_without
from datasetops.provenance.story import sample_story
from datasetops.schema import LabelSchema

pytestmark = pytest.mark.slow


def counts(repository: Repository, by: str, value: str) -> dict[str, tuple[int, int, int]]:
    found = impact(repository, by, value)
    return {row["version"]: (row["samples"], row["annotations"], row["said"]) for row in found.versions}


def test_an_origin_lists_all_that_depends_on_it(pets: Repository) -> None:
    found = impact(pets, "origin", "clinic-a")
    assert (found.samples, found.annotations) == (8, 13)
    assert found.first_samples == ("i00", "i01", "i02", "i03", "i04", "i05", "i06", "i07")
    assert [(row["version"], row["status"], row["samples"]) for row in found.versions[:2]] == [
        ("v6", "accepted", 7),
        ("v5", "draft", 8),
    ]
    assert [(row["model"], row["train"], row["validation"]) for row in found.models] == [("m1", 3, 0)]
    assert [(row["format"], row["samples"]) for row in found.exports] == [("coco", 7)]
    assert impact(pets, "origin", "clinic-b").exports == ()
    assert sorted(impact_rows(found).column("kind").to_pylist()) == ["annotation"] * 13 + ["sample"] * 8


def test_labels_are_followed_from_when_they_were_given(pets: Repository) -> None:
    assert counts(pets, "actor", "bob") == {"v6": (1, 2, 1), "v5": (1, 2, 1), "v4": (1, 2, 1), "v3": (1, 2, 2)}
    assert dict(impact(pets, "actor", "bob").events) == {"commit": 1}
    boxes = impact(pets, "model", "hf:someone/pets")
    assert boxes.first_annotations == ("i00#b", "i00#b2", "i01#b", "i02#b", "i03#b")  # b2 corrects b
    assert {row["version"]: row["annotations"] for row in boxes.versions} == {
        "v6": 4,
        "v5": 5,
        "v4": 5,
        "v3": 5,
        "v2": 4,
    }
    assert impact(pets, "model", MODEL).annotations == 5


def test_events_and_guides(pets: Repository) -> None:
    assert impact(pets, "event", "2").annotations == 5
    whole = impact(pets, "event", "1")
    assert (whole.samples, whole.annotations) == (12, 17)
    assert impact(pets, "event", pets.ledger.read(5).event.event_id[:10]).samples == 12  # the splits
    assert set(counts(pets, "event", "5")) == {"v5", "v6"}
    assert impact(pets, "guide", "v1").annotations == 17


def test_models_that_began_as_one_that_learned_from_it_depend_on_it(pets: Repository) -> None:
    train(pets, {"train": ["i05"], "validation": []}, parent="m1")
    found = impact(pets, "origin", "clinic-b")
    assert [(row["model"], row["train"], row["through"]) for row in found.models] == [("m1", 1, None), ("m2", 0, "m1")]


def test_a_value_that_never_was_is_refused_with_the_nearest(pets: Repository) -> None:
    for by, value, near in (("origin", "clinic-c", "clinic-b"), ("actor", "carla", "cara"), ("guide", "zz", "guide")):
        with pytest.raises(NotFoundError) as caught:
            impact(pets, by, value)
        assert near in caught.value.remedy
    with pytest.raises(NotFoundError, match="no event 'zz'"):
        impact(pets, "event", "zz")
    with pytest.raises(ValueError, match="colour"):
        impact(pets, "colour", "red")


@pytest.fixture(scope="session")
def busy(tmp_path_factory: pytest.TempPathFactory, schema: LabelSchema) -> Repository:
    """25 versions of random edits on two branches, whose segments were folded and merged many times."""
    repository = Repository.init(tmp_path_factory.mktemp("busy"), schema)
    rng = np.random.default_rng(5)
    repository.commit(Change(samples=[sample(n, rng) for n in range(40)]), message="first")
    repository.create_branch("side")
    for number in range(24):
        held = repository.version("side" if number % 3 == 0 else "main")
        ids = held.table("samples", ["sample_id"])["sample_id"].to_pylist()
        gone = [ids[int(rng.integers(len(ids)))]] if number % 4 == 3 else []
        left = [name for name in ids if name not in gone]
        rows = [annotation(left[int(rng.integers(len(left)))], rng) for _ in range(int(rng.integers(1, 12)))]
        moved = [sample(int(rng.integers(60)), rng) for _ in range(3)]
        repository.commit(
            Change(
                samples=list({row["sample_id"]: row for row in moved if row["sample_id"] not in gone}.values()),
                annotations=list({row["annotation_id"]: row for row in rows}.values()),
                remove_samples=gone,
            ),
            message="edit",
            event=Event("commit", f"p{number % 5}"),
            branch="side" if number % 3 == 0 else "main",
        )
    return repository


def sample(number: int, rng: np.random.Generator) -> dict[str, Any]:
    name = f"s{number:02}"
    return {"sample_id": name, "uri": f"{name}.png", "origin": f"o{rng.integers(4)}", "license": f"l{rng.integers(3)}"}


def annotation(owner: str, rng: np.random.Generator) -> dict[str, Any]:
    name = f"{owner}/{rng.integers(3)}"
    row = {"annotation_id": name, "sample_id": owner, "kind": "classification", "source": "human"}
    return row | {"label": ("cat", "dog")[int(rng.integers(2))], "actor": f"a{rng.integers(4)}"}


@pytest.mark.slow
@pytest.mark.parametrize("value", ["o0", "o3"])
def test_an_origin_is_counted_as_reading_every_version_would(busy: Repository, value: str) -> None:
    versions = {version.name: version for version in busy.versions()}
    rows = {name: version.table("samples").to_pylist() for name, version in versions.items()}
    ever = {row["sample_id"] for own in rows.values() for row in own if row["origin"] == value}
    expected = {}
    for name, version in versions.items():
        held = [row for row in rows[name] if row["sample_id"] in ever]
        own = [row for row in version.table("annotations").to_pylist() if row["sample_id"] in ever]
        if held or own:
            expected[name] = (len(held), len(own), sum(row["origin"] == value for row in held))
    assert counts(busy, "origin", value) == expected
    assert impact(busy, "origin", value).samples == len(ever)


@pytest.mark.slow
@pytest.mark.parametrize("value", ["a0", "a3"])
def test_an_actor_is_counted_as_reading_every_version_would(busy: Repository, value: str) -> None:
    by_digest = {version.digest: version for version in busy.versions()}
    said: dict[str, set[str]] = {}
    ever: dict[str, set[str]] = {}
    expected = {}
    for version in reversed(list(by_digest.values())):
        rows = {row["annotation_id"]: row for row in version.table("annotations").to_pylist()}
        said[version.digest] = {name for name, row in rows.items() if row["actor"] == value}
        before = [ever[one] for one in version.commit.parents]
        ever[version.digest] = said[version.digest].union(*before)
        held = ever[version.digest] & rows.keys()
        if held:
            owners = {rows[name]["sample_id"] for name in held}
            expected[version.name] = (len(owners), len(held), len(said[version.digest]))
    assert counts(busy, "actor", value) == expected
    assert impact(busy, "actor", value).annotations == len(set().union(*said.values()))


def test_a_proof_holds_and_can_be_checked_with_other_tools(pets: Repository) -> None:
    change(pets, "commit", "lea", samples=[{"sample_id": "far", "uri": "f.png", "origin": "clinic-c"}])
    proof = prove_without(pets, "m1", "origin", "clinic-c")
    assert (proof.holds, proof.known) == (True, True)
    (one,) = proof.lists
    assert (one["samples"], one["under"], one["same_bytes"]) == ({"train": 4, "validation": 1}, 0, 0)
    data = pets.store.get(one["file"])
    assert hashlib.sha256(data).hexdigest() == one["file_sha256"]
    rows = pq.read_table(pets.store.path(one["file"])).to_pylist()
    ids = [row["sample_id"] for row in rows if row["part"] == "train"]
    assert hashlib.sha256("".join(f"{name}\n" for name in ids).encode()).hexdigest() == one["train_ids_sha256"]
    assert [(row["version"], row["held"], row["said"]) for row in proof.versions] == [
        (f"v{number}", 5, 0) for number in range(7, 0, -1)
    ]
    assert proof.digest == prove_without(Repository.open(pets.root or ""), "m1", "origin", "clinic-c").digest
    pets.ledger.record(Event("note", "lea"))
    assert proof.digest != prove_without(Repository.open(pets.root or ""), "m1", "origin", "clinic-c").digest


def test_what_speaks_against_it_is_counted(pets: Repository) -> None:
    proof = prove_without(pets, "m1", "origin", "clinic-b")
    (one,) = proof.lists
    assert not proof.holds
    assert (one["under"], one["same_bytes"], one["against"]) == (2, 1, ["i00", "i09", "i10"])  # i00 is i11's copy
    assert not prove_without(pets, "m1", "actor", "cara").holds
    assert prove_without(pets, "m1", "model", "hf:nobody/nothing").holds


def test_an_origin_that_was_corrected_still_counts(pets: Repository) -> None:
    row = pets.version().table("samples").slice(1, 1).to_pylist()[0]
    change(pets, "commit", "lea", samples=[row | {"origin": "clinic-z"}])
    assert row["sample_id"] == "i01"
    change(pets, "commit", "lea", samples=[row | {"origin": "clinic-a"}])
    assert prove_without(pets, "m1", "origin", "clinic-z").lists[0]["against"] == ["i01"]


def test_samples_without_a_record_prove_nothing(pets: Repository) -> None:
    change(pets, "commit", "lea", samples=[{"sample_id": "dark", "uri": "d.png", "sha256": "0" * 64}])
    train(pets, {"train": ["dark", "never"], "validation": []}, parent="m1")
    proof = prove_without(pets, "m2", "origin", "clinic-x")
    assert [(one["model"], one["not_recorded"], one["never_held"]) for one in proof.lists] == [
        ("m2", 1, 1),
        ("m1", 0, 0),
    ]
    assert not proof.holds
    assert not proof.known
    assert "is it spelled right?" in proof.notes[0]


def test_after_an_erasure_nothing_is_proved_of_what_was_erased(pets: Repository) -> None:
    change(pets, "commit", "lea", samples=[{"sample_id": "far", "uri": "f.png", "origin": "clinic-c"}])
    assert prove_without(pets, "m1", "origin", "clinic-c").holds
    erase(pets, ["i09", "far"], "asked for")
    fresh = Repository.open(pets.root or "")
    proof = prove_without(fresh, "m1", "origin", "clinic-b")
    (one,) = proof.lists
    assert (proof.holds, one["erased"], one["samples"]) == (False, 1, {"train": 3, "validation": 1})
    assert hashlib.sha256(fresh.store.get(one["file"])).hexdigest() == one["file_sha256"]
    assert any("erased since" in note for note in proof.notes)
    assert not any("train_ids_sha256" in step for step in proof.check)  # the ids are not all there
    assert not prove_without(fresh, "m1", "origin", "clinic-c").holds
    with pytest.raises(NotFoundError, match="erase"):
        impact(fresh, "origin", "clinic-c")


@pytest.mark.parametrize("text", ["origin", "origin=", "colour=red", "=x"])
def test_what_cannot_be_proved_is_wrong_usage(text: str) -> None:
    with pytest.raises(ValueError, match="--without"):
        parse_without(text)


def test_groups_and_paths_are_asked_for_by_name(pets: Repository) -> None:
    found = impact(pets, "group", "owner-0")
    assert (found.samples, found.first_samples) == (1, ("i00",))
    assert [row["model"] for row in found.models] == ["m1"]
    assert not prove_without(pets, "m1", "group", "owner-0").holds
    assert prove_without(pets, "m1", "group", "owner-9").lists[0]["not_recorded"] == 0
    uri = pets.version("v1").table("samples", ["sample_id", "uri"]).to_pylist()[0]["uri"]
    assert sample_story(pets, uri).name == "i00"
    assert sample_story(pets, "owner-4").name == "i04"
    assert sample_story(pets, "../source/i04.png").name == "i04"
    assert sample_story(pets, "i04.png").name == "i04"
    with pytest.raises(NotFoundError, match="may be 1"):
        sample_story(pets, "i")


def ask(repository: Repository, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, [*arguments, "-C", str(repository.root), "--quiet"])
    return result.exit_code, result.stdout


@pytest.mark.slow
def test_commands_answer_in_words_and_in_json(pets: Repository, tmp_path: Path) -> None:
    picture = tmp_path / "story.svg"
    status, words = ask(pets, "provenance", "sample", "i00", "--graph", str(picture))
    assert (status, picture.read_text(encoding="utf-8")[:4]) == (0, "<svg")
    assert "in versions: v1 to v6" in words
    assert "Worked out from" in words
    for arguments in (
        ("provenance", "annotation", "i00/c"),
        ("provenance", "version", "v6"),
        ("provenance", "model", "m1"),
        ("blame", "v6"),
        ("blame", "v6", "--item", "i00"),
        ("impact", "--origin", "clinic-a"),
        ("impact", "--actor", "bob"),
    ):
        status, words = ask(pets, *arguments)
        assert (status, "Worked out from" in words) == (0, True), words
        status, text = ask(pets, *arguments, "--json")
        assert json.loads(text)["basis"]["versions"] == 6
    assert ask(pets, "provenance", "model", "m1", "--without", "origin=clinic-b")[0] == 3
    assert ask(pets, "provenance", "model", "m1", "--without", "license=MIT", "--never-had")[0] == 0
    status, told = ask(pets, "provenance", "model", "m1", "--without", "license=MIT")
    assert (status, "nothing of" in told) == (1, False)


@pytest.mark.parametrize(
    "arguments",
    [
        ("impact",),
        ("impact", "--origin", "a", "--model", "m1"),
        ("provenance", "thing", "x"),
        ("provenance", "sample", "i00", "--without", "origin=a"),
        ("provenance", "sample", "i00", "--graph", "story.png"),
    ],
)
def test_wrong_usage(pets: Repository, arguments: tuple[str, ...]) -> None:
    assert ask(pets, *arguments)[0] == 2
