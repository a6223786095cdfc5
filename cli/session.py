"""What every command shares: the repository, output as text or JSON, progress, and errors that end a command."""

from __future__ import annotations

import errno
import inspect
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from datasetops import telemetry
from datasetops.cli.stages import ExampleCommand, Group
from datasetops.errors import ConflictError, DatasetOpsError
from datasetops.secret_files import give_to_libraries

if TYPE_CHECKING:
    from datasetops.manifest import Repository

T = TypeVar("T")
CHECK_FAILED = 3
_TELL_EVERY: Final = 30.0  # seconds between two lines of progress where stderr is no terminal

_OPTIONS: dict[str, Any] = {
    "directory": Annotated[
        str | None,
        typer.Option(
            "-C",
            "--directory",
            metavar="DIR",
            help="The repository: a folder in it, or an address such as s3://bucket/prefix.",
        ),
    ],
    "as_json": Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else there.")],
    "quiet": Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no messages.")],
    "debug": Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")],
}


class Session:
    """One run of one command."""

    def __init__(
        self, directory: str | None, as_json: bool, quiet: bool, debug: bool, *, may_meet_erasing: bool = False
    ) -> None:
        self.directory = directory or "."
        self.as_json = as_json
        self.quiet = quiet
        self.debug = debug
        self.may_meet_erasing = may_meet_erasing

    @cached_property
    def repository(self) -> Repository:
        from datasetops.manifest import Repository
        from datasetops.manifest.erasing import REQUEST

        opened = Repository.open(self.directory)
        if not self.may_meet_erasing and opened.store.exists(REQUEST):
            raise ConflictError("An erasure is going on, or was interrupted.", remedy="Finish it: dsops erase --resume")
        return opened

    def tell_of_runs(self) -> None:
        """Tell whom the setting `openlineage` names what the command did; that nobody listens stops nothing."""
        target = self.repository.settings.openlineage if "repository" in self.__dict__ else None
        if target is None:
            return
        from datasetops.evidence.openlineage import tell_new

        try:
            tell_new(self.repository, target)
        except (DatasetOpsError, ValueError, OSError) as error:
            self.say(f"The runs were not told to {target}: {error} The next command tries again.")

    def emit(self, data: Any, text: str | Iterable[str] = ()) -> None:
        """The command's result: `data` as JSON, or `text` for people."""
        if self.as_json:
            typer.echo(json.dumps(data, indent=2, ensure_ascii=False, default=str))
            return
        for line in [text] if isinstance(text, str) else text:
            typer.echo(line)

    def say(self, message: str) -> None:
        """A message on stderr."""
        if not self.quiet:
            typer.echo(message, err=True)

    def progress(self, items: Iterable[T], total: int, label: str) -> Iterator[T]:
        """The same items, with a progress bar on stderr while they are worked on; a line now and then where that is a file."""
        if self.quiet or not total:
            yield from items
            return
        if not sys.stderr.isatty():
            self.say(f"{label}: {total:,}")
            started = told = time.monotonic()
            for done, item in enumerate(items, start=1):
                yield item
                now = time.monotonic()
                if now - told >= _TELL_EVERY and done < total:
                    told = now
                    left = (now - started) / done * (total - done)
                    self.say(f"{label}: {done:,} of {total:,}, about {left / 60:.0f} min left")
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
            task = bars.add_task(label, total=total)
            for item in items:
                yield item
                bars.advance(task)


def command(app: typer.Typer, name: str | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function `f(session, …)` as a command with the options that every command takes.

    A DatasetOpsError ends it with its exit status and one message; a ValueError is wrong usage (status 2).
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        shown = name or function.__name__.replace("_", "-")
        signature = inspect.signature(function, eval_str=True)
        own = [parameter for parameter in signature.parameters.values() if parameter.name != "session"]
        shared = [
            inspect.Parameter(
                option,
                inspect.Parameter.KEYWORD_ONLY,
                default=None if option == "directory" else False,
                annotation=kind,
            )
            for option, kind in _OPTIONS.items()
        ]

        def run(**values: Any) -> None:
            given = _with_globals({option: values.pop(option) for option in _OPTIONS})
            session = Session(**given, may_meet_erasing=function.__name__ == "erase")
            try:
                give_to_libraries()
                if problem := telemetry.missing():
                    session.say(problem)
                with telemetry.span(" ".join(dict.fromkeys(["dsops", str(app.info.name), shown]))):
                    function(session, **values)
            except BrokenPipeError:  # the reader of a pipe has seen enough
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            except (Exception, KeyboardInterrupt) as error:
                if isinstance(error, typer.Exit):
                    raise
                if session.debug:
                    raise
                raise typer.Exit(_report(session, error)) from None
            finally:
                session.tell_of_runs()
                telemetry.flush()

        run.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *shared]}
        run.__doc__ = function.__doc__
        app.command(shown, cls=ExampleCommand)(run)
        return function

    return register


