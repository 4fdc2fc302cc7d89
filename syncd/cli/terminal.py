"""What the commands share towards a person: settings by option, one-line errors, tables, times in words."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sqlalchemy.exc import SQLAlchemyError

from syncd import logs
from syncd.daemon import unreachable
from syncd.settings import Settings, load

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

T = TypeVar("T")

_PIPED_WIDTH = 240  # where nobody looks, a row is a line: for grep

out = Console(highlight=False, width=None if sys.stdout.isatty() else _PIPED_WIDTH)
err = Console(stderr=True, highlight=False)

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", help="The configuration file; without it SYNCD_CONFIG, then ./syncd.toml.", show_default=False
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]

_COLOURS = {
    "ok": "green",
    "success": "green",
    "finished": "green",
    "succeeded": "green",
    "running": "blue",
    "new": "blue",
    "failing": "yellow",
    "limited": "yellow",
    "interrupted": "yellow",
    "deferred": "yellow",
    "failed": "red",
    "needs_reauth": "red",
    "misconfigured": "red",
}


def settings_of(config: Path | None, *, quiet: bool = False) -> Settings:
    """The settings in force, with logging set up by them. ``quiet``: only warnings, for commands that print."""
    settings = load(config)
    level = "warning" if quiet and settings.log.level == "info" else settings.log.level
    logs.set_up(level, settings.log.format)
    return settings


def perform(settings: Settings, work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` to its end; SIGTERM ends it as Ctrl-C does. A database that goes away is one line."""

    async def until_done() -> T:
        task = asyncio.ensure_future(work)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await task

    try:
        return asyncio.run(until_done())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    except (SQLAlchemyError, OSError) as error:
        raise unreachable(settings, error) from None


def fail(message: str, code: int) -> NoReturn:
    """One line on stderr, then exit."""
    err.print(f"[red]error:[/red] {escape(logs.redact(' '.join(message.split())))}", soft_wrap=True)
    sys.exit(code)


def print_json(value: object) -> None:
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n")


def table(
    headers: Iterable[str], rows: Iterable[Iterable[object]], *, title: str | None = None, console: Console = out
) -> None:
    """A table, on stdout unless told otherwise; every cell is text from outside and is shown as text."""
    made = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    for header in headers:
        made.add_column(header, overflow="fold")
    for row in rows:
        made.add_row(*(cell(value) for value in row))
    console.print(made)


def cell(value: object) -> str:
    """A value as text for a table, a known word in its colour."""
    text = "-" if value is None or value == "" else str(value)
    colour = _COLOURS.get(text)
    return f"[{colour}]{text.replace('_', ' ')}[/{colour}]" if colour else escape(printable(text))


def printable(text: str) -> str:
    """Vendor text for a terminal: control characters could move the cursor or rename the window."""
    flat = text.replace("\n", " ").replace("\t", " ")  # a line break of a vendor's would forge a line of ours
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in flat)
