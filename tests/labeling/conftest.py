"""A Label Studio server for the tests of a session."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # helpers of these tests: label_studio_server

from label_studio_server import TOKEN, Server, new_server


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    tmp = tmp_path_factory.getbasetemp()
    server = new_server(tmp)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def label_studio(shared_server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The server of this session, named by the environment."""
    monkeypatch.setenv("LABEL_STUDIO_URL", shared_server.url)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", TOKEN)
    return shared_server
