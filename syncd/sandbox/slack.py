"""Slack's Web API emulated under ``/slack/api/``, as far as syncd and its users need it.

Switches of UNCONFIRMED and rarer behaviour: ``slack.restricted`` on (one call a minute, or ``slack.restricted_rate``,
and 15 objects for history and replies), ``slack.parent_on_pages`` all|first, ``slack.metadata_absent_at_end`` on,
``slack.short_pages`` on, ``slack.429`` json|text|empty, ``slack.cursor_life_s``, ``slack.refresh_grace_s``,
``slack.token_life_s``.

Not emulated: the Events API and other webhooks.
"""

from __future__ import annotations

import base64
import copy
import math
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web

from syncd.limits import Rate
from syncd.sandbox.consent import CodeRefused, Consent
from syncd.sandbox.dataset.slack import SYNCBOT, Office, Room, ts_of
from syncd.sandbox.slack_pages import Json, Pages, Refusal, digest, within

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from syncd.sandbox.world import World

CLIENT = {"client_id": "1000.2000", "client_secret": "sandbox-client-secret"}
TYPES = {"public_channel": "public", "private_channel": "private", "mpim": "mpim", "im": "im"}
FAMILY = {"public": "channels", "private": "groups", "mpim": "mpim", "im": "im"}  # of scopes
SCOPES = [f"{family}:{what}" for family in FAMILY.values() for what in ("read", "history")]
SCOPES += ["channels:join", "users:read", "users:read.email"]
_READ, _HISTORY = (",".join(f"{family}:{what}" for family in FAMILY.values()) for what in ("read", "history"))
ACCEPTS = {  # method → the scopes of which it takes one
    "auth.test": "", "users.list": "users:read", "users.conversations": _READ, "conversations.list": _READ,
    "conversations.info": _READ, "conversations.join": "channels:join", "conversations.history": _HISTORY,
    "conversations.replies": _HISTORY,
}  # fmt: skip
PER_MINUTE = {"users.list": 20, "conversations.list": 20, "auth.test": 600}  # the others are of tier 3: 50


@dataclass
class Install:
    """The app in one workspace. ``access``: live token → its end, ``refresh``: token → end of its grace, None = none.

    ``refused``: what every call answers. ``failing``: method → codes that its next calls answer, "" = none.
    """

    office: Office
    token: str
    access: dict[str, datetime | None]
    refresh: dict[str, datetime | None] = field(default_factory=dict)
    spent: set[str] = field(default_factory=set)
    scopes: list[str] = field(default_factory=lambda: list(SCOPES))
    refused: str | None = None
    failing: dict[str, list[str]] = field(default_factory=dict)

    def need(self, scope: str) -> None:
        if scope not in self.scopes:
            raise Refusal("missing_scope", needed=scope, provided=",".join(self.scopes))


