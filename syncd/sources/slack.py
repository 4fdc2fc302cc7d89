"""Slack: the Web API at https://slack.com/api/ (methods such as ``conversations.history``), through slack_sdk.

A refusal is HTTP 200 with ``{"ok": false, "error": code}``. A listing ends where ``next_cursor`` is empty, null or
absent. History comes newest first and holds no replies: they hang on the parent, whose ``reply_count`` and
``latest_reply`` tell of new ones. ``ts`` is a message's id in its conversation: text, never a float. A deleted parent
stays as a tombstone while it has replies, all else that is deleted is gone. Each call gives blocks a new ``block_id``.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient

from syncd.errors import AuthError, CursorExpired, Misconfigured, RateLimited, Rejected, SourceError, Transient
from syncd.http import retry_after_s
from syncd.records import Conversation, Deletion, Message, Person, without
from syncd.source import Page, Pending, Report, Setting, Since, Source, Stream
from syncd.sources.slack_text import Json, objects, plain, text

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    from syncd.http import Link

_LISTED_FOR = timedelta(hours=1)  # people and conversations change rarely: they are listed again after this
_CLOCK_SKEW = timedelta(minutes=5)  # a message may show up with a ts this much before the moment we had read until
# Differ from call to call, or between the copies in history and in replies, though nothing happened.
_VOLATILE = frozenset({"block_id", "subscribed", "last_read", "root", "unread_count", "unread_count_display", "latest"})
_FILE = ("id", "name", "title", "mimetype", "size", "permalink")
_KINDS = (("is_im", "im"), ("is_mpim", "mpim"), ("is_private", "group"), ("is_group", "group"))
_SCOPES = {"public_channel": "channels", "private_channel": "groups", "mpim": "mpim", "im": "im"}
_ADD_SCOPE = "add the scope under OAuth & Permissions of the Slack app, then install the app to the workspace again"
_PASSING = {"internal_error", "fatal_error", "service_unavailable", "request_timeout", "team_added_to_org"}
_REAUTH = {
    "invalid_auth", "not_authed", "account_inactive", "token_revoked", "token_expired", "two_factor_setup_required",
    "org_login_required", "team_access_not_granted", "ekm_access_denied", "enterprise_is_restricted", "accesslimited",
    "access_denied", "invalid_refresh_token", "bad_client_secret", "invalid_client_id",
}  # fmt: skip
_NOT_TAKEN = ("invalid_", "missing_", "json_", "limit_", "not_allowed_", "no_permission", "method_dep", "deprecated")
_OUTSIDE = {"not_in_channel", "channel_not_found"}


@dataclass
class _Api:
    """Calls to one workspace. ``channels``: what the conversations stream found for messages. ``scopes``: once told.

    ``closed``: channel → what a person must put right before it can be read; told when the others are read.
    """

    link: Link
    client: AsyncWebClient
    channels: list[str] = field(default_factory=list)
    scopes: list[str] = field(default_factory=list)
    closed: dict[str, Misconfigured] = field(default_factory=dict)

    async def call(self, method: str, verb: str = "GET", **arguments: Any) -> Json:
        """One answered call. Raises `SourceError`."""

        async def attempt() -> tuple[Json, Mapping[str, str]]:
            token = self.link.credentials.get("token") or await self.link.access_token()
            return await _sent(method, self.client, verb, params={**arguments, "token": token})

        answer, headers = await self.link.call(method, attempt)
        self.scopes = re.findall(r"[^,\s]+", headers.get("x-oauth-scopes", ""))
        return answer

    async def listing(self, method: str, member: str, **asked: Any) -> AsyncIterator[tuple[list[Json], bool]]:
        """Pages of a listing, each with whether it is the last. After a stale page token it starts again, once."""
        token, restarted = "", False
        while True:
            try:
                answer = await self.call(method, **asked, limit=200, cursor=token or None)
            except CursorExpired as error:
                if restarted or not token:  # not CursorExpired: that would forget how far each channel was read
                    raise Transient(f"{error.message} after a fresh start") from None
                token, restarted = "", True
                continue
            before, token = token, text(answer, "response_metadata", "next_cursor")
            if not isinstance(answer.get(member) or [], list) or (token and token == before):
                raise Transient(f"{method}: no list of {member}, or a page token twice")
            yield objects(answer.get(member), "ts" if member == "messages" else "id"), not token
            if not token:
                return

    async def renewed(self) -> Mapping[str, Any]:
        """A new pair of tokens. Contract: a refresh token serves once, both come anew, ``expires_in`` is in seconds."""
        method, held = "oauth.v2.access", self.link.credentials
        form = {"grant_type": "refresh_token", "refresh_token": held["refresh_token"]}
        basic = "Basic " + b64encode(f"{held['client_id']}:{held['client_secret']}".encode()).decode()
        attempt = partial(_sent, method, self.client, "POST", data=form, headers={"Authorization": basic})
        answer, _ = await self.link.call(method, attempt, draws={}, renews=False)
        renewed = {key: answer[key] for key in ("access_token", "refresh_token") if text(answer, key)}
        if "access_token" not in renewed:
            raise Transient(f"{method}: no access_token in the answer")
        life = answer.get("expires_in")
        ends = self.link.now() + timedelta(seconds=min(max(life, 0), 10**9)) if isinstance(life, int) else None
        return {**renewed, "expires_at": ends and f"{ends.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"}


async def _sent(method: str, client: AsyncWebClient, verb: str, **request: Any) -> tuple[Json, Mapping[str, str]]:
    """One request through the SDK: the answer and its headers. The one place that knows how the SDK fails."""
    try:
        response: Any = await client.api_call(method, http_verb=verb, **request)
        answer = {**response.data}
    except SlackApiError as error:  # `from None`: its text holds the whole body
        answered = error.response  # after an undecodable body it is aiohttp's own response
        status = answered.status_code if hasattr(answered, "status_code") else answered.status
        raise _fault(method, status, answered.headers, getattr(answered, "data", None)) from None
    except (AttributeError, TypeError, ValueError) as error:  # text/plain, a JSON list, bytes that are no UTF-8
        raise Transient(f"{method}: an answer that is not Slack's ({type(error).__name__})") from None
    return answer, response.headers


def _fault(method: str, status: int, headers: Mapping[str, str], answer: object) -> SourceError:
    """What an unsuccessful answer means (contract: error catalogue)."""
    code = text(answer, "error")[:100]
    said = f"{method}: {code or f'HTTP {status} without an answer of Slack'}"
    if status == 429 or code == "ratelimited":
        return RateLimited(said, retry_after_s=retry_after_s(headers))
    if status >= 500 or status == 408 or code in _PASSING or (status == 200 and not code):
        return Transient(said)
    if code == "invalid_cursor":
        return CursorExpired(said)
    if code == "missing_scope":
        return Misconfigured(f"{said}, needs {text(answer, 'needed')[:100]}", hint=_ADD_SCOPE)
    if code in _REAUTH:
        return AuthError(said, hint="install the Slack app to the workspace again and store its new token")
    if not code or code.startswith(_NOT_TAKEN):
        return Misconfigured(said, hint="check sources.slack.base_url, any proxy on the way, and the token's kind")
    return Rejected(said + (": the app is not a member, /invite it there" if code in _OUTSIDE else ""))


@asynccontextmanager
async def connect(link: Link) -> AsyncIterator[_Api]:
    """An api object for one run, on the process's shared session."""
    client = AsyncWebClient(base_url=link.options["base_url"], session=link.net.aiohttp, retry_handlers=[])
    client.proxy = None  # it ignores NO_PROXY; the session reads the environment itself
    api = _Api(link, client)
    if not link.credentials.get("token"):
        link.refresh = api.renewed
    yield api


