"""All comparisons in one run: ``python -m benchmarks [--quick] [--only a,b] [--keep DIR]``.

Writes benchmarks/RESULTS.md and the plots beside it; with ``--quick`` or ``--only`` to standard output alone. What
``--quick`` measures is too little to trust. PostgreSQL is brought up by itself, the vendors are the sandbox in a
process of their own.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import calls, compare, ends, growth, page, shares, writes, yardstick
from benchmarks.measure import Failed, postgres
from benchmarks.subjects import Setting, told
from benchmarks.tables import Table
from syncd import logs

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
PARTS: dict[str, Callable[[Setting], list[Table]]] = {
    "yardstick": yardstick.table,
    "slack": compare.slack,
    "gong": compare.gong,
    "ends": ends.table,
    "writes": writes.table,
    "connections": growth.connections,
    "messages": growth.messages,
    "shares": shares.table,
    "calls": calls.table,
    "page": page.table,
}
LIBRARIES = ("sqlalchemy", "asyncpg", "aiosqlite", "aiohttp", "httpx", "slack-sdk", "orjson")


def asked(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="All comparisons in one run.")
    parser.add_argument("--quick", action="store_true", help="little data, one round: whether it all runs")
    parser.add_argument("--full", action="store_true", help="Slack with 20 workspaces, 190,000 messages")
    parser.add_argument("--long", action="store_true", help="also 10,000 connections and a million messages")
    parser.add_argument("--sizes", type=_numbers, default=(), help="of what grows instead, with commas: 100,10000")
    parser.add_argument("--rounds", type=int, help="of each comparison (5; with --quick 1)")
    parser.add_argument("--only", help=f"some of them, with commas between: {', '.join(PARTS)}")
    parser.add_argument("--to", type=Path, help="the file of the results (RESULTS.md; with --quick or --only none)")
    parser.add_argument("--keep", type=Path, help="where the others' environments are made, for the next time too")
    given = parser.parse_args(arguments)
    if unknown := set(given.only.split(",") if given.only else ()) - set(PARTS):
        parser.error(f"no such comparison: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    return given


def _numbers(text: str) -> list[int]:
    return [int(one) for one in text.split(",")]


def machine() -> str:
    """What it ran on, as far as figures depend on it."""
    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    memory = next((int(line.split()[1]) // 2**20 for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return (
        f"{os.cpu_count()} cores ({model}), {memory} GB, {platform.system()}, Python {platform.python_version()}, "
        f"{libraries}; {datetime.now(UTC):%Y-%m-%d}."
    )


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text().splitlines() if file.exists() else []


def main(given: argparse.Namespace) -> int:
    names = given.only.split(",") if given.only else list(PARTS)
    to = given.to or (None if given.quick or given.only else HERE / "RESULTS.md")
    began, tables, failed = time.monotonic(), list[Table](), 0
    with tempfile.TemporaryDirectory(prefix="syncd-bench-") as folder, postgres() as server:
        keep = (given.keep or Path(folder) / "keep").resolve()
        keep.mkdir(parents=True, exist_ok=True)
        rounds = given.rounds or (1 if given.quick else 5)
        setting = Setting(server, Path(folder), keep, rounds, given.quick, given.full, given.long, given.sizes)
        ran_on = f"On {machine()} PostgreSQL {server.ask('postgres', 'SHOW server_version')[0][0]}, fsync off."
        for name in names:
            told(name)
            try:
                found = PARTS[name](setting)
            except Failed as error:
                failed += 1
                told(f"{name} failed: {error}")
                continue
            tables += found
            if to is None:
                print("\n".join(table.markdown() for table in found), flush=True)
            else:  # what is there stays, should the next one be cut short
                minutes = f"{(time.monotonic() - began) / 60:.0f}"
                write(to, f"{ran_on} Rounds: {rounds}; minutes: {minutes}.", tables)
    return 1 if failed else 0


def write(to: Path, ran_on: str, tables: list[Table]) -> None:
    words = "\n".join(table.markdown() for table in tables)
    to.write_text(f"# Results\n\n{ran_on}\n\n{WHAT}\n\n{words}")
    for table in tables:
        table.write_plots(to.parent / "plots")


WHAT = (
    "Figures are CPU seconds, by getrusage, of the measured process with its children, and ratios of these within a "
    "round, in which one follows the other: how busy the machine is otherwise moves them little. Written are the "
    "median, and least and most of the rounds in brackets. Memory is resident memory at its peak, children included. "
    "The vendors are the sandbox in a process of its own with its limits off; PostgreSQL's own CPU is told apart."
)

if __name__ == "__main__":
    logs.set_up("error", "auto")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was brought up is taken down as well
    sys.exit(main(asked()))
