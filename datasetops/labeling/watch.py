"""Pull again and again: at intervals, and when the tool calls."""

from __future__ import annotations

import hmac
import secrets
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from datasetops.errors import DatasetOpsError
from datasetops.labeling.base import LabelServer, ServerAwayError
from datasetops.labeling.batch import Project, load_project
from datasetops.labeling.pull import PullResult, pull
from datasetops.manifest import Repository
from datasetops.secret_files import secret
from datasetops.telemetry import span

SECRET: Final = "DSOPS_WEBHOOK_SECRET"  # noqa: S105 (a variable's name)
_HEADER: Final = "X-Dsops-Secret"
_LONGEST: Final = 600.0  # seconds between two tries while the server is away


def watch(
    repository: Repository,
    project: Project,
    server: LabelServer,
    *,
    every: float = 60.0,
    port: int | None = None,
    say: Callable[[str], None] = lambda _: None,
    stop: threading.Event | None = None,
    **options: Any,
) -> Iterator[PullResult]:
    """What each pull that brought something back did, for ever, or until `stop` is set.

    With a `port` a webhook receiver listens on 127.0.0.1: a call with the right secret in its X-Dsops-Secret header
    (DSOPS_WEBHOOK_SECRET, or one made for this run) means a pull at once. Calls get lost, so it looks every so many
    seconds all the same. A server that is away is tried again with growing pauses.
    """
    stop = stop or threading.Event()
    called = threading.Event()
    receiver = _receive(port, called, say) if port is not None else None
    pause = every
    try:
        while not stop.is_set():
            try:
                with span("pull") as told:
                    result = pull(repository, load_project(repository, project.name), server, **options)
                    if told is not None:
                        told.set_attribute("dsops.answers", result.answers)
                pause = every
                if result.samples or result.conflicts or result.warnings:
                    yield result
            except ServerAwayError as error:
                say(f"{error.message} Trying again in {pause:.0f} s.")
                pause = min(2 * pause, max(_LONGEST, every))
            _wait(called, stop, pause)
    finally:
        if receiver is not None:
            receiver.shutdown()
            receiver.server_close()


def _wait(called: threading.Event, stop: threading.Event, seconds: float) -> None:
    """Until the tool calls, the time is up or an end is asked for."""
    step = min(seconds, 0.2)
    waited = 0.0
    while waited < seconds and not called.is_set() and not stop.is_set():
        called.wait(step)
        waited += step
    called.clear()


def _receive(port: int, called: threading.Event, say: Callable[[str], None]) -> ThreadingHTTPServer:
    expected = secret(SECRET) or secrets.token_hex(16)

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            given = self.headers.get(_HEADER, "")
            right = hmac.compare_digest(given.encode(), expected.encode())
            self.send_response(204 if right else 403)
            self.end_headers()
            if right:  # answered first: the annotator waits for it
                called.set()

        def log_message(self, format: str, *args: Any) -> None:
            return

    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), Receiver)
    except OSError as error:
        raise DatasetOpsError(f"Port {port}: {error.strerror}.", remedy="Choose another --webhook port.") from None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hint = f"the secret in {SECRET}" if secret(SECRET) else f"the header {_HEADER}: {expected}"
    say(f"Listening on http://127.0.0.1:{server.server_port}; add it as a webhook in Label Studio, with {hint}.")
    return server
