"""Answers whose values are null or of another type: nothing stored is taken for deleted, nothing unread for read."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import orjson
import pytest
import pytest_asyncio
from aiohttp import web

from syncd.sandbox.faults import Fault
from syncd.sandbox.world import Options
from syncd.sources.fathom_meetings import turns
from tests.sources.gmail_canned import cursors, live, mail, served  # noqa: F401 - the fixture

# ruff: noqa: F811 - a fixture that is imported is named again where it is used

SMALL = Options(
    workspaces=2, days=1, channels=1, messages_per_day=9, calls_per_day=4, meetings_per_day=2, mails_per_day=4,
    page_size=3, limits=False,
)  # fmt: skip
KINDS = ("conversations", "messages", "meetings", "transcripts")


def named(n: str) -> dict[str, Any]:
    return {"message": {"id": n, "threadId": n, "labelIds": ["INBOX"]}}


@pytest.mark.parametrize("kind", ["wrong-types", "nulls"])
@pytest.mark.parametrize("source", ["slack", "gong", "fathom", "gmail"])
async def test_what_is_stored_outlives_a_sweep_of_alien_answers(
    reader: Any, sandbox: Any, source: str, kind: str
) -> None:
    r = await reader(source, box=await sandbox(SMALL))
    await r.run()
    before = {table: await live(r, table) for table in KINDS}
    r.box.world.faults.rules.append(Fault(kind, source))
    status = await r.run(sweep=True)
    assert status["failures"] == [] or status["failures"][0]["kind"] == "transient"
    for table, ids in before.items():
        assert set(ids) <= set(await live(r, table))


@pytest_asyncio.fixture
async def slack(reader: Any) -> AsyncIterator[Callable[[dict[str, Any]], Awaitable[Any]]]:
    """``await slack(answers)``: a reader of canned answers, by method."""
    runners = []

    async def start(answers: dict[str, Any]) -> Any:
        async def answer(request: web.Request) -> web.Response:
            body = answers[request.match_info["method"]]
            return web.Response(body=orjson.dumps({"ok": True, **body}), content_type="application/json")

        app = web.Application()
        app.add_routes([web.route("*", "/api/{method}", answer)])
        runners.append(runner := web.AppRunner(app, access_log=None))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        base = f"http://127.0.0.1:{runner.addresses[0][1]}/api/"
        return await reader("slack", box=object(), base_url=base, credentials={"token": "x"})

    yield start
    for runner in runners:
        await runner.cleanup()


@pytest.mark.parametrize("odd", [{"ts": None}, {"ts": "soon"}, None, "message"])
async def test_a_message_that_cannot_be_told_may_be_any_that_is_stored(slack: Any, odd: object) -> None:
    stamps = [f"{time.time() - at:.0f}.000000" for at in (100, 200)]
    answers: dict[str, Any] = {
        "users.list": {"members": []},
        "users.conversations": {"channels": [{"id": "C1"}]},
        "conversations.history": {"messages": [{"ts": ts} for ts in stamps]},
    }
    r = await slack(answers)
    await r.run()
    answers["conversations.history"] = {"messages": [{"ts": stamps[0]}, odd]}
    assert (await r.run())["failures"] == []
    assert {f"C1:{ts}" for ts in stamps} <= set(await live(r, "messages"))


async def test_a_thread_with_a_reply_that_cannot_be_told_loses_none(slack: Any) -> None:
    ts, reply = (f"{time.time() - at:.0f}.000000" for at in (100, 50))
    parent = {"ts": ts, "thread_ts": ts, "reply_count": 1, "latest_reply": reply}
    answers: dict[str, Any] = {
        "users.list": {"members": []},
        "users.conversations": {"channels": [{"id": "C1"}]},
        "conversations.history": {"messages": [parent]},
        "conversations.replies": {"messages": [parent, {"ts": reply, "thread_ts": ts}]},
    }
    r = await slack(answers)
    await r.run()
    answers["conversations.history"] = {"messages": [parent | {"reply_count": 0, "latest_reply": None}]}
    answers["conversations.replies"] = {"messages": [parent, {"ts": None, "thread_ts": ts}]}
    assert (await r.run())["failures"] == []
    assert f"C1:{reply}" in await live(r, "messages")


@pytest.mark.parametrize(
    "history",
    [
        [{"id": "11", "messagesAdded": [{"message": {"id": None, "threadId": "m"}}]}],
        [{"id": "11", "messagesAdded": [None]}],
        [{"id": "11", "messagesAdded": {"0": named("m")}}],
        [{"id": None, "messagesAdded": [named("m")]}],
        ["m"],
        None,
        {"0": {}},
    ],
    ids=["no message id", "no entry", "an object for a list", "no record id", "text", "null", "an object"],
)
async def test_a_history_that_cannot_be_read_is_not_passed_over(served: Any, history: object) -> None:
    r = await served({})
    await r.run()
    r.canned |= {"history": {"history": history, "historyId": "12"}, "threads/m": {"id": "m", "messages": [mail("m")]}}
    failure = (await r.run())["failures"][0]
    assert (failure["kind"], (await cursors(r, "threads"))[""]) == ("transient", "10")
    r.canned["history"] = {"history": [{"id": "11", "messagesAdded": [named("m")]}], "historyId": "12"}
    assert (await r.run())["failures"] == []
    assert (await live(r), (await cursors(r, "threads"))[""]) == (["m"], "12")


@pytest.mark.parametrize(
    "odd",
    [
        {"id": None},
        {"historyId": 3},
        {"payload": None},
        {"payload": {"headers": {}}},
        {"payload": {"parts": [{"body": []}]}},
        {"labelIds": {}},
    ],
    ids=str,
)
async def test_a_mail_of_another_form_waits_and_deletes_nothing(served: Any, odd: dict[str, Any]) -> None:
    """Nothing would bring it again: a mail is read when history names it."""
    given = {"id": "m", "messages": [mail("m"), mail("n", thread="m")]}
    r = await served({"threads": {"threads": [{"id": "m"}]}, "threads/m": given})
    await r.run()
    r.canned["history"] = {"history": [{"id": "11", "messagesAdded": [named("m")]}], "historyId": "12"}
    r.canned["threads/m"] = {"id": "m", "messages": [mail("m", history="11"), mail("n", thread="m") | odd]}
    await r.run()
    assert (await live(r), [item["external_id"] for item in await r.backlog()]) == (["m", "n"], ["m"])


async def test_an_id_with_half_a_character_is_no_defect_of_ours(served: Any) -> None:
    r = await served({})
    await r.run()
    r.canned["history"] = {"history": [{"id": "11", "messagesAdded": [named("m\ud800")]}], "historyId": "12"}
    assert (await r.run())["failures"] == []


async def test_a_profile_whose_history_id_is_no_text_begins_nothing(served: Any) -> None:
    r = await served({"profile": {"emailAddress": "a@b.example", "historyId": 5}})
    assert (await r.run())["failures"][0]["kind"] == "transient"
    assert await cursors(r, "threads") == {}


async def test_a_stale_page_token_of_gmails_listing_starts_it_again_once(reader: Any, sandbox: Any) -> None:
    r = await reader("gmail", box=await sandbox(SMALL))
    r.box.world.faults.rules.append(Fault("expired-cursor", "gmail", "threads.list", times=1))
    assert (await r.run())["failures"] == []
    assert len(await live(r, "conversations")) == 5
    assert await r.backlog() == []


async def test_a_stale_page_token_of_gmails_history_loses_nothing(reader: Any, sandbox: Any) -> None:
    r = await reader("gmail", box=await sandbox(SMALL))
    await r.run()
    made = {r.box.gmail.act("acme", "add", {"subject": f"s{at}"})["id"] for at in range(7)}
    r.box.world.faults.rules.append(Fault("expired-cursor", "gmail", "history.list", times=1))
    assert (await r.run())["failures"][0]["kind"] == "transient"
    assert (await r.run())["failures"] == []
    assert made <= set(await live(r))


async def test_a_fathom_listing_whose_tokens_are_always_stale_is_a_passing_fault(reader: Any, sandbox: Any) -> None:
    box = await sandbox(Options(workspaces=1, days=1, meetings_per_day=4, page_size=2, limits=False))
    r = await reader("fathom", box=box)
    r.box.world.faults.rules.append(Fault("expired-cursor", "fathom", "meetings"))
    assert (await r.run())["failures"][0]["kind"] == "transient"


@pytest.mark.parametrize("said", [None, {}, [None], [{"text": None, "speaker": {}}], [{"text": "x", "speaker": []}]])
def test_a_transcript_of_another_form_is_not_there_yet(said: object) -> None:
    assert turns(said) == []


async def test_a_fathom_transcript_of_another_form_is_asked_for_again(reader: Any, sandbox: Any) -> None:
    box = await sandbox(SMALL)
    r = await reader("fathom", box=box, workspace="northwind", one_clock=True)
    r.box.world.clock.advance(timedelta(hours=1))
    r.box.world.faults.rules.append(Fault("nulls", "fathom", "recordings/transcript"))
    await r.run()
    assert await live(r, "transcripts") == []
    r.box.world.faults.rules.clear()
    r.box.world.clock.advance(timedelta(hours=1))
    await r.run()
    assert await live(r, "transcripts") == await live(r, "meetings") != []
