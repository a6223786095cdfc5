from __future__ import annotations

import pytest

from datasetops.models import open_embedder
from datasetops.models.efficientnet_lite import EfficientNetLite0


@pytest.fixture(scope="session")
def lite(tmp_path_factory: pytest.TempPathFactory) -> EfficientNetLite0:
    embedder = open_embedder("builtin:efficientnet-lite0", cache=tmp_path_factory.mktemp("models"))
    assert isinstance(embedder, EfficientNetLite0)
    return embedder
