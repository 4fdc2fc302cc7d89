"""Against the bare limit and against what users would pick: Slack and Gong, first sync, second run, late replies."""

from __future__ import annotations

import json
import subprocess
from collections import defaultdict
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Cost, Failed, Spread, ratio, shown
from benchmarks.peers import PEERS, Peer
from benchmarks.subjects import OldDesign, Rounds, bare, prepared, syncd, told, written
from benchmarks.tables import Bars, Table
from benchmarks.vendors import Talk, vendors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.peers import Read
    from benchmarks.subjects import Setting
    from benchmarks.vendors import Running

LATE = 20  # new replies, to threads of so many days ago
DAY_S = 86_400
CYCLES = 3  # a run asks for 500 watched threads, the rest has its turn in the next
QUIET: dict[str, Any] = {"messages_per_day": 0, "calls_per_day": 0, "meetings_per_day": 0, "mails_per_day": 0}
PG, LITE, BARE, BULK, ROWS = "syncd, PostgreSQL", "syncd, SQLite", "bare limit", "old design, bulk", "old design, rows"


class Contest:
    """All that is compared for one source on one set of data."""

    def __init__(self, setting: Setting, vendor: Running, source: str, old: OldDesign | None) -> None:
        self.setting, self.vendor, self.source, self.old = setting, vendor, source, old
        self.lines = vendor.lines(source)
        self.costs: Rounds = defaultdict(list)
        self.urls: dict[str, str] = {}
        self.peers = list(prepared(setting, source))
        self.failed = dict[str, str]()
        self.reads: dict[str, Read] = {}

    def first(self) -> None:
        """A round of first syncs, each into a database of its own."""
        server, number = self.setting.server, len(self.costs[PG])
        for name, url in ((PG, server.url()), (LITE, self.setting.sqlite())):
            cost = syncd(self.setting, self.vendor, url, [[self.source]], lines=self.lines, lookback="30d")
            self._done(name, url, cost)
        self._done(BARE, url := server.url(), bare(self.setting, self.vendor, url, self.lines))
        for name, writes in ((BULK, "bulk"), (ROWS, "rows")) if self.old else ():
            url = server.url("postgresql+psycopg2")
            self._try(name, lambda url=url, writes=writes: self._old(url, writes), url)
        for peer in self.peers:
            self._try(peer.name, lambda peer=peer: self._peer(peer, number))

    def _old(self, url: str, writes: str, days: float = 30) -> Cost:
        assert self.old is not None
        return self.old.read(self.vendor, url, self.lines, writes, days)

    def _peer(self, peer: Peer, number: int) -> Cost:
        self.reads[peer.name] = read = peer.first(self.vendor, self.setting.server, number)
        return read.cost

    def _try(self, name: str, measured: Callable[[], Cost], url: str = "") -> None:
        if name in self.failed:
            return
        try:
            self._done(name, url, measured())
        except (Failed, OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
            self.failed[name] = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[-1][:200]}"

    def _done(self, name: str, url: str, cost: Cost) -> None:
        told(f"{self.source}: {name}: {cost.cpu_s:.2f} s CPU, {cost.wall_s:.1f} s")
        self.costs[name].append(cost)
        self.urls[name] = url

    def used_s(self, name: str) -> list[float]:
        """CPU seconds of the reading, round by round: a daemon's without its start, a program's with it."""
        costs = self.costs[name]
        if name in {PG, LITE}:
            return [cost.told["steps"][0]["cpu_s"] for cost in costs]
        return [cost.told["cpu_s"] if name in {BARE, BULK, ROWS} else cost.cpu_s for cost in costs]

    def rate(self, name: str, records: int) -> Spread:
        """Records per CPU second. A peer reads the first connection only."""
        mine = records // len(self.lines) if name not in {PG, LITE, BARE, BULK, ROWS} else records
        return Spread(tuple(mine / used for used in self.used_s(name)))

    def rates(self, records: int, what: str) -> Table:
        """The table of the first sync."""
        head = ("", f"{what} per CPU second", "syncd is so many times that", "peak MB", "PostgreSQL's CPU s", "stores")
        table = Table(f"{self.source}: first sync", head)
        mine = self.rate(PG, records)
        for name in self.costs:
            if not self.costs[name]:
                continue
            rate = self.rate(name, records)
            server = Spread(tuple(cost.server_s for cost in self.costs[name]))
            stores = self._stores(name)
            table.rows.append(
                (name, rate, ratio(mine.rounds, rate.rounds), Spread(tuple(self._peaks(name))), server, stores)
            )
        table.rows += [(name, "not run", "", "", "", why) for name, why in self._missing().items()]
        bars = [(str(row[0]), row[1].median) for row in table.rows if isinstance(row[1], Spread)]
        table.plots.append(Bars(f"{self.source}-first", f"{what} per CPU second, first sync ({self.source})", bars))
        return table

    def _missing(self) -> dict[str, str]:
        held = self.setting.peers
        words = {name: why for name, why in held.items() if isinstance(why, str) and self._is_ours(name)}
        return words | self.failed

    def _is_ours(self, name: str) -> bool:
        return any(peer.name == name and peer.source == self.source for peer in PEERS)

    def _peaks(self, name: str) -> list[float]:
        return [cost.peak_mb for cost in self.costs[name]]

    def _stores(self, name: str) -> str:
        if name in self.reads:
            records = ", ".join(f"{stream} {count:,}" for stream, count in self.reads[name].records.items())
            where = "into PostgreSQL" if name == "dlt" else "as JSON lines, stored nowhere"
            return f"{records} of one connection, {where}"
        if name in {PG, LITE}:
            return f"{self.costs[name][-1].told['steps'][0]['added']:,} rows"
        counted = [
            f"{table} {self.setting.server.ask(self.urls[name], f'SELECT count(*) FROM {table}')[0][0]:,}"
            for table in (("messages",) if self.source == "slack" else ("meetings", "transcripts"))
        ]
        return ", ".join(counted)


