"""Gmail's calls: a mailbox for one run, how it is asked, how its sign-in is renewed. Belongs to `gmail`."""

from __future__ import annotations

import re
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, timedelta
from functools import lru_cache, reduce
from typing import TYPE_CHECKING, Any

from aiogoogle.resource import GoogleAPI
from google.auth import crypt, jwt

from syncd.errors import Misconfigured, Rejected, Transient
from syncd.listing import Walk
from syncd.records import Message
from syncd.sources.gmail_mail import conversation, is_sound, long_texts, message, number, obj, objs, text
from syncd.sources.gmail_refusals import SCOPE, refusal, refused

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping
    from datetime import datetime

    from syncd.http import Link
    from syncd.records import Conversation, Kind

_AUDIENCE = "https://oauth2.googleapis.com/token"  # of a signed assertion, wherever it is sent

_CALLS = {  # method → path under users/{userId}, query parameters
    "getProfile": ("profile",),
    "labels.list": ("labels",),
    "labels.get": ("labels/{id}",),
    "threads.list": ("threads", "labelIds", "q", "maxResults", "pageToken", "includeSpamTrash"),
    "threads.get": ("threads/{id}", "format"),
    "messages.list": ("messages", "maxResults", "pageToken", "includeSpamTrash"),
    "messages.get": ("messages/{id}", "format"),
    "messages.attachments.get": ("messages/{messageId}/attachments/{id}",),
    "history.list": ("history", "startHistoryId", "maxResults", "pageToken"),
}
PER_PAGE = 500  # the most that a listing gives at once


class Mailbox:
    """One mailbox for one run. ``wanted``: the selected labels as written; ``labels``: their ids, once resolved."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._users = _gmail(str(link.options["base_url"]).rstrip("/")).users
        self.wanted: list[str] = list(dict.fromkeys(link.settings.get("labels") or ["INBOX"]))
        self.labels: set[str] = set()
        self.faults = 0  # threads in a row that could not be read in passing

    def carries(self, message: Message) -> bool:
        """Whether a message bears a selected label."""
        return not self.labels.isdisjoint(message.labels)

    def price(self, method: str) -> int:
        """Quota units of a call."""
        return int(self._link.options["prices"][method])

    async def ask(self, method: str, **arguments: object) -> dict[str, Any] | None:
        """One call; None when Gmail itself says that there is no such thing."""
        request = reduce(getattr, method.split("."), self._users)(userId="me", **arguments)

        async def attempt() -> dict[str, Any] | None:
            headers = {
                "Authorization": f"Bearer {await self._link.access_token()}",
                "Accept-Encoding": "gzip",
                "User-Agent": "syncd (gzip)",  # contract: compressed only with the word in both headers
            }
            answer = await self._link.net.ask(request.method, request.url, headers=headers)
            if answer.status == 200:
                return answer.json()
            reasons, said = refused(answer)
            if answer.status == 404 and {"notFound", "NOT_FOUND"} & set(reasons):
                return None
            raise refusal(answer, reasons, said, self._link.now())

        return await self._link.call(method, attempt, draws={"units": self.price(method)})

    async def need(self, method: str, **arguments: object) -> dict[str, Any]:
        """One call for what every mailbox has: a 404 there is a fault, and never taken for an empty mailbox."""
        answer = await self.ask(method, **arguments)
        if answer is None:
            raise Transient(f"{method}: Gmail says that there is no such thing")
        return answer

    async def label_names(self) -> dict[str, str]:
        """Label id → name, of all in the mailbox. Every mailbox has some: none would look as if all were deleted."""
        rows = objs((await self.need("labels.list")).get("labels"))
        if names := {text(one.get("id")): text(one.get("name")) for one in rows if text(one.get("id"))}:
            return names
        raise Transient("labels.list came without a label")

    async def listed(self, method: str, **query: object) -> AsyncGenerator[list[dict[str, Any]], None]:
        """The pages of ``threads.list`` or ``messages.list`` to the end; each row has an id. Newest first, but what
        comes or goes meanwhile shifts the rest: a row may be given twice, or not at all. After a stale page token it
        starts again, once.
        """
        query, member, walk = {"maxResults": PER_PAGE, **query}, method.removesuffix(".list"), Walk(method)
        restarted = False
        while True:
            try:
                answer = await self.need(method, **query)
            except Rejected as error:
                if "pageToken" not in query:
                    raise
                if restarted:
                    raise Transient(f"{error.message} after a fresh start") from None
                restarted, walk = True, Walk(method)
                del query["pageToken"]
                continue
            token, given = text(answer.get("nextPageToken")), rows_of(answer, member)
            rows = [one for one in objs(given) if text(one.get("id"))]
            walk.step(token, given, {one["id"] for one in rows})
            yield rows
            if not token:
                return
            query["pageToken"] = token

    async def newest(self, label: str) -> list[str]:
        """The ids of a label's newest threads, as many as a first read takes."""
        wanted, found = int(self._link.options["threads_per_label"]), dict[str, None]()
        async with aclosing(self.listed("threads.list", **in_label(label, maxResults=min(wanted, PER_PAGE)))) as pages:
            async for rows in pages:
                found |= dict.fromkeys(one["id"] for one in rows)
                if len(found) >= wanted:
                    break
        return list(found)[:wanted]

    async def has(self, kind: Kind, external_id: str) -> bool:
        """Whether a message or a thread is there; only Gmail's own word says that it is not."""
        method = "messages.get" if kind is Message else "threads.get"
        try:
            return await self.ask(method, id=external_id, format="minimal") is not None
        except Rejected:
            return True

    async def thread(self, thread_id: str) -> tuple[Conversation, list[Message]] | None:
        """A whole thread, trashed messages included; None when it is gone."""
        raw = await self.ask("threads.get", id=thread_id, format="full")
        if raw is None:
            return None
        messages = []
        given = rows_of(raw, "messages")
        if not all(map(is_sound, given)):  # stored, the thread would stay so until something happens in it
            raise Transient("threads.get: a message without an id, or with parts of another form")
        for one in given:
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
            answer = await link.net.ask("POST", str(link.options["token_url"]), data=form)
            if answer.status != 200:
                raise refusal(answer, *refused(answer), link.now())
            granted = answer.json()
            if not text(granted.get("access_token")):
                raise Transient("the token endpoint sent no access_token")
            expires_at = link.now() + timedelta(seconds=number(granted.get("expires_in")) or 3600)
            kept = {key: granted[key] for key in ("access_token", "refresh_token") if text(granted.get(key))}
            return kept | {"expires_at": expires_at.astimezone(UTC).isoformat().replace("+00:00", "Z")}

        return await link.call("token", attempt, draws={"token": 1}, renews=False)


@asynccontextmanager
async def connect(link: Link) -> AsyncIterator[Mailbox]:
    mailbox = Mailbox(link)
    link.refresh = mailbox.refresh
    yield mailbox


def rows_of(answer: Mapping[str, Any], member: str) -> list[Any]:
    """A list of an answer; it is left out where it is empty. Raises `Transient` where something else is in its place:
    taken for empty, what it holds would be passed over for good.
    """
    given = answer.get(member, [])
    if not isinstance(given, list):
        raise Transient(f"an answer whose {member} are no list")
    return given


def in_label(label: str, **query: object) -> dict[str, object]:
    """Arguments of ``threads.list`` for a label as a person sees it: spam and bin are listed only as such."""
    return {"labelIds": [label], "includeSpamTrash": "true" if label in {"SPAM", "TRASH"} else "false", **query}


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
