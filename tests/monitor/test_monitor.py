"""A probe of handwritten digits in production: the same digits, other ones, and what people said of them since."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import typer
from pictures import write_digits
from PIL import Image, ImageOps
from typer.testing import CliRunner, Result

from datasetops.cli import monitor as command
from datasetops.ledger import Event
from datasetops.manifest import Change, Repository
from datasetops.monitor.monitor import EVENT
from datasetops.records import sha256_hex
from datasetops.schema import LabelSchema
from datasetops.training.recipe import load_recipe
from datasetops.training.train import train

pytestmark = pytest.mark.slow
CLASSES = 3
TRAINED = 30  # scans of a class that the model learns from, a third of them to be validated on; as many come later


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a repository in `set`, whose m1 was trained on v1, and later scans in `later`."""
    root = tmp_path_factory.mktemp("monitor")
    home = root / "set"
    schema = {
        "name": "digits",
        "version": 1,
        "tasks": [{"kind": "classification"}],
        "classes": [{"id": number, "name": str(number)} for number in range(CLASSES)],
    }
    repository = Repository.init(home, LabelSchema.model_validate(schema))
    files = write_digits(home / "images", 2 * TRAINED, classes=CLASSES)
    for number in range(CLASSES):
        for file in sorted((home / "images" / str(number)).iterdir())[TRAINED:]:
            (root / "later").mkdir(exist_ok=True)
            file.rename(root / "later" / f"{number}-{file.name}")
    change = rows([file for file in files if file.exists()], home)
    repository.commit(change, message="digits")
    train(repository, repository.version(), load_recipe("probe"), experiment=True)
    return root


