"""Which stored things a complete listing did not show, in little memory. Belongs to `gmail`."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Self

from syncd.errors import Transient
from syncd.records import Message
from syncd.sources.gmail_mail import number

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    from syncd.records import Kind
    from syncd.source import Held
    from syncd.sources.gmail_api import Mailbox

_PARTS = 256  # sorted each for itself: sorting all at once would hold them as Python numbers


class Unlisted:
    """Of each stored id 9 bytes: a digest, and whether it was shown. ``any_shown``: whether anything was at all."""

    def __init__(self, held: Held, kind: Kind) -> None:
        self._held, self._kind = held, kind
        self._keys = [array("Q") for _ in range(_PARTS)]
        self._shown: list[bytearray] = []
        self.any_shown = False

    @classmethod
    async def of(cls, held: Held, kind: Kind) -> Self:
        """Of all that is stored live now."""
        made = cls(held, kind)
        async for batch in held.ids(kind):
            for one in batch:
                key = _key(one)
                made._keys[key % _PARTS].append(key)
        made._keys = [array("Q", sorted(keys)) for keys in made._keys]
        made._shown = [bytearray(len(keys)) for keys in made._keys]
        return made

    def show(self, ids: Iterable[str]) -> None:
        """The listing shows these."""
        for one in ids:
            self.any_shown = True
            part, at = self._place(one)
            if at is not None:
                self._shown[part][at] = 1

    async def ids(self) -> AsyncIterator[list[str]]:
        """What is still stored of those that were not shown, in ascending order, some hundreds at a time."""
        async for batch in self._held.ids(self._kind):
            places = [(one, *self._place(one)) for one in batch]
            missing = [one for one, part, at in places if at is not None and not self._shown[part][at]]
            if missing:
                yield missing

    def _place(self, one: str) -> tuple[int, int | None]:
        key = _key(one)
        part = key % _PARTS
        at = bisect_left(self._keys[part], key)
        return part, at if at < len(self._keys[part]) and self._keys[part][at] == key else None


def _key(one: str) -> int:
    return int.from_bytes(blake2b(one.encode(errors="surrogatepass"), digest_size=8).digest())


def complete(unlisted: Unlisted, profile: Mapping[str, Any], method: str) -> Unlisted:
    """The listing has ended. Raises `Transient` when it showed nothing though ``profile`` speaks of messages."""
    if not unlisted.any_shown and number(profile.get("messagesTotal")):
        raise Transient(f"{method} came empty, yet the mailbox has messages")
    return unlisted


async def unlisted_messages(mailbox: Mailbox, held: Held, profile: Mapping[str, Any]) -> Unlisted:
    """The stored messages that are not in the mailbox's listing of all messages."""
    unlisted = await Unlisted.of(held, Message)
    async for rows in mailbox.listed("messages.list", includeSpamTrash="true"):
        unlisted.show(one["id"] for one in rows)
    return complete(unlisted, profile, "messages.list")
