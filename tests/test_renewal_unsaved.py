"""Tokens that could not be stored when they came are kept, and stored as soon as the database answers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from syncd.credentials import Vault, generate_key
from syncd.daemon import open_parts
from syncd.errors import LeaseLost, Transient
from syncd.renewal import Kept
from syncd.settings import Settings
from tests.renewing import NEW, Away, Two, two

__all__ = ["two"]


@pytest_asyncio.fixture
async def away(two: Two, monkeypatch: pytest.MonkeyPatch) -> Away:
    """Tokens came, and could not be stored."""
    monkeypatch.setattr("syncd.renewal._AGAIN_S", 0.01)
    gone = Away(two, monkeypatch)
    with pytest.raises(OperationalError):
        await two.vendor.ask(await two.link())
    return gone


async def test_tokens_that_came_while_the_database_was_away_are_stored_when_it_is_back(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = Away(two, monkeypatch)
    with pytest.raises(OperationalError):
        await two.vendor.ask(await two.link())
    away.is_back = True
    assert await two.vendor.ask(await two.link()) == "access1"
    assert two.vendor.sent == ["refresh0"]
    assert await two.held() == NEW


async def test_they_are_stored_without_another_turn(two: Two, away: Away) -> None:
    away.is_back = True
    await two.stored()
    assert await two.held() == NEW
    assert (await two.row()).renewing is None


async def test_another_process_that_takes_the_connection_meanwhile_waits_for_them(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would send the token that is spent."""
    away = Away(two, monkeypatch)
    with pytest.raises(OperationalError):
        await two.vendor.ask(await two.link(0))
    away.is_back = True
    assert await two.vendor.ask(await two.link(1)) == "access1"
    assert two.vendor.sent == ["refresh0"]


async def test_a_cycle_stores_them_before_it_claims(two: Two, away: Away) -> None:
    """Another process sent the spent one meanwhile, and the connection waits for a person in vain."""
    await two.set(status="needs_reauth", next_sync_at=None)
    away.is_back = True
    assert (await two.benches[0].cycle())["successful_workspaces"] == 1


async def test_a_process_that_ends_stores_them(two: Two, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    key = generate_key()
    connection = await two.store.connections.get(1)
    assert connection is not None
    sealed = Vault([key]).seal(1, {"access_token": "access0"})
    await two.set(credentials=sealed)
    async with open_parts(Settings(database={"url": database_url}, secret_keys=key)) as parts:  # type: ignore[arg-type]
        parts.engine.runs.unsaved.keep(Kept(connection, "ours", sealed, NEW))
    assert Vault([key]).open(1, (await two.row()).credentials) == NEW


async def test_they_are_not_waited_for_for_ever(two: Two, away: Away) -> None:
    """What then is lost is told, without a word of the tokens."""
    with capture_logs() as logs:
        await two.benches[0].engine.runs.unsaved.close(0.05)
    assert [line for line in logs if line["log_level"] != "debug"] == [
        {"event": "token.lost", "log_level": "error", "connections": [1]}
    ]


async def test_what_a_person_stored_meanwhile_is_not_replaced(two: Two, away: Away) -> None:
    await two.set(credentials=two.benches[0].vault.seal(1, {"access_token": "a person's"}))
    away.is_back = True
    await two.stored()
    assert await two.held() == {"access_token": "a person's"}


async def test_what_another_process_has_replaced_is_not_kept(two: Two) -> None:
    link = await two.link()
    await two.set(credentials=two.benches[0].vault.seal(1, {"access_token": "theirs"}))
    with pytest.raises(LeaseLost):
        await link.save(NEW)
    assert two.benches[0].engine.runs.unsaved.of(1) is None


async def test_of_a_connection_that_was_erased_nothing_is_kept(two: Two, away: Away) -> None:
    await two.set(credentials=None)
    await two.stored()
    assert (await two.row()).credentials is None


async def test_while_another_renews_they_are_kept(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have sent the same token, and have newer ones in a moment; or be refused."""
    monkeypatch.setattr("syncd.renewal._AGAIN_S", 0.01)
    connection = await two.store.connections.get(1)
    assert connection is not None
    unsaved = two.benches[0].engine.runs.unsaved
    async with (await two.link(1)).alone():
        unsaved.keep(Kept(connection, "whose right ran out", str(connection.sealed), NEW))
        assert not await unsaved.stored(0.2)
    await two.stored()
    assert await two.held() == NEW


async def test_who_is_cut_while_it_stores_them_keeps_them(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the database hangs longer than a run that is cut may take."""
    monkeypatch.setattr("syncd.renewal._AGAIN_S", 0.01)
    monkeypatch.setattr("syncd.http._LAST_WORD_S", 0.05)
    save, hangs = two.store.renewals.save, asyncio.Event()

    async def hanging(*given: Any, **more: Any) -> None:
        if not hangs.is_set():
            hangs.set()
            await asyncio.sleep(60)
        await save(*given, **more)

    monkeypatch.setattr(two.store.renewals, "save", hanging)
    renews = two.begin(two.vendor.ask(await two.link()))
    await hangs.wait()
    renews.cancel()
    with pytest.raises(asyncio.CancelledError):
        await renews
    await two.stored()
    assert await two.held() == NEW


async def test_who_waits_in_vain_for_the_right_to_store_them_keeps_them(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncd.renewal._AGAIN_S", 0.01)
    frozen, other = await two.link(0, patience_s=0.2), await two.link(1)
    async with frozen.alone():
        frozen.alone.__self__._until_s = 0.0  # type: ignore[attr-defined]
        await two.set(renewing=None, renewing_until=None)
        async with other.alone():
            with pytest.raises(Transient, match="another process renews"):
                await frozen.save(NEW)
    await two.stored()
    assert await two.held() == NEW
