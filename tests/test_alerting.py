"""Alerts through a real database: what is told of runs that a real engine made, and how it reaches its receivers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from structlog.testing import capture_logs

from syncd.alerting import Alerting
from syncd.errors import AuthError, Misconfigured, RateLimited, SourceError, Transient
from syncd.http import Link
from syncd.notify import Message, Undelivered
from syncd.settings import Settings
from syncd.source import Page, Since
from syncd.store import Database, Line, Store, Which
from syncd.store.outbox import HOLD
from tests.conftest import Clock
from tests.scripted import Bench, message, source

DOWN = Transient("HTTP 503")


class Inbox:
    """A receiver that keeps what came, or raises the ``fault``."""

    def __init__(self) -> None:
        self.came: list[Message] = []
        self.fault: Exception | None = None
        self.once = False

    async def deliver(self, message: Message) -> None:
        """``once``: the fault is over with this one."""
        if self.fault is not None:
            fault, self.fault = self.fault, None if self.once else self.fault
            raise fault
        self.came.append(message)

    @property
    def events(self) -> list[tuple[str, list[str]]]:
        """(event, whose) of each that came."""
        return [(one.facts["event"], [who["workspace_id"] for who in one.facts["connections"]]) for one in self.came]


class Scene(Bench):
    """Connections whose reading fails as ``faults`` says, by workspace or for all (``*``), and a watch over them."""

    def __init__(self, store: Store, clock: Clock) -> None:
        super().__init__(store, source(self._read), clock)
        self.clock, self.faults, self.inbox = clock, dict[str, SourceError](), Inbox()
        self.watch = self.watcher(store)

    def watcher(self, store: Store, **more: Inbox) -> Alerting:
        """A daemon's watch, which began now."""
        settings, plans = Settings(), self.engine.plans
        return Alerting(settings, store, plans, {"webhook": self.inbox, **more}, "http://page")

    async def _read(self, link: Link, since: Since) -> AsyncIterator[Page]:
        fault = self.faults.get(link.credentials["token"].removeprefix("t-"), self.faults.get("*"))
        if fault is not None:
            raise fault
        yield Page(records=[message("a")])

    async def later(self, watch: Alerting | None = None, **by: float) -> list[tuple[str, list[str]]]:
        """Look, and look again so much later; answers all that was told until now."""
        watch = watch or self.watch
        await watch.look()
        self.clock.advance(**by)
        await watch.look()
        await watch.deliver("webhook")
        return self.inbox.events


@pytest_asyncio.fixture
async def scene(sqlite_url: str, clock: Clock) -> AsyncIterator[Scene]:
    database = Database(sqlite_url)
    yield Scene(Store(database, clock), clock)
    await database.close()


@pytest.fixture
def both(store: Store, clock: Clock) -> Scene:
    """On each of the databases: for what the database itself has to do."""
    return Scene(store, clock)


async def test_a_revoked_token_is_told_once_and_so_is_its_end(scene: Scene) -> None:
    await scene.connect("acme")
    scene.faults["acme"] = AuthError("token_revoked", hint="the token was revoked")
    await scene.cycle()
    assert await scene.later(minutes=5) == [("needs_reauth", ["acme"])]
    (told,) = scene.inbox.came
    assert told.title == "Slack of acme needs new credentials"
    assert (told.facts["reason"], told.link) == ("token_revoked", "http://page/connections/1")
    assert len(await scene.later(hours=1)) == 1
    scene.faults.clear()
    line = Line(workspace_id="acme", source="slack", credentials={"token": "t-acme"})
    await scene.store.connections.put([line], scene.vault.seal)
    assert len(await scene.later(minutes=5)) == 1
    await scene.cycle()
    assert (await scene.later(minutes=5))[1:] == [("recovered", ["acme"])]


async def test_a_vendor_that_is_down_for_25_is_one_message_and_so_is_its_end(both: Scene) -> None:
    await both.connect(*(f"w{at:02}" for at in range(25)))
    both.faults["*"] = DOWN
    await both.cycle()
    ((event, whose),) = await both.later(minutes=5)
    assert (event, both.inbox.came[0].facts["outage"]) == ("failing", True)
    assert both.inbox.came[0].title == f"Slack does not answer: {len(whose)} connections fail"
    assert len(await both.later(hours=1)) == 1  # the others are late by now: nobody asked for them
    await both.cycle()
    assert len(await both.later(minutes=5)) == 1
    both.faults.clear()
    await both.cycle()
    (_, (event, whose)) = await both.later(minutes=5)
    assert (event, len(whose)) == ("recovered", 25)
    assert await both.store.outbox.open_alerts() == []


