"""The sandbox's faults that a proxy or a vendor answers instead of data."""

from __future__ import annotations

import httpx
import pytest

from syncd.sandbox.faults import Fault
from syncd.sandbox.world import Options


@pytest.mark.parametrize(
    ("kind", "name", "value", "body"),
    [("401", "www-authenticate", "Bearer", "{}"), ("302", "location", "https://elsewhere.example/", "")],
)
async def test_a_refusal_and_a_redirect_can_be_had_for_one_call(sandbox, kind, name, value, body):
    box = await sandbox(Options(workspaces=1, limits=False))
    box.world.faults.rules.append(Fault(kind, "gong", "users", times=1))
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"{box.base}/gong/v2/users")
    assert (str(answer.status_code), answer.headers[name], answer.text) == (kind, value, body)
