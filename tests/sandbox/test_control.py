"""``/control`` over HTTP, as a person or a program outside this process uses it."""

from __future__ import annotations

import httpx

from syncd.sandbox.app import Sandbox
from syncd.sandbox.world import Options


async def test_an_act_over_http_takes_its_body():
    async with Sandbox(Options(workspaces=1)) as box, httpx.AsyncClient(base_url=box.base) as client:
        workspace = next(iter(box.world.companies))
        channel = list((await client.get("/control/holdings")).json()["slack"][workspace]["conversations"])[1]
        told = await client.post(f"/control/slack/{workspace}/post", json={"channel": channel, "text": "hello"})
        assert told.json()["channel"] == channel
        bare = await client.post(f"/control/slack/{workspace}/post")
        assert bare.status_code == 200
