"""What the store should hold of a mailbox, for `syncd verify`. Belongs to `gmail`."""

from __future__ import annotations

import random
from collections import Counter
from itertools import chain
from typing import TYPE_CHECKING

from syncd.listing import Walk
from syncd.records import Conversation, Deletion, Message
from syncd.source import Page
from syncd.sources.gmail_api import rows_of
from syncd.sources.gmail_history import LABEL, by_thread
from syncd.sources.gmail_mail import listed, number, text
from syncd.sources.gmail_reread import Reread, news
from syncd.sources.gmail_threads import read
from syncd.sources.gmail_unlisted import Unlisted, complete

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from syncd.source import Since
    from syncd.sources.gmail_api import Mailbox


async def audit(mailbox: Mailbox, since: Since) -> AsyncIterator[Page]:
    """Three comparisons: threads that history should have brought, a sample of the stored ones, and what is gone.

    It has the name, and so the cursors, of the regular stream: what changed after its history id does not count, since
    no run could have read it.
    """
    if not (cursor := since.cursors.get("", "")):
        yield Page(notes=["the mailbox was not read yet"])
        return
    rereading = Reread.parse(cursor)
    upto = rereading.start if rereading else number(cursor)
    if rereading:
        yield Page(notes=["its history has expired and the mailbox is read again: what changed since does not count"])
    yield Page(notes=await _counts(mailbox, since))
    for label in sorted(mailbox.labels):
        async for page in _missing(mailbox, since, label, upto):
            yield page
    for thread in await _sample(since):
        found = await read(mailbox, since.held, thread)
        if found and not _later(found, upto):  # what of it is gone is seen below
            yield Page(records=found.records, pending=found.pending)
    async for page in _extra(mailbox, since, upto):
        yield page


async def _counts(mailbox: Mailbox, since: Since) -> list[str]:
    """Of each selected label, how many messages are there and how many are stored."""
    stored: Counter[str] = Counter()
    async for batch in since.held.ids(Message):
        rows = await since.held.stored(Message, batch, "labelIds")
        stored.update(one for (labels,) in rows.values() for one in listed(labels) if isinstance(one, str))
    notes = []
    for label in sorted(mailbox.labels):
        answer = await mailbox.ask("labels.get", id=label)
        if answer is None:
            notes.append(f"{label}: there is no such label any more")
            continue
        there = number(answer.get("messagesTotal"))
        more = "; older mail comes by backfill" if stored[label] < there else ""
        notes.append(f"{text(answer.get('name')) or label}: {there:,} messages there, {stored[label]:,} stored{more}")
    return notes


async def _missing(mailbox: Mailbox, since: Since, label: str, upto: int) -> AsyncIterator[Page]:
    """The label's threads that changed after it was first read, up to ``upto``, and are not stored."""
    first = since.cursors.get(LABEL + label)
    if first is None or not number(first):
        yield Page(
            notes=[f"{label}: " + ("not read yet" if first is None else "it is not known since when it is read")]
        )
        return
    tried, left = set[str](), 0
    async for rows in mailbox.listed("threads.list", labelIds=[label], includeSpamTrash="true"):
        changed = [one["id"] for one in rows if number(first) < number(one.get("historyId")) <= upto]
        stored = await since.held.stored(Conversation, changed) if changed else {}
        for thread in [one for one in changed if one not in stored and one not in tried]:
            if since.sample is not None and len(tried) >= since.sample:
                left += 1
                continue
            tried.add(thread)
            found = await read(mailbox, since.held, thread, only=news(mailbox, number(first)))
            if found and not _later(found, upto):
                yield Page(records=found.records, pending=found.pending)
    if left:
        yield Page(notes=[f"{label}: {left:,} more threads changed and are not stored; they were not looked into"])


async def _sample(since: Since) -> list[str]:
    """Ids of stored threads, each as likely as the others."""
    chance, chosen, count = random.Random(since.now.isoformat()), list[str](), 0
    async for batch in since.held.ids(Conversation):
        for one in batch:
            count += 1
            if since.sample is None or len(chosen) < since.sample:
                chosen.append(one)
            elif (at := chance.randrange(count)) < since.sample:
                chosen[at] = one
    return chosen


def _later(page: Page, upto: int) -> bool:
    """Whether the thread has changed after ``upto``."""
    return any(number(one.raw.get("historyId")) > upto for one in page.records if isinstance(one, Conversation))


async def _extra(mailbox: Mailbox, since: Since, upto: int) -> AsyncIterator[Page]:
    """What is stored and gone: not in the listing of all messages, and not there when it is asked for by itself."""
    messages, threads = await Unlisted.of(since.held, Message), await Unlisted.of(since.held, Conversation)
    async for rows in mailbox.listed("messages.list", includeSpamTrash="true"):
        messages.show(one["id"] for one in rows)
        threads.show(text(one.get("threadId")) for one in rows)
    complete(messages, await mailbox.need("getProfile"), "messages.list")
    gone, tried, left = list[Deletion](), 0, 0
    for kind, unlisted in ((Message, messages), (Conversation, threads)):
        async for one in unlisted.ids():
            for external_id in one:
                if since.sample is not None and tried >= since.sample:
                    left += 1
                    continue
                tried += 1
                if not await mailbox.has(kind, external_id):
                    gone.append(Deletion(kind, external_id))
    if gone:
        lately = await _deleted_since(mailbox, upto)
        yield Page(deletions=[one for one in gone if one.external_id not in lately])
    if left:
        yield Page(notes=[f"{left:,} more stored messages and threads are not listed; they were not asked for"])


async def _deleted_since(mailbox: Mailbox, upto: int) -> set[str]:
    """Ids of messages that were deleted after ``upto``, and of their threads; none where history has expired."""
    found, walk = set[str](), Walk("history.list")
    query: dict[str, object] = {"startHistoryId": str(upto), "maxResults": 500}
    while (answer := await mailbox.ask("history.list", **query)) is not None:
        changes = by_thread(answer).items()
        found.update(chain.from_iterable((thread, *change.deleted) for thread, change in changes if change.deleted))
        records, token = rows_of(answer, "history"), text(answer.get("nextPageToken"))
        walk.step(token, records, {record["id"] for record in records})
        if not token:
            break
        query["pageToken"] = token
    return found
