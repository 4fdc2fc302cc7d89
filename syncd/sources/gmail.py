"""Gmail: the mail threads of selected labels, kept up to date by the mailbox's history.

API: https://developers.google.com/workspace/gmail/api/reference/rest, asked as ``me``. Its quirks:

- The first read takes the newest threads of each selected label (``threads_per_label``): that says where we begin, and
  nothing else. From then on every change comes, whatever its number; older mail comes by `syncd backfill`, and `syncd
  verify` tells how much there is.
- The first read pins the mailbox's history id before it lists anything, so that what arrives meanwhile is in the
  history that is read after it (`gmail_history`). A history id that is too old answers 404: then the mailbox is
  compared with the store (`gmail_reread`).
- A thread is ours once history names a message of it that bears a selected label, and stays ours when the label goes.
  It is always read and stored as a whole.
- Some history records name messages only and do not say what changed, so the thread is read.
- Empty lists are left out, 64-bit integers are strings; a 404 may be a proxy's, so only Gmail's own words count.
- 403 is also a rate limit; when to come back stands in the sentence, and hardly ever in ``Retry-After``.
- aiogoogle builds the requests; sending and refreshing is ours: it has no timeout, and no lock for a refresh
  (`gmail_api`). What a mail looks like is in `gmail_mail`, what a refusal means in `gmail_refusals`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from syncd.errors import Misconfigured, Rejected
from syncd.records import Message
from syncd.source import Report, Setting, Source, Stream
from syncd.sources.gmail_account import CHOICE, OAUTH, owner, regime
from syncd.sources.gmail_api import connect
from syncd.sources.gmail_audit import audit
from syncd.sources.gmail_backfill import backfill, estimate
from syncd.sources.gmail_history import threads
from syncd.sources.gmail_labels import labels, resolved
from syncd.sources.gmail_mail import number, text

if TYPE_CHECKING:
    from syncd.sources.gmail_api import Mailbox


async def _check(mailbox: Mailbox) -> Report:
    """Who we are, which selected labels are there, and whether the body of a mail can be read."""
    profile, names = await mailbox.need("getProfile"), await mailbox.label_names()
    found = {name: label for name in mailbox.wanted if (label := resolved(name, names))}
    facts = [f"{number(profile.get('messagesTotal'))} messages in {number(profile.get('threadsTotal'))} threads"]
    facts += [f"label {name} is {label}" for name, label in found.items()]
    way_out = f"correct the setting labels; there are: {', '.join(names.values())}"[:300]
    problems = [(f"no label {name!r} in this mailbox", way_out) for name in mailbox.wanted if name not in found]
    try:
        tried = next(iter([thread for label in found.values() for thread in await mailbox.newest(label)]), None)
        if tried:
            await mailbox.thread(tried)
        facts.append("the body of a mail was read" if tried else "no mail there to try reading a body")
    except (Misconfigured, Rejected) as error:
        problems.append((f"a mail cannot be read: {error.message}", error.hint or "see the message"))
    return Report(text(profile.get("emailAddress")) or "unknown mailbox", facts, problems)


def _are_labels(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) and one.strip() for one in value)


SOURCE = Source(
    name="gmail",
    connect=connect,
    streams=(Stream("labels", labels), Stream("threads", threads)),
    counts=Message,
    total_name="total_ingested",
    credentials=(frozenset({"refresh_token", "client_id", "client_secret"}), frozenset({"service_account", "subject"})),
    settings={"labels": Setting(_are_labels, 'a list of label ids or names, such as ["INBOX", "Customers"]')},
    check=_check,
    owner=owner,
    regime=regime,
    choice=CHOICE,
    oauth=OAUTH,
    backfill=(Stream("labels", labels), Stream("backfill", backfill)),
    estimate=estimate,
    audit=(Stream("labels", labels), Stream("threads", audit)),
)
