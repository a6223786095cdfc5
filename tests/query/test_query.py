from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from datasetops.ledger import Event
from datasetops.manifest import Change, Repository
from datasetops.manifest.version import QueryError
from datasetops.query import Limits, query
from datasetops.query.sandbox import connect, run
from datasetops.query.statement import read_statement
from datasetops.query.tables import LIVE, SCHEMAS, live_count, read_table
from datasetops.schema import LabelSchema

DOCUMENT = Path(__file__).parents[2] / "docs" / "compliance.md"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, schema: LabelSchema) -> Repository:
    repository = Repository.init(tmp_path_factory.mktemp("query") / "repository", schema)
    samples = [
        {
            "sample_id": f"s{i:02}",
            "uri": f"{i:02}.jpg",
            "license": "CC0" if i % 2 else None,
            "metadata": {"light": "day"},
        }
        for i in range(42)
    ]
    annotations = [
        {
            "annotation_id": f"a{i:02}",
            "sample_id": f"s{i:02}",
            "kind": "classification",
            "label": "cat",
            "source": "human",
        }
        for i in range(42)
    ]
    repository.commit(Change(samples=samples, annotations=annotations), message="first", event=Event("ingest", "ann"))
    change = Change(samples=[samples[2] | {"license": "CC0"}], remove_samples=["s00"])
    repository.commit(change, message="second", event=Event("remove", "bob"))
    return repository


def ask(repository: Repository, sql: str, version: str = "main", limits: Limits | None = None) -> list[dict[str, Any]]:
    """As `query` does, in this process."""
    limits = limits or Limits(seconds=5, memory=256 << 20)
    with connect(limits) as connection:
        found = read_statement(connection, sql)
        at = repository.version(version)
        tables = {name: read_table(repository, at, name, found.columns) for name in found.tables}
        rows: list[dict[str, Any]] = run(connection, tables, sql, limits)[0].to_pylist()
    return rows


def test_every_table_answers_with_its_documented_columns(filled: Repository) -> None:
    for name, schema in SCHEMAS.items():
        (*_, table) = read_table(filled, filled.version(), name)
        assert table.schema.equals(schema), name
        described = [row["column_name"] for row in ask(filled, f"DESCRIBE {name}")]
        assert described == schema.names


def test_samples_are_those_of_the_version(filled: Repository) -> None:
    assert ask(filled, "SELECT count(*) AS n FROM samples") == [{"n": 41}]
    assert ask(filled, "SELECT count(*) AS n FROM samples", "v1") == [{"n": 42}]
    joined = "SELECT license, count(*) AS n FROM samples JOIN annotations USING (sample_id) GROUP BY ALL ORDER BY n"
    assert ask(filled, joined) == [{"license": None, "n": 19}, {"license": "CC0", "n": 22}]
    assert ask(filled, "SELECT DISTINCT metadata->>'light' AS light FROM samples") == [{"light": "day"}]
    assert ask(
        filled, "SELECT s.license IS NULL AS none FROM samples s NATURAL JOIN annotations WHERE sample_id='s04'"
    ) == [{"none": True}]
    assert ask(filled, "SELECT s FROM samples s ORDER BY 1 LIMIT 1")[0]["s"]["uri"] == "01.jpg"
    assert ask(filled, "FROM samples SELECT COLUMNS('^li') ORDER BY 1 LIMIT 1") == [{"license": "CC0"}]


def test_events_and_versions_are_those_of_the_repository(filled: Repository) -> None:
    assert ask(filled, "SELECT version, author, samples, status FROM versions ORDER BY number") == [
        {"version": "v1", "author": "ann", "samples": 42, "status": "draft"},
        {"version": "v2", "author": "bob", "samples": 41, "status": "draft"},
    ]
    sql = "SELECT kind, actor, v.version FROM events e LEFT JOIN versions v USING (event_id) ORDER BY e.number"
    assert [tuple(row.values()) for row in ask(filled, sql)][1:] == [("ingest", "ann", "v1"), ("remove", "bob", "v2")]
    assert ask(filled, "SELECT count(*) AS n FROM versions WHERE time > now()") == [{"n": 0}]


def test_a_table_without_rows_is_empty(repository: Repository) -> None:
    repository.commit(Change(samples=[{"sample_id": "s", "uri": "s.jpg"}]), message="no labels")
    for sql in ("SELECT * FROM annotations", "SELECT label FROM annotations", "SELECT * FROM findings"):
        assert ask(repository, sql) == []


