"""Slack: channels and people change; it is told once and takes no data away."""

from __future__ import annotations

from typing import Any

import pytest

from syncd.sources.slack import SOURCE
from tests.sources.slack_stage import CHANNEL, MakeStage


def notes(capsys: pytest.CaptureFixture[str]) -> list[str]:
    read = capsys.readouterr()
    return [line for line in (read.out + read.err).splitlines() if "source.noted" in line]


@pytest.mark.parametrize(
    ("action", "body", "words"),
    [
        ("rename", {"channel": CHANNEL, "name": "lobby"}, "is now called #lobby"),
        ("archive", {"channel": CHANNEL}, "was archived"),
        ("kick", {"channel": CHANNEL}, "no longer visible"),
        ("create", {"name": "launch"}, "read from now on"),
    ],
)
async def test_what_becomes_of_a_channel_is_told_once_and_takes_no_data_away(
    stage: MakeStage, capsys: pytest.CaptureFixture[str], action: str, body: Any, words: str
) -> None:
    s = await stage(channels="*")
    ts = s.post()
    await s.after()
    s.act(action, **body)
    notes(capsys)
    await s.after(hours=2)
    assert len([line for line in notes(capsys) if words in line]) == 1
    await s.after(hours=2)
    await s.after(hours=2, sweep=True)
    assert notes(capsys) == []
    assert await s.is_live(ts)


async def test_a_selected_channel_that_is_not_visible_is_told_once(
    stage: MakeStage, capsys: pytest.CaptureFixture[str]
) -> None:
    s = await stage(channels=(CHANNEL, "C0NOWHERE0"))
    await s.after()
    assert len([line for line in notes(capsys) if "C0NOWHERE0" in line]) == 1
    await s.after(hours=2)
    assert notes(capsys) == []


async def test_a_selected_channel_whose_particulars_fail_in_passing_is_read_all_the_same(stage: MakeStage) -> None:
    s = await stage(channels=(CHANNEL, "C000000001"))
    s.act("fail", method="conversations.info", error="internal_error", times=2)
    s.act("invite", channel="C000000001")
    posted = [s.post(), s.act("post", channel="C000000001", text="hello")["ts"]]
    assert (await s.after())["failures"] == []
    assert {row.external_id.partition(":")[2] for row in await s.rows("messages")} >= set(posted)
    assert [row.external_id for row in await s.rows("backlog")] == [CHANNEL, "C000000001"]
    await s.after(minutes=15)
    assert (await s.rows("backlog"), len(await s.rows("conversations"))) == ([], 2)


async def test_the_third_selected_channel_in_a_row_whose_particulars_fail_ends_the_run(stage: MakeStage) -> None:
    s = await stage(channels=[f"C00000000{n}" for n in range(4)])
    s.act("fail", method="conversations.info", error="internal_error", times=4)
    assert (await s.after())["failures"][0]["kind"] == "transient"
    assert s.box.world.counts["slack", "conversations.info"] == 3


async def test_one_that_answers_between_them_shows_that_slack_is_there(stage: MakeStage) -> None:
    s = await stage(channels=[f"C00000000{n}" for n in range(4)])
    s.act("fail", method="conversations.info", error="internal_error", times=2)
    s.act("fail", method="conversations.info", error="internal_error", skip=1)
    assert (await s.after())["failures"] == []


async def test_a_check_says_of_a_channel_that_fails_in_passing_to_try_again(stage: MakeStage) -> None:
    s = await stage()
    s.act("fail", method="conversations.info", error="internal_error")
    (connection,) = await s.parts.store.connections.all()
    credentials = s.parts.vault.open(connection.id, connection.sealed)
    link = s.parts.engine.runs.link(s.parts.engine.plans["slack"], connection, credentials)
    async with SOURCE.connect(link) as api:
        assert SOURCE.check is not None
        report = await SOURCE.check(api)
    (what, way_out) = report.problems[0]
    assert (what, way_out) == (f"{CHANNEL}: conversations.info: internal_error", "try again later")


async def test_names_of_people_and_channels_stay_current(stage: MakeStage) -> None:
    s = await stage(channels="*")
    await s.after()
    s.act("rename", channel=CHANNEL, name="lobby")
    s.act("person", user=0, name="Ana Maria")
    await s.after(hours=2)
    assert "lobby" in {row.name for row in await s.rows("conversations")}
    assert "Ana Maria" in {row.name for row in await s.rows("people")}


async def test_a_new_channel_is_read_within_the_hour(stage: MakeStage) -> None:
    s = await stage(channels="*")
    await s.after()
    made = s.act("create", name="launch")
    ts = s.act("post", channel=made["channel"], text="first")["ts"]
    await s.after(minutes=65)
    assert f"{made['channel']}:{ts}" in {row.external_id for row in await s.rows("messages")}
