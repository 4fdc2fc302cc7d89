"""What is wrong, grouped by cause and told in words: what, for whom, since when, why, and what to do. Pure.

Of the rows and sums of `report`: whoever tells of trouble goes by the same ``trouble``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from syncd.errors import Transient
from syncd.report import ago
from syncd.store.status import TROUBLES
from syncd.ways_out import way_out

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_NAMED = 5
_AWAY = 3  # so many connections of a source cannot reach the vendor: it is away, if nearly nobody else can either
_SHARE = 5
LIMITED, AWAY, OFF = "limited", "away", "off"
_ORDER = {name: at for at, name in enumerate((*TROUBLES[:2], AWAY, *TROUBLES[2:], LIMITED, OFF))}

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """One thing to know. ``kind``: a ``trouble``, or ``away`` (a vendor), ``limited``, ``off`` (a source).

    ``yours``: a person has to do something. ``who``: a few of the ``count`` connections. ``since``: ISO 8601 or None.
    """

    source: str
    kind: str
    yours: bool
    count: int
    what: str
    why: str
    way_out: str
    who: Sequence[Row] = ()
    since: str | None = None


@dataclass(frozen=True, slots=True)
class Ill:
    """The connections of a source with one ``trouble`` (or that are ``limited``): some ``rows`` of the ``total``."""

    source: str
    trouble: str
    total: int
    rows: Sequence[Row]


def needs(ills: Iterable[Ill], sources: Mapping[str, Mapping[str, Any]]) -> list[Need]:
    """What needs somebody first, then what passes by itself. ``sources``: as `report.overview` has them."""
    ills, told = list(ills), list[Need]()
    for name, source in sources.items():
        mine = {ill.trouble: ill for ill in ills if ill.source == name}
        told.extend(_of_source(name, source, mine))
    return sorted(told, key=lambda need: (not need.yours, _ORDER[need.kind], need.source, -need.count))


def is_away(source: Mapping[str, Any], unreached: int) -> bool:
    """Whether a vendor is away rather than a few connections in trouble. ``unreached``: how many fail as it is passing.

    While a vendor is away few connections ask for it; the others become late meanwhile, and nobody is answered.
    """
    if unreached < _AWAY:
        return False
    late = sum(count for trouble, count in source["troubles"].items() if trouble in {"late", "overdue"})
    cycle = source["last_cycle"]
    if cycle is not None and cycle["failed_workspaces"] > 0 and cycle["successful_workspaces"] == 0:
        return True
    return bool((unreached + late) * _SHARE >= sum(source["freshness"].values()))


def _of_source(name: str, source: Mapping[str, Any], mine: Mapping[str, Ill]) -> Iterable[Need]:
    if not source["enabled"] and source["connections"]:
        yield _off(name, source)
    failing = mine.get("failing")
    unreached = [row for row in failing.rows if row["last_error_kind"] == Transient.kind] if failing else []
    whole = failing is not None and len(unreached) == len(failing.rows)
    count = failing.total if failing and whole else len(unreached)
    away = is_away(source, count)
    if away:
        yield _away(name, source, unreached, count)
    for trouble, ill in mine.items():
        if trouble in {"late", "overdue"}:
            if not away:
                yield _late(name, source, ill)
        elif trouble == LIMITED:
            yield from _limited(name, ill)
        else:
            rows = [row for row in ill.rows if not (away and row in unreached)]
            total = 0 if away and trouble == "failing" and whole else ill.total - (len(ill.rows) - len(rows))
            yield from _by_cause(name, trouble, rows, total)


def _by_cause(name: str, trouble: str, rows: Sequence[Row], total: int) -> Iterable[Need]:
    """Those with the same words are one need; of too many to look at, the rest is one of its own."""
    causes: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        why, hint = said(row)
        causes.setdefault(("", hint) if row["last_error_kind"] == Transient.kind else (why, hint), []).append(row)
    rest = total - len(rows)
    for at, group in enumerate(causes.values()):
        whole = rest if len(causes) == 1 and at == 0 else 0
        yield _caused(name, trouble, group, len(group) + whole)
    if rest > 0 and len(causes) != 1:
        what = f"{_product(name)}: {rest:,} more {_of(rest)} {_VERBS[trouble][rest != 1]}"
        yield Need(
            source=name, kind=trouble, yours=True, count=rest, what=what, why="", way_out="The list below has each."
        )


_VERBS = {
    "needs_reauth": ("waits for new credentials", "wait for new credentials"),
    "misconfigured": ("waits until a setting is corrected", "wait until a setting is corrected"),
    "failing": ("fails", "fail"),
}


def _caused(name: str, trouble: str, rows: Sequence[Row], count: int) -> Need:
    why, hint = said(rows[0])
    first, when = rows[0], ago(rows[0]["next_sync_at"])
    passing = trouble == "failing" and rows[0]["last_error_kind"] == Transient.kind
    return Need(
        source=name,
        kind=trouble,
        yours=not passing,
        count=count,
        who=rows[:_NAMED],
        since=_first(row["status_since"] for row in rows),
        what=f"{_product(name)}: {count:,} {_of(count)} {_VERBS[trouble][count != 1]}",
        why=why or "no reason is stored",
        way_out=way_out(
            trouble,
            first["last_error_kind"],
            hint,
            source=name,
            only=first["id"] if count == 1 else None,
            workspace=first["workspace_id"] if count == 1 else None,
            account=first["account"] if count == 1 else None,
            when=when if when.startswith("in ") else "at the next turn",
        ),
    )


def _away(name: str, source: Mapping[str, Any], rows: Sequence[Row], count: int) -> Need:
    late = sum(number for trouble, number in source["troubles"].items() if trouble in {"late", "overdue"})
    waiting = f", {late:,} more are not read meanwhile" if late else ""
    last = max(rows, key=lambda row: row["last_error_at"] or "")
    turn = f" with one connection at the next turn ({ago(source['next_turn'])})" if source["next_turn"] else ""
    return Need(
        source=name,
        kind=AWAY,
        yours=False,
        count=count,
        who=rows[:_NAMED],
        since=_first(row["status_since"] for row in rows),
        what=f"{_product(name)} does not answer: {count:,} {_of(count)} {_VERBS['failing'][count != 1]}{waiting}",
        why=said(last)[0],
        way_out=f"Nothing to do: it is tried again{turn}, and all are read once it answers. "
        "If it answers others, look at this machine's network, its proxy and `base_url`.",
    )


def _late(name: str, source: Mapping[str, Any], ill: Ill) -> Need:
    overdue, limited = ill.trouble == "overdue", [row for row in ill.rows if row["limited_until"]]
    missed = "two turns or more" if overdue else "a turn"
    cycle = source["last_cycle"]
    began = f"The last cycle began {ago(cycle['started_at'])}" if cycle else "There was no cycle yet"
    why = f"missed {missed}. {began}"
    if limited:
        limit = limited[0]["limited_by"] or "its vendor's limit"
        why += f"; {len(limited):,} of them {'waits' if len(limited) == 1 else 'wait'} for {limit}"
    turn = f" ({ago(source['next_turn'])})" if source["next_turn"] else ""
    return Need(
        source=name,
        kind=ill.trouble,
        yours=overdue and len(limited) < len(ill.rows),
        count=ill.total,
        who=ill.rows[:_NAMED],
        since=_first(row["last_success_at"] or row["status_since"] for row in ill.rows),
        what=f"{_product(name)}: {ill.total:,} {_of(ill.total)} {'is' if ill.total == 1 else 'are'} {ill.trouble}",
        why=why,
        way_out=(
            f"Read now with the button on its page, or wait for the next turn{turn}. "
            f"If it stays, `syncd doctor` names the cause; a run that takes longer than a turn asks for "
            f"a higher `sources.{name}.concurrency`."
            if overdue
            else f"Nothing to do yet: the next turn{turn} reads it."
        ),
    )


def _limited(name: str, ill: Ill) -> Iterable[Need]:
    limits: dict[str, list[Row]] = {}
    for row in ill.rows:
        limits.setdefault(row["limited_by"] or "", []).append(row)
    for limit, rows in limits.items():
        count = ill.total if len(limits) == 1 else len(rows)
        until, whose = max(row["limited_until"] for row in rows), f"the limit {limit}" if limit else "the vendor"
        yield Need(
            source=name,
            kind=LIMITED,
            yours=False,
            count=count,
            who=rows[:_NAMED],
            what=f"{_product(name)}: {count:,} {_of(count)} {'waits' if count == 1 else 'wait'} for a limit",
            why=f"{whose} allows no more until {until[11:16]} UTC ({ago(until)})",
            way_out="Nothing to do: each goes on by itself then. Nothing is lost.",
        )


def _off(name: str, source: Mapping[str, Any]) -> Need:
    count = source["connections"]
    return Need(
        source=name,
        kind=OFF,
        yours=False,
        count=count,
        what=f"{_product(name)} is switched off: {count:,} {_of(count)} {'is' if count == 1 else 'are'} not read",
        why=f"sources.{name}.enabled is false",
        way_out="Set it to true and restart to read them again.",
    )


def said(row: Row) -> tuple[str, str]:
    """A connection's last error and its way out."""
    why, _, hint = (row["last_error"] or "").partition(" - ")
    return why, hint.rstrip(".")


def _of(count: int) -> str:
    return "connection" if count == 1 else "connections"


def _product(name: str) -> str:
    return name.capitalize()


def _first(times: Iterable[str | None]) -> str | None:
    return min(filter(None, times), default=None)
