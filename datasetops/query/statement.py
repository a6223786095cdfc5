"""What a SQL statement reads, told from DuckDB's own syntax tree before anything runs."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import orjson

from datasetops.errors import did_you_mean
from datasetops.manifest.version import QueryError
from datasetops.query.tables import SCHEMAS

if TYPE_CHECKING:
    import duckdb

REMEDY: Final = f"The tables are {', '.join(SCHEMAS)}; `DESCRIBE samples` tells the columns of one."
_LONGEST: Final = 100_000  # characters: far above what people write, far below what a parser chokes on
# Functions that make a table from nothing but their arguments.
_TABLE_FUNCTIONS: Final = frozenset({"generate_series", "json_each", "json_tree", "range", "unnest"})
# Functions that tell or change something of the process rather than of the tables.
_REFUSED: Final = frozenset({"current_setting", "getenv", "getvariable", "write_log"})


@dataclass(frozen=True)
class Statement:
    """`tables` that are named; `columns` that may be meant, None where it may be any."""

    tables: tuple[str, ...]
    columns: frozenset[str] | None


def read_statement(connection: duckdb.DuckDBPyConnection, sql: str) -> Statement:
    """Refuse all but one SELECT, WITH, VALUES or DESCRIBE over the tables. Raises QueryError."""
    import duckdb

    if len(sql) > _LONGEST:
        raise QueryError(
            f"The SQL has {len(sql):,} characters; at most {_LONGEST:,} are read.", remedy="Ask something shorter."
        )
    try:
        statements = connection.extract_statements(sql)
    except duckdb.Error as error:
        raise QueryError(f"SQL: {error}", remedy=REMEDY) from None
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        kinds = " and ".join(statement.type.name for statement in statements) or "nothing"
        raise QueryError(
            f"Only one SELECT, WITH, VALUES or DESCRIBE statement can be run; this is {kinds}.",
            remedy="A query only reads: a dataset is changed by commits. See dsops --help.",
        )
    rows = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [sql]).fetchall()
    try:
        tree = orjson.loads(rows[0][0])
    except orjson.JSONDecodeError:
        raise QueryError("The SQL is nested too deeply.", remedy="Ask something simpler.") from None
    if tree.get("error", True):
        raise QueryError(f"This SQL cannot be checked: {tree.get('error_message')}", remedy=REMEDY)
    return _judged(list(_nodes(tree)))


def _judged(nodes: list[dict[str, Any]]) -> Statement:
    own = {str(key).lower() for node in nodes if "cte_map" in node for key in _ctes(node["cte_map"])}
    whole = {str(node["alias"]).lower() for node in nodes if node.get("type") == "BASE_TABLE"} | SCHEMAS.keys()
    tables: dict[str, None] = {}
    columns: set[str] = set()
    every = False
    for node in nodes:
        kind = node.get("type")
        _refuse_other_sources(node)
        if kind == "BASE_TABLE":
            name = str(node["table_name"]).lower()
            if node.get("schema_name") or node.get("catalog_name") or (name not in SCHEMAS and name not in own):
                remedy = did_you_mean(name, SCHEMAS, noun="tables")
                raise QueryError(f"There is no table {_shown(node)!r}.", remedy=remedy)
            if name in SCHEMAS:
                tables[name] = None
        elif kind == "COLUMN_REF":
            names = [str(name).lower() for name in node["column_names"]]
            columns.update(names)
            every = every or (len(names) == 1 and names[0] in whole)  # whole rows: SELECT s FROM samples s
        every = every or kind in ("STAR", "SHOW_REF") or node.get("ref_type") == "NATURAL"
        columns.update(str(name).lower() for name in node.get("using_columns") or ())
    return Statement(tuple(tables), None if every else frozenset(columns))


def _refuse_other_sources(node: dict[str, Any]) -> None:
    kind = node.get("type")
    if kind == "SHOW_REF" and not node.get("query"):
        raise QueryError("SHOW is not available.", remedy=REMEDY)
    function = node["function"] if kind == "TABLE_FUNCTION" else node
    name = str(function.get("function_name", "")).lower()
    if name in _REFUSED or (kind == "TABLE_FUNCTION" and name not in _TABLE_FUNCTIONS):
        raise QueryError(f"{name}(…) is not available: a query reads nothing but the tables.", remedy=REMEDY)


def columns_of(tables: Collection[str]) -> str:
    """What to tell somebody who named a column that is not there."""
    told = "; ".join(f"those of {name} are {', '.join(SCHEMAS[name].names)}" for name in tables)
    return f"Columns: {told}." if told else REMEDY


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield node
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


def _ctes(cte_map: Any) -> list[str]:
    return [item["key"] for item in cte_map["map"]] if isinstance(cte_map, dict) else []


def _shown(node: dict[str, Any]) -> str:
    return ".".join(part for part in (node.get("catalog_name"), node.get("schema_name"), node["table_name"]) if part)
