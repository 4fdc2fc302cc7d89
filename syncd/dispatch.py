"""A cycle under way, and who has its connections run: this process alone, or workers anywhere."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from syncd.plan import Plan


@dataclass(slots=True, eq=False)
class Asking:
    """A cycle that somebody asked for. ``begun``: set once it has claimed a connection, or ended without one.

    ``cycle_id``, ``run_id`` (of its first run): None until there is one. ``failed``: why it ended before that.
    """

    cycle_id: int | None = None
    run_id: int | None = None
    failed: str = ""
    begun: asyncio.Event = field(default_factory=asyncio.Event)

    def has_run(self, run_id: int) -> None:
        """Its first run has begun; later ones change nothing."""
        if self.run_id is None:
            self.run_id = run_id
            self.begun.set()


@dataclass(slots=True)
class Cycle:
    """A cycle under way. ``which``: what `Connections.claim` may take.

    ``probed``: it saw that the vendor is away. ``cut``: the database failed under one of its runs.
    """

    id: int
    plan: Plan
    which: Mapping[str, Any]
    sweep: bool
    probed: bool = False
    cut: bool = False
    asking: Asking | None = None


class Dispatch(Protocol):
    """Has the due connections of a cycle run."""

    async def run_due(self, cycle: Cycle, claimed: Callable[[], object]) -> bool:
        """Ends when all that is due has been run; answers whether that is so, False where others go on without us.

        ``claimed``: called when the cycle takes no more. Raises what the database raises when it cannot be reached.
        """
        ...
