"""Slack's source: what a reader holds after cycles against the sandbox."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from sqlalchemy import update

from syncd import tables
from syncd.sandbox.world import Options
from syncd.sources.slack import SOURCE
from syncd.store import Line

DAY = timedelta(hours=24)


def truth(r: Any, lookback: timedelta = DAY) -> Any:
    return r.box.slack.truth("acme", datetime.now(UTC) - lookback)


async def live(r: Any, table: str) -> list[str]:
    return [row["external_id"] for row in await r.rows(table) if row["deleted_at"] is None]


async def one(r: Any, external_id: str) -> dict[str, Any]:
    return next(row for row in await r.rows("messages") if row["external_id"] == external_id)


def act(r: Any, action: str, **body: Any) -> Any:
    return r.box.slack.act("acme", action, body)


def calls(r: Any, method: str) -> int:
    return r.box.world.counts["slack", method]


async def test_a_first_cycle_holds_the_truth_and_a_second_changes_no_row(reader: Any) -> None:
    r = await reader("slack")
    first = await r.run()
    assert (first["failed_workspaces"], first["calls"] < 40) == (0, True)
    for kind, ids in truth(r).items():
        assert await live(r, kind) == ids
    second = await r.run()
    assert (second["added"], second["changed"], second["deleted"]) == (0, 0, 0)
    assert second["calls"] == len(truth(r)["conversations"])  # one per channel


async def test_the_sdk_writes_out_no_answer_whatever_the_logs_level(reader: Any, caplog: Any) -> None:
    for name in (None, "slack_sdk", "slack_sdk.web.async_base_client"):
        caplog.set_level(logging.DEBUG, logger=name)
    r = await reader("slack")
    await r.run()
    said = [row["text"] for row in await r.rows("messages")]
    lines = " ".join(one.getMessage() for one in caplog.records if one.name != "aiosqlite")
    assert said
    assert not [text for text in said if text in lines]


async def test_small_pages_and_rare_ways_to_end_a_listing_lose_nothing(reader: Any, sandbox: Any) -> None:
    switches = {"slack.metadata_absent_at_end": "on", "slack.short_pages": "on", "slack.parent_on_pages": "first"}
    r = await reader("slack", box=await sandbox(Options(workspaces=1, limits=False, page_size=3, switches=switches)))
    await r.run()
    assert await live(r, "messages") == truth(r)["messages"]


async def test_changes_within_the_window_arrive(reader: Any) -> None:
    r = await reader("slack")
    await r.run()
    new = act(r, "post", text="fresh")
    key = f"{new['channel']}:{new['ts']}"
    await r.run()
    replied = act(r, "reply", ts=new["ts"], text="late answer")
    act(r, "edit", ts=new["ts"], text="fresher")
    status = await r.run()
    assert (status["added"], status["changed"]) == (1, 1)
    assert (await one(r, key))["text"] == "fresher"
    assert (await one(r, key))["edited_at"] is not None
    assert (await one(r, f"{new['channel']}:{replied['ts']}"))["thread_id"] == key
    act(r, "react", ts=new["ts"])
    assert (await r.run())["changed"] == 1


async def test_a_deleted_parent_keeps_its_content_and_its_thread_is_still_read(reader: Any) -> None:
    r = await reader("slack")
    new = act(r, "post", text="to be regretted")
    act(r, "reply", ts=new["ts"], text="really?")
    await r.run()
    act(r, "delete", ts=new["ts"])
    act(r, "reply", ts=new["ts"], text="too late")
    status = await r.run()
    gone = await one(r, f"{new['channel']}:{new['ts']}")
    assert (status["added"], status["deleted"], gone["text"]) == (1, 1, "to be regretted")
    assert gone["deleted_at"] is not None
    again = await r.run()
    assert (again["added"], again["changed"], again["deleted"]) == (0, 0, 0)


@pytest.mark.parametrize("page_size", [0, 1])
async def test_a_broadcast_does_not_hide_the_other_replies_of_a_deleted_parent(
    reader: Any, sandbox: Any, page_size: int
) -> None:
    """History gives it in any case, so that it is held does not prove that the thread was read."""
    r = await reader("slack", box=await sandbox(Options(workspaces=1, limits=False, page_size=page_size)))
    new = act(r, "post", text="to be regretted")
    quiet = act(r, "reply", ts=new["ts"], text="only in the thread")
    act(r, "reply", ts=new["ts"], text="to everybody", broadcast=True)
    act(r, "delete", ts=new["ts"])
    await r.run()
    assert f"{new['channel']}:{quiet['ts']}" in await live(r, "messages")


async def test_an_outage_longer_than_the_lookback_loses_nothing(reader: Any) -> None:
    r = await reader("slack", lookback="1s", overrides={"sweep_lookback": "2s"})
    await r.run()
    new = [act(r, "post", text=f"while we were away {n}") for n in range(3)]
    await r.run()
    assert {f"{post['channel']}:{post['ts']}" for post in new} <= set(await live(r, "messages"))


async def test_a_sweep_reads_threads_again_whose_counters_did_not_move(reader: Any) -> None:
    r = await reader("slack")
    new = act(r, "post")
    reply = act(r, "reply", ts=new["ts"], text="first words")
    await r.run()
    act(r, "edit", ts=reply["ts"], text="better words")
    await r.run()
    key = f"{reply['channel']}:{reply['ts']}"
    assert (await one(r, key))["text"] == "first words"
    await r.run(sweep=True)
    assert (await one(r, key))["text"] == "better words"


async def test_a_channel_that_cannot_be_read_waits_in_the_backlog_and_stops_no_other(reader: Any) -> None:
    r = await reader("slack", settings={"channels": ["C000000000", "C000000004", "C0NOWHERE0"]})
    status = await r.run()
    assert status["failed_workspaces"] == 0
    assert {(row["stream"], row["external_id"]) for row in await r.backlog()} == {
        ("conversations", "C0NOWHERE0"),
        ("messages", "C000000004"),
    }
    assert all("/invite" in row["reason"] for row in await r.backlog())
    assert {row["conversation_id"] for row in await r.rows("messages")} == {"C000000000"}
    act(r, "invite", channel="C000000004")
    await r.run()
    assert [row["external_id"] for row in await r.backlog()] == ["C0NOWHERE0"]


async def test_joining_is_only_done_when_asked_for(reader: Any) -> None:
    r = await reader("slack", settings={"channels": ["C000000004"], "join": True})
    await r.run()
    assert calls(r, "conversations.join") == 1
    assert {row["conversation_id"] for row in await r.rows("messages")} == {"C000000004"}
    assert await r.backlog() == []


async def test_kinds_without_a_scope_are_left_out_and_none_at_all_needs_a_person(reader: Any) -> None:
    r = await reader("slack")
    act(r, "scopes", scopes=["users:read", "channels:read", "channels:history"])
    assert (await r.run())["failed_workspaces"] == 0
    assert {row["kind"] for row in await r.rows("conversations")} == {"channel"}
    r = await reader("slack")
    act(r, "scopes", scopes=["users:read"])
    failure = (await r.run())["failures"][0]
    assert (failure["kind"], "channels:read" in failure["error"], "install" in failure["hint"]) == (
        "misconfigured",
        True,
        True,
    )


async def test_conversations_of_all_kinds_are_one_call(reader: Any) -> None:
    r = await reader("slack")
    await r.run()
    assert calls(r, "users.conversations") == 1
    assert {row["kind"] for row in await r.rows("conversations")} == {"channel", "group", "mpim", "im"}


@pytest.mark.parametrize("refusal", ["missing_scope", "method_not_supported_for_channel_type"])
async def test_a_kind_that_is_refused_is_left_out_though_slack_does_not_tell_the_scopes(
    reader: Any, refusal: str
) -> None:
    async def answer(request: web.Request) -> web.Response:
        body: dict[str, Any] = {"ok": True, "members": [], "messages": []}
        if request.match_info["method"] == "users.conversations":
            kinds = request.query["types"].split(",")
            body = {"ok": True, "channels": [{"id": f"C-{kinds[0]}"}] if kinds != ["im"] else []}
            if len(kinds) > 1 or (kinds == ["im"] and refusal == "missing_scope"):
                body = {"ok": False, "error": refusal}
        return web.Response(body=orjson.dumps(body), content_type="application/json")

    app = web.Application()
    app.add_routes([web.route("*", "/api/{method}", answer)])
    async with TestServer(app) as server:
        base = str(server.make_url("/api/"))
        r = await reader("slack", box=server, base_url=base, credentials={"token": "x"})
        assert (await r.run())["failures"] == []
    assert await live(r, "conversations") == ["C-mpim", "C-private_channel", "C-public_channel"]


async def test_a_missing_history_scope_stops_no_other_kind_and_is_told(reader: Any) -> None:
    r = await reader("slack")
    act(r, "scopes", scopes=["users:read", "channels:read", "channels:history", "im:read"])
    failure = (await r.run())["failures"][0]
    assert (failure["kind"], "im:history" in failure["error"]) == ("misconfigured", True)
    assert {row["conversation_id"] for row in await r.rows("messages")} >= {"C000000000", "C000000001", "C000000002"}


async def test_a_revoked_token_waits_for_a_person(reader: Any) -> None:
    r = await reader("slack")
    act(r, "revoke")
    failure = (await r.run())["failures"][0]
    assert (failure["kind"], "token_revoked" in failure["error"], bool(failure["hint"])) == ("auth", True, True)
    assert (await r.connection())["status"] == "needs_reauth"


async def test_an_expired_token_is_renewed_once_and_the_new_pair_serves_the_next_run(reader: Any, sandbox: Any) -> None:
    box = await sandbox(Options(workspaces=1, limits=False))
    credentials = box.slack.act("acme", "rotate", {})
    r = await reader("slack", box=box, credentials=credentials)
    await r.run()
    assert calls(r, "oauth.v2.access") == 0
    box.world.clock.advance(timedelta(hours=13))
    for _ in range(2):
        assert (await r.run())["failed_workspaces"] == 0
    assert calls(r, "oauth.v2.access") == 1


async def test_a_spent_refresh_token_waits_for_a_person(reader: Any, sandbox: Any) -> None:
    box = await sandbox(Options(workspaces=1, limits=False))
    credentials = box.slack.act("acme", "rotate", {}) | {
        "refresh_token": "xoxe-1-unknown",
        "expires_at": "2020-01-01T00:00:00Z",
    }
    r = await reader("slack", box=box, credentials=credentials)
    failure = (await r.run())["failures"][0]
    assert (failure["kind"], "xoxe" in str(failure)) == ("auth", False)


@pytest.mark.parametrize(
    "kind", ["500", "502", "503", "200-html", "200-empty", "429", "429-bare", "truncated", "reset"]
)
async def test_a_fault_at_a_channel_leaves_no_hole(reader: Any, kind: str) -> None:
    """A limit ends the run; of what fails in passing by itself the others are read all the same."""
    r = await reader("slack", overrides={"patience": "0s"})
    r.box.world.faults.add({"kind": kind, "method": "conversations.history", "skip": 2, "times": 1, "seconds": 30})
    status = await r.run()
    assert (status["failed_workspaces"], status["deferred_workspaces"]) == (0, kind.startswith("429"))
    assert len(await r.backlog()) == (not kind.startswith("429"))
    await r.after_the_limit()
    await r.run()
    assert await r.backlog() == []
    held = set(await live(r, "messages"))  # the second run begins a bit before where the first one did
    assert set(truth(r)["messages"]) <= held <= set(truth(r, DAY + timedelta(minutes=5, seconds=30))["messages"])


async def test_a_stale_page_token_starts_the_listing_again(reader: Any, sandbox: Any) -> None:
    r = await reader("slack", box=await sandbox(Options(workspaces=1, limits=False, page_size=5)))
    act(r, "fail", method="conversations.history", error="invalid_cursor", skip=1)
    assert (await r.run())["failed_workspaces"] == 0
    assert await live(r, "messages") == truth(r)["messages"]


async def test_page_tokens_that_are_always_stale_fail_the_run_and_forget_nothing(reader: Any, sandbox: Any) -> None:
    r = await reader("slack", box=await sandbox(Options(workspaces=1, limits=False)))
    await r.run()
    before = len(await r.rows("cursors"))
    r.box.world.options = Options(workspaces=1, limits=False, page_size=5, switches={"slack.cursor_life_s": "0"})
    assert (await r.run(sweep=True))["failures"][0]["kind"] == "transient"
    assert len(await r.rows("cursors")) == before


async def test_a_thread_that_is_refused_waits_in_the_backlog_with_its_parent_stored(reader: Any) -> None:
    r = await reader("slack", settings={"channels": ["C000000000"]})
    new = act(r, "post", text="opening")
    act(r, "reply", ts=new["ts"], text="answer")
    key = f"{new['channel']}:{new['ts']}"
    act(r, "fail", method="conversations.replies", error="list_record_comment_fetch_failed")
    assert (await r.run())["failed_workspaces"] == 0
    assert [row["external_id"] for row in await r.backlog()] == [key]
    assert key in await live(r, "messages")
    async with r.parts.store.database.write() as session:
        await session.execute(update(tables.backlog).values(next_try_at=datetime.now(UTC) - DAY))
    assert ((await r.run())["added"], await r.backlog()) == (1, [])


async def test_a_changed_selection_is_noticed_at_once(reader: Any) -> None:
    r = await reader("slack", settings={"channels": ["C000000000", "C0NOWHERE0"]})
    await r.run()
    line = next(line for line in r.box.connections() if line["source"] == "slack")
    settings = {"channels": ["C000000001"]}
    new = Line(workspace_id="acme", source="slack", account="", settings=settings, credentials=line["credentials"])
    await r.parts.store.connections.put([new], r.parts.vault.seal)
    await r.run()
    assert {row["conversation_id"] for row in await r.rows("messages")} == {"C000000000", "C000000001"}


async def test_null_absent_and_alien_answers_are_met(reader: Any) -> None:
    """Lists that are null, metadata that is a list, elements that are no objects, messages without a ts."""
    answers: dict[str, Any] = {
        "users.list": {
            "ok": True,
            "members": [None, 3, {"id": None}, {"id": "U1", "profile": None}],
            "response_metadata": [],
        },
        "users.conversations": {"ok": True, "channels": [{"id": "C1", "name": None}], "response_metadata": None},
        "conversations.history": {
            "ok": True,
            "messages": [{"ts": None}, {"ts": "1700000000.000100", "thread_ts": "1700000000.000100", "reply_count": 1}],
        },
        "conversations.replies": {"ok": True, "messages": None},
    }

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=orjson.dumps(answers[request.match_info["method"]]), content_type="application/json")

    app = web.Application()
    app.add_routes([web.route("*", "/api/{method}", answer)])
    async with TestServer(app) as server:
        base = str(server.make_url("/api/"))
        r = await reader("slack", box=server, base_url=base, credentials={"token": "x"})
        status = await r.run()
    assert (status["failed_workspaces"], await live(r, "messages"), await live(r, "people")) == (
        0,
        ["C1:1700000000.000100"],
        ["U1"],
    )


async def test_check_tells_who_we_are_and_what_is_wrong(reader: Any) -> None:
    r = await reader("slack", settings={"channels": ["C000000000", "C000000004", "C0NOWHERE0"]})
    act(r, "scopes", scopes=["users:read", "channels:read"])
    connection = await r.parts.store.connections.get(1)
    token = next(line for line in r.box.connections() if line["source"] == "slack")["credentials"]
    link = r.parts.engine.runs.link(r.parts.engine.plans["slack"], connection, token)
    async with SOURCE.connect(link) as api:
        report = await SOURCE.check(api)
    assert report.identity == "syncbot in Acme (acme.slack.com)"
    assert [what.split(":")[0] for what, _ in report.problems] == ["C000000004", "C0NOWHERE0", "no scope channels"]
    assert all(way for _, way in report.problems)