def test_only_named_columns_are_read(filled: Repository) -> None:
    def columns(sql: str) -> frozenset[str] | None:
        with connect(Limits()) as connection:
            return read_statement(connection, sql).columns

    assert columns("SELECT s.license FROM samples s WHERE consent IS NULL") == {"s", "license", "consent"}
    assert columns("SELECT count(*) FROM samples JOIN annotations USING (sample_id)") == {"sample_id"}
    grouped = "SELECT license AS l, count(*) AS n FROM samples GROUP BY l ORDER BY n"
    assert columns(grouped) == {"license", "l", "n"}
    for sql in (
        "SELECT * FROM samples",
        "SELECT s FROM samples s",
        "SUMMARIZE samples",
        "SELECT 1 FROM a NATURAL JOIN b",
    ):
        sql = sql.replace("FROM a", "FROM samples").replace("JOIN b", "JOIN annotations")
        assert columns(sql) is None, sql
    base, changes = read_table(filled, filled.version(), "samples", frozenset({"license"}))
    assert base.column_names == ["sample_id", "license", LIVE]
    assert changes.column_names == ["sample_id", "license"]
    assert live_count([base, changes]) == 41


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("", "this is nothing"),
        ("SELEC 1", "syntax error"),
        ("SELECT nope FROM samples", '"nope" not found'),
        ("SELECT a FROM samples", '"a" not found'),
        ("SELECT * FROM sample", "no table 'sample'"),
        ("SELECT 1; SELECT 2", "SELECT and SELECT"),
        ("INSERT INTO samples VALUES (1)", "INSERT"),
        ("WITH t AS (DELETE FROM samples RETURNING 1) SELECT * FROM t", ""),
        ("UPDATE samples SET uri = ''", "UPDATE"),
        ("DROP TABLE samples", "DROP"),
        ("CREATE TABLE t AS SELECT 1", "CREATE"),
        ("COPY samples TO 'x.csv'", "COPY"),
        ("COPY (SELECT 1) TO 'x.csv'", "COPY"),
        ("EXPORT DATABASE 'x'", "EXPORT"),
        ("ATTACH 'x.db'", "ATTACH"),
        ("INSTALL httpfs", "LOAD"),
        ("LOAD httpfs", "LOAD"),
        ("SET threads = 9", "SET"),
        ("PRAGMA version", "PRAGMA"),
        ("PRAGMA database_list", "PRAGMA"),
        ("CALL duckdb_settings()", "CALL"),
        ("EXPLAIN ANALYZE SELECT 1", "EXPLAIN"),
        ("PREPARE p AS SELECT 1", "PREPARE"),
        ("SHOW TABLES", "SHOW is not"),
        ("SELECT * FROM read_csv('/etc/passwd')", "read_csv(…) is not available"),
        ("SELECT * FROM read_text('/etc/passwd')", "read_text(…) is not available"),
        ("SELECT * FROM parquet_scan('/etc/passwd')", "parquet_scan(…) is not available"),
        ("SELECT (SELECT content FROM read_text('/etc/passwd'))", "read_text(…) is not available"),
        ("SELECT * FROM glob('/*')", "glob(…) is not available"),
        ("SELECT * FROM '/etc/passwd'", "no table '/etc/passwd'"),
        ("SELECT * FROM 'https://example.org/x.csv'", "no table"),
        ("SELECT * FROM query('SELECT 1')", "query(…) is not available"),
        ("SELECT * FROM query_table('samples')", "query_table(…) is not available"),
        ("SELECT * FROM json_execute_serialized_sql('{}')", "is not available"),
        ("SELECT * FROM arrow_scan(1::POINTER, 2::POINTER, 3::POINTER)", "arrow_scan(…) is not available"),
        ("SELECT * FROM duckdb_settings()", "duckdb_settings(…) is not available"),
        ("SELECT * FROM duckdb_secrets", "no table 'duckdb_secrets'"),
        ("SELECT * FROM information_schema.tables", "no table 'information_schema.tables'"),
        ("SELECT * FROM memory.main.samples", "no table 'memory.main.samples'"),
        ("SELECT getenv('HOME')", "getenv(…) is not available"),
        ("SELECT current_setting('memory_limit')", "current_setting(…) is not available"),
        ("SELECT write_log('x')", "write_log(…) is not available"),
        ("SELECT 1 WHERE " + "(" * 2000 + "1" + ")" * 2000, "depth"),
        ("SELECT '" + "x" * 100_001 + "'", "characters"),
    ],
)
def test_nothing_else_can_be_done(filled: Repository, sql: str, words: str) -> None:
    before = filled.ledger.tail()
    with pytest.raises(QueryError) as caught:
        ask(filled, sql)
    assert words in caught.value.message
    assert caught.value.remedy
    assert filled.ledger.tail() == before


