"""`syncd doctor`: three questions, each answered with what was seen, the first cause, and the way out."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from sqlalchemy import insert, update

from syncd import tables
from syncd.cli.doctor import _facts, _object
from syncd.credentials import generate_key
from syncd.daemon import open_parts
from syncd.doctor import FAILURES, NO_DATA, NOT_RUNNING, Facts, Finding, Question, Turn, examine
from syncd.settings import Settings
from syncd.source import Page
from syncd.store import Line, Store
from syncd.store.health import Backlog
from syncd.web.server import Web
from tests.conftest import Clock
from tests.scripted import Bench, pages, source
from tests.test_cli import Shell, migrated, syncd  # noqa: F401 - fixtures

NOW = datetime.now(UTC)
TURN = NOW - timedelta(minutes=5)


def iso(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def row(at: int, **changes: Any) -> dict[str, Any]:
    """A connection as `status_report` tells it."""
    told: dict[str, Any] = dict.fromkeys(
        ("last_error", "last_error_kind", "last_error_at", "limited_until", "limited_by", "trouble")
    ) | dict.fromkeys(("pass_s", "pass_read", "pass_parts", "pass_of"))
    told |= {"id": at, "source": "slack", "workspace_id": f"w{at}", "account": "", "is_active": True, "state": "ok"}
    told |= {"status": "ok", "failures": 0, "freshness": "on_time", "backlog": 0}
    told |= {"last_success_at": iso(TURN), "status_since": iso(NOW - timedelta(hours=3)), "next_sync_at": iso(NOW)}
    return told | changes


def revoked(at: int, words: str = "token_revoked - install the app again") -> dict[str, Any]:
    told = {"last_error": words, "last_error_kind": "auth", "last_error_at": iso(TURN)}
    return row(at, state="needs_reauth", status="needs_reauth", trouble="needs_reauth", **told)


def facts(*rows: dict[str, Any], **changes: Any) -> Facts:
    """Of a daemon in good health whose connections these are."""
    cycle = {"status": "success", "started_at": iso(TURN), "failed_workspaces": 0, "successful_workspaces": len(rows)}
    troubles = [one["trouble"] for one in rows if one["trouble"]]
    slack = {
        "enabled": True,
        "next_turn": iso(NOW + timedelta(minutes=10)),
        "last_cycle": cycle | {"deferred_workspaces": 0},
        "connections": len(rows),
        "freshness": {"on_time": len(rows)},
        "troubles": {name: troubles.count(name) for name in troubles},
    }
    known: dict[str, Any] = {
        "now": NOW,
        "url": "http://127.0.0.1:8080",
        "checks": {"database": "ok", "scheduler": "ok"},
        "ready": True,
        "report": {"sources": {"slack": slack}, "connections": list(rows)},
        "turns": {"slack": Turn(due=TURN, taken=TURN)},
    }
    return Facts(**known | changes)


def answered(given: Facts) -> dict[str, Question]:
    return {one.question: one for one in examine(given)}


def cause(given: Facts, question: str) -> Finding:
    found = answered(given)[question].cause
    assert found is not None
    return found


def test_all_is_well_when_all_is_well() -> None:
    told = answered(facts(row(1), row(2)))
    assert list(told) == [NOT_RUNNING, NO_DATA, FAILURES]
    assert [one.cause for one in told.values()] == [None, None, None]
    assert all(one.findings for one in told.values())  # each with evidence


# ── not running? ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_daemon_that_does_not_answer_is_the_first_cause() -> None:
    late = {"slack": Turn(due=TURN, taken=TURN - timedelta(hours=1))}
    found = cause(facts(row(1), checks=None, turns=late), NOT_RUNNING)
    assert found.seen == "running: no daemon answers at http://127.0.0.1:8080"
    assert "syncd serve" in found.way_out


def test_a_daemon_elsewhere_is_thought_of() -> None:
    found = cause(facts(row(1), checks=None), NOT_RUNNING)
    assert "one runs elsewhere" in found.seen
    assert "--url" in found.way_out


def test_a_failing_check_is_named() -> None:
    found = cause(facts(row(1), checks={"database": "no answer within 2 s", "scheduler": "ok"}), NOT_RUNNING)
    assert "database: no answer within 2 s" in found.seen
    assert "database" in found.way_out


def test_a_database_that_cannot_be_used_ends_the_questions() -> None:
    told = examine(facts(database="the database has schema 0001: run `syncd migrate`", report={}, turns={}))
    assert [one.question for one in told] == [NOT_RUNNING]
    assert told[0].cause is not None
    assert "run `syncd migrate`" in told[0].cause.seen


def test_a_turn_that_nobody_took_is_told_with_since_when() -> None:
    taken = TURN - timedelta(hours=2)
    found = cause(facts(row(1), turns={"slack": Turn(due=TURN, taken=taken)}), NOT_RUNNING)
    assert found.seen.startswith(f"slack: no turn was taken since {taken:%Y-%m-%d %H:%M} UTC, one was due ")
    assert "cycle.failed" in found.way_out


def test_a_cycle_that_takes_too_long_is_the_reason_for_a_turn_not_taken() -> None:
    given = facts(row(1), turns={"slack": Turn(due=TURN, taken=TURN - timedelta(minutes=15))})
    given.report["sources"]["slack"]["last_cycle"]["status"] = "running"
    assert "sources.slack.concurrency" in cause(given, NOT_RUNNING).way_out


def test_a_turn_that_is_just_due_is_not_missed() -> None:
    turns = {"slack": Turn(due=NOW - timedelta(minutes=1), taken=None)}
    assert answered(facts(row(1), turns=turns))[NOT_RUNNING].cause is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"clock_off_s": 95.0}, "clock: this machine's is 2 min before the database's"),
        ({"clock_off_s": -95.0}, "clock: this machine's is 2 min behind the database's"),
        ({"free": 40 * 2**20}, "disk: 40 MB left where the database is"),
    ],
)
def test_the_machine_is_looked_at(change: dict[str, Any], words: str) -> None:
    assert cause(facts(row(1), **change), NOT_RUNNING).seen == words


# ── no data? ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_without_a_connection_the_way_out_is_to_connect_one() -> None:
    assert "syncd connect SOURCE" in cause(facts(), NO_DATA).way_out
    assert "resume" in cause(facts(row(1, is_active=False, state="paused", freshness=None)), NO_DATA).way_out


def test_a_connection_that_is_new_is_no_trouble_but_none_that_was_read_is() -> None:
    fresh = row(2, state="new", last_success_at=None)
    assert answered(facts(row(1), fresh))[NO_DATA].cause is None
    assert "run-once" in cause(facts(fresh), NO_DATA).way_out


def test_what_is_overdue_because_nothing_runs_points_at_that() -> None:
    late = row(1, freshness="overdue", trouble="overdue", last_success_at=iso(NOW - timedelta(hours=3)))
    found = cause(facts(late, checks=None), NO_DATA)
    assert found.seen.startswith("overdue: Slack: 1 connection is overdue, since 3 h ago")
    assert found.way_out.startswith("see above: start it with `syncd serve`")
    assert "syncd run-once --source slack" in cause(facts(late), NO_DATA).way_out


def test_a_limit_is_told_and_is_no_trouble() -> None:
    waits = {"limited_until": iso(NOW + timedelta(minutes=9)), "limited_by": "heavy"}
    told = answered(facts(row(1, state="limited", **waits)))[NO_DATA]
    assert told.cause is None
    assert any("heavy" in one.seen and one.seen.startswith("limited: Slack") for one in told.findings)


def test_the_backlog_and_the_limits_regime_are_evidence() -> None:
    waiting = {"slack": Backlog(8, NOW - timedelta(hours=3))}
    told = answered(facts(row(1), backlogs=waiting, regimes=["slack: 1 restricted app"]))[NO_DATA]
    seen = [one.seen for one in told.findings]
    assert "backlog: slack: 8 not ready or not readable yet, the oldest for 3 h" in seen
    assert "limits: slack: 1 restricted app" in seen


# ── many failures? ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_many_that_fail_for_one_cause_are_one_finding() -> None:
    told = answered(facts(row(1), *(revoked(at) for at in range(2, 27)), revoked(30, "account_inactive")))[FAILURES]
    wrong = [one for one in told.findings if not one.well]
    assert sorted(one.count for one in wrong) == [1, 25]
    many = next(one for one in wrong if one.count == 25)
    assert "token_revoked" in many.seen
    assert "since 3 h ago" in many.seen
    assert [one["id"] for one in many.who] == [2, 3, 4, 5, 6]
    assert "syncd connect-link" in many.way_out


def test_a_vendor_that_is_away_is_told_first_and_once() -> None:
    words = {"last_error": "calls: HTTP 503", "last_error_kind": "transient", "failures": 1}
    away = [row(at, state="failing", trouble="failing", **words) for at in range(1, 11)]
    told = answered(facts(*away, revoked(30)))[FAILURES]
    wrong = [one for one in told.findings if not one.well]
    assert wrong[0].seen.startswith("away: Slack does not answer: 10 connections fail")
    assert len(wrong) == 2


def test_a_secret_that_no_key_opens_is_told() -> None:
    assert cause(facts(row(1), keys="connection 1 was sealed with another key"), FAILURES).seen.startswith("keys: ")


# ── of the real thing ───────────────────────────────────────────────────────────────────────────────────────────────


def typed_json(shell: Shell, *words: str) -> tuple[int, dict[str, Any]]:
    typed = shell("doctor", "--json", *words)
    return typed.code, orjson.loads(typed.out)


def test_its_json_has_the_documented_shape(migrated: Shell) -> None:  # noqa: F811
    code, told = typed_json(migrated, "--url", "http://127.0.0.1:1")
    assert code == 1
    assert set(told) == {"well", "timestamp", "cause", "way_out", "questions"}
    assert told["well"] is False
    assert told["cause"] == told["questions"][0]["cause"] == "running: no daemon answers at http://127.0.0.1:1"
    assert [one["question"] for one in told["questions"]] == [NOT_RUNNING, NO_DATA, FAILURES]
    for one in told["questions"]:
        assert set(one) == {"question", "well", "evidence", "cause", "way_out", "findings"}
        assert one["evidence"] == [finding["seen"] for finding in one["findings"]]


def test_a_database_without_a_schema_is_named_with_its_way_out(syncd: Shell) -> None:  # noqa: F811
    code, told = typed_json(syncd, "--url", "http://127.0.0.1:1")
    assert code == 1
    assert "run `syncd migrate`" in told["questions"][0]["evidence"][1]
    assert len(told["questions"]) == 1


async def test_runs_of_a_dead_process_are_counted_and_living_ones_are_not(store: Store, clock: Clock) -> None:
    bench = Bench(store, source(pages(Page())), clock)
    await bench.connect("acme", "globex")
    for at in (1, 2):
        await store.connections.hold(at, "mine")
        async with store.database.write() as session:
            values = {"cycle_id": 1, "connection_id": at, "status": "running", "started_at": clock()}
            await session.execute(insert(tables.runs).values(**values))
    assert await store.health.dead_runs() == 0
    clock.advance(minutes=6)
    assert await store.health.dead_runs() == 2


async def test_only_a_server_has_a_clock_of_its_own(store: Store, clock: Clock) -> None:
    off = await store.health.clock_off_s()
    assert (
        off is None
        if store.database.is_sqlite
        else off == pytest.approx((clock() - datetime.now(UTC)).total_seconds(), abs=60)
    )


async def test_a_hundred_connections_are_the_same_story_to_doctor_status_and_metrics(database_url: str) -> None:
    """One revoked, one overdue, one limited, one vendor away; and each finding links to the page where it answers."""
    from apscheduler.schedulers.asyncio import AsyncIOScheduler

    settings = Settings(database={"url": database_url}, secret_keys=generate_key(), http={"port": 0})
    names = ("slack", "gong", "fathom", "gmail")
    async with open_parts(settings) as parts:
        lines = [Line(workspace_id=f"w{at}", source=names[at % 4], credentials={"token": "t"}) for at in range(100)]
        await parts.store.connections.put(lines, parts.vault.seal)
        await _trouble(parts.store)
        web = Web(parts, AsyncIOScheduler())
        try:
            base = await web.start()
            told = _object(seen := await _facts(settings, base), examine(seen))
            metrics = (await parts.metrics.scrape()).decode()
        finally:
            await web.stop()
    wrong = {
        found["seen"].split(":")[0]: (found["count"], found["connections"][0])
        for question in told["questions"][1:]
        for found in question["findings"]
        if not found["well"]
    }
    assert {what: count for what, (count, _) in wrong.items()} == {"overdue": 1, "needs reauth": 1, "away": 25}
    assert wrong["needs reauth"][1]["page"] == f"{base}/connections/{wrong['needs reauth'][1]['id']}"
    for source_name, trouble, count in (
        ("slack", "needs_reauth", 1),
        ("slack", "overdue", 1),
        ("fathom", "failing", 25),
    ):
        assert f'syncd_connections_trouble{{source="{source_name}",trouble="{trouble}"}} {count:.1f}' in metrics
        assert seen.report["sources"][source_name]["troubles"][trouble] == count
    assert 'syncd_connections_waiting{limit="day",source="gong"} 1.0' in metrics


async def _trouble(store: Store) -> None:
    now, of = datetime.now(UTC), tables.connections.c
    ago = now - timedelta(hours=3)
    words = {"status_since": ago, "last_error_at": now, "failures": 1}
    changes: list[tuple[Any, dict[str, Any]]] = [
        (of.id > 0, {"last_success_at": now, "created_at": ago, "status_since": ago}),
        (of.id == 1, words | {"status": "needs_reauth", "last_error": "token_revoked", "last_error_kind": "auth"}),
        (of.id == 2, {"limited_until": now + timedelta(minutes=9), "limited_by": "day"}),
        (of.id == 5, {"last_success_at": ago}),
        (of.source == "fathom", words | {"last_error": "meetings: HTTP 503", "last_error_kind": "transient"}),
    ]
    async with store.database.write() as session:
        for which, values in changes:
            await session.execute(update(tables.connections).where(which).values(**values))


def test_a_finding_says_for_whom_and_where(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from syncd.cli.doctor import _show

    given = facts(row(1), *(revoked(at) for at in range(2, 9)))
    _show(given, answered(given)[FAILURES])
    _show(replace(given, checks=None), answered(given)[FAILURES])
    shown = capsys.readouterr().out
    assert "of w2 (http://127.0.0.1:8080/connections/2), w3 (" in shown
    assert " and 2 more" in shown
    assert "of w2 (2), w3 (3)" in shown
