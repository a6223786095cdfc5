"""How fast an ONNX file runs and how much memory it takes, measured in a process that does nothing else.

Run as a script it needs ONNX Runtime and NumPy alone: FILE INPUTS.npy THREADS BATCH… → one JSON document.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

BATCHES: Final = (1, 2, 4, 8)
_WARM: Final = 3  # calls that are not counted
_LEAST: Final = 20  # calls that a 95th percentile is taken of
_MOST: Final = 200
_SECONDS: Final = 2.0  # of each batch size, after which `_LEAST` calls are enough
_LIMIT: Final = 1800  # seconds for the whole of it


def timed(file: Path, inputs: Any, *, batches: Sequence[int] = BATCHES, threads: int = 1) -> dict[str, Any]:
    """Latency of a call in milliseconds (p50, p95, and processor time), images a second, peak memory in MiB, by batch size.

    `inputs` (N, …) are prepared images of one shape, used in turn. Decoding and preparing them, and what is done with the
    outputs, is not in it. Memory is that of the process, and `model_memory` what it grew by since before the file was
    opened. Raises RuntimeError with the reason where the process fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "inputs.npy"
        np.save(saved, inputs)
        words = [sys.executable, __file__, str(file), str(saved), str(threads), *map(str, batches)]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=_LIMIT, check=False)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"it took longer than {_LIMIT} seconds") from None
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["it ended without a word"])[-1])
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _measure(file: str, saved: str, threads: int, batches: Sequence[int]) -> dict[str, Any]:
    import onnxruntime

    inputs = np.load(saved)
    before = _peak()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    fixed = isinstance(session.get_inputs()[0].shape[0], int)
    found = []
    for batch in sorted(batches):
        if fixed and batch != 1:
            continue
        given = np.resize(inputs, (batch, *inputs.shape[1:]))
        for _ in range(_WARM):
            session.run(None, {name: given})
        taken: list[float] = []
        spent = time.process_time()
        while len(taken) < _LEAST or (len(taken) < _MOST and sum(taken) < _SECONDS):
            start = time.perf_counter()
            session.run(None, {name: given})
            taken.append(time.perf_counter() - start)
        spent = time.process_time() - spent
        p50, p95 = (1000 * float(value) for value in np.percentile(taken, [50, 95]))
        found.append(
            {
                "batch": batch,
                "p50_ms": p50,
                "p95_ms": p95,
                "cpu_ms": 1000 * spent / len(taken),
                "per_second": batch * len(taken) / sum(taken),
                "calls": len(taken),
                "peak_mib": _peak(),
            }
        )
    return {
        "threads": threads,
        "input": list(inputs.shape[1:]),
        "onnxruntime": onnxruntime.__version__,
        "batches": found,
        "peak_mib": found[0]["peak_mib"],
        "model_memory_mib": found[0]["peak_mib"] - before,
    }


def _peak() -> float:
    """Most memory that this process ever held, in MiB."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    sys.stdout.write(
        json.dumps(_measure(sys.argv[1], sys.argv[2], int(sys.argv[3]), [int(one) for one in sys.argv[4:]]))
    )
