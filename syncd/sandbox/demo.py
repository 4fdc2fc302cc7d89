"""``syncd demo``: what syncd does, shown on the sandbox from nothing to rows in a database."""

from __future__ import annotations

import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.panel import Panel
from sqlalchemy import text

from syncd.cli.run import show_statuses, watched
from syncd.cli.terminal import out, printable, table
from syncd.credentials import generate_key
from syncd.daemon import open_parts
from syncd.errors import UsageError
from syncd.sandbox.app import Sandbox
from syncd.sandbox.world import StandingClock, World
from syncd.settings import Settings, Sources
from syncd.sources import SOURCES
from syncd.store import Line
from syncd.tasks import all_of

if TYPE_CHECKING:
    from syncd.daemon import Parts
    from syncd.sandbox.world import Options

REVOKED = ("northwind", "slack")

# A few real lines of each: (title, SQL on the views that a user reads as well)
_LOOKS = (
    (
        "Slack: the latest thread",
        """SELECT workspace_id, '#' || channel, author, text FROM slack_messages
           WHERE (connection_id, thread_id) IN (
             SELECT connection_id, thread_id FROM slack_messages WHERE thread_id IS NOT NULL
             GROUP BY connection_id, thread_id HAVING COUNT(*) > 2 ORDER BY MAX(sent_at) DESC LIMIT 1)
           ORDER BY sent_at LIMIT 5""",
        ("workspace", "channel", "who", "said"),
    ),
    (
        "Gong: the latest calls",
        """SELECT workspace_id, title, CAST(duration_s / 60 AS INTEGER), COALESCE(summary, ''),
                  substr(replace(transcript, char(10), ' / '), 1, 100)
           FROM gong_calls ORDER BY transcript IS NULL, started_at DESC LIMIT 3""",
        ("workspace", "call", "min", "brief", "transcript"),
    ),
    (
        "Fathom: the latest meetings",
        """SELECT workspace_id, title, host,
                  trim(substr(replace(replace(COALESCE(summary, ''), '#', ''), char(10), ' '), 1, 100)),
                  substr(replace(transcript, char(10), ' / '), 1, 100)
           FROM fathom_sessions ORDER BY transcript IS NULL, summary IS NULL, started_at DESC LIMIT 3""",
        ("workspace", "meeting", "host", "summary", "transcript"),
    ),
    (
        "Gmail: the latest mails",
        """SELECT workspace_id, author, subject, substr(replace(trim(text), char(10), ' '), 1, 100)
           FROM gmail_messages ORDER BY sent_at DESC LIMIT 4""",
        ("workspace", "from", "subject", "text"),
    ),
)


async def show(options: Options, keep: Path | None) -> None:
    """Run the demo and print its account. Raises what goes wrong: there is nothing here that may fail."""
    temporary = tempfile.TemporaryDirectory(prefix="syncd-demo-") if keep is None else nullcontext(str(keep))
    with temporary as folder:
        file = Path(folder) / "syncd.db"
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        except OSError as error:
            raise UsageError(f"--keep {folder} cannot be written to: {error.strerror}; name another folder") from None
        # the vendors' clock stands still: between the two cycles nothing ripens, so the second has nothing to write
        async with Sandbox(options, world=World(options, StandingClock())) as box:
            settings = _settings(box, file)
            async with open_parts(settings, migrate=True) as parts:
                await _tell(box, parts, file)
        if keep is not None:
            out.print(f"\nThe database is kept: [bold]{escape(str(file))}[/bold]")


class _DemoSettings(Settings):
    """Nothing of the environment counts: it may name somebody's real database and real vendors."""

    reads_environment = False


def _settings(box: Sandbox, file: Path) -> Settings:
    sources: dict[str, Any] = {}
    for name, value in box.environment().items():
        _, *above, key = name.lower().removeprefix("syncd_").split("__")
        part = sources
        for step in above:
            part = part.setdefault(step, {})
        part[key] = value
    chosen: dict[str, Any] = {"database": {"url": f"sqlite+aiosqlite:///{file}"}, "secret_keys": generate_key()}
    return _DemoSettings(**chosen, sources=Sources.model_validate(sources))


async def _tell(box: Sandbox, parts: Parts, file: Path) -> None:
    companies = [company.workspace for company in box.world.companies.values()]
    out.print(
        Panel.fit("[bold]syncd demo[/bold]  Slack, Gong, Fathom and Gmail of three workspaces into one SQL database")
    )
    out.print(f"The four vendors are emulated at {box.base}; the database is SQLite in {escape(str(file.parent))}.")
    lines = [Line(**{key: part for key, part in line.items() if key != "is_active"}) for line in box.connections()]
    await parts.store.connections.put(lines, parts.vault.seal)
    box.vendors[REVOKED[1]].act(REVOKED[0], "revoke", {})
    out.print(
        f"{len(lines)} connections added: {', '.join(companies)}, each with four sources. "
        f"The {REVOKED[1]} token of {REVOKED[0]} is revoked on purpose.\n"
    )
    out.rule("first cycle", align="left")
    first = await _cycle(parts)
    show_statuses(first)
    out.print("\n(Fathom's meetings are listed first and completed by their summaries: added, then changed.)")
    out.print(f"{REVOKED[0]} waits for a person and disturbs nobody: new credentials put it back to work.\n")
    await _stored(parts)
    out.rule("second cycle", align="left")
    second = await _cycle(parts)
    show_statuses(second)
    written = sum(status[change] for status in second for change in ("added", "changed", "deleted"))
    calls = (sum(status["calls"] for status in first), sum(status["calls"] for status in second))
    out.print(
        f"\nNothing new at the vendors: {written} rows written, {calls[1]} calls instead of {calls[0]} "
        "(one look at each open window, no thread, transcript or mail read twice).\n"
    )
    out.rule("and now", align="left")
    out.print(
        "1. [bold]export SYNCD_SECRET_KEYS=$(syncd keys generate) && syncd migrate[/bold]   a key and a database\n"
        "2. [bold]syncd connections add --help[/bold]   a real account; the README says where each token comes from\n"
        "3. [bold]syncd serve[/bold]   the daemon, every 15 minutes; http://127.0.0.1:8080 shows its state"
    )


async def _cycle(parts: Parts) -> list[dict[str, Any]]:
    cycles = [parts.engine.cycle(name, trigger="cli") for name in SOURCES]
    statuses: list[dict[str, Any]] = await watched(parts.engine, all_of(cycles))
    return statuses


async def _stored(parts: Parts) -> None:
    counts = await parts.store.looks.counts()
    out.rule("what is in the database", align="left")
    waiting = sum(row["backlog"] for row in await parts.store.status.connections())
    out.print(
        ", ".join(f"{count} {name}" for name, count in counts.items())
        + f"; {waiting} recordings whose transcript is not ready yet wait in the backlog\n"
    )
    for title, query, headers in _LOOKS:
        async with parts.store.database.read() as session:
            rows = [tuple(row) for row in await session.execute(text(query))]
        table(headers, ([printable(str(part)) for part in row] for row in rows), title=title)
        out.print()
