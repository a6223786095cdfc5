"""A repository that went through the verbs."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from datasetops.manifest import Repository
from datasetops.schema import LabelSchema

sys.path.insert(0, str(Path(__file__).parent))  # helpers of these tests: provenance_kit


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, schema: LabelSchema) -> Path:
    from provenance_kit import make_pets

    folder = tmp_path_factory.mktemp("provenance")
    make_pets(folder, schema)
    return folder / "pets"


@pytest.fixture
def pets(made: Path, tmp_path: Path) -> Repository:
    """A copy, which a test may change."""
    shutil.copytree(made, tmp_path / "pets")
    return Repository.open(tmp_path / "pets")
