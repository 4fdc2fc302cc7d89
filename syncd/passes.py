"""How far a pass over a connection's parts has come, and how long one takes, where a run does not read them all.

Pure decisions on values, as in `policy`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from math import ceil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """``read`` of ``parts`` are read, ``spent_s`` after the pass began at ``since``; zero and None between two passes.

    ``spent_s``: from each run's start to the next one's, summed; a daemon that is down spends nothing. ``full``: what
    was read in ``full_runs`` runs that used up their time, in ``full_s`` of it: they tell what a run can read.
    ``takes_s``: how long a whole pass takes, ``measured`` or as it looks by now, None while nothing tells.
    """

    parts: int
    read: int = 0
    since: datetime | None = None
    spent_s: int = 0
    full: int = 0
    full_runs: int = 0
    full_s: int = 0
    takes_s: int | None = None
    measured: bool = False

    @classmethod
    def of(cls, held: Mapping[str, Any] | None) -> Pass | None:
        """From a connection's ``progress``."""
        if held is None:
            return None
        known = {name: held[name] for name in cls.__dataclass_fields__ if name in held}
        return cls(**known | {"since": known["since"] and datetime.fromisoformat(known["since"])})

    def json(self) -> dict[str, Any]:
        """For a connection's ``progress``."""
        known = {name: getattr(self, name) for name in type(self).__dataclass_fields__}
        return known | {"since": self.since and self.since.isoformat()}


def after_run(
    before: Pass | None,
    parts: tuple[int, int] | None,
    *,
    whole: bool,
    deferred: bool,
    timed_out: bool,
    began: datetime,
    again: datetime,
) -> Pass | None:
    """The pass after a run; None while one run reads all there is.

    ``parts``: as the run's last page told them, see `Page`. ``whole``: the run came to the end of the pass.
    ``deferred``: only a limit makes a pass long; a run that failed or was cut begins none. ``timed_out``: it used up
    its time. ``began``, ``again``: when this run began and when the next one will.
    """
    took_s = max(0, round((again - began) / timedelta(seconds=1)))
    if whole:
        return None if before is None or before.since is None else _ended(before, parts, before.spent_s + took_s)
    if before is None or before.since is None:
        if parts is None or not deferred:
            return before
        before = replace(before or Pass(parts=parts[1]), since=began)
    read, there_are = parts or (before.read, before.parts)
    now = replace(before, parts=there_are, read=read, spent_s=before.spent_s + took_s)
    if timed_out:
        full = before.full + max(0, read - before.read)
        now = replace(now, full=full, full_runs=before.full_runs + 1, full_s=before.full_s + took_s)
    if before.measured and now.spent_s < (before.takes_s or 0):
        return now
    looks = _looks(now)
    if looks is None and read and before.spent_s > took_s:  # the third that a limit cut short, so each may be
        looks = round((there_are + 1) / read * now.spent_s)
    return replace(now, takes_s=max(looks, now.spent_s) if looks else before.takes_s)


def _looks(now: Pass) -> int | None:
    """How long a pass takes by the runs that used up their time.

    One part more: the run that reads the last one has to come to its end as well.
    """
    return round(ceil((now.parts + 1) * now.full_runs / now.full) * now.full_s / now.full_runs) if now.full else None


def _ended(before: Pass, parts: tuple[int, int] | None, spent_s: int) -> Pass:
    """Between two passes. A pass whose runs were not all full ones tells less than the full ones do."""
    took_s = spent_s if before.full_s == before.spent_s else _looks(before) or spent_s
    # The mean with those before it: one quick pass does not speak for the next.
    takes_s = (before.takes_s + took_s) // 2 if before.measured and before.takes_s else took_s
    return Pass(parts=parts[1] if parts else before.parts, takes_s=takes_s, measured=True)


def progress_after(
    progress: Mapping[str, Any] | None, parts: tuple[int, int] | None, **run: Any
) -> dict[str, Any] | None:
    """As `after_run`, from a connection's ``progress`` to its next."""
    known = after_run(Pass.of(progress), parts, **run)
    return known.json() if known else None


def under_way_since(progress: Mapping[str, Any] | None, now: datetime) -> datetime | None:
    """When the pass began that a run goes on with; None when it begins one."""
    known = Pass.of(progress)
    return known.since if known and known.since and known.since <= now else None
