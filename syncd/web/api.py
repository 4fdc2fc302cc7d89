"""``/api/v1``: what the command line does, for programs. `openapi` is its document; each route is in both.

What goes wrong is a problem object. Bodies are JSON; a credential goes in and never comes out.
"""

from __future__ import annotations

import re
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import orjson
import structlog
from aiohttp import web

from syncd.asked import ask, ask_sources
from syncd.connect import Invitation, link_for
from syncd.durations import parse_duration
from syncd.errors import OtherAccount, SealError, UsageError
from syncd.lines import MEMBERS, known_source, line_of, storable_name
from syncd.report import found, plain, status_report
from syncd.sources import SOURCES
from syncd.store import Which
from syncd.store.status import FRESHNESS, STATES, TROUBLES, Wanted
from syncd.web.access import WHO
from syncd.web.answers import Problem, json_of
from syncd.web.openapi import BASE, FARTHEST, LARGEST, MOST, document

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from syncd.asked import Asked
    from syncd.daemon import Parts

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = structlog.get_logger(__name__)

_FILTERS = {"state": STATES, "freshness": FRESHNESS, "trouble": TROUBLES, "source": tuple(SOURCES)}
_CHANGES = {"settings", "credentials", "is_active"}


class Api:
    """``base``: where browsers reach us, set once we listen."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._connections = parts.store.connections
        self.base = ""

    def routes(self) -> list[web.RouteDef]:
        one = "/connections/{connection_id}"
        handlers: list[tuple[str, str, Handler]] = [
            ("GET", "/openapi.json", _openapi),
            ("GET", "/status", self._status),
            ("GET", "/connections", self._list),
            ("POST", "/connections", self._put),
            ("GET", one, self._get),
            ("PATCH", one, self._change),
            ("DELETE", one, self._remove),
            ("POST", f"{one}/pause", self._pause),
            ("POST", f"{one}/resume", self._resume),
            ("GET", f"{one}/runs", self._runs),
            ("GET", f"{one}/backlog", self._backlog),
            ("GET", "/runs/{run_id}", self._run),
            ("POST", "/sync", self._sync),
            ("POST", "/connect-links", self._link),
        ]
        return [web.route(method, BASE + path, _edge(handler)) for method, path, handler in handlers]

    # ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _status(self, request: web.Request) -> web.Response:
        _query(request)
        return json_of(await status_report(self._parts.store, self._parts.engine.plans, self._parts.settings))

    async def _list(self, request: web.Request) -> web.Response:
        query = _query(request, "workspace", *_FILTERS, "limit", "offset")
        for name, known in _FILTERS.items():
            if name in query and query[name] not in known:
                raise Problem(400, f"{name}: unknown {query[name]!r}; known: {', '.join(known)}")
        limit, offset = _number(query, "limit", 100, 1, MOST), _number(query, "offset", 0, 0, FARTHEST)
        asked = {name: query.get(name) for name in ("workspace", *_FILTERS)}
        rows, total = await self._found(_wanted(asked), limit=limit, offset=offset)
        headers = {"X-Total-Count": str(total)}
        if offset + limit < total:
            chosen = {name: value for name, value in asked.items() if value}
            headers["Link"] = _next(f"{BASE}/connections", {**chosen, "limit": limit, "offset": offset + limit})
        return json_of(rows, headers=headers)

    async def _get(self, request: web.Request) -> web.Response:
        _query(request)
        return json_of(await self._one(_id(request)))

    async def _runs(self, request: web.Request) -> web.Response:
        query, mine = _query(request, "limit", "before"), await self._known(request)
        limit = _number(query, "limit", 50, 1, MOST)
        before = _number(query, "before", 0, 1, LARGEST) if "before" in query else None
        rows = await self._parts.store.status.runs(mine, limit=limit + 1, before=before)
        more = {"limit": limit, "before": rows[limit - 1]["id"]} if len(rows) > limit else None
        headers = {"Link": _next(f"{BASE}/connections/{mine}/runs", more)} if more else {}
        return json_of([plain(row) for row in rows[:limit]], headers=headers)

    async def _backlog(self, request: web.Request) -> web.Response:
        query, mine = _query(request, "limit", "offset"), await self._known(request)
        limit, offset = _number(query, "limit", 100, 1, MOST), _number(query, "offset", 0, 0, FARTHEST)
        rows = await self._parts.store.status.backlog(mine, limit=limit + 1, offset=offset)
        more = {"limit": limit, "offset": offset + limit} if len(rows) > limit else None
        headers = {"Link": _next(f"{BASE}/connections/{mine}/backlog", more)} if more else {}
        return json_of([plain(row) for row in rows[:limit]], headers=headers)

    async def _run(self, request: web.Request) -> web.Response:
        _query(request)
        run_id = _id(request, "run_id")
        run = plain(await self._parts.store.status.run(run_id))
        if run is None:
            raise Problem(404, f"there is no run {run_id}, or it is older than the history that is kept")
        return json_of(run)

    # ── changing ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _put(self, request: web.Request) -> web.Response:
        _query(request)
        line = line_of(await _body(request, MEMBERS, "workspace_id", "source"))
        added, _ = await self._connections.put([line], self._parts.vault.seal)
        mine = await self._connections.all(source=line.source, workspace=line.workspace_id)
        connection_id = next((one.id for one in mine if one.account == line.account), 0)
        headers = {"Location": f"{BASE}/connections/{connection_id}"}
        return json_of(await self._one(connection_id), 201 if added else 200, headers)

    async def _change(self, request: web.Request) -> web.Response:
        _query(request)
        connection_id = _id(request)
        change = await _body(request, _CHANGES)
        if not change:
            raise Problem(422, f"nothing to change; known: {', '.join(sorted(_CHANGES))}")
        known = await self._connections.get(connection_id)
        if known is None:
            raise _unknown(connection_id)
        if known.workspace_id is None:
            raise Problem(409, "it belongs to no workspace: connect the account anew, for a workspace")
        whose = {"source": known.source, "workspace_id": known.workspace_id, "account": known.account}
        line = line_of({**whose, **change})
        if known.sealed is None and line.credentials is None and line.is_active:
            raise Problem(409, "it has no credentials: give it new ones")
        await self._connections.put([line], self._parts.vault.seal)
        return json_of(await self._one(connection_id))

    async def _remove(self, request: web.Request) -> web.Response:
        query, connection_id = _query(request, "purge"), _id(request)
        if query.get("purge", "false") not in {"true", "false"}:
            raise Problem(400, "purge: write true or false")
        if query.get("purge") == "true":
            who = request[WHO]
            gone = await self._parts.store.purges.purge(Which(only=connection_id), by=f"api: {who}" if who else "api")
        elif not await self._connections.remove(connection_id):
            gone = []
        else:
            return web.Response(status=204)
        if not gone:
            raise _unknown(connection_id)
        return web.Response(status=204)

    async def _pause(self, request: web.Request) -> web.Response:
        return await self._set_active(request, active=False)

    async def _resume(self, request: web.Request) -> web.Response:
        return await self._set_active(request, active=True)

    async def _set_active(self, request: web.Request, *, active: bool) -> web.Response:
        _query(request)
        connection_id = _id(request)
        await _body(request, set())
        try:
            if not await self._connections.set_active(connection_id, active=active):
                raise _unknown(connection_id)
        except UsageError as error:
            raise Problem(409, str(error)) from None
        return json_of(await self._one(connection_id))

    # ── asking ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _sync(self, request: web.Request) -> web.Response:
        _query(request)
        body = await _body(request, {"source", "connection_id", "workspace", "sweep"})
        _typed(body, source=str, connection_id=int, workspace=str, sweep=bool)
        sweep, workspace = body.get("sweep", False), body.get("workspace")
        if (connection_id := body.get("connection_id")) is not None:
            if "source" in body or "workspace" in body:
                raise Problem(422, "name a connection, or a source, a workspace or both")
            if not 1 <= connection_id <= LARGEST or await self._connections.get(connection_id) is None:
                raise _unknown(connection_id)
            return _told([await ask(self._parts, connection_id, sweep=sweep)])
        if "source" not in body and workspace is None:
            raise Problem(422, "name a connection_id, a source or a workspace")
        if workspace is not None and not storable_name("workspace", workspace):
            raise Problem(422, "workspace is empty")
        names = [known_source(body["source"])] if "source" in body else list(SOURCES)
        answers = await ask_sources(self._parts, names, workspace=workspace, sweep=sweep)
        # Of a whole workspace, sources where it has nothing to read are not spoken of unless there is no other.
        return _told([one for one in answers if one.cycle_id or one.waits] or answers)

    async def _link(self, request: web.Request) -> web.Response:
        _query(request)
        body = await _body(request, {"source", "workspace", "account", "expires"}, "source", "workspace")
        _typed(body, source=str, workspace=str, account=str, expires=str)
        for name in ("workspace", "account"):
            storable_name(name, body.get(name, ""))
        if not body["workspace"]:
            raise Problem(422, "workspace is empty")
        try:
            expires_at = datetime.now(UTC) + parse_duration(body.get("expires", "1h"))
        except ValueError as error:
            raise Problem(422, f"expires: {error}") from None
        known_source(body["source"])
        invitation = Invitation(body["source"], body["workspace"], body.get("account", ""), expires_at)
        try:
            url = link_for(self._parts.settings, self.base, invitation)
        except UsageError as error:
            raise Problem(409, str(error)) from None
        return json_of(plain({"url": url, "expires_at": expires_at}))

    # ── one connection ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _found(self, wanted: Wanted, **how: Any) -> tuple[list[dict[str, Any]], int]:
        return await found(self._parts.store, self._parts.engine.plans, self._parts.settings, wanted, **how)

    async def _one(self, connection_id: int) -> dict[str, Any]:
        """A row of the list and, beside it, what only one tells."""
        rows, _ = await self._found(Wanted(id=connection_id), limit=1)
        whole = await self._connections.get(connection_id)
        if not rows or whole is None:
            raise _unknown(connection_id)
        return rows[0] | plain({"settings": whole.settings, "created_at": whole.created_at})

    async def _known(self, request: web.Request) -> int:
        """The id in the path, of a connection that is there."""
        connection_id = _id(request)
        if await self._connections.get(connection_id) is None:
            raise _unknown(connection_id)
        return connection_id


def _edge(handler: Handler) -> Handler:
    """What a person could mend is a problem with its own status; what changes something is a line in the log."""

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            response = await handler(request)
        except OtherAccount as error:
            raise Problem(409, str(error)) from None
        except UsageError as error:
            raise Problem(422, str(error)) from None
        except SealError as error:
            raise Problem(503, str(error)) from None
        if request.method != "GET":
            log.info("api.done", method=request.method, path=request.path, status=response.status, who=request[WHO])
        return response

    return handle


@cache
def _document() -> bytes:
    return orjson.dumps(document())


async def _openapi(request: web.Request) -> web.Response:
    return web.Response(body=_document(), content_type="application/json")


def _unknown(connection_id: int) -> Problem:
    return Problem(404, f"there is no connection {connection_id}")


def _told(answers: list[Asked]) -> web.Response:
    """202 where something started or will; else a problem that says why not."""
    rows = [asdict(one) for one in answers]
    if not any(one.started or one.waits for one in answers):
        why = "; ".join(f"{one.source}: {one.why}" if one.connection_id is None else one.why for one in answers)
        raise Problem(409, f"nothing was started: {why}", asked=rows)
    return json_of({"asked": rows}, 202)


# ── what is asked ───────────────────────────────────────────────────────────────────────────────────────────────────


def _id(request: web.Request, name: str = "connection_id") -> int:
    text = request.match_info[name]
    what = name.removesuffix("_id")
    if not re.fullmatch(r"[0-9]{1,19}", text) or not 1 <= int(text) <= LARGEST:
        raise Problem(404, f"there is no such {what}: its id is a number")
    return int(text)


def _query(request: web.Request, *known: str) -> dict[str, str]:
    """The parameters. A name that is not known is refused: a misspelt filter would answer everything."""
    query = dict(request.query)
    if unknown := sorted(set(query) - set(known)):
        raise Problem(400, f"unknown parameter {unknown[0][:100]!r}; known: {', '.join(known) or 'none'}")
    if len(query) != len(request.query):
        raise Problem(400, "a parameter is given more than once")
    for name, value in query.items():
        if not value:
            raise Problem(400, f"{name} is empty: leave it out")
        try:
            storable_name(name, value)
        except UsageError as error:
            raise Problem(400, str(error)) from None
    return query


def _wanted(asked: Mapping[str, str | None]) -> Wanted:
    return Wanted(
        source=asked["source"],
        state=asked["state"],
        freshness=asked["freshness"],
        trouble=asked["trouble"],
        workspace=asked["workspace"],
    )


def _number(query: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = query.get(name, str(default))
    if not re.fullmatch(r"[0-9]{1,19}", text) or not (name not in query or least <= int(text) <= most):
        raise Problem(400, f"{name}: write a number from {least} to {most}")
    return int(text)


def _next(path: str, query: Mapping[str, Any]) -> str:
    return f'<{path}?{urlencode(query)}>; rel="next"'


async def _body(request: web.Request, known: set[str], *needed: str) -> dict[str, Any]:
    """The body, an object of these members, none of them null; no body is an empty object.

    It must say that it is JSON, also where it is empty: a page of another site could send anything else.
    """
    if request.content_type != "application/json" or (request.charset or "utf-8").lower() != "utf-8":
        raise Problem(415, "send `Content-Type: application/json`")
    text = await request.read()
    try:
        body = orjson.loads(text) if text else {}
    except orjson.JSONDecodeError as error:
        raise Problem(400, f"the body is not JSON ({error.msg} at column {error.colno})") from None
    if not isinstance(body, dict):
        raise Problem(422, "the body must be a JSON object")
    if unknown := sorted(set(body) - known):
        raise Problem(422, f"unknown member {unknown[0][:100]!r}; known: {', '.join(sorted(known)) or 'none'}")
    if nulls := [name for name, value in body.items() if value is None]:
        raise Problem(422, f"{nulls[0]} is null: leave it out")
    if missing := [name for name in needed if name not in body]:
        raise Problem(422, f"{missing[0]} is missing")
    return body


def _typed(body: Mapping[str, Any], **kinds: type) -> None:
    forms = {str: "text", int: "a whole number", bool: "true or false"}
    for name, kind in kinds.items():
        if name in body and type(body[name]) is not kind:
            raise Problem(422, f"{name} must be {forms[kind]}")
