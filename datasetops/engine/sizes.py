"""How many images go into one call of a model: found while running, within memory."""

from __future__ import annotations

import gc
import resource
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

_FIRST: Final = 4  # enough to tell whether larger batches pay, small enough for large models
_LARGEST: Final = 256  # beyond it no model of this kind gains, and results come late
_TRIES: Final = 3  # batches of one size before judging it; the quickest counts, so a first slow call does no harm
_GAIN: Final = 1.05  # a doubled batch stays only if it is this much faster: less is noise, and costs memory
_SHARE: Final = 0.5  # of the free memory: the rest is for what else the machine does
_OUT_OF_MEMORY: Final = (  # as torch (CPU, MPS), cuDNN, cuBLAS and ONNX Runtime put it
    "out of memory",
    "can't allocate memory",
    "failed to allocate memory",
    "bad allocation",
    "bad_alloc",
    "alloc_failed",
)


class BatchSize:
    """The size of the next batch: doubled while that is faster and memory allows, halved when memory runs out.

    `fixed` is a size to keep; then only memory can lower it. Not for use by several threads at once.
    """

    def __init__(self, fixed: int | None = None) -> None:
        self.now = fixed or _FIRST
        self._most = fixed or _LARGEST
        self._settled = fixed is not None
        self._seconds: list[float] = []  # an image, of the batches of this size
        self._before: float | None = None  # the least of the size before
        self._peak = _peak_memory()

    def took(self, images: int, seconds: float) -> None:
        """A batch went through."""
        if self._settled or images != self.now:
            return
        self._seconds.append(seconds / images)
        if len(self._seconds) < _TRIES:
            return
        least = min(self._seconds)
        if self._before is not None and least * _GAIN > self._before:
            self._settle(self.now // 2)
        elif self.now * 2 > self._most or not self._fits_twice():
            self._settle(self.now)
        else:
            self.now, self._before, self._seconds = self.now * 2, least, []

    def ran_out(self, images: int) -> None:
        """A batch of so many images did not fit into memory."""
        self._settle(min(self.now, max(1, images // 2)))

    def _settle(self, size: int) -> None:
        self.now, self._settled = size, True

    def _fits_twice(self) -> bool:
        """Whether as much again as the run has taken so far is well within what is free."""
        free = _free_memory()
        return free is None or _peak_memory() - self._peak <= free * _SHARE


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of a model says that memory ran out, on the processor or on an accelerator."""
    if isinstance(error, MemoryError) or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return True
    message = str(error).lower()
    return isinstance(error, Exception) and any(phrase in message for phrase in _OUT_OF_MEMORY)


def release_memory() -> None:
    """Gives back what torch keeps of an accelerator's memory after a failed call."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _peak_memory() -> int:
    """The most that this process has held, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _free_memory() -> int | None:
    """Bytes that can still be had, within the limit of a container; None where the system does not say."""
    free: list[int] = []
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    with suppress(OSError, ValueError):  # "max" where there is no limit
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        free.append(limit - int((group / "memory.current").read_text(encoding="ascii")))
    return min(free, default=None)
