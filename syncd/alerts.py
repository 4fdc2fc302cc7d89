"""Who is told of what, and when: decisions on values. What the connections are in now, what was told of them before.

A trouble is told once, when it has lasted for a while, and once more when it is over. Its *cause* tells one trouble
from another: ``needs_reauth``, ``misconfigured``, ``unread`` (late, or failing as in passing: the vendor does not
answer, so some fail and the rest is not even tried), else the kind of the last error. Many of one source with one cause
are one message. Where nearly no other connection of the source was read meanwhile it is an outage, which covers whoever
joins it, and whose end is one message as well. ``trouble`` is that of `store.status`, as everybody tells it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from syncd.errors import Transient
from syncd.policy import LONGEST_RETRY, MISCONFIGURED, NEEDS_REAUTH
from syncd.ways_out import way_out

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

UNREAD = "unread"
FAILING, LATE, OVERDUE, RECOVERED, TEST = "failing", "late", "overdue", "recovered", "test"
WITHDRAWN, PASSED = "withdrawn", "passed"  # how else an alert ends: nobody watches it now; it was a blip
LISTED = 100  # connections that a message names at most
_MANY, _SHARE = 3, 5  # so many at once are one message; an outage where they are one in so many of those tried
_MOST_ROUNDS = 5
_FIRST_GAP, _LONGEST_GAP, _GIVEN_UP = timedelta(seconds=15), timedelta(minutes=15), timedelta(hours=24)
_LONGEST_AHEAD = LONGEST_RETRY + timedelta(hours=1)
_OF_PERSONS = {NEEDS_REAUTH, MISCONFIGURED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A connection as it is now. ``since``: when its trouble began; ``said``: its last error and the hint to it, or
    which limit it waits for.

    ``watched``: False for one that is paused, removed or of a source that is off. ``in_pass``: each of its runs reads a
    part, so that a success may be far.
    """

    id: int
    source: str
    trouble: str | None
    watched: bool = True
    kind: str | None = None
    since: datetime | None = None
    last_success_at: datetime | None = None
    next_sync_at: datetime | None = None
    in_pass: bool = False
    said: tuple[str, str] = ("", "")

    @property
    def cause(self) -> str:
        if self.trouble in {LATE, OVERDUE} or (self.trouble == FAILING and self.kind in {Transient.kind, None}):
            return UNREAD
        return str(self.kind if self.trouble == FAILING else self.trouble)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """A connection's trouble, from when it is seen to its end. ``seen_at``: since when it has this ``cause``.

    ``told``: the cause that was told; ``outage``: the one that covers it; ``well_at``: since when it is read again.
    ``rounds``: how often the same was over and told within a day: each makes it wait longer.
    """

    connection_id: int
    source: str
    cause: str
    trouble: str
    seen_at: datetime
    since: datetime
    well_at: datetime | None = None
    told: str | None = None
    outage: str | None = None
    rounds: int = 0
    ended: str | None = None

    @property
    def pending(self) -> bool:
        """There is something that was not told yet."""
        return self.ended is None and self.well_at is None and self.told != self.cause


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """A source that fails for many at once. ``few_at``: since when they are many no more."""

    key: str
    source: str
    cause: str
    began_at: datetime
    few_at: datetime | None = None
    ended: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One message. ``event``: a trouble (overdue is ``late``) or ``recovered``. ``connections``: the first ids of
    ``count``. ``since``: when the trouble began. ``remaining``: how many are not read again though it is over.

    ``outage``: the key of the one that begins or ends with it.
    """

    event: str
    source: str
    cause: str
    connections: tuple[int, ...]
    count: int
    since: datetime | None
    reason: str = ""
    way_out: str = ""
    remaining: int = 0
    outage: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What there is to decide on. ``started``: when this process began; ``seen``: all that are in trouble or have an
    alert; ``rounds``: of connections, as in `Alert`; ``next_turn``: of a source, the first turn after a moment.

    ``read``: (source, cause) → how many connections of the source were read since its `horizons`.
    """

    now: datetime
    wait: timedelta
    started: datetime
    seen: Mapping[int, Seen]
    next_turn: Mapping[str, Callable[[datetime], datetime]]
    alerts: Sequence[Alert] = ()
    outages: Sequence[Outage] = ()
    read: Mapping[tuple[str, str], int] = field(default_factory=dict)
    rounds: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decision:
    """What to write: alerts and outages that are new, changed or ended, and what to tell."""

    alerts: list[Alert]
    outages: list[Outage]
    notices: list[Notice]

    def __bool__(self) -> bool:
        return bool(self.alerts or self.outages or self.notices)


