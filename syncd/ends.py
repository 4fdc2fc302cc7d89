"""What the log says of a run's end: one line. A failure is a warning while it is news, and its end is told once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
from sqlalchemy.exc import SQLAlchemyError

from syncd.errors import StoreFailed
from syncd.policy import DEFERRED, FAILED, SUCCEEDED, kind_of

if TYPE_CHECKING:
    from syncd.live import Live
    from syncd.store import Connection, Ended

log = structlog.get_logger(__name__)


def say_end(live: Live, ended: Ended, error: BaseException | None) -> None:
    """``live.connection``: as it was when the run claimed it."""
    connection, status = live.connection, ended.verdict.run_status
    failed = status == FAILED and is_news(connection, ended)
    say = log.warning if failed or isinstance(error, StoreFailed) else log.info
    why = {"kind": ended.error_kind, "error": ended.error, "hint": ended.hint} if error is not None else {}
    say("run.finished", status=status, **live.did, **why)
    if error is not None and kind_of(error) == "internal" and not isinstance(error, SQLAlchemyError | OSError):
        log.error("run.defect", exc_info=error)
    if recovers(connection, ended):
        since = connection.last_error_at and connection.last_error_at.isoformat()
        log.info("connection.recovered", kind=connection.last_error_kind, last_failed_at=since)


def is_news(connection: Connection, ended: Ended) -> bool:
    """Whether a failed run fails otherwise than the one before, or is the first since somebody changed something."""
    since, last = connection.status_since, connection.last_error_at
    same = ended.regular and connection.last_error_kind == ended.error_kind
    return not same or last is None or (since is not None and last < since)


def recovers(connection: Connection, ended: Ended) -> bool:
    """Whether this run is the first to end well since one failed."""
    well = ended.verdict.run_status == SUCCEEDED or (ended.verdict.run_status == DEFERRED and ended.cleared)
    return ended.regular and well and connection.last_error_kind is not None
