"""One training at a time in a folder of checkpoints: two would read each other's and come to weights of no recipe."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from datasetops.errors import ConflictError, DatasetOpsError


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder, by a locked file beside it; the system unlocks it however this one ends.

    Raises ConflictError, which names who is in it, and DatasetOpsError where the file cannot be locked.
    """
    path = folder.with_name(f"{folder.name}.lock")
    file = _locked(path)
    while os.fstat(file.fileno()).st_nlink == 0:  # its owner ended, and removed it, after it was opened here
        file.close()
        file = _locked(path)
    with file:
        file.truncate(0)
        now = datetime.now(UTC).isoformat(" ", timespec="seconds")
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {now}")
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _locked(path: Path) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise _unlockable(path, error) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        with file:
            file.seek(0)
            holder = file.read() or "another process"
        raise ConflictError(
            f"This very training is under way already: {holder}.",
            remedy="Wait until it ends, or end that process and run the command again.",
        ) from None
    except OSError as error:
        file.close()
        raise _unlockable(path, error) from None
    return file


def _unlockable(path: Path, error: OSError) -> DatasetOpsError:
    return DatasetOpsError(
        f"{path} cannot be locked: {error.strerror}.",
        remedy="Let the setting cache name a folder where files can be locked.",
    )