def horizons(alerts: Iterable[Alert], outages: Iterable[Outage]) -> dict[tuple[str, str], datetime]:
    """(source, cause) → the moment since which who else was read tells whether it is an outage."""
    begins: dict[tuple[str, str], datetime] = {}
    for alert in alerts:
        if alert.pending:
            key = (alert.source, alert.cause)
            begins[key] = min(alert.seen_at, begins.get(key, alert.seen_at))
    return begins | {(outage.source, outage.cause): outage.began_at for outage in outages}


def decide(look: Look) -> Decision:
    """What follows from a look at everything. The same look twice decides nothing the second time."""
    before = {alert.connection_id: alert for alert in look.alerts}
    now = {alert.connection_id: _followed(look, alert) for alert in look.alerts}
    for seen in look.seen.values():
        if seen.trouble is not None and seen.watched and seen.id not in now:
            now[seen.id] = _opened(look, seen)
    notices: list[Notice] = []
    outages = {outage.key: _watched(look, outage, now.values()) for outage in look.outages}
    for outage in outages.values():
        if outage.ended:
            _end_outage(look, outage, now, notices)
    _tell_recovered(look, now, notices)
    _tell_troubles(look, [one for one in outages.values() if not one.ended], now, notices)
    changed = [alert for key, alert in now.items() if alert != before.get(key)]
    return Decision(changed, [one for one in outages.values() if one not in look.outages], notices)


def _opened(look: Look, seen: Seen) -> Alert:
    return Alert(
        connection_id=seen.id,
        source=seen.source,
        cause=seen.cause,
        trouble=str(seen.trouble),
        seen_at=look.now,
        since=seen.since or look.now,
        rounds=0 if seen.cause in _OF_PERSONS else look.rounds.get(seen.id, 0),
    )


def _followed(look: Look, alert: Alert) -> Alert:
    """The alert after what its connection is in now."""
    if alert.seen_at > look.now + _LONGEST_AHEAD:
        alert = replace(alert, seen_at=look.now)  # the clock was set back
    seen = look.seen.get(alert.connection_id)
    if seen is None or not seen.watched:
        return replace(alert, ended=WITHDRAWN)
    if seen.trouble is not None:
        if seen.trouble == alert.trouble and seen.cause == alert.cause and alert.well_at is None:
            return alert  # as it is for nearly all while a vendor is away
        if seen.cause == alert.cause:
            return replace(alert, trouble=seen.trouble, well_at=None)
        since = seen.since or look.now
        return replace(
            alert, cause=seen.cause, trouble=seen.trouble, seen_at=look.now, since=since, well_at=None, rounds=0
        )
    if alert.told is None:
        return replace(alert, ended=PASSED)
    # New credentials alone are no recovery: what they open shows when it is read.
    read = seen.last_success_at is not None and seen.last_success_at > alert.seen_at
    if alert.well_at is None and (read or seen.in_pass):
        return replace(alert, well_at=look.now)
    return alert


# ── outages ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _is_outage(count: int, read: int) -> bool:
    """``count`` in trouble, while ``read`` connections of the source were read."""
    return count >= _MANY and count * _SHARE >= count + read


def _watched(look: Look, outage: Outage, alerts: Iterable[Alert]) -> Outage:
    """The outage after what its connections are in now."""
    left = [one for one in alerts if one.outage == outage.key and _still_in(outage, one)]
    if _is_outage(len(left), look.read.get((outage.source, outage.cause), 0)):
        return replace(outage, few_at=None)
    few_at = outage.few_at or look.now
    return replace(outage, few_at=few_at, ended=look.now - few_at >= look.wait)


def _still_in(outage: Outage, alert: Alert) -> bool:
    return alert.ended is None and alert.well_at is None and alert.cause == outage.cause


def _end_outage(look: Look, outage: Outage, now: dict[int, Alert], notices: list[Notice]) -> None:
    """Tell its end. Who is still in trouble is told by itself, when it was tried again and that did not help."""
    mine = [alert for alert in now.values() if alert.outage == outage.key and alert.ended is None]
    well = [alert for alert in mine if alert.well_at is not None]
    left = [alert for alert in mine if alert.well_at is None]
    for alert in well:
        now[alert.connection_id] = replace(alert, ended=RECOVERED)
    for alert in left:
        apart = replace(alert, told=None, outage=None)
        if alert.cause == outage.cause:
            tried = max(look.now, look.seen[alert.connection_id].next_sync_at or look.now)
            apart = replace(apart, seen_at=tried)
        now[alert.connection_id] = apart
    if well:
        found = _notice(look, RECOVERED, outage.cause, well)
        words = f"{len(left)} more are not read again yet; who stays in trouble is told by itself" if left else ""
        notices.append(replace(found, remaining=len(left), way_out=words, outage=outage.key))


