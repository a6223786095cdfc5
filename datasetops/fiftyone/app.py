"""FiftyOne's app on a version, served to this machine."""

from __future__ import annotations

import contextlib
import io
import logging
import socket
import time
import urllib.request
from collections.abc import Iterator
from typing import Any, Final

from datasetops.audits.decisions import decisions
from datasetops.audits.record import latest_audit
from datasetops.errors import ConflictError, DatasetOpsError, NotFoundError
from datasetops.fiftyone.database import connect, quietly
from datasetops.fiftyone.export import state_of
from datasetops.manifest import Repository, Version

ADDRESS: Final = "127.0.0.1"
_FIRST_PORT: Final = 5151  # FiftyOne's own
_PORTS: Final = 100  # tried, one after another
_START_S: Final = 60.0  # seconds that the app may take to start


class App:
    """A running app. `url` shows the dataset; `close` ends it."""

    def __init__(self, dataset: str, *, port: int = 0, database: str | None = None) -> None:
        """Starts it; `port` 0 is the first free one from 5151 on.

        Raises ConflictError where the port is taken, DatasetOpsError where the app does not start, and as `connect`.
        """
        self.port = _free_port(port)
        with quietly(), _without_banner():
            fiftyone = connect(database)
            loaded = fiftyone.load_dataset(dataset)
            self.views: list[str] = loaded.list_saved_views()
            try:
                # Without a browser: who listens on this address opens one, or forwards the port.
                self._session: Any = fiftyone.launch_app(loaded, port=self.port, address=ADDRESS, remote=True)
            except Exception as error:
                raise DatasetOpsError(
                    f"FiftyOne's app does not start: {str(error).partition(chr(10))[0]}",
                    remedy="Try another --port, or `fiftyone app launch`, which tells more.",
                ) from None
            if not self._answers():
                self._session.close()
                raise DatasetOpsError(
                    f"FiftyOne's app does not answer on port {self.port}.",
                    remedy="Try another --port, or `fiftyone app launch`, which tells more.",
                )
        self.url = f"http://{ADDRESS}:{self.port}/datasets/{dataset}"

    def _answers(self) -> bool:
        """Whether the app is there, after some time to start."""
        started = time.monotonic()
        while time.monotonic() - started < _START_S:
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"http://{ADDRESS}:{self.port}/fiftyone", timeout=_START_S),
            ):
                return True
            time.sleep(0.2)
        return False

    def wait(self) -> None:
        """Until interrupted: raises KeyboardInterrupt."""
        with quietly():
            self._session.wait(-1)

    def close(self) -> None:
        with quietly():
            self._session.close()


@contextlib.contextmanager
def _without_banner() -> Iterator[None]:
    log = logging.getLogger("fiftyone")
    before = log.level
    log.setLevel(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # that it waits for the app to start
            yield
    finally:
        log.setLevel(before)


def is_current(repository: Repository, version: Version, *, name: str, database: str | None = None) -> bool:
    """Whether FiftyOne has this version, with what its newest audits found, already."""
    with quietly():
        fiftyone = connect(database)
        if not fiftyone.dataset_exists(name):
            return False
        info = fiftyone.load_dataset(name).info.get("dsops") or {}
    try:
        state = state_of(version, latest_audit(repository, version).audit_id, len(decisions(repository)))
    except NotFoundError:
        state = state_of(version, None, 0)
    ours = info.get("repository") == repository.ledger.read(0).digest and info.get("where") is None
    return bool(ours and info.get("done") == state)


def _free_port(wanted: int) -> int:
    for port in [wanted] if wanted else range(_FIRST_PORT, _FIRST_PORT + _PORTS):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((ADDRESS, port))
            except OSError:
                continue
            return port
    what = f"port {wanted} is" if wanted else f"ports {_FIRST_PORT} to {_FIRST_PORT + _PORTS - 1} are"
    raise ConflictError(f"On this machine {what} taken.", remedy="Name another one with --port.")
