"""The HTTP side: probes, metrics, the status object, the status page. Process and tenants are two things here."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web
from jinja2 import Environment, PackageLoader, select_autoescape

from syncd import __version__
from syncd.report import ago, slowed, status_report, workspaces
from syncd.settings import http_address
from syncd.web.connect import Connecting, public_url

if TYPE_CHECKING:
    from apscheduler.schedulers.asyncio import AsyncIOScheduler

    from syncd.daemon import Parts

_DATABASE_S = 2.0
_OVERDUE = timedelta(minutes=2)
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Web:
    """``ready``: set by the daemon once it schedules, taken back while it drains."""

    def __init__(self, parts: Parts, scheduler: AsyncIOScheduler) -> None:
        self._parts, self._scheduler = parts, scheduler
        self.ready = False
        self._connecting = Connecting(parts)
        app = web.Application(middlewares=[_strict])
        app.add_routes(
            [
                web.get("/", self._page),
                web.get("/style.css", self._style),
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
                web.get("/api/v1/status", self._status),
                *self._connecting.routes(),
            ]
        )
        # AppRunner leaves signals alone: they are the daemon's
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        self._templates = Environment(loader=PackageLoader("syncd.web"), autoescape=select_autoescape())
        self._templates.filters |= {"ago": ago, "slowed": slowed, "workspaces": workspaces}

    async def start(self) -> str:
        """Bind and serve; answers the address. Raises OSError when it cannot be bound."""
        http = self._parts.settings.http
        await self._runner.setup()
        await web.TCPSite(self._runner, http.host, http.port).start()
        address = http_address(*self._runner.addresses[0][:2])
        self._connecting.base = public_url(self._parts.settings, address)
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
        return _json(body, 200 if healthy else 503)

    async def _readyz(self, request: web.Request) -> web.Response:
        return _json({"status": "ready" if self.ready else "not ready"}, 200 if self.ready else 503)

    async def _metrics(self, request: web.Request) -> web.Response:
        text = await asyncio.to_thread(self._parts.metrics.text)
        return web.Response(body=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _status(self, request: web.Request) -> web.Response:
        return _json(await self._report())

    async def _page(self, request: web.Request) -> web.Response:
        page = self._templates.get_template("status.html")
        text = page.render(report=await self._report(), version=__version__, now=datetime.now(UTC))
        return web.Response(text=text, content_type="text/html")

    async def _style(self, request: web.Request) -> web.Response:
        loader = self._templates.loader
        assert loader is not None  # noqa: S101 - set above
        return web.Response(text=loader.get_source(self._templates, "style.css")[0], content_type="text/css")

    async def _report(self) -> dict[str, Any]:
        return await status_report(self._parts.store, self._parts.engine.plans, self._parts.settings)


@web.middleware
async def _strict(request: web.Request, handler: Any) -> web.StreamResponse:
    try:
        response: web.StreamResponse = await handler(request)
    except web.HTTPException as refused:
        refused.headers.update(_HEADERS)
        raise
    except asyncio.CancelledError:
        raise
    except Exception as error:  # noqa: BLE001 - a page's edge: the database may be away
        response = _json({"error": f"the status cannot be read now ({type(error).__name__})"}, 503)
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)  # a page may have a stricter rule of its own
    return response


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(value) + b"\n", status=status, content_type="application/json")
