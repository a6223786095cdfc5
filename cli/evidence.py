"""`dsops evidence`: what is on record about a version, as files that others can read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from datasetops.cli.session import Session, command
from datasetops.cli.versions import VersionName


def register(app: typer.Typer) -> None:
    command(app)(evidence)


def evidence(
    session: Session,
    version: VersionName,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to write it: PACK.zip, or the part's file.")
    ] = None,
    only: Annotated[
        str | None, typer.Option(metavar="PART", help="One part alone: prov, openlineage, croissant or card.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="Send OpenLineage events to this server instead: http://HOST:PORT.")
    ] = None,
    draft: Annotated[
        bool, typer.Option("--draft", help="Write the pack of a version that is not accepted, with a warning on it.")
    ] = False,
) -> None:
    """Write the evidence pack of an accepted version, or one part: lineage (W3C PROV, OpenLineage), Croissant, dataset card.

    The same version and ledger give the same bytes. A file that is there is replaced.
    """
    from datasetops.evidence.openlineage import post, run_events
    from datasetops.evidence.story import Story
    from datasetops.evidence.write import OPENLINEAGE, check_part, write_pack, write_part
    from datasetops.records import sha256_hex

    if only is not None:
        check_part(only)
    if url is not None and only != OPENLINEAGE:
        raise ValueError(f"--url goes with --only {OPENLINEAGE}")
    if (out is None) == (url is None):
        raise ValueError("give --out FILE" + (" or --url, not both" if only == OPENLINEAGE else ""))
    if draft and only is not None:
        raise ValueError("--draft is for the whole pack; a part says of itself what its version is")
    story = Story(session.repository, session.repository.version(version))
    answer = {"version": story.version.name, "commit": story.version.digest, "part": only or "pack"}
    if url is not None:
        events = run_events(story)
        sent = post(events, url)
        _record(session, answer | {"path": sent})
        session.emit(answer | {"url": sent, "events": len(events)}, f"{len(events)} events went to {sent}.")
    elif out is not None:
        data = write_part(story, only, out) if only else write_pack(story, out, draft=draft)
        digest = sha256_hex(data)
        _record(session, answer | {"path": str(out), "sha256": digest})
        lines = [f"{out} holds {only or 'the evidence pack'} of {story.version.name}.", f"SHA-256 {digest}"]
        session.emit(answer | {"path": str(out), "bytes": len(data), "sha256": digest}, lines)


def _record(session: Session, answer: Mapping[str, Any]) -> None:
    from datasetops.evidence.story import EVIDENCE
    from datasetops.ledger import Event

    inputs = {name: answer[name] for name in ("version", "commit")}
    parameters = {name: value for name, value in answer.items() if name not in inputs}
    repository = session.repository
    repository.ledger.record(Event(EVIDENCE, repository.settings.actor, inputs, parameters=parameters))
