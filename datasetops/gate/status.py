"""Which versions are accepted, rejected or drafts, as the ledger tells."""

from __future__ import annotations

from dataclasses import dataclass

from datasetops.errors import RejectedError
from datasetops.manifest import Repository, Version

DRAFT = "draft"


@dataclass(frozen=True)
class Status:
    """`status` is accepted, rejected or draft; the rest is None for a draft. `overridden` names rules that did not pass."""

    status: str
    actor: str | None = None
    time: str | None = None
    event_id: str | None = None
    overridden: tuple[str, ...] = ()
    reason: str = ""  # of a rejection


def statuses(repository: Repository) -> dict[str, Status]:
    """Status by commit digest, of every version that was ever accepted or rejected; the newest word counts."""
    found: dict[str, Status] = {}
    names = {"accept": "accepted", "reject": "rejected"}
    for entry in repository.ledger.backwards():
        event = entry.event
        if event.kind in names:
            overridden = tuple(sorted(event.parameters.get("override", {})))
            status = Status(
                names[event.kind],
                event.actor,
                event.time,
                event.event_id,
                overridden,
                str(event.parameters.get("reason", "")),
            )
            found.setdefault(str(event.inputs["commit"]), status)
    return found


def status_of(repository: Repository, version: Version) -> Status:
    return statuses(repository).get(version.digest, Status(DRAFT))


def require_accepted(repository: Repository, version: Version, *, purpose: str) -> None:
    """Raises RejectedError for a version that is not accepted; `purpose` begins the sentence."""
    status = status_of(repository, version).status
    if status != "accepted":
        raise RejectedError(
            f"{purpose} needs an accepted version; {version.name} is {'a draft' if status == DRAFT else status}.",
            remedy=f"See what it lacks: dsops accept {version.name} --dry-run",
        )


def last_accepted(repository: Repository, version: Version) -> Version | None:
    """The newest accepted version that a version stands on, itself left out."""
    known = statuses(repository)
    older = [item for item in ancestors(repository, version) if item.digest != version.digest]
    return next((item for item in older if item.digest in known and known[item.digest].status == "accepted"), None)


def since(repository: Repository, version: Version, base: Version | None) -> set[str]:
    """Digests of the commits that a version stands on, itself included, without those of `base` and before."""
    old = {item.digest for item in ancestors(repository, base)} if base else set()
    return {item.digest for item in ancestors(repository, version)} - old


def ancestors(repository: Repository, version: Version) -> list[Version]:
    """A version and all that it stands on, newest first."""
    by_digest = {item.digest: item for item in repository.versions()}
    queue, found = [version.digest], {}
    while queue:
        digest = queue.pop()
        if digest in by_digest and digest not in found:
            found[digest] = by_digest[digest]
            queue += by_digest[digest].commit.parents
    return sorted(found.values(), key=lambda item: int(item.name[1:]), reverse=True)
