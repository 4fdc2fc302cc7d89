"""``python -m tests.chaos.table``: each fault at each vendor, as Markdown; exits 1 if a row is missing or doubled,
another workspace delayed, or a call made that a limit forbade.

Of two workspaces one meets the fault in two of its calls, in its first cycle: that is the outcome, and the time until it
ended. Then the fault is over and two turns later the database is compared with the sandbox's own record.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import structlog

from syncd import http
from syncd.daemon import Parts, open_parts
from syncd.sandbox.faults import KINDS
from syncd.settings import Settings
from syncd.sources import SOURCES
from syncd.store import Database
from tests.chaos.expected import EXPECTED
from tests.chaos.place import Place, place, tiny

TIMES = 2  # calls in a row that meet the fault
PATIENCE = "10s"
ATTEMPT_S = 2.0
SLACK_S = 2.0  # a run of another workspace that ends this much later than without the fault was delayed
SECONDS = {"hang": 60, "hang-body": 60, "drip": 0.2}  # others: 1, as of Retry-After
HEADERS = (
    "fault", "vendor", "outcome", "if it lasts", "retries", "time", "rows missing", "rows doubled", "other workspaces delayed"
)  # fmt: skip


@dataclass(slots=True)
class Told:
    """What the log said of the runs of one cycle: the one thing here that has real times."""

    retries: dict[str, int] = field(default_factory=dict)
    ended_s: dict[str, float] = field(default_factory=dict)
    began_s: float = field(default_factory=time.monotonic)

    def take(self, event: Mapping[str, Any]) -> None:
        workspace = str(event.get("workspace", ""))
        if event["event"] == "call.retried":
            self.retries[workspace] = self.retries.get(workspace, 0) + 1
        elif event["event"] == "run.finished":
            self.ended_s[workspace] = time.monotonic() - self.began_s


@dataclass(frozen=True, slots=True)
class Outcome:
    """One row of the table."""

    kind: str
    vendor: str
    outcome: str
    retries: int
    seconds: float
    missing: int
    doubled: int
    delayed: str
    breaches: list[str]

    def cells(self) -> Iterable[str]:
        numbers = (f"{self.seconds:.1f} s", str(self.missing), str(self.doubled), self.delayed)
        return (self.kind, self.vendor, self.outcome, lasting(self.kind, self.vendor), str(self.retries), *numbers)


def lasting(kind: str, vendor: str) -> str:
    """How a run ends that meets it at each try: the tests of the faults hold that."""
    known = EXPECTED.get(kind)
    return "-" if known is None else words(*known.at.get(vendor, known.end))


def words(status: str, error: str | None) -> str:
    return f"{status}: {error}" if error else status


_listening: dict[str, Told] = {}


def _keep(logger: Any, method: str, event: dict[str, Any]) -> dict[str, Any]:
    if (told := _listening.get(str(event.get("source")))) is not None:
        told.take(event)
    raise structlog.DropEvent


async def cycle(spot: Place, parts: Parts, source: str) -> Told:
    """A turn of one source; what was told of it."""
    told = _listening[source] = Told()
    await parts.engine.cycle(source, trigger="schedule", turn=spot.clock.now())
    return told


async def outcome(folder: Path, kind: str, source: str, usual: Told) -> Outcome:
    file = folder / f"{source}-{kind}.db"
    file.write_bytes((folder / "empty.db").read_bytes())
    async with place(f"sqlite+aiosqlite:///{file}", tiny(1), sources={"patience": PATIENCE}) as spot:
        hurt, other = spot.box.world.companies
        async with open_parts(Settings(**spot.settings), now=spot.clock.now) as parts:
            if kind:
                of = {"vendor": source, "workspace": hurt, "times": TIMES}
                spot.box.world.faults.add({"kind": kind, "seconds": SECONDS.get(kind, 1), **of})
            told = await cycle(spot, parts, source)
            query = """SELECT r.status, r.error_kind FROM runs r JOIN connections c ON c.id = r.connection_id
                WHERE c.workspace_id = :of ORDER BY r.id"""
            status, error = (await spot.rows(query, of=hurt))[0]
            spot.box.world.faults.rules.clear()
            await spot.reconnect()  # where the outcome waits for a person
            for passes in (timedelta(hours=25), timedelta(minutes=15)):
                spot.pass_time(passes)
                await cycle(spot, parts, source)
        if not kind:
            usual.ended_s, usual.retries = told.ended_s, told.retries
        found = await spot.differences([source])
        doubled = sum(": wrong " in line for line in found)  # a key cannot be there twice; a thing under two keys could
        late = told.ended_s.get(other, 1e9) - usual.ended_s[other]
        return Outcome(
            kind=kind,
            vendor=source,
            outcome=words(status, error),
            retries=told.retries.get(hurt, 0),
            seconds=told.ended_s[hurt],
            missing=len(found) - doubled,
            doubled=doubled,
            delayed="none" if late < SLACK_S else f"by {late:.1f} s",
            breaches=spot.breaches(),
        )


async def of_vendor(folder: Path, source: str, kinds: Iterable[str]) -> list[Outcome]:
    usual = Told()
    await outcome(folder, "", source, usual)
    rows = []
    for kind in kinds:
        row = await outcome(folder, kind, source, usual)
        again = row.delayed != "none"  # a busy machine delays too, but not twice
        rows.append(await outcome(folder, kind, source, usual) if again else row)
        sys.stderr.write("".join(f"{line}\n" for line in [" ".join(rows[-1].cells()), *rows[-1].breaches]))
    return rows


async def main(kinds: Iterable[str]) -> int:
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, _keep])
    http.ATTEMPT_S = ATTEMPT_S
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        empty = Database(f"sqlite+aiosqlite:///{folder}/empty.db")
        await empty.migrate()
        await empty.close()
        found = await asyncio.gather(*(of_vendor(folder, source, kinds) for source in SOURCES))
    rows = [row for of_one in found for row in of_one]
    rows.sort(key=lambda row: list(KINDS).index(row.kind))
    lines = [f"| {' | '.join(cells)} |" for cells in (HEADERS, ["---"] * len(HEADERS), *(row.cells() for row in rows))]
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if any(row.missing or row.doubled or row.delayed != "none" or row.breaches for row in rows) else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:] or list(KINDS))))
