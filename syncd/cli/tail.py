"""``tail``: what every daemon of the database does now, by reading the database alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text
from sqlalchemy.exc import SQLAlchemyError

from syncd import daemon
from syncd.cli.terminal import ConfigOption, cell, err, out, perform, printable, settings_of
from syncd.lines import known_source
from syncd.policy import BACKFILL, RUNNING
from syncd.report import ago, span
from syncd.sources import SOURCES
from syncd.store.database import database_words
from syncd.store.health import Whose

if TYPE_CHECKING:
    from rich.console import RenderableType

    from syncd.settings import Settings
    from syncd.store import Store

_EVERY_S = 1.0
_FURNITURE = 9  # lines of headings, turns and gaps
_SLACK = 200  # ids: PostgreSQL numbers a run before it shows it, so a lower one may appear a little later
_GIVE_WAY = {"workspace": 8, "why": 3, "waiting": 7}  # columns, and the fewest characters of each
_WIDE, _ONLY_WIDE = 110, {"run", "changed", "calls"}
_ROWS = 20  # of each table, where there is no terminal that says how many fit


def register(app: typer.Typer) -> None:
    app.command()(tail)


def tail(
    source: Annotated[str | None, typer.Option("--source", "-s", help=f"Only {', '.join(SOURCES)}.")] = None,
    workspace: Annotated[str | None, typer.Option("--workspace", "-w", help="Only this workspace.")] = None,
    once: Annotated[bool, typer.Option("--once", help="Print it once.")] = False,
    config: ConfigOption = None,
) -> None:
    """Watch what is happening now: runs under way, runs that ended, next turns. Until Ctrl-C.

    On a terminal a table that renews itself each second; elsewhere a line for each run that starts or ends.
    """
    settings = settings_of(config, quiet=True)
    whose = Whose(known_source(source) if source else None, workspace)
    perform(settings, _tail(settings, whose, once=once))


async def _tail(settings: Settings, whose: Whose, *, once: bool) -> None:
    async with daemon.open_store(settings) as store:
        if once:
            out.print(picture(await look(store, settings, whose, _ROWS), _ROWS, wide=out.width >= _WIDE))
        elif out.is_terminal and not out.is_dumb_terminal:
            await _watch(store, settings, whose)
        else:
            await _follow(store, whose)


# ── on a terminal ───────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Seen:
    """What is to be shown. ``turns``: source → its next turn, ISO 8601."""

    now: datetime
    running: Sequence[Mapping[str, Any]]
    ended: Sequence[Mapping[str, Any]]
    turns: Mapping[str, str]


async def look(store: Store, settings: Settings, whose: Whose, rows: int) -> Seen:
    """Read what `picture` shows, of each kind no more than a bit more than ``rows``."""
    now = datetime.now(UTC)
    names = [name for name in SOURCES if whose.source in {None, name} and getattr(settings.sources, name).enabled]
    turns = {name: daemon.plan(settings, name).next_turn(now).isoformat() for name in names}
    running = await store.health.runs_now(whose, limit=1000)
    return Seen(now, running, await store.health.runs_ended(whose, limit=rows), turns)


async def _watch(store: Store, settings: Settings, whose: Whose) -> None:
    seen: Seen | None = None
    with Live(console=out, auto_refresh=False, vertical_overflow="crop") as display:
        while True:
            room = max(4, out.size.height - _FURNITURE)
            words = ""
            try:
                seen = await look(store, settings, whose, room)
            except (SQLAlchemyError, OSError) as error:
                words = f"the database does not answer ({database_words(error)}); it is asked again each second"
            shown: RenderableType = picture(seen, room, wide=out.width >= _WIDE) if seen else ""
            display.update(Group(shown, Text(words, style="red")) if words else shown, refresh=True)
            await asyncio.sleep(_EVERY_S)


def picture(seen: Seen, rows: int, *, wide: bool) -> RenderableType:
    """Both tables, in about ``rows`` lines together. ``wide``: there is room for all columns."""
    most = max(rows // 2, rows - len(seen.ended))
    waits = sum(_wait(row, seen.now) is not None for row in seen.running)
    title = f"{seen.now:%H:%M:%S} UTC  {len(seen.running)} under way" + (f", {waits} of them waiting" if waits else "")
    running = _table(
        f"[bold]{title}[/bold]",
        ("source", "workspace", "run", "reading", "records", "added", "changed", "calls", "for", "waiting"),
        [_running(row, seen.now) for row in seen.running[:most]],
        wide=wide,
    )
    left = len(seen.running) - most
    ended = _table(
        "[bold]ended[/bold]",
        ("source", "workspace", "run", "outcome", "records", "added", "changed", "calls", "took", "ended", "why"),
        [_ended(row) for row in seen.ended[: max(2, rows - min(most, len(seen.running)))]],
        wide=wide,
    )
    turns = ", ".join(f"{name} {ago(at)}" for name, at in seen.turns.items()) or "none, every source is off"
    more = [f"[dim]and {left} more under way[/dim]"] if left > 0 else []
    return Group(running, *more, "", ended, "", f"[dim]next turns:[/dim] {turns}")


def _table(title: str, headers: Sequence[str], rows: Sequence[Sequence[object]], *, wide: bool) -> RenderableType:
    made = Table(title=title, title_justify="left", title_style="", box=None, pad_edge=False, header_style="dim")
    shown = [at for at, header in enumerate(headers) if wide or header not in _ONLY_WIDE]
    for header in (headers[at] for at in shown):
        number = header in {"records", "added", "changed", "calls"}
        # where the line is too long, those give way that may be wrapped, though none of their cells is
        made.add_column(
            header,
            justify="right" if number else "left",
            no_wrap=header not in _GIVE_WAY,
            min_width=_GIVE_WAY.get(header),
        )
    for row in rows:
        cells = [Text.from_markup(cell(value), overflow="ellipsis") for value in map(row.__getitem__, shown)]
        for one in cells:
            one.no_wrap = True
        made.add_row(*cells)
    if not rows:
        made.add_row("[dim]none[/dim]")
    return made


def _running(row: Mapping[str, Any], now: datetime) -> Sequence[object]:
    reading = "older history" if row["trigger"] == BACKFILL else row["reading"] or "…"
    counts = (row["records"], row["added"], row["changed"], row["calls"])
    took = span((now - row["started_at"]).total_seconds())
    return (row["source"], row["workspace_id"], row["id"], reading, *counts, took, _wait(row, now) or " ")


def _wait(row: Mapping[str, Any], now: datetime) -> str | None:
    """What a run waits for, and for how long."""
    if row["limited_until"] is None or row["limited_until"] <= now:
        return None
    return f"{row['limited_by'] or 'its vendor'}, {span((row['limited_until'] - now).total_seconds())}"


def _ended(row: Mapping[str, Any]) -> Sequence[object]:
    counts = (row["records"], row["added"], row["changed"], row["calls"])
    took = f"{_took_s(row):.1f} s"
    when = ago((row["finished_at"] or row["started_at"]).isoformat())
    return (row["source"], row["workspace_id"], row["id"], row["status"], *counts, took, when, row["error"] or " ")


def _took_s(row: Mapping[str, Any]) -> float:
    began: datetime = row["started_at"]
    return ((row["finished_at"] or began) - began).total_seconds()


# ── elsewhere ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def _follow(store: Store, whose: Whose) -> None:
    """A line for each run that starts or ends; first those under way."""
    follower = Follower(store, whose, lambda line: out.print(line, markup=False, soft_wrap=True))
    away = False
    while True:
        try:
            await follower.look()
            away = False
        except (SQLAlchemyError, OSError) as error:
            if not away:
                words = f"the database does not answer ({database_words(error)}); it is asked again each second"
                err.print(words, markup=False, soft_wrap=True)
            away = True
        await asyncio.sleep(_EVERY_S)


class Follower:
    """Tells of each run once when it starts and once when it ends, however the two fall between two looks."""

    def __init__(self, store: Store, whose: Whose, tell: Callable[[str], None]) -> None:
        self._store, self._whose, self._tell = store, whose, tell
        self._after: int | None = None
        self._open: set[int] = set()
        self._told: set[int] = set()

    async def look(self) -> None:
        health = self._store.health
        if self._after is None:
            self._after = await health.newest_run()
            self._told = set(range(max(0, self._after - _SLACK), self._after + 1))
            for row in await health.runs_now(self._whose, limit=1000):
                self._starts(row)
        for row in await health.runs_since(self._whose, self._after - _SLACK, self._open):
            if row["id"] not in self._told:
                self._starts(row)
            if row["id"] in self._open and row["status"] != RUNNING:
                self._open.discard(row["id"])
                self._tell(_end_line(row))
            self._after = max(self._after, row["id"])
        self._told = {one for one in self._told if one > self._after - 2 * _SLACK}

    def _starts(self, row: Mapping[str, Any]) -> None:
        self._told.add(row["id"])
        self._open.add(row["id"])
        self._tell(_line("started", row["started_at"], row))


def _end_line(row: Mapping[str, Any]) -> str:
    took = round(_took_s(row), 3)
    did = {name: row[name] for name in ("status", "records", "added", "changed", "deleted", "calls")}
    why = {"kind": row["error_kind"], "error": row["error"]} if row["error"] else {}
    return _line("ended", row["finished_at"] or row["started_at"], row, **did, took_s=took, **why)


def _line(what: str, at: datetime, row: Mapping[str, Any], **more: object) -> str:
    """``TIME started|ended name=value …``; a value with blanks or quotes is a JSON string."""
    whose = {"run": row["id"], "source": row["source"], "workspace": row["workspace_id"]}
    parts = whose | {"connection": row["connection_id"], "trigger": row["trigger"]} | more
    told = (f"{name}={_value(value)}" for name, value in parts.items())
    return f"{at:%Y-%m-%dT%H:%M:%SZ} {what:<7} {' '.join(told)}"


def _value(value: object) -> str:
    text = "-" if value is None else printable(str(value))
    return text if text and not set(text) & set(' "=') else json.dumps(text, ensure_ascii=False)
