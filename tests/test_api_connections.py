"""``/api/v1``: connections are made, changed, paused, removed and erased as on the command line, and links to connect."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import structlog
from sqlalchemy import update
from structlog.testing import capture_logs

from syncd import tables
from syncd.connect import Signer
from syncd.credentials import generate_key
from syncd.settings import Settings
from tests.connecting import serving
from tests.serving import NOWHERE, TOKEN, V1, Site, problem, site

NEW = {"workspace_id": "acme", "source": "slack", "credentials": {"token": "xoxb-hidden-1"}}


async def rows(one: Site) -> list[tuple[Any, ...]]:
    return [
        (row.id, row.workspace_id, row.account, row.is_active, dict(row.settings))
        for row in await one.parts.store.connections.all()
    ]


async def test_a_connection_is_added_and_then_updated(both: Site) -> None:
    made = await both.send("POST", f"{V1}/connections", NEW)
    assert (made.status_code, made.headers["location"]) == (201, f"{V1}/connections/{made.json()['id']}")
    again = await both.send("POST", f"{V1}/connections", {**NEW, "settings": {"channels": ["C0123ABCD"]}})
    assert (again.status_code, again.json()["id"]) == (200, made.json()["id"])
    assert (again.json()["settings"], again.json()["state"]) == ({"channels": ["C0123ABCD"]}, "new")
    assert (await both.get(made.headers["location"])).json() == again.json()


async def test_no_credential_comes_back_in_an_answer_or_a_log(bare: Site) -> None:
    structlog.reset_defaults()  # a command that ran in this process may have silenced it
    with capture_logs() as lines:
        said = [await bare.send("POST", f"{V1}/connections", NEW)]
        one = said[0].headers["location"]
        said += [await bare.send("PATCH", one, {"credentials": {"token": "xoxb-hidden-2"}})]
        said += [await bare.send("POST", f"{V1}/connections", {**NEW, "credentials": {"wrong": "xoxb-hidden-3"}})]
        said += [await bare.send("POST", f"{V1}/connections", {**NEW, "credentials": "xoxb-hidden-4"})]
        for path in (one, f"{V1}/connections", f"{V1}/status", f"{one}/runs"):
            said.append(await bare.get(path))
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


async def test_what_cannot_be_stored_is_refused_in_the_words_of_the_command_line(bare: Site) -> None:
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
        problem(await bare.send("POST", f"{V1}/connections", {**NEW, **change}), status, words)
    without = {key: value for key, value in NEW.items() if key != "credentials"}
    problem(await bare.send("POST", f"{V1}/connections", without), 422, "a new connection needs credentials")
    assert await rows(bare) == []


def _deep(levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = [value]
    return value


async def test_an_account_other_than_the_one_that_is_connected_is_a_conflict(
    bare: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    from syncd.errors import OtherAccount

    async def other(*_: object, **__: object) -> None:
        raise OtherAccount("these credentials are of another account")

    monkeypatch.setattr(bare.parts.store.connections, "put", other)
    problem(await bare.send("POST", f"{V1}/connections", NEW), 409, "another account")


async def test_pause_and_resume(both: Site) -> None:
    (one,) = await both.connect("acme")
    paused = await both.send("POST", f"{V1}/connections/{one}/pause")
    assert (paused.status_code, paused.json()["state"]) == (200, "paused")
    resumed = await both.send("POST", f"{V1}/connections/{one}/resume", {})
    assert (resumed.status_code, resumed.json()["state"]) == (200, "new")


async def test_a_removed_connection_stays_readable_and_is_not_resumed(bare: Site) -> None:
    (one,) = await bare.connect("acme")
    for _ in range(2):
        assert (await bare.send("DELETE", f"{V1}/connections/{one}")).status_code == 204
    assert (await bare.get(f"{V1}/connections/{one}")).json()["state"] == "removed"
    problem(await bare.send("POST", f"{V1}/connections/{one}/resume"), 409, "has no credentials")
    problem(await bare.send("PATCH", f"{V1}/connections/{one}", {"is_active": True}), 409, "has no credentials")


async def test_a_purge_erases_and_leaves_a_line_that_says_who(sqlite_url: str) -> None:
    async with site(sqlite_url, token=TOKEN) as one:
        one.client.headers["Authorization"] = f"Bearer {TOKEN}"
        (connection_id,) = await one.connect("acme")
        problem(await one.send("DELETE", f"{V1}/connections/{connection_id}?purge=yes"), 400, "true or false")
        assert (await one.send("DELETE", f"{V1}/connections/{connection_id}?purge=true")).status_code == 204
        problem(await one.send("DELETE", f"{V1}/connections/{connection_id}?purge=true"), 404)
        assert await rows(one) == []
        assert [line["purged_by"] for line in await one.parts.store.purges.log()] == ["api: token"]


async def test_a_connection_without_a_workspace_is_not_changed_by_key(bare: Site) -> None:
    (one,) = await bare.connect("acme")
    async with bare.parts.store.database.write() as session:
        await session.execute(update(tables.connections).values(workspace_id=None))
    problem(await bare.send("PATCH", f"{V1}/connections/{one}", {"settings": {}}), 409, "no workspace")


async def test_what_is_not_there_is_a_404_everywhere(bare: Site) -> None:
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
            problem(await bare.send(method, path + rest, body), 404)
        problem(await bare.get(f"{V1}/runs/{one}"), 404)


async def test_without_a_key_nothing_is_stored(sqlite_url: str) -> None:
    settings = Settings(database={"url": sqlite_url}, http={"port": 0})
    async with serving(settings) as (_, base), httpx.AsyncClient(base_url=base, trust_env=False) as client:
        problem(await client.post(f"{V1}/connections", json=NEW), 503, "no secret key is configured")
        assert (await client.get(f"{V1}/connections")).json() == []


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
