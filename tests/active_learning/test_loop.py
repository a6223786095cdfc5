"""The loop: steps that are never done twice, whatever stops it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from clusters import Clusters
from typer.testing import CliRunner

import datasetops.active_learning.loop.run as run_module
from datasetops.active_learning import load_round, rounds
from datasetops.active_learning.loop import LoopResult, load_config, run_loop
from datasetops.active_learning.loop.state import STEPS, load_state, record_step
from datasetops.cli import loop as loop_command
from datasetops.errors import DatasetOpsError, ModelError, NotFoundError, SchemaError
from datasetops.labeling.batch import Project, save_project

FILES = {
    "tool": "cvat", "wait": False, "audit": {"checks": ["schema"]}, "train": False,
    "n": 12, "strategy": "auto", "random_share": 0.25,
}  # fmt: skip


def write(folder: Path, **fields: Any) -> Path:
    """A loop's configuration; labeling is by files in the folder."""
    told = {"name": "pets", "out": str(folder / "tasks-{round}.zip"), "until": {"rounds": 2}} | FILES | fields
    file = folder / "loop.yaml"
    file.write_text(yaml.safe_dump({key: value for key, value in told.items() if value is not None}))
    return file


def go(clusters: Clusters, file: Path) -> LoopResult:
    return run_loop(clusters.repository, load_config(file))


def kinds(clusters: Clusters, kind: str) -> int:
    return sum(entry.event.kind == kind for entry in clusters.repository.ledger.backwards())


@pytest.fixture
def clusters(tmp_path: Path) -> Clusters:
    return Clusters(tmp_path / "set", count=80, validation=30)


@pytest.mark.slow
def test_it_stops_for_labels_and_goes_on_when_they_are_back(clusters: Clusters, tmp_path: Path) -> None:
    file = write(tmp_path)
    first = go(clusters, file)
    assert (first.state, [step for _, step, _ in first.steps]) == ("waiting", ["select", "push"])
    assert "0 of 12 items are back" in first.words
    assert (tmp_path / "tasks-r1.zip").is_file()
    made = load_round(clusters.repository, "r1")
    assert (len(made.samples), len(made.random)) == (12, 3)

    clusters.label(made.samples[:6])
    assert "6 of 12 items are back" in go(clusters, file).words
    clusters.label(made.samples[6:])
    second = go(clusters, file)
    assert [(turn, step) for turn, step, _ in second.steps] == [
        *((1, step) for step in STEPS[2:]),
        *((2, step) for step in STEPS[:2]),
    ]
    report = second.steps[4][2]
    assert report["labeled"] == 12
    assert report["metric"]["low"] < report["metric"]["value"] < 1
    clusters.label(load_round(clusters.repository, "r2").samples)
    last = go(clusters, file)
    assert (last.state, last.turns) == ("finished", 2)
    assert go(clusters, file) == LoopResult("finished", "Finished: 2 rounds were asked for.", 2, ())
    assert (kinds(clusters, "select"), kinds(clusters, "label-push")) == (2, 2)
    assert go(clusters, write(tmp_path, until={"rounds": 3})).state == "waiting"


@pytest.mark.slow
@pytest.mark.parametrize("died_in", range(7))
def test_a_step_whose_end_was_not_noted_is_not_done_twice(
    clusters: Clusters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, died_in: int
) -> None:
    """It dies between the work of a step and the note that it is done."""
    file = write(tmp_path, until={"rounds": 1})
    real, noted = run_module.record_step, []

    def record(*told: Any) -> Any:
        if len(noted) == died_in:
            raise KeyboardInterrupt
        noted.append(told)
        return real(*told)

    monkeypatch.setattr(run_module, "record_step", record)
    for _ in range(2):  # the second time with labels
        try:
            go(clusters, file)
        except KeyboardInterrupt:
            break
        clusters.label(load_round(clusters.repository, "r1").samples)
    monkeypatch.undo()
    assert load_state(clusters.repository, "pets").step == STEPS[died_in]
    if died_in < 2:
        assert go(clusters, file).state == "waiting"
        clusters.label(load_round(clusters.repository, "r1").samples)
    assert go(clusters, file).state == "finished"
    assert len(list(rounds(clusters.repository))) == 1
    assert [kinds(clusters, kind) for kind in ("select", "label-push", "loop")] == [1, 1, len(STEPS)]


