"""`dsops export-model`, `promote`, `rollback`, `model-policy` and `regress`: from a trained model to production."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from datasetops.cli.gate import PolicyFile
from datasetops.cli.session import CHECK_FAILED, Session, command, counted, group, table

if TYPE_CHECKING:
    from datasetops.promotion.export import Export
    from datasetops.promotion.promote import PromotionResult

_SHOWN = 20  # items of a set that are listed

SetName = Annotated[str, typer.Argument(metavar="NAME", help="The regression set.")]
Samples = Annotated[list[str] | None, typer.Option("--sample", help="A sample's id. May be repeated.")]


def register(app: typer.Typer) -> None:
    for function in (export_model, promote, rollback):
        command(app)(function)
    policy = group(app, "model-policy", "What a model must show before it goes into production.")
    command(policy, "show")(policy_show)
    command(policy, "set")(policy_set)
    regress = group(app, "regress", "Sets of items that every model to come must answer right.")
    command(regress, "add")(regress_add)
    command(regress, "list")(regress_list)
    command(regress, "show")(regress_show)
    command(regress, "remove")(regress_remove)
    command(regress, "check")(regress_check)


def export_model(
    session: Session,
    model: Annotated[str, typer.Argument(help="A trained model: m1, or production.")],
    to: Annotated[Path, typer.Option(help="The folder that it is written to.")],
    int8: Annotated[bool, typer.Option("--int8", help="Also with eight bits, and what that costs.")] = False,
    images: Annotated[int, typer.Option(min=1, help="Images that parity is checked on.")] = 64,
    threads: Annotated[int, typer.Option(min=1, help="Of a call, where latency is measured.")] = 1,
    batch: Annotated[
        list[int] | None, typer.Option(min=1, help="Images a call. May be repeated; 1, 2, 4, 8 unless told.")
    ] = None,
    triton: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also into this model repository of Triton Inference Server.")
    ] = None,
) -> None:
    """Write a model as ONNX with its description, and check that it says the same: parity, latency, size, memory."""
    from datasetops.images import quiet_decoding
    from datasetops.promotion.export import export_model as run
    from datasetops.promotion.timing import BATCHES
    from datasetops.promotion.triton import refuse_taken, write_triton
    from datasetops.training.record import load_model_record

    repository = session.repository
    batches = sorted({1, *batch}) if batch else BATCHES
    record = load_model_record(repository, model)
    if triton is not None:
        refuse_taken(triton, [record.name, f"{record.name}-int8"])
    with quiet_decoding():
        found = run(
            repository, record, to, int8=int8, images=images, threads=threads,
            batches=batches, progress=session.progress,
        )  # fmt: skip
    for note in found.info["notes"]:
        session.say(note)
    answer, lines = found.as_dict(), _export_lines(found, to)
    if triton is not None:
        files = [to / variant["name"] for variant in found.info["variants"].values()]
        served = write_triton(files, triton, max_batch_size=max(batches))
        answer["triton"] = [item.as_dict() for item in served]
        lines += [f"{item.path}: for Triton, batches of up to {item.max_batch_size or 1}." for item in served]
    session.emit(answer, lines)


def promote(
    session: Session,
    model: Annotated[str, typer.Argument(help="A trained model, such as m2.")],
    version: Annotated[str | None, typer.Option(help="To judge on; the one it was trained on unless told.")] = None,
    policy: PolicyFile = None,
    export: Annotated[str | None, typer.Option(help="Which of its exports; the newest unless told.")] = None,
    override: Annotated[list[str] | None, typer.Option(help="Pass over this rule. May be repeated.")] = None,
    reason: Annotated[str, typer.Option(help="Why; it is recorded with the override.")] = "",
    note: Annotated[str, typer.Option(help="Kept with the promotion.")] = "",
    sealed: Annotated[
        bool, typer.Option("--sealed", help="Judge on a sealed split; the looks are recorded and counted.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what passes and what does not.")] = False,
) -> None:
    """Put a model into production if it fulfils the model policy: every rule is shown with its figures. Else status 3."""
    from datasetops.images import quiet_decoding
    from datasetops.promotion.policy import current_model_policy, load_model_policy
    from datasetops.promotion.promote import promote as decide
    from datasetops.tracking.report import tell_production, tracker_of
    from datasetops.training.record import load_model_record

    repository = session.repository
    tracker = tracker_of(repository)
    with quiet_decoding():
        found = decide(
            repository,
            load_model_record(repository, model),
            load_model_policy(policy) if policy else current_model_policy(repository),
            version=None if version is None else repository.version(version),
            export_id=export,
            override=dict.fromkeys(override or [], reason),
            note=note,
            sealed=sealed,
            dry_run=dry_run,
            progress=session.progress,
        )
    if found.promoted and (told := tell_production(tracker, found.model)):
        session.say(told)
    session.emit(found.as_dict(), _promotion_lines(found))
    if found.failed:
        raise typer.Exit(CHECK_FAILED)


def rollback(
    session: Session,
    reason: Annotated[str, typer.Option(help="Why the model in production is taken back.")],
) -> None:
    """Put the model before the present one into production again."""
    from datasetops.promotion.promote import rollback as run
    from datasetops.tracking.report import tell_production, tracker_of

    tracker = tracker_of(session.repository)
    found = run(session.repository, reason)
    if told := tell_production(tracker, found.model):
        session.say(told)
    now = "No model is" if found.model is None else f"{found.model} is"
    session.emit(vars(found), f"{found.taken_back} is taken back. {now} in production now.")


def policy_show(session: Session, policy: PolicyFile = None) -> None:
    """Show the model policy that holds, as YAML."""
    from datasetops.promotion.policy import current_model_policy, load_model_policy
    from datasetops.schema.yamlfile import dump_yaml

    found = load_model_policy(policy) if policy else current_model_policy(session.repository)
    plain = found.model_dump(mode="json", exclude_none=True)
    session.emit(plain | {"digest": found.digest}, dump_yaml(plain).rstrip())


def policy_set(session: Session, file: Annotated[Path, typer.Argument(help="A YAML file.")]) -> None:
    """Make a model policy the dataset's own from now on; the ledger keeps who set it and when."""
    from datasetops.promotion.policy import load_model_policy, set_model_policy

    policy = load_model_policy(file)
    set_model_policy(session.repository, policy)
    answer = {"policy": policy.name, "digest": policy.digest, "rules": list(policy.rules)}
    session.emit(answer, f"The model policy {policy.name} holds from now on: {', '.join(policy.rules)}.")


