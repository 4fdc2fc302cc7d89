"""The sandbox's faults that a proxy or a vendor answers instead of data, and its record of calls beyond the limits."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import orjson
import pytest

from syncd.sandbox.app import Sandbox
from syncd.sandbox.faults import KINDS, Fault
from syncd.sandbox.world import Options

Boxes = Callable[..., Awaitable[Sandbox]]
Meet = Callable[..., Awaitable[httpx.Response]]


@pytest.fixture
async def box(sandbox: Boxes) -> Sandbox:
    return await sandbox(Options(workspaces=1, days=1, page_size=2))


@pytest.fixture
async def meet(box: Sandbox) -> AsyncIterator[Meet]:
    """``await meet(kind, …)``: the answer to a call that meets that fault; without a kind a good one."""
    key = {"X-Api-Key": box.fathom.key(next(iter(box.world.companies)))}
    async with httpx.AsyncClient(timeout=0.3) as client:

        async def call(kind: str = "", path: str = "teams", **fault: Any) -> httpx.Response:
            if kind:
                box.world.faults.rules[:] = [Fault(kind, "fathom", **fault)]
            return await client.get(f"{box.base}/fathom/external/v1/{path}", headers=key)

        yield call


@pytest.mark.parametrize(
    ("kind", "name", "value", "body"),
    [("401", "www-authenticate", "Bearer", "{}"), ("302", "location", "https://elsewhere.example/", "")],
)
async def test_a_refusal_and_a_redirect_can_be_had_for_one_call(meet, kind, name, value, body):
    answer = await meet(kind, times=1)
    assert (str(answer.status_code), answer.headers[name], answer.text) == (kind, value, body)
    assert (await meet()).status_code == 200


async def test_a_status_is_answered_in_the_vendors_place_and_a_lost_answer_after_it(box, meet):
    def counted() -> int:
        return sum(len(one._drawn) for one in box.world._buckets.values())

    await meet("503")
    assert counted() == 0
    await meet("truncated")
    assert counted() == 1


@pytest.mark.parametrize(("kind", "told"), [("429", "2"), ("429-fraction", "2.5"), ("429-absurd", "1000000000000")])
async def test_a_limit_can_be_told_in_each_form(meet, kind, told):
    assert (await meet(kind, seconds=2)).headers["retry-after"] == told


async def test_a_limit_can_be_told_as_a_date(meet):
    at = parsedate_to_datetime((await meet("429-date", seconds=2)).headers["retry-after"])
    assert 2 <= (at - datetime.now(UTC)).total_seconds() + 0.1 < 3.2


@pytest.mark.parametrize("kind", ["hang", "hang-body", "reset", "reset-body"])
async def test_an_answer_may_not_come_or_not_to_its_end(meet, kind):
    with pytest.raises(httpx.TransportError):
        await meet(kind, seconds=60)


async def test_a_drip_is_the_whole_answer_in_small_bites(meet):
    assert (await meet("drip", seconds=0)).json() == (await meet("slow", seconds=0)).json()


async def test_wrong_types_keep_the_envelope_and_swap_what_is_in_it(meet):
    good = (await meet()).json()
    bad = (await meet("wrong-types")).json()
    assert (bad["next_cursor"], len(bad["items"])) == (good["next_cursor"], len(good["items"]))
    assert bad["items"][0] == {name: len(value) for name, value in good["items"][0].items()}


async def test_a_seed_changes_some_values_only(meet):
    good = (await meet("", path="meetings")).json()["items"][0]
    bad = (await meet("nulls", path="meetings", seed=3)).json()["items"][0]
    assert 0 < len([name for name in good if good[name] == bad[name] and good[name] is not None]) < len(good)


@pytest.mark.parametrize(("kind", "levels"), [("deep", 100_000), ("deep-1000", 1_000)])
async def test_depth_is_inside_an_otherwise_good_answer(meet, kind, levels):
    body = (await meet(kind)).content
    assert body.count(b"[" * levels) == 1
    assert len(orjson.loads(body.replace(b"[" * levels + b"]" * levels, b"0"))["items"]) == 2


async def test_page_tokens_that_go_round_and_such_that_never_end(meet):
    async def tokens(kind: str) -> list[str]:
        first = (await meet(kind)).json()["next_cursor"]
        return [first, *[(await meet("", f"teams?cursor={first}")).json()["next_cursor"] for _ in range(3)]]

    assert len(set(await tokens("repeated-token"))) == 2
    assert len(set(await tokens("endless-pages"))) == 4


async def test_a_page_that_comes_again_is_of_the_same_account(sandbox: Boxes):
    """A token that the vendor does not know brings the page before it: never another customer's."""
    box = await sandbox(Options(workspaces=2, days=1, page_size=2))
    one, other = (box.fathom.key(name) for name in box.world.companies)
    box.world.faults.rules[:] = [Fault("endless-pages", "fathom")]

    async with httpx.AsyncClient(timeout=5) as client:

        async def meetings(key: str, cursor: str = "") -> Any:
            url = f"{box.base}/fathom/external/v1/meetings{cursor and f'?cursor={cursor}'}"
            return (await client.get(url, headers={"X-Api-Key": key})).json()

        first = await meetings(one)
        await meetings(other)
        again = await meetings(one, first["next_cursor"])
    assert (again["items"], bool(first["items"])) == (first["items"], True)