async def _people(api: _Api, since: Since) -> AsyncIterator[Page]:
    """Everybody, once an hour. Cursor: the time of the last complete reading."""
    if not _recent(since.cursors.get(""), since):
        async for members, _ in api.listing("users.list", "members"):
            yield Page(records=[_person(raw) for raw in members])
        yield Page(cursor=since.now.isoformat())


async def _conversations(api: _Api, since: Since) -> AsyncIterator[Page]:
    """The selected conversations, once an hour. Cursor: the time, the selection as it was, and the ids it came to."""
    wanted, join = api.link.settings.get("channels") or "*", api.link.settings.get("join") is True
    known = json.loads(since.cursors.get("", "{}"))
    if known.get("selected") == [wanted, join] and _recent(known["at"], since) and not since.backlog:
        api.channels = known["channels"]
        return
    stale = [item.external_id for item in since.backlog if wanted == "*" or item.external_id not in wanted]
    async for page in _everywhere(api) if wanted == "*" else _selected(api, wanted, join):
        api.channels += [one.external_id for one in page.records]
        yield page
    known = {"at": since.now.isoformat(), "selected": [wanted, join], "channels": sorted(set(api.channels))}
    # Without a cursor what is closed is asked for in the next cycle again: told once only, it would look mended.
    yield Page(cursor=None if api.closed else json.dumps(known), resolved=stale)


