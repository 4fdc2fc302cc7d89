"""What /metrics tells: counted by the process, read from the database, and asked for by the dashboard and the rules."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families as families
from sqlalchemy import update

from syncd import tables
from syncd.errors import AuthError, RateLimited, Transient
from syncd.gauges import Gauges
from syncd.http import Link
from syncd.limits import Rate
from syncd.metrics import Metrics, watch_lag
from syncd.patience import Patience
from syncd.records import Deletion, Message, Person
from syncd.report import overview
from syncd.sandbox.app import Sandbox
from syncd.sandbox.world import Options
from syncd.settings import Settings
from syncd.source import Page, Since
from syncd.store import Store
from tests.conftest import Clock
from tests.connecting import serving, settings
from tests.scripted import Bench, message, pages, source

ROOT = Path(__file__).parents[1]
SMALL = Options(workspaces=1, days=1, limits=False)
Told = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


def told(text: bytes) -> Told:
    return {
        (one.name, frozenset(one.labels.items())): one.value
        for family in families(text.decode())
        for one in family.samples
    }


def value(text: bytes, name: str, **labels: str) -> float | None:
    return told(text).get((name, frozenset(labels.items())))


def gauges_of(bench: Bench, chosen: Settings | None = None) -> Gauges:
    gauges = Gauges(bench.store, bench.engine, chosen or Settings())
    bench.metrics.add(gauges, gauges.look)
    return gauges


@pytest.fixture
def clock() -> Clock:
    real = Clock()
    real.at = datetime.now(UTC)
    return real


# ── counted ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_rows_are_counted_by_table_and_change(store: Store, clock: Clock) -> None:
    first = Page(records=[message("a"), message("b"), Person(external_id="p", raw={})], notes=["at once"])
    then = Page(records=[message("a", "edited"), message("b")], deletions=[Deletion(Message, "b")])
    bench = Bench(store, source(pages(first, then)), clock)
    await bench.connect("acme")
    await bench.cycle()
    rows = {
        labels: number
        for (name, labels), number in told(await bench.metrics.scrape()).items()
        if name == "syncd_records_total"
    }
    assert {tuple(sorted(dict(labels).items())): number for labels, number in rows.items()} == {
        (("change", "added"), ("kind", "messages"), ("source", "slack")): 2,
        (("change", "added"), ("kind", "people"), ("source", "slack")): 1,
        (("change", "changed"), ("kind", "messages"), ("source", "slack")): 1,
        (("change", "deleted"), ("kind", "messages"), ("source", "slack")): 1,
    }


async def test_runs_are_counted_by_outcome_and_kind_of_error(store: Store, clock: Clock) -> None:
    bench = Bench(store, source(pages(AuthError("revoked"))), clock)
    await bench.connect("acme")
    await bench.cycle()
    text = await bench.metrics.scrape()
    assert value(text, "syncd_runs_total", source="slack", status="failed") == 1
    assert value(text, "syncd_run_errors_total", source="slack", kind="auth") == 1
    assert value(text, "syncd_cycles_total", source="slack", status="success") == 1


def test_what_did_not_happen_yet_is_zero() -> None:
    """A counter that appears with its first failure has no increase that an alert could see."""
    metrics = Metrics(["slack"])
    assert metrics.registry.get_sample_value("syncd_runs_total", {"source": "slack", "status": "failed"}) == 0


async def test_calls_and_waits_are_counted_of_a_run(store: Store, clock: Clock) -> None:
    faults: Iterator[Any] = iter([Transient("HTTP 503")])

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        async def attempt() -> None:
            if fault := next(faults, None):
                raise fault

        await link.call("heavy", attempt)
        await link.call("heavy", attempt)
        yield Page()

    bench = Bench(store, source(read), clock, patience_s=60.0, rates={"heavy": Rate(2, 0.2)})
    await bench.connect("acme")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("syncd.patience._FIRST_WAIT_S", 0.01)
        await bench.cycle()
    text = await bench.metrics.scrape()
    assert value(text, "syncd_calls_total", source="slack", method="heavy", status="ok") == 2
    assert value(text, "syncd_calls_total", source="slack", method="heavy", status="transient") == 1
    assert value(text, "syncd_call_seconds_count", source="slack") == 3
    retries = {"source": "slack", "reason": "transient", "limit": ""}
    assert value(text, "syncd_wait_seconds_count", **retries) == 1
    assert 0.01 <= (value(text, "syncd_wait_seconds_sum", **retries) or 0) < 0.02
    paced = {"source": "slack", "reason": "pacing", "limit": "heavy"}
    assert value(text, "syncd_wait_seconds_count", **paced) == 1
    assert 0.1 < (value(text, "syncd_wait_seconds_sum", **paced) or 0) < 1


async def test_a_vendors_later_is_counted_with_its_limit() -> None:
    heard: list[tuple[str, str, float]] = []
    patience = Patience(60.0, on_waited=lambda *wait: heard.append(wait))
    await patience.before_retry({"exception": RateLimited("later", limit="heavy"), "wait": 2.5})
    assert heard == [("rate_limited", "heavy", 2.5)]


async def test_the_loops_lag_is_how_much_later_it_woke() -> None:
    metrics, times = Metrics(), itertools.chain([10.0, 10.5, 11.0, 11.8], itertools.repeat(20.0))

    async def sleep(_: float) -> None:
        if metrics.registry.get_sample_value("syncd_event_loop_lag_seconds_count") == 2:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await watch_lag(metrics, monotonic=lambda: next(times), sleep=sleep)
    assert metrics.registry.get_sample_value("syncd_event_loop_lag_seconds_sum") == pytest.approx(0.3)


# ── seen ────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def troubled(bench: Bench, clock: Clock) -> None:
    """Six connections: well, revoked, failing, overdue, limited, paused."""
    await bench.connect(*"abcdef")
    of, now = tables.connections.c, clock()
    known = now - timedelta(days=2)
    changes: list[dict[str, Any]] = [
        {},
        {"status": "needs_reauth"},
        {"failures": 2},
        {"last_success_at": now - timedelta(hours=3)},
        {"limited_until": now + timedelta(minutes=5), "limited_by": "heavy"},
        {"is_active": False},
    ]
    async with bench.store.database.write() as session:
        for at, change in enumerate(changes, 1):
            values = {"last_success_at": now, "status_since": known, "created_at": known, **change}
            await session.execute(update(tables.connections).where(of.id == at).values(**values))


async def test_the_sums_are_those_of_the_status_report(store: Store, clock: Clock) -> None:
    bench = Bench(store, source(pages(Page())), clock)
    await troubled(bench, clock)
    gauges_of(bench)
    text = await bench.metrics.scrape()
    report = (await overview(store, bench.engine.plans, Settings()))["sources"]["slack"]
    for name, label, known in (
        ("syncd_connections", "state", report["states"]),
        ("syncd_connections_freshness", "freshness", report["freshness"]),
        ("syncd_connections_trouble", "trouble", report["troubles"]),
        ("syncd_connections_waiting", "limit", report["waiting"]),
    ):
        seen = {dict(labels)[label]: number for (one, labels), number in told(text).items() if one == name and number}
        assert seen == known
    assert report["troubles"] == {"needs_reauth": 1, "failing": 1, "overdue": 1}
    assert value(text, "syncd_oldest_read_age_seconds", source="slack") == 3 * 3600
    assert value(text, "syncd_connections", source="slack", state="misconfigured") == 0
    assert value(text, "syncd_database_up") == 1


async def test_leases_turns_and_the_pool_are_told(store: Store, clock: Clock) -> None:
    bench = Bench(store, source(pages(Page())), clock)
    await bench.connect("acme", "globex")
    turn = bench.engine.plans["slack"].last_turn(clock())
    await bench.cycle(turn=turn)
    await store.connections.hold(1, "mine")
    gauges_of(bench)
    text = await bench.metrics.scrape()
    assert value(text, "syncd_leases", source="slack") == 1
    assert value(text, "syncd_turn_taken_timestamp_seconds", source="slack") == turn.timestamp()
    assert value(text, "syncd_turn_due_timestamp_seconds", source="slack") == turn.timestamp()
    assert value(text, "syncd_database_pool_size") == 10
    assert value(text, "syncd_slots", source="slack") == 4


async def test_connections_are_told_one_by_one_only_where_asked_for(store: Store, clock: Clock) -> None:
    bench = Bench(store, source(pages(Page())), clock)
    await troubled(bench, clock)
    plain, each = gauges_of(bench), Bench(store, source(pages(Page())), clock)
    gauges_of(each, Settings(metrics={"per_connection": True}))
    assert not [labels for _, labels in told(await bench.metrics.scrape()) if "workspace" in dict(labels)]
    text = await each.metrics.scrape()
    assert value(text, "syncd_connection_missed_turns", source="slack", workspace="d", connection="4") == 2
    whose = {"source": "slack", "workspace": "b", "connection": "2"}
    assert value(text, "syncd_connection_trouble", **whose, trouble="needs_reauth") == 1
    assert value(text, "syncd_connection_last_success_timestamp_seconds", **whose) == pytest.approx(clock().timestamp())
    assert value(text, "syncd_connection_missed_turns", source="slack", workspace="f", connection="6") is None
    await plain.close()


async def test_many_scrapes_read_the_database_once(store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, asked = Bench(store, source(pages(Page())), clock), 0
    sums = store.status.sums

    async def counted(*given: Any) -> Any:
        nonlocal asked
        asked += 1
        return await sums(*given)

    monkeypatch.setattr(store.status, "sums", counted)
    gauges_of(bench)
    await asyncio.gather(*(bench.metrics.scrape() for _ in range(5)))
    await bench.metrics.scrape()
    assert asked == 1


async def test_a_scrape_does_not_wait_for_a_frozen_database_nor_tell_old_numbers(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(store, source(pages(Page())), clock)
    await bench.connect("acme")
    gauges = gauges_of(bench)
    monkeypatch.setattr("syncd.gauges._FRESH_S", 0.0)
    assert value(await bench.metrics.scrape(), "syncd_leases", source="slack") == 0
    monkeypatch.setattr("syncd.gauges._PATIENCE_S", 0.05)
    monkeypatch.setattr(store.status, "sums", lambda _: asyncio.Event().wait())
    text = await bench.metrics.scrape()
    assert value(text, "syncd_database_up") == 0
    assert value(text, "syncd_leases", source="slack") is None
    await gauges.close()


async def test_a_scrape_survives_a_database_that_fails_and_tells_when_it_is_back(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object) -> None:
        raise OSError("the database is away")

    bench = Bench(store, source(pages(Page())), clock)
    gauges_of(bench)
    monkeypatch.setattr("syncd.gauges._FRESH_S", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(store.health, "leases", fails)
        assert value(await bench.metrics.scrape(), "syncd_database_up") == 0
    assert value(await bench.metrics.scrape(), "syncd_database_up") == 1


# ── asked for ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def scraped(
    sandbox: Callable[[Options], Awaitable[Sandbox]], sqlite_url: str
) -> tuple[set[str], dict[str, set[str]]]:
    """The names in a real scrape after a cycle of each source, and each name's labels."""
    box = await sandbox(SMALL)
    async with serving(settings(box, sqlite_url)) as (parts, base):
        from syncd.store import Line

        lines = [Line(**{key: part for key, part in line.items() if key != "is_active"}) for line in box.connections()]
        await parts.store.connections.put(lines, parts.vault.seal)
        box.world.faults.add({"kind": "503", "vendor": "gong"})
        for name in parts.engine.plans:
            await parts.engine.cycle(name, trigger="schedule", turn=datetime.now(UTC))
        parts.metrics.waited("slack", "pacing", "users.list", 0.1)
        async with parts.store.database.write() as session:
            late = {"limited_until": datetime.now(UTC) + timedelta(hours=1), "limited_by": "day"}
            await session.execute(update(tables.connections).where(tables.connections.c.id == 1).values(**late))
        async with httpx.AsyncClient(trust_env=False) as client:
            text = (await client.get(f"{base}/metrics")).content
    labels: dict[str, set[str]] = {}
    for name, pairs in told(text):
        labels.setdefault(name, set()).update(dict(pairs))
    return set(labels), labels


