"""A recorded answer of the live service, read through the whole engine."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from aiohttp import web

from tests.sources.conftest import reader  # noqa: F401 - the fixture

RECORDING = Path(__file__).resolve().parents[2] / "shared" / "recordings" / "gong" / "users.extensive.json"


@pytest.mark.skipif(not RECORDING.exists(), reason="the recordings of live answers are not here")
async def test_every_recorded_user_becomes_a_person(reader):  # noqa: F811
    recorded = orjson.loads(RECORDING.read_bytes())

    async def users(_: web.Request) -> web.Response:
        return web.json_response(recorded)

    async def calls(_: web.Request) -> web.Response:
        words = "No calls found corresponding to the provided filters"
        return web.json_response({"requestId": "1", "errors": [words]}, status=404)

    app = web.Application()
    app.add_routes([web.get("/v2/users", users), web.post("/v2/calls/extensive", calls)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        base = f"http://127.0.0.1:{runner.addresses[0][1]}"
        key = {"access_key": "key", "access_key_secret": "secret"}
        r = await reader(
            "gong", box=object(), base_url=base, credentials=key, overrides={"limits": {"calls": "100/1s"}}
        )
        status = await r.run()
        people = await r.rows("people")
    finally:
        await runner.cleanup()
    assert (status["failures"], status["total_ingested"]) == ([], 0)
    assert {row["external_id"]: row["raw"] for row in people} == {user["id"]: user for user in recorded["users"]}
    assert all(row["name"] and row["email"] for row in people)
