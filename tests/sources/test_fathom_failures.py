"""The Fathom source when something goes wrong: at the vendor, on the way, or with one thing alone."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from datetime import timedelta
from types import SimpleNamespace

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer

from syncd.sandbox.faults import Fault
from syncd.sandbox.world import Options
from tests.sources.test_fathom import held, truth


@pytest_asyncio.fixture
async def scripted():
    """A vendor of a few lines: path → what it answers; `asked` keeps the queries."""
    async with AsyncExitStack() as stack:

        async def start(answer) -> SimpleNamespace:
            asked: list[dict[str, str]] = []

            async def handler(request: web.Request) -> web.Response:
                asked.append(dict(request.query))
                found = answer(request)
                return found if isinstance(found, web.Response) else web.json_response(found)

            app = web.Application()
            app.router.add_route("*", "/{path:.*}", handler)
            server = TestServer(app)
            await server.start_server()
            stack.push_async_callback(server.close)
            return SimpleNamespace(base=str(server.make_url("/v1")), asked=asked)

        yield start


class TestFailing:
    async def test_a_refused_key_waits_for_a_person(self, reader):
        r = await reader("fathom")
        r.box.fathom.act("acme", "revoke", {})
        [failure] = (await r.run())["failures"]
        assert failure["kind"] == "auth"
        assert "make a new one" in failure["hint"]
        assert (await r.connection())["status"] == "needs_reauth"

    async def test_a_refused_refresh_token_waits_for_a_person(self, reader):
        r = await reader("fathom", workspace="northwind")
        r.box.fathom.act("northwind", "revoke", {})
        [failure] = (await r.run())["failures"]
        assert (failure["kind"], "invalid_grant" in failure["error"]) == ("auth", True)

    async def test_an_expired_token_is_refreshed_once_and_the_new_pair_is_kept(self, reader):
        r = await reader("fathom", workspace="northwind")
        for _ in range(2):  # the second time with the refresh token that the first one brought
            r.box.world.clock.advance(timedelta(hours=2))
            assert (await r.run())["failures"] == []
        assert r.box.world.counts["fathom", "oauth2/token"] == 2

    async def test_a_bare_429_defers_the_run(self, reader):
        r = await reader("fathom")
        r.box.world.faults.rules.append(Fault("429-bare", vendor="fathom"))
        assert (await r.run())["deferred_workspaces"] == 1

    @pytest.mark.parametrize("kind", ["500", "502", "200-html", "200-empty", "truncated", "reset"])
    async def test_a_fault_in_mid_listing_loses_nothing(self, reader, sandbox, kind):
        box = await sandbox(Options(workspaces=1, limits=False, page_size=2))
        r = await reader("fathom", box=box)
        box.world.faults.rules.append(Fault(kind, vendor="fathom", skip=1, times=1))
        [failure] = (await r.run())["failures"]
        assert failure["kind"] == "transient"
        assert await r.rows("cursors") == []
        await r.run()
        assert await held(r) == truth(r)

    async def test_one_unreadable_recording_does_not_stop_the_others(self, reader, scripted):
        def answer(request: web.Request) -> object:
            if request.path.endswith("meetings"):
                ids = [{"recording_id": n, "created_at": None, "action_items": []} for n in (1, 2)]
                return {"limit": 10, "items": ids}  # without created_at a key, too, asks one by one
            if "/1/" in request.path:
                return web.json_response({"message": "broken"}, status=422)
            if request.path.endswith("summary"):
                return {"summary": {"markdown_formatted": "ok"}}
            return {"transcript": [{"text": "hi"}]}

        r = await reader("fathom", box=(box := await scripted(answer)), base_url=box.base, credentials={"api_key": "k"})
        await r.run()
        assert [row["reason"] for row in await r.backlog()] == ["recordings/transcript: HTTP 422 broken"]
        assert [row["external_id"] for row in await r.rows("transcripts")] == ["2"]

    async def test_a_refused_page_token_starts_the_window_again_once(self, reader, scripted):
        refused: list[str] = []

        def answer(request: web.Request) -> object:
            token = request.query.get("cursor")
            if "include_transcript" in request.query:
                return {"items": []}
            if token and not refused:
                refused.append(token)
                return web.Response(status=400)
            return {"next_cursor": None if token else "t", "items": [{"recording_id": 2 if token else 1}, {}, None]}

        r = await reader("fathom", box=(box := await scripted(answer)), base_url=box.base, credentials={"api_key": "k"})
        await r.run()
        assert [query.get("cursor") for query in box.asked[:4]] == [None, "t", None, "t"]
        assert [row["external_id"] for row in await r.rows("meetings")] == ["1", "2"]

    @pytest.mark.parametrize("body", [{"items": [], "next_cursor": "t"}, {"items": None}, {}, {"items": {}}], ids=str)
    async def test_a_listing_without_an_end_is_not_taken_for_read(self, reader, scripted, body):
        r = await reader(
            "fathom", box=(box := await scripted(lambda _: body)), base_url=box.base, credentials={"api_key": "k"}
        )
        [failure] = (await r.run())["failures"]
        assert failure["kind"] == "transient"
        assert await r.rows("cursors") == []

    async def test_a_404_for_the_listing_is_a_wrong_address(self, reader, scripted):
        box = await scripted(lambda _: web.Response(status=404))
        r = await reader("fathom", box=box, base_url=box.base, credentials={"api_key": "k"})
        [failure] = (await r.run())["failures"]
        assert (failure["kind"], "base_url" in failure["hint"]) == ("misconfigured", True)

    async def test_a_key_that_cannot_be_sent_is_no_defect(self, reader):
        r = await reader("fathom", credentials={"api_key": "k—y"})
        [failure] = (await r.run())["failures"]
        assert failure["kind"] == "auth"

    async def test_an_access_token_refused_in_mid_listing_is_renewed_once_and_nothing_is_lost(self, reader, sandbox):
        r = await reader(
            "fathom", box=await sandbox(Options(workspaces=2, limits=False, page_size=2)), workspace="northwind"
        )
        r.box.world.faults.rules.append(Fault("401", vendor="fathom", method="meetings", skip=1, times=1))
        assert (await r.run())["failures"] == []
        assert (r.box.world.counts["fathom", "oauth2/token"], await held(r)) == (1, truth(r, "northwind"))

    @pytest.mark.parametrize("life", [10**18, -(10**18)])
    async def test_a_senseless_life_of_a_token_is_no_defect(self, reader, scripted, life):
        def answer(request: web.Request) -> object:
            body = {"access_token": "b", "expires_in": life} if request.path.endswith("token") else {"items": []}
            return web.Response(text=json.dumps(body), content_type="application/json")

        box, pair = await scripted(answer), {"refresh_token": "r", "client_id": "i", "client_secret": "s"}
        r = await reader(
            "fathom",
            box=box,
            base_url=box.base,
            token_url=f"{box.base}/token",
            credentials={"access_token": "", **pair},
        )
        assert (await r.run())["failures"] == []

    async def test_a_creation_before_all_recordings_is_asked_for_one_by_one(self, reader, scripted):
        r = await TestPoison.of_recordings(reader, scripted, [], created_at="0001-01-01T00:00:00Z")
        assert (await r.run())["failures"] == []
        assert [row["external_id"] for row in await r.rows("transcripts")] == list("12345")


class TestPoison:
    """Something that fails each time it is asked for."""

    @staticmethod
    async def of_recordings(reader, scripted, broken, created_at=None):
        """Meetings 1 to 5, listed without their parts; ``broken``: what paths answer 500, by a part of them."""

        def answer(request: web.Request) -> object:
            if any(part in request.path for part in broken):
                return web.Response(status=500)
            if request.path.endswith("meetings"):
                known = {"created_at": created_at, "action_items": []}
                return {"items": [{"recording_id": number, **known} for number in range(1, 6)]}
            if request.path.endswith("summary"):
                return {"summary": {"markdown_formatted": "ok"}}
            return {"transcript": [{"text": "hi"}]}

        box = await scripted(answer)
        return await reader("fathom", box=box, base_url=box.base, credentials={"api_key": "k"})

    async def test_one_recording_does_not_stop_the_others(self, reader, scripted):
        r = await self.of_recordings(reader, scripted, ["/1/", "/3/"])
        assert (await r.run())["failures"] == []
        assert [row["external_id"] for row in await r.rows("transcripts")] == ["2", "4", "5"]

    async def test_what_failed_is_counted_as_tried(self, reader, scripted):
        r = await self.of_recordings(reader, scripted, ["/1/"])
        await r.run()
        assert [(row["external_id"], row["attempts"]) for row in await r.backlog()] == [("1", 1)]

    async def test_three_in_a_row_end_the_run(self, reader, scripted):
        r = await self.of_recordings(reader, scripted, ["recordings"])
        [failure] = (await r.run())["failures"]
        assert (failure["kind"], len([one for one in await r.backlog() if one["attempts"]])) == ("transient", 3)

    async def test_a_summary_does_not_keep_its_transcript_from_being_stored(self, reader, scripted):
        r = await self.of_recordings(reader, scripted, ["/1/summary"])
        await r.run()
        assert [row["external_id"] for row in await r.rows("transcripts")] == list("12345")

    async def test_one_day_does_not_stop_the_others(self, reader, scripted):
        days = [f"2026-01-0{number}T12:00:00Z" for number in (1, 2, 3)]

        def answer(request: web.Request) -> object:
            found = [{"recording_id": n, "created_at": day, "action_items": []} for n, day in enumerate(days, 1)]
            if "include_transcript" not in request.query:
                return {"items": found}
            if request.query["created_after"] < days[0]:
                return web.Response(status=500)
            parts = {"transcript": [{"text": "hi"}], "default_summary": {"markdown_formatted": "ok"}}
            return {"items": [one | parts for one in found]}

        box = await scripted(answer)
        r = await reader("fathom", box=box, base_url=box.base, credentials={"api_key": "k"})
        assert (await r.run())["failures"] == []
        assert [row["external_id"] for row in await r.rows("transcripts")] == ["2", "3"]
