"""``/api/v1``: its document, the same shapes as on the command line, its lists, and how it refuses."""

from __future__ import annotations

from typing import Any

import httpx
import orjson
import pytest

from syncd.web.api import Api
from syncd.web.openapi import document
from tests.serving import V1, Site, in_a_thread, problem
from tests.test_cli import Shell, syncd

__all__ = ["syncd"]

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


async def test_the_document_is_served_and_refers_to_nothing_that_is_not_there(bare: Site) -> None:
    served = (await bare.get(f"{V1}/openapi.json")).json()
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


async def test_a_parameter_that_means_nothing_is_refused(bare: Site) -> None:
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
        problem(await bare.get(f"{V1}/connections?{query}"), 400, words)
    problem(await bare.get(f"{V1}/status?all=1"), 400, "unknown parameter")


# ── what goes wrong


async def test_every_refusal_is_a_problem(bare: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    json = {"Content-Type": "application/json"}
    problem(await bare.get(f"{V1}/nothing"), 404)
    problem(await bare.get("/api/"), 404)
    refused = await bare.send("PUT", f"{V1}/connections")
    problem(refused, 405)
    assert set(refused.headers["allow"].split(",")) >= {"GET", "POST"}
    problem(await bare.client.post(f"{V1}/sync", content=b"x" * (2**20 + 1), headers=json), 413)
    problem(await bare.client.post(f"{V1}/sync", content="{", headers=json), 400, "is not JSON")
    problem(await bare.client.post(f"{V1}/sync", content="[" * 100_000, headers=json), 400, "is not JSON")
    problem(await bare.client.post(f"{V1}/sync", content="[]", headers=json), 422, "must be a JSON object")
    problem(await bare.client.post(f"{V1}/sync", content=b"\xff", headers=json), 400, "is not JSON")
    other = {"Content-Type": "application/json; charset=latin-1"}
    problem(await bare.client.post(f"{V1}/sync", content="{}", headers=other), 415)


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (OSError("no route to postgresql://user:hidden@db"), 503, "the database does not answer"),
        (KeyError("hidden"), 500, "a defect in syncd: KeyError"),
    ],
    ids=["outage", "defect"],
)
async def test_a_failure_of_ours_is_a_problem_without_its_words(
    bare: Site, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, words: str
) -> None:
    async def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(bare.parts.store.connections, "get", fails)
    answer = await bare.get(f"{V1}/connections/1/runs")
    problem(answer, status, words)
    assert "hidden" not in answer.text
