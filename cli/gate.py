"""Commands of the gate: accept, reject, policy."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from datasetops.cli.session import CHECK_FAILED, Session, command, counted, group, table
from datasetops.cli.versions import VersionName

if TYPE_CHECKING:
    import pyarrow as pa

    from datasetops.training.rights import RightsReport

PolicyFile = Annotated[
    str | None, typer.Option("--policy", help="A YAML file, or default; the dataset's own unless told.")
]


def register(app: typer.Typer) -> None:
    for function in (accept, reject):
        command(app)(function)
    policy = group(app, "policy", "What a version must show before it is accepted.")
    command(policy, "show")(policy_show)
    command(policy, "set")(policy_set)
    command(policy, "check")(policy_check)


def accept(
    session: Session,
    version: VersionName = "main",
    policy: PolicyFile = None,
    override: Annotated[list[str] | None, typer.Option(help="Pass over this rule. May be repeated.")] = None,
    reason: Annotated[str, typer.Option(help="Why; it is recorded with the override.")] = "",
    note: Annotated[str, typer.Option(help="Kept with the acceptance.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what passes and what does not.")] = False,
) -> None:
    """Accept a version if it fulfils the policy: every rule is shown with its evidence. Status 3 if it does not."""
    from datasetops.gate.accept import accept as decide
    from datasetops.gate.accept import overridden_words
    from datasetops.gate.policy import current_policy, load_policy
    from datasetops.gate.status import status_of

    repository = session.repository
    chosen = repository.version(version)
    asked = load_policy(policy) if policy else current_policy(repository)
    before = status_of(repository, chosen)
    if before.status == "rejected":
        session.say(f"{chosen.name} was rejected by {before.actor}: {before.reason}")
    found = decide(
        repository, chosen, asked, override=dict.fromkeys(override or [], reason), note=note, dry_run=dry_run
    )  # fmt: skip
    marks = {True: "pass", False: "FAIL"}
    lines = table(
        [["over" if r.rule in found.overridden else marks[r.passed], r.rule, r.message] for r in found.rules],
        header=("", "rule", f"{found.version} by the policy {found.policy}"),
    )
    lines += [""] + [f"{rule.rule}: {rule.remedy}" for rule in found.failed if rule.remedy]
    lines += overridden_words(found.rules, found.overridden)
    if found.accepted:
        lines.append(f"{found.version} is accepted" + (" already." if found.already else f", by {found.actor}."))
    elif found.failed:
        lines.append(f"{found.version} is not accepted: {len(found.failed)} of {len(found.rules)} rules do not pass.")
    else:
        lines.append(f"{found.version} would be accepted.")
    session.emit(found.as_dict(), lines)
    if found.failed:
        raise typer.Exit(CHECK_FAILED)


def reject(
    session: Session,
    version: VersionName,
    reason: Annotated[str, typer.Option(help="Why it must not be used.")],
) -> None:
    """Record that a version must not be used; an earlier acceptance no longer holds."""
    from datasetops.gate.accept import reject as decide

    chosen = session.repository.version(version)
    decide(session.repository, chosen, reason)
    session.emit({"version": chosen.name, "status": "rejected", "reason": reason}, f"{chosen.name} is rejected.")


def policy_show(session: Session, policy: PolicyFile = None) -> None:
    """Show the policy that holds, as YAML."""
    from datasetops.gate.policy import current_policy, load_policy
    from datasetops.schema.yamlfile import dump_yaml

    found = load_policy(policy) if policy else current_policy(session.repository)
    plain = found.model_dump(mode="json", by_alias=True, exclude_none=True)
    session.emit(plain | {"digest": found.digest}, dump_yaml(plain).rstrip())


def policy_set(session: Session, file: Annotated[Path, typer.Argument(help="A YAML file.")]) -> None:
    """Make a policy the dataset's own from now on; the ledger keeps who set it and when."""
    from datasetops.gate.policy import load_policy, set_policy

    policy = load_policy(file)
    set_policy(session.repository, policy)
    answer = {"policy": policy.name, "digest": policy.digest, "rules": list(policy.rules)}
    session.emit(answer, f"The policy {policy.name} holds from now on: {', '.join(policy.rules)}.")