async def _everywhere(api: _Api) -> AsyncIterator[Page]:
    """All that the token's owner is in, of the kinds that its scopes open. Raises `Misconfigured` when none is open."""
    closed: list[Misconfigured] = []
    for kind in _SCOPES:
        try:
            async for channels, _ in api.listing("users.conversations", "channels", types=kind):
                yield Page(records=[_conversation(raw) for raw in channels])
        except Misconfigured as error:
            closed.append(error)
    if len(closed) == len(_SCOPES):
        raise closed[0]


async def _selected(api: _Api, wanted: Iterable[str], join: bool) -> AsyncIterator[Page]:
    """The conversations that a person chose, one by one; public ones are joined where that was asked for."""
    for channel in wanted:
        try:
            answer = await api.call("conversations.info", channel=channel)
        except (Rejected, Misconfigured) as error:
            if isinstance(error, Misconfigured):  # a scope for this kind of conversation: the others may be open
                api.closed[channel] = error
            yield Page(pending=[Pending(channel, error.message)])
            continue
        found = _conversation(dict(*objects([answer.get("channel")])) | {"id": channel})
        yield Page(records=[found], resolved=[channel])
        if join and not found.is_private and not found.is_archived and found.raw.get("is_member") is False:
            await _join(api, channel)


async def _join(api: _Api, channel: str) -> None:
    """One that cannot be joined may be readable all the same, by a person's token: its history will tell."""
    try:
        await api.call("conversations.join", "POST", channel=channel)
    except Misconfigured as error:
        api.closed[channel] = error
    except Rejected:
        pass


async def _messages(api: _Api, since: Since) -> AsyncIterator[Page]:
    """The window of each conversation, the one read longest ago first. Partition: its id; cursor: read until then."""
    for item in since.backlog:
        channel, _, parent = item.external_id.partition(":")
        if channel not in api.channels and channel not in api.closed:
            yield Page(resolved=[item.external_id])
        elif parent and channel in api.channels:
            async for page in _thread(api, channel, parent, [], Page(resolved=[item.external_id])):
                yield page
    for channel in sorted(set(api.channels), key=lambda channel: (since.cursors.get(channel, ""), channel)):
        try:
            async for page in _channel(api, since, channel):
                yield page
        except Rejected as error:
            yield Page(pending=[Pending(channel, error.message)])
        except Misconfigured as error:  # a scope for this kind of conversation: read the others, then call a person
            api.closed.setdefault(channel, error)
    for closed in api.closed.values():
        raise closed


async def _channel(api: _Api, since: Since, channel: str) -> AsyncIterator[Page]:
    """One channel's window to its end; only the last page carries the cursor, for history comes newest first."""
    read_until = _moment(since.cursors.get(channel, "")) or since.now
    begins = min(since.now - since.lookback, read_until - _CLOCK_SKEW)
    # latest is fixed, so that what comes meanwhile does not shift the pages
    oldest, latest = (f"{at.replace(microsecond=0).timestamp():.0f}.{at.microsecond:06d}" for at in (begins, since.now))
    end = Page(partition=channel, cursor=latest, resolved=[channel])
    window = {"channel": channel, "oldest": oldest, "latest": latest, "inclusive": True}
    async for messages, last in api.listing("conversations.history", "messages", **window):
        threads = await _changed_threads(since, channel, messages)
        rest = [raw for raw in messages if raw not in threads]
        yield _page(channel, rest, end if last and not threads else Page())
        for parent in threads:  # stored, it proves that its thread was read: it comes with the thread's last page
            async for page in _thread(api, channel, parent["ts"], [parent], Page(), (oldest, latest)):
                yield page
        if last and threads:
            yield end


