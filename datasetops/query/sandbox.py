"""DuckDB in memory with nothing to reach but the tables that it is given, for so long and with so much memory."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from datasetops.manifest.version import QueryError
from datasetops.query.limits import MIB, Limits
from datasetops.query.statement import REMEDY, columns_of
from datasetops.query.tables import LIVE

if TYPE_CHECKING:
    import duckdb


def connect(limits: Limits) -> duckdb.DuckDBPyConnection:
    """An empty database without files, network, extensions, Python variables, or settings that can be changed."""
    import duckdb

    connection = duckdb.connect(
        ":memory:",
        config={
            "allow_community_extensions": "false",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "enable_external_access": "false",
            "memory_limit": f"{max(1, limits.memory // MIB)}MiB",
            "python_enable_replacements": "false",
            "temp_directory": "",  # nothing is written where memory is short
            "threads": str(limits.threads),
        },
    )
    connection.execute("SET TimeZone = 'UTC'; SET lock_configuration = true")
    return connection


def run(
    connection: duckdb.DuckDBPyConnection, tables: Mapping[str, Sequence[pa.Table]], sql: str, limits: Limits
) -> tuple[pa.Table, bool]:
    """(answer, whether it was cut after `limits.rows`) of a statement that was checked; tables are in parts, as
    `read_table` gives them. Raises QueryError."""
    import duckdb

    for name, parts in tables.items():
        _register(connection, name, parts)
    timer = threading.Timer(limits.seconds, connection.interrupt)
    timer.daemon = True
    timer.start()
    try:
        answer = connection.sql(sql).limit(limits.rows + 1).to_arrow_table()
    except duckdb.InterruptException:
        raise limits.too_slow() from None
    except (duckdb.OutOfMemoryException, MemoryError):
        raise limits.too_big() from None
    except duckdb.BinderException as error:
        raise QueryError(f"SQL: {str(error).partition(chr(10))[0]}", remedy=columns_of(tables)) from None
    except duckdb.Error as error:
        raise QueryError(f"SQL: {error}", remedy=REMEDY) from None
    finally:
        timer.cancel()
    return answer.slice(0, limits.rows), len(answer) > limits.rows


def _register(connection: duckdb.DuckDBPyConnection, name: str, parts: Sequence[pa.Table]) -> None:
    selects = []
    for number, rows in enumerate(parts):
        connection.register(part := f"{name} part {number}", rows)
        columns = ", ".join(f'"{column}"' for column in rows.column_names if column != LIVE)
        live = f" WHERE {LIVE}" if LIVE in rows.column_names else ""
        selects.append(f'SELECT {columns} FROM "{part}"{live}')  # noqa: S608 (names are of the tables' schemas)
    connection.execute(f'CREATE VIEW "{name}" AS {" UNION ALL ".join(selects)}')
