"""What mending labels buys: models trained before and after an audit's findings were dealt with, on right labels.

    python benchmarks/label_fixes.py                     # a Markdown table, as in docs/training.md
    python benchmarks/label_fixes.py --labels aggre_label

Needs DSOPS_TEST_DATA. All 10,000 images of CIFAR-10N: four fifths are the split train with one person's labels (17.8 %
wrong in random_label1), a fifth is the split test with CIFAR-10's own. `dsops audit --check label_noise` flags labels; then
the packaged probe is trained by `dsops train` on the labels as they are, without the flagged ones, with the flagged ones at
a fifth of their weight, and on a version in which a reviewer gave every flagged label its right class, and last on right
labels alone, which no audit can beat. Intervals are those of `dsops compare` with the first model.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from commands import cifar_images, dsops, write_table

from datasetops import Repository

LABELS = ("random_label1", "aggre_label", "worse_label")
TRUE = "clean_label"
RECIPE = "kind: probe\nname: probe-{name}\nnoise: {{findings: {name}}}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", choices=LABELS, default=LABELS[0])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measured(Path(folder), arguments.labels)
    print(json.dumps(found) if arguments.json else "\n".join(lines(found)))


def measured(folder: Path, column: str) -> dict[str, Any]:
    said = cifar_images(folder, TRUE, column)
    truth, given = said[TRUE], said[column]
    names = sorted(truth)
    split = {name: "test" if number % 5 == 0 else "train" for number, name in enumerate(names)}
    train = [name for name in names if split[name] == "train"]
    labels = truth | {name: given[name] for name in train}
    repository, sheet = folder / "repository", folder / "pool.csv"

    def ingest() -> None:
        write_table(sheet, names, label=labels, split=split)
        dsops(repository, "ingest", str(sheet), "--format", "table")

    def trained(recipe: str) -> str:
        told = dsops(repository, "train", "main", "--recipe", recipe, "--experiment", "--json")
        return f"model:{json.loads(told)['name']}"

    dsops(folder, "init", "repository", "--schema", "cifar10")
    ingest()
    dsops(repository, "audit", "v1", "--check", "label_noise", "--report", str(folder / "audit.html"))
    models = {"as they are": trained("probe")}
    for name in ("exclude", "down-weight"):
        recipe = folder / f"{name}.yaml"
        recipe.write_text(RECIPE.format(name=name), encoding="utf-8")
        models[f"flagged ones: {name}"] = trained(str(recipe))
    samples = Repository.open(str(repository)).version("v1").table("samples").to_pandas()
    file_of = dict(zip(samples["sample_id"], samples["uri"].map(lambda uri: Path(uri).name), strict=True))
    findings = json.loads(dsops(repository, "findings", "v1", "--check", "label_noise", "--json"))
    flagged = {file_of[one["sample_id"]] for one in findings} & set(train)
    wrong = {name for name in train if given[name] != truth[name]}
    labels |= {name: truth[name] for name in flagged}
    ingest()
    models["flagged ones: mended by a reviewer"] = trained("probe")
    labels |= truth
    ingest()
    models["all right"] = trained("probe")
    first = models["as they are"]
    rows = []
    for name, model in models.items():
        told = json.loads(dsops(repository, "evaluate", model, "v1", "--json"))
        row = {"labels": name, "accuracy": told["metrics"]["accuracy"], "ece": told["metrics"]["ece"]}
        if model != first:
            compared = json.loads(dsops(repository, "compare", first, model, "v1", "--json"))
            row["gain"] = compared["metrics"]["accuracy"]
        rows.append(row)
    return {
        "given": column,
        "train": len(train),
        "wrong": len(wrong),
        "flagged": len(flagged),
        "flagged_and_wrong": len(flagged & wrong),
        "models": rows,
    }


def lines(found: dict[str, Any]) -> Iterator[str]:
    yield (
        f"{found['given']}: {found['wrong']:,} of {found['train']:,} labels are wrong; {found['flagged']:,} were flagged, "
        f"{found['flagged_and_wrong']:,} of them wrong.\n"
    )
    yield "| trained on labels | accuracy on right labels | more than before, 95 % interval | ECE |\n|---|---|---|---|"
    for row in found["models"]:
        gain = row.get("gain")
        told = (
            ""
            if gain is None
            else f"{100 * gain['difference']:+.1f} ({100 * gain['low']:+.1f} to {100 * gain['high']:+.1f})"
        )
        yield f"| {row['labels']} | {100 * row['accuracy']:.1f} % | {told} | {row['ece']:.3f} |"


if __name__ == "__main__":
    main()