def selectors(expression: str) -> Iterator[Any]:
    """Every selector of a PromQL expression, parsed as Prometheus does."""
    found: list[Any] = []

    def visit(node: Any) -> bool:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)
        return True

    assert promql_parser.walk(promql_parser.parse(expression), visit)
    return iter(found)


def expressions() -> Iterator[tuple[str, str]]:
    rules = yaml.safe_load((ROOT / "deploy/alerts.rules.yml").read_text())
    for group in rules["groups"]:
        yield from ((rule["alert"], rule["expr"]) for rule in group["rules"])
    for panel in json.loads((ROOT / "deploy/grafana.json").read_text())["panels"]:
        for target in panel.get("targets", ()):
            chosen = target["expr"].replace("$__rate_interval", "5m").replace("$source", ".*")
            yield panel["title"], chosen


async def test_every_expression_of_the_dashboard_and_the_rules_asks_for_what_is_scraped(
    scraped: tuple[set[str], dict[str, set[str]]],
) -> None:
    names, labels = scraped
    asked = set()
    for title, expression in expressions():
        for one in selectors(expression):
            assert one.name in names, f"{title}: {one.name} is in no scrape"
            asked.add(one.name)
            for matcher in one.matchers.matchers:
                assert matcher.name in labels[one.name], f"{title}: {one.name} has no label {matcher.name}"
    assert len(asked) > 25


