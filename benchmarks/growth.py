"""How the costs grow: with the number of connections, and with the messages of one."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from benchmarks.compare import QUIET
from benchmarks.measure import ROOT, Spread, shown
from benchmarks.subjects import _key, syncd, told
from benchmarks.tables import Curves, Table
from benchmarks.vendors import Talk, vendors
from syncd.sources import SOURCES

if TYPE_CHECKING:
    from benchmarks.subjects import Setting
    from benchmarks.vendors import Running

WORKSPACES = 20
PER_THREAD = 99


def connections(setting: Setting) -> list[Table]:
    """A quarter of each source; the second of two cycles, in which nothing is new."""
    counts = (20, 100) if setting.quick else (100, 1000, 10_000) if setting.long else (20, 100, 1000)
    head = (
        "connections", "CPU ms each, idle cycle", *SOURCES, "peak MB", "KB each beyond the first row",
        "loop late, p99 ms",
        "most ms", "/healthz, p99 ms", "unanswered",
    )  # fmt: skip
    table = Table("Growth with the number of connections", head)
    curve, first = dict[str, list[tuple[float, float]]](), (0, 0.0)
    with vendors(workspaces=WORKSPACES, channels=1, days=2, **(QUIET | {"calls_per_day": 1})) as vendor:
        lines = vendor.lines(*SOURCES)
        for count in counts:
            url = setting.server.url()
            done, health = _served(vendor, url, _many(lines, count))
            # without pages, for asking for them and watching the loop costs as well
            twice = [[name] for name in SOURCES] * 2  # the first time fills the caches of compiled statements
            steps = syncd(setting, vendor, url, twice).told["steps"][len(SOURCES) :]
            each = {name: step["cpu_s"] * 1000 / (count / 4) for name, step in zip(SOURCES, steps, strict=True)}
            mean, peak = statistics.mean(each.values()), done["steps"][-1]["peak_mb"]
            more = (peak - first[1]) * 1024 / (count - first[0]) if first[0] else 0.0
            first = first if first[0] else (count, peak)
            late = [max(step[key] for step in done["steps"]) for key in ("lag_p99_ms", "lag_most_ms")]
            asked = sorted(one for one in health if one is not None) or [0.0]
            table.rows.append(
                (
                    f"{count:,}", shown(mean), *map(shown, each.values()), shown(peak), shown(more), *map(shown, late),
                    shown(asked[int(len(asked) * 0.99)] * 1000), f"{health.count(None)} of {len(health)}",
                )
            )  # fmt: skip
            for name, value in (("CPU ms each", mean), ("peak MB", peak), ("loop late p99 ms", late[0])):
                curve.setdefault(name, []).append((count, value))
            told(f"{count} connections: {mean:.2f} ms each, {peak:.0f} MB")
    table.notes.append(
        f"A quarter of the connections to each source, {WORKSPACES} workspaces behind them; a Slack workspace has 2 "
        "conversations. PostgreSQL. Memory and lateness are of a process that serves its pages in the first cycle, in "
        "which all is new, and in an idle one: /healthz is asked every 50 ms, the loop's lateness is the worst of a "
        "source's cycle. CPU is of a later idle cycle, by a process that serves nothing."
    )
    table.plots.append(Curves("connections", "Growth with the number of connections", "connections", curve))
    return [table]


def _many(lines: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """So many connections, a quarter of each source, of the workspaces in turn."""
    by_source = defaultdict[str, list[dict[str, Any]]](list)
    for line in lines:
        by_source[line["source"]].append(line)
    return [
        {**mine[at % len(mine)], "workspace_id": f"w{at:05d}", "account": f"{at:05d}"}
        for mine in by_source.values()
        for at in range(count // 4)
    ]


def _served(vendor: Running, url: str, lines: list[dict[str, Any]]) -> tuple[dict[str, Any], list[float | None]]:
    """Two cycles of each source in a process that serves; seconds that each /healthz took, None = no good answer."""
    exports = vendor.ask("environment").decode().splitlines()
    environment = dict(line.removeprefix("export ").split("=", 1) for line in exports)
    spec = {"url": url, "key": _key(), "environment": environment, "lines": lines, "http": True}
    spec["steps"] = [[name] for name in SOURCES] * 2
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.syncd_run", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    assert process.stdin is not None and process.stdout is not None  # noqa: PT018 - asked for above
    process.stdin.write(json.dumps(spec).encode())
    process.stdin.close()
    health, ends = list[float | None](), threading.Event()
    watch = threading.Thread(target=_ask, args=(process.stdout.readline().decode().strip(), health, ends))
    watch.start()
    said = process.stdout.read()
    ends.set()
    watch.join()
    if process.wait():
        raise SystemExit("growth: the measured process did not end well")
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
    sizes = (100, 1000) if setting.quick else (100, 1000, 10_000, 100_000, 1_000_000)[: 5 if setting.long else 4]
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
