"""Slack's channel histories: the window of each cycle, the sweep, the backfill. Belongs to `slack`.

A window is read from its newest message down, so it is covered only at its end. One that does not fit into a run goes
on where it was: its cursor tells how low it was read. What is stored and was not shown is gone, but only once the
window was read to its end, in order and with nothing hidden.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import orjson

from syncd.errors import CursorExpired, Misconfigured, Rejected, Transient
from syncd.records import Deletion, Message
from syncd.source import Page, Pending
from syncd.sources.slack_records import is_gone, moment, ts_of
from syncd.sources.slack_threads import (
    Stored,
    all_threads,
    changed_threads,
    is_down,
    is_whole,
    stored_page,
    stored_replies,
    thread,
    threads_before,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping

    from syncd.errors import SourceError
    from syncd.source import Since
    from syncd.sources.slack_api import Api
    from syncd.sources.slack_text import Json

    Choose = Callable[[Since, str, list[Json], Mapping[str, Stored] | None], Awaitable[list[Json]]]

_CLOCK_SKEW = timedelta(minutes=5)  # a message may show up with a ts this much before the moment we had read until
_BEGAN = datetime(2010, 1, 1, tzinfo=UTC)  # before Slack; ts are compared as text, so all need ten digits
_AT_ONCE = 20  # channels that are looked up at once
_REMEMBERED = 1000  # missing messages that a cursor holds; more are found by the next sweep


@dataclass(frozen=True, slots=True)
class Window:
    """From ``oldest`` to ``latest``, both taken in; what is above ``lowest`` is read. ``missing``: not shown there."""

    oldest: str
    latest: str
    lowest: str
    missing: tuple[str, ...] = ()


_WINDOW = [one.name for one in fields(Window)]


def _window(oldest: datetime, latest: datetime) -> Window:
    below = ts_of(latest)
    return Window(ts_of(oldest), below, below)


@dataclass(frozen=True, slots=True)
class Place:
    """A channel's cursor: ``done`` = read until then (or swept at, or back to), ``window`` = one that is under way.

    ``tried``: when it failed last, if it was not read since. Written as ``done`` alone where that is all, else as JSON.
    """

    done: str = ""
    window: Window | None = None
    tried: str = ""

    @property
    def asked(self) -> str:
        return max(self.done, self.tried)

    @classmethod
    def of(cls, cursor: str) -> Place:
        if not cursor.startswith("{"):
            return cls(cursor)
        held = orjson.loads(cursor)
        window = held["window"] and Window(**{**held["window"], "missing": tuple(held["window"]["missing"])})
        return cls(held["done"], window, held.get("tried", ""))

    def __str__(self) -> str:
        if self.window is None and not self.tried:
            return self.done
        window = self.window and {name: getattr(self.window, name) for name in _WINDOW}
        return orjson.dumps({"done": self.done, "window": window, "tried": self.tried}).decode()


def places(since: Since) -> dict[str, Place]:
    return {channel: Place.of(cursor) for channel, cursor in since.cursors.items()}


async def each_channel(
    api: Api,
    since: Since,
    read: Callable[[str, Place], AsyncIterator[Page]],
    asked_since: str = "",
    begins_at: str = "",
) -> AsyncIterator[Page]:
    """``read`` of each channel, the one asked longest ago first. One that fails waits, and stops no other.

    ``asked_since``: what was asked since then is passed over. ``begins_at``: where one begins that was never read.
    Raises `Transient` where it is not the channel that fails: after some in a row, or when none could be read.
    """
    known, order = _in_turn(api, since)
    left = [channel for channel in order if not asked_since or known[channel].asked < asked_since]
    failed: Transient | None = None
    for before, channel in enumerate(left, len(order) - len(left)):
        parts, cursor, count = (before + 1, len(order)), str(known[channel]), 0
        try:
            async for page in read(channel, known[channel]):
                cursor, count = cursor if page.cursor is None else page.cursor, count + 1
                yield replace(page, parts=parts if channel in page.resolved else (before, len(order)))
            api.any_read |= count > 0
        except (Rejected, Transient) as error:
            begun = begins_at if isinstance(error, Transient) else ""
            yield replace(_left_out(since, channel, cursor or begun, error), parts=parts)
            if is_down(api, error):
                raise
            failed = error if isinstance(error, Transient) else failed
        except Misconfigured as error:  # a scope for this kind of conversation: read the others, then call a person
            api.closed.setdefault(channel, error)
            yield Page(parts=parts)
            if asked_since:  # the others take several runs, and each would end before a person is called
                break
    if api.closed:
        raise next(iter(api.closed.values()))
    if failed and (since.back_to is not None or not api.any_read):  # a backfill without one of them is not done
        raise failed


def _left_out(since: Since, channel: str, cursor: str, error: SourceError) -> Page:
    """Of a channel that could not be read: it waits. Its time moves on, else each run would ask it first."""
    tried = str(replace(Place.of(cursor), tried=ts_of(since.now)))
    if since.back_to is not None:
        return Page(partition=channel, cursor=tried, notes=[f"{channel} was not read back: {error.message}"])
    ours = isinstance(error, Transient) or channel in {item.external_id for item in since.backlog}
    stream = None if ours else "messages"  # a refusal that a sweep meets is the cycles' matter
    return Page(partition=channel, cursor=tried, pending=[Pending(channel, error.message, stream)])


def _in_turn(api: Api, since: Since) -> tuple[dict[str, Place], list[str]]:
    """Where each channel stands, and all of them, the one asked longest ago first."""
    known = {channel: Place() for channel in api.channels} | places(since)
    return known, sorted(set(api.channels), key=lambda one: (known[one].asked, one))


class _Filled:
    """The channels of which anything is stored in the cycle's window, looked up for some at once."""

    def __init__(self, api: Api, since: Since) -> None:
        self._since, self._left, self._found = since, _in_turn(api, since)[1], dict[str, bool]()

    async def is_one(self, channel: str) -> bool:
        if channel not in self._found:
            at, now = self._left.index(channel), self._since.now
            some = self._left[at : at + _AT_ONCE]
            span = (now - self._since.cycle_lookback, now)
            held = await self._since.held.select(Message, conversation_id=some, between=span)
            filled = {key.partition(":")[0] for key in held}
            self._found |= {one: one in filled for one in some}
        return self._found[channel]


