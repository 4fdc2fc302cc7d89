"""Tasks that end as they should."""

from __future__ import annotations

import asyncio

import pytest

from syncd.tasks import all_of, to_its_end


async def test_all_results_come_in_order() -> None:
    async def give(value: int) -> int:
        return value

    assert await all_of(give(value) for value in range(3)) == [0, 1, 2]
    assert await all_of(()) == []


async def test_an_error_is_raised_only_when_all_have_ended() -> None:
    ended: list[str] = []

    async def fail() -> None:
        raise ValueError("first")

    async def work() -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        ended.append("work")

    with pytest.raises(ValueError, match="first"):
        await all_of([fail(), work(), fail()])
    assert ended == ["work"]


async def test_a_cancelled_wait_ends_all() -> None:
    begun, ended = asyncio.Event(), []

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("work")

    waiting = asyncio.create_task(all_of([work(), work()]))
    await begun.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ended == ["work", "work"]


async def test_the_last_write_is_done_though_we_are_cancelled() -> None:
    begun, more, done = asyncio.Event(), asyncio.Event(), []

    async def write() -> None:
        begun.set()
        await more.wait()
        done.append("written")

    waiting = asyncio.create_task(to_its_end(write()))
    await begun.wait()
    waiting.cancel()
    await asyncio.sleep(0)
    more.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert done == ["written"]


async def test_what_does_not_end_in_time_is_cut_with_who_waits_for_it() -> None:
    begun, ended = asyncio.Event(), []

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("work")

    waiting = asyncio.create_task(to_its_end(work(), within_s=0.01))
    await begun.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ended == ["work"]
