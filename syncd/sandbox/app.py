"""The sandbox as one HTTP server: the four vendors under their names, and ``/control`` to act on them while it runs."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web

from syncd.sandbox.fathom import Fathom
from syncd.sandbox.faults import KINDS, TOLD, Fault, Instead, is_paged
from syncd.sandbox.gmail import Gmail
from syncd.sandbox.gong import Gong
from syncd.sandbox.slack import Slack
from syncd.sandbox.switches import SWITCHES
from syncd.sandbox.world import FAULT, PAGED, SEEN, Call, Options, Vendor, World

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from types import TracebackType
    from typing import Self

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Sandbox:
    """The emulated vendors on loopback: ``async with Sandbox(Options()) as sandbox: sandbox.base``.

    ``port`` 0 takes any free one. Raises OSError when the port is taken.
    """

    def __init__(self, options: Options, *, port: int = 0, world: World | None = None) -> None:
        self.world = world or World(options)
        self.slack, self.gong = Slack(self.world), Gong(self.world)
        self.fathom, self.gmail = Fathom(self.world), Gmail(self.world)
        self.vendors: dict[str, Vendor] = {
            vendor.name: vendor for vendor in (self.slack, self.gong, self.fathom, self.gmail)
        }
        self._port = port
        self._runner: web.AppRunner | None = None
        self.base = ""

    async def __aenter__(self) -> Self:
        app = web.Application(middlewares=[self._middleware], client_max_size=2**24)
        for vendor in self.vendors.values():
            app.add_routes(vendor.routes())
        app.add_routes(_Control(self).routes())
        # handler_cancellation: a client that went away must not leave a hanging handler behind
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        try:
            await site.start()
        except OSError:
            await self._runner.cleanup()
            raise
        port = self._runner.addresses[0][1]
        self.base = f"http://127.0.0.1:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def environment(self) -> dict[str, str]:
        """The variables that point syncd at this sandbox."""
        return {key: value for vendor in self.vendors.values() for key, value in vendor.environment(self.base).items()}

    def connections(self) -> list[Mapping[str, Any]]:
        """A line of ``syncd connections import`` for each workspace and vendor."""
        return [line for vendor in self.vendors.values() for line in vendor.connections()]

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        request[PAGED] = is_paged(request, await request.read())
        arrived, status = self.world.clock.now(), 0
        try:
            response = await self._answered(request, handler)
            status = response.status
            return response
        finally:
            if SEEN in request:  # also one without an answer, as its client went away
                vendor, method, workspace = request[SEEN]
                self.world.record(Call(arrived, vendor, method, workspace, status))

    async def _answered(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """The vendor's answer, or what its fault makes of it."""
        try:
            answer = await handler(request)
        except Instead:
            answer = web.Response()
        fault = request.get(FAULT)
        if fault is None or not isinstance(answer, web.Response):
            return answer
        response = await KINDS[fault.kind](request, answer, fault)
        if response.status == 429 and (told_s := response.get(TOLD)) is not None:
            self.world.tells(told_s, "call", *request[SEEN])
        return response


