"""``serve`` and ``run-once``."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated, Any

import structlog
import typer
from rich.live import Live as LiveDisplay
from rich.markup import escape
from rich.table import Table

from syncd import daemon
from syncd.asked import why_nothing
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
from syncd.lines import known_source
from syncd.policy import INTERRUPTED
from syncd.process import keep_what_is_loaded
from syncd.report import workspaces
from syncd.secret_files import exposed
from syncd.sources import SOURCES
from syncd.tasks import all_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from syncd.engine import Engine
    from syncd.settings import Settings


log = structlog.get_logger(__name__)


def register(app: typer.Typer) -> None:
    app.command()(serve)
    app.command()(worker)
    app.command("run-once")(run_once)


def serve(
    config: ConfigOption = None,
    migrate: Annotated[bool, typer.Option("--migrate", help="Create or upgrade the schema first.")] = False,
    works: Annotated[bool, typer.Option("--worker", help="Run what is in the queue (engine.kind pgqueuer).")] = False,
) -> None:
    """Run the daemon: four cron jobs and HTTP, until SIGTERM or Ctrl-C; then it drains and exits 0.

    With engine.kind pgqueuer it puts what is due into the queue, for `syncd worker` processes.
    """
    settings = settings_of(config)
    _until_stopped(settings, daemon.serve(settings, migrate=migrate, works=works, ready=_started))


def worker(
    config: ConfigOption = None,
    port: Annotated[
        int | None, typer.Option("--port", help="Of the probes and /metrics; by default http.port. 0: any free one.")
    ] = None,
) -> None:
    """Run what is in the queue (engine.kind pgqueuer), beside any number of others, until SIGTERM or Ctrl-C.

    Then it drains and exits 0. Its HTTP is as with http.access = probes.
    """
    settings = probes_only(settings_of(config), port)
    _until_stopped(settings, daemon.serve(settings, schedules=False, works=True, ready=_started))


def probes_only(settings: Settings, port: int | None) -> Settings:
    """The same without page and API. ``port``: in place of http.port."""
    changed = {"access": "probes"} | ({} if port is None else {"port": port})
    return settings.model_copy(update={"http": settings.http.model_copy(update=changed)})


def _started(address: str) -> None:
    keep_what_is_loaded()
    typer.echo(f"syncd serves {address}")


def _until_stopped(settings: Settings, work: Coroutine[Any, Any, None]) -> None:
    for key, file in exposed(settings):
        log.warning("secret_file.exposed", key=key, file=str(file), way_out=f"chmod o-r {file}")
    try:
        perform(settings, work)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None  # stopped while it was starting


def run_once(
    source: Annotated[str, typer.Option("--source", "-s", help=f"{', '.join(SOURCES)} or all.")],
    workspace: Annotated[str | None, typer.Option("--workspace", "-w", help="Only this workspace.")] = None,
    sweep: Annotated[bool, typer.Option("--sweep", help="Read the wide window, for late changes.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Run one cycle now and say what it did.

    Takes every active connection, due or not, but none that another process runs. Exits 1 when a workspace, or the
    database in the middle of a run, failed.
    """
    known_source(source, all_too=True)
    settings = settings_of(config, quiet=sys.stderr.isatty())
    names = list(SOURCES) if source == "all" else [source]
    statuses = perform(settings, _cycles(settings, names, workspace, sweep=sweep))
    if as_json:
        print_json(statuses if source == "all" else statuses[0])
    else:
        show_statuses(statuses)
    cut = [status["source"] for status in statuses if status["status"] == INTERRUPTED]
    if cut:
        err.print(f"{', '.join(cut)}: interrupted, the database failed; what is left is read next time")
    raise typer.Exit(1 if cut or any(status["failed_workspaces"] for status in statuses) else 0)


async def _cycles(settings: Any, names: list[str], workspace: str | None, *, sweep: bool) -> list[dict[str, Any]]:
    async with daemon.open_parts(settings) as parts:
        await daemon.check_keys(parts)
        cycles = [parts.engine.cycle(name, trigger="cli", workspace=workspace, sweep=sweep) for name in names]
        statuses: list[dict[str, Any]] = await watched(parts.engine, all_of(cycles))
        for status in statuses:
            if not any(status[f"{way}_workspaces"] for way in ("successful", "failed", "deferred")):
                why = escape(printable(await why_nothing(parts, status["source"], workspace)))
                err.print(f"{status['source']}: nothing was read: {why}")
        return statuses


async def watched(engine: Engine, work: Awaitable[Any], progress: Callable[[Engine], Table] | None = None) -> Any:
    """Await ``work`` and meanwhile show on a terminal which runs are under way, or what ``progress`` makes of them."""
    task = asyncio.ensure_future(work)
    if not err.is_terminal:
        return await task
    try:
        with LiveDisplay(console=err, transient=True, auto_refresh=False) as display:
            while not task.done():
                display.update((progress or _progress)(engine), refresh=True)
                await asyncio.wait([task], timeout=0.2)
    except asyncio.CancelledError:
        task.cancel()  # Ctrl-C: let the runs free their leases first
        await asyncio.wait([task])
        raise
    return task.result()


def _progress(engine: Engine) -> Table:
    made = Table(box=None, pad_edge=False, header_style="dim")
    for header in ("source", "workspace", "reading", "read", "added", "calls"):
        made.add_column(header, min_width=8)
    for live in list(engine.live.values())[:20]:
        connection = live.connection
        made.add_row(
            connection.source,
            escape(printable(connection.workspace_id or "-")),
            live.stream,
            str(live.records),
            str(live.counts.added),
            str(live.calls),
        )
    return made


def show_statuses(statuses: list[dict[str, Any]]) -> None:
    """The status objects as a table, then each failure with its way out."""
    counts = ("added", "changed", "deleted")
    table(
        ("source", "workspaces", "read", *counts, "calls", "seconds"),
        (
            (
                status["source"],
                workspaces(status),
                status[SOURCES[status["source"]].total_name],
                *(status[name] for name in counts),
                status["calls"],
                f"{status['duration_s']:.1f}",
            )
            for status in statuses
        ),
    )
    for status in statuses:
        for failure in status["failures"]:
            hint = f" - {failure['hint']}" if failure["hint"] else ""
            words = f"{status['source']} of {failure['workspace_id']}: {failure['kind']}: {failure['error']}{hint}"
            out.print(f"[red]failed:[/red] {escape(printable(words))}")