def regress_add(
    session: Session,
    name: SetName,
    version: Annotated[str, typer.Option(help="Whose labels are expected.")] = "main",
    sample: Samples = None,
    where: Annotated[str | None, typer.Option(help="Samples that fulfil this SQL condition.")] = None,
    from_evaluation: Annotated[
        str | None,
        typer.Option(
            metavar="EVALUATION", help="Samples that a model got wrong there, on its version; an id, or the model: m1."
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="With --from-evaluation: so many, the surest errors.")
    ] = None,
    reason: Annotated[str, typer.Option(help="Why they matter; kept with each item.")] = "",
) -> None:
    """Add samples with the labels that people gave them; the set is made if there is none."""
    from datasetops.evaluation.record import load_evaluation
    from datasetops.promotion.regression import add, failures_of

    repository = session.repository
    if sum(value is not None for value in (sample or None, where, from_evaluation)) != 1:
        raise ValueError("give one of --sample, --where and --from-evaluation")
    source = ""
    if from_evaluation is not None:
        evaluation = load_evaluation(repository, from_evaluation)
        version, source = str(evaluation.info["version"]), f"evaluation {evaluation.evaluation_id}"
        ids = failures_of(evaluation, limit)
    chosen = repository.version(version)
    if where is not None:
        ids, source = sorted(chosen.where(where)), f"where {where}"
    elif sample:
        ids = sample
    found = add(repository, name, chosen, ids, reason=reason, source=source)
    session.emit(
        found.as_dict(), f"{name} holds {counted(len(found.items), 'item')} now: revision {found.revision[:16]}."
    )


def regress_list(session: Session) -> None:
    """List the regression sets."""
    from datasetops.promotion.regression import load_set, set_names

    sets = [load_set(session.repository, name) for name in set_names(session.repository)]
    rows = [(one.name, len(one.items), one.revision[:16]) for one in sets]
    lines = (
        table(rows, header=("set", "items", "revision"))
        if rows
        else ["There is no regression set yet: dsops regress add"]
    )
    session.emit([{"name": one.name, "items": len(one.items), "revision": one.revision} for one in sets], lines)


def regress_show(
    session: Session,
    name: SetName,
    revision: Annotated[str | None, typer.Option(help="A whole digest; the newest unless told.")] = None,
) -> None:
    """Show the items of a set with what is expected of each."""
    from datasetops.promotion.regression import load_set

    found = load_set(session.repository, name, revision)
    rows = [
        (
            item.sample_id,
            item.kind,
            item.version,
            ", ".join(str(one["label"]) for one in item.expected) or "nothing",
            item.reason,
        )
        for item in found.items[:_SHOWN]
    ]
    lines = table(rows, header=("sample", "kind", "version", "expected", "reason"))
    more = [f"… and {len(found.items) - _SHOWN:,} more (--json has all)"] if len(found.items) > _SHOWN else []
    session.emit(found.as_dict(), [*lines, *more, f"Revision {found.revision}"])


