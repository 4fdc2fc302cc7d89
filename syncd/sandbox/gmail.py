"""The emulated Gmail: mailboxes with labels, threads and a history that forgets; and Google's token endpoint.

Switches: ``gmail.prices`` new|old, ``gmail.future_history`` 404|empty (a start beyond the present),
``gmail.empty_history_page`` off|on (a page without ``history`` before the second), ``gmail.old_attachment`` 404|400.
"""

from __future__ import annotations

import base64
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from aiohttp import web

from syncd.limits import Rate
from syncd.sandbox.consent import CodeRefused, Consent
from syncd.sandbox.gmail_answers import TYPES, label_of, matches, record_of
from syncd.sandbox.gmail_mailbox import CLIENT, Mailbox, mime, parts_of
from syncd.sandbox.google import (
    Refusal,
    answered,
    assertion_fault,
    invalid,
    missing,
    seal,
    selected,
    unseal,
    without_empty,
)
from syncd.sandbox.world import page_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from syncd.sandbox.world import World

    Handler = Callable[[Mailbox, web.Request], Mapping[str, Any]]

_JWT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_SCOPES = "https://www.googleapis.com/auth/"
_PRICES = {  # method → units under the new and the old list (contract)
    "getProfile": (1, 1), "labels.list": (1, 1), "labels.get": (1, 1), "threads.list": (10, 10),
    "threads.get": (40, 10), "messages.list": (5, 5), "messages.get": (20, 5), "messages.attachments.get": (20, 5),
    "history.list": (2, 2), "watch": (100, 100), "stop": (1, 1),
}  # fmt: skip
_RATES = {"new": Rate(6000, 60.0), "old": Rate(15000, 60.0)}
_BURST = Rate(50, 1.0)  # stands for "too many concurrent requests": here they never overlap
_HANDLE_LIVES = timedelta(hours=1)