async def test_an_expired_cursor_befalls_later_pages_only(meet):
    first = await meet("expired-cursor")
    assert first.status_code == 200
    later = await meet("", f"teams?cursor={first.json()['next_cursor']}")
    assert (later.status_code, later.json()) == (400, {"error": "cursor is invalid"})


@pytest.mark.parametrize("kind", ["huge", "endless-body", "gzip-bomb"])
async def test_a_body_can_be_larger_than_anyone_wants(box, kind):
    box.world.faults.add({"kind": kind})
    taken = 0
    async with httpx.AsyncClient() as client, client.stream("GET", f"{box.base}/gong/v2/users") as answer:
        async for chunk in answer.aiter_bytes():
            taken += len(chunk)
            if taken > 2**24:
                break
    assert taken > 2**24


async def test_the_bomb_is_good_json_and_well_packed():
    from syncd.sandbox.fault_streams import _BOMB_BLOCK, _BOMB_BLOCKS, _bomb

    assert len(_bomb()) < 2**21
    assert _BOMB_BLOCK * _BOMB_BLOCKS > 2**30
    unpacked = zlib.decompressobj(31)
    assert unpacked.decompress(_bomb(), 40).startswith(b'{"ok": true, "text": "xx')


async def test_every_kind_is_told_by_the_control_endpoint(box):
    async with httpx.AsyncClient() as client:
        told = (await client.get(f"{box.base}/control")).json()["POST /control/faults"]
    assert told.endswith(", ".join(KINDS))


async def test_a_call_beyond_a_limit_is_a_breach_and_one_before_the_told_time_another(box, meet):
    for _ in range(61):
        await meet("", path="teams")
    assert [one.kind for one in box.world.breaches] == ["exceeded"]
    await meet("", path="teams")
    assert [one.kind for one in box.world.breaches] == ["exceeded", "early", "exceeded"]
    assert {(one.vendor, one.method) for one in box.world.breaches} == {("fathom", "teams")}


async def test_a_call_before_a_faults_retry_after_is_over_is_a_breach_and_one_after_it_is_none(box, meet, monkeypatch):
    await meet("429", seconds=30, times=1)
    monkeypatch.setattr(box.world.clock, "monotonic", lambda at=box.world.clock.monotonic() + 31: at)
    await meet()
    assert box.world.breaches == []
    await meet("429-fraction", seconds=30, times=1)
    await meet()
    async with httpx.AsyncClient() as client:
        told = (await client.get(f"{box.base}/control/breaches")).json()
    assert [(one["method"], one["workspace"], one["kind"]) for one in told] == [("teams", "acme", "early")]


async def test_a_call_that_its_client_gave_up_is_in_the_ledger(box, meet):
    with suppress(httpx.TransportError):
        await meet("reset")
    assert [call.method for call in box.world.ledger] == ["teams"]
