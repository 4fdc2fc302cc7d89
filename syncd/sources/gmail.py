"""Gmail: the mail threads of selected labels, kept up to date by the mailbox's history.

API: https://developers.google.com/workspace/gmail/api/reference/rest, asked as ``me``. Its quirks:

- The first read pins the mailbox's history id before it lists anything, so that what arrives meanwhile is in the
  history that is read after it. A history id that is too old answers 404: a new baseline, a new first read.
- Some history records name messages only and do not say what changed, so the thread is read.
- Empty lists are left out, 64-bit integers are strings; a 404 may be a proxy's, so only Gmail's own words count.
- 403 is also a rate limit; when to come back stands in the sentence, and hardly ever in ``Retry-After``.
- aiogoogle builds the requests; sending and refreshing is ours: it has no timeout, and no lock for a refresh.
- What a mail looks like is in `gmail_mail`, what a refusal means in `gmail_refusals`.
"""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, timedelta
from functools import lru_cache, reduce
from typing import TYPE_CHECKING, Any

from aiogoogle.resource import GoogleAPI
from google.auth import crypt, jwt

from syncd.errors import CursorExpired, Misconfigured, Rejected, Transient
from syncd.records import Conversation, Deletion, Message
from syncd.source import Page, Pending, Report, Setting, Since, Source, Stream
from syncd.sources.gmail_mail import conversation, listed, long_texts, message, number, obj, objs, text
from syncd.sources.gmail_refusals import SCOPE, refusal, refused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from datetime import datetime

    from syncd.http import Link

_AUDIENCE = "https://oauth2.googleapis.com/token"  # of a signed assertion, wherever it is sent

_CALLS = {  # method → path under users/{userId}, query parameters
    "getProfile": ("profile",),
    "labels.list": ("labels",),
    "threads.list": ("threads", "labelIds", "maxResults", "pageToken", "includeSpamTrash"),
    "threads.get": ("threads/{id}", "format"),
    "messages.attachments.get": ("messages/{messageId}/attachments/{id}",),
    "history.list": ("history", "startHistoryId", "maxResults", "pageToken"),
}
_DOWN = 3  # threads in a row that fail in passing: then it is not the threads
_UNASKED = "not known to be selected: "  # begins the reason of a waiting thread that is kept only for its labels


