"""The parts of Fathom's meetings that come after the meeting: transcript, summary and action items.

- They follow minutes later, in no told time. A missing one is 404, null, ``[]`` or an empty markdown, all the same.
- A key lists them by day; an OAuth app asks ``/recordings`` one by one. Action items are in listings only, for both.
- A summary that is edited shows to a key in the sweep's listing. An OAuth app asks for it again, once a day.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from syncd.errors import Rejected, SourceError, Transient
from syncd.records import Meeting, Transcript
from syncd.source import Page, Pending, Watch
from syncd.sources.fathom_api import DOWN
from syncd.sources.fathom_meetings import Json, identity, lacking, markdown, meeting, moment, transcript, turns
from syncd.sources.fathom_windows import merged

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
    from datetime import date, datetime

    from syncd.records import Record
    from syncd.source import Since, Waiting
    from syncd.sources.fathom_api import Api

    Try = tuple[AsyncGenerator[Page, None], Callable[[SourceError], Page]]

_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class _Due:
    """A meeting that lacks parts. ``tired``: it has waited for as long as we wait."""

    recording_id: str
    created_at: datetime | None
    lacks: frozenset[str]
    tired: bool

    @property
    def items_only(self) -> bool:
        return self.lacks == {"action items"}

    def missed(self, why: str) -> Page:
        """One more try that brought not all."""
        if not self.tired:
            return Page(pending=[Pending(self.recording_id, why)])
        return Page(resolved=[self.recording_id], notes=[f"meeting {self.recording_id} is given up: {why}"])

    def failed(self, error: SourceError) -> Page:
        """What could not be read says nothing about what is there: it waits on."""
        return Page(pending=[Pending(self.recording_id, error.message)])


async def details(api: Api, since: Since) -> AsyncIterator[Page]:
    """What is in the backlog, then the summaries that are watched."""
    waiting = [one for one in since.backlog if one.attempts]
    waiting += [one for one in since.backlog if not one.attempts][: api.max_new]
    found = await _due(api, since, waiting)
    if gone := [one.external_id for one in waiting if one.external_id not in found]:
        yield Page(resolved=gone)  # announced in one page with their meetings, so those were deleted since
    for one in found.values():
        if not one.lacks:  # a listing of meetings brought the rest
            yield _complete(api, since, one)
    async with aclosing(_each(_tries(api, since, [one for one in found.values() if one.lacks]))) as pages:
        async for page in pages:
            yield page
    again = since.watched[: api.max_new]
    async with aclosing(_each([(_again(api, since, one), _watched_on(one)) for one in again])) as pages:
        async for page in pages:
            yield page


async def _due(api: Api, since: Since, waiting: list[Waiting]) -> dict[str, _Due]:
    """Those that are stored, by id."""
    ids = [one.external_id for one in waiting]
    members = ("created_at", "default_summary", "action_items")
    stored, heard = await since.held.stored(Meeting, ids, *members), await since.held.stored(Transcript, ids)
    found = {}
    for one in waiting:
        if one.external_id in stored:
            raw = dict(zip(members, stored[one.external_id], strict=True))
            lacks = frozenset(lacking(raw, heard=one.external_id in heard))
            tired = since.now - one.created_at > api.content_wait
            found[one.external_id] = _Due(one.external_id, moment(raw["created_at"]), lacks, tired)
    return found


def _tries(api: Api, since: Since, found: Iterable[_Due]) -> Iterable[Try]:
    """How each is asked for: by day in a listing where that shows what it lacks, the rest by itself."""
    days: dict[tuple[date, bool], list[_Due]] = {}
    single = []
    for one in found:
        heavy = bool(api.key) and not one.items_only
        if one.created_at and (api.key or "action items" in one.lacks):
            days.setdefault((one.created_at.date(), heavy), []).append(one)
        if not one.created_at or not (api.key or one.items_only):
            single.append(one)
    for (_, heavy), due in sorted(days.items(), key=lambda day: day[0]):
        yield _listed(api, since, due, heavy=heavy), _failed([one for one in due if heavy or one.items_only])
    for one in single:
        yield _asked(api, since, one), one.failed


def _failed(due: list[_Due]) -> Callable[[SourceError], Page]:
    return lambda error: Page(pending=[Pending(one.recording_id, error.message) for one in due])


async def _each(tries: Iterable[Try]) -> AsyncGenerator[Page, None]:
    """One try after the other. What fails is counted as tried, and waits: it must not block what comes after it."""
    failed = 0
    for brought, without in tries:
        try:
            async with aclosing(brought) as pages:
                async for page in pages:
                    yield page
            failed = 0
        except (Rejected, Transient) as error:
            failed = failed + 1 if isinstance(error, Transient) else 0
            yield without(error)
            if failed == DOWN:
                raise


async def _listed(api: Api, since: Since, day: list[_Due], *, heavy: bool) -> AsyncGenerator[Page, None]:
    """What a listing of their span shows of them; what is not due is left aside.

    A light one shows action items alone: what lacks more is asked for by itself, and has its outcome there.
    """
    due = {one.recording_id: one for one in day}
    times = [one.created_at for one in day if one.created_at]
    parts = ("transcript", "summary") if heavy else ()
    async with aclosing(api.listing(*parts, after=min(times), before=max(times))) as pages:
        async for items, _ in pages:
            said = {identity(item): item.get("transcript") for item in items}
            found, _ = await merged(since, [item for item in items if identity(item) in due])
            for recording_id, raw in found.items():
                one = due.pop(recording_id)
                if heavy or one.items_only:
                    yield _outcome(api, since, one, raw, said[recording_id])
                elif raw["action_items"] is not None:
                    yield Page(records=[meeting(recording_id, raw)])
    for one in due.values():
        if heavy or one.items_only:
            yield one.missed("no longer visible")


async def _asked(api: Api, since: Since, one: _Due) -> AsyncGenerator[Page, None]:
    """The parts of one meeting, from ``/recordings``; only those that we do not hold."""
    stored = await since.held.stored(Meeting, [one.recording_id], "*")
    if not stored:  # deleted since this run looked, as when its connection is purged meanwhile
        yield Page(resolved=[one.recording_id])
        return
    raw = stored[one.recording_id][0]
    heard = "transcript" not in one.lacks
    if not heard and (said := turns(await api.recording(one.recording_id, "transcript"))):
        heard = True  # stored at once: the summary may fail each time
        yield Page(records=[transcript(one.recording_id, said, raw.get("transcript_language"))])
    summary = raw.get("default_summary")
    if not markdown(summary):
        summary = await api.recording(one.recording_id, "summary")
    yield _outcome(api, since, one, {**raw, "default_summary": summary}, None, heard=heard)


def _outcome(api: Api, since: Since, one: _Due, raw: Json, spoken: object, *, heard: bool = False) -> Page:
    """What one try brought. ``heard``: the transcript was stored before."""
    said = turns(spoken)
    records: list[Record] = [meeting(one.recording_id, raw)]
    if said:
        records.append(transcript(one.recording_id, said, raw.get("transcript_language")))
    lacks = lacking(raw, heard=bool(said) or heard or "transcript" not in one.lacks)
    end = one.missed(f"{', '.join(lacks)} not ready") if lacks else _complete(api, since, one)
    if lacks and "summary" in one.lacks and "summary" not in lacks:  # it may be edited before the rest is there
        end = replace(end, watches=_watches(api, since, one))
    return replace(end, records=records)


def _complete(api: Api, since: Since, one: _Due) -> Page:
    return Page(resolved=[one.recording_id], watches=_watches(api, since, one))


def _watches(api: Api, since: Since, one: _Due) -> list[Watch]:
    """An OAuth app sees in no listing that a summary was edited."""
    return [Watch(one.recording_id, _DAY)] if not api.key and _young(since, one.created_at) else []


def _young(since: Since, made: datetime | None) -> bool:
    return made is not None and since.now - made < since.sweep_lookback


async def _again(api: Api, since: Since, recording_id: str) -> AsyncGenerator[Page, None]:
    """The summary once more; it is watched for as long as a sweep would show it."""
    stored = await since.held.stored(Meeting, [recording_id], "*")
    if not stored:
        yield Page(unwatched=[recording_id])
        return
    raw = stored[recording_id][0]
    summary = await api.recording(recording_id, "summary")
    records = [meeting(recording_id, {**raw, "default_summary": summary})] if markdown(summary) else []
    if _young(since, moment(raw.get("created_at"))):
        yield Page(records=records, watches=[Watch(recording_id, _DAY)])
    else:
        yield Page(records=records, unwatched=[recording_id])


def _watched_on(recording_id: str) -> Callable[[SourceError], Page]:
    return lambda _: Page(watches=[Watch(recording_id, _DAY)])
