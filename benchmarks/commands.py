"""What benchmarks share that go through the command line: dsops itself, and CIFAR-10N as files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd


def dsops(repository: Path, *arguments: str, cwd: Path | None = None) -> str:
    """What the command prints; it has to end well."""
    command = [str(Path(sys.executable).with_name("dsops")), *arguments]
    return subprocess.run(command, cwd=cwd or repository, stdout=subprocess.PIPE, text=True, check=True).stdout


def cifar_images(folder: Path, *columns: str) -> dict[str, dict[str, str]]:
    """Write the images to `folder`/images; by column of labels the class of each file name."""
    given = os.environ.get("DSOPS_TEST_DATA")
    if given is None:
        sys.exit("Set DSOPS_TEST_DATA to the folder with cifar10n.")
    data = Path(given) / "cifar10n"
    frame = pd.read_parquet(data / "data.parquet", columns=["index", "image", *columns])
    classes: list[str] = json.loads((data / "classes.json").read_text(encoding="utf-8"))
    (folder / "images").mkdir()
    names = [f"{index:05d}.jpg" for index in frame["index"]]
    for name, image in zip(names, frame["image"], strict=True):
        (folder / "images" / name).write_bytes(image["bytes"] if isinstance(image, dict) else image)
    return {
        column: {name: classes[label] for name, label in zip(names, frame[column], strict=True)} for column in columns
    }


def write_table(path: Path, names: Sequence[str], **columns: Mapping[str, str]) -> None:
    """A table for `dsops ingest`: an image a row, and what each column says of it, if anything."""
    rows = [
        {"uri": f"images/{name}"} | {column: values.get(name, "") for column, values in columns.items()}
        for name in names
    ]
    pd.DataFrame(rows).to_csv(path, index=False)
