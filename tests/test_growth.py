"""What must not grow: memory by the connections of a cycle, by what fails, by the pages of a run."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from collections import Counter
from collections.abc import AsyncIterator

from syncd.bucket import Grant
from syncd.errors import AuthError
from syncd.http import Link
from syncd.limits import Buckets, Rate
from syncd.records import Message
from syncd.source import Page, Since
from syncd.store import Database, Store
from tests.conftest import Clock
from tests.scripted import Bench, Script, message, source
from tests.test_limits import Seconds

RATES = {"minute": Rate(50, 60.0)}
DRAWS = {"minute": 1}
KB = 1024


# ── connections


async def call(buckets: Buckets, credential: str) -> None:
    await buckets.acquire(credential, DRAWS, RATES, 0)
    buckets.settle(credential, DRAWS, RATES, well=True)


async def test_of_ten_thousand_credentials_those_used_lately_are_held() -> None:
    clock = Seconds()
    buckets = Buckets(clock)
    for number in range(10_000):
        await call(buckets, f"c{number}")
        clock.at += 1
    assert len(buckets._buckets) < 200


async def test_a_credential_that_counts_is_not_forgotten_for_others_that_come() -> None:
    clock = Seconds()
    buckets = Buckets(clock)
    buckets.close("closed", DRAWS, RATES, 5000.0)
    buckets.lower("low", "minute", Rate(1, 60.0), 5000.0)
    buckets.saved("low", buckets.state("low"))
    await buckets.acquire("busy", DRAWS, RATES, 0)
    for number in range(1000):
        await call(buckets, f"c{number}")
        clock.at += 1
    kept = [buckets.bucket(name, "minute", RATES["minute"]) for name in ("closed", "low", "busy")]
    assert kept[0].closed_s() > 0
    assert buckets.is_low("low", "minute")
    assert kept[2]._under_way == 1


async def test_who_waited_for_a_bucket_that_was_forgotten_meanwhile_is_counted() -> None:
    clock = Seconds()

    async def others_come(seconds: float) -> None:
        clock.at += seconds
        for number in range(10):
            await call(buckets, f"other{number}")

    buckets, rates = Buckets(clock, others_come), {"minute": Rate(1, 60.0)}
    for _ in range(2):
        await buckets.acquire("c", DRAWS, rates, 100)
        buckets.settle("c", DRAWS, rates, well=True)
    assert buckets.bucket("c", "minute", rates["minute"]).wait_s() > 60


async def test_units_that_the_database_granted_are_not_forgotten() -> None:
    asked: list[str] = []

    async def reserve(credential: str, limit: str, rate: Rate, units: int) -> Grant:
        asked.append(credential)
        return Grant(2, 5000.0)

    clock = Seconds()
    buckets, rates = Buckets(clock, reserve=reserve), {"minute": Rate(1000, 86400.0)}
    for name in ("c", *(f"other{number}" for number in range(100)), "c"):
        await buckets.acquire(name, DRAWS, rates, 0)
        buckets.settle(name, DRAWS, rates, well=True)
        clock.at += 10
    assert asked.count("c") == 1


async def test_news_of_a_credential_that_was_forgotten_while_they_were_stored_do_no_harm() -> None:
    clock = Seconds()
    buckets = Buckets(clock)
    for _ in range(20):
        await call(buckets, "c")
    news = buckets.state("c")
    clock.at += 100
    await call(buckets, "other")
    buckets.saved("c", news)
    assert news
    assert "c" not in buckets._buckets


async def test_an_idle_connection_leaves_nothing_behind(sqlite_url: str) -> None:
    """On SQLite and one by one: a pool that still grows would be more than what is looked for."""
    clock, database = Seconds(), Database(sqlite_url)

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        async def asked() -> None:
            clock.at += 30

        await link.call("list", asked)
        yield Page(cursor="here")

    r = Bench(Store(database, Clock()), source(read), slots=1, rates={"list": Rate(50, 60.0)})
    r.engine.runs._buckets = Buckets(clock, clock.sleep)
    await r.connect(*(f"early{number}" for number in range(20)))
    for _ in range(2):  # the first time fills caches, those of `objects` too
        await r.cycle()
        before = objects()
    await r.connect(*(f"late{number}" for number in range(80)))
    assert (await r.cycle())["successful_workspaces"] == 100
    more = objects() - before
    await database.close()
    assert more.total() < 80, more.most_common(10)


def objects() -> Counter[str]:
    """How many there are of each type, but for those that sqlite3 keeps for a while."""
    gc.collect()
    kinds = Counter(type(one).__qualname__ for one in gc.get_objects())
    del kinds["Statement"], kinds["ReferenceType"]
    return kinds


class Answer:
    """What a run holds while it fails."""


async def test_what_a_failed_run_held_is_let_go_before_its_cycle_ends(store: Store) -> None:
    answers, held = weakref.WeakSet[Answer](), list[int]()

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        answer = Answer()
        answers.add(answer)
        if link.credentials["token"] == "t-w29":
            gc.collect()
            held.append(len(answers))
        yield Page()
        raise AuthError("revoked")

    r = Bench(store, source(read), slots=2)
    await r.connect(*(f"w{number}" for number in range(30)))
    assert (await r.cycle())["failed_workspaces"] == 30
    assert held[0] <= 4


async def test_all_credentials_in_use_are_gone_through_a_few_at_a_time(store: Store) -> None:
    r = Bench(store, source())
    await r.connect(*(f"w{number}" for number in range(7)))
    await store.connections.set_active(2, active=False)
    await store.connections.remove(3)
    assert [connection_id async for connection_id, _ in store.connections.sealed(size=2)] == [1, 4, 5, 6, 7]


# ── pages


def talk(pages: int, size: int, words: int) -> Script:
    """So many pages of ``size`` new messages, each of so many characters."""

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        for page in range(pages):
            records: list[Message] = [message(f"{page}.{at}", f"{at % 10}" * words) for at in range(size)]
            yield Page(records=records)

    return read


async def peak_of(store: Store, script: Script) -> int:
    """Bytes that a run of it takes at most beyond what there was."""
    r = Bench(store, source(script))
    await r.connect("acme")
    await r.cycle()  # what is made once is made, and all is stored
    gc.collect()
    tracemalloc.start()
    try:
        assert (await r.cycle())["total_messages"] > 0
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


async def test_a_run_takes_no_more_memory_for_many_pages_than_for_some(store: Store) -> None:
    some = await peak_of(store, talk(8, 12, 8 * KB))
    assert await peak_of(store, talk(24, 12, 8 * KB)) < 1.5 * some


async def test_a_page_takes_a_few_times_its_bytes(store: Store) -> None:
    small, large = await peak_of(store, talk(1, 20, 8 * KB)), await peak_of(store, talk(1, 120, 8 * KB))
    assert (large - small) / (100 * 8 * KB) < 8
