"""The emulated Slack keeps its contract, through Slack's own client and through plain requests."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient

from syncd.sandbox.slack import CLIENT
from syncd.sandbox.world import Clock, Options, World

GENERAL, OUTSIDE, BOARD, ARCHIVED = "C000000000", "C000000004", "G000000006", "C000000007"


class Desk:
    """A sandbox, Slack's client on it, and the team behind."""

    def __init__(self, box: Any, http: aiohttp.ClientSession) -> None:
        self.box, self.http = box, http
        self.install = box.slack._installs["acme"]
        self.office, self.room = self.install.office, self.install.office.rooms[GENERAL]
        self.client = self.with_token(self.install.token)

    def with_token(self, token: str) -> AsyncWebClient:
        return AsyncWebClient(token=token, base_url=f"{self.box.base}/slack/api/", session=self.http, retry_handlers=[])

    def act(self, action: str, **body: Any) -> Any:
        return self.box.slack.act("acme", action, body)

    async def plain(self, verb: str, method: str, **request: Any) -> tuple[aiohttp.ClientResponse, Any]:
        async with self.http.request(verb, f"{self.box.base}/slack/api/{method}", **request) as response:
            return response, await response.json(content_type=None) if response.status == 200 else await response.text()

    async def refresh(self, token: str, secret: str = CLIENT["client_secret"]) -> Any:
        basic = base64.b64encode(f"{CLIENT['client_id']}:{secret}".encode()).decode()
        form = {"grant_type": "refresh_token", "refresh_token": token}
        return (await self.plain("POST", "oauth.v2.access", data=form, headers={"Authorization": f"Basic {basic}"}))[1]


@pytest.fixture
async def desk(sandbox: Any) -> Any:
    """``await desk(**options)``."""
    sessions: list[aiohttp.ClientSession] = []

    async def make(**options: Any) -> Desk:
        box = await sandbox(Options(**{"workspaces": 1, "limits": False, **options}))
        sessions.append(aiohttp.ClientSession())
        return Desk(box, sessions[-1])

    yield make
    for session in sessions:
        await session.close()


async def code(call: Any) -> str:
    with pytest.raises(SlackApiError) as refused:
        await call
    return str(refused.value.response["error"])


async def listed(call: Any, member: str) -> list[Any]:
    return [one async for page in await call for one in list(page[member])]


async def test_history_is_newest_first_without_replies_but_with_broadcasts(desk: Any) -> None:
    d = await desk(channels=1)
    messages = await listed(d.client.conversations_history(channel=GENERAL, limit=7), "messages")
    stamps = [one["ts"] for one in messages]
    assert stamps == sorted(stamps, reverse=True)
    assert {one["ts"] for one in messages if one.get("thread_ts", one["ts"]) != one["ts"]} == {
        one["ts"] for one in messages if one.get("subtype") == "thread_broadcast"
    }
    assert len(stamps) == len(set(stamps)) == len(d.room.history())


async def test_bounds_are_open_unless_inclusive(desk: Any) -> None:
    d = await desk()
    newest, *_, oldest = (one["ts"] for one in d.room.history()[:5])
    bounds = {"channel": GENERAL, "oldest": oldest, "latest": newest}
    assert len((await d.client.conversations_history(**bounds))["messages"]) == 3
    assert len((await d.client.conversations_history(**bounds, inclusive=True))["messages"]) == 5
    assert await code(d.client.conversations_history(channel=GENERAL, oldest="yesterday")) == "invalid_ts_oldest"


async def test_replies_give_the_parent_first_on_every_page_or_on_the_first(desk: Any) -> None:
    for where, repeated in (("all", True), ("first", False)):
        d = await desk(page_size=1, switches={"slack.parent_on_pages": where})
        parent = next(one for one in d.room.history() if one.get("reply_count", 0) > 1)
        pages = [
            list(page["messages"])
            async for page in await d.client.conversations_replies(channel=GENERAL, ts=parent["ts"])
        ]
        assert pages[0][0]["ts"] == parent["ts"]
        assert (pages[1][0]["ts"] == parent["ts"]) is repeated
        replies = [one["ts"] for page in pages for one in page if one["ts"] != parent["ts"]]
        assert replies == sorted(replies) == [one["ts"] for one in d.room.replies(parent["ts"])]
    assert await code(d.client.conversations_replies(channel=GENERAL, ts="1.000000")) == "thread_not_found"


async def test_what_comes_between_pages_shifts_no_page(desk: Any) -> None:
    d = await desk()
    before = [one["ts"] for one in d.room.history()]
    first = await d.client.conversations_history(channel=GENERAL, limit=5)
    d.act("post")
    cursor = first["response_metadata"]["next_cursor"]
    second = await d.client.conversations_history(channel=GENERAL, limit=5, cursor=cursor)
    assert [one["ts"] for one in (*first["messages"], *second["messages"])] == before[:10]