class Mailbox:
    """One mailbox for one run. ``wanted``: the selected labels as written; ``labels``: their ids, once resolved."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._users = _gmail(str(link.options["base_url"]).rstrip("/")).users
        self.wanted: list[str] = list(dict.fromkeys(link.settings.get("labels") or ["INBOX"]))
        self.labels: set[str] = set()
        self.faults = 0  # threads in a row that could not be read in passing

    async def ask(self, method: str, **arguments: object) -> dict[str, Any] | None:
        """One call; None when Gmail itself says that there is no such thing."""
        request = reduce(getattr, method.split("."), self._users)(userId="me", **arguments)

        async def attempt() -> dict[str, Any] | None:
            headers = {
                "Authorization": f"Bearer {await self._link.access_token()}",
                "Accept-Encoding": "gzip",
                "User-Agent": "syncd (gzip)",  # contract: compressed only with the word in both headers
            }
            answer = await self._link.net.ask_aiohttp(request.method, request.url, headers=headers)
            if answer.status == 200:
                return answer.json()
            reasons, said = refused(answer)
            if answer.status == 404 and {"notFound", "NOT_FOUND"} & set(reasons):
                return None
            raise refusal(answer, reasons, said, self._link.now())

        return await self._link.call(method, attempt, draws={"units": self._link.options["prices"][method]})

    async def need(self, method: str, **arguments: object) -> dict[str, Any]:
        """One call for what every mailbox has: a 404 there is a fault, and never taken for an empty mailbox."""
        answer = await self.ask(method, **arguments)
        if answer is None:
            raise Transient(f"{method}: Gmail says that there is no such thing")
        return answer

    async def label_names(self) -> dict[str, str]:
        """Label id → name, of all in the mailbox."""
        answer = await self.need("labels.list")
        return {text(one.get("id")): text(one.get("name")) for one in objs(answer.get("labels")) if text(one.get("id"))}

    async def newest(self, label: str) -> list[str]:
        """The ids of a label's newest threads, as many as a first read takes. Spam and trash are listed on request."""
        wanted = int(self._link.options["threads_per_label"])
        query: dict[str, object] = {"labelIds": [label], "maxResults": min(wanted, 500)}
        query["includeSpamTrash"] = "true" if label in {"SPAM", "TRASH"} else "false"
        found: list[str] = []
        while True:
            answer = await self.need("threads.list", **query)
            found += [text(one.get("id")) for one in objs(answer.get("threads")) if text(one.get("id"))]
            query["pageToken"] = text(answer.get("nextPageToken"))
            if not query["pageToken"] or len(found) >= wanted:
                return list(dict.fromkeys(found))[:wanted]

    async def thread(self, thread_id: str) -> tuple[Conversation, list[Message]] | None:
        """A whole thread, trashed messages included; None when it is gone."""
        raw = await self.ask("threads.get", id=thread_id, format="full")
        if raw is None:
            return None
        messages = []
        for one in [one for one in objs(raw.get("messages")) if text(one.get("id"))]:
            handles = long_texts(one).items()
            texts = {part_id: await self._long_text(one["id"], handle) for part_id, handle in handles}
            messages.append(message(one, thread_id, texts))
        if not messages:
            raise Rejected("the thread came without messages")
        return conversation(raw, thread_id), messages

    async def _long_text(self, message_id: str, handle: str) -> str:
        """The data of a text part; without it the snippet would be stored as the mail's text for good."""
        body = obj(await self.ask("messages.attachments.get", messageId=message_id, id=handle))
        data = text(body.get("data"))
        if not data and body.get("size") != 0:
            raise Rejected("a text part is not readable now")
        return data

    async def refresh(self) -> dict[str, Any]:
        """A new access token: ``{"access_token", "expires_at"}``, and the refresh token where Google changes it."""
        link = self._link
        if "service_account" in link.credentials:
            form = _assertion(link.credentials, link.now())
        else:
            form = {key: str(link.credentials[key]) for key in ("refresh_token", "client_id", "client_secret")}
            form["grant_type"] = "refresh_token"

        async def attempt() -> dict[str, Any]:
            answer = await link.net.ask_aiohttp("POST", str(link.options["token_url"]), data=form)
            if answer.status != 200:
                raise refusal(answer, *refused(answer), link.now())
            granted = answer.json()
            if not text(granted.get("access_token")):
                raise Transient("the token endpoint sent no access_token")
            expires_at = link.now() + timedelta(seconds=number(granted.get("expires_in")) or 3600)
            kept = {key: granted[key] for key in ("access_token", "refresh_token") if text(granted.get(key))}
            return kept | {"expires_at": expires_at.astimezone(UTC).isoformat().replace("+00:00", "Z")}

        return await link.call("token", attempt, draws={}, renews=False)


@asynccontextmanager
async def _connect(link: Link) -> AsyncIterator[Mailbox]:
    mailbox = Mailbox(link)
    link.refresh = mailbox.refresh
    yield mailbox


@lru_cache(maxsize=8)
def _gmail(base_url: str) -> Any:
    """A request builder of aiogoogle, from a discovery document of the calls that are made here."""
    document: dict[str, Any] = {"rootUrl": f"{base_url}/", "servicePath": "", "batchPath": "batch"}
    for method, (path, *query) in _CALLS.items():
        *resources, name = method.split(".")
        at = document
        for resource in ["users", *resources]:
            at = at.setdefault("resources", {}).setdefault(resource, {})
        order = ["userId", *re.findall(r"{(\w+)}", path)]
        at.setdefault("methods", {})[name] = {
            "httpMethod": "GET",
            "path": f"gmail/v1/users/{{userId}}/{path}",
            "parameterOrder": order,
            "parameters": {one: {"location": "path", "required": True, "type": "string"} for one in order}
            | {one: {"location": "query", "repeated": one == "labelIds"} for one in query},
        }
    return GoogleAPI(document, validate=False)  # type: ignore[no-untyped-call]


