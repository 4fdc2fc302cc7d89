"""Gmail's threads: first the newest of each selected label, from then on all that the mailbox's history tells.

Belongs to `gmail`.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from syncd.errors import CursorExpired, Rejected, Transient
from syncd.listing import Walk
from syncd.records import Conversation, Message
from syncd.source import Page, Pending
from syncd.sources.gmail_api import rows_of
from syncd.sources.gmail_mail import listed, number, obj, text
from syncd.sources.gmail_reread import Reread, history_id, reread
from syncd.sources.gmail_threads import STREAM, Change, read, read_waiting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from syncd.source import Since
    from syncd.sources.gmail_api import Mailbox

LABEL = "label:"  # begins the partition of a label


async def threads(mailbox: Mailbox, since: Since) -> AsyncIterator[Page]:
    """Partitions: "" = the history id up to which all changes are stored, or how far a `Reread` is;
    ``label:<id>`` = the history id from which on all changes of that label's threads are read ("read": not known).
    """
    partitions = {label: LABEL + label for label in sorted(mailbox.labels)}
    known = {*since.cursors, *(item.external_id for item in since.backlog)}
    if gone := [one for one in known if one.startswith(LABEL) and one not in partitions.values()]:
        yield Page(forget=gone, resolved=gone)
    if not (cursor := since.cursors.get("", "")):
        cursor = history_id(await mailbox.need("getProfile"))
        yield Page(cursor=cursor)
    rereading = Reread.parse(cursor)
    start = rereading.to if rereading else cursor
    waiting = {item.external_id: item for item in since.backlog if not item.external_id.startswith(LABEL)}
    for _, item in sorted(waiting.items()):
        yield await read_waiting(mailbox, since.held, item)
    seen = set(waiting)
    for label in [label for label, partition in partitions.items() if partition not in since.cursors]:
        try:
            new = [thread for thread in await mailbox.newest(label) if thread not in seen]
        except Rejected as error:  # it is no label any more
            yield Page(pending=[Pending(partitions[label], error.message)])
            continue
        # from here on they are known: a run that is cut reads the rest as part of its backlog
        begun = [Pending(thread, "not read yet", STREAM, timedelta(0)) for thread in new]
        yield Page(partition=partitions[label], cursor=start, resolved=[partitions[label]], pending=begun)
        for thread in new:
            yield await read(mailbox, since.held, thread) or Page(resolved=[thread])
        seen.update(new)
    async for page in _followed(mailbox, since, start, rereading):
        yield page


async def _followed(mailbox: Mailbox, since: Since, start: str, rereading: Reread | None) -> AsyncIterator[Page]:
    """All changes after ``start``; where Gmail has forgotten them, the mailbox is compared with the store instead."""
    fresh = False
    while True:
        if rereading is not None:
            async for page in reread(mailbox, since.held, rereading):
                yield page
        try:
            async for page in _changes(mailbox, since, number(start)):
                yield page
        except CursorExpired:
            if fresh:
                raise Transient("history.list: Gmail does not know the history id that it has just given") from None
            fresh, rereading = True, await Reread.begin(mailbox, number(start))
            yield Page(cursor=rereading.cursor())
            start = rereading.to
        else:
            return


async def _changes(mailbox: Mailbox, since: Since, start: int) -> AsyncIterator[Page]:
    """Every thread of ours that changed since ``start``, in the order of its first record. The cursor moves on behind
    each thread, and at the end to the mailbox's own history id as it was at the beginning.

    A message stored with a history id not below the record's holds that change already.
    """
    query: dict[str, Any] = {"startHistoryId": str(start), "maxResults": 100}
    latest, covered, walk = start, start, Walk("history.list")
    while True:
        try:
            answer = await mailbox.ask("history.list", **query)
        except Rejected as error:
            if "pageToken" not in query:
                raise
            raise Transient(error.message) from None  # a stale page token: the next run goes on from the cursor
        if answer is None:
            raise CursorExpired(f"the mailbox's history after {start} is gone")
        if "pageToken" not in query:
            latest = max(latest, number(answer.get("historyId")))
        changes, stamps = by_thread(answer), [number(record["id"]) for record in rows_of(answer, "history")]
        last = max(stamps, default=0)
        following = [*(change.first - 1 for change in changes.values()), last][1:]
        named = sorted({one for change in changes.values() for one in change.messages})
        held = await since.held.stored(Message, named, "historyId") if named else {}
        ours = await since.held.stored(Conversation, sorted(changes)) if named else {}
        for (thread, change), upto in zip(changes.items(), following, strict=True):
            covered = max(covered, upto)
            if all(one in held and number(held[one][0]) >= at for one, at in change.messages.items()):
                continue
            keep = thread in ours or bool(change.labels & mailbox.labels) or bool(held.keys() & change.messages.keys())
            if not keep and not change.unsaid:
                continue
            only = None if keep else lambda one, of=change: one.external_id in of.unsaid and mailbox.carries(one)
            page = await read(mailbox, since.held, thread, change, only=only)
            yield replace(page or Page(), cursor=str(covered))
        query["pageToken"] = text(answer.get("nextPageToken"))
        walk.step(query["pageToken"], stamps, set(map(str, stamps)))
        if not query["pageToken"]:
            break
    if max(latest, covered) > start:
        yield Page(cursor=str(max(latest, covered)))


def by_thread(answer: Mapping[str, Any]) -> dict[str, Change]:
    """A page of history, by thread, in the order of the records.

    Raises `Transient` where a record cannot be read: passed over, what it tells would be missed for good.
    """
    changes: dict[str, Change] = {}
    for record in rows_of(answer, "history"):
        typed: set[str] = set()
        if not number(obj(record).get("id")):
            raise Transient("history.list: a record without an id")
        for kind in ("messagesAdded", "messagesDeleted", "labelsAdded", "labelsRemoved", "messages"):
            for entry in rows_of(record, kind):
                one = obj(entry) if kind == "messages" else obj(obj(entry).get("message"))
                message_id, thread = text(one.get("id")), text(one.get("threadId"))
                if not message_id or not thread:
                    raise Transient("history.list: a record that does not say of which message it is")
                if kind == "messages" and message_id in typed:
                    continue
                typed.add(message_id)
                change = changes.setdefault(thread, Change(first=number(record.get("id"))))
                change.messages[message_id] = number(record.get("id"))
                change.labels |= {label for label in listed(one.get("labelIds")) if isinstance(label, str)}
                if kind == "messagesDeleted":
                    change.deleted.add(message_id)
                    continue
                if "labelIds" not in one:
                    change.unsaid.add(message_id)
                if kind == "messagesAdded":
                    change.added.add(message_id)
    return changes
