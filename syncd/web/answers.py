"""What answers are made of: JSON, problems (RFC 9457), headers that let a browser do as little as possible."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Mapping

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not no-referrer: with it a browser sends our own forms without their origin.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Server": "syncd",
}


class Problem(Exception):
    """Why a request is not done. ``detail``: one line for a person, with the way out and without a secret.

    ``members``: of the problem object, beside those of RFC 9457.
    """

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None, **members: Any) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers, self.members = status, detail, dict(headers or {}), members


def json_of(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """``value`` as JSON."""
    body = orjson.dumps(value) + b"\n"
    return web.Response(body=body, status=status, headers=headers, content_type="application/json")


def problem_of(problem: Problem) -> web.Response:
    """A problem as ``application/problem+json``."""
    body = {
        "type": "about:blank",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
        **problem.members,
    }
    return web.Response(
        body=orjson.dumps(body) + b"\n",
        status=problem.status,
        headers=problem.headers,
        content_type="application/problem+json",
    )