def test_each_rule_says_what_it_means_and_what_to_do() -> None:
    rules = [
        rule
        for group in yaml.safe_load((ROOT / "deploy/alerts.rules.yml").read_text())["groups"]
        for rule in group["rules"]
    ]
    assert len({rule["alert"] for rule in rules}) == len(rules) > 10
    for rule in rules:
        assert set(rule) <= {"alert", "expr", "for", "keep_firing_for", "labels", "annotations"}, rule["alert"]
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert set(rule["annotations"]) == {"summary", "description", "action"}, rule["alert"]
        assert all(len(words) > 15 for words in rule["annotations"].values())


def test_the_dashboard_is_whole() -> None:
    board = json.loads((ROOT / "deploy/grafana.json").read_text())
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    assert [panel["title"] for panel in board["panels"] if panel["type"] == "row"] == [
        "Overview: what needs somebody",
        "Per source",
        "Limits and calls",
        "Process",
    ]
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, f"{panel['title']} lies over another panel"
        assert max(x for x, _ in cells) < 24
        taken |= cells


async def test_the_number_of_rows_does_not_grow_with_the_connections(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncd.gauges._FRESH_S", 0.0)
    bench, sizes = Bench(store, source(pages(Page(records=[message("m")]))), clock), []
    gauges_of(bench)
    for names in ("a", "bcde"):
        await bench.connect(*names)
        await bench.cycle()
        sizes.append(len(told(await bench.metrics.scrape())))
    assert sizes[0] == sizes[1]
