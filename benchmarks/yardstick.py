"""How fast this machine is, in steps that every such program takes: figures of another one are compared by them.

``python -m benchmarks.yardstick SPEC`` is the measured process: a bare aiohttp session that asks the sandbox one small
thing after the other, then the JSON and the digest of a page of 200 messages.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson

from benchmarks.compare import QUIET
from benchmarks.measure import Spread, cpu_s, python, run
from benchmarks.tables import Table
from benchmarks.vendors import Talk, vendors

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.subjects import Setting

ASKED, DECODED = 1000, 200
ROWS = {
    "request": "a request of aiohttp's, one after the other, 0.1 KB each",
    "json": "json.loads of a page of 200 messages",
    "orjson": "orjson.loads of it",
    "blake2b": "blake2b of it",
}


def _each_ms(step: Callable[[], object]) -> float:
    began = cpu_s()
    for _ in range(DECODED):
        step()
    return (cpu_s() - began) * 1000 / DECODED


async def main(spec: dict[str, Any]) -> dict[str, float]:
    """``base``, ``headers`` and ``channel``: of a Slack workspace. Milliseconds of CPU by the keys of `ROWS`."""
    async with aiohttp.ClientSession(spec["base"], headers=spec["headers"]) as http:

        async def ask(method: str, **params: str) -> bytes:
            async with http.get(method, params=params) as answer:
                return await answer.read()

        page = await ask("conversations.history", channel=spec["channel"], limit="200")
        await ask("auth.test")
        began = cpu_s()
        for _ in range(ASKED):
            await ask("auth.test")
        request = (cpu_s() - began) * 1000 / ASKED
    return {
        "request": request,
        "json": _each_ms(lambda: json.loads(page)),
        "orjson": _each_ms(lambda: orjson.loads(page)),
        "blake2b": _each_ms(lambda: hashlib.blake2b(page)),
        "kb": len(page) / 1000,
    }


def table(setting: Setting) -> list[Table]:
    with vendors(Talk(1, 0, 0, 250), workspaces=1, channels=1, days=2, **QUIET) as vendor:
        line = vendor.lines("slack")[0]
        held = json.loads(vendor.ask(f"holdings?vendor=slack&workspace={line['workspace_id']}"))["slack"]
        channel = next(iter(held[line["workspace_id"]]["conversations"]))
        headers = {"Authorization": f"Bearer {line['credentials']['token']}"}
        spec = {"base": f"{vendor.base}/slack/api/", "headers": headers, "channel": channel}
        costs = [run(python("benchmarks.yardstick", spec)) for _ in range(setting.rounds)]
    found = Table("How fast the machine is", ("", "ms of CPU"))
    found.rows = [(words, Spread(tuple(cost.told[key] for cost in costs))) for key, words in ROWS.items()]
    found.notes.append(f"The page has {costs[-1].told['kb']:.0f} KB.")
    return [found]


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(json.loads(sys.argv[1])))))
