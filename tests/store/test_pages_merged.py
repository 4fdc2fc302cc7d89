"""Several pages in one transaction, on both databases: they do what they do one by one, for less."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import StatementError

from syncd.errors import LeaseLost
from syncd.records import Conversation, Deletion, Message, Person
from syncd.source import Page, Pending, Watch
from syncd.store import Counts, Database, Line, Store, rows
from tests.conftest import Clock
from tests.scripted import message

HOUR = timedelta(hours=1)
TABLES = ("people", "conversations", "messages", "cursors", "backlog", "watches")
STORED = Page(
    records=[message("1"), message("2"), message("gone"), Person(external_id="p", raw={"a": 1})],
    deletions=[Deletion(Message, "gone")],
    pending=[Pending("late", "new", stream="details"), Pending("own", "not ready")],
    watches=[Watch("w", HOUR), Watch("v", HOUR, stream="details")],
    partition="C1",
    cursor="0",
)
MANY = [message(f"{number:03}") for number in range(70)]
CASES: dict[str, list[tuple[str, Page]]] = {
    "one record twice": [
        ("m", Page(records=[message("1", words="x")])),
        ("m", Page(records=[message("1", words="y")])),
    ],
    "kinds": [
        ("m", Page(records=[message("3"), Conversation(external_id="c", raw={}, kind="channel")])),
        ("n", Page(records=[Person(external_id="p", raw={"a": 2}), message("2", words="x")])),
    ],
    "many": [("m", Page(records=MANY)), ("m", Page(records=[message("1"), message("007", words="x")]))],
    "deleted after": [
        ("m", Page(records=[message("3"), message("1", words="x")])),
        ("m", Page(deletions=[Deletion(Message, "1")])),
    ],
    "deleted before": [("m", Page(deletions=[Deletion(Message, "1")])), ("m", Page(records=[message("1", words="x")]))],
    "deleted in the same page": [
        (
            "m",
            Page(
                records=[message("3"), message("gone")],
                deletions=[Deletion(Message, "3"), Deletion(Message, "gone"), Deletion(Message, "2")],
            ),
        )
    ],
    "cursors": [
        ("m", Page(cursor="1", partition="C1")),
        ("n", Page(cursor="1")),
        ("m", Page(cursor="2", partition="C1")),
    ],
    "forgotten after": [("m", Page(cursor="1", partition="C2")), ("m", Page(forget=["C1", "C2"]))],
    "forgotten before": [("m", Page(forget=["C1"])), ("m", Page(cursor="1", partition="C1"))],
    "forgotten and set by one page": [("m", Page(forget=["C1"], cursor="1", partition="C1"))],
    "another stream's cursor stays": [("n", Page(forget=["C1"]))],
    "backlog": [
        ("m", Page(pending=[Pending("own", "still not"), Pending("late", "announced again", stream="details")])),
        (
            "m",
            Page(pending=[Pending("other", "new", after=HOUR), Pending("more", "new", stream="details", after=HOUR)]),
        ),
    ],
    "resolved": [("m", Page(resolved=["own", "unknown", "late"])), ("details", Page(resolved=["own", "late"]))],
    "pending and resolved": [("m", Page(pending=[Pending("3", "new"), Pending("own", "no")], resolved=["3", "own"]))],
    "watches": [
        ("m", Page(watches=[Watch("w", 2 * HOUR), Watch("x", HOUR)])),
        ("details", Page(watches=[Watch("w", HOUR)])),
    ],
    "unwatched": [("m", Page(unwatched=["w", "v"])), ("details", Page(watches=[Watch("z", HOUR)], unwatched=["z"]))],
    "nothing": [("m", Page()), ("n", Page())],
    "all": [
        ("m", Page(records=[message("3")], resolved=["own"], unwatched=["w"], cursor="9")),
        (
            "details",
            Page(
                records=MANY,
                deletions=[Deletion(Message, "2")],
                pending=[Pending("late", "no")],
                watches=[Watch("v", 2 * HOUR)],
                forget=["C1"],
                cursor="8",
            ),
        ),
    ],
}


class Stores:
    """Connections that hold the same."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.runs: dict[int, int] = {}

    async def begin(self, number: int) -> None:
        for one in range(1, number + 1):
            line = Line(workspace_id=f"w{one}", source="slack", credentials={"token": "t"})
            await self.store.connections.put([line], lambda _, __: "sealed")
            claimed = await self.store.connections.claim("slack", f"lease {one}", 1, due=None)
            assert claimed is not None
            self.runs[one] = claimed[1]
            await self.put(one, ("m", STORED))

    async def put(self, one: int, *pages: tuple[str, Page], lease: str = "") -> Counts:
        return await self.store.pages.checkpoint(
            pages,
            connection_id=one,
            lease=lease or f"lease {one}",
            run_id=self.runs[one],
            records=len(pages),
            calls=len(pages),
        )

    async def holds(self, one: int, *tables: str) -> dict[str, list[dict[str, Any]]]:
        found = {}
        async with self.store.database.read() as session:
            for table in tables:
                query = text(f"SELECT * FROM {table} WHERE connection_id = {one}")
                all_rows = [dict(row._mapping) | {"connection_id": 0} for row in await session.execute(query)]
                found[table] = sorted(all_rows, key=str)
        return found


@pytest.fixture
def stores(store: Store) -> Stores:
    return Stores(store)


