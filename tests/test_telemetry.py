"""Commands and requests as an OpenTelemetry collector gets them, over HTTP."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra telemetry is not installed")

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

pytestmark = [pytest.mark.server, pytest.mark.slow]

DSOPS = str(Path(sys.executable).with_name("dsops"))


class Collector(ThreadingHTTPServer):
    """Keeps what is sent, by path."""

    def __init__(self) -> None:
        self.got: list[tuple[str, bytes]] = []
        super().__init__(("127.0.0.1", 0), self._handler())

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        got = self.got

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                got.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                return

        return Handler

    def spans(self) -> list[tuple[str, str]]:
        """(name, what went wrong)"""
        sent = [ExportTraceServiceRequest.FromString(body) for path, body in self.got if path == "/v1/traces"]
        return [
            (one.name, one.status.message)
            for request in sent
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for one in scope.spans
        ]


@pytest.fixture
def collector() -> Iterator[Collector]:
    server = Collector()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def run(collector: Collector, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    address = f"http://127.0.0.1:{collector.server_port}"
    env = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": address, "OTEL_EXPORTER_OTLP_COMPRESSION": "none"}
    return subprocess.run([DSOPS, *words], cwd=folder, env=env, capture_output=True, text=True, check=False)


def test_each_command_is_a_span(collector: Collector, tmp_path: Path) -> None:
    assert run(collector, tmp_path, "init", "set", "--schema", "digits").returncode == 0
    assert run(collector, tmp_path / "set", "qa", "list").returncode == 0
    assert run(collector, tmp_path / "set", "show", "v7").returncode == 1
    assert collector.spans() == [("dsops init", ""), ("dsops qa list", ""), ("dsops show", "NotFoundError 1")]


def test_requests_are_counted_by_route(collector: Collector, tmp_path: Path) -> None:
    code = "from datasetops import telemetry as t; t.count_request(0.25, 'GET', '/v/{version}', 200); t.flush()"
    env = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}"}
    subprocess.run([sys.executable, "-c", code], env=env | {"OTEL_EXPORTER_OTLP_COMPRESSION": "none"}, check=True)
    bodies = [body for path, body in collector.got if path == "/v1/metrics"]
    metric = ExportMetricsServiceRequest.FromString(bodies[0]).resource_metrics[0].scope_metrics[0].metrics[0]
    (point,) = metric.histogram.data_points
    assert (metric.name, metric.unit, point.count, point.sum) == ("dsops.review.request.duration", "s", 1, 0.25)
    assert {one.key for one in point.attributes} == {"http.request.method", "http.route", "http.response.status_code"}
