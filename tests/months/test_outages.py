"""What changed while no sweep could be made is not missed by the next one, though it is older than its window by then."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from syncd.sandbox.month import Event, Month, Ref
from tests.months.reading import reading
from tests.queueing import DATABASES

CHANGES: Mapping[str, tuple[timedelta, Event, Event]] = {
    "slack": (
        timedelta(days=6, hours=22),
        Event(timedelta(), "slack", "post", {"text": "first words"}, "it"),
        Event(timedelta(), "slack", "edit", {"channel": Ref("it", "channel"), "ts": Ref("it", "ts"), "text": "other"}),
    ),
    "gong": (
        timedelta(days=13, hours=22),
        Event(timedelta(), "gong", "add", {"title": "First title"}, "it"),
        Event(timedelta(), "gong", "edit", {"id": Ref("it", "call"), "title": "Other title"}),
    ),
    "fathom": (
        timedelta(days=13, hours=22),
        Event(timedelta(), "fathom", "add", {"title": "First title"}, "it"),
        Event(timedelta(), "fathom", "edit", {"recording_id": Ref("it", "recording_id"), "title": "Other title"}),
    ),
}


def at(event: Event, moment: timedelta) -> Event:
    return Event(moment, event.vendor, event.action, event.body, event.name)


@pytest.mark.parametrize("source", list(CHANGES))
@pytest.mark.parametrize("database_url", DATABASES, indirect=True)
async def test_a_change_during_an_outage_arrives_with_the_first_sweep_after_it(source: str, database_url: str) -> None:
    age, made, changed = CHANGES[source]
    settings: dict[str, Any] = {"channels": ["C000000000"]} if source == "slack" else {}
    async with reading(source, database_url, settings=settings) as one:
        month = Month(one.box, one.workspace, [at(made, timedelta(hours=1)), at(changed, timedelta(hours=1) + age)])
        await one.live_through(month, age, timedelta(days=3))
        one.clock.advance(timedelta(days=5))
        month.play(one.clock.now())
        await one.cycle()
        assert await one.faults() == []
