"""What `dsops preannotate` tells people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from shlex import quote
from typing import TYPE_CHECKING, Any, Final

from datasetops.cli.session import counted, table
from datasetops.preannotate.disagreement import PEOPLE

if TYPE_CHECKING:
    from datasetops.preannotate.result import PreannotateResult
    from datasetops.preannotate.thresholds import Promises, Share
    from datasetops.schema import LabelSchema

_SHOWN: Final = 8  # names, samples or faults listed
_PARTS: Final = 5  # classes and slices listed that are below the target


def result_lines(made: PreannotateResult, newest: str, schema: LabelSchema, task: str | None) -> list[str]:
    """What was done, and the commands for what is left to people, the most useful first. `newest` is the version that
    was to be changed."""
    head = f"{made.model.label}: {counted(made.asked, 'sample')} asked about"
    head += f", {counted(made.computed, 'image')} computed, {made.known:,} known before."
    lines = [head]
    if made.promises is not None:
        lines += _promise_lines(made.promises)
        lines += _below_lines(made)
    if made.by_class:
        given = sorted(made.by_class.items(), key=lambda item: (-item[1], item[0]))
        lines += table(given, header=("class", "given"))
    if made.version is None:
        lines.append(_nothing(made, newest))
    else:
        told = ", ".join(f"{made.counts[name]:,} {word}" for name, word in _WORDS.items() if made.counts.get(name))
        lines.append(f"{made.version}: {told} annotations.")
        if made.replaced > made.counts.get("inserted", 0) + made.counts.get("updated", 0):
            lines.append(
                f"Of those removed {made.replaced:,} are of another model: this one answers for the classes that it can name, "
                "also where it found nothing. --classes names those that it is to answer for."
            )
    if made.qa_plan is not None:
        lines.append(
            f"They count unseen if the QA plan {made.qa_plan} accepts a random sample of them: dsops qa push {made.qa_plan}"
        )
    return lines if made.version is None else [*lines, *_next(made, made.version, schema, task)]


def _nothing(made: PreannotateResult, newest: str) -> str:
    if not made.below:
        return f"Nothing in {newest} has to change."
    return (
        f"Nothing in {newest} has to change: no threshold was reached by the {made.below:,} predictions about these classes, "
        f"whose highest score is {made.highest:.3f} (--threshold takes them from a lower one on)."
    )


def _next(made: PreannotateResult, version: str, schema: LabelSchema, task: str | None) -> list[str]:
    """Commands for people, in order of usefulness."""
    kinds = [kind for kind in made.model.kinds if kind in schema.kinds and task in (None, kind)]
    model = quote(made.model.label)
    without = "source IS NULL"
    if len(schema.kinds) > 1:
        without = f"sample_id NOT IN (SELECT sample_id FROM annotations WHERE kind = '{kinds[0]}')"  # noqa: S608 (shown, not run)
    rest = "" if made.promises is None else f' --where "{without}"'
    lines = [
        "Next, what is left to people:" if rest else "Next, the most useful first:",
        f"  dsops select {version} --predictions {model}{rest}",
        f"  dsops label push {version} --round rN",
    ]
    if "classification" not in kinds:
        lines = ["Next:", f"  dsops label push {version}{rest}"]
    if rest and made.qa_plan is None and made.by_class:
        lines.append(
            f"  dsops label push {version} --where \"source = 'model'\"    # what was written, to be corrected"
        )
    return [*lines, f"  dsops audit {version}"]


def disagreement_lines(kept: Sequence[Mapping[str, Any]], version: str) -> list[str]:
    """Who differs from whom, and what to do with it. `kept` are items of the command's answer."""
    lines = []
    for item in kept:
        lines.append(f"Disagreement about {item['kind']}, kept as {item['key']}:")
        columns = {"one": "one", "other": "other", "differ": "differ on", "samples": "of samples"}
        if any(pair["outside"] for pair in item["pairs"]):
            columns["outside"] = "no class of the schema in"
        rows = [[pair[name] for name in columns] for pair in item["pairs"]]
        lines += table(rows, header=tuple(columns.values()))
        names = [*dict.fromkeys(name for pair in item["pairs"] for name in (pair["one"], pair["other"]))]
        models = " ".join(f"--predictions {quote(name)}" for name in names if name != PEOPLE)
        if item["most"]:
            most = ", ".join(f"{one['sample_id']} ({one['score']:.2f})" for one in item["most"][:_SHOWN])
            lines.append(f"{item['differ']:,} samples are disagreed on, most: {most}")
        if PEOPLE in names:
            lines.append(f"Labels that a model doubts: dsops audit {version} {models.split(' --')[0]}")
        if len(names) > 1 + (PEOPLE in names) and item["kind"] == "classification":
            lines.append(f"What models disagree on, for people to label: dsops select {version} {models}")
    return lines


