"""The figures of versions and models, gathered: the verb."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from datasetops.errors import NotFoundError, did_you_mean
from datasetops.manifest import Repository, Version
from datasetops.scorecard.figures import FIGURES, Cell
from datasetops.scorecard.history import History, Judgement, hours_between
from datasetops.training.record import ModelRecord

_THOUSAND: Final = 1000
_MIB: Final = 2**20
_FLOAT: Final = "float32"  # the variant of an export whose figures are taken


@dataclass(frozen=True)
class Card:
    """The figures of a version or a model, by name. A version has those of `model`, the one that stands for it."""

    name: str
    kind: str  # version or model
    version: str
    model: str | None
    about: str
    cells: Mapping[str, Cell]

    def as_dict(self) -> dict[str, Any]:
        own = {"name": self.name, "kind": self.kind, "version": self.version, "model": self.model, "about": self.about}
        return own | {"figures": {name: cell.as_dict() for name, cell in self.cells.items()}}


@dataclass(frozen=True)
class Scorecard:
    """Cards of versions and of models, each oldest first."""

    project: str
    price_per_hour: float | None
    baseline: str | None
    cards: tuple[Card, ...]

    def of(self, kind: str) -> list[Card]:
        return [card for card in self.cards if card.kind == kind]

    def missing(self) -> dict[str, list[str]]:
        """Commands that fill empty cells, with the figures each of them makes."""
        found: dict[str, list[str]] = {}
        for card in self.cards:
            for name, cell in card.cells.items():
                if cell.value is None and cell.fill and name not in found.setdefault(cell.fill, []):
                    found[cell.fill].append(name)
        return found

    def as_dict(self) -> dict[str, Any]:
        return {
            "project": self.project,
            "price_per_hour": self.price_per_hour,
            "baseline": self.baseline,
            "cards": [card.as_dict() for card in self.cards],
            "missing": self.missing(),
        }


def scorecard(
    repository: Repository,
    names: Sequence[str] = (),
    *,
    price_per_hour: float | None = None,
    baseline: str | None = None,
) -> Scorecard:
    """Cards of the versions, branches and models that are named; unless told, of all that were used and all models.

    A version was used if it was accepted or rejected, or if a model was trained on it. `baseline` names the model that
    gains are counted from; unless told that is the parent that a model's record names, else the one in production.
    Nothing is computed but from what is recorded. Raises NotFoundError for an unknown name, ValueError for a price that
    is no positive number.
    """
    if price_per_hour is not None and not (math.isfinite(price_per_hour) and price_per_hour > 0):
        raise ValueError(f"price-per-hour: expected a number above 0; got {price_per_hour:g}")
    history = History(repository)
    if baseline is not None and baseline not in history.models:
        raise _unknown(baseline, history, models_only=True)
    maker = _Maker(history, price_per_hour, baseline)
    versions, models = _chosen(history, names)
    cards = [maker.version_card(version) for version in versions] + [maker.model_card(model) for model in models]
    return Scorecard(repository.schema.name, price_per_hour, baseline, tuple(cards))


def _chosen(history: History, names: Sequence[str]) -> tuple[list[Version], list[ModelRecord]]:
    repository = history.repository
    trained_on = {model.commit for model in history.models.values()}
    if not names:
        versions = [
            version
            for version in repository.versions()
            if version.digest in history.statuses or version.digest in trained_on
        ]
        return versions[::-1], list(history.models.values())
    chosen: dict[str, Version] = {}
    models: dict[str, ModelRecord] = {}
    for name in names:
        own = history.production if name == "production" else name
        if own in history.models:
            models[own] = history.models[own]
            continue
        try:
            version = repository.version(name)
        except NotFoundError:
            raise _unknown(name, history) from None
        chosen[version.name] = version
    return list(chosen.values()), list(models.values())


def _unknown(name: str, history: History, *, models_only: bool = False) -> NotFoundError:
    known = list(history.models)
    if not models_only:
        known += [version.name for version in history.repository.versions()] + list(history.repository.branches())
    noun = "models" if models_only else "versions and models"
    return NotFoundError(f"There is no {noun[:-1] if models_only else 'version or model'} {name!r}.",
                         remedy=did_you_mean(name, known, noun=noun))  # fmt: skip


@dataclass(frozen=True)
class _Maker:
    history: History
    price: float | None
    baseline: str | None

    def model_card(self, model: ModelRecord) -> Card:
        version = self.history.repository.version(model.version)
        cells = self._of_model(model, version) | self._shared(version, [model.name])
        about = f"{model.recipe.get('name', model.task)} on {model.version}"
        if model.name == self.history.production:
            about += ", in production"
        return self._card(Card(model.name, "model", model.version, model.name, about, cells))

    def version_card(self, version: Version) -> Card:
        """Its own figures, and those of its model: the one in production, else the newest that is evaluated, else the newest."""
        models = [model for model in self.history.models.values() if model.commit == version.digest]
        status = self.history.statuses.get(version.digest)
        about = status.status if status else "draft"
        cells = self._shared(version, [model.name for model in models]) | self._of_version(version)
        best = next((model for model in models if model.name == self.history.production), None)
        evaluated = [model for model in models if self.history.standing(model)]
        best = best or next(reversed(evaluated or models), None)
        if best is not None:
            cells = self._of_model(best, version) | cells
            about += f", {best.name}"
        return self._card(Card(version.name, "version", version.name, best.name if best else None, about, cells))

    def _card(self, card: Card) -> Card:
        """With all figures, and for those that are empty what fills them."""
        baseline = self._baseline(card.model) or "MODEL"
        words = {"version": card.version, "model": card.model or "MODEL", "baseline": baseline}
        cells = {}
        for figure in FIGURES:
            cell = card.cells.get(figure.name, Cell())
            fill = figure.fill.format(**words) if cell.fill is None else cell.fill
            if card.model is None and "MODEL" in fill:
                fill = f"dsops train {card.version} --recipe RECIPE"
            cells[figure.name] = cell if cell.value is not None else replace(cell, fill=fill)
        return replace(card, cells=cells)

    def _shared(self, version: Version, models: Sequence[str]) -> dict[str, Cell]:
        """What a version has of all its models, and a model of itself."""
        found = {}
        agreed = self.history.reproductions(models)
        if agreed:
            found["reproducibility"] = _share(sum(agreed), len(agreed), "reproductions agreed")
        times = [one.time for name in models for one in self.history.judged(self.history.models[name])]
        if times:
            hours = hours_between(version.commit.time, min(times))
            found["cycle_time"] = Cell(hours, note=f"from the commit of {version.name} to the first evaluation")
        steps = self.history.outcomes(version, models)
        if steps:
            every = [one for step in steps.values() for one in step]
            told = ", ".join(f"{name} {sum(step)} of {len(step)}" for name, step in steps.items())
            found["pipeline_success"] = replace(_share(sum(every), len(every), ""), note=told)
        return found

    def _of_version(self, version: Version) -> dict[str, Cell]:
        found = {}
        event = self.history.qa_result(version)
        if event is not None:
            told = event.outputs
            note = f"{event.inputs['plan']}: {told['verdict']}, {told['wrong']:,} of {told['checked']:,} wrong"
            found["qa_pass"] = Cell(1 - told["wrong"] / told["checked"], 1 - told["high"], 1 - told["low"], note)
        index = self.history.coverage_index(version)
        if index is not None:
            found["coverage_index"] = Cell(index)
        elif not version.schema.slices:
            found["coverage_index"] = Cell(note="the schema names no slices", fill="")
        return found

    def _of_model(self, model: ModelRecord, version: Version) -> dict[str, Cell]:
        found = self._of_version(version) | self._of_export(model)
        judgement = self.history.standing(model)
        if judgement is not None:
            found |= _of_evaluation(judgement.info)
            found["gain"] = self._gain(model, judgement)
        sets = self.history.regression(model)
        items = sum(one["items"] for one in sets.values())
        if items:
            right = sum(one["right"] for one in sets.values())
            found["regression_pass"] = _share(right, items, f"items of {', '.join(sets)} when it was last asked")
        return found

    def _of_export(self, model: ModelRecord) -> dict[str, Cell]:
        info = self.history.export(model)
        if info is None:  # whatever the price is, the throughput comes first
            return {"cost_per_1000": Cell(fill=f"dsops export-model {model.name} --to DIR")}
        variant = info["variants"][_FLOAT]
        batches = variant["timing"]["batches"]
        one = batches[0]
        best = max(batches, key=lambda item: float(item["per_second"]))
        threads = f"{variant['timing']['threads']} threads" if variant["timing"]["threads"] > 1 else "1 thread"
        where = f"ONNX Runtime on a CPU, {threads}, without reading and preparing the image"
        found = {
            "latency_p50": Cell(float(one["p50_ms"]), note=f"{where}, batch {one['batch']}"),
            "latency_p95": Cell(float(one["p95_ms"]), note=f"{where}, batch {one['batch']}"),
            "throughput": Cell(float(best["per_second"]), note=f"{where}, batch {best['batch']}"),
            "size": Cell(variant["bytes"] / _MIB, note=f"{variant['name']}"),
        }
        if self.price is not None:
            cost = _THOUSAND * self.price / (3600 * float(best["per_second"]))
            found["cost_per_1000"] = Cell(cost, note=f"at {self.price:g} an hour")
        return found

    def _baseline(self, model: str | None) -> str | None:
        parent = self.history.models[model].parent if model else None
        found = self.baseline or parent or self.history.production
        return None if found == model else found

    def _gain(self, model: ModelRecord, judgement: Judgement) -> Cell:
        """Above 0 is better, whichever way the metric goes. From a comparison, else from two evaluations."""
        name = self._baseline(model.name)
        if name is None or name not in self.history.models:
            return Cell(fill="dsops scorecard --baseline MODEL")
        info = judgement.info
        metric = info["metric"]["name"]
        sign = 1 if info["metric"]["larger_is_better"] else -1
        part = {key: info[key] for key in ("commit", "split", "where", "kind")}
        for one in self.history.comparisons:
            if any(one[key] != value for key, value in part.items()) or metric not in one["metrics"]:
                continue
            sides = [str(one[side]).partition("#")[0] for side in ("first", "second")]
            if set(sides) == {f"model:{name}", f"model:{model.name}"}:
                turn = sign if sides[1] == f"model:{model.name}" else -sign
                told = one["metrics"][metric]
                ends = [None if told[end] is None else turn * told[end] for end in ("low", "high")]
                ends = ends if turn > 0 else ends[::-1]
                return Cell(turn * told["difference"], ends[0], ends[1], f"{metric} against {name}, paired")
        others = [
            one.info
            for one in self.history.judged(self.history.models[name])
            if all(one.info[key] == value for key, value in part.items()) and one.info["metric"]["name"] == metric
        ]
        values = (info["metric"]["value"], others[-1]["metric"]["value"] if others else None)
        if values[0] is None or values[1] is None:
            return Cell(note=f"against {name}")
        return Cell(sign * (values[0] - values[1]), note=f"{metric} against {name}, {info['split'] or 'all samples'}")


def _of_evaluation(info: Mapping[str, Any]) -> dict[str, Cell]:
    """Metric, worst scenario, rates of errors and calibration."""
    metric, where = info["metric"], f"{info['version']}, {info['split'] or 'all samples'}"
    name, value = metric["name"], metric["value"]
    known = info["intervals"].get(name) or {"low": None, "high": None}
    found = {"metric": Cell(value, known["low"], known["high"], f"{name} on {where}")}
    found |= {one: Cell(note=f"not told of the kind {info['kind']}", fill="") for one in ("fpr", "fnr", "ece")}
    found |= _robustness(info)
    found |= _rates(info)
    ece = info["metrics"].get("ece") or (info["details"].get("calibration") or {}).get("ece")
    if ece is not None:
        found["ece"] = Cell(float(ece))
    return found


def _robustness(info: Mapping[str, Any]) -> dict[str, Cell]:
    larger = bool(info["metric"]["larger_is_better"])
    for name, slices in info["slices"].items():
        overall = info["intervals"][name]["value"]
        told = [item for item in slices if not item["small"] and item["value"] is not None]
        if not told or not overall:
            continue
        worst = min(told, key=lambda item: (item["value"] if larger else -item["value"], item["name"]))
        share = worst["value"] / overall if larger else overall / worst["value"] if worst["value"] else 1.0
        note = f"{worst['name']}: {name} {worst['value']:.4f} against {overall:.4f}"
        return {"robustness": Cell(share, note=note)}
    return {"robustness": Cell(note="no slice with enough samples", fill="")}


def _rates(info: Mapping[str, Any]) -> dict[str, Cell]:
    found: dict[str, Cell] = {}
    for rate in info["details"].get("critical", ()):
        kind, value = rate["rate"], rate["value"]
        if value is None:
            continue
        before = found.get(kind)
        if before is None or before.value is None or value > before.value:
            note = f"{rate['class']}, at most {rate['target']:g} allowed: {rate['verdict']}"
            found[kind] = Cell(value, rate["low"], rate["high"], note)
    classes = [
        item for item in info["details"].get("classes", ()) if item["examples"] and item.get("recall") is not None
    ]
    if classes and "fnr" not in found:
        found["fnr"] = Cell(1 - sum(item["recall"] for item in classes) / len(classes), note="mean over the classes")
    total = info["items"]["judged"]
    if info["kind"] == "classification" and classes and "fpr" not in found:
        rates = [
            (item["predicted"] - item["recall"] * item["examples"]) / (total - item["examples"])
            for item in info["details"]["classes"]
            if item.get("recall") is not None and item["examples"] < total
        ]
        if rates:
            found["fpr"] = Cell(sum(rates) / len(rates), note="mean over the classes")
    return found


def _share(hits: int, total: int, words: str) -> Cell:
    return Cell(hits / total, note=f"{hits:,} of {total:,} {words}".strip())
