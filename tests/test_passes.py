"""How long a pass takes is estimated from its first run on, and measured when it is done."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from syncd.passes import Pass, after_run, under_way_since

START = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
GAP = timedelta(minutes=15)


def gone_on(runs: int, per_run: int, parts: int, known: Pass | None = None, begins: datetime = START) -> Pass:
    """After so many runs, a gap apart, each of which reads so many parts; one with time left comes to the end."""
    for run in range(runs):
        before = known.read if known else 0
        read, whole = min(before + per_run, parts), before + per_run > parts
        told = (read, parts) if read > before else None
        known = ran(known, told, begins + run * GAP, whole=whole, deferred=not whole, timed_out=not whole)
    assert known is not None
    return known


def ran(before: Pass | None, parts: tuple[int, int] | None, began: datetime = START, **how: bool) -> Pass | None:
    """After a run that failed, where ``how`` says nothing else."""
    ended = {"whole": False, "deferred": False, "timed_out": False} | how
    return after_run(before, parts, **ended, began=began, again=began + GAP)


def takes(known: Pass | None) -> timedelta:
    assert known is not None
    assert known.takes_s is not None
    return timedelta(seconds=known.takes_s)


@pytest.mark.parametrize(
    ("parts", "per_run", "runs"), [(40, 11, 4), (40, 10, 5), (40, 7, 6), (12, 11, 2), (400, 9, 45)]
)
def test_the_first_run_of_a_pass_tells_how_long_it_will_take(parts: int, per_run: int, runs: int) -> None:
    last = gone_on(runs, per_run, parts)
    assert (last.read, last.since, last.parts) == (0, None, parts)
    assert takes(gone_on(1, per_run, parts)) == takes(last) == runs * GAP


def test_a_pass_under_way_counts_what_is_read_and_remembers_when_it_began() -> None:
    known = gone_on(2, 11, 40)
    assert (known.read, known.parts, known.full_runs, known.since) == (22, 40, 2, START)
    assert Pass.of(known.json()) == known
    assert Pass.of(None) is None
    assert Pass.of(known.json() | {"a": "newer daemon's"}) == known
    assert under_way_since(known.json(), START) == START


def test_a_pass_that_began_in_the_future_is_of_a_clock_that_was_wrong() -> None:
    assert under_way_since(gone_on(2, 11, 40).json(), START - timedelta(seconds=1)) is None


def test_no_pass_is_told_of_where_one_run_reads_all() -> None:
    assert ran(None, (40, 40), whole=True) is None
    assert ran(gone_on(4, 11, 40), (40, 40), whole=True) is None  # the limit is up again


@pytest.mark.parametrize("parts", [None, (3, 40)])
def test_a_run_that_failed_or_was_cut_begins_no_pass(parts: tuple[int, int] | None) -> None:
    assert ran(None, parts) is None


def test_a_failed_run_of_a_pass_keeps_the_estimate_and_what_was_read() -> None:
    known = gone_on(1, 10, 40)
    failed = ran(known, (13, 40))
    assert failed is not None
    assert failed.read == 13
    assert takes(failed) == takes(known)


def test_a_run_that_a_refusal_cut_short_does_not_tell_what_a_run_can_read() -> None:
    """The first of an app whose limit is lowered then."""
    cut = ran(ran(None, (1, 40), deferred=True), (2, 40), deferred=True)
    assert cut is not None
    assert cut.takes_s is None
    later = gone_on(1, 11, 40, cut, START + 2 * GAP)
    assert takes(later) == 4 * GAP
    done = gone_on(3, 11, 40, later, START + 3 * GAP)
    assert done.since is None
    assert takes(done) == 4 * GAP


def test_where_a_limit_cuts_each_run_short_they_tell_together() -> None:
    known: Pass | None = None
    for read in (1, 2, 3):
        known = ran(known, (read, 40), deferred=True)
    assert takes(known) == 41 * GAP


def test_a_run_that_a_limit_keeps_from_reading_makes_the_pass_longer() -> None:
    known = gone_on(1, 20, 40)
    kept = ran(known, None, deferred=True, timed_out=True)
    assert kept is not None
    assert kept.read == 20
    assert takes(kept) > takes(known)


def test_the_estimate_follows_a_limit_that_was_lowered() -> None:
    known = gone_on(4, 11, 40)
    for times in range(4):
        known = gone_on(11, 4, 40, known, START + times * 11 * GAP)
    assert takes(known) / (11 * GAP) == pytest.approx(1, abs=0.05)


def test_a_daemon_that_was_down_within_a_pass_makes_it_no_longer() -> None:
    known = gone_on(2, 11, 40)
    assert takes(gone_on(2, 11, 40, known, START + timedelta(days=7))) == 4 * GAP


def test_a_pass_that_was_measured_is_not_taken_for_longer_before_it_is() -> None:
    known = gone_on(1, 5, 40, gone_on(4, 11, 40))
    assert takes(known) == 4 * GAP
    assert takes(gone_on(4, 5, 40, known)) > 4 * GAP


def test_a_pass_that_was_shorter_for_once_halves_the_difference() -> None:
    assert takes(gone_on(4, 11, 40, gone_on(11, 4, 40))) == (11 + 4) / 2 * GAP


def test_a_pass_is_never_told_to_take_less_than_it_took_already() -> None:
    known: Pass | None = gone_on(1, 20, 40)
    for _ in range(5):
        known = ran(known, None)
    assert takes(ran(known, (30, 40), deferred=True, timed_out=True)) == 7 * GAP
