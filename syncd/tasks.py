"""Tasks that end as they should, also when whoever waits for them is cancelled."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine


async def to_its_end(work: Coroutine[Any, Any, Any]) -> None:
    """Await ``work`` even when we are cancelled meanwhile (then raise that), but not for ever."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task], timeout=10)
        raise


async def all_of(slots: list[Coroutine[Any, Any, None]]) -> None:
    """Run ``slots`` to their end, then raise the first error; a failing slot leaves the others' runs alone."""
    tasks = [asyncio.create_task(slot) for slot in slots]
    try:
        if tasks:
            await asyncio.wait(tasks)
    except asyncio.CancelledError:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        raise
    for task in tasks:
        task.result()
