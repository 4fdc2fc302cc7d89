"""The month's clock and its player, and what the control endpoint tells of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest

from syncd.sandbox.app import Sandbox
from syncd.sandbox.month import Event, Month, Ref
from syncd.sandbox.month_script import script
from syncd.sandbox.world import Clock, Options, World

ONE = Options(workspaces=1, days=1, limits=False)
POST = Event(timedelta(hours=2), "slack", "post", {"text": "Hello"}, "hello")
EDIT = Event(timedelta(hours=3), "slack", "edit", {"ts": Ref("hello", "ts"), "text": "Good bye"})
Start = Callable[..., Awaitable[Sandbox]]


def texts(box: Sandbox) -> set[str]:
    return {raw["text"] for raw in box.slack.holdings("acme")["messages"].values()}


async def test_only_what_is_due_is_acted_out_and_it_finds_what_earlier_events_made(sandbox: Start) -> None:
    box = await sandbox(ONE)
    month = Month(box, "acme", [EDIT, POST])
    assert month.play(box.world.born + timedelta(hours=1)) == []
    assert month.play(box.world.born + timedelta(hours=2)) == [POST]
    assert "Hello" in texts(box)
    assert month.next_at == box.world.born + timedelta(hours=3)
    assert month.play(box.world.born + timedelta(hours=9)) == [EDIT]
    assert "Good bye" in texts(box)
    assert month.next_at is None


async def test_playing_moves_no_clock(sandbox: Start) -> None:
    box = await sandbox(ONE)
    Month(box, "acme", [POST]).play(box.world.born + timedelta(days=1))
    assert box.world.clock.now() == box.world.born


async def test_a_clock_that_runs_fast_reaches_every_event_of_the_script(sandbox: Start) -> None:
    box = await sandbox(ONE, World(ONE, Clock(speed=50_000_000)))
    played = [event async for event in Month(box, "acme", script()).as_time_goes_by()]
    assert played == script()
    assert box.world.clock.now() >= box.world.born + script()[-1].at


def test_an_hour_of_a_fast_clock_is_so_many_times_shorter() -> None:
    clock = Clock(datetime(2026, 1, 5, tzinfo=UTC), speed=3600)
    assert clock.real_s(clock.now() + timedelta(hours=1)) == pytest.approx(1.0, abs=0.1)
    assert clock.real_s(clock.now() - timedelta(hours=1)) == 0


async def test_the_script_has_every_action_that_changes_a_vendors_data(sandbox: Start) -> None:
    box = await sandbox(ONE)
    aside = {"revoke", "restore", "scopes", "rotate", "fail", "service_account", "ripen"}
    acted = {(event.vendor, event.action) for event in script()}
    missing = {
        (name, action)
        for name, vendor in box.vendors.items()
        for action in vendor.actions
        if action not in aside and (name, action) not in acted
    }
    assert missing == set()


async def test_holdings_are_told_by_vendor_and_workspace(sandbox: Start) -> None:
    box = await sandbox(ONE)
    async with aiohttp.ClientSession(box.base) as session:
        async with session.get("/control/holdings", params={"vendor": "gong", "workspace": "acme"}) as answer:
            assert await answer.json() == {"gong": {"acme": box.gong.holdings("acme")}}
        async with session.get("/control/holdings", params={"vendor": "zoom"}) as answer:
            assert answer.status == 404
