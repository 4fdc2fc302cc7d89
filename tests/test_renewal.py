"""Renewing tokens from several tasks and processes: no refresh token is sent twice, no token that came is lost."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from syncd.errors import AuthError, LeaseLost, Transient
from syncd.store.renewals import RIGHT
from syncd.tasks import all_of
from tests.renewing import NEW, Two, two

__all__ = ["two"]


async def test_all_who_want_to_renew_at_once_send_the_token_once(two: Two) -> None:
    links = [await two.link(at % 2) for at in range(6)]
    assert await all_of(two.vendor.ask(link) for link in links) == ["access1"] * 6
    assert two.vendor.sent == ["refresh0"]
    assert await two.held() == NEW


async def test_a_token_that_another_process_renewed_is_found_after_a_refusal(two: Two) -> None:
    early, late = await two.link(0), await two.link(1)
    await two.vendor.ask(early)
    assert await two.vendor.ask(late) == "access1"
    assert two.vendor.sent == ["refresh0"]
    assert {"access1", "refresh1"} <= late.secrets


async def test_what_another_process_stored_is_renewed_when_that_is_refused_too(two: Two) -> None:
    early, late = await two.link(0), await two.link(1)
    await two.vendor.ask(early)
    two.vendor.good = "access2"
    assert await two.vendor.ask(late) == "access2"
    assert two.vendor.sent == ["refresh0", "refresh1"]


async def test_while_another_renews_it_is_waited_for_no_longer_than_patience_lasts(two: Two) -> None:
    two.vendor.answers.clear()
    renews = two.begin(two.vendor.ask(await two.link(0)))
    await two.vendor.asked.wait()
    with pytest.raises(Transient, match="another process renews"):
        async with asyncio.timeout(5):
            await two.vendor.ask(await two.link(1, patience_s=0.2))
    two.vendor.answers.set()
    assert await renews == "access1"
    assert two.vendor.sent == ["refresh0"]


@pytest.mark.parametrize("ago", [RIGHT, -RIGHT * 4], ids=["over", "of a time that the clock took back"])
async def test_a_dead_holder_frees_itself(two: Two, ago: timedelta) -> None:
    async with two.store.database.read() as session:
        now = await two.store.renewals._time(session)
    await two.set(renewing="the dead", renewing_until=now - ago)
    assert await two.vendor.ask(await two.link()) == "access1"


async def test_one_who_lives_keeps_its_right(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each third of it, while the vendor is slow."""
    for room in ("syncd.renewal", "syncd.store.renewals"):
        monkeypatch.setattr(f"{room}.RIGHT", timedelta(seconds=0.15))
    two.vendor.answers.clear()
    renews = two.begin(two.vendor.ask(await two.link(0)))
    await two.vendor.asked.wait()
    other = two.begin(two.vendor.ask(await two.link(1)))
    for _ in range(6):  # twice the right
        await asyncio.sleep(0.05)
        two.clock.advance(seconds=0.05)
    two.vendor.answers.set()
    assert await asyncio.gather(renews, other) == ["access1", "access1"]
    assert two.vendor.sent == ["refresh0"]


async def test_who_was_frozen_sends_nothing_once_another_may_renew(two: Two) -> None:
    link = await two.link()
    async with link.alone():
        link.alone.__self__._until_s = 0.0  # type: ignore[attr-defined]  # as after a freeze
        link.patience_s = 0.0
        assert link.refresh is not None
        with pytest.raises(Transient, match="another process may renew"):
            await link.refresh()
    assert two.vendor.sent == []


async def test_what_came_to_who_was_frozen_is_stored_unless_another_renewed(two: Two) -> None:
    frozen, other = await two.link(0), await two.link(1)
    async with frozen.alone():
        frozen.alone.__self__._until_s = 0.0  # type: ignore[attr-defined]
        await two.set(renewing=None, renewing_until=None)
        async with other.alone():
            late = two.begin(frozen.save(NEW))
            await asyncio.sleep(0.05)
            assert not late.done()
            await other.save({"access_token": "theirs"})
        with pytest.raises(LeaseLost):
            await late
    assert await two.held() == {"access_token": "theirs"}


async def test_tokens_are_stored_though_the_lease_ran_out_meanwhile(two: Two) -> None:
    """The vendor takes no others any more."""
    await two.set(lease="ours")
    link = await two.link(lease="ours")
    two.vendor.answers.clear()
    renews = two.begin(two.vendor.ask(link))
    await two.vendor.asked.wait()
    await two.set(lease="another daemon's")
    two.vendor.answers.set()
    assert await renews == "access1"
    assert await two.held() == NEW


async def test_they_are_stored_though_the_right_to_renew_ran_out_as_well(two: Two) -> None:
    await two.set(lease="ours")
    link = await two.link(lease="ours")
    async with link.alone():
        link.alone.__self__._until_s = 0.0  # type: ignore[attr-defined]  # as after a freeze
        await two.set(lease="another daemon's", renewing=None, renewing_until=None)
        await link.save(NEW)
    assert await two.held() == NEW


async def test_a_run_that_lost_its_lease_renews_nothing(two: Two) -> None:
    await two.set(lease="another daemon's")
    with pytest.raises(LeaseLost):
        await two.vendor.ask(await two.link(lease="ours"))
    assert two.vendor.sent == []


async def test_who_is_cut_while_the_vendor_answers_stores_what_comes(two: Two) -> None:
    two.vendor.answers.clear()
    renews = two.begin(two.vendor.ask(await two.link()))
    await two.vendor.asked.wait()
    renews.cancel()
    await asyncio.sleep(0)
    two.vendor.answers.set()
    with pytest.raises(asyncio.CancelledError):
        await renews
    assert await two.held() == NEW
    assert (await two.row()).renewing is None


async def test_a_database_that_is_busy_for_a_moment_loses_no_token(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncd.renewal._TRIES_S", (0.01,))
    save, refused = two.store.renewals.save, 1

    async def failing(*given: Any, **more: Any) -> None:
        nonlocal refused
        refused -= 1
        if refused >= 0:
            raise OperationalError("", {}, Exception("database is locked"))
        await save(*given, **more)

    monkeypatch.setattr(two.store.renewals, "save", failing)
    assert await two.vendor.ask(await two.link()) == "access1"
    assert await two.held() == NEW


async def test_tokens_that_came_late_wake_a_connection_that_waits_for_new_ones(two: Two) -> None:
    """As when one process was frozen with the vendor's answer, and another was refused meanwhile."""
    await two.set(status="needs_reauth", failures=3, next_sync_at=None)
    await (await two.link()).save(NEW)
    row = await two.row()
    assert (row.status, row.failures, row.next_sync_at) == ("ok", 0, two.store.renewals._now())


async def test_a_refused_refresh_leaves_the_right_to_others(two: Two) -> None:
    two.vendor.sent.append("refresh0")
    with pytest.raises(AuthError, match="invalid_grant"):
        await two.vendor.ask(await two.link())
    assert (await two.row()).renewing is None
