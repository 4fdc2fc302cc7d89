"""The Gong source against the sandbox, through the real engine and store, and against answers of our choice."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta

import orjson
import pytest

from syncd.errors import Transient
from syncd.http import Link
from syncd.limits import Buckets
from syncd.net import Answer
from syncd.sandbox.faults import Fault
from syncd.sandbox.world import Options
from syncd.source import Page, Since, Waiting
from syncd.sources import gong, gong_api, gong_content


@pytest.fixture
def read(reader):
    """A reader of Gong without limits of our own."""

    async def make(**given):
        given["overrides"] = {"limits": {"calls": "1000/1s"}, **given.get("overrides", {})}
        return await reader("gong", **given)

    return make


def _window(world) -> datetime:
    return world.clock.now() - timedelta(hours=24)


def _calls(box, method: str) -> int:
    return box.world.counts["gong", method]


def _all_calls(box) -> int:
    return sum(count for (vendor, _), count in box.world.counts.items() if vendor == "gong")


# --- through the engine ---------------------------------------------------------------------------------------------


async def test_a_first_run_holds_what_the_sandbox_holds(read):
    r = await read()
    status = await r.run()
    truth = r.box.gong.truth("acme", _window(r.box.world))
    assert (status["failures"], status["total_ingested"]) == ([], len(truth["meetings"]))
    for table in ("people", "meetings", "transcripts"):
        assert [row["external_id"] for row in await r.rows(table)] == truth[table]
    waiting = {row["external_id"] for row in await r.backlog()}
    assert waiting == set(truth["meetings"]) - set(truth["transcripts"])
    assert _all_calls(r.box) <= 4


async def test_an_idle_cycle_is_one_call_and_changes_no_record(read):
    r = await read()
    await r.run()
    before, rows = _all_calls(r.box), [await r.rows(table) for table in ("people", "meetings", "transcripts")]
    status = await r.run()
    assert (status["added"], status["changed"], status["deleted"]) == (0, 0, 0)
    assert [await r.rows(table) for table in ("people", "meetings", "transcripts")] == rows
    assert _all_calls(r.box) - before == 1


async def test_small_pages_give_the_same(read, sandbox):
    box = await sandbox(Options(limits=False, page_size=2))
    r = await read(box=box)
    await r.run()
    truth = box.gong.truth("acme", _window(box.world))
    for table in ("people", "meetings", "transcripts"):
        assert [row["external_id"] for row in await r.rows(table)] == truth[table]


async def test_only_so_many_new_transcripts_a_run_and_none_is_lost(read):
    r = await read(overrides={"max_new_per_run": 2})
    await r.run()
    assert len(await r.rows("transcripts")) <= 2
    for _ in range(4):
        await r.run()
    truth = r.box.gong.truth("acme", _window(r.box.world))
    assert [row["external_id"] for row in await r.rows("transcripts")] == truth["transcripts"]


@pytest.mark.parametrize("mode", ["omit", "empty", "404"])
async def test_a_transcript_that_is_not_ready_waits(read, sandbox, mode):
    box = await sandbox(Options(limits=False, calls_per_day=0, switches={"gong.transcript_not_ready": mode}))
    late = [box.gong.act("acme", "add", {"ready_in_s": 3600, "minutes_ago": ago})["call"] for ago in (60, 90)]
    r = await read(box=box)
    status = await r.run()
    assert (status["failures"], await r.rows("transcripts")) == ([], [])
    assert {(row["external_id"], row["attempts"]) for row in await r.backlog()} == {(call, 1) for call in late}


async def test_private_calls_are_read_only_when_asked_for(read):
    r = await read(settings={"skip_private": False})
    await r.run()
    assert any(row["is_private"] for row in await r.rows("meetings"))


async def test_a_call_that_became_private_is_deleted_with_its_transcript(read):
    r = await read()
    await r.run()
    call = (await r.rows("transcripts"))[0]["external_id"]
    r.box.gong.act("acme", "edit", {"id": call, "private": True})
    assert (await r.run())["deleted"] == 2
    gone = [
        row["external_id"] for table in ("meetings", "transcripts") for row in await r.rows(table) if row["deleted_at"]
    ]
    assert gone == [call, call]


async def test_an_edit_is_seen_by_the_next_cycle(read):
    r = await read()
    await r.run()
    call = (await r.rows("meetings"))[0]["external_id"]
    r.box.gong.act("acme", "edit", {"id": call, "title": "Renamed", "comment": "Good close"})
    assert (await r.run())["changed"] == 1
    row = next(row for row in await r.rows("meetings") if row["external_id"] == call)
    assert (row["title"], row["raw"]["collaboration"]["publicComments"][0]["comment"]) == ("Renamed", "Good close")


async def test_chosen_workspaces_have_windows_of_their_own(read):
    r = await read()
    spaces = [space["id"] for space in r.box.gong._tenants["acme"].workspaces]
    r = await read(box=r.box, settings={"workspace_ids": spaces[:1]})
    await r.run()
    assert {row["raw"]["metaData"]["workspaceId"] for row in await r.rows("meetings")} == {spaces[0]}
    assert {row["partition"] for row in await r.rows("cursors") if row["stream"] == "meetings"} == {spaces[0]}


async def test_a_company_without_calls_is_healthy(read, sandbox):
    box = await sandbox(Options(limits=False, calls_per_day=0))
    r = await read(box=box)
    status = await r.run()
    assert (status["successful_workspaces"], status["total_ingested"]) == (1, 0)
    await r.run()
    assert _calls(box, "users") == 2  # the list, and the one proof of sight


async def test_a_key_that_sees_nothing_is_misconfigured(read, sandbox):
    r = await read(box=await sandbox(Options(limits=False, switches={"gong.visibility": "none"})))
    status = await r.run()
    assert status["failures"][0]["kind"] == "misconfigured"
    assert "no calls and no users" in status["failures"][0]["error"]


@pytest.mark.parametrize("scope", ["api:users:read", "api:calls:read:extensive", "api:calls:read:transcript"])
async def test_a_missing_scope_is_named(read, sandbox, scope):
    r = await read(box=await sandbox(Options(limits=False, switches={"gong.missing_scope": scope})))
    failure = (await r.run())["failures"][0]
    assert failure["kind"] == "misconfigured"
    assert scope in failure["error"]


async def test_another_host_is_named(read, sandbox):
    box = await sandbox(Options(limits=False, switches={"gong.redirect": "eu.api.gong.example"}))
    failure = (await (await read(box=box)).run())["failures"][0]
    assert failure["kind"] == "misconfigured"
    assert "eu.api.gong.example" in failure["hint"]


async def test_a_revoked_key_waits_for_a_person_and_deletes_nothing(read):
    r = await read()
    await r.run()
    r.box.gong.act("acme", "revoke", {})
    assert (await r.run())["failures"][0]["kind"] == "auth"
    assert (await r.connection())["status"] == "needs_reauth"
    assert not any(row["deleted_at"] for row in await r.rows("meetings"))


async def test_an_expired_access_token_is_renewed_once_and_saved(read):
    r = await read(workspace="northwind")
    first = r.box.gong._tenants["northwind"].member("refresh_token")
    r.box.world.clock.advance(timedelta(days=2))  # the vendor's clock: the token is refused, not known to be old
    status = await r.run()
    assert status["failures"] == []
    assert _calls(r.box, "oauth2/generate-customer-token") == 1
    assert r.box.gong._tenants["northwind"].member("refresh_token") != first
    assert (await r.run())["failures"] == []
    assert _calls(r.box, "oauth2/generate-customer-token") == 1


async def test_a_token_refused_in_mid_listing_is_renewed_once_and_nothing_is_lost(read, sandbox):
    box = await sandbox(Options(workspaces=2, limits=False, page_size=2))
    box.world.faults.rules.append(Fault("401", "gong", "calls/extensive", skip=1, times=1))
    r = await read(box=box, workspace="northwind")
    assert (await r.run())["failures"] == []
    held = [row["external_id"] for row in await r.rows("meetings")]
    assert held == box.gong.truth("northwind", _window(box.world))["meetings"]
    assert _calls(box, "oauth2/generate-customer-token") == 1


async def test_a_redirect_in_mid_run_names_the_other_host(read):
    r = await read()
    r.box.world.faults.rules.append(Fault("302", "gong", "calls/extensive", times=1))
    [failure] = (await r.run())["failures"]
    assert (failure["kind"], "elsewhere.example" in failure["hint"]) == ("misconfigured", True)


async def test_a_spent_refresh_token_asks_for_a_new_connection(read):
    r = await read(workspace="northwind")
    tenant = r.box.gong._tenants["northwind"]
    tenant.turn += 1  # somebody else has renewed
    r.box.world.clock.advance(timedelta(days=2))
    failure = (await r.run())["failures"][0]
    tenant.turn -= 1
    assert failure["kind"] == "auth"
    assert "invalid_grant" in failure["error"]
    assert "connect" in failure["hint"]


async def test_a_long_retry_after_defers_the_connection(read):
    r = await read()
    r.box.world.faults.rules.append(Fault("429", "gong", "calls/extensive", seconds=1200))
    status = await r.run()
    assert (status["deferred_workspaces"], status["failed_workspaces"]) == (1, 0)


async def test_an_answer_that_is_not_json_fails_the_run_and_keeps_the_cursor(read):
    r = await read()
    await r.run()
    before = await r.rows("cursors")
    r.box.world.faults.rules.append(Fault("200-html", "gong", "calls/extensive"))
    assert (await r.run())["failures"][0]["kind"] == "transient"
    assert await r.rows("cursors") == before


# --- against answers of our choice ------------------------------------------------------------------------------------


class Scripted:
    """A transport that answers what it was given, in this order, and keeps what it was asked."""

    def __init__(self, *answers: tuple[int, object]) -> None:
        self.answers, self.asked = list(answers), []

    async def ask(self, method, url, **request) -> Answer:
        self.asked.append((method, url, request))
        status, body = self.answers.pop(0)
        return Answer(status, {}, orjson.dumps(body))


def _api(net, **settings) -> gong_api.Api:
    async def save(_) -> None: ...

    key = {"access_key": "key", "access_key_secret": "secret"}
    options = {"base_url": "https://api.gong.example/", "max_new_per_run": 50, "content_wait": timedelta(days=30)}
    buckets = Buckets()
    return gong_api.Api(
        Link(source="gong", credential="1", net=net, buckets=buckets, credentials=key, settings=settings,
             options=options, save=save, patience_s=0)
    )  # fmt: skip


def _listing(*ids: str, cursor: str | None = None) -> tuple[int, object]:
    calls = [{"metaData": {"id": one}} for one in ids]
    return 200, {"records": {"totalRecords": 3, "cursor": cursor}, "calls": calls}


async def _read(api) -> list[list[str]]:
    return [
        [row["metaData"]["id"] for row in rows]
        async for rows, _ in api.pages("calls/extensive", "calls", {"filter": {}})
    ]


async def test_the_cursor_of_a_post_goes_into_its_body():
    net = Scripted(_listing("1", cursor="c1"), _listing("2"))
    assert await _read(_api(net)) == [["1"], ["2"]]
    assert [request for _, _, request in net.asked] == [
        {"auth": ("key", "secret"), "json": {"filter": {}}},
        {"auth": ("key", "secret"), "json": {"filter": {}, "cursor": "c1"}},
    ]


async def test_an_expired_cursor_starts_the_window_again_once():
    expired = (400, {"errors": ["your cursor has expired"]})
    net = Scripted(_listing("1", cursor="c1"), expired, _listing("1", cursor="c2"), _listing("2"))
    assert await _read(_api(net)) == [["1"], ["1"], ["2"]]
    with pytest.raises(Transient):
        await _read(_api(Scripted(*[_listing("1", cursor="c1"), expired] * 2)))


async def test_a_cursor_that_repeats_ends_the_run():
    with pytest.raises(Transient, match="a second time"):
        await _read(_api(Scripted(*[_listing("1", cursor="c1")] * 3)))


async def test_a_listing_longer_than_its_total_ends_the_run():
    with pytest.raises(Transient, match="longer than it says"):
        await _read(_api(Scripted(*[_listing(*"123456789", cursor=f"c{number}") for number in range(20)])))


@pytest.mark.parametrize("told", [215, 101])
async def test_a_listing_that_ends_where_it_says_that_there_is_more_is_cut(told):
    cut = {"records": {"totalRecords": told}, "calls": [{"metaData": {"id": f"{one}"}} for one in range(100)]}
    with pytest.raises(Transient, match=f"ends after 100 of {told}"):
        await _read(_api(Scripted((200, cut))))


@pytest.mark.parametrize(
    ("sizes", "told"), [((100,), 100), ((100, 100), 200), ((100, 1), 130), ((100, 0), 101), ((7,), 9)]
)
async def test_what_goes_while_it_is_listed_does_not_make_a_listing_cut(sizes, told):
    """The total is the first page's, by the contract."""
    answers, ids = list[tuple[int, object]](), iter(range(999))
    for page, size in enumerate(sizes, start=1):
        records = {"totalRecords": told, "cursor": f"c{page}" if page < len(sizes) else None}
        answers.append(
            (200, {"records": records, "calls": [{"metaData": {"id": f"{next(ids)}"}} for _ in range(size)]})
        )
    assert list(map(len, await _read(_api(Scripted(*answers))))) == list(sizes)


