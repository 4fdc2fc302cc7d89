"""The sandbox's world: its clock, its workspaces, the ledger of calls, the limits it enforces, the faults it acts out.

Each vendor (`slack.py`, `gong.py`, `fathom.py`, `gmail.py`) builds its own data for every workspace from the same
companies, so that the customer of a Slack thread is the customer of the call and of the mail.
"""

from __future__ import annotations

import hashlib
import math
import random
import time
from collections import Counter, deque
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from aiohttp import web

from syncd.limits import Bucket, Rate
from syncd.sandbox.dataset import Company, company
from syncd.sandbox.faults import IN_PLACE, Fault, Faults, Instead
from syncd.sandbox.switches import SWITCHES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence


SEEN = web.RequestKey("SEEN", tuple[str, str, str])  # what `World.seen` was told of a request
PAGED = web.RequestKey("PAGED", bool)  # whether it asks for a further page of a listing
FAULT = web.RequestKey("FAULT", Fault)  # what befalls it
_call: ContextVar[tuple[str, str, str]] = ContextVar("_call", default=("", "", ""))  # the same, for `over_limit`


class Clock:
    """Real time plus a shift that the control endpoint moves: tokens expire and transcripts ripen on demand.

    ``speed``: how many seconds pass here in a real one. Rate limits count these seconds too.
    """

    def __init__(self, now: datetime | None = None, speed: float = 1.0) -> None:
        self._began = datetime.now(UTC)
        self._from = now or self._began
        self._speed = speed

    def now(self) -> datetime:
        return self._from + (datetime.now(UTC) - self._began) * self._speed

    def monotonic(self) -> float:
        return self.now().timestamp()

    def advance(self, by: timedelta) -> None:
        self._from += by

    def real_s(self, until: datetime) -> float:
        """In how many real seconds it will be that late here; 0 when it is already."""
        return max((until - self.now()).total_seconds(), 0.0) / self._speed


class StandingClock(Clock):
    """Moves only when told to: nothing ripens between one run and the next. Rate limits count real seconds."""

    def __init__(self, now: datetime | None = None) -> None:
        super().__init__()
        self._at = self._began = now or datetime.now(UTC)

    def now(self) -> datetime:
        return self._at

    def monotonic(self) -> float:
        return time.monotonic() + (self._at - self._began).total_seconds()

    def advance(self, by: timedelta) -> None:
        self._at += by


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How large the data set is and how the vendors behave. Sizes are per workspace.

    ``days``: how far the past reaches. ``page_size``: caps every page below the vendor's own size (0 = the vendor's).
    ``limits``: whether rate limits are enforced. ``switches``: variants of unconfirmed behaviour, by `SWITCHES`.
    """

    seed: int = 1
    workspaces: int = 3
    days: int = 7
    channels: int = 4
    messages_per_day: int = 12
    calls_per_day: int = 3
    meetings_per_day: int = 3
    mails_per_day: int = 4
    page_size: int = 0
    limits: bool = True
    switches: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Call:
    """One request that reached a vendor: the ledger's line."""

    at: datetime
    vendor: str
    method: str
    workspace: str
    status: int


@dataclass(frozen=True, slots=True)
class Breach:
    """A request that a client which keeps the vendor's limits does not send.

    ``kind``: ``exceeded`` = refused as a limit was used up; ``early`` = it came before the ``Retry-After`` that was
    told for its limit, or by a fault 429 for this method and workspace, was over.
    """

    at: datetime
    vendor: str
    method: str
    workspace: str
    kind: str


@dataclass(frozen=True, slots=True)
class Renewal:
    """A refresh token that came to a token endpoint. ``again``: it had bought an access token before.

    ``token``: a digest of it. ``workspace``: empty where nobody ever had it.
    """

    at: datetime
    vendor: str
    workspace: str
    token: str
    again: bool
    granted: bool


