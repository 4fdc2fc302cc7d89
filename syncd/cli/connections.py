"""``syncd connections …``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer
from rich.markup import escape

from syncd import daemon
from syncd.check import asked
from syncd.cli.purge import YesOption, confirmed, erased, held
from syncd.cli.terminal import (
    ConfigOption,
    JsonOption,
    out,
    perform,
    print_json,
    printable,
    settings_of,
    table,
)
from syncd.credentials import Vault
from syncd.errors import UsageError
from syncd.lines import known_source, line_of
from syncd.report import ago, status_report
from syncd.sources import SOURCES
from syncd.store import Line, Which

if TYPE_CHECKING:
    from syncd.settings import Settings
    from syncd.store import Connection

app = typer.Typer(no_args_is_help=True, help="Add, list, pause, resume, remove and check connections.")
_LARGEST_ID = 2**63 - 1

IdArgument = Annotated[
    int, typer.Argument(help="The connection's id, of `syncd connections list`.", min=1, max=_LARGEST_ID)
]


@app.command()
def add(
    source: Annotated[str, typer.Option("--source", "-s", help=f"{', '.join(SOURCES)}.")],
    workspace: Annotated[str, typer.Option("--workspace", "-w", help="Your id of the customer.")],
    credentials_file: Annotated[
        str, typer.Option("--credentials-file", help='A JSON file such as {"token": "…"}, or - for standard input.')
    ],
    account: Annotated[
        str, typer.Option("--account", "-a", help="Which of several accounts; Gmail: the address.")
    ] = "",
    settings: Annotated[str, typer.Option("--settings", help='JSON such as {"channels": ["C0123"]}.')] = "",
    config: ConfigOption = None,
) -> None:
    """Add a connection, or give one that exists new credentials and settings."""
    chosen = object_of(settings, "--settings") if settings else None
    body = {
        "source": known_source(source),
        "workspace_id": workspace,
        "account": account,
        "credentials": object_of(read_text(credentials_file), f"--credentials-file {credentials_file}"),
    }
    line = line_of(body if chosen is None else body | {"settings": chosen})
    in_force = settings_of(config, quiet=True)
    added, _ = put(in_force, [line])
    whose = f"{'added' if added else 'updated'}: {source} of {escape(workspace)}"
    if (found := perform(in_force, _find(in_force, line))) and not found.is_active:
        out.print(f"{whose}; it is paused: syncd connections resume {found.id}")
    else:
        out.print(
            f"{whose}; it is read in the next cycle, "
            f"or now: syncd run-once --source {source} --workspace {escape(workspace)}"
        )


@app.command("list")
def list_(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Every connection with its state."""
    settings = settings_of(config, quiet=True)

    async def work() -> list[dict[str, Any]]:
        async with daemon.open_store(settings) as store:
            plans = {name: daemon.plan(settings, name) for name in SOURCES}
            rows: list[dict[str, Any]] = (await status_report(store, plans, settings))["connections"]
            return rows

    rows = perform(settings, work())
    if as_json:
        print_json(rows)
    elif not rows:
        out.print("no connection yet; `syncd connections add --help` says how to add one")
    else:
        table(
            ("id", "workspace", "source", "account", "state", "last success", "backlog", "last error"),
            (
                (
                    row["id"],
                    row["workspace_id"],
                    row["source"],
                    row["account"],
                    row["state"],
                    ago(row["last_success_at"]),
                    row["backlog"],
                    row["last_error"],
                )
                for row in rows
            ),
        )


@app.command()
def pause(connection_id: IdArgument, config: ConfigOption = None) -> None:
    """Stop reading a connection until it is resumed; its records stay."""
    _set_active(connection_id, config, active=False)


@app.command()
def resume(connection_id: IdArgument, config: ConfigOption = None) -> None:
    """Read a paused connection again, from its cursor."""
    _set_active(connection_id, config, active=True)


