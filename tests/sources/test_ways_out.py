"""What a person is told when a vendor refuses: the state of the connection and the way out, by vendor and code."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

TOKENS = {"access_token": "a", "refresh_token": "r", "client_id": "c", "client_secret": "s"}
KEY = {"access_key": "k", "access_key_secret": "s"}
ENDED = {"expires_at": "2020-01-01T00:00:00Z"}
Answer = tuple[int, Any]


def slack(code: str, **more: Any) -> Answer:
    return 200, {"ok": False, "error": code, **more}


def gong(status: int, *words: str) -> Answer:
    return status, {"requestId": "1", "errors": [*words]}


def refused(status: int, code: str) -> Answer:
    """A token endpoint's."""
    return status, {"error": code}


LATER = 503, "<h1>later</h1>"


@pytest.mark.parametrize(
    ("source", "credentials", "answer", "state", "told"),
    [
        ("slack", {"token": "t"}, slack("token_revoked"), "needs_reauth", "removed from the workspace"),
        ("slack", {"token": "t"}, slack("account_inactive"), "needs_reauth", "bot or the workspace deleted"),
        ("slack", {"token": "t"}, slack("invalid_auth"), "needs_reauth", "IP addresses"),
        ("slack", {"token": "t"}, slack("team_access_not_granted"), "needs_reauth", "administrator"),
        ("slack", {"token": "t"}, slack("missing_scope", needed="users:read"), "misconfigured", "users:read"),
        ("slack", TOKENS | ENDED, slack("invalid_refresh_token"), "needs_reauth", "used elsewhere"),
        ("slack", TOKENS | ENDED, slack("bad_client_secret"), "misconfigured", "client_secret"),
        ("slack", TOKENS | ENDED, slack("internal_error"), "ok", ""),
        ("slack", TOKENS | ENDED, LATER, "ok", ""),
        ("gong", KEY, gong(401, "invalid credentials"), "needs_reauth", "base_url is the account's host"),
        ("gong", KEY, gong(404, "no such page"), "misconfigured", "base_url"),
        ("gong", KEY, gong(401, "no permission to use api:users:read"), "misconfigured", "api:users:read"),
        ("gong", TOKENS | ENDED, refused(400, "invalid_grant"), "needs_reauth", "technical administrator"),
        ("gong", TOKENS | ENDED, refused(401, "invalid_client"), "misconfigured", "client_id"),
        ("gong", TOKENS | ENDED, (404, ""), "misconfigured", "token_url"),
        ("gong", TOKENS | ENDED, LATER, "ok", ""),
        ("fathom", {"api_key": "k"}, (401, {"error": "Unauthorized"}), "needs_reauth", "make a new one"),
        ("fathom", TOKENS | ENDED, refused(400, "invalid_grant"), "needs_reauth", "connect Fathom again"),
        ("fathom", TOKENS | ENDED, refused(400, "invalid_client"), "misconfigured", "client_id"),
        ("fathom", TOKENS | ENDED, (404, ""), "misconfigured", "token_url"),
        ("fathom", TOKENS | ENDED, LATER, "ok", ""),
        ("gmail", TOKENS | ENDED, refused(400, "invalid_grant"), "needs_reauth", "7 days"),
        ("gmail", TOKENS | ENDED, refused(401, "invalid_client"), "misconfigured", "client_id"),
        ("gmail", TOKENS | ENDED, refused(400, "admin_policy_enforced"), "misconfigured", "administrator"),
        ("gmail", TOKENS | ENDED, LATER, "ok", ""),
    ],
)
async def test_a_refusal_says_who_must_do_what(
    reader: Callable[..., Awaitable[Any]], source: str, credentials: Any, answer: Answer, state: str, told: str
) -> None:
    status, body = answer

    async def every(request: web.Request) -> web.Response:
        return (
            web.Response(status=status, text=body) if isinstance(body, str) else web.json_response(body, status=status)
        )

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", every)
    async with TestServer(app) as server:
        base = str(server.make_url("/"))
        token_url = None if source == "slack" else f"{base}token"
        r = await reader(source, box=server, base_url=base, token_url=token_url, credentials=credentials)
        [failure] = (await r.run())["failures"]
    assert (await r.connection())["status"] == state
    assert told in f"{failure['error']} {failure['hint']}"
    assert bool(failure["hint"]) == (state != "ok")
