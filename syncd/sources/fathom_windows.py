"""Fathom's listings of meetings by the time they were made: the cycle's window, the sweep, the backfill.

- A window is covered only by its last page: it is filtered by ``created_at``, ordered by the recording's start.
- A listing that does not ask for the summary shows null: it says nothing about the summary that we hold.
- What a window no longer shows is no longer visible, which is not deleted: sharing ends, people leave teams. Only what
  the user of these credentials recorded stays visible to that user; so of that alone a deletion can be inferred.
"""

from __future__ import annotations

import json
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime, timedelta
from math import ceil
from typing import TYPE_CHECKING

from syncd.errors import Rejected, Transient
from syncd.records import Deletion, Meeting, Transcript
from syncd.source import Estimate, Page, Pending
from syncd.sources.fathom_meetings import Json, fields, identity, lacking, markdown, meeting, moment, text

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Iterator, Mapping

    from syncd.source import Since
    from syncd.sources.fathom_api import Api

PAGE = 10
# What is cut in the middle of a window begins it again: each fits into a run, however much is recorded.
LIGHT, HEAVY = timedelta(days=7), timedelta(days=2)
_LONGEST = timedelta(days=1)  # from a recording's start to its listing
_PROBES = 4


async def meetings(api: Api, since: Since) -> AsyncIterator[Page]:
    """The window since the last run, or at least a cycle's, oldest part first. Cursor: up to when all is listed."""
    read_to = min(moment(since.cursors.get("")) or since.now, since.now)
    for start, end in spans(min(read_to, since.now - since.cycle_lookback), since.now, LIGHT):
        async for page in _window(api, since, start, end, Page(cursor=max(end, read_to).isoformat())):
            yield page


async def sweep(api: Api, since: Since) -> AsyncIterator[Page]:
    """The wide window, oldest part first, for late changes; a key sees those of summaries too.

    Cursor: which sweep it is, and up to when it is done.
    """
    if since.sweep_due_at is None:
        return
    due = since.sweep_due_at.isoformat()
    of, _, reached = since.cursors.get("", "").partition(" ")
    done = moment(reached)
    start = done if done and of == due else since.sweep_from(done)
    parts, step = (("summary",), HEAVY) if api.key else ((), LIGHT)
    for begin, end in spans(start, since.now, step):
        async for page in _window(api, since, begin, end, Page(cursor=f"{due} {end.isoformat()}"), *parts):
            yield page


async def backfill(api: Api, since: Since) -> AsyncIterator[Page]:
    """Older meetings, newest part first. Cursor: back to when, and how far it is done."""
    back_to = since.back_to or since.now
    place = json.loads(since.cursors.get("", "{}"))
    under_way = place.get("back_to") == back_to.isoformat()
    begins = (moment(place.get("reached")) if under_way else None) or since.now
    for start, end in reversed(list(spans(back_to, begins, LIGHT))):
        cursor = json.dumps({"back_to": back_to.isoformat(), "reached": start.isoformat()})
        async for page in _window(api, since, start, end, Page(cursor=cursor, reached=start)):
            yield page


async def backfilled(api: Api, since: Since) -> AsyncIterator[Page]:
    """The end of a backfill: not before the details are read, for what is cut there must not list all again."""
    yield Page(forget=[""])


async def estimate(api: Api, since: Since) -> Estimate:
    """How many meetings there are is told nowhere: a few parts of the time are looked at, a page each."""
    back_to = since.back_to or since.now
    windows = list(spans(back_to, since.now, LIGHT))
    probed = windows[:: ceil(len(windows) / _PROBES)] if windows else []
    found, over = 0.0, timedelta(0)
    for start, end in probed:
        async with aclosing(api.listing(after=start, before=end)) as pages:
            items, last = await anext(pages)
        made = [at for item in items if (at := moment(item.get("created_at")))]
        found += len(items)
        over += end - (start if last or not made else min(max(min(made), start), end - timedelta(hours=1)))
    count = round(found * ((since.now - back_to) / over)) if over else 0
    lists = max(len(windows), ceil(count / PAGE))
    # a key lists the details by day, an OAuth app asks twice for each meeting
    heavy = min(count, (since.now - back_to).days + 1) + count // PAGE if api.key else 2 * count
    return Estimate(lists + heavy, {"calls": lists + heavy, "heavy": heavy}, f"about {count:,} meetings")


