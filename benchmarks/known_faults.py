"""Found and known: what ingest, diff and audit find of the faults that are known to be in real data sets.

Reads DSOPS_TEST_DATA; prints a Markdown table (docs/audits.md shows one), or JSON with --json.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from datasetops.audits.people.dawid_skene import dawid_skene
from datasetops.audits.run import audit
from datasetops.identity import pairwise_iou
from datasetops.ingest import ingest
from datasetops.manifest import Change, Repository, diff
from datasetops.schema import LabelSchema, load_schema
from datasetops.splits import assign_splits

Row = tuple[str, str, str, str]  # data set, what, found / known, remarks


def schema_of(name: str, classes: list[str], kind: str) -> LabelSchema:
    return LabelSchema.model_validate(
        {
            "name": name,
            "version": 1,
            "tasks": [{"kind": kind}] if kind != "polygon" else [{"kind": k} for k in ("box", "polygon", "mask")],
            "classes": [{"id": i, "name": item} for i, item in enumerate(classes)],
        }
    )


def near_duplicates(data: Path, work: Path) -> Iterator[Row]:
    folder = data / "cifar10_neardup"
    rows = []
    for split in ("train", "test"):
        frame = pd.read_parquet(folder / f"{split}_images.parquet")
        key = next(name for name in frame.columns if "index" in name.lower() or "id" in name.lower())
        column = next(name for name in frame.columns if "image" in name.lower() and name != key)
        for number, image in zip(frame[key], frame[column], strict=True):
            path = work / "cifar" / f"{split}-{number}.jpg"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(image["bytes"] if isinstance(image, dict) else image)
            rows.append({"path": path.name, "id": path.stem, "split": split})
    pd.DataFrame(rows).to_csv(work / "cifar" / "table.csv", index=False)
    repository = Repository.init(work / "neardup", load_schema("cifar10"))
    version = ingest(repository, str(work / "cifar" / "table.csv"), format="table").version
    record = audit(repository, version, checks=["near_duplicate", "leakage"])
    findings = record.findings.to_pandas()
    pairs = {
        frozenset((row.sample_id, other))
        for row in findings[findings["check"] == "near_duplicate"].itertuples()
        for other in json.loads(row.related)
    }
    across = pd.read_csv(folder / "pairs_test_train.csv")
    inside = pd.read_csv(folder / "pairs_test_test.csv")
    listed = {
        frozenset((f"test-{a}", f"train-{b}")): j
        for a, b, j in zip(across.TestID, across.TrainID, across.Judgment, strict=True)
    }
    listed |= {
        frozenset((f"test-{a}", f"test-{b}")): j
        for a, b, j in zip(inside.TestID, inside.OtherTestID, inside.Judgment, strict=True)
    }
    yes = {pair for pair, judgment in listed.items() if judgment in (0, 1)}
    similar = {pair for pair, judgment in listed.items() if judgment == 2}
    other = pairs - set(listed)
    yield (
        "cifar10_neardup",
        "pairs that people judged near-duplicates",
        f"{len(pairs & yes)} / {len(yes)}",
        f"and {len(pairs & similar)} of the {len(similar)} judged very similar but different, {len(other)} not judged",
    )
    leaking = set(findings.loc[findings["check"] == "leakage", "sample_id"])
    known = {
        next(i for i in pair if i.startswith("test"))
        for pair, j in listed.items()
        if j in (0, 1) and any(i.startswith("train") for i in pair)
    }
    yield ("cifar10_neardup", "test images that leak from training", f"{len(leaking & known)} / {len(known)}", "")


def groups(data: Path, work: Path) -> Iterator[Row]:
    sets = {
        "covid_chestxray_metadata": ("patientid", "finding", {"path": "filename"}, 0.6727),
        "nih_chestxray_sample": ("Patient ID", "Finding Labels", {"path": "Image Index"}, 0.342),
        "ham10000_metadata": ("lesion_id", "dx", {"path": "image_id"}, 0.3909),
    }
    for name, (group, label, columns, share) in sets.items():
        frame = pd.read_csv(data / "grouped" / f"{name}.csv")
        frame["split"] = np.where(np.random.default_rng(0).random(len(frame)) < 0.8, "train", "test")
        frame.to_csv(work / f"{name}.csv", index=False)
        classes = sorted({part for text in frame[label].dropna() for part in str(text).split("|")})
        schema = schema_of("grouped", classes, "classification")
        schema = schema.model_copy(update={"tasks": [{"kind": "classification", "multi": True}]})
        repository = Repository.init(work / f"{name}-repository", schema)
        source = str(work / f"{name}.csv")
        version = ingest(repository, source, format="table", columns=columns | {"group": group, "label": label}).version
        record = audit(repository, version, checks=["leakage", "schema"])
        findings = record.findings.to_pandas()
        test = frame[frame["split"] == "test"]
        known = int(test[group].isin(frame.loc[frame["split"] == "train", group]).sum())
        found = findings.loc[findings["check"] == "leakage", "sample_id"].nunique()
        yield (
            f"grouped/{name}",
            "test rows whose group is in training too",
            f"{found} / {known}",
            f"{known / len(test):.1%} of a random 20 % (other divisions: {share:.1%})",
        )
        table = version.table("samples")
        unsplit = table.set_column(table.column_names.index("split"), "split", [[None] * len(table)])
        repository.commit(Change(samples=unsplit), message="splits taken out")
        again = assign_splits(repository, {"train": 0.8, "test": 0.2}).version
        left = audit(repository, again, checks=["leakage"]).findings
        yield (f"grouped/{name}", "the same after `dsops split`", f"{len(left)} / 0", "")
        if name.startswith("nih"):
            odd = findings[(findings["check"] == "schema") & findings["message"].str.contains("far from")]
            yield (
                f"grouped/{name}",
                "impossible values (an age of 411 years)",
                f"{int(odd['message'].str.contains('411').sum())} / 1",
                f"{len(odd) - int(odd['message'].str.contains('411').sum())} other values flagged",
            )


def blood_cells(data: Path, work: Path) -> Iterator[Row]:
    folder = data / "bccd"
    issues = json.loads((folder / "known_issues.json").read_text())
    repository = Repository.init(work / "bccd", load_schema("blood_cells"))
    versions, results = [], []
    for part in ("annotations_first_pass_voc", "annotations_raw_names_voc", "annotations_voc"):
        result = ingest(repository, str(folder / part), format="voc", images=str(folder / "images"))
        versions.append(result.version)
        results.append(result)
    typos = [f for f in results[1].findings if "Platetlets" in f.message or "Platetets" in f.message]
    hinted = sum("Platelets" in f.message for f in typos)
    yield (
        "bccd",
        "class names with typos, told with the right name",
        f"{hinted} / {len(issues['class_name_typos_in_annotations_raw_names_voc'])}",
        "",
    )
    zero = {Path(str(f.uri)).stem for result in results for f in result.findings if "area" in f.message}
    known = {item["image"] for item in issues["degenerate_boxes_zero_area"]}
    yield ("bccd", "boxes without area", f"{len(zero & known)} / {len(known)}", f"{len(zero - known)} others")
    found = diff(versions[0], versions[1])
    changed = found.as_dict()["annotations"]
    coco_first = json.loads((folder / "coco_first_pass.json").read_text())
    coco_last = json.loads((folder / "coco.json").read_text())
    reference = match_reference(coco_first, coco_last)
    red = found.by_class["RBC"]
    yield (
        "bccd",
        "first to second pass: red cells added / removed",
        f"{red['added']} / {red['removed']}",
        f"greedy matching by intersection over union gives {reference[0]} / {reference[1]} (in images of both passes: {reference[2]} / {reference[1]}); {changed['changed']} boxes moved",
    )
    second = diff(versions[1], versions[2]).as_dict()["annotations"]
    yield (
        "bccd",
        "second pass to corrected names",
        f"{second['added']} added, {second['removed']} removed, {second['changed']} changed",
        "the two annotations with typos come in",
    )

    record = audit(repository, versions[2], checks=["missing_box"]).findings.to_pandas()
    bare = {Path(uri).stem for uri in record.loc[record["message"].str.startswith("no box of RBC"), "uri"]}
    listed = set(issues["no_RBC_boxes_though_RBCs_are_visible_checked_by_eye"])
    yield (
        "bccd",
        "images without one red cell's box",
        f"{len(bare & listed)} / {len(listed)}",
        f"{len(bare - listed)} others",
    )
    yield from first_pass(folder, coco_first, coco_last, work)

    copy = work / "cbc"
    rows = []
    for split, names in issues["cbc_split"].items():
        for name in names:
            path = copy / split / f"{name}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes((folder / "images" / f"{name}.jpg").read_bytes())
            rows.append({"path": f"{split}/{name}.jpg", "split": split.lower()})
    pd.DataFrame(rows).to_csv(copy / "table.csv", index=False)
    leak = Repository.init(work / "cbc-repository", load_schema("blood_cells"))
    version = ingest(leak, str(copy / "table.csv"), format="table").version
    record = audit(leak, version, checks=["exact_duplicate", "leakage"]).findings.to_pandas()
    copied = len(issues["cbc_split"]["Validation"])
    leaks = record[record["check"] == "leakage"]["sample_id"].nunique()
    yield ("bccd", "validation images that are copies of training images", f"{leaks} / {copied}", "")


def first_pass(folder: Path, first: dict[str, Any], last: dict[str, Any], work: Path) -> Iterator[Row]:
    """Red cells that the first pass missed, from the first pass alone: the built-in detector learns from nothing else."""
    repository = Repository.init(work / "first", schema_of("red", ["RBC"], "box"))
    version = ingest(
        repository, str(folder / "annotations_first_pass_voc"), format="voc", images=str(folder / "images")
    ).version
    record = audit(repository, version, checks=["missing_box"])
    told = record.findings.to_pandas()
    told = told[told["box"].notna()]
    names = {c["id"]: c["name"] for c in last["categories"]}
    stems = {i["id"]: Path(i["file_name"]).stem for i in last["images"]}

    def boxes(source: dict[str, Any], stem: str) -> Any:
        found = [
            a["bbox"]
            for a in source["annotations"]
            if stems.get(a["image_id"]) == stem and names.get(a["category_id"], "RBC") == "RBC"
        ]
        array = np.array(found, dtype=float).reshape(-1, 4)
        return np.concatenate([array[:, :2], array[:, :2] + array[:, 2:]], axis=1)

    known = found = right = 0
    for stem in {stems[i["id"]] for i in first["images"]}:
        old, new = boxes(first, stem), boxes(last, stem)
        added = new[pairwise_iou(new, old).max(axis=1, initial=0) < 0.5]
        mine = told[told["uri"].map(lambda uri, stem=stem: Path(uri).stem) == stem]
        proposed = np.array([json.loads(box) for box in mine["box"]], dtype=float).reshape(-1, 4)
        known += len(added)
        found += int((pairwise_iou(added, proposed).max(axis=1, initial=0) >= 0.5).sum())
        right += int((pairwise_iou(proposed, added).max(axis=1, initial=0) >= 0.5).sum())
    yield (
        "bccd",
        "red cells that the first pass missed, by the built-in detector",
        f"{found} / {known}",
        f"{right} of {len(told)} proposals are boxes of the last pass, which misses cells too; "
        f"{record.info['checks']['missing_box']['seconds']:.0f} s",
    )


def videos(data: Path, work: Path) -> Iterator[Row]:
    folder = data / "camvid_half"
    frame = pd.read_csv(folder / "metadata.csv")
    frame.assign(path=frame["image"] + ".jpg").to_csv(work / "camvid.csv", index=False)
    repository = Repository.init(work / "camvid-repository", schema_of("streets", ["road"], "polygon"))
    version = ingest(
        repository,
        str(work / "camvid.csv"),
        format="table",
        columns={"group": "sequence"},
        images=str(folder / "images"),
    ).version
    leaks = audit(repository, version, checks=["leakage"]).findings.to_pandas()
    told = set(leaks["message"].str.extract(r"(0001TP|0016E5|0006R0|Seq05VD)")[0].dropna())
    yield (
        "camvid_half",
        "videos in two splits",
        f"{len(told & {'0001TP', '0016E5'})} / 2",
        f"{len(told - {'0001TP', '0016E5'})} others",
    )


def crowds(data: Path, work: Path) -> Iterator[Row]:
    folder = data / "multiannotator"
    reference = json.loads((folder / "reference.json").read_text())
    for name, facts in reference.items():
        labels, truth = (pd.read_csv(folder / f"{name}_{part}.csv") for part in ("labels", "truth"))
        items, item = np.unique(labels["item"], return_inverse=True)
        _, person = np.unique(labels["annotator"], return_inverse=True)
        classes = np.unique(np.concatenate([labels["label"], truth["truth"]]))
        found = dawid_skene(item, person, np.searchsorted(classes, labels["label"]), n_classes=len(classes))
        agreed = classes[found.consensus]
        right = (truth.set_index("item")["truth"].reindex(items).to_numpy() == agreed).mean()
        yield (
            f"multiannotator/{name}",
            "accuracy of the consensus",
            f"{right:.4f} / {facts['dawid_skene_acc']:.4f}",
            f"known: a plain Dawid-Skene; majority {facts['majority_acc_ties_split']:.4f}",
        )


def match_reference(first: dict[str, Any], last: dict[str, Any]) -> tuple[int, int, int]:
    """(added, removed, added in images of both) red cells, by greedy matching at an IoU of 0.5: an independent count."""
    names = {c["id"]: c["name"] for c in last["categories"]}

    def boxes(source: dict[str, Any], image: Any) -> Any:
        found = [
            a["bbox"]
            for a in source["annotations"]
            if a["image_id"] == image and names.get(a["category_id"], "RBC") == "RBC"
        ]
        array = np.array(found, dtype=float).reshape(-1, 4)
        return np.concatenate([array[:, :2], array[:, :2] + array[:, 2:]], axis=1)

    added = removed = shared = 0
    both = {i["id"] for i in first["images"]}
    for image in last["images"]:
        new, old = boxes(last, image["id"]), boxes(first, image["id"])
        iou = pairwise_iou(new, old)
        matched = 0
        while iou.size and iou.max() >= 0.5:
            row, column = np.unravel_index(iou.argmax(), iou.shape)
            iou[row, :] = -1
            iou[:, column] = -1
            matched += 1
        added += len(new) - matched
        removed += len(old) - matched
        shared += (len(new) - matched) * (image["id"] in both)
    return added, removed, shared


def taco(data: Path, work: Path) -> Iterator[Row]:
    folder = data / "coco_ann"
    defects = json.loads((folder / "taco_real_defects.json").read_text())
    for listed, file in (
        ("annotations.json", "taco_annotations.json.gz"),
        ("annotations_unofficial.json", "taco_annotations_unofficial.json.gz"),
    ):
        content = json.load(gzip.open(folder / file))
        classes = list(dict.fromkeys(item["name"] for item in content["categories"]))
        repository = Repository.init(work / f"taco-{listed}", schema_of("taco", classes, "polygon"))
        result = ingest(repository, str(folder / file), format="coco")
        record = audit(repository, result.version, checks=["schema", "ingest"]).findings.to_pandas()
        told = " ".join(record["message"].astype(str)) + " " + " ".join(record["annotation_id"].dropna())
        numbers = set(re.findall(r"\d+", told))
        known = {str(item["annotation_id"]) for item in defects[listed]}
        flagged = set(record["annotation_id"].dropna()) | set(record["message"])
        yield (
            f"coco_ann/{file}",
            "annotations with real geometry defects",
            f"{len(known & numbers)} / {len(known)}",
            f"{len(flagged)} findings in all",
        )


def tiny(data: Path, work: Path) -> Iterator[Row]:
    folder = data / "coco_tiny"
    content = json.loads((folder / "coco.json").read_text())
    repository = Repository.init(
        work / "tiny", schema_of("coco", [c["name"] for c in content["categories"]], "polygon")
    )
    result = ingest(repository, str(folder / "coco.json"), format="coco", images=str(folder / "images"))
    yield (
        "coco_tiny",
        "annotations taken",
        f"{result.annotations} / {len(content['annotations'])}",
        f"{result.samples} images, {len(result.findings)} findings",
    )
    record = audit(repository, result.version)
    found = record.findings.to_pandas()
    found = found[found["sample_id"].notna()]
    high = found[found["severity"] == "high"]
    counts = ", ".join(f"{name} {count}" for name, count in high["check"].value_counts().items())
    yield (
        "coco_tiny",
        "findings of severity high in a clean set, all checks",
        f"{len(high)} / 0",
        f"{counts or 'none'}; {len(found)} findings in all for {result.annotations} annotations",
    )


PARTS = {
    "neardup": near_duplicates,
    "grouped": groups,
    "bccd": blood_cells,
    "taco": taco,
    "tiny": tiny,
    "camvid": videos,
    "crowds": crowds,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", choices=PARTS, action="append")
    options = parser.parse_args()
    data = Path(os.environ["DSOPS_TEST_DATA"])
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only or PARTS:
            rows += PARTS[name](data, Path(folder))
    if options.json:
        print(json.dumps([dict(zip(("data", "what", "found", "remarks"), row, strict=True)) for row in rows], indent=2))
        return
    print("| data | what | found / known | remarks |\n|---|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