async def messages(api: Api, since: Since) -> AsyncIterator[Page]:
    """The cycle's window of each channel. Partition: its id; cursor: read until then."""
    try:
        async for page in _waiting_threads(api, since):
            yield page
    except Transient:
        pass  # several in a row: the channels tell whether it is they

    begins_at, asked_since = ts_of(since.now - since.cycle_lookback), since.pass_began and ts_of(since.pass_began)
    for channel in sorted(set(api.channels) - since.cursors.keys()):
        yield Page(partition=channel, cursor=begins_at)  # of a first run that is cut the next one begins here as well

    filled = _Filled(api, since)

    async def read(channel: str, place: Place) -> AsyncIterator[Page]:
        until = place.done
        if place.window is not None:  # the run was cut within it
            end = Page(partition=channel, resolved=[channel], cursor=place.window.latest)
            async for page in window(api, since, channel, place.window, place, end):
                yield page
            until = place.window.latest
            if asked_since and until >= asked_since:
                return  # that window was begun in this pass: what is newer is the next one's
        usual, left_at = since.now - since.cycle_lookback, (moment(until) or since.now) - _CLOCK_SKEW
        # latest is fixed, so that what comes meanwhile does not shift the pages
        wanted = _window(min(usual, left_at), since.now)
        end = Page(partition=channel, resolved=[channel], cursor=wanted.latest)
        bare = usual <= left_at and not await filled.is_one(channel)
        async for page in window(api, since, channel, wanted, Place(until), end, bare=bare):
            yield page

    async for page in each_channel(api, since, read, asked_since or "", begins_at):
        yield page


async def _waiting_threads(api: Api, since: Since) -> AsyncIterator[Page]:
    """The threads in the backlog, once more. What waits of a channel that is no longer selected does so no longer."""
    for item in since.backlog:
        channel, _, parent = item.external_id.partition(":")
        if channel not in api.channels and channel not in api.closed:
            yield Page(resolved=[item.external_id])
        elif parent and channel in api.channels:
            async for page in thread(api, since, channel, parent, end=Page(resolved=[item.external_id])):
                yield page


