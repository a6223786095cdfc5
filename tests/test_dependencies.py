"""What the package imports is what it asks for: a core requirement, or a package that an extra names."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]
BROUGHT = {  # by a requirement, of whose own interface they are a part
    "botocore": "boto3",
    "httpx": "label-studio-sdk",
    "huggingface-hub": "transformers",
    "markupsafe": "jinja2",
    "opentelemetry-api": "opentelemetry-sdk",
    "pydantic-core": "pydantic",
    "pymongo": "fiftyone",
    "starlette": "fastapi",
}


def normal(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def imports() -> Iterator[tuple[str, str, bool]]:
    """(file and line, package, whether it is imported with the module) of all imports of other people's packages."""
    for top in ("datasetops", "audits", "active_learning", "cli"):
        for file in sorted((ROOT / top).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and not node.level:
                    names = [str(node.module)]
                for name in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"datasetops"}:
                    yield f"{file.relative_to(ROOT)}:{node.lineno}", name, not node.col_offset


def test_every_import_is_asked_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    core = {normal(one) for one in project["dependencies"]}
    own = {
        name: extra for name, extra in project["optional-dependencies"].items() if name not in ("test", "lint", "bench")
    }
    extras = {normal(one) for extra in own.values() for one in extra}
    distributions = packages_distributions()
    found = list(imports())
    assert len(found) > 1000
    lacking = []
    for where, package, at_once in found:
        known = {normal(name) for name in distributions.get(package, [package])}
        known |= {BROUGHT[name] for name in known & BROUGHT.keys()}
        if not known & (core if at_once else core | extras):
            lacking.append(f"{where} imports {package}")
    assert not lacking
