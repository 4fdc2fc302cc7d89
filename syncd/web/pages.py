"""The status page: an overview of the sources and connections, and a page of each connection with its buttons.

Server-rendered, of sums and of one page of the list, however many connections there are; `live.js` keeps it up to date.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import structlog
from aiohttp import web
from jinja2 import Environment, PackageLoader, select_autoescape

from syncd import __version__
from syncd.asked import ask
from syncd.errors import UsageError
from syncd.needs import LIMITED, Ill, needs
from syncd.report import found, overview, plain, queue, queue_words, troubled
from syncd.runs import words
from syncd.store.database import clean, is_outage
from syncd.store.status import STATES, TROUBLES, Wanted
from syncd.tasks import all_of
from syncd.web import charts, views
from syncd.web.access import CSRF, WHO

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from syncd.daemon import Parts
    from syncd.needs import Need

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = structlog.get_logger(__name__)

PAGE = 100
_RUNS = 50
_BAR = 20
_LOOKED_AT = 50  # connections of a source in the same trouble of which the words are compared
_SAID = 200  # answers to a button that are still shown when their page is asked for again
_TYPES = {"style.css": "text/css", "live.js": "text/javascript"}
_TEMPLATES = Environment(
    loader=PackageLoader("syncd.web"), autoescape=select_autoescape(), trim_blocks=True, lstrip_blocks=True
)
_TEMPLATES.filters |= views.FILTERS


class Pages:
    """``/``, ``/connections/{id}`` and what its buttons post to, the style and the script."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._said: OrderedDict[str, str] = OrderedDict()

    def routes(self) -> list[web.RouteDef]:
        one = r"/connections/{id:\d{1,18}}"
        return [
            web.get("/", _guarded(self._overview)),
            web.get(one, _guarded(self._connection)),
            web.post(one + "/{act:run|sweep|pause|resume}", _guarded(self._act)),
            *(web.get(f"/{name}", _static(name)) for name in _TYPES),
        ]

    # ── overview ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _overview(self, request: web.Request) -> web.StreamResponse:
        wanted, page = _wanted(request.query), max(1, _number(request.query.get("page")) or 1)
        now, parts = datetime.now(UTC), self._parts
        looks: list[Any] = [
            self._day(now - charts.DAY),
            troubled(parts.store, parts.engine.plans, parts.settings, each=_LOOKED_AT),
            self._listed(wanted, page),
        ]
        (sources, cycles), ill, (rows, total, runs) = await all_of(looks)
        told, waits = needs(_ills(sources, ill), sources), await queue(parts.store)
        for name, source in sources.items():
            source["mood"], source["words"] = views.mood(source, [need for need in told if need.source == name])
            source["chart"] = charts.day(name, map(plain, cycles[name]), now)
        asked = {name: value for name, value in _asked(wanted).items() if value}
        return _page(
            request,
            "overview.html",
            live=True,
            sources=sources,
            needs=told,
            headline=views.headline(told, sources),
            summary=views.summary(sources),
            queue=waits and queue_words(waits),
            states=STATES,
            troubles=TROUBLES,
            wanted=wanted,
            filtered=bool(asked),
            rows=rows,
            total=total,
            bars={row["id"]: charts.runs(runs.get(row["id"], [])) for row in rows},
            page=page,
            pages=-(-total // PAGE),
            link=lambda **more: f"/?{urlencode({**asked, **more})}#connections",
        )

    async def _day(self, since: datetime) -> tuple[dict[str, Any], dict[str, Any]]:
        """The sources, and their cycles since then."""
        sources = await self._of_sources()
        return sources, {name: await self._parts.store.status.cycles(name, since) for name in sources}

    async def _listed(self, wanted: Wanted, page: int) -> tuple[list[dict[str, Any]], int, dict[int, Any]]:
        """A page of the list, how long the list is, and the last runs of those on the page."""
        rows, total = await self._found(wanted, limit=PAGE, offset=(page - 1) * PAGE, worst_first=True)
        return rows, total, await self._parts.store.status.last_runs([row["id"] for row in rows], _BAR)

    # ── one connection ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _connection(self, request: web.Request) -> web.StreamResponse:
        row = await self._one(request)
        status, mine = self._parts.store.status, row["id"]
        before, offset = _number(request.query.get("before")), _number(request.query.get("after")) or 0
        runs = [plain(run) for run in await status.runs(mine, limit=_RUNS + 1, before=before)]
        items = [plain(item) for item in await status.backlog(mine, limit=PAGE + 1, offset=offset)]
        sources = await self._of_sources()
        return _page(
            request,
            "connection.html",
            live=True,
            row=row,
            sources=sources,
            needs=self._needs_of(row, sources),
            acts=_acts(row),
            said=self._said.get(request.query.get("said", "")),
            under_way=[self._live(run) for run in runs if run["status"] == "running" and row["running"]],
            runs=runs[:_RUNS],
            before=before,
            older=runs[_RUNS - 1]["id"] if len(runs) > _RUNS else None,
            reasons=await status.backlog_reasons(mine) if row["backlog"] else [],
            items=items[:PAGE],
            offset=offset,
            further=offset + PAGE if len(items) > PAGE else None,
            cursors=[plain(cursor) for cursor in await status.cursors(mine)],
        )

    def _needs_of(self, row: dict[str, Any], sources: Mapping[str, Any]) -> list[Need]:
        """Those of this connection alone."""
        kinds = [kind for kind in (row["trouble"], LIMITED if row["state"] == "limited" else None) if kind]
        ills = [Ill(row["source"], kind, 1, [row]) for kind in kinds]
        return [need for need in needs(ills, {row["source"]: sources[row["source"]]}) if need.who]

    def _live(self, run: dict[str, Any]) -> dict[str, Any]:
        """A run under way: what this process knows of it goes before what was stored with its last page."""
        live = self._parts.engine.live.get(run["id"])
        if live is None:
            return run
        reached = live.reached.isoformat() if live.reached else None
        return {**run, **live.did, "stream": live.stream, "parts": live.parts, "reached": reached}

    async def _one(self, request: web.Request) -> dict[str, Any]:
        rows, _ = await self._found(Wanted(id=int(request.match_info["id"])), limit=1)
        if not rows:
            raise _Missing
        return rows[0]

    # ── buttons ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _act(self, request: web.Request) -> web.StreamResponse:
        """Do what a button says, and come back with a word of what came of it."""
        row, act = await self._one(request), request.match_info["act"]
        try:
            said = await self._done(row, act)
        except UsageError as error:
            said = str(error)
        key = secrets.token_urlsafe(9)
        self._said[key] = said
        while len(self._said) > _SAID:
            self._said.popitem(last=False)
        return web.Response(status=303, headers={"Location": f"/connections/{row['id']}?said={key}"})

    async def _done(self, row: dict[str, Any], act: str) -> str:
        connections = self._parts.store.connections
        if act == "pause":
            await connections.set_active(row["id"], active=False)
            return "Paused: it is not read until it is resumed. What is being read ends first."
        if act == "resume":
            await connections.set_active(row["id"], active=True)
            return "Resumed: it is read at the next turn."
        asked = await ask(self._parts, row["id"], sweep=act == "sweep")
        if asked.started:
            return f"{'The sweep' if act == 'sweep' else 'The run'} has started as run {asked.run_id}."
        return f"{'Not yet' if asked.waits else 'It did not start'}: {asked.why}."

    async def _of_sources(self) -> dict[str, Any]:
        sources: dict[str, Any] = (await overview(self._parts.store, self._parts.engine.plans, self._parts.settings))[
            "sources"
        ]
        return sources

    async def _found(self, wanted: Wanted, **how: Any) -> tuple[list[dict[str, Any]], int]:
        return await found(self._parts.store, self._parts.engine.plans, self._parts.settings, wanted, **how)


class _Missing(Exception):
    """There is no such connection."""


def _ills(sources: Mapping[str, Any], rows: list[dict[str, Any]]) -> list[Ill]:
    """Those in trouble of each source, and those that wait for a limit, by what they have in common."""
    ills = []
    for name, source in sources.items():
        mine = [row for row in rows if row["source"] == name]
        for kind, total in source["troubles"].items():
            ills.append(Ill(name, kind, total, [row for row in mine if row["trouble"] == kind]))
        if total := source["states"].get(LIMITED):
            ills.append(Ill(name, LIMITED, total, [row for row in mine if row["state"] == LIMITED]))
    # Between two looks one may have gone out of it.
    return [ill for ill in ills if ill.rows]


def _acts(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(last part of the path, title) of the buttons that make sense."""
    if not row["is_active"]:
        return [("resume", "Resume")] if row["has_credentials"] else []
    return [("run", "Run now"), ("sweep", "Sweep now"), ("pause", "Pause")]


def _wanted(query: Mapping[str, str]) -> Wanted:
    """Of the form above the list; an empty field is none."""
    source, state, trouble, search = (
        clean(query.get(name, ""))[:200].strip() or None for name in ("source", "state", "trouble", "workspace")
    )
    return Wanted(source=source, state=state, trouble=trouble, search=search)


def _asked(wanted: Wanted) -> dict[str, str | None]:
    return {
        "source": wanted.source,
        "state": wanted.state,
        "trouble": wanted.trouble,
        "workspace": wanted.search,
    }


def _number(text: str | None) -> int | None:
    """A number of an address; None where it is none, or too large for a database."""
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) < 10 else None


def _page(request: web.Request, template: str, *, status: int = 200, **values: Any) -> web.Response:
    text = _TEMPLATES.get_template(template).render(
        version=__version__,
        now=datetime.now(UTC),
        here=request.path_qs,
        csrf=request.get(CSRF, ""),
        signed_in=request.get(WHO) == "token",
        **values,
    )
    return web.Response(text=text, status=status, content_type="text/html")


def _guarded(handler: Handler) -> Handler:
    """A page's edge: what goes wrong is a page of its own."""

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except _Missing:
            return _page(request, "words.html", status=404, title="There is no such connection", lines=[])
        except Exception as error:
            if not is_outage(error):
                raise
            lines = [f"The status cannot be read now: {words(error)}.", "`syncd doctor` says more. Reload this page."]
            return _page(request, "words.html", status=503, title="The database does not answer", lines=lines)

    return handle


def _static(name: str) -> Handler:
    assert _TEMPLATES.loader is not None  # noqa: S101 - set above
    text = _TEMPLATES.loader.get_source(_TEMPLATES, name)[0]

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=text, content_type=_TYPES[name])

    return answer
