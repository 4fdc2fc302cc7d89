"""What a stream is told of records that wait to be stored: the same as when they are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from syncd.http import Link
from syncd.records import Deletion, Meeting, Message
from syncd.source import Held, Page, Since
from syncd.store import Store
from syncd.store.pages import Pages
from syncd.tables import runs
from tests.scripted import Bench, source

AT = datetime(2026, 1, 5, 12, tzinfo=UTC)


def said(name: str, thread: str | None = None, minutes: float = 0, **raw: Any) -> Message:
    sent_at = AT + timedelta(minutes=minutes)
    return Message(external_id=name, conversation_id="C", thread_id=thread, sent_at=sent_at, raw={"id": name, **raw})


BEFORE = [said("old", "T", a=1), said("edited", "T", a=1), said("moved", "T"), said("gone", "T", minutes=1)]
STEPS = [
    Page(records=[said("new", "T", a=[1, None]), said("edited", "T", a=2), said("else", "U"), said("late", "T", 90)]),
    Page(records=[said("moved", None, a=3), said("twice", "T", a=1)]),
    Page(records=[said("twice", "U", a=2)], deletions=[Deletion(Message, "gone"), Deletion(Message, "unknown")]),
]
QUESTIONS: dict[str, Callable[[Held], Any]] = {
    "ids": lambda held: held.stored(Message, ["old", "new", "edited", "gone", "unknown", "nobody"], "a"),
    "all of them": lambda held: held.stored(Message, ["old", "new"], "*"),
    "no member": lambda held: held.stored(Message, ["new", "gone"]),
    "a thread": lambda held: held.select(Message, "a", thread_id="T"),
    "some threads": lambda held: held.select(Message, "id", "a", thread_id=["T", "U"]),
    "a span": lambda held: held.select(Message, between=(AT, AT + timedelta(minutes=1))),
    "a span of a thread": lambda held: held.select(Message, thread_id="T", between=(AT, AT + timedelta(hours=2))),
    "another kind": lambda held: held.select(Meeting),
}


async def asked(store: Store, question: Callable[[Held], Any], workspace: str, *, at_once: bool) -> Any:
    """What a stream is answered after it yielded these pages: while they wait, or each stored at once."""
    answers: list[Any] = []

    async def first(link: Link, since: Since) -> AsyncIterator[Page]:
        yield Page(records=BEFORE, notes=["stored at once"])

    async def then(link: Link, since: Since) -> AsyncIterator[Page]:
        for page in STEPS:
            yield replace(page, notes=["stored at once"]) if at_once else page
        answers.append(dict(await question(since.held)))

    bench = Bench(store, source(first, then))
    await bench.connect(workspace)
    assert (await bench.cycle(workspace=workspace))["successful_workspaces"] == 1
    return answers[0]


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=list(QUESTIONS))
async def test_what_waits_is_answered_as_if_it_were_stored(store: Store, question: Callable[[Held], Any]) -> None:
    waiting = await asked(store, question, "acme", at_once=False)
    assert waiting == await asked(store, question, "globex", at_once=True)


async def test_a_question_for_all_ids_stores_what_waits_first(store: Store) -> None:
    async def all_ids(held: Held) -> dict[str, bool]:
        return {one: True async for batch in held.ids(Message) for one in batch}

    assert sorted(await asked(store, all_ids, "acme", at_once=False)) == sorted(
        {"old", "new", "edited", "else", "late", "moved", "twice"}
    )


# ── what comes as it is stored ──────────────────────────────────────────────────────────────────────────────────────


async def read_again(store: Store, stream: Callable[[Held], AsyncIterator[Page]]) -> tuple[dict[str, Any], int]:
    """A run of ``stream`` where `BEFORE` is stored: the cycle's status, and how many checkpoints it made."""
    known, checkpoints, checkpoint = False, 0, store.pages.checkpoint

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        if not known:
            yield Page(records=BEFORE)
            return
        async for page in stream(since.held):
            yield page

    async def counted(*given: Any, **more: Any) -> Any:
        nonlocal checkpoints
        checkpoints += 1
        return await checkpoint(*given, **more)

    bench = Bench(store, source(read))
    await bench.connect("acme")
    await bench.cycle()
    known, store.pages.checkpoint = True, counted  # type: ignore[method-assign]
    status = await bench.cycle()
    assert status["failures"] == []
    return status, checkpoints


async def raws(store: Store, *names: str) -> dict[str, Any]:
    held = await store.looks.of(1).stored(Message, names, "*")
    return {name: raw["a"] for name, (raw,) in held.items()}


