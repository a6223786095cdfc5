"""What each tracker keeps of a training and of an evaluation, read back from what it wrote."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from datasetops.cli import doctor as doctor_command
from datasetops.cli import evaluate as evaluate_command
from datasetops.cli import track as track_command
from datasetops.cli import train as train_command
from datasetops.errors import NotFoundError
from datasetops.evaluation.record import Evaluation
from datasetops.manifest import Repository
from datasetops.settings import FILE_NAME
from datasetops.tracking.base import Place, open_tracker, without_secrets
from datasetops.tracking.report import (
    evaluation_report,
    numbers_of,
    tell,
    tell_production,
    tracker_of,
    training_report,
    try_to_tell,
)
from datasetops.training.record import ModelRecord


def run(repository: Repository, *arguments: str) -> Result:
    app = typer.Typer()
    track_command.register(app)
    evaluate_command.register(app)
    train_command.register(app)
    doctor_command.register(app)
    return CliRunner().invoke(app, [*arguments, "-C", str(repository.root)])


def settled(repository: Repository, **settings: str) -> Repository:
    """The same with settings in its file."""
    file = Path(str(repository.root), FILE_NAME)
    file.write_text(file.read_text() + "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()))
    return Repository.open(str(repository.root))


def test_what_is_no_finite_number_is_left_out() -> None:
    values = {"a": {"b": 1, "c": None, "d": True}, "n": float("inf"), "rows": [{"loss": 1}], "e": 0.5}
    assert numbers_of(values) == {"a.b": 1.0, "e": 0.5}


def test_unknown_trackers_and_passwords_in_addresses_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="Did you mean 'mlflow'"):
        open_tracker("mlflo", Place("pets", tmp_path))
    for secret in ("ann:secret", "token"):
        with pytest.raises(ValueError, match="without user and password"):
            open_tracker("mlflow", Place("pets", tmp_path, f"https://{secret}@host/"))
    assert (
        without_secrets("no answer of postgresql://ann:secret@host/db, a@b") == "no answer of postgresql://host/db, a@b"
    )


def test_nobody_is_told_unless_the_settings_say_so(labeled: Repository, model: ModelRecord) -> None:
    before = sorted(Path(str(labeled.root)).iterdir())
    assert tell(tracker_of(labeled), training_report(labeled, model)) is None
    assert sorted(Path(str(labeled.root)).iterdir()) == before
    refused = run(labeled, "track", "m1")
    assert (refused.exit_code, "--tracker: name one" in refused.stderr) == (2, True)


@pytest.mark.slow
def test_mlflow_in_a_folder(labeled: Repository, model: ModelRecord, evaluation: Evaluation) -> None:
    repository = settled(labeled, tracker="mlflow")
    told = run(repository, "track", "m1", "--json")
    assert told.exit_code == 0, told.stderr
    assert json.loads(told.stdout)["told"]
    again = run(repository, "track", "m1")
    assert "knows it already" in again.stdout
    assert run(repository, "track", evaluation.evaluation_id).exit_code == 0
    check_mlflow(f"file://{repository.root}/mlruns", model, evaluation)
    check_alias(repository, f"file://{repository.root}/mlruns")


def check_alias(repository: Repository, uri: str) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    tracker, client = tracker_of(repository), MlflowClient(uri, uri)
    assert tell_production(tracker, "m1") == "mlflow has it as models:/colours@production."
    assert client.get_model_version_by_alias("colours", "production").tags["dsops.model"] == "m1"
    assert "dsops track m7" in str(tell_production(tracker, "m7"))
    assert tell_production(tracker, None) is None
    with pytest.raises(MlflowException):
        client.get_model_version_by_alias("colours", "production")


def check_mlflow(uri: str, model: ModelRecord, evaluation: Evaluation) -> None:
    """A store has one run of each, and the model in its registry."""
    from mlflow import MlflowClient

    client = MlflowClient(uri, uri)
    experiment = client.get_experiment_by_name("colours")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert len(runs) == 2
    training = runs.pop("m1")
    assert training.info.status == "FINISHED"
    numbers = training.data.metrics
    assert (numbers["accuracy"], numbers["classes.a/_/b.AP_" + digest("classes.a//b.AP")]) == (0.75, 0.25)
    assert numbers["classes.stop_ _new_.AP_" + digest("classes.stop? (new).AP")] == 0.5
    assert len([name for name in numbers if name.startswith("classes")]) == 2  # what is not a number is left out
    losses = {"loss": [(1, 2.0), (2, 1.0)], "validation_loss": [(2, 1.5)]}
    for name, values in losses.items():
        history = client.get_metric_history(training.info.run_id, name)
        assert [(item.step, item.value) for item in history] == values
    assert (training.data.params["recipe.optimiser.rate"], training.data.params["seed"]) == ("0.1", "3")
    (used,) = training.inputs.dataset_inputs
    assert used.dataset.name == "colours v1"
    assert used.dataset.digest == model.commit[:36]
    assert json.loads(used.dataset.source)["commit"] == model.commit
    assert {tag.key: tag.value for tag in used.tags}["mlflow.data.context"] == "training"
    (version,) = client.search_model_versions("name = 'colours'")
    assert (version.run_id, version.tags["dsops.model"], version.tags["dsops.commit"]) == (
        training.info.run_id,
        "m1",
        model.commit,
    )
    kept = client.download_artifacts(training.info.run_id, "model")
    assert Path(kept, "weights.safetensors").read_bytes() == b"weights"
    assert not list(Path(kept).glob("samples*"))
    (judged,) = runs.values()
    assert judged.data.metrics["accuracy"] == evaluation.metrics["accuracy"]
    assert {item.path for item in client.list_artifacts(judged.info.run_id)} == {
        "evaluation.json",
        "model_card.md",
        "failures.csv",
    }


def digest(text: str) -> str:
    from datasetops.records import sha256_hex

    return sha256_hex(text.encode())[:8]


@pytest.mark.slow
def test_a_tracker_that_fails_loses_nothing(labeled: Repository, model: ModelRecord) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and nobody listens
        repository = settled(labeled, tracker="mlflow", tracker_uri=f"http://127.0.0.1:{taken.getsockname()[1]}")
        said = try_to_tell(tracker_of(repository), lambda: training_report(repository, model), "m1")
        failed = run(repository, "track", "m1")
    assert said is not None
    assert said.startswith("warning: mlflow was not told: ")
    assert said.endswith("Nothing is lost: m1 is kept. To try again: dsops track m1 --tracker mlflow")
    assert (failed.exit_code, "mlflow was not told" in failed.stderr) == (1, True)


@pytest.mark.slow
def test_what_was_half_told_is_told_again(labeled: Repository, model: ModelRecord) -> None:
    half = open_tracker("mlflow", Place("colours", Path(str(labeled.root))))
    report = training_report(labeled, model)
    started = half.start(report.key, report.name, report.parameters, report.tags)
    assert started is not None
    started.finish(failed=True)
    assert tell(half, report) is not None
    assert tell(half, report) is None


@pytest.mark.slow
@pytest.mark.skipif(find_spec("sqlalchemy") is not None, reason="the whole of MLflow is installed")
def test_a_database_that_the_small_package_cannot_write_is_said(labeled: Repository, model: ModelRecord) -> None:
    repository = settled(labeled, tracker="mlflow", tracker_uri=f"sqlite:///{labeled.root}/runs.db")
    found = run(repository, "track", "m1")
    assert (found.exit_code, "cannot keep runs at a sqlite address" in found.stderr) == (1, True), found.stderr
    assert "install the whole of MLflow" in found.stderr
    before = run(
        repository, "train", "v1", "--recipe", "head"
    )  # v1 is no accepted version, which is not asked any more
    assert (before.exit_code, "cannot keep runs at a sqlite address" in before.stderr) == (1, True), before.stderr
    row = json.loads(run(repository, "doctor", "--json").stdout)["checks"][-1]
    assert (row["what"], row["state"]) == ("tracker mlflow", "missing")
    assert "install the whole of MLflow" in row["remedy"]


@pytest.mark.slow
def test_wandb_writes_a_folder_and_sends_nothing(
    labeled: Repository, model: ModelRecord, evaluation: Evaluation
) -> None:
    said = run(labeled, "track", "m1", "--tracker", "wandb")
    assert said.exit_code == 0, said.stderr
    assert "knows it already" in run(labeled, "track", "m1", "--tracker", "wandb").stdout
    (folder,) = Path(str(labeled.root), "wandb").glob("offline-run-*")
    (written,) = folder.glob("*.wandb")
    data = written.read_bytes()
    for text in (model.commit, "recipe.optimiser.rate", "classes.stop? (new).AP", "weights.safetensors"):
        assert text.encode() in data, text
    staged = Path(str(labeled.root), "artifacts", "staging")
    assert [file.read_bytes() for file in staged.iterdir()].count(b"weights") == 1
    assert tell(open_tracker("wandb", Place("colours", Path(str(labeled.root)))), evaluation_report(evaluation))


@pytest.fixture
def mlflow_server(tmp_path: Path) -> Iterator[str]:
    """Address of a real server with a database; DSOPS_MLFLOW names the command of an installation of all of MLflow."""
    command = os.environ.get("DSOPS_MLFLOW")
    if not command:
        pytest.skip("DSOPS_MLFLOW is not set: it names the command mlflow of the whole package")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = ["--backend-store-uri", f"sqlite:///{tmp_path}/runs.db", "--artifacts-destination", f"{tmp_path}/files"]
    arguments = [command, "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1", *place]
    log = (tmp_path / "server.log").open("w")
    process = subprocess.Popen(arguments, stdout=log, stderr=log, cwd=tmp_path, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    health = f"http://127.0.0.1:{port}/health"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(health, timeout=1).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.3)
        else:
            pytest.fail((tmp_path / "server.log").read_text())
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)
        log.close()


@pytest.mark.server
def test_mlflow_at_a_server(
    labeled: Repository, model: ModelRecord, evaluation: Evaluation, mlflow_server: str
) -> None:
    repository = settled(labeled, tracker="mlflow", tracker_uri=mlflow_server)
    for report in (training_report(repository, model), evaluation_report(evaluation)):
        assert tell(tracker_of(repository), report) is not None
        assert tell(tracker_of(repository), report) is None
    check_mlflow(mlflow_server, model, evaluation)
    check_alias(repository, mlflow_server)


@pytest.mark.slow
def test_an_evaluation_is_told_by_its_command_and_survives_the_tracker(
    labeled: Repository, evaluation: Evaluation
) -> None:
    told = run(labeled, "evaluate", "mean-colour", "v1", "--resamples", "100", "--tracker", "mlflow")
    assert told.exit_code == 0, told.stderr
    assert "mlflow has it as run " in told.stderr
    repository = settled(labeled, tracker="mlflow", tracker_uri="http://127.0.0.1:9")
    lost = run(repository, "evaluate", "mean-colour", "v1", "--resamples", "100", "--json")
    assert lost.exit_code == 0, lost.stderr
    assert json.loads(lost.stdout)["evaluation"] == evaluation.evaluation_id
    assert f"dsops track {evaluation.evaluation_id} --tracker mlflow" in lost.stderr
    unknown = run(labeled, "evaluate", "mean-colour", "v1", "--tracker", "mlfow")
    assert (unknown.exit_code, "Did you mean 'mlflow'" in unknown.stderr) == (1, True)
