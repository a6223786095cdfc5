"""What figures and record say, as headings with tables: the dataset card and the pack's page are made of these."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pyarrow.compute as pc

from datasetops.evaluation.sections import Section
from datasetops.evidence.figures import NONE, Figures, share
from datasetops.evidence.story import Story

_GAPS: Final = 20  # gaps that are told one by one
_VALUES: Final = 30  # origins, licences, models that are told one by one
_SOURCES: Final = {
    "human": "given or confirmed by a person",
    "consensus": "merged from several people's answers",
    "model": "given by a model, and no person has touched it",
    "import": "came with the data; who gave it is not known here",
    "rule": "made by a rule",
}


def dataset_sections(story: Story) -> list[Section]:
    """What the data are: splits, classes, how the labels came to be, how good they are, rights, known gaps."""
    counted = story.figures
    return [
        _splits(counted),
        _classes(counted),
        _labels(counted),
        _qa(story),
        *_agreement(story),
        _audits(story),
        *_rights(counted),
        _gaps(story),
    ]


def _splits(counted: Figures) -> Section:
    rows = [(name, f"{n:,}", share(n, counted.samples)) for name, n in counted.splits.items()]
    return Section("Splits", ("split", "images", "share"), rows)


def _classes(counted: Figures) -> Section:
    splits = list(counted.splits)
    header = ("class", "labels", "share", "images", *(f"in {name}" for name in splits), "by people")
    rows = [
        (
            item.name,
            f"{item.labels:,}",
            share(item.labels, counted.labels),
            f"{item.images:,}",
            *(f"{item.by_split.get(name, 0):,}" for name in splits),
            share(item.by_people, item.labels),
        )
        for item in counted.classes
    ]
    note = "“by people”: the share of the class's labels that a person gave or confirmed."
    return Section("Classes", header, rows, note)


def _labels(counted: Figures) -> Section:
    rows = [(name, f"{n:,}", share(n, counted.labels), _SOURCES.get(name, "")) for name, n in counted.sources.items()]
    people = len(counted.annotators)
    note = f"{people:,} {'person' if people == 1 else 'people'} gave labels." if people else "No label names a person."
    if counted.votes:
        note += f" {counted.votes:,} single answers are kept beside the labels that they were merged into."
    if counted.models:
        note += f" Models: {_listed(counted.models)}."
    if counted.unlabeled:
        note += f" {counted.unlabeled:,} images have no label."
    return Section("How the labels came to be", ("source", "labels", "share", "meaning"), rows, note)


def _qa(story: Story) -> Section:
    header = ("plan", "version", "verdict", "images", "drawn", "judged", "wrong", "at most wrong", "confidence", "part")
    rows = []
    for plan, found in story.qa:
        counts = (found.population, found.checked, found.checked - found.open, found.wrong)
        bound = (f"{found.high:.2%}", f"{found.confidence:.0%}")
        rows.append((plan.name, plan.version, found.verdict, *map("{:,}".format, counts), *bound, plan.where or "all"))
    note = (
        "Of a version's images some were drawn at random and judged by people. “At most wrong” is the upper bound of the "
        "share of all images that have a wrong label, at the confidence beside it; images without a verdict count as wrong."
    )
    return Section("Sampled quality control", header, rows, note if rows else "No sample was drawn and judged.")


def _audits(story: Story) -> Section:
    header = ("check", "findings", "high", "medium", "low", "no fault", "confirmed", "unclear", "not looked at")
    words = ("findings", "high", "medium", "low", "fine", "error", "unsure", "undecided")
    rows = [(check, *(f"{counts[word]:,}" for word in words)) for check, counts in story.findings.items()]
    note = "What automatic checks found suspicious, by severity, and what people said who looked at it."
    return Section("Audits", header, rows, note if rows else "This version was not audited.")


def _agreement(story: Story) -> list[Section]:
    """Figures of the check of annotators, where one ran."""
    summary = story.audit.summaries.get("annotators", {}) if story.audit else {}
    words = (
        "images",
        "answers",
        "agreement",
        "Krippendorff's alpha",
        "Fleiss' kappa",
        "images with boxes",
        "boxes' F1",
    )
    rows = [(word, str(summary[word])) for word in words if word in summary]
    return [Section("Agreement of annotators", ("figure", "value"), rows)] if rows else []


def _rights(counted: Figures) -> list[Section]:
    found = []
    for title, word, values in (
        ("Licences", "licence", counted.licenses),
        ("Origins", "origin", counted.origins),
        ("Consent", "consent", counted.consents),
    ):
        rows = [(name, f"{n:,}", share(n, counted.samples)) for name, n in list(values.items())[:_VALUES]]
        more = len(values) - len(rows)
        note = f"{more:,} more are not listed." if more else ""
        if title == "Consent":
            note = f"{note} {_dates(counted)}".strip()
        found.append(Section(title, (word, "images", "share"), rows, note))
    return found


def _dates(counted: Figures) -> str:
    told = "No image has a date on which its rights end."
    if counted.expire:
        count, first, last = counted.expire
        told = f"The rights of {count:,} images end on a date: the first on {first}, the last on {last}."
    if counted.captured:
        told += f" Images were taken from {counted.captured[0]} to {counted.captured[1]}."
    return told


def _gaps(story: Story) -> Section:
    told = gaps(story)
    audited = story.audit is not None and "coverage" in story.audit.info["checks"]
    note = (
        "" if audited else "The check of coverage has not run over this version; what follows is what counting shows."
    )
    if not told:
        note = f"{note} None was found.".strip()
    return Section("Known gaps", ("gap",) if told else (), [(text,) for text in told], note)


def gaps(story: Story) -> list[str]:
    """Classes without labels, what names no licence, origin or consent or has expired, and what the audit of coverage
    found, worst first."""
    counted = story.figures
    empty = [item.name for item in counted.classes if not item.labels]
    told = [f"no label of class {name}" for name in empty[:_GAPS]]
    told += [f"{len(empty) - _GAPS:,} more classes have no label"] if len(empty) > _GAPS else []
    for word, values in (("licence", counted.licenses), ("origin", counted.origins), ("consent", counted.consents)):
        if values.get(NONE):
            told.append(f"{values[NONE]:,} of {counted.samples:,} images name no {word}")
    if counted.expired:
        told.append(f"the rights of {counted.expired:,} images have ended (counted on {counted.on})")
    if story.audit is not None:
        rows = story.audit.findings
        found = rows.filter(pc.equal(rows["check"], "coverage"))["message"].to_pylist()
        told += found[:_GAPS]
        told += [f"{len(found) - _GAPS:,} more gaps of coverage"] if len(found) > _GAPS else []
    return told


def record_sections(story: Story) -> list[Section]:
    """Who decided what about the version, by which rules, how it came to be, and what learned from it."""
    return [_gate(story), _approvals(story), _findings_gone(story), _versions(story), _models(story), _events(story)]


def _gate(story: Story) -> Section:
    overridden: Mapping[str, str] = story.acceptance.event.parameters.get("override", {}) if story.acceptance else {}
    rows = [
        (
            rule["rule"],
            _asked(story.policy.get(rule["rule"])),
            "passed" if rule["passed"] else "OVERRIDDEN" if rule["rule"] in overridden else "did not pass",
            rule["message"],
            overridden.get(rule["rule"], ""),
        )
        for rule in story.rules
    ]
    note = "The version is not accepted, so no rule stands on record for it."
    if story.acceptance is not None:
        note = (
            f"The rules of the policy “{story.policy.get('name', '')}”, what each asks for, and what was found, as it was "
            "written down when the version was accepted."
        )
        note += "" if rows else " The policy asked for nothing."
    header = ("rule", "asks for", "outcome", "what was found", "reason of an override")
    return Section("Rules of acceptance", header, rows, note)


def _asked(wanted: Any) -> str:
    """The figures of a rule of a policy, in one line."""
    if not isinstance(wanted, Mapping):
        return ""
    told = []
    for name, value in wanted.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{key} {item}" for key, item in value.items())
        elif isinstance(value, list):
            value = ", ".join(map(str, value))
        if value not in ("", None, False):
            told.append(f"{name.replace('_', ' ')}: {'yes' if value is True else value}")
    return "; ".join(told)


def _approvals(story: Story) -> Section:
    rows = []
    for item in approvals(story):
        reasons = "; ".join(f"{rule} overridden: {why}" for rule, why in sorted(item["override"].items()))
        words = "; ".join(text for text in (item["reason"], item["note"], reasons) if text)
        rows.append((item["time"][:19].replace("T", " "), item["what"], item["who"], words))
    note = "" if rows else "Nobody accepted, refused or rejected this version."
    return Section("Approvals", ("time (UTC)", "what", "who", "notes and reasons"), rows, note)


def approvals(story: Story) -> list[dict[str, Any]]:
    """Acceptances, refusals and rejections of the version, oldest first."""
    words = {"accept": "accepted", "refuse": "asked for acceptance; the gate refused", "reject": "rejected"}
    return [
        {
            "what": words[entry.event.kind],
            "who": entry.event.actor,
            "time": entry.event.time,
            "override": dict(entry.event.parameters.get("override", {})),
            "note": str(entry.event.parameters.get("note", "")),
            "reason": str(entry.event.parameters.get("reason", "")),
            "policy": entry.event.inputs.get("policy"),
            "ledger_entry": entry.number,
            "ledger_digest": entry.digest,
        }
        for entry in story.verdicts
    ]


def _count(number: int | None) -> str:
    return "not looked for" if number is None else f"{number:,}"


def _findings_gone(story: Story) -> Section:
    rows = [(row["version"], row["check"], f"{row['findings']:,}", _count(row["gone"])) for row in story.corrected]
    since = f"since {story.base.name}, the version accepted before" if story.base else "so far"
    note = f"Of what checks found in earlier versions ({since}): how much is found no more in this one."
    return Section(
        "What became of earlier findings",
        ("version", "check", "findings", "gone"),
        rows,
        note if rows else "No earlier version was audited.",
    )


def _versions(story: Story) -> Section:
    rows = [
        (item.name, item.commit.time[:19].replace("T", " "), item.commit.author, item.commit.message,
         f"{item.commit.counts['samples']:,}", f"{item.commit.counts['annotations']:,}", item.digest[:16])
        for item in story.line
    ]  # fmt: skip
    header = ("version", "time (UTC)", "author", "what was done", "images", "annotations", "digest begins")
    return Section("How it came to be", header, rows, "This version and all that it stands on, newest first.")


def _models(story: Story) -> Section:
    rows = [(one.name, one.recipe["name"], one.split, one.created, one.actor, one.digest[:16]) for one in story.models]
    header = ("model", "recipe", "split", "trained", "by", "digest begins")
    return Section("Models that learned from it", header, rows, "" if rows else "None.")


def _events(story: Story) -> Section:
    counts: dict[str, int] = {}
    for entry in story.entries:
        counts[entry.event.kind] = counts.get(entry.event.kind, 0) + 1
    note = "Entries of the ledger about this version and those that it stands on; events.jsonl holds each."
    return Section("Events", ("kind", "events"), [(kind, f"{n:,}") for kind, n in sorted(counts.items())], note)


def _listed(values: Mapping[str, int]) -> str:
    told = ", ".join(f"{name} ({count:,})" for name, count in list(values.items())[:_VALUES])
    return told + (f" and {len(values) - _VALUES:,} more" if len(values) > _VALUES else "")
