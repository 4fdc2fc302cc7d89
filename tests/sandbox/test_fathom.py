"""Fathom's emulator against its contract: plain requests, and the vendor's own client."""

from __future__ import annotations

import asyncio
import base64
from contextlib import asynccontextmanager
from datetime import timedelta

import fathom_python
import httpx
import orjson
import pytest
import pytest_asyncio
from fathom_python import models

from syncd.sandbox.fathom import Fathom
from syncd.sandbox.world import Options, World

WIDE = {"created_after": "2000-01-01T00:00:00Z"}
HEAVY = {"include_transcript": "true", "include_summary": "true"}


class Caller:
    """Requests of one member of a company's staff, or of its OAuth app."""

    def __init__(self, box, client: httpx.AsyncClient) -> None:
        self.box, self.client = box, client

    async def get(self, path: str, *, person: int | None = 0, token: str = "", **params: object) -> httpx.Response:
        key = {"X-Api-Key": self.box.fathom.key("acme", person or 0)}
        return await self.client.get(
            path, params=params, headers={"Authorization": f"Bearer {token}"} if person is None else key
        )

    async def ids(self, **params: object) -> list[int]:
        return [item["recording_id"] for item in (await self.get("/meetings", **params)).json()["items"]]

    async def refresh(self, **changes: str) -> httpx.Response:
        form = {"grant_type": "refresh_token", **self.oauth} | changes
        return await self.client.post("/oauth2/token", data=form)

    @property
    def oauth(self) -> dict[str, str]:
        lines = {line["workspace_id"]: line["credentials"] for line in self.box.fathom.connections()}
        return {key: value for key, value in lines["northwind"].items() if key != "expires_at"}


@pytest_asyncio.fixture
async def caller(sandbox):
    """``await caller(**switches)``: against a sandbox of two companies without limits."""
    clients: list[httpx.AsyncClient] = []

    async def make(*, limits: bool = False, page_size: int = 0, **switches: str) -> Caller:
        named = {f"fathom.{name}": value for name, value in switches.items()}
        box = await sandbox(Options(workspaces=2, limits=limits, page_size=page_size, switches=named))
        base = box.fathom.environment(box.base)["SYNCD_SOURCES__FATHOM__BASE_URL"]
        clients.append(httpx.AsyncClient(base_url=base))
        return Caller(box, clients[-1])

    yield make
    for client in clients:
        await client.aclose()


