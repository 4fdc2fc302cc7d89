"""Slack's threads: which to read, reading one whole, and the watch over old ones. Belongs to `slack`.

A reply moves nothing in the channel's history but its parent's ``reply_count`` and ``latest_reply``, and an edited one
not even these. So a thread is read where the counters differ from what is stored, whole on each sweep, and after its
parent has left the sweep's window on a time of its own: ever more rarely, but daily at least, until it has been quiet
for ``thread_watch``.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from syncd.errors import Rejected, Transient
from syncd.records import Deletion, Message
from syncd.source import Page, Pending, Watch
from syncd.sources.slack_records import is_broadcast, is_gone, message, moment
from syncd.sources.slack_text import Json, text

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence

    from syncd.errors import SourceError
    from syncd.source import Since
    from syncd.sources.slack_api import Api

_DOWN = 3  # channels and threads in a row that fail in passing: then it is not they
_SOONEST, _LATEST = timedelta(hours=1), timedelta(hours=23)  # a little less than a day: cycles come each 15 minutes
_AT_ONCE = 20  # threads whose stored replies are looked up at once
_RARER = 8  # a thread that was quiet for so many hours is asked again after one


async def threads(api: Api, since: Since) -> AsyncIterator[Page]:
    """The watched threads whose time has come."""
    async for key, replies in stored_replies(since, since.watched):
        channel, _, ts = key.partition(":")
        if channel in api.channels:
            if key not in api.threads:  # else read in this run, by its parent's counters
                async for page in thread(api, since, channel, ts, replies=replies):
                    yield page
            continue
        held = await since.held.select(Message, thread_id=key)  # not selected or not visible now: it may be again
        last = max((one.partition(":")[2] for one in held), default=ts)
        yield _watching(api, since, key, last, ts, Page())


class Stored(NamedTuple):
    """A stored message by its ts, with the members of its JSON that tell of its thread."""

    ts: str
    thread_ts: Any
    subtype: Any
    reply_count: Any
    latest_reply: Any

    @property
    def is_in_history(self) -> bool:
        """A channel's history shows no replies but those that were sent to the channel."""
        return self.thread_ts in (None, self.ts) or self.subtype == "thread_broadcast"


async def changed_threads(
    since: Since, channel: str, messages: Iterable[Json], held: Mapping[str, Stored] | None = None
) -> list[Json]:
    """The parents among ``messages`` whose replies may differ from what is stored.

    ``held``: all that is stored of the time these messages are of, by ts; None: not looked up yet.
    """
    replied = _parents(messages)
    if held is None:
        standing = [f"{channel}:{raw['ts']}" for raw in replied if not is_gone(raw)]
        found = await since.held.stored(Message, standing, *Stored._fields[1:]) if standing else {}
        held = {(ts := key.partition(":")[2]): Stored(ts, *raw) for key, raw in found.items()}
    changed = []
    for raw in replied:
        counters = (known.reply_count, known.latest_reply) if (known := held.get(raw["ts"])) else (None, None)
        same = counters == (raw.get("reply_count"), raw.get("latest_reply"))
        if is_gone(raw):  # not stored: there the replies themselves are counted
            counters, same = (None, None), await is_complete(since, channel, raw)
        if not same and (raw.get("reply_count") or counters[0]):
            changed.append(raw)
    return changed


async def is_complete(since: Since, channel: str, parent: Json) -> bool:
    """Whether as many replies are stored as the parent tells of, the latest one among them."""
    key = f"{channel}:{parent['ts']}"
    replies = [one for one in await since.held.select(Message, thread_id=key) if one != key]
    return parent.get("reply_count") == len(replies) and f"{channel}:{parent.get('latest_reply')}" in replies


async def all_threads(
    since: Since, channel: str, messages: Iterable[Json], held: Mapping[str, Stored] | None = None
) -> list[Json]:
    """Every parent among ``messages`` that has replies, or had some when it was stored. ``held``: as above."""
    changed = await changed_threads(since, channel, messages, held)
    return [raw for raw in _parents(messages) if raw.get("reply_count") or raw in changed]


def _parents(messages: Iterable[Json]) -> list[Json]:
    return [raw for raw in messages if raw.get("reply_count") or raw.get("thread_ts") == raw["ts"]]


async def threads_before(since: Since, channel: str, messages: Iterable[Json], oldest: str) -> list[str]:
    """The ts of older threads than the window's that have a new reply by the broadcasts among ``messages``."""
    latest: dict[str, str] = {}
    for raw in messages:
        if is_broadcast(raw) and "" < text(raw, "thread_ts") < oldest:
            latest[raw["thread_ts"]] = max(raw["ts"], latest.get(raw["thread_ts"], ""))
    held = await since.held.stored(Message, [f"{channel}:{ts}" for ts in latest], "latest_reply") if latest else {}
    stored = {key.partition(":")[2]: str(last or "") for key, (last,) in held.items()}
    return [ts for ts, newest in latest.items() if stored.get(ts, "") < newest]


async def stored_replies(since: Since, threads: Sequence[str]) -> AsyncIterator[tuple[str, set[str]]]:
    """Each of these threads with the ids of its stored replies, looked up for some at once."""
    for at in range(0, len(threads), _AT_ONCE):
        some = threads[at : at + _AT_ONCE]
        found: dict[str, set[str]] = {key: set() for key in some}
        held = await since.held.select(Message, "thread_ts", thread_id=list(some))
        for one, (thread_ts,) in held.items():
            key = f"{one.partition(':')[0]}:{thread_ts}"
            if one != key and key in found:
                found[key].add(one)
        for key in some:
            yield key, found[key]


