"""Go on with a loop until it ends, or until somebody has to do something first."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from datasetops.active_learning.loop.config import Config, Until, Wait
from datasetops.active_learning.loop.state import State, load_state, record_step
from datasetops.active_learning.loop.steps import ACTIONS, Paused, Work
from datasetops.labeling import ServerAwayError
from datasetops.manifest import Repository
from datasetops.progress import Progress, no_progress

_LONG: Final = ("words", "basis")  # what steps tell in sentences


@dataclass(frozen=True)
class LoopResult:
    """`state` is "finished", "waiting" (for labels) or "held" (somebody must decide); `words` say why and what next.

    `turns` are finished; `steps` has (turn, step, what it told) of those done now.
    """

    state: str
    words: str
    turns: int
    steps: tuple[tuple[int, str, Mapping[str, Any]], ...]

    def as_dict(self) -> dict[str, Any]:
        steps = [{"turn": turn, "step": step, **told} for turn, step, told in self.steps]
        return {"state": self.state, "words": self.words, "turns": self.turns, "steps": steps}


def run_loop(
    repository: Repository,
    config: Config,
    *,
    say: Callable[[str], None] = lambda _: None,
    progress: Progress = no_progress,
) -> LoopResult:
    """Go on where the loop of that name is. A step that is noted as done is never done again.

    Without `wait` it returns when labels are outstanding, and the next call goes on. Raises what the steps raise; then
    the next call begins with that step.
    """
    state = load_state(repository, config.name)
    done: list[tuple[int, str, Mapping[str, Any]]] = []
    while True:
        if not state.done and (end := ended(config.until, state)):
            return LoopResult("finished", end, state.turns, tuple(done))
        turn, step = state.turns + 1, state.step
        told = _act(Work(repository, config, state, progress), say)
        if isinstance(told, Paused):
            kind = "waiting" if told.waiting else "held"
            words = f"{told.words}\nRun the same command again when " + (
                "labels are back." if told.waiting else "that is done."
            )
            return LoopResult(kind, words, state.turns, tuple(done))
        state = record_step(repository, config.name, config.digest, state, told)
        done.append((turn, step, told))
        say(f"Turn {turn}, {step}: {_shown(told)}")


def ended(until: Until, state: State) -> str | None:
    """Why the loop is over after the turns so far, None where it is not."""
    if until.rounds is not None and state.turns >= until.rounds:
        return f"Finished: {state.turns:,} rounds were asked for."
    report = state.last.get("report")
    if report is None:
        return None
    metric = report.get("metric")
    if until.metric is not None and metric is not None and metric["low"] >= until.metric:
        return f"Finished: the metric is at least {metric['low']:.1%}, and {until.metric:.1%} was asked for."
    if (until.least_gain is not None or until.worth is not None) and report["pays"] is False:
        return f"Finished: {report['words']} {report.get('basis', '')}".rstrip()
    return None


def _act(work: Work, say: Callable[[str], None]) -> Mapping[str, Any] | Paused:
    """Do the next step; waiting is looking again and again."""
    step, patience = work.state.step, work.config.wait
    if step != "wait" or not isinstance(patience, Wait):
        return ACTIONS[step](work)
    until, last = time.monotonic() + patience.timeout, ""
    while True:
        try:
            told = ACTIONS[step](work)
        except ServerAwayError as error:
            told = Paused(error.message, waiting=True)
        if not isinstance(told, Paused) or time.monotonic() + patience.every > until:
            return told
        if told.words != last:
            say(told.words)
            last = told.words
        time.sleep(patience.every)


def _shown(told: Mapping[str, Any]) -> str:
    plain = {name: value for name, value in told.items() if isinstance(value, str | int) and name not in _LONG}
    return ", ".join(f"{name} {value}" for name, value in plain.items())
