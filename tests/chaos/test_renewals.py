"""Tokens that expire again and again, renewed by several processes: by the vendors' own ledger none is sent twice."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta

import pytest

from syncd.cli.connections import asked
from syncd.credentials import Vault
from syncd.daemon import Parts, open_parts
from syncd.sandbox.world import Options
from syncd.settings import Settings
from syncd.sources import SOURCES
from syncd.store import Store
from syncd.tasks import all_of
from tests.chaos.forks import Forks
from tests.chaos.place import KEY, TINY, Place, place, until
from tests.chaos.seeds import LENGTH, REPLAY, dice

ROUNDS = LENGTH or 2
HALF_A_DAY = timedelta(hours=12)  # Slack's tokens end after it, Gong's after two, the others' after an hour
WAIT_FOR_A_PERSON = "SELECT source, workspace_id FROM connections WHERE status <> 'ok' ORDER BY 1, 2"
ENDPOINTS = {"slack": "oauth.v2.access", "gong": "oauth2/generate-customer-token", "fathom": "oauth2/token"}


async def begun(spot: Place) -> None:
    """Every connection with tokens that end, where its vendor has such."""
    for workspace in spot.box.world.companies:
        spot.box.slack.act(workspace, "rotate", {})
    await Store(spot.database, spot.clock.now).connections.put(spot.lines(), Vault([KEY]).seal)


@asynccontextmanager
async def stage(database_url: str, **switches: str) -> AsyncIterator[Place]:
    """Two workspaces; only the second has OAuth at each vendor."""
    async with place(database_url, Options(workspaces=2, limits=False, switches=switches, **TINY)) as spot:
        await begun(spot)
        yield spot


def twice(spot: Place) -> list[str]:
    """The refresh tokens that came again though they are good for one use."""
    return [str(one) for one in spot.box.world.renewals if one.again and one.vendor != "gmail"]


def sent(spot: Place, source: str) -> int:
    return sum(one.vendor == source for one in spot.box.world.renewals)


async def used(parts: list[Parts]) -> None:
    """All at once: each process runs a turn of each source, and checks each connection as a person does."""
    cycles = [one.engine.cycle(name, trigger="cli") for one in parts for name in SOURCES]
    checks = [asked(one, it) for one in parts for it in await one.store.connections.all()]
    reports = (await all_of([*cycles, *checks]))[len(cycles) :]
    assert [report.problems for report in reports if report.problems] == []


async def test_two_processes_keep_every_connection_alive(database_url: str) -> None:
    """Each at work on all connections at the same moments, whenever their tokens have ended."""
    async with AsyncExitStack() as stack:
        spot = await stack.enter_async_context(stage(database_url))
        configured = Settings(**spot.settings)
        parts = [await stack.enter_async_context(open_parts(configured, now=spot.clock.now)) for _ in range(2)]
        for _ in range(ROUNDS):
            spot.pass_time(HALF_A_DAY)
            await used(parts)
            assert await spot.rows(WAIT_FOR_A_PERSON) == []
        assert twice(spot) == []
        ended = {"slack": 2 * ROUNDS, "gong": ROUNDS // 2, "fathom": ROUNDS, "gmail": 2 * ROUNDS}
        assert {name: sent(spot, name) for name in SOURCES} == ended


async def killed_with_the_answer_on_its_way(spot: Place, forks: Forks, *sources: str) -> None:
    """Processes whose refresh token is spent and that never hear what for, one at each vendor."""
    spot.pass_time(4 * HALF_A_DAY)
    for source in sources:
        hang = {"kind": "hang", "vendor": source, "method": ENDPOINTS[source], "seconds": 60}
        spot.box.world.faults.add(hang)
        fork = await forks.cycle(spot.settings, at=spot.clock.now(), sources=(source,))
        await until(lambda source=source: sent(spot, source) > 0)  # type: ignore[misc]
        fork.kill()
        await fork.wait()
    spot.box.world.faults.rules.clear()
    spot.pass_time(timedelta(minutes=6))  # their leases are over


async def test_a_crash_with_the_answer_on_its_way_is_survived_within_the_vendors_grace(
    sqlite_url: str, forks: Forks
) -> None:
    async with stage(sqlite_url, **{"slack.refresh_grace_s": "3600", "gong.refresh_grace_s": "3600"}) as spot:
        await killed_with_the_answer_on_its_way(spot, forks, "slack", "gong")
        again = await forks.cycle(spot.settings, at=spot.clock.now(), sources=("slack", "gong"))
        assert await again.wait() == 0
        assert await spot.rows(WAIT_FOR_A_PERSON) == []
        assert len(twice(spot)) >= 2


async def test_without_a_grace_the_spent_token_is_tried_once_more_and_waits_for_a_person(
    sqlite_url: str, forks: Forks
) -> None:
    async with stage(sqlite_url) as spot:
        await killed_with_the_answer_on_its_way(spot, forks, "gong", "fathom")
        for _ in range(2):
            spot.pass_time(timedelta(hours=1))
            fork = await forks.cycle(spot.settings, at=spot.clock.now(), sources=("gong", "fathom"))
            await fork.wait()
            assert await spot.rows(WAIT_FOR_A_PERSON) == [("fathom", "northwind"), ("gong", "northwind")]
        assert len(twice(spot)) == 2


@pytest.mark.parametrize("source", SOURCES)
async def test_a_revoked_connection_waits_for_a_person_after_one_turn(sqlite_url: str, source: str) -> None:
    async with AsyncExitStack() as stack:
        spot = await stack.enter_async_context(stage(sqlite_url))
        settings = Settings(**spot.settings)
        parts = await stack.enter_async_context(open_parts(settings, now=spot.clock.now))
        spot.box.vendors[source].act("northwind", "revoke", {})
        for _ in range(2):
            spot.pass_time(4 * HALF_A_DAY)
            await parts.engine.cycle(source, trigger="cli")
            assert await spot.rows(WAIT_FOR_A_PERSON) == [(source, "northwind")]
        of_it = [one for one in spot.box.world.renewals if one.workspace == "northwind"]
        assert [one.granted for one in of_it] == [False]


@pytest.mark.skipif(not LENGTH, reason="takes minutes: with SYNCD_CHAOS")
async def test_random_kills_lose_no_token_that_its_vendor_takes_again(sqlite_url: str, forks: Forks) -> None:
    """As many half days as SYNCD_CHAOS says; each time one of two processes is killed while it reads and renews.

    Fathom's tokens are lost with who held the answer: there a person connects again, and nowhere else.
    """
    throw = dice("renewals")
    grace = {f"{name}.refresh_grace_s": "864000" for name in ("slack", "gong")}
    async with stage(sqlite_url, **grace) as spot:
        for _ in range(ROUNDS):
            spot.pass_time(HALF_A_DAY)
            before = len(spot.box.world.renewals)
            slow = spot.box.world.faults.add({"kind": "slow", "seconds": throw.uniform(0, 0.1)})
            victim, other = [await spot.turn(forks) for _ in range(2)]
            killed = await victim.killed_after(throw.uniform(0.05, 1))
            await other.wait()
            spot.box.world.faults.rules.remove(slow)
            spot.pass_time(timedelta(minutes=6))
            await (await spot.turn(forks)).wait()
            lost = await spot.rows(WAIT_FOR_A_PERSON)
            assert lost in ([], [("fathom", "northwind")]), REPLAY
            assert killed or not lost, REPLAY
            again = [one for one in spot.box.world.renewals[before:] if one.again and one.vendor != "gmail"]
            assert killed or not again, REPLAY
            assert len({(one.vendor, one.workspace) for one in again}) == len(again), REPLAY
            await spot.reconnect()
