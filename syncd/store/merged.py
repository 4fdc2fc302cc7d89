"""Several pages as one: what they store between them, so that each table is written once, whatever their number."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from syncd.policy import backlog_gap
from syncd.store.database import clean

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from syncd.records import Kind, Record
    from syncd.source import Page, Pending

_NO_GAP = timedelta(0)
Key = tuple[str, str]  # a stream, and what it is about: an external id, or a partition


@dataclass(slots=True)
class Merged:
    """``cursors``: None where one is dropped. ``announced``: what another stream will try. ``tried``: what could not
    be read yet, told by the stream that tried. ``watches``: with the next time.
    """

    now: datetime
    records: dict[Kind, dict[str, Record]] = field(default_factory=dict)
    deletions: dict[Kind, dict[str, None]] = field(default_factory=dict)
    cursors: dict[Key, str | None] = field(default_factory=dict)
    announced: dict[Key, Pending] = field(default_factory=dict)
    tried: dict[Key, Pending] = field(default_factory=dict)
    resolved: dict[Key, None] = field(default_factory=dict)
    watches: dict[Key, datetime] = field(default_factory=dict)
    unwatched: dict[Key, None] = field(default_factory=dict)

    def add(self, stream: str, page: Page) -> None:
        for record in page.records:
            kind, name = type(record), clean(record.external_id)
            self.records.setdefault(kind, {})[name] = record
            if self.deletions:  # a page before this one had it deleted, and it is there again
                self.deletions.get(kind, {}).pop(name, None)
        for gone in page.deletions:
            self.deletions.setdefault(gone.kind, {})[clean(gone.external_id)] = None
        self.cursors |= {(stream, clean(one)): None for one in page.forget}
        if page.cursor is not None:
            self.cursors[stream, clean(page.partition)] = clean(page.cursor)
        for one in page.pending:
            key = (one.stream or stream, clean(one.external_id))
            if key[0] == stream:
                self.tried[key] = one
            else:
                self.announced.setdefault(key, one)
        for watch in page.watches:
            self.watches[watch.stream or stream, clean(watch.external_id)] = self.now + watch.after
        self.resolved |= {(stream, clean(one)): None for one in page.resolved}
        self.unwatched |= {(stream, clean(one)): None for one in page.unwatched}

    # Rows, less whose they are.

    def waiting(self, attempts: Mapping[Key, int]) -> list[dict[str, Any]]:
        """Of the backlog, what was tried; ``attempts``: how often before."""
        return [self._waits(key, one, attempts.get(key, 0) + 1) for key, one in self.tried.items()]

    def coming(self) -> list[dict[str, Any]]:
        """Of the backlog, what was announced."""
        return [self._waits(key, one, 0) for key, one in self.announced.items()]

    def _waits(self, key: Key, one: Pending, attempts: int) -> dict[str, Any]:
        gap = one.after if one.after is not None else backlog_gap(attempts) if attempts else _NO_GAP
        reason = clean(one.reason)
        tried = {"attempts": attempts, "last_error": reason if attempts else None}
        return _at(key) | {"reason": reason, "next_try_at": self.now + gap, **tried}

    def watched(self) -> list[dict[str, Any]]:
        return [_at(key) | {"next_try_at": next_try_at} for key, next_try_at in self.watches.items()]

    def moved(self) -> list[dict[str, Any]]:
        return [
            {"stream": stream, "partition": partition, "cursor": cursor}
            for (stream, partition), cursor in self.cursors.items()
            if cursor is not None
        ]

    def forgotten(self) -> list[Key]:
        return [key for key, cursor in self.cursors.items() if cursor is None]


def merged(pages: Iterable[tuple[str, Page]], now: datetime) -> Merged:
    """Of one page, or of several of which none pends, resolves, watches or unwatches what one before it touched."""
    found = Merged(now)
    for stream, page in pages:
        found.add(stream, page)
    for key in found.tried:
        found.announced.pop(key, None)
    for key in found.resolved:  # what a page tells of both is resolved
        found.announced.pop(key, None)
        found.tried.pop(key, None)
    for key in found.unwatched:
        found.watches.pop(key, None)
    return found


def by_stream(keys: Iterable[Key]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for stream, name in keys:
        found.setdefault(stream, []).append(name)
    return found


def _at(key: Key) -> dict[str, Any]:
    return {"stream": key[0], "external_id": key[1]}
