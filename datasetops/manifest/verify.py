"""Proof that a repository is whole: every object is hashed, every reference followed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

import pyarrow.compute as pc

from datasetops.errors import DamagedError, DatasetOpsError, NotFoundError
from datasetops.ledger import HINT, Entry, check_chain
from datasetops.manifest.commit import FORMAT, Commit, get_object
from datasetops.manifest.erasing import ERASED, SEGMENTS, erased_counts, replaced_objects
from datasetops.manifest.refs import ref_of
from datasetops.manifest.repository import Repository
from datasetops.manifest.segment import SegmentInfo, check_segment, segment_key
from datasetops.progress import Progress, no_progress
from datasetops.records import canonical_json, sha256_hex
from datasetops.signing import check_signatures, signature_of
from datasetops.store.media import Media

_Objects = dict[tuple[str, str, str], list[str]]  # folder, digest and suffix → versions
_Segments = dict[tuple[str, SegmentInfo], list[str]]  # by table
_NAMED = {
    "commits/": "what a version is made of",
    "schemas/": "a label schema",
    "guides/": "a labeling guide",
    "findings/": "findings of an ingest",
    "media/": "an image",
    "policies/": "a policy",
}


@dataclass(frozen=True)
class Damage:
    """One object that is missing or is not what it should be, what is wrong, and what it is to which versions."""

    object: str
    problem: str
    held: str


def verify(
    repository: Repository,
    versions: Iterable[str] | None = None,
    *,
    media: bool = False,
    progress: Progress = no_progress,
) -> list[Damage]:
    """Damage to some versions, or to the whole repository where none are named. Empty means: whole.

    Commits, schemas, guides and segments are hashed. With all versions so are the ledger's chain, the refs, every
    other object named by its digest and every file that an event left behind; with `media` the images of all versions
    that are checked, each file once.
    """
    store = repository.store
    damage: list[Damage] = []
    try:
        erased, told = erased_counts(store), store.exists(SEGMENTS)
        replaced_objects(store)
    except DamagedError as error:
        return [Damage(_first_line(error).partition(" ")[0], "it is damaged", "what erasures left")]
    if versions is None:
        damage += [
            Damage(key, problem, "the order of events") for key, problem in check_chain(store, replaced_objects(store))
        ]
        if any(item.object != HINT for item in damage):
            return damage  # nothing else can be relied on
        damage += _check_keys(repository)
        damage += _check_named_objects(repository, progress)
        damage += _check_files(repository)
        damage += _check_erasures(repository)
        damage += _check_signatures(repository)
    commits = _commits(repository, None if versions is None else set(versions))
    damage += _check_refs(repository, commits)
    objects, segments = _parts(repository, commits, damage)
    for (folder, digest, suffix), users in objects.items():
        try:
            get_object(store, folder, digest, suffix)
        except DamagedError as error:
            held = f"the {'label schema' if folder == 'schemas' else 'labeling guide'} of {_span(users)}"
            damage.append(Damage(f"{folder}/{digest}.{suffix}", _first_line(error), held))
    for (table, info), users in progress(segments.items(), len(segments), "Hashing segments"):
        problem = check_segment(store, table, info, repository.cache, erased.get(info.id, 0) if told else None)
        if problem:
            held = f"{info.rows:,} rows of {table} in {_span(users)}"
            damage.append(Damage(segment_key(table, info.id), problem, held))
    if media:
        damage += _check_media(repository, list(commits), progress)
    return list({item.object: item for item in damage}.values())


def _commits(repository: Repository, wanted: set[str] | None) -> dict[str, Entry]:
    """The entry of each version that is to be checked, v1 first."""
    made = [entry for entry in repository.ledger.backwards() if entry.version is not None and entry.commit is not None]
    return {str(one.version): one for one in reversed(made) if wanted is None or one.version in wanted}


def _check_refs(repository: Repository, commits: Mapping[str, Entry]) -> Iterator[Damage]:
    for name, entry in commits.items():
        key, data = ref_of(entry)
        with suppress(NotFoundError):  # a crash left it out; it is made again from the ledger when needed
            if repository.store.get(key) != data:
                yield Damage(key, "it does not agree with the ledger", f"the place of {name}")


def _parts(repository: Repository, commits: Mapping[str, Entry], damage: list[Damage]) -> tuple[_Objects, _Segments]:
    """What the versions are made of, each with the versions that have it; adds commits that cannot be read to `damage`."""
    objects: _Objects = defaultdict(list)
    segments: _Segments = defaultdict(list)
    for name, entry in commits.items():
        try:
            commit = Commit.from_bytes(get_object(repository.store, "commits", str(entry.commit)))
        except (DamagedError, ValueError) as error:
            damage.append(Damage(f"commits/{entry.commit}.json", _first_line(error), f"what {name} is made of"))
            continue
        objects["schemas", commit.schema, "json"].append(name)
        if commit.guide:
            objects["guides", commit.guide, "md"].append(name)
        for table, infos in commit.tables.items():
            for info in infos:
                segments[table, info].append(name)
    return objects, segments


def _check_named_objects(repository: Repository, progress: Progress) -> Iterator[Damage]:
    """Objects that no version needs, or that are copied media: `<folder>/…/<sha256>.<suffix>`."""
    store = repository.store
    keys = [key for folder in _NAMED for key in store.list(folder)]
    replaced = replaced_objects(store)
    for key in progress(keys, len(keys), "Hashing objects"):
        now, named = sha256_hex(store.get(key)), key.rpartition("/")[2].partition(".")[0]
        if now != named and replaced.get(key) != (named, now):
            yield Damage(key, "it does not hash to its name", _NAMED[f"{key.partition('/')[0]}/"])


def _check_files(repository: Repository) -> Iterator[Damage]:
    """Files of audits and other records, whose digests stand in the ledger."""
    checked: set[str] = set()
    replaced = replaced_objects(repository.store)
    for entry in repository.ledger.backwards():
        for key, digest in entry.event.outputs.get("files", {}).items():
            if key in checked:
                continue
            checked.add(key)
            held = f"part of the {entry.event.kind} of {entry.event.inputs.get('version', 'a version')}"
            try:
                now = sha256_hex(repository.store.get(key))
                if now != digest and replaced.get(key) != (digest, now):
                    yield Damage(key, "its bytes changed", held)
            except NotFoundError:
                if replaced.get(key) != (digest, None):
                    yield Damage(key, "it is missing", held)


def _check_erasures(repository: Repository) -> Iterator[Damage]:
    """What stands in place of other objects is what the ledger says was put there by an erasure."""
    store = repository.store
    told: dict[str, list[str | None]] = {}
    noted = False
    for entry in repository.ledger.backwards():
        if entry.event.kind == ERASED:
            told |= {key: pair for key, pair in entry.event.outputs["replaced"].items() if key not in told}
            noted = True
    for key, (was, now) in replaced_objects(store).items():
        if key not in told or told[key][1] != now:
            yield Damage(key, f"no erasure in the ledger put it in the place of {was[:16]}…", "a record")
    for key in store.list("erasures/todo"):
        yield Damage(key, "an erasure was interrupted; finish it: dsops erase --resume", "rows to erase")
    if erased_counts(store) and not noted:
        yield Damage("erasures/segments.json", "no erasure in the ledger took rows out", "erased rows")


def _check_signatures(repository: Repository) -> Iterator[Damage]:
    entries = list(repository.ledger.backwards())[::-1]
    if any(signature_of(entry.event) for entry in entries):
        places = {f"ledger/{entry.number:012d}.json": entry.number for entry in entries}
        rewritten = [places[key] for key in replaced_objects(repository.store) if key in places]
        for number, problem in check_signatures(entries, rewritten):
            yield Damage(f"ledger/{number:012d}.json", problem, "a signed decision")


def _check_media(repository: Repository, names: list[str], progress: Progress) -> Iterator[Damage]:
    """Image files, against the digests in the samples of some versions. Versions whose own rows are damaged are left."""
    reader = Media(repository.store, repository.root)
    wanted: dict[str, set[str]] = defaultdict(set)
    readable = []
    for name in names:
        with suppress(DamagedError):
            for uri, digest in _images(repository, name):
                wanted[uri].add(digest)
            readable.append(name)
    problems: dict[tuple[str, str], str] = {}
    for uri, digests in progress(wanted.items(), len(wanted), "Hashing images"):
        found, problem = None, "its bytes changed since it was ingested"
        try:
            found = sha256_hex(reader.read(uri))
        except NotFoundError:
            problem = "it is missing"
        except DatasetOpsError as error:
            problem = _first_line(error).removeprefix(f"{uri}: ").rstrip(".")
        problems |= {(uri, digest): problem for digest in digests if digest != found}
    users: dict[str, list[str]] = defaultdict(list)
    for name in readable if problems else ():
        for uri in {uri for uri, digest in _images(repository, name) if (uri, digest) in problems}:
            users[uri].append(name)
    for uri, problem in {uri: problem for (uri, _), problem in problems.items()}.items():
        yield Damage(uri, problem, f"an image of {_span(users[uri])}")


def _images(repository: Repository, name: str) -> Iterator[tuple[str, str]]:
    """(uri, digest) of a version's images."""
    rows = repository.version(name).table("samples", ["uri", "sha256"])
    rows = rows.filter(pc.is_valid(rows["sha256"]))
    return zip(rows["uri"].to_pylist(), rows["sha256"].to_pylist(), strict=True)


def _check_keys(repository: Repository) -> Iterator[Damage]:
    store = repository.store
    outputs = repository.ledger.read(0).event.outputs
    try:
        secret = store.get("keys/salt")
        config = store.get("repository.json")
    except NotFoundError as error:
        yield Damage(error.message, "missing", "the repository's settings")
        return
    expected = canonical_json({"format": FORMAT, "salt_key_sha256": sha256_hex(secret)})
    if sha256_hex(config) != outputs["config"]:
        yield Damage("repository.json", "it does not hash to what the ledger says", "the repository's settings")
    elif config != expected:
        yield Damage("keys/salt", "it does not hash to what repository.json says", "the key that new salts come from")


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def _span(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]} ({len(names)} versions)"
