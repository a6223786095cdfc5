"""A real Label Studio server, from an environment of its own, on a free port of this machine; and who answers its tasks."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from datasetops.labeling.label_studio.connection import Connection

BUILT = Path(__file__).parents[2] / "build" / "label-studio"
EMAIL, PASSWORD, TOKEN = "lead@example.com", "a-long-password", "0123456789abcdef0123456789abcdef01234567"
_SEED = ("label_studio.sqlite3", ".env")


class Server:
    """`files` is the folder that it serves images from."""

    def __init__(self, command: Path, folder: Path, files: Path, port: int | None = None) -> None:
        self.command, self.folder, self.files = command, folder, files
        self.port = port or _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "LABEL_STUDIO_BASE_DATA_DIR": str(self.folder),
            "LABEL_STUDIO_USERNAME": EMAIL,
            "LABEL_STUDIO_PASSWORD": PASSWORD,
            "LABEL_STUDIO_USER_TOKEN": TOKEN,
            "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
            "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
            "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(self.files),
            "SSRF_PROTECTION_ENABLED": "false",
            "COLLECT_ANALYTICS": "false",
            "LATEST_VERSION_CHECK": "0",
            "SENTRY_DSN": "",
            "FRONTEND_SENTRY_DSN": "",
        }
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "TMPDIR")}
        command = [str(self.command), "start", "--no-browser", "--internal-host", "127.0.0.1", "-p", str(self.port)]
        log = (self.folder / "server.log").open("ab")
        with log:
            self.process = subprocess.Popen(
                command, env={**kept, **settings}, stdout=log, stderr=log, start_new_session=True
            )
        for _ in range(600):
            if self.process.poll() is not None:
                break
            try:
                if httpx.get(f"{self.url}/health", timeout=2).json() == {"status": "UP"}:
                    return
            except (httpx.HTTPError, ValueError):
                time.sleep(0.25)
        self.stop()
        pytest.fail(f"Label Studio did not start: {(self.folder / 'server.log').read_text()[-2000:]}")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, how)  # the group that was started here
            self.process.wait(20)
            self.process = None

    @property
    def connection(self) -> Connection:
        return Connection(self.url, TOKEN)

    def login(self) -> httpx.Client:
        """A browser's session of the lead."""
        client = httpx.Client(base_url=self.url, follow_redirects=True, timeout=30)
        client.get("/user/login/")
        form = {"email": EMAIL, "password": PASSWORD, "csrfmiddlewaretoken": client.cookies["csrftoken"]}
        client.post("/user/login/", data=form)
        client.headers["X-CSRFToken"] = client.cookies["csrftoken"]
        return client

    def add_member(self, email: str) -> str:
        """A second annotator, by invitation; returns the token."""
        invitation = self.connection.get("api/invite")["invite_url"]
        client = httpx.Client(base_url=self.url, follow_redirects=True, timeout=30)
        page = client.get(invitation)
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text)
        form = {"email": email, "password": PASSWORD, "csrfmiddlewaretoken": token[1] if token else ""}
        client.post(invitation, data=form)
        client.headers["X-CSRFToken"] = client.cookies["csrftoken"]
        made = str(client.get("/api/current-user/token").json()["token"])
        client.close()
        return made


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def label_studio_command() -> Path:
    command = Path(os.environ.get("DSOPS_LABEL_STUDIO") or BUILT / "bin" / "label-studio")
    if not command.is_file():
        pytest.skip("Label Studio is not installed: `make test` does it; DSOPS_LABEL_STUDIO names another command")
    return command


def new_server(tmp: Path) -> Server:
    """A server with an empty database, not started. The database is migrated once and copied."""
    server = Server(label_studio_command(), tmp / "server", tmp)
    seed = BUILT / "seed"
    if not all((seed / name).is_file() for name in _SEED):
        first = Server(server.command, tmp / "seed", tmp)
        first.start()
        first.stop()
        seed.mkdir(parents=True, exist_ok=True)
        for name in _SEED:
            shutil.copy(first.folder / name, seed / name)
    server.folder.mkdir(parents=True)
    for name in _SEED:
        shutil.copy(seed / name, server.folder / name)
    return server


class Annotator:
    """Answers tasks as the editor does."""

    def __init__(self, server: Server, project: int, token: str = TOKEN) -> None:
        self.connection = Connection(server.url, token)
        self.project = project

    def tasks(self) -> dict[str, dict[str, Any]]:
        """Tasks with their annotations and predictions, by sample."""
        found = self.connection.get(
            "api/tasks/", project=self.project, fields="all", page_size=10_000, resolve_uri="false"
        )
        return {task["data"]["sample_id"]: task for task in found["tasks"]}

    def answer(
        self, task: dict[str, Any], results: list[dict[str, Any]] | None = None, **fields: Any
    ) -> dict[str, Any]:
        """Submit results, those of the prediction unless told."""
        shown = task["predictions"][0] if task["predictions"] else None
        given = results if results is not None else (shown or {"result": []})["result"]
        body = {"result": given, "lead_time": 3.5, "parent_prediction": shown["id"] if shown else None} | fields
        return dict(self.connection.call("POST", f"api/tasks/{task['id']}/annotations/", body=body))

    def choose(self, task: dict[str, Any], label: str) -> dict[str, Any]:
        result = {
            "id": "c1",
            "from_name": "label",
            "to_name": "image",
            "type": "choices",
            "value": {"choices": [label]},
        }
        return self.answer(task, [result])

    def skip(self, task: dict[str, Any]) -> dict[str, Any]:
        return self.answer(task, [], was_cancelled=True)