async def thread(
    api: Api,
    since: Since,
    channel: str,
    ts: str,
    parent: Json | None = None,
    given: tuple[str, str] = ("", ""),
    end: Page | None = None,
    replies: Collection[str] | None = None,
) -> AsyncIterator[Page]:
    """A thread's replies, the last page with the parent, ``end``, the deletions and the watch.

    ``parent``: history's copy; None: the thread's own. Stored, it proves that the thread was read: it comes last.
    ``given``: the window in which history gave the broadcast replies already. ``replies``: the ids of those that are
    stored; None: not looked up yet. A thread that fails waits in the backlog of ``messages``; where it is not the
    thread that fails, that is raised.
    """
    key, end = f"{channel}:{ts}", end or Page()
    api.threads.add(key)
    known = [parent] if parent else []
    try:
        try:
            async for page in _replies(api, since, channel, ts, parent, given, end, replies):
                yield page
        except Rejected as error:
            if "thread_not_found" not in error.message:
                raise
            api.faults = 0
            if parent is not None:  # gone since history was read: the next cycle's history tells
                yield stored_page(channel, known, end)
                return
            gone = await _vanished(api, since, channel, ts)
            yield replace(end, deletions=[*end.deletions, *gone], unwatched=[key])
    except (Rejected, Transient) as error:
        waits = Page(pending=[Pending(key, error.message, "messages")], watches=[Watch(key, _LATEST, "threads")])
        yield stored_page(channel, known, waits)
        if is_down(api, error):
            raise


async def _replies(
    api: Api,
    since: Since,
    channel: str,
    ts: str,
    own: Json | None,
    given: tuple[str, str],
    end: Page,
    replies: Collection[str] | None,
) -> AsyncIterator[Page]:
    """A `thread` that Slack gives. What it does not show is gone only where it shows the parent and nothing is left."""
    key, shown, whole, method = f"{channel}:{ts}", set[str](), True, "conversations.replies"
    async for rows, last, answer in api.listing(method, "messages", channel=channel, ts=ts):
        shown, whole = shown | {raw["ts"] for raw in rows}, whole and is_whole(rows, answer, last=last)
        own = own or next((raw for raw in rows if raw["ts"] == ts), None)
        said = [raw for raw in rows if raw["ts"] != ts]
        said = [raw for raw in said if not is_broadcast(raw) or not given[0] <= raw["ts"] <= given[1]]
        if not last:
            yield stored_page(channel, said, Page())
            continue
        if not shown:  # contract: its parent at least comes
            raise Transient(f"{method}: an empty thread")
        gone = await _missing(since, key, shown, own, replies) if whole and ts in shown else []
        closing = _watching(api, since, key, max(shown - {ts}, default=ts), ts, end)
        yield stored_page(channel, [*said, *([own] if own else [])], closing, gone)


def is_down(api: Api, error: SourceError) -> bool:
    """Whether, with this one, so many channels and threads in a row failed in passing that it is not they."""
    api.faults = api.faults + 1 if isinstance(error, Transient) else 0
    return api.faults >= _DOWN


def is_whole(rows: list[Json], answer: Json, *, last: bool) -> bool:
    """Whether each message can be told by its ts, and none is left out: else it says nothing of what is gone."""
    told = [raw for raw in rows if moment(raw["ts"])]
    return len(answer["messages"]) == len(told) and not (last and answer.get("has_more"))


async def _missing(
    since: Since, key: str, shown: set[str], own: Json | None, replies: Collection[str] | None
) -> list[Deletion]:
    """The stored replies that a thread read to its end no longer has; none where Slack counts more than it gave."""
    channel, _, ts = key.partition(":")
    count = own.get("reply_count") if own else None
    if isinstance(count, int) and count > len(shown - {ts}):
        return []
    held = await since.held.select(Message, thread_id=key) if replies is None else replies
    return [Deletion(Message, one) for one in held if one != key and one.removeprefix(f"{channel}:") not in shown]


async def _vanished(api: Api, since: Since, channel: str, ts: str) -> list[Deletion]:
    """All that is stored of a thread that Slack does not find, if the history of that very ts is empty as well.

    Contract: ``thread_not_found`` says "deleted, or no thread"; a free plan's hidden history would look the same.
    """
    window = {"channel": channel, "oldest": ts, "latest": ts, "inclusive": True, "limit": 1}
    try:
        async for rows, last, answer in api.pages("conversations.history", "messages", **window):
            if rows or not last or answer.get("is_limited") or not is_whole(rows, answer, last=last):
                return []
    except Rejected:
        return []
    held = await since.held.select(Message, thread_id=f"{channel}:{ts}")
    return [Deletion(Message, one) for one in {*held, f"{channel}:{ts}"}]


def _watching(api: Api, since: Since, key: str, last: str, ts: str, end: Page) -> Page:
    """``end`` with the watch over a thread whose last reply is ``last``. While the sweep reaches it, that is enough."""
    spoke, began = moment(last) or since.now, moment(ts) or since.now
    quiet = since.now - spoke
    if quiet > api.link.options["thread_watch"]:
        return replace(end, unwatched=[key])
    after = min(max(quiet / _RARER, _SOONEST), _LATEST)
    return replace(end, watches=[Watch(key, max(after, began + since.sweep_lookback - since.now), "threads")])


def stored_page(channel: str, messages: Iterable[Json], end: Page, gone: Sequence[Deletion] = ()) -> Page:
    """``end`` with the messages and what is ``gone``: a tombstone deletes, and does not overwrite what was said."""
    records, deletions = [], [*end.deletions, *gone]
    for raw in messages:
        if is_gone(raw):
            deletions.append(Deletion(Message, f"{channel}:{raw['ts']}"))
        else:
            records.append(message(channel, raw))
    return replace(end, records=records, deletions=deletions) if records or deletions else end
