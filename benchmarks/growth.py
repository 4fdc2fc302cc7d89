"""How the costs grow: with the number of connections, and with the messages of one."""

from __future__ import annotations

import json
import statistics
import subprocess
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.compare import QUIET
from benchmarks.measure import ROOT, Failed, Spread, shown
from benchmarks.subjects import MEASURED, syncd, syncd_spec, told
from benchmarks.syncd_run import TURN_S
from benchmarks.tables import Curves, Table
from benchmarks.vendors import Talk, vendors
from syncd.sources import SOURCES

if TYPE_CHECKING:
    from benchmarks.subjects import Setting
    from benchmarks.vendors import Running

PER_THREAD = 99
TWICE = [[name] for name in SOURCES] * 2
RIPE_S = 3 * 86_400  # after so long nobody waits for a transcript or a summary any more
SMALL = QUIET | {"channels": 1, "days": 2}


def connections(setting: Setting) -> list[Table]:
    """A quarter of each source; the second of two cycles, in which nothing is new."""
    counts = setting.sizes or ((10, 100) if setting.quick else (10, 100, 1000, 10_000)[: 4 if setting.long else 3])
    head = (
        "connections", "CPU ms each, idle cycle", *SOURCES, "PostgreSQL's", "peak MB", "KB each beyond the first row",
        "loop late, p99 ms", "busy itself", "most ms", "busy itself", "/healthz, p99 ms", "unanswered",
    )  # fmt: skip
    table = Table("Growth with the number of connections", head)
    curve = dict[str, list[tuple[float, float]]]()
    for database, fresh in (("PostgreSQL", setting.server.url), ("SQLite", setting.sqlite)):
        first = (0, 0.0)
        for count in counts:
            grown = _grown(setting, fresh(), count)
            more = (grown.peak_mb - first[1]) * 1024 / (count - first[0]) if first[0] else 0.0
            first = first if first[0] else (count, grown.peak_mb)
            row = (grown.mean_ms, *grown.each_ms.values(), grown.server_ms, grown.peak_mb, more, *grown.late_ms)
            asked = f"{grown.unanswered} of {grown.asked}"
            table.rows.append((f"{count:,}, {database}", *map(shown, row), shown(grown.health_ms), asked))
            for name, value in (
                (f"CPU ms each, {database}", grown.mean_ms),
                (f"peak MB, {database}", grown.peak_mb),
                (f"loop late p99 ms, {database}", grown.late_ms[1]),
            ):
                curve.setdefault(name, []).append((count, value))
            told(f"{table.rows[-1]}")
    table.notes.append(
        "A quarter of the connections to each source, each with a workspace of its own; a Slack workspace has 5 "
        "conversations, each a call. Memory and lateness are of a process that serves its pages in the first cycle, in "
        "which all is new, and in the next one: /healthz is asked every 50 ms, the loop's lateness is the worst of a "
        "source's cycle. Busy itself is how much of it the process was computing: beside others it is late without "
        "being so. CPU is of the fourth of four cycles, three days later, by a process that serves nothing: nothing is "
        "new and nothing is waited for. Of PostgreSQL's it is the mean of the four."
    )
    table.plots.append(Curves("connections", "Growth with the number of connections", "connections", curve))
    return [table]


@dataclass(frozen=True, slots=True)
class Grown:
    """What so many connections cost. ``late_ms``: p99 and what of it was syncd's own work, then the most alike."""

    each_ms: dict[str, float]
    server_ms: float
    peak_mb: float
    late_ms: tuple[float, ...]
    health_ms: float
    asked: int
    unanswered: int

    @property
    def mean_ms(self) -> float:
        return statistics.mean(self.each_ms.values())