def test_the_database_refuses_even_what_was_not_checked(filled: Repository, tmp_path: Path) -> None:
    """The second wall: settings of the connection, without the check of the statement."""
    secret = pa.table({"k": [1]})
    assert len(secret) == 1
    (tmp_path / "x.csv").write_text("a\n1\n")
    for sql in (
        "SELECT * FROM secret",
        "SELECT * FROM filled",
        f"SELECT * FROM read_csv('{tmp_path / 'x.csv'}')",
        f"SELECT * FROM '{tmp_path / 'x.csv'}'",
        f"SELECT * FROM glob('{tmp_path}/*')",
    ):
        with connect(Limits()) as connection, pytest.raises(QueryError):
            run(connection, {}, sql, Limits())


@pytest.mark.parametrize(
    "sql",
    [
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT count(*) FROM t",
        "SELECT count(*) FROM range(1000000) a, range(1000000) b, range(1000000) c",
        "SELECT max(a.range + b.range) FROM range(100000000) a, range(100000000) b",
    ],
)
def test_what_does_not_end_is_stopped(filled: Repository, sql: str) -> None:
    with pytest.raises(QueryError, match=r"stopped after 0\.1 seconds"):
        ask(filled, sql, limits=Limits(seconds=0.1))


def test_memory_is_bounded(filled: Repository) -> None:
    with pytest.raises(QueryError, match="more than 64 MiB"):
        ask(filled, "SELECT list(range) FROM range(100000000)", limits=Limits(memory=64 << 20))


def test_an_answer_that_is_cut_says_so(filled: Repository) -> None:
    with connect(Limits()) as connection:
        rows, cut = run(connection, {}, "SELECT * FROM range(1000000000000)", Limits(rows=10))
        assert rows["range"].to_pylist() == list(range(10))
        assert cut
        assert run(connection, {}, "SELECT * FROM range(10)", Limits(rows=10))[1] is False
    with pytest.raises(ValueError, match="rows"):
        Limits(rows=0)


@pytest.mark.slow
def test_a_query_runs_in_a_process_of_its_own(filled: Repository) -> None:
    address = str(filled.root)
    answer = query(address, "v1", "SELECT sample_id FROM samples ORDER BY 1", Limits(rows=2))
    assert answer.rows.to_pylist() == [{"sample_id": "s00"}, {"sample_id": "s01"}]
    assert (answer.version, answer.read, answer.cut) == ("v1", {"samples": 42}, True)
    with pytest.raises(QueryError, match="no table"):
        query(address, "main", "SELECT * FROM nothing")
    with pytest.raises(QueryError, match="no version or branch 'v9'"):
        query(address, "v9", "SELECT 1")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sql", "words"),
    [  # one call of a function that cannot be interrupted, and one that takes memory that DuckDB does not count
        ("SELECT levenshtein(repeat('a', 1000000), repeat('b', 1000000))", "stopped after 1 seconds"),
        ("SELECT repeat('x', 4000000000)", "more than 128 MiB"),
    ],
)
def test_the_process_is_stopped_where_the_database_does_not_listen(filled: Repository, sql: str, words: str) -> None:
    address = str(filled.root)
    with pytest.raises(QueryError, match=words):
        query(address, "main", sql, Limits(seconds=1, memory=128 << 20))


@pytest.mark.slow
def test_the_command(filled: Repository, tmp_path: Path, cli: Callable[..., Any]) -> None:
    sql = "SELECT sample_id, license FROM samples ORDER BY 1"
    assert "Worked out from samples (42 rows), as of v1." in cli("query", "v1", sql).stdout
    assert cli("query", sql, "--out", str(tmp_path / "a.csv")).exit_code == 0
    assert (tmp_path / "a.csv").read_text().splitlines()[:2] == ["sample_id,license", "s01,CC0"]
    assert "expected [VERSION] SQL" in cli("query", "v1", "SELECT", "1").output
    refused = cli("query", "SELECT * FROM range(100001)", "--json")
    assert refused.exit_code == 1
    assert "more than 100,000 rows" in refused.output
    cut = cli("query", sql, "--limit", "2", "--json")
    assert "more rows than --limit 2" in cut.stderr
    assert cut.stdout.count("sample_id") == 2
    assert cli("query", "SELECT 'infinity'::TIMESTAMP").exit_code == 1


@pytest.fixture
def cli(filled: Repository) -> Callable[..., Any]:
    from typer.testing import CliRunner

    from datasetops.cli.main import app

    return lambda *words: CliRunner().invoke(app, [*words, "-C", str(filled.root)])


def test_every_table_and_column_is_documented() -> None:
    text = DOCUMENT.read_text(encoding="utf-8").partition("## Ask anything")[2].partition("\n## ")[0]
    rows = {
        row[0]: set(re.findall(r"`([a-z_0-9]+)`", row[1])) for row in re.findall(r"^\| `([a-z]+)` \|(.*)$", text, re.M)
    }
    assert rows == {name: set(schema.names) for name, schema in SCHEMAS.items()}
