"""What `syncd verify` asks Fathom: every meeting of the time that it compares, with its parts.

A key lists them, parts and all. An OAuth app lists the meetings, and asks for transcripts and summaries one by one: of
all meetings where none is stored, and of a sample of the others.
"""

from __future__ import annotations

import random
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from syncd.errors import Rejected, Transient
from syncd.records import Deletion, Meeting, Transcript
from syncd.source import Page, Pending
from syncd.sources.fathom_api import DOWN
from syncd.sources.fathom_meetings import identity, markdown, meeting, moment, transcript, turns
from syncd.sources.fathom_windows import HEAVY, deleted, merged, spans, vanished

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator
    from datetime import datetime

    from syncd.records import Record
    from syncd.source import Since
    from syncd.sources.fathom_api import Api
    from syncd.sources.fathom_meetings import Json


@dataclass(slots=True)
class _Seen:
    """What a span's listing showed; of all spans, what it showed without a transcript: one is held, or none is."""

    listed: set[str] = field(default_factory=set)
    held: list[str] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)


async def lately(api: Api, since: Since) -> AsyncIterator[Page]:
    """The time that each cycle reads; what is newer than the last one is not missing yet."""
    begins, read_to = since.now - min(since.cycle_lookback, since.lookback), moment(since.cursors.get(""))
    half = since if since.sample is None else replace(since, sample=since.sample // 2)
    async for page in _compared(api, half, begins, since.now, read_to or begins):
        yield page


async def older(api: Api, since: Since) -> AsyncIterator[Page]:
    """The time before, which sweeps read; what is newer than the last one's reach is not missing yet."""
    begins, ends = since.now - since.lookback, since.now - since.cycle_lookback
    read_to = moment(since.cursors.get("", "").partition(" ")[2])
    if read_to is None and begins < ends:
        yield Page(notes=[f"no sweep has read the meetings of before {ends:%Y-%m-%d %H:%M} UTC yet"])
    half = since if since.sample is None else replace(since, sample=since.sample - since.sample // 2)
    async for page in _compared(api, half, begins, ends, read_to or begins):
        yield page


async def _compared(
    api: Api, since: Since, begins: datetime, ends: datetime, read_to: datetime
) -> AsyncGenerator[Page, None]:
    """``read_to``: what was made later and is not stored waits for its turn."""
    parts, seen, hidden = (("transcript", "summary") if api.key else ()), _Seen(), 0
    for start, end in spans(begins, ends, HEAVY):
        seen.listed.clear()
        async with aclosing(api.listing(*parts, after=start, before=end)) as pages:
            async for items, _ in pages:
                yield await _page(since, items, read_to, seen)
        own, others = await vanished(api, since, start, end, seen.listed)
        gone = await deleted(api, since, own, witnessed=bool(seen.listed))
        yield Page(deletions=[Deletion(kind, one) for one in gone for kind in (Meeting, Transcript)])
        hidden += others + len(own) - len(gone)
    silent = seen.silent
    if not api.key:
        silent = []
        async with aclosing(_one_by_one(api, since, seen, silent)) as asked:
            async for page in asked:
                yield page
    if hidden:
        yield Page(notes=[f"stored meetings that are no longer shown to these credentials, kept: {hidden:,}"])
    if silent:
        yield Page(notes=[f"meetings without a transcript at Fathom: {len(silent):,}"])


async def _page(since: Since, items: list[Json], read_to: datetime, seen: _Seen) -> Page:
    """The listed meetings with the parts that are listed with them."""
    found, known = await merged(since, items)
    heard = await since.held.stored(Transcript, list(found))
    said = {identity(item): item.get("transcript") for item in items}
    records: list[Record] = []
    later = []
    for recording_id, raw in found.items():
        seen.listed.add(recording_id)
        made, spoken = moment(raw.get("created_at")), said[recording_id]
        if recording_id not in known and made and made > read_to:
            later.append(Pending(recording_id, "not read yet"))
            continue
        records.append(meeting(recording_id, raw))
        if told := turns(spoken):
            records.append(transcript(recording_id, told, raw.get("transcript_language")))
        elif recording_id in heard:
            seen.held.append(recording_id)
        else:
            seen.silent.append(recording_id)
    return Page(records=records, pending=later)


async def _one_by_one(api: Api, since: Since, seen: _Seen, silent: list[str]) -> AsyncGenerator[Page, None]:
    """The transcripts and summaries that no listing shows. ``silent`` takes those that have no transcript."""
    sample, failed = seen.held, 0
    if since.sample is not None and since.sample < len(sample):
        sample = random.Random(since.now.isoformat()).sample(sorted(sample), since.sample)
    for recording_id in [*seen.silent, *sample]:
        try:
            said = turns(await api.recording(recording_id, "transcript"))
            summary = await api.recording(recording_id, "summary")
            failed = 0
        except (Rejected, Transient) as error:
            failed = failed + 1 if isinstance(error, Transient) else 0
            if failed == DOWN:
                raise
            yield Page(notes=[f"the parts of meeting {recording_id} could not be compared: {error.message}"])
            continue
        records: list[Record] = []
        stored = await since.held.stored(Meeting, [recording_id], "*")
        if stored and markdown(summary):
            records.append(meeting(recording_id, {**stored[recording_id][0], "default_summary": summary}))
        if said:
            records.append(transcript(recording_id, said, None))
        elif recording_id in seen.silent:
            silent.append(recording_id)
        yield Page(records=records)
