"""Gmail's selected labels: which they are, and what becomes of one that is renamed or deleted. Belongs to `gmail`."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from syncd.source import Page, Pending

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from syncd.source import Since
    from syncd.sources.gmail_api import Mailbox

_LISTED_EVERY = timedelta(hours=1)  # history tells no word of a label itself
_LISTED_AT = ""  # the partition that says when labels were listed last; no label is named so


async def labels(mailbox: Mailbox, since: Since) -> AsyncIterator[Page]:
    """Which labels are selected. Partition = a label as written in the settings; cursor = its id, with its name behind
    where that is another by now, or nothing while there is no such label: then it waits in the backlog.
    """
    known = {name: since.cursors[name] for name in mailbox.wanted if name in since.cursors}
    due = {item.external_id for item in since.backlog}
    listed_at = since.cursors.get(_LISTED_AT)
    if gone := [name for name in {*since.cursors, *due} if name not in {_LISTED_AT, *mailbox.wanted}]:
        yield Page(forget=gone, resolved=gone)
    stale = listed_at is None or since.now - datetime.fromisoformat(listed_at) >= _LISTED_EVERY
    if stale or since.sweep or due & set(mailbox.wanted) or len(known) < len(mailbox.wanted):
        names = await mailbox.label_names()
        for name in mailbox.wanted:
            before, known[name] = known.get(name), _found(name, known.get(name), names)
            if known[name] != before or name in due or (since.sweep and not known[name]):
                yield _told(name, before, known[name])
        yield Page(partition=_LISTED_AT, cursor=since.now.isoformat())
    mailbox.labels = {cursor.partition(" ")[0] for cursor in known.values() if cursor}


def _found(wanted: str, before: str | None, names: Mapping[str, str]) -> str:
    """The new cursor of a label. Its id outlives a rename (contract), so a known one goes before any name."""
    known = before.partition(" ")[0] if before else ""
    label = known if known in names else resolved(wanted, names)
    if not label:
        return ""
    same = wanted.casefold() in {label.casefold(), names[label].casefold()}
    return label if same else f"{label} {names[label]}"


def _told(name: str, before: str | None, now: str) -> Page:
    """What changed with a selected label; a person hears of it once."""
    label, _, other = now.partition(" ")
    if not label:
        notes = [] if before == "" else [f"there is no label {name!r} in this mailbox; what is stored stays"]
        return Page(partition=name, cursor="", pending=[Pending(name, "no such label in this mailbox")], notes=notes)
    notes = [f"the label {name!r} is called {other!r} now; it is read on"] if other else []
    notes += [f"the label {name!r} is there again"] if before == "" else []
    return Page(partition=name, cursor=now, resolved=[name], notes=notes)


def resolved(wanted: str, names: Mapping[str, str]) -> str | None:
    """The id of a label selected by id or by name; case does not count. ``names``: id → name."""
    same = wanted.casefold()
    return next((label for label, name in names.items() if same in {label.casefold(), name.casefold()}), None)
