"""Whatever is asked in SQL, the answer is a table or an error of the query; nothing but the tables is read."""

from __future__ import annotations

import os
from contextlib import suppress

import duckdb
import hypothesis
import pytest
from hypothesis import strategies as st
from mutations import mutated
from test_parsers import watched

from datasetops.manifest import Change, QueryError, Repository
from datasetops.query.statement import read_statement

EXAMPLES = int(os.environ.get("DSOPS_FUZZ_EXAMPLES", "50"))
CONDITIONS = (
    b"label = 'cat' AND split IN ('train', 'val')",
    b"metadata->>'light' = 'day' OR width * height > 100.5",
    b"sample_id LIKE 'a%' AND captured_at < TIMESTAMP '2024-05-01' AND NOT (\"group\" IS NULL)",
    b"length(uri) BETWEEN 1 AND 20 -- words",
)
STATEMENTS = (
    b"SELECT label, count(*) AS n FROM annotations JOIN samples USING (sample_id) GROUP BY label ORDER BY n DESC LIMIT 5",
    b"WITH a AS (SELECT * FROM samples WHERE width > 3) SELECT uri, metadata->>'light' FROM a, annotations",
    b"SELECT kind, unnest([1, 2]) FROM annotations WHERE x1 IS NULL UNION ALL VALUES ('a', 1)",
    b"DESCRIBE samples",
)
settings = hypothesis.settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    phases=[hypothesis.Phase.generate],
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)


@pytest.fixture
def filled(repository: Repository) -> Repository:
    rows = [{"sample_id": n, "uri": f"{n}.png", "width": 8, "height": 8, "metadata": {"light": "day"}} for n in "abc"]
    labels = [
        {"annotation_id": f"{n}/label", "sample_id": n, "kind": "classification", "label": "cat", "source": "human"}
        for n in "abc"
    ]
    repository.commit(Change(samples=rows, annotations=labels), message="three")
    return repository


@settings
@hypothesis.given(st.integers(0, 2**48), st.sampled_from(CONDITIONS))
def test_any_condition(filled: Repository, number: int, seed: bytes) -> None:
    condition = mutated(seed, "text", number).decode("utf-8", "replace")
    with watched(), suppress(QueryError):
        assert set(filled.version().where(condition)) <= set("abc")


@settings
@hypothesis.given(st.integers(0, 2**48), st.sampled_from(STATEMENTS))
def test_any_statement(filled: Repository, number: int, seed: bytes) -> None:
    statement = mutated(seed, "text", number).decode("utf-8", "replace")
    with duckdb.connect(":memory:") as connection:
        for ask in (filled.version().sql, lambda text: read_statement(connection, text)):
            with watched(), suppress(QueryError):
                ask(statement)
