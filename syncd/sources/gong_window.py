"""Gong's calls of a window: what it lists, what became private, and what vanished from it."""

from __future__ import annotations

import json
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from syncd.errors import Rejected, Transient
from syncd.records import Deletion, Meeting, Transcript
from syncd.source import Page, Pending
from syncd.sources.gong_api import BATCH, SELECTOR, Api, iso
from syncd.sources.gong_calls import dig, has_content, id_text, meeting, moment, speakers, transcript

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Collection, Iterator, Mapping

    from syncd.source import Since
    from syncd.sources.gong_api import Rows

SLICE = timedelta(days=30)  # the widest window known to work
WITNESSES = 5  # so many older calls are asked for where a window lists none
FIRST_GAP = timedelta(minutes=10)  # the page that announces a call has just shown that its AI content is not ready


@dataclass(frozen=True, slots=True)
class Mark:
    """A cursor of ``meetings``: until when all calls are read, and when the last sweep that got so far began.

    ``halfway``: the run was cut before its window's end; the next one goes on there. Written as JSON, the first alone
    as it is.
    """

    read_to: datetime | None = None
    swept_at: datetime | None = None
    halfway: bool = False

    @classmethod
    def of(cls, cursor: str | None) -> Mark:
        if not cursor or not cursor.startswith("{"):
            return cls(moment(cursor))
        held = json.loads(cursor)
        return cls(moment(held["read_to"]), moment(held["swept_at"]), held["halfway"])

    def __str__(self) -> str:
        read_to, swept_at = (at.isoformat() if at else None for at in (self.read_to, self.swept_at))
        return json.dumps({"read_to": read_to, "swept_at": swept_at, "halfway": self.halfway})


def spaces(api: Api) -> list[str]:
    """The workspaces whose calls are read, each with a window of its own; "" stands for all together."""
    return api.link.settings.get("workspace_ids") or [""]


def slices(start: datetime, end: datetime) -> Iterator[tuple[datetime, datetime]]:
    """Parts of at most 30 days, oldest first."""
    while start < end:
        yield start, (until := min(start + SLICE, end))
        start = until


def span(start: datetime, end: datetime, space: str) -> dict[str, str]:
    """The filter of a window: from inclusive, to exclusive."""
    return {"fromDateTime": iso(start), "toDateTime": iso(end)} | ({"workspaceId": space} if space else {})


async def window(
    api: Api, since: Since, start: datetime, end: datetime, space: str, *, prove: bool = False
) -> AsyncGenerator[tuple[Page, datetime | None], None]:
    """The pages of a window, each with the moment up to which the window is read with it, None where that is not told.

    Gong lists the oldest call first. As no document says so it is looked at, and where it does not hold only the last
    page tells. What is read to its end deletes the stored calls that are gone. ``prove``: nobody knows yet whether
    these credentials see anything, so that an empty window is checked. Raises `SourceError`.
    """
    listed, covered, latest, ordered = dict[str, None](), start, start, True
    asked = {"filter": span(start, end, space), "contentSelector": SELECTOR}
    async with aclosing(api.pages("calls/extensive", "calls", asked)) as pages:
        async for rows, last in pages:
            if prove and last and not (rows or listed):
                await api.prove_sight()
            ours = dict.fromkeys(named(rows))
            starts = [moment(dig(row, "metaData", "started")) or start for row in rows]
            ordered = ordered and [latest, *starts] == sorted([latest, *starts])
            latest, listed = (starts or [latest])[-1], listed | ours
            until = end if last else min(latest.replace(microsecond=0), end) if ordered else covered
            if until <= covered:
                yield await calls_page(api, since, rows), None
                continue
            within = (covered, until - timedelta(microseconds=1))
            held = await since.held.select(Meeting, "parties", between=within)
            page = await calls_page(api, since, rows, held)
            missed = [call for call in held if call not in listed]
            vanished = await _vanished(api, since, covered, space, missed, listed)
            yield replace(page, deletions=[*page.deletions, *await gone(since, vanished)]), until
            covered, listed = until, ours


