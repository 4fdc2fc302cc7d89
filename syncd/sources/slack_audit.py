"""What `syncd backfill` asks before it starts, and what `syncd verify` reads of Slack. Belongs to `slack`."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

from syncd.errors import Rejected
from syncd.source import Estimate, Page
from syncd.sources.slack_history import Place, Window, places, window
from syncd.sources.slack_records import moment, ts_of
from syncd.sources.slack_threads import is_complete

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from syncd.source import Since
    from syncd.sources.slack_api import Api
    from syncd.sources.slack_text import Json

_PROBED = 8  # channels whose newest page is looked at; the others are taken to be like them


async def estimate_in(api: Api, since: Since, channels: list[str]) -> Estimate:
    """By the newest page of some channels: how far apart messages are, and how many of them have replies."""
    back_to, now = ts_of(since.back_to or since.now), since.now
    probed = random.Random(now.isoformat()).sample(channels, min(len(channels), _PROBED))
    messages = threads = 0.0
    read = 0
    for channel in probed:
        try:
            asked = {"channel": channel, "oldest": back_to, "latest": ts_of(now), "inclusive": True}
            async for rows, last, _ in api.pages("conversations.history", "messages", **asked):
                times = [at for raw in rows if (at := moment(raw["ts"]))]
                span = (now - min(times)).total_seconds() if times and not last else 0.0
                more = max(1.0, (now - (since.back_to or now)).total_seconds() / span) if span else 1.0
                messages += len(rows) * more
                threads += sum(bool(raw.get("reply_count")) for raw in rows) * more
                break
        except Rejected:
            continue
        read += 1
    share = len(channels) / read if read else 0.0
    messages, threads = messages * share, threads * share
    pages = max(len(channels), math.ceil(messages / api.per_page("conversations.history")))
    draws = {"conversations.history": pages, "conversations.replies": math.ceil(threads)}
    words = f"about {messages:,.0f} messages and {threads:,.0f} threads in {len(channels)} channels"
    return Estimate(sum(draws.values()), draws, words)


async def audit_recent(api: Api, since: Since) -> AsyncIterator[Page]:
    """What the cycles read: each channel from a cycle's window before now up to the moment it was read until."""
    api.until = {channel: place.done for channel, place in places(since).items() if channel in api.channels}
    begins = ts_of(since.now - min(since.cycle_lookback, since.lookback))
    spans = {channel: (begins, until) for channel, until in api.until.items()}
    async for page in _audited(api, since, spans):
        yield page
    if unread := len(set(api.channels) - set(spans)):
        yield Page(notes=[f"{unread} channels were not read yet"])


async def audit_older(api: Api, since: Since) -> AsyncIterator[Page]:
    """What the sweeps read: of each channel that was swept, the part before a cycle's window."""
    begins = since.now - since.lookback
    if since.began is not None:
        begins = max(begins, since.began - since.sweep_lookback)
    span = ts_of(begins), ts_of(since.now - since.cycle_lookback)
    swept = {channel: span for channel, place in places(since).items() if place.done and channel in api.channels}
    async for page in _audited(api, since, swept):
        yield page


async def _audited(api: Api, since: Since, spans: Mapping[str, tuple[str, str]]) -> AsyncIterator[Page]:
    """The messages of these spans, with the threads that may differ and a sample of the others."""
    choose = _Chosen(since)
    for channel, (oldest, latest) in sorted(spans.items()):
        if oldest >= latest:
            continue
        try:
            async for page in window(
                api, since, channel, Window(oldest, latest, latest), Place(latest), Page(), choose
            ):
                # a reply that came after the last cycle was not to be read yet
                until = f"{channel}:{api.until.get(channel, latest)}"
                records = [one for one in page.records if one.external_id <= until]
                yield Page(records=records, deletions=page.deletions, pending=page.pending)
        except Rejected as error:
            yield Page(notes=[f"{channel} cannot be read: {error.message}"])


class _Chosen:
    """The threads of a page that an audit reads whole: those whose replies are not all stored, and some others."""

    def __init__(self, since: Since) -> None:
        self._random = random.Random(since.now.isoformat())
        self._left = since.sample

    async def __call__(self, since: Since, channel: str, messages: list[Json], _held: object = None) -> list[Json]:
        replied = [raw for raw in messages if raw.get("reply_count")]
        differing = [raw for raw in replied if not await is_complete(since, channel, raw)]
        same = [raw for raw in replied if raw not in differing]
        if self._left is not None:
            same = self._random.sample(same, min(len(same), max(1, self._left // 4), self._left))
            self._left -= len(same)
        return [*differing, *same]
