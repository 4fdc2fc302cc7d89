"""What comes later to a Gong call than the call itself: its transcript, and what Gong's AI writes of it.

Both wait in the backlog, each under its stream's name, and are asked for by id with growing gaps. What has not come
when it waited longer than ``content_wait`` is given up: there are calls in which nobody speaks, and accounts without
AI.
"""

from __future__ import annotations

from collections import deque
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any

from syncd.errors import Rejected, Transient
from syncd.records import Meeting
from syncd.source import Page, Pending
from syncd.sources.gong_api import BATCH, SELECTOR, Api
from syncd.sources.gong_calls import dig, has_content, id_text, moment, transcript
from syncd.sources.gong_window import calls_page, named, parts

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping

    from syncd.source import Since

    Ask = Callable[[list[str]], AsyncGenerator[Page, None]]

_PARTS = 10  # into so many a batch that fails is parted: a single call is found in three steps
_DOWN = 3  # single calls that failed in passing, one after the other, after which Gong is taken to be down


async def transcripts(api: Api, since: Since) -> AsyncIterator[Page]:
    fresh = [one.external_id for one in since.backlog if one.attempts == 0]
    due = [*fresh[: api.link.options["max_new_per_run"]], *(one.external_id for one in since.backlog if one.attempts)]
    late = _late(api, since)
    for batch in parts(due, BATCH):
        held = await since.held.stored(Meeting, batch, "parties", "metaData")
        if lost := [call for call in batch if call not in held]:
            yield Page(resolved=lost)  # announced with its meeting: that was deleted or became private
        ask = partial(spoken, api, held)
        async with aclosing(
            asked([call for call in batch if call in held], ask, "transcript not ready", late)
        ) as pages:
            async for page in pages:
                yield page


async def spoken(api: Api, held: Mapping[str, tuple[Any, ...]], calls: list[str]) -> AsyncGenerator[Page, None]:
    """The transcripts that are there. ``held``: call → its ``parties`` and ``metaData``."""
    async with aclosing(api.pages("calls/transcript", "callTranscripts", {"filter": {"callIds": calls}})) as pages:
        async for rows, _ in pages:
            ours = [(row, call) for row in rows if (call := id_text(row.get("callId"))) in calls]
            found = [one for row, call in ours if (one := transcript(row, *held[call])).segments]
            yield Page(records=found, resolved=[one.external_id for one in found])


async def content(api: Api, since: Since) -> AsyncIterator[Page]:
    late, unready = _late(api, since), "AI content not ready"
    # What this run's window has just read again was tried with it; a backfill has read no such window.
    read_again = since.now - since.cycle_lookback if since.back_to is None else since.now
    for batch in parts([one.external_id for one in since.backlog], BATCH):
        held = await since.held.stored(Meeting, batch, "content", "metaData")
        waits = [call for call, (shown, _) in held.items() if not has_content({"content": shown})]
        starts = {call: moment(dig(meta, "started")) for call, (_, meta) in held.items()}
        tried = [call for call in waits if (at := starts[call]) and at >= read_again]
        come = [call for call in batch if call not in waits]
        if tried or come:
            yield _left(tried, unready, late, come)
        ask = partial(_refreshed, api, since)
        async with aclosing(asked([call for call in waits if call not in tried], ask, unready, late)) as pages:
            async for page in pages:
                yield page


async def _refreshed(api: Api, since: Since, calls: list[str]) -> AsyncGenerator[Page, None]:
    """The calls anew, whole; those that show their content, or are private by now, wait no longer."""
    wanted = {"filter": {"callIds": calls}, "contentSelector": SELECTOR}
    async with aclosing(api.pages("calls/extensive", "calls", wanted)) as pages:
        async for rows, _ in pages:
            ours = [row for row in rows if id_text(dig(row, "metaData", "id")) in calls]
            page = await calls_page(api, since, ours)
            waits = {one.external_id for one in page.records if not has_content(one.raw)}
            yield Page(
                records=page.records,
                deletions=page.deletions,
                pending=[one for one in page.pending if one.stream == "transcripts"],
                resolved=[call for call in named(ours) if call not in waits],
            )


async def asked(
    calls: list[str], ask: Ask, unready: str, late: Collection[str] = frozenset()
) -> AsyncGenerator[Page, None]:
    """Ask for calls in batches; ``ask`` resolves those that it finds, the others stay waiting, but for the ``late``.

    A batch that fails is parted until the call that spoils it is alone. Raises `Transient` when Gong is down.
    """
    batches, failed = deque(parts(calls, BATCH)), 0  # contract: an empty callIds is a 400
    while batches:
        missing = batches.popleft()
        try:
            async with aclosing(ask(missing)) as pages:
                async for page in pages:
                    missing = [call for call in missing if call not in page.resolved]
                    yield page
        except (Rejected, Transient) as error:
            if len(missing) > 1:  # it may be a single one: smaller parts, at once, until that one is alone
                batches.extendleft(reversed(parts(missing, -(-len(missing) // _PARTS))))
                continue
            failed = failed + 1 if isinstance(error, Transient) else 0
            yield _left(missing, error.message, late if isinstance(error, Rejected) else ())
            if failed == _DOWN:
                raise
            continue
        failed = 0
        if missing:
            yield _left(missing, unready, late)


def _late(api: Api, since: Since) -> set[str]:
    """What waited longer than ``content_wait``: when it is not there at this try either, it is given up."""
    wait = api.link.options["content_wait"]
    return {one.external_id for one in since.backlog if since.now - one.created_at > wait}


def _left(calls: Collection[str], reason: str, late: Collection[str], come: Collection[str] = ()) -> Page:
    given_up = [call for call in calls if call in late]
    return Page(
        pending=[Pending(call, reason) for call in calls if call not in late],
        resolved=[*given_up, *come],
        notes=[f"{reason}, and no longer waited for: {', '.join(given_up)}"] if given_up else (),
    )
