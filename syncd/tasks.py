"""Tasks that end as they should, also when whoever waits for them is cancelled."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

T = TypeVar("T")


async def to_its_end(work: Coroutine[Any, Any, T], within_s: float = 10.0) -> T:
    """Await ``work`` even when we are cancelled meanwhile (then raise that), but not for ever.

    After ``within_s`` it is cut as well: what outlives us would use what is closed under it.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task], timeout=within_s)
        if not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=1.0)
        raise


async def all_of(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run ``works`` at once, each to its end; answers their results, or raises the first error when all have ended.

    A gather would raise at once and leave the others running while what they need is closed under them.
    """
    tasks = [asyncio.create_task(work) for work in works]
    try:
        if tasks:
            await asyncio.wait(tasks)
    except asyncio.CancelledError:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        raise
    errors = [error for task in tasks if not task.cancelled() and (error := task.exception())]
    if errors:
        raise errors[0]
    return [task.result() for task in tasks]