@pytest.mark.parametrize("how", ["pause", "remove", "purge"])
async def test_what_is_paused_removed_or_purged_is_closed_in_silence(scene: Scene, how: str) -> None:
    await scene.connect("acme")
    scene.faults["acme"] = DOWN
    await scene.cycle()
    await scene.later(minutes=5)
    if how == "pause":
        await scene.store.connections.set_active(1, active=False)
    elif how == "remove":
        await scene.store.connections.remove(1)
    else:
        await scene.store.purges.purge(Which(workspace="acme"), by="me")
    assert await scene.later(minutes=30) == [("failing", ["acme"])]
    assert await scene.store.outbox.open_alerts() == []


@pytest.mark.parametrize("how", ["pause", "purge"])
async def test_a_message_that_waits_goes_with_its_connection(both: Scene, how: str) -> None:
    await both.connect("acme")
    both.faults["acme"], both.inbox.fault = DOWN, Undelivered("HTTP 503")
    await both.cycle()
    await both.later(minutes=5)
    both.inbox.fault = None
    if how == "pause":
        await both.store.connections.set_active(1, active=False)
    else:
        await both.store.purges.purge(Which(workspace="acme"), by="me")
        assert await both.rows("notices") == []
    assert await both.later(minutes=30) == []


async def test_a_message_that_is_dropped_while_it_fails_does_not_come_back(scene: Scene) -> None:
    class Pausing(Inbox):
        async def deliver(self, message: Message) -> None:
            await scene.store.connections.set_active(1, active=False)
            await scene.watch.look()
            self.came.append(message)
            raise Undelivered("HTTP 503")

    scene.inbox = Pausing()
    scene.watch = scene.watcher(scene.store)
    await scene.connect("acme")
    scene.faults["acme"] = DOWN
    await scene.cycle()
    assert len(await scene.later(minutes=5)) == 1
    assert len(await scene.later(hours=1)) == 1


async def test_a_restart_tells_nothing_twice(scene: Scene) -> None:
    await scene.connect("acme")
    scene.faults["acme"] = Misconfigured("missing_scope")
    await scene.cycle()
    await scene.later(minutes=3)
    assert await scene.later(scene.watcher(scene.store), minutes=2) == [("misconfigured", ["acme"])]
    assert len(await scene.later(scene.watcher(scene.store), minutes=10)) == 1


async def test_of_several_daemons_one_tells(both: Scene, database_url: str) -> None:
    await both.connect("acme", "globex")
    both.faults["*"] = Misconfigured("missing_scope")
    await both.cycle()
    databases = [Database(database_url) for _ in range(4)]
    daemons = [both.watcher(Store(database, both.clock)) for database in databases]
    await asyncio.gather(*(one.look() for one in daemons))
    both.clock.advance(minutes=5)
    await asyncio.gather(*(one.look() for one in daemons))
    await asyncio.gather(*(one.deliver("webhook") for one in daemons))
    for database in databases:
        await database.close()
    assert sorted(both.inbox.events) == [("misconfigured", ["acme"]), ("misconfigured", ["globex"])]


async def test_what_is_late_for_a_limit_says_so(scene: Scene) -> None:
    await scene.connect("acme")
    scene.faults["acme"] = RateLimited("HTTP 429", retry_after_s=7200.0, limit="calls")
    await scene.cycle()
    scene.clock.advance(minutes=15)
    await scene.later(minutes=31)
    assert await scene.later(minutes=30) == [("late", ["acme"])]
    assert scene.inbox.came[0].facts["reason"] == "it waits for calls until 2026-01-05 14:00 UTC"