def policy_check(
    session: Session,
    version: Annotated[
        str | None, typer.Argument(metavar="VERSION", help="Only this one; else the newest of main and all accepted.")
    ] = None,
    within: Annotated[str, typer.Option(metavar="DAYS", help="Tell what expires within so many days: 90d.")] = "90d",
    policy: PolicyFile = None,
    rows: Annotated[
        Path | None, typer.Option(help="Write the ids of all of them to a .csv, .json or .parquet file.")
    ] = None,
) -> None:
    """Tell which samples break a right now or will soon: licence, consent, expiry, residency. Status 3 if any does.

    And which models learned from them. Rights are those that the policy asks for; a part that it leaves out is not.
    """
    from datasetops.cli.files import write_table
    from datasetops.gate.policy import current_policy, load_policy
    from datasetops.training.rights import check_rights

    if not (days := re.fullmatch(r"(\d{1,5})d?", within.strip())):
        raise ValueError(f"--within: expected a number of days, like 90d; got {within!r}")
    repository = session.repository
    asked = load_policy(policy) if policy else current_policy(repository)
    chosen = repository.version(version) if version else None
    report = check_rights(repository, asked, chosen, within=int(days[1]))
    if rows is not None:
        write_table(_rights_rows(report), rows)
        session.say(f"All ids are in {rows}.")
    session.emit(report.as_dict(), _rights_lines(report))
    if report.broken:
        raise typer.Exit(CHECK_FAILED)


def _rights_rows(report: RightsReport) -> pa.Table:
    """Columns version, sample_id and `what`: breaks or expires."""
    import pyarrow as pa

    names = ("version", "sample_id", "what")
    parts = [
        [(one.version, sample_id, what) for sample_id in ids.to_pylist()]
        for one in report.versions
        for what, ids in (("breaks", one.broken), ("expires", one.expiring))
    ]
    rows = [row for part in parts for row in part]
    return pa.table({name: pa.array([row[place] for row in rows], pa.string()) for place, name in enumerate(names)})


def _rights_lines(report: RightsReport) -> list[str]:
    if not report.rules:
        return [f"The policy {report.policy} asks nothing of licence, consent, expiry or residency."]
    breaches = [(one, breach) for one in report.versions for breach in one.breaches]
    lines = table(
        [[one.version, report.status[one.version], b.rule, b.samples, b.words()] for one, b in breaches],
        header=("version", "status", "breaks", "samples", "what they say"),
    )
    if not breaches:
        lines = [f"Nothing breaks now: {', '.join(one.version for one in report.versions)}."]
    for one in report.versions:
        if one.first_expiry:
            lines.append(
                f"{one.version}: {counted(len(one.expiring), 'sample')} will expire within {report.within} days, the first on "
                f"{one.first_expiry:%Y-%m-%d}."
            )
    if report.models:
        rows = [
            [
                m.model + (" (production)" if m.production else ""),
                m.version,
                sum(m.broken.values()),
                sum(m.expiring.values()),
            ]
            for m in report.models
        ]
        header = ("model", "trained on", "samples that break", "that will expire")
        lines += ["", "Models that learned from such samples:", *table(rows, header=header)]
    looked = f"{counted(sum(one.samples for one in report.versions), 'sample')} of {counted(len(report.versions), 'version')}"
    lines += [
        "",
        f"Worked out from {looked} and {report.models_looked_at:,} models, by the policy {report.policy} "
        f"({report.digest[:12]}: {', '.join(report.rules)}), at {report.time:%Y-%m-%d %H:%M} UTC.",
    ]
    return lines