class TestListing:
    async def test_pages_of_ten_newest_recording_first(self, caller):
        call = await caller()
        body = (await call.get("/meetings", **WIDE)).json()
        starts = [item["recording_start_time"] for item in body["items"]]
        assert (body["limit"], len(starts)) == (10, 10)
        assert starts == sorted(starts, reverse=True)

    @pytest.mark.parametrize("form", ["keyset", "page"])
    async def test_the_pages_are_the_whole_list(self, caller, form):
        call = await caller(page_size=3, cursor=form)
        found, params = [], dict(WIDE)
        while True:
            body = (await call.get("/meetings", **params)).json()
            found += [item["recording_id"] for item in body["items"]]
            if body["next_cursor"] is None:
                break
            params["cursor"] = body["next_cursor"]
        assert sorted(map(str, found)) == call.box.fathom.truth("acme", None)["meetings"]

    async def test_a_new_meeting_shifts_no_row_of_a_keyset(self, caller):
        call = await caller(page_size=3)
        body = (await call.get("/meetings", **WIDE)).json()
        call.box.fathom.act("acme", "add", {})
        assert not {item["recording_id"] for item in body["items"]} & set(
            await call.ids(**WIDE, cursor=body["next_cursor"])
        )

    async def test_a_duplicate_across_pages_can_be_had(self, caller):
        call = await caller(page_size=3, duplicates="on")
        body = (await call.get("/meetings", **WIDE)).json()
        following = await call.ids(**WIDE, cursor=body["next_cursor"])
        assert following[0] == body["items"][-1]["recording_id"]

    @pytest.mark.parametrize("end", ["null", "blank", "absent"])
    async def test_the_three_ends_of_a_list(self, caller, end):
        call = await caller(end=end)
        body = (await call.get("/meetings", created_after="2999-01-01T00:00:00Z")).json()
        assert body["items"] == []
        assert body.get("next_cursor", "absent") == {"null": None, "blank": "", "absent": "absent"}[end]

    async def test_a_cursor_expires(self, caller):
        call = await caller(page_size=3)
        token = (await call.get("/meetings", **WIDE)).json()["next_cursor"]
        call.box.world.clock.advance(timedelta(hours=1))
        assert (await call.get("/meetings", **WIDE, cursor=token)).status_code == 400

    @pytest.mark.parametrize("cursor", ["x", "!", base64.b64encode(orjson.dumps({})).decode(), "e30="])
    async def test_a_cursor_of_ones_own_making_is_refused(self, caller, cursor):
        assert (await (await caller()).get("/meetings", **WIDE, cursor=cursor)).status_code == 400

    async def test_a_cursor_is_good_for_its_own_parameters_only(self, caller):
        call = await caller(page_size=3)
        token = (await call.get("/meetings", **WIDE)).json()["next_cursor"]
        assert (await call.get("/meetings", cursor=token)).status_code == 400

    @pytest.mark.parametrize(("inclusive", "listed"), [("off", False), ("on", True)])
    async def test_created_after_is_strict_unless_switched(self, caller, inclusive, listed):
        call = await caller(inclusive=inclusive)
        one = (await call.get("/meetings", **WIDE)).json()["items"][0]
        assert (one["recording_id"] in await call.ids(created_after=one["created_at"])) is listed

    async def test_a_senseless_time_is_refused(self, caller):
        assert (await (await caller()).get("/meetings", created_after="yesterday")).status_code == 400

    async def test_parts_are_null_unless_asked_for(self, caller):
        call = await caller()
        plain = (await call.get("/meetings", **WIDE, include_summary="false")).json()["items"][3]
        asked = (await call.get("/meetings", **WIDE, **HEAVY)).json()["items"][3]
        assert plain["transcript"] is plain["default_summary"] is plain["action_items"] is None
        assert asked["transcript"]
        assert asked["default_summary"]["markdown_formatted"].startswith("## ")

    async def test_names_are_matched_only_with_the_transcript(self, caller):
        call = await caller()
        name = "matched_speaker_display_name"
        for params, matched in (({}, False), (HEAVY, True)):
            items = (await call.get("/meetings", **WIDE, **params)).json()["items"][2:]
            assert any(who[name] for item in items for who in item["calendar_invitees"]) is matched

    async def test_brackets_are_read_percent_encoded_too(self, caller):
        call = await caller()
        key = {"X-Api-Key": call.box.fathom.key("acme")}
        for name in ("teams[]", "teams%5B%5D"):
            body = (await call.client.get(f"/meetings?{name}=Nobody&{name}=Sales", headers=key)).json()
            assert len(body["items"]) > 0


class TestVisibility:
    async def test_a_private_meeting_is_its_recorders_alone(self, caller):
        call = await caller()
        body = (await call.get("/meetings", person=0)).json()
        mine = call.box.world.companies["acme"].staff[0].email
        private = [item for item in body["items"] if item["shared_with"] == "no_teams"]
        assert all(item["recorded_by"]["email"] == mine for item in private)
        assert await call.ids(person=6) != await call.ids(person=0)

    async def test_sharing_an_old_meeting_shows_it_with_its_old_created_at(self, caller):
        call = await caller()
        made = call.box.fathom.act("acme", "add", {"user": 1})
        call.box.fathom.act("acme", "edit", made | {"shared_with": "no_teams"})
        assert made["recording_id"] not in await call.ids()
        call.box.fathom.act("acme", "edit", made | {"shared_with": "all_teams"})
        assert made["recording_id"] in await call.ids()

    async def test_only_an_admin_sees_the_users(self, caller):
        call = await caller()
        assert [(await call.get("/users", person=n)).status_code for n in (0, 1)] == [200, 403]

    @pytest.mark.parametrize("path", ["/teams", "/team_members", "/users", "/meeting_types"])
    async def test_directories_come_in_the_same_envelope(self, caller, path):
        call = await caller(page_size=2)
        body = (await call.get(path)).json()
        assert (body["limit"], len(body["items"])) == (25, 2)
        assert (await call.get(path, cursor=body["next_cursor"])).json()["items"] != body["items"]

    async def test_anothers_meeting_is_shared_with_the_connections_user_and_no_longer(self, caller):
        call = await caller()
        made = call.box.fathom.act("acme", "add", {"user": 1})
        call.box.fathom.act("acme", "edit", made | {"shared_with": "no_teams"})
        shown = []
        for action in ("share", "unshare"):
            call.box.fathom.act("acme", action, made)
            shown.append(made["recording_id"] in await call.ids())
        assert shown == [True, False]

    async def test_what_the_user_recorded_stays_visible(self, caller):
        call = await caller()
        made = call.box.fathom.act("acme", "add", {})
        call.box.fathom.act("acme", "unshare", made)
        assert made["recording_id"] in await call.ids()