async def _changed_threads(since: Since, channel: str, messages: Iterable[Json]) -> list[Json]:
    """The parents among ``messages`` whose replies may differ from what is stored."""
    replied = [raw for raw in messages if raw.get("reply_count") or raw.get("thread_ts") == raw["ts"]]
    # A tombstone is not stored: there the proof is the latest reply, which is stored last. A broadcast proves nothing:
    # history gives it, its thread unread. Then the thread is read in each cycle, a call for each such tombstone.
    proofs = [f"{channel}:{raw.get('latest_reply') if _is_gone(raw) else raw['ts']}" for raw in replied]
    held = await since.held.stored(Message, proofs, "reply_count", "latest_reply", "subtype") if proofs else {}
    changed = []
    for raw, proof in zip(replied, proofs, strict=True):
        *counters, subtype = held.get(proof, (None, None, None))
        same = counters == [raw.get("reply_count"), raw.get("latest_reply")]
        if _is_gone(raw):
            same = proof in held and subtype != "thread_broadcast"
        if (raw.get("reply_count") or counters[0]) and (since.sweep or not same):
            changed.append(raw)
    return changed


async def _thread(
    api: _Api, channel: str, ts: str, parent: list[Json], end: Page, seen: tuple[str, str] = ("", "")
) -> AsyncIterator[Page]:
    """A thread's replies, the last page with ``parent`` and ``end``. One that is refused waits in the backlog.

    ``seen``: the window in which history gave the broadcast replies already. The parent and its latest reply prove
    that the thread was read: they come last, in whatever order Slack gives the pages.
    """
    proofs, held = {text(raw, "latest_reply") for raw in parent}, dict[str, Json]()
    try:
        async for messages, last in api.listing("conversations.replies", "messages", channel=channel, ts=ts):
            replies = [raw for raw in messages if raw["ts"] != ts]  # its copy of the parent is not history's
            replies = [raw for raw in replies if not _is_broadcast(raw) or not seen[0] <= raw["ts"] <= seen[1]]
            held |= {raw["ts"]: raw for raw in replies if raw["ts"] in proofs}
            replies = [raw for raw in replies if raw["ts"] not in proofs]
            yield _page(channel, [*replies, *held.values(), *parent], end) if last else _page(channel, replies, Page())
    except Rejected as error:
        gone = "thread_not_found" in error.message  # since history was read
        end = end if gone else Page(pending=[Pending(f"{channel}:{ts}", error.message)])
        yield _page(channel, [*held.values(), *parent], end)


def _is_gone(raw: Json) -> bool:
    return raw.get("subtype") == "tombstone"


def _is_broadcast(raw: Json) -> bool:
    return raw.get("subtype") == "thread_broadcast"


def _page(channel: str, messages: Iterable[Json], end: Page) -> Page:
    """``end`` with the messages: a tombstone deletes, and does not overwrite what was said."""
    kept = [_message(channel, raw) for raw in messages if not _is_gone(raw)]
    gone = [Deletion(Message, f"{channel}:{raw['ts']}") for raw in messages if _is_gone(raw)]
    return replace(end, records=kept, deletions=gone)


def _person(raw: Json) -> Person:
    profile, is_bot = raw.get("profile"), raw.get("is_bot") if isinstance(raw.get("is_bot"), bool) else None
    name = text(profile, "display_name") or text(profile, "real_name") or text(raw, "name") or None
    return Person(external_id=raw["id"], raw=raw, name=name, email=text(profile, "email") or None, is_bot=is_bot)


