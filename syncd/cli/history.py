"""``backfill``: older history on request."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from syncd import daemon
from syncd.backfill import FINISHED, Backfill
from syncd.cli.run import watched
from syncd.cli.terminal import (
    ConfigOption,
    JsonOption,
    err,
    out,
    perform,
    print_json,
    printable,
    settings_of,
    table,
)
from syncd.errors import UsageError
from syncd.lines import known_source
from syncd.policy import RUNNING
from syncd.sources import SOURCES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from syncd.backfill import Part
    from syncd.settings import Settings
    from syncd.store import Connection, Store

_OLDEST = datetime(2000, 1, 1, tzinfo=UTC)
ROWS_WATCHED = 20


def register(app: typer.Typer) -> None:
    app.command()(backfill)


async def chosen(store: Store, source: str, workspace: str | None) -> list[Connection]:
    """The connections that are meant; those that wait for a person are among them, and are told. Raises UsageError."""
    found = await store.connections.all(source=None if source == "all" else source, workspace=workspace)
    if chosen := [one for one in found if one.is_active and one.workspace_id is not None]:
        return chosen
    whose = ("" if source == "all" else f" of {source}") + (f" of workspace {workspace!r}" if workspace else "")
    paused = f" ({len(found)} paused or removed)" if found else ""
    raise UsageError(f"there is no active connection{whose}{paused}; `syncd connections list` shows all")


def whose(connection: Connection) -> tuple[object, ...]:
    return (connection.source, connection.workspace_id, connection.account)


def live_table(headers: Iterable[str], rows: Iterable[Iterable[object]], *, hidden: int) -> Table:
    made = Table(box=None, pad_edge=False, header_style="dim", caption=f"and {hidden} more" if hidden > 0 else None)
    for header in headers:
        made.add_column(header, min_width=6)
    for row in rows:
        made.add_row(*(escape(printable("-" if value in {None, ""} else str(value))) for value in row))
    return made


def backfill(
    source: Annotated[str, typer.Option("--source", "-s", help=f"{', '.join(SOURCES)} or all.")],
    since: Annotated[str, typer.Option("--since", help="A day or a moment, such as 2026-01-31; without a zone UTC.")],
    workspace: Annotated[str | None, typer.Option("--workspace", "-w", help="Only this workspace.")] = None,
    estimate: Annotated[bool, typer.Option("--estimate", help="Say what it will take, and stop there.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Read older history, back to a date; say first what that takes.

    It takes half of each limit and gives way to the regular cycles: a daemon may run beside it.
    Stopped in whatever way, the same command goes on where it was.
    Exits 1 when a connection failed.
    """
    known_source(source, all_too=True)
    back_to = _back_to(since)
    settings = settings_of(config, quiet=sys.stderr.isatty())
    parts: list[Part] = []
    to = err if as_json else out
    try:
        perform(settings, _read_back(settings, (source, workspace), back_to, parts, estimate=estimate, to=to))
    except KeyboardInterrupt:
        _say_stopped(parts)
        raise
    if as_json:
        print_json([(_estimate_object if estimate else _part_object)(part) for part in parts])
    elif not estimate:
        _show_parts(parts)
    failed = [part for part in parts if part.error or (estimate and part.unknown)]
    raise typer.Exit(1 if failed else 0)


def _back_to(text: str) -> datetime:
    """Raises UsageError."""
    try:
        at = datetime.fromisoformat(text.strip())
        at = at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise UsageError(f"--since {text!r} is no date; write one such as 2026-01-31 or 2026-01-31T08:00Z") from None
    if not _OLDEST <= at < datetime.now(UTC):
        raise UsageError(f"--since {text!r} must be in the past, and not before {_OLDEST:%Y-%m-%d}")
    return at


async def _read_back(
    settings: Settings,
    which: tuple[str, str | None],
    back_to: datetime,
    parts: list[Part],
    *,
    estimate: bool,
    to: Console,
) -> None:
    """Estimate, then read; ``parts`` is filled at the start, for whoever is left with them when it is stopped."""
    async with daemon.open_parts(settings, halved=True) as opened:
        await daemon.check_keys(opened)
        work = Backfill(
            await chosen(opened.store, *which),
            back_to=back_to,
            engine=opened.engine,
            store=opened.store,
            vault=opened.vault,
            now=daemon.utc_now,
        )
        parts.extend(work.parts)
        await watched(opened.engine, work.estimate(), lambda _: _watched_parts(work))
        if not (estimate and to is err):
            _show_estimate(work.parts, back_to, to)
        if not estimate:
            await watched(opened.engine, work.run(), lambda _: _watched_parts(work))


