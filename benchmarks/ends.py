"""From end to end: all four sources, the first sync and the idle cycle after it, on both databases."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from benchmarks.measure import Cost, Spread, ratio, shown
from benchmarks.subjects import syncd, told
from benchmarks.tables import Table
from benchmarks.vendors import vendors
from syncd.sources import SOURCES

if TYPE_CHECKING:
    from benchmarks.subjects import Setting

CYCLES = ("first sync", "second cycle, idle")


def table(setting: Setting) -> list[Table]:
    workspaces = 2 if setting.quick else 10
    costs = defaultdict[str, list[Cost]](list)
    with vendors(workspaces=workspaces) as vendor:
        lines = vendor.lines(*SOURCES)
        for _ in range(setting.rounds):
            for name, url in (("PostgreSQL", setting.server.url()), ("SQLite", setting.sqlite())):
                cost = syncd(setting, vendor, url, [list(SOURCES)] * 2, lines=lines, lookback="8d")
                costs[name].append(cost)
                told(f"all sources, {name}: {cost.cpu_s:.2f} s CPU")
    head = (
        "database",
        "cycle",
        "CPU ms a connection",
        "CPU, of SQLite's",
        "rows",
        "rows per CPU second",
        "calls",
        "peak MB",
    )
    made = Table("From end to end, all four sources", head)
    count = len(lines)
    for name, mine in costs.items():
        for at, cycle in enumerate(CYCLES):
            steps = [cost.told["steps"][at] for cost in mine]
            used = [step["cpu_s"] for step in steps]
            other = [cost.told["steps"][at]["cpu_s"] for cost in costs["SQLite"]]
            rows = steps[-1]["added"] + steps[-1]["changed"]
            made.rows.append(
                (
                    name, cycle, Spread(tuple(one * 1000 / count for one in used)), ratio(used, other), rows,
                    Spread(tuple(rows / one for one in used)) if rows else "", steps[-1]["calls"],
                    shown(max(step["peak_mb"] for step in steps)),
                )
            )  # fmt: skip
    server = Spread(tuple(cost.server_s for cost in costs["PostgreSQL"]))
    made.notes.append(
        f"{count} connections of {workspaces} workspaces, the sandbox's own data of a week, read 8 days back. "
        f"PostgreSQL used {server} s of its own for both cycles and the schema."
    )
    return [made]
