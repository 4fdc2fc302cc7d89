"""``status``, ``doctor``, ``config``, ``migrate``: what is, and what to do."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Annotated, Any

import httpx
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
from syncd.credentials import Vault
from syncd.errors import SealError, UsageError
from syncd.report import ago, slowed, status_report, workspaces
from syncd.settings import http_address, masked, shown_url
from syncd.sources import SOURCES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from syncd.settings import Settings


def register(app: typer.Typer) -> None:
    app.command()(status)
    app.command()(migrate)
    app.command()(doctor)
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
                return await store.database.migrate()
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


Finding = tuple[bool, str, str]  # all is well, what was seen, the way out


def doctor(
    config: ConfigOption = None,
    url: Annotated[str, typer.Option("--url", help="Where the daemon's HTTP is; default: of the settings.")] = "",
) -> None:
    """Answer the three questions: not running? no data? many failures? Exits 1 when something is wrong."""
    settings = settings_of(config, quiet=True)
    findings = perform(settings, _examine(settings, url or http_address(settings.http.host, settings.http.port)))
    for well, seen, way_out in findings:
        word = "[green]well[/green] " if well else "[red]wrong[/red]"
        out.print(f"{word} {escape(printable(seen))}" + ("" if well else f"\n      {escape(printable(way_out))}"))
    if not all(well for well, _, _ in findings):
        raise typer.Exit(1)


async def _examine(settings: Settings, url: str) -> list[Finding]:
    findings = [await _runs(url)]
    try:
        report = await _report(settings)
    except UsageError as error:
        return [*findings, (False, str(error), "nothing more can be seen until the database answers")]
    findings.append(_data(report))
    findings.extend(await _failures(settings, report))
    return findings


async def _runs(url: str) -> Finding:
    """Not running."""
    try:
        async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
            answer = await client.get(f"{url}/healthz")
        body = answer.json()
        checks = ", ".join(f"{name}: {found}" for name, found in body["checks"].items())
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, AttributeError, TypeError):
        return (
            False,
            f"running: no daemon answers at {url}",
            "start it with `syncd serve`, or name its address with --url",
        )
    return answer.status_code == httpx.codes.OK, f"running: {checks}", "the failing check names the part that is down"


def _data(report: Mapping[str, Any]) -> Finding:
    """No data."""
    active = [row for row in report["connections"] if row["is_active"] and row["workspace_id"]]
    if not active:
        return False, "data: no active connection", "add one with `syncd connections add`, or resume a paused one"
    read = [row for row in active if row["last_success_at"] or row["pass_parts"]]
    seen = f"data: {len(read)} of {len(active)} active connections were read at least once"
    idle = [name for name, source in report["sources"].items() if source["connections"] and not source["last_cycle"]]
    troubled = any(row["last_error"] or row["limited_until"] for row in active if not row["last_success_at"])
    way_out = (
        "see below"
        if troubled and not idle
        else "they are read at the next turn, or now: `syncd run-once --source all`"
    )
    return len(read) == len(active), seen, way_out


async def _failures(settings: Settings, report: Mapping[str, Any]) -> list[Finding]:
    """Many failures."""
    troubled = [row for row in report["connections"] if row["state"] in {"failing", "needs_reauth", "misconfigured"}]
    findings: list[Finding] = [
        (
            False,
            f"{row['state'].replace('_', ' ')}: {row['id']} {row['source']} of {row['workspace_id']}",
            row["last_error"] or "",
        )
        for row in troubled
    ] or [(True, "failures: none", "")]
    for row in report["connections"]:
        whose = f"{row['id']} {row['source']} of {row['workspace_id']}"
        findings.extend((True, f"slowed: {whose}: {words}", "") for words in slowed(row))
    async with daemon.open_store(settings) as store:
        vault = Vault(settings.keys())
        for one in await store.connections.all():
            if one.is_active and one.sealed:
                try:
                    vault.open(one.id, one.sealed)
                except SealError as error:
                    findings.append((False, f"keys: {error}", "set the key that sealed them"))
                    break
                await asyncio.sleep(0)
    return findings
