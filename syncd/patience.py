"""How a call waits: for how long at most, and what becomes of its run's slot meanwhile. Belongs to `http`."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from syncd.errors import RateLimited, Transient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping

T = TypeVar("T")

LONG_S = (
    5.0  # a wait for more than this is told, and the slot is given to others; so it is while an answer takes longer
)
_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 20.0


class Slot(Protocol):
    """A run's place among those that run at once: given to others while this one waits, and taken back."""

    def lend(self) -> None: ...

    async def regain(self) -> None: ...


async def no_word(_limit: str, _seconds: float) -> None:
    """Nobody wants to hear of a wait."""


def uncounted(_reason: str, _limit: str, _seconds: float) -> None:
    """Nobody counts the waits."""


class Patience:
    """One call's: when to give up and how long to wait, ``Retry-After`` in full where told, else exponentially; always
    a bit more. A cut call takes no slot back: it is on its way out.

    ``slot``: what is lent while it waits long. ``on_wait``, ``on_waited``: as `Link`'s. ``regains``: False for a call
    within another, which takes the slot back when it goes on: the new tokens of a renewal must not wait for one.
    """

    def __init__(
        self,
        seconds: float,
        slot: Slot | None = None,
        on_wait: Callable[[str, float], Awaitable[None]] = no_word,
        on_waited: Callable[[str, str, float], None] = uncounted,
        *,
        regains: bool = True,
    ) -> None:
        self.exponential_s = _FIRST_WAIT_S
        self._ends = time.monotonic() + seconds
        self._slot, self._on_wait, self._on_waited = slot, on_wait, on_waited
        self._regains = regains
        self._wait_s = 0.0
        self._away = self._paced = False

    def left_s(self) -> float:
        return max(0.0, self._ends - time.monotonic())

    def gives_up(self, error: Exception) -> bool:
        """Asked by backoff before each wait; decides that wait as well."""
        told = error.retry_after_s if isinstance(error, RateLimited | Transient) else None
        if told is None:
            told = self.exponential_s
            self.exponential_s = min(self.exponential_s * 2, _LONGEST_WAIT_S)
        self._wait_s = told * (1 + random.random() / 10)
        return self._wait_s > self.left_s()

    def waits(self) -> Generator[float, Any, None]:
        yield 0.0  # backoff's priming step
        while True:
            yield self._wait_s

    async def leave(self, limit: str, seconds: float) -> None:
        """A wait begins. ``limit``: what for, empty for a retry after a passing fault."""
        if seconds > LONG_S:
            await self._on_wait(limit, seconds)
            self._away = True
            if self._slot is not None:
                self._slot.lend()

    async def back(self) -> None:
        """The wait is over: take the slot back, which may take long and uses up no patience."""
        if self._away:
            self._away = False
            await self.regain()
            await self._on_wait("", 0.0)

    @asynccontextmanager
    async def paced(self, limit: str, seconds: float) -> AsyncIterator[None]:
        """Around a wait for the budget. The first one uses up no patience either: it says nothing of the vendor."""
        began = time.monotonic()
        await self.leave(limit, seconds)
        yield
        self._on_waited("pacing", limit, time.monotonic() - began)
        if not self._paced:
            self._ends += time.monotonic() - began
        await self.back()

    async def before_retry(self, details: Mapping[str, Any]) -> None:
        """Called by backoff before it waits."""
        error = details["exception"]
        limit = error.limit if isinstance(error, RateLimited) else ""
        self._on_waited(error.kind, limit, details["wait"])
        await self.leave(limit, details["wait"])

    async def answered(self, attempt: Awaitable[T]) -> T:
        """Its answer. While that takes long, the slot is others'."""
        self._paced = True
        if self._slot is None:
            return await attempt
        lending = asyncio.get_running_loop().call_later(LONG_S, self._slot.lend)
        try:
            answer = await attempt
        except Exception:
            lending.cancel()
            await self.regain()
            raise
        finally:
            lending.cancel()
        await self.regain()
        return answer

    async def regain(self) -> None:
        """Have the slot again, if it was lent."""
        began = time.monotonic()
        if self._slot is not None and self._regains:
            await self._slot.regain()
        self._ends += time.monotonic() - began
