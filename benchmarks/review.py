"""The review queue of 1,000,000 findings over 300,000 samples, beside plain pandas doing the same, each in a process of its own.

    python benchmarks/review.py
    python benchmarks/review.py --findings 100000 --samples 30000

Both open the same stored audit and version, put findings in the same order (every tenth by lot), join slices and
annotators, and answer: the first page of 60 with all facets, a filtered page with its facets, the page of a text search,
what comes next, and the same page after a decision. Pandas keeps columns as categories, which is what makes it quick.
Milliseconds are medians of several questions; `open_s` is one run. `item_ms` (annotations, evidence, neighbours in the
queue), `progress_ms` and `history_ms` are ours alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import contenders
import numpy as np
import pyarrow as pa

CHECKS = ("label_noise", "outlier", "missing_box", "misplaced_box", "near_duplicate", "image_quality")
SEVERITIES = ("high", "medium", "low")
CLASSES = [f"class {number:02}" for number in range(40)]
FIELDS = ("check", "severity", "given", "suggested", "split", "annotator")
SLICES = ("light", "device", "region")
ROUNDS = 7
PAGE = 60


def write_data(folder: Path, findings: int, samples: int) -> None:
    """A repository with one version and one stored audit of it."""
    from datasetops.audits.record import SCORES, AuditRecord, store_audit
    from datasetops.manifest import Change, Repository
    from datasetops.records import FINDINGS
    from datasetops.schema import LabelSchema

    rng = np.random.default_rng(0)
    schema = LabelSchema.model_validate(
        {
            "name": "bench",
            "version": 1,
            "tasks": [{"kind": "box"}],
            "classes": [{"id": number, "name": name} for number, name in enumerate(CLASSES)],
            "slices": [{"key": "light", "values": ["day", "night", "dusk"]}],
        }
    )
    repository = Repository.init(folder, schema)
    ids = np.array([f"s{number:09}" for number in range(samples)], dtype=object)
    light, device, region = (rng.integers(0, many, samples) for many in (3, 8, 15))
    lights = ("day", "night", "dusk")
    metadata = [
        json.dumps(
            {"device": f"d{device[at]}", "file": f"{at}.raw", "light": lights[light[at]], "region": f"r{region[at]}"},
            separators=(",", ":"),
        )
        for at in range(samples)
    ]
    split = np.where(rng.random(samples) < 0.9, "train", "test")
    uris = [f"images/{name}.jpg" for name in ids]
    people = np.array([f"annotator{number}" for number in range(12)], dtype=object)
    side = rng.uniform(0, 200, samples)
    repository.commit(
        Change(
            samples=pa.table({"sample_id": ids, "uri": uris, "split": split, "metadata": metadata}),
            annotations=pa.table(
                {
                    "annotation_id": [f"{name}/1" for name in ids],
                    "sample_id": ids,
                    "kind": ["box"] * samples,
                    "label": [CLASSES[number] for number in rng.integers(0, 40, samples)],
                    "x1": side,
                    "y1": side,
                    "x2": side + 50,
                    "y2": side + 50,
                    "actor": people[rng.integers(0, 12, samples)],
                }
            ),
        ),
        message="base",
    )
    version = repository.version()
    owner = rng.integers(0, samples, findings)
    given, suggested = (rng.integers(0, 40, findings) for _ in range(2))
    scores = rng.random(findings)
    columns = {
        "finding_id": [f"{number:016x}" for number in rng.integers(0, 2**63, findings)],
        "check": [CHECKS[number] for number in rng.integers(0, len(CHECKS), findings)],
        "severity": [SEVERITIES[number] for number in rng.choice(3, findings, p=(0.1, 0.3, 0.6))],
        "score": scores,
        "sample_id": ids[owner],
        "uri": np.array(uris, dtype=object)[owner],
        "annotation_id": [f"{name}/1" for name in ids[owner]],
        "split": split[owner],
        "given": [CLASSES[number] for number in given],
        "suggested": [CLASSES[number] for number in suggested],
        "message": [
            f"the model gives {CLASSES[b]} a chance of {1 - s:.3f}, and the label {CLASSES[a]} only {s / 2:.3f}"
            for a, b, s in zip(given, suggested, scores, strict=True)
        ],
    }
    table = pa.table(
        {field.name: pa.array(columns.get(field.name, [None] * findings), field.type) for field in FINDINGS}
    )
    info = {
        "audit": "bench",
        "version": version.name,
        "commit": version.digest,
        "models": {},
        "parameters": {"checks": list(CHECKS)},
        "checks": {name: {"findings": 0, "seconds": 0} for name in CHECKS},
    }
    store_audit(repository, AuditRecord("bench", info, table, SCORES.empty_table()))


def median_ms(ask: Callable[[int], Any]) -> float:
    times = []
    for number in range(ROUNDS):
        started = time.perf_counter()
        ask(number)
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


def run_dsops(folder: Path) -> dict[str, Any]:
    from datasetops.audits.decisions import Decision, DecisionLog
    from datasetops.manifest import Repository
    from datasetops.review.filters import Filters
    from datasetops.review.history import history
    from datasetops.review.item import item
    from datasetops.review.progress import progress
    from datasetops.review.queue import Queue

    repository = Repository.open(folder)
    version, log = repository.version(), DecisionLog(repository)
    started = time.perf_counter()
    queue = Queue.open(repository, version, log)
    opened = time.perf_counter() - started

    def shown(filters: Filters) -> int:
        queue.facets(filters)
        return queue.page(filters, 0, PAGE).total

    started = time.perf_counter()
    first = shown(Filters())
    first_ms = 1000 * (time.perf_counter() - started)
    filtered = [
        Filters(check=("outlier", "label_noise"), slice=("light=night",), given=(CLASSES[at],)) for at in range(ROUNDS)
    ]
    found = [shown(filters) for filters in filtered]
    queue._matches.clear()
    filtered_ms = median_ms(lambda at: shown(filtered[at]))
    search_ms = median_ms(lambda at: queue.page(Filters(search=f"label {CLASSES[at]}"), 0, PAGE))
    names = [row["finding_id"] for row in queue.page(filtered[0], 0, 500).rows]
    next_ms = median_ms(lambda at: queue.next(filtered[0], names[at * 10], {"s000000001"}))
    refreshed = []
    for name in names[:ROUNDS]:
        row = queue.row(name)
        about = {field: row[field] for field in ("check", "severity", "score", "sample_id")}
        log.add(version, [Decision(name, "error", "ann", **about, at_random=row["at_random"])])
        started = time.perf_counter()
        queue.refresh()
        queue.page(filtered[0], 0, PAGE)
        refreshed.append(1000 * (time.perf_counter() - started))
    item(repository, version, queue, log, names[8])
    progress(queue, log)
    sample = queue.row(names[8])["sample_id"]
    return {
        "open_s": opened,
        "first_page_ms": first_ms,
        "filtered_page_ms": filtered_ms,
        "search_ms": search_ms,
        "next_ms": next_ms,
        "after_decision_ms": statistics.median(refreshed),
        "item_ms": median_ms(lambda at: item(repository, version, queue, log, names[20 + at], filters=filtered[0])),
        "progress_ms": median_ms(lambda _: progress(queue, log)),
        "history_ms": median_ms(lambda _: history(repository, version, sample, queue.rows)),
        "items": first,
        "filtered": sum(found),
    }


def run_pandas(folder: Path) -> dict[str, Any]:
    import pandas as pd

    from datasetops.audits.record import latest_audit
    from datasetops.audits.worklist import error_chance, review_seconds
    from datasetops.manifest import Repository

    repository = Repository.open(folder)
    version = repository.version()
    started = time.perf_counter()
    frame = latest_audit(repository, version).findings.to_pandas()
    samples = version.samples()
    metadata = pd.DataFrame(samples["metadata"].tolist())[list(SLICES)]
    metadata["sample_id"] = samples["sample_id"]
    owners = version.table("annotations", ["annotation_id", "actor"]).to_pandas().rename(columns={"actor": "annotator"})
    frame = frame[frame["sample_id"].notna()].merge(metadata, on="sample_id", how="left")
    frame = frame.merge(owners, on="annotation_id", how="left")
    chance, seconds = error_chance([]), review_seconds([])
    cells = frame.groupby(["check", "severity"], sort=False).ngroup()
    worth = {cell: chance(*cell) / seconds(cell[0]) for cell in frame.groupby(["check", "severity"]).groups}
    frame["worth"] = [worth[cell] for cell in zip(frame["check"], frame["severity"], strict=True)]
    best = frame.sort_values(["worth", "score", "finding_id"], ascending=[False, True, True]).index
    lot = pd.util.hash_pandas_object(frame["finding_id"], index=False).sort_values().index
    placed, order, worst, drawn = set(), [], iter(best), iter(lot)
    for place in range(len(frame)):
        source = drawn if place % 10 == 9 else worst
        row = next(source)
        while row in placed:
            row = next(source)
        placed.add(row)
        order.append(row)
    frame = frame.loc[order].reset_index(drop=True)
    for name in (*FIELDS, *SLICES):
        frame[name] = frame[name].astype("category")
    by_id = pd.Series(frame.index, index=frame["finding_id"])
    opened = time.perf_counter() - started
    assert len(cells) == len(frame)
    decided = np.zeros(len(frame), dtype=bool)

    def chosen(filters: dict[str, list[str]], but: str = "") -> Any:
        mask = ~decided
        for name, wanted in filters.items():
            if name != but:
                mask &= frame[name].isin(wanted).to_numpy()
        return mask

    def shown(filters: dict[str, list[str]]) -> int:
        for name in (*FIELDS, *SLICES):
            frame.loc[chosen(filters, name), name].value_counts().head(50).to_dict()
        return page(chosen(filters))

    def page(mask: Any) -> int:
        rows = frame[mask]
        rows.head(PAGE).to_dict("records")
        return len(rows)

    def following(mask: Any, after: str) -> Any:
        rows = frame.index[mask]
        begin = rows.searchsorted(by_id[after], side="right")
        return next((row for row in rows[begin:] if frame.at[row, "sample_id"] not in {"s000000001"}), None)

    started = time.perf_counter()
    first = shown({})
    first_ms = 1000 * (time.perf_counter() - started)
    filtered = [
        {"check": ["outlier", "label_noise"], "light": ["night"], "given": [CLASSES[at]]} for at in range(ROUNDS)
    ]
    found = [shown(filters) for filters in filtered]
    filtered_ms = median_ms(lambda at: shown(filtered[at]))
    texts = ("sample_id", "uri", "finding_id", "message")

    def search(text: str) -> int:
        mask = np.zeros(len(frame), dtype=bool)
        for name in texts:
            mask |= frame[name].str.contains(text, case=False, regex=False).to_numpy()
        return page(mask & ~decided)

    search_ms = median_ms(lambda at: search(f"label {CLASSES[at]}"))
    names = frame.loc[chosen(filtered[0]), "finding_id"].head(500).tolist()
    next_ms = median_ms(lambda at: following(chosen(filtered[0]), names[at * 10]))

    def decide(at: int) -> int:
        decided[by_id[names[at]]] = True
        return page(chosen(filtered[0]))

    return {
        "open_s": opened,
        "first_page_ms": first_ms,
        "filtered_page_ms": filtered_ms,
        "search_ms": search_ms,
        "next_ms": next_ms,
        "after_decision_ms": median_ms(decide),
        "items": first,
        "filtered": sum(found),
    }


RUNNERS = {"dsops": run_dsops, "pandas": run_pandas}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--findings", type=int, default=1_000_000)
    parser.add_argument("--samples", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=1, help="runs of each contender, of which the quickest counts")
    parser.add_argument("--temp", type=Path, help="where the data go, and are deleted from")
    options = contenders.options_of(
        parser, lambda options: contenders.measure(lambda: RUNNERS[options.contender](options.folder))
    )
    with tempfile.TemporaryDirectory(dir=options.temp) as folder:
        write_data(Path(folder), options.findings, options.samples)
        rows = contenders.race(__file__, list(RUNNERS), ["--folder", folder], rounds=options.rounds)
    what = f"review queue of {options.findings:,} findings"
    compare = partial(contenders.compare, rows, ours="dsops", theirs="pandas", peer="pandas")
    compare(what=f"{what}: open", figure="open_s")
    for figure in ("first_page_ms", "filtered_page_ms", "search_ms", "next_ms", "after_decision_ms"):
        compare(what=f"{what}: {figure[:-3].replace('_', ' ')}", figure=figure, unit="ms")
    compare(what=f"{what}: peak of memory", figure="peak_rss_mib", unit="MiB")
    counts = {(row.get("items"), row.get("filtered")) for row in rows}
    setting = {"findings": options.findings, "samples": options.samples, "same answers": len(counts) == 1}
    contenders.report(setting, rows, as_json=options.json)


if __name__ == "__main__":
    main()
