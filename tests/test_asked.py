"""A run asked for by a button or the API: it starts at once, or it is said why not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from syncd import asked, engine, tables
from syncd.asked import Asked, ask, ask_sources, why_nothing
from syncd.daemon import Parts
from syncd.errors import AuthError, RateLimited
from syncd.http import Link
from syncd.metrics import Metrics
from syncd.settings import Settings
from syncd.source import Page, Since
from syncd.store import Store
from tests.conftest import Clock
from tests.scripted import Bench, message, pages, source

PAGE = Page(records=[message("1")])


class Gate:
    """A stream that waits until it is let on; ``since``: what each run was to read."""

    def __init__(self) -> None:
        self.reached, self.opened = asyncio.Event(), asyncio.Event()
        self.since: list[Since] = []

    async def __call__(self, link: Link, since: Since) -> AsyncIterator[Page]:
        self.since.append(since)
        self.reached.set()
        await self.opened.wait()
        yield PAGE


class Scene(Bench):
    """One connection, of workspace w1."""

    parts: Parts

    async def ask(self, connection_id: int = 1, *, sweep: bool = False) -> Asked:
        return await ask(self.parts, connection_id, sweep=sweep)

    async def ended(self) -> None:
        """Until all that was asked for has ended."""
        await asyncio.gather(*self.engine._tasks)

    async def change(self, **values: Any) -> None:
        async with self.store.database.write() as session:
            await session.execute(update(tables.connections).values(**values))


async def made(store: Store, clock: Clock, *scripts: Any, **plan: Any) -> Scene:
    scene = Scene(store, source(*scripts), clock, **plan)
    scene.parts = Parts(Settings(), store, scene.vault, scene.engine, Metrics())
    await scene.connect("w1")
    return scene


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
async def scene(store: Store, clock: Clock, gate: Gate) -> AsyncIterator[Scene]:
    """Its run waits at the gate."""
    one = await made(store, clock, gate, slots=1)
    yield one
    gate.opened.set()
    await one.ended()


async def test_a_run_that_was_asked_for_starts_though_it_is_not_due(store: Store, clock: Clock) -> None:
    scene = await made(store, clock, pages(PAGE))
    await scene.cycle()
    answer = await scene.ask()
    await scene.ended()
    (_, cycle), (_, run) = await scene.rows("cycles"), await scene.rows("runs")
    assert answer == Asked(source="slack", connection_id=1, started=True, cycle_id=cycle.id, run_id=run.id)
    assert (cycle.trigger, cycle.status, run.status) == ("api", "success", "succeeded")


async def test_no_other_connection_is_read(store: Store, clock: Clock) -> None:
    scene = await made(store, clock, pages(PAGE))
    await scene.connect("w2", "w3")
    await scene.ask(2)
    await scene.ended()
    assert [run.connection_id for run in await scene.rows("runs")] == [2]


async def test_a_sweep_that_was_asked_for_reads_the_wide_window(scene: Scene, gate: Gate) -> None:
    await scene.ask(sweep=True)
    await gate.reached.wait()
    (since,) = gate.since
    assert (since.sweep, since.lookback) == (True, timedelta(days=7))


async def test_who_asks_is_answered_while_the_run_goes_on(scene: Scene, gate: Gate) -> None:
    answer = await scene.ask()
    assert (answer.started, list(scene.engine.live)) == (True, [answer.run_id])


async def test_what_is_being_read_says_since_when_and_by_whom(scene: Scene) -> None:
    first = await scene.ask()
    here = await scene.ask()
    live, scene.engine.runs.live = dict(scene.engine.live), {}
    elsewhere = await scene.ask()
    scene.engine.runs.live = live
    assert (here.started, here.why) == (
        False,
        f"it is being read already: run {first.run_id}, since 2026-01-05T12:00:00Z",
    )
    assert elsewhere.why == f"it is being read by another process: run {first.run_id}, since 2026-01-05T12:00:00Z"


async def test_a_lease_without_a_run_is_told_as_anothers(store: Store, clock: Clock) -> None:
    scene = await made(store, clock, pages(PAGE))
    await store.connections.hold(1, "another")
    assert (await scene.ask()).why == "another process holds it; one that died does so for 5 min"


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"is_active": False}, "it is paused: resume it first"),
        (
            {"is_active": False, "credentials": None},
            "it has no credentials: it is read again once it is given new ones",
        ),
        ({"workspace_id": None}, "it belongs to no workspace"),
        ({"status": "needs_reauth", "last_error": "revoked"}, "it waits for new credentials: revoked"),
        ({"status": "misconfigured"}, "it waits for a person to set it right: see its last run"),
    ],
    ids=str,
)
async def test_what_is_not_read_says_why(store: Store, clock: Clock, values: dict[str, Any], why: str) -> None:
    scene = await made(store, clock, pages(PAGE))
    await scene.change(**values)
    assert await scene.ask() == Asked(source="slack", connection_id=1, why=why)
    assert await scene.rows("cycles") == []


async def test_a_vendors_word_holds_for_who_asks_too(store: Store, clock: Clock) -> None:
    scene = await made(store, clock, pages(RateLimited("later", retry_after_s=600.0, limit="conversations.history")))
    await scene.cycle()
    why = "its vendor asked to wait for conversations.history until 2026-01-05T12:10:00Z"
    assert (await scene.ask()).why == why
    clock.advance(minutes=11)
    assert (await scene.ask()).started
    await scene.ended()


async def test_a_connection_that_is_not_there_is_said(store: Store, clock: Clock) -> None:
    scene = await made(store, clock, pages(PAGE))
    assert (await scene.ask(99)).why == "there is no connection 99"


async def test_without_a_free_place_it_waits_and_then_starts(
    scene: Scene, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scene.connect("w2")
    await scene.ask(1)
    monkeypatch.setattr(asked, "WAIT_S", 0.01)
    waits = await scene.ask(2)
    await scene.ask(2)
    assert (waits.started, waits.waits, waits.why) == (False, True, "it waits for a free place; it will start")
    gate.opened.set()
    await scene.ended()
    assert [run.connection_id for run in await scene.rows("runs")] == [1, 2]
    assert len(await scene.rows("cycles")) == 2


async def test_more_than_can_wait_are_not_taken(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MOST_ASKED", 1)
    await scene.connect("w2", "w3")
    await scene.ask(1)
    monkeypatch.setattr(asked, "WAIT_S", 0.01)
    await scene.ask(2)
    refused = await scene.ask(3)
    assert (refused.waits, refused.why) == (False, "too many others were asked for and wait already: ask again later")


async def test_a_run_that_ended_is_started_anew_when_asked_again(store: Store, clock: Clock) -> None:
    scene = await made(store, clock, pages(PAGE))
    first = await scene.ask()
    await scene.ended()
    second = await scene.ask()
    await scene.ended()
    assert (second.started, second.run_id) == (True, (first.run_id or 0) + 1)


async def test_a_stopping_daemon_starts_nothing(scene: Scene) -> None:
    scene.engine.runs.draining = True
    assert (await scene.ask()).why == "the daemon is stopping"
    (answer,) = await ask_sources(scene.parts, ["slack"], workspace=None, sweep=False)
    assert answer.why == "the daemon is stopping"
    assert await scene.rows("cycles") == []


async def test_what_was_asked_for_is_drained_as_all_else(scene: Scene, gate: Gate) -> None:
    await scene.ask()
    await gate.reached.wait()
    await scene.engine.drain(0.01)
    (run,), (connection,) = await scene.rows("runs"), await scene.rows("connections")
    assert (run.status, connection.lease) == ("interrupted", None)


async def test_a_race_that_another_process_won_is_told(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = await made(store, clock, pages(PAGE))

    async def taken(*_: object, **__: object) -> list[object]:
        return []

    monkeypatch.setattr(store.connections, "claim_some", taken)
    answer = await scene.ask()
    assert (answer.started, answer.why.startswith("another process was faster")) == (False, True)


async def test_a_database_that_fails_is_told_to_who_asked(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = await made(store, clock, pages(PAGE))

    async def away(*_: object, **__: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr(store.connections, "claim_some", away)
    answer = await scene.ask()
    assert (answer.started, answer.why) == (False, "database: no route")


async def test_a_source_asked_for_reads_all_its_active_connections(store: Store, clock: Clock) -> None:
    scene = await made(store, clock, pages(PAGE))
    await scene.connect("w2")
    (answer,) = await ask_sources(scene.parts, ["slack"], workspace=None, sweep=False)
    await scene.ended()
    (cycle,) = await scene.rows("cycles")
    assert (answer.started, answer.cycle_id, cycle.successful_workspaces) == (True, cycle.id, 2)


async def test_a_workspace_asked_for_is_read_alone(store: Store, clock: Clock) -> None:
    scene = await made(store, clock, pages(PAGE))
    await scene.connect("w2")
    await ask_sources(scene.parts, ["slack"], workspace="w2", sweep=False)
    await scene.ended()
    assert [run.connection_id for run in await scene.rows("runs")] == [2]


async def test_why_a_source_has_nothing_to_read_is_counted_by_state(store: Store, clock: Clock) -> None:
    scene = await made(store, clock, pages(AuthError("revoked")))
    await scene.connect("w2")
    await scene.cycle(workspace="w1")
    await store.connections.set_active(2, active=False)
    words = "1 waiting for new credentials, 1 paused"
    assert await why_nothing(scene.parts, "slack", None) == words
    (answer,) = await ask_sources(scene.parts, ["slack"], workspace=None, sweep=False)
    assert answer == Asked(source="slack", why=f"nothing to read: {words}")
    assert await why_nothing(scene.parts, "slack", "w2") == "1 paused"
    assert await why_nothing(scene.parts, "slack", "nosuch") == "no connection of workspace nosuch"
