"""Faults that the sandbox acts out on demand: which call, what happens, how often."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

HTML = "<html><head><title>Bad gateway</title></head><body><h1>Bad gateway</h1></body></html>"


@dataclass(slots=True)
class Fault:
    """``kind`` of `KINDS` on calls that match ``vendor``, ``method``, ``workspace`` (shell patterns), ``times`` times.

    ``times`` None: until removed. ``skip``: let that many matching calls pass first. ``seconds``: of ``slow``, ``hang``
    and ``Retry-After``.
    """

    kind: str
    vendor: str = "*"
    method: str = "*"
    workspace: str = "*"
    times: int | None = None
    skip: int = 0
    seconds: float = 1.0
    hits: int = field(default=0)

    def matches(self, vendor: str, method: str, workspace: str) -> bool:
        return (
            fnmatchcase(vendor, self.vendor)
            and fnmatchcase(method, self.method)
            and fnmatchcase(workspace, self.workspace)
        )


class Faults:
    """The faults in force, first match first."""

    def __init__(self) -> None:
        self.rules: list[Fault] = []

    def add(self, body: Mapping[str, Any]) -> Fault:
        """From the control endpoint's JSON. Raises ValueError on an unknown kind or member."""
        if body.get("kind") not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(sorted(KINDS))}")
        unknown = set(body) - {"kind", "vendor", "method", "workspace", "times", "skip", "seconds"}
        if unknown:
            raise ValueError(f"a fault has no member {', '.join(sorted(unknown))}")
        fault = Fault(**body)
        self.rules.append(fault)
        return fault

    def take(self, vendor: str, method: str, workspace: str) -> Fault | None:
        for fault in self.rules:
            if not fault.matches(vendor, method, workspace):
                continue
            if fault.skip > 0:
                fault.skip -= 1
                continue
            if fault.times is not None and fault.hits >= fault.times:
                continue
            fault.hits += 1
            return fault
        return None


async def _hang(request: web.Request, response: web.StreamResponse, fault: Fault) -> web.StreamResponse:
    await asyncio.sleep(max(fault.seconds, 1.0))
    return response


async def _slow(request: web.Request, response: web.StreamResponse, fault: Fault) -> web.StreamResponse:
    await asyncio.sleep(fault.seconds)
    return response


async def _reset(request: web.Request, response: web.StreamResponse, fault: Fault) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return response


async def _truncated(request: web.Request, response: web.StreamResponse, fault: Fault) -> web.StreamResponse:
    body = response.body if isinstance(response, web.Response) and isinstance(response.body, bytes) else b"{"
    return web.Response(body=body[: len(body) // 2], content_type="application/json")


def _status(status: int, body: str, content_type: str, **headers: str) -> Callable[..., Awaitable[web.StreamResponse]]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    async def answer(request: web.Request, response: web.StreamResponse, fault: Fault) -> web.StreamResponse:
        return web.Response(status=status, text=body, content_type=content_type, headers=named)

    return answer


async def _limited(request: web.Request, response: web.StreamResponse, fault: Fault) -> web.StreamResponse:
    return web.Response(status=429, headers={"Retry-After": str(int(fault.seconds))})


KINDS: dict[str, Callable[..., Awaitable[web.StreamResponse]]] = {
    "302": _status(302, "", "text/html", Location="https://elsewhere.example/"),
    "401": _status(401, "{}", "application/json", WWW_Authenticate="Bearer"),
    "500": _status(500, HTML, "text/html"),
    "502": _status(502, HTML, "text/html"),
    "503": _status(503, "", "text/plain"),
    "200-html": _status(200, HTML, "text/html"),
    "200-empty": _status(200, "", "application/json"),
    "429": _limited,
    "429-bare": _status(429, "", "text/html"),
    "truncated": _truncated,
    "reset": _reset,
    "hang": _hang,
    "slow": _slow,
}
