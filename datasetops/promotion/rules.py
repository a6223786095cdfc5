"""The rules of a model policy, each held against a model: passed or not, why, and the figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import pandas as pd

from datasetops.errors import DatasetOpsError, NotFoundError
from datasetops.evaluation.compare import Comparison, compare
from datasetops.evaluation.evaluate import evaluate as run_evaluation
from datasetops.evaluation.judged import verdict_of
from datasetops.evaluation.record import Evaluation
from datasetops.gate.rules import RuleResult
from datasetops.gate.status import DRAFT, status_of
from datasetops.manifest import Repository, Version
from datasetops.progress import Progress, no_progress
from datasetops.promotion.export import Export, load_export
from datasetops.promotion.policy import ModelPolicy
from datasetops.promotion.regression import check, load_set, set_names
from datasetops.training.record import TRAIN, VALIDATION, ModelRecord, load_model_record, model_samples, promoted

_NAMED: Final = 5  # slices and items that a sentence names at most
_MIB: Final = 2**20


@dataclass(frozen=True)
class Case:
    """What is judged: a model, by a policy, on a version. `export_id`: which of its exports; the newest unless told.
    `sealed`: a sealed split may be looked at."""

    repository: Repository
    record: ModelRecord
    version: Version
    policy: ModelPolicy
    export_id: str | None = None
    sealed: bool = False
    progress: Progress = no_progress

    @property
    def split(self) -> str:
        return self.policy.judged_on.split

    @cached_property
    def production(self) -> ModelRecord | None:
        try:
            return load_model_record(self.repository, promoted(self.repository))
        except NotFoundError:
            return None

    @cached_property
    def evaluation(self) -> Evaluation:
        return run_evaluation(
            self.repository, self.version, f"model:{self.record.name}", split=self.split, task=self.record.task,
            sealed=self.sealed, progress=self.progress,
        )  # fmt: skip

    @cached_property
    def comparison(self) -> Comparison | None:
        """With the model in production; None where there is none, or it is this one."""
        before = self.production
        if before is None or before.digest == self.record.digest:
            return None
        return compare(
            self.repository, self.version, f"model:{before.name}", f"model:{self.record.name}", split=self.split,
            task=self.record.task, sealed=self.sealed, progress=self.progress,
        )  # fmt: skip

    @cached_property
    def export(self) -> Export:
        return load_export(self.repository, self.record, self.export_id)

    def exported(self) -> Mapping[str, Any]:
        """What is known of the file that is to be used. Raises NotFoundError."""
        variants: Mapping[str, Mapping[str, Any]] = self.export.info["variants"]
        if self.policy.precision not in variants:
            raise NotFoundError(
                f"The export {self.export.export_id} has no file of {self.policy.precision}",
                remedy=f"Run: dsops export-model {self.record.name} --to DIR --int8",
            )
        return variants[self.policy.precision]


def evaluate(case: Case) -> list[RuleResult]:
    """Every rule of the policy, in its order. One that cannot be judged has failed, with what is to be done."""
    return [_judged(name, case) for name in case.policy.rules]


def _judged(name: str, case: Case) -> RuleResult:
    try:
        return RULES[name](case)
    except DatasetOpsError as error:
        message = error.message[:1].lower() + error.message[1:].rstrip(".")
        return RuleResult(name, False, f"cannot be judged: {message}", error.remedy)


def trained_on(case: Case) -> RuleResult:
    rule, record = case.policy.trained_on, case.record
    versions = {one.name: one for one in (case.repository.version(record.version), case.version)}
    status = {name: status_of(case.repository, one).status for name, one in versions.items()}
    evidence = {"version": record.version, "commit": record.commit, "status": status, "experiment": record.experiment}
    told = ", ".join(f"{name} is {'a draft' if word == DRAFT else word}" for name, word in status.items())
    if rule is not None and rule.experiments:
        return RuleResult("trained_on", True, f"{told}; experiments are allowed", evidence=evidence)
    remedy = f"Train and judge on accepted versions (dsops accept {next(reversed(status))}), without --experiment."
    if versions[record.version].digest != record.commit:
        return RuleResult("trained_on", False, f"{record.version} is not what it was trained on", remedy, evidence)
    if record.experiment:
        return RuleResult("trained_on", False, f"{record.name} is an experiment on {record.version}", remedy, evidence)
    return RuleResult("trained_on", set(status.values()) == {"accepted"}, told, remedy, evidence)


def judged_on(case: Case) -> RuleResult:
    """Samples that it was validated on chose how it is calibrated and when it stopped, so they judge too kindly."""
    samples = case.version.table("samples", ["sample_id", "sha256", "split"]).to_pandas()
    own = samples[samples["split"] == case.split]
    evidence: dict[str, Any] = {"version": case.version.name, "split": case.split, "samples": len(own)}
    if not len(own):
        remedy = "Name one with dsops split, or judge on another: judged_on in the model policy."
        return RuleResult("judged_on", False, f"{case.version.name} has no split {case.split!r}", remedy, evidence)
    seen = {part: _seen(case, own, ids) for part, ids in model_samples(case.repository, case.record).items()}
    evidence |= {f"seen_{part}": count for part, count in seen.items()}
    told = (
        f"{seen[TRAIN]:,} of {len(own):,} samples of {case.split!r} were trained on, {seen[VALIDATION]:,} validated on"
    )
    remedy = "Judge on a split that training leaves alone: judged_on in the model policy."
    return RuleResult("judged_on", not any(seen.values()), told, remedy, evidence)


def _seen(case: Case, own: pd.DataFrame, ids: list[str]) -> int:
    trained = case.repository.version(case.record.version).table("samples", ["sample_id", "sha256"]).to_pandas()
    images = set(trained["sha256"][trained["sample_id"].isin(set(ids))].dropna())
    return int((own["sample_id"].isin(set(ids)) | own["sha256"].isin(images)).sum())


def metric(case: Case) -> RuleResult:
    numbers = case.evaluation.metrics
    evidence: dict[str, Any] = {"evaluation": case.evaluation.evaluation_id}
    short, told = [], []
    for name, least in case.policy.metric.items():
        value = numbers.get(name)
        evidence[name] = {"value": value, "least": least}
        if value is None:
            known = ", ".join(sorted(numbers))
            return RuleResult("metric", False, f"there is no number {name!r}", f"It has {known}.", evidence)
        told.append(f"{name} {value:.4f}, at least {least:g}")
        short += [name] if value < least else []
    remedy = f"Train it better; see where it errs: dsops evaluate {case.record.name} {case.version.name}"
    return RuleResult("metric", not short, "; ".join(told), remedy, evidence)


def against_production(case: Case) -> RuleResult:
    rule = case.policy.against_production
    found = case.comparison
    if rule is None or found is None:
        return RuleResult("against_production", True, _nothing_before(case))
    name = found.info["sliced_by"]
    item = found.info["metrics"][name]
    before = case.production.name if case.production else ""
    evidence = {"production": before, "metric": name, "not_worse_than": rule.not_worse_than} | dict(item)
    if item["low"] is None:
        remedy = f"Put more samples into the split {case.split!r}."
        message = f"{item['groups']} independent samples are too few for an interval of the difference"
        return RuleResult("against_production", False, message, remedy, evidence)
    told = (
        f"{name} {item['second']:.4f}, {before} has {item['first']:.4f}: {item['difference']:+.4f} "
        f"({item['low']:+.4f} to {item['high']:+.4f}), at most {rule.not_worse_than:g} worse"
    )
    remedy = f"See what it lost: dsops compare {before} {case.record.name} {case.version.name}; or judge on more."
    return RuleResult("against_production", item["low"] >= -rule.not_worse_than, told, remedy, evidence)


def slices(case: Case) -> RuleResult:
    rule = case.policy.slices
    if rule is None:
        return RuleResult("slices", True, "not asked for")
    evidence: dict[str, Any] = {}
    bad, told = [], []
    if rule.least is not None:
        (name, found), *_ = case.evaluation.info["slices"].items()
        low = [item for item in found if not item["small"] and item["value"] < rule.least]
        evidence["below"] = low
        bad += [f"{item['name']}: {name} {item['value']:.4f}" for item in low]
    compared = case.comparison
    if rule.not_worse_than is not None and compared is not None:
        name = compared.info["sliced_by"]
        worse = [item for item in compared.info["slices"] if item["worse"]]
        lost = [
            item
            for item in worse
            if item["sure"] and not item["small"] and abs(item["difference"]) >= rule.not_worse_than
        ]
        evidence |= {"lost": lost, "worse": [item["name"] for item in worse]}
        bad += [f"{item['name']}: {item['difference']:+.4f} of {name}" for item in lost]
        told += (
            [f"a point or more worse, which may be chance: {_some([item['name'] for item in worse])}"] if worse else []
        )
    what = f"{case.record.name} {case.version.name} --report FILE.html"
    against = f"compare {case.production.name}" if evidence.get("lost") and case.production else "evaluate"
    remedy = f"Look at them: dsops {against} {what}"
    if bad:
        return RuleResult("slices", False, _some(bad), remedy, evidence)
    nothing = _nothing_before(case) if compared is None else "no slice surely lost much"
    return RuleResult("slices", True, "; ".join([nothing, *told]), evidence=evidence)


def critical(case: Case) -> RuleResult:
    rates = case.evaluation.info["details"].get("critical", ())
    if not rates:
        return RuleResult("critical", True, "the schema has no critical class")
    missed = [rate for rate in rates if rate["verdict"] != "met"]

    def words(rate: Mapping[str, Any]) -> str:
        return (
            f"{rate['class']}: {rate['rate'].upper()} {_percent(rate['value'])} "
            f"({_percent(rate['low'])} to {_percent(rate['high'])}), at most {rate['target']:.1%} allowed: {verdict_of(rate)}"
        )

    remedy = (
        "Missed: train for these classes. Open: too few to tell; label more for this split, or train for fewer errors."
    )
    told = _some([words(rate) for rate in missed or rates])
    return RuleResult("critical", not missed, told, remedy, {"rates": list(rates)})


def calibration(case: Case) -> RuleResult:
    rule = case.policy.calibration
    if rule is None or case.record.task != "classification":
        return RuleResult(
            "calibration", True, f"is measured of classes of whole images only, not of {case.record.task}"
        )
    value = case.evaluation.metrics.get("ece")
    if value is None:
        return RuleResult("calibration", True, "is not measured where an image may have several classes")
    told = f"expected calibration error {value:.4f}, at most {rule.ece:g}"
    remedy = "Train with `calibrate: true` and more samples for validation."
    return RuleResult("calibration", value <= rule.ece, told, remedy, {"ece": value, "most": rule.ece})


def regression(case: Case) -> RuleResult:
    rule = case.policy.regression
    known = set_names(case.repository)
    names = rule.sets if rule is not None and rule.sets else known
    if not names:
        return RuleResult("regression", True, "there is no regression set yet: dsops regress add")
    told, failed, evidence = [], [], {}
    for name in names:
        found = check(
            case.repository, load_set(case.repository, name), f"model:{case.record.name}", progress=case.progress
        )
        evidence[name] = found.as_dict()
        told.append(f"{name}: {found.right} of {found.items} right")
        failed += [f"{name}: {item}" for item in found.failed]
    remedy = (
        f"Train on what it gets wrong, or take back what no longer holds: dsops regress. Wrong are {_some(failed)}."
    )
    return RuleResult("regression", not failed, "; ".join(told), remedy if failed else "", evidence)


def parity(case: Case) -> RuleResult:
    rule, found = case.policy.parity, case.exported()
    item = found["parity"]
    told = f"scores differ by {item['most_score']:.2g} at most"
    told += f", boxes by {item['most_pixels']:.2g} pixels" if item["most_pixels"] is not None else ""
    told += f"; {item['same']:.1%} of {item['images']} images are answered the same"
    if not item["answers"]:
        message = f"the model says nothing of the {item['images']} images, so that nothing was compared"
        return RuleResult("parity", False, message, "Export it again with more images: --images.", dict(item))
    passed = rule is None or (item["most_score"] <= rule.score and item["same"] >= rule.same)
    remedy = "Look at both on these images; int8 may cost too much here: export without it."
    return RuleResult("parity", passed, told, remedy, _of_file(case, found) | dict(item))


def latency(case: Case) -> RuleResult:
    rule, found = case.policy.latency, case.exported()
    timing = found["timing"]
    batch = rule.batch if rule else 1
    item = next((one for one in timing["batches"] if one["batch"] == batch), None)
    if rule is None or item is None:
        known = ", ".join(str(one["batch"]) for one in timing["batches"])
        remedy = "Export it again with this batch, or ask for one of those in the model policy."
        return RuleResult("latency", rule is None, f"was measured with batches of {known} only", remedy)
    told = f"p95 {item['p95_ms']:.1f} ms, p50 {item['p50_ms']:.1f} ms, batch {batch}, {timing['threads']} threads"
    told += f"; at most {rule.p95_ms:g} ms"
    remedy = "Take a smaller model or input, or int8; measure on the machine that is to run it."
    return RuleResult("latency", item["p95_ms"] <= rule.p95_ms, told, remedy, _of_file(case, found) | dict(item))


def size(case: Case) -> RuleResult:
    found = case.exported()
    return _most(case, "size", case.policy.size.mib if case.policy.size else None, found["bytes"] / _MIB)


def memory(case: Case) -> RuleResult:
    found = case.exported()
    return _most(case, "memory", case.policy.memory.mib if case.policy.memory else None, found["timing"]["peak_mib"])


def _most(case: Case, name: str, most: float | None, value: float) -> RuleResult:
    told = f"{value:.1f} MiB" + ("" if most is None else f", at most {most:g}")
    evidence = _of_file(case, case.exported()) | {"mib": value, "most": most}
    return RuleResult(name, most is None or value <= most, told, "Take a smaller model, or int8.", evidence)


RULES: Final[Mapping[str, Callable[[Case], RuleResult]]] = {
    "trained_on": trained_on,
    "judged_on": judged_on,
    "metric": metric,
    "against_production": against_production,
    "slices": slices,
    "critical": critical,
    "calibration": calibration,
    "regression": regression,
    "parity": parity,
    "latency": latency,
    "size": size,
    "memory": memory,
}


def _of_file(case: Case, found: Mapping[str, Any]) -> dict[str, Any]:
    return {"export": case.export.export_id, "file": found["name"], "sha256": found["files"]["onnx"]["sha256"]}


def _nothing_before(case: Case) -> str:
    if case.production is None:
        return "no model is in production to compare with"
    return "it is the model in production"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.2%}"


def _some(values: list[str]) -> str:
    return ", ".join(values[:_NAMED]) + (f" and {len(values) - _NAMED:,} more" if len(values) > _NAMED else "")
