"""The emulated Gong keeps to its contract: asked here by plain HTTP, as nobody makes a client for it."""

from __future__ import annotations

import base64
from datetime import datetime, timedelta

import httpx
import orjson
import pytest
import pytest_asyncio

from syncd.sandbox.gong import Gong
from syncd.sandbox.world import Options, World

NOTHING = "No calls found corresponding to the provided filters"
EVERYTHING = {"filter": {}}


class Client:
    """One workspace's way to the sandbox; ``ask`` gives the status and the JSON."""

    def __init__(self, box, workspace: str) -> None:
        lines = {line["workspace_id"]: line["credentials"] for line in box.gong.connections()}
        held = self.held = lines[workspace]
        token = held.get("access_token")
        key = base64.b64encode(f"{held.get('access_key')}:{held.get('access_key_secret')}".encode()).decode()
        self.box, self.headers = box, {"Authorization": f"Bearer {token}" if token else f"Basic {key}"}

    async def send(self, method: str, path: str, **request) -> httpx.Response:
        async with httpx.AsyncClient(base_url=f"{self.box.base}/gong", headers=self.headers) as http:
            return await http.request(method, path, **request)

    async def ask(self, method: str, path: str, **request) -> tuple[int, dict]:
        answer = await self.send(method, path, **request)
        return answer.status_code, answer.json()

    async def extensive(self, body) -> tuple[int, dict]:
        return await self.ask("POST", "/v2/calls/extensive", json=body)

    async def transcript(self, body) -> tuple[int, dict]:
        return await self.ask("POST", "/v2/calls/transcript", json=body)

    async def renew(self, place: str, token: str) -> tuple[int, dict]:
        pair = base64.b64encode(f"{self.held['client_id']}:{self.held['client_secret']}".encode()).decode()
        fields = {"grant_type": "refresh_token", "refresh_token": token}
        headers = {"Authorization": f"Basic {pair}"}
        return await self.ask("POST", "/oauth2/generate-customer-token", headers=headers, **{place: fields})


@pytest_asyncio.fixture
async def client(sandbox):
    async def make(workspace="acme", **options) -> Client:
        return Client(await sandbox(Options(**{"limits": False, **options})), workspace)

    return make


def _ids(body) -> list[str]:
    return [call["metaData"]["id"] for call in body["calls"]]


def test_the_same_seed_gives_the_same_data():
    world = World(Options())
    assert Gong(world)._tenants["acme"].calls == Gong(world)._tenants["acme"].calls


async def test_every_answer_has_its_own_request_id(client):
    c = await client()
    answers = [await c.send("GET", "/v2/workspaces") for _ in range(2)]
    found = [answer.json()["requestId"] for answer in answers]
    assert [answer.headers["x-traceid"] for answer in answers] == found
    assert len(set(found)) == 2
    assert answers[0].headers["content-type"] == "application/json;charset=UTF-8"


async def test_pages_join_to_the_whole_oldest_first_and_the_last_has_no_cursor(client):
    c = await client(page_size=5)
    status, body = await c.extensive(EVERYTHING)
    found, number = _ids(body), 0
    while cursor := body["records"].get("cursor"):
        status, body = await c.extensive({**EVERYTHING, "cursor": cursor})
        number += 1
        assert (status, body["records"]["currentPageNumber"]) == (200, number)
        found += _ids(body)
    calls = c.box.gong._tenants["acme"].listed(c.box.world.clock.now())
    assert found == [call.id for call in calls]
    assert body["records"]["totalRecords"] == len(calls)
    assert "cursor" not in body["records"]


async def test_a_cursor_in_the_query_of_a_post_is_ignored(client):
    c = await client(page_size=5)
    _, first = await c.extensive(EVERYTHING)
    path = f"/v2/calls/extensive?cursor={first['records']['cursor']}"
    assert _ids((await c.ask("POST", path, json=EVERYTHING))[1]) == _ids(first)


async def test_a_cursor_of_a_get_goes_into_the_query(client):
    c = await client(page_size=5)
    _, first = await c.ask("GET", "/v2/users")
    _, second = await c.ask("GET", "/v2/users", params={"cursor": first["records"]["cursor"]})
    found = [user["id"] for user in first["users"] + second["users"]]
    assert found == sorted(found, key=int)
    assert len(found) == first["records"]["totalRecords"]


