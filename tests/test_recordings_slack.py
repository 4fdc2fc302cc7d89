"""Answers that the live Slack gave once, read through the source: all of it is there, and a second cycle changes nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.sources.conftest import reader  # noqa: F401 - the fixture

RECORDINGS = Path(__file__).resolve().parents[2] / "shared" / "recordings" / "slack"
CHANNEL = "C0AH33PLXSN"  # the one whose history was recorded, by what it pinned

pytestmark = pytest.mark.skipif(not RECORDINGS.is_dir(), reason=f"no recordings in {RECORDINGS}")


def recorded(method: str) -> Any:
    return orjson.loads((RECORDINGS / f"{method}.json").read_bytes())


@pytest_asyncio.fixture
async def replay() -> AsyncIterator[str]:
    """The recorded answers on loopback; what was recorded as a first page ends after it."""

    async def answer(request: web.Request) -> web.Response:
        method, query = request.match_info["method"], request.query
        body: Any = {"ok": False, "error": "unknown_method"}
        if method == "users.list":
            body = recorded(method)
        elif method == "users.conversations":
            body = recorded("conversations.list")
            body["channels"] = body["channels"] if "public_channel" in query["types"] else []
        elif method == "conversations.history":
            first = query["channel"] == CHANNEL and "cursor" not in query
            body = recorded(method) if first else {"ok": True, "messages": [], "has_more": False}
        elif method == "conversations.replies":
            body = recorded(method)
        return web.Response(body=orjson.dumps(body), content_type="application/json")

    app = web.Application()
    app.add_routes([web.route("*", "/api/{method}", answer)])
    async with TestServer(app) as server:
        yield str(server.make_url("/api/"))


async def test_the_recorded_workspace_is_read_in_full(reader: Any, replay: str) -> None:  # noqa: F811
    r = await reader("slack", box=object(), base_url=replay, credentials={"token": "x"}, lookback="3650d")
    first = await r.run()
    assert first["failures"] == []
    messages = {row["external_id"]: row for row in await r.rows("messages")}
    told = [*recorded("conversations.history")["messages"], *recorded("conversations.replies")["messages"]]
    assert set(messages) == {f"{CHANNEL}:{one['ts']}" for one in told}
    assert all(row["text"].strip() and row["sent_at"] for row in messages.values())
    assert {row["external_id"] for row in await r.rows("people")} == {
        one["id"] for one in recorded("users.list")["members"]
    }
    channels = recorded("conversations.list")["channels"]
    assert {row["external_id"]: row["name"] for row in await r.rows("conversations")} == {
        one["id"]: one["name"] for one in channels
    }
    threads = {row["thread_id"] for row in messages.values() if row["thread_id"]}
    assert threads == {f"{CHANNEL}:{recorded('conversations.replies')['messages'][0]['ts']}"}
    second = await r.run()
    assert (second["added"], second["changed"], second["deleted"]) == (0, 0, 0)


async def test_a_sweep_that_reads_all_again_changes_nothing(reader: Any, replay: str) -> None:  # noqa: F811
    """The copies in history and in replies differ in their block ids alone."""
    r = await reader(
        "slack",
        box=object(),
        base_url=replay,
        credentials={"token": "x"},
        lookback="3650d",
        overrides={"sweep_lookback": "3650d"},
    )
    await r.run()
    swept = await r.run(sweep=True)
    assert (swept["failures"], swept["added"], swept["changed"], swept["deleted"]) == ([], 0, 0, 0)
