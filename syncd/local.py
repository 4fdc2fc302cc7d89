"""A cycle whose connections this process runs itself."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from syncd.dispatch import Cycle
    from syncd.engine import Engine


class Local:
    """Claims only what it can start now: a run that ends makes room for the next."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def run_due(self, cycle: Cycle, claimed: Callable[[], object]) -> bool:
        """As `Dispatch` has it: each run in a task of its own. Raises what a claim raised."""
        runs: set[asyncio.Task[Any]] = set()
        lost: Exception | None = None
        try:
            try:
                await self._claim_due(cycle, runs)
            except Exception as error:  # noqa: BLE001 - what runs goes on to its end
                lost = error
            claimed()
            if runs:
                await asyncio.wait(runs)
        except asyncio.CancelledError:
            for run in runs:
                run.cancel()
            if runs:
                await asyncio.wait(runs)
            raise
        for raised in [lost, *(run.exception() for run in runs if not run.cancelled())]:
            if raised is not None:
                raise raised
        return True

    async def _claim_due(self, cycle: Cycle, runs: set[asyncio.Task[Any]]) -> None:
        """Claim one connection after the other, as slots come free, until none is due; ``runs``: theirs.

        While the vendor is unreachable there is one slot, and a run that could not reach it either is the cycle's last:
        the rest stays due, without a failure, until the next turn. Else 1,000 connections would wait a minute each.
        """
        slots, running = self._engine.slots[cycle.plan.source.name], self._engine.runs
        while not running.draining:
            slot = await slots.take()
            try:
                stays = running.draining or (cycle.probed and slots.unreachable)
                begun = None if stays else await self._engine.begin(cycle, slot)
            except BaseException:
                slot.release()
                raise
            if begun is None:
                slot.release()
                return
            runs.add(asyncio.create_task(begun))
            if cycle.which["only"] is not None:
                return
