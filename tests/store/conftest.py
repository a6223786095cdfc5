from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import emulators
import pytest
from emulators import Cloud

from datasetops.store import Store, open_store
from datasetops.store.cloud import CloudStore


@pytest.fixture(scope="session")
def azure_server() -> Iterator[str]:
    with emulators.azurite() as url:
        yield url


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[str]:
    with emulators.fake_gcs() as url:
        yield url


@pytest.fixture(params=["gs", "az"])
def cloud(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cloud:
    return open_cloud(str(request.param), request, monkeypatch, tmp_path)


@pytest.fixture(params=["memory", *(pytest.param(name, marks=pytest.mark.server) for name in ("gs", "az"))])
def stores(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Store, Store]:
    """The same place in a cloud, or in obstore's memory, opened twice, with a cache each."""
    one, two = tmp_path / "one", tmp_path / "two"
    if request.param == "memory":
        from obstore.store import MemoryStore

        client = MemoryStore()
        return CloudStore("gs://memory/some/data", one, client), CloudStore("gs://memory/some/data", two, client)
    url = open_cloud(str(request.param), request, monkeypatch, tmp_path).url
    return open_store(url, cache=one), open_store(url, cache=two)


def open_cloud(scheme: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cloud:
    for name in [name for name in os.environ if name.startswith(("GOOGLE_", "AZURE_"))]:
        monkeypatch.delenv(name)
    bucket = f"test-{os.urandom(6).hex()}"
    if scheme == "az":
        server = request.getfixturevalue("azure_server")
        emulators.azure_put(server, bucket)
        environment = {
            "AZURE_STORAGE_ACCOUNT_NAME": emulators.ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": emulators.KEY,
            "AZURE_STORAGE_ENDPOINT": server,
        }
    else:
        server = request.getfixturevalue("gcs_server")
        emulators.gcs_bucket(server, bucket)
        environment = {"GOOGLE_BASE_URL": server, "GOOGLE_BEARER_TOKEN": "test"}
    environment["DSOPS_CACHE"] = str(tmp_path / "cache")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return Cloud(scheme, f"{scheme}://{bucket}/data", server, environment)
