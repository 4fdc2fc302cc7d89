"""Tokens that expire again and again, renewed by several processes: by the vendors' own ledger none is sent twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from random import Random
from typing import Any

import pytest

from syncd import renewal
from syncd.check import asked
from syncd.credentials import Vault
from syncd.daemon import Parts, open_parts
from syncd.sandbox.world import Options
from syncd.settings import Settings
from syncd.sources import SOURCES
from syncd.store import Store, renewals
from syncd.tasks import all_of
from tests.chaos.forks import Forks
from tests.chaos.place import KEY, TINY, Place, place, until
from tests.chaos.seeds import LENGTH, REPLAY, dice

ROUNDS = LENGTH or 2
HALF_A_DAY = timedelta(hours=12)  # Slack's tokens end after it, Gong's after two, the others' after an hour
WAIT_FOR_A_PERSON = "SELECT source, workspace_id FROM connections WHERE status <> 'ok' ORDER BY 1, 2"
WHO_IS_WELL = "SELECT id FROM connections WHERE status = 'ok'"
RIGHT = timedelta(seconds=1)  # instead of 30: who waits for a dead process waits in real time
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
async def test_random_kills_and_revocations_lose_no_other_connection(
    database_url: str, forks: Forks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many half days as SYNCD_CHAOS says, 180 = 90 days; each time one of two daemons is killed while both read and
    renew, and now and then a vendor revokes a connection.

    Fathom's tokens are lost with who held the answer: there a person connects again, and nowhere else.
    """
    monkeypatch.setattr(renewal, "RIGHT", RIGHT)  # PostgreSQL counts it by its own clock
    monkeypatch.setattr(renewals, "RIGHT", RIGHT)
    throw, figures = dice("renewals", database_url.partition(":")[0]), Counter[str]()
    grace = {f"{name}.refresh_grace_s": "864000" for name in ("slack", "gong")}
    async with AsyncExitStack() as stack:
        spot = await stack.enter_async_context(stage(database_url, **grace))
        hasty(spot)
        configured = Settings(**spot.settings)
        other = await stack.enter_async_context(open_parts(configured, now=spot.clock.now))
        for _ in range(ROUNDS):
            spot.pass_time(HALF_A_DAY)
            begun_with, before = len(spot.box.world.renewals), await spot.rows(WHO_IS_WELL)
            revoked = revokes(spot, throw) if throw.random() < 0.1 else []
            killed = await killed_beside(spot, forks, other, throw)
            lost = await spot.rows(WAIT_FOR_A_PERSON)
            assert set(revoked) <= set(lost), REPLAY
            taken = set(lost) - set(revoked)
            assert taken <= ({("fathom", "northwind")} if killed else set()), REPLAY
            assert len(before) == 2 * len(SOURCES), REPLAY
            again = [one for one in spot.box.world.renewals[begun_with:] if one.again and one.vendor != "gmail"]
            assert killed or not again, REPLAY
            assert len({(one.vendor, one.workspace) for one in again}) == len(again), REPLAY
            figures.update(killed=killed, revoked=len(revoked), lost=len(taken), again=len(again))
            for source, workspace in revoked:
                spot.box.vendors[source].act(workspace, "restore", {})
            await spot.reconnect()
        figures["renewals"] = len(spot.box.world.renewals)
    print(f"{ROUNDS} half days on {database_url.partition(':')[0]}: {dict(figures)}")  # noqa: T201 - by pytest -rP


def hasty(spot: Place) -> None:
    """Without limits of our own, by which ninety days would take hours; and no daemon takes all connections at once."""
    for name in SOURCES:
        known = Settings.model_fields["sources"].annotation.model_fields[name].annotation.vendor_limits
        spot.settings["sources"][name] |= {"limits": dict.fromkeys(known, "1000/1s"), "concurrency": 1}


def revokes(spot: Place, throw: Random) -> list[tuple[Any, ...]]:
    """A vendor takes a connection's right away."""
    source, workspace = throw.choice(list(SOURCES)), throw.choice(list(spot.box.world.companies))
    spot.box.vendors[source].act(workspace, "revoke", {})
    return [(source, workspace)]


async def killed_beside(spot: Place, forks: Forks, other: Parts, throw: Random) -> bool:
    """A turn by two daemons of which one is killed, and a turn by the other once the dead one's leases are over;
    answers whether the kill found it alive.
    """
    for source, endpoint in ENDPOINTS.items():  # or few kills would meet a token on its way
        slow = {"kind": "slow", "vendor": source, "method": endpoint, "seconds": throw.uniform(0, 0.4)}
        spot.box.world.faults.add(slow)
    renewals, renewing = len(spot.box.world.renewals), throw.random() < 0.5
    victim = await spot.turn(forks, right_s=RIGHT.total_seconds())

    async def at_work() -> bool:
        reads = "SELECT id FROM connections WHERE lease IS NOT NULL"
        far = len(spot.box.world.renewals) > renewals if renewing else bool(await spot.rows(reads))
        return far or await victim.ended()

    await until(at_work)
    killed, *_ = await asyncio.gather(victim.killed_after(throw.uniform(0, 0.4)), reads(other))
    spot.box.world.faults.rules.clear()
    spot.pass_time(timedelta(minutes=6))
    await reads(other)
    return killed


async def reads(parts: Parts) -> None:
    await all_of(parts.engine.cycle(name, trigger="cli") for name in SOURCES)
