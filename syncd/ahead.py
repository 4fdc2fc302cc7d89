"""What the store holds once the pages that wait to be stored are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from syncd.records import Meeting, Message
from syncd.source import Held

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
    from datetime import datetime

    from syncd.records import Kind, Record
    from syncd.source import Page

_TIMES: Mapping[Kind, str] = {Message: "sent_at", Meeting: "started_at"}


class Known(Held, Protocol):
    """The store's own answers, and what they showed: `OfConnection`."""

    def changed(self, records: Sequence[Record]) -> Sequence[Record]: ...

    def touched(self, things: Iterable[tuple[Kind, str]]) -> None: ...


class Ahead:
    """`source.Held`: the store's answers with the records of pages that wait, and without what these delete.

    ``held``: the store's own; ``flush``: stores the pages, for a question that goes through all there is.
    """

    def __init__(self, held: Known, flush: Callable[[], Awaitable[None]]) -> None:
        self._held, self._flush = held, flush
        self._fresh: dict[Kind, dict[str, Record | None]] = {}

    def take(self, page: Page) -> None:
        """The page waits from now on."""
        for record in page.records:
            self._fresh.setdefault(type(record), {})[record.external_id] = record
        self._held.touched((type(one), one.external_id) for one in page.records)
        for one in page.deletions:
            self._fresh.setdefault(one.kind, {})[one.external_id] = None
        self._held.touched((one.kind, one.external_id) for one in page.deletions)

    def changed(self, records: Sequence[Record]) -> Sequence[Record]:
        """Less those that are known to be stored as they are, with no page waiting that changes them."""
        return self._held.changed(records)

    def forget(self) -> None:
        """No page waits any more. A question that is being answered goes on with what it knew: it stays true."""
        self._fresh = {}

    async def stored(self, kind: Kind, ids: Collection[str], *members: str) -> Mapping[str, tuple[Any, ...]]:
        fresh = self._fresh.get(kind)
        if not fresh:
            return await self._held.stored(kind, ids, *members)
        known = {one: fresh[one] for one in ids if one in fresh}
        found = {**await self._held.stored(kind, [one for one in ids if one not in known], *members)}
        return found | {key: _members(record, members) for key, record in known.items() if record is not None}

    async def select(
        self, kind: Kind, *members: str, between: tuple[datetime, datetime] | None = None, **equal: object
    ) -> Mapping[str, tuple[Any, ...]]:
        fresh = self._fresh.get(kind)
        found = await self._held.select(kind, *members, between=between, **equal)
        if not fresh:
            return found
        found = {key: row for key, row in found.items() if key not in fresh}
        self._held.touched((kind, key) for key in fresh)  # it told them as they are before these pages
        for key, record in fresh.items():
            if record is not None and _is_one(kind, record, between, equal):
                found[key] = _members(record, members)
        return found

    async def ids(self, kind: Kind) -> AsyncIterator[Sequence[str]]:
        await self._flush()
        async for batch in self._held.ids(kind):
            yield batch


def _members(record: Record, members: Sequence[str]) -> tuple[Any, ...]:
    return tuple(record.raw if name == "*" else record.raw.get(name) for name in members)


def _is_one(kind: Kind, record: Record, between: tuple[datetime, datetime] | None, equal: Mapping[str, object]) -> bool:
    for name, value in equal.items():
        mine = getattr(record, name)
        if mine not in value if isinstance(value, list) else mine != value:
            return False
    at = getattr(record, _TIMES[kind]) if between else None
    return between is None or (at is not None and between[0] <= at <= between[1])
