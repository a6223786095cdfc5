"""`dsops review`: the review app, its users, and decisions that become a version."""

from __future__ import annotations

import gc
import ipaddress
import json
import logging
import os
import signal
import socket
import sys
import threading
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
import typer.core

from datasetops.cli.session import Session, command
from datasetops.cli.stages import Group
from datasetops.cli.versions import VersionName
from datasetops.errors import ConflictError, DatasetOpsError, NotFoundError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from datasetops.web.users import Users

_FIRST_PORT: Final = 8720
_PORTS: Final = 100  # tried, one after another
_THIS_MACHINE: Final = "127.0.0.1"
_OPEN: Final = "open"  # what `dsops review v12` means


class _Group(Group):
    """`dsops review v12` opens the app; its other words stand in the version's place."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ("-h", "--help")):
            args = [_OPEN, *args]
        return super().parse_args(ctx, args)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        rows = [option.get_help_record(ctx) for option in self.commands[_OPEN].get_params(ctx)]
        with formatter.section("Options of dsops review VERSION"):
            formatter.write_dl([row for row in rows if row is not None and "--help" not in row[0]])
        super().format_epilog(ctx, formatter)


def register(app: typer.Typer) -> None:
    group = typer.Typer(
        name="review",
        cls=_Group,
        help="Decide on findings in a browser: dsops review VERSION. Then: dsops review apply VERSION.",
    )
    command(group, _OPEN)(open_app)
    command(group)(apply)
    command(group)(user)
    app.add_typer(group)


def open_app(
    session: Session,
    version: VersionName = "main",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: the first free one from 8720 on.")] = 0,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Any but this machine's needs --users or --trust-header.")
    ] = _THIS_MACHINE,
    name: Annotated[
        list[str] | None, typer.Option(help="A host name under which people reach it. May be repeated.")
    ] = None,
    users: Annotated[
        Path | None, typer.Option(help="File of people who may sign in; dsops review user adds them.")
    ] = None,
    trust_header: Annotated[
        str | None, typer.Option(help="Header in which a proxy says who it is, for example X-Remote-User.")
    ] = None,
    trust_from: Annotated[
        list[str] | None, typer.Option(help="With --trust-header: the proxy's address or network. May be repeated.")
    ] = None,
    role_header: Annotated[
        str | None,
        typer.Option(help="With --trust-header: where the proxy gives the role; who comes without one is a viewer."),
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
) -> None:
    """Open the review app on a version: work through its findings in a browser. Ctrl-C ends it.

    It prints an address that lets one browser in, once. Everything is saved as it is decided.
    """
    from datasetops.images import quiet_decoding
    from datasetops.web.app import create_app

    people = _people(session, host, users, trust_header, trust_from, role_header)
    repository = session.repository
    chosen = repository.version(version)
    listening = _listen(host, port)
    local = _is_local(host)
    names = [] if local else [socket.gethostname(), socket.getfqdn()]
    app = create_app(repository, chosen, people, names=[*names, *(name or [])], local=local)
    try:
        app.state.desk.workplace(chosen.name).prepare(session.progress)
    except NotFoundError as error:
        session.say(f"{error.message} {error.remedy}")
    gc.freeze()  # a million small objects stay for good: looking through them again and again holds up answers
    address = f"http://{_shown(host)}:{listening.getsockname()[1]}"
    way = f"/enter?token={app.state.desk.tokens.make(people.actor)}" if people.mode == "token" else "/"
    answer = {"url": address + way, "version": chosen.name, "users": people.mode}
    lines = [f"Reviewing {chosen.name} at {address}{way}", "Ctrl-C ends it."]
    if people.mode == "token":
        lines.insert(1, "The address lets one browser in, once.")
    if not local and people.mode == "file":
        session.say(
            "Passwords cross the network as they are: let a proxy with HTTPS stand in front, or trust the network."
        )
    if session.debug:
        logging.getLogger("datasetops").setLevel(logging.DEBUG)
    if session.as_json:
        typer.echo(json.dumps(answer))  # in one line, since the command goes on
    else:
        session.emit(answer, lines)
    sys.stdout.flush()
    with quiet_decoding():
        _serve(app, listening, address + way if browser and not session.as_json else None)
    if app.state.desk.access is not None:
        app.state.desk.access.write()
    session.say("Everything decided is saved.")
    if app.state.desk.is_busy:  # with a thread that computes embeddings, which Python would not outlive
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def apply(
    session: Session,
    version: VersionName = "main",
    message: Annotated[
        str | None, typer.Option("-m", "--message", help="What it does; made from the decisions unless told.")
    ] = None,
    branch: Annotated[str, typer.Option(help="The branch that gets the new version.")] = "main",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")] = False,
) -> None:
    """Make a new version of what was decided about the findings of a version, and of those it stands on.

    Where somebody changed the same things meanwhile, or reviewers disagree, nothing is overwritten: it is told.
    """
    from datasetops.audits.decisions import decisions
    from datasetops.review.apply import apply as make

    repository = session.repository
    chosen = repository.version(version)
    made = make(repository, chosen, decisions(repository), message=message, dry_run=dry_run, branch=branch)
    session.emit(made.as_dict(), made.lines())


def user(
    session: Session,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The users file; made if it is not there.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="As it is to stand beside decisions.")],
    role: Annotated[
        str | None, typer.Option(help="viewer, annotator, reviewer, lead or officer; a new person is a reviewer.")
    ] = None,
) -> None:
    """Add a person to a users file, or give one a new password. The password is asked, or read from a pipe."""
    from datasetops.web.users import set_password

    if sys.stdin.isatty():
        password = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    is_new = set_password(file, name, password, role)
    words = (
        f"{name} was added to {file}."
        if is_new
        else f"{name} has a new password in {file}; sessions with the old one end."
    )
    session.emit(
        {"user": name, "file": str(file), "new": is_new}, [words, f"Next: dsops review --users {file} --host 0.0.0.0"]
    )


def _people(
    session: Session,
    host: str,
    users: Path | None,
    trust_header: str | None,
    trust_from: list[str] | None,
    role_header: str | None,
) -> Users:
    from datasetops.web.users import Users

    if users is not None and trust_header is not None:
        raise ValueError("--users, --trust-header: give one of them")
    if role_header is not None and trust_header is None:
        raise ValueError("--role-header: it goes with --trust-header; a users file has each person's role")
    if trust_from and trust_header is None:
        raise ValueError("--trust-from: it says whose --trust-header is believed; give that too")
    if users is not None:
        return Users.from_file(users)
    if trust_header is not None:
        return Users.behind_proxy(trust_header, trust_from or ("127.0.0.1", "::1"), role_header)
    if not _is_local(host):
        raise DatasetOpsError(
            f"--host {host} lets others reach this server, and nothing says who they are.",
            remedy="Add people with `dsops review user FILE NAME` and give --users FILE; or give --trust-header NAME "
            "behind a proxy that signs people in.",
        )
    return Users.on_this_machine(session.repository.settings.actor)


def _is_local(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _shown(host: str) -> str:
    """How the address is written: a name that leads here where it listens on all addresses."""
    if host in ("0.0.0.0", "::"):  # noqa: S104
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def _listen(host: str, port: int) -> socket.socket:
    """A socket on the port, or on the first free one. Raises ConflictError, ValueError for a host that is none."""
    for candidate in [port] if port else range(_FIRST_PORT, _FIRST_PORT + _PORTS):
        try:
            family, _, _, _, address = socket.getaddrinfo(host, candidate, type=socket.SOCK_STREAM)[0]
        except OSError as error:
            raise ValueError(f"--host: {host!r} is no address: {error.strerror}") from None
        made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named, so that asyncio sends at once
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind(address)
            made.listen(512)  # where SO_REUSEADDR lets two bind, this is what fails
            return made
        except OSError as error:
            made.close()
            if port:
                raise ConflictError(
                    f"Port {port} of {host} cannot be used: {error.strerror}.",
                    remedy="Leave --port out, or name another.",
                ) from None
    raise ConflictError(
        f"Ports {_FIRST_PORT} to {_FIRST_PORT + _PORTS - 1} are all in use.", remedy="Name one: --port."
    )


def _serve(app: FastAPI, listening: socket.socket, page: str | None) -> None:
    """Answer requests until Ctrl-C or SIGTERM."""
    import uvicorn

    config = uvicorn.Config(
        app,
        access_log=False,
        log_level="warning",
        lifespan="off",
        ws="none",
        server_header=False,
        proxy_headers=False,  # who somebody is, is never taken from X-Forwarded-For
        timeout_graceful_shutdown=3,
    )
    if page is not None and _has_screen():
        opener = threading.Timer(0.5, webbrowser.open, (page,))
        opener.daemon = True
        opener.start()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it ends the server as Ctrl-C does
    try:
        uvicorn.Server(config).run(sockets=[listening])
    except KeyboardInterrupt:
        return
    finally:
        listening.close()


def _has_screen() -> bool:
    """Without one a browser that runs in the terminal would take it over."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
