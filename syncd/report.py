"""Plain objects for programs: a cycle's status object, and the state of everything (`syncd status --json`, the API)."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from syncd.passes import Pass

if TYPE_CHECKING:
    from collections.abc import Mapping

    from syncd.plan import Plan
    from syncd.settings import Settings
    from syncd.source import Source
    from syncd.store import Store


async def status_report(store: Store, plans: Mapping[str, Plan], settings: Settings) -> dict[str, Any]:
    """``{"timestamp", "sources": {name: …}, "connections": […]}``; times are ISO 8601 in UTC, null where unknown.

    A connection's ``state`` is what a person needs to know: ``ok``, ``new``, ``running``, ``limited`` (its vendor said
    later), ``failing``, ``paused``, ``removed``, ``unassigned`` (no workspace), ``needs_reauth``, ``misconfigured``.

    ``limited_until``, ``limited_by``: until when it waits for which limit, null when it does not; a running one waits
    on the spot. ``pass_s``: how many seconds a pass over its ``pass_parts`` ``pass_of`` (such as 40 channels) takes,
    null while nothing tells; ``pass_read`` of them are read in the one under way. All null where one run reads all.
    A source's ``waiting``: limit → how many connections wait for it.
    """
    now = datetime.now(UTC)
    connections = await store.status.connections()
    for row in connections:
        if row["limited_until"] is not None and row["limited_until"] <= now:
            row["limited_until"] = row["limited_by"] = None
        row.update(_pass(row.pop("progress"), plans.get(row["source"])))
        row["state"] = _state(row)
    sources = {}
    for name, plan in plans.items():
        mine = [row for row in connections if row["source"] == name]
        enabled = getattr(settings.sources, name).enabled
        states = [row["state"] for row in mine]
        sources[name] = {
            "enabled": enabled,
            "next_turn": _iso(plan.next_turn(now)) if enabled else None,
            "last_cycle": _plain(await store.status.last_cycle(name)),
            "connections": len(mine),
            "states": {state: states.count(state) for state in sorted(set(states))},
            "waiting": dict(sorted(Counter(row["limited_by"] for row in mine if row["limited_by"]).items())),
            "backlog": sum(row["backlog"] for row in mine),
        }
    return {"timestamp": _iso(now), "sources": sources, "connections": [_plain(row) for row in connections]}


def _pass(progress: Mapping[str, Any] | None, plan: Plan | None) -> dict[str, Any]:
    known = Pass.of(progress)
    if known is None:
        return dict.fromkeys(("pass_s", "pass_read", "pass_parts", "pass_of"))
    named = next((stream.parts for stream in plan.source.streams if stream.parts), None) if plan else None
    return {"pass_s": known.takes_s, "pass_read": known.read, "pass_parts": known.parts, "pass_of": named or "parts"}


def _state(row: Mapping[str, Any]) -> str:
    if not row["is_active"]:
        return "paused" if row["has_credentials"] else "removed"
    if row["workspace_id"] is None:
        return "unassigned"
    if row["status"] != "ok":
        return str(row["status"])
    if row["running"]:
        return "running"
    if row["limited_until"] is not None:
        return "limited"
    if row["failures"]:
        return "failing"
    return "ok" if row["last_success_at"] or row["pass_parts"] else "new"


# str(): SQLAlchemy's names are a kind of str that orjson does not take for one
def _plain(row: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if row is None:
        return None
    return {str(key): _iso(part) if isinstance(part, datetime) else part for key, part in row.items()}


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def status_object(source: Source, ended: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """What a cycle did, of its row and its failures: what `run-once --json` prints and `run_once` answers."""
    counts = (
        "successful_workspaces",
        "failed_workspaces",
        "deferred_workspaces",
        "added",
        "changed",
        "deleted",
        "calls",
    )
    return {
        "source": source.name,
        "status": ended["status"],
        source.total_name: ended["total"],
        **{name: ended[name] for name in counts},
        "duration_s": round(seconds, 3),
        "started_at": ended["started_at"].strftime("%Y-%m-%dT%H:%M:%SZ"),
        "failures": ended["failures"],
    }


def workspaces(counts: Mapping[str, Any]) -> str:
    """``2 well, 1 failed`` of a cycle's or a status object's counts."""
    named = (("successful", "well"), ("failed", "failed"), ("deferred", "deferred"))
    words = [f"{counts[f'{key}_workspaces']} {word}" for key, word in named if counts[f"{key}_workspaces"]]
    return ", ".join(words) or "none due"


def slowed(row: Mapping[str, Any]) -> list[str]:
    """Of a connection of `status_report`, in words: what it waits for, and how long a pass takes it."""
    words = []
    if row["limited_until"] and row["state"] in {"running", "limited"}:
        until = datetime.fromisoformat(row["limited_until"])
        at = f"{until:%H:%M:%S}" if until.date() == datetime.now(UTC).date() else f"{until:%Y-%m-%d %H:%M:%S}"
        waits = f"waits for {row['limited_by']}" if row["limited_by"] else "its vendor asks to wait"
        words.append(f"{waits} until {at} UTC ({ago(row['limited_until'])})")
    if row["pass_parts"]:
        time = f"about {_span(row['pass_s'])}" if row["pass_s"] else "several runs"
        takes = f"a pass over its {row['pass_parts']} {row['pass_of']} takes {time}"
        words.append(f"{takes}; {row['pass_read']} read in this one" if row["pass_read"] else takes)
    return words


def ago(value: str | None) -> str:
    """An ISO time in words: 4 min ago, in 10 min, never."""
    if not value:
        return "never"
    seconds = (datetime.now(UTC) - datetime.fromisoformat(value)).total_seconds()
    words = _span(abs(seconds))
    return f"{words} ago" if seconds >= 0 else f"in {words}"


def _span(seconds: float) -> str:
    """40 s, 60 min, 3 h, 2 days."""
    for length, unit, limit in ((1, "s", 90), (60, "min", 90), (3600, "h", 36)):
        if seconds < length * limit:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86400:.0f} days"
