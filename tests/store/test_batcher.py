"""What runs ask of the database at the same moment is asked at once, and each has its own answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from sqlalchemy.exc import DBAPIError

from syncd.store import batcher
from syncd.store.batcher import Batcher


class Asked:
    """Doubles what it is asked, once it may. ``batches``: what was asked together; ``fails``: what of it raises."""

    def __init__(self, *fails: int, error: Exception | None = None) -> None:
        self.batches: list[list[int]] = []
        self.may = asyncio.Event()
        self.may.set()
        self._fails, self._error = fails, error or ValueError("wrong")

    async def __call__(self, batch: Sequence[int]) -> Sequence[int]:
        self.batches.append(list(batch))
        await self.may.wait()
        if set(batch) & set(self._fails):
            raise self._error
        return [2 * one for one in batch]


async def going(asked: Batcher[int, int], *questions: int) -> list[asyncio.Task[int]]:
    """Tasks that ask, gone as far as they can."""
    tasks = [asyncio.create_task(asked.ask(one)) for one in questions]
    for _ in range(5):
        await asyncio.sleep(0)
    return tasks


async def test_what_is_asked_in_one_turn_of_the_loop_is_asked_at_once() -> None:
    asked = Asked()
    answers = await asyncio.gather(*(Batcher.ask(one, 1) for one in [Batcher(asked)] * 3))
    assert (answers, asked.batches) == ([2, 2, 2], [[1, 1, 1]])


async def test_what_comes_meanwhile_is_the_next_batch() -> None:
    asked = Asked()
    asked.may.clear()
    both = Batcher(asked)
    tasks = await going(both, 1) + await going(both, 2) + await going(both, 3)
    asked.may.set()
    assert await asyncio.gather(*tasks) == [2, 4, 6]
    assert asked.batches == [[1], [2, 3]]


async def test_a_batch_has_a_largest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batcher, "_MOST", 2)
    asked = Asked()
    assert await asyncio.gather(*map(Batcher(asked).ask, range(3))) == [0, 2, 4]
    assert asked.batches == [[0, 1], [2]]


async def test_what_is_wrong_with_one_is_not_the_others_matter() -> None:
    asked = Asked(2)
    answers = await asyncio.gather(*map(Batcher(asked).ask, (1, 2, 3)), return_exceptions=True)
    assert [answers[0], type(answers[1]), answers[2]] == [2, ValueError, 6]


async def test_a_database_that_is_away_is_not_asked_once_more_for_each() -> None:
    gone = DBAPIError("SELECT", None, Exception("gone"), connection_invalidated=True)
    for error in (gone, OSError("refused")):
        asked = Asked(2, error=error)
        answers = await asyncio.gather(*map(Batcher(asked).ask, (1, 2, 3)), return_exceptions=True)
        assert (answers, len(asked.batches)) == ([error] * 3, 1)


async def test_after_a_failure_the_next_batch_is_asked() -> None:
    asked = Asked(1)
    one = Batcher(asked)
    with pytest.raises(ValueError, match="wrong"):
        await one.ask(1)
    assert await one.ask(2) == 4


async def test_a_slow_batch_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batcher, "_SLOW_S", 0.0)
    asked = Asked()
    asked.may.clear()
    one = Batcher(asked)
    slow = await going(one, 1)
    late = await going(one, 2)
    assert asked.batches == [[1], [2]]
    asked.may.set()
    assert await asyncio.gather(*slow, *late) == [2, 4]


async def test_a_batch_that_nobody_waits_for_any_more_is_cut() -> None:
    cut = asyncio.Event()

    async def stuck(batch: Sequence[int]) -> Sequence[int]:
        if 1 not in batch:
            return batch
        try:
            await asyncio.Event().wait()
        finally:
            cut.set()
        return batch

    one: Batcher[int, int] = Batcher(stuck)
    tasks = await going(one, 1, 1)
    tasks[0].cancel()
    await asyncio.wait([tasks[0]])
    assert not cut.is_set()
    tasks[1].cancel()
    await asyncio.wait([tasks[1]])
    assert await one.ask(2) == 2
    assert cut.is_set()


async def test_who_is_cut_before_the_batch_begins_is_not_asked_for() -> None:
    asked = Asked()
    one = Batcher(asked)
    cut, stays = (asyncio.create_task(one.ask(number)) for number in (1, 2))
    await asyncio.sleep(0)
    cut.cancel()
    assert await stays == 4
    assert (cut.cancelled(), asked.batches) == (True, [[2]])


async def test_a_batch_that_is_cut_before_it_asks_keeps_nobody_waiting() -> None:
    for turns in (0, 1):  # before it begins, and while it waits for others
        asked = Asked()
        one = Batcher(asked, 60.0)
        first = asyncio.create_task(one.ask(1))
        await asyncio.sleep(0)
        for _ in range(turns):
            await asyncio.sleep(0)
        (batch,) = one._batches
        batch.cancel()
        one._gather_s = 0.0
        async with asyncio.timeout(5):
            assert list(await asyncio.gather(first, one.ask(2))) == [2, 4]


async def test_who_is_cut_with_the_batch_is_not_asked_for_once_more() -> None:
    """The event loop's end cuts all tasks: one that begins then would be left."""
    asked = Asked()
    one = Batcher(asked, 60.0)
    (task,) = await going(one, 1)
    (batch,) = one._batches
    batch.cancel()
    task.cancel()
    await asyncio.wait([task, batch])
    await asyncio.sleep(0)
    assert not one._batches
