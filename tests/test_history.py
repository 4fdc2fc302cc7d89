"""``syncd backfill`` and ``syncd verify`` as a person types them, on scripted sources and SQLite."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from syncd.credentials import generate_key
from syncd.errors import Transient
from syncd.http import Link
from syncd.records import Deletion, Message
from syncd.source import Estimate, Page, Since
from syncd.sources import SOURCES
from tests.scripted import message, older, pages, source
from tests.test_cli import Shell, one_line

BACKFILL = ["backfill", "--source", "slack", "--since", "2026-01-31"]
STORED = Page(records=[message("1"), message("2")])


@pytest.fixture
def syncd(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Shell:
    """A shell with a database and two workspaces of Slack that hold two messages each."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SYNCD_SECRET_KEYS", generate_key())
    monkeypatch.setenv("SYNCD_SOURCES__SLACK__CRON", "0 0 1 1 *")  # no regular turn is near, for which it would wait
    shell = Shell(monkeypatch, capsys)
    scripts(monkeypatch)
    assert shell("migrate").code == 0
    lines = [{"workspace_id": one, "source": "slack", "credentials": {"token": f"t-{one}"}} for one in ("acme", "beta")]
    assert shell("connections", "import", "-", stdin="\n".join(orjson.dumps(one).decode() for one in lines)).code == 0
    assert shell("run-once", "-s", "slack").code == 0
    return shell


def scripts(monkeypatch: pytest.MonkeyPatch, **how: Any) -> None:
    """What Slack does, as `scripted.source` takes."""

    async def estimate(api: Any, since: Since) -> Estimate:
        return Estimate(1240, {"conversations.history": 60}, "about 1,240 messages in 12 channels")

    given = {"backfill": [older("old")], "estimate": estimate, "audit": [pages(STORED)]}
    monkeypatch.setitem(SOURCES, "slack", source(pages(STORED), **given | how))


async def beta_fails(link: Link, since: Since) -> AsyncIterator[Page]:
    if link.credentials["token"] == "t-beta":
        raise Transient("HTTP 500", hint="it may pass")
    yield Page(records=[message("old")])


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["backfill", "--source", "slack"], ["--since"]),
        (["backfill", "--since", "2026-01-31"], ["--source"]),
        (["backfill", "-s", "teams", "--since", "2026-01-31"], ["teams", "all"]),
        (["backfill", "-s", "slack", "--since", "yesterday"], ["'yesterday'", "2026-01-31"]),
        (["backfill", "-s", "slack", "--since", "1999-12-31"], ["1999-12-31", "2000-01-01"]),
        (["backfill", "-s", "slack", "--since", "0001-01-01T00:00+14:00"], ["0001-01-01"]),
        (["backfill", "-s", "slack", "--since", "9999-01-01"], ["9999-01-01", "past"]),
        ([*BACKFILL, "-w", "nobody"], ["slack", "'nobody'", "connections list"]),
        (["backfill", "-s", "gong", "--since", "2026-01-31"], ["gong", "connections list"]),
        (["verify", "-s", "teams"], ["teams"]),
        (["verify", "-w", "nobody"], ["'nobody'", "connections list"]),
        (["verify", "--sample", "-1"], ["--sample"]),
        (["verify", "--days", "0"], ["--days"]),
    ],
    ids=lambda value: " ".join(value[:5]),
)
def test_a_mistake_is_one_line_that_names_it(syncd: Shell, words: list[str], names: list[str]) -> None:
    one_line(syncd(*words), *names)


def test_a_date_that_is_tomorrow_in_utc_but_past_by_its_zone_is_taken(syncd: Shell) -> None:
    """A moment without a zone is UTC; one with a zone is that moment."""
    soon = datetime.now(UTC) + timedelta(hours=2)
    one_line(syncd("backfill", "-s", "slack", "--since", soon.strftime("%Y-%m-%dT%H:%M")), "past")
    assert syncd("backfill", "-s", "slack", "--since", soon.strftime("%Y-%m-%dT%H:%M+14:00")).code == 0


def test_the_estimate_is_shown_and_nothing_is_read(syncd: Shell) -> None:
    typed = syncd(*BACKFILL, "--estimate", "-w", "acme")
    assert typed.code == 0
    assert re.search(r"slack +acme +- +about 1,240 messages in 12 channels +1,240 +2\.0 min", typed.out)
    assert "2026-01-31 00:00 UTC" in typed.out
    assert orjson.loads(syncd("status", "--json").out)["sources"]["slack"]["last_cycle"]["added"] == 4


def test_the_estimate_as_json_is_a_list_and_nothing_else(syncd: Shell) -> None:
    first, _ = orjson.loads(syncd(*BACKFILL, "--estimate", "--json").out)
    assert first == {
        "source": "slack",
        "workspace_id": "acme",
        "account": "",
        "connection_id": 1,
        "items": "about 1,240 messages in 12 channels",
        "calls": 1240,
        "draws": {"conversations.history": 60},
        "at_least_s": 120.0,
        "error": None,
    }


