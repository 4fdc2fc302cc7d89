"""``status``, ``config``, ``migrate``: what is."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import orjson
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
from syncd.report import ago, queue_words, slowed, status_report, workspaces
from syncd.settings import masked, shown_url
from syncd.sources import SOURCES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from syncd.settings import Settings


def register(app: typer.Typer) -> None:
    app.command()(status)
    app.command()(migrate)
    app.command()(config)


def status(as_json: JsonOption = False, config: ConfigOption = None) -> None:
    """Per source: last cycle, next turn, counts. Per connection: state, last success, backlog, last error."""
    settings = settings_of(config, quiet=True)
    report = perform(settings, _report(settings))
    if as_json:
        print_json(report)
        return
    table(
        ("source", "last cycle", "workspaces", "added", "changed", "deleted", "backlog", "next turn"),
        (_source_row(name, source) for name, source in report["sources"].items()),
    )
    if report["queue"]:
        out.print(f"queue: {queue_words(report['queue'])}")
    out.print()
    if not report["connections"]:
        out.print("no connection yet; `syncd connections add --help` says how to add one")
        return
    table(
        ("id", "workspace", "source", "account", "state", "since", "last success", "next turn", "backlog"),
        (
            (
                row["id"],
                row["workspace_id"],
                row["source"],
                row["account"],
                row["state"],
                ago(row["status_since"]),
                ago(row["last_success_at"]),
                _next_turn(row),
                row["backlog"],
            )
            for row in report["connections"]
        ),
    )
    for name, source in report["sources"].items():
        if source["waiting"]:
            words = ", ".join(f"{count} for {limit}" for limit, count in source["waiting"].items())
            out.print(f"[yellow]waiting[/yellow] {name}: {escape(printable(words))}")
    for row in report["connections"]:
        whose = f"{row['id']} {row['source']} of {row['workspace_id']}"
        for words in slowed(row):
            out.print(f"[yellow]slowed[/yellow] {escape(printable(f'{whose}: {words}'))}")
        if row["last_error"]:
            words = f"{whose}, {ago(row['last_error_at'])}: {row['last_error']}"
            out.print(f"[red]{row['last_error_kind']}[/red] {escape(printable(words))}")


def _next_turn(row: Mapping[str, Any]) -> str | None:
    """When a connection is read next; None where it is not."""
    if row["state"] == "limited":
        return ago(row["limited_until"])
    return ago(row["next_sync_at"]) if row["state"] in {"ok", "new", "failing"} else None


def _source_row(name: str, source: Mapping[str, Any]) -> tuple[object, ...]:
    next_turn = ago(source["next_turn"]) if source["enabled"] else "off"
    cycle = source["last_cycle"]
    if cycle is None:
        return (name, "none yet", *[None] * 4, source["backlog"], next_turn)
    counts = (cycle["added"], cycle["changed"], cycle["deleted"])
    when = f"{cycle['status']}, {ago(cycle['started_at'])}"
    return (name, when, workspaces(cycle), *counts, source["backlog"], next_turn)


async def _report(settings: Settings) -> dict[str, Any]:
    async with daemon.open_store(settings) as store:
        return await status_report(store, {name: daemon.plan(settings, name) for name in SOURCES}, settings)


def migrate(config: ConfigOption = None) -> None:
    """Create the schema or upgrade it to this version; refuses a schema that is newer than this version."""
    settings = settings_of(config, quiet=True)

    async def work() -> tuple[str | None, str]:
        async with daemon.open_store(settings, checked=False) as store:
            try:
                return await daemon.migrated(store)
            except Exception as error:  # noqa: BLE001 - drivers and Alembic each raise their own
                raise daemon.unreachable(settings, error) from None

    before, now = perform(settings, work())
    state = "was there already" if before == now else f"made from {before}" if before else "made"
    out.print(f"{escape(shown_url(settings))}: schema {now} {state}")


def config(config: ConfigOption = None) -> None:
    """Print the settings in force as TOML, secrets masked."""
    for key, value in _flat(masked(settings_of(config, quiet=True))):
        out.print(f"{key} = {value}", markup=False, soft_wrap=True)


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, part in value.items():
        key = prefix + (name if re.fullmatch(r"[\w-]+", name) else f'"{name}"')
        if isinstance(part, dict):
            yield from _flat(part, f"{key}.")
        elif part is None:
            yield f"# {key}", '""'
        else:
            yield key, orjson.dumps(part).decode()