def rows(files: list[Path], home: Path) -> Change:
    samples, annotations = [], []
    for number, file in enumerate(files):
        name = sha256_hex(file.read_bytes())[:12]
        light = {"light": "night" if number % 3 == 0 else "day"}
        own = {"sample_id": name, "uri": file.relative_to(home).as_posix(), "sha256": sha256_hex(file.read_bytes())}
        split = ("train", "train", "val")[number // 3 % 3]
        samples.append({**own, "width": 8, "height": 8, "media_type": "image/png", "metadata": light, "split": split})
        label = file.parent.name if file.parent.name.isdigit() else file.name[0]
        row = {"annotation_id": name, "sample_id": name, "kind": "classification", "label": label}
        annotations.append({**row, "source": "human", "actor": "ann"})
    return Change(samples=samples, annotations=annotations)


@pytest.fixture
def world(trained: Path, tmp_path: Path) -> Path:
    """A copy of it for one test."""
    shutil.copytree(trained, tmp_path / "world")
    return tmp_path / "world"


def run(world: Path, samples: Path | str, *arguments: str) -> Result:
    app = typer.Typer()
    command.register(app)
    return CliRunner().invoke(app, ["m1", "--samples", str(samples), *arguments, "-C", str(world / "set")])


def test_more_of_the_same_raises_no_alarm_but_for_what_cannot_be_read(world: Path) -> None:
    (world / "later" / "broken.png").write_bytes(b"no image")
    found = run(world, world / "later", "--json")
    assert found.exit_code == 3, found.stderr
    told = json.loads(found.stdout)
    assert [alarm["name"] for alarm in told["alarms"]] == ["unreadable"]
    assert list(told["unreadable"]) == ["broken.png"]
    assert (told["samples"], told["labeled"], told["slices"]) == (CLASSES * TRAINED, None, [])
    assert told["images"]["told_apart"] < 0.714
    assert len(told["classes"]) == CLASSES
    passed = run(world, world / "later", "--limit", "unreadable=0.1")
    assert passed.exit_code == 0, passed.stdout
    assert "No alarm." in passed.stdout
    assert "unreadable: broken.png" in passed.stdout
    events = [entry.event for entry in Repository.open(world / "set").ledger.backwards() if entry.event.kind == EVENT]
    assert [event.outputs["passed"] for event in events] == [True, False]


def test_a_table_names_images_anywhere(world: Path) -> None:
    """By absolute paths, and by such that lead out of its folder."""
    files = sorted((world / "later").iterdir())
    (world / "tables").mkdir()
    table = world / "tables" / "some.csv"
    table.write_text(
        "\n".join(["path", *map(str, files[:40]), *(f"../later/{file.name}" for file in files[40:])]) + "\n"
    )
    told = json.loads(run(world, table, "--json").stdout)
    assert (told["samples"], told["unreadable"]) == (len(files), {})
    assert told["images"]["now"] == len(files)


def test_other_images_slices_and_answers_raise_alarms(world: Path) -> None:
    """Negatives of ones and zeros, all by day, and labels that say the model is never right."""
    lines = ["path,label,light"]
    for file in sorted((world / "later").iterdir()):
        if file.name[0] in "01":
            ImageOps.invert(Image.open(file).convert("L")).save(file)
            lines.append(f"later/{file.name},{'2' if len(lines) < 50 else ''},day")
    table = world / "table.csv"
    table.write_text("\n".join([*lines, "later/gone.png,,day"]) + "\n")
    page, text = world / "report.html", world / "dsops.prom"
    found = run(world, table, "--json", "--report", str(page), "--prometheus", str(text))
    assert found.exit_code == 3, found.stderr
    told = json.loads(found.stdout)
    names = {alarm["name"] for alarm in told["alarms"]}
    assert names >= {"told_apart", "stability", "missing_slices", "accuracy_drop", "calibration_gap", "unreadable"}
    assert told["images"]["told_apart"] > 0.9
    (light,) = told["slices"]
    assert light["gone"] == ["light = night"]
    assert told["labeled"]["samples"] == 49
    assert told["labeled"]["high"] < told["labeled"]["before"]
    assert any(uri.endswith("gone.png") for uri in told["unreadable"])
    prometheus = text.read_text()
    labels = 'model="m1",version="v1",source="table.csv"'
    assert f'dsops_monitor_alarms{{{labels},alarm="missing_slices"}} 1.0' in prometheus
    assert f"dsops_monitor_metric{{{labels}}} {told['labeled']['value']!r}" in prometheus
    assert "no sample any more with light = night" in page.read_text()
    assert page.read_text().count('src="data:image/jpeg') == len(told["images"]["unusual"]) == 12
    assert [value for _, value in told["images"]["unusual"]] == sorted(value for _, value in told["images"]["unusual"])
    watched = world / "policy.yaml"
    watched.write_text("name: lax\nstability: 9\n")
    assert run(world, table, "--policy", str(watched)).exit_code == 0


def test_labels_come_from_the_newest_accepted_version(world: Path) -> None:
    repository = Repository.open(world / "set")
    shutil.copytree(world / "later", world / "set" / "images" / "later")
    files = sorted((world / "set" / "images" / "later").iterdir())
    repository.commit(rows(files, world / "set"), message="labeled since")
    assert json.loads(run(world, world / "later", "--json").stdout)["labeled"] is None  # v2 is a draft
    version = repository.version()
    repository.ledger.record(Event("accept", "lead", inputs={"version": "v2", "commit": version.digest}))
    told = json.loads(run(world, world / "later", "--json").stdout)
    assert told["labeled"]["truth_from"] == "v2"
    assert told["labeled"]["samples"] == CLASSES * TRAINED
    assert told["labeled"]["value"] > 0.9
    assert told["labeled"]["low"] < told["labeled"]["value"] < told["labeled"]["high"]
    assert np.sign(told["labeled"]["gap"][1]) <= np.sign(told["labeled"]["gap"][2])
    (world / "table.csv").write_text(f"path\nlater/{files[0].name}\n")
    # As a version: what the model learned from is left out, labels are its own.
    of_version = json.loads(run(world, "v2", "--json").stdout)
    assert (of_version["samples"], of_version["shared"]) == (CLASSES * TRAINED, CLASSES * TRAINED)
    assert of_version["labeled"]["value"] == told["labeled"]["value"]
    # What it learned from says nothing, whatever the rest is compared with.
    against = json.loads(run(world, "v2", "--against", str(world / "table.csv"), "--json").stdout)
    assert (against["samples"], against["shared"], against["against"][:9]) == (
        CLASSES * TRAINED - 1,
        CLASSES * TRAINED + 1,
        "table.csv",
    )
    nothing = run(world, "v1")
    assert (nothing.exit_code, "no sample that is new to m1" in nothing.stderr) == (1, True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,label\nlater/0-0079.png,7\n", "table.csv, line 2: label: '7' is no class of the schema 'digits'"),
        ("image_name\nx\n", "has no column path or uri"),
    ],
)
def test_a_table_that_cannot_be_used_names_its_line(world: Path, content: str, message: str) -> None:
    table = world / "table.csv"
    table.write_text(content)
    found = run(world, table)
    assert (found.exit_code, message in found.stderr) == (1, True), found.stderr


def test_few_samples_are_told_and_raise_no_alarm(world: Path) -> None:
    for file in sorted((world / "later").iterdir())[5:]:
        file.unlink()
    found = run(world, world / "later")
    assert found.exit_code == 0, found.stderr
    assert "too few to tell a change from chance" in found.stderr
