"""How the emulated Fathom reads a request's parts and forms its answers."""

from __future__ import annotations

import math
import zlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def moment(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def fingerprint(request: web.Request) -> int:
    """Of all parameters but the cursor: they must be the same on every page."""
    return zlib.crc32(repr(sorted(item for item in request.query.items() if item[0] != "cursor")).encode())


def limited(wait: float) -> web.Response:
    """As it was observed: no body, and a page's content type."""
    return web.Response(status=429, headers={"Retry-After": str(math.ceil(wait))}, content_type="text/html")


def answered(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, headers=headers, content_type="application/json")


def waits(body: Mapping[str, Any]) -> Iterator[float]:
    """Until transcript, summary and action items are ready."""
    for name in ("ready_in_s", "summary_in_s", "items_in_s"):
        yield float(body.get(name, body.get("ready_in_s", 0)))
