"""The command query: SQL over what the repository holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from datasetops.cli.session import Session, command, counted, table

if TYPE_CHECKING:
    from datasetops.query import Answer

_SHOWN: Final = 100  # rows on a terminal
_MIB: Final = 1 << 20


def register(app: typer.Typer) -> None:
    command(app)(query)


def query(
    session: Session,
    words: Annotated[
        list[str], typer.Argument(metavar="[VERSION] SQL", help="The newest version of main unless told; one SELECT.")
    ],
    out: Annotated[Path | None, typer.Option(help="Write the answer to a .csv, .json or .parquet file.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Rows at most; 100,000 unless told.")] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Stop it when it takes longer.")] = 30.0,
    memory: Annotated[int, typer.Option(min=64, help="MiB that it may take.")] = 2048,
) -> None:
    """Ask with SQL, read-only: samples, annotations, versions, events, findings, decisions, models.

    Samples, annotations and findings are those of the version. DESCRIBE samples tells the columns of a table.
    """
    from datasetops.cli.files import FORMATS, write_table
    from datasetops.query import Limits
    from datasetops.query import query as ask
    from datasetops.query.ask import plain_rows

    if len(words) > 2:
        raise ValueError('expected [VERSION] SQL; put the SQL in quotes: dsops query v3 "select count(*) from samples"')
    if out and out.suffix.removeprefix(".") not in FORMATS:
        raise ValueError(f"--out: expected a file that ends in .csv, .json or .parquet; got {out}")
    limits = Limits(rows=limit or Limits.rows, seconds=seconds, memory=memory * _MIB)
    answer = ask(session.directory, words[0] if len(words) == 2 else "main", words[-1], limits)

    import pyarrow as pa  # only now: a process of its own has worked meanwhile

    from datasetops.manifest.version import QueryError

    if answer.cut and limit is None and (out or session.as_json):
        raise QueryError(
            f"The answer has more than {counted(limits.rows, 'row')}; nothing is written, so that none goes missing unseen.",
            remedy="Say how many with --limit N, or ask for less.",
        )
    if out:
        try:
            write_table(answer.rows, out)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OverflowError) as error:
            raise QueryError(f"{out}: {error}", remedy="Cast that column to text: column::VARCHAR.") from None
        session.say(f"Wrote {counted(len(answer.rows), 'row')} to {out}")
        lines = []
    else:
        lines = _lines(answer)
    if answer.cut and limit is not None:
        session.say(f"There are more rows than --limit {limit:,}.")
    session.emit(plain_rows(answer.rows) if session.as_json else None, lines)


def _lines(answer: Answer) -> list[str]:
    from datasetops.query.ask import plain_rows

    shown = plain_rows(answer.rows.slice(0, _SHOWN))
    lines = table((row.values() for row in shown), header=answer.rows.column_names)
    if answer.cut or len(answer.rows) > len(shown):
        known = f"the first {len(shown):,} of " + ("more than " if answer.cut else "")
        lines.append(f"… {known}{counted(len(answer.rows), 'row')}; --out FILE writes them all")
    if answer.read:
        read = ", ".join(f"{name} ({counted(count, 'row')})" for name, count in answer.read.items())
        lines += ["", f"Worked out from {read}, as of {answer.version}."]
    return lines
