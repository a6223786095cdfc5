"""Shared fixtures: a small schema, a repository in a folder, real data, a real S3 server."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from datasetops.manifest import Repository
from datasetops.schema import LabelSchema

sys.path.insert(0, str(Path(__file__).parent))  # helpers of the tests: pictures
hypothesis.settings.register_profile(
    "busy machines", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("busy machines")


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real data."""
    folder = os.environ.get("DSOPS_TEST_DATA")
    if not folder:
        pytest.skip("DSOPS_TEST_DATA is not set: it names the folder with the real data sets")
    return Path(folder)


@pytest.fixture(scope="session")
def schema() -> LabelSchema:
    return LabelSchema.model_validate(
        {
            "name": "pets",
            "version": 1,
            "tasks": [{"kind": "classification"}, {"kind": "box"}],
            "classes": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}, {"id": 2, "name": "bird"}],
            "slices": [{"key": "light", "values": ["day", "night"], "min_count": 2}],
        }
    )


@pytest.fixture
def repository(tmp_path: Path, schema: LabelSchema) -> Repository:
    return Repository.init(tmp_path / "repository", schema)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Address of an S3 server that was started for the tests, on a free port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # One request at a time: moto's check of If-None-Match and its write are two steps.
    code = (
        "from werkzeug.serving import run_simple\n"
        "from moto.server import DomainDispatcherApplication, create_backend_app\n"
        f"run_simple('127.0.0.1', {port}, DomainDispatcherApplication(create_backend_app), threaded=False)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    for _ in range(150):
        try:
            urllib.request.urlopen(url, timeout=1).close()
            break
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    else:
        process.kill()
        pytest.fail("the S3 server did not start")
    yield url
    process.terminate()
    process.wait(10)


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """s3://bucket/prefix of an empty bucket, with the settings in the environment."""
    import boto3

    settings = {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "DSOPS_CACHE": str(tmp_path / "cache"),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    bucket = f"test-{os.urandom(6).hex()}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    return f"s3://{bucket}/data"