async def calls_page(api: Api, since: Since, rows: Rows, held: Mapping[str, tuple[Any, ...]] | None = None) -> Page:
    """The calls as records, announcing what of them is to come. A private one is left out, or deleted where stored.

    Where the parties of a call have come or changed, its transcript is made anew from what is stored. ``held``: the
    parties of some that are stored; the others are looked up.
    """
    calls = [one for row in rows if (one := meeting(row)).external_id]
    skip = api.link.settings.get("skip_private", True)
    shown = [one for one in calls if not (skip and one.is_private)]
    ids = [one.external_id for one in calls]
    known = {call: held[call] for call in ids if call in held} if held else {}
    known |= await since.held.stored(Meeting, [call for call in ids if call not in known], "parties")
    spoken = await since.held.stored(Transcript, ids)
    hidden = {one.external_id for one in calls if skip and one.is_private}
    oldest = since.now - api.link.options["content_wait"]
    # What was given up for a call that is stored and older than that is not announced again.
    awaited = [one for one in shown if one.external_id not in known or (one.started_at or since.now) >= oldest]
    unspoken = [one.external_id for one in awaited if one.external_id not in spoken]
    unready = [one.external_id for one in awaited if not has_content(one.raw)]
    renamed = [
        one
        for one in shown
        if (call := one.external_id) in spoken
        and call in known
        and speakers(one.raw.get("parties")) != speakers(known[call][0])
    ]
    return Page(
        records=[*shown, *await _renamed(since, renamed)],
        deletions=[
            Deletion(kind, call)
            for kind, held in ((Meeting, known), (Transcript, spoken))
            for call in held
            if call in hidden
        ],
        pending=[
            *(Pending(call, "transcript not read yet", "transcripts") for call in unspoken),
            *(Pending(call, "AI content not ready", "content", FIRST_GAP) for call in unready),
        ],
    )


async def _renamed(since: Since, calls: list[Meeting]) -> list[Transcript]:
    """The stored transcripts of these calls, their speakers named as the calls now have it."""
    raws = await since.held.stored(Transcript, [one.external_id for one in calls], "*") if calls else {}
    return [
        transcript(raws[one.external_id][0], one.raw.get("parties"), one.raw.get("metaData"))
        for one in calls
        if one.external_id in raws
    ]


async def gone(since: Since, calls: Collection[str]) -> list[Deletion]:
    """The deletions of what is stored of these calls."""
    if not calls:
        return []
    return [Deletion(kind, call) for kind in (Meeting, Transcript) for call in await since.held.stored(kind, calls)]


async def _vanished(
    api: Api, since: Since, start: datetime, space: str, missed: list[str], listed: dict[str, None]
) -> list[str]:
    """Of the stored calls that a window, read to its end, did not list those that Gong no longer has.

    Gong names no deleted calls, and answers credentials that lost their sight as if there were none. So they are asked
    for by id together with one that it did list, or with older ones where it lists none: where Gong shows one of
    these, the others that it leaves out are deleted.
    """
    if missed and space:
        metas = await since.held.stored(Meeting, missed, "metaData")
        missed = [call for call, (meta,) in metas.items() if id_text(dig(meta, "workspaceId")) == space]
    witnesses = list(listed)[-1:] or (await _older(since, start) if missed else [])
    vanished = list[str]()
    for batch in parts(missed, BATCH - WITNESSES) if witnesses else ():
        found = set[str]()
        try:
            asked = {"filter": {"callIds": [*witnesses, *batch]}}
            async with aclosing(api.pages("calls/extensive", "calls", asked)) as pages:
                async for rows, _ in pages:
                    found |= set(named(rows))
        except (Rejected, Transient):
            continue  # no answer says nothing, and must not hold the window back: the next cycle asks again
        if found.intersection(witnesses):
            vanished += [call for call in batch if call not in found]
    return vanished


async def _older(since: Since, start: datetime) -> list[str]:
    """A few of the stored calls before a window: some of them may be deleted themselves."""
    return list(await since.held.select(Meeting, between=(start - 3 * SLICE, start)))[-WITNESSES:]


def named(rows: Rows) -> list[str]:
    return [call for row in rows if (call := id_text(dig(row, "metaData", "id")))]


def parts(calls: list[str], size: int) -> list[list[str]]:
    return [calls[at : at + size] for at in range(0, len(calls), size)]
