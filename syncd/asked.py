"""A run or a cycle asked for by a button or the API: it starts, or it is said why not."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from syncd.policy import MISCONFIGURED, NEEDS_REAUTH, RUNNING
from syncd.report import found, missed, plain, span
from syncd.store.status import Wanted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from syncd.daemon import Parts
    from syncd.dispatch import Asking

WAIT_S = 5.0  # for a place and a claim; what has not begun by then is told as waiting
_ALL = 1_000_000
_WAITS = "it waits for a free place; it will start"
_STOPPING = "the daemon is stopping"
_TOO_MANY = "too many others were asked for and wait already: ask again later"
_TAKEN = "another process was faster, or its state changed just now: ask again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What came of it. ``started``: the run ``run_id`` is under way, or has ended already.

    Else ``why`` says why not; ``waits``: it will start by itself. A cycle of a source has no ``connection_id``, and
    its ``run_id`` is its first run's.
    """

    source: str
    connection_id: int | None = None
    started: bool = False
    waits: bool = False
    cycle_id: int | None = None
    run_id: int | None = None
    why: str = ""


async def ask(parts: Parts, connection_id: int, *, sweep: bool) -> Asked:
    """Start a run of one connection now, due or not, and wait until it has begun or it is clear why it does not.

    ``sweep``: reads the wide window. The run is the engine's task: it goes on whatever becomes of who asked.
    """
    row = await _row(parts, connection_id)
    if row is None:
        return Asked(source="", connection_id=connection_id, why=f"there is no connection {connection_id}")
    source = row["source"]
    if why := await _why_not(parts, row):
        return Asked(source=source, connection_id=connection_id, why=why)
    asking = parts.engine.ask(source, workspace=None, only=connection_id, sweep=sweep)
    await _begun([asking])

    async def later() -> str:
        now = await _row(parts, connection_id)
        return (await _why_not(parts, now) if now else f"there is no connection {connection_id}") or _TAKEN

    return await _told(parts, source, asking, later, connection_id=connection_id)


async def ask_sources(parts: Parts, sources: Sequence[str], *, workspace: str | None, sweep: bool) -> list[Asked]:
    """Start a cycle of each of the sources now, over all its active connections or those of a workspace; as `ask`."""
    askings = {}
    for name in sources:
        if await parts.store.connections.count_active(name, workspace):
            askings[name] = parts.engine.ask(name, workspace=workspace, only=None, sweep=sweep)
    await _begun(askings.values())
    answers = []
    for name in sources:

        async def later(name: str = name) -> str:
            return f"nothing to read: {await why_nothing(parts, name, workspace)}"

        if name in askings:
            answers.append(await _told(parts, name, askings[name], later))
        else:
            answers.append(Asked(source=name, why=await later()))
    return answers


async def _begun(askings: Any) -> None:
    waiting = [asyncio.ensure_future(asking.begun.wait()) for asking in askings if asking is not None]
    if waiting:
        _, late = await asyncio.wait(waiting, timeout=WAIT_S)
        for one in late:
            one.cancel()


async def _told(
    parts: Parts, source: str, asking: Asking | None, later: Any, connection_id: int | None = None
) -> Asked:
    """What came of an asking. ``later()``: why nothing was claimed, by what holds now."""
    whose: dict[str, Any] = {"source": source, "connection_id": connection_id}
    if asking is None:
        return Asked(**whose, why=_STOPPING if parts.engine.runs.draining else _TOO_MANY)
    whose["cycle_id"] = asking.cycle_id
    if asking.run_id is not None:
        return Asked(**whose, started=True, run_id=asking.run_id)
    if not asking.begun.is_set():
        return Asked(**whose, waits=True, why=_WAITS)
    return Asked(**whose, why=asking.failed or (_STOPPING if parts.engine.runs.draining else await later()))


async def _row(parts: Parts, connection_id: int) -> dict[str, Any] | None:
    rows, _ = await found(parts.store, parts.engine.plans, parts.settings, Wanted(id=connection_id), limit=1)
    return rows[0] if rows else None


# ── why nothing is read ─────────────────────────────────────────────────────────────────────────────────────────────


async def _why_not(parts: Parts, row: Mapping[str, Any]) -> str:
    """Why a run of the connection would not start now, in words; empty where it would."""
    match row["state"]:
        case "removed":
            return "it has no credentials: it is read again once it is given new ones"
        case "paused":
            return "it is paused: resume it first"
        case "unassigned":
            return "it belongs to no workspace"
        case state if state in {NEEDS_REAUTH, MISCONFIGURED}:
            what = "new credentials" if state == NEEDS_REAUTH else "a person to set it right"
            return f"it waits for {what}: {row['last_error'] or 'see its last run'}"
        case "running":
            return await _being_read(parts, row["id"])
        case "limited":
            limit = f" for {row['limited_by']}" if row["limited_by"] else ""
            return f"its vendor asked to wait{limit} until {row['limited_until']}"
        case _:
            return _STOPPING if parts.engine.runs.draining else ""


async def _being_read(parts: Parts, connection_id: int) -> str:
    for run_id, live in list(parts.engine.live.items()):
        if live.connection.id == connection_id:
            return f"it is being read already: run {run_id}, since {plain({'at': live.started_at})['at']}"
    last = await parts.store.status.runs(connection_id, limit=1)
    if last and last[0]["status"] == RUNNING:
        run = plain(last[0])
        return f"it is being read by another process: run {run['id']}, since {run['started_at']}"
    return f"another process holds it; one that died does so for {span(parts.store.lease.total_seconds())}"


async def why_nothing(parts: Parts, source: str, workspace: str | None) -> str:
    """Why a cycle found nothing to do: a typo, a pause and another process's lease look alike from outside."""
    thresholds, states = missed(parts.store, parts.engine.plans, parts.settings), Counter[str]()
    if workspace is None:
        for one in await parts.store.status.sums(thresholds):
            states[one.state] += one.count if one.source == source else 0
    else:
        wanted = Wanted(source=source, workspace=workspace)
        rows, _ = await parts.store.status.find(wanted, thresholds, limit=_ALL)
        states.update(row["state"] for row in rows)
    states = +states
    if not states:
        return "no connection" + (f" of workspace {workspace}" if workspace else "")
    held = span(parts.store.lease.total_seconds())
    words = {
        RUNNING: f"being read already (a process that died holds its lease for {held})",
        "limited": "whose vendor asked to wait",
        NEEDS_REAUTH: "waiting for new credentials",
        MISCONFIGURED: "waiting for a person",
    }
    return ", ".join(f"{count} {words.get(state, state)}" for state, count in sorted(states.items()))
