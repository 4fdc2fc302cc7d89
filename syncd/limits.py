"""How fast we may ask: one bucket per credential and limit, shared by all that runs in the process.

A bucket is an exact sliding window: in any ``per`` seconds no more than ``calls`` units are drawn, so that a vendor who
counts either fixed or sliding minutes never sees more than it allows. A bucket that was told ``Retry-After`` is closed
until then for everyone.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from syncd.errors import RateLimited

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

_MARGIN_S = 0.05  # a call may arrive at the vendor this much later than the one drawn before it
_SLOTS = 1000  # a window keeps at most about this many entries: a day's 10,000 calls are kept in coarser steps
_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True, slots=True)
class Rate:
    """``calls`` units in any ``per_s`` seconds."""

    calls: int
    per_s: float

    @classmethod
    def parse(cls, text: str) -> Rate:
        """From ``"50/1m"`` (units s, m, h, d). Raises ValueError."""
        match = re.fullmatch(r"\s*(\d+)\s*/\s*(\d*)\s*([smhd])\s*", text)
        if not match or int(match[1]) < 1 or (match[2] and int(match[2]) < 1):
            raise ValueError(f"{text!r} is not a rate; write calls per time, such as 50/1m, 3/1s or 10000/1d")
        return cls(int(match[1]), int(match[2] or 1) * _UNITS_S[match[3]])

    def half(self) -> Rate:
        """What a backfill takes, so that the regular cycles keep the rest.

        Half the units, not twice the time: of 10,000 calls in two days all could go on the first, and leave nothing.
        """
        return Rate(self.calls // 2, self.per_s) if self.calls > 1 else Rate(1, self.per_s * 2)

    def __str__(self) -> str:
        unit, seconds = next(item for item in reversed(_UNITS_S.items()) if self.per_s % item[1] == 0)
        return f"{self.calls}/{int(self.per_s // seconds)}{unit}"


_UNLIMITED = Rate(1_000_000_000, 1.0)


class Bucket:
    """One budget. Times are of ``clock`` (monotonic seconds)."""

    def __init__(self, rate: Rate, clock: Callable[[], float] = time.monotonic, margin_s: float = _MARGIN_S) -> None:
        self.rate = rate
        self._clock = clock
        self._margin_s = margin_s
        self._drawn: deque[tuple[float, int]] = deque()
        self._used = 0
        self._closed_until = 0.0

    def wait_s(self, cost: int = 1) -> float:
        """Seconds until ``cost`` units may be drawn; 0 when they may be now."""
        now = self._clock()
        per = self.rate.per_s + self._margin_s
        while self._drawn and self._drawn[0][0] + per <= now:
            self._used -= self._drawn.popleft()[1]
        closed = max(0.0, self._closed_until - now)
        excess = self._used + min(cost, self.rate.calls) - self.rate.calls
        for at, units in self._drawn:
            if excess <= 0:
                break
            excess -= units
            closed = max(closed, at + per - now)
        return closed

    def draw(self, cost: int = 1) -> None:
        """Take ``cost`` units now. Entries that lie close together are merged under the later time: never too early."""
        now = self._clock()
        if self._drawn and len(self._drawn) > 1 and now - self._drawn[-2][0] < self.rate.per_s / _SLOTS:
            cost_before = self._drawn.pop()[1]
            self._drawn.append((now, cost_before + cost))
        else:
            self._drawn.append((now, cost))
        self._used += cost

    def closed_s(self) -> float:
        """Seconds that the vendor's word keeps it closed."""
        return max(0.0, self._closed_until - self._clock())

    def close(self, seconds: float) -> None:
        """Nothing may be drawn for ``seconds`` from now; never shortens an earlier closing."""
        self._closed_until = max(self._closed_until, self._clock() + seconds)


class Buckets:
    """The process's buckets, by (credential, limit)."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._buckets: dict[tuple[str, str], Bucket] = {}

    def bucket(self, credential: str, limit: str, rate: Rate) -> Bucket:
        bucket = self._buckets.get((credential, limit))
        if bucket is None or bucket.rate != rate:
            bucket = self._buckets[credential, limit] = Bucket(rate, self._clock)
        return bucket

    async def acquire(
        self, credential: str, draws: Mapping[str, int], rates: Mapping[str, Rate], patience_s: float
    ) -> None:
        """Wait until all of ``draws`` (limit → units) may be drawn together, then draw them.

        A limit without a rate is only ever closed by the vendor. Raises `RateLimited` at once when the wait would
        exceed ``patience_s``.
        """
        wanted = [(self.bucket(credential, limit, rates.get(limit, _UNLIMITED)), cost) for limit, cost in draws.items()]
        waited = 0.0
        while wait := max((bucket.wait_s(cost) for bucket, cost in wanted), default=0.0):
            if waited + wait > patience_s:
                ours = wait > max(bucket.closed_s() for bucket, _ in wanted)
                raise RateLimited(f"our budget for {', '.join(draws)} is used up", retry_after_s=wait, ours=ours)
            waited += wait
            await self._sleep(wait)
        for bucket, cost in wanted:
            bucket.draw(cost)

    def close(self, credential: str, draws: Mapping[str, int], rates: Mapping[str, Rate], seconds: float) -> None:
        """The vendor said ``Retry-After``: close every bucket that the refused call drew from."""
        for limit in draws:
            self.bucket(credential, limit, rates.get(limit, _UNLIMITED)).close(seconds)
