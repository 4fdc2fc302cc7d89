"""Connections: adding many or none, pausing, removing, and the old engine's names as views."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select, text

from syncd.credentials import Vault, generate_key
from syncd.policy import judge
from syncd.records import Message
from syncd.source import Page
from syncd.store import Database, Ended, Line, Store, Which
from syncd.tables import connections
from tests.conftest import Clock

VAULT = Vault([generate_key()])


def line(workspace: str = "acme", source: str = "slack", **more: Any) -> Line:
    return Line(workspace_id=workspace, source=source, credentials={"token": "t"}, **more)


async def row(store: Store, connection_id: int = 1) -> Any:
    async with store.database.read() as session:
        return (await session.execute(select(connections).where(connections.c.id == connection_id))).one()


async def test_a_new_connection_is_active_ok_and_due(store: Store, clock: Clock) -> None:
    assert await store.connections.put([line()], VAULT.seal) == (1, 0)
    found = await row(store)
    assert (found.is_active, found.status, found.next_sync_at, found.settings) == (True, "ok", clock(), {})


async def test_the_key_of_a_connection_is_source_workspace_and_account(store: Store) -> None:
    await store.connections.put([line(), line(account="b"), line(source="gong"), line("other")], VAULT.seal)
    assert await store.connections.put([line(), line(account="b")], VAULT.seal) == (0, 2)


async def test_of_many_lines_all_or_none_are_stored(store: Store) -> None:
    def refuse(connection_id: int, credentials: Any) -> str:
        if connection_id == 2:
            raise RuntimeError
        return "sealed"

    with pytest.raises(RuntimeError):
        await store.connections.put([line("a"), line("b")], refuse)
    assert await store.connections.all() == []


async def test_an_update_keeps_what_it_does_not_name(store: Store) -> None:
    await store.connections.put([line(settings={"channels": ["C1"]})], VAULT.seal)
    sealed = (await row(store)).credentials
    await store.connections.put([Line(workspace_id="acme", source="slack", is_active=False)], VAULT.seal)
    found = await row(store)
    assert (found.settings, found.credentials, found.is_active) == ({"channels": ["C1"]}, sealed, False)


async def test_new_credentials_do_not_end_a_pause(store: Store) -> None:
    await store.connections.put([line()], VAULT.seal)
    await store.connections.set_active(1, active=False)
    await store.connections.put([line()], VAULT.seal)
    assert (await row(store)).is_active is False


async def test_a_connection_without_a_workspace_is_not_claimed(store: Store) -> None:
    await store.connections.put([line(source="gmail")], VAULT.seal)
    async with store.database.write() as session:
        await session.execute(text("UPDATE connections SET workspace_id = NULL"))
    cycle_id = await store.cycles.begin("gmail", "cli", None)
    assert await store.connections.claim("gmail", "l", cycle_id, due=None) is None


async def test_the_one_that_waits_longest_is_claimed_first(store: Store, clock: Clock) -> None:
    await store.connections.put([line("late")], VAULT.seal)
    clock.advance(minutes=-5)
    await store.connections.put([line("early")], VAULT.seal)
    clock.advance(minutes=5)
    cycle_id = await store.cycles.begin("slack", "cli", None)
    claimed = await store.connections.claim("slack", "l", cycle_id, due=None)
    assert claimed is not None
    assert claimed[0].workspace_id == "early"


async def test_removing_keeps_the_records_and_forgets_the_credentials(store: Store) -> None:
    await _with_a_message(store)
    assert await store.connections.remove(1)
    found = await row(store)
    assert (found.credentials, found.is_active) == (None, False)
    assert (await store.looks.counts())["messages"] == 1


async def test_a_removed_connection_can_be_added_again(store: Store) -> None:
    await store.connections.put([line()], VAULT.seal)
    await store.connections.remove(1)
    await store.connections.put([line()], VAULT.seal)
    found = await row(store)
    assert found.is_active
    assert found.credentials is not None


async def test_an_id_is_never_given_twice(store: Store) -> None:
    """A secret names the id it was sealed for: a new connection must not inherit it."""
    await store.connections.put([line()], VAULT.seal)
    await store.purges.purge(Which(only=1), by="me")
    await store.connections.put([line()], VAULT.seal)
    assert [one.id for one in await store.connections.all()] == [2]


async def test_what_is_not_there_is_said(store: Store) -> None:
    assert not await store.connections.set_active(99, active=False)
    assert not await store.connections.remove(99)


async def _with_a_message(store: Store) -> None:
    await store.connections.put([line()], VAULT.seal)
    cycle_id = await store.cycles.begin("slack", "cli", None)
    claimed = await store.connections.claim("slack", "l", cycle_id, due=None)
    assert claimed is not None
    connection, run_id = claimed
    record = Message(external_id="C1:1.0", conversation_id="C1", raw={"a": 1}, text="hello")
    await store.pages.checkpoint(
        [("messages", Page(records=[record], cursor="c"))],
        connection_id=1,
        lease="l",
        run_id=run_id,
        records=1,
        calls=1,
    )
    now = store.connections._now()
    await store.cycles.finish_run(
        run_id, connection, "l", Ended(verdict=judge(None, now=now, next_turn=now, failures=0))
    )


async def test_the_old_names_are_views(store: Store) -> None:
    await store.connections.put(
        [line(), line(source="gong"), line(source="fathom"), line(source="gmail", account="a@b.example")], VAULT.seal
    )
    async with store.database.read() as session:
        assert (
            await session.execute(text("SELECT id, workspace_id, provider, is_active FROM integrations"))
        ).all() == [(1, "acme", "slack", True)]
        kinds = await session.execute(text("SELECT connector_type FROM workspace_connectors ORDER BY id"))
        assert [kind for (kind,) in kinds] == ["gong", "fathom"]
        assert (await session.execute(text("SELECT email FROM gmail_accounts"))).scalar_one() == "a@b.example"


async def test_an_update_through_an_old_name_pauses_the_connection(postgres_url: str, clock: Clock) -> None:
    database = Database(postgres_url)
    store = Store(database, clock)
    await store.connections.put([line("a"), line("b")], VAULT.seal)
    async with database.write() as session:
        await session.execute(text("UPDATE integrations SET is_active = false WHERE workspace_id = 'a'"))
    cycle_id = await store.cycles.begin("slack", "cli", None)
    claimed = await store.connections.claim("slack", "l", cycle_id, due=None)
    assert claimed is not None
    assert claimed[0].workspace_id == "b"
    await database.close()


async def test_the_reading_view_names_the_workspace_and_hides_what_is_deleted(store: Store) -> None:
    await _with_a_message(store)
    async with store.database.write() as session:
        assert (await session.execute(text("SELECT workspace_id, text FROM slack_messages"))).all() == [
            ("acme", "hello")
        ]
        await session.execute(text("UPDATE messages SET deleted_at = updated_at"))
        assert (await session.execute(text("SELECT * FROM slack_messages"))).all() == []


@pytest.mark.parametrize("view", ["slack_messages", "gong_calls", "fathom_sessions", "gmail_threads", "gmail_messages"])
async def test_no_reading_view_has_a_sealed_column(store: Store, view: str) -> None:
    async with store.database.read() as session:
        names = set((await session.execute(text(f"SELECT * FROM {view}"))).keys())
    assert "workspace_id" in names
    assert "credentials" not in names