def _conversation(raw: Json) -> Conversation:
    """Contract: its kind is told by flags, never by the first letter of the id. A DM has no name: the other's id."""
    kind = next((kind for flag, kind in _KINDS if raw.get(flag) is True), "channel")
    return Conversation(
        external_id=raw["id"], raw=raw, stable=without(raw, _VOLATILE), kind=kind, is_private=kind != "channel",
        name=text(raw, "user" if kind == "im" else "name") or None, is_archived=raw.get("is_archived") is True,
    )  # fmt: skip


def _message(channel: str, raw: Json) -> Message:
    """Where there is no text, it is what the blocks, the attachments or the names of the files say."""
    thread, files = text(raw, "thread_ts"), objects(raw.get("files"))
    said = [plain(raw.get("text"), mrkdwn=True), plain(raw.get("blocks")), plain(raw.get("attachments"))]
    said.append(plain([text(part, "title") or text(part, "name") for part in files]))
    return Message(
        external_id=f"{channel}:{raw['ts']}",
        raw=raw,
        stable=without(raw, _VOLATILE),
        conversation_id=channel,
        thread_id=f"{channel}:{thread}" if thread else None,
        author_id=text(raw, "user") or text(raw, "bot_id") or None,
        author=text(raw, "username") or text(raw, "bot_profile", "name") or None,
        sent_at=_moment(raw["ts"]),
        edited_at=_moment(text(raw, "edited", "ts")),
        text=next((part for part in said if part.strip()), None),
        attachments=[{key: part.get(key) for key in _FILE} for part in files],
    )


def _recent(at: str | None, since: Since) -> bool:
    return at is not None and not since.sweep and since.now - datetime.fromisoformat(at) <= _LISTED_FOR


def _moment(ts: str) -> datetime | None:
    """A ts as aware UTC, by its digits; None where it is none."""
    found = re.fullmatch(r"([0-9]{1,11})\.([0-9]{6})", ts)
    return datetime.fromtimestamp(int(found[1]), UTC).replace(microsecond=int(found[2])) if found else None


async def check(api: _Api) -> Report:
    """Who we are, which scopes are missing, and whether each selected conversation is visible and open to us."""
    who, wanted = await api.call("auth.test", "POST"), api.link.settings.get("channels") or "*"
    invite, seen = f"in Slack: /invite @{text(who, 'user')} there, or deselect it", 0
    problems: list[tuple[str, str]] = []
    try:
        async for page in _everywhere(api) if wanted == "*" else _selected(api, wanted, join=False):
            outside = [one for one in page.records if one.raw.get("is_member") is False and "bot_id" in who]
            problems += [(f"{one.external_id}: the app is not a member", invite) for one in outside]
            for one in page.pending:
                closed = api.closed.get(one.external_id)
                problems.append((f"{one.external_id}: {one.reason}", closed.hint if closed else invite))
            seen += len(page.records)
    except Misconfigured as error:
        problems.append((error.message, error.hint))
    needed = ["users:read", *(f"{part}:history" for part in _SCOPES.values() if f"{part}:read" in api.scopes)]
    problems += [(f"no scope {scope}", _ADD_SCOPE) for scope in needed if api.scopes and scope not in api.scopes]
    facts = (f"sees {seen} conversations", f"scopes: {', '.join(sorted(api.scopes)) or 'Slack did not say'}")
    host = text(who, "url").split("/")[2:3]
    return Report(f"{text(who, 'user')} in {text(who, 'team')} ({''.join(host)})", facts, problems)


SOURCE = Source(
    name="slack",
    connect=connect,
    streams=(Stream("people", _people), Stream("conversations", _conversations), Stream("messages", _messages)),
    counts=Message,
    total_name="total_messages",
    credentials=(frozenset({"token"}), frozenset({"access_token", "refresh_token", "client_id", "client_secret"})),
    settings={
        "channels": Setting(
            lambda value: value == "*" or (isinstance(value, list) and value != [] and all(map(text, value))),
            'a list of conversation ids such as ["C0123ABC"], or "*" for all that the app is in',
        ),
        "join": Setting(lambda value: isinstance(value, bool), "true or false"),
    },
    check=check,
)