@pytest.mark.slow
def test_it_ends_when_the_metric_or_the_stop_rule_says_so(clusters: Clusters, tmp_path: Path) -> None:
    everything = {"n": 12, "until": {"metric": 0.01}}
    go(clusters, write(tmp_path, **everything))
    clusters.label(load_round(clusters.repository, "r1").samples)
    assert "1.0% was asked for" in go(clusters, write(tmp_path, **everything)).words
    assert go(clusters, write(tmp_path, until={"least_gain": 2.0})).state == "waiting"  # one round tells no slope
    clusters.label(load_round(clusters.repository, "r2").samples)
    assert "Stop" in go(clusters, write(tmp_path, until={"least_gain": 2.0})).words


@pytest.mark.slow
def test_open_findings_hold_it(clusters: Clusters, tmp_path: Path) -> None:
    asked = {"audit": {"checks": ["exact_duplicate", "balance", "schema", "coverage"], "fail_on": "low"}}
    go(clusters, write(tmp_path, **asked))
    clusters.label(load_round(clusters.repository, "r1").samples)
    held = go(clusters, write(tmp_path, **asked))
    assert held.state == "held"
    assert "dsops review" in held.words
    assert go(clusters, write(tmp_path, until={"rounds": 1}, audit=False)).state == "finished"


@pytest.mark.slow
def test_training_is_a_command_of_ones_own(clusters: Clusters, tmp_path: Path) -> None:
    script = "import os, sys; open('seen', 'a').write(sys.argv[1] + os.environ['DSOPS_LOOP_ROUND'])"
    (tmp_path / "train.py").write_text(script)
    command = f"{sys.executable} {tmp_path / 'train.py'} {{version}}-{{round}}-"
    asked = {"until": {"rounds": 1}, "train": {"command": command}}
    go(clusters, write(tmp_path, **asked))
    clusters.label(load_round(clusters.repository, "r1").samples)
    (tmp_path / "train.py").write_text("raise SystemExit(3)")
    with pytest.raises(DatasetOpsError, match="status 3"):
        go(clusters, write(tmp_path, **asked))
    (tmp_path / "train.py").write_text(script)
    assert go(clusters, write(tmp_path, **asked)).state == "finished"
    assert (tmp_path / "set" / "seen").read_text() == "v2-r1-r1"


@pytest.mark.slow
def test_waiting_gives_up_after_its_time(clusters: Clusters, tmp_path: Path) -> None:
    result = go(clusters, write(tmp_path, wait={"every": 1, "timeout": 0.5}))
    assert result.state == "waiting"
    assert "Run the same command again when labels are back" in result.words


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"stategy": "margin"}, "line [0-9]+: stategy: there is no such field"),
        ({"wait": {"evry": 3}}, "wait.*there is no such field"),
        ({"until": {}}, "until: expected an end"),
        ({"until": {"least_gain": 0.1, "worth": 3}}, "least_gain or worth"),
        ({"n": None, "budget": "a while"}, "budget: expected hours or minutes"),
        ({"out": None}, "out: expected for a tool that reads files"),
        ({"out": "tasks.zip"}, "out: expected {round}"),
        ({"train": {}}, "train: expected model or command"),
        ({"budget": "8h"}, "n: expected n or budget; got both"),
        (
            {"audit": {"fail_on": "critical"}},
            "audit.fail_on: expected one of 'low', 'medium' or 'high'; got 'critical'",
        ),
        ({"random_share": 2}, "random_share: expected a number of at most 1"),
        ({"name": "a b"}, "name: expected text of the form"),
    ],
)
def test_a_wrong_configuration_is_refused_before_anything_is_done(
    tmp_path: Path, fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(SchemaError, match=words) as refused:
        load_config(write(tmp_path, **fields))
    assert "\n" not in refused.value.message


def test_an_unknown_strategy_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as unknown:
        load_config(write(tmp_path, strategy="margni"))
    assert "'margin'" in unknown.value.remedy
    with pytest.raises(NotFoundError, match=r"audit\.checks: there is no check 'label_nois'") as unknown:
        load_config(write(tmp_path, audit={"checks": ["label_nois"]}))
    assert "'label_noise'" in unknown.value.remedy
    with pytest.raises(SchemaError) as misspelt:
        load_config(write(tmp_path, stategy="margin"))
    assert "'strategy'" in misspelt.value.remedy


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "told"), [("fewshot:builtin:efficientnet-lite9", "no built-in model"), ("onxx:x", "'onxx:x' is no model")]
)
def test_a_model_that_is_not_there_is_refused_before_anybody_labels(
    clusters: Clusters, tmp_path: Path, model: str, told: str
) -> None:
    with pytest.raises(ModelError, match=told):
        go(clusters, write(tmp_path, train={"model": model}))
    assert (kinds(clusters, "select"), kinds(clusters, "label-push")) == (0, 0)