# ── telling ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _tell_recovered(look: Look, now: dict[int, Alert], notices: list[Notice]) -> None:
    well = [one for one in now.values() if one.ended is None and one.well_at is not None and one.outage is None]
    for (_, cause), alerts in _grouped(well, lambda one: str(one.told)).items():
        ready = [one for one in alerts if one.well_at and look.now - one.well_at >= look.wait]
        for group in _batches(alerts, ready):
            notices.append(_notice(look, RECOVERED, cause, group))
            now.update({one.connection_id: replace(one, ended=RECOVERED) for one in group})


def _tell_troubles(look: Look, outages: Sequence[Outage], now: dict[int, Alert], notices: list[Notice]) -> None:
    open_ones = {(outage.source, outage.cause): outage.key for outage in outages}
    pending = [one for one in now.values() if one.pending]
    for (source, cause), alerts in _grouped(pending, lambda one: one.cause).items():
        if covering := open_ones.get((source, cause)):
            now.update({one.connection_id: replace(one, told=cause, outage=covering) for one in alerts})
            continue
        ready = [one for one in alerts if _is_ready(look, one)]
        if not ready:
            continue
        # Late ones that are not ready are the daemon's own delay, perhaps: they make no outage.
        their_time = {one.connection_id for one in ready}
        counted = [one for one in alerts if one.connection_id in their_time or one.trouble not in {LATE, OVERDUE}]
        key = None
        if cause not in _OF_PERSONS and _is_outage(len(counted), look.read.get((source, cause), 0)):
            key = f"{source}/{cause}/{look.now.isoformat()}"
        for group in _batches(counted, ready):
            event = Counter(LATE if one.trouble == OVERDUE else one.trouble for one in group)
            name = FAILING if event[FAILING] else event.most_common(1)[0][0]
            notices.append(replace(_notice(look, name, cause, group), outage=key))
            now.update({one.connection_id: replace(one, told=cause, outage=key) for one in group})


def _is_ready(look: Look, alert: Alert) -> bool:
    """Whether it lasted long enough to be told.

    What is late when the daemon starts may be so because the daemon was down: it has a turn's time, counted from the
    first look, for a daemon that keeps crashing must not hide it for ever.
    """
    times: int = 2 ** min(alert.rounds, _MOST_ROUNDS)
    ready_at = alert.seen_at + look.wait * times
    if alert.trouble in {LATE, OVERDUE} and alert.source in look.next_turn:
        turn = look.next_turn[alert.source]
        ready_at = max(ready_at, min(turn(look.started), turn(alert.seen_at)) + look.wait)
    return look.now >= ready_at


def _grouped(alerts: Iterable[Alert], cause: Callable[[Alert], str]) -> dict[tuple[str, str], list[Alert]]:
    found: dict[tuple[str, str], list[Alert]] = {}
    for alert in sorted(alerts, key=lambda one: one.connection_id):
        found.setdefault((alert.source, cause(alert)), []).append(alert)
    return found


def _batches(alerts: Sequence[Alert], ready: Sequence[Alert]) -> Iterable[Sequence[Alert]]:
    """When one's time has come: of many all that began meanwhile, in one message; of few each that is ready."""
    if not ready:
        return []
    return [alerts] if len(alerts) >= _MANY else [[one] for one in ready]


def _notice(look: Look, event: str, cause: str, alerts: Sequence[Alert]) -> Notice:
    seen = [look.seen[alert.connection_id] for alert in alerts]
    said = Counter(one.said for one in seen if one.said[0]).most_common(1)
    reason, hint = said[0][0] if said and event != RECOVERED else ("", "")
    if event == LATE and (not said or said[0][1] * 2 < len(seen)):
        reason = "a turn came and went without a success"
    return Notice(
        event=event,
        source=alerts[0].source,
        cause=cause,
        connections=tuple(one.id for one in seen[:LISTED]),
        count=len(alerts),
        since=min(alert.since for alert in alerts),
        reason=reason,
        way_out="" if event == RECOVERED else _way_out(event, cause, hint, seen),
    )


def _way_out(event: str, cause: str, hint: str, seen: Sequence[Seen]) -> str:
    """It is stored without a name: `notify` puts in whose it is."""
    if event == LATE:
        return "`syncd doctor` names the cause."
    kind = Transient.kind if cause == UNREAD else cause
    return way_out(event, kind, hint, source=seen[0].source, only=seen[0].id if len(seen) == 1 else None)


# ── delivering ──────────────────────────────────────────────────────────────────────────────────────────────────────


def retry_in(attempts: int, age: timedelta, asked_s: float | None = None) -> timedelta | None:
    """How long a message waits after its ``attempts``-th try: 15 s, doubling, at most 15 min; None: no more.

    ``age``: of the message. ``asked_s``: the receiver asked for so many seconds, an hour at most.
    """
    if age > _GIVEN_UP:
        return None
    gap: timedelta = min(_FIRST_GAP * 2 ** min(attempts - 1, 10), _LONGEST_GAP)
    return gap if asked_s is None else max(gap, timedelta(seconds=min(asked_s, 3600.0)))
