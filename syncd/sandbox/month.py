"""A month at the vendors: events that are due at moments after the sandbox was born, and the one who acts them out."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping
    from datetime import datetime, timedelta

    from syncd.sandbox.app import Sandbox


@dataclass(frozen=True, slots=True)
class Ref:
    """What the same vendor's event of that name answered, under ``member``."""

    name: str
    member: str


@dataclass(frozen=True, slots=True)
class Event:
    """An action of a vendor (`GET /control` lists them) at a moment after birth.

    ``name``: by which later events refer to what this one answered. ``body``: its members may be `Ref`.
    """

    at: timedelta
    vendor: str
    action: str
    body: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""

    def __str__(self) -> str:
        days, seconds = self.at.days, self.at.seconds
        told = ", ".join(f"{key}={value.name if isinstance(value, Ref) else value}" for key, value in self.body.items())
        named = f" ({self.name})" if self.name else ""
        return f"day {days} {seconds // 3600:02d}:{seconds // 60 % 60:02d} {self.vendor} {self.action} {told}{named}"


class Month:
    """Acts out the events in one workspace. It never moves the clock: who moves it, or lets it run, calls `play`."""

    def __init__(self, box: Sandbox, workspace: str, events: Iterable[Event]) -> None:
        self._box, self._workspace = box, workspace
        self._left = deque(sorted(events, key=lambda event: event.at))
        self._answers: dict[tuple[str, str], Mapping[str, Any]] = {}

    @property
    def next_at(self) -> datetime | None:
        """When the next event is due; None when all have been acted out."""
        return self._box.world.born + self._left[0].at if self._left else None

    def play(self, until: datetime) -> list[Event]:
        """Act out all that is due by then, in its order and at the clock's present time; answers what it was.

        Raises KeyError, ValueError when the vendor does not take an action.
        """
        played = []
        while self._left and self._box.world.born + self._left[0].at <= until:
            event = self._left.popleft()
            body = {key: self._meant(event.vendor, value) for key, value in event.body.items()}
            answer = self._box.vendors[event.vendor].act(self._workspace, event.action, body)
            if event.name:
                self._answers[event.vendor, event.name] = answer
            played.append(event)
        return played

    async def as_time_goes_by(self) -> AsyncIterator[Event]:
        """Act out each event when a running clock reaches it."""
        clock = self._box.world.clock
        while self.next_at is not None:
            await asyncio.sleep(clock.real_s(self.next_at))
            for event in self.play(clock.now()):
                yield event

    def _meant(self, vendor: str, value: Any) -> Any:
        if isinstance(value, Ref):
            return self._answers[vendor, value.name][value.member]
        return [self._meant(vendor, part) for part in value] if isinstance(value, list | tuple) else value
