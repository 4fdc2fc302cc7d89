"""Older mail of the selected labels, on request. Belongs to `gmail`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from syncd.records import Conversation, Message
from syncd.source import Estimate, Page
from syncd.sources.gmail_api import in_label
from syncd.sources.gmail_labels import resolved
from syncd.sources.gmail_threads import read

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime

    from syncd.source import Since
    from syncd.sources.gmail_api import Mailbox


async def backfill(mailbox: Mailbox, since: Since) -> AsyncIterator[Page]:
    """The threads of each selected label with mail since ``back_to``, newest first, but for those that are stored:
    history keeps them. There is no cursor: listing again is cheap, and what is stored says where it goes on.

    A label is listed until a listing shows nothing new, since one may leave something out (see `Mailbox.listed`).
    """
    tried: set[str] = set()
    for label in sorted(mailbox.labels):
        more = True
        while more:
            more = False
            async for ids in _older(mailbox, since, label):
                for thread in [one for one in ids if one not in tried]:
                    more = True
                    tried.add(thread)
                    if page := await read(mailbox, since.held, thread):
                        yield replace(page, reached=_newest(page))


async def estimate(mailbox: Mailbox, since: Since) -> Estimate:
    """By listing all that is to be read."""
    names = await mailbox.label_names()
    labels = sorted({label for name in mailbox.wanted if (label := resolved(name, names))})
    found: set[str] = set()
    listings = 0
    for label in labels:
        async for ids in _older(mailbox, since, label):
            listings += 1
            found.update(ids)
    listings *= 2  # it is listed until nothing new is there
    reads = len(found)
    units = listings * mailbox.price("threads.list") + reads * mailbox.price("threads.get")
    names_of = "label" if len(labels) == 1 else "labels"
    return Estimate(listings + reads, {"units": units}, f"about {reads:,} threads in {len(labels)} {names_of}")


async def _older(mailbox: Mailbox, since: Since, label: str) -> AsyncIterator[list[str]]:
    """A label's threads with mail since ``back_to`` that are not stored, page by page, the newest first."""
    after = {} if since.back_to is None else {"q": f"after:{int(since.back_to.timestamp())}"}
    async for rows in mailbox.listed("threads.list", **in_label(label, **after)):
        ids = [one["id"] for one in rows]
        stored = await since.held.stored(Conversation, ids)
        yield [one for one in ids if one not in stored]


def _newest(page: Page) -> datetime | None:
    """When the last mail of a thread was sent."""
    times = [one.sent_at for one in page.records if isinstance(one, Message) and one.sent_at is not None]
    return max(times, default=None)
