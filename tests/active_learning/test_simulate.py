"""Replaying active learning on labeled data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datasetops.active_learning import simulate as module
from datasetops.active_learning.curve_chart import chart, page
from datasetops.active_learning.curves import labels_needed, summary
from datasetops.active_learning.replays import Run, Simulation, shares_by_group
from datasetops.active_learning.simulate import Replay, simulate
from datasetops.active_learning.simulate_version import flipped
from datasetops.errors import DatasetOpsError, NotFoundError

K = 3
BUDGETS = (4, 8, 20)


@pytest.fixture(scope="module")
def replay() -> Replay:
    rng = np.random.default_rng(0)
    y = rng.integers(K, size=240)
    x = rng.normal(size=(K, 6))[y] * 1.5 + rng.normal(size=(240, 6))
    return Replay(x.astype(np.float32), y, y, K, shares_by_group(np.full(240, -1), 0.25, 3))


def test_the_same_seed_gives_the_same_runs_and_chance_begins_alike(replay: Replay) -> None:
    found = simulate(replay, strategies=["random", "margin", "auto"], budgets=BUDGETS, seeds=2)
    again = simulate(replay, strategies=["random", "margin", "auto"], budgets=BUDGETS, seeds=2)
    assert found == again
    chance, margin = found.measured("random"), found.measured("margin")
    assert chance.shape == (2, 3)
    np.testing.assert_array_equal(chance[:, 0], margin[:, 0])  # nothing is known yet, so margin draws as chance does
    assert (chance[0] != chance[1]).any()
    reasons = [run.reasons for run in found.runs if run.strategy == "margin"]
    assert reasons[0][0] == "drawn at random"
    assert reasons[0][1].startswith("margin score")


def test_a_run_that_was_interrupted_goes_on(replay: Replay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(items, total, label):  # type: ignore[no-untyped-def]
        for number, item in enumerate(items):
            if number == 2:
                raise KeyboardInterrupt
            yield item

    wanted = {"strategies": ["random", "margin"], "budgets": BUDGETS, "seeds": 2, "cache": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        simulate(replay, **wanted, progress=interrupted)  # type: ignore[arg-type]
    done: list[tuple[str, int]] = []
    once = module._Work.run

    def counted(self, arrays, name, seed):  # type: ignore[no-untyped-def]
        done.append((name, seed))
        return once(self, arrays, name, seed)

    monkeypatch.setattr(module._Work, "run", counted)
    found = simulate(replay, **wanted)  # type: ignore[arg-type]
    assert len(done) == 2
    assert found == simulate(replay, strategies=["random", "margin"], budgets=BUDGETS, seeds=2)
    done.clear()
    simulate(replay, **wanted)  # type: ignore[arg-type]
    assert not done
    other = Replay(
        replay.features, flipped(replay.truth, 0.5, K, np.random.default_rng(1)), *list(vars(replay).values())[2:]
    )
    simulate(other, **wanted)  # type: ignore[arg-type]
    assert len(done) == 4  # other labels are another simulation


def test_a_damaged_file_is_replayed_anew(replay: Replay, tmp_path: Path) -> None:
    first = simulate(replay, strategies=["random"], budgets=BUDGETS, seeds=2, cache=tmp_path)
    files = sorted(tmp_path.glob("*/*.json"))
    files[0].write_bytes(b'{"strategy": "ran')
    files[1].write_bytes(files[1].read_bytes().replace(b'"measured":[', b'"measured":["x",'))
    assert simulate(replay, strategies=["random"], budgets=BUDGETS, seeds=2, cache=tmp_path) == first


@pytest.mark.slow
def test_processes_give_what_one_gives(replay: Replay, tmp_path: Path) -> None:
    wanted = {"strategies": ["random", "auto", "bald"], "budgets": BUDGETS, "seeds": 2}
    one = simulate(replay, **wanted)  # type: ignore[arg-type]
    two = simulate(replay, **wanted, jobs=2, cache=tmp_path)  # type: ignore[arg-type]
    assert one == two


@pytest.mark.slow
def test_an_interrupt_keeps_what_was_finished(replay: Replay, tmp_path: Path) -> None:
    def interrupted(items, total, label):  # type: ignore[no-untyped-def]
        yield next(iter(items))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(
            replay, strategies=["random", "margin"], budgets=BUDGETS, seeds=3, jobs=2, cache=tmp_path,
            progress=interrupted,
        )  # fmt: skip
    assert list(tmp_path.glob("*/*.json"))


def test_noise_is_learned_from_and_truth_measured() -> None:
    y = np.repeat(np.arange(2), 100)
    x = np.stack([y * 6.0, np.random.default_rng(0).normal(size=200)], axis=1).astype(np.float32)
    test = (np.concatenate([np.arange(20), np.arange(100, 120)]),)
    clean = simulate(Replay(x, y, y, 2, test), strategies=["random"], budgets=[40], seeds=1)
    wrong = simulate(Replay(x, 1 - y, y, 2, test), strategies=["random"], budgets=[40], seeds=1)
    assert clean.measured("random")[0, 0] == 1
    assert wrong.measured("random")[0, 0] == 0


def test_smaller_batches_are_other_choices_of_as_many_labels(replay: Replay) -> None:
    wanted = {"strategies": ["random", "margin"], "budgets": [8, 40], "seeds": 3}
    whole, split = simulate(replay, **wanted), simulate(replay, **wanted, batch=8)  # type: ignore[arg-type]
    np.testing.assert_array_equal(whole.measured("random")[:, 0], split.measured("random")[:, 0])
    assert (whole.measured("margin")[:, 1] != split.measured("margin")[:, 1]).any()
    assert simulate(replay, **wanted, batch=100) == whole  # type: ignore[arg-type]


def test_flips_are_of_the_share_and_never_to_the_same_class() -> None:
    y = np.random.default_rng(0).integers(-1, 4, size=10_000)
    noisy = flipped(y, 0.3, 4, np.random.default_rng(1))
    assert (noisy[y < 0] == -1).all()
    known = y >= 0
    assert (noisy[known] != y[known]).mean() == pytest.approx(0.3, abs=0.02)
    assert set(noisy[known]) == set(range(4))
    np.testing.assert_array_equal(flipped(y, 0.0, 4, np.random.default_rng(1)), y)


def test_groups_are_whole_in_the_test_part() -> None:
    groups = np.concatenate([np.repeat(np.arange(30), 5), np.full(50, -1)])
    parts = shares_by_group(groups, 0.2, 4)
    for part in parts:
        assert 25 <= len(part) <= 40
        inside = np.bincount(groups[part[groups[part] >= 0]], minlength=30)
        assert set(inside) <= {0, 5}
    assert len({tuple(part) for part in parts}) == 4


def test_a_class_that_nobody_labeled_and_items_without_features(replay: Replay) -> None:
    x = replay.features.copy()
    x[5] = np.nan
    labels = replay.truth.copy()
    labels[labels == 2] = -1
    found = simulate(Replay(x, labels, labels, K, replay.test), strategies=["margin"], budgets=BUDGETS, seeds=2)
    assert found.notes[0].endswith("items have no class or no features and take no part.")
    assert found.measured("margin")[:, -1].mean() > 0.7


def test_one_class_at_first_is_named_for_all() -> None:
    y = np.array([0] * 30 + [1] * 30)
    x = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    found = simulate(Replay(x, y, y, 2, (np.arange(20, 40),)), strategies=["margin"], budgets=[1], seeds=1)
    assert found.measured("margin")[0, 0] == 0.5


def test_budgets_that_the_pool_cannot_fill_are_told(replay: Replay) -> None:
    found = simulate(replay, strategies=["random"], budgets=[8, 500, 1000], seeds=1)
    assert found.budgets == (8,)
    assert found.notes == ("Budgets of 500, 1,000 labels are left out: the pool has 180.",)
    with pytest.raises(DatasetOpsError, match="the least budget asks for 500"):
        simulate(replay, strategies=["random"], budgets=[500], seeds=1)


def test_wrong_arguments_are_told(replay: Replay) -> None:
    with pytest.raises(NotFoundError, match="no strategy 'margins'"):
        simulate(replay, strategies=["margins"], budgets=BUDGETS)
    with pytest.raises(NotFoundError, match="no learner"):
        simulate(replay, strategies=["margin"], budgets=BUDGETS, learner="oracle")
    with pytest.raises(ValueError, match="which a simulation does not have"):
        simulate(replay, strategies=["scores"], budgets=BUDGETS)
    for wrong in ({"budgets": []}, {"budgets": [0]}, {"seeds": 0}, {"batch": 0}, {"strategies": []}):
        with pytest.raises(ValueError, match="expected"):
            simulate(replay, **({"strategies": ["margin"], "budgets": BUDGETS} | wrong))  # type: ignore[arg-type]
    empty = Replay(replay.features, replay.revealed, np.full(240, -1), K, replay.test)
    with pytest.raises(DatasetOpsError, match="nothing to measure on"):
        simulate(empty, strategies=["margin"], budgets=BUDGETS)


def fixed(*curves: tuple[str, list[list[float]]]) -> Simulation:
    runs = tuple(Run(name, seed, tuple(row), ("why",) * 3) for name, rows in curves for seed, row in enumerate(rows))
    names = tuple(name for name, _ in curves)
    return Simulation("accuracy", "probe", 2, 500, 100, names, (10, 100, 1000), len(curves[0][1]), runs)


def test_figures_of_curves_worked_out_by_hand() -> None:
    found = summary(
        fixed(("random", [[0.2, 0.5, 0.8], [0.4, 0.5, 0.6]]), ("new", [[0.3, 0.7, 0.9], [0.5, 0.7, 0.7]])), 0.6
    )
    chance, new = found["strategies"]["random"], found["strategies"]["new"]
    assert chance["mean"] == pytest.approx([0.3, 0.5, 0.7])
    # Student's t of one degree of freedom, 12.706, times the standard error 0.1
    assert chance["high"][0] - chance["mean"][0] == pytest.approx(1.2706, abs=1e-3)
    assert new["gain"]["mean"] == pytest.approx([0.1, 0.2, 0.1])
    assert new["gain"]["high"] == pytest.approx([0.1, 0.2, 0.1])  # the same for both seeds
    assert chance["area"] == pytest.approx(0.5)
    assert chance["area_log"] == pytest.approx(0.5)
    assert new["area_log"] == pytest.approx((0.4 + 2 * 0.7 + 0.8) / 4)
    assert new["reaches_random"]["labels"] == 100  # random ends at 0.7
    assert chance["reaches_target"]["labels"] == round(10**2.5)
    assert chance["reaches_random"]["labels"] == 1000


def test_labels_needed_are_on_the_logarithm() -> None:
    budgets = np.array([10.0, 100.0])
    assert labels_needed(np.array([0.2, 0.4]), budgets, 0.3) == pytest.approx(10**1.5)
    assert labels_needed(np.array([0.2, 0.4]), budgets, 0.5) is None
    assert labels_needed(np.array([0.2, 0.4]), budgets, 0.1) == 10


def test_one_seed_has_no_intervals_and_the_page_is_drawn() -> None:
    found = summary(fixed(("random", [[0.2, 0.5, 0.8]]), ("<b>", [[0.3, 0.7, 0.9]])))
    assert found["strategies"]["random"]["low"] is None
    text = page("v1 & more", found, [("gains", ["strategy", "10"], [["<b>", "+1.0"]])])
    assert "<b>" not in text
    assert "v1 &amp; more" in text
    assert text.count("<svg") == 1
    assert "http" not in chart(found)
