"""Slack: the Web API at https://slack.com/api/ (methods such as ``conversations.history``), through slack_sdk.

A refusal is HTTP 200 with ``{"ok": false, "error": code}``. A listing ends where ``next_cursor`` is empty, null or
absent. History comes newest first and holds no replies: they hang on the parent, whose ``reply_count`` and
``latest_reply`` tell of new ones. ``ts`` is a message's id in its conversation: text, never a float. A deleted parent
stays as a tombstone while it has replies, all else that is deleted is gone. Each call gives blocks a new ``block_id``.

People and conversations are here; calls are in `slack_api`, windows in `slack_history`, threads in `slack_threads`,
what `syncd backfill` and `syncd verify` ask in `slack_audit`, the records in `slack_records` and `slack_text`.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from syncd.errors import Misconfigured, Rejected, Transient
from syncd.records import Conversation, Message
from syncd.source import Estimate, Page, Pending, Report, Setting, Since, Source, Stream
from syncd.sources.slack_account import CHOICE, OAUTH, owner, regime
from syncd.sources.slack_api import ADD_SCOPE, Api, connect
from syncd.sources.slack_audit import audit_older, audit_recent, estimate_in
from syncd.sources.slack_history import backfill, messages, sweep
from syncd.sources.slack_records import conversation, person
from syncd.sources.slack_text import objects, text
from syncd.sources.slack_threads import is_down, threads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from syncd.records import Record

_LISTED_FOR = timedelta(hours=1)  # people and conversations change rarely: they are listed again after this
_SCOPES = {"public_channel": "channels", "private_channel": "groups", "mpim": "mpim", "im": "im"}


async def _people(api: Api, since: Since) -> AsyncIterator[Page]:
    """Everybody, once an hour. Cursor: the time of the last complete reading."""
    if not _recent(since.cursors.get(""), since):
        async for members, _, _ in api.listing("users.list", "members"):
            yield Page(records=[person(raw) for raw in members])
        yield Page(cursor=since.now.isoformat())


async def _conversations(api: Api, since: Since) -> AsyncIterator[Page]:
    """The selected conversations, once an hour. Cursor: the time, the selection as it was, and the ids it came to.

    What became of one is told once; one that is no longer visible keeps all that was read of it.
    """
    wanted, join = api.link.settings.get("channels") or "*", api.link.settings.get("join") is True
    known = json.loads(since.cursors.get("", "{}"))
    same = known.get("selected") == [wanted, join]
    if same and _recent(known["at"], since) and not since.backlog:
        api.channels = known["channels"]
        return
    stale = [item.external_id for item in since.backlog if wanted == "*" or item.external_id not in wanted]
    async for page in _everywhere(api) if wanted == "*" else _selected(api, wanted, join):
        api.channels += [one.external_id for one in page.records]
        yield replace(page, notes=await _changes(since, page.records))
    seen, before = set(api.channels), set(known.get("channels", ()))
    unseen = sorted((before if wanted == "*" else set(wanted)) - seen)
    notes = await _told(
        since, sorted(seen - before) if same else [], sorted(set(unseen) - set(known.get("unseen", ())))
    )
    known = {"at": since.now.isoformat(), "selected": [wanted, join], "channels": sorted(seen)}
    known |= {"unseen": unseen if wanted != "*" else []}
    # Without a cursor what is closed is asked for in the next cycle again: told once only, it would look mended.
    yield Page(cursor=None if api.closed else json.dumps(known), resolved=stale, notes=() if api.closed else notes)


async def _changes(since: Since, found: Sequence[Record]) -> list[str]:
    """In words, which of these conversations were renamed, archived or opened again."""
    notes = []
    held = await since.held.stored(Conversation, [one.external_id for one in found], "name", "is_archived")
    for one in found:
        if one.external_id not in held or not isinstance(one, Conversation) or one.kind == "im":
            continue
        name, was_archived = held[one.external_id]
        if one.name and name and name != one.name:
            notes.append(f"#{name} ({one.external_id}) is now called #{one.name}")
        if one.is_archived is not bool(was_archived):  # SQLite answers a true of JSON as 1
            notes.append(
                f"#{one.name} ({one.external_id}) was {'archived' if one.is_archived else 'taken out of the archive'}"
            )
    return notes


async def _told(since: Since, joined: list[str], vanished: list[str]) -> list[str]:
    """In words, which conversations came and which are no longer visible."""
    held = await since.held.stored(Conversation, [*joined, *vanished], "name") if joined or vanished else {}

    def named(channel: str) -> str:
        name = held.get(channel, (None,))[0]
        return f"#{name} ({channel})" if name else channel

    kept = "the app was removed, or it is gone; what was read of it is kept"
    notes = [f"{named(channel)} is no longer visible: {kept}" for channel in vanished]
    return notes + [f"{named(channel)} is read from now on" for channel in joined]


async def _everywhere(api: Api) -> AsyncIterator[Page]:
    """All that the token's owner is in, of the kinds that its scopes open: in one listing where they open all, else in
    one of each kind. Raises `Misconfigured` when none is open.
    """
    if not api.scopes or api.scopes >= {f"{scope}:read" for scope in _SCOPES.values()}:
        try:
            async for page in _of_kinds(api, ",".join(_SCOPES)):
                yield page
            return
        except (Misconfigured, Rejected):
            pass  # which kind it is about, each by itself tells
    closed: list[Misconfigured] = []
    for kind in _SCOPES:
        try:
            async for page in _of_kinds(api, kind):
                yield page
        except Misconfigured as error:
            closed.append(error)
    if len(closed) == len(_SCOPES):
        raise closed[0]


async def _of_kinds(api: Api, kinds: str) -> AsyncIterator[Page]:
    async for channels, _, _ in api.listing("users.conversations", "channels", types=kinds):
        yield Page(records=[conversation(raw) for raw in channels])


async def _selected(api: Api, wanted: Iterable[str], join: bool) -> AsyncIterator[Page]:
    """The conversations that a person chose, one by one; public ones are joined where that was asked for."""
    for channel in wanted:
        try:
            answer = await api.call("conversations.info", channel=channel)
        except (Rejected, Misconfigured) as error:
            if isinstance(error, Misconfigured):  # a scope for this kind of conversation: the others may be open
                api.closed[channel] = error
            api.faults = 0
            yield Page(pending=[Pending(channel, error.message)])
            continue
        except Transient as error:
            down = is_down(api, error)
            api.channels.append(channel)  # its history will tell
            yield Page(pending=[Pending(channel, error.message)])
            if down:
                raise
            continue
        api.faults = 0
        found = conversation(dict(*objects([answer.get("channel")])) | {"id": channel})
        yield Page(records=[found], resolved=[channel])
        if join and not found.is_private and not found.is_archived and found.raw.get("is_member") is False:
            await _join(api, channel)


async def _join(api: Api, channel: str) -> None:
    """One that cannot be joined may be readable all the same, by a person's token: its history will tell."""
    try:
        await api.call("conversations.join", "POST", channel=channel)
    except Misconfigured as error:
        api.closed[channel] = error
    except Rejected:
        pass