class TestRecordings:
    @pytest.mark.parametrize(("form", "answer"), [("404", None), ("null", None), ("empty", [])])
    async def test_a_transcript_that_is_not_ready_ripens_by_the_clock(self, caller, form, answer):
        call = await caller(not_ready=form)
        made = call.box.fathom.act("acme", "add", {"ready_in_s": 600})
        path = f"/recordings/{made['recording_id']}/transcript"
        early = await call.get(path)
        assert early.status_code == (404 if form == "404" else 200)
        assert early.json().get("transcript") == answer
        call.box.world.clock.advance(timedelta(minutes=11))
        turn = (await call.get(path)).json()["transcript"][0]
        assert set(turn) == {"speaker", "text", "timestamp"}

    @pytest.mark.parametrize(("number", "status"), [("1", 404), ("x", 400)])
    async def test_an_unknown_recording(self, caller, number, status):
        assert (await (await caller()).get(f"/recordings/{number}/summary")).status_code == status

    async def test_a_deleted_meeting_vanishes(self, caller):
        call = await caller()
        made = call.box.fathom.act("acme", "add", {})
        call.box.fathom.act("acme", "delete", made)
        assert made["recording_id"] not in await call.ids()
        assert (await call.get(f"/recordings/{made['recording_id']}/summary")).status_code == 404


class TestAccess:
    @pytest.mark.parametrize(
        ("held", "form", "status"),
        [
            ("key", "X-Api-Key: {}", 200),
            ("key", "Authorization: Bearer {}", 401),
            ("key", "Authorization: {}", 401),
            ("access_token", "Authorization: Bearer {}", 200),
            ("access_token", "Authorization: {}", 401),
            ("access_token", "Authorization: Basic {}", 401),
            ("access_token", "X-Api-Key: {}", 401),
        ],
    )
    async def test_a_key_and_a_token_have_each_their_own_header(self, caller, held, form, status):
        call = await caller()
        name, _, value = form.format((call.oauth | {"key": call.box.fathom.key("acme")})[held]).partition(": ")
        assert (await call.client.get("/teams", headers={name: value})).status_code == status

    async def test_a_401_has_the_headers_of_the_limit(self, caller):
        headers = (await (await caller()).client.get("/teams")).headers
        assert {"ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"} <= set(headers)

    async def test_the_address_that_the_sdks_post_to_gives_tokens_too(self, caller):
        call = await caller()
        form = {"grant_type": "refresh_token", **call.oauth}
        url = f"{call.box.base}/fathom/video/external/v1/oauth2/token"
        assert "access_token" in (await call.client.post(url, data=form)).json()

    async def test_a_wrong_key_is_401(self, caller):
        call = await caller()
        assert (await call.client.get("/meetings", headers={"X-Api-Key": "no"})).status_code == 401

    async def test_revoked_is_401_until_restored(self, caller):
        call = await caller()
        statuses = []
        for action in ("revoke", "restore"):
            call.box.fathom.act("acme", action, {})
            statuses.append((await call.get("/meetings")).status_code)
        assert statuses == [401, 200]

    @pytest.mark.parametrize(("switch", "status"), [("400", 400), ("ignore", 200)])
    async def test_an_oauth_app_gets_no_transcripts_from_a_listing(self, caller, switch, status):
        call = await caller(oauth_flags=switch)
        token = call.oauth["access_token"]
        refused = await call.get("/meetings", person=None, token=token, **HEAVY)
        assert refused.status_code == status
        assert all(item["transcript"] is None for item in refused.json().get("items", []))
        allowed = await call.get("/meetings", person=None, token=token, include_transcript="false")
        assert allowed.status_code == 200

    async def test_an_access_token_expires_and_a_refresh_token_is_good_once(self, caller):
        call = await caller()
        old = call.oauth
        call.box.world.clock.advance(timedelta(hours=2))
        assert (await call.get("/teams", person=None, token=old["access_token"])).status_code == 401
        new = (await call.refresh()).json()
        assert new["expires_in"] == 3600
        assert (await call.get("/teams", person=None, token=new["access_token"])).status_code == 200
        reused = await call.refresh(refresh_token=old["refresh_token"])
        assert (reused.status_code, reused.json()) == (400, {"error": "invalid_grant"})
        assert (await call.refresh(refresh_token=new["refresh_token"])).status_code == 200

    @pytest.mark.parametrize("wrong", [{"client_secret": "no"}, {"grant_type": "password"}], ids=str)
    async def test_a_refresh_that_is_refused(self, caller, wrong):
        assert (await (await caller()).refresh(**wrong)).status_code == 400


