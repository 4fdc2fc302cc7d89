"""Where the CPU of a first sync goes: cProfile's own times, added up by library, and what each page asks the database.

cProfile makes Python's part look larger than it is: read the shares, not the times.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.compare import QUIET
from benchmarks.measure import shown
from benchmarks.subjects import syncd
from benchmarks.tables import Table
from benchmarks.vendors import Talk, vendors

if TYPE_CHECKING:
    from benchmarks.subjects import Setting


def table(setting: Setting) -> list[Table]:
    talk = Talk(5, 17, 10, 4) if setting.quick else Talk(5, 60, 10, 10)
    with vendors(talk, workspaces=2, channels=5, days=2, **QUIET) as vendor:
        lines = vendor.lines("slack")
        more: dict[str, Any] = {"lines": lines, "lookback": "30d", "profile": True}
        cost = syncd(setting, vendor, setting.server.url(), [["slack"]], **more)
    done, pages = cost.told["steps"][0], cost.told["steps"][0]["calls"]
    made = Table("Where a first sync's CPU goes (Slack, PostgreSQL)", ("in", "share of own time"))
    made.rows = [(name, f"{share:.0%}") for name, share in cost.told["shares"].items()]
    asked = Table("What the database is asked in it", ("statement", "times a call of the vendor's"))
    asked.rows = [(name, shown(count / pages)) for name, count in cost.told["statements"].items()]
    asked.notes.append(
        f"{talk.messages * 2:,} messages in {pages:,} calls: {shown(done['records'] / pages)} messages a call, "
        "most of them a thread. Pages wait for one another and are stored several at once, in one transaction."
    )
    return [made, asked]
