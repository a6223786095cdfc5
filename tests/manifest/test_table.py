"""A table of segments against a plain dictionary, through any sequence of changes."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rows import labeled, labels, samples

from datasetops.manifest import Change, Repository, diff, segment, table, verify
from datasetops.schema import LabelSchema

keys = st.sampled_from([f"s{i}" for i in range(12)])
steps = st.lists(
    st.tuples(st.dictionaries(keys, st.sampled_from(["cat", "dog", "bird"]), max_size=4), st.lists(keys, max_size=2)),
    min_size=1,
    max_size=12,
)


@pytest.mark.slow
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=steps, mapped=st.booleans(), tier=st.sampled_from([2, 8]), share=st.sampled_from([0.1, 100.0]))
def test_versions_hold_what_was_put_into_them(
    tmp_path_factory: pytest.TempPathFactory,
    schema: LabelSchema,
    history: list[tuple[dict[str, str], list[str]]],
    mapped: bool,
    tier: int,
    share: float,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segment, "MAPPED_FROM", 1 if mapped else 10**9)
        patch.setattr(table, "_TIER", tier)
        patch.setattr(table, "_DELTA_SHARE", share)
        repository = Repository.init(tmp_path_factory.mktemp("property"), schema)
        repository.commit(Change(samples=samples(*[f"s{i}" for i in range(12)])), message="samples")
        state: dict[str, str] = {}
        states = {"v1": dict(state)}
        for put, removed in history:
            removed = [key for key in removed if key not in put]
            change = Change(annotations=labels(**put), remove_annotations=[f"{key}/label" for key in removed])
            result = repository.commit(change, message="step")
            state = {key: label for key, label in (state | put).items() if key not in removed}
            states[result.version.name] = dict(state)

        fresh = Repository.open(repository.root or "")
        versions = {version.name: version for version in fresh.versions()}
        assert set(versions) == set(states)
        for name, version in versions.items():
            rows = version.table("annotations").to_pydict()
            assert dict(zip(rows["sample_id"], rows["label"], strict=True)) == states[name]
            assert rows["annotation_id"] == sorted(rows["annotation_id"])
            assert version.commit.counts["annotations"] == len(states[name])
            old = states["v1"]
            found = diff(versions["v1"], version).annotations.counts
            assert found == {"added": len(states[name].keys() - old), "removed": 0, "changed": 0}
        newest, oldest = max(versions, key=lambda n: int(n[1:])), min(versions, key=lambda n: int(n[1:]))
        for a, b in [(oldest, newest), (newest, oldest), (f"v{(len(versions) + 1) // 2}", newest)]:
            found = diff(versions[a], versions[b]).annotations.counts
            assert found == {
                "added": len(states[b].keys() - states[a].keys()),
                "removed": len(states[a].keys() - states[b].keys()),
                "changed": sum(states[a][key] != states[b][key] for key in states[a].keys() & states[b].keys()),
            }
        assert verify(fresh) == []


def test_a_small_change_writes_little_and_many_are_folded(repository: Repository) -> None:
    names = {f"s{i:04}": "cat" for i in range(2000)}
    repository.commit(labeled(**names), message="base")
    base = repository.version().commit.tables["annotations"]
    one = repository.commit(Change(annotations=labels(s0001="dog")), message="one").version
    assert [info.rows for info in one.commit.tables["annotations"]] == [2000, 1]
    assert one.commit.tables["annotations"][0] == base[0]
    for i in range(20):
        repository.commit(Change(annotations=labels(**{f"s{i:04}": "bird"})), message="more")
    assert len(repository.version().commit.tables["annotations"]) < 12
    many = {f"s{i:04}": "dog" for i in range(500, 1000)}
    folded = repository.commit(Change(annotations=labels(**many)), message="a quarter").version
    assert [info.rows for info in folded.commit.tables["annotations"]] == [2000]
    assert verify(repository) == []


def test_accepted_versions_are_plain_parquet(repository: Repository) -> None:
    """One segment and no changes: other tools read the file as it is."""
    import duckdb

    version = repository.commit(labeled(a="cat", b="dog"), message="two").version
    info = version.commit.tables["annotations"][0]
    file = Path(repository.store.url) / "segments" / "annotations" / f"{info.id}.parquet"
    assert duckdb.sql(f"SELECT label FROM read_parquet('{file}') ORDER BY 1").fetchall() == [("cat",), ("dog",)]


def test_lookup_finds_keys_in_every_batch(monkeypatch: pytest.MonkeyPatch, repository: Repository) -> None:
    monkeypatch.setattr(segment, "MAPPED_FROM", 1)
    monkeypatch.setattr(segment, "_BATCH", 7)
    names = [f"s{i:03}" for i in range(0, 100, 2)]
    version = repository.commit(Change(samples=samples(*names)), message="even").version
    wanted = pa.array([f"s{i:03}" for i in range(-1 + 1, 101)] + ["", "zzz"])
    found = version.state("samples").contains(wanted)
    assert [key for key, hit in zip(wanted.to_pylist(), found, strict=True) if hit] == names
    assert version.state("samples").rows(wanted)["sample_id"].to_pylist() == names


def test_a_damaged_local_copy_is_found_and_made_again(monkeypatch: pytest.MonkeyPatch, repository: Repository) -> None:
    monkeypatch.setattr(segment, "MAPPED_FROM", 1)
    version = repository.commit(labeled(a="cat", b="dog"), message="two").version
    copy = next((repository.cache / "segments").glob("*.arrow"))
    copy.write_bytes(copy.read_bytes()[:100])
    again = Repository.open(repository.root or "").version()
    assert again.table("annotations").equals(version.table("annotations"))
