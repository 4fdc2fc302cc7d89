"""When Gmail has forgotten the history since our last run: the mailbox compared with the store. Belongs to `gmail`.

It ends where reading the history would have ended, but for what nobody can know any more: that a thread which is not
stored bore a selected label in between.

- A row of ``threads.list`` bears the id of the thread's last change, so what changed meanwhile is found by listing.
  It is read in the order of these ids, and the cursor moves along: a run that is cut goes on where it was.
- Deleting one message for ever raises no thread's id; a listing of all messages shows what is no longer there.
- A listing may leave something out while the mailbox changes (see `Mailbox.listed`): what it does not show is asked
  for by itself, and deleted only when Gmail says that it is gone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from syncd.errors import Transient
from syncd.records import Conversation, Deletion, Message
from syncd.source import Page
from syncd.sources.gmail_mail import number, text
from syncd.sources.gmail_threads import read
from syncd.sources.gmail_unlisted import Unlisted, complete, unlisted_messages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from syncd.source import Held
    from syncd.sources.gmail_api import Mailbox

Place = tuple[int, str]  # a thread's history id and its id: the order in which threads are read again
_UNTOLD = 2**64  # stands for the history id of a row that does not tell it: such threads come last
_AT_ONCE = 50  # messages that are asked for by themselves between two pages


@dataclass(frozen=True, slots=True)
class Reread:
    """``start``: the history id whose changes are gone. ``to``: the mailbox's id before anything was listed; from there
    history goes on. ``after``: the last thread that was read; None = all were, only messages are left to compare.
    """

    start: int
    to: str
    after: Place | None

    @classmethod
    async def begin(cls, mailbox: Mailbox, start: int) -> Self:
        return cls(start, history_id(await mailbox.need("getProfile")), (start + 1, ""))

    @classmethod
    def parse(cls, cursor: str) -> Self | None:
        """None of a plain history id."""
        if not cursor.startswith("{"):
            return None
        told = json.loads(cursor)
        return cls(told["start"], told["to"], told["after"] and tuple(told["after"]))

    def cursor(self) -> str:
        return json.dumps({"start": self.start, "to": self.to, "after": self.after})


def history_id(profile: Mapping[str, Any]) -> str:
    """The mailbox's present history id. Contract: digits as text; a number in its place may be anything."""
    if not (current := number(text(profile.get("historyId")))):
        raise Transient("the mailbox's profile came without a history id")
    return str(current)


async def reread(mailbox: Mailbox, held: Held, state: Reread) -> AsyncIterator[Page]:
    """All that changed since ``state.start``; the last page's cursor is the history id that it brings us to."""
    profile = await mailbox.need("getProfile")
    if state.after is not None:
        for place in await _changed(mailbox, held, state, state.after, profile):
            ours = await held.stored(Conversation, [place[1]])
            page = await read(mailbox, held, place[1], only=None if ours else news(mailbox, state.start))
            yield replace(page or Page(), cursor=replace(state, after=place).cursor())
        yield Page(cursor=replace(state, after=None).cursor())
    unlisted = await unlisted_messages(mailbox, held, profile)
    async for missing in unlisted.ids():
        for some in (missing[at : at + _AT_ONCE] for at in range(0, len(missing), _AT_ONCE)):
            yield Page(deletions=[Deletion(Message, one) for one in some if not await mailbox.has(Message, one)])
    yield Page(cursor=state.to)


def news(mailbox: Mailbox, start: int) -> Callable[[Message], bool]:
    """Tells a message for which history would have brought its thread: changed since, and with a selected label."""
    return lambda one: mailbox.carries(one) and (number(one.raw.get("historyId")) or _UNTOLD) > start


async def _changed(
    mailbox: Mailbox, held: Held, state: Reread, after: Place, profile: Mapping[str, Any]
) -> list[Place]:
    """The threads to read again behind ``after``: changed ones that are stored or bear a selected label, and stored
    ones that the listing does not show.
    """
    found: set[Place] = set()
    unlisted = await Unlisted.of(held, Conversation)
    async for rows in mailbox.listed("threads.list", includeSpamTrash="true"):
        unlisted.show(one["id"] for one in rows)
        places = _places(rows, after)
        stored = await held.stored(Conversation, [thread for _, thread in places]) if places else {}
        found |= {place for place in places if place[1] in stored}
    complete(unlisted, profile, "threads.list")
    for label in sorted(mailbox.labels):
        async for rows in mailbox.listed("threads.list", labelIds=[label], includeSpamTrash="true"):
            found |= _places(rows, after)
    async for missing in unlisted.ids():
        found |= {(_UNTOLD, one) for one in missing if (_UNTOLD, one) > after}
    return sorted(found)


def _places(rows: list[dict[str, Any]], after: Place) -> set[Place]:
    return {place for one in rows if (place := (number(one.get("historyId")) or _UNTOLD, one["id"])) > after}
