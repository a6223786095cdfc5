from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from datasetops.errors import ModelError
from datasetops.models import open_embedder


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        ("efficientnet-lite0", "builtin:"),
        ("builtn:efficientnet-lite0", "Did you mean 'builtin'"),
        ("builtin:efficientnet-lite", "Did you mean 'efficientnet-lite2'"),
        ("builtin:", "builtin:"),
        ("hf:", "hf:NAME@REVISION"),
        ("ftp:x", "local"),
        ("", "builtin:"),
        ("local:/nowhere", "config.json"),
    ],
)
def test_an_unknown_reference_says_what_is_valid(reference: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        open_embedder(reference, cache=tmp_path)
    assert told in caught.value.remedy


def test_importing_the_package_loads_no_model_library() -> None:
    heavy = "{'torch', 'transformers', 'onnxruntime', 'sklearn', 'scipy'}"
    code = f"import sys, datasetops.models; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.strip() == "[]"