async def sweep(api: Api, since: Since) -> AsyncIterator[Page]:
    """The sweep's window of each channel and every thread in it, for late changes. Cursor: when it was swept.

    The cycle's part of it was read by `messages` just now: there only the threads are read, for an edited reply shows
    nowhere else. A channel that fails waits in the backlog, and has its sweep between two.
    """
    waiting, due = {item.external_id for item in since.backlog}, ts_of(since.sweep_due_at) if since.sweep_due_at else ""
    if deselected := waiting - set(api.channels):
        yield Page(resolved=sorted(deselected))
    if not due and not waiting:
        return

    async def read(channel: str, place: Place) -> AsyncIterator[Page]:
        if channel not in waiting and (not due or (place.window is None and place.done >= due)):
            return
        wanted = place.window or _window(since.sweep_from(moment(place.done)), since.now)
        swept = wanted.latest
        border = ts_of((moment(swept) or since.now) - since.cycle_lookback)
        above = await _threads_above(since, channel, border, wanted.lowest)
        left = [f"{channel}:{ts}" for ts in above if f"{channel}:{ts}" not in api.threads]
        async for key, replies in stored_replies(since, left):
            ts = key.partition(":")[2]
            async for page in thread(api, since, channel, ts, replies=replies):
                yield page
            wanted = replace(wanted, lowest=ts)
            yield Page(partition=channel, cursor=str(Place(place.done, wanted)))
        wanted = replace(wanted, lowest=min(wanted.lowest, border))
        end = Page(partition=channel, cursor=swept, resolved=[channel])
        async for page in window(api, since, channel, wanted, place, end, all_threads):
            yield page

    async for page in each_channel(api, since, read):
        yield page


async def _threads_above(since: Since, channel: str, border: str, below: str) -> list[str]:
    """The ts of the stored threads that began at ``border`` or later and before ``below``, newest first."""
    span = (_at(border), _at(below))
    held = await since.held.select(Message, "thread_ts", conversation_id=channel, between=span)
    return sorted({str(ts) for (ts,) in held.values() if ts and border <= str(ts) < below}, reverse=True)


async def backfill(api: Api, since: Since) -> AsyncIterator[Page]:
    """Each channel from now back to ``since.back_to``. Cursor: back to when, and the window that is under way."""
    back_to = ts_of(max(since.back_to or since.now, _BEGAN))

    async def read(channel: str, place: Place) -> AsyncIterator[Page]:
        if place.done == back_to and place.window is None:
            return
        fresh = place.window is None or place.done != back_to
        wanted = _window(_at(back_to), since.now) if fresh or place.window is None else place.window
        end = Page(partition=channel, cursor=back_to, reached=since.back_to)
        async for page in window(api, since, channel, wanted, Place(back_to), end):
            at = Place.of(page.cursor or "").window
            yield replace(page, reached=moment(at.lowest)) if at else page

    async for page in each_channel(api, since, read):
        yield page
    yield Page(forget=[*since.cursors, *api.channels])


async def window(
    api: Api,
    since: Since,
    channel: str,
    wanted: Window,
    place: Place,
    end: Page,
    choose: Choose = changed_threads,
    bare: bool = False,
) -> AsyncIterator[Page]:
    """A window from its ``lowest`` down to its end: messages, the threads that ``choose`` names, then the deletions.

    ``end``: what its last page says; before that each page's cursor is ``place`` with how low the window was read.
    ``bare``: nothing was stored there when it was begun.
    """
    missing, edge, sound, given = set(wanted.missing), "", True, (wanted.oldest, wanted.latest)
    # Shown once more: its thread was read, and is again only where it changed since.
    done = {wanted.lowest} if wanted.lowest != wanted.latest else set[str]()
    async for rows, last, answer in _history(api, channel, wanted):
        shown, high = {raw["ts"] for raw in rows if moment(raw["ts"])}, edge or wanted.lowest
        inside = {ts for ts in shown if wanted.oldest <= ts <= high}
        sound &= not answer.get("is_limited") and inside == shown and is_whole(rows, answer, last=last)
        low = wanted.oldest if last else min(inside, default=high)
        held = ({} if bare else await _stored(since, channel, low, high)) if sound else None
        missing |= {ts for ts, one in (held or {}).items() if ts != edge and one.is_in_history}
        missing -= shown
        again = await changed_threads(since, channel, [raw for raw in rows if raw["ts"] in done], held)
        chosen = [raw for raw in await choose(since, channel, rows, held) if raw["ts"] not in done]
        threads = {raw["ts"]: raw for raw in [*chosen, *again] if raw["ts"] in shown}
        older = await threads_before(since, channel, rows, wanted.oldest)
        rest = [raw for raw in rows if raw["ts"] not in threads and not _was_gone(raw, held)]
        if threads or not last:
            place = _under_way(place, wanted, low, missing if sound else ())
        closing = end if last else Page(partition=end.partition, cursor=str(place))
        if last and sound and missing:
            for ts in await _to_reread(since, channel, missing):
                async for page in thread(api, since, channel, ts):
                    yield page
            closing = replace(end, deletions=await _gone(since, channel, missing))
        plain = not threads and not older
        if rest or plain:
            yield stored_page(channel, rest, closing if plain else Page())
        if threads:
            async for page in _opened(api, since, channel, threads.values(), given, place, end.partition):
                yield page
        for ts in older:
            async for page in thread(api, since, channel, ts, given=given):
                yield page
        if not plain:
            yield closing
        edge = low


