"""A run and the store: what its streams begin with, its pages stored several at once, and what is left to its end.

A transaction costs as much as some hundred rows, and a thread or a meeting is a page of its own. So pages wait for
each other, never long and never many (see `_HELD_S`, `_MOST_ROWS`), and are stored in one transaction, in their order.
A run that is killed reads again what waited: no cursor moved without the records that it covers. What a stream asks
about the store is answered as if all that it yielded were stored (see `Ahead`).
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import structlog

from syncd.ahead import Ahead
from syncd.errors import LeaseLost
from syncd.logs import redact
from syncd.source import Page
from syncd.store import Move

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from syncd.live import Live
    from syncd.metrics import Metrics
    from syncd.records import Record
    from syncd.source import Since, Stream
    from syncd.store import Known, Store

log = structlog.get_logger(__name__)

_HELD_S = 5.0  # a page waits no longer for others
_MOST_ROWS, _MOST_PAGES = 250, 250
_MOST_TEXT = 250_000  # characters of text: mails and transcripts are large, and all of them are in memory
_OF_HTML = 3  # a mail's markup is in what the vendor sent too, in base64
_FRESH_S = 10.0  # what was known as the run began is looked up anew after so long
_TOLD = 20  # cursors that moved, in a run's row
_TOLD_LENGTH = 200


@dataclass(frozen=True, slots=True)
class Whose:
    """The run whose pages are stored. ``lease``: that it holds its connection by; ``streams``: that it reads."""

    source: str
    run_id: int
    lease: str
    streams: Sequence[Stream]


class _Waiting(NamedTuple):
    """A page that is not stored yet; ``counted``: how many of its records the run counts. ``ends``: with it, a pass."""

    stream: Stream
    page: Page
    counted: int
    ends: bool = False


class Checkpoints:
    """Of one run. ``moved``: the partitions' cursors (before, after), stored or not. ``untold``: how many records the
    run counts that came as they are stored, in pages of which there was nothing to store.
    """

    def __init__(self, store: Store, live: Live, whose: Whose, metrics: Metrics) -> None:
        self._store, self._live, self._whose, self._metrics = store, live, whose, metrics
        self._watching = [stream.name for stream in whose.streams if stream.watches]
        self._known: Known | None = None
        self._known_until_s = 0.0
        self._begun: set[str] = set()
        self._ahead = Ahead(store.looks.of(live.connection.id), self.flush)
        self._waiting: list[_Waiting] = []
        self._touched: set[tuple[str, str, str]] = set()
        self._rows = self._text = 0
        self._storing = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._late: asyncio.Task[None] | None = None
        self._failed: Exception | None = None
        self.moved: dict[tuple[str, str], tuple[str | None, str | None]] = {}
        self.untold = 0
        self._stored_at: dict[tuple[str, str], str | None] = {}

    async def look(self, credential: str | None = None) -> Known:
        """What is known now; of the ``credential``'s budgets as well."""
        await self.flush()
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
        backlog = known.due(name)
        return replace(
            since,
            held=self._ahead,
            cursors=known.cursors.get(name, {}),
            backlog=await self._store.looks.due_backlog(self._live.connection.id, name) if backlog is None else backlog,
            watched=known.watched.get(name, ()),
        )

    async def add(self, stream: Stream, page: Page, cursors: Mapping[str, str], counted: int) -> None:
        """Store the page, with those before it, or let it wait for others. ``cursors``: where the stream began;
        ``counted``: how many of the page's records the run counts. Raises `LeaseLost`, and what the database raises.
        """
        async with self._storing:  # a page that comes while others are stored waits for that
            self._raise_failed()
        page = self._without_unchanged(self._without_unknown(stream, page))
        moves = page.cursor is not None and page.cursor != self._at(stream, page.partition, cursors)
        self._note(stream, page, cursors)
        touches = _touches(stream, page)
        if self._touched & touches:
            await self.flush()
        self._waiting.append(
            _Waiting(stream, page if moves or page.cursor is None else replace(page, cursor=None), counted)
        )
        self._touched |= touches
        self._ahead.take(page)
        self._rows += len(page.records) + len(page.deletions)
        self._text += sum(map(_text_of, page.records))
        if page.pending or page.watches:
            self._known = None  # they may be due at once, for a stream that comes later
        if self._is_enough(page):
            await self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_HELD_S, self._is_late)

    async def flush(self) -> None:
        """Store all that waits. Raises `LeaseLost`, and what the database raises; then that is read again some day."""
        async with self._storing:
            self._raise_failed()
            waiting = self._taken()
            if not waiting:
                return
            pages = [(one.stream.name, one.page) for one in waiting if not _is_empty(one.page)]
            try:
                if pages:
                    await self._stored(waiting, pages)
                else:
                    self.untold += sum(one.counted for one in waiting)
                self._tell(waiting)
            finally:
                self._ahead.forget()

    async def end(self) -> Sequence[Move]:
        """Nothing more comes: store what waits. Where that is cursors alone, they are answered instead, to be stored
        with the run's end. Raises as `flush` does.
        """
        async with self._storing:
            told = [one for one in self._waiting if not _is_empty(one.page)]
            if self._failed is None and all(_only_moves(one.page) for one in told):
                waiting = self._taken()
                self.untold += sum(one.counted for one in waiting)
                self._tell(waiting)
                self._ahead.forget()
                return [_move(one) for one in told]
        await self.flush()
        return ()

    async def forget(self, stream: Stream) -> None:
        """The vendor forgot the stream's point: drop its cursors. Raises `LeaseLost`."""
        await self.flush()
        with self._live.renewing(self._store.lease):
            await self._store.pages.forget_cursors(self._live.connection.id, stream.name, self._whose.lease)
        gone = {where: (before, None) for where, (before, _) in self.moved.items() if where[0] == stream.name}
        self.moved |= gone
        self._stored_at |= dict.fromkeys(gone)

    async def whole(self, stream: Stream) -> None:
        """The stream came to the end of its pass: that is so once what it yielded is stored. Raises as `add` does."""
        async with self._storing:
            self._raise_failed()
        self._waiting.append(_Waiting(stream, Page(), 0, ends=True))

    def told(self) -> dict[str, list[str | None]] | None:
        """The cursors that moved and are stored, or are with the run's end, for its row: ``stream`` or
        ``stream/partition`` → before and after.
        """
        return dict(self._changed()) or None

    # ── what waits ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _is_enough(self, page: Page) -> bool:
        many = self._rows >= _MOST_ROWS or self._text >= _MOST_TEXT or len(self._waiting) >= _MOST_PAGES
        return many or bool(page.notes) or not self._live.renewed_lately(self._store.lease)

    def _is_late(self) -> None:
        self._late = asyncio.get_running_loop().create_task(self._flush_late())

    async def _flush_late(self) -> None:
        """Store what waited long enough; what goes wrong with it is the run's, raised where that comes here next."""
        try:
            await self.flush()
        except Exception as error:  # noqa: BLE001 - raised again by whoever stores next
            self._failed = error
            self._live.lost |= isinstance(error, LeaseLost)

    def _raise_failed(self) -> None:
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed

    def _taken(self) -> list[_Waiting]:
        """All that waits, which waits no longer."""
        if self._timer is not None:
            self._timer.cancel()
        waiting, self._timer = self._waiting, None
        self._waiting, self._touched, self._rows, self._text = [], set(), 0, 0
        return waiting

    async def _stored(self, waiting: Sequence[_Waiting], pages: Sequence[tuple[str, Page]]) -> None:
        # Before it is known how it went: what is cut now is stored perhaps, and must not be told twice.
        records, self.untold = self.untold + sum(one.counted for one in waiting), 0
        with self._live.renewing(self._store.lease):
            counts = await self._store.pages.checkpoint(
                pages,
                connection_id=self._live.connection.id,
                lease=self._whose.lease,
                run_id=self._whose.run_id,
                records=records,
                calls=self._live.calls,
            )
        self._live.counts += counts
        self._metrics.stored(self._whose.source, counts)
        streams = ",".join(dict.fromkeys(stream for stream, _ in pages))
        log.debug(
            "page.stored", stream=streams, pages=len(pages), records=sum(len(page.records) for _, page in pages),
            added=counts.added, changed=counts.changed,
        )  # fmt: skip

    def _tell(self, stored: Sequence[_Waiting]) -> None:
        """What these pages say to those who watch."""
        live = self._live
        for stream, page, counted, ends in stored:
            live.records += counted
            self._stored_at |= {(stream.name, partition): after for partition, after in _ends(page).items()}
            live.whole |= ends
            live.reached = page.reached or live.reached
            live.parts = (page.parts if stream.parts else None) or live.parts
            for note in page.notes:
                secrets = live.link.secrets if live.link else ()
                log.warning("source.noted", stream=stream.name, note=redact(note, secrets))

    # ── cursors ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _changed(self) -> Iterator[tuple[str, list[str | None]]]:
        stored = ((where, (self.moved[where][0], after)) for where, after in self._stored_at.items())
        changed = ((where, ends) for where, ends in stored if ends[0] != ends[1])
        for (stream, partition), ends in [one for one, _ in zip(changed, range(_TOLD), strict=False)]:
            yield f"{stream}/{partition}" if partition else stream, [end and end[:_TOLD_LENGTH] for end in ends]

    def _at(self, stream: Stream, partition: str, cursors: Mapping[str, str]) -> str | None:
        """Where the partition stands by now."""
        return self.moved.get((stream.name, partition), (None, cursors.get(partition)))[1]

    def _note(self, stream: Stream, page: Page, cursors: Mapping[str, str]) -> None:
        for partition, after in _ends(page).items():
            before = self.moved.get((stream.name, partition), (cursors.get(partition),))[0]
            self.moved[stream.name, partition] = before, after

    def _without_unknown(self, stream: Stream, page: Page) -> Page:
        """The page without those of its resolved things that are in no backlog."""
        known = self._known.backlog if self._known else None
        if known is None or not page.resolved:
            return page
        return replace(page, resolved=[one for one in page.resolved if (stream.name, one) in known])

    def _without_unchanged(self, page: Page) -> Page:
        """The page without the records that are stored as they are, as far as the stream has asked for them."""
        changed = self._ahead.changed(page.records)
        return page if len(changed) == len(page.records) else replace(page, records=changed)