class Vendor(Protocol):
    """What each emulated vendor offers to the app."""

    name: str

    def routes(self) -> Sequence[web.RouteDef]:
        """Its HTTP interface, under ``/<name>``. Handlers call `World.seen` first."""
        ...

    def environment(self, base: str) -> Mapping[str, str]:
        """The ``SYNCD_SOURCES__…`` variables that point syncd here; ``base`` is ``http://127.0.0.1:PORT``."""
        ...

    def connections(self) -> Iterator[Mapping[str, Any]]:
        """Lines for ``syncd connections import``, one per workspace."""
        ...

    def truth(self, workspace: str, since: datetime | None) -> Mapping[str, list[str]]:
        """What a perfect reader holds of this workspace since then: kind of record → external ids."""
        ...

    def holdings(self, workspace: str) -> Mapping[str, Mapping[str, Any]]:
        """What a reader that began when the sandbox was born, and missed nothing, holds live now.

        Kind of record → external id → the JSON as it is served now. Its own record, made of state and events.
        """
        ...

    def act(self, workspace: str, action: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Change the data while it runs; the actions are listed by ``GET /control``. Raises KeyError, ValueError."""
        ...

    actions: Mapping[str, str]


class World:
    """All that the vendors share."""

    def __init__(self, options: Options, clock: Clock | None = None) -> None:
        if unknown := set(options.switches) - set(SWITCHES):
            raise ValueError(f"no such switch: {', '.join(sorted(unknown))}; known: {', '.join(SWITCHES)}")
        self.options = options
        self.clock = clock or Clock()
        self.born = self.clock.now()
        self.companies: dict[str, Company] = {}
        for index in range(options.workspaces):
            made = company(random.Random(f"{options.seed}/{index}"), index)
            self.companies[made.workspace] = made
        self.faults = Faults()
        self.ledger: deque[Call] = deque(maxlen=100_000)
        self.counts: Counter[tuple[str, str]] = Counter()
        self.breaches: list[Breach] = []
        self.renewals: list[Renewal] = []
        self._buckets: dict[tuple[str, ...], Bucket] = {}
        self._closed: dict[tuple[str, ...], float] = {}  # limit or call → until when it was told to wait

    def random(self, *path: object) -> random.Random:
        """A generator of its own for each thing made, so that one vendor's data does not move another's."""
        return random.Random("/".join(map(str, (self.options.seed, *path))))

    def page_size(self, wanted: int) -> int:
        return min(wanted, self.options.page_size) if self.options.page_size else wanted

    def switch(self, name: str, default: str) -> str:
        return self.options.switches.get(name, default)

    def seen(self, request: web.Request, vendor: str, method: str, workspace: str = "") -> None:
        """Say what a request is: the middleware writes the ledger and acts out faults by it.

        Raises `Instead` where the fault is to be answered in the vendor's place.
        """
        call = request[SEEN] = (vendor, method, workspace)
        _call.set(call)
        self._look_if_early("call", *call)
        fault = self.faults.take(*call, paged=request.get(PAGED, False))
        if fault is not None:
            request[FAULT] = fault
            if fault.kind in IN_PLACE:
                raise Instead

    def over_limit(
        self, rate: Rate, *bucket: str, cost: int = 1, told: Callable[[float], float] | None = math.ceil
    ) -> float | None:
        """None when the call is within ``rate``, else the seconds until it would be. A refused call counts nothing.

        ``told``: how the vendor rounds these seconds when it tells them; None: it does not.
        """
        if not self.options.limits:
            return None
        held = self._buckets.get(bucket)
        if held is None or held.rate != rate:
            held = self._buckets[bucket] = Bucket(rate, self.clock.monotonic, margin_s=0.0)
        self._look_if_early("limit", *bucket)
        wait = held.wait_s(cost)
        if wait > 0:
            self._breached("exceeded")
            if told is not None:
                self.tells(told(wait), "limit", *bucket)
            return wait
        held.draw(cost)
        return None

    def tells(self, seconds: float, *what: str) -> None:
        """A client was told to wait so long with calls of a limit (``limit``, …) or with a call (``call``, …)."""
        self._closed[what] = self.clock.monotonic() + seconds

    def _look_if_early(self, *what: str) -> None:
        until = self._closed.get(what)
        if until is None:
            return
        if self.clock.monotonic() < until:
            self._breached("early")
        else:
            del self._closed[what]

    def _breached(self, kind: str) -> None:
        self.breaches.append(Breach(self.clock.now(), *_call.get(), kind))

    def renews(self, vendor: str, workspace: str, token: str, *, granted: bool) -> bool:
        """Say that a refresh token came, and what it was answered; answers the latter."""
        mark = hashlib.sha256(token.encode()).hexdigest()[:16]
        again = any(one.token == mark and one.granted for one in self.renewals)
        self.renewals.append(Renewal(self.clock.now(), vendor, workspace, mark, again, granted))
        return granted

    def record(self, call: Call) -> None:
        self.ledger.append(call)
        self.counts[call.vendor, call.method] += 1


def page_of(rows: Sequence[Any], start: int, size: int) -> tuple[Sequence[Any], int | None]:
    """``size`` rows from ``start`` and where the next page starts, None when this is the last."""
    end = start + size
    return rows[start:end], end if end < len(rows) else None


def ids(rows: Iterable[Mapping[str, Any]], key: str = "id") -> list[str]:
    return [str(row[key]) for row in rows]
