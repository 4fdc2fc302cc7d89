"""Slots: how many, who is next, lending, and the slow start."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import pytest

from syncd.slots import Slot, Slots

T = TypeVar("T")


async def soon(work: Awaitable[T]) -> asyncio.Task[T]:
    """A task of it that has gone as far as it can."""
    task = asyncio.ensure_future(work)
    for _ in range(3):
        await asyncio.sleep(0)
    return task


async def taken(slots: Slots, count: int) -> list[Slot]:
    return [await slots.take() for _ in range(count)]


async def unreached(slots: Slots, *connections: int) -> None:
    for one in connections:
        slot = await slots.take()
        slot.unanswered(one)
        slot.release()


async def test_no_more_than_size_are_held_at_once() -> None:
    slots = Slots(2)
    first, _ = await taken(slots, 2)
    third = await soon(slots.take())
    assert not third.done()
    first.release()
    await third
    assert slots.held == 2


async def test_first_come_first_served() -> None:
    slots, served = Slots(1), list[int]()

    async def wants(number: int) -> None:
        slot = await slots.take()
        served.append(number)
        slot.release()

    held = await slots.take()
    waiting = [await soon(wants(number)) for number in range(5)]
    held.release()
    await asyncio.gather(*waiting)
    assert served == [0, 1, 2, 3, 4]


async def test_a_slot_that_is_lent_is_anothers() -> None:
    slots = Slots(1)
    (first,) = await taken(slots, 1)
    second = await soon(slots.take())
    first.lend()
    await second
    assert (slots.held, slots.lent) == (1, 1)


async def test_who_regains_goes_before_who_takes() -> None:
    slots = Slots(1)
    (first,) = await taken(slots, 1)
    first.lend()
    (second,) = await taken(slots, 1)
    third = await soon(slots.take())
    back = await soon(first.regain())
    second.release()
    async with asyncio.timeout(1):
        await back
    assert not third.done()
    first.release()
    await third


async def test_where_too_many_are_lent_a_slot_is_kept() -> None:
    slots = Slots(1, lent=1)
    (first,) = await taken(slots, 1)
    first.lend()
    (second,) = await taken(slots, 1)
    second.lend()
    third = await soon(slots.take())
    assert (slots.held, slots.lent, third.done()) == (1, 1, False)
    third.cancel()


async def test_five_times_as_many_are_lent_as_there_are() -> None:
    slots = Slots(2)
    for _ in range(20):
        if slots.held == 2:
            break
        (one,) = await taken(slots, 1)
        one.lend()
    assert slots.lent == 10


@pytest.mark.parametrize(
    "what", ["", "lend", "lend lend", "lend regain", "lend regain regain", "regain", "lend regain lend"]
)
async def test_in_whatever_state_it_is_released_the_counts_are_whole(what: str) -> None:
    slots = Slots(2)
    (slot,) = await taken(slots, 1)
    for step in what.split():
        if step == "lend":
            slot.lend()
        else:
            await slot.regain()
    slot.release()
    slot.release()
    assert (slots.held, slots.lent) == (0, 0)


async def test_two_calls_of_one_run_regain_one_slot() -> None:
    slots = Slots(1)
    (slot,) = await taken(slots, 1)
    slot.lend()
    (other,) = await taken(slots, 1)
    back = [await soon(slot.regain()), await soon(slot.regain())]
    other.release()
    async with asyncio.timeout(1):
        await asyncio.gather(*back)
    assert (slots.held, slots.lent) == (1, 0)


async def test_a_run_that_ends_while_a_call_of_it_regains_leaves_its_slot_to_others() -> None:
    slots = Slots(1)
    (first,) = await taken(slots, 1)
    first.lend()
    (second,) = await taken(slots, 1)
    back = await soon(first.regain())
    first.release()
    second.release()
    await back
    assert (slots.held, slots.lent) == (0, 0)


async def test_who_is_cut_while_waiting_costs_no_slot() -> None:
    slots = Slots(1)
    (first,) = await taken(slots, 1)
    second, third = await soon(slots.take()), await soon(slots.take())
    second.cancel()
    first.release()
    async with asyncio.timeout(1):
        await third
    assert slots.held == 1


async def test_who_is_cut_in_the_moment_of_getting_it_costs_no_slot() -> None:
    slots = Slots(1)
    (first,) = await taken(slots, 1)
    second, third = await soon(slots.take()), await soon(slots.take())
    first.release()  # the second's future is done, but it has not run yet
    second.cancel()
    async with asyncio.timeout(1):
        await third
    assert slots.held == 1


async def test_of_a_thousand_fifty_that_hang_delay_nobody_else() -> None:
    """The others all end, in their order, while the fifty still hang."""
    slots, hang = Slots(20), asyncio.Event()
    ended: list[int] = []

    async def run(number: int, slot: Slot) -> None:
        if number % 20 == 0:
            slot.lend()  # what a call does once it has waited a while
            await hang.wait()
            await slot.regain()
        await asyncio.sleep(0)
        ended.append(number)
        slot.release()

    tasks = []
    for number in range(1000):
        async with asyncio.timeout(5):
            slot = await slots.take()
        tasks.append(asyncio.create_task(run(number, slot)))
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(ended) == 950
    assert max(later - number for number, later in enumerate(ended)) <= 50 + 20
    hang.set()
    await asyncio.gather(*tasks)
    assert (len(ended), slots.held, slots.lent) == (1000, 0, 0)


# ── slow start ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_after_five_connections_in_a_row_that_reached_nobody_one_slot_is_left() -> None:
    slots = Slots(8)
    await unreached(slots, 1, 2, 3, 4)
    assert (slots.open, slots.unreachable) == (8, False)
    await unreached(slots, 5)
    assert (slots.open, slots.unreachable) == (1, True)


async def test_one_connection_that_reaches_nobody_is_no_outage_however_often() -> None:
    slots = Slots(8)
    await unreached(slots, *[1] * 20)
    assert not slots.unreachable


async def test_runs_that_fail_while_others_are_answered_are_no_outage() -> None:
    """Fifty that hang end one after the other, when all others have long been read."""
    slots = Slots(8)
    hung = await taken(slots, 7)
    (well,) = await taken(slots, 1)
    well.answered()
    for number, slot in enumerate(hung):
        slot.unanswered(number)
    assert not slots.unreachable


async def test_an_answer_ends_the_outage_and_each_run_that_is_answered_doubles_the_slots() -> None:
    slots = Slots(6)
    await unreached(slots, 1, 2, 3, 4, 5)
    seen = []
    for _ in range(4):
        (slot,) = await taken(slots, 1)
        slot.answered()
        slot.answered()  # its further answers open no more
        seen.append(slots.open)
        slot.release()
    assert (seen, slots.unreachable) == ([2, 4, 6, 6], False)


async def test_during_an_outage_nothing_is_lent() -> None:
    slots = Slots(8)
    await unreached(slots, 1, 2, 3, 4, 5)
    (probe,) = await taken(slots, 1)
    probe.lend()
    assert (slots.held, slots.lent) == (1, 0)


async def test_an_outage_is_told_once_and_so_is_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    from syncd import logs

    logs.set_up("info", "json")
    slots = Slots(8)
    await unreached(slots, *range(20))
    for _ in range(5):
        (slot,) = await taken(slots, 1)
        slot.answered()
        slot.release()
    told = capsys.readouterr().err
    assert (told.count("source.unreachable"), told.count("source.reached")) == (1, 1)


async def test_only_what_is_free_is_taken_without_waiting() -> None:
    slots = Slots(5)
    await taken(slots, 2)
    assert [len(slots.take_free(2)), len(slots.take_free(9)), len(slots.take_free(9))] == [2, 1, 0]
    assert (slots.held, slots.free) == (5, 0)


async def test_slots_that_were_taken_without_waiting_are_given_back_as_others() -> None:
    slots = Slots(2)
    for slot in slots.take_free(2):
        slot.release()
    assert (slots.held, slots.free) == (0, 2)


async def test_who_waits_for_a_slot_goes_before_who_takes_a_free_one() -> None:
    slots = Slots(1)
    (first,) = await taken(slots, 1)
    await soon(slots.take())
    first.release()
    assert slots.take_free(1) == []
