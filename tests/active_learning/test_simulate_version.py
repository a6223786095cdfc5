"""Replaying active learning on a version, through the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from datasetops.active_learning.simulate_version import simulate_version
from datasetops.cli.main import app
from datasetops.errors import DatasetOpsError
from datasetops.manifest import Change, Repository
from datasetops.schema import LabelSchema

COUNT = 48


def image(folder: Path, number: int, shade: int) -> str:
    rng = np.random.default_rng(number)
    pixels = np.clip(rng.normal(60 + 90 * shade, 20, (32, 32, 3)), 0, 255).astype(np.uint8)
    name = f"{number}.png"
    Image.fromarray(pixels).save(folder / name)
    return name


@pytest.fixture(scope="module")
def shades(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """48 images of two shades, labeled rightly in v1 and the other way round in v2."""
    folder = tmp_path_factory.mktemp("shades")
    (folder / "images").mkdir()
    schema = LabelSchema.model_validate(
        {
            "name": "shades",
            "version": 1,
            "tasks": [{"kind": "classification"}],
            "classes": [{"id": 0, "name": "dark"}, {"id": 1, "name": "light"}],
        }
    )
    for number in range(COUNT):
        image(folder / "images", number, number % 2)
    rows = "".join(f"{number}.png,{('dark', 'light')[number % 2]}\n" for number in range(COUNT))
    (folder / "right.csv").write_text(f"path,label\n{rows}")
    swapped = rows.replace("dark", "x").replace("light", "dark").replace("x", "light")
    (folder / "wrong.csv").write_text(f"path,label\n{swapped}")
    repository = Repository.init(folder / "repository", schema)
    for name in ("right", "wrong"):
        done = CliRunner().invoke(
            app,
            [
                "ingest",
                str(folder / f"{name}.csv"),
                "--images",
                str(folder / "images"),
                "-C",
                str(folder / "repository"),
            ],
        )
        assert done.exit_code == 0, done.output
    return repository


def run(repository: Repository, *arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["simulate", *arguments, "-C", str(repository.root), "--quiet"])
    return done.exit_code, done.output


@pytest.mark.slow
def test_the_command_tells_curves_and_draws_them(shades: Repository, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    wanted = ("v1", "--strategies", "auto", "--budgets", "4,8,999", "--seeds", "2", "--target", "90")
    status, text = run(shades, *wanted, "--report", str(report))
    assert status == 0, text
    assert "points above random" in text
    assert "Budgets of 999 labels are left out: the pool has 39." in text
    assert "<svg" in report.read_text()
    status, text = run(shades, *wanted, "--json")
    told = json.loads(text)
    assert told["version"] == "v1"
    assert list(told["strategies"]) == ["auto", "random"]
    assert told["strategies"]["auto"]["mean"][-1] > 0.9


@pytest.mark.slow
def test_labels_of_another_version_are_learned_from(shades: Repository) -> None:
    right, wrong = shades.version("v1"), shades.version("v2")
    found = simulate_version(shades, right, strategies=["random"], budgets=[8], seeds=2, noise_from=wrong)
    assert found.measured("random").mean() < 0.1
    found = simulate_version(shades, right, strategies=["random"], budgets=[8], seeds=2, flip=0.9)
    assert found.measured("random").mean() < 0.5


@pytest.mark.slow
def test_the_test_split_measures_and_validation_takes_no_part(shades: Repository, tmp_path: Path) -> None:
    splits = ["train"] * 24 + ["test"] * 16 + ["validation"] * 8
    rows = "".join(f"{n}.png,{('dark', 'light')[n % 2]},{split}\n" for n, split in enumerate(splits))
    (tmp_path / "split.csv").write_text(f"path,label,split\n{rows}")
    repository = Repository.init(tmp_path / "repository", shades.version("v1").schema)
    images = str(shades.root.parent / "images")
    call = ["ingest", str(tmp_path / "split.csv"), "--images", images, "-C", str(repository.root)]
    assert CliRunner().invoke(app, call).exit_code == 0
    found = simulate_version(repository, repository.version("v1"), strategies=["margin"], budgets=[8], seeds=2)
    assert (found.pool, found.test) == (24, 16)
    assert found.notes == ("Left out: 8 labeled samples of splits that are sealed or for validation.",)
    assert found.measured("margin").mean() > 0.9


def test_a_version_without_labels_is_told(repository: Repository) -> None:
    repository.commit(Change(samples=[{"sample_id": "a", "uri": "a.png", "width": 8, "height": 8}]), message="one")
    with pytest.raises(DatasetOpsError, match="nothing to replay"):
        simulate_version(repository, repository.version("v1"), strategies=["random"], budgets=[5])


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (("--budgets", "10,many"), "--budgets: expected whole numbers"),
        (("--report", "curves.pdf"), "ends in .html or .svg"),
        (("--target", "200"), "--target: expected percents"),
        (("--flip", "1"), "flip: expected a share"),
        (("--test-share", "0"), "test share: expected a share"),
    ],
)
def test_wrong_usage_is_told(repository: Repository, wrong: tuple[str, str], told: str) -> None:
    repository.commit(Change(samples=[{"sample_id": "a", "uri": "a.png", "width": 8, "height": 8}]), message="one")
    status, text = run(repository, "v1", *wrong)
    assert status == 2
    assert told in text
