"""Where a loop is: which step of which turn is done, as the ledger tells. Nothing else is kept, so nothing can differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from datasetops.ledger import Event
from datasetops.manifest import Repository

EVENT: Final = "loop"
STEPS: Final = ("select", "push", "wait", "pull", "audit", "train", "report")


@dataclass(frozen=True)
class State:
    """`turns` are finished; `done` has what each step of the turn that is under way told, in order. `last` is what the
    last finished turn's steps told."""

    turns: int = 0
    done: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    last: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def step(self) -> str:
        """The next one."""
        return STEPS[len(self.done)]

    def after(self, told: Mapping[str, Any]) -> State:
        """The state once the next step is done, with what it told."""
        done = {**self.done, self.step: told}
        if len(done) < len(STEPS):
            return State(self.turns, done, self.last)
        return State(self.turns + 1, {}, done)


def load_state(repository: Repository, name: str) -> State:
    """Of the loop of that name; the beginning where there was none."""
    state = State()
    mine = [
        entry.event
        for entry in repository.ledger.backwards()
        if entry.event.kind == EVENT and entry.event.parameters.get("loop") == name
    ]
    for event in reversed(mine):
        told = event.parameters
        if (told["turn"], told["step"]) == (state.turns + 1, state.step):  # of two runs at once the first counts
            state = state.after(event.outputs)
    return state


def record_step(repository: Repository, name: str, config: str, state: State, told: Mapping[str, Any]) -> State:
    """Note that the next step is done; `config` is the digest of what the loop was told to do."""
    where = {"loop": name, "turn": state.turns + 1, "step": state.step, "config": config}
    repository.ledger.record(Event(EVENT, repository.settings.actor, outputs=dict(told), parameters=where))
    return state.after(told)
