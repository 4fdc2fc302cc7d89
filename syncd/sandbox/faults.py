"""Faults that the sandbox acts out on demand: which call, what happens, how often."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from aiohttp import web

from syncd.sandbox.fault_answers import Answers, page_token
from syncd.sandbox.fault_streams import STREAMS, reset

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    Kind = Callable[[web.Request, web.Response, "Fault"], Awaitable[web.StreamResponse]]

HTML = "<html><head><title>Bad gateway</title></head><body><h1>Bad gateway</h1></body></html>"
_AGAIN = ("again", "and-again")
TOLD = web.ResponseKey("TOLD", float)  # of a 429: in how many seconds it allows the next call
_ABSURD = ("1000000000000", "-5", "soon", "1e400", "nan", "Mon, 32 Foo 2026 99:99:99 GMT")


@dataclass(slots=True)
class Fault:
    """``kind`` of `KINDS` on calls that match ``vendor``, ``method``, ``workspace`` (shell patterns), ``times`` times.

    ``times`` None: until removed. ``skip``: let that many matching calls pass first. ``seconds``: of ``slow``, of the
    silence of ``hang`` and ``hang-body``, between the bites of ``drip``, and of ``Retry-After``. ``seed``: which values
    ``wrong-types`` and ``nulls`` change; 0: all.
    """

    kind: str
    vendor: str = "*"
    method: str = "*"
    workspace: str = "*"
    times: int | None = None
    skip: int = 0
    seconds: float = 1.0
    seed: int = 0
    hits: int = field(default=0)
    answers: Answers = field(default_factory=Answers, repr=False)

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
        unknown = set(body) - {"kind", "vendor", "method", "workspace", "times", "skip", "seconds", "seed"}
        if unknown:
            raise ValueError(f"a fault has no member {', '.join(sorted(unknown))}")
        fault = Fault(**body)
        self.rules.append(fault)
        return fault

    def take(self, vendor: str, method: str, workspace: str, *, paged: bool = False) -> Fault | None:
        """The fault of this call. ``paged``: it asks for a further page of a listing."""
        for fault in self.rules:
            if not fault.matches(vendor, method, workspace) or (fault.kind in LATER_PAGES and not paged):
                continue
            if fault.skip > 0:
                fault.skip -= 1
                continue
            if fault.times is not None and fault.hits >= fault.times:
                continue
            fault.hits += 1
            return fault
        return None


async def _hang(request: web.Request, response: web.Response, fault: Fault) -> web.StreamResponse:
    await asyncio.sleep(max(fault.seconds, 1.0))
    return response


async def _slow(request: web.Request, response: web.Response, fault: Fault) -> web.StreamResponse:
    await asyncio.sleep(fault.seconds)
    return response


async def _reset(request: web.Request, response: web.Response, fault: Fault) -> web.StreamResponse:
    reset(request)
    return response


async def _truncated(request: web.Request, response: web.Response, fault: Fault) -> web.StreamResponse:
    body = response.body if isinstance(response.body, bytes) else b"{"
    return web.Response(body=body[: len(body) // 2], content_type="application/json")


def _status(status: int, body: str, content_type: str, **headers: str) -> Kind:
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    async def answer(request: web.Request, response: web.Response, fault: Fault) -> web.StreamResponse:
        return web.Response(status=status, text=body, content_type=content_type, headers=named)

    return answer


def _limited(said: Callable[[Fault], tuple[str, float | None]]) -> Kind:
    """A 429. ``said``: the text of its ``Retry-After``, and what that means in seconds, None = nothing."""

    async def answer(request: web.Request, response: web.Response, fault: Fault) -> web.StreamResponse:
        text, seconds = said(fault)
        refused = web.Response(status=429, headers={"Retry-After": text})
        if seconds is not None:
            refused[TOLD] = seconds
        return refused

    return answer


def _whole(fault: Fault) -> tuple[str, float]:
    return str(int(fault.seconds)), int(fault.seconds)


def _fraction(fault: Fault) -> tuple[str, float]:
    seconds = fault.seconds + 0.5 if fault.seconds == int(fault.seconds) else fault.seconds
    return f"{seconds:g}", float(f"{seconds:g}")


def _date(fault: Fault) -> tuple[str, float]:
    """A date has whole seconds: the one that is reached in ``seconds`` or soon after."""
    now = datetime.now(UTC)
    at = (now + timedelta(seconds=fault.seconds + 0.999)).replace(microsecond=0)
    return format_datetime(at, usegmt=True), (at - now).total_seconds()


KINDS: dict[str, Kind] = {
    "302": _status(302, "", "text/html", Location="https://elsewhere.example/"),
    "400": _status(400, "{}", "application/json"),
    "401": _status(401, "{}", "application/json", WWW_Authenticate="Bearer"),
    "404": _status(404, "{}", "application/json"),
    "500": _status(500, HTML, "text/html"),
    "502": _status(502, HTML, "text/html"),
    "503": _status(503, "", "text/plain"),
    "503-html": _status(503, HTML, "text/html"),
    "200-html": _status(200, HTML, "text/html"),
    "200-empty": _status(200, "", "application/json"),
    "429": _limited(_whole),
    "429-bare": _status(429, "", "text/html"),
    "429-date": _limited(_date),
    "429-fraction": _limited(_fraction),
    "429-absurd": _limited(lambda fault: (_ABSURD[(fault.hits - 1) % len(_ABSURD)], None)),
    "truncated": _truncated,
    "wrong-types": lambda request, response, fault: fault.answers.wrong_types(request, response, fault.seed),
    "nulls": lambda request, response, fault: fault.answers.nulls(request, response, fault.seed),
    "deep": lambda request, response, fault: fault.answers.deep(request, response, 100_000),
    "deep-1000": lambda request, response, fault: fault.answers.deep(request, response, 1_000),
    "repeated-token": lambda request, response, fault: fault.answers.paged(request, response, _AGAIN[fault.hits % 2]),
    "endless-pages": lambda request, response, fault: fault.answers.paged(request, response, f"more-{fault.hits}"),
    "expired-cursor": lambda request, response, fault: fault.answers.expired(request, response),
    "reset": _reset,
    "hang": _hang,
    "slow": _slow,
    **STREAMS,
}
# Answered in the vendor's place: it never sees the call, spends no token on it and does not count it.
IN_PLACE = frozenset(kind for kind in KINDS if kind[0].isdigit())
LATER_PAGES = frozenset({"expired-cursor"})  # act on calls with a page token only


class Instead(Exception):
    """Raised by `World.seen`: this call's fault is answered in the vendor's place."""


def is_paged(request: web.Request, body: bytes) -> bool:
    """Whether a request asks for a further page of a listing."""
    return bool(page_token(request, body))