@pytest.mark.parametrize("shown", [[], None])
async def test_transcripts_that_are_counted_and_not_shown_are_not_ready(shown):
    net = Scripted((200, {"records": {"totalRecords": 2}, "callTranscripts": shown}))
    assert [one.external_id async for page in _details(net, "1") for one in page.pending] == ["1"]


class Broken(Scripted):
    """Answers each request for transcripts with ``status`` when one of the ``broken`` calls is asked for."""

    def __init__(self, status: int, broken: Iterable[str]) -> None:
        super().__init__()
        self.status, self.broken = status, set(broken)

    async def ask(self, method, url, **request) -> Answer:
        asked = request["json"]["filter"]["callIds"]
        self.asked.append(asked)
        if self.broken.intersection(asked):
            return Answer(self.status, {}, orjson.dumps({"errors": ["Bad request"]}))
        said = [{"speakerId": None, "sentences": [{"start": 0, "end": 9, "text": "Hi."}]}]
        found = [{"callId": one, "transcript": said} for one in asked]
        return Answer(200, {}, orjson.dumps({"records": {}, "callTranscripts": found}))


async def _details(net: Scripted, calls: Iterable[str]) -> AsyncIterator[Page]:
    """The transcripts' stream when these calls are due."""
    now = datetime(2026, 9, 1, tzinfo=UTC)

    class Everything:
        async def stored(self, _, ids, *fields):
            return {one: (None,) * len(fields) for one in ids}

    day = timedelta(days=1)
    since = Since(
        now=now,
        lookback=day,
        cycle_lookback=day,
        sweep_lookback=day,
        backlog=[Waiting(one, "", 0, now) for one in calls],
        held=Everything(),
    )
    async for page in gong_content.transcripts(_api(net), since):
        yield page


