"""Recorded answers of the live service, read through the whole engine."""

from __future__ import annotations

import html
from pathlib import Path

import orjson
import pytest
import pytest_asyncio
from aiohttp import web

from tests.sources.conftest import reader  # noqa: F401 - the fixture

RECORDINGS = Path(__file__).resolve().parents[2] / "shared" / "recordings" / "gmail"

pytestmark = pytest.mark.skipif(not RECORDINGS.exists(), reason="the recordings of live answers are not here")


def recorded(name: str):
    return orjson.loads((RECORDINGS / name).read_bytes())


async def threads_list(request: web.Request) -> web.Response:
    found = [
        one for one in recorded("threads.list.json")["threads"] if request.query["labelIds"] in labels_of(one["id"])
    ]
    return web.json_response({"threads": found[: int(request.query["maxResults"])], "resultSizeEstimate": 201})


def labels_of(thread: str) -> set[str]:
    return {label for one in recorded(f"threads/{thread}.json")["messages"] for label in one["labelIds"]}


async def history(request: web.Request) -> web.Response:
    start = int(request.query["startHistoryId"])
    answer = recorded("history.list.json")
    later = [one for one in answer["history"] if int(one["id"]) > start]
    current = max(start, int(answer["historyId"]))
    return web.json_response({"historyId": str(current)} | ({"history": later} if later else {}))


async def token(_: web.Request) -> web.Response:
    return web.json_response({"access_token": "a", "expires_in": 3599, "token_type": "Bearer"})


@pytest_asyncio.fixture
async def recorded_reader(reader):  # noqa: F811
    """A reader of the recordings; ``start``: the history id that the profile tells."""
    runners = []

    async def make(start: str | None = None, **more):
        async def profile(_: web.Request) -> web.Response:
            return web.json_response(recorded("profile.json") | ({"historyId": start} if start else {}))

        async def labels(_: web.Request) -> web.Response:
            return web.json_response(recorded("labels.list.json"))

        async def thread(request: web.Request) -> web.Response:
            return web.json_response(recorded(f"threads/{request.match_info['id']}.json"))

        base = "/gmail/v1/users/me/"
        app = web.Application()
        app.add_routes(
            [
                web.post("/token", token),
                web.get(base + "profile", profile),
                web.get(base + "labels", labels),
                web.get(base + "threads", threads_list),
                web.get(base + "threads/{id}", thread),
                web.get(base + "history", history),
            ]
        )
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        runners.append(runner)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        secret = {"refresh_token": "r", "client_id": "c", "client_secret": "s"}
        return await reader("gmail", box=object(), base_url=url, token_url=f"{url}/token", credentials=secret, **more)

    yield make
    for runner in runners:
        await runner.cleanup()


def messages(threads: list[str]) -> dict[str, dict]:
    return {one["id"]: one for thread in threads for one in recorded(f"threads/{thread}.json")["messages"]}


async def test_every_recorded_thread_is_stored_and_readable(recorded_reader):
    """All labels that the recorded threads carry are selected: 24 threads, each message with what it has to show."""
    labels = ["INBOX", "SENT", "DRAFT", "CATEGORY_UPDATES"]
    threads = [one["id"] for one in recorded("threads.list.json")["threads"]]
    r = await recorded_reader(
        settings={"labels": labels}, overrides={"threads_per_label": 50, "limits": {"units": "100000/1m"}}
    )
    status = await r.run()
    assert status["failures"] == []
    assert [row["external_id"] for row in await r.rows("conversations")] == sorted(threads)
    rows = {row["external_id"]: row for row in await r.rows("messages")}
    assert len(threads) == 24
    assert rows.keys() == messages(threads).keys()
    for one, raw in messages(threads).items():
        row = rows[one]
        assert row["raw"] == raw
        assert row["author_id"], "every recorded mail has a From"
        assert row["sent_at"]
        assert bool(row["text"]) is bool(html.unescape(raw["snippet"]).strip("͏\u200c\ufeff \xa0"))
        assert "&#39;" not in (row["text"] or "")


async def test_a_second_run_over_the_recordings_changes_nothing(recorded_reader):
    r = await recorded_reader(overrides={"threads_per_label": 50, "limits": {"units": "100000/1m"}})
    await r.run()
    before = [await r.rows("messages"), await r.rows("conversations"), await r.rows("cursors")]
    second = await r.run()
    assert (second["added"], second["changed"], second["deleted"], second["calls"]) == (0, 0, 0, 1)
    assert [await r.rows("messages"), await r.rows("conversations"), await r.rows("cursors")] == before


async def test_the_recorded_history_leads_to_the_threads_that_it_names(recorded_reader):
    """Five threads are read first; the history from 86178 on names others, some in records without any type."""
    r = await recorded_reader("86178", overrides={"threads_per_label": 1})
    await r.run()
    stored = {row["external_id"] for row in await r.rows("conversations")}
    first = recorded("threads.list.json")["threads"][0]["id"]
    assert stored == {first, "19dda5cb6f806160", "19dda58832469c79"}
