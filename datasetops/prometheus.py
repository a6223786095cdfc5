"""Figures in Prometheus' text format 0.0.4, for the textfile collector of its node exporter or any other scraper."""

from __future__ import annotations

import math
import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Gauge:
    """A metric with its samples (labels, value). All samples of a name belong to one Gauge, with different labels."""

    name: str
    help: str
    samples: Sequence[tuple[Mapping[str, str], float]]


def exposition(gauges: Iterable[Gauge]) -> str:
    """The text. Raises ValueError for names that Prometheus does not take, and for names or labels given twice."""
    lines: list[str] = []
    names: set[str] = set()
    for gauge in gauges:
        if not re.fullmatch(r"[a-zA-Z_:][a-zA-Z0-9_:]*", gauge.name) or gauge.name in names:
            raise ValueError(f"name: expected letters, digits and underscores, and each once; got {gauge.name!r}")
        names.add(gauge.name)
        if not gauge.samples:
            continue
        told = gauge.help.replace("\\", "\\\\").replace("\n", "\\n")
        lines += [f"# HELP {gauge.name} {told}", f"# TYPE {gauge.name} gauge"]
        series = [(_labels(labels), value) for labels, value in gauge.samples]
        if len({labels for labels, _ in series}) < len(series):
            raise ValueError(f"labels: expected different ones for each sample of {gauge.name}")
        lines += [f"{gauge.name}{labels} {_number(value)}" for labels, value in series]
    return "".join(f"{line}\n" for line in lines)


def write_exposition(file: Path, gauges: Iterable[Gauge]) -> None:
    """Write it so that a reader sees the old text or the new one, never a part. Raises OSError."""
    text = exposition(gauges)
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as sink:
            sink.write(text)
            sink.flush()
            os.fsync(sink.fileno())
        mode = 0o666 & ~_umask()
        Path(name).chmod(mode)  # mkstemp's own keeps the scraper out
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _labels(labels: Mapping[str, str]) -> str:
    for name in labels:
        if not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", name) or name.startswith("__"):
            raise ValueError(f"labels: expected letters, digits and underscores; got {name!r}")
    shown = (f'{name}="{_escaped(str(value))}"' for name, value in labels.items())
    return f"{{{','.join(shown)}}}" if labels else ""


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return ("+Inf" if value > 0 else "-Inf") if math.isinf(value) else repr(float(value))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
