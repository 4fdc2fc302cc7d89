"""Slack's source: selected channels that are closed to us, and answers of our own choice."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from sqlalchemy import update

from syncd import tables
from syncd.sandbox.world import Options
from tests.sources.test_slack import act, live

REPLY = {"thread_ts": "1700000001.000100", "text": "hi"}


@asynccontextmanager
async def serving(answer: Any) -> AsyncIterator[TestServer]:
    """A vendor of a few lines."""
    app = web.Application()
    app.add_routes([web.route("*", "/api/{method}", answer)])
    async with TestServer(app) as server:
        yield server


async def scripted(reader: Any, server: TestServer, **given: Any) -> Any:
    given = {"credentials": {"token": "x"}, **given}
    return await reader("slack", box=server, base_url=str(server.make_url("/api/")), **given)


async def rooms_of_two_kinds(reader: Any) -> tuple[Any, str, str]:
    """A reader of a private and a public channel whose token may see the public one alone."""
    r = await reader("slack")
    rooms = [room for room in r.box.slack._installs["acme"].office.rooms.values() if room.member]
    private, public = (next(room.id for room in rooms if room.plan.kind == kind) for kind in ("private", "public"))
    r = await reader("slack", box=r.box, settings={"channels": [private, public]})
    act(r, "scopes", scopes=["channels:read", "channels:history", "users:read"])
    return r, private, public


async def test_a_selected_channel_without_its_scope_stops_no_other(reader: Any) -> None:
    r, _, public = await rooms_of_two_kinds(reader)
    await r.run()
    assert {row["conversation_id"] for row in await r.rows("messages")} == {public}


async def test_a_selected_channel_without_its_scope_is_told_in_every_cycle(reader: Any) -> None:
    r, private, _ = await rooms_of_two_kinds(reader)
    for _ in range(2):
        assert [failure["kind"] for failure in (await r.run())["failures"]] == ["misconfigured"]
        async with r.parts.store.database.write() as session:  # as a person does who mended something else
            await session.execute(update(tables.connections).values(status="ok"))
    assert [row["external_id"] for row in await r.backlog()] == [private]


async def test_a_person_who_cannot_join_a_channel_reads_it_all_the_same(reader: Any, sandbox: Any) -> None:
    box = await sandbox(Options(workspaces=1, limits=False))
    token = next(one for one in box.slack._installs["acme"].access if one.startswith("xoxp-"))
    settings = {"channels": ["C000000004"], "join": True}
    r = await reader("slack", box=box, credentials={"token": token}, settings=settings)
    act(r, "fail", method="conversations.join", error="method_not_supported_for_channel_type")
    assert (await r.run())["failures"] == []
    assert {row["conversation_id"] for row in await r.rows("messages")} == {"C000000004"}


async def test_a_missing_scope_to_join_stops_no_other_channel_and_is_told(reader: Any) -> None:
    r = await reader("slack", settings={"channels": ["C000000004", "C000000000"], "join": True})
    act(r, "scopes", scopes=["channels:read", "channels:history", "users:read"])
    [failure] = (await r.run())["failures"]
    held = {row["conversation_id"] for row in await r.rows("messages")}
    assert ("channels:join" in failure["error"], held) == (True, {"C000000000"})


async def test_a_thread_of_a_deleted_parent_that_was_cut_is_read_again(reader: Any, sandbox: Any) -> None:
    """Its pages may come newest first: only as many replies as the tombstone tells of prove that it was read."""
    pages = [{"messages": [REPLY | {"ts": "1700000003.000100"}], "response_metadata": {"next_cursor": "older"}}, None]
    tombstone = {"ts": REPLY["thread_ts"], "thread_ts": REPLY["thread_ts"], "subtype": "tombstone", "reply_count": 2}
    answers: dict[str, Any] = {
        "users.list": {"members": []},
        "conversations.info": {"channel": {}},
        "conversations.history": {"messages": [tombstone | {"latest_reply": "1700000003.000100"}]},
    }
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        method = request.match_info["method"]
        asked.append(method)
        found = pages[bool(request.query.get("cursor"))] if method.endswith("replies") else answers[method]
        return web.json_response({"ok": True, **found}) if found else web.Response(status=500)

    async with serving(answer) as server:
        r = await scripted(reader, server, settings={"channels": ["C1"]})
        await r.run()
        assert await live(r, "messages") == ["C1:1700000003.000100"]
        assert [row["external_id"] for row in await r.backlog()] == [f"C1:{REPLY['thread_ts']}"]
        pages[1] = {"messages": [REPLY | {"ts": "1700000002.000100"}]}
        await r.run()
    assert await live(r, "messages") == ["C1:1700000002.000100", "C1:1700000003.000100"]


async def test_a_selected_conversation_without_an_id_keeps_the_one_that_we_asked_for(reader: Any) -> None:
    answers: dict[str, Any] = {
        "users.list": {"members": []},
        "conversations.info": {"channel": {"id": None, "name": "x"}},
        "conversations.history": {"messages": []},
    }

    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"ok": True, **answers[request.match_info["method"]]})

    async with serving(answer) as server:
        r = await scripted(reader, server, settings={"channels": ["C1"]})
        await r.run()
    assert await live(r, "conversations") == ["C1"]


@pytest.mark.parametrize("life", [10**30, -(10**30)])
async def test_a_senseless_life_of_a_token_is_no_defect(reader: Any, life: int) -> None:
    answers: dict[str, Any] = {"oauth.v2.access": {"access_token": "b", "expires_in": life}}

    async def answer(request: web.Request) -> web.Response:
        body = {"ok": True, "members": [], "channels": [], **answers.get(request.match_info["method"], {})}
        return web.Response(text=json.dumps(body), content_type="application/json")

    async with serving(answer) as server:
        pair = {"refresh_token": "r", "client_id": "i", "client_secret": "s"}
        r = await scripted(reader, server, credentials={"access_token": "", **pair})
        assert (await r.run())["failures"] == []