async def _estimate(api: Api, since: Since) -> Estimate:
    """What a backfill of the selected conversations takes."""
    async for _ in _conversations(api, since):
        pass
    return await estimate_in(api, since, sorted(set(api.channels)))


def _recent(at: str | None, since: Since) -> bool:
    """Whether that is new enough, and on a sweep of this sweep."""
    if at is None or since.now - datetime.fromisoformat(at) > _LISTED_FOR:
        return False
    return since.sweep_due_at is None or datetime.fromisoformat(at) >= since.sweep_due_at


async def check(api: Api) -> Report:
    """Who we are, which scopes are missing, and whether each selected conversation is visible and open to us."""
    who, wanted = await api.call("auth.test", "POST"), api.link.settings.get("channels") or "*"
    invite, seen = f"in Slack: /invite @{text(who, 'user')} there, or deselect it", 0
    problems: list[tuple[str, str]] = []
    try:
        async for page in _everywhere(api) if wanted == "*" else _selected(api, wanted, join=False):
            outside = [one for one in page.records if one.raw.get("is_member") is False and "bot_id" in who]
            problems += [(f"{one.external_id}: the app is not a member", invite) for one in outside]
            for one in page.pending:
                closed, passing = api.closed.get(one.external_id), one.external_id in api.channels
                way_out = closed.hint if closed else "try again later" if passing else invite
                problems.append((f"{one.external_id}: {one.reason}", way_out))
            seen += len(page.records)
    except Misconfigured as error:
        problems.append((error.message, error.hint))
    needed = ["users:read", *(f"{part}:history" for part in _SCOPES.values() if f"{part}:read" in api.scopes)]
    problems += [(f"no scope {scope}", ADD_SCOPE) for scope in needed if api.scopes and scope not in api.scopes]
    facts = (f"sees {seen} conversations", f"scopes: {', '.join(sorted(api.scopes)) or 'Slack did not say'}")
    host = text(who, "url").split("/")[2:3]
    return Report(f"{text(who, 'user')} in {text(who, 'team')} ({''.join(host)})", facts, problems)


SOURCE = Source(
    name="slack",
    connect=connect,
    streams=(
        Stream("people", _people),
        Stream("conversations", _conversations),
        Stream("messages", messages, parts="channels"),
        Stream("threads", threads, watches=True),
        Stream("sweep", sweep),
    ),
    counts=Message,
    total_name="total_messages",
    credentials=(frozenset({"token"}), frozenset({"access_token", "refresh_token", "client_id", "client_secret"})),
    settings={
        "channels": Setting(
            lambda value: value == "*" or (isinstance(value, list) and value != [] and all(map(text, value))),
            'a list of conversation ids such as ["C0123ABC"], or "*" for all that the app is in',
        ),
        "join": Setting(lambda value: isinstance(value, bool), "true or false"),
        "app_kind": Setting(
            lambda value: value in ("auto", "restricted", "full"),  # a tuple: it may be a list
            '"auto", "restricted" or "full"',
        ),
    },
    check=check,
    owner=owner,
    regime=regime,
    choice=CHOICE,
    oauth=OAUTH,
    backfill=(Stream("conversations", _conversations), Stream("backfill", backfill)),
    estimate=_estimate,
    audit=(
        Stream("people", _people),
        Stream("conversations", _conversations),
        Stream("messages", audit_recent),
        Stream("sweep", audit_older),
    ),
)
