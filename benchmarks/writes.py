"""The write path by itself: pages of 1,000 messages that are new, unchanged, and one in twenty changed.

``python -m benchmarks.writes SPEC`` is the measured process; `table` runs it on both databases. What stands beside it
on PostgreSQL is the floor: COPY of the same rows into an empty table of the same columns.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import orjson

from benchmarks.measure import Spread, cpu_s, peak_mb, python, ratio, run, shown
from benchmarks.subjects import told
from benchmarks.tables import Bars, Table
from syncd import logs
from syncd.credentials import generate_key
from syncd.daemon import open_parts
from syncd.sandbox.dataset.slack import rich_text
from syncd.settings import Settings
from syncd.source import Page
from syncd.sources.slack_records import message
from syncd.store import Line

if TYPE_CHECKING:
    from benchmarks.subjects import Setting
    from syncd.records import Message

BEGAN = datetime(2026, 1, 5, tzinfo=UTC)
STEPS = ("new", "unchanged", "5 % changed")
CHANGED_EVERY = 20
COLUMNS = ("connection_id", "external_id", "conversation_id", "thread_id", "author_id", "sent_at", "text", "raw")
FLOOR = """CREATE TABLE floor (connection_id int, external_id text, conversation_id text, thread_id text,
  author_id text, sent_at timestamptz, text text, raw jsonb, PRIMARY KEY (connection_id, external_id))"""


def page(number: int, rows: int, changed: int = 0) -> list[Message]:
    """Messages of about 600 bytes of JSON. ``changed``: every so-manieth says something else."""
    found = []
    for row in range(number * rows, (number + 1) * rows):
        at = BEGAN + timedelta(seconds=row)
        words = f"message {row}: the export ran at night and the numbers in it are the right ones this time, see below"
        words += " (edited)" if changed and row % changed == 0 else ""
        raw = {
            "type": "message",
            "user": f"U{row % 40:08d}",
            "text": words,
            "team": "T0001",
            "ts": f"{at.timestamp():.6f}",
        }
        raw |= {"blocks": [rich_text(words)], "client_msg_id": f"{row:032d}", "reactions": []}
        found.append(message("C00000001", raw))
    return found


async def main(spec: dict[str, Any]) -> dict[str, Any]:
    """``url``, ``pages``, ``rows``: of a page."""
    settings = Settings(database={"url": spec["url"]}, secret_keys=generate_key())
    watch = None
    if spec["url"].startswith("postgresql"):
        watch = await asyncpg.connect(spec["url"].replace("+asyncpg", ""))
    steps = dict[str, dict[str, float]]()
    async with open_parts(settings, migrate=True) as parts:
        await parts.store.connections.put(
            [Line(workspace_id="acme", source="slack", credentials={"token": "xoxb-0"})], parts.vault.seal
        )
        connection = (await parts.store.connections.all())[0].id
        await parts.store.connections.hold(connection, "bench")
        for name in STEPS:
            pages = [page(at, spec["rows"], CHANGED_EVERY if "%" in name else 0) for at in range(spec["pages"])]
            wal, used_s = await _wal(watch), cpu_s()
            for records in pages:
                await parts.store.pages.checkpoint(
                    [("messages", Page(records=records))], connection_id=connection, lease="bench", run_id=0,
                    records=len(records), calls=1,
                )  # fmt: skip
            steps[name] = {"cpu_s": cpu_s() - used_s, "wal_mb": (await _wal(watch) - wal) / 2**20}
    stored = None
    if watch is not None:
        steps["floor"] = await _floor(watch, spec)
        same = "SELECT count(*) FROM messages JOIN floor USING (connection_id, external_id, conversation_id, sent_at)"
        stored = await watch.fetchval(same + " WHERE messages.raw - 'text' - 'blocks' = floor.raw - 'text' - 'blocks'")
        await watch.close()
    return {"steps": steps, "peak_mb": peak_mb(), "same": stored}


async def _wal(watch: asyncpg.Connection | None) -> float:
    """How many bytes PostgreSQL ever wrote to its log."""
    return float(await watch.fetchval("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn")) if watch else 0.0


async def _floor(watch: asyncpg.Connection, spec: dict[str, Any]) -> dict[str, float]:
    await watch.execute(FLOOR)
    pages = [page(at, spec["rows"]) for at in range(spec["pages"])]
    wal, used_s = await _wal(watch), cpu_s()
    for records in pages:
        rows = [
            (
                1,
                one.external_id,
                one.conversation_id,
                one.thread_id,
                one.author_id,
                one.sent_at,
                one.text,
                _text(one.raw),
            )
            for one in records
        ]
        await watch.copy_records_to_table("floor", records=rows, columns=COLUMNS)
    return {"cpu_s": cpu_s() - used_s, "wal_mb": (await _wal(watch) - wal) / 2**20}


def _text(raw: Any) -> str:
    return orjson.dumps(raw).decode()


def table(setting: Setting) -> list[Table]:
    sizes = {1000: 3, 10: 100} if setting.quick else {1000: 30, 10: 600}  # messages of a page: pages
    found = defaultdict[tuple[str, int, str], list[dict[str, float]]](list)
    for at in range(setting.rounds):
        for size, pages in sizes.items():
            for name, url in (("PostgreSQL", setting.server.url()), ("SQLite", setting.sqlite())):
                spec = {"url": url, "pages": pages, "rows": size}
                cost = run(python("benchmarks.writes", spec), server=setting.server)
                for step, figures in cost.told["steps"].items():
                    found[name, size, step].append(figures)
                told(f"writes {at + 1}: {name}, pages of {size}: {cost.cpu_s:.2f} s CPU")
    head = (
        "database",
        "a page's messages",
        "which are",
        "rows per CPU second",
        "times the CPU of COPY",
        "WAL, bytes a row",
    )
    made, bars = Table("The write path by itself", head), []
    for (name, size, step), figures in found.items():
        used, floor = (
            [one["cpu_s"] for one in found[of]] for of in ((name, size, step), ("PostgreSQL", size, "floor"))
        )
        total = sizes[size] * size
        rate = Spread(tuple(total / one for one in used))
        wal = Spread(tuple(one["wal_mb"] * 2**20 / total for one in figures))
        label = "by COPY, nothing else" if step == "floor" else step
        bytes_a_row = shown(wal.median) if name == "PostgreSQL" else ""
        made.rows.append((name, f"{size:,}", label, rate, ratio(used, floor), bytes_a_row))
        bars.append((f"{name}, pages of {size:,}: {label}", rate.median))
    much = " and ".join(f"{pages} pages of {size:,}" for size, pages in sizes.items())
    made.notes.append(
        f"{much} messages, about 600 bytes of JSON each; CPU of the client alone, the records are made before. The "
        "write path is mapping to rows, digests, a look at what is stored, the write, the lease. A page of 10 is what "
        "a thread is: there the transaction costs, not the rows."
    )
    made.plots.append(Bars("writes", "rows per CPU second of the write path", bars))
    return [made]


if __name__ == "__main__":
    logs.set_up("error", "auto")
    print(json.dumps(asyncio.run(main(json.loads(sys.argv[1])))))