@pytest.mark.parametrize("status", [400, 500])
async def test_a_call_that_always_fails_does_not_keep_the_others_waiting(status):
    """Calls together fail, so each is asked alone: the good ones are read, the bad ones stay in the backlog."""
    pages = [page async for page in _details(Broken(status, "15"), "123456")]
    assert [one.external_id for page in pages for one in page.pending] == ["1", "5"]
    assert [one for page in pages for one in page.resolved] == ["2", "3", "4", "6"]


async def test_one_bad_call_among_many_is_found_in_few_requests():
    net = Broken(500, ["42"])
    pages = [page async for page in _details(net, map(str, range(50)))]
    assert ([one.external_id for page in pages for one in page.pending], len(net.asked)) == (["42"], 1 + 10 + 5)


async def test_three_calls_in_a_row_that_fail_in_passing_end_the_run_and_count_as_tried():
    pages = _details(Broken(500, "123456"), "123456")
    assert [[one.external_id for one in (await anext(pages)).pending] for _ in range(3)] == [["1"], ["2"], ["3"]]
    with pytest.raises(Transient):
        await anext(pages)


async def test_check_tells_who_we_are_and_what_is_missing():
    users = {"records": {"totalRecords": 1}, "users": [{"id": "1", "emailAddress": "robin@acme.example"}]}
    refused = {"errors": ["You don't have permission to use 'api:calls:read:transcript' in your app."]}
    net = Scripted((200, users), (200, {"workspaces": [{"id": "7", "name": "Sales"}]}), _listing("1"), (401, refused))
    report = await gong.SOURCE.check(_api(net, workspace_ids=["8"]))
    assert "acme.example" in report.identity
    assert "workspace 7: Sales" in report.facts
    what = [problem for problem, _ in report.problems]
    assert len(what) == 2
    assert "api:calls:read:transcript" in what[0]
    assert "workspace 8" in what[1]
