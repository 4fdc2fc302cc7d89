"""Canned Gmail: answers that the sandbox does not give, by path."""

from __future__ import annotations

from collections import Counter
from contextlib import AsyncExitStack

import pytest_asyncio
from aiohttp import web

SIGNED_IN = {
    "refresh_token": "r",
    "client_id": "c",
    "client_secret": "s",
    "access_token": "a",
    "expires_at": "2999-01-01T00:00:00Z",
}


def calls(r) -> Counter:
    """Calls made since this was last asked."""
    made = Counter({method: n for (vendor, method), n in r.box.world.counts.items() if vendor == "gmail"})
    r.box.world.counts.clear()
    return made


async def cursors(r, stream):
    return {row["partition"]: row["cursor"] for row in await r.rows("cursors") if row["stream"] == stream}


async def live(r, table="messages"):
    return [row["external_id"] for row in await r.rows(table) if row["deleted_at"] is None]


def noted(capsys, words):
    """The lines of the log since this was last asked that tell a person these words."""
    read = capsys.readouterr()
    return [line for line in (read.out + read.err).splitlines() if "source.noted" in line and words in line]


def mail(n, *, labels=("INBOX",), thread=None, text="aGVsbG8", history="10"):
    payload = {"mimeType": "text/plain", "headers": [{"name": "Subject", "value": f"s{n}"}], "body": {"data": text}}
    return {"id": n, "threadId": thread or n, "labelIds": list(labels), "historyId": history, "payload": payload}


@pytest_asyncio.fixture
async def served(reader):
    """``await served({path: answer or (status, answer, headers)})``: a reader of canned answers; no path: 404."""
    async with AsyncExitStack() as stack:

        async def serve(answers, **more):
            canned = {
                "profile": {"emailAddress": "a@b.example", "historyId": "10"},
                "labels": {"labels": [{"id": "INBOX", "name": "INBOX"}]},
                "threads": {"resultSizeEstimate": 0},
                "history": {"historyId": "10"},
            } | answers
            asked = []

            async def handle(request):
                path = request.path.removeprefix("/gmail/v1/users/me/").removeprefix("/")
                asked.append(path)
                answer = canned.get(path, (404, {"error": {"message": "gone", "errors": [{"reason": "notFound"}]}}))
                answer = answer(request) if callable(answer) else answer
                status, body, headers = (*answer, {})[:3] if isinstance(answer, tuple) else (200, answer, {})
                if isinstance(body, str):
                    return web.Response(status=status, text=body, content_type="text/html", headers=headers)
                return web.json_response(body, status=status, headers=headers)

            app = web.Application()
            app.router.add_route("*", "/{rest:.*}", handle)
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            base = f"http://127.0.0.1:{runner.addresses[0][1]}"
            given = {"credentials": SIGNED_IN} | more
            r = await reader("gmail", box=object(), base_url=base, token_url=f"{base}/token", **given)
            r.canned, r.asked = canned, asked
            return r

        yield serve
