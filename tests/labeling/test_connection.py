"""How a Label Studio server's refusals are told: a small server that answers as servers, proxies and strangers do."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from datasetops.errors import DatasetOpsError, NotFoundError
from datasetops.labeling.label_studio.connection import Connection, LabelServerError, UnansweredError

pytestmark = pytest.mark.slow

TOKEN = "0123456789abcdef0123456789abcdef01234567"


class Answers(ThreadingHTTPServer):
    """Gives (status, headers, body) one after another, the last one for ever; None drops the connection."""

    def __init__(self) -> None:
        self.given: list[tuple[int, dict[str, str], str] | None] = []
        self.asked = 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer = server.given[min(server.asked, len(server.given) - 1)]
                server.asked += 1
                if answer is None:
                    self.close_connection = True
                    return
                status, headers, body = answer
                self.send_response(status)
                for name, value in {"content-length": str(len(body.encode())), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body.encode())

            do_POST = do_GET  # noqa: N815 (what the base class calls)

            def log_message(self, format: str, *args: object) -> None:
                return

        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def connection(self) -> Connection:
        return Connection(f"http://127.0.0.1:{self.server_port}", TOKEN)


@pytest.fixture
def server() -> Iterator[Answers]:
    server = Answers()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def problem(detail: str) -> str:
    return json.dumps({"id": "u", "status_code": 0, "detail": detail, "validation_errors": {"label_config": ["bad"]}})


def test_a_limited_rate_and_a_busy_server_are_waited_for(server: Answers) -> None:
    server.given = [(429, {"retry-after": "0"}, ""), (503, {}, "<html>"), (200, {}, '{"ok": 1}')]
    assert server.connection.get("api/x") == {"ok": 1}
    assert server.asked == 3


def test_an_answer_that_was_lost_is_asked_for_again_only_where_that_is_safe(server: Answers) -> None:
    server.given = [None, (200, {}, "[]")]
    assert server.connection.get("api/x") == []
    server.asked = 0
    with pytest.raises(UnansweredError) as lost:
        server.connection.call("POST", "api/x", body={})
    assert server.asked == 1
    assert "goes on where it stopped" in lost.value.remedy


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (401, problem("Invalid token."), LabelServerError, "refused the token: Invalid token."),
        (403, problem("No."), LabelServerError, "does not permit this: No."),
        (404, "<html>gone</html>", NotFoundError, "no reason given"),
        (400, problem("Validation error"), LabelServerError, "label_config: ['bad']"),
        (413, "", LabelServerError, "too large"),
        (500, "You cannot access body after reading from request's data stream", LabelServerError, "too large"),
        (500, "boom", LabelServerError, "status 500: boom"),
        (200, "<html>a proxy</html>", LabelServerError, "did not answer in JSON"),
    ],
)
def test_each_refusal_is_one_message_with_a_remedy(
    server: Answers, status: int, body: str, kind: type[DatasetOpsError], words: str
) -> None:
    server.given = [(status, {}, body)]
    with pytest.raises(kind) as told:
        server.connection.get("api/x")
    assert words in told.value.message
    assert TOKEN not in str(told.value)
    assert told.value.remedy or status == 400


def test_a_stranger_is_not_taken_for_label_studio(server: Answers) -> None:
    server.given = [(200, {}, "{}")]
    with pytest.raises(LabelServerError, match="not Label Studio"):
        _ = server.connection.version