def _promise_lines(promises: Promises) -> list[str]:
    """A line for each class with a promise, and why there is none for the others."""
    kept = [item for item in promises.classes if item.threshold is not None]
    rest = [item for item in promises.classes if item.threshold is None]
    lines = []
    if kept:
        together = "of the rows of all classes together" if promises.together else "of all these classes together"
        lines.append(f"Promised with {promises.confidence:.0%} confidence, {together}:")
        rows = [
            [
                item.name,
                f"{item.threshold:.5f}",
                f"{promises.target:.1%}",
                _reached(item.held_out),
                f"{item.kept:.0%}",
            ]
            for item in kept
        ]
        lines += table(rows, header=("class", "from score", "promised", "reached on the held-out half", "share kept"))
    if rest:
        lines.append("No promise, and no rows, for:")
        lines += table([(item.name, item.why) for item in rest])
    return lines


def _below_lines(made: PreannotateResult) -> list[str]:
    """Classes and slices in which the held-out labels say less than was promised of the whole."""
    if not made.below_target:
        return []
    parts = [
        [one.name or "all promised classes", one.slice or "everywhere", _reached(one.held_out)]
        for one in made.below_target[:_PARTS]
    ]
    more = len(made.below_target) - len(parts)
    return [
        "The promise is about the whole, not about each part of it. Below the target on the held-out half:",
        *table(parts, header=("class", "slice", "reached")),
        *([f"… and {more:,} more; --json lists them all"] if more > 0 else []),
    ]


def _reached(share: Share) -> str:
    return (
        f"{share.value:.1%} of {share.count:,} ({share.low:.1%} to {share.high:.1%})" if share.count else "none there"
    )


_WORDS: Final = {"inserted": "new", "updated": "changed", "deleted": "removed"}


def dry_lines(made: PreannotateResult) -> list[str]:
    """What a run would take."""
    lines = [f"{made.model.label} would be asked about {made.asked:,} of {counted(made.selected, 'sample')}."]
    if made.known:
        lines.append(f"{made.known:,} images were predicted before.")
    if made.promises is not None:
        lines += _promise_lines(made.promises)
        lines += _below_lines(made)
    return lines + (made.cost.lines() if made.cost else [])


def notes(made: PreannotateResult) -> list[str]:
    """What a user should know about names, samples that were left out, and images at fault."""
    lines = []
    names = made.mapping
    if names["ambiguous"]:
        told = "; ".join(
            f"{name!r} may be {' or '.join(map(repr, found))}" for name, found in names["ambiguous"].items()
        )
        lines.append(f"Names that count for no class, since they are ambiguous: {told}. Say which with --mapping.")
    if names["unreached"]:
        lines.append(f"Classes that the model cannot name: {_listed(names['unreached'])}. --mapping may help.")
    if names["unmapped"]:
        lines.append(f"Names of the model that count for no class: {_listed(names['unmapped'])}.")
    if made.labeled:
        lines.append(f"People labeled {made.labeled:,} of the {counted(made.selected, 'sample')}; theirs stay.")
    if made.without_image:
        lines.append(f"{made.without_image:,} of the samples have no image at hand and were left out.")
    if made.stayed:
        lines.append(f"{made.stayed:,} of the samples have rows of a model that somebody changed since; these stay.")
    if made.outlined:
        lines.append(
            f"People outlined things in {made.outlined:,} of the samples with boxes by the model: it does not know of their "
            "polygons and masks, and boxes may mark the same things again."
        )
    if made.faults:
        lines.append(f"{len(made.faults):,} images gave nothing:")
        lines += [f"  {fault.uri}: {fault.message}" for fault in made.faults[:_SHOWN]]
        if len(made.faults) > _SHOWN:
            lines.append(f"  … and {len(made.faults) - _SHOWN:,} more; --json lists them all")
    return lines


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else "")
