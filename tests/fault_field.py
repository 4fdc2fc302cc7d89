"""One vendor, a workspace for each fault at each of its calls, all in one cycle: how each run ends, and what is held."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, select

from syncd import tables
from syncd.credentials import generate_key
from syncd.daemon import Parts, open_parts
from syncd.sandbox.app import Sandbox
from syncd.sandbox.faults import Fault
from syncd.sandbox.world import Options, StandingClock, World
from syncd.settings import Settings
from syncd.store import Line
from tests.chaos.place import addresses
from tests.months.reading import BORN, KINDS, VOLATILE, compared

SIZES: Mapping[str, Mapping[str, int]] = {  # each listing has two pages, or little more
    "slack": {"channels": 1, "messages_per_day": 9, "page_size": 7},
    "gong": {"calls_per_day": 9, "page_size": 7},
    "fathom": {"meetings_per_day": 3, "page_size": 2},
    "gmail": {"mails_per_day": 4, "page_size": 3},
}
_LEAST = {"channels": 1, "messages_per_day": 1, "calls_per_day": 1, "meetings_per_day": 1, "mails_per_day": 1}
RIPE = timedelta(hours=6)  # when all that the vendors have is there, so that nothing changes between two cycles
LATER = timedelta(hours=2)  # by then all that was in the backlog is due


@dataclass(frozen=True, slots=True)
class Case:
    """A fault at a method of a vendor; of a token endpoint, ``renews``: the run begins with a token that is over."""

    kind: str
    method: str
    renews: bool = False
    seconds: float = 1.0
    times: int | None = None
    seed: int = 0


@dataclass(slots=True)
class Field:
    """``whose``: case → the workspace that it befalls. The other workspaces meet no fault."""

    vendor: str
    box: Sandbox
    parts: Parts
    whose: dict[Case, str]
    ends: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    told: dict[str, str] = field(default_factory=dict)

    @property
    def others(self) -> set[str]:
        return set(self.box.world.companies) - set(self.whose.values())

    async def cycle(self) -> None:
        await self.parts.engine.cycle(self.vendor, trigger="cli")
        runs, of = tables.runs, tables.connections
        query = (
            select(of.c.workspace_id, runs.c.status, runs.c.error_kind, runs.c.error)
            .join_from(runs, of, of.c.id == runs.c.connection_id)
            .order_by(runs.c.id)
        )
        async with self.parts.store.database.read() as session:
            rows = (await session.execute(query)).all()
        self.ends = {workspace: (status, kind) for workspace, status, kind, _ in rows}
        self.told = {workspace: error or "" for workspace, _, _, error in rows}

    def untold(self, expected: set[str]) -> dict[str, tuple[Case | None, str]]:
        """The workspaces whose run ended as it should not have: what befell them, and what was said."""
        of = {one: case for case, one in self.whose.items()}
        odd = {one for one, (status, _) in self.ends.items() if status != "succeeded"} ^ expected
        return {one: (of.get(one), self.told[one]) for one in odd}

    async def differences(self) -> list[str]:
        """What the store and the sandbox's record do not have in common, a line for each row."""
        held: dict[str, dict[str, dict[str, tuple[Any, bool]]]] = {}
        of, found = tables.connections, []
        async with self.parts.store.database.read() as session:
            for kind in KINDS:
                table = tables.metadata.tables[kind]
                query = select(of.c.workspace_id, table.c.external_id, table.c.raw, table.c.deleted_at.is_(None))
                for workspace, one, raw, live in await session.execute(
                    query.join_from(table, of, of.c.id == table.c.connection_id)
                ):
                    place = held.setdefault(workspace, {name: {} for name in KINDS})
                    place[kind][one] = (raw, bool(live))
        for workspace in self.box.world.companies:
            record = self.box.vendors[self.vendor].holdings(workspace)
            mine = held.get(workspace, {name: {} for name in KINDS})
            found += [f"{workspace}: {line}" for line in compared(record, mine, VOLATILE[self.vendor])]
        return found

    async def mended(self) -> None:
        """Nothing is wrong any more, and every wait is over: the vendors' and ours."""
        self.box.world.faults.rules.clear()
        self.box.world.clock.advance(LATER)
        self.parts.engine._buckets._buckets.clear()
        async with self.parts.store.database.write() as session:
            await session.execute(delete(tables.budgets))

    async def reconnect(self, lost: Iterable[str] = ()) -> None:
        """What a person does for connections that wait for one. ``lost``: those that will, as soon as they are tried."""
        async with self.parts.store.database.read() as session:
            of = tables.connections
            waiting = set((await session.execute(select(of.c.workspace_id).where(of.c.status != "ok"))).scalars())
        lines = [line for line in _lines(self.box, self.vendor, {}) if line.workspace_id in {*waiting, *lost}]
        await self.parts.store.connections.put(lines, self.parts.vault.seal)


@asynccontextmanager
async def fields(
    vendor: str, database_url: str, cases: Iterable[Case], *, others: int = 2, **settings: Any
) -> AsyncIterator[Field]:
    """A sandbox with its faults in force, and a connection to each of its workspaces that has not been read yet."""
    whose: dict[Case, int] = {}
    free = [1, 0]  # the next odd and the next even number: companies of odd number sign in by OAuth
    for case in cases:
        odd = case.renews or case.method.startswith("recordings")
        place = 0 if odd else 1
        whose[case] = free[place]
        free[place] += 2
    options = Options(workspaces=max(free) + others, days=1, limits=False, **{**_LEAST, **SIZES[vendor]})
    async with Sandbox(options, world=World(options, StandingClock(BORN))) as box:
        box.world.clock.advance(RIPE)
        names = list(box.world.companies)
        for case, at in whose.items():
            rule = Fault(case.kind, vendor, case.method, names[at], case.times, seconds=case.seconds, seed=case.seed)
            box.world.faults.rules.append(rule)
        configured = Settings(
            database={"url": database_url},
            secret_keys=generate_key(),
            sources={vendor: addresses(box)[vendor] | _unlimited(vendor) | {"lookback": "7d"} | settings},
        )
        async with open_parts(configured, now=box.world.clock.now) as parts:
            made = Field(vendor, box, parts, {case: names[at] for case, at in whose.items()})
            spent = {made.whose[case] for case in whose if case.renews}
            await parts.store.connections.put(_lines(box, vendor, spent), parts.vault.seal)
            yield made


def _unlimited(vendor: str) -> dict[str, Any]:
    limits = type(getattr(Settings().sources, vendor)).vendor_limits
    return {"patience": "0s", "concurrency": 8, "limits": dict.fromkeys(limits, "1000000/1s")}


def _lines(box: Sandbox, vendor: str, spent: Iterable[str]) -> list[Line]:
    lines = []
    for line in box.connections():
        if line["source"] != vendor:
            continue
        held: Mapping[str, Any] = line["credentials"]
        if line["workspace_id"] in spent and vendor == "slack":
            held = dict(box.slack.act(line["workspace_id"], "rotate", {}))
        if line["workspace_id"] in spent and "access_token" in held:
            held = {**held, "expires_at": "2020-01-01T00:00:00Z"}
        chosen = {key: line[key] for key in ("workspace_id", "account", "settings")}
        lines.append(Line(source=vendor, credentials=held, **chosen))
    return lines
