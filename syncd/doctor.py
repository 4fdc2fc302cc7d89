"""The three questions of someone who is worried: not running? no data? many failures? Decided purely, of facts.

Each is answered by findings, the worst of which says what to do. What is wrong with connections is told as `needs` has
it, so that it is the story of the page, the alerts and the metrics.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from syncd.needs import AWAY, LIMITED, OFF, Ill, Need, needs
from syncd.policy import RUNNING
from syncd.report import ago, queue_words, slowed, span, workspaces

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from syncd.store.health import Backlog

NOT_RUNNING, NO_DATA, FAILURES = "Not running?", "No data?", "Many failures?"
_TAKEN_LATE = timedelta(minutes=2)  # a turn is begun at once; so long a daemon may be busy
_CLOCK_OFF_S = 30.0  # less is drift, and no turn is missed by it
_LITTLE_SPACE = 500 * 2**20  # bytes
_NAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing seen. ``way_out``: what to do, where it is not well. ``who``: a few of the ``count`` connections."""

    well: bool
    seen: str
    way_out: str = ""
    count: int = 0
    who: Sequence[Mapping[str, Any]] = ()
    since: str | None = None


@dataclass(frozen=True, slots=True)
class Question:
    question: str
    findings: Sequence[Finding]

    @property
    def cause(self) -> Finding | None:
        """The first that is not well."""
        return next((one for one in self.findings if not one.well), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """Of a source's schedule: the last turn that was ``due``, the last one that a daemon has ``taken``."""

    due: datetime
    taken: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was seen. ``checks``: those of /healthz, None where nobody answers at ``url``; ``ready``: of /readyz.

    ``database``: why it cannot be used, None where it can; then all that follows is there. ``report``: that of
    `status_report`. ``clock_off_s``: how far our clock is before the database's. ``free``: bytes on SQLite's disk.
    ``dead``: runs whose process is gone. ``keys``: why a secret cannot be opened. ``regimes``: limits that are lowered.
    """

    now: datetime
    url: str
    checks: Mapping[str, str] | None
    ready: bool = False
    database: str | None = None
    report: Mapping[str, Any] = field(default_factory=dict)
    turns: Mapping[str, Turn] = field(default_factory=dict)
    backlogs: Mapping[str, Backlog] = field(default_factory=dict)
    clock_off_s: float | None = None
    free: int | None = None
    dead: int = 0
    keys: str | None = None
    regimes: Sequence[str] = ()


def examine(facts: Facts) -> list[Question]:
    """The three questions answered; the last two only where the database is there."""
    running = Question(NOT_RUNNING, list(_running(facts)))
    if facts.database is not None:
        return [running]
    told = _needs(facts)
    failing = [need for need in told if need.kind not in {LIMITED, OFF, "late", "overdue"}]
    waiting = [need for need in told if need not in failing]
    return [
        running,
        Question(
            NO_DATA,
            [*_data(facts), *(_waiting(running, need) for need in waiting), *_slow(facts), *_backlogs(facts)],
        ),
        Question(FAILURES, [*_failures(facts, failing), *_keys(facts)]),
    ]


# ── not running? ────────────────────────────────────────────────────────────────────────────────────────────────────


def _running(facts: Facts) -> Iterable[Finding]:
    yield _process(facts)
    if facts.database is not None:
        yield Finding(
            well=False, seen=facts.database, way_out="nothing more can be seen until the database can be used"
        )
        return
    if facts.checks is not None and not facts.ready and all(found == "ok" for found in facts.checks.values()):
        yield Finding(well=True, seen="it is starting, or draining: /readyz says not ready")
    if facts.clock_off_s is not None and abs(facts.clock_off_s) > _CLOCK_OFF_S:
        way = "before" if facts.clock_off_s > 0 else "behind"
        yield Finding(
            well=False,
            seen=f"clock: this machine's is {span(abs(facts.clock_off_s))} {way} the database's",
            way_out="look at the time service of both (`timedatectl`): turns and leases go by these clocks",
        )
    if facts.free is not None and facts.free < _LITTLE_SPACE:
        yield Finding(
            well=False,
            seen=f"disk: {facts.free // 2**20} MB left where the database is",
            way_out="free some space; a full disk ends every run, though nothing that was stored is lost",
        )
    if told := facts.report.get("queue"):
        yield _queue(told)
    for name, turn in facts.turns.items():
        yield _schedule(facts, name, turn)
    for name, source in facts.report["sources"].items():
        if not source["enabled"]:
            yield Finding(well=True, seen=f"{name}: off, sources.{name}.enabled is false")
    if facts.dead:
        words = "1 run was" if facts.dead == 1 else f"{facts.dead} runs were"
        yield Finding(well=True, seen=f"{words} left by a process that is gone; the next cycle takes it over")


def _process(facts: Facts) -> Finding:
    if facts.checks is not None:
        bad = [name for name, found in facts.checks.items() if found != "ok"]
        words = ", ".join(f"{name}: {found}" for name, found in facts.checks.items())
        ways = {
            "database": "the daemon cannot use its database: look at that server, then at the daemon's log",
            "scheduler": "restart the daemon; its log says why the schedule stopped",
        }
        way_out = ways.get(bad[0], "the failing check names the part that is down") if bad else ""
        return Finding(well=not bad, seen=f"running: a daemon answers at {facts.url}: {words}", way_out=way_out)
    taken = [turn for turn in facts.turns.values() if turn.taken and turn.taken >= turn.due]
    elsewhere = "; but the last turn was taken: one runs elsewhere, or ran until a moment ago" if taken else ""
    return Finding(
        well=False,
        seen=f"running: no daemon answers at {facts.url}{elsewhere}",
        way_out="start it with `syncd serve` (under systemd `systemctl start syncd`; `journalctl -u syncd` says why it "
        "ended), or name its address with --url",
    )


def _queue(told: Mapping[str, Any]) -> Finding:
    """Whether workers take what waits."""
    nobody = told["queued"] > 0 and told["workers"] == 0
    way_out = "start one with `syncd worker`, on any machine that reaches the database" if nobody else ""
    return Finding(well=not nobody, seen=f"queue: {queue_words(told)}", way_out=way_out)


def _schedule(facts: Facts, name: str, turn: Turn) -> Finding:
    source = facts.report["sources"][name]
    cycle, coming = source["last_cycle"], ago(source["next_turn"])
    last = f"; the last cycle: {cycle['status']}, {ago(cycle['started_at'])}, {workspaces(cycle)}" if cycle else ""
    if (turn.taken is not None and turn.taken >= turn.due) or facts.now - turn.due < _TAKEN_LATE:
        return Finding(well=True, seen=f"{name}: on schedule, next turn {coming}{last}")
    since = (
        "no turn was ever taken" if turn.taken is None else f"no turn was taken since {turn.taken:%Y-%m-%d %H:%M} UTC"
    )
    way_out = "start the daemon, see above"
    if facts.checks is not None:
        way_out = "the daemon's log says why (`cycle.failed`), or its schedule is another one than these settings have"
        if cycle and cycle["status"] == RUNNING:
            way_out = f"the last cycle has not begun all its runs yet: raise `sources.{name}.concurrency`"
    return Finding(well=False, seen=f"{name}: {since}, one was due {ago(turn.due.isoformat())}{last}", way_out=way_out)


# ── no data? ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _data(facts: Facts) -> Iterable[Finding]:
    rows = facts.report["connections"]
    states = Counter(row["state"] for row in rows)
    active = [row for row in rows if row["is_active"] and row["workspace_id"]]
    for state, way_out in (
        ("paused", "`syncd connections resume ID` ends a pause"),
        ("unassigned", "give it a workspace_id: nobody reads a connection without one"),
    ):
        if states[state]:
            yield Finding(well=True, seen=f"data: {states[state]} {state}; {way_out}", count=states[state])
    if not active:
        yield Finding(
            well=False,
            seen="data: no active connection",
            way_out="connect one with `syncd connect SOURCE --workspace W` or `syncd connections add`, or resume a "
            "paused one with `syncd connections resume ID`",
        )
        return
    unread = [row for row in active if not (row["last_success_at"] or row["pass_parts"])]
    seen = f"data: {len(active) - len(unread)} of {len(active)} active connections were read at least once"
    way_out = "they are read at the next turn, or now: `syncd run-once --source all`"
    if any(row["last_error"] or row["limited_until"] for row in unread):
        way_out = "see below why"
    first_turn = all(row["state"] in {"new", "running"} and row["trouble"] is None for row in unread)
    yield Finding(well=first_turn and len(unread) < len(active), seen=seen, way_out=way_out)


def _waiting(running: Question, need: Need) -> Finding:
    """What comes later than it should. Where the first question has a cause, that is the cause."""
    found = _of_need(need)
    if need.kind not in {"late", "overdue"}:
        return found
    way_out = (
        f"it is read now by `syncd run-once --source {need.source}`; if that takes longer than a turn, raise "
        f"`sources.{need.source}.concurrency`, and if it fails, its words are the cause"
    )
    return replace(found, way_out=f"see above: {running.cause.way_out}" if running.cause else way_out)


def _slow(facts: Facts) -> Iterable[Finding]:
    """The first few that wait or take several runs, each in words."""
    told = [(row, words) for row in facts.report["connections"] for words in slowed(row)]
    for row, words in told[:_NAMED]:
        yield Finding(well=True, seen=f"slowed: {row['id']} {row['source']} of {row['workspace_id']}: {words}")
    if len(told) > _NAMED:
        yield Finding(well=True, seen=f"slowed: {len(told) - _NAMED} more, `syncd status` tells of each")
    for words in facts.regimes:
        yield Finding(well=True, seen=f"limits: {words}")


def _backlogs(facts: Facts) -> Iterable[Finding]:
    for name, one in facts.backlogs.items():
        age = span((facts.now - one.oldest).total_seconds())
        yield Finding(
            well=True, seen=f"backlog: {name}: {one.count} not ready or not readable yet, the oldest for {age}"
        )


# ── many failures? ──────────────────────────────────────────────────────────────────────────────────────────────────


def _needs(facts: Facts) -> list[Need]:
    """What is wrong with connections, those with one cause together."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in facts.report["connections"]:
        if row["trouble"] is not None:
            groups.setdefault((row["source"], row["trouble"]), []).append(row)
        if row["state"] == LIMITED:
            groups.setdefault((row["source"], LIMITED), []).append(row)
    return needs(
        (Ill(source, trouble, len(rows), rows) for (source, trouble), rows in groups.items()), facts.report["sources"]
    )


def _of_need(need: Need) -> Finding:
    since = f", since {ago(need.since)}" if need.since else ""
    return Finding(
        well=need.kind in {LIMITED, OFF},
        seen=f"{need.kind.replace('_', ' ')}: {need.what}{since}" + (f": {need.why}" if need.why else ""),
        way_out=need.way_out,
        count=need.count,
        who=need.who,
        since=need.since,
    )


def _failures(facts: Facts, failing: Sequence[Need]) -> Iterable[Finding]:
    if not failing:
        yield Finding(well=True, seen="failures: none")
    yield from map(_of_need, sorted(failing, key=lambda need: need.kind != AWAY))
    for name, source in facts.report["sources"].items():
        cycle = source["last_cycle"]
        if failing and cycle and cycle["failed_workspaces"]:
            yield Finding(well=True, seen=f"{name}: the last cycle, {ago(cycle['started_at'])}: {workspaces(cycle)}")


def _keys(facts: Facts) -> Iterable[Finding]:
    if facts.keys is not None:
        yield Finding(
            well=False,
            seen=f"keys: {facts.keys}",
            way_out="set the key that sealed them, after the new one, by a comma",
        )