class _Control:
    """``/control``: what a person or a test does to the vendors from outside."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._world = sandbox.world

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/control", self._help),
            web.get("/control/environment", self._environment),
            web.get("/control/connections", self._connections),
            web.get("/control/truth", self._truth),
            web.get("/control/holdings", self._holdings),
            web.get("/control/calls", self._calls),
            web.get("/control/breaches", self._breaches),
            web.get("/control/renewals", self._renewals),
            web.get("/control/faults", self._faults),
            web.post("/control/faults", self._add_fault),
            web.delete("/control/faults", self._clear_faults),
            web.post("/control/clock", self._clock),
            web.post("/control/{vendor}/{workspace}/{action}", self._act),
        ]

    async def _help(self, request: web.Request) -> web.Response:
        """What can be asked for here."""
        return _json(
            {
                "workspaces": list(self._world.companies),
                "GET /control/environment": "the variables that point syncd here, as lines for a shell",
                "GET /control/connections": "lines for `syncd connections import`",
                "GET /control/truth?since=ISO": "what a perfect reader holds, per vendor and workspace",
                "GET /control/holdings?vendor=V&workspace=W": "all that a perfect reader would hold now, as JSON",
                "GET /control/calls": "how often each call was made",
                "GET /control/breaches": "the calls that exceeded a limit, or came before a Retry-After was over",
                "GET /control/renewals": "the refresh tokens that came, by digest, and whether one came again",
                "POST /control/faults": "{kind, vendor, method, workspace, times, skip, seconds, seed}; kinds: "
                + ", ".join(KINDS),
                "DELETE /control/faults": "all faults end",
                "POST /control/clock": '{"advance_s": 3600}: the vendors\' clock goes forward',
                "--switch NAME=VALUE": SWITCHES,
                "POST /control/VENDOR/WORKSPACE/ACTION": {
                    name: dict(vendor.actions) for name, vendor in self._sandbox.vendors.items()
                },
            }
        )

    async def _environment(self, request: web.Request) -> web.Response:
        lines = [f"export {key}={value}\n" for key, value in self._sandbox.environment().items()]
        return web.Response(text="".join(lines))

    async def _connections(self, request: web.Request) -> web.Response:
        return web.Response(
            body=b"".join(orjson.dumps(line) + b"\n" for line in self._sandbox.connections()),
            content_type="application/x-ndjson",
        )

    async def _truth(self, request: web.Request) -> web.Response:
        try:
            since = datetime.fromisoformat(request.query["since"]) if "since" in request.query else None
        except ValueError:
            return _refused("since must be an ISO date-time with an offset")
        return _json(
            {
                name: {workspace: vendor.truth(workspace, since) for workspace in self._world.companies}
                for name, vendor in self._sandbox.vendors.items()
            }
        )

    async def _holdings(self, request: web.Request) -> web.Response:
        vendors, workspaces = self._sandbox.vendors, list(self._world.companies)
        asked, of = request.query.get("vendor"), request.query.get("workspace")
        if asked not in {None, *vendors} or of not in {None, *workspaces}:
            return _refused("no such vendor or workspace; GET /control lists them", 404)
        return _json(
            {
                name: {one: vendor.holdings(one) for one in workspaces if of in {None, one}}
                for name, vendor in vendors.items()
                if asked in {None, name}
            }
        )

    async def _calls(self, request: web.Request) -> web.Response:
        return _json({f"{vendor} {method}": count for (vendor, method), count in sorted(self._world.counts.items())})

    async def _breaches(self, request: web.Request) -> web.Response:
        return _json([asdict(one) for one in self._world.breaches])

    async def _renewals(self, request: web.Request) -> web.Response:
        return _json([asdict(one) for one in self._world.renewals])

    async def _faults(self, request: web.Request) -> web.Response:
        return _json(
            [{"kind": f.kind, "vendor": f.vendor, "method": f.method, "hits": f.hits} for f in self._world.faults.rules]
        )

    async def _add_fault(self, request: web.Request) -> web.Response:
        try:
            fault = Fault(**(body := await request.json()))
            if not any(fnmatchcase(name, fault.vendor) for name in self._sandbox.vendors):
                raise ValueError(f"vendor {fault.vendor!r} matches none of {', '.join(self._sandbox.vendors)}")
            self._world.faults.add(body)
        except (ValueError, TypeError) as error:
            return _refused(str(error))
        return _json({"faults": len(self._world.faults.rules)})

    async def _clear_faults(self, request: web.Request) -> web.Response:
        self._world.faults.rules.clear()
        return _json({"faults": 0})

    async def _clock(self, request: web.Request) -> web.Response:
        try:
            self._world.clock.advance(timedelta(seconds=float((await request.json())["advance_s"])))
        except (ValueError, TypeError, KeyError, OverflowError):
            return _refused('send {"advance_s": seconds}')
        return _json({"now": self._world.clock.now().isoformat()})

    async def _act(self, request: web.Request) -> web.Response:
        vendor = self._sandbox.vendors.get(request.match_info["vendor"])
        action, workspace = request.match_info["action"], request.match_info["workspace"]
        if vendor is None or action not in vendor.actions or workspace not in self._world.companies:
            return _refused("no such vendor, workspace or action; GET /control lists them", 404)
        try:
            body = await request.json() if await request.read() else {}  # the middleware has read it
            return _json(vendor.act(workspace, action, body))
        except (KeyError, ValueError, TypeError) as error:
            return _refused(f"{action}: {type(error).__name__} {error}")


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(
        body=orjson.dumps(value, option=orjson.OPT_INDENT_2) + b"\n", status=status, content_type="application/json"
    )


def _refused(why: str, status: int = 400) -> web.Response:
    return _json({"error": why}, status)
