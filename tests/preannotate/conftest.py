from __future__ import annotations

import sys
from pathlib import Path

import pytest

from datasetops.manifest import Repository

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "models"))  # small checkpoints


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "set"


@pytest.fixture
def coloured(root: Path) -> Repository:
    from colours import fill

    return fill(root)
