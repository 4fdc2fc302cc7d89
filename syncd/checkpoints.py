"""A run and the store: what its streams begin with, each page stored, and what its end has to store as well.

An idle run asks the database once as it begins and tells it once as it ends. So a page that moves a cursor and does
nothing else waits for the next page, or for the end, and is stored with that: one page at most, for a crash may repeat
no more.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from syncd.store import Counts, Move

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from syncd.live import Live
    from syncd.source import Page, Since, Stream
    from syncd.store import Known, Store

_FRESH_S = 10.0  # what was known as the run began is looked up anew after so long
_TOLD = 20  # cursors that moved, in a run's row
_TOLD_LENGTH = 200


class Checkpoints:
    """Of one run. ``waits``: the cursor that is not stored yet. ``moved``: the partitions' cursors (before, after)."""

    def __init__(self, store: Store, live: Live, run_id: int, lease: str, streams: Sequence[Stream]) -> None:
        self._store, self._live, self._run_id, self._lease = store, live, run_id, lease
        self._watching = [stream.name for stream in streams if stream.watches]
        self._known: Known | None = None
        self._known_until_s = 0.0
        self._begun: set[str] = set()
        self.waits: Move | None = None
        self.moved: dict[tuple[str, str], tuple[str | None, str | None]] = {}

    async def look(self, credential: str | None = None) -> Known:
        """What is known now; of the ``credential``'s budgets as well."""
        known = await self._store.looks.known(self._live.connection.id, watching=self._watching, credential=credential)
        self._known, self._known_until_s = known, time.monotonic() + _FRESH_S
        self._begun.clear()
        return known

    async def begin(self, stream: Stream, since: Since) -> Since:
        """From where, and with what, the stream reads."""
        known, name = self._known, stream.name
        if known is None or name in self._begun or time.monotonic() > self._known_until_s:
            known = await self.look()
        self._begun.add(name)
        waiting = {self.waits.partition: self.waits.cursor} if self.waits and self.waits.stream == name else {}
        backlog = known.due(name)
        return replace(
            since,
            cursors={**known.cursors.get(name, {}), **waiting},
            backlog=await self._store.looks.due_backlog(self._live.connection.id, name) if backlog is None else backlog,
            watched=known.watched.get(name, ()),
        )

    async def store(self, stream: Stream, page: Page, cursors: Mapping[str, str], records: int) -> Counts:
        """Store the page, or let it wait; ``records``: how many of its records the run counts. Raises `LeaseLost`."""
        page = self._without_unknown(stream, page)
        self._note(stream, page, cursors)
        if not self.waits and _is_idle(page) and self._live.renewed_lately(self._store.lease):
            if page.cursor is not None and page.cursor != cursors.get(page.partition):
                self.waits = Move(stream.name, page.partition, page.cursor)
            return Counts()
        if page.pending or page.watches:
            self._known = None  # they may be due at once, for a stream that comes later
        with self._live.renewing(self._store.lease):
            counts = await self._store.pages.checkpoint(
                page,
                connection_id=self._live.connection.id,
                stream=stream.name,
                lease=self._lease,
                run_id=self._run_id,
                records=records,
                calls=self._live.calls,
                earlier=self.waits,
            )
        self.waits = None
        return counts

    async def forget(self, stream: Stream) -> None:
        """The vendor forgot the stream's point: drop its cursors. Raises `LeaseLost`."""
        if self.waits and self.waits.stream == stream.name:
            self.waits = None
        with self._live.renewing(self._store.lease):
            await self._store.pages.forget_cursors(self._live.connection.id, stream.name, self._lease)

    def told(self) -> dict[str, list[str | None]] | None:
        """The cursors that moved, for the run's row: ``stream`` or ``stream/partition`` → before and after."""
        return dict(self._changed()) or None

    def _changed(self) -> Iterator[tuple[str, list[str | None]]]:
        changed = ((where, ends) for where, ends in self.moved.items() if ends[0] != ends[1])
        for (stream, partition), ends in [one for one, _ in zip(changed, range(_TOLD), strict=False)]:
            yield f"{stream}/{partition}" if partition else stream, [end and end[:_TOLD_LENGTH] for end in ends]

    def _note(self, stream: Stream, page: Page, cursors: Mapping[str, str]) -> None:
        ends = dict.fromkeys(page.forget) | ({} if page.cursor is None else {page.partition: page.cursor})
        for partition, after in ends.items():
            before = self.moved.get((stream.name, partition), (cursors.get(partition),))[0]
            self.moved[stream.name, partition] = before, after

    def _without_unknown(self, stream: Stream, page: Page) -> Page:
        """The page without those of its resolved things that are in no backlog."""
        known = self._known.backlog if self._known else None
        if known is None or not page.resolved:
            return page
        return replace(page, resolved=[one for one in page.resolved if (stream.name, one) in known])


def _is_idle(page: Page) -> bool:
    """Whether all that it stores is where its partition resumes."""
    return not (
        page.records
        or page.deletions
        or page.pending
        or page.resolved
        or page.watches
        or page.unwatched
        or page.forget
        or page.notes
    )
