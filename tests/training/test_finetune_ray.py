"""Fine-tuning by two workers of a Ray cluster on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from datasetops.errors import ModelError
from datasetops.training.record import WEIGHTS, model_file

from .coloured import Make, fit, recipe

ray = pytest.importorskip("ray", reason="the extra 'ray-train' is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.server,
    pytest.mark.xdist_group("ray"),
    pytest.mark.filterwarnings("ignore"),  # Ray's of its own
]


def test_two_workers_on_ray_train_the_same_model(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    repository = make("classification")
    chosen = recipe("classification", "vit", tmp_path, epochs=2, learning_rate=1e-3)
    alone = fit(repository, chosen)
    ray.init("local", num_cpus=2, log_to_driver=False, logging_level="ERROR")
    try:
        both = fit(repository, chosen, engine="ray")
        wrong = chosen.model_copy(update={"model": "local:nowhere"})
        with pytest.raises(ModelError, match="holds no saved model"):
            fit(repository, wrong, engine="ray")
    finally:
        ray.shutdown()
    assert both.environment["workers"] == 2
    assert both.samples == alone.samples
    one, other = (load(model_file(repository, item, WEIGHTS)) for item in (alone, both))
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-4)
