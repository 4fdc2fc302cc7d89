"""The Fathom source: its mappers on odd JSON, and its streams against the sandbox through the real engine."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from syncd import tables
from syncd.sandbox.world import Options
from syncd.sources.fathom import SOURCE
from syncd.sources.fathom_meetings import meeting as _meeting
from syncd.sources.fathom_meetings import moment
from syncd.sources.fathom_meetings import transcript as _transcript

MEETING: dict[str, Any] = {
    "title": "Initech kickoff",
    "meeting_title": "Acme <> Initech",
    "recording_id": 338645540,
    "url": "https://fathom.video/calls/412345678",
    "share_url": "https://fathom.video/share/aBcD",
    "created_at": "2026-09-01T15:32:51Z",
    "scheduled_start_time": "2026-09-01T15:00:00Z",
    "scheduled_end_time": "2026-09-01T15:30:00Z",
    "recording_start_time": "2026-09-01T15:01:12Z",
    "recording_end_time": "2026-09-01T15:32:44.500000Z",
    "shared_with": "single_team",
    "transcript_language": "en",
    "calendar_invitees": [
        {"name": "Robin Field", "email": "robin@acme.example", "is_external": False},
        {"name": None, "email": "lee@initech.example", "is_external": True},
    ],
    "recorded_by": {"name": "Robin Field", "email": "robin@acme.example", "team": "Sales"},
    "transcript": None,
    "default_summary": {"template_name": "General", "markdown_formatted": "## Summary\nPilot in October.\n"},
    "action_items": [
        {
            "description": "Send the order form",
            "completed": False,
            "recording_timestamp": "00:27:00",
            "assignee": {"name": None, "email": "robin@acme.example", "team": None},
        },
        {"description": "Call Lee", "completed": True, "recording_timestamp": "01:00:01", "assignee": None},
    ],
}
ODD = [None, "", " ", 0, -1, True, 1.5, "x", [], {}, [None], [[]], ["x"], {"name": []}, [{"speaker": []}], "9" * 400]


def meeting(**changes: Any) -> Any:
    return _meeting("1", MEETING | changes)


def due_now(r) -> Any:
    """Makes all that waits in the backlog due."""

    async def work() -> None:
        async with r.parts.store.database.write() as session:
            await session.execute(tables.backlog.update().values(next_try_at=datetime(2000, 1, 1, tzinfo=UTC)))

    return work()


async def held(r) -> dict[str, list[str]]:
    """What the store holds, in the form of the sandbox's truth."""
    return {kind: [row["external_id"] for row in await r.rows(kind)] for kind in ("meetings", "transcripts")}


def truth(r, workspace: str = "acme", **back: float) -> dict[str, list[str]]:
    world = r.box.world
    return dict(r.box.fathom.truth(workspace, world.clock.now() - timedelta(**back or {"hours": 24})))


