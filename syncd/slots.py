"""How many runs of a source go on at once, who is next, and what follows when its vendor is away."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger(__name__)

_LENT = 5  # so many times the slots may be lent by default: a run that only waits still holds memory and a socket
_AWAY = 5  # so many connections in a row could not reach the vendor: it is away, not they


class Slots:
    """The places of a source's runs. First come, first served; who wants a lent one back goes before who comes new.

    ``size``: runs at once. ``lent``: so many runs at most that only wait have given their place to others.

    A slow start spares a vendor that is away or just back. When five connections in a row could not reach it, and
    nobody was answered since their runs began, it is `unreachable`: one slot is left, and none is lent. The next
    answer ends that, and each run that is answered doubles the slots in use, up to ``size``.

    ``freed``: called when somebody who waits for none of them may take one.
    """

    def __init__(self, size: int, lent: int | None = None) -> None:
        self.size = self.open = size
        self.most_lent = _LENT * size if lent is None else lent
        self.held = self.lent = 0
        self.unreachable = False
        self._answers = 0
        self._failed: set[int] = set()
        self._takers: deque[asyncio.Future[None]] = deque()
        self._regainers: deque[asyncio.Future[None]] = deque()
        self.freed: Callable[[], object] = lambda: None

    @property
    def free(self) -> int:
        """How many could be taken now without waiting."""
        return max(0, self.open - self.held - len(self._takers) - len(self._regainers))

    async def take(self) -> Slot:
        """Wait for a place and take it. Whoever took it calls its `Slot.release`."""
        await self.seat()
        return Slot(self, self._answers)

    def take_free(self, most: int) -> list[Slot]:
        """Take those that are free now, ``most`` at most; as `take`, without waiting."""
        taken = [Slot(self, self._answers) for _ in range(min(most, self.free))]
        self.held += len(taken)
        return taken

    async def seat(self, *, again: bool = False) -> None:
        """Wait for a place. ``again``: for one that was lent."""
        queue = self._regainers if again else self._takers
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(turn)
        self._call_next()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                queue.remove(turn)
            else:
                self.vacate()  # it became ours in the very moment that we were cut
            raise

    def vacate(self) -> None:
        """A place is free: the next one may have it."""
        self.held -= 1
        self._call_next()

    def _call_next(self) -> None:
        for queue in (self._regainers, self._takers):
            for turn in [one for one in queue if not one.done()]:
                if self.held >= self.open:
                    return
                queue.remove(turn)
                self.held += 1
                turn.set_result(None)
        if self.free:
            self.freed()

    def answered(self, *, first: bool) -> None:
        """The vendor answered a run. ``first``: that run's first answer."""
        self._answers += 1
        self._failed.clear()
        if self.unreachable:
            self.unreachable = False
            log.info("source.reached")
        if first and self.open < self.size:
            self.open = min(self.open * 2, self.size)
            self._call_next()

    def unanswered(self, connection_id: int, answers: int) -> None:
        """A run ended that could not reach the vendor. ``answers``: how many there had been when it began."""
        if self.unreachable or answers != self._answers:
            return  # it answers others: the trouble is this connection's
        self._failed.add(connection_id)
        if len(self._failed) >= _AWAY:
            self.unreachable, self.open = True, 1
            log.warning("source.unreachable", connections=len(self._failed))


class Slot:
    """One run's place among those that run at once. ``answers``: how many the vendor had given when it was taken."""

    def __init__(self, slots: Slots, answers: int) -> None:
        self._slots, self._answers = slots, answers
        self._lent = self._ended = self._was_answered = False
        self._regaining = asyncio.Lock()

    def lend(self) -> None:
        """Let others have the place while this run only waits. Nothing happens where it is lent, or too many are."""
        slots = self._slots
        if self._lent or self._ended or slots.unreachable or slots.lent >= slots.most_lent:
            return
        self._lent = True
        slots.lent += 1
        slots.vacate()

    async def regain(self) -> None:
        """Have the place again before going on; at once where it was not lent."""
        async with self._regaining:
            if not self._lent:
                return
            await self._slots.seat(again=True)
            if self._ended:
                self._slots.vacate()  # the run ended while this call of it still waited
                return
            self._lent = False
            self._slots.lent -= 1

    def release(self) -> None:
        """The run has ended, whatever it was doing."""
        if self._ended:
            return
        self._ended = True
        if self._lent:
            self._lent = False
            self._slots.lent -= 1
        else:
            self._slots.vacate()

    def answered(self) -> None:
        """The vendor answered this run, whatever it said."""
        first, self._was_answered = not self._was_answered, True
        self._slots.answered(first=first)

    def unanswered(self, connection_id: int) -> None:
        """The run ended because the vendor could not be reached."""
        self._slots.unanswered(connection_id, self._answers)