def test_a_backfill_tells_what_it_did(syncd: Shell) -> None:
    typed = syncd(*BACKFILL)
    assert typed.code == 0
    assert re.search(r"slack +beta +- +finished +1 +1 +0 +0 +0 +\d{4}-\d\d-\d\d", typed.out)
    assert '"event": "backfill.progress"' in typed.err


def test_a_backfill_as_json_is_a_list_and_nothing_else(syncd: Shell) -> None:
    typed = syncd(*BACKFILL, "-w", "beta", "--json")
    (done,) = orjson.loads(typed.out)
    assert done == {
        "source": "slack",
        "workspace_id": "beta",
        "account": "",
        "connection_id": 2,
        "status": "finished",
        "added": 1,
        "changed": 0,
        "deleted": 0,
        "records": 1,
        "calls": 0,
        "reached": done["reached"],
        "error": None,
    }
    assert datetime.fromisoformat(done["reached"]).tzinfo is not None


def test_a_connection_whose_backfill_failed_is_told_with_a_way_out(
    syncd: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts(monkeypatch, backfill=[beta_fails])
    typed = syncd(*BACKFILL)
    assert typed.code == 1
    assert "failed: 2 slack of beta: HTTP 500 - it may pass" in typed.out
    assert re.search(r"slack +acme +- +finished", typed.out)


def test_a_backfill_stopped_by_ctrl_c_says_that_it_goes_on(syncd: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    import signal

    def stop(name: str) -> None:
        if name == "0":
            signal.raise_signal(signal.SIGINT)

    scripts(monkeypatch, backfill=[older(*map(str, range(50)), before=stop)])  # more than are read until it is heard
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        typed = syncd(*BACKFILL, "-w", "acme")
    finally:
        signal.signal(signal.SIGINT, inherited)
    assert typed.code == 130
    assert "stopped: 0 of 1 connections finished; the same command goes on where it was" in typed.err
    rows = orjson.loads(syncd("connections", "list", "--json").out)
    assert {row["state"] for row in rows} == {"ok"}


def test_a_clean_store_is_told_as_clean(syncd: Shell) -> None:
    typed = syncd("verify")
    assert (typed.code, typed.err) == (0, "")
    assert "clean: 2 connections, 4 records checked" in typed.out


def test_differences_are_told_with_their_ids_and_a_way_out(syncd: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    there = Page(
        records=[message("2", "edited"), *(message(f"new{at:02}") for at in range(22))],
        deletions=[Deletion(Message, "1")],
        notes=["#gone is no longer visible"],
    )
    scripts(monkeypatch, audit=[pages(there)])
    typed = syncd("verify", "-w", "acme")
    assert typed.code == 1
    named = ", ".join(f"new{at:02}" for at in range(20))
    for line in (
        f"missing: 1 slack of acme: 22 messages: {named} and 2 more",
        "stale: 1 slack of acme: 1 message: 2",
        "extra: 1 slack of acme: 1 message: 1",
        "note: 1 slack of acme: #gone is no longer visible",
        "not clean: 1 of 1 connection: 22 missing, 1 stale, 1 extra; 23 records checked",
    ):
        assert line in typed.out.splitlines()
    assert "last sweep never" in typed.out
    assert "syncd run-once --source slack --workspace acme --sweep" in typed.out


def test_differences_as_json(syncd: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    scripts(monkeypatch, audit=[pages(Page(records=[message("2", "edited")]))])
    verdict = orjson.loads(syncd("verify", "--json").out)
    assert (verdict["clean"], verdict["checked"], len(verdict["connections"])) == (False, 2, 2)
    first = verdict["connections"][0]
    assert first["stale"] == {"count": 1, "by_kind": {"messages": 1}, "ids": [{"kind": "messages", "id": "2"}]}
    assert first["missing"] == {"count": 0, "by_kind": {}, "ids": []}
    assert first["last_success_at"] is not None


def test_what_could_not_be_compared_is_not_clean(syncd: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    scripts(monkeypatch, audit=[beta_fails])
    typed = syncd("verify")
    assert typed.code == 1
    assert "error: 2 slack of beta: HTTP 500 - it may pass" in typed.out
    assert "1 not compared to the end" in typed.out


def test_all_asks_for_no_sample(syncd: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int | None, timedelta]] = []

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        asked.append((since.sample, since.lookback))
        yield STORED

    scripts(monkeypatch, audit=[read])
    for words in ([], ["--sample", "7"], ["--all", "--days", "90"]):
        assert syncd("verify", "-w", "acme", *words).code == 0
    assert asked == [(50, timedelta(days=7)), (7, timedelta(days=7)), (None, timedelta(days=90))]
