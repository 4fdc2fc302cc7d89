"""``verify``: whether what is stored is what the vendors hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from syncd import daemon
from syncd.audit import Audit
from syncd.cli.history import ROWS_WATCHED, chosen, identity, iso, live_table, name_of, whose
from syncd.cli.run import watched
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
from syncd.lines import known_source
from syncd.report import ago
from syncd.sources import SOURCES

if TYPE_CHECKING:
    from syncd.audit import Differences, Finding
    from syncd.settings import Settings
    from syncd.store import Connection

_IDS_SHOWN = 20
_CLASSES = ("missing", "stale", "extra")
_ONE = {
    "people": "person",
    "conversations": "conversation",
    "messages": "message",
    "meetings": "meeting",
    "transcripts": "transcript",
}


def register(app: typer.Typer) -> None:
    app.command()(verify)


def verify(
    source: Annotated[str, typer.Option("--source", "-s", help=f"{', '.join(SOURCES)} or all.")] = "all",
    workspace: Annotated[str | None, typer.Option("--workspace", "-w", help="Only this workspace.")] = None,
    sample: Annotated[
        int, typer.Option("--sample", help="How many things are re-read one by one where no listing shows them.", min=0)
    ] = 50,
    everything: Annotated[bool, typer.Option("--all", help="Re-read all of them instead of a sample.")] = False,
    days: Annotated[
        int | None, typer.Option("--days", help="How far back; default: sweep_lookback.", min=1, max=3650)
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """Compare what is stored with what the vendors hold, and change nothing.

    Tells by connection what is missing, stale or extra.
    While a connection is compared, its regular runs wait.
    Exits 1 when something differs or could not be compared.
    """
    known_source(source, all_too=True)
    settings = settings_of(config, quiet=True)
    findings = perform(settings, _compare(settings, (source, workspace), days, None if everything else sample))
    if as_json:
        print_json(_verdict_object(findings))
    else:
        _show_findings(findings)
    raise typer.Exit(0 if all(found.clean for found in findings) else 1)


async def _compare(
    settings: Settings, which: tuple[str, str | None], days: int | None, sample: int | None
) -> list[Finding]:
    async with daemon.open_parts(settings) as opened:
        await daemon.check_keys(opened)
        audit = Audit(
            await chosen(opened.store, *which),
            engine=opened.engine,
            store=opened.store,
            vault=opened.vault,
            now=daemon.utc_now,
            days=days,
            sample=sample,
        )
        await watched(opened.engine, audit.run(), lambda _: _watched_findings(audit.findings))
        return audit.findings


def _watched_findings(findings: list[Finding]) -> Table:
    under_way = [found for found in findings if found.doing]
    return live_table(
        ("source", "workspace", "doing", "checked", *_CLASSES, "calls"),
        (
            (
                found.connection.source,
                found.connection.workspace_id,
                found.doing,
                f"{found.checked:,}",
                *(f"{getattr(found, name).count:,}" for name in _CLASSES),
                f"{found.calls:,}",
            )
            for found in under_way[:ROWS_WATCHED]
        ),
        hidden=len(under_way) - ROWS_WATCHED,
    )


def _show_findings(findings: list[Finding]) -> None:
    table(
        ("source", "workspace", "account", "checked", *_CLASSES, "waiting", "backlog", "calls"),
        (
            (
                *whose(found.connection),
                f"{found.checked:,}",
                *(f"{getattr(found, name).count:,}" for name in _CLASSES),
                f"{found.waiting:,}",
                f"{found.backlog:,}",
                f"{found.calls:,}",
            )
            for found in findings
        ),
    )
    for found in findings:
        name = name_of(found.connection)
        for fact in found.facts:
            _line("note", "blue", f"{name}: {fact}")
        for one in _CLASSES:
            if differences := getattr(found, one):
                _line(one, "yellow", f"{name}: {_words(differences)}")
        if found.error:
            _line("error", "red", f"{name}: {found.error}")
        if found.missing or found.stale or found.extra:
            out.print(f"  {escape(printable(_advice(found.connection)))}")
    _show_verdict(findings)


def _line(word: str, colour: str, text: str) -> None:
    out.print(f"[{colour}]{word}:[/{colour}] {escape(printable(text))}")


def _words(differences: Differences) -> str:
    """``2 messages, 1 person: the first ids``."""
    counts = ", ".join(
        f"1 {_ONE[kind]}" if count == 1 else f"{count:,} {kind}" for kind, count in sorted(differences.by_kind.items())
    )
    ids = [one for _, one in differences.named][:_IDS_SHOWN]
    more = differences.count - len(ids)
    return f"{counts}: {', '.join(ids)}" + (f" and {more:,} more" if more else "")


def _advice(connection: Connection) -> str:
    read = f"last read {ago(iso(connection.last_success_at))}, last sweep {ago(iso(connection.last_sweep_at))}"
    command = f"syncd run-once --source {connection.source} --workspace {connection.workspace_id} --sweep"
    return f"{read}: what changed since comes with `{command}`"


def _show_verdict(findings: list[Finding]) -> None:
    unclean = [found for found in findings if not found.clean]
    checked = f"{sum(found.checked for found in findings):,} records checked"
    if not unclean:
        out.print(f"[green]clean:[/green] {_connections(len(findings))}, {checked}")
        return
    counts = {name: sum(getattr(found, name).count for found in findings) for name in _CLASSES}
    found = [f"{count:,} {name}" for name, count in counts.items() if count]
    if errors := sum(one.error is not None for one in findings):
        found.append(f"{errors} not compared to the end")
    out.print(f"[red]not clean:[/red] {len(unclean)} of {_connections(len(findings))}: {', '.join(found)}; {checked}")
    if any(counts.values()):
        out.print("Sweep and verify again: what still differs then is not young but wrong, a defect worth a report.")


def _connections(count: int) -> str:
    return "1 connection" if count == 1 else f"{count:,} connections"


def _verdict_object(findings: list[Finding]) -> dict[str, Any]:
    return {
        "clean": all(found.clean for found in findings),
        "checked": sum(found.checked for found in findings),
        "connections": [
            {
                **identity(found.connection),
                "clean": found.clean,
                "checked": found.checked,
                **{name: _differences_object(getattr(found, name)) for name in _CLASSES},
                "waiting": found.waiting,
                "backlog": found.backlog,
                "facts": list(found.facts),
                "calls": found.calls,
                "error": found.error,
                "last_success_at": iso(found.connection.last_success_at),
                "last_sweep_at": iso(found.connection.last_sweep_at),
            }
            for found in findings
        ],
    }


def _differences_object(differences: Differences) -> dict[str, Any]:
    """``ids``: the first thousand; ``count``: all."""
    return {
        "count": differences.count,
        "by_kind": dict(differences.by_kind),
        "ids": [{"kind": kind, "id": one} for kind, one in differences.named],
    }
