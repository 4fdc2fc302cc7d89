"""What runs' ends set, as columns: what `runs_postgresql` and `runs_sqlite` store, each in its database's way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from syncd.errors import LeaseLost
from syncd.policy import INTERRUPTED, kind_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

# What the row of a run tells whose lease was no longer ours as it ended: nothing that went with its end was stored.
LOST: Mapping[str, Any] = {
    "status": INTERRUPTED,
    "error_kind": kind_of(LeaseLost()),
    "error": "the lease ran out and another daemon took over",
    "hint": None,
    "cursors": None,
}


class Told(NamedTuple):
    """A run's end: the columns that it sets of its connection, if ``held`` is its lease, and of the run, whose
    ``records`` are added to those that are told.

    Where it is not, the run's are told with what `LOST` has. ``moves``: rows of cursors, less whose they are; stored if
    the lease is ours.
    """

    its: int
    held: str
    run: int
    of_connection: Mapping[str, Any]
    of_run: Mapping[str, Any]
    moves: Sequence[Mapping[str, Any]]


def alike(told: Iterable[Told]) -> list[list[Told]]:
    """Those that set the same columns, together: a statement each."""
    found: dict[tuple[tuple[str, ...], ...], list[Told]] = {}
    for one in told:
        found.setdefault((tuple(one.of_connection), tuple(one.of_run)), []).append(one)
    return list(found.values())