def second(contest: Contest) -> Table:
    """The run after the first, with nothing new: what it rewrites."""
    head = ("second run, nothing new", "CPU s", "calls", "rows of records written or handed on")
    table, server, vendor = Table(f"{contest.source}: second run", head), contest.setting.server, contest.vendor

    def measured(name: str, ran: Callable[[], Cost], schema: str = "public") -> None:
        url, calls = contest.urls.get(name, ""), _calls(vendor)
        before = written(server, url, schema) if url and name != LITE else 0
        try:
            cost = ran()
        except (Failed, OSError, ValueError, subprocess.SubprocessError) as error:
            contest.failed[name] = f"second run: {(str(error).strip().splitlines() or [''])[-1][:200]}"
            return
        if name in {PG, LITE}:
            done = cost.told["steps"][0]
            rows: object = written(server, url) - before if name == PG else done["added"] + done["changed"]
            table.rows.append((name, shown(done["cpu_s"]), done["calls"], rows))
        elif url:
            used = cost.told.get("cpu_s", cost.cpu_s)
            table.rows.append((name, shown(used), _calls(vendor) - calls, written(server, url) - before))
        else:
            table.rows.append((name, shown(cost.cpu_s), _calls(vendor) - calls, contest.reads[name].total))

    for name in (PG, LITE):
        measured(name, lambda name=name: syncd(contest.setting, vendor, contest.urls[name], [[contest.source]]))
    for name, writes in ((BULK, "bulk"), (ROWS, "rows")) if contest.old else ():
        if name not in contest.failed:
            measured(name, lambda name=name, writes=writes: contest._old(contest.urls[name], writes, 1))
    for peer in contest.peers:
        if peer.name not in contest.failed:
            measured(peer.name, lambda peer=peer: _again(contest, peer, ()))
    return table


def _again(contest: Contest, peer: Peer, wanted: tuple[str, ...]) -> Cost:
    contest.reads[peer.name] = read = peer.second(
        contest.vendor, contest.setting.server, len(contest.costs[PG]) - 1, wanted
    )
    return read.cost


def late(contest: Contest) -> Table:
    """Replies of today to threads of 20 days ago: who finds them. syncd in the cycles of the next day."""
    wanted, vendor = _reply_late(contest), contest.vendor
    found = f"of {LATE} new replies to threads of 20 days ago, found"
    table = Table("slack: late replies", ("", found, "calls", "CPU s"))
    names = ",".join(f"'{ts}'" for ts in wanted)
    for name, writes in ((BULK, "bulk"), (ROWS, "rows")) if contest.old else ():
        if name not in contest.failed:
            calls, cost = _calls(vendor), contest._old(contest.urls[name], writes, 1)
            sql = f"SELECT count(*) FROM messages WHERE split_part(external_id, ':', 2) IN ({names})"
            count = contest.setting.server.ask(contest.urls[name], sql)[0][0]
            table.rows.append((name, count, _calls(vendor) - calls, shown(cost.told["cpu_s"])))
    for peer in contest.peers:
        if peer.name not in contest.failed:
            calls, cost = _calls(vendor), _again(contest, peer, wanted)
            table.rows.append((peer.name, contest.reads[peer.name].found, _calls(vendor) - calls, shown(cost.cpu_s)))
    vendor.ask("clock", {"advance_s": DAY_S - 3000})
    cost = syncd(contest.setting, vendor, contest.urls[PG], [["slack"]] * CYCLES, ahead_s=DAY_S - 3000)
    sql = f"SELECT count(*) FROM messages WHERE split_part(external_id, ':', 2) IN ({names}) AND deleted_at IS NULL"
    count = contest.setting.server.ask(contest.urls[PG], sql)[0][0]
    calls, used_s = (sum(step[key] for step in cost.told["steps"]) for key in ("calls", "cpu_s"))
    table.rows.insert(0, (PG, count, calls, shown(used_s)))
    table.notes.append(
        "syncd asks for each thread that is older than its sweep once a day at least, at most "
        f"500 in a run: the row is {CYCLES} cycles 23 hours later, the only ones of a day that ask for them. "
        "tap-slack reads all of its window in every run. The others ran at once; none looks there later."
    )
    return table


