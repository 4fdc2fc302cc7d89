"""Slack: an app of the low limits reads its channels in turn, over several runs, and `status` tells how long that takes.

Limits, time limits and turns are the real ones; the clock that they all go by runs ahead whenever somebody waits.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from itertools import groupby, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import select

from syncd import runs, tables
from syncd.credentials import generate_key
from syncd.daemon import Parts, open_parts
from syncd.limits import Buckets
from syncd.report import slowed, status_report
from syncd.sandbox.app import Sandbox
from syncd.sandbox.slack import Install
from syncd.sandbox.world import Options, StandingClock, World
from syncd.settings import Settings
from syncd.store import Line


async def nothing() -> None:
    pass


class Restricted:
    """One connection of an app that Slack restricts.

    ``order``: the channels whose history was asked for; ``asked``: channel → when. ``meanwhile``: called at each wait.
    """

    def __init__(self, box: Sandbox, parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
        self.box, self.parts = box, parts
        self.asked: dict[str, list[datetime]] = defaultdict(list)
        self.order: list[str] = []
        self.meanwhile: Callable[[], Awaitable[Any]] = nothing
        answered = box.slack._conversations_history

        def noted(install: Install, args: dict[str, Any]) -> Any:
            if not args.get("cursor"):
                self.asked[args["channel"]].append(box.world.clock.now())
                self.order.append(args["channel"])
            return answered(install, args)

        monkeypatch.setattr(box.slack, "_conversations_history", noted)

    async def turn(self) -> dict[str, Any]:
        """The next turn's cycle; answers the connection's row of `status`, as it is after that."""
        clock, plan = self.box.world.clock, self.parts.engine.plans["slack"]
        at = plan.next_turn(clock.now())
        clock.advance(at - clock.now())
        await self.parts.engine.cycle("slack", trigger="schedule", turn=at)
        return (await self.report())["connections"][0]

    async def report(self) -> dict[str, Any]:
        return await status_report(self.parts.store, self.parts.engine.plans, self.parts.settings)

    async def rows(self, table: str) -> list[Any]:
        async with self.parts.store.database.read() as session:
            return list(await session.execute(select(tables.metadata.tables[table])))


NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
MakeRestricted = Callable[..., Awaitable[Restricted]]


@pytest.fixture
async def restricted(
    tmp_path: Path, empty_sqlite: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[MakeRestricted]:
    async with AsyncExitStack() as stack:

        async def make(
            channels: int,
            settings: Mapping[str, Any] | None = None,
            *,
            messages_per_day: int = 1,
            born: datetime | None = NOON,
            **mine: str,
        ) -> Restricted:
            """``born``: when it begins, None: now; by the hour a channel's messages fit into one page or do not."""
            options = Options(
                workspaces=1,
                days=1,
                channels=channels,
                messages_per_day=messages_per_day,
                switches={"slack.restricted": "on"},
            )
            world = World(options, StandingClock(born))
            box = await stack.enter_async_context(Sandbox(world.options, world=world))
            shutil.copy(empty_sqlite, tmp_path / "passes.db")
            configured = Settings(
                database={"url": f"sqlite+aiosqlite:///{tmp_path}/passes.db"},
                secret_keys=generate_key(),
                sources={
                    "slack": {
                        "base_url": f"{box.base}/slack/api/",
                        "app_kind": "restricted",
                        **mine,
                    }
                },
            )
            parts = await stack.enter_async_context(open_parts(configured, now=world.clock.now))

            async def passes_by(seconds: float) -> None:
                await app.meanwhile()
                world.clock.advance(timedelta(seconds=seconds))

            parts.engine.runs._buckets = Buckets(world.clock.monotonic, passes_by)
            monkeypatch.setattr(runs, "time", SimpleNamespace(monotonic=world.clock.monotonic))
            line = next(iter(box.slack.connections()))
            one = Line(workspace_id="acme", source="slack", credentials=line["credentials"], settings=settings or {})
            await parts.store.connections.put([one], parts.vault.seal)
            app = Restricted(box, parts, monkeypatch)
            return app

        yield make