async def test_a_look_at_nothing_new_writes_nothing(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    await scene.connect("acme")
    scene.faults["acme"] = DOWN
    await scene.cycle()
    await scene.later(minutes=5)
    monkeypatch.setattr(scene.store.database, "write", None)
    await scene.watch.look()
    await scene.watch.deliver("webhook")


async def test_a_receiver_that_is_away_gets_all_later_in_their_order(both: Scene) -> None:
    await both.connect("acme", "globex")
    both.faults["acme"], both.inbox.fault = DOWN, Undelivered("HTTP 503")
    await both.cycle()
    await both.later(minutes=5)
    both.faults.clear()
    await both.cycle()
    assert await both.later(minutes=5) == []
    (state,) = (await both.store.outbox.waiting()).values()
    assert (state["waiting"], state["last_sent_at"], state["error"]) == (2, None, "HTTP 503")
    both.inbox.once = True
    assert await both.later(minutes=2) == []
    assert await both.later(minutes=2) == [("failing", ["acme"]), ("recovered", ["acme"])]
    assert len(await both.later(hours=2)) == 2


async def test_one_that_a_receiver_refuses_holds_up_no_other(both: Scene) -> None:
    await both.connect("acme", "globex")
    both.faults["acme"], both.inbox.fault = DOWN, Undelivered("HTTP 400", refused=True)
    await both.cycle()
    await both.later(minutes=5)
    both.inbox.fault = None
    both.faults["globex"] = Misconfigured("missing_scope")
    await both.cycle()
    await both.watch.look()
    both.clock.advance(minutes=5)
    await both.watch.look()
    async with both.store.database.write() as session:
        await session.execute(text("UPDATE deliveries SET next_try_at = '2026-01-05 12:40:00+00' WHERE refused"))
    await both.watch.deliver("webhook")
    assert both.inbox.events == [("misconfigured", ["globex"])]


async def test_a_message_that_its_sender_did_not_live_to_send_is_sent_by_another(both: Scene) -> None:
    await both.connect("acme")
    both.faults["acme"] = DOWN
    await both.cycle()
    await both.watch.look()
    both.clock.advance(minutes=5)
    await both.watch.look()
    assert await both.store.outbox.take("webhook") is not None
    assert await both.later(minutes=0) == []
    assert await both.later(minutes=max(5, HOLD.total_seconds() / 60)) == [("failing", ["acme"])]


async def test_a_message_is_not_sent_again_though_the_database_went_away_after_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any) -> None:
        failures.append(1)
        if len(failures) == 1:
            raise OperationalError("", None, OSError("away"))
        await sent(*_)

    failures: list[int] = []
    sent = scene.store.outbox.sent
    monkeypatch.setattr(scene.store.outbox, "sent", away)
    monkeypatch.setattr("syncd.alerting._FIRST_PAUSE_S", 0.0)
    await scene.connect("acme")
    scene.faults["acme"] = DOWN
    await scene.cycle()
    assert len(await scene.later(minutes=5)) == 1
    assert len(await scene.later(hours=1)) == 1
    assert len(failures) == 2


async def test_a_receiver_that_fails_is_told_once_in_the_log_and_so_is_its_return(scene: Scene) -> None:
    await scene.connect("acme")
    scene.faults["acme"], scene.inbox.fault = DOWN, Undelivered("HTTP 503")
    await scene.cycle()
    with capture_logs() as lines:
        for _ in range(3):
            await scene.later(minutes=10)
        scene.inbox.fault = None
        await scene.later(minutes=15)
    said = [(line["event"], line["log_level"]) for line in lines if line["event"].startswith("alert.")]
    assert said == [("alert.told", "info"), ("alert.undelivered", "warning"), ("alert.delivered", "info")]


async def test_after_a_day_it_is_given_up(scene: Scene) -> None:
    await scene.connect("acme")
    scene.faults["acme"], scene.inbox.fault = DOWN, Undelivered("HTTP 503")
    await scene.cycle()
    await scene.later(minutes=5)
    with capture_logs() as lines:
        await scene.later(hours=25)
    assert [line["event"] for line in lines if line["log_level"] == "error"] == ["alert.given_up"]
    scene.inbox.fault = None
    assert [event for event, _ in await scene.later(hours=2)].count("failing") == 0


@asynccontextmanager
async def running(watch: Alerting, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """The watch as a task. What hangs is cut at once when it ends."""
    monkeypatch.setattr("syncd.alerting._ENDING_S", 0.01)
    monkeypatch.setattr(watch, "_every_s", 0.01)
    task = asyncio.create_task(watch.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_a_receiver_that_hangs_holds_up_neither_the_watch_nor_another(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hanging(Inbox):
        async def deliver(self, message: Message) -> None:
            await asyncio.Event().wait()

    watch = scene.watcher(scene.store, slack=Hanging())
    await scene.connect("acme")
    scene.faults["acme"] = DOWN
    await scene.cycle()
    await watch.look()
    scene.clock.advance(minutes=5)
    async with running(watch, monkeypatch), asyncio.timeout(10):
        while not scene.inbox.came:
            await asyncio.sleep(0.01)
    assert scene.inbox.events == [("failing", ["acme"])]


async def test_a_database_that_is_away_is_told_once_and_the_watch_goes_on(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def look(*_: Any) -> Any:
        looks.append(1)
        if len(looks) < 4:
            raise OSError("away")
        return []

    looks: list[int] = []
    monkeypatch.setattr(scene.store.alerts, "look", look)
    with capture_logs() as lines:
        async with running(scene.watch, monkeypatch), asyncio.timeout(10):
            while len(looks) < 6:
                await asyncio.sleep(0.01)
    assert [line["event"] for line in lines] == ["alerts.interrupted", "alerts.resumed"]


async def test_what_is_over_since_long_is_pruned(both: Scene) -> None:
    await both.connect("acme", "globex")
    both.faults["*"] = DOWN
    await both.cycle()
    await both.later(minutes=5)
    both.faults = {"globex": DOWN}
    await both.cycle()
    await both.later(minutes=5)
    await both.later(days=31)
    assert [one.workspace_id for one in await both.store.connections.all()] == ["acme", "globex"]
    assert [row.connection_id for row in await both.rows("alerts")] == [2, 1]
    assert await both.rows("deliveries") == []