def group(app: typer.Typer, name: str, help: str) -> typer.Typer:
    """Commands under a common name, such as `dsops label …`."""
    made = typer.Typer(name=name, cls=Group, help=help, no_args_is_help=True)
    app.add_typer(made)
    return made


_globals: dict[str, Any] = {}


def set_globals(**values: Any) -> None:
    """Options given before the command's name (`dsops -C DIR log`); those after it go first."""
    _globals.clear()
    _globals.update(values)


def _with_globals(values: dict[str, Any]) -> dict[str, Any]:
    return {option: value or _globals.get(option) or value for option, value in values.items()}


def _report(session: Session, error: BaseException) -> int:
    message, remedy, status = str(error) or type(error).__name__, "", 1
    if isinstance(error, DatasetOpsError):
        message, remedy, status = error.message, error.remedy, error.exit_code
    elif isinstance(error, KeyboardInterrupt):
        message, remedy, status = "Interrupted.", "Nothing is lost: run the same command again to go on.", 130
    elif isinstance(error, MemoryError):
        message, remedy = "Out of memory.", "Take a part of the data (--where, --split), or a machine with more memory."
    elif isinstance(error, ValueError):
        status = 2
    elif isinstance(error, OSError):
        message, remedy = _of_file(error)
    else:
        message = f"Something unexpected happened: {type(error).__name__}: {message}"
        remedy = "This is a fault in dsops. Run the command again with --debug and report what it prints."
    if session.as_json:
        typer.echo(json.dumps({"error": message, "remedy": remedy, "status": status}, ensure_ascii=False))
    typer.echo(f"error: {message}", err=True)
    if remedy:
        typer.echo(remedy, err=True)
    return status


def _of_file(error: OSError) -> tuple[str, str]:
    """What the system refused to do with a file, and what to do next."""
    if error.filename is None:
        text = re.sub(r"\[errno \d+\] ", "", str(error), flags=re.IGNORECASE) or type(error).__name__
        return text if text.endswith(".") else f"{text}.", "Check the file's name, its folder and the rights to it."
    path = Path(os.fsdecode(error.filename))
    folder = path.parent
    if isinstance(error, FileExistsError):
        return f"{path} is there already, and is no folder.", "Name another place, or move it away."
    if isinstance(error, FileNotFoundError) and not folder.is_dir():
        return f"{path}: there is no folder {folder}.", "Make the folder, or name another place."
    if isinstance(error, FileNotFoundError):
        return f"{path} does not exist.", "Check its spelling."
    if isinstance(error, IsADirectoryError):
        return f"{path} is a folder, and a file is wanted.", "Name a file in it."
    if isinstance(error, NotADirectoryError):
        return f"{path}: a part of this path is a file, and no folder.", "Name another place."
    if isinstance(error, PermissionError):
        return f"{path} may not be read or written.", "Check the rights to it and to its folder, or name another place."
    remedies = {errno.ENOSPC: "Free space there, or name another place.", errno.EDQUOT: "Free space there."}
    reason = (error.strerror or type(error).__name__).lower()
    return f"{path}: {reason}.", remedies.get(error.errno or 0, "Name another place, or check the disk.")


def counted(number: int, noun: str) -> str:
    """`1 sample`, `1,200 samples`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def table(rows: Iterable[Iterable[Any]], header: Iterable[str] = ()) -> list[str]:
    """Lines of aligned columns; numbers to the right."""
    head = [str(cell) for cell in header]
    body = [list(row) for row in rows]
    cells = [
        [f"{cell:,}" if isinstance(cell, int) else "" if cell is None else str(cell) for cell in row] for row in body
    ]
    widths = [max(len(row[i]) for row in ([head] if head else []) + cells) for i in range(len((cells or [head])[0]))]

    def line(row: list[str], source: list[Any]) -> str:
        out = [
            text.rjust(width) if isinstance(value, int | float) else text.ljust(width)
            for text, width, value in zip(row, widths, source, strict=True)
        ]
        return "  ".join(out).rstrip()

    lines = [line(head, body[0] if body else list(head))] if head else []
    return lines + [line(row, source) for row, source in zip(cells, body, strict=True)]
