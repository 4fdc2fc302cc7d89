"""The benchmarks' measured processes on very little data: they run, and they store the same."""

from __future__ import annotations

import pytest

from benchmarks.measure import Failed, Spread, python, ratio, run
from benchmarks.subjects import Setting, bare, syncd
from benchmarks.tables import Bars, Curves, Table
from benchmarks.vendors import Talk, vendors

TALK = Talk(channels=1, threads=4, replies=3, singles=4)
QUIET = {"messages_per_day": 0, "calls_per_day": 0, "meetings_per_day": 0, "mails_per_day": 0}


@pytest.fixture(scope="module")
def server():
    """A PostgreSQL of the benchmarks' own: it is asked for the process that it is."""
    from benchmarks.measure import postgres

    with postgres() as started:
        yield started


def test_the_bare_limit_and_syncd_store_the_same_messages(server, tmp_path):
    setting = Setting(server, tmp_path, tmp_path)
    with vendors(TALK, workspaces=1, channels=1, days=2, **QUIET) as vendor:
        lines = vendor.lines("slack")
        theirs, ours = server.url(), server.url()
        bare(setting, vendor, theirs, lines)
        syncd(setting, vendor, ours, [["slack"]], lines=lines, lookback="30d")
    columns = "SELECT external_id, conversation_id, thread_id, author_id, sent_at, text FROM messages ORDER BY 1"
    assert server.ask(ours, columns) == server.ask(theirs, columns)
    assert server.ask(ours, "SELECT count(*) FROM messages")[0][0] == TALK.messages


def test_the_write_path_and_its_floor_store_the_same_rows(server):
    told = run(python("benchmarks.writes", {"url": server.url(), "pages": 2, "rows": 20})).told
    assert told["same"] == 40
    assert set(told["steps"]) == {"new", "unchanged", "5 % changed", "floor"}
    assert told["steps"]["unchanged"]["wal_mb"] < told["steps"]["new"]["wal_mb"]


def test_a_process_that_ends_badly_is_told_with_its_last_words():
    with pytest.raises(Failed, match="no such thing"):
        run(["python", "-c", "import sys; sys.exit('no such thing')"])


def test_what_a_process_used_is_its_childrens_too():
    burn = "import time; ends = time.process_time() + 0.2\nwhile time.process_time() < ends: pass"
    cost = run(["python", "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"])
    assert cost.cpu_s >= 0.2


def test_a_ratio_is_taken_round_by_round():
    assert ratio([2.0, 9.0, 4.0], [1.0, 3.0, 2.0]).rounds == (2.0, 3.0, 2.0)
    assert str(Spread((2.0, 3.0, 2.0))) == "2 (2-3)"


def test_a_table_is_written_with_its_plots(tmp_path):
    curve = Curves("growth", "Growth", "rows", {"one": [(1, 1), (10, 3)]})
    table = Table("A title", ("name", "value"), [("a|b", 1)], ["A note."], [Bars("bars", "Bars", [("a", 5)]), curve])
    table.write_plots(tmp_path / "plots")
    assert "| a\\|b | 1 |" in table.markdown()
    assert {one.name for one in (tmp_path / "plots").iterdir()} == {"bars.svg", "growth.svg"}
