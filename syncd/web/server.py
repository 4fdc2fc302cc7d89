"""The HTTP side: probes, metrics, the status object, the status page. Process and tenants are two things here."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import structlog
from aiohttp import web
from jinja2 import Environment, PackageLoader, select_autoescape

from syncd.runs import words
from syncd.settings import http_address
from syncd.store.database import is_outage
from syncd.web.access import Access
from syncd.web.answers import HEADERS, Problem, json_of, problem_of
from syncd.web.api import Api
from syncd.web.connect import Connecting, public_url
from syncd.web.pages import Pages

if TYPE_CHECKING:
    from apscheduler.schedulers.asyncio import AsyncIOScheduler

    from syncd.daemon import Parts
    from syncd.worker import Worker

_DATABASE_S = 2.0
_OVERDUE = timedelta(minutes=2)
_MOST_BYTES = 2**20  # of a body

log = structlog.get_logger(__name__)


class Web:
    """``ready``: set by the daemon once it schedules, taken back while it drains.

    Raises `UsageError` where the settings would let everybody in.
    """

    def __init__(self, parts: Parts, scheduler: AsyncIOScheduler, worker: Worker | None = None) -> None:
        self._parts, self._scheduler, self._worker = parts, scheduler, worker
        self.ready = False
        templates = Environment(loader=PackageLoader("syncd.web"), autoescape=select_autoescape())
        self._access = Access(parts.settings, templates)
        self._api = Api(parts)
        self._connecting = Connecting(parts)
        app = web.Application(middlewares=[_answered, self._access.middleware], client_max_size=_MOST_BYTES)
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
                *Pages(parts).routes(),
                *self._access.routes(),
                *self._api.routes(),
                *self._connecting.routes(),
            ]
        )
        # AppRunner leaves signals alone: they are the daemon's
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)

    async def start(self) -> str:
        """Bind and serve; answers the address. Raises OSError when it cannot be bound."""
        http = self._parts.settings.http
        await self._runner.setup()
        await web.TCPSite(self._runner, http.host, http.port).start()
        address = http_address(*self._runner.addresses[0][:2])
        self._connecting.base = self._access.base = self._api.base = public_url(self._parts.settings, address)
        return address

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def checks(self) -> dict[str, str]:
        """What /healthz looks at: name → ``ok`` or what is wrong. No tenant's trouble turns it red."""
        checks = {"database": "ok", "scheduler": "ok"}
        # Waited for apart: a cancelled question to a frozen server takes its own time to end.
        ping = asyncio.create_task(self._parts.store.database.ping())
        await asyncio.wait([ping], timeout=_DATABASE_S)
        if not ping.done():
            ping.cancel()
            ping.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
            checks["database"] = f"no answer within {_DATABASE_S:g} s"
        elif error := ping.exception():
            checks["database"] = f"does not answer ({type(error).__name__})"
        late = datetime.now(UTC) - _OVERDUE
        jobs = self._scheduler.get_jobs()
        for job in jobs:
            if job.next_run_time is None or job.next_run_time < late:
                checks["scheduler"] = (
                    f"{job.id} has no next turn" if job.next_run_time is None else f"{job.id} is overdue"
                )
        if not self._scheduler.running:
            checks["scheduler"] = "not running"
        if self._worker is not None:
            checks["worker"] = self._worker.check()
        return checks

    async def _healthz(self, request: web.Request) -> web.Response:
        checks = await self.checks()
        healthy = all(found == "ok" for found in checks.values())
        body = {
            "status": "healthy" if healthy else "unhealthy",
            "timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "service": "sync_engine",
            "checks": checks,
        }
        return json_of(body, 200 if healthy else 503)

    async def _readyz(self, request: web.Request) -> web.Response:
        return json_of({"status": "ready" if self.ready else "not ready"}, 200 if self.ready else 503)

    async def _metrics(self, request: web.Request) -> web.Response:
        text = await self._parts.metrics.scrape()
        return web.Response(body=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


@web.middleware
async def _answered(request: web.Request, handler: Any) -> web.StreamResponse:
    """The edge of every request: what goes wrong becomes an answer, and each answer has the strict headers."""
    api, response = request.path.startswith("/api/"), None
    try:
        response = await handler(request)
    except Problem as raised:
        problem = raised
    except web.HTTPException as refused:
        problem = Problem(refused.status, refused.reason, _kept(refused))
    except asyncio.CancelledError:
        raise
    except Exception as error:  # noqa: BLE001 - the edge
        problem = _failed(request, error)
    if response is None:
        response = problem_of(problem) if api and problem.status >= 400 else _told(problem)
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)  # a page may have a stricter rule of its own
    return response


def _kept(refused: web.HTTPException) -> dict[str, str]:
    return {name: refused.headers[name] for name in ("Allow", "Location") if name in refused.headers}


def _failed(request: web.Request, error: Exception) -> Problem:
    if is_outage(error):
        log.warning("http.failed", path=request.path, error=words(error))
        return Problem(503, "the database does not answer", {"Retry-After": "5"})
    log.error("http.defect", path=request.path, error=words(error), exc_info=error)
    return Problem(500, f"a defect in syncd: {type(error).__name__}; its log has the traceback")


def _told(problem: Problem) -> web.Response:
    """A problem to a person, in one line."""
    return web.Response(text=f"{problem.detail}\n", status=problem.status, headers=problem.headers)