class TestMeeting:
    def test_columns(self):
        one = meeting()
        assert one.title == "Initech kickoff"
        assert one.started_at == datetime(2026, 9, 1, 15, 1, 12, tzinfo=UTC)
        assert one.duration_s == 1892.5
        assert one.host == "Robin Field"
        assert one.participants[1] == {"name": None, "email": "lee@initech.example", "is_external": True}
        assert one.url == "https://fathom.video/share/aBcD"
        assert one.summary.startswith("## Summary")
        assert one.is_private is False

    def test_action_items_name_their_assignee_by_address_where_there_is_no_name(self):
        assert meeting().action_items == [
            {"text": "Send the order form", "assignee": "robin@acme.example", "completed": False, "at_s": 1620.0},
            {"text": "Call Lee", "assignee": None, "completed": True, "at_s": 3601.0},
        ]

    def test_the_order_of_action_items_is_no_change(self):
        assert meeting(action_items=MEETING["action_items"][::-1]).stable == meeting().stable

    def test_a_completed_action_item_is_a_change(self):
        done = [item | {"completed": True} for item in MEETING["action_items"]]
        assert meeting(action_items=done).stable != meeting().stable

    def test_a_matched_name_is_no_change(self):
        """It is there only where the transcript was asked for."""
        named = [one | {"matched_speaker_display_name": "Lee"} for one in MEETING["calendar_invitees"]]
        assert meeting(calendar_invitees=named).stable == meeting(
            calendar_invitees=[one | {"matched_speaker_display_name": None} for one in MEETING["calendar_invitees"]]
        ).stable  # fmt: skip

    @pytest.mark.parametrize(
        ("missing", "start"), [("recording_start_time", 15), ("recording_start_time scheduled_start_time", 15)]
    )
    def test_a_start_is_found_where_the_recording_has_none(self, missing, start):
        one = meeting(**dict.fromkeys(missing.split()))
        assert one.started_at.hour == start

    def test_listed_without_any_times_it_has_no_end(self):
        names = [f"{kind}_{edge}_time" for kind in ("recording", "scheduled") for edge in ("start", "end")]
        one = meeting(**dict.fromkeys(names))
        assert one.started_at == datetime(2026, 9, 1, 15, 32, 51, tzinfo=UTC)
        assert one.ended_at is one.duration_s is None

    @pytest.mark.parametrize(
        ("word", "private"), [("no_teams", True), ("all_teams", False), ("guests", None), (None, None)]
    )
    def test_privacy_is_unknown_where_the_word_is(self, word, private):
        assert meeting(shared_with=word).is_private is private

    @pytest.mark.parametrize("odd", ODD, ids=repr)
    @pytest.mark.parametrize("name", MEETING)
    def test_no_field_of_a_wrong_form_is_fatal(self, name, odd):
        assert meeting(**{name: odd}).raw[name] == odd

    @pytest.mark.parametrize("odd", ["cut \ud83d", 10**30], ids=["lone surrogate", "huge integer"])
    def test_an_action_item_that_orjson_does_not_write_is_compared_all_the_same(self, odd):
        items = [{"description": odd}, {"description": "b"}]
        assert meeting(action_items=items).stable == meeting(action_items=items[::-1]).stable

    @pytest.mark.parametrize("year", ["0001", "1969", "3000", "9999"])
    def test_a_time_that_no_meeting_has_is_none(self, year):
        assert moment(f"{year}-01-01T00:00:00Z") is None

    def test_an_empty_meeting_is_a_meeting(self):
        assert _meeting("1", {}).title is None


class TestTranscript:
    def test_turns(self):
        said = [
            {
                "speaker": {"display_name": "Robin", "matched_calendar_invitee_email": "robin@acme.example"},
                "text": "Hi.",
                "timestamp": "01:00:04",
            },
            {"speaker": {"display_name": None}, "text": "…", "timestamp": "later"},
        ]
        one = _transcript("1", said, "en")
        assert one.segments[0] == {
            "speaker": "Robin", "speaker_id": "robin@acme.example", "start_s": 3604.0, "end_s": None, "text": "Hi."
        }  # fmt: skip
        assert one.segments[1]["start_s"] is None
        assert one.text == "Robin: Hi.\n…"

    @pytest.mark.parametrize("odd", ODD, ids=repr)
    def test_no_turn_of_a_wrong_form_is_fatal(self, odd):
        turn = {"speaker": odd, "text": odd, "timestamp": odd}
        assert _transcript("1", [odd, turn], odd).raw == {"transcript": [odd, turn]}


