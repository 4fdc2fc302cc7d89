"""Noticing that the wall clock was set: what was planned by it has to be planned anew."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = structlog.get_logger(__name__)

STEP_S = 30.0  # less is drift, or a slow loop between the two readings
_LOOK_EVERY_S = 5.0


async def watch_clock(
    stepped: Callable[[], Awaitable[None]],
    *,
    wall: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Call ``stepped`` each time that the wall clock was set back or forth by more than half a minute, for ever.

    ``wall``, ``monotonic``: seconds. The monotonic clock goes on while the process is frozen, so that is no step; a
    machine that slept is one.
    """
    before = wall() - monotonic()
    while True:
        await sleep(_LOOK_EVERY_S)
        between = wall() - monotonic()
        if abs(between - before) > STEP_S:
            log.warning("clock.stepped", seconds=round(between - before))
            await stepped()
        before = between
