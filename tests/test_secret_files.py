"""Secrets come from the environment, or from the files that it names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from datasetops.errors import DatasetOpsError
from datasetops.secret_files import give_to_libraries, secret


def test_the_environment_goes_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DSOPS_KEY_PASSWORD", raising=False)
    assert secret("DSOPS_KEY_PASSWORD") is None
    (tmp_path / "password").write_text("open sesame\n")
    monkeypatch.setenv("DSOPS_KEY_PASSWORD_FILE", str(tmp_path / "password"))
    assert secret("DSOPS_KEY_PASSWORD") == "open sesame"
    monkeypatch.setenv("DSOPS_KEY_PASSWORD", "other")
    assert secret("DSOPS_KEY_PASSWORD") == "other"


def test_libraries_find_theirs_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text("abc")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY_FILE", str(tmp_path / "key"))
    give_to_libraries()
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == "abc"


@pytest.mark.parametrize(("content", "words"), [(None, "cannot be read"), (b"\n", "is empty"), (b"\xff", "not text")])
def test_faults_name_variable_and_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, words: str
) -> None:
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    monkeypatch.setenv("WANDB_API_KEY_FILE", str(tmp_path / "key"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(DatasetOpsError, match=rf"WANDB_API_KEY_FILE: .*key.*{words}"):
        secret("WANDB_API_KEY")
