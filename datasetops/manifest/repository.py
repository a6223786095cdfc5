"""A repository: versions of one dataset in a store, and the verbs that make and find them."""

from __future__ import annotations

import contextlib
import json
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pyarrow as pa
import pyarrow.compute as pc

from datasetops.errors import ConflictError, DamagedError, NotFoundError, did_you_mean
from datasetops.ledger import Entry, Event, Ledger
from datasetops.manifest.change import Change, TableChange, normalise
from datasetops.manifest.checks import check_references, refuse_sealed, with_orphans
from datasetops.manifest.commit import FORMAT, Commit, get_commit, get_object, put_object
from datasetops.manifest.diff import changed_keys
from datasetops.manifest.encoding import DELETE, INSERT, UPDATE
from datasetops.manifest.erasing import erased_counts
from datasetops.manifest.location import check_format, locate
from datasetops.manifest.refs import commit_of, write_ref
from datasetops.manifest.segment import Segment, SegmentInfo, digests_of, segment_key, write_segment
from datasetops.manifest.table import Changes, TableState
from datasetops.manifest.version import Version
from datasetops.records import KEYS, TABLES, canonical_json, one_array, sha256_hex
from datasetops.settings import FILE_NAME, Settings
from datasetops.signing import signer
from datasetops.store import KeyExistsError, Store

if TYPE_CHECKING:
    from datasetops.schema import LabelSchema

MAIN: Final = "main"
_CONFIG: Final = "repository.json"
_SECRET: Final = "keys/salt"  # noqa: S105 (the object's name)
_ATTEMPTS: Final = 100


@dataclass(frozen=True)
class CommitResult:
    """`version` is the new version, or the newest one where nothing had to change; `changed` says which.

    `counts` has inserted, updated and deleted rows of each table.
    """

    version: Version
    changed: bool
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


