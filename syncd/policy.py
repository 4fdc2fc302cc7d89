"""What follows from what happened: pure decisions on values. No clock, no I/O, no logging."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from syncd.errors import (
    AuthError,
    LeaseLost,
    Misconfigured,
    RateLimited,
    SealError,
    SourceError,
    StoreFailed,
    Transient,
)

if TYPE_CHECKING:
    from datetime import datetime

FIRST_RETRY = timedelta(minutes=15)
LONGEST_RETRY = timedelta(hours=6)
_AFTER_THE_TURN = timedelta(minutes=1)  # a run ends a little after its turn, and shall not miss the one a gap later
FIRST_BACKLOG_GAP = timedelta(minutes=10)
LONGEST_BACKLOG_GAP = timedelta(days=1)

OK, NEEDS_REAUTH, MISCONFIGURED = "ok", "needs_reauth", "misconfigured"
BACKFILL = "backfill"  # as a cycle's trigger
RUNNING, SUCCEEDED, DEFERRED, INTERRUPTED, FAILED = "running", "succeeded", "deferred", "interrupted", "failed"


class RunTimedOut(Exception):
    """A run reached its time limit: it ends at a page boundary and goes on in the next cycle."""


class Draining(Exception):
    """The daemon is stopping: the run ends at a page boundary."""


class GaveWay(Exception):
    """A backfill gave way to the connection's regular turn: it goes on after that."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a run's end means: for the run's row, and for the connection's status, next turn and count of failures.

    ``limited_until``: the vendor said later; until then nobody asks, not even by hand.
    """

    run_status: str
    connection_status: str
    next_sync_at: datetime
    failures: int
    limited_until: datetime | None = None


def judge(error: BaseException | None, *, now: datetime, next_turn: datetime, failures: int) -> Verdict:
    """The verdict on a run that ended with ``error`` (None: it read all there was).

    ``next_turn``: the source's next cron turn after ``now``. ``failures``: runs failed in a row before this one.
    """
    match error:
        case None:
            return Verdict(SUCCEEDED, OK, next_turn, 0)
        case Draining() | LeaseLost():
            return Verdict(INTERRUPTED, OK, now, failures)
        case StoreFailed():
            return Verdict(INTERRUPTED, OK, next_turn, failures)  # the operator's trouble as well
        case RunTimedOut() | GaveWay():
            return Verdict(DEFERRED, OK, next_turn, 0)
        case RateLimited(retry_after_s=None):
            return Verdict(DEFERRED, OK, next_turn, failures)
        case RateLimited(retry_after_s=float() | int() as seconds):
            until = now + timedelta(seconds=seconds)
            return Verdict(DEFERRED, OK, until, failures, limited_until=until)
        case SealError():
            return Verdict(FAILED, OK, next_turn, failures)  # the operator's trouble, not the connection's
        case AuthError():
            return Verdict(FAILED, NEEDS_REAUTH, next_turn, failures + 1)
        case Misconfigured():
            return Verdict(FAILED, MISCONFIGURED, next_turn, failures + 1)
        case _:
            again = now + retry_gap(failures) - _AFTER_THE_TURN
            if isinstance(error, Transient) and (until := now + timedelta(seconds=error.retry_after_s or 0)) > again:
                return Verdict(DEFERRED, OK, until, failures, limited_until=until)
            return Verdict(FAILED, OK, again, failures + 1)


def retry_gap(failures: int) -> timedelta:
    """How long a connection waits after its run failed: 15 min, doubling with each failure in a row, at most 6 h."""
    gap: timedelta = FIRST_RETRY * 2 ** min(failures, 10)
    return min(gap, LONGEST_RETRY)


def backlog_gap(attempts: int) -> timedelta:
    """How long a backlog item waits after its ``attempts``-th try: 10 min, doubling, at most a day."""
    gap: timedelta = FIRST_BACKLOG_GAP * 2 ** min(max(attempts - 1, 0), 12)
    return min(gap, LONGEST_BACKLOG_GAP)


def kind_of(error: BaseException) -> str:
    """The word for ``error`` in ``error_kind``; ``internal`` is a defect of ours."""
    match error:
        case SourceError():
            return error.kind
        case LeaseLost():
            return "lease_lost"
        case SealError():
            return "sealed"
        case StoreFailed():
            return "database"
        case RunTimedOut():
            return "run_timeout"
        case GaveWay():
            return "gave_way"
        case Draining():
            return "draining"
        case _:
            return "internal"