def _ends(page: Page) -> dict[str, str | None]:
    """Where partitions resume after this page."""
    forgotten: dict[str, str | None] = dict.fromkeys(page.forget)
    return forgotten if page.cursor is None else {**forgotten, page.partition: page.cursor}


def _text_of(record: Record) -> int:
    """About how many characters of text are held with it."""
    text, html = getattr(record, "text", None), getattr(record, "html", None)
    return (len(text) if text else 0) + (_OF_HTML * len(html) if html else 0)


def _touches(stream: Stream, page: Page) -> set[tuple[str, str, str]]:
    """What of the backlog and the watches a page changes: of one thing in two pages the order would matter."""
    found = {("backlog", one.stream or stream.name, one.external_id) for one in page.pending}
    found |= {("backlog", stream.name, one) for one in page.resolved}
    found |= {("watches", one.stream or stream.name, one.external_id) for one in page.watches}
    return found | {("watches", stream.name, one) for one in page.unwatched}


def _is_empty(page: Page) -> bool:
    """Whether there is nothing of it to store."""
    return page.cursor is None and _only_moves(page)


def _only_moves(page: Page) -> bool:
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


def _move(one: _Waiting) -> Move:
    assert one.page.cursor is not None  # noqa: S101 - it is not empty, and only moves
    return Move(one.stream.name, one.page.partition, one.page.cursor)