async def test_a_cursor_serves_its_query_for_a_while_and_ends_empty_or_absent(desk: Any) -> None:
    d = await desk()
    page = await d.client.users_list(limit=5)
    cursor = page["response_metadata"]["next_cursor"]
    assert await code(d.client.users_list(limit=4, cursor=cursor)) == "invalid_cursor"
    assert await code(d.client.users_list(limit=5, cursor=cursor[:-6])) == "invalid_cursor"
    d.box.world.clock.advance(timedelta(hours=2))
    assert await code(d.client.users_list(limit=5, cursor=cursor)) == "invalid_cursor"
    assert (await d.client.users_list(limit=200))["response_metadata"] == {"next_cursor": ""}
    d = await desk(switches={"slack.metadata_absent_at_end": "on"})
    assert "response_metadata" not in (await d.client.users_list(limit=200)).data


async def test_blocks_without_an_id_get_a_new_one_on_each_call(desk: Any) -> None:
    d = await desk()
    new = d.act("post", text="hello <@U1>")
    window = {"channel": GENERAL, "oldest": new["ts"], "inclusive": True}
    ids = [(await d.client.conversations_history(**window))["messages"][0]["blocks"][0]["block_id"] for _ in range(2)]
    assert ids[0] != ids[1]


async def test_the_parent_counts_its_replies_and_becomes_a_tombstone_until_the_last_goes(desk: Any) -> None:
    d = await desk()
    ts = d.act("post")["ts"]
    replies = [d.act("reply", ts=ts)["ts"] for _ in range(2)]
    parent = d.room.messages[ts]
    assert (parent["reply_count"], parent["latest_reply"]) == (2, replies[1])
    d.act("delete", ts=replies[1])
    assert (d.room.messages[ts]["reply_count"], d.room.messages[ts]["latest_reply"]) == (1, replies[0])
    d.act("delete", ts=ts)
    tombstone = (await d.client.conversations_history(channel=GENERAL, limit=1))["messages"][0]
    assert (tombstone["subtype"], tombstone["ts"], tombstone["reply_count"]) == ("tombstone", ts, 1)
    d.act("delete", ts=replies[0])
    assert ts not in d.room.messages


async def test_an_edit_keeps_the_ts(desk: Any) -> None:
    d = await desk()
    ts = d.act("post", text="a")["ts"]
    d.act("edit", ts=ts, text="b")
    message = (await d.client.conversations_history(channel=GENERAL, limit=1))["messages"][0]
    assert (message["ts"], message["text"], message["edited"]["ts"] >= ts) == (ts, "b", True)


async def test_membership_decides_what_a_bot_may_read(desk: Any) -> None:
    d = await desk()
    assert await code(d.client.conversations_history(channel=OUTSIDE)) == "not_in_channel"
    assert await code(d.client.conversations_history(channel=BOARD)) == "channel_not_found"
    assert await code(d.client.conversations_replies(channel=OUTSIDE, ts="1.000000")) == "channel_not_found"
    assert (await d.client.conversations_info(channel=OUTSIDE))["channel"]["is_member"] is False
    types = "public_channel,private_channel,mpim,im"
    mine = {one["id"] for one in await listed(d.client.users_conversations(types=types), "channels")}
    seen = {one["id"]: one for one in await listed(d.client.conversations_list(types=types), "channels")}
    assert OUTSIDE in seen
    assert OUTSIDE not in mine
    assert BOARD not in seen
    user = d.with_token(d.install.token.replace("xoxb", "xoxp"))
    assert (await user.conversations_history(channel=OUTSIDE))["ok"]


async def test_joining_is_idempotent_and_for_open_public_channels(desk: Any) -> None:
    d = await desk()
    assert "warning" not in (await d.client.conversations_join(channel=OUTSIDE)).data
    assert (await d.client.conversations_join(channel=OUTSIDE))["warning"] == "already_in_channel"
    assert await code(d.client.conversations_join(channel="G000000005")) == "method_not_supported_for_channel_type"
    assert await code(d.client.conversations_join(channel=ARCHIVED)) == "is_archived"


async def test_the_token_comes_by_header_or_form_never_by_query(desk: Any) -> None:
    d = await desk()
    token = {"token": d.install.token}
    assert (await d.plain("GET", "auth.test", params=token))[1]["error"] == "not_authed"
    response, answer = await d.plain("POST", "auth.test", data=token)
    assert (answer["ok"], answer["team"], answer["bot_id"][0]) == (True, "Acme", "B")
    assert "channels:history" in response.headers["x-oauth-scopes"]
    assert response.headers["content-type"] == "application/json; charset=utf-8"
    headers = {"Authorization": f"Bearer {d.install.token}"}
    sent = await d.plain("POST", "conversations.history", json={"channel": GENERAL, "limit": 1}, headers=headers)
    assert len(sent[1]["messages"]) == 1
    assert (await d.plain("GET", "no.such", headers=headers))[1]["error"] == "unknown_method"
    assert await code(d.with_token("xoxb-wrong").auth_test()) == "invalid_auth"


