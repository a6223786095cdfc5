"""No two trainings share checkpoints."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from datasetops.errors import ConflictError
from datasetops.training import train as training
from datasetops.training.lock import alone
from datasetops.training.recipe import load_recipe
from datasetops.training.record import model_records

from .conftest import MakeDigits, accept

_HOLDER = """
import sys, time
from pathlib import Path
from datasetops.training.lock import alone
with alone(Path(sys.argv[1])):
    print("in", flush=True)
    time.sleep(600)
"""


def test_a_folder_is_free_again_when_its_process_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "run"
    command = [sys.executable, "-c", _HOLDER, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "in\n"
        with pytest.raises(ConflictError, match=f"under way already: process {holder.pid} on "), alone(folder):
            pass
        holder.kill()
    with alone(folder), pytest.raises(ConflictError), alone(folder):
        pass
    assert not list(folder.parent.iterdir())


@pytest.mark.slow
@pytest.mark.usefixtures("pixels")
def test_the_same_training_is_refused_while_it_is_under_way(make_digits: MakeDigits) -> None:
    repository = make_digits(lambda number: ("train", "train", "val")[number % 3])
    accept(repository)
    recipe = load_recipe("probe")
    refused = []

    def second(items: Iterable[Any], total: int, label: str) -> Iterator[Any]:
        with pytest.raises(ConflictError) as told:
            training.train(repository, repository.version("v1"), recipe)
        refused.append(told.value.remedy)
        return iter(items)

    training.train(repository, repository.version("v1"), recipe, progress=second)
    assert "Wait until it ends" in refused[0]
    assert [record.name for record in model_records(repository)] == ["m1"]