@pytest.mark.slow
def test_a_refused_token_ends_the_waiting(clusters: Clusters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401)
            self.end_headers()

        do_POST = do_GET  # noqa: N815 (what the base class calls)

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("LABEL_STUDIO_URL", url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "0123456789abcdef0123456789abcdef01234567")
    schema = clusters.repository.version().commit.schema
    save_project(clusters.repository, Project("pets", "label-studio", url, 1, schema, None, "<View/>"))
    fields = {"tool": "label-studio", "out": None, "project": "pets", "wait": {"every": 1, "timeout": 3600}}
    with pytest.raises(DatasetOpsError, match="refused the token"):  # at the push, which nothing came of
        go(clusters, write(tmp_path, **fields))
    state = load_state(clusters.repository, "pets")
    record_step(clusters.repository, "pets", "", state, {"batch": "pets-r1", "project": "pets", "url": url})
    try:
        with pytest.raises(DatasetOpsError, match="refused the token"):
            go(clusters, write(tmp_path, **fields))
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.slow
def test_the_command_tells_where_it_stands(clusters: Clusters, tmp_path: Path) -> None:
    from datasetops.cli.main import app

    if not any(command.name == "loop" for command in app.registered_commands):
        loop_command.register(app)
    place = ["-C", str(clusters.repository.root), "--json"]
    done = CliRunner().invoke(app, ["loop", "--config", str(write(tmp_path)), *place])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["loop"], told["state"], told["turns"]) == ("pets", "waiting", 0)
    assert [step["step"] for step in told["steps"]] == ["select", "push"]
    lost = CliRunner().invoke(app, ["loop", "--config", str(tmp_path / "none.yaml"), *place])
    assert lost.exit_code == 1
    assert "There is no loop" in lost.stderr


@pytest.mark.slow
def test_a_killed_process_goes_on(clusters: Clusters, tmp_path: Path) -> None:
    """Killed for good in the middle of the work of each step that writes something."""
    file = write(tmp_path, until={"rounds": 1})
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "import datasetops.ledger as ledger\n"
        "from datasetops.active_learning.loop import load_config, run_loop\n"
        "from datasetops.manifest import Repository\n"
        "real, seen = ledger.Ledger.append, []\n"
        "def append(*args, **more):\n"
        "    seen.append(1)\n"
        "    if len(seen) == int(sys.argv[3]):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return real(*args, **more)\n"
        "ledger.Ledger.append = append\n"
        "run_loop(Repository.open(sys.argv[1]), load_config(Path(sys.argv[2])))\n"
    )
    for number in (1, 2, 2):  # before the round's event; before the note of it; before the push's event
        ended = subprocess.run(
            [sys.executable, "-c", code, str(clusters.repository.root), str(file), str(number)],
            env=dict(os.environ),
            check=False,
        )
        assert ended.returncode == -9
    assert go(clusters, file).state == "waiting"
    clusters.label(load_round(clusters.repository, "r1").samples)
    assert go(clusters, file).state == "finished"
    assert len(list(rounds(clusters.repository))) == 1
    assert kinds(clusters, "label-push") == 1
