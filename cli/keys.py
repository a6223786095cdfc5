"""`dsops keys`: keys that sign acceptances, promotions and erasures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from datasetops.cli.session import Session, command, group, table


def register(app: typer.Typer) -> None:
    keys = group(app, "keys", "Keys that sign acceptances, promotions and erasures.")
    command(keys, "make")(make)
    command(keys, "list")(list_keys)
    command(keys, "revoke")(revoke)


def make(
    session: Session,
    file: Annotated[Path, typer.Argument(help="Where the private key is written; keep it out of the repository.")],
    name: Annotated[str, typer.Option(help="Whose key it is, for people; the actor unless told.")] = "",
) -> None:
    """Make a key pair: the private key goes to a file, the public one is made known to the repository.

    With DSOPS_KEY_PASSWORD set, the file is encrypted by it.
    """
    from datasetops.ledger import Event
    from datasetops.signing import KEY, make_key

    repository = session.repository
    public = make_key(file)
    told = name or repository.settings.actor
    repository.ledger.record(Event(KEY, repository.settings.actor, outputs={"key": public}, parameters={"name": told}))
    lines = [
        f"The private key is in {file}; the public key {public[:16]}… of {told} is known to this repository.",
        f'To sign with it: key = "{file}" in dsops.toml, or DSOPS_KEY={file}',
    ]
    session.emit({"key": public, "name": told, "file": str(file)}, lines)


def list_keys(session: Session) -> None:
    """List the keys that the repository knows, oldest first."""
    from datasetops.signing import known_keys

    found = list(known_keys(list(session.repository.ledger.backwards())[::-1]).values())
    rows = [(one.name, one.key[:16], one.actor, one.time[:10], f"revoked {one.revoked[:10]}" if one.revoked else "")
            for one in found]  # fmt: skip
    lines = (
        table(rows, header=("name", "key", "made known by", "on", "")) if rows else ["No key yet: dsops keys make FILE"]
    )
    session.emit([vars(one) for one in found], lines)


def revoke(
    session: Session,
    key: Annotated[str, typer.Argument(help="Its name, or the beginning of its digits.")],
    reason: Annotated[str, typer.Option(help="Why nothing signed from now on counts.")],
) -> None:
    """Withdraw a key: what it signs from now on does not hold; what it signed before does."""
    from datasetops.ledger import Event
    from datasetops.signing import REVOKE, find_key, known_keys

    repository = session.repository
    found = find_key(known_keys(list(repository.ledger.backwards())[::-1]), key)
    parameters = {"key": found.key, "reason": reason}
    repository.ledger.record(Event(REVOKE, repository.settings.actor, parameters=parameters))
    session.emit({"key": found.key, "reason": reason}, f"The key {found.key[:16]}… of {found.name} is revoked.")
