"""A cycle whose connections this process runs itself."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from syncd.dispatch import Cycle
    from syncd.engine import Engine

_AT_ONCE = 10  # connections of one claim: all of them begin in the same turn of the event loop


class Local:
    """Claims only what it can start now: a run that ends makes room for the next."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def run_due(self, cycle: Cycle, claimed: Callable[[], object]) -> bool:
        """As `Dispatch` has it: each run in a task of its own. Raises what a claim raised."""
        runs: set[asyncio.Task[Any]] = set()  # under way: an ended one, and what its error holds, is let go
        raised: list[BaseException] = []

        def begin(run: Coroutine[Any, Any, Any]) -> None:
            task = asyncio.create_task(run)
            runs.add(task)
            task.add_done_callback(ended)

        def ended(task: asyncio.Task[Any]) -> None:
            runs.discard(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                raised.append(error)

        try:
            try:
                await self._claim_due(cycle, begin)
            except Exception as error:  # noqa: BLE001 - what runs goes on to its end
                raised.insert(0, error)
            claimed()
            if runs:
                await asyncio.wait(runs)
        except asyncio.CancelledError:
            for task in runs:
                task.cancel()
            if runs:
                await asyncio.wait(runs)
            raise
        if raised:
            raise raised[0]
        return True

    async def _claim_due(self, cycle: Cycle, begin: Callable[[Coroutine[Any, Any, Any]], None]) -> None:
        """Claim connections as slots come free, for those that are free by then, until none is due; ``begin``: a run.

        While the vendor is unreachable there is one slot, and a run that could not reach it either is the cycle's last:
        the rest stays due, without a failure, until the next turn. Else 1,000 connections would wait a minute each.
        """
        slots, running = self._engine.slots[cycle.plan.source.name], self._engine.runs
        while not running.draining:
            taken = [await slots.take()]
            begun: list[Any] = []
            try:
                if not running.draining and not (cycle.probed and slots.unreachable):
                    taken += slots.take_free(_AT_ONCE - 1)
                    begun = await self._engine.begin(cycle, taken)
            finally:
                for slot in taken[len(begun) :]:
                    slot.release()
            for run in begun:
                begin(run)
            if not begun or cycle.which["only"] is not None:
                return
