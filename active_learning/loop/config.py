"""What a loop does: a YAML file, checked before anything is begun."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar

from pydantic import Discriminator, Field, Tag

from datasetops.active_learning.minutes import parse_budget
from datasetops.active_learning.strategies import find_strategy
from datasetops.errors import NotFoundError, SchemaError, did_you_mean
from datasetops.plugins import plugin_names
from datasetops.records import canonical_json, sha256_hex
from datasetops.schema.model import Count, Name, Positive, Rate, Record, Text
from datasetops.schema.yamlfile import read_file, read_yaml, validated

Severity = Literal["low", "medium", "high"]
Share = Annotated[float, Field(gt=0, le=1)]

R = TypeVar("R")
# Which of two a value is meant to be, so that its problems are told as those of one.
_FALSE: Final = Discriminator(lambda value: "off" if value is False else "on")
OrFalse = Annotated[Annotated[R, Tag("on")] | Annotated[Literal[False], Tag("off")], _FALSE]


class Wait(Record):
    """Look `every` so many seconds whether labels are back, for `timeout` seconds at most (a week)."""

    every: Annotated[float, Field(ge=1, le=86400)] = 60.0
    timeout: Positive = 7 * 86400.0


class Audit(Record):
    """Audit the new version with these `checks`, all unless told. Open findings of severity `fail_on` or higher hold the
    loop until somebody has decided about them."""

    checks: tuple[Name, ...] = ()
    fail_on: Severity | None = None


class Train(Record):
    """Pre-annotate with a `model`, or run a `command` of one's own: the words of one line, no shell. Where it stands
    {version} and {round} are replaced."""

    model: Text | None = None
    command: Text | None = None


class Until(Record):
    """The loop ends after `rounds`, once the metric is at least `metric` with 95 % confidence, or once the next batch
    brings less than `least_gain` of the metric, or than pays where a point of it is `worth` so many minutes."""

    rounds: Count | None = None
    metric: Rate | None = None
    least_gain: Positive | None = None
    worth: Positive | None = None


class Config(Record):
    """`name` tells loops of one repository apart: where one of that name was, it goes on.

    `n`, `budget` (8h), `strategy`, `random_share`, `quotas`, `balance`, `where` are those of `dsops select`. `tool` is
    label-studio, with a `project` that `dsops label setup` made, or one that reads files: then `out` is the file to
    write, with {round} in its name, and somebody brings the answers back. `enough` is the share of a batch that must be
    back before the loop goes on.
    """

    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$", max_length=60)]
    branch: Name = "main"
    n: Count | None = None
    budget: Text | None = None
    strategy: Name = "auto"
    random_share: Rate = 0.1
    quotas: tuple[Name, ...] = ()
    balance: Name | None = None
    where: Text | None = None
    tool: Name = "label-studio"
    project: Name | None = None
    out: Text | None = None
    overlap: Count = 1
    enough: Share = 1.0
    wait: OrFalse[Wait] = Wait()
    audit: OrFalse[Audit] = Audit()
    train: OrFalse[Train] = Train(model="fewshot:builtin:efficientnet-lite0")
    until: Until

    @cached_property
    def digest(self) -> str:
        return sha256_hex(canonical_json(self.model_dump(mode="json")))

    @property
    def minutes(self) -> float | None:
        return None if self.budget is None else parse_budget(self.budget)


def load_config(path: Path) -> Config:
    """Read and check a loop's YAML. Raises SchemaError with line and field, NotFoundError for an unknown strategy or
    check."""
    data = read_file(path, noun="loop", remedy="Name a YAML file; docs/active-learning.md has one to start from.")
    config = validated(Config, read_yaml(data, str(path)))
    problem = _problem(config)
    if problem is not None:
        raise SchemaError(f"{path}: {problem[0]}.", remedy=problem[1])
    try:
        find_strategy(config.strategy)
    except NotFoundError as error:
        raise NotFoundError(f"{path}: strategy: {error.message}", remedy=error.remedy) from None
    known = plugin_names("checks")
    for name in config.audit.checks if config.audit else ():
        if name not in known:
            message = f"{path}: audit.checks: there is no check {name!r}."
            raise NotFoundError(message, remedy=did_you_mean(name, known, noun="checks"))
    return config


def _problem(config: Config) -> tuple[str, str] | None:
    """What is wrong between fields, and what to do."""
    until = config.until
    if not any(value is not None for value in until.model_dump().values()):
        return "until: expected an end; got none", "Give at least one of rounds, metric, least_gain and worth."
    if config.n is not None and config.budget is not None:
        return "n: expected n or budget; got both", "Remove one of them."
    if until.least_gain is not None and until.worth is not None:
        return "until: expected least_gain or worth; got both", "Remove one of them."
    if config.train and (config.train.model is None) == (config.train.command is None):
        return "train: expected model or command", "Give one of them, or train: false."
    if (config.tool == "label-studio") != (config.out is None):
        return "out: expected for a tool that reads files, and only there", "Give tool and out, or neither."
    if config.out is not None and "{round}" not in config.out:
        return "out: expected {round} in the name, so that no file replaces another", "Such as out: tasks-{round}.zip"
    try:
        _ = config.minutes
    except ValueError as error:
        return f"budget: {str(error).removeprefix('--budget: ')}", "Such as budget: 8h."
    return None