async def _window(
    api: Api, since: Since, start: datetime, end: datetime, done: Page, *parts: str
) -> AsyncGenerator[Page, None]:
    """All meetings made in a span of time; what lacks a part is announced to `details`.

    ``done``: the cursor, for the last page; with it goes what was deleted.
    """
    listed: set[str] = set()
    async with aclosing(api.listing(*parts, after=start, before=end if end < since.now else None)) as pages:
        async for items, last in pages:
            found, known = await merged(since, items)
            listed |= found.keys()
            page = replace(
                done if last else Page(),
                records=[meeting(recording_id, raw) for recording_id, raw in found.items()],
                pending=await _announced(api, since, found, known),
            )
            if last:
                own, _ = await vanished(api, since, start, end, listed)
                gone = await deleted(api, since, own, witnessed=bool(listed))
                page = replace(page, deletions=[Deletion(kind, one) for one in gone for kind in (Meeting, Transcript)])
            yield page


async def _announced(api: Api, since: Since, found: Mapping[str, Json], known: Collection[str]) -> list[Pending]:
    """What lacks a part; what was waited for long enough is not begun anew."""
    heard = await since.held.stored(Transcript, list(found))
    return [
        Pending(recording_id, f"{', '.join(lacks)} not read yet", stream="details")
        for recording_id, raw in found.items()
        if (lacks := lacking(raw, heard=recording_id in heard))
        and (recording_id not in known or _younger(raw, since.now - api.content_wait))
    ]


def _younger(raw: Json, than: datetime) -> bool:
    made = moment(raw.get("created_at"))
    return made is None or made > than


async def vanished(
    api: Api, since: Since, start: datetime, end: datetime, listed: set[str]
) -> tuple[dict[str, datetime], int]:
    """What is stored live of a span that was listed to its end, and was not listed: the user's own recordings with
    their ``created_at``, and how many others.
    """
    held = await since.held.select(Meeting, "created_at", "recorded_by", between=(start - _LONGEST, end))
    own, others = {}, 0
    for recording_id, (created, recorder) in held.items():
        made = moment(created)
        if recording_id in listed or made is None or not start < made < end:
            continue
        if api.account and (text(fields(recorder).get("email")) or "").casefold() == api.account:
            own[recording_id] = made
        else:
            others += 1
    return own, others


async def deleted(api: Api, since: Since, own: dict[str, datetime], *, witnessed: bool) -> list[str]:
    """Of the user's own recordings that a window did not list those that can only be deleted.

    They are in no listing whatever the team, and ``/recordings`` does not know them, while other meetings are seen
    (``witnessed``: in their window). Leaving a team of the setting looks the same in a window: then only a sweep asks.
    """
    if not own or (api.teams and not since.sweep):
        return []
    async with aclosing(api.listing(after=min(own.values()), before=max(own.values()), of_teams=False)) as pages:
        shown = {identity(item) async for items, _ in pages for item in items}
    if not witnessed and not shown:
        async with aclosing(api.listing(of_teams=False)) as pages:
            items, _ = await anext(pages)
        if not items:
            return []
    gone = []
    for recording_id in own.keys() - shown:
        try:
            if await api.unknown(recording_id):
                gone.append(recording_id)
        except (Rejected, Transient):
            continue  # it says nothing about this one, and does not hold up the others; the next window asks again
    return sorted(gone)


async def merged(since: Since, items: Iterable[Json]) -> tuple[dict[str, Json], set[str]]:
    """Listed meetings by id, each with the parts that we hold where it shows none; and which of them are stored.

    Without this a listing that does not ask for summaries would wipe them. One without an id cannot be stored.
    """
    listed = {recording_id: item for item in items if (recording_id := identity(item))}
    stored = await since.held.stored(Meeting, list(listed), "default_summary", "action_items")
    whole = {}
    for recording_id, item in listed.items():
        summary, todos = stored.get(recording_id, (None, None))
        shown = item.get("default_summary")
        whole[recording_id] = {
            **item,
            "transcript": None,
            "default_summary": next((one for one in (shown, summary) if markdown(one)), None),
            "action_items": todos if item.get("action_items") is None else item["action_items"],
        }
    return whole, set(stored)


def spans(start: datetime, end: datetime, step: timedelta) -> Iterator[tuple[datetime, datetime]]:
    """The time from ``start`` to ``end`` in parts of ``step``, oldest first."""
    while start < end:
        yield start, min(start + step, end)
        start += step