def _assertion(credentials: Mapping[str, Any], now: datetime) -> dict[str, str]:
    """The form that asks for a token in the name of ``subject``, signed with the service account's key."""
    info, at = obj(credentials["service_account"]), int(now.timestamp())
    if missing := [key for key in ("client_email", "private_key") if not text(info.get(key))]:
        raise Misconfigured(f"service_account lacks {' and '.join(missing)}", hint="give the whole key file's JSON")
    claims = {"iss": info["client_email"], "sub": str(credentials.get("subject")), "scope": SCOPE, "aud": _AUDIENCE}
    try:
        signer = crypt.RSASigner.from_service_account_info(info)  # type: ignore[no-untyped-call]
        signed = jwt.encode(signer, claims | {"iat": at, "exp": at + 3600})  # type: ignore[no-untyped-call]
    except ValueError:  # it may quote the key
        raise Misconfigured("service_account holds no usable private_key", hint="make a new key file") from None
    return {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": signed.decode()}


async def _labels(mailbox: Mailbox, since: Since) -> AsyncIterator[Page]:
    """Which labels are selected: partition = as written in the settings, cursor = the label's id."""
    known = {} if since.sweep else {name: since.cursors[name] for name in mailbox.wanted if name in since.cursors}
    gone = [one for one in [*since.cursors, *(item.external_id for item in since.backlog)] if one not in mailbox.wanted]
    if gone:
        yield Page(forget=gone, resolved=gone)
    if missing := [name for name in mailbox.wanted if name not in known]:
        names = await mailbox.label_names()
        for name in missing:
            if label := _resolved(name, names):
                known[name] = label
                yield Page(partition=name, cursor=label, resolved=[name])
            else:
                yield Page(forget=[name], pending=[Pending(name, "no such label in this mailbox")])
    mailbox.labels = set(known.values())


def _resolved(wanted: str, names: Mapping[str, str]) -> str | None:
    """The id of a label selected by id or by name; case does not count."""
    same = wanted.casefold()
    return next((label for label, name in names.items() if same in {label.casefold(), name.casefold()}), None)


async def _threads(mailbox: Mailbox, since: Since) -> AsyncIterator[Page]:
    """Cursors: "" = history id, ``label:<id>`` = "read" once that label's newest threads were read."""
    partitions = {label: f"label:{label}" for label in sorted(mailbox.labels)}
    known = {*since.cursors, *(item.external_id for item in since.backlog)}
    if gone := [one for one in known if one.startswith("label:") and one not in partitions.values()]:
        yield Page(forget=gone, resolved=gone)
    if not (start := since.cursors.get("", "")):
        start = str(number((await mailbox.need("getProfile")).get("historyId")))
        if start == "0":
            raise Transient("the mailbox's profile came without a history id")
        yield Page(cursor=start)
    waiting = {item.external_id: item for item in since.backlog if not item.external_id.startswith("label:")}
    for thread, item in sorted(waiting.items()):
        page = await _read(mailbox, thread, _Change(), keep=not item.reason.startswith(_UNASKED))
        yield page or Page(resolved=[thread])
    seen = set(waiting)
    for label in [label for label, partition in partitions.items() if partition not in since.cursors]:
        try:
            new = [thread for thread in await mailbox.newest(label) if thread not in seen]
        except Rejected as error:  # it is no label any more
            yield Page(pending=[Pending(partitions[label], error.message)])
            continue
        for thread in new:
            if page := await _read(mailbox, thread, _Change(), keep=True):
                yield page
        yield Page(partition=partitions[label], cursor="read", resolved=[partitions[label]])
        seen.update(new)
    async for page in _changes(mailbox, since, start):
        yield page


@dataclass(slots=True)
class _Change:
    """What a page of history says of one thread. ``messages``: id → the last record that names it."""

    messages: dict[str, int] = field(default_factory=dict)
    added: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    labels: set[str] = field(default_factory=set)
    unsaid: bool = False  # some record does not show its message's labels


async def _changes(mailbox: Mailbox, since: Since, start: str) -> AsyncIterator[Page]:
    """Every thread of ours that changed since ``start``; the new history id comes after all of them.

    A message stored with a history id not below the record's holds that change already: a run that was cut goes on
    where it was, and what the first read has seen is not read again.
    """
    token, latest = None, start
    while True:
        answer = await mailbox.ask("history.list", startHistoryId=start, maxResults=100, pageToken=token)
        if answer is None:
            raise CursorExpired(f"the mailbox's history after {start} is gone")
        changes = _by_thread(answer)
        named = sorted({one for change in changes.values() for one in change.messages})
        held = await since.held.stored(Message, named, "historyId") if named else {}
        ours = await since.held.stored(Conversation, sorted(changes)) if named else {}
        for thread, change in changes.items():
            if all(one in held and number(held[one][0]) >= at for one, at in change.messages.items()):
                continue
            keep = thread in ours or bool(change.labels & mailbox.labels) or bool(held.keys() & change.messages.keys())
            if (keep or change.unsaid) and (page := await _read(mailbox, thread, change, keep=keep)):
                yield page
        latest = text(answer.get("historyId")) or latest
        token = text(answer.get("nextPageToken")) or None
        if token is None:
            break
    if latest != start:
        yield Page(cursor=latest)


def _by_thread(answer: Mapping[str, Any]) -> dict[str, _Change]:
    """A page of history, by thread, in the order of the records."""
    changes: dict[str, _Change] = {}
    for record in objs(answer.get("history")):
        typed: set[str] = set()
        for kind in ("messagesAdded", "messagesDeleted", "labelsAdded", "labelsRemoved", "messages"):
            for entry in objs(record.get(kind)):
                one = entry if kind == "messages" else obj(entry.get("message"))
                message_id, thread = text(one.get("id")), text(one.get("threadId"))
                if not message_id or not thread or (kind == "messages" and message_id in typed):
                    continue
                typed.add(message_id)
                change = changes.setdefault(thread, _Change())
                change.messages[message_id] = number(record.get("id"))
                change.labels |= {label for label in listed(one.get("labelIds")) if isinstance(label, str)}
                if kind == "messagesDeleted":
                    change.deleted.add(message_id)
                    continue
                change.unsaid |= "labelIds" not in one
                if kind == "messagesAdded":
                    change.added.add(message_id)
    return changes


async def _read(mailbox: Mailbox, thread_id: str, change: _Change, *, keep: bool) -> Page | None:
    """One thread as it is now. ``keep`` False: only if one of its messages carries a selected label."""
    try:
        thread = await mailbox.thread(thread_id)
        mailbox.faults = 0
    except (Rejected, Transient) as error:
        mailbox.faults = mailbox.faults + 1 if isinstance(error, Transient) else 0
        if mailbox.faults >= _DOWN:
            raise
        return _waits(thread_id, change, error.message, keep=keep)
    if thread is None and change.added - change.deleted:  # contract: a new mail may be 404 for some seconds
        return _waits(thread_id, change, "announced, but not there yet", keep=keep)
    if thread is None:
        gone = [Deletion(Message, one) for one in sorted(change.messages)]
        return Page(deletions=[*gone, Deletion(Conversation, thread_id)], resolved=[thread_id])
    found, messages = thread
    if not keep and all(mailbox.labels.isdisjoint(one.labels) for one in messages):
        return None
    vanished = sorted(change.deleted - {one.external_id for one in messages})
    deletions = [Deletion(Message, one) for one in vanished]
    return Page(records=[found, *messages], deletions=deletions, resolved=[thread_id])


def _waits(thread_id: str, change: _Change, reason: str, *, keep: bool) -> Page:
    """For the backlog. Its deletions are stored now: the cursor moves on, and the next try knows no history."""
    deletions = [Deletion(Message, one) for one in sorted(change.deleted)]
    return Page(pending=[Pending(thread_id, reason if keep else _UNASKED + reason)], deletions=deletions)


async def _check(mailbox: Mailbox) -> Report:
    """Who we are, which selected labels are there, and whether the body of a mail can be read."""
    profile, names = await mailbox.need("getProfile"), await mailbox.label_names()
    found = {name: label for name in mailbox.wanted if (label := _resolved(name, names))}
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
    connect=_connect,
    streams=(Stream("labels", _labels), Stream("threads", _threads)),
    counts=Message,
    total_name="total_ingested",
    credentials=(frozenset({"refresh_token", "client_id", "client_secret"}), frozenset({"service_account", "subject"})),
    settings={"labels": Setting(_are_labels, 'a list of label ids or names, such as ["INBOX", "Customers"]')},
    check=_check,
)