@pytest.mark.parametrize("spoil", ["forged", "other filter", "other endpoint"])
async def test_a_cursor_fits_only_the_request_it_came_from(client, spoil):
    c = await client(page_size=5)
    cursor = (await c.extensive(EVERYTHING))[1]["records"]["cursor"]
    if spoil == "other endpoint":
        status, body = await c.transcript({**EVERYTHING, "cursor": cursor})
    else:
        wanted = {"toDateTime": "2999-01-01T00:00:00Z"} if spoil == "other filter" else {}
        status, body = await c.extensive({"filter": wanted, "cursor": cursor[::-1] if spoil == "forged" else cursor})
    assert (status, body["errors"]) == (400, ["Failed to verify cursor"])


async def test_a_cursor_lives_an_hour_from_the_first_request(client):
    c = await client(page_size=5)
    body = (await c.extensive(EVERYTHING))[1]
    c.box.world.clock.advance(timedelta(minutes=40))
    body = (await c.extensive({**EVERYTHING, "cursor": body["records"]["cursor"]}))[1]
    c.box.world.clock.advance(timedelta(minutes=21))
    status, body = await c.extensive({**EVERYTHING, "cursor": body["records"]["cursor"]})
    assert status == 400
    assert "cursor has expired" in body["errors"][0]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "Json parse error"),
        ({"filter": None}, "Json parse error"),
        ({"filter": {"callIds": []}}, "callIds"),
        ({"filter": {"callIds": [1]}}, "Json parse error"),
        ({"filter": {"fromDateTime": "yesterday"}}, "Json parse error"),
        ({"filter": {"fromDateTime": "2026-01-01T00:00:00"}}, "offset"),
        (
            {"filter": {"fromDateTime": "2026-01-01T00:00:00Z", "toDateTime": "2026-01-01T00:00:00Z"}},
            "filter.fromDateTime: must be before toDateTime",
        ),
        ({"filter": {}, "contentSelector": {"context": "All"}}, "Json parse error"),
    ],
)
async def test_a_senseless_request_is_a_400(client, body, words):
    status, answer = await (await client()).extensive(body)
    assert status == 400
    assert words in answer["errors"][0]


@pytest.mark.parametrize(
    "wanted",
    [{"callIds": ["1"]}, {"workspaceId": "1"}, {"fromDateTime": "2990-01-01T00:00:00Z"}, {"primaryUserIds": ["1"]}],
)
async def test_nothing_found_is_a_404_with_its_sentence(client, wanted):
    status, body = await (await client()).extensive({"filter": wanted})
    assert (status, body["errors"]) == (404, [NOTHING])


async def test_from_is_inclusive_and_to_exclusive(client):
    c = await client()
    call = c.box.gong._tenants["acme"].listed(c.box.world.clock.now())[3]
    at, later = call.started.isoformat(), (call.started + timedelta(seconds=1)).isoformat()
    assert _ids((await c.extensive({"filter": {"fromDateTime": at, "toDateTime": later}}))[1]) == [call.id]
    before = (call.started - timedelta(seconds=1)).isoformat()
    assert (await c.extensive({"filter": {"fromDateTime": before, "toDateTime": at}}))[0] == 404


async def test_the_list_of_calls_compares_the_schedule(client):
    c = await client()
    call = next(one for one in c.box.gong._tenants["acme"].listed(c.box.world.clock.now()) if one.scheduled)
    window = {
        "fromDateTime": call.scheduled.isoformat(),
        "toDateTime": (call.scheduled + timedelta(seconds=1)).isoformat(),
    }
    status, body = await c.ask("GET", "/v2/calls", params=window)
    assert (status, call.id in [one["id"] for one in body["calls"]]) == (200, True)


async def test_blocks_that_were_not_asked_for_are_absent(client):
    _, body = await (await client()).extensive(EVERYTHING)
    assert {tuple(call) for call in body["calls"]} == {("metaData",)}


