"""``doctor``: the three questions, asked of the daemon, the database and the machine."""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import httpx
import typer
from rich.markup import escape
from rich.padding import Padding

from syncd import daemon
from syncd.check import regime
from syncd.cli.terminal import ConfigOption, JsonOption, out, perform, print_json, printable, settings_of
from syncd.credentials import Vault
from syncd.doctor import Facts, Finding, Question, Turn, examine
from syncd.errors import SealError, UsageError
from syncd.plan import budget
from syncd.report import status_report
from syncd.settings import http_address
from syncd.sources import SOURCES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from syncd.plan import Plan
    from syncd.settings import Settings
    from syncd.store import Store


def register(app: typer.Typer) -> None:
    app.command()(doctor)


def doctor(
    config: ConfigOption = None,
    as_json: JsonOption = False,
    url: Annotated[str, typer.Option("--url", help="Where the daemon's HTTP is; default: of the settings.")] = "",
) -> None:
    """Answer the three questions: not running? no data? many failures? Exits 1 when something is wrong."""
    settings = settings_of(config, quiet=True)
    facts = perform(settings, _facts(settings, url or http_address(settings.http.host, settings.http.port)))
    questions = examine(facts)
    if as_json:
        print_json(_object(facts, questions))
    else:
        for question in questions:
            _show(facts, question)
    if any(question.cause for question in questions):
        raise typer.Exit(1)


async def _facts(settings: Settings, url: str) -> Facts:
    asked: dict[str, Any] = {"now": datetime.now(UTC), "url": url.rstrip("/")} | await _daemon(url.rstrip("/"))
    try:
        async with daemon.open_store(settings) as store:
            return Facts(**asked, **await _stored(settings, store))
    except UsageError as error:
        return Facts(**asked, database=str(error))


async def _daemon(url: str) -> dict[str, Any]:
    """What the process says of itself, if one answers."""
    try:
        async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
            checks = (await client.get(f"{url}/healthz")).json()["checks"]
            ready = (await client.get(f"{url}/readyz")).status_code == httpx.codes.OK
        return {"checks": {str(name): str(found) for name, found in checks.items()}, "ready": ready}
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, AttributeError, TypeError):
        return {"checks": None}


async def _stored(settings: Settings, store: Store) -> dict[str, Any]:
    """What the database tells."""
    now, plans = datetime.now(UTC), {name: daemon.plan(settings, name) for name in SOURCES}
    taken = await store.health.last_turns()
    turns = {
        name: Turn(due=plan.last_turn(now), taken=taken.get(name))
        for name, plan in plans.items()
        if getattr(settings.sources, name).enabled
    }
    return {
        "report": await status_report(store, plans, settings),
        "turns": turns,
        "backlogs": await store.health.backlogs(),
        "clock_off_s": await store.health.clock_off_s(),
        "free": _free(store),
        "dead": await store.health.dead_runs(),
        **await _of_credentials(settings, store, plans),
    }


def _free(store: Store) -> int | None:
    """Bytes left on SQLite's disk."""
    with suppress(OSError):
        if store.database.is_sqlite:
            return shutil.disk_usage(Path(str(store.database.url.database)).resolve().parent).free
    return None


async def _of_credentials(settings: Settings, store: Store, plans: Mapping[str, Plan]) -> dict[str, Any]:
    """Why a stored secret cannot be opened, and under which limits how many connections are."""
    vault, budgets, found = Vault(settings.keys()), await store.budgets.all(), Counter[tuple[str, str]]()
    refused: str | None = None
    for one in await store.connections.all():
        if one.is_active and one.sealed and one.source in plans:
            try:
                credentials = vault.open(one.id, one.sealed)
            except SealError as error:
                refused = refused or str(error)
                continue
            plan = plans[one.source]
            known = regime(plan, one, budgets.get(budget(plan.source, one.id, credentials), []))
            if known:
                found[one.source, known.name] += 1
            await asyncio.sleep(0)
    names = {source: ", ".join(f"{n} {name}" for (of, name), n in found.items() if of == source) for source, _ in found}
    return {"keys": refused, "regimes": [f"{source}: {words}" for source, words in names.items()]}


# ── telling it ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _show(facts: Facts, question: Question) -> None:
    answer = "[red]something is wrong[/red]" if question.cause else "[green]all is well[/green]"
    out.print(f"[bold]{question.question}[/bold] {answer}")
    for finding in question.findings:
        word = "[green]well[/green]  " if finding.well else "[red]wrong[/red] "
        _line(2, f"{word}{escape(printable(finding.seen))}")
        if not finding.well:
            for words in filter(None, (_whom(facts, finding), finding.way_out)):
                _line(8, escape(printable(words)))


def _line(indent: int, words: str) -> None:
    """Wrapped below itself on a terminal; elsewhere one line, for grep."""
    if out.is_terminal:
        out.print(Padding(words, (0, 0, 0, indent), expand=False))
    else:
        out.print(f"{' ' * indent}{words}", soft_wrap=True)


def _whom(facts: Facts, finding: Finding) -> str:
    """For whom, with a link where a daemon answers."""
    if not finding.who:
        return ""
    named = [f"{row['workspace_id']} ({_page(facts, row) or row['id']})" for row in finding.who]
    more = finding.count - len(named)
    return f"of {', '.join(named)}" + (f" and {more:,} more" if more > 0 else "")


def _page(facts: Facts, row: Any) -> str | None:
    return f"{facts.url}/connections/{row['id']}" if facts.checks is not None else None


def _object(facts: Facts, questions: Sequence[Question]) -> dict[str, Any]:
    """``--json``: as documented in the README."""
    cause = next((question.cause for question in questions if question.cause), None)
    return {
        "well": cause is None,
        "timestamp": facts.now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "cause": cause.seen if cause else None,
        "way_out": cause.way_out if cause else None,
        "questions": [
            {
                "question": question.question,
                "well": question.cause is None,
                "evidence": [one.seen for one in question.findings],
                "cause": question.cause.seen if question.cause else None,
                "way_out": question.cause.way_out if question.cause else None,
                "findings": [_plain(facts, one) for one in question.findings],
            }
            for question in questions
        ],
    }


def _plain(facts: Facts, finding: Finding) -> dict[str, Any]:
    whose = [
        {"id": row["id"], "source": row["source"], "workspace_id": row["workspace_id"], "page": _page(facts, row)}
        for row in finding.who
    ]
    return {
        "well": finding.well,
        "seen": finding.seen,
        "way_out": finding.way_out or None,
        "since": finding.since,
        "count": finding.count,
        "connections": whose,
    }
