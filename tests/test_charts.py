"""The pictures of the status page: they draw what happened, in bounded size, and say it in words."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any
from xml.etree import ElementTree as ET

from syncd.web import charts

NOW = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)


def cycle(minutes_ago: float, *, seconds: float = 2.0, total: int = 10, failed: int = 0) -> dict[str, Any]:
    began = NOW - timedelta(minutes=minutes_ago)
    ended = (began + timedelta(seconds=seconds)).isoformat()
    return {"started_at": began.isoformat(), "finished_at": ended, "total": total, "failed_workspaces": failed}


def bars(svg: str, lane: str) -> list[tuple[int, float]]:
    """(place, height) of each bar of a lane."""
    (path,) = re.findall(rf'class="{lane}" d="([^"]*)"', svg)
    return [(int(x), float(height)) for x, height in re.findall(r"M(\d+) \d+v-([\d.]+)h", path)]


def test_a_cycle_stands_where_its_time_is() -> None:
    svg = charts.day("slack", [cycle(24 * 60 - 1), cycle(12 * 60), cycle(1)], NOW).svg
    assert [place for place, _ in bars(svg, "duration")] == [0, 48, 95]


def test_the_highest_bar_is_the_longest_cycle_and_the_others_are_in_proportion() -> None:
    svg = charts.day("slack", [cycle(60, seconds=5), cycle(30, seconds=20)], NOW).svg
    (_, low), (_, high) = bars(svg, "duration")
    assert low == round(high / 4, 1)


def test_only_cycles_with_failures_have_a_red_bar() -> None:
    svg = charts.day("slack", [cycle(60), cycle(30, failed=25)], NOW).svg
    assert [place for place, _ in bars(svg, "failed")] == [94]


def test_the_words_say_what_the_picture_shows() -> None:
    chart = charts.day("slack", [cycle(60, total=1200), cycle(30, seconds=200, failed=25)], NOW)
    expected = "2 cycles, the longest took 3 min; 1,210 records; failures in 1 quarter hour, at most 25"
    assert chart.words == expected
    assert f'<desc id="day-slack-d">{expected}</desc>' in chart.svg


def test_no_cycle_is_a_picture_that_says_so() -> None:
    chart = charts.day("slack", [], NOW)
    assert chart.words == "no cycle in the last 24 hours"
    ET.fromstring(chart.svg)


def test_a_cycle_under_way_is_as_long_as_it_lasts_by_now() -> None:
    under_way = cycle(10) | {"finished_at": None}
    chart = charts.day("slack", [under_way], NOW)
    assert "the longest took 10 min" in chart.words
    assert "still running" in chart.svg


def test_a_cycle_each_minute_gives_no_larger_picture_than_one_each_quarter_hour() -> None:
    dense = charts.day("slack", [cycle(minutes, failed=1) for minutes in range(1, 1440)], NOW).svg
    usual = charts.day("slack", [cycle(minutes, failed=1) for minutes in range(1, 1440, 15)], NOW).svg
    assert len(dense) < 1.2 * len(usual) < 20_000


def test_what_is_older_than_a_day_or_of_another_clock_is_not_drawn() -> None:
    assert charts.day("slack", [cycle(25 * 60), cycle(-60)], NOW).words == "no cycle in the last 24 hours"


def test_the_newest_run_is_on_the_right_and_a_failure_is_the_highest() -> None:
    svg = charts.runs([{"status": "succeeded"}, {"status": "interrupted"}, {"status": "failed"}])
    found = {name: bars(svg, name)[0] for name in ("succeeded", "interrupted", "failed")}
    assert found == {"succeeded": (68, 10.0), "interrupted": (72, 6.0), "failed": (76, 16.0)}
    assert "last 3 runs: 1 succeeded, 1 interrupted, 1 failed; newest: failed" in svg


def test_pictures_are_well_formed_and_have_no_style_of_their_own() -> None:
    drawn = [charts.day("slack", [cycle(30, failed=1)], NOW).svg, charts.runs([{"status": "failed"}])]
    for svg in drawn:
        ET.fromstring(svg)
        assert "style" not in svg
