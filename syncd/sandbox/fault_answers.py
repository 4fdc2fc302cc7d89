"""Faults inside a good answer: types that are not the documented ones, nulls, depth, listings that never end."""

from __future__ import annotations

import json
import zlib
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import orjson

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

# Where each vendor puts the token of the next page, and what it answers to one that it no longer takes.
_TOKEN: dict[str, tuple[str, ...]] = {
    "slack": ("response_metadata", "next_cursor"),
    "gong": ("records", "cursor"),
    "fathom": ("next_cursor",),
    "gmail": ("nextPageToken",),
}
_GMAIL_SAYS = {
    "code": 400,
    "message": "Invalid pageToken",
    "errors": [{"message": "Invalid pageToken", "domain": "global", "reason": "invalidArgument"}],
    "status": "INVALID_ARGUMENT",
}
_STALE: dict[str, tuple[int, dict[str, Any]]] = {
    "slack": (200, {"ok": False, "error": "invalid_cursor"}),
    "gong": (400, {"requestId": "4al018gzaztcr8nbukw", "errors": ["The provided cursor has expired"]}),
    "fathom": (400, {"error": "cursor is invalid"}),
    "gmail": (400, {"error": _GMAIL_SAYS}),
}
_ENVELOPE = {"ok", "response_metadata", "records", "requestId", "next_cursor", "nextPageToken", "limit"}
_DEEP = "@@deep@@"


class Answers:
    """What one fault makes of the answers that it meets; it remembers the last good one of each account's listing."""

    def __init__(self) -> None:
        self._good: dict[tuple[str, ...], Any] = {}

    async def wrong_types(self, request: web.Request, response: web.Response, seed: int) -> web.Response:
        """Texts become numbers and numbers texts, lists objects and objects lists; the envelope stays."""
        return _changed(response, _swapped, seed)

    async def nulls(self, request: web.Request, response: web.Response, seed: int) -> web.Response:
        """Values become null; the envelope stays."""
        return _changed(response, lambda _: None, seed)

    async def deep(self, request: web.Request, response: web.Response, levels: int) -> web.Response:
        """Its first row, if it has one, holds lists in lists."""
        answer = _good(response)
        if answer is not None:
            rows = next((part for part in answer.values() if isinstance(part, list) and part), [answer])
            row = rows[0] if isinstance(rows[0], dict) else answer
            row["nested"] = _DEEP
            nested = b"[" * levels + b"]" * levels
            response.body = orjson.dumps(answer).replace(f'"{_DEEP}"'.encode(), nested)
        return response

    async def paged(self, request: web.Request, response: web.Response, token: str) -> web.Response:
        """The page as it is, or the one before where the vendor does not know our token; then comes ``token``."""
        answer = _good(response)
        if answer is None and not page_token(request, await request.read()):
            return response
        listing = request.path, *_whose(request)
        answer = self._good[listing] = answer or self._good.get(listing) or {}
        *above, member = _TOKEN[_vendor(request)]
        holder = answer
        for key in above:
            holder = holder.setdefault(key, {})
        holder[member] = token
        if "ok" in answer or _vendor(request) != "slack":
            response.body = orjson.dumps(answer)
            response.set_status(200)
        return response

    async def expired(self, request: web.Request, response: web.Response) -> web.Response:
        status, body = _STALE[_vendor(request)]
        response.body = orjson.dumps(body)
        response.set_status(status)
        return response


def _whose(request: web.Request) -> tuple[str, ...]:
    """What tells one account's calls from another's."""
    headers = request.headers
    return headers.get("Authorization", ""), headers.get("X-Api-Key", ""), request.query.get("token", "")


def page_token(request: web.Request, body: bytes) -> str:
    """The page token of a request, wherever it is; "" without one."""
    if token := request.query.get("cursor") or request.query.get("pageToken"):
        return token
    if request.content_type == "application/json":
        try:
            asked = orjson.loads(body)
        except orjson.JSONDecodeError:
            return ""
        return str(asked.get("cursor") or "") if isinstance(asked, dict) else ""
    if request.content_type == "application/x-www-form-urlencoded":
        return parse_qs(body.decode(errors="replace")).get("cursor", [""])[0]
    return ""


def _vendor(request: web.Request) -> str:
    return request.path.split("/")[1]


def _good(response: web.Response) -> dict[str, Any] | None:
    """The object that a successful answer holds, None for any other answer."""
    if response.status != 200 or not isinstance(response.body, bytes):
        return None
    try:
        answer = orjson.loads(response.body)
    except orjson.JSONDecodeError:
        return None
    return answer if isinstance(answer, dict) and answer.get("ok") is not False else None


def _changed(response: web.Response, change: Callable[[Any], Any], seed: int) -> web.Response:
    answer = _good(response)
    if answer is not None:
        changed = {key: part if key in _ENVELOPE else _top(part, key, change, seed) for key, part in answer.items()}
        response.body = json.dumps(changed, ensure_ascii=False).encode()  # orjson has no integer beyond 64 bits
    return response


def _top(value: Any, key: str, change: Callable[[Any], Any], seed: int) -> Any:
    """A member of the answer: a list of rows stays a list, a row an object."""
    if isinstance(value, list):
        return [_inside(row, key, change, seed) for row in value]
    return _inside(value, key, change, seed)


def _inside(row: Any, path: str, change: Callable[[Any], Any], seed: int) -> Any:
    if isinstance(row, dict):
        return {key: _met(part, f"{path}/{key}", change, seed) for key, part in row.items()}
    return _met(row, path, change, seed)


def _met(value: Any, path: str, change: Callable[[Any], Any], seed: int) -> Any:
    """Changed where the seed says so for this path: the same member of every row. Else what is inside is met."""
    if not seed or zlib.crc32(f"{seed}/{path}".encode()) % 4 == 0:
        return change(value)
    if isinstance(value, list):
        return [_met(part, f"{path}/", change, seed) for part in value]
    return _inside(value, path, change, seed) if isinstance(value, dict) else value


def _swapped(value: Any) -> Any:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return [_swapped(part) for part in value.values()]
    if isinstance(value, list):
        return {str(at): _swapped(part) for at, part in enumerate(value)}
    if isinstance(value, str):
        return int(value) if value.isdecimal() else len(value)
    return "null" if value is None else str(value)
