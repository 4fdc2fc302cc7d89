"""``/api/v1``: the same as the command line, for programs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import orjson
import pytest
import structlog
from sqlalchemy import insert, update
from structlog.testing import capture_logs

from syncd import tables
from syncd.connect import Signer
from syncd.credentials import generate_key
from syncd.settings import Settings
from syncd.web.api import Api
from syncd.web.openapi import document
from tests.connecting import serving
from tests.serving import NOWHERE, TOKEN, Site, in_a_thread, site
from tests.test_cli import Shell, syncd

__all__ = ["syncd"]

V1 = "/api/v1"
NEW = {"workspace_id": "acme", "source": "slack", "credentials": {"token": "xoxb-hidden-1"}}
APP = {"SYNCD_SOURCES__SLACK__OAUTH__CLIENT_ID": "id", "SYNCD_SOURCES__SLACK__OAUTH__CLIENT_SECRET": "hidden"}


@pytest.fixture
async def api(sqlite_url: str) -> AsyncIterator[Site]:
    async with site(sqlite_url) as one:
        yield one


@pytest.fixture
async def both(database_url: str) -> AsyncIterator[Site]:
    """On each database."""
    async with site(database_url) as one:
        yield one


def problem(answer: httpx.Response, status: int, words: str = "") -> dict[str, Any]:
    """The answer as RFC 9457 has it."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    body: dict[str, Any] = answer.json()
    assert (answer.status_code, body["status"]) == (status, status), body
    assert body["type"] == "about:blank"
    assert body["title"]
    assert words in body["detail"], body
    assert "\n" not in body["detail"]
    return body


async def rows(one: Site) -> list[tuple[Any, ...]]:
    return [
        (row.id, row.workspace_id, row.account, row.is_active, dict(row.settings))
        for row in await one.parts.store.connections.all()
    ]


# ── the document


def test_every_route_is_in_the_document_and_the_other_way_round() -> None:
    served = {(route.method, route.path) for route in Api.routes(_unbound())}
    told = {
        (method.upper(), path)
        for path, item in document()["paths"].items()
        for method in item
        if method != "parameters"
    }
    assert served == told
    assert len(served) > 10


def _unbound() -> Api:
    """Its routes alone are asked for."""
    made = Api.__new__(Api)
    made.base = ""
    return made


async def test_the_document_is_served_and_refers_to_nothing_that_is_not_there(api: Site) -> None:
    served = (await api.get(f"{V1}/openapi.json")).json()
    assert served == orjson.loads(orjson.dumps(document()))
    assert served["openapi"].startswith("3.1.")
    for reference in _references(served):
        at: Any = served
        for step in reference.removeprefix("#/").split("/"):
            at = at[step]


def _references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if "$ref" in value else []
        return own + [one for part in value.values() for one in _references(part)]
    return [one for part in value for one in _references(part)] if isinstance(value, list) else []


# ── the same shapes as the command line