def _reply_late(contest: Contest) -> tuple[str, ...]:
    """20 new replies to threads of about 20 days ago; answers their ts."""
    workspace = contest.lines[0]["workspace_id"]
    held = json.loads(contest.vendor.ask(f"holdings?vendor=slack&workspace={workspace}"))["slack"][workspace][
        "messages"
    ]
    parents = [(key.split(":"), one) for key, one in held.items() if one.get("reply_count")]
    newest = max(float(ts) for (_, ts), _ in parents)
    parents.sort(key=lambda one: abs(newest - float(one[0][1]) - 18.7 * DAY_S))
    return tuple(
        json.loads(contest.vendor.ask(f"slack/{workspace}/reply", {"channel": channel, "ts": ts}))["ts"]
        for (channel, ts), _ in parents[:LATE]
    )


def _calls(vendor: Running) -> int:
    return sum(vendor.calls().values())


def slack(setting: Setting) -> list[Table]:
    talk = Talk(5, 17, 10, 4) if setting.quick else Talk(5, 170, 10, 30)
    workspaces = 20 if setting.full else 2
    with (
        vendors(talk, workspaces=workspaces, channels=5, days=2, **QUIET) as vendor,
        _contested(setting, vendor, "slack") as contest,
    ):
        messages = talk.messages * workspaces
        table = contest.rates(messages, "messages")
        threads = talk.channels * talk.threads * workspaces
        table.notes.insert(
            0,
            f"{messages:,} messages, {threads:,} threads of {1 + talk.replies}, {workspaces} workspaces of "
            f"{talk.channels} channels, read 30 days back ({setting.rounds} rounds; median, least and most). "
            "tap-slack, dlt and Airbyte are given one of the workspaces, as each of their processes is.",
        )
        return _with_reasons(contest, [table, second(contest), late(contest)])


def gong(setting: Setting) -> list[Table]:
    per_day, workspaces = (2, 2) if setting.quick else (20, 2)
    options = QUIET | {"calls_per_day": per_day}
    with (
        vendors(workspaces=workspaces, channels=1, days=26, **options) as vendor,
        _contested(setting, vendor, "gong") as contest,
    ):
        calls = contest.costs[PG][-1].told["steps"][0]["records"]
        table = contest.rates(calls, "calls")
        table.notes.insert(
            0,
            f"{calls:,} calls with their transcripts of {workspaces} companies. airbyte-source-gong 0.1 lists users "
            "and what is in GET /v2/calls: no parties, no content, no transcripts. Its figures are of that much less.",
        )
        return _with_reasons(contest, [table, second(contest)])


@contextmanager
def _contested(setting: Setting, vendor: Running, source: str) -> Iterator[Contest]:
    """The contest after its rounds of first syncs, while the old design's broker runs."""
    old, why = None, ""
    try:
        old = OldDesign(setting)
    except (Failed, OSError, subprocess.SubprocessError) as error:
        why = (str(error).strip().splitlines() or [""])[-1][:200]
    contest = Contest(setting, vendor, source, old)
    contest.failed |= {} if old else dict.fromkeys((BULK, ROWS), f"could not be installed: {why}")
    with old.running() if old else nullcontext():
        for _ in range(setting.rounds):
            contest.first()
        yield contest


def _with_reasons(contest: Contest, tables: list[Table]) -> list[Table]:
    versions = [f"{peer.name} {peer.version}" for peer in contest.peers]
    broker = f" The old design's broker: {contest.old.broker}, whose CPU is not counted." if contest.old else ""
    tables[0].notes.append(
        f"{', '.join(versions)}. Programs are counted with their start, as each sync starts them; syncd, the bare "
        f"limit and the old design's worker without.{broker}"
    )
    return tables
