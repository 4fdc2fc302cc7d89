"""Plain objects for programs: a cycle's status object, and the state of everything (`syncd status --json`, the API)."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, overload

from syncd.passes import Pass
from syncd.store.status import Missed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from syncd.plan import Plan
    from syncd.settings import Settings
    from syncd.source import Source
    from syncd.store import Store
    from syncd.store.status import Wanted


async def status_report(store: Store, plans: Mapping[str, Plan], settings: Settings) -> dict[str, Any]:
    """``{"timestamp", "sources": {name: …}, "queue", "connections": […]}``; times are ISO 8601 in UTC, null where
    unknown.

    As `overview`, with every connection.
    """
    rows = await store.status.connections(missed(store, plans, settings))
    return await overview(store, plans, settings) | {"connections": [_connection(row, store, plans) for row in rows]}


async def overview(store: Store, plans: Mapping[str, Plan], settings: Settings) -> dict[str, Any]:
    """``{"timestamp", "sources": {name: …}, "queue"}``, of sums, however many connections there are.

    A source's ``states``, ``freshness`` and ``troubles``: how many connections of each; ``waiting``: limit → how many
    wait for it; ``oldest_read_at``: when the one that was read longest ago was last read. ``queue``: as `queue` has it.
    """
    now, status = store.status.now(), store.status
    sums = await status.sums(missed(store, plans, settings))
    waiting, backlogs = await status.waiting(), await status.backlogs()
    sources = {}
    for name, plan in plans.items():
        mine, enabled = [one for one in sums if one.source == name], getattr(settings.sources, name).enabled
        counts: dict[str, Counter[str]] = {key: Counter() for key in ("state", "freshness", "trouble")}
        for one in mine:
            for key, counter in counts.items():
                if (value := getattr(one, key)) is not None:
                    counter[value] += one.count
        read = [one.oldest for one in mine if one.oldest is not None and one.freshness is not None]
        sources[name] = {
            "enabled": enabled,
            "next_turn": _iso(plan.next_turn(now)) if enabled else None,
            "last_cycle": plain(await status.last_cycle(name)),
            "connections": sum(one.count for one in mine),
            "states": dict(sorted(counts["state"].items())),
            "freshness": dict(sorted(counts["freshness"].items())),
            "troubles": dict(sorted(counts["trouble"].items())),
            "waiting": {limit: count for source, limit, count in waiting if source == name},
            "backlog": backlogs.get(name, 0),
            "oldest_read_at": _iso(min(read)) if read else None,
        }
    return {"timestamp": _iso(now), "sources": sources, "queue": await queue(store)}


async def queue(store: Store) -> dict[str, Any] | None:
    """What waits for workers: ``workers`` that live, jobs ``queued`` and ``picked``, for how long the first of those
    that are queued waits (``oldest_waiting_s``), and how often in the last day a job came again.

    None where this process runs all itself, and while the queue's tables are not there.
    """
    depth = await store.jobs.depth() if store.jobs is not None else None
    if depth is None:
        return None
    return {
        "workers": depth.workers,
        "queued": depth.queued,
        "picked": depth.picked,
        "oldest_waiting_s": depth.oldest_s,
        "repeated_deliveries": depth.repeated,
    }


async def found(
    store: Store, plans: Mapping[str, Plan], settings: Settings, wanted: Wanted, **how: Any
) -> tuple[list[dict[str, Any]], int]:
    """The connections that are ``wanted``, and how many there are; ``how``: as `Status.find` has it.

    A connection's ``state`` is what it does: ``ok``, ``new``, ``running``, ``limited`` (its vendor said later),
    ``failing``, ``paused``, ``removed``, ``unassigned`` (no workspace), ``needs_reauth``, ``misconfigured``.
    ``freshness``: ``on_time``, ``late`` (a whole turn went by without a success), ``overdue`` (two), null where nobody
    reads it. ``trouble``: ``needs_reauth``, ``misconfigured``, ``failing``, ``overdue``, ``late``, the first
    that holds.

    ``limited_until``, ``limited_by``: until when it waits for which limit, null when it does not; a running one waits
    on the spot. ``pass_s``: how many seconds a pass over its ``pass_parts`` ``pass_of`` (such as 40 channels) takes,
    null while nothing tells; ``pass_read`` of them are read in the one under way. All null where one run reads all.
    """
    rows, total = await store.status.find(wanted, missed(store, plans, settings), **how)
    return [_connection(row, store, plans) for row in rows], total


async def troubled(store: Store, plans: Mapping[str, Plan], settings: Settings, *, each: int) -> list[dict[str, Any]]:
    """As `found`, but for the backlog: of each source the first ``each`` in the same trouble, and of the limited."""
    rows = await store.status.troubled(missed(store, plans, settings), each=each)
    return [_connection(row, store, plans) for row in rows]


def missed(store: Store, plans: Mapping[str, Plan], settings: Settings) -> dict[str, Missed]:
    """When what was last read before that is late or overdue, of each source that is on."""
    now = store.status.now()
    return {
        name: Missed(plan.turns_ago(now, 1), plan.turns_ago(now, 2))
        for name, plan in plans.items()
        if getattr(settings.sources, name).enabled
    }


def _connection(row: dict[str, Any], store: Store, plans: Mapping[str, Plan]) -> dict[str, Any]:
    """A row of `Status` for programs."""
    if row["limited_until"] is not None and row["limited_until"] <= store.status.now():
        row["limited_until"] = row["limited_by"] = None
    row.update(_pass(row.pop("progress"), plans.get(row["source"])))
    return plain(row)


def _pass(progress: Mapping[str, Any] | None, plan: Plan | None) -> dict[str, Any]:
    known = Pass.of(progress)
    if known is None:
        return dict.fromkeys(("pass_s", "pass_read", "pass_parts", "pass_of"))
    named = next((stream.parts for stream in plan.source.streams if stream.parts), None) if plan else None
    return {"pass_s": known.takes_s, "pass_read": known.read, "pass_parts": known.parts, "pass_of": named or "parts"}


@overload
def plain(row: Mapping[str, Any]) -> dict[str, Any]: ...
@overload
def plain(row: None) -> None: ...
def plain(row: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A row with its times as ISO 8601."""
    if row is None:
        return None
    # str(): SQLAlchemy's names are a kind of str that orjson does not take for one
    return {str(key): _iso(part) if isinstance(part, datetime) else part for key, part in row.items()}


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


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
        time = f"about {span(row['pass_s'])}" if row["pass_s"] else "several runs"
        takes = f"a pass over its {row['pass_parts']} {row['pass_of']} takes {time}"
        words.append(f"{takes}; {row['pass_read']} read in this one" if row["pass_read"] else takes)
    return words


def queue_words(told: Mapping[str, Any]) -> str:
    """`queue` in words: 3 workers, 12 jobs wait, the first for 2 s, 40 under way."""
    words = [f"{told['workers']} worker{'' if told['workers'] == 1 else 's'}"]
    if told["queued"]:
        first = f", the first for {span(told['oldest_waiting_s'])}" if told["oldest_waiting_s"] is not None else ""
        words.append(f"{told['queued']} {'job waits' if told['queued'] == 1 else 'jobs wait'}{first}")
    words.append(f"{told['picked']} under way")
    if told["repeated_deliveries"]:
        words.append(f"{told['repeated_deliveries']} came again in the last day")
    return ", ".join(words)


def ago(value: str | None) -> str:
    """An ISO time in words: 4 min ago, in 10 min, never."""
    if not value:
        return "never"
    seconds = (datetime.now(UTC) - datetime.fromisoformat(value)).total_seconds()
    words = span(abs(seconds))
    return f"{words} ago" if seconds >= 0 else f"in {words}"


def span(seconds: float) -> str:
    """40 s, 60 min, 3 h, 2 days."""
    for length, unit, limit in ((1, "s", 90), (60, "min", 90), (3600, "h", 36)):
        if seconds < length * limit:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86400:.0f} days"
