"""`dsops preannotate` with a real ONNX classifier that is an exact function of pixels: the mean colour."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import typer
from colours import NAMES, add_image, picture
from colours import run as annotate
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner, Result

from datasetops.cli import preannotate
from datasetops.manifest import Change, Repository

pytestmark = pytest.mark.slow
Run = Callable[..., Result]


@pytest.fixture
def model(tmp_path: Path) -> str:
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["images"], ["mean"], axes=[2, 3], keepdims=0),
            helper.make_node("Mul", ["mean", "factor"], ["logits"]),
        ],
        "mean-colour",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [None, 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [None, 3])],
        [numpy_helper.from_array(np.float32(30), "factor")],
    )
    file = tmp_path / "colour.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), file)
    spec = {"family": "logits", "names": NAMES, "input": {"mean": [0, 0, 0], "std": [1, 1, 1]}}
    file.with_suffix(".yaml").write_text(json.dumps(spec))
    return f"onnx:{file}"


@pytest.fixture
def call(coloured: Repository, root: Path, model: str) -> Run:
    app = typer.Typer()
    app.callback()(lambda: None)
    preannotate.register(app)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["preannotate", *arguments, "-C", str(root)])

    return run


def answer(result: Result) -> dict[str, object]:
    assert result.exit_code == 0, result.output
    found: dict[str, object] = json.loads(result.stdout)
    return found


def test_a_session(call: Run, coloured: Repository, model: str) -> None:
    before = answer(call("--model", model, "--dry-run", "--price-per-hour", "2", "--json"))
    assert (before["version"], before["asked"], before["dry_run"]) == (None, 12, True)
    assert before["cost"]["images"] == 12  # type: ignore[index]
    assert coloured.version().name == "v1"
    made = answer(call("--model", model, "--json", "--quiet"))
    assert (made["version"], made["computed"], made["annotations"]) == (
        "v2",
        12,
        {"inserted": 12, "updated": 0, "deleted": 0},
    )
    rows = coloured.version().annotations()
    assert {row.sample_id: row.label for row in rows.itertuples()} == {
        f"s{number:02}": NAMES[number % 3] for number in range(12)
    }
    again = call("main", "--model", model)
    assert again.exit_code == 0, again.output
    assert "0 images computed, 12 known before." in again.stdout
    assert "Nothing in v2 has to change." in again.stdout
    done = call("--model", model, "--dry-run")
    assert "it costs nothing" in done.stdout


def test_thresholds_classes_and_limit(call: Run, coloured: Repository, model: str) -> None:
    high = answer(call("--model", model, "--threshold", "1", "--threshold", "red=0.1", "--json"))
    assert high["by_class"] == {"red": 4}
    some = answer(call("--model", model, "--classes", "green, blue", "--limit", "2", "--json"))
    assert (some["asked"], some["by_class"]) == (2, {"green": 1})


def test_what_did_not_reach_the_threshold_and_what_was_replaced_is_told(
    call: Run, coloured: Repository, model: str
) -> None:
    none = call("--model", model, "--threshold", "1")
    assert "Nothing in v1 has to change: no threshold was reached by the 12 predictions" in none.stdout
    annotate(coloured)
    least = call("--model", model, "--threshold", "1", "--threshold", "red=0.1")
    assert "v3: 4 new, 12 removed annotations." in least.stdout
    assert "Of those removed 12 are of another model" in least.stdout


def test_names_are_told_and_mapped(call: Run, coloured: Repository, model: str, tmp_path: Path) -> None:
    spec = Path(model.removeprefix("onnx:")).with_suffix(".yaml")
    other = tmp_path / "other.yaml"
    other.write_text(spec.read_text().replace('"red"', '"crimson"'))
    named = call("--model", model, "--model-config", str(other))
    assert "Classes that the model cannot name: red. --mapping may help." in named.stderr
    assert "Names of the model that count for no class: crimson." in named.stderr
    mapping = tmp_path / "map.yaml"
    mapping.write_text("crimson: red\n")
    made = answer(call("--model", model, "--model-config", str(other), "--mapping", str(mapping), "--json"))
    assert made["by_class"] == {"red": 4, "green": 4, "blue": 4}
    assert made["computed"] == 0


def test_a_wrong_number_of_names_is_told_on_the_first_image(call: Run, model: str, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(Path(model.removeprefix("onnx:")).with_suffix(".yaml").read_text().replace('"red", ', ""))
    told = call("--model", model, "--model-config", str(other))
    assert told.exit_code == 1
    assert f"{other}: family: as logits expected 2 scores; got 3" in told.stderr
    assert "images in a row" not in told.stderr


def test_a_target_precision(call: Run, coloured: Repository, root: Path, model: str) -> None:
    samples, rows = [], []
    for number in range(150):
        name = f"more{number:03}"
        box = (number % 29, 2, number % 29 + 9, 8 + number // 29)
        samples.append(add_image(root, name, picture(40, 30, box, number % 2)))
        row = {"annotation_id": f"{name}/l", "sample_id": name, "kind": "classification", "source": "human"}
        rows.append(row | {"label": "red" if number % 6 == 1 else NAMES[number % 2]})
    coloured.commit(Change(samples=samples, annotations=rows), message="labeled")
    told = call("--model", model, "--target-precision", "0.8", "--confidence", "0.9")
    assert told.exit_code == 0, told.output
    assert "Promised with 90% confidence, of all these classes together:" in told.stdout
    assert "reached on the held-out half" in told.stdout
    lines = told.stdout.splitlines()
    red = next(line for line in lines if line.startswith("red"))
    assert "80.0%" in red
    assert "100.0% of " in red
    rest = lines[lines.index("No promise, and no rows, for:") + 1 :][:2]
    assert rest[0].startswith("green  precision too low: ")
    assert rest[1].startswith("blue   too few: ")
    made = answer(call("--model", model, "--target-precision", "0.8", "--confidence", "0.9", "--json"))
    assert (made["computed"], made["by_class"]) == (0, {"red": 4})
    promises = made["promises"]
    assert [item["threshold"] is None for item in promises["classes"]] == [False, True, True]  # type: ignore[index]
    dry = call("--model", model, "--target-precision", "0.9", "--dry-run")
    assert "No promise, and no rows, for:" in dry.stdout


def test_accepted_by_score_with_a_plan(call: Run, coloured: Repository, root: Path, model: str) -> None:
    samples, rows = [], []
    for number in range(240):
        name = f"more{number:03}"
        box = (number % 29, 2, number % 29 + 9, 8 + number // 29)
        samples.append(add_image(root, name, picture(40, 30, box, number % 2)))
        row = {"annotation_id": f"{name}/l", "sample_id": name, "kind": "classification", "source": "human"}
        rows.append(row | {"label": NAMES[number % 2]})
    coloured.commit(Change(samples=samples, annotations=rows), message="labeled")
    target = ("--target-precision", "0.8", "--confidence", "0.9")
    told = call("--model", model, *target, "--auto-accept")
    assert told.exit_code == 0, told.output
    assert "They count unseen if the QA plan q1 accepts a random sample of them: dsops qa push q1" in told.stdout
    lines = told.stdout.splitlines()
    rest = "sample_id NOT IN (SELECT sample_id FROM annotations WHERE kind = 'classification')"
    assert lines[-4] == "Next, what is left to people:"
    assert lines[-3].startswith("  dsops select v3 --predictions ")
    assert lines[-3].endswith(f'--where "{rest}"')
    assert lines[-2:] == ["  dsops label push v3 --round rN", "  dsops audit v3"]
    assert coloured.version().where(rest) == ["s02", "s05", "s08", "s11"]  # blue, which nobody labeled
    again = answer(call("--model", model, *target, "--auto-accept", "--json"))
    assert (again["version"], again["qa_plan"]) == (None, "q1")
    together = call("--model", model, *target, "--promise", "all")
    assert "Promised with 90% confidence, of the rows of all classes together:" in together.stdout
    assert "all classes" in together.stdout
    assert "label push v4 --where \"source = 'model'\"" in together.stdout


def test_disagreement(call: Run, coloured: Repository, model: str) -> None:
    row = {"annotation_id": "s00/label", "sample_id": "s00", "kind": "classification", "label": "blue"}
    coloured.commit(Change(annotations=[row]), message="one label")
    made = answer(call("--model", model, "--also-labeled", "--disagreement", "--json"))
    (kept,) = made["disagreement"]  # type: ignore[misc]
    assert coloured.store.exists(kept["key"])
    told = call("--model", model, "--also-labeled", "--disagreement")
    assert kept["pairs"][0]["differ"] == kept["pairs"][0]["samples"] == 1
    assert f"Disagreement about classification, kept as {kept['key'][:20]}" in told.stdout
    lines = told.stdout.splitlines()
    assert lines[-3].split()[0] == "people"
    assert lines[-2] == "1 samples are disagreed on, most: s00 (1.00)"
    assert lines[-1].startswith("Labels that a model doubts: dsops audit v3 --predictions")
    assert kept["most"] == [{"sample_id": "s00", "score": 1.0}]


def test_a_comparison_that_cannot_be_made_is_told_after_the_run(call: Run, coloured: Repository, model: str) -> None:
    told = call("--model", model, "--disagreement")
    assert told.exit_code == 0, told.output
    assert "v2: 12 new annotations." in told.stdout
    assert "nothing to compare: only colour#" in told.stderr
    assert answer(call("--model", model, "--disagreement", "--json", "--quiet"))["disagreement"] == []


def test_what_is_left_out_is_told(call: Run, coloured: Repository, root: Path, model: str) -> None:
    row = {"annotation_id": "s00/label", "sample_id": "s00", "kind": "classification", "label": "blue"}
    coloured.commit(Change(annotations=[row], samples=[{"sample_id": "x", "uri": "x.png"}]), message="one label")
    (root / "s01.png").write_bytes(b"no image")
    told = call("--model", model)
    assert told.exit_code == 0
    assert "People labeled 1 of the 13 samples; theirs stay." in told.stderr
    assert "1 of the samples have no image at hand" in told.stderr
    assert "s01.png: unreadable" in told.stderr
    assert "10 new annotations" in told.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "--model: name a model"),
        (["--model", "nothing:x"], 1, "is no model that labels images"),
        (["--model", "onnx:missing.onnx"], 1, "missing.onnx"),
        (["--threshold", "high"], 2, "expected a score, or CLASS=SCORE; got 'high'"),
        (["--threshold", "rad=0.5"], 1, "no class 'rad'"),
        (["--threshold", "7"], 2, "expected a score in [0, 1]"),
        (["--target-precision", "1"], 2, "target precision: expected a number between 0 and 1"),
        (["--target-precision", "0.9", "--confidence", "0"], 2, "confidence: expected a number between 0 and 1"),
        (["--target-precision", "0.9", "--threshold", "0.5"], 2, "give either of them"),
        (["--auto-accept"], 2, "--auto-accept: only what a precision is promised of can be accepted unseen"),
        (["--promise", "all"], 2, "give a target precision"),
        (["--promise", "each", "--target-precision", "0.9"], 2, "--promise: expected class or all; got 'each'"),
        (["--target-precision", "0.9"], 1, "Nobody labeled a classification"),
        (["--option", "min_score"], 2, "expected NAME=VALUE"),
        (["--option", "speed=9"], 1, "no option 'speed'"),
        (["--task", "box"], 1, "box"),
        (["--task", "boxes"], 1, "no task 'boxes'"),
        (["--classes", "red,purple"], 1, "no class 'purple'"),
        (["--mapping", "none.yaml"], 1, "no mapping none.yaml"),
        (["--prompts", "none.yaml"], 1, "none.yaml"),
        (["--engine", "cloud"], 1, "no engine called 'cloud'"),
        (["--address", "x:1"], 2, "local engine has no address"),
        (["--boxes", "version"], 1, "no box to outline"),
        (["--where", "nothing = 1"], 1, "SQL"),
        (["v9"], 1, "no version or branch 'v9'"),
        (["--branch", "side"], 1, "side"),
    ],
)
def test_faults_are_told_without_a_traceback(
    call: Run, model: str, arguments: list[str], status: int, message: str
) -> None:
    whole = arguments if "--model" in arguments or not arguments else [*arguments, "--model", model]
    result = call(*whole)
    assert (result.exit_code, "Traceback" in result.output) == (status, False), result.output
    assert message in result.stderr