async def test_what_was_found_stored_as_it_is_takes_no_checkpoint_and_counts_as_read(store: Store) -> None:
    async def stream(held: Held) -> AsyncIterator[Page]:
        await held.stored(Message, ["old"])
        await held.select(Message, thread_id="T")
        yield Page(records=BEFORE[:2], cursor="here")

    status, checkpoints = await read_again(store, stream)
    assert (status["total_messages"], status["changed"], checkpoints) == (2, 0, 0)
    assert await store.looks.cursors(1, "messages") == {"": "here"}


@pytest.mark.parametrize("asks", [True, False], ids=["asks between", "asks before"])
@pytest.mark.parametrize("at_once", [True, False], ids=["stored at once", "waits"])
async def test_what_changes_and_changes_back_is_as_it_was_told_last(store: Store, at_once: bool, asks: bool) -> None:
    """What the first answer showed of it says nothing any more."""

    async def stream(held: Held) -> AsyncIterator[Page]:
        await held.stored(Message, ["old"])
        yield Page(records=[said("old", "T", a=7)], notes=["stored at once"] if at_once else [])
        if asks:
            await held.select(Message, thread_id="T")
        yield Page(records=[said("old", "T", a=1)])

    await read_again(store, stream)
    assert await raws(store, "old") == {"old": 1}


@pytest.mark.parametrize("asks", [True, False], ids=["asks between", "asks before"])
@pytest.mark.parametrize("at_once", [True, False], ids=["stored at once", "waits"])
async def test_what_is_deleted_and_comes_again_as_it_was_is_live(store: Store, at_once: bool, asks: bool) -> None:
    async def stream(held: Held) -> AsyncIterator[Page]:
        await held.stored(Message, ["old"])
        yield Page(deletions=[Deletion(Message, "old")], notes=["stored at once"] if at_once else [])
        if asks:
            await held.select(Message, thread_id="T")
        yield Page(records=[said("old", "T", a=1)])

    await read_again(store, stream)
    assert await raws(store, "old") == {"old": 1}


async def test_of_what_comes_twice_in_a_page_the_last_counts(store: Store) -> None:
    async def stream(held: Held) -> AsyncIterator[Page]:
        await held.stored(Message, ["old"])
        yield Page(records=[said("old", "T", a=7), said("old", "T", a=1)])

    await read_again(store, stream)
    assert await raws(store, "old") == {"old": 1}


async def test_what_took_no_checkpoint_is_counted_with_the_next_one(store: Store) -> None:
    async def told() -> int:
        async with store.database.read() as session:
            return int((await session.execute(select(runs.c.records).order_by(runs.c.id.desc()).limit(1))).scalar_one())

    seen = list[int]()

    async def stream(held: Held) -> AsyncIterator[Page]:
        await held.stored(Message, ["old", "edited"])
        yield Page(records=BEFORE[:2])
        async for _ in held.ids(Message):  # what waits is stored before that
            pass
        yield Page(records=[said("new", "T", a=1)], notes=["stored at once"])
        seen.append(await told())

    status, _ = await read_again(store, stream)
    assert (seen, status["total_messages"], await told()) == ([3], 3, 3)


async def test_what_was_stored_though_nobody_heard_of_it_is_counted(store: Store) -> None:
    async def lost(*given: Any, **more: Any) -> Any:
        await Pages.checkpoint(store.pages, *given, **more)
        raise OSError("the answer was lost")

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        yield Page(records=BEFORE)

    bench = Bench(store, source(read))
    await bench.connect("acme")
    store.pages.checkpoint = lost  # type: ignore[method-assign]
    status = await bench.cycle()
    assert (status["successful_workspaces"], status["total_messages"], status["added"]) == (0, 4, 4)


async def test_what_differs_from_what_was_found_is_stored(store: Store) -> None:
    async def stream(held: Held) -> AsyncIterator[Page]:
        await held.stored(Message, ["old", "edited"])
        yield Page(records=[said("old", "T", a=1), said("edited", "T", a=2)])

    status, checkpoints = await read_again(store, stream)
    assert (status["total_messages"], status["changed"], checkpoints) == (2, 1, 1)
    assert await raws(store, "old", "edited") == {"old": 1, "edited": 2}


async def test_what_is_remembered_of_answers_is_bounded(store: Store) -> None:
    held = store.looks.of(1)
    for at in range(6):
        held._told(Message, {f"{at}.{one}": ("d",) for one in range(1000)})
    assert len(held._digests[Message]) <= 3000
