"""One Gmail thread as it is now, as a page: what is there, what is gone, what has to wait. Belongs to `gmail`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from syncd.errors import Rejected, Transient
from syncd.records import Conversation, Deletion, Message
from syncd.source import Page, Pending

if TYPE_CHECKING:
    from collections.abc import Callable

    from syncd.source import Held, Waiting
    from syncd.sources.gmail_api import Mailbox

STREAM = "threads"  # whose backlog waiting threads are in, whoever met them
_DOWN = 3  # threads in a row that fail in passing: then it is not the threads
_UNASKED = "not known to be selected: "  # begins the reason of a waiting thread that is kept only for its labels
_NOT_YET = "announced, but not there yet"  # contract: a new mail may be missing for some seconds


@dataclass(slots=True)
class Change:
    """What history says of one thread. ``first``: the first record; ``messages``: id → the last record that names it.

    ``labels``: those that its messages bear after the change; ``unsaid``: messages of which no labels are told.
    """

    first: int = 0
    messages: dict[str, int] = field(default_factory=dict)
    added: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    labels: set[str] = field(default_factory=set)
    unsaid: set[str] = field(default_factory=set)


async def read(
    mailbox: Mailbox,
    held: Held,
    thread_id: str,
    change: Change | None = None,
    *,
    only: Callable[[Message], bool] | None = None,
) -> Page | None:
    """One thread as it is now. ``only``: None is answered unless one of its messages is of that kind.

    Raises what the api object raises when several threads in a row could not be read.
    """
    change = change or Change()
    try:
        thread = await mailbox.thread(thread_id)
        mailbox.faults = 0
    except (Rejected, Transient) as error:
        mailbox.faults = mailbox.faults + 1 if isinstance(error, Transient) else 0
        if mailbox.faults >= _DOWN:
            raise
        return _waits(thread_id, change, error.message, keep=only is None)
    new = change.added - change.deleted
    if thread is None and new:
        return _waits(thread_id, change, _NOT_YET, keep=only is None)
    stored = {*await held.select(Message, conversation_id=thread_id), *change.deleted}
    if thread is None:
        gone = [Deletion(Message, one) for one in sorted({*stored, *change.messages})]
        return Page(deletions=[*gone, Deletion(Conversation, thread_id)], resolved=[thread_id])
    found, messages = thread
    if only is not None and not any(map(only, messages)):
        return None
    there = {one.external_id for one in messages}
    late = [Pending(thread_id, _NOT_YET, STREAM)] if new - there else []
    return Page(
        records=[found, *messages],
        deletions=[Deletion(Message, one) for one in sorted(stored - there)],
        pending=late,
        resolved=[] if late else [thread_id],
    )


async def read_waiting(mailbox: Mailbox, held: Held, item: Waiting) -> Page:
    """A thread of the backlog, once more."""
    only = mailbox.carries if item.reason.startswith(_UNASKED) else None
    return await read(mailbox, held, item.external_id, only=only) or Page(resolved=[item.external_id])


def _waits(thread_id: str, change: Change, reason: str, *, keep: bool) -> Page:
    """For the backlog. Its deletions are stored now: the cursor moves on, and the next try knows no history."""
    deletions = [Deletion(Message, one) for one in sorted(change.deleted)]
    return Page(pending=[Pending(thread_id, reason if keep else _UNASKED + reason, STREAM)], deletions=deletions)
