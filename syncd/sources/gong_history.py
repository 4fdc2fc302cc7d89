"""Gong beyond the regular cycle: older history on request, what that will take, and the comparison with the store."""

from __future__ import annotations

import json
import math
import random
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from syncd.records import Meeting, Transcript
from syncd.source import Estimate, Page
from syncd.sources.gong_api import BATCH, Api, iso
from syncd.sources.gong_calls import moment
from syncd.sources.gong_content import asked, spoken
from syncd.sources.gong_window import SLICE, Mark, parts, slices, spaces, span, window

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from datetime import datetime

    from syncd.source import Since


async def backfill(api: Api, since: Since) -> AsyncIterator[Page]:
    """Older calls of each workspace, the newest slice first.

    The cursor tells for which request it is, how far back all is read, and how far the slice before that is.
    """
    wanted, end = _back_to(since), since.now.replace(microsecond=0)
    for space in spaces(api):
        held = json.loads(since.cursors.get(space, "{}"))
        if held.get("back_to") != iso(wanted):
            held = {}
        reached, at = moment(held.get("reached")) or end, moment(held.get("at"))
        for begin, until in _backwards(wanted, reached):
            async with aclosing(window(api, since, at or begin, until, space)) as pages:
                async for page, covered in pages:
                    done = covered == until
                    place = {
                        "reached": iso(begin if done else until),
                        "at": iso(covered) if covered and not done else "",
                    }
                    cursor = json.dumps({"back_to": iso(wanted), **place}) if covered else None
                    yield replace(page, partition=space, cursor=cursor, reached=begin if done else None)
            at = None


async def backfilled(api: Api, since: Since) -> AsyncIterator[Page]:
    """Forgets how far `backfill` got: only when the transcripts are read too, else a cut one would list all again."""
    yield Page(forget=list(since.cursors))


async def estimate(api: Api, since: Since) -> Estimate:
    """A call for each slice tells how many calls (of Gong's kind) it holds; private ones are among them."""
    pages = held = 0
    for space in spaces(api):
        for start, end in _backwards(_back_to(since), since.now.replace(microsecond=0)):
            rows, _, total = await api.ask("calls/extensive", "calls", {"filter": span(start, end, space)})
            number = int(total or len(rows))
            pages, held = pages + max(1, math.ceil(number / BATCH)), held + number
    calls = pages + math.ceil(held / BATCH)
    words = f"about {held:,} calls with their transcripts since {_back_to(since):%Y-%m-%d}"
    return Estimate(calls, {"calls": calls, "day": calls}, words)


async def audit_meetings(api: Api, since: Since) -> AsyncIterator[Page]:
    """The window of each workspace up to where the regular cycles have read; before the first sweep only theirs."""
    for space in spaces(api):
        mark, whose = Mark.of(since.cursors.get(space)), f" of workspace {space}" if space else ""
        if mark.read_to is None:
            yield Page(notes=[f"no cycle has read the calls{whose} yet"])
            continue
        reach = since.lookback if mark.swept_at else min(since.lookback, since.cycle_lookback)
        if reach < since.lookback:
            yield Page(
                notes=[
                    f"no sweep has read the calls{whose} yet: those since {since.now - reach:%F %H:%M} UTC are compared"
                ]
            )
        for start, until in slices(since.now.replace(microsecond=0) - reach, mark.read_to):
            async with aclosing(window(api, since, start, until, space)) as pages:
                async for page, _ in pages:
                    # the transcripts that are to come are asked for below
                    yield replace(page, pending=[one for one in page.pending if one.stream == "content"])


async def audit_transcripts(api: Api, since: Since) -> AsyncIterator[Page]:
    """All that are not stored in the window, which may be there by now, and of the stored ones a sample."""
    held = list(await since.held.select(Meeting, between=(since.now - since.lookback, since.now)))
    there = await since.held.stored(Transcript, held)
    without, waits = [call for call in held if call not in there], 0
    async for page in _transcripts_of(api, since, without):
        waits += len(page.pending)
        yield page
    if without:
        yield Page(notes=[f"{len(without)} calls without transcript, for {waits} of them Gong has none yet"])
    unseen = 0
    async for calls in _sampled(since):
        async for page in _transcripts_of(api, since, calls):
            unseen += len(page.pending)
            yield replace(page, pending=())
    if unseen:
        yield Page(notes=[f"{unseen} stored transcripts are no longer shown by Gong; kept"])


async def _transcripts_of(api: Api, since: Since, calls: list[str]) -> AsyncIterator[Page]:
    for batch in parts(calls, BATCH):
        meetings = await since.held.stored(Meeting, batch, "parties", "metaData")
        ask = partial(spoken, api, meetings)
        async with aclosing(asked(list(meetings), ask, "transcript not ready")) as pages:
            async for page in pages:
                yield page


async def _sampled(since: Since) -> AsyncIterator[list[str]]:
    """Calls with a stored transcript: all of them, or as many as the audit may ask for, each as likely as the other."""
    chosen, met, chance = list[str](), 0, random.Random(since.now.isoformat())
    async for ids in since.held.ids(Transcript):
        if since.sample is None:
            yield list(ids)
            continue
        for call in ids:
            met += 1
            if len(chosen) < since.sample:
                chosen.append(call)
            elif (at := chance.randrange(met)) < since.sample:
                chosen[at] = call
    yield chosen


def _back_to(since: Since) -> datetime:
    return (since.back_to or since.now).replace(microsecond=0)


def _backwards(start: datetime, end: datetime) -> Iterator[tuple[datetime, datetime]]:
    """Parts of at most 30 days, newest first."""
    while start < end:
        yield (begin := max(end - SLICE, start)), end
        end = begin
