from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasetops.models import EmbeddingCache

DIM = 5


def vector(key: str) -> list[float]:
    """Numbers that half precision holds exactly, other ones for every key."""
    return [float(ord(letter)) for letter in key.ljust(DIM, "!")][:DIM]


def vectors(keys: list[str]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.array([vector(key) for key in keys], dtype=np.float32).reshape(len(keys), DIM)


KEYS = st.text("abc", min_size=1, max_size=3)


@given(
    added=st.lists(st.lists(KEYS, min_size=1, unique=True, max_size=8), max_size=4), wanted=st.lists(KEYS, max_size=20)
)
def test_what_was_added_is_found_and_nothing_else(
    added: list[list[str]], wanted: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    for keys in added:
        EmbeddingCache(folder, "model").add(keys, vectors(keys))
    out = np.full((len(wanted), DIM), np.nan, dtype=np.float32)
    known = EmbeddingCache(folder, "model").fetch(wanted, out)
    there = {key for keys in added for key in keys}
    assert known.tolist() == [key in there for key in wanted]
    np.testing.assert_array_equal(out[known], vectors([key for key in wanted if key in there]))
    assert np.isnan(out[~known]).all()


def test_models_do_not_mix(tmp_path: Path) -> None:
    EmbeddingCache(tmp_path, "one").add(["a"], vectors(["a"]))
    out = np.zeros((1, DIM), np.float32)
    assert not EmbeddingCache(tmp_path, "two").fetch(["a"], out).any()
    assert EmbeddingCache(tmp_path, "one").fetch(["a"], out).all()


@pytest.mark.parametrize("kept", [0, 100, 0.5, -1])
def test_torn_and_foreign_files_are_ignored(kept: float, tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path, "model")
    cache.add(["a", "b"], vectors(["a", "b"]))
    [torn] = (tmp_path / "model").glob("*.arrow")
    content = torn.read_bytes()
    torn.write_bytes(content[: int(kept * len(content)) if 0 < kept < 1 else int(kept)])
    with pa.ipc.new_file(str(tmp_path / "model" / "foreign.arrow"), pa.schema([("x", pa.int8())])) as writer:
        writer.write_table(pa.table({"x": pa.array([1], pa.int8())}))
    (tmp_path / "model" / "killed.part").write_bytes(b"half of a")
    cache.add(["c"], vectors(["c"]))
    out = np.zeros((3, DIM), np.float32)
    assert cache.fetch(["a", "b", "c"], out).tolist() == [False, False, True]
    assert out[2].tolist() == vector("c")


def test_files_are_arrow_that_others_can_read(tmp_path: Path) -> None:
    EmbeddingCache(tmp_path, "model").add(["a", "b"], vectors(["a", "b"]))
    [file] = (tmp_path / "model").iterdir()
    table = pa.ipc.open_file(str(file)).read_all()
    assert table.to_pydict() == {"key": ["a", "b"], "vector": [vector("a"), vector("b")]}


@pytest.mark.slow
def test_several_processes_write_at_once(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np; from pathlib import Path; from datasetops.models import EmbeddingCache\n"
        "cache = EmbeddingCache(Path(sys.argv[1]), 'model')\n"
        "for i in range(20):\n"
        "    cache.add([f'{sys.argv[2]}{i}', 'shared'], np.full((2, 5), i, np.float32))\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name]) for name in "xy"]
    assert [process.wait(60) for process in running] == [0, 0]
    keys = [f"{name}{i}" for name in "xy" for i in range(20)] + ["shared"]
    out = np.zeros((len(keys), DIM), np.float32)
    assert EmbeddingCache(tmp_path, "model").fetch(keys, out).all()
    assert out[:40, 0].tolist() == [*range(20), *range(20)]
