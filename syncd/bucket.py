"""One limit of a credential: how much of it was drawn, and whether the vendor has closed or lowered it.

A bucket is an exact sliding window: a unit counts from when it is drawn until ``per`` after the vendor answered, so
that a vendor who counts either fixed or sliding minutes never sees more than it allows, however long a request was on
its way. One that was told ``Retry-After`` is closed until then for everyone; the first call after that goes alone.

Some vendors lower a limit (Slack for the apps that it restricts, Fathom when much is asked of it): then the low rate
holds for a while. What a bucket knows outlives the process as a `Budget`; limits of an hour and more are counted in the
database itself (`Counted`).
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    Units = tuple[float, int]  # when (or how many seconds ago), how many

MARGIN_S = 0.05  # clocks differ, and so do those who read them
ALONE_S = 2.0  # for so long at most the first call after a closing goes alone
LONG_S = 3600.0  # a limit over so long or longer is counted in the database
_SLOTS = 1000  # a window keeps at most about this many entries: a day's 10,000 calls are kept in coarser steps
_TOLD_FROM_S = 10.0  # a window shorter than this is over before another process could know of it
_TOLD_STEPS = 20  # in so many steps another process is told what was drawn in a window
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


class Grant(NamedTuple):
    """The database's answer for a limit that it counts: ``units`` may be drawn for ``seconds``; none: nothing more may
    be for so long, as they are used up or, ``closed``, as the vendor told another process.
    """

    units: int
    seconds: float
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Budget:
    """What is known of one limit of a credential, to outlive the process; all in seconds from now, or ago.

    ``closed_s``: for how long the vendor's word keeps it closed. ``low_s``: for how long it is lowered, 0 = it is up
    again, None = nothing new. ``drawn``: process → what it drew of a short window, as (seconds ago, units).
    ``granted``: of a limit that the database counts, what it granted, as (seconds since the step's end, units).
    """

    name: str
    closed_s: float = 0.0
    low_s: float | None = None
    drawn: Mapping[str, Sequence[Units]] = field(default_factory=dict)
    granted: Sequence[Units] = ()

    def counted(self, rate: Rate) -> int:
        """How many units of a long limit count now; some of them are kept to spare."""
        return sum(units for ago, units in self.granted if ago < rate.per_s)

    def most_drawn(self) -> int:
        """The most that one process is known to have drawn of a short window, within about the last hour."""
        return max((sum(units for _, units in entries) for entries in self.drawn.values()), default=0)


class Bucket:
    """One budget. Times are of ``clock`` (monotonic seconds).

    There are thousands at a time, each of a few entries: no ``__dict__``, no deque, which alone takes 624 bytes.
    """

    __slots__ = (
        "_alone_until", "_clock", "_closed_until", "_drawn", "_low", "_low_until", "_margin_s", "_others",
        "_proven_until", "_reopens", "_sum", "_telling", "_told_closed", "_told_drawn", "_under_way", "bare", "rate",
        "untold_low",
    )  # fmt: skip

    def __init__(self, rate: Rate, clock: Callable[[], float] = time.monotonic, margin_s: float = MARGIN_S) -> None:
        self.rate = rate
        self.bare = 0  # refusals in a row that did not say for how long
        self.untold_low = False  # lowered or raised since the database was told
        self._clock = clock
        self._margin_s = margin_s
        self._drawn: list[Units] = []
        self._sum = self._under_way = 0
        self._others: Sequence[Units] = ()
        self._low: Rate | None = None
        self._low_until = self._proven_until = 0.0
        self._closed_until = self._alone_until = 0.0
        self._reopens = False
        self._told_closed = self._told_drawn = 0.0
        self._telling = (0.0, 0.0)

    @property
    def in_force(self) -> Rate:
        return self._low if self._low is not None and self.low_s() else self.rate

    def wait_s(self, cost: int = 1) -> float:
        """Seconds until ``cost`` units may be drawn; 0 when they may be now."""
        now, rate = self._clock(), self.in_force
        wait = max(0.0, self._closed_until - now, self._alone_until - now)
        excess = self._used(now) + self._under_way + min(cost, rate.calls) - rate.calls
        if excess <= 0:
            return wait
        per = rate.per_s + self._margin_s
        for at, units in self._entries():
            if excess <= 0:
                return wait
            if at + per > now:
                excess -= units
                wait = max(wait, at + per - now)
        return max(wait, per) if excess > 0 else wait  # what is under way counts for a whole period after its answer

    def has_room(self) -> bool:
        """Whether by the full rate there is room for more, in spite of what is drawn and under way, and of the tenth
        that another process need not have told.
        """
        return self._used(self._clock()) + self._under_way < self.rate.calls - self.rate.calls // 10

    def is_idle(self) -> bool:
        """Whether a new one would say the same."""
        now = self._clock()
        self._used(now)  # forgets what no longer counts
        known = self._under_way or self._drawn or self._others or self.bare or self.untold_low or self._reopens
        return not known and now >= max(self._closed_until, self._alone_until, self._low_until)

    def draw(self, cost: int = 1) -> None:
        """Take ``cost`` units now, for a call that is answered now."""
        self.begin(cost)
        self.end(cost)

    def begin(self, cost: int = 1) -> None:
        """Take ``cost`` units for a call that goes out now."""
        self._under_way += cost
        if self._reopens:
            self._reopens, self._alone_until = False, self._clock() + ALONE_S

    def end(self, cost: int = 1) -> None:
        """That call was answered. Entries that lie close together are merged under the later time: never too early."""
        now, drawn = self._clock(), self._drawn
        self._under_way -= cost
        self._sum += cost
        self._alone_until = 0.0
        if len(drawn) > 1 and now - drawn[-2][0] < self.rate.per_s / _SLOTS:
            cost += drawn.pop()[1]
        drawn.append((now, cost))

    def closed_s(self) -> float:
        """Seconds that the vendor's word keeps it closed."""
        return max(0.0, self._closed_until - self._clock())

    def close(self, seconds: float) -> None:
        """Nothing may be drawn for ``seconds`` from now; never shortens an earlier closing."""
        self._closed_until = max(self._closed_until, self._clock() + seconds)
        self._reopens = True

    def low_s(self) -> float:
        """Seconds that the low rate holds, 0 when the full one does."""
        return max(0.0, self._low_until - self._clock())

    def lower(self, rate: Rate, seconds: float) -> None:
        """``rate`` holds for ``seconds``; what is drawn already counts."""
        self._low, self._low_until = rate, self._clock() + seconds

    def prove(self) -> None:
        """While it is low now, it is known to be (`Link.is_proven`)."""
        self._proven_until = self._low_until

    def is_proven(self) -> bool:
        return self.low_s() > 0 and self._clock() < self._proven_until

    def budget(self, name: str, me: str) -> Budget | None:
        """What the database is to be told; None when it knows all that matters."""
        now, drawn = self._clock(), self._told(me)
        if not self.untold_low and self._closed_until <= max(now + 1.0, self._told_closed) and not drawn:
            return None
        self._telling = self._closed_until, self._drawn[-1][0] if self._drawn else 0.0
        return Budget(name, self.closed_s(), self.low_s() if self.untold_low else None, drawn)

    def told(self) -> None:
        """The database was told what `budget` said."""
        self.untold_low = False
        self._told_closed, self._told_drawn = self._telling

    def learn(self, budget: Budget, low: Rate | None, me: str) -> None:
        """Take in what another process may have found out; ``low``: to what the vendor may lower the limit."""
        now = self._clock()
        self._heed(budget.closed_s)
        if not self.untold_low and low is not None:
            self._low, self._low_until = low, now + (budget.low_s or 0.0)
        others = (entries for by, entries in budget.drawn.items() if by != me)
        self._others = sorted((now - ago, units) for entries in others for ago, units in entries)

    def _heed(self, closed_s: float) -> None:
        """The vendor closed it, as the database knows."""
        if closed_s > self.closed_s():
            self.close(closed_s)
            self._told_closed = self._closed_until

    def _told(self, me: str) -> Mapping[str, Sequence[Units]]:
        """What is drawn of a window, in a few steps, if it is more than a little of it."""
        rate, now = self.in_force, self._clock()
        own = [(at, units) for at, units in self._drawn if at + rate.per_s > now]
        new = bool(own) and own[-1][0] > self._told_drawn
        if not new or not _TOLD_FROM_S <= rate.per_s < LONG_S or 10 * sum(units for _, units in own) <= rate.calls:
            return {}
        steps: dict[int, Units] = {}
        for at, units in own:
            step = int((now - at) / rate.per_s * _TOLD_STEPS)
            steps[step] = (now - at, steps.get(step, (0.0, 0))[1] + units)  # the last of a step is its latest
        return {me: list(steps.values())}

    def _used(self, now: float) -> int:
        """Units that count now; what no longer does is forgotten."""
        rate, longest = self.in_force, max(self.rate.per_s, self.in_force.per_s) + self._margin_s
        while self._drawn and self._drawn[0][0] + longest <= now:
            self._sum -= self._drawn.pop(0)[1]
        if self._others:
            self._others = [one for one in self._others if one[0] + longest > now]
        if not self._others and rate.per_s + self._margin_s == longest:
            return self._sum
        per = rate.per_s + self._margin_s
        return sum(units for at, units in self._entries() if at + per > now)

    def _entries(self) -> Iterable[Units]:
        """All that is drawn, the oldest first."""
        return sorted([*self._drawn, *self._others]) if self._others else self._drawn


class Counted(Bucket):
    """A long limit. The database counts it, for all processes; here is what it granted, to be drawn for a while."""

    __slots__ = ("_granted", "_granted_until", "_none_until", "asking")

    def __init__(self, rate: Rate, clock: Callable[[], float] = time.monotonic, margin_s: float = MARGIN_S) -> None:
        super().__init__(rate, clock, margin_s)
        self.asking = asyncio.Lock()
        self._granted = 0
        self._granted_until = self._none_until = 0.0

    def wait_s(self, cost: int = 1) -> float:
        return max(0.0, max(self._closed_until, self._alone_until, self._none_until) - self._clock())

    def has_room(self) -> bool:
        return False

    def is_idle(self) -> bool:
        granted_until = self._granted_until if self._granted > 0 else 0.0
        quiet = self._clock() >= max(granted_until, self._none_until)
        return quiet and not self.asking.locked() and super().is_idle()

    def lacks(self, cost: int) -> int:
        """How many units must be granted before ``cost`` can be drawn."""
        held = self._granted if self._clock() < self._granted_until else 0
        return max(0, min(cost, self.rate.calls) - held)

    def grant(self, answer: Grant) -> None:
        now, (units, seconds, closed) = self._clock(), answer
        if closed:
            self._heed(seconds)
        elif not units:
            self._none_until = now + seconds
        elif now < self._granted_until:
            self._granted, self._granted_until = self._granted + units, min(self._granted_until, now + seconds)
        else:
            self._granted, self._granted_until = units, now + seconds

    def begin(self, cost: int = 1) -> None:
        super().begin(cost)
        self._granted -= min(cost, self.rate.calls)

    def end(self, cost: int = 1) -> None:
        """It counts since it was granted."""
        self._under_way -= cost
        self._alone_until = 0.0

    def _told(self, me: str) -> Mapping[str, Sequence[Units]]:
        return {}
