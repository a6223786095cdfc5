"""Ingest of a COCO file without media, against json.load of the same file, in one process, alternating.

Reads coco_ann/persons_train2017_rebuilt_boxes.json.gz of DSOPS_TEST_DATA: 56,599 images, 149,813 boxes.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from ratios import record

from datasetops.ingest import ingest
from datasetops.manifest import Repository
from datasetops.schema import LabelSchema

SCHEMA = {"name": "persons", "version": 1, "tasks": [{"kind": "box"}], "classes": [{"id": 1, "name": "person"}]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    file = Path(os.environ["DSOPS_TEST_DATA"]) / "coco_ann" / "persons_train2017_rebuilt_boxes.json.gz"
    loads, ingests = [], []
    for _ in range(options.rounds):
        started = time.perf_counter()
        with gzip.open(file) as stream:
            json.load(stream)
        loads.append(time.perf_counter() - started)
        with tempfile.TemporaryDirectory() as folder:
            repository = Repository.init(folder, LabelSchema.model_validate(SCHEMA))
            started = time.perf_counter()
            result = ingest(repository, str(file), format="coco")
            ingests.append(time.perf_counter() - started)
    load, ours = statistics.median(loads), statistics.median(ingests)
    record(f"ingest of COCO, {result.annotations:,} boxes", ours, "json.load, a floor: it only parses", load, "s")
    answer = {
        "images": result.samples,
        "boxes": result.annotations,
        "json_load_s": load,
        "ingest_s": ours,
        "ratio": ours / load,
    }
    if options.json:
        print(json.dumps(answer, indent=2))
        return
    print("| images | boxes | json.load, s | dsops ingest, s | ratio |\n|---|---|---|---|---|")
    print(f"| {result.samples:,} | {result.annotations:,} | {load:.2f} | {ours:.2f} | {ours / load:.1f} |")


if __name__ == "__main__":
    main()