def regress_remove(
    session: Session,
    name: SetName,
    sample: Samples = None,
    reason: Annotated[str, typer.Option(help="Why they need no longer be right.")] = "",
) -> None:
    """Take samples out of a set; the ledger keeps who did and why."""
    from datasetops.promotion.regression import remove

    if not sample:
        raise ValueError("--sample: name what is to be taken out")
    found = remove(session.repository, name, sample, reason=reason)
    session.emit(
        found.as_dict(), f"{name} holds {counted(len(found.items), 'item')} now: revision {found.revision[:16]}."
    )


def regress_check(
    session: Session,
    name: SetName,
    model: Annotated[str, typer.Argument(help="As in dsops evaluate: m1, onnx:FILE, …")],
) -> None:
    """Ask a model about a set's items, and record how it did. Status 3 unless all are answered right."""
    from datasetops.images import quiet_decoding
    from datasetops.promotion.regression import check, load_set, record_check

    repository = session.repository
    with quiet_decoding():
        found = check(repository, load_set(repository, name), model, progress=session.progress)
    record_check(repository, found)
    lines = [f"  {sample}: {told}" for sample, told in list(found.failed.items())[:_SHOWN]]
    session.emit(
        found.as_dict(), [f"{model}: {found.right:,} of {counted(found.items, 'item')} of {name} are right.", *lines]
    )
    if found.failed:
        raise typer.Exit(CHECK_FAILED)


def _export_lines(found: Export, to: Path) -> list[str]:
    info: Any = found.info
    lines = []
    for precision, one in info["variants"].items():
        parity, timing, metric = one["parity"], one["timing"], one.get("metric")
        lines.append(f"{to / one['name']} ({precision}{', ' + one['quantisation'] if 'quantisation' in one else ''}):")
        apart = "" if parity["most_pixels"] is None else f", boxes by {parity['most_pixels']:.2g} pixels"
        lines.append(
            f"  {parity['same']:.1%} of {parity['images']} images are answered as by {info['model']} itself; "
            f"scores differ by {parity['most_score']:.2g} at most{apart}."
        )
        if metric and None not in (metric["exported"], metric["model"]):
            told = f"{metric['exported']:.4f}, the model itself {metric['model']:.4f}"
            lines.append(f"  {metric['name']} on {metric['items']} samples for validation: {told}.")
        lines.append(
            f"  {one['bytes'] / 2**20:.1f} MiB; peak memory {timing['peak_mib']:.0f} MiB, {timing['model_memory_mib']:.0f} of "
            f"it for the model (batch 1, {timing['threads']} threads)."
        )
        rows = [
            (
                item["batch"],
                f"{item['p50_ms']:.1f}",
                f"{item['p95_ms']:.1f}",
                f"{item['cpu_ms']:.1f}",
                f"{item['per_second']:.1f}",
            )
            for item in timing["batches"]
        ]
        lines += [
            "  " + line for line in table(rows, header=("batch", "p50 ms", "p95 ms", "processor ms", "images a second"))
        ]
    script = info["torchscript"]
    where = f"TorchScript: {to / script['name']}" if script["works"] else "No TorchScript"
    lines.append(f"{where}: {script['note']}.")
    first = next(iter(info["variants"].values()))["name"]
    return [*lines, f"Export {found.export_id}. Use it anywhere as onnx:{to / first}"]


def _promotion_lines(found: PromotionResult) -> list[str]:
    from datasetops.gate.accept import overridden_words

    marks = {True: "pass", False: "FAIL"}
    lines = table(
        [["over" if r.rule in found.overridden else marks[r.passed], r.rule, r.message] for r in found.rules],
        header=("", "rule", f"{found.model} on {found.version} by the policy {found.policy}"),
    )
    remedies: dict[str, list[str]] = {}
    for rule in found.failed:
        if rule.remedy:
            remedies.setdefault(rule.remedy, []).append(rule.rule)
    lines += [""] + [f"{', '.join(rules)}: {remedy}" for remedy, rules in remedies.items()]
    lines += overridden_words(found.rules, found.overridden)
    if found.already:
        lines.append(f"{found.model} is in production already.")
    elif found.promoted:
        instead = f", instead of {found.before}" if found.before else ""
        lines.append(f"{found.model} is in production, by {found.actor}{instead}. It is called production from now on.")
    elif found.failed:
        lines.append(f"{found.model} is not promoted: {len(found.failed)} of {len(found.rules)} rules do not pass.")
    else:
        lines.append(f"{found.model} would be promoted.")
    return lines