async def test_a_block_that_is_not_ready_is_absent(client):
    c = await client()
    call = c.box.gong.act("acme", "add", {"ready_in_s": 60})["call"]
    asked = {
        "filter": {"callIds": [call]},
        "contentSelector": {"exposedFields": {"content": {"brief": True, "topics": True}}},
    }
    assert list((await c.extensive(asked))[1]["calls"][0]["content"]) == ["brief"]
    c.box.world.clock.advance(timedelta(seconds=61))
    assert set((await c.extensive(asked))[1]["calls"][0]["content"]) == {"brief", "topics"}


async def test_dates_come_in_several_forms_and_ids_are_long_texts(client):
    _, body = await (await client()).extensive(EVERYTHING)
    starts = [call["metaData"]["started"] for call in body["calls"]]
    assert {len(start) for start in starts} == {20, 24, 32}
    assert all(isinstance(one, str) and len(one) in (19, 20) for one in _ids(body))


async def test_a_late_call_appears_and_its_transcript_ripens(client):
    c = await client()
    late = max(c.box.gong._tenants["acme"].calls.values(), key=lambda call: call.visible_at)
    asked = {"filter": {"callIds": [late.id]}}
    assert (await c.extensive(asked))[0] == 404
    c.box.world.clock.advance(timedelta(minutes=41))
    assert (await c.extensive(asked))[0] == 200
    c.box.world.clock.advance(timedelta(hours=2))
    status, body = await c.transcript(asked)
    said = body["callTranscripts"][0]["transcript"]
    assert status == 200
    assert max(sentence["end"] for one in said for sentence in one["sentences"]) <= late.duration_s * 1000


@pytest.mark.parametrize(
    ("mode", "alone", "both"),
    [("omit", (404, None), (200, 0)), ("empty", (200, 1), (200, 2)), ("404", (404, None), (404, None))],
)
async def test_a_transcript_that_is_not_ready_has_three_forms(client, mode, alone, both):
    c = await client(switches={"gong.transcript_not_ready": mode})
    calls = [c.box.gong.act("acme", "add", {"ready_in_s": 60})["call"] for _ in range(2)]
    for named, wanted in ((calls[:1], alone), (calls, both)):
        status, body = await c.transcript({"filter": {"callIds": named}})
        assert (status, len(body["callTranscripts"]) if status == 200 else None) == wanted


async def test_a_transcript_may_be_listed_before_its_call(client):
    c = await client(switches={"gong.transcript_first": "on"})
    late = max(c.box.gong._tenants["acme"].calls.values(), key=lambda call: call.visible_at)
    assert (await c.extensive({"filter": {"callIds": [late.id]}}))[0] == 404
    assert (await c.transcript({"filter": {"callIds": [late.id]}}))[0] == 200


@pytest.mark.parametrize("workspace", ["acme", "northwind"])
async def test_a_key_and_a_token_open_one_company_each(client, workspace):
    c = await client(workspace)
    _, body = await c.ask("GET", "/v2/users")
    assert {user["emailAddress"].rpartition("@")[2] for user in body["users"]} == {f"{workspace}.example"}


async def test_unknown_expired_and_revoked_credentials_are_a_401(client):
    c = await client("northwind")
    assert (await c.ask("GET", "/v2/users", headers={"Authorization": "Bearer nobody"}))[0] == 401
    c.box.gong.act("northwind", "revoke", {})
    assert (await c.ask("GET", "/v2/users"))[0] == 401
    c.box.gong.act("northwind", "restore", {})
    assert (await c.ask("GET", "/v2/users"))[0] == 200
    c.box.world.clock.advance(timedelta(days=1, seconds=1))
    assert (await c.ask("GET", "/v2/users"))[0] == 401


@pytest.mark.parametrize("place", ["params", "data", "json"])
async def test_a_refresh_token_is_good_once(client, place):
    c = await client("northwind")
    status, body = await c.renew(place, c.held["refresh_token"])
    assert (status, body["api_base_url_for_customer"]) == (200, f"{c.box.base}/gong")
    assert body["refresh_token"] != c.held["refresh_token"]
    c.headers = {"Authorization": f"Bearer {body['access_token']}"}
    assert (await c.ask("GET", "/v2/users"))[0] == 200
    status, body = await c.renew(place, c.held["refresh_token"])
    assert (status, body["error"]) == (400, "invalid_grant")


