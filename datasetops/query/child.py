"""The process that answers one query: JSON on stdin, an Arrow stream on stdout; exit status 3 with JSON for an error."""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from datasetops.errors import DatasetOpsError
from datasetops.manifest import Repository
from datasetops.query.ask import ABOUT, REFUSED
from datasetops.query.limits import Limits
from datasetops.query.sandbox import connect, run
from datasetops.query.statement import read_statement
from datasetops.query.tables import live_count, read_table

_SPARE: Final = 1.5  # of the limit: DuckDB keeps count of most of its memory, the system of all


def answer(asked: dict[str, Any]) -> pa.Table:
    limits = Limits(**asked["limits"])
    connection = connect(limits)
    statement = read_statement(connection, asked["sql"])
    repository = Repository.open(asked["where"])
    version = repository.version(asked["version"])
    tables = {name: read_table(repository, version, name, statement.columns) for name in statement.tables}
    _bound_memory(int(limits.memory * _SPARE))
    rows, cut = run(connection, tables, asked["sql"], limits)
    read = {name: live_count(parts) for name, parts in tables.items()}
    about = {"version": version.name, "read": read, "cut": cut}
    return rows.replace_schema_metadata({ABOUT: json.dumps(about)})


def _bound_memory(more: int) -> None:
    """Let this process take so many bytes more than it has now."""
    used = next(
        int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData")
    )
    most = resource.getrlimit(resource.RLIMIT_DATA)[1]
    wanted = used * 1024 + more
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most))


def main() -> int:
    asked = json.load(sys.stdin)
    told: DatasetOpsError
    try:
        rows = answer(asked)
    except MemoryError:
        told = Limits(**asked["limits"]).too_big()
    except DatasetOpsError as error:
        told = error
    else:
        with pa.ipc.new_stream(sys.stdout.buffer, rows.schema) as stream:
            stream.write_table(rows)
        return 0
    json.dump({"error": told.message, "remedy": told.remedy}, sys.stdout)
    return REFUSED


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # nothing is left to do, and a thread of DuckDB's may still be busy