@app.command()
def remove(
    connection_id: IdArgument,
    purge: Annotated[bool, typer.Option("--purge", help="Erase its records, runs and backlog too.")] = False,
    yes: YesOption = False,
    config: ConfigOption = None,
) -> None:
    """Erase a connection's credentials and stop it; its records stay readable unless --purge is given.

    On a terminal --purge shows how much goes and asks first.
    """
    settings = settings_of(config, quiet=True)
    if purge:
        _purge(settings, Which(only=connection_id), yes=yes or not sys.stdin.isatty())
        return

    async def work() -> bool:
        async with daemon.open_store(settings) as store:
            return await store.connections.remove(connection_id)

    _found(perform(settings, work()), connection_id)
    out.print(f"connection {connection_id}: removed; its records stay")


def _purge(settings: Settings, which: Which, *, yes: bool) -> None:
    held_now = perform(settings, held(settings, which))
    _found(bool(held_now), which.only)
    if not yes and not confirmed(held_now):
        raise typer.Exit(1)
    perform(settings, erased(settings, which))
    out.print(f"connection {which.only}: erased with all its records")


@app.command()
def check(
    connection_id: Annotated[
        int | None, typer.Argument(help="Only this one; without it all active ones.", min=1, max=_LARGEST_ID)
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Ask the vendors: who am I, which scopes are missing, what is not visible, and what to do about it."""
    settings = settings_of(config, quiet=True)
    if perform(settings, _check_all(settings, connection_id)):
        raise typer.Exit(1)


async def _check_all(settings: Settings, connection_id: int | None) -> int:
    """Print a report per connection; answers how many have a problem."""
    async with daemon.open_parts(settings) as parts:
        chosen = [
            one
            for one in await parts.store.connections.all()
            if (one.is_active if connection_id is None else one.id == connection_id)
        ]
        _found(bool(chosen) or connection_id is None, connection_id)
        if not chosen:
            out.print("no active connection to check")
        troubled = 0
        for connection in chosen:
            report = await asked(parts, connection)
            colour, word = ("red", "problem") if report.problems else ("green", "well")
            name = f"{connection.id} {connection.source} of {connection.workspace_id}: {report.identity}"
            out.print(f"[{colour}]{word}[/{colour}] {escape(printable(name))}")
            for fact in report.facts:
                out.print(f"     {escape(printable(fact))}")
            for what, way_out in report.problems:
                out.print(f"     [red]{escape(printable(what))}[/red]: {escape(printable(way_out))}")
            troubled += bool(report.problems)
        return troubled


def put(settings: Settings, lines: list[Line]) -> tuple[int, int]:
    async def work() -> tuple[int, int]:
        vault = Vault(settings.keys())
        async with daemon.open_store(settings) as store:
            return await store.connections.put(lines, vault.seal)

    return perform(settings, work())


async def _find(settings: Settings, line: Line) -> Connection | None:
    async with daemon.open_store(settings) as store:
        of_workspace = await store.connections.all(source=line.source, workspace=line.workspace_id)
    return next((one for one in of_workspace if one.account == line.account), None)


def _set_active(connection_id: int, config: Path | None, *, active: bool) -> None:
    settings = settings_of(config, quiet=True)

    async def work() -> bool:
        async with daemon.open_store(settings) as store:
            return await store.connections.set_active(connection_id, active=active)

    _found(perform(settings, work()), connection_id)
    out.print(f"connection {connection_id}: {'resumed' if active else 'paused'}")


def _found(found: bool, connection_id: int | None) -> None:
    if not found:
        raise UsageError(f"there is no connection {connection_id}; `syncd connections list` shows all")


def read_text(name: str) -> str:
    try:
        return sys.stdin.read() if name == "-" else Path(name).read_text()
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{name} is not UTF-8 text") from None


def object_of(text: str, what: str) -> dict[str, Any]:
    """A JSON object. Raises UsageError without repeating the text, which may hold a secret."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise UsageError(f"{what} is not JSON ({error.msg} at column {error.colno})") from None
    if not isinstance(value, dict):
        raise UsageError(f"{what} must be a JSON object")
    return value
