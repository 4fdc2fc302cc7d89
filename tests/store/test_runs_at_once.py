"""Several runs at the same moment, on both databases: claimed, told what is known, ended together, each as it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, select

from syncd.bucket import Budget
from syncd.http import Link
from syncd.policy import DEFERRED, FAILED, INTERRUPTED, OK, SUCCEEDED, Verdict
from syncd.records import Message
from syncd.source import Page, Pending, Since, Watch
from syncd.store import Connection, Ended, Line, Move, Store
from syncd.store.known import AT_ONCE
from syncd.tables import connections, runs
from tests.conftest import Clock
from tests.scripted import Bench, pages, source

Claimed = list[tuple[Connection, int]]


async def added(store: Store, clock: Clock, count: int) -> None:
    """Connections, each a minute longer due than the one before."""
    for number in range(count):
        clock.advance(minutes=-number)
        await store.connections.put([Line(workspace_id=f"w{number}", source="slack", credentials={})], lambda *_: "s")
        clock.advance(minutes=number)


async def claimed(store: Store, clock: Clock, count: int, lease: str = "lease") -> Claimed:
    await added(store, clock, count)
    cycle = await store.cycles.begin("slack", "cli", None)
    return await store.connections.claim_some("slack", lease, cycle, due=None, most=count)


async def rows(store: Store, table: Any) -> list[Any]:
    async with store.database.read() as session:
        return list((await session.execute(select(table).order_by(table.c.id))).all())


def ended(status: str, clock: Clock, **more: Any) -> Ended:
    return Ended(verdict=Verdict(status, OK, clock() + timedelta(minutes=15), 0), **more)


async def put(store: Store, one: tuple[Connection, int], page: Page, lease: str = "lease") -> None:
    whose = {"connection_id": one[0].id, "run_id": one[1], "lease": lease, "records": 0, "calls": 0}
    await store.pages.checkpoint([("messages", page)], **whose)  # type: ignore[arg-type]


# ── claimed ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_those_that_wait_longest_are_claimed_in_their_order(store: Store, clock: Clock) -> None:
    await added(store, clock, 5)
    cycle = await store.cycles.begin("slack", "cli", None)
    both = await store.connections.claim_some("slack", "lease", cycle, due=None, most=3)
    assert [one.id for one, _ in both] == [5, 4, 3]


async def test_each_claimed_one_has_the_lease_and_a_run_of_its_own(store: Store, clock: Clock) -> None:
    both = await claimed(store, clock, 3)
    assert {(one.id, one.lease) for one, _ in both} == {(1, "lease"), (2, "lease"), (3, "lease")}
    assert {run.id: run.connection_id for run in await rows(store, runs)} == {run: one.id for one, run in both}


async def test_what_one_claim_took_the_next_does_not(store: Store, clock: Clock) -> None:
    await added(store, clock, 5)
    cycle = await store.cycles.begin("slack", "cli", None)
    both = [await store.connections.claim_some("slack", "lease", cycle, due=None, most=3) for _ in range(3)]
    assert [[one.id for one, _ in some] for some in both] == [[5, 4, 3], [2, 1], []]


async def test_only_runs_of_a_dead_daemon_are_told_as_interrupted(store: Store, clock: Clock) -> None:
    (well, run), _ = await claimed(store, clock, 2)
    await store.cycles.finish_run(run, well, "lease", ended(SUCCEEDED, clock))
    clock.advance(hours=1)
    cycle = await store.cycles.begin("slack", "cli", None, held=[1, 2])
    await store.connections.claim_some("slack", "new", cycle, due=None, most=5)
    assert [run.status for run in await rows(store, runs)].count("interrupted") == 1


# ── ended ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_runs_that_end_together_each_tell_their_own_end(store: Store, clock: Clock) -> None:
    both = await claimed(store, clock, 4)
    ends = [
        ended(SUCCEEDED, clock, calls=1, waits=[Move("messages", "C1", "7")], cursors={"messages/C1": [None, "7"]}),
        ended(FAILED, clock, calls=2, error_kind="auth", error="no \x00 more", hint="go on"),
        ended(DEFERRED, clock, calls=3, progress={"parts": 4}),
        ended(SUCCEEDED, clock, calls=4, waits=[Move("messages", one, "8") for one in ("C1", "C2")]),
    ]
    mine = await asyncio.gather(
        *(store.cycles.finish_run(run, one, "lease", end) for (one, run), end in zip(both, ends, strict=True))
    )
    assert mine == [True] * 4
    told = {run.connection_id: run for run in await rows(store, runs)}
    found = {one.id: one for one in await rows(store, connections)}
    for (one, _), end in zip(both, ends, strict=True):
        run = told[one.id]
        assert (run.status, run.calls, run.error_kind) == (end.verdict.run_status, end.calls, end.error_kind)
        assert (found[one.id].lease, found[one.id].progress) == (None, end.progress)
        moved = {move.partition: move.cursor for move in end.waits}
        assert await store.looks.cursors(one.id, "messages") == moved
    assert told[both[0][0].id].cursors == {"messages/C1": [None, "7"]}
    assert (told[both[1][0].id].error, found[both[1][0].id].last_error) == ("no  more", "no  more - go on")


async def test_of_runs_that_end_together_one_that_lost_its_lease_moves_nothing(store: Store, clock: Clock) -> None:
    both = await claimed(store, clock, 3)
    ends = [
        ended(SUCCEEDED, clock, waits=[Move("messages", name, str(one.id)) for name in ("C1", "C2")]) for one, _ in both
    ]
    leases = ["lease", "another", "lease"]
    mine = await asyncio.gather(
        *(
            store.cycles.finish_run(run, one, held, end)
            for (one, run), held, end in zip(both, leases, ends, strict=True)
        )
    )
    assert mine == [True, False, True]
    moved = [await store.looks.cursors(one.id, "messages") for one, _ in both]
    assert moved == [{"C1": "3", "C2": "3"}, {}, {"C1": "1", "C2": "1"}]
    assert [one.lease for one in await rows(store, connections)] == [None, "lease", None]


async def test_of_runs_that_end_together_one_that_lost_its_lease_is_told_so(store: Store, clock: Clock) -> None:
    both = await claimed(store, clock, 2)
    end = ended(FAILED, clock, calls=7, error_kind="auth", error="no", hint="do", cursors={"messages": [None, "7"]})
    leases = {run: lease for (_, run), lease in zip(both, ("lease", "another"), strict=True)}
    await asyncio.gather(*(store.cycles.finish_run(run, one, leases[run], end) for one, run in both))
    told = {
        leases[run.id]: (run.status, run.error_kind, run.hint, run.cursors, run.calls, run.finished_at)
        for run in await rows(store, runs)
    }
    assert told == {
        "lease": (FAILED, "auth", "do", {"messages": [None, "7"]}, 7, clock()),
        "another": (INTERRUPTED, "lease_lost", None, None, 7, clock()),
    }


async def test_an_end_that_cannot_be_stored_is_its_own_matter(store: Store, clock: Clock) -> None:
    both = await claimed(store, clock, 3)
    bad: Any = "many"
    ends = [ended(SUCCEEDED, clock, calls=calls) for calls in (1, [bad], 3)]
    answers = await asyncio.gather(
        *(store.cycles.finish_run(run, one, "lease", end) for (one, run), end in zip(both, ends, strict=True)),
        return_exceptions=True,
    )
    assert [one is True for one in answers] == [True, False, True]
    assert isinstance(answers[1], Exception)


# ── told what is known ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_those_that_begin_together_are_told_of_themselves_alone(store: Store, clock: Clock) -> None:
    both = await claimed(store, clock, 3)
    for begun in both:
        name = begun[0].workspace_id
        page = Page(
            cursor=f"at {name}", pending=[Pending(f"p {name}", "late")], watches=[Watch(f"x {name}", timedelta(0))]
        )
        await put(store, begun, page)
    clock.advance(days=9)
    looks = (store.looks.known(one.id, watching=["messages"] if one.id != 2 else []) for one, _ in both)
    for (one, _), known in zip(both, await asyncio.gather(*looks), strict=True):
        name, due = one.workspace_id, known.due("messages")
        assert known.cursors == {"messages": {"": f"at {name}"}}
        assert [item.external_id for item in due or ()] == [f"p {name}"]
        assert known.watched == ({"messages": [f"x {name}"]} if one.id != 2 else {})


async def test_they_are_told_of_the_budgets_of_their_own_credential(store: Store) -> None:
    for credential in "ab":
        await store.budgets.save(credential, [Budget(f"limit {credential}", closed_s=60.0)])
    known = await asyncio.gather(*(store.looks.known(1, credential=one) for one in ("a", "b", "c", None)))
    assert [[one.name for one in each.budgets] for each in known] == [["limit a"], ["limit b"], [], []]


@pytest.mark.parametrize("what", ["backlog", "watches"])
async def test_the_long_list_of_one_takes_nothing_from_the_others(store: Store, clock: Clock, what: str) -> None:
    both = await claimed(store, clock, 2)
    for one, count in zip(both, (AT_ONCE + 5, 3), strict=True):
        names = [f"{number:04}" for number in range(count)]
        pending = [Pending(name, "late", after=timedelta(0)) for name in names if what == "backlog"]
        watches = [Watch(name, timedelta(0)) for name in names if what == "watches"]
        await put(store, one, Page(pending=pending, watches=watches))
    clock.advance(days=1)
    long, short = await asyncio.gather(*(store.looks.known(one.id, watching=["messages"]) for one, _ in both))
    if what == "backlog":
        assert (long.backlog, len(short.backlog or ())) == (None, 3)
    else:
        assert (len(long.watched["messages"]), len(short.watched["messages"])) == (AT_ONCE, 3)


async def test_a_stream_with_many_watches_takes_none_from_another(store: Store, clock: Clock) -> None:
    (one,) = await claimed(store, clock, 1)
    watches = [Watch(f"{number:04}", timedelta(0)) for number in range(AT_ONCE + 5)]
    await put(store, one, Page(cursor="c", watches=[*watches, Watch("other", timedelta(0), "threads")]))
    clock.advance(days=1)
    known = await store.looks.known(one[0].id, watching=["messages", "threads"])
    assert (len(known.watched["messages"]), known.watched["threads"]) == (AT_ONCE, ["other"])
    assert known.cursors == {"messages": {"": "c"}}


# ── told what is stored ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_those_that_ask_alike_are_each_told_of_their_own(store: Store, clock: Clock) -> None:
    both = await claimed(store, clock, 3)
    for begun in both:
        number = begun[0].id
        sent = [(hours, clock() - timedelta(hours=hours)) for hours in range(3)]
        raws = [(f"{number}/{hours}", at, {"n": [number, hours]}) for hours, at in sent]
        records = [
            Message(external_id=name, conversation_id=f"C{number}", sent_at=at, raw=raw) for name, at, raw in raws
        ]
        await put(store, begun, Page(records=records))
    spans = {1: timedelta(hours=1), 2: timedelta(hours=2), 3: timedelta(minutes=30)}
    looks = (
        store.looks.of(number).select(Message, "n", between=(clock() - span, clock()), conversation_id=f"C{number}")
        for number, span in spans.items()
    )
    one, two, three = await asyncio.gather(*looks)
    assert one == {"1/0": ([1, 0],), "1/1": ([1, 1],)}
    assert two == {"2/0": ([2, 0],), "2/1": ([2, 1],), "2/2": ([2, 2],)}
    assert three == {"3/0": ([3, 0],)}


async def test_a_list_is_one_of_these(store: Store, clock: Clock) -> None:
    (one,) = await claimed(store, clock, 1)
    records = [Message(external_id=name, conversation_id=f"C{name}", raw={}) for name in "abc"]
    await put(store, one, Page(records=records))
    held = store.looks.of(one[0].id)
    lists: tuple[list[str], ...] = (["Ca"], ["Ca", "Cc", "C'\"d"], [])
    found = await asyncio.gather(*(held.select(Message, conversation_id=some) for some in lists))
    assert [sorted(some) for some in found] == [["a"], ["a", "c"], []]


async def test_a_list_and_a_span_are_asked_together(store: Store, clock: Clock) -> None:
    (one,) = await claimed(store, clock, 1)
    sent = {name: clock() - timedelta(hours=hours) for hours, name in enumerate("abc")}
    await put(
        store,
        one,
        Page(records=[Message(external_id=k, conversation_id=f"C{k}", sent_at=at, raw={}) for k, at in sent.items()]),
    )
    held = store.looks.of(one[0].id)
    spans = [(clock() - timedelta(hours=hours), clock()) for hours in (0, 1, 2)]
    found = await asyncio.gather(
        *(held.select(Message, conversation_id=["Ca", "Cb", "Cc"], between=span) for span in spans)
    )
    assert [sorted(some) for some in found] == [["a"], ["a", "b"], ["a", "b", "c"]]


# ── by the engine ───────────────────────────────────────────────────────────────────────────────────────────────────


async def asked(store: Store, workspaces: int) -> int:
    """The transactions of a cycle with so many connections, each of which moves its cursor."""
    begun = 0

    def began(_: object) -> None:
        nonlocal begun
        begun += 1

    bench = Bench(store, source(pages(Page(cursor="c"))))
    await bench.connect(*(f"w{number}" for number in range(workspaces)))
    engine = store.database.engine.sync_engine
    event.listen(engine, "begin", began)
    status = await bench.cycle()
    event.remove(engine, "begin", began)
    assert status["successful_workspaces"] == workspaces
    return begun


async def test_ten_runs_ask_little_more_than_one(store: Store) -> None:
    """By itself each has three transactions: its claim, what is known as it begins, its end."""
    one = await asked(store, 1)
    assert await asked(store, 10) - one < 10


async def test_a_cycle_claims_no_more_than_it_has_slots(store: Store) -> None:
    most, begun, all_of_them = 0, 0, asyncio.Barrier(3)

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        nonlocal most, begun
        begun += 1
        if begun <= all_of_them.parties:
            await all_of_them.wait()
        most = max(most, len([row for row in await rows(store, connections) if row.lease]))
        yield Page(cursor="c")

    bench = Bench(store, source(read), slots=3)
    await bench.connect(*"abcdefgh")
    assert (await bench.cycle())["successful_workspaces"] == 8
    assert most == 3