async def test_a_breach_is_a_429_with_whole_seconds_and_the_envelope(client):
    c = await client(limits=True)
    c.box.world.clock = type("Still", (), {"now": lambda _: c.box.world.born, "monotonic": lambda _: 0.0})()
    answers = [await c.send("GET", "/v2/workspaces") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[3].headers["retry-after"] == "1"
    assert orjson.loads(answers[3].content)["errors"]


async def test_the_daily_quota_is_one_of_the_limits(client):
    c = await client(limits=True, switches={"gong.day": "2/1d"})
    answers = [await c.send("GET", "/v2/workspaces") for _ in range(3)]
    assert answers[2].status_code == 429
    assert int(answers[2].headers["retry-after"]) > 86000


async def test_what_is_deleted_simply_stops_appearing(client):
    c = await client()
    call = c.box.gong.act("acme", "delete", {})["call"]
    assert (await c.extensive({"filter": {"callIds": [call]}}))[0] == 404
    assert (await c.ask("GET", f"/v2/calls/{call}"))[1]["errors"] == [f"Call ID {call} was not found"]


async def test_a_call_and_what_the_ai_writes_of_it_may_come_late(client):
    c = await client()
    call = c.box.gong.act("acme", "add", {"visible_in_s": 60, "content_in_s": 120})["call"]
    selector = {"exposedFields": {"content": {"brief": True, "topics": True}}}
    asked = {"filter": {"callIds": [call]}, "contentSelector": selector}
    assert (await c.extensive(asked))[0] == 404
    c.box.world.clock.advance(timedelta(seconds=61))
    assert list((await c.extensive(asked))[1]["calls"][0]["content"]) == ["topics"]
    c.box.world.clock.advance(timedelta(seconds=60))
    assert set((await c.extensive(asked))[1]["calls"][0]["content"]) == {"brief", "topics"}


# --- what a reader should hold ----------------------------------------------------------------------------------------


async def test_the_record_is_what_is_served(client):
    c = await client(calls_per_day=2)
    c.box.world.clock.advance(timedelta(days=1))
    held = c.box.gong.holdings("acme")
    blocks = "structure topics trackers trackerOccurrences brief outline highlights callOutcome keyPoints"
    exposed = {
        "parties": True,
        "content": dict.fromkeys(blocks.split(), True),
        "interaction": dict.fromkeys(("speakers", "video", "personInteractionStats", "questions"), True),
        "collaboration": {"publicComments": True},
    }
    selector = {"context": "Extended", "exposedFields": exposed}
    calls = (await c.extensive({**EVERYTHING, "contentSelector": selector}))[1]["calls"]
    public = {call["metaData"]["id"]: call for call in calls if not call["metaData"]["isPrivate"]}
    assert (held["meetings"], len(public) < len(calls)) == (public, True)
    said = {one["callId"]: one for one in (await c.transcript(EVERYTHING))[1]["callTranscripts"]}
    assert held["transcripts"] == {call: said[call] for call in public}
    users = (await c.ask("GET", "/v2/users"))[1]["users"]
    assert held["people"] == {user["id"]: user for user in users}


async def test_until_the_first_sweep_the_record_reaches_back_a_day(client):
    c = await client()
    before = len(_starts(c))
    assert min(_starts(c)) >= c.box.world.born - timedelta(days=1)
    c.box.world.clock.advance(timedelta(hours=6))
    assert len(_starts(c)) > 2 * before


def _starts(c: Client) -> list[datetime]:
    calls = c.box.gong.holdings("acme")["meetings"].values()
    return [datetime.fromisoformat(call["metaData"]["started"]) for call in calls]


async def test_a_call_that_shows_up_when_no_window_reaches_it_is_not_in_the_record(client):
    c = await client(calls_per_day=0)
    c.box.world.clock.advance(timedelta(days=1))
    call = c.box.gong.act("acme", "add", {"minutes_ago": 60 * 24 * 13})["call"]
    c.box.gong.act("acme", "add", {"minutes_ago": 60 * 24 * 15})
    assert list(c.box.gong.holdings("acme")["meetings"]) == [call]