def test_the_api_and_the_command_line_have_the_same_shapes(
    sqlite_url: str, syncd: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`status --json` and `connections list --json`, to the letter."""
    monkeypatch.setenv("SYNCD_DATABASE__URL", sqlite_url)
    with (
        in_a_thread(sqlite_url, "acme", "globex") as one,
        httpx.Client(base_url=one.base, trust_env=False, timeout=20) as client,
    ):
        (asked,) = client.post(f"{V1}/sync", json={"workspace": "acme"}).json()["asked"]
        while client.get(f"{V1}/runs/{asked['run_id']}").json()["status"] == "running":
            pass
        status, listed = syncd("status", "--json"), syncd("connections", "list", "--json")
        told, rows = client.get(f"{V1}/status").json(), client.get(f"{V1}/connections").json()
    assert {row["state"] for row in rows} == {"failing", "new"}
    assert {**orjson.loads(status.out), "timestamp": 0} == {**told, "timestamp": 0}
    assert orjson.loads(listed.out) == rows == told["connections"]


async def _ended(one: Site) -> None:
    for task in list(one.parts.engine._tasks):
        await task


# ── connections


async def test_a_connection_is_added_and_then_updated(both: Site) -> None:
    made = await both.send("POST", f"{V1}/connections", NEW)
    assert (made.status_code, made.headers["location"]) == (201, f"{V1}/connections/{made.json()['id']}")
    again = await both.send("POST", f"{V1}/connections", {**NEW, "settings": {"channels": ["C0123ABCD"]}})
    assert (again.status_code, again.json()["id"]) == (200, made.json()["id"])
    assert (again.json()["settings"], again.json()["state"]) == ({"channels": ["C0123ABCD"]}, "new")
    assert (await both.get(made.headers["location"])).json() == again.json()


async def test_no_credential_comes_back_in_an_answer_or_a_log(api: Site) -> None:
    structlog.reset_defaults()  # a command that ran in this process may have silenced it
    with capture_logs() as lines:
        said = [await api.send("POST", f"{V1}/connections", NEW)]
        one = said[0].headers["location"]
        said += [await api.send("PATCH", one, {"credentials": {"token": "xoxb-hidden-2"}})]
        said += [await api.send("POST", f"{V1}/connections", {**NEW, "credentials": {"wrong": "xoxb-hidden-3"}})]
        said += [await api.send("POST", f"{V1}/connections", {**NEW, "credentials": "xoxb-hidden-4"})]
        for path in (one, f"{V1}/connections", f"{V1}/status", f"{one}/runs"):
            said.append(await api.get(path))
    assert not [answer.text for answer in said if "hidden" in answer.text or "gAAAA" in answer.text]
    assert "hidden" not in repr(lines)
    assert [line["status"] for line in lines if line["event"] == "api.done"] == [201, 200]


async def test_a_change_leaves_the_rest_as_it_is(both: Site) -> None:
    (one,) = await both.connect("acme", settings={"channels": ["C0123ABCD"]})
    before = await both.parts.store.connections.get(one)
    changed = await both.send("PATCH", f"{V1}/connections/{one}", {"is_active": False})
    after = await both.parts.store.connections.get(one)
    assert before
    assert after
    assert (changed.json()["state"], changed.json()["settings"]) == ("paused", {"channels": ["C0123ABCD"]})
    assert after.sealed == before.sealed


async def test_new_credentials_put_a_connection_that_waits_back(both: Site) -> None:
    (one,) = await both.connect("acme")
    async with both.parts.store.database.write() as session:
        await session.execute(update(tables.connections).values(status="needs_reauth", failures=3))
    changed = await both.send("PATCH", f"{V1}/connections/{one}", {"credentials": {"token": "xoxb-new"}})
    assert (changed.json()["status"], changed.json()["failures"]) == ("ok", 0)
    held = await both.parts.store.connections.get(one)
    assert held
    assert both.parts.vault.open(one, held.sealed) == {"token": "xoxb-new"}


async def test_what_cannot_be_stored_is_refused_in_the_words_of_the_command_line(api: Site) -> None:
    for change, status, words in (
        ({"credentials": {}}, 422, "slack credentials must hold {token}"),
        ({"settings": {"channel": []}}, 422, "slack has no setting 'channel'"),
        ({"source": "teams"}, 422, "unknown source 'teams'; known: slack"),
        ({"workspace_id": ""}, 422, "workspace_id is missing"),
        ({"workspace_id": "a\0"}, 422, "U+0000"),
        ({"account": "a" * 256}, 422, "longer than 255"),
        ({"settings": {"channels": ["\0"]}}, 422, "U+0000"),
        ({"color": "red"}, 422, "unknown member 'color'; known: account, credentials"),
        ({"is_active": "yes"}, 422, "is_active must be true or false"),
        ({"settings": None}, 422, "settings is null"),
        ({"credentials": {"token": _deep(100)}}, 422, "nested deeper"),
    ):
        problem(await api.send("POST", f"{V1}/connections", {**NEW, **change}), status, words)
    without = {key: value for key, value in NEW.items() if key != "credentials"}
    problem(await api.send("POST", f"{V1}/connections", without), 422, "a new connection needs credentials")
    assert await rows(api) == []


def _deep(levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = [value]
    return value


async def test_an_account_other_than_the_one_that_is_connected_is_a_conflict(
    api: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    from syncd.errors import OtherAccount

    async def other(*_: object, **__: object) -> None:
        raise OtherAccount("these credentials are of another account")

    monkeypatch.setattr(api.parts.store.connections, "put", other)
    problem(await api.send("POST", f"{V1}/connections", NEW), 409, "another account")


async def test_pause_and_resume(both: Site) -> None:
    (one,) = await both.connect("acme")
    paused = await both.send("POST", f"{V1}/connections/{one}/pause")
    assert (paused.status_code, paused.json()["state"]) == (200, "paused")
    resumed = await both.send("POST", f"{V1}/connections/{one}/resume", {})
    assert (resumed.status_code, resumed.json()["state"]) == (200, "new")


async def test_a_removed_connection_stays_readable_and_is_not_resumed(api: Site) -> None:
    (one,) = await api.connect("acme")
    for _ in range(2):
        assert (await api.send("DELETE", f"{V1}/connections/{one}")).status_code == 204
    assert (await api.get(f"{V1}/connections/{one}")).json()["state"] == "removed"
    problem(await api.send("POST", f"{V1}/connections/{one}/resume"), 409, "has no credentials")
    problem(await api.send("PATCH", f"{V1}/connections/{one}", {"is_active": True}), 409, "has no credentials")


async def test_a_purge_erases_and_leaves_a_line_that_says_who(sqlite_url: str) -> None:
    async with site(sqlite_url, token=TOKEN) as one:
        one.client.headers["Authorization"] = f"Bearer {TOKEN}"
        (connection_id,) = await one.connect("acme")
        problem(await one.send("DELETE", f"{V1}/connections/{connection_id}?purge=yes"), 400, "true or false")
        assert (await one.send("DELETE", f"{V1}/connections/{connection_id}?purge=true")).status_code == 204
        problem(await one.send("DELETE", f"{V1}/connections/{connection_id}?purge=true"), 404)
        assert await rows(one) == []
        assert [line["purged_by"] for line in await one.parts.store.purges.log()] == ["api: token"]


async def test_a_connection_without_a_workspace_is_not_changed_by_key(api: Site) -> None:
    (one,) = await api.connect("acme")
    async with api.parts.store.database.write() as session:
        await session.execute(update(tables.connections).values(workspace_id=None))
    problem(await api.send("PATCH", f"{V1}/connections/{one}", {"settings": {}}), 409, "no workspace")


async def test_what_is_not_there_is_a_404_everywhere(api: Site) -> None:
    for one in ("99", "0", "-1", "x", str(2**63), "9" * 40, "%00", "1.5"):
        path = f"{V1}/connections/{one}"
        for method, rest, body in (
            ("GET", "", None),
            ("GET", "/runs", None),
            ("GET", "/backlog", None),
            ("PATCH", "", {"is_active": True}),
            ("DELETE", "", None),
            ("DELETE", "?purge=true", None),
            ("POST", "/pause", None),
            ("POST", "/resume", None),
        ):
            problem(await api.send(method, path + rest, body), 404)
        problem(await api.get(f"{V1}/runs/{one}"), 404)


# ── lists


async def test_a_list_is_filtered_and_paged_with_a_link_to_the_next_page(both: Site) -> None:
    ids = await both.connect("w1", "w2", "w3")
    await both.send("POST", f"{V1}/connections/{ids[0]}/pause")
    page = await both.get(f"{V1}/connections?state=new&source=slack&limit=1")
    assert ([row["workspace_id"] for row in page.json()], page.headers["x-total-count"]) == (["w2"], "2")
    second = await both.get(page.links["next"]["url"])
    assert ([row["workspace_id"] for row in second.json()], "next" in second.links) == (["w3"], False)
    assert [row["id"] for row in (await both.get(f"{V1}/connections?workspace=w3")).json()] == [ids[2]]
    assert (await both.get(f"{V1}/connections?trouble=failing")).json() == []
    assert len((await both.get(f"{V1}/connections?freshness=on_time")).json()) == 2


async def test_a_parameter_that_means_nothing_is_refused(api: Site) -> None:
    for query, words in (
        ("sate=new", "unknown parameter 'sate'"),
        ("state=well", "state: unknown 'well'; known: ok, new"),
        ("source=teams", "source: unknown"),
        ("limit=0", "a number from 1 to 500"),
        ("limit=501", "a number from 1 to 500"),
        ("limit=ten", "a number"),
        ("limit=%C2%B2", "a number"),
        ("offset=-1", "a number"),
        ("limit=1&limit=2", "more than once"),
        ("workspace=", "workspace is empty"),
        ("workspace=%00", "U+0000"),
        ("=", "unknown parameter"),
    ):
        problem(await api.get(f"{V1}/connections?{query}"), 400, words)
    problem(await api.get(f"{V1}/status?all=1"), 400, "unknown parameter")


async def test_runs_are_listed_backwards_and_each_is_found_by_its_id(both: Site) -> None:
    (one,) = await both.connect("acme")
    for _ in range(3):
        await both.parts.engine.cycle("slack", trigger="cli")
        await both.parts.store.connections.set_active(one, active=True)
    page = await both.get(f"{V1}/connections/{one}/runs?limit=2")
    last, before = page.json()
    (first,) = (await both.get(page.links["next"]["url"])).json()
    assert last["id"] > before["id"] > first["id"]
    assert (last["status"], last["error_kind"]) == ("failed", "transient")
    assert (await both.get(f"{V1}/runs/{first['id']}")).json() == first


async def test_the_backlog_is_listed_page_by_page(both: Site) -> None:
    (one,) = await both.connect("acme")
    now = datetime(2026, 1, 1, tzinfo=UTC)
    async with both.parts.store.database.write() as session:
        for number in range(3):
            item = {"connection_id": one, "stream": "s", "external_id": f"e{number}", "reason": "not ready"}
            times = {"next_try_at": now, "created_at": now + timedelta(hours=number)}
            await session.execute(insert(tables.backlog).values(attempts=0, **item, **times))
    page = await both.get(f"{V1}/connections/{one}/backlog?limit=2")
    rest = await both.get(page.links["next"]["url"])
    assert [item["external_id"] for item in page.json() + rest.json()] == ["e0", "e1", "e2"]
    assert page.json()[0]["created_at"] == "2026-01-01T00:00:00Z"


# ── asking for a run


async def test_a_run_is_asked_for_and_can_be_watched(both: Site) -> None:
    (one,) = await both.connect("acme")
    answer = await both.send("POST", f"{V1}/sync", {"connection_id": one, "sweep": True})
    (asked,) = answer.json()["asked"]
    await _ended(both)
    run = (await both.get(f"{V1}/runs/{asked['run_id']}")).json()
    assert (answer.status_code, asked["started"], run["connection_id"], run["cycle_id"]) == (
        202,
        True,
        one,
        asked["cycle_id"],
    )


async def test_a_run_that_did_not_start_says_why(api: Site) -> None:
    (one,) = await api.connect("acme", is_active=False)
    said = problem(await api.send("POST", f"{V1}/sync", {"connection_id": one}), 409, "it is paused: resume it first")
    assert [asked["started"] for asked in said["asked"]] == [False]
    problem(await api.send("POST", f"{V1}/sync", {"source": "slack"}), 409, "slack: nothing to read: 1 paused")
    problem(await api.send("POST", f"{V1}/sync", {"workspace": "nosuch"}), 409, "no connection of workspace nosuch")


async def test_a_source_or_a_workspace_is_asked_for_as_a_whole(api: Site) -> None:
    await api.connect("w1", "w2")
    by_source = await api.send("POST", f"{V1}/sync", {"source": "slack"})
    await _ended(api)
    by_workspace = await api.send("POST", f"{V1}/sync", {"workspace": "w2"})
    await _ended(api)
    for answer in (by_source, by_workspace):
        assert [asked["source"] for asked in answer.json()["asked"]] == ["slack"], answer.text
    (one, two) = [row.id for row in await api.parts.store.connections.all()]
    assert len((await api.get(f"{V1}/connections/{one}/runs")).json()) == 1
    assert len((await api.get(f"{V1}/connections/{two}/runs")).json()) == 2


async def test_what_to_read_must_be_said_in_one_way(api: Site) -> None:
    (one,) = await api.connect("acme")
    for body, status, words in (
        ({}, 422, "name a connection_id, a source or a workspace"),
        ({"connection_id": one, "source": "slack"}, 422, "name a connection, or"),
        ({"connection_id": str(one)}, 422, "a whole number"),
        ({"connection_id": True}, 422, "a whole number"),
        ({"connection_id": 99}, 404, "there is no connection 99"),
        ({"connection_id": 2**63}, 404, "there is no connection"),
        ({"source": "teams"}, 422, "unknown source"),
        ({"workspace": ""}, 422, "empty"),
        ({"source": "slack", "sweep": 1}, 422, "sweep must be true or false"),
    ):
        problem(await api.send("POST", f"{V1}/sync", body), status, words)


# ── connect links


async def test_a_connect_link_is_the_one_that_the_command_makes(sqlite_url: str) -> None:
    oauth = {"client_id": "id", "client_secret": "hidden"}
    settings = Settings(
        database={"url": sqlite_url},
        secret_keys=generate_key(),
        http={"port": 0, "public_url": "https://sync.example.com"},
        sources={"slack": {"oauth": oauth, "base_url": NOWHERE}},
    )
    async with serving(settings) as (_parts, base), httpx.AsyncClient(base_url=base, trust_env=False) as client:
        body = {"source": "slack", "workspace": "acme", "account": "a", "expires": "2h"}
        made = await client.post(f"{V1}/connect-links", json=body)
        assert made.status_code == 200, made.text
        url = httpx.URL(made.json()["url"])
        invitation = Signer(settings.keys()).read("slack", list(url.params.multi_items()), datetime.now(UTC))
        assert (url.host, invitation.workspace, invitation.account) == ("sync.example.com", "acme", "a")
        assert invitation.expires_at > datetime.now(UTC) + timedelta(minutes=115)
        for change, status, words in (
            ({"source": "gong"}, 409, "set sources.gong.oauth.client_id"),
            ({"source": "teams"}, 422, "unknown source"),
            ({"expires": "soon"}, 422, "expires: write a duration"),
            ({"workspace": ""}, 422, "workspace is empty"),
        ):
            problem(await client.post(f"{V1}/connect-links", json={**body, **change}), status, words)


# ── what goes wrong


async def test_every_refusal_is_a_problem(api: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    json = {"Content-Type": "application/json"}
    problem(await api.get(f"{V1}/nothing"), 404)
    problem(await api.get("/api/"), 404)
    refused = await api.send("PUT", f"{V1}/connections")
    problem(refused, 405)
    assert set(refused.headers["allow"].split(",")) >= {"GET", "POST"}
    problem(await api.client.post(f"{V1}/sync", content=b"x" * (2**20 + 1), headers=json), 413)
    problem(await api.client.post(f"{V1}/sync", content="{", headers=json), 400, "is not JSON")
    problem(await api.client.post(f"{V1}/sync", content="[" * 100_000, headers=json), 400, "is not JSON")
    problem(await api.client.post(f"{V1}/sync", content="[]", headers=json), 422, "must be a JSON object")
    problem(await api.client.post(f"{V1}/sync", content=b"\xff", headers=json), 400, "is not JSON")
    other = {"Content-Type": "application/json; charset=latin-1"}
    problem(await api.client.post(f"{V1}/sync", content="{}", headers=other), 415)


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (OSError("no route to postgresql://user:hidden@db"), 503, "the database does not answer"),
        (KeyError("hidden"), 500, "a defect in syncd: KeyError"),
    ],
    ids=["outage", "defect"],
)
async def test_a_failure_of_ours_is_a_problem_without_its_words(
    api: Site, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, words: str
) -> None:
    async def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(api.parts.store.connections, "get", fails)
    answer = await api.get(f"{V1}/connections/1/runs")
    problem(answer, status, words)
    assert "hidden" not in answer.text


async def test_without_a_key_nothing_is_stored(sqlite_url: str) -> None:
    settings = Settings(database={"url": sqlite_url}, http={"port": 0})
    async with serving(settings) as (_, base), httpx.AsyncClient(base_url=base, trust_env=False) as client:
        problem(await client.post(f"{V1}/connections", json=NEW), 503, "no secret key is configured")
        assert (await client.get(f"{V1}/connections")).json() == []
