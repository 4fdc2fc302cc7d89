"""What `syncd backfill` asks before it starts, and what `syncd verify` reads of Slack. Belongs to `slack`."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

from syncd.errors import Rejected
from syncd.records import Message
from syncd.source import Estimate, Page
from syncd.sources.slack_api import PER_PAGE
from syncd.sources.slack_history import Place, Window, places, window
from syncd.sources.slack_records import is_gone, moment, ts_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

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
    pages = max(len(channels), math.ceil(messages / PER_PAGE))
    draws = {"conversations.history": pages, "conversations.replies": math.ceil(threads)}
    words = f"about {messages:,.0f} messages and {threads:,.0f} threads in {len(channels)} channels"
    return Estimate(sum(draws.values()), draws, words)


async def audit(api: Api, since: Since) -> AsyncIterator[Page]:
    """Each channel's window up to the moment it was read until, with the threads that may differ and some others.

    A thread is read where its ``reply_count`` is not the number of stored replies; of the others a sample.
    """
    chosen, known = _Chosen(since), places(since)
    unread = [channel for channel in api.channels if channel not in known]
    for channel in sorted(set(api.channels) - set(unread)):
        place = known[channel]
        until = place.done or ts_of(since.now - since.lookback)
        chosen.until = until
        wanted = Window(ts_of(since.now - since.lookback), until, until)
        if wanted.oldest >= until:
            continue
        try:
            async for page in window(api, since, channel, wanted, Place(until), Page(), chosen):
                # what came after the last cycle was not to be read yet
                records = [one for one in page.records if one.external_id.removeprefix(f"{channel}:") <= until]
                yield Page(records=records, deletions=page.deletions, pending=page.pending)
        except Rejected as error:
            yield Page(notes=[f"{channel} cannot be read: {error.message}"])
    if unread:
        yield Page(notes=[f"{len(unread)} channels were not read yet"])


class _Chosen:
    """The threads of a page that an audit reads whole. ``until``: of its channel, the moment it was read until."""

    def __init__(self, since: Since) -> None:
        self.until = ""
        self._random = random.Random(since.now.isoformat())
        self._left = since.sample

    async def __call__(self, since: Since, channel: str, messages: list[Json]) -> list[Json]:
        differing: list[Json] = []
        same: list[Json] = []
        for raw in messages:
            if not raw.get("reply_count"):
                continue
            key = f"{channel}:{raw['ts']}"
            stored = [one for one in await since.held.select(Message, thread_id=key) if one != key]
            told = raw["reply_count"] == len(stored) and (
                is_gone(raw) or f"{channel}:{raw.get('latest_reply')}" in stored
            )
            (same if told else differing).append(raw)
        if self._left is not None:
            same = self._random.sample(same, min(len(same), max(1, self._left // 4), self._left))
            self._left -= len(same)
        return [*differing, *same]