class Repository:
    """Open one with `Repository.open(...)`, make one with `Repository.init(...)`."""

    def __init__(self, store: Store, settings: Settings, root: Path | None) -> None:
        self.store = store
        self.settings = settings
        self.root = root  # the working folder; relative media paths start here
        self.ledger = Ledger(store, signer(settings.key))
        self._segments: dict[str, Segment] = {}

    @classmethod
    def open(cls, where: str | Path = ".") -> Repository:
        """The repository of a folder (or of one above it), or at an address like s3://bucket/prefix.

        Raises NotFoundError where there is none, DatasetOpsError for one of another format.
        """
        store, settings, root = locate(str(where))
        try:
            config = store.get(_CONFIG)
        except NotFoundError:
            raise NotFoundError(
                f"There is no dsops repository in {where}.", remedy="Make one with: dsops init DIR --schema FILE"
            ) from None
        check_format(config, where)
        return cls(store, settings, root)

    @classmethod
    def init(
        cls, where: str | Path, schema: LabelSchema, *, guide: str | None = None, store_url: str | None = None
    ) -> Repository:
        """Make a repository in a folder or at s3://bucket/prefix; `store_url` keeps a folder's objects elsewhere.

        Raises ConflictError where there is one already.
        """
        where = str(where)
        if "://" not in where:
            folder = Path(where)
            folder.mkdir(parents=True, exist_ok=True)
            settings_file = folder / FILE_NAME
            if not settings_file.exists():
                settings_file.write_text(f"store = {json.dumps(store_url or '.dsops')}\n", encoding="utf-8")
        store, settings, root = locate(where)
        if store.exists("ledger/000000000000.json"):
            raise ConflictError(
                f"{where} is a dsops repository already.", remedy="Use it as it is, or choose another folder."
            )
        with contextlib.suppress(KeyExistsError):
            store.put_new(_SECRET, secrets.token_bytes(32))
        config = canonical_json({"format": FORMAT, "salt_key_sha256": sha256_hex(store.get(_SECRET))})
        store.put(_CONFIG, config)
        repository = cls(store, settings, root)
        outputs = {
            "schema": put_object(store, "schemas", schema.canonical_bytes()),
            "guide": put_object(store, "guides", guide.encode(), "md") if guide is not None else None,
            "config": sha256_hex(config),
        }
        event = Event("init", settings.actor, outputs=outputs, parameters={"schema": schema.name})
        repository.ledger.append(event, after=None, heads={MAIN: None})
        return repository

    # --- finding versions -------------------------------------------------------------------------------------------

    def branches(self) -> dict[str, str | None]:
        """Name of the newest version on each branch; None before its first."""
        return dict(self._tail.state.heads)

    def versions(self, branch: str | None = None) -> Iterator[Version]:
        """All versions, newest first, or those that `branch` stands on."""
        if branch is None:
            for number in range(self._tail.state.versions, 0, -1):
                yield self._numbered(f"v{number}")
            return
        by_digest = {version.digest: version for version in self.versions()}
        head = self.head(branch)
        queue = [head.digest] if head else []
        while queue:
            digest = queue.pop(0)
            if digest in by_digest:
                version = by_digest.pop(digest)
                yield version
                queue += version.commit.parents

    def version(self, name: str = MAIN) -> Version:
        """A version by name (v12), or the newest of a branch. Raises NotFoundError that lists what there is."""
        state = self._tail.state
        if name in state.heads:
            head = state.heads[name]
            if head is None:
                raise NotFoundError(
                    f"The branch {name!r} has no version yet.", remedy="Bring data in with: dsops ingest SOURCE"
                )
            name = head
        if name.startswith("v") and name[1:].isdigit() and 1 <= int(name[1:]) <= state.versions:
            return self._numbered(f"v{int(name[1:])}")
        known = [f"v{number}" for number in range(state.versions, max(0, state.versions - 20), -1)]
        raise NotFoundError(
            f"There is no version or branch {name!r}.",
            remedy=did_you_mean(name, [*known, *state.heads], noun="versions and branches"),
        )

    def head(self, branch: str = MAIN) -> Version | None:
        """The newest version of a branch, None before its first. Raises NotFoundError for an unknown branch."""
        heads = self._tail.state.heads
        if branch not in heads:
            raise NotFoundError(
                f"There is no branch {branch!r}.",
                remedy=f"{did_you_mean(branch, heads, noun='branches')} Make one with: dsops branch {branch}",
            )
        name = heads[branch]
        return self._numbered(name) if name else None

    def create_branch(self, name: str, at: Version | None = None) -> None:
        """A branch that starts at a version (the newest of main unless told). Raises ConflictError if it exists."""
        if not re.fullmatch(r"(?!v\d+$)\w[\w.-]*", name):
            raise ValueError(f"branch: expected a word that is not a version name; got {name!r}")
        tail = self._tail
        start = at.name if at else tail.state.heads[MAIN]
        if name in tail.state.heads:
            raise ConflictError(f"The branch {name!r} exists already.", remedy="Choose another name.")
        event = Event("branch", self.settings.actor, inputs={"version": start}, parameters={"branch": name})
        self.ledger.append(event, after=tail, heads={**tail.state.heads, name: start})

    # --- making versions --------------------------------------------------------------------------------------------

    def commit(
        self,
        change: Change,
        *,
        message: str,
        event: Event | None = None,
        branch: str = MAIN,
        parent: Version | None = None,
        merged: Version | None = None,
        unseal: str | None = None,
    ) -> CommitResult:
        """Make a new version of a branch, or none where nothing changes.

        `parent` is the version that the change was worked out against, the branch's newest unless told. If others
        committed since then, the change goes on top of theirs where it touches other rows, and ConflictError tells
        where it does not. `unseal` is the reason for changing a sealed split; without it that is a RejectedError.
        `merged` is recorded as a second parent. O(k log n) for k changed rows of n.
        """
        event = event or Event("commit", self.settings.actor)
        if unseal:
            event = replace(event, parameters={**event.parameters, "unseal": unseal})
        tail = self._tail
        expected = parent or self.head(branch)
        for _ in range(_ATTEMPTS):
            head = self._at(tail, branch)
            schema = change.schema or (head.schema if head else self._first_schema())
            wanted = normalise(change, schema, event.event_id)
            if head and expected and head.digest != expected.digest:
                self._refuse_overlap(wanted, expected, head)
            draft = self._draft(change, wanted, schema, head, message, event, unseal, merged)
            if draft is None:
                if head is None:
                    raise ValueError("a first version needs at least one sample")
                return CommitResult(head, changed=False)
            commit, counts = draft
            digest = put_object(self.store, "commits", commit.to_bytes())
            outputs = {**event.outputs, "commit": digest, "rows": counts}
            try:
                entry = self.ledger.append(replace(event, outputs=outputs), after=tail, branch=branch, commit=digest)
            except ConflictError:
                tail = self._tail
                continue
            write_ref(self.store, entry)
            return CommitResult(self._version(str(entry.version), digest, commit), changed=True, counts=counts)
        raise ConflictError(f"The branch {branch!r} moves without pause.", remedy="Run the command again later.")

    def _draft(
        self,
        change: Change,
        wanted: dict[str, TableChange],
        schema: LabelSchema,
        head: Version | None,
        message: str,
        event: Event,
        unseal: str | None,
        merged: Version | None,
    ) -> tuple[Commit, dict[str, dict[str, int]]] | None:
        """Write the segments of a change and put the commit together; None where nothing changes."""
        states = {name: head.state(name) if head else TableState(name, []) for name in TABLES}
        wanted["annotations"] = with_orphans(wanted, states["annotations"])
        changes = {
            "samples": states["samples"].changes(
                wanted["samples"].upserts, wanted["samples"].removals, self._secret, ["split"]
            ),
            "annotations": states["annotations"].changes(
                wanted["annotations"].upserts, wanted["annotations"].removals, self._secret, []
            ),
        }
        check_references(wanted, states["samples"])
        schema_digest = put_object(self.store, "schemas", schema.canonical_bytes())
        guide = head.commit.guide if head else self._first_guide()
        if change.guide is not None:
            guide = put_object(self.store, "guides", change.guide.encode(), "md")
        sealed = tuple(sorted(change.sealed if change.sealed is not None else head.commit.sealed if head else ()))
        if head and merged is None and not any(len(item.rows) for item in changes.values()):
            before = head.commit
            if (before.schema, before.guide, before.sealed) == (schema_digest, guide, sealed):
                return None
        if head and not unseal:
            refuse_sealed(changes["samples"], frozenset(head.commit.sealed), sealed)

        tables, totals, counts = {}, {}, {}
        for name, item in changes.items():
            ops = item.counts
            counts[name] = {"inserted": ops[INSERT], "updated": ops[UPDATE], "deleted": ops[DELETE]}
            totals[name] = (head.commit.counts[name] if head else 0) + ops[INSERT] - ops[DELETE]
            tables[name] = tuple(segment.info for segment in self._stack(states[name], item))
        commit = Commit(
            parents=tuple(version.digest for version in (head, merged) if version),
            schema=schema_digest,
            guide=guide,
            tables=tables,
            counts=totals,
            sealed=sealed,
            author=event.actor,
            time=event.time,
            message=message,
            event_id=event.event_id,
        )
        return commit, counts

    def _stack(self, state: TableState, changes: Changes) -> list[Segment]:
        if not len(changes.rows):
            return state.segments

        kept, rows, digests = state.stack(changes)
        info = write_segment(self.store, state.name, rows, digests_of(rows) if digests is None else digests)
        added = self._segment(state.name, info)
        added.keep_mapped(rows)
        return [*kept, added]

    def _refuse_overlap(self, wanted: dict[str, TableChange], expected: Version, head: Version) -> None:
        """Raise ConflictError if somebody changed one of the same rows between two versions."""
        for name, change in wanted.items():
            theirs = changed_keys(expected.state(name), head.state(name))
            mine = pa.concat_arrays([one_array(change.upserts[KEYS[name]]), change.removals])
            if name == "samples":  # a sample that one's new annotations stand on must not have gone meanwhile
                mine = pa.concat_arrays([mine, one_array(wanted["annotations"].upserts["sample_id"])])
            both = pc.unique(mine.filter(pc.is_in(mine, theirs))).to_pylist()
            if both:
                shown = ", ".join(sorted(both)[:5]) + (", …" if len(both) > 5 else "")
                raise ConflictError(
                    f"{len(both)} {name} changed in {head.name} while this change was made on {expected.name}: {shown}.",
                    remedy=f"Nothing was written. Look at `dsops diff {expected.name} {head.name}` and run it again.",
                )

    # --- inside -----------------------------------------------------------------------------------------------------

    @property
    def _tail(self) -> Entry:
        tail = self.ledger.tail()
        if tail is None:
            raise DamagedError(
                "The ledger is empty.", remedy="Put ledger/ back from a backup, then run `dsops verify`."
            )
        return tail

    @cached_property
    def _secret(self) -> bytes:
        return self.store.get(_SECRET)

    def _at(self, tail: Entry, branch: str) -> Version | None:
        name = tail.state.heads.get(branch)
        return self._numbered(name) if name else None

    def _numbered(self, name: str) -> Version:
        digest = commit_of(self.store, self.ledger, name)
        return self._version(name, digest, get_commit(self.store, digest))

    def _version(self, name: str, digest: str, commit: Commit) -> Version:
        return Version(self.store, self._open_table, name, digest, commit)

    def _init_event(self) -> Event:
        return self.ledger.read(0).event

    def _first_schema(self) -> LabelSchema:
        from datasetops.schema import LabelSchema  # building its models takes as long as the rest of `dsops log`

        return LabelSchema.model_validate_json(get_object(self.store, "schemas", self._init_event().outputs["schema"]))

    def _first_guide(self) -> str | None:
        guide: str | None = self._init_event().outputs["guide"]
        return guide

    @property
    def schema(self) -> LabelSchema:
        """The schema that the next commit on main works with."""
        head = self.head()
        return head.schema if head else self._first_schema()

    @property
    def cache(self) -> Path:
        """Local folder for what can be made again: memory-mapped copies of segments, the media scan, embeddings."""
        local = getattr(self.store, "root", None)
        return (
            Path(local) / "cache"
            if local
            else self.settings.cache / "repositories" / sha256_hex(self.store.url.encode())[:16]
        )

    def _open_table(self, commit: Commit, table: str) -> TableState:
        return TableState(table, [self._segment(table, info) for info in commit.tables[table]])

    @cached_property
    def _erased(self) -> Mapping[str, int]:
        return erased_counts(self.store)

    def forget_segments(self) -> None:
        """Read segments anew: rows of them were erased."""
        self._segments.clear()
        self.__dict__.pop("_erased", None)

    def _segment(self, table: str, info: SegmentInfo) -> Segment:
        segment = self._segments.get(info.id)
        if segment is None:
            erased = self._erased.get(info.id, 0)
            if erased and "://" in self.store.url:
                self.store.digest(segment_key(table, info.id))  # a local copy from before is dropped
            segment = self._segments[info.id] = Segment(self.store, table, info, self.cache, erased)
        return segment
