from __future__ import annotations

import sys
from pathlib import Path

import pytest

from datasetops.models import open_embedder
from datasetops.models.efficientnet_lite import EfficientNetLite

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def lite(tmp_path_factory: pytest.TempPathFactory) -> EfficientNetLite:
    embedder = open_embedder("builtin:efficientnet-lite0", cache=tmp_path_factory.mktemp("models"))
    assert isinstance(embedder, EfficientNetLite)
    return embedder
