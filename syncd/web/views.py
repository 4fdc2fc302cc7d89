"""What the status page says of the rows and sums of `report`, in words: pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from markupsafe import Markup, escape

from syncd.needs import AWAY, LIMITED, OFF
from syncd.report import ago, slowed, span, workspaces

if TYPE_CHECKING:
    from collections.abc import Sequence

    from syncd.needs import Need

_LONGEST = 300  # characters of an error in the list; the connection's own page has all
_READ = {"ok", "new", "failing", "running", "limited"}
Row = Mapping[str, Any]


def clock(value: str | datetime | None) -> str:
    """``14:05 UTC`` of today, else with the date."""
    if not value:
        return "never"
    at = (datetime.fromisoformat(value) if isinstance(value, str) else value).astimezone(UTC)
    return f"{at:%H:%M} UTC" if at.date() == datetime.now(UTC).date() else f"{at:%Y-%m-%d %H:%M} UTC"


def coded(text: str) -> Markup:
    """Text in which what stands between backticks is code."""
    parts = re.split(r"`([^`]+)`", text)
    return Markup().join(
        Markup("<code>{}</code>").format(part) if at % 2 else escape(part) for at, part in enumerate(parts)
    )


def turn(row: Row, sources: Mapping[str, Row]) -> str | None:
    """When a connection is read next: the first turn at which it is due and its limit is over; None where never."""
    source = sources.get(row["source"])
    if source is None or source["next_turn"] is None or row["state"] not in _READ:
        return None
    waits = [at for at in (row["limited_until"], row["next_sync_at"]) if at]
    return str(max([source["next_turn"], *waits]))


def reasons(row: Row) -> list[str]:
    """Why a connection is in its state."""
    told = slowed(row)
    if row["trouble"] in {"late", "overdue"}:
        told.append("missed two turns or more" if row["trouble"] == "overdue" else "missed a turn")
    if row["last_error"] and row["trouble"]:
        words = row["last_error"]
        told.append(words if len(words) <= _LONGEST else f"{words[:_LONGEST]}…")
    return told


def took(run: Row) -> str:
    """How long a run took."""
    if not run["finished_at"]:
        return "not ended"
    began, ended = datetime.fromisoformat(run["started_at"]), datetime.fromisoformat(run["finished_at"])
    return span(max(0.0, (ended - began).total_seconds()))


def passed(row: Row) -> str:
    """How long a pass over a connection's parts takes."""
    return slowed({**row, "limited_until": None})[-1]


def counted(source: Row) -> str:
    """``25: 22 ok, 3 failing`` of a source's states."""
    if not source["connections"]:
        return "none"
    states = sorted(source["states"].items(), key=lambda pair: -pair[1])
    return f"{source['connections']:,}: " + ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in states)


def mood(source: Row, needs: Sequence[Need]) -> tuple[str, str]:
    """(class, words) of a source: the worst that is to be said of it."""
    kinds = {need.kind for need in needs}
    troubles, states = source["troubles"], source["states"]
    if not source["enabled"]:
        return "paused", "switched off"
    if not source["connections"]:
        return "paused", "no connection"
    if AWAY in kinds:
        return AWAY, "does not answer"
    if waits := sum(troubles.get(name, 0) for name in ("needs_reauth", "misconfigured")):
        return "needs_reauth", f"{waits:,} {'waits' if waits == 1 else 'wait'} for you"
    for trouble in ("failing", "overdue", "late"):
        if count := troubles.get(trouble, 0):
            return trouble, f"{count:,} {trouble}"
    if count := states.get("limited", 0):
        return "limited", f"{count:,} limited"
    if count := states.get("running", 0):
        return "running", f"reading {count:,} now"
    return ("ok", "all well") if source["freshness"] else ("paused", "none is active")


def headline(needs: Sequence[Need], sources: Mapping[str, Row]) -> str:
    yours = sum(need.yours for need in needs)
    if not any(source["connections"] for source in sources.values()):
        return "No connection yet"
    if not yours:
        return "Nothing needs you"
    return "1 thing needs you" if yours == 1 else f"{yours} things need you"


def summary(sources: Mapping[str, Row]) -> str:
    """How many connections there are, and how many of them are up to date."""
    states: dict[str, int] = {}
    for source in sources.values():
        for state, count in source["states"].items():
            states[state] = states.get(state, 0) + count
    if not states:
        return "`syncd connect --help` and `syncd connections add --help` say how to add one."
    out = {name: states[name] for name in ("paused", "unassigned", "removed") if name in states}
    active, well = (
        sum(states.values()) - sum(out.values()),
        sum(s["freshness"].get("on_time", 0) for s in sources.values()),
    )
    told = f"{well:,} of {active:,} active connections are up to date" if active else "No connection is active"
    return ". ".join([told, *(f"{count:,} {name}" for name, count in out.items())]) + "."


def listed(need: Need) -> str:
    """Where the list shows the connections of a need."""
    of = {LIMITED: {"state": "limited"}, OFF: {}, AWAY: {"trouble": "failing"}}.get(need.kind, {"trouble": need.kind})
    return f"/?{urlencode({'source': need.source, **of})}#connections"


FILTERS = {
    "ago": ago,
    "clock": clock,
    "coded": coded,
    "counted": counted,
    "listed": listed,
    "passed": passed,
    "reasons": reasons,
    "took": took,
    "turn": turn,
    "workspaces": workspaces,
}