async def test_a_missing_scope_is_named_with_those_there(desk: Any) -> None:
    d = await desk()
    d.act("scopes", scopes=["channels:read"])
    with pytest.raises(SlackApiError) as refused:
        await d.client.users_conversations(types="public_channel,im")
    answer = refused.value.response.data
    assert (answer["error"], answer["needed"], answer["provided"]) == ("missing_scope", "im:read", "channels:read")


@pytest.mark.parametrize("error", ["token_revoked", "account_inactive", "invalid_auth"])
async def test_a_revoked_workspace_refuses_until_restored(desk: Any, error: str) -> None:
    d = await desk()
    d.act("revoke", error=error)
    assert await code(d.client.users_list()) == error
    d.act("restore")
    assert (await d.client.users_list())["ok"]


@pytest.mark.parametrize(
    ("form", "body"), [("json", '{"ok":false,"error":"ratelimited"}'), ("empty", ""), ("text", "Too many requests")]
)
async def test_past_a_tier_a_method_answers_429_with_whole_seconds(desk: Any, form: str, body: str) -> None:
    d = await desk(limits=True, switches={"slack.429": form})
    for _ in range(20):
        await d.client.users_list()
    headers = {"Authorization": f"Bearer {d.install.token}"}
    response, text = await d.plain("GET", "users.list", headers=headers)
    assert (response.status, text, 1 <= int(response.headers["Retry-After"]) <= 60) == (429, body, True)
    assert (await d.client.conversations_history(channel=GENERAL))["ok"]  # each method has its own
    d.box.world.clock.advance(timedelta(minutes=1))
    assert (await d.client.users_list())["ok"]


async def test_a_restricted_app_reads_15_objects_once_a_minute(desk: Any) -> None:
    d = await desk(limits=True, switches={"slack.restricted": "on"})
    page = await d.client.conversations_history(channel=GENERAL, limit=200)
    assert (len(page["messages"]), page["has_more"]) == (15, True)
    with pytest.raises(SlackApiError) as refused:
        await d.client.conversations_history(channel=GENERAL)
    assert refused.value.response.status_code == 429


async def test_a_rotating_token_ends_after_12_hours_and_its_refresh_token_serves_once(desk: Any) -> None:
    d = await desk()
    held = d.act("rotate")
    assert await code(d.client.auth_test()) == "token_revoked"  # the long-lived one was exchanged
    assert (await d.with_token(held["access_token"]).auth_test())["ok"]
    d.box.world.clock.advance(timedelta(hours=12, minutes=1))
    assert await code(d.with_token(held["access_token"]).auth_test()) == "token_expired"
    assert (await d.refresh(held["refresh_token"], "wrong"))["error"] == "bad_client_secret"
    new = await d.refresh(held["refresh_token"])
    assert (new["expires_in"], (await d.with_token(new["access_token"]).auth_test())["ok"]) == (43200, True)
    assert (await d.refresh(held["refresh_token"]))["ok"]  # within the grace
    d.box.world.clock.advance(timedelta(minutes=2))
    assert (await d.refresh(held["refresh_token"]))["error"] == "invalid_refresh_token"


async def test_two_access_tokens_live_at_most(desk: Any) -> None:
    d = await desk()
    first = held = d.act("rotate")
    for _ in range(2):
        held = await d.refresh(held["refresh_token"])
    assert await code(d.with_token(first["access_token"]).auth_test()) == "token_revoked"
    assert (await d.with_token(held["access_token"]).auth_test())["ok"]


async def test_the_same_seed_and_moment_give_the_same_slack(sandbox: Any) -> None:
    now, worlds = datetime(2026, 3, 4, 12, tzinfo=UTC), []
    for seed in (1, 1, 2):
        world = World(Options(seed=seed, workspaces=2), Clock(now))
        world.born = now
        from syncd.sandbox.slack import Slack

        worlds.append(Slack(world).truth("northwind", None))
    assert worlds[0] == worlds[1] != worlds[2]


async def test_the_last_day_has_a_good_share_of_talk_and_of_oddities(desk: Any) -> None:
    d = await desk()
    rooms = [room for room in d.office.rooms.values() if room.member]
    yesterday = f"{(d.box.world.born - timedelta(days=1)).timestamp():.6f}"
    recent = [one for room in rooms for one in room.history() if one["ts"] >= yesterday]
    assert 7 <= sum(bool(one.get("reply_count")) for one in recent) <= 16
    assert {"bot_message", "tombstone", "thread_broadcast"} <= {one.get("subtype") for one in recent}
    assert any(one.get("files") for one in recent)
    assert any(one.get("edited") for one in recent)
    assert any(one.get("reactions") for one in recent)
    assert {room.plan.kind for room in rooms} == {"public", "private", "im", "mpim"}


@pytest.mark.parametrize(("form", "error"), [("Bearer {}", None), ("{}", "not_authed"), ("Basic {}", "not_authed")])
async def test_a_token_is_taken_only_with_its_scheme(desk: Any, form: str, error: str | None) -> None:
    d = await desk()
    headers = {"Authorization": form.format(d.install.token)}
    assert (await d.plain("GET", "auth.test", headers=headers))[1].get("error") == error