@pytest.mark.parametrize("case", list(CASES))
async def test_pages_together_leave_what_they_leave_one_by_one(stores: Stores, clock: Clock, case: str) -> None:
    await stores.begin(2)
    clock.advance(hours=1)
    for page in CASES[case]:
        await stores.put(1, page)
    await stores.put(2, *CASES[case])
    assert await stores.holds(2, *TABLES) == await stores.holds(1, *TABLES)


async def test_the_run_counts_pages_together(stores: Stores) -> None:
    await stores.begin(1)
    new = Page(
        records=[message("3"), message("2", words="x")], deletions=[Deletion(Message, "3"), Deletion(Message, "1")]
    )
    assert await stores.put(1, ("m", new), ("m", Page())) == Counts(added=1, changed=1, deleted=2)
    (run,) = (await stores.holds(1, "runs"))["runs"]
    assert [run[name] for name in ("records", "added", "changed", "deleted", "calls")] == [3, 5, 1, 3, 2]


async def test_what_pages_changed_is_told_by_table(stores: Stores) -> None:
    await stores.begin(1)
    counts = await stores.put(1, ("m", Page(records=[message("3"), Person(external_id="p", raw={})])))
    assert counts.kinds == {("messages", "added"): 1, ("people", "changed"): 1}


@pytest.mark.parametrize("case", list(CASES))
async def test_without_the_lease_nothing_is_written(stores: Stores, clock: Clock, case: str) -> None:
    await stores.begin(1)
    clock.advance(hours=1)
    before = await stores.holds(1, *TABLES, "runs")
    with pytest.raises(LeaseLost):
        await stores.put(1, *CASES[case], lease="another's")
    assert await stores.holds(1, *TABLES, "runs") == before


async def test_another_connections_things_stay(stores: Stores) -> None:
    await stores.begin(2)
    before = await stores.holds(1, *TABLES)
    gone = [Deletion(Message, "1"), Deletion(Person, "p")]
    await stores.put(2, ("m", Page(deletions=gone, forget=["C1"], resolved=["own"], unwatched=["w"])))
    assert await stores.holds(1, *TABLES) == before


async def test_another_streams_things_stay(stores: Stores) -> None:
    await stores.begin(1)
    before = await stores.holds(1, *TABLES)
    await stores.put(1, ("n", Page(forget=["C1"], resolved=["own"], unwatched=["w"])), ("m", Page(resolved=["late"])))
    assert await stores.holds(1, *TABLES) == before


async def test_a_naive_time_is_refused(stores: Stores) -> None:
    await stores.begin(1)
    naive = datetime(2026, 1, 1)  # noqa: DTZ001
    with pytest.raises((ValueError, StatementError), match="naive"):
        await stores.put(1, ("m", Page(records=[Message(external_id="3", conversation_id="C", raw={}, sent_at=naive)])))


async def test_two_ids_that_are_one_once_they_are_cleaned_are_one(stores: Stores) -> None:
    await stores.begin(1)
    assert await stores.put(1, ("m", Page(records=[message("3\x00"), message("3")]))) == Counts(added=1)


@pytest.mark.parametrize("make", [rows.row, rows.plain_row])
def test_a_digest_stays_what_it_was(make: Any) -> None:
    """Another one would have every stored row written anew."""
    record = Message(external_id="1", conversation_id="C", raw={"b": [1, "é", {"d": None, "c": 0.5}], "a": "x\x00"})
    assert make(Message, "1", record)["digest"] == "10679de0cbee53e07c4d7d3d091bf257"


class Asked:
    """The statements and transactions since `begin`."""

    def __init__(self, store: Store) -> None:
        self.statements: list[str] = []
        self.transactions = 0
        engine = store.database.engine.sync_engine
        event.listen(engine, "before_cursor_execute", lambda *told: self.statements.append(told[2]))
        event.listen(engine, "commit", self._committed)

    def _committed(self, connection: Any) -> None:
        self.transactions += connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT"


@pytest.fixture
async def on_postgres(postgres_url: str, clock: Clock) -> Any:
    database = Database(postgres_url)
    stores = Stores(Store(database, clock))
    await stores.begin(1)
    yield stores
    await database.close()


async def test_postgresql_is_asked_once_for_pages_with_few_rows(on_postgres: Stores) -> None:
    asked = Asked(on_postgres.store)
    await on_postgres.put(1, *CASES["kinds"], ("m", Page(resolved=["x"], unwatched=["y"], forget=["z"], cursor="c")))
    assert (len(asked.statements), asked.transactions) == (1, 0)


async def test_many_rows_that_are_stored_already_are_not_sent(on_postgres: Stores) -> None:
    await on_postgres.put(1, ("m", Page(records=MANY)))
    asked = Asked(on_postgres.store)
    await on_postgres.put(1, ("m", Page(records=MANY)))
    assert len(asked.statements) == 2
    assert not [statement for statement in asked.statements if "INSERT" in statement]


@pytest.mark.parametrize("records", [MANY, MANY[:10]], ids=["many", "few"])
async def test_an_unchanged_row_is_not_even_locked(on_postgres: Stores, records: list[Message]) -> None:
    await on_postgres.put(1, ("m", Page(records=MANY)))
    query = text("SELECT external_id, ctid::text, xmin::text, xmax::text FROM messages ORDER BY 1")
    async with on_postgres.store.database.read() as session:
        before = (await session.execute(query)).all()
    await on_postgres.put(1, ("m", Page(records=records)))
    async with on_postgres.store.database.read() as session:
        assert (await session.execute(query)).all() == before
