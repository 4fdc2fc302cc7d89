"""What a run is to read, and what it is doing."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from syncd.errors import LeaseLost
from syncd.store import Counts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime, timedelta

    from syncd.checkpoints import Checkpoints
    from syncd.http import Link
    from syncd.slots import Slot
    from syncd.source import Stream
    from syncd.store import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """What a run is to read: a cycle's window, a sweep, or older history.

    ``sweep_due_at``: since when the sweep is due; None = no sweep. ``back_to``: of a backfill, how far back; it leaves
    the connection's turn, failures and last success as they are. ``yields_at``: then it gives way at a page boundary.
    """

    streams: tuple[Stream, ...]
    sweep_due_at: datetime | None = None
    back_to: datetime | None = None
    yields_at: datetime | None = None

    @property
    def regular(self) -> bool:
        return self.back_to is None


@dataclass(slots=True)
class Live:
    """A run under way, for those who watch. ``reached``: how far back a backfill has read.

    ``parts``: of its pass, as `Page` tells them; ``whole``: the pass is done. ``owned_until_s``: until then, of the
    monotonic clock, which nobody steps, the lease is ours whatever others do. ``lost``: it is another's already.
    """

    connection: Connection
    started_at: datetime
    owned_until_s: float
    slot: Slot | None = None
    stream: str = ""
    records: int = 0
    counts: Counts = field(default_factory=Counts)
    link: Link | None = None
    checkpoints: Checkpoints | None = None
    reached: datetime | None = None
    parts: tuple[int, int] | None = None
    whole: bool = False
    lost: bool = False

    @property
    def calls(self) -> int:
        return self.link.calls if self.link else 0

    @property
    def did(self) -> dict[str, int]:
        """What it did so far, for a log line."""
        wrote = self.counts
        changes = {"added": wrote.added, "changed": wrote.changed, "deleted": wrote.deleted}
        return {"records": self.records, **changes, "calls": self.calls}

    def owned(self) -> None:
        """Raises `LeaseLost` once the lease may be another's: we were frozen, or could not renew it for so long."""
        if self.lost or time.monotonic() > self.owned_until_s:
            raise LeaseLost

    def renewed_lately(self, lease: timedelta) -> bool:
        """Whether less than a third of the lease is over."""
        return time.monotonic() < self.owned_until_s - lease.total_seconds() * 2 / 3

    @contextmanager
    def renewing(self, lease: timedelta) -> Iterator[None]:
        """Around what renews the lease in the database: once done, it is ours for so long from before that began."""
        began_s = time.monotonic()
        yield
        self.owned_until_s = began_s + lease.total_seconds()
