"""What a run of a model over a version led to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from datasetops.preannotate.cost import Cost
from datasetops.preannotate.predictions import ModelInfo
from datasetops.preannotate.promise import Reached, below_target
from datasetops.preannotate.thresholds import Promises
from datasetops.records import Finding


@dataclass(frozen=True)
class PreannotateResult:
    """`version` is the new version, None where none was made.

    Of `selected` samples people labeled so many in one of the model's kinds, of which nothing is written there, and so
    many have no image; the model was asked about `asked`. Of the images of these so many were `computed` now and so
    many `known` before. `counts` are of rows of annotations, `by_class` of those that stand there by this model now.
    `stayed` samples have rows of a model that somebody changed since: these stay. `replaced` rows of other models went,
    and in `outlined` of the samples with boxes by this model people had outlined things. Where nothing reached a
    threshold, so many rows were `below` it, with the `highest` score. `faults` are about images of which nothing could be
    said. `promises` are what a target precision led to, `reached` what the labels that decided nothing say of it by
    class and slice. `qa_plan` names the QA plan over what was accepted by its score.
    """

    version: str | None
    model: ModelInfo
    mapping: Mapping[str, Any]
    selected: int
    labeled: int
    without_image: int
    asked: int
    known: int
    computed: int = 0
    stayed: int = 0
    replaced: int = 0
    outlined: int = 0
    below: int = 0
    highest: float | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    by_class: Mapping[str, int] = field(default_factory=dict)
    faults: tuple[Finding, ...] = ()
    cost: Cost | None = None
    promises: Promises | None = None
    reached: tuple[Reached, ...] = ()
    qa_plan: str | None = None

    @property
    def below_target(self) -> list[Reached]:
        """Parts of what was promised as a whole that the held-out labels put below the target, the worst first."""
        return [] if self.promises is None else below_target(self.reached, self.promises)

    def as_dict(self) -> dict[str, Any]:
        names = (
            "version", "selected", "labeled", "without_image", "asked", "known", "computed", "stayed",
            "replaced", "outlined", "below", "highest",
        )  # fmt: skip
        model = asdict(self.model) | {"label": self.model.label}
        return {name: getattr(self, name) for name in names} | {
            "model": {name: value for name, value in model.items() if name != "vocabulary"},
            "mapping": dict(self.mapping),
            "annotations": dict(self.counts),
            "by_class": dict(self.by_class),
            "faults": [{"sample_id": f.sample_id, "uri": f.uri, "reason": f.message} for f in self.faults],
            "cost": None if self.cost is None else self.cost.as_dict(),
            "promises": None if self.promises is None else self.promises.as_dict(),
            "reached": [one.as_dict() for one in self.reached],
            "below_target": [one.as_dict() for one in self.below_target],
            "qa_plan": self.qa_plan,
        }