class TestReading:
    @pytest.mark.parametrize("workspace", ["acme", "northwind"], ids=["key", "oauth"])
    async def test_first_run_stores_all_that_is_ready(self, reader, workspace):
        r = await reader("fathom", workspace=workspace)
        status = await r.run()
        assert status["failures"] == []
        assert await held(r) == truth(r, workspace)
        assert status["calls"] < 20

    @pytest.mark.parametrize("workspace", ["acme", "northwind"], ids=["key", "oauth"])
    async def test_an_idle_run_is_one_call_and_changes_nothing(self, reader, workspace):
        r = await reader("fathom", workspace=workspace)
        await r.run()
        before = await r.rows("meetings")
        status = await r.run()
        assert (status["calls"], status["added"], status["changed"]) == (1, 0, 0)
        assert await r.rows("meetings") == before
        assert sum(row["summary"] is not None for row in before) >= 3

    @pytest.mark.parametrize("form", ["404", "null", "empty"])
    @pytest.mark.parametrize("workspace", ["acme", "northwind"], ids=["key", "oauth"])
    async def test_what_is_not_ready_waits_and_comes_later(self, reader, sandbox, workspace, form):
        box = await sandbox(Options(workspaces=2, limits=False, switches={"fathom.not_ready": form}))
        r = await reader("fathom", box=box, workspace=workspace)
        await r.run()
        waiting = [row["reason"] for row in await r.backlog()]
        items = "" if form == "empty" else ", action items"  # an empty list looks like none
        assert waiting == [f"transcript, summary{items} not ready", f"summary{items} not ready"]
        box.world.clock.advance(timedelta(minutes=20))
        await due_now(r)
        await r.run()
        assert await r.backlog() == []
        assert await held(r) == truth(r, workspace)
        assert all(row["summary"] for row in await r.rows("meetings"))

    @pytest.mark.parametrize(
        "switches",
        [
            {"fathom.end": "blank"},
            {"fathom.end": "absent"},
            {"fathom.cursor": "page"},
            {"fathom.duplicates": "on"},
            {"fathom.inclusive": "on"},
            {"fathom.nulls": "on"},
        ],
        ids=str,
    )
    async def test_every_form_of_listing_is_read_to_its_end(self, reader, sandbox, switches):
        box = await sandbox(Options(workspaces=1, limits=False, page_size=2, switches=switches))
        r = await reader("fathom", box=box, lookback="20d")
        assert (await r.run())["failures"] == []
        assert await held(r) == truth(r, days=20)

    async def test_what_the_specification_does_not_know_survives_in_raw(self, reader, sandbox):
        box = await sandbox(Options(workspaces=1, limits=False, switches={"fathom.nulls": "on"}))
        r = await reader("fathom", box=box)
        await r.run()
        assert all(row["raw"]["sentiment"] == {"score": None} for row in await r.rows("meetings"))

    async def test_new_meetings_are_detailed_in_portions(self, reader):
        r = await reader("fathom", workspace="northwind", overrides={"max_new_per_run": 2})
        await r.run()
        assert sum(row["attempts"] == 0 for row in await r.backlog()) == len(await r.rows("meetings")) - 2

    async def test_a_later_change_is_seen_within_the_window(self, reader):
        r = await reader("fathom")
        await r.run()
        made = r.box.fathom.act("acme", "add", {"title": "Board call"})
        await r.run()
        r.box.fathom.act("acme", "edit", made | {"title": "Board call 🎯"})
        assert (await r.run())["changed"] == 1
        assert "Board call 🎯" in {row["title"] for row in await r.rows("meetings")}

    @pytest.mark.parametrize("workspace", ["acme", "northwind"], ids=["key", "oauth"])
    async def test_a_meeting_gone_before_its_details_stays_visible_in_the_backlog(self, reader, workspace):
        r = await reader("fathom", workspace=workspace)
        made = r.box.fathom.act(workspace, "add", {"ready_in_s": 3600})
        await r.run()
        r.box.fathom.act(workspace, "delete", made)
        await due_now(r)
        await r.run()
        reasons = {row["external_id"]: row["reason"] for row in await r.backlog()}
        expected = {"acme": "no longer visible", "northwind": "transcript, summary, action items not ready"}
        assert reasons[str(made["recording_id"])] == expected[workspace]

    async def test_teams_narrow_what_is_read(self, reader):
        r = await reader("fathom", settings={"teams": ["Customers"]}, lookback="20d")
        await r.run()
        assert 0 < len(await r.rows("meetings")) < len(truth(r, days=20)["meetings"])


async def check(r):
    [connection] = await r.parts.store.connections.all()
    credentials = r.parts.vault.open(connection.id, connection.sealed)
    async with SOURCE.connect(r.parts.engine.runs.link(r.parts.engine.plans["fathom"], connection, credentials)) as api:
        return await SOURCE.check(api)


class TestCheck:
    @pytest.mark.parametrize(("workspace", "form"), [("acme", "API key"), ("northwind", "OAuth")])
    async def test_it_names_the_form_of_access_and_what_it_did_not_try(self, reader, workspace, form):
        report = await check(await reader("fathom", workspace=workspace))
        assert form in report.identity
        assert "transcripts and summaries were not tried" in report.facts
        assert report.problems == []

    async def test_it_names_a_team_that_is_not_visible(self, reader):
        report = await check(await reader("fathom", settings={"teams": ["Sales", "Seals"]}))
        [(what, way_out)] = report.problems
        assert what == "team 'Seals' is not visible"
        assert "Sales" in way_out


@pytest.mark.parametrize(("teams", "usable"), [(["Sales"], True), ("Sales", False), ([""], False), ([1], False)])
def test_the_setting_teams_is_a_list_of_names(teams, usable):
    assert (SOURCE.refuse(None, {"teams": teams}) is None) is usable