def _under_way(place: Place, wanted: Window, low: str, missing: Iterable[str]) -> Place:
    """``place`` with the window read down to ``low``."""
    return replace(place, window=replace(wanted, lowest=low, missing=tuple(sorted(missing)[:_REMEMBERED])))


async def _opened(
    api: Api, since: Since, channel: str, threads: Iterable[Json], given: tuple[str, str], place: Place, partition: str
) -> AsyncIterator[Page]:
    """The threads of these parents, newest first. After each the window at ``place`` is read down to its parent."""
    parents = {f"{channel}:{raw['ts']}": raw for raw in sorted(threads, key=_ts, reverse=True)}
    async for key, replies in stored_replies(since, list(parents)):
        ts, below = parents[key]["ts"], place.window
        at = replace(place, window=below and replace(below, lowest=max(ts, below.lowest)))
        end = Page(partition=partition, cursor=str(at))
        async for page in thread(api, since, channel, ts, parents[key], given, end, replies):
            yield page


async def _history(api: Api, channel: str, wanted: Window) -> AsyncIterator[tuple[list[Json], bool, Json]]:
    """The history of a window from ``lowest`` down. After a stale page token it goes on below what was shown."""
    latest = wanted.lowest
    while True:
        asked = {"channel": channel, "oldest": wanted.oldest, "latest": latest, "inclusive": True}
        low = latest
        try:
            async for rows, last, answer in api.pages("conversations.history", "messages", **asked):
                low = min((raw["ts"] for raw in rows if moment(raw["ts"]) and raw["ts"] >= wanted.oldest), default=low)
                yield rows, last, answer
            return
        except CursorExpired as error:
            if low == latest:  # not CursorExpired: that would forget how far each channel was read
                raise Transient(f"{error.message} after a fresh start") from None
            latest = low


async def _stored(since: Since, channel: str, low: str, high: str) -> dict[str, Stored]:
    """What is stored between two ts, these two as well, by its ts."""
    span = (_at(low), _at(high))
    found = await since.held.select(Message, *Stored._fields[1:], conversation_id=channel, between=span)
    return {(ts := key.partition(":")[2]): Stored(ts, *raw) for key, raw in found.items()}


def _was_gone(raw: Json, held: Mapping[str, Stored] | None) -> bool:
    """Whether a deleted parent is known as such already: it stays in the history for as long as it has replies."""
    return held is not None and is_gone(raw) and raw["ts"] not in held


async def _to_reread(since: Since, channel: str, missing: set[str]) -> list[str]:
    """The threads that tell what became of missing messages: of a parent its replies, of a broadcast reply itself."""
    held = await since.held.stored(Message, [f"{channel}:{ts}" for ts in sorted(missing)], "thread_ts")
    return sorted({str(thread_ts) for (thread_ts,) in held.values() if thread_ts})


async def _gone(since: Since, channel: str, missing: set[str]) -> list[Deletion]:
    """The deletions among missing messages. A broadcast reply may only have been taken back from the channel."""
    held = await since.held.stored(Message, [f"{channel}:{ts}" for ts in sorted(missing)], "subtype", "thread_ts")
    return [Deletion(Message, key) for key, raw in held.items() if not _is_reply(key, raw)]


def _is_reply(key: str, raw: tuple[Any, ...]) -> bool:
    _, thread_ts = raw
    return bool(thread_ts) and not key.endswith(f":{thread_ts}")


def _ts(raw: Json) -> str:
    return str(raw["ts"])


def _at(ts: str) -> datetime:
    at = moment(ts)
    if at is None:
        raise ValueError(f"{ts!r} is no ts of ours")
    return at
