"""``purge``: erase all that is held of a customer."""

from __future__ import annotations

import getpass
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from syncd import daemon
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
from syncd.errors import UsageError
from syncd.lines import known_source
from syncd.report import ago
from syncd.store import Which

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from syncd.settings import Settings
    from syncd.store import Holding

YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def register(app: typer.Typer) -> None:
    app.command()(purge)


def purge(
    workspace: Annotated[str | None, typer.Option("--workspace", "-w", help="Whose connections.")] = None,
    source: Annotated[str | None, typer.Option("--source", "-s", help="Only those of this source.")] = None,
    yes: YesOption = False,
    log: Annotated[bool, typer.Option("--log", help="Erase nothing: show what was erased when, and by whom.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Erase a workspace's connections with their credentials and all that was read: at once, and for good.

    On a terminal it shows how much that is and asks; elsewhere it wants --yes. What stays is a line in the log of
    purges, without content, and the sums of past cycles.
    """
    settings = settings_of(config, quiet=True)
    if log:
        _show_log(settings, as_json=as_json)
        return
    if workspace is None:
        raise UsageError("name the customer by --workspace; or --log shows what was erased")
    which = Which(workspace=workspace, source=None if source is None else known_source(source))
    found = perform(settings, held(settings, which))
    if not found:
        whose = f"{source or 'any source'} of workspace {workspace!r}"
        raise UsageError(f"there is no connection to {whose}; `syncd purge --log` shows what was erased")
    if not yes and not confirmed(found):
        raise typer.Exit(1)
    gone = perform(settings, erased(settings, which))
    if as_json:
        print_json([{"connection_id": one.connection_id, "source": one.source, "counts": one.counts} for one in gone])
    else:
        out.print(f"erased: {_sum(gone)} of workspace {escape(printable(workspace))}")


def confirmed(held: Sequence[Holding]) -> bool:
    """Show what would go, and ask. Raises UsageError where nobody can be asked."""
    if not sys.stdin.isatty():
        raise UsageError(f"this would erase {_sum(held)}; say --yes where nobody can be asked")
    table(
        ("id", "workspace", "source", "account", "would go"),
        ((one.connection_id, one.workspace_id, one.source, one.account, _words(one.counts)) for one in held),
    )
    if typer.confirm(f"Erase {_sum(held)}? This cannot be undone"):
        return True
    out.print("nothing was erased")
    return False


async def erased(settings: Settings, which: Which) -> list[Holding]:
    async with daemon.open_store(settings) as store:
        return await store.purges.purge(which, by=_who())


async def held(settings: Settings, which: Which) -> list[Holding]:
    async with daemon.open_store(settings) as store:
        return await store.purges.held(which)


def _who() -> str:
    """The user that this process runs as; in a container there may be none by name."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "unknown"


def _show_log(settings: Settings, *, as_json: bool) -> None:
    async def work() -> Sequence[dict[str, Any]]:
        async with daemon.open_store(settings) as store:
            return await store.purges.log()

    rows = [{**row, "purged_at": row["purged_at"].strftime("%Y-%m-%dT%H:%M:%SZ")} for row in perform(settings, work())]
    if as_json:
        print_json(rows)
    elif not rows:
        out.print("nothing was ever erased")
    else:
        table(
            ("when", "by", "id", "workspace", "source", "went"),
            (
                (
                    f"{row['purged_at']} ({ago(row['purged_at'])})",
                    row["purged_by"],
                    row["connection_id"],
                    row["workspace_id"],
                    row["source"],
                    _words(row["counts"]),
                )
                for row in rows
            ),
        )


def _words(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{rows} {name}" for name, rows in counts.items()) or "its row alone"


def _sum(held: Sequence[Holding]) -> str:
    rows = sum(sum(one.counts.values()) for one in held)
    return f"{len(held)} connection{'' if len(held) == 1 else 's'} with {rows} rows"
