"""The loop with a real Label Studio server."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml
from clusters import Clusters

sys.path.insert(0, str(Path(__file__).parents[1] / "labeling"))  # who answers tasks

from label_studio_server import TOKEN, Annotator, new_server

from datasetops.active_learning import load_round, rounds
from datasetops.active_learning.loop import load_config, run_loop
from datasetops.labeling import set_up

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.xdist_group("label-studio")]


def test_two_turns_with_answers_from_the_editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = new_server(tmp_path)
    server.start()
    try:
        monkeypatch.setenv("LABEL_STUDIO_URL", server.url)
        monkeypatch.setenv("LABEL_STUDIO_API_KEY", TOKEN)
        clusters = Clusters(tmp_path / "set", count=80, validation=30)
        repository = clusters.repository
        project, _ = set_up(repository, repository.version(), name="looped")
        annotator = Annotator(server, project.id)
        told = {
            "name": "pets", "n": 12, "strategy": "auto", "random_share": 0.25, "project": "looped",
            "enough": 0.75, "wait": False, "audit": {"checks": ["schema"]}, "until": {"rounds": 2},
        }  # fmt: skip
        file = tmp_path / "loop.yaml"
        file.write_text(yaml.safe_dump(told))
        for turn in (1, 2):
            waiting = run_loop(repository, load_config(file))
            assert waiting.state == "waiting"
            assert server.url in waiting.words
            assert "0 of 12" in run_loop(repository, load_config(file)).words
            made = server.connection.get(f"api/projects/{project.id}/")["task_number"]
            assert made == 12 * turn  # nothing was pushed twice
            names = load_round(repository, f"r{turn}").samples
            tasks = annotator.tasks()
            annotator.choose(tasks[names[0]], "dog" if clusters.truth[names[0]] == "cat" else "cat")  # and better below
            for name in names[:8]:
                annotator.choose(tasks[name], clusters.truth[name])
            annotator.skip(tasks[names[8]])
        done = run_loop(repository, load_config(file))
    finally:
        server.stop()
    assert done.state == "finished"
    assert len(list(rounds(repository))) == 2
    report = done.steps[-1][2]
    assert report["labeled"] == 8
    (pulled,) = (told for _, step, told in done.steps if step == "pull")
    assert (pulled["answers"], pulled["skipped"], pulled["set_aside"]) == (9, 1, 1)
    label = repository.version().annotations().set_index("sample_id").loc[names[0]]
    assert (label["source"], label["label"]) == ("human", clusters.truth[names[0]])
    assert [told["model"].startswith("fewshot:") for _, step, told in done.steps if step == "train"] == [True]