def _grown(setting: Setting, url: str, count: int) -> Grown:
    shares = [len(range(at, count, len(SOURCES))) for at in range(len(SOURCES))]
    with vendors(workspaces=max(shares), **SMALL) as vendor:
        lines = [line for name, mine in zip(SOURCES, shares, strict=True) for line in vendor.lines(name)[:mine]]
        syncd(setting, vendor, url, [], lines=lines)  # a process of its own: what is measured never held all at once
        done, health = _served(vendor, url)
        vendor.ask("clock", {"advance_s": RIPE_S})
        # without pages, for asking for them and watching the loop costs as well
        cost = syncd(setting, vendor, url, TWICE * 2, turns=True, ahead_s=RIPE_S + 2 * TURN_S)
    steps = cost.told["steps"][-len(SOURCES) :]  # before that all that is late comes, and is swept for
    if [step["runs"] for step in steps] != shares:
        raise Failed(f"not all of {count} connections were run")
    asked = sorted(one for one in health if one is not None) or [0.0]
    kinds = ("lag_p99_ms", "busy_p99_ms", "lag_most_ms", "busy_most_ms")
    return Grown(
        each_ms={name: step["cpu_s"] * 1000 / mine for name, step, mine in zip(SOURCES, steps, shares, strict=True)},
        server_ms=cost.server_s * 1000 / count / 4,
        peak_mb=done["steps"][-1]["peak_mb"],
        late_ms=tuple(max(step[kind] for step in done["steps"]) for kind in kinds),
        health_ms=asked[int(len(asked) * 0.99)] * 1000,
        asked=len(health),
        unanswered=health.count(None),
    )


def _served(vendor: Running, url: str) -> tuple[dict[str, Any], list[float | None]]:
    """Two cycles of each source in a process that serves; seconds that each /healthz took, None = no good answer."""
    process = subprocess.Popen(MEASURED, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    assert process.stdin is not None and process.stdout is not None  # noqa: PT018 - asked for above
    process.stdin.write(syncd_spec(vendor, url, TWICE, turns=True, http=True))
    process.stdin.close()
    health, ends = list[float | None](), threading.Event()
    watch = threading.Thread(target=_ask, args=(process.stdout.readline().decode().strip(), health, ends))
    watch.start()
    said = process.stdout.read()
    ends.set()
    watch.join()
    if process.wait():
        raise Failed("the process that serves did not end well")
    return json.loads(said.splitlines()[-1]), health


def _ask(address: str, health: list[float | None], ends: threading.Event) -> None:
    while not ends.wait(0.05):
        began = time.monotonic()
        try:
            with urllib.request.urlopen(f"{address}/healthz", timeout=5) as answer:
                answer.read()
            health.append(time.monotonic() - began)
        except (urllib.error.URLError, OSError):
            if not ends.is_set():
                health.append(None)
    while health and health[-1] is None:
        health.pop()  # it was asked while it went


def messages(setting: Setting) -> list[Table]:
    """One connection, one conversation, threads of a hundred."""
    usual = (100, 1000) if setting.quick else (100, 1000, 10_000, 100_000, 1_000_000)[: 5 if setting.long else 4]
    sizes = setting.sizes or usual
    head = ("messages", "µs CPU each, PostgreSQL", "peak MB", "µs CPU each, SQLite", "peak MB", "calls")
    table, curve = Table("Growth with the messages of one connection", head), dict[str, list[tuple[float, float]]]()
    for size in sizes:
        talk = Talk(channels=1, threads=size // (PER_THREAD + 1), replies=PER_THREAD, singles=0, fresh=0)
        with vendors(talk, workspaces=1, channels=1, days=2, **QUIET) as vendor:
            row, calls = list[object](), 0
            for name, fresh in (("PostgreSQL", setting.server.url), ("SQLite", setting.sqlite)):
                done = []
                for _ in range(setting.rounds if size <= 1000 else 1):
                    url = fresh()
                    cost = syncd(setting, vendor, url, [["slack"]], lines=vendor.lines("slack"), lookback="30d")
                    done.append(cost.told["steps"][0])
                each = Spread(tuple(one["cpu_s"] * 1e6 / talk.messages for one in done))
                peak = max(one["peak_mb"] for one in done)
                row += [each, shown(peak)]
                calls = done[0]["calls"]
                curve.setdefault(f"µs each, {name}", []).append((size, each.median))
                curve.setdefault(f"peak MB, {name}", []).append((size, peak))
            table.rows.append((f"{size:,}", *row, calls))
            told(f"{size} messages: {row}")
    table.notes.append(
        "One conversation, threads of 100 messages. The peak holds the process itself, about 100 MB with its libraries."
    )
    table.plots.append(Curves("messages", "Growth with the messages of one connection", "messages", curve))
    return [table]
