"""The `dsops` command. Each command is one function of the library; heavy imports wait until it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from datasetops.cli import (
    audit,
    data,
    demo,
    doctor,
    erase,
    evaluate,
    evidence,
    export,
    fiftyone,
    gate,
    keys,
    label,
    loop,
    monitor,
    preannotate,
    promote,
    provenance,
    qa,
    query,
    review,
    rounds,
    schemas,
    scorecard,
    select,
    simulate,
    track,
    train,
    versions,
)
from datasetops.cli.session import set_globals
from datasetops.cli.stages import StagedGroup

app = typer.Typer(
    name="dsops",
    cls=StagedGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (
    data,
    export,
    versions,
    query,
    schemas,
    audit,
    review,
    fiftyone,
    select,
    rounds,
    simulate,
    loop,
    preannotate,
    label,
    qa,
    gate,
    train,
    evaluate,
    promote,
    track,
    provenance,
    monitor,
    scorecard,
    evidence,
    erase,
    keys,
    doctor,
    demo,
):
    module.register(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"dsops {version('dsops')}")
        raise typer.Exit


@app.callback()
def options(
    directory: Annotated[str | None, typer.Option("-C", "--directory", metavar="DIR", help="The repository.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no messages.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Versions, audits and quality gates for labeled image sets.

    Start with: dsops init my-data --schema schema.yaml; cd my-data; dsops ingest PHOTOS; dsops audit v1
    """
    set_globals(directory=directory, as_json=as_json, quiet=quiet, debug=debug)


def main() -> None:
    app()
