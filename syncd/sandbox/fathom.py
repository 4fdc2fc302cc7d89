"""Fathom's external API: meetings, recordings, directory and tokens; what a key shows depends on whose it is.

Switches, the first being the default: ``fathom.oauth_flags`` 400, ignore · ``fathom.not_ready`` 404, null, empty ·
``fathom.inclusive`` off, on (``created_*``) · ``fathom.end`` null, blank, absent (``next_cursor``) · ``fathom.cursor``
keyset, page · ``fathom.duplicates`` off, on (a page repeats the row before it) · ``fathom.heavy`` 30, 5 (a minute) ·
``fathom.token`` 60/1m · ``fathom.nulls`` off, on (nulls and words that the vendor's specification does not know). Not
emulated: webhooks.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from aiohttp import web

from syncd.limits import Rate
from syncd.sandbox.consent import CodeRefused, Consent
from syncd.sandbox.dataset import fathom as said
from syncd.sandbox.dataset.fathom import zulu
from syncd.sandbox.fathom_answers import answered, limited, moment, waits
from syncd.sandbox.fathom_pages import PAGE, Pages
from syncd.sandbox.fathom_recorded import PARTS, Recorded, holdings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from syncd.sandbox.dataset import Company, Somebody
    from syncd.sandbox.world import World

Json = dict[str, Any]

_BASE = "/fathom/external/v1"
_SDK_TOKEN = "/fathom/video/external/v1/oauth2/token"  # contract: the SDKs post to another host than the docs name
_DIRECTORY_PAGE = 25
_CALLS, _MINUTE_S = Rate(60, 60), 60
_TOKEN_LIVES_S = 3600  # UNCONFIRMED
_CLIENT = {"client_id": "sandbox-app", "client_secret": "sandbox-app-secret"}
_HEAVY = {"transcript", "default_summary"}


@dataclass(slots=True)
class _Account:
    """A company at Fathom. ``tokens``: the pair that is good; ``minted``, ``recorded``: how many there ever were."""

    company: Company
    meetings: list[Recorded] = field(default_factory=list)
    recorded: int = 0
    revoked: bool = False
    minted: int = 0
    tokens: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Access:
    """Who calls, and until when (None: for good, by an API key). User 0 is an admin."""

    account: _Account
    user: Somebody
    expires_at: datetime | None = None


class Fathom:
    name = "fathom"
    actions: Mapping[str, str] = {
        "add": "a meeting has just ended: {title, user: 0 (who recorded it; 0 is the connection's), ready_in_s: 0, "
        "summary_in_s, items_in_s (both: as ready_in_s)}",
        "edit": "{recording_id, title, shared_with, summary, completed, item: text of a new action item, "
        "reorder: true (the items)}; without an id the newest meeting",
        "delete": "{recording_id}",
        "share": "{recording_id}: another user shares it with the connection's user",
        "unshare": "{recording_id}: no longer; what the connection's user recorded stays visible",
        "revoke": "the workspace's credentials are refused",
        "restore": "they are accepted again",
    }

    def __init__(self, world: World) -> None:
        self._world = world
        self._accounts: dict[str, _Account] = {}
        self._access: dict[str, _Access] = {}
        self._refresh_tokens: dict[str, str] = {}  # spent ones too → workspace
        self._recent: dict[str, deque[float]] = {}
        self._pages = Pages(world)
        users = {workspace: company.staff[0].email for workspace, company in world.companies.items()}
        self._consent = Consent(world, self.name, "/external/v1/oauth2/authorize", _CLIENT, users)
        for workspace, company in world.companies.items():
            account = self._accounts[workspace] = _Account(company)
            for who in company.staff:
                self._access[self.key(workspace, who.index)] = _Access(account, who)
            self._mint(account)
            rng = world.random("fathom", workspace, "week")
            for planned in said.week(rng, world.born, world.options.days, world.options.meetings_per_day):
                self._record(account, planned)

    def key(self, workspace: str, person: int = 0) -> str:
        """The API key of that member of the company's staff; number 0 is an admin."""
        return f"fk_{self._world.random('fathom', workspace, 'key', person).getrandbits(128):032x}"

    def _mint(self, account: _Account) -> None:
        workspace, expires_at = account.company.workspace, self._world.clock.now() + timedelta(seconds=_TOKEN_LIVES_S)
        rng = self._world.random("fathom", workspace, "tokens", account.minted)
        access, refresh = f"at_{rng.getrandbits(128):032x}", f"rt_{rng.getrandbits(128):032x}"
        self._access[access] = _Access(account, account.company.staff[0], expires_at)
        self._refresh_tokens[refresh] = workspace
        account.tokens = {"access_token": access, "refresh_token": refresh, "expires_at": zulu(expires_at)}
        account.minted += 1

    def _record(self, account: _Account, planned: said.Planned, by: Somebody | None = None) -> Recorded:
        rng = self._world.random("fathom", account.company.workspace, "meeting", account.recorded)
        one = said.talk(rng, account.company, planned.kind)
        started = (planned.ended - timedelta(seconds=one.seconds)).replace(microsecond=0)
        number = 300_000_000 + account.company.index * 1_000_000 + account.recorded * 37
        item = said.recording(rng, account.company, one, started, number)
        item |= {"recorded_by": said.recorder(account.company, by)} if by else {}
        ready = dict.fromkeys(PARTS.values(), planned.summary_at) | {"transcript": planned.transcript_at}
        ready |= {"action_items": planned.items_at or planned.summary_at}
        account.recorded += 1
        account.meetings.append(Recorded(item, started, ready))
        return account.meetings[-1]

    def _visible(self, access: _Access) -> list[Recorded]:
        """Newest recording first."""
        now = self._world.clock.now()
        seen = [one for one in access.account.meetings if one.created <= now and one.seen_by(access.user)]
        return sorted(seen, key=lambda one: one.key, reverse=True)

    def _shown(self, one: Recorded, parts: Sequence[str]) -> Json:
        """The meeting with these parts; the others, and what is not ready yet, are null."""
        now, item = self._world.clock.now(), dict(one.item)
        empty = self._world.switch("fathom.not_ready", "404") == "empty"
        for part in PARTS.values():
            if part not in parts:
                item[part] = None
            elif now < one.ready[part]:
                item[part] = [] if empty and part in {"transcript", "action_items", "highlights"} else None
        if not item["transcript"]:  # contract: names are matched only with the transcript
            nameless = {"matched_speaker_display_name": None}
            item["calendar_invitees"] = [who | nameless for who in item["calendar_invitees"]]
        if self._world.switch("fathom.nulls", "off") == "on":
            item["sentiment"] = {"score": None}
            if item["meeting_title"] is None:
                item |= {"scheduled_start_time": None, "scheduled_end_time": None, "shared_with": "guests"}
        return item

    def routes(self) -> Sequence[web.RouteDef]:
        answers: dict[str, Callable[[web.Request, _Access], web.Response]] = {
            "meetings": self._meetings,
            "recordings/{id}/transcript": self._recording,
            "recordings/{id}/summary": self._recording,
            **dict.fromkeys(("teams", "team_members", "users", "meeting_types"), self._directory),
        }
        gets = [web.get(f"{_BASE}/{path}", self._guarded(path, answer)) for path, answer in answers.items()]
        gets += [web.post(path, self._token) for path in (f"{_BASE}/oauth2/token", _SDK_TOKEN)]
        return gets + self._consent.routes()

    def _guarded(
        self, path: str, answer: Callable[[web.Request, _Access], web.Response]
    ) -> Callable[[web.Request], Any]:
        method = path.replace("{id}/", "")

        async def handler(request: web.Request) -> web.Response:
            access = self._who(request.headers)
            now, workspace = self._world.clock.now(), access.account.company.workspace if access else ""
            self._world.seen(request, "fathom", method, workspace)
            if not access or access.account.revoked or (access.expires_at and access.expires_at <= now):
                headers = self._counted("", now.timestamp())  # contract: on each reply
                return answered({"error": "Unauthorized"}, 401, headers)
            heavy = method.startswith("recordings") or any(
                request.query.get(flag) == "true" for flag, part in PARTS.items() if part in _HEAVY
            )
            user = ("fathom", workspace, access.user.email)  # two keys of one user share a budget (UNCONFIRMED)
            wait = self._world.over_limit(_CALLS, *user, "calls")
            if wait is None and heavy:
                rate = Rate(int(self._world.switch("fathom.heavy", "30")), _MINUTE_S)
                wait = self._world.over_limit(rate, *user, "heavy")
            if wait is not None:
                response = limited(wait)
            else:
                try:
                    response = answer(request, access)
                except ValueError as error:
                    response = answered({"error": str(error)}, 400)
            response.headers.update(self._counted(access.user.email, now.timestamp()))
            return response

        return handler

    def _who(self, headers: Mapping[str, str]) -> _Access | None:
        """A key is taken as ``X-Api-Key`` only, an OAuth token as ``Bearer`` only."""
        if key := headers.get("X-Api-Key"):
            access = self._access.get(key)
            return access if access and not access.expires_at else None
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        access = self._access.get(token)
        return access if scheme == "Bearer" and access and access.expires_at else None

    def _counted(self, user: str, now: float) -> dict[str, str]:
        """The headers speak of all calls (UNCONFIRMED)."""
        recent = self._recent.setdefault(user, deque(maxlen=_CALLS.calls))
        recent.append(now)
        while recent[0] <= now - _MINUTE_S:
            recent.popleft()
        return {
            "RateLimit-Limit": str(_CALLS.calls),
            "RateLimit-Remaining": str(_CALLS.calls - len(recent)),
            "RateLimit-Reset": str(math.ceil(recent[0] + _MINUTE_S - now)),
        }

    def _meetings(self, request: web.Request, access: _Access) -> web.Response:
        parts = [part for flag, part in PARTS.items() if request.query.get(flag) == "true"]
        if access.expires_at and not _HEAVY.isdisjoint(parts):
            if self._world.switch("fathom.oauth_flags", "400") == "400":
                raise ValueError("include_transcript and include_summary are unavailable for OAuth apps")
            parts = [part for part in parts if part not in _HEAVY]
        rows = [one for one in self._visible(access) if self._asked_for(one, request)]

        def shown(one: Recorded) -> Json:
            item = self._shown(one, parts)
            if access.user.index == 0:
                one.serve(item)
            return item

        return self._pages.page(request, rows, PAGE, shown)

    def _asked_for(self, one: Recorded, request: web.Request) -> bool:
        query, item, created = request.query, one.item, one.created
        slack = timedelta(seconds=1 if self._world.switch("fathom.inclusive", "off") == "on" else 0)
        teams, recorders = query.getall("teams[]", []), query.getall("recorded_by[]", [])
        domains = query.getall("calendar_invitees_domains[]", [])
        return (
            ("created_after" not in query or created > moment(query["created_after"]) - slack)
            and ("created_before" not in query or created < moment(query["created_before"]) + slack)
            and (not teams or not said.teams_of(one.item).isdisjoint(teams))
            and (not recorders or item["recorded_by"]["email"] in recorders)
            and (not domains or any(who["email_domain"] in domains for who in item["calendar_invitees"]))
            and query.get("calendar_invitees_domains_type", "all") in {"all", item["calendar_invitees_domains_type"]}
            and query.get("meeting_type") in {None, item["meeting_type"]}
        )

    def _recording(self, request: web.Request, access: _Access) -> web.Response:
        number, name = int(request.match_info["id"]), request.path.rpartition("/")[2]
        one = next((one for one in self._visible(access) if one.item["recording_id"] == number), None)
        part = "transcript" if name == "transcript" else "default_summary"
        if one and self._world.clock.now() >= one.ready[part]:
            one.served |= {part: one.item[part]} if access.user.index == 0 else {}
            return answered({name: one.item[part]})
        form = self._world.switch("fathom.not_ready", "404")
        if not one or form == "404":
            return answered({"error": "Not found"}, 404)
        empty: Json = {"transcript": [], "summary": {"template_name": None, "markdown_formatted": ""}}
        return answered({name: empty[name] if form == "empty" else None})

    def _directory(self, request: web.Request, access: _Access) -> web.Response:
        name, team = request.path.rpartition("/")[2], request.query.get("team")
        if name == "users" and access.user.index != 0:
            return answered({"error": "Forbidden"}, 403)
        rows: list[Json] = [{"name": one} for one in said.TEAM_NAMES]
        if name == "meeting_types":
            rows = [{"name": one, "status": status} for one, status in said.MEETING_TYPES]
        elif name != "teams":
            staff = [who for who in access.account.company.staff if team in {None, said.TEAMS[who.role]}]
            rows = [{"name": who.name, "email": who.email} for who in staff]
        further = {"created_at": zulu(self._world.born - timedelta(days=400))}
        further |= {"status": "active"} if name == "users" else {}
        return self._pages.page(request, rows, _DIRECTORY_PAGE, lambda row: row | further)

    async def _token(self, request: web.Request) -> web.Response:
        """A form, the client in it; each code and each refresh token is good for one use."""
        form = await request.post()
        workspace = self._refresh_tokens.get(str(form.get("refresh_token")), "")
        self._world.seen(request, "fathom", "oauth2/token", workspace)
        rate, app = Rate.parse(self._world.switch("fathom.token", "60/1m")), str(form.get("client_id"))
        if (wait := self._world.over_limit(rate, "fathom", app, "token")) is not None:
            return limited(wait)
        if any(form.get(name) != value for name, value in _CLIENT.items()):
            return answered({"error": "invalid_client"}, 400)
        if form.get("grant_type") not in {"refresh_token", "authorization_code"}:
            return answered({"error": "unsupported_grant_type"}, 400)
        try:
            account = self._granted(form, workspace)
        except CodeRefused:
            return answered({"error": "invalid_grant"}, 400)
        self._mint(account)
        tokens = {name: account.tokens[name] for name in ("access_token", "refresh_token")}
        return answered({**tokens, "expires_in": _TOKEN_LIVES_S, "token_type": "Bearer", "scope": "public_api"})

    def _granted(self, form: Mapping[str, Any], workspace: str) -> _Account:
        if form["grant_type"] == "authorization_code":
            account = self._accounts[self._consent.redeem(form).workspace]
            account.revoked = False
            return account
        held, token = self._accounts.get(workspace), str(form.get("refresh_token"))
        good = bool(held and not held.revoked and token == held.tokens["refresh_token"])
        if self._world.renews("fathom", workspace, token, granted=good) and held:
            return held
        raise CodeRefused("refresh_token")

    def environment(self, base: str) -> Mapping[str, str]:
        return {
            "SYNCD_SOURCES__FATHOM__BASE_URL": base + _BASE,
            "SYNCD_SOURCES__FATHOM__TOKEN_URL": f"{base}{_BASE}/oauth2/token",
            **self._consent.environment(base),
        }

    def connections(self) -> Iterator[Mapping[str, Any]]:
        """An API key for each even company, OAuth for each odd one."""
        for workspace, account in self._accounts.items():
            key = {"api_key": self.key(workspace)}
            yield {
                "workspace_id": workspace,
                "source": "fathom",
                "account": account.company.staff[0].email,
                "settings": {},
                "credentials": {**account.tokens, **_CLIENT} if account.company.index % 2 else key,
                "is_active": True,
            }

    def truth(self, workspace: str, since: datetime | None) -> Mapping[str, list[str]]:
        account = self._accounts[workspace]
        seen = self._visible(_Access(account, account.company.staff[0]))
        seen = [one for one in seen if since is None or one.created > since]
        heard = [one for one in seen if one.ready["transcript"] <= self._world.clock.now()]
        kinds = {"meetings": seen, "transcripts": heard}
        return {kind: sorted(str(one.item["recording_id"]) for one in some) for kind, some in kinds.items()}

    def holdings(self, workspace: str) -> Mapping[str, Mapping[str, Any]]:
        """What a reader of the connection's user holds live: kind of record → external id → raw; see `holdings`."""
        account, now = self._accounts[workspace], self._world.clock.now()
        parts = ("action_items", "default_summary")
        return holdings(
            account.meetings, account.company.staff[0], self._world.born, now, lambda one: self._shown(one, parts)
        )

    def act(self, workspace: str, action: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        account, now = self._accounts[workspace], self._world.clock.now()
        if action in {"revoke", "restore"}:
            account.revoked = action == "revoke"
            return {"workspace": workspace, "revoked": account.revoked}
        if action == "add":
            ready, summary, items = (now + timedelta(seconds=wait) for wait in waits(body))
            planned = said.Planned(said.KINDS[0], now - timedelta(seconds=9), ready, summary, items)
            one = self._record(account, planned, by=account.company.staff[int(body.get("user", 0))])
            one.item["title"] = str(body.get("title", one.item["title"]))
            return {"recording_id": one.item["recording_id"]}
        numbers = {one.item["recording_id"]: one for one in account.meetings if not one.deleted}
        newest = max(numbers.values(), key=lambda one: one.created)
        one = numbers[int(body["recording_id"])] if "recording_id" in body else newest
        if action == "delete":
            one.deleted = True
        elif action == "edit":
            one.edit(body)
        else:
            one.shared = action == "share"
        return {"recording_id": one.item["recording_id"]}
