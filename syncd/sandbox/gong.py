"""Gong, emulated: users, workspaces, calls, transcripts and tokens.

Switches (`Options.switches`): ``gong.transcript_not_ready`` = omit|empty|404, ``gong.transcript_first`` = off|on
(transcripts are listed before their calls), ``gong.visibility`` = all|none (credentials that see nothing),
``gong.missing_scope`` (for example ``api:users:read``), ``gong.second`` and ``gong.day`` (the limits, ``3/1s`` and
``10000/1d``), ``gong.redirect`` (a host that all requests are sent to), ``gong.refresh_grace_s`` (for so long a spent
refresh token still works; 0).

Not emulated: webhooks.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web

from syncd.limits import Rate
from syncd.sandbox.consent import CodeRefused, Consent
from syncd.sandbox.dataset import gong as data
from syncd.sandbox.dataset.gong import digits
from syncd.sandbox.gong_pages import BAD_JSON, Pages, Refused, body_of, date, ids
from syncd.sandbox.gong_tenant import Tenant, basic

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

    from syncd.sandbox.dataset.gong import Recorded
    from syncd.sandbox.world import World

    _Handler = Callable[["Tenant", web.Request], Awaitable[Mapping[str, Any]]]

_NO_CALLS = "No calls found corresponding to the provided filters"
_TOKEN_S = 86400
_APP = {"client_id": "sandbox-app", "client_secret": "sandbox-app-secret"}  # of the consent page; serves every tenant


class Gong:
    """The vendor of `Vendor`'s protocol."""

    name = "gong"
    actions: Mapping[str, str] = {
        "add": "a call: {title?, minutes_ago?, private?, visible_in_s?, ready_in_s?, content_in_s?}; 0 = now",
        "edit": "a call: {id?, title?, brief?, comment?, private?}; without id the newest",
        "delete": "a call: {id?}",
        "ripen": "a call and its transcript are ready now: {id?}; without id all",
        "hire": "a user: {first, last}",
        "revoke": "the credentials are refused from now on",
        "restore": "they are accepted again",
    }

    def __init__(self, world: World) -> None:
        self._world = world
        self._pages = Pages(world)
        self._requests = world.random("gong", "requests")
        self._tenants: dict[str, Tenant] = {}
        self._keys: dict[str, Tenant] = {}
        self._clients: dict[str, Tenant] = {}
        self._tokens: dict[str, tuple[Tenant, datetime]] = {}
        for name, company in world.companies.items():
            rng = world.random("gong", name)
            made = data.week(company, rng, world.born, world.options.days, world.options.calls_per_day)
            self._tenants[name] = tenant = Tenant(
                company=company,
                users=data.users(company, world.born),
                calls={call.id: call for call in made},
                workspaces=[
                    {"id": digits("workspace", name, number), "name": title, "description": None}
                    for number, title in enumerate(("Initial workspace", "Customer Success"))
                ],
                secret=f"{world.options.seed}/{name}",
            )
            self._keys[tenant.basic("access_key", "access_key_secret")] = tenant
            self._clients[tenant.basic("client_id", "client_secret")] = tenant
            self._tokens[tenant.member("access_token")] = tenant, world.born + timedelta(seconds=_TOKEN_S)
        named = {name: tenant.company.name for name, tenant in self._tenants.items()}
        self._consent = Consent(world, self.name, "/oauth2/authorize", _APP, named)

    def routes(self) -> Sequence[web.RouteDef]:
        def get(path: str, scope: str, answer: _Handler) -> web.RouteDef:
            return web.get(f"/gong/v2/{path}", self._endpoint(path, scope, answer))

        def post(path: str, scope: str, answer: _Handler) -> web.RouteDef:
            return web.post(f"/gong/v2/{path}", self._endpoint(path, scope, answer))

        return [
            get("users", "users:read", self._get_users),
            get("users/{id}", "users:read", self._get_user),
            get("workspaces", "workspaces:read", self._get_workspaces),
            get("calls", "calls:read:basic", self._get_calls),
            get("calls/{id}", "calls:read:basic", self._get_call),
            post("users/extensive", "users:read", self._post_users),
            post("calls/extensive", "calls:read:extensive", self._post_extensive),
            post("calls/transcript", "calls:read:transcript", self._post_transcript),
            web.post("/gong/oauth2/generate-customer-token", self._token),
            *self._consent.routes(),
        ]

    def environment(self, base: str) -> Mapping[str, str]:
        token_url = f"{base}/gong/oauth2/generate-customer-token"
        prefix = "SYNCD_SOURCES__GONG__"
        return {f"{prefix}BASE_URL": f"{base}/gong", f"{prefix}TOKEN_URL": token_url, **self._consent.environment(base)}

    def connections(self) -> Iterator[Mapping[str, Any]]:
        """Workspaces of even index hold an access key, the others OAuth tokens."""
        for name, tenant in self._tenants.items():
            key = {one: tenant.member(one) for one in ("access_key", "access_key_secret")}
            oauth = {one: tenant.member(one) for one in ("access_token", "refresh_token", "client_id", "client_secret")}
            expires_at = self._tokens[oauth["access_token"]][1].isoformat(timespec="seconds")
            yield {
                "workspace_id": name,
                "source": "gong",
                "account": "",
                "settings": {},
                "credentials": oauth | {"expires_at": expires_at} if tenant.company.index % 2 else key,
                "is_active": True,
            }

    def truth(self, workspace: str, since: datetime | None) -> Mapping[str, list[str]]:
        tenant, now = self._tenants[workspace], self._world.clock.now()
        calls = [
            call for call in tenant.listed(now) if not call.is_private and (since is None or call.started >= since)
        ]
        return {
            "people": sorted(user["id"] for user in tenant.users),
            "meetings": sorted(call.id for call in calls),
            "transcripts": sorted(call.id for call in calls if call.transcript_at <= now),
        }

    def holdings(self, workspace: str) -> dict[str, dict[str, Any]]:
        """What a reader that began at birth should hold live now: kind → external id → JSON as it is served now."""
        return self._tenants[workspace].holdings(self._world.born, self._world.clock.now())

    def act(self, workspace: str, action: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        tenant, now = self._tenants[workspace], self._world.clock.now()
        if action in ("revoke", "restore"):
            tenant.revoked = action == "revoke"
            return {"workspace": workspace, "revoked": tenant.revoked}
        if action == "hire":
            user = {"id": digits("hire", workspace, len(tenant.users)), "active": True}
            tenant.users.append(user | {"firstName": body["first"], "lastName": body["last"], "emailAddress": None})
            return {"user": user["id"]}
        if action == "add":
            return {"call": self._add(tenant, now, body)}
        calls = [tenant.calls[body["id"]]] if "id" in body else tenant.listed(now, unseen=action == "ripen")
        if action == "ripen":
            for call in calls:
                call.visible_at, call.content_at = min(call.visible_at, now), min(call.content_at, now)
                call.transcript_at = min(call.transcript_at, now)
            return {"calls": [call.id for call in calls]}
        if not calls:
            raise ValueError("there is no call")
        call = calls[-1]
        if action == "delete":
            del tenant.calls[call.id]
            return {"call": call.id}
        call.edits |= {key: str(body[key]) for key in ("title", "brief") if key in body}
        call.is_private = bool(body.get("private", call.is_private))
        if "comment" in body:
            call.comments.append(data.comment(call, str(body["comment"]), now))
        return {"call": call.id}

    def _add(self, tenant: Tenant, now: datetime, body: Mapping[str, Any]) -> str:
        tenant.added += 1
        number = 100_000 + 8 * tenant.added  # a conference, beyond the numbers of the data set
        started = (now - timedelta(minutes=float(body.get("minutes_ago", 60)))).replace(microsecond=0)
        spaces = [space["id"] for space in tenant.workspaces]
        call = data.recorded(tenant.company, self._world.random("gong", "add", number), started, number, spaces)
        call.is_private = bool(body.get("private", False))
        call.visible_at, call.transcript_at, call.content_at = (
            now + timedelta(seconds=float(body.get(name, 0))) for name in ("visible_in_s", "ready_in_s", "content_in_s")
        )
        call.edits |= {"title": str(body["title"])} if "title" in body else {}
        tenant.calls[call.id] = call
        return call.id

    # --- what every request passes ---------------------------------------------------------------------------------

    def _endpoint(self, path: str, scope: str, answer: _Handler) -> Callable[[web.Request], Awaitable[web.Response]]:
        method = path.removesuffix("/{id}")

        async def handle(request: web.Request) -> web.Response:
            tenant, refused = self._who(request)
            workspace = tenant.company.workspace if tenant else ""
            self._world.seen(request, "gong", method, workspace)
            try:
                if tenant:
                    self._count(workspace)
                if redirect := self._world.switch("gong.redirect", ""):
                    return web.Response(status=302, headers={"Location": f"https://{redirect}{request.path}"})
                if tenant is None or refused:
                    raise Refused(401, refused)
                if self._world.switch("gong.missing_scope", "") == f"api:{scope}":
                    raise Refused(401, f"You don't have permission to use 'api:{scope}' in your app.")
                return self._reply(200, await answer(tenant, request))
            except Refused as error:
                return self._reply(error.status, {"errors": [error.words]}, error.headers)

        return handle

    def _who(self, request: web.Request) -> tuple[Tenant | None, str]:
        """Whose credentials these are, and why they are refused; the words of a 401 are not settled by any source."""
        header = request.headers.get("Authorization", "")
        if header.startswith("Bearer "):
            tenant, expires_at = self._tokens.get(header.removeprefix("Bearer "), (None, None))
            good = tenant and expires_at and expires_at > self._world.clock.now() and not tenant.revoked
            return tenant, "" if good else "access token has been revoked"
        tenant = self._keys.get(header)
        return tenant, "" if tenant and not tenant.revoked else "access key is not valid"

    def _count(self, workspace: str) -> None:
        """Every request of a company counts. Raises a 429 whose ``Retry-After`` is in whole seconds."""
        for limit, default in (("second", "3/1s"), ("day", "10000/1d")):
            rate = Rate.parse(self._world.switch(f"gong.{limit}", default))
            wait_s = self._world.over_limit(rate, "gong", workspace, limit)
            if wait_s is not None:
                raise Refused(429, "API rate limit exceeded", {"Retry-After": str(math.ceil(wait_s))})

    def _reply(self, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> web.Response:
        request_id = "".join(self._requests.choices("0123456789abcdefghijklmnopqrstuvwxyz", k=19))
        described = {"Content-Type": "application/json;charset=UTF-8", "x-traceid": request_id}
        encoded = orjson.dumps({"requestId": request_id, **body})
        return web.Response(status=status, body=encoded, headers=described | dict(headers or {}))

    # --- the answers -----------------------------------------------------------------------------------------------

    async def _get_workspaces(self, tenant: Tenant, request: web.Request) -> Mapping[str, Any]:
        return {"workspaces": tenant.workspaces}

    async def _get_users(self, tenant: Tenant, request: web.Request) -> Mapping[str, Any]:
        users = [] if self._blind() else tenant.users
        return self._users(tenant, users, "users", request.query.get("cursor"))

    async def _get_user(self, tenant: Tenant, request: web.Request) -> Mapping[str, Any]:
        for user in tenant.users:
            if user["id"] == request.match_info["id"]:
                return {"user": user}
        raise Refused(404, f"User ID {request.match_info['id']} was not found")

    async def _post_users(self, tenant: Tenant, request: web.Request) -> Mapping[str, Any]:
        body, wanted = await body_of(request)
        chosen = ids(wanted, "userIds")
        users = [user for user in tenant.users if chosen is None or user["id"] in chosen]
        if not users or self._blind():
            raise Refused(404, "No users found corresponding to the provided filters")
        return self._users(tenant, users, ["users/extensive", wanted], body.get("cursor"))

    def _users(self, tenant: Tenant, users: Sequence[Any], asked: object, cursor: object) -> Mapping[str, Any]:
        rows = sorted(((int(user["id"]),), user) for user in users)
        page, records = self._pages.cut(rows, [tenant.secret, asked], cursor)
        return {"records": records, "users": page}

    async def _get_call(self, tenant: Tenant, request: web.Request) -> Mapping[str, Any]:
        for call in tenant.listed(self._world.clock.now()):
            if call.id == request.match_info["id"]:
                return {"call": data.meta(call)}
        raise Refused(404, f"Call ID {request.match_info['id']} was not found")

    async def _get_calls(self, tenant: Tenant, request: web.Request) -> Mapping[str, Any]:
        wanted = {
            key: request.query[key] for key in ("fromDateTime", "toDateTime", "workspaceId") if key in request.query
        }
        calls = self._chosen(tenant, wanted, by_schedule=True)
        page, records = self._calls_page(tenant, calls, ["calls", wanted], request.query.get("cursor"))
        return {"records": records, "calls": [data.meta(call) for call in page]}

    async def _post_extensive(self, tenant: Tenant, request: web.Request) -> Mapping[str, Any]:
        body, wanted = await body_of(request)
        selector = body.get("contentSelector") or {}
        if not isinstance(selector, dict) or selector.get("context") not in (None, "None", "Basic", "Extended"):
            raise Refused(400, BAD_JSON)
        calls = self._chosen(tenant, wanted)
        page, records = self._calls_page(tenant, calls, ["calls/extensive", wanted, selector], body.get("cursor"))
        return {"records": records, "calls": [data.shown(call, selector, self._world.clock.now()) for call in page]}

    async def _post_transcript(self, tenant: Tenant, request: web.Request) -> Mapping[str, Any]:
        body, wanted = await body_of(request)
        now, mode = self._world.clock.now(), self._world.switch("gong.transcript_not_ready", "omit")
        early = self._world.switch("gong.transcript_first", "off") == "on"
        chosen = self._chosen(tenant, wanted, unseen=early)
        ready = {call.id for call in chosen if call.transcript_at <= now or call.visible_at > now}
        named = ids(wanted, "callIds") or []
        listed = [call for call in chosen if call.id in ready or (named and mode == "empty")]
        if chosen and not listed and len(named) > 1 and mode == "omit":
            return {"records": {"totalRecords": 0, "currentPageSize": 0, "currentPageNumber": 0}, "callTranscripts": []}
        page, records = self._calls_page(tenant, listed, ["calls/transcript", wanted], body.get("cursor"))
        return {
            "records": records,
            "callTranscripts": [
                data.transcript(call) if call.id in ready else {"callId": call.id, "transcript": []} for call in page
            ],
        }

    async def _token(self, request: web.Request) -> web.Response:
        """Parameters from the query, a form or JSON, as clients in the field send them."""
        fields: dict[str, Any] = dict(request.query)
        if request.content_type == "application/json":
            fields |= await request.json()
        else:
            fields |= await request.post()
        header = request.headers.get("Authorization", "")
        tenant, by_app = self._clients.get(header), header == basic(**_APP)
        now = self._world.clock.now()
        if by_app:
            tenant = next((one for one in self._tenants.values() if one.refreshed_by(fields, now)), None)
        self._world.seen(request, "gong", "oauth2/generate-customer-token", tenant.company.workspace if tenant else "")
        if tenant is None and not by_app:
            return web.json_response({"error": "invalid_client"}, status=401)
        if fields.get("grant_type") == "authorization_code" and by_app:
            try:
                tenant = self._tenants[self._consent.redeem(fields).workspace]
            except CodeRefused:
                return web.json_response({"error": "invalid_grant"}, status=400)
            tenant.revoked = False
        elif fields.get("grant_type") != "refresh_token":
            return web.json_response({"error": "unsupported_grant_type"}, status=400)
        elif not self._renews(tenant, fields) or tenant is None:
            words = "The refresh token is expired, revoked or was used before"
            return web.json_response({"error": "invalid_grant", "error_description": words}, status=400)
        return self._granted(tenant, fields, f"{request.scheme}://{request.host}/gong")

    def _renews(self, tenant: Tenant | None, fields: Mapping[str, Any]) -> bool:
        good = bool(tenant and not tenant.revoked and tenant.refreshed_by(fields, self._world.clock.now()))
        workspace = tenant.company.workspace if tenant else ""
        return self._world.renews(self.name, workspace, str(fields.get("refresh_token")), granted=good)

    def _granted(self, tenant: Tenant, fields: Mapping[str, Any], base: str) -> web.Response:
        grace = timedelta(seconds=int(self._world.switch("gong.refresh_grace_s", "0")))
        tenant.spent[tenant.member("refresh_token")] = self._world.clock.now() + grace
        tenant.turn += 1
        lasts_s = int(fields.get("validity_duration", _TOKEN_S))
        token = tenant.member("access_token")
        self._tokens[token] = tenant, self._world.clock.now() + timedelta(seconds=lasts_s)
        return web.json_response(
            {
                "access_token": token,
                "token_type": "bearer",
                "expires_in": lasts_s,
                "scope": "api:calls:read:extensive api:calls:read:transcript api:users:read api:workspaces:read",
                "refresh_token": tenant.member("refresh_token"),
                "api_base_url_for_customer": base,
            }
        )

    # --- filters and pages -----------------------------------------------------------------------------------------

    def _blind(self) -> bool:
        return self._world.switch("gong.visibility", "all") == "none"

    def _chosen(
        self, tenant: Tenant, wanted: Mapping[str, Any], *, unseen: bool = False, by_schedule: bool = False
    ) -> list[Recorded]:
        """The calls that a filter asks for, oldest first. Dates compare the start, in GET /v2/calls the schedule."""
        since, until = date(wanted, "fromDateTime"), date(wanted, "toDateTime")
        if since and until and since >= until:
            raise Refused(400, "filter.fromDateTime: must be before toDateTime")
        named, hosts, space = ids(wanted, "callIds"), ids(wanted, "primaryUserIds"), wanted.get("workspaceId")

        def fits(call: Recorded) -> bool:
            at = (call.scheduled if by_schedule else None) or call.started
            return (
                (since is None or at >= since)
                and (until is None or at < until)
                and (named is None or call.id in named)
                and (hosts is None or data.user_id(call.company, call.owner) in hosts)
                and space in (None, call.workspace_id)
            )

        listed = [] if self._blind() else tenant.listed(self._world.clock.now(), unseen=unseen)
        return [call for call in listed if fits(call)]

    def _calls_page(
        self, tenant: Tenant, calls: Sequence[Recorded], asked: object, cursor: object
    ) -> tuple[list[Recorded], dict[str, Any]]:
        rows = [((int(call.started.timestamp() * 1000), int(call.id)), call) for call in calls]
        page, records = self._pages.cut(rows, [tenant.secret, asked], cursor)
        if not page:
            raise Refused(404, _NO_CALLS)
        return page, records
