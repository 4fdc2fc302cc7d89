"""The change of the key, while others read, renew and replace what is sealed."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Any

import pytest
from sqlalchemy import text

from syncd.credentials import Vault, generate_key
from syncd.errors import LeaseLost
from syncd.store import Line, Rotation, Store
from tests.process import environment
from tests.scripted import Bench, pages, source

OLD, NEW = generate_key(), generate_key()
BOTH = Vault([NEW, OLD])


def line(name: str, token: str = "t") -> Line:
    return Line(workspace_id=name, source="slack", credentials={"token": token})


async def stored(store: Store, connection_id: int = 1) -> str:
    found = await store.connections.get(connection_id)
    assert found is not None
    assert found.sealed is not None
    return found.sealed


@pytest.fixture
async def five(store: Store) -> Store:
    """Five connections, sealed with the old key."""
    await store.connections.put([line(f"w{at}") for at in range(5)], Vault([OLD]).seal)
    return store


async def test_all_open_with_the_first_key_alone_afterwards(five: Store) -> None:
    done = await five.seals.rotate(BOTH.reseal, size=2)
    assert (done.total, done.resealed, done.kept, done.refused) == (5, 5, 0, {})
    for one in range(1, 6):
        assert Vault([NEW]).open(one, await stored(five, one)) == {"token": "t"}


async def test_what_the_first_key_sealed_already_is_not_written_again(five: Store) -> None:
    await five.connections.put([line("w1")], BOTH.seal)
    before = await stored(five, 2)
    done = await five.seals.rotate(BOTH.reseal)
    assert (done.resealed, done.kept) == (4, 1)
    assert await stored(five, 2) == before


async def test_the_progress_is_told_after_each_batch(five: Store) -> None:
    heard: list[tuple[int, int]] = []
    await five.seals.rotate(BOTH.reseal, size=2, told=lambda now: heard.append((now.done, now.total)))
    assert heard == [(2, 5), (4, 5), (5, 5)]


async def test_a_rotation_that_was_cut_goes_on_where_it_was(five: Store) -> None:
    def cut(now: Rotation) -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await five.seals.rotate(BOTH.reseal, size=2, told=cut)
    done = await five.seals.rotate(BOTH.reseal, size=2)
    assert (done.resealed, done.kept) == (3, 2)


async def test_one_that_cannot_be_opened_is_named_and_the_others_are_done(five: Store) -> None:
    await five.connections.put([line("w1")], Vault([generate_key()]).seal)
    lost = await stored(five, 2)
    done = await five.seals.rotate(BOTH.reseal, size=2)
    assert done.resealed == 4
    assert list(done.refused) == [2]
    assert "connection 2" in done.refused[2]
    assert await stored(five, 2) == lost


async def test_what_is_no_secret_at_all_is_named_as_well(five: Store) -> None:
    async with five.database.write() as session:
        await session.execute(text("UPDATE connections SET credentials = 'ø' WHERE id = 2"))
    assert list((await five.seals.rotate(BOTH.reseal)).refused) == [2]


@pytest.mark.parametrize("with_key", [OLD, NEW], ids=["old", "new"])
async def test_credentials_renewed_meanwhile_are_not_lost(five: Store, with_key: str) -> None:
    """Between the look at the old ones and their replacement, by a daemon that knows both keys or only the old one."""
    replace, renewed = five.seals._replace, False

    async def late(batch: Any) -> list[int]:
        nonlocal renewed
        if not renewed:
            renewed = True
            fresh = Vault([with_key]).seal(2, {"token": "renewed"})
            await five.renewals.save(2, fresh, instead_of=lambda _: True)
        return await replace(batch)

    five.seals._replace = late  # type: ignore[method-assign]
    done = await five.seals.rotate(BOTH.reseal)
    assert Vault([NEW]).open(2, await stored(five, 2)) == {"token": "renewed"}
    assert (done.done, done.refused) == (5, {})


async def test_new_credentials_during_a_check_are_saved_though_the_key_changed(store: Store) -> None:
    """A check has no lease: it knows the old pair by what it holds, not by how it was sealed."""
    bench = Bench(store, source(pages()))
    bench.engine.runs._vault = BOTH
    await store.connections.put([line("acme")], Vault([OLD]).seal)
    connection = await store.connections.get(1)
    assert connection is not None
    link = bench.engine.runs.link(bench.engine.plans["slack"], connection, {"token": "t"})
    await store.seals.rotate(BOTH.reseal)
    await link.save({"token": "renewed"})
    assert BOTH.open(1, await stored(store)) == {"token": "renewed"}


async def test_others_put_in_their_place_are_not_overwritten_by_a_check(store: Store) -> None:
    bench = Bench(store, source(pages()))
    await bench.connect("acme")
    connection = await store.connections.get(1)
    assert connection is not None
    link = bench.engine.runs.link(bench.engine.plans["slack"], connection, {"token": "t-acme"})
    await store.connections.put([line("acme", "other")], bench.vault.seal)
    with pytest.raises(LeaseLost):
        await link.save({"token": "renewed"})
    assert bench.vault.open(1, await stored(store)) == {"token": "other"}


KILLED_AFTER_A_BATCH = """
import asyncio, os, sys
from syncd.credentials import Vault
from syncd.store import Database, Store

store = Store(Database(sys.argv[1]), None)
asyncio.run(store.seals.rotate(Vault(sys.argv[2:]).reseal, size=2, told=lambda _: os.kill(os.getpid(), 9)))
"""


async def test_a_killed_rotation_leaves_all_to_be_opened_and_is_repeated(five: Store, database_url: str) -> None:
    """``kill -9`` of a real process in mid-way."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED_AFTER_A_BATCH, database_url, NEW, OLD, env=environment()
    )
    assert await process.wait() == -signal.SIGKILL
    assert [BOTH.open(one.id, one.sealed) for one in await five.connections.all()] == [{"token": "t"}] * 5
    done = await five.seals.rotate(BOTH.reseal)
    assert (done.resealed, done.kept) == (3, 2)