class Slack:
    """Slack for every company of the world."""

    name = "slack"
    actions: Mapping[str, str] = {
        "post": "{channel?, text?, user?}: a new message",
        "reply": "{channel?, ts?, text?, broadcast?}: a reply, without ts to the newest message",
        "edit": "{channel?, ts?, text?}: edits a message, without ts the newest",
        "delete": "{channel?, ts?}: deletes a message; a parent with replies becomes a tombstone",
        "react": "{channel?, ts?, name?}: a reaction",
        "invite": "{channel}: the bot becomes a member",
        "kick": "{channel}: the bot is no longer a member",
        "create": "{name}: a channel, the bot in it",
        "rename": "{channel, name}",
        "archive": "{channel, undo?}",
        "person": "{user, name}: somebody is called otherwise; user is a number, as in post",
        "limit_history": "{days}: a free plan hides what is older, in every channel; 0 shows it again",
        "scopes": "{scopes: […]}: what the token may do from now on",
        "rotate": "token rotation begins; answers the new credentials",
        "revoke": "{error?}: every call is refused with token_revoked (or account_inactive, invalid_auth)",
        "restore": "undoes revoke",
        "fail": "{method, error, times?, skip?}: the method's next calls, after so many, answer this error code",
    }

    def __init__(self, world: World) -> None:
        self._world, self._given, self._pages = world, 0, Pages(world)
        self._installs: dict[str, Install] = {}
        for workspace, company in world.companies.items():
            office = Office(company, world.random("slack", workspace), world.options, world.born)
            seal = digest(str(world.options.seed), workspace)
            access: dict[str, datetime | None] = {f"xoxb-{seal}": None, f"xoxp-{seal}": None}
            self._installs[workspace] = Install(office, f"xoxb-{seal}", access)
        named = {workspace: install.office.company.name for workspace, install in self._installs.items()}
        self._consent = Consent(world, self.name, "/oauth/v2/authorize", CLIENT, named)

    def routes(self) -> list[web.RouteDef]:
        methods = [web.route(verb, "/slack/api/{method}", self._handle) for verb in ("GET", "POST")]
        return [*methods, *self._consent.routes()]

    def environment(self, base: str) -> Mapping[str, str]:
        return {"SYNCD_SOURCES__SLACK__BASE_URL": f"{base}/slack/api/", **self._consent.environment(base)}

    def connections(self) -> Iterator[Mapping[str, Any]]:
        for workspace, install in self._installs.items():
            line = {"workspace_id": workspace, "source": "slack", "account": install.office.company.name}
            yield line | {"settings": {}, "credentials": self._credentials(install), "is_active": True}

    def truth(self, workspace: str, since: datetime | None) -> Mapping[str, list[str]]:
        """Replies are held when their parent is in the window: nothing else tells of them."""
        office, oldest = self._installs[workspace].office, ts_of(since) if since else ""
        rooms = [room for room in office.rooms.values() if room.member]
        held = {f"{room.id}:{ts}" for room in rooms for ts in room.told(oldest)}
        people = sorted(user["id"] for user in office.users)
        return {"people": people, "conversations": sorted(room.id for room in rooms), "messages": sorted(held)}

    def holdings(self, workspace: str) -> dict[str, dict[str, Json]]:
        """Kind → id → JSON as it is served now, of all that a reader holds live who began when the sandbox did.

        A channel that the bot was sent away from is held as it was then.
        """
        office = self._installs[workspace].office
        held: dict[str, dict[str, Json]] = {"people": {user["id"]: user for user in office.users}}
        held |= {"conversations": {}, "messages": {}}
        for room in office.rooms.values():
            if room.member or room.kept is not None:
                held["conversations"][room.id] = room.info
                held["messages"] |= room.kept if room.kept is not None else room.live()
        return held

    # ── actions ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def act(self, workspace: str, action: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Raises KeyError, ValueError."""
        install = self._installs[workspace]
        if action in {"post", "reply", "edit", "delete", "react"}:
            return install.office.change(action, body, self._world.clock.now())
        if action in install.office.settings:
            return install.office.settings[action](body, self._world.clock.now())
        if action == "scopes":
            install.scopes = [str(scope) for scope in body["scopes"]]
        elif action == "fail":
            codes = [""] * int(body.get("skip", 0)) + [str(body["error"])] * int(body.get("times", 1))
            install.failing.setdefault(body["method"], []).extend(codes)
        elif action == "rotate":
            install.spent.update(install.access)  # the long-lived token was exchanged
            install.access.clear()
            self._renew(install)
            return self._credentials(install)
        else:
            install.refused = str(body.get("error", "token_revoked")) if action == "revoke" else None
        return {"workspace": workspace, "done": action}

    # ── calls ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _handle(self, request: web.Request) -> web.Response:
        method, args = request.match_info["method"], dict[str, Any](request.query)
        args.pop("token", None)  # contract: a token in the query is not taken
        if request.method == "POST" and request.content_type == "application/json":
            args |= orjson.loads(await request.read() or b"{}")
        elif request.method == "POST":
            args |= {key: value for key, value in (await request.post()).items() if isinstance(value, str)}
        said = request.headers.get("Authorization", "")
        args["token"] = said.removeprefix("Bearer ") if said.startswith("Bearer ") else args.get("token", "")
        install = next((one for one in self._installs.values() if self._is_of(one, args)), None)
        self._world.seen(request, "slack", method, install.office.company.workspace if install else "")
        headers: dict[str, str] = {"x-slack-req-id": self._fresh()}
        try:
            if method == "oauth.v2.access":
                answer = {"ok": True, **self._oauth(install, said, args)}
            else:
                install = self._admitted(install, method, args["token"])
                headers |= {"x-oauth-scopes": ",".join(install.scopes), "x-accepted-oauth-scopes": ACCEPTS[method]}
                answer = {"ok": True, **getattr(self, f"_{method.replace('.', '_')}")(install, args)}
        except Refusal as refusal:
            answer = refusal.answer
        if wait := answer.get("retry_after"):  # the body of a real 429 is UNCONFIRMED
            form = self._world.switch("slack.429", "json")
            text = {"json": '{"ok":false,"error":"ratelimited"}', "text": "Too many requests"}.get(form, "")
            kind = "application/json" if form == "json" else "text/plain"
            return web.Response(status=429, text=text, headers={"Retry-After": wait}, content_type=kind)
        body = orjson.dumps(answer)
        return web.Response(body=body, headers=headers, content_type="application/json", charset="utf-8")

    def _is_of(self, install: Install, args: Json) -> bool:
        token, refresh = args["token"], args.get("refresh_token")
        return token in install.access or token in install.spent or refresh in install.refresh

    def _admitted(self, install: Install | None, method: str, token: str) -> Install:
        """Raises what is answered instead of data: bad tokens, too many calls, errors that were asked for."""
        if method not in ACCEPTS:
            raise Refusal("unknown_method")
        if install is None:
            raise Refusal("invalid_auth" if token else "not_authed")
        if install.refused or token in install.spent:
            raise Refusal(install.refused or "token_revoked")
        ends = install.access[token]
        if ends is not None and ends <= self._world.clock.now():
            raise Refusal("token_expired")
        usual = Rate(PER_MINUTE.get(method, 50), 60.0)
        low = self._restricted(method) and Rate.parse(self._world.switch("slack.restricted_rate", "1/1m"))
        rate = low or usual
        wait = self._world.over_limit(rate, "slack", install.office.company.workspace, method)
        if wait is not None:
            raise Refusal("ratelimited", retry_after=str(math.ceil(wait)))
        if (codes := install.failing.get(method)) and (code := codes.pop(0)):
            raise Refusal(code)
        return install

    def _restricted(self, method: str) -> bool:
        slow = method in {"conversations.history", "conversations.replies"}
        return slow and self._world.switch("slack.restricted", "off") == "on"

    def _auth_test(self, install: Install, args: Json) -> Json:
        office = install.office
        known: Json = {"url": f"https://{office.company.workspace}.slack.com/", "team": office.company.name}
        known |= {"user": "syncbot", "user_id": office.ids[SYNCBOT], "team_id": office.id}
        return known | ({} if args["token"].startswith("xoxp-") else {"bot_id": "B0SYNCBOT1"})

    def _users_list(self, install: Install, args: Json) -> Json:
        install.need("users:read")
        page, rest = self._pages.cut("users.list", args, install.office.users, "id", 1000)
        return {"members": page, "cache_ts": int(self._world.clock.now().timestamp()), **rest}

    def _users_conversations(self, install: Install, args: Json) -> Json:
        rooms = [room.info for room in self._listed(install, args) if room.member]
        page, rest = self._pages.cut("users.conversations", args, rooms, "id", 999)
        return {"channels": page, **rest}

    def _conversations_list(self, install: Install, args: Json) -> Json:
        rooms = [_info(room) for room in self._listed(install, args) if room.member or room.plan.kind == "public"]
        page, rest = self._pages.cut("conversations.list", args, rooms, "id", 999)
        return {"channels": page, **rest}

    def _listed(self, install: Install, args: Json) -> list[Room]:
        types = str(args.get("types") or "public_channel").split(",")
        if not set(types) <= set(TYPES):
            raise Refusal("invalid_types")
        kinds = {TYPES[name] for name in types}
        for kind in sorted(kinds):
            install.need(f"{FAMILY[kind]}:read")
        hides = str(args.get("exclude_archived", "")).lower() in {"1", "true"}
        rooms = [room for room in install.office.rooms.values() if room.plan.kind in kinds]
        return [room for room in rooms if not (hides and room.plan.archived)]

    def _room(self, install: Install, args: Json, what: str) -> Room:
        """The conversation asked for; a private one without the bot does not exist for it."""
        if not args.get("channel"):
            raise Refusal("missing_argument")
        room = install.office.rooms.get(str(args["channel"]))
        if room is None or not (room.member or room.plan.kind == "public"):
            raise Refusal("channel_not_found")
        install.need(f"{FAMILY[room.plan.kind]}:{what}")
        return room

    def _conversations_info(self, install: Install, args: Json) -> Json:
        room = self._room(install, args, "read")
        newest = room.history()[:1] if room.member else []
        read = {"latest": self._served(newest[0]), "last_read": ts_of(self._world.clock.now())} if newest else {}
        return {"channel": _info(room) | read}

    def _conversations_join(self, install: Install, args: Json) -> Json:
        install.need("channels:join")
        room = self._room(install, args, "read")
        if room.plan.kind != "public":
            raise Refusal("method_not_supported_for_channel_type")
        if room.plan.archived:
            raise Refusal("is_archived")
        code, room.member = "already_in_channel" if room.member else "", True
        return {"channel": _info(room)} | ({"warning": code, "response_metadata": {"warnings": [code]}} if code else {})

    def _conversations_history(self, install: Install, args: Json) -> Json:
        room = self._room(install, args, "history")
        if not room.member and not args["token"].startswith("xoxp-"):
            raise Refusal("not_in_channel")
        shown = [one for one in room.history() if one["ts"] >= room.hidden_before]
        most = 15 if self._restricted("conversations.history") else 999
        page, rest = self._pages.cut("conversations.history", args, within(shown, args), "ts", 999, most)
        echo: Json = {key: args[key] for key in ("oldest", "latest") if key in args}
        echo |= {"is_limited": True} if room.hidden_before else {}
        echo |= {"pin_count": 0, "channel_actions_ts": None, "channel_actions_count": 0}
        return {"messages": [self._served(one, room) for one in page], "has_more": _has_more(rest), **echo, **rest}

    def _conversations_replies(self, install: Install, args: Json) -> Json:
        room = self._room(install, args, "history")
        asked = room.messages.get(str(args.get("ts")))
        if not room.member and not args["token"].startswith("xoxp-"):
            raise Refusal("channel_not_found")
        parent = room.messages.get(str(asked.get("thread_ts", asked["ts"]))) if asked else None
        if parent is None or parent["ts"] < room.hidden_before or str(parent.get("subtype")).startswith("channel_"):
            raise Refusal("thread_not_found")
        replies = within(room.replies(parent["ts"]), args)
        most = 15 if self._restricted("conversations.replies") else 1000
        page, rest = self._pages.cut("conversations.replies", args, replies, "ts", 1000, most)
        if not args.get("cursor") or self._world.switch("slack.parent_on_pages", "all") == "all":
            page = [parent | {"subscribed": True, "last_read": parent["ts"]}, *page]
        return {"messages": [self._served(one) for one in page], "has_more": _has_more(rest), **rest}

    def _served(self, message: Json, room: Room | None = None) -> Json:
        """As one call shows it: blocks without an id get a new one; history shows the parent in a broadcast reply."""
        shown = copy.deepcopy(message)
        for block in shown.get("blocks") or []:
            block.setdefault("block_id", self._fresh()[:5])
        if room and shown.get("subtype") == "thread_broadcast":
            shown["root"] = copy.deepcopy(room.messages.get(shown["thread_ts"]))
        return shown

    def _fresh(self) -> str:
        self._given += 1
        return digest(str(self._given))

    # ── rotation ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _oauth(self, install: Install | None, said: str, form: Json) -> Json:
        if said.startswith("Basic "):
            login, _, password = base64.b64decode(said.removeprefix("Basic ")).decode().partition(":")
            form = {**form, "client_id": login, "client_secret": password}
        for key, code in (("client_id", "invalid_client_id"), ("client_secret", "bad_client_secret")):
            if form.get(key) != CLIENT[key]:
                raise Refusal(code)
        if form.get("grant_type", "authorization_code") == "authorization_code":
            return self._installed(form)
        if form["grant_type"] != "refresh_token":
            raise Refusal("invalid_grant_type")
        token = form.get("refresh_token", "")
        grace = install.refresh.get(token) if install else None
        good = bool(install and not install.refused) and (grace is None or grace > self._world.clock.now())
        workspace = install.office.company.workspace if install else ""
        if not self._world.renews("slack", workspace, token, granted=good) or install is None:
            raise Refusal("invalid_refresh_token")
        return self._renewed(install)

    def _renewed(self, install: Install) -> Json:
        self._renew(install)
        pair = {key: self._credentials(install)[key] for key in ("access_token", "refresh_token")}
        life_s = int(self._world.switch("slack.token_life_s", "43200"))
        return {**self._described(install), **pair, "expires_in": life_s}

    def _described(self, install: Install) -> Json:
        office = install.office
        named = {"team": {"id": office.id, "name": office.company.name}, "bot_user_id": office.ids[SYNCBOT]}
        return {**named, "token_type": "bot", "scope": ",".join(install.scopes)}

    def _installed(self, form: Json) -> Json:
        """A code buys the bot's token, or a pair once token rotation has begun; the app is in the workspace again."""
        try:
            consented = self._consent.redeem(form)
        except CodeRefused as wrong:
            codes = {"redirect_uri": "bad_redirect_uri", "verifier": "invalid_code_verifier"}
            raise Refusal(codes.get(str(wrong), "invalid_code")) from None
        install = self._installs[consented.workspace]
        install.refused, install.scopes = None, consented.scopes.split(",")
        further: Json = {"app_id": "A0SANDBOX1", "enterprise": None, "is_enterprise_install": False}
        further |= {"authed_user": {"id": install.office.users[0]["id"]}}
        if install.refresh:
            return self._renewed(install) | further
        return {**self._described(install), "access_token": install.token} | further

    def _renew(self, install: Install) -> None:
        """A new pair: at most two access tokens live, a spent refresh token serves for a short grace."""
        now, number = self._world.clock.now(), str(len(install.refresh))
        grace = now + timedelta(seconds=int(self._world.switch("slack.refresh_grace_s", "60")))
        install.refresh = {token: ends or grace for token, ends in install.refresh.items()}
        install.refresh[f"xoxe-1-{digest(install.token, 'refresh', number)}"] = None
        life = timedelta(seconds=int(self._world.switch("slack.token_life_s", "43200")))
        install.access[f"xoxe.xoxb-1-{digest(install.token, 'access', number)}"] = now + life
        while len(install.access) > 2:
            oldest = next(iter(install.access))
            install.spent.add(oldest)
            del install.access[oldest]

    def _credentials(self, install: Install) -> Json:
        if not install.refresh:
            return {"token": install.token}
        token, ends = list(install.access.items())[-1]
        held = {"access_token": token, "refresh_token": list(install.refresh)[-1], **CLIENT}
        return held | {"expires_at": f"{ends:%Y-%m-%dT%H:%M:%SZ}"}


def _info(room: Room) -> Json:
    """Contract: membership and the number of members are told by all but users.conversations."""
    return room.info | ({} if room.plan.kind == "im" else {"is_member": room.member, "num_members": 9})


def _has_more(rest: Json) -> bool:
    return bool(rest.get("response_metadata", {}).get("next_cursor"))
