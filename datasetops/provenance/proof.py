"""Whether a model learned from anything of an origin, a licence, an actor, …; with all that it takes to check the answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from datasetops.errors import did_you_mean
from datasetops.manifest import Repository
from datasetops.provenance.impact import learned_under
from datasetops.provenance.learned import Learned, learned
from datasetops.provenance.past import Past
from datasetops.provenance.reach import BY, OF_SAMPLES, Reach, known_values, reach
from datasetops.records import canonical_json, sha256_hex
from datasetops.training.record import SAMPLES, ModelRecord, load_model_record

AGAINST: Final = ("under", "same_bytes", "not_recorded", "never_held", "erased")
_OWN_GROUP: Final = "group"  # what names none is a group of its own
SHOWN: Final = 20  # ids of samples that speak against it


@dataclass(frozen=True)
class Proof:
    """`holds`: no sample that the model, or one that it began as, learned from or was validated on falls under it, no
    sample that does has the same bytes as one of them, each of them was in some version, and some version says what its
    origin (licence, consent) is.

    `lists` has for each model its list of samples: key, SHA-256 of the file, digest of the training ids, numbers, how
    many fall under it, how many have the bytes of one that does, of how many it was never recorded, how many no version
    held, how many were erased since, and some ids of all these.
    `versions` has, for each version, how many samples of the lists it held, and how many of them fall under it by its
    own word. `check` are the steps to check it again; `digest` is the SHA-256 of the rest as canonical JSON.
    """

    model: str
    by: str
    value: str
    holds: bool
    known: bool
    lists: tuple[Mapping[str, Any], ...]
    versions: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...]
    basis: Mapping[str, Any]
    check: tuple[str, ...]
    digest: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def parse_without(text: str) -> tuple[str, str]:
    """(question, value) of `origin=clinic-a`. Raises ValueError."""
    by, equals, value = text.partition("=")
    if not equals or not value:
        raise ValueError(f"--without {text}: expected NAME=VALUE, such as origin=clinic-a")
    if by not in BY:
        raise ValueError(f"--without {text}: {did_you_mean(by, BY, noun='names')}")
    return by, value


def prove_without(repository: Repository, model: str, by: str, value: str) -> Proof:
    """Raises NotFoundError for a model, event or guide that there is not, DamagedError where a list of samples is not
    what its record says."""
    past = Past(repository)
    records = list(_line(repository, load_model_record(repository, model)))
    under = reach(past, by, value)
    named = [(record, learned(repository, record)) for record in records]
    lists = [_list(past, under, record, own) for record, own in named]
    bad = sum(sum(one[name] for name in AGAINST) for one in lists)
    outside = [f"{r.name} began as {r.recipe['model']}" for r in records if not r.parent and r.recipe.get("model")]
    notes = list(past.notes)
    if erased := sum(one["erased"] for one in lists):
        notes.append(
            f"{erased:,} samples of the lists were erased since: what they were is kept nowhere. The certificates of the "
            "erasures (`erasures/` in the store) say how many a model learned from, and why they were erased."
        )
    if outside:
        notes.append(f"{'; '.join(outside)}: what that learned from is not known to this repository.")
    if not under.known:
        near = did_you_mean(value, known_values(past, by), noun=f"values of {by}")
        notes.insert(0, f"Nothing in any version was ever under {by} {value!r}: is it spelled right? {near}")
    every = pa.concat_arrays([own.ids for _, own in named])
    proof = Proof(
        records[0].name,
        by,
        value,
        holds=not bad,
        known=under.known,
        lists=tuple(lists),
        versions=tuple(_by_version(past, under, pc.unique(every))),
        notes=tuple(notes),
        basis=past.basis("the lists of samples that the model records name", *under.rules),
        check=_steps(records[0], lists, by, value),
    )
    digest = sha256_hex(canonical_json({name: one for name, one in proof.as_dict().items() if name != "digest"}))
    return Proof(**{**proof.__dict__, "digest": digest})


def _line(repository: Repository, record: ModelRecord) -> Iterator[ModelRecord]:
    """A model and those that it began as, one after another."""
    seen: set[str] = set()
    while record.name not in seen:
        seen.add(record.name)
        yield record
        if not record.parent:
            return
        record = load_model_record(repository, record.parent)


def _list(past: Past, under: Reach, record: ModelRecord, own: Learned) -> dict[str, Any]:
    samples = past.table("samples")
    guilty = learned_under(past, under, record)
    bad = own.ids.filter(pc.is_in(own.ids, value_set=guilty))
    held = samples.keys(samples.among(own.ids))
    never = own.ids.filter(pc.invert(pc.is_in(own.ids, value_set=held)))
    copies = _copies(past, guilty, own.ids)
    silent = _not_recorded(past, under.by, own.ids)
    file = record.files[SAMPLES]
    return {
        "model": record.name,
        "version": record.version,
        "commit": record.commit,
        "file": file.key,
        "file_sha256": own.sha256,
        "train_ids_sha256": record.samples_digest,
        "samples": dict(own.counts()),
        "under": len(bad),
        "same_bytes": len(copies),
        "not_recorded": len(silent),
        "never_held": len(never),
        "erased": sum(record.samples.values()) - len(own.ids),
        "against": sorted({*_some(bad), *_some(copies), *_some(silent), *_some(never)})[:SHOWN],
    }


def _copies(past: Past, guilty: pa.Array, ids: pa.Array) -> pa.Array:
    """Which of some samples have the bytes of one that falls under it, without falling under it themselves."""
    table = past.table("samples")
    if not len(guilty):
        return guilty
    digests = table.values(table.among(guilty), "sha256")
    alike = table.keys(table.within("sha256", digests))
    meant = pc.and_(pc.is_in(ids, value_set=alike), pc.invert(pc.is_in(ids, value_set=guilty)))
    return ids.filter(meant)


def _not_recorded(past: Past, by: str, ids: pa.Array) -> pa.Array:
    """Which of some samples never had a value in any version, so that nothing can be said of them."""
    table = past.table("samples")
    if by not in OF_SAMPLES or by == _OWN_GROUP:
        return ids.slice(0, 0)
    silent = table.flags(lambda rows: pc.is_null(rows[by]), [by])
    once = ids.filter(pc.is_in(ids, value_set=table.keys(silent)))
    if not len(once):
        return once
    mine = table.among(once)
    told = table.keys([one & ~other for one, other in zip(mine, silent, strict=True)])
    return once.filter(pc.invert(pc.is_in(once, value_set=told)))


def _by_version(past: Past, under: Reach, ids: pa.Array) -> Iterator[dict[str, Any]]:
    table = past.table("samples")
    mine = table.among(ids)
    held = table.count(mine)
    if under.by in OF_SAMPLES:
        said = table.count([one & other for one, other in zip(mine, under.said, strict=True)])
    else:
        annotations = past.table("annotations")
        own = annotations.within("sample_id", ids)
        said = annotations.count([one & other for one, other in zip(own, under.said, strict=True)])
    for place in range(len(past.versions) - 1, -1, -1):
        if held[place]:
            version = past.versions[place]
            yield {
                "version": version.name,
                "commit": version.digest,
                "held": int(held[place]),
                "said": int(said[place]),
            }


def _some(ids: pa.Array) -> list[str]:
    return [str(one) for one in ids.slice(0, SHOWN).to_pylist()]


def _steps(record: ModelRecord, lists: list[dict[str, Any]], by: str, value: str) -> tuple[str, ...]:
    files = ", ".join(f"{one['file']} ({one['file_sha256']})" for one in lists)
    steps = [
        "dsops verify --all: every version and the ledger are what their digests say.",
        f"SHA-256 of each list of samples, in the store: {files}. It is Parquet with the columns sample_id and part.",
    ]
    if not any(one["erased"] for one in lists):
        steps.append(
            "SHA-256 over the ids of the part train, each with a line feed after it, is train_ids_sha256; the model's record "
            "and the ledger entry of its training name it."
        )
    if by in OF_SAMPLES:
        quoted = value.replace("'", "''")
        steps.append(
            f"For each version named here: dsops query VERSION \"select sample_id from samples where {by} = '{quoted}'\" "  # noqa: S608
            "has no id that is in a list."
        )
    again = (
        f"dsops provenance model {record.name} --without '{by}={value}' --json: the same digest, as long as the ledger "
    )
    return (*steps, again + "has no new entry.")
