"""Verdicts: values in, values out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from syncd.errors import (
    AuthError,
    CursorExpired,
    LeaseLost,
    Misconfigured,
    RateLimited,
    Rejected,
    SealError,
    StoreFailed,
    Transient,
)
from syncd.policy import Draining, RunTimedOut, Verdict, backlog_gap, judge, kind_of, retry_gap

NOW = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
TURN = NOW + timedelta(minutes=15)


def verdict(error: BaseException | None, failures: int = 2) -> Verdict:
    return judge(error, now=NOW, next_turn=TURN, failures=failures)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (None, Verdict("succeeded", "ok", TURN, 0)),
        (Transient("x"), Verdict("failed", "ok", NOW + timedelta(minutes=59), 3)),
        (Transient("x", retry_after_s=3539), Verdict("failed", "ok", NOW + timedelta(minutes=59), 3)),
        (
            Transient("x", retry_after_s=7200),
            Verdict("deferred", "ok", NOW + timedelta(hours=2), 2, limited_until=NOW + timedelta(hours=2)),
        ),
        (Rejected("x"), Verdict("failed", "ok", NOW + timedelta(minutes=59), 3)),
        (CursorExpired("x"), Verdict("failed", "ok", NOW + timedelta(minutes=59), 3)),
        (KeyError("x"), Verdict("failed", "ok", NOW + timedelta(minutes=59), 3)),
        (SealError("x"), Verdict("failed", "ok", TURN, 2)),
        (AuthError("x"), Verdict("failed", "needs_reauth", TURN, 3)),
        (Misconfigured("x"), Verdict("failed", "misconfigured", TURN, 3)),
        (
            RateLimited("x", retry_after_s=60),
            Verdict("deferred", "ok", NOW + timedelta(minutes=1), 2, limited_until=NOW + timedelta(minutes=1)),
        ),
        (RateLimited("x"), Verdict("deferred", "ok", TURN, 2)),
        (RunTimedOut(), Verdict("deferred", "ok", TURN, 0)),
        (Draining(), Verdict("interrupted", "ok", NOW, 2)),
        (LeaseLost(), Verdict("interrupted", "ok", NOW, 2)),
        (StoreFailed("x"), Verdict("interrupted", "ok", TURN, 2)),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, Verdict) else "",
)
def test_what_follows_from_what_happened(error: BaseException | None, expected: Verdict) -> None:
    assert verdict(error) == expected


def test_the_databases_failure_has_its_own_kind() -> None:
    assert kind_of(StoreFailed("database: locked")) == "database"


def test_retries_start_at_a_quarter_of_an_hour_and_double_to_six_hours() -> None:
    assert [retry_gap(failures) for failures in range(7)] == [
        timedelta(minutes=minutes) for minutes in (15, 30, 60, 120, 240, 360, 360)
    ]


def test_backlog_gaps_double_to_a_day() -> None:
    gaps = [backlog_gap(attempts) for attempts in range(1, 15)]
    assert gaps[:3] == [timedelta(minutes=10), timedelta(minutes=20), timedelta(minutes=40)]
    assert gaps[-1] == timedelta(days=1)
    assert gaps == sorted(gaps)


def test_many_failures_do_not_overflow() -> None:
    assert retry_gap(10**6) == timedelta(hours=6)
