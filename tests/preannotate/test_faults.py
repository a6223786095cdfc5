"""What is said of models that cannot be had or used, by the command; and memory that runs out in the middle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from colours import MeanColour, fill
from typer.testing import CliRunner, Result

from datasetops.cli import preannotate
from datasetops.engine.local import LocalEngine
from datasetops.manifest import Repository
from datasetops.preannotate.run import preannotate as annotate

pytestmark = pytest.mark.slow
Run = Callable[..., Result]


@pytest.fixture
def call(coloured: Repository, root: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    pytest.importorskip("transformers", reason="the extra 'transformers' is not installed")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    app = typer.Typer()
    app.callback()(lambda: None)
    preannotate.register(app)

    def run(*arguments: str) -> Result:
        result = CliRunner().invoke(app, ["preannotate", *arguments, "-C", str(root)])
        assert "Traceback" not in result.output
        assert coloured.version().name == "v1"
        return result

    return run


def saved(family: str, folder: Path) -> str:
    from tiny_checkpoints import save_family

    return f"local:{save_family(family, folder / family)}"


def test_a_model_that_is_not_there_says_how_to_fetch_it_and_how_to_work_offline(call: Run, tmp_path: Path) -> None:
    result = call("--model", "hf:nobody/nothing@main")
    assert result.exit_code == 1
    assert "'nobody/nothing' cannot be loaded" in result.stderr
    assert "hf download NAME --local-dir DIR" in result.stderr.replace("\n", " ")
    result = call("--model", f"local:{tmp_path / 'none'}")
    assert (result.exit_code, "holds no saved model" in result.stderr) == (1, True)


def test_pickled_weights_are_refused(call: Run, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    model = saved("vit", tmp_path)
    weights = tmp_path / "vit" / "model.safetensors"
    torch.save(load_file(weights), tmp_path / "vit" / "pytorch_model.bin")
    weights.unlink()
    result = call("--model", model)
    assert result.exit_code == 1
    assert "only pickled weights (pytorch_model.bin)" in result.stderr
    assert "never opened" in result.stderr


def test_a_model_for_something_else_is_refused(call: Run, tmp_path: Path) -> None:
    result = call("--model", saved("vit", tmp_path), "--task", "box")
    assert (result.exit_code, "gives classification, not box" in result.stderr) == (1, True)
    result = call("--model", saved("sam", tmp_path))
    assert (result.exit_code, "gives mask, and the schema" in result.stderr.replace("\n", " ")) == (1, True)


@pytest.mark.parametrize("text", ["", "red: []\n", "red: ''\n"])
def test_prompts_that_ask_nothing_are_refused(call: Run, tmp_path: Path, text: str) -> None:
    prompts = tmp_path / "prompts.yaml"
    prompts.write_text(text)
    result = call("--model", saved("clip", tmp_path), "--prompts", str(prompts))
    assert result.exit_code == 1
    assert f"{prompts}" in result.stderr.replace("\n", "")


def test_classes_whose_words_a_model_does_not_know_are_named(call: Run, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.yaml"
    prompts.write_text("red: a photo of a cat\ngreen: xylophone\nblue: a dog\n")
    result = call("--model", saved("owlv2", tmp_path), "--prompts", str(prompts))
    assert result.exit_code == 1
    assert "cannot name the class 'green': it knows none of the words" in result.stderr.replace("\n", " ")


def test_memory_that_runs_out_costs_no_image(tmp_path: Path) -> None:
    import torch

    class Large(MeanColour):
        def predict(self, prepared: Sequence[Any]) -> list[list[Any]]:
            sizes.append(len(prepared))
            if len(prepared) > 3:
                torch.empty(2**60, dtype=torch.uint8)
            return super().predict(prepared)

    sizes: list[int] = []
    rows = []
    for name, model in (("whole", MeanColour()), ("large", Large())):
        repository = fill(tmp_path / name)
        engine = LocalEngine(jobs=1, batch=8)
        made = annotate(repository, repository.version(), model, thresholds=0.0, engine=engine)
        assert (made.computed, made.faults) == (12, ())
        rows.append(repository.version().annotations().drop(columns=["event_id", "created_at", "answer"]))
    assert sizes == [8, 4, 2, 2, 4, 2, 2, 2, 2]
    assert rows[0].equals(rows[1])