def _show_estimate(parts: list[Part], back_to: datetime, to: Console) -> None:
    table(
        ("source", "workspace", "account", "to be read", "calls", "at least"),
        (
            (
                *whose(part.connection),
                part.estimate.items if part.estimate else f"unknown: {part.unknown or part.error}",
                f"{part.estimate.calls:,}" if part.estimate else None,
                _span(part.least_s) if part.estimate else None,
            )
            for part in parts
        ),
        title=f"from now back to {back_to:%Y-%m-%d %H:%M} UTC, with half of each limit",
        console=to,
    )
    to.print()


def _span(seconds: float) -> str:
    for length, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.{int(seconds < 10 * length)}f} {unit}"
    return f"{seconds:.0f} s"


def _watched_parts(work: Backfill) -> Table:
    """What each connection does now; those that read come first."""
    under_way = sorted((part for part in work.parts if part.status == RUNNING), key=lambda one: one.run_id is None)
    done = sum(part.status == FINISHED for part in work.parts)
    made = live_table(
        ("source", "workspace", "doing", "read", "added", "calls", "back to"),
        (_watched_row(work, part) for part in under_way[:ROWS_WATCHED]),
        hidden=len(under_way) - ROWS_WATCHED,
    )
    if done:
        made.title, made.title_justify = f"{done} of {len(work.parts)} connections finished", "left"
    return made


def _watched_row(work: Backfill, part: Part) -> tuple[object, ...]:
    live = work.live(part)
    reached = (live.reached if live else None) or part.reached
    return (
        part.connection.source,
        part.connection.workspace_id,
        part.doing,
        f"{part.records + (live.records if live else 0):,}",
        f"{part.counts.added + (live.counts.added if live else 0):,}",
        f"{part.calls + (live.calls if live else 0):,}",
        _day(reached),
    )


def _show_parts(parts: list[Part]) -> None:
    table(
        ("source", "workspace", "account", "status", "read", "added", "changed", "deleted", "calls", "back to"),
        (
            (
                *whose(part.connection),
                part.status,
                f"{part.records:,}",
                f"{part.counts.added:,}",
                f"{part.counts.changed:,}",
                f"{part.counts.deleted:,}",
                f"{part.calls:,}",
                _day(part.reached),
            )
            for part in parts
        ),
    )
    for part in parts:
        if part.error:
            out.print(f"[red]failed:[/red] {escape(printable(f'{name_of(part.connection)}: {part.error}'))}")


def _say_stopped(parts: list[Part]) -> None:
    if parts:
        done = sum(part.status == FINISHED for part in parts)
        err.print(f"stopped: {done} of {len(parts)} connections finished; the same command goes on where it was")


def _estimate_object(part: Part) -> dict[str, Any]:
    estimate = part.estimate
    return {
        **identity(part.connection),
        "items": estimate.items if estimate else None,
        "calls": estimate.calls if estimate else None,
        "draws": dict(estimate.draws) if estimate else None,
        "at_least_s": part.least_s if estimate else None,
        "error": part.error or part.unknown,
    }


def _part_object(part: Part) -> dict[str, Any]:
    return {
        **identity(part.connection),
        "status": part.status,
        "added": part.counts.added,
        "changed": part.counts.changed,
        "deleted": part.counts.deleted,
        "records": part.records,
        "calls": part.calls,
        "reached": iso(part.reached),
        "error": part.error,
    }


def identity(connection: Connection) -> dict[str, Any]:
    return {
        "source": connection.source,
        "workspace_id": connection.workspace_id,
        "account": connection.account,
        "connection_id": connection.id,
    }


def name_of(connection: Connection) -> str:
    return f"{connection.id} {connection.source} of {connection.workspace_id}"


def _day(at: datetime | None) -> str | None:
    return at.strftime("%Y-%m-%d") if at else None


def iso(at: datetime | None) -> str | None:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if at else None