class TestLimits:
    async def test_every_reply_tells_what_is_left(self, caller):
        call = await caller(limits=True)
        headers = [(await call.get("/teams")).headers for _ in range(2)]
        assert [one["RateLimit-Remaining"] for one in headers] == ["59", "58"]
        assert (headers[0]["RateLimit-Limit"], headers[0]["RateLimit-Reset"]) == ("60", "60")

    @pytest.mark.parametrize(("path", "heavy", "calls"), [("/teams", "30", 60), ("/recordings/1/summary", "5", 5)])
    async def test_a_breach_is_an_empty_html_page(self, caller, path, heavy, calls):
        call = await caller(limits=True, heavy=heavy)
        for _ in range(calls):
            assert (await call.get(path)).status_code != 429
        over = await call.get(path)
        assert (over.status_code, over.content) == (429, b"")
        assert over.headers["Content-Type"].startswith("text/html")
        assert 0 < int(over.headers["Retry-After"]) <= 60


def test_the_same_seed_makes_the_same_week():
    world = World(Options())
    one, other = Fathom(world), Fathom(world)
    assert one.truth("acme", None) == other.truth("acme", None)
    assert [line["credentials"] for line in one.connections()] == [line["credentials"] for line in other.connections()]


async def test_odd_meetings_are_there_on_demand(caller):
    call = await caller(nulls="on")
    body = (await call.get("/meetings", **WIDE)).json()
    assert any(item["scheduled_start_time"] is None for item in body["items"])


class TestVendorsClient:
    """fathom-python 0.0.43 accepts every answer (with the nulls that its models refuse switched off)."""

    @staticmethod
    @asynccontextmanager
    async def client(call: Caller, *, oauth: bool):
        token, key = call.oauth["access_token"], call.box.fathom.key("acme")
        security = models.Security(bearer_auth=token) if oauth else models.Security(api_key_auth=key)
        async with fathom_python.Fathom(security=security, server_url=str(call.client.base_url)) as client:
            with client:
                yield client

    @pytest.mark.parametrize(("oauth", "workspace"), [(False, "acme"), (True, "northwind")], ids=["key", "oauth"])
    async def test_it_reads_every_page_and_every_part(self, caller, oauth, workspace):
        call = await caller()

        def read(client: fathom_python.Fathom) -> dict[str, list[str]]:
            pages = [
                client.list_meetings(include_action_items=True, include_transcript=not oauth, include_highlights=True)
            ]
            while (following := pages[-1].next()) is not None:
                pages.append(following)
            found = [str(item.recording_id) for page in pages for item in page.result.items]
            heard = [number for number in found if number in ready]
            for number in heard:
                assert client.get_recording_transcript(recording_id=int(number)).transcript
            assert client.get_recording_summary(recording_id=int(heard[-1])).summary.markdown_formatted
            return {"meetings": sorted(found), "transcripts": sorted(heard)}

        truth = dict(call.box.fathom.truth(workspace, None))
        ready = set(truth["transcripts"])
        async with self.client(call, oauth=oauth) as client:
            assert await asyncio.to_thread(read, client) == truth

    async def test_it_reads_the_directory(self, caller):
        call = await caller()
        async with self.client(call, oauth=False) as client:
            teams = await client.list_teams_async()
            users = await client.list_users_async()
        assert [team.name for team in teams.result.items] == ["Customers", "Leadership", "Product", "Sales"]
        assert len(users.result.items) == len(call.box.world.companies["acme"].staff)