def apart_s(app: Restricted) -> float:
    """The mean time between two readings of the same channel."""
    spans = [late - early for times in app.asked.values() for early, late in pairwise(times)]
    return sum(spans, timedelta()).total_seconds() / len(spans)


async def test_forty_channels_are_read_in_turn_and_the_estimate_is_true(restricted: MakeRestricted) -> None:
    app = await restricted(40, {"channels": [f"C{n:09d}" for n in range(40)]})
    told = [await app.turn() for _ in range(6)]
    read = [row["pass_read"] for row in told]
    assert read == pytest.approx([11, 22, 33, 0, 11, 22], abs=2)  # a call more or less fits into ten minutes
    assert read[3] == 0, "the pass is done"
    assert {(row["pass_parts"], row["pass_of"], row["state"]) for row in told} == {(40, "channels", "ok")}
    order = [one for one, _ in groupby(app.order)]  # who was asked as the time was up is the next run's first
    assert len(set(order[:40])) == 40
    assert order[40:] == order[: len(order) - 40]
    assert [row["pass_s"] for row in told[1:]] == pytest.approx([apart_s(app)] * 5, rel=0.2)
    # one run alone may have read a channel less than most will: then it tells of a turn more
    assert told[0]["pass_s"] - told[-1]["pass_s"] in {0, 15 * 60}
    assert app.box.world.breaches == []


async def test_status_tells_what_a_run_waits_for_while_it_waits(restricted: MakeRestricted) -> None:
    app, seen = await restricted(2, born=None), list[dict[str, Any]]()

    async def look() -> None:
        seen.append(await app.report())

    app.meanwhile = look
    after = await app.turn()
    (row,), source = seen[0]["connections"], seen[0]["sources"]["slack"]
    assert (row["state"], row["limited_by"], after["limited_by"]) == ("running", "conversations.history", None)
    until, now = datetime.fromisoformat(row["limited_until"]), app.asked[app.order[0]][0]
    assert timedelta(seconds=55) < until - now < timedelta(seconds=62)
    assert source["waiting"] == {"conversations.history": 1}
    (words,) = slowed(row)
    assert words.startswith(f"waits for conversations.history until {until:%H:%M:%S} UTC (in ")


async def test_what_comes_after_the_channels_is_read_once_a_pass_is_done(restricted: MakeRestricted) -> None:
    """Eleven fit into a run: without a pass that ends it would begin again with the oldest each time."""
    app = await restricted(7, sweep_every="15m")
    await app.turn()
    row = await app.turn()
    assert [one for one in await app.rows("cursors") if one.stream == "sweep"]
    assert row["last_success_at"] is not None


async def test_channels_that_refuse_do_not_keep_the_others_from_being_read(restricted: MakeRestricted) -> None:
    app = await restricted(24, {"channels": [f"C{n:09d}" for n in range(24)]})
    for n in range(12):
        app.box.slack.act("acme", "kick", {"channel": f"C{n:09d}"})
    told = [await app.turn() for _ in range(3)]
    assert set(app.asked) == {f"C{n:09d}" for n in range(24)}
    assert [row["pass_read"] for row in told] == [11, 22, 0]


async def test_a_closed_kind_of_channel_is_told_though_the_others_take_several_runs(
    restricted: MakeRestricted,
) -> None:
    app = await restricted(24)
    scopes = [one for one in app.box.slack._installs["acme"].scopes if one != "channels:history"]
    app.box.slack.act("acme", "scopes", {"scopes": scopes})
    await app.turn()
    assert len(app.order) == 11  # what is closed counts as well: the run ends at its time limit
    assert (await app.turn())["state"] == "misconfigured"


async def test_a_channel_that_was_cut_is_read_to_its_end_and_not_once_more_in_the_same_pass(
    restricted: MakeRestricted,
) -> None:
    channels = ["C000000000", "C000000001"]
    app = await restricted(2, {"channels": channels}, messages_per_day=60)
    born = app.box.world.born
    for _ in range(4):
        await app.turn()
    first, second = channels
    assert app.order == [first, first, second, second, first, second]
    held = {row.external_id for row in await app.rows("messages")}
    there_are = set(app.box.slack.truth("acme", born - timedelta(hours=23))["messages"])
    assert {one for one in there_are if one.partition(":")[0] in channels} <= held
