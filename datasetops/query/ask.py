"""Ask a version with SQL: in a process of its own, which is stopped when it takes too long or too much memory."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from datasetops.query.limits import Limits

if TYPE_CHECKING:
    import pyarrow as pa

ABOUT: Final = b"dsops"  # metadata of the answer's schema
_GRACE: Final = 5.0  # seconds for starting the process and for what cannot be interrupted
REFUSED: Final = 3  # exit status of a process that says in JSON what is wrong


@dataclass(frozen=True)
class Answer:
    """`rows` of the answer, `cut` where there were more; `read` the tables that it was worked out from, with their rows."""

    version: str
    rows: pa.Table
    read: Mapping[str, int]
    cut: bool


def query(where: str | os.PathLike[str], version: str, sql: str, limits: Limits | None = None) -> Answer:
    """The answer to one SELECT, WITH, VALUES or DESCRIBE over `datasetops.query.tables.SCHEMAS`.

    `where` is the repository's folder or address, `version` a version or branch of it: samples, annotations and findings
    are those of that version. Raises QueryError for a repository, version or statement that is none, and for what takes
    longer or more memory than the limits.
    """
    limits = limits or Limits()
    asked = {"where": os.fspath(where), "version": version, "sql": sql, "limits": asdict(limits)}
    command = [sys.executable, "-P", "-m", "datasetops.query.child"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            import pyarrow as pa  # while the process works

            from datasetops.manifest.version import QueryError

            out, errors = process.communicate(json.dumps(asked).encode(), timeout=limits.seconds + _GRACE)
        except subprocess.TimeoutExpired:
            raise limits.too_slow() from None
        finally:
            process.kill()
    if process.returncode == REFUSED:
        told = json.loads(out)
        raise QueryError(told["error"], remedy=told["remedy"])
    if process.returncode:
        if process.returncode < 0 or b"bad_alloc" in errors or b"MemoryError" in errors:
            raise limits.too_big()
        raise QueryError(
            f"The query failed: {errors.decode(errors='replace').strip().rpartition(chr(10))[2]}",
            remedy="Ask in another way; if that is no help, report it.",
        )
    rows = pa.ipc.open_stream(out).read_all()
    about = json.loads(rows.schema.metadata[ABOUT])
    return Answer(about["version"], rows.replace_schema_metadata(), about["read"], about["cut"])


def plain_rows(rows: pa.Table) -> list[dict[str, Any]]:
    """Rows as Python and JSON have them; NaN and infinities as None. Raises QueryError for values that neither has."""
    import pyarrow as pa

    from datasetops.manifest.version import QueryError

    try:
        return [_finite(row) for row in rows.to_pylist()]
    except (ValueError, OverflowError, pa.ArrowException) as error:
        raise QueryError(
            f"A value of the answer cannot be shown: {error}.", remedy="Cast it to text: column::VARCHAR."
        ) from None


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
