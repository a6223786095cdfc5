"""Whatever is in a file, its reader gives a result or an error that names the file; nothing is lost without a word.

DSOPS_FUZZ_EXAMPLES is how many files each reader is given; the same ones every time.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from mutations import mutated
from parsers import PARSERS, Parser

from datasetops.errors import DatasetOpsError

EXAMPLES = int(os.environ.get("DSOPS_FUZZ_EXAMPLES", "150"))
LONGEST = 30  # seconds after which a reader counts as hanging


@contextmanager
def watched() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise AssertionError(f"it took more than {LONGEST} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LONGEST)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def laid_out(parser: Parser, place: Path) -> Path:
    folder = place / parser.name.replace("/", "-").replace(".", "-")
    for name, data in {**parser.beside, parser.name: b""}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder / parser.name


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
def test_sound_files_are_read(parser: Parser, place: Path) -> None:
    path = laid_out(parser, place)
    for seed in parser.seeds:
        path.write_bytes(seed)
        result = parser.read(path)
        assert parser.lost is None or parser.lost(seed, result) <= 0


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
def test_any_file_is_read_or_refused_with_its_name(parser: Parser, place: Path) -> None:
    path = laid_out(parser, place)

    @hypothesis.settings(
        max_examples=EXAMPLES, derandomize=True, database=None, phases=[hypothesis.Phase.generate], print_blob=False
    )
    @hypothesis.given(st.integers(0, 2**48), st.sampled_from(parser.seeds + parser.odd))
    def check(number: int, seed: bytes) -> None:
        data = mutated(seed, parser.kind, number)
        path.write_bytes(data)
        refused: Exception | None = None
        result: Any = None
        try:
            with watched():
                result = parser.read(path)
        except (DatasetOpsError, ValueError) as error:
            refused = error
        if refused is not None:
            assert isinstance(refused, DatasetOpsError) or type(refused) is ValueError, repr(refused)
            assert (parser.called or path.name) in str(refused).partition("\n")[0], (
                f"it does not name the file: {refused}"
            )
            return
        if parser.lost is not None:
            assert parser.lost(data, result) <= 0, "something was lost without a word"

    check()