class Gmail:
    """The vendor ``gmail``: one mailbox per workspace, of its account executive."""

    name = "gmail"
    actions: Mapping[str, str] = {
        "add": "a mail arrives: {subject, text, html, from, labels, thread_id, at, unreadable: gets that answer 404}",
        "edit": "a draft is edited, which replaces it by a new message: {id}",
        "delete": "deleted for ever: {id} or {thread_id}, else the newest in the inbox",
        "label": "labels change: {id, add: [], remove: []}",
        "trash": "a message goes to the bin: {id}",
        "untrash": "it leaves the bin again: {id}",
        "spam": "a message goes to the spam: {id}",
        "touch": "a history record that names a message and says nothing more: {id}",
        "expire_history": "history before now is forgotten",
        "name_label": "a label is made or renamed: {name, id}",
        "delete_label": "a label is deleted; its messages stay without it: {id}",
        "scopes": 'what the sign-in was granted: {scopes: ["gmail.readonly"]}',
        "service_account": "gives credentials of a service account that may act for the mailbox",
        "revoke": "the sign-in is revoked",
        "restore": "the sign-in is good again",
    }

    def __init__(self, world: World) -> None:
        self._world = world
        self._mailboxes = {workspace: Mailbox(world, company) for workspace, company in world.companies.items()}
        self._tokens: dict[str, tuple[Mailbox, datetime]] = {}
        self._issued = 0
        addresses = {workspace: mailbox.address for workspace, mailbox in self._mailboxes.items()}
        self._consent = Consent(world, self.name, "/o/oauth2/v2/auth", CLIENT, addresses)

    # ---- Vendor

    def routes(self) -> Sequence[web.RouteDef]:
        methods: dict[str, tuple[str, str, Handler]] = {
            "getProfile": ("GET", "profile", self._profile),
            "labels.list": ("GET", "labels", self._labels),
            "labels.get": ("GET", "labels/{id}", self._label),
            "threads.list": ("GET", "threads", self._threads),
            "threads.get": ("GET", "threads/{id}", self._thread),
            "messages.list": ("GET", "messages", self._messages),
            "messages.get": ("GET", "messages/{id}", self._message),
            "messages.attachments.get": ("GET", "messages/{message}/attachments/{id}", self._attachment),
            "history.list": ("GET", "history", self._history),
            "watch": ("POST", "watch", self._watch),
            "stop": ("POST", "stop", self._stop),
        }
        base = "/gmail/gmail/v1/users/{user}/"
        return [
            *(
                web.route(verb, base + path, partial(self._serve, name, do))
                for name, (verb, path, do) in methods.items()
            ),
            web.post("/gmail/token", self._token),
            *self._consent.routes(),
        ]

    def environment(self, base: str) -> Mapping[str, str]:
        prefix = "SYNCD_SOURCES__GMAIL__"
        urls = {f"{prefix}BASE_URL": f"{base}/gmail", f"{prefix}TOKEN_URL": f"{base}/gmail/token"}
        return {**urls, **self._consent.environment(base)}

    def connections(self) -> Iterator[Mapping[str, Any]]:
        for workspace, mailbox in self._mailboxes.items():
            yield {
                "workspace_id": workspace,
                "source": self.name,
                "account": mailbox.address,
                "settings": {},
                "credentials": dict(mailbox.credentials),
                "is_active": True,
            }

    def truth(self, workspace: str, since: datetime | None) -> Mapping[str, list[str]]:
        """A reader of INBOX. ``since`` None: every thread that is or was there; else what one holds that made its first
        read (five threads) when the sandbox began and followed the history from then on, whatever the moment.
        """
        mailbox = self._mailboxes[workspace]
        threads = sorted(
            set(mailbox.threads) & (mailbox.holds() | set(() if since else mailbox.newest_threads(["INBOX"])))
        )
        return {
            "conversations": threads,
            "messages": sorted(one for thread in threads for one in mailbox.threads[thread]),
        }

    def holdings(self, workspace: str) -> dict[str, dict[str, Any]]:
        """What a reader of INBOX that began when the sandbox did and missed nothing holds live now: ``conversations``
        (threads without their messages) and ``messages``, by id, as they are served now.
        """
        mailbox = self._mailboxes[workspace]
        threads = {one: mailbox.threads[one] for one in sorted(mailbox.holds() & set(mailbox.threads))}
        return {
            "conversations": {one: {"id": one, "historyId": mailbox.thread_history_id(one)} for one in threads},
            "messages": {
                one: _view(mailbox, mailbox.messages[one], "full") for messages in threads.values() for one in messages
            },
        }

    def act(self, workspace: str, action: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        mailbox = self._mailboxes[workspace]
        if action == "revoke":
            self._tokens = {token: held for token, held in self._tokens.items() if held[0] is not mailbox}
        return mailbox.act(action, body)

    # ---- one request

    async def _serve(self, method: str, handler: Handler, request: web.Request) -> web.Response:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        mailbox, until = self._tokens.get(token if scheme.lower() == "bearer" else "", (None, None))
        self._world.seen(request, self.name, method, mailbox.workspace if mailbox else "")
        try:
            if mailbox is None or until is None or until <= self._world.clock.now():
                said = "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or"
                raise Refusal(401, "authError", "UNAUTHENTICATED", f"{said} other valid authentication credential.")
            self._admit(mailbox, method, request)
            answer = selected(handler(mailbox, request), request.query.get("fields", ""))
        except Refusal as refusal:
            challenge = {"WWW-Authenticate": 'Bearer realm="https://accounts.google.com/", error="invalid_token"'}
            return answered(refusal.body, refusal.code, challenge if refusal.code == 401 else {})
        response = answered(answer)
        if all("gzip" in request.headers.get(name, "") for name in ("Accept-Encoding", "User-Agent")):
            response.enable_compression(web.ContentCoding.gzip)
        return response

    def _admit(self, mailbox: Mailbox, method: str, request: web.Request) -> None:
        """Whose mailbox, which scopes, how many units."""
        user, scopes = request.match_info["user"], mailbox.scopes
        if user not in {"me", mailbox.address}:
            raise Refusal(403, "forbidden", "PERMISSION_DENIED", f"Delegation denied for {mailbox.address}")
        metadata, bodies = "gmail.metadata" in scopes, bool(scopes & {"gmail.readonly", "gmail.modify"})
        whole = request.query.get("format", "full") in {"full", "raw"} and method in {"threads.get", "messages.get"}
        if metadata and "q" in request.query:
            raise Refusal(403, "forbidden", "PERMISSION_DENIED", "Metadata scope does not support 'q' parameter")
        labels = "gmail.labels" in scopes and method.startswith("labels.")
        if not bodies and not labels and (not metadata or whole or method == "messages.attachments.get"):
            said = "Request had insufficient authentication scopes."
            detail = "ACCESS_TOKEN_SCOPE_INSUFFICIENT"
            raise Refusal(403, "insufficientPermissions", "PERMISSION_DENIED", said, detail=detail)
        if self._world.over_limit(_BURST, self.name, mailbox.workspace, "burst", told=None) is not None:
            raise Refusal(429, "rateLimitExceeded", "RESOURCE_EXHAUSTED", "Too many concurrent requests for user")
        prices = self._world.switch("gmail.prices", "new")
        cost = _PRICES[method][prices == "old"]
        limit = (self.name, mailbox.workspace, "units")
        wait = self._world.over_limit(_RATES[prices], *limit, cost=cost, told=lambda wait: wait - 0.001)
        if wait is not None:
            at = (self._world.clock.now() + timedelta(seconds=wait)).isoformat(timespec="milliseconds")
            said = f"User-rate limit exceeded.  Retry after {at.replace('+00:00', 'Z')}"
            raise Refusal(403, "userRateLimitExceeded", "PERMISSION_DENIED", said, "usageLimits")

    async def _token(self, request: web.Request) -> web.Response:
        form = await request.post()
        kind = str(form.get("grant_type", ""))
        mailbox = next((one for one in self._mailboxes.values() if one.granted_by(kind, form)), None)
        self._world.seen(request, self.name, "token", mailbox.workspace if mailbox else "")
        if kind not in {"refresh_token", "authorization_code", _JWT}:
            return answered(
                {"error": "unsupported_grant_type", "error_description": f"Invalid grant_type: {kind}"}, 400
            )
        if kind == _JWT:
            signed = str(form.get("assertion", ""))
            if fault := assertion_fault(signed) or ("" if mailbox else "Invalid email or User ID"):
                return answered({"error": "invalid_grant", "error_description": fault}, 400)
            if mailbox and not mailbox.trusts(signed):
                said = "Client is unauthorized to retrieve access tokens using this method, or client not authorized"
                said += " for any of the scopes requested."
                return answered({"error": "unauthorized_client", "error_description": said}, 401)
        elif any(form.get(key) != CLIENT[key] for key in CLIENT):
            return answered({"error": "invalid_client", "error_description": "The OAuth client was not found."}, 401)
        if kind == "authorization_code":
            try:
                mailbox = self._consented(form)
            except CodeRefused as wrong:
                error = "redirect_uri_mismatch" if str(wrong) == "redirect_uri" else "invalid_grant"
                return answered({"error": error, "error_description": "Bad Request"}, 400)
        good = mailbox is not None and not mailbox.revoked
        if kind == "refresh_token":
            workspace = mailbox.workspace if mailbox else ""
            self._world.renews(self.name, workspace, str(form.get(kind)), granted=good)
        if mailbox is None or not good:
            said = "Token has been expired or revoked."
            return answered({"error": "invalid_grant", "error_description": said}, 400)
        self._issued += 1
        token = "ya29." + self._world.random(self.name, mailbox.workspace, "token", self._issued).randbytes(24).hex()
        self._tokens[token] = (mailbox, self._world.clock.now() + timedelta(seconds=3599))
        scope = " ".join(_SCOPES + one for one in sorted(mailbox.scopes))
        answer = {"access_token": token, "expires_in": 3599, "scope": scope, "token_type": "Bearer"}
        first = {"refresh_token": mailbox.credentials["refresh_token"]} if kind == "authorization_code" else {}
        return answered(answer | first)

    def _consented(self, form: Mapping[str, Any]) -> Mailbox:
        """The mailbox whose owner gave the code: the sign-in is good again, for the scopes that were asked for."""
        consented = self._consent.redeem(form)
        mailbox = self._mailboxes[consented.workspace]
        mailbox.revoked = False
        mailbox.scopes = {one.removeprefix(_SCOPES) for one in consented.scopes.split()}
        return mailbox

    # ---- the methods

    def _profile(self, mailbox: Mailbox, request: web.Request) -> dict[str, Any]:
        return {
            "emailAddress": mailbox.address,
            "messagesTotal": len(mailbox.messages),
            "threadsTotal": len(mailbox.threads),
            "historyId": str(mailbox.counter),
        }

    def _labels(self, mailbox: Mailbox, request: web.Request) -> dict[str, Any]:
        return {"labels": [label_of(one, name) for one, name in mailbox.labels.items()]}

    def _label(self, mailbox: Mailbox, request: web.Request) -> dict[str, Any]:
        one = request.match_info["id"]
        if one not in mailbox.labels:
            raise missing()
        carry = [message for message in mailbox.messages.values() if one in message["labelIds"]]
        threads = {message["threadId"] for message in carry}
        return label_of(one, mailbox.labels[one]) | {"messagesTotal": len(carry), "threadsTotal": len(threads)}

    def _threads(self, mailbox: Mailbox, request: web.Request) -> dict[str, Any]:
        found = mailbox.by_newest({message["threadId"] for message in self._found(mailbox, request)})
        page, more = self._page(request, "threads.list", found)
        rows = [
            {"id": one, "snippet": newest["snippet"], "historyId": mailbox.thread_history_id(one)}
            for one in page
            for newest in [mailbox.messages[mailbox.threads[one][-1]]]
        ]
        return without_empty({"threads": rows}) | more | {"resultSizeEstimate": 201 if rows else 0}

    def _messages(self, mailbox: Mailbox, request: web.Request) -> dict[str, Any]:
        page, more = self._page(request, "messages.list", self._found(mailbox, request))
        rows = [{"id": one["id"], "threadId": one["threadId"]} for one in page]
        return without_empty({"messages": rows}) | more | {"resultSizeEstimate": 201 if rows else 0}

    def _found(self, mailbox: Mailbox, request: web.Request) -> list[dict[str, Any]]:
        """Messages that a list asks for, newest first; spam and bin only on request."""
        labels = set(request.query.getall("labelIds", []))
        if unknown := labels - set(mailbox.labels):
            raise invalid(f"Invalid label: {min(unknown)}")
        hidden = set() if request.query.get("includeSpamTrash", "").lower() == "true" else {"SPAM", "TRASH"} - labels
        terms = request.query.get("q", "").split()
        found = [
            one
            for one in mailbox.messages.values()
            if labels <= set(one["labelIds"])
            and not hidden & set(one["labelIds"])
            and all(matches(one, term, mailbox) for term in terms)
        ]
        return sorted(found, key=lambda one: (one["internalDate"], one["id"]), reverse=True)

    def _thread(self, mailbox: Mailbox, request: web.Request) -> dict[str, Any]:
        one, form = request.match_info["id"], request.query.get("format", "full")
        if form not in {"full", "metadata", "minimal"}:
            raise invalid(f"Invalid value for format: {form}")
        if mailbox.unreadable.get(one, 0) > 0:
            mailbox.unreadable[one] -= 1
            raise missing()
        if one not in mailbox.threads:
            raise missing()
        mailbox.served(one)
        messages = [_view(mailbox, mailbox.messages[each], form, request) for each in mailbox.threads[one]]
        return {"id": one, "historyId": mailbox.thread_history_id(one), "messages": messages}

    def _message(self, mailbox: Mailbox, request: web.Request) -> dict[str, Any]:
        one, form = request.match_info["id"], request.query.get("format", "full")
        if one not in mailbox.messages:
            raise missing()
        if form not in {"full", "metadata", "minimal", "raw"}:
            raise invalid(f"Invalid value for format: {form}")
        return _view(mailbox, mailbox.messages[one], form, request)

    def _attachment(self, mailbox: Mailbox, request: web.Request) -> dict[str, Any]:
        try:
            message, part_id, at = mailbox.opened(request.match_info["id"])
        except (ValueError, TypeError):
            raise invalid("Invalid attachment token") from None
        if message != request.match_info["message"] or message not in mailbox.messages:
            raise missing()
        if self._world.clock.now() - at > _HANDLE_LIVES:
            gone = self._world.switch("gmail.old_attachment", "404") == "404"
            raise missing() if gone else invalid("Invalid attachment token")
        part = next(one for one in parts_of(mailbox.messages[message]["payload"]) if one["partId"] == part_id)
        made = self._world.random(message, part_id).randbytes(part["body"]["size"])
        data = part["body"].get("data") or base64.urlsafe_b64encode(made).decode()
        return {"size": part["body"]["size"], "data": data}

    def _history(self, mailbox: Mailbox, request: web.Request) -> dict[str, Any]:
        query = request.query
        if not query.get("startHistoryId", "").isdecimal():
            raise invalid("Missing/invalid parameter: startHistoryId")
        start, late = int(query["startHistoryId"]), self._world.switch("gmail.future_history", "404") == "404"
        if start < mailbox.floor():
            mailbox.forgotten(start)
            raise missing()
        if start > mailbox.counter and late:
            raise missing()
        kinds = [TYPES[one] for one in query.getall("historyTypes", []) if one in TYPES]
        found = [
            record
            for one in mailbox.log
            if one["id"] > start and (record := record_of(one, kinds, query.get("labelId", "")))
        ]
        page, more = self._page(request, "history.list", found)
        if more and "pageToken" not in query and self._world.switch("gmail.empty_history_page", "off") == "on":
            page, more = [], {"nextPageToken": seal(self._world.clock.now(), "history.list", 0)}
        return without_empty({"history": list(page)}) | more | {"historyId": str(mailbox.counter)}

    def _watch(self, mailbox: Mailbox, request: web.Request) -> dict[str, Any]:
        expires = self._world.clock.now() + timedelta(days=7)
        return {"historyId": str(mailbox.counter), "expiration": str(int(expires.timestamp() * 1000))}

    def _stop(self, mailbox: Mailbox, request: web.Request) -> dict[str, Any]:
        return {}

    # ---- pages: positions, as Gmail's seem to be; what arrives meanwhile shifts them

    def _page(self, request: web.Request, method: str, rows: Sequence[Any]) -> tuple[Sequence[Any], dict[str, str]]:
        asked, token = request.query.get("maxResults", "100"), request.query.get("pageToken")
        if not asked.isdecimal():
            raise invalid(f"Invalid value at 'max_results': {asked}")
        size = self._world.page_size(min(int(asked) or 100, 500))
        page, after = page_of(rows, unseal(self._world.clock.now(), method, token) if token else 0, size)
        return page, {} if after is None else {"nextPageToken": seal(self._world.clock.now(), method, after)}


def _view(mailbox: Mailbox, message: dict[str, Any], form: str, request: web.Request | None = None) -> dict[str, Any]:
    """A message in one of the formats (contract); minimal without snippet, as it was recorded."""
    payload = message["payload"]
    view = without_empty({key: value for key, value in message.items() if key != "payload"})
    if form == "minimal":
        return {key: value for key, value in view.items() if key != "snippet"} | {"payload": {"partId": ""}}
    if form == "raw":
        return view | {"raw": base64.urlsafe_b64encode(mime(payload)).decode()}
    if form == "metadata":
        asked = {name.lower() for name in request.query.getall("metadataHeaders", [])} if request else set()
        headers = [one for one in payload["headers"] if not asked or one["name"].lower() in asked]
        return view | {"payload": {"mimeType": payload["mimeType"], "headers": headers}}
    return view | {"payload": _part(mailbox, message["id"], payload)}


def _part(mailbox: Mailbox, message: str, part: dict[str, Any]) -> dict[str, Any]:
    body = part["body"]
    if body.get("late"):
        body = {"attachmentId": mailbox.handle(message, part["partId"]), "size": body["size"]}
    below = [_part(mailbox, message, child) for child in part.get("parts", ())]
    return part | {"body": body} | ({"parts": below} if below else {})
