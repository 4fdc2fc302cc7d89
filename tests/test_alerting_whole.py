"""Alerts as a whole: real processes, real HTTP to vendors and to a receiver."""

from __future__ import annotations

import signal
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from sqlalchemy import text

from syncd.alerting import Alerting
from syncd.credentials import Vault, generate_key
from syncd.daemon import open_parts
from syncd.notify import open_receivers
from syncd.sandbox.world import Options
from syncd.settings import load
from syncd.store import Database, Line, Store
from tests.process import Daemon, environment, wait_for
from tests.test_notify import Hook, hook

__all__ = ["hook"]


async def test_a_daemon_tells_and_another_one_goes_on(sqlite_url: str, hook: Hook, sandbox: Any) -> None:
    """Real processes, a real receiver: a token is revoked, the daemon is killed, the next one tells the end."""

    async def told_and_written(count: int) -> bool:
        async with database.read() as session:
            sent = (await session.execute(text("SELECT COUNT(*) FROM deliveries WHERE sent_at > '2000'"))).scalar_one()
        return bool(sent == count)

    async def connect() -> None:
        """New credentials; the next daemon finds that no cycle of the last turn was there."""
        slack = next(one for one in box.connections() if one["source"] == "slack")
        line = Line(**{name: part for name, part in slack.items() if name != "is_active"})
        await Store(database, lambda: datetime.now(UTC)).connections.put([line], Vault([key]).seal)
        async with database.write() as session:
            await session.execute(text("DELETE FROM runs"))
            await session.execute(text("DELETE FROM cycles"))

    box, key, database = await sandbox(Options(workspaces=1, limits=False)), generate_key(), Database(sqlite_url)
    theirs = environment(
        SYNCD_DATABASE__URL=sqlite_url,
        SYNCD_SECRET_KEYS=key,
        SYNCD_HTTP__PORT="0",
        SYNCD_ALERTS__WAIT="0s",
        SYNCD_ALERTS__WEBHOOK__URL=hook.url,
        SYNCD_ALERTS__WEBHOOK__SECRET="verysecret",
        **box.environment(),
    )
    box.slack.act("acme", "revoke", {})
    await connect()
    async with Daemon(theirs) as daemon:
        await wait_for(lambda: told_and_written(1))
        assert await daemon.stop(signal.SIGKILL) != 0
    box.slack.act("acme", "restore", {})
    await connect()
    async with Daemon(theirs) as daemon:
        await wait_for(lambda: told_and_written(2))
        assert await daemon.stop() == 0
    await database.close()
    came = [orjson.loads(body) for _, body in hook.requests]
    assert [(one["event"], one["connections"][0]["workspace_id"]) for one in came] == [
        ("needs_reauth", "acme"),
        ("recovered", "acme"),
    ]
    assert came[0]["link"].endswith("/connections/1")
    assert not [line for line in daemon.lines if "verysecret" in line or "secret-path" in line]


async def test_a_vendor_that_is_down_is_one_message_over_http_too(
    sqlite_url: str, hook: Hook, sandbox: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gong's source, its sandbox in a bad hour, 25 connections, and a webhook."""
    box = await sandbox(Options(workspaces=25, limits=False))
    more = {"SYNCD_ALERTS__WAIT": "0s", "SYNCD_ALERTS__WEBHOOK__URL": hook.url, "SYNCD_ALERTS__WEBHOOK__SECRET": "s"}
    more |= {"SYNCD_DATABASE__URL": sqlite_url, "SYNCD_SECRET_KEYS": generate_key()}
    for name, value in (box.environment() | more | {"SYNCD_SOURCES__GONG__PATIENCE": "0s"}).items():
        monkeypatch.setenv(name, value)
    settings = load()
    lines = [
        Line(**{name: part for name, part in one.items() if name != "is_active"})
        for one in box.connections()
        if one["source"] == "gong"
    ]
    async with open_parts(settings) as parts, open_receivers(settings.alerts) as receivers:
        await parts.store.connections.put(lines, parts.vault.seal)
        watch = Alerting(settings, parts.store, parts.engine.plans, receivers, "http://page")
        box.world.faults.add({"kind": "503", "vendor": "gong"})
        await parts.engine.cycle("gong", trigger="cli")
        await watch.look()
        await watch.deliver("webhook")
        box.world.faults.rules.clear()
        await parts.engine.cycle("gong", trigger="cli")
        for _ in range(2):
            await watch.look()
        await watch.deliver("webhook")
    came = [orjson.loads(body) for _, body in hook.requests]
    assert [(one["event"], one["source"], one["outage"]) for one in came] == [
        ("failing", "gong", True),
        ("recovered", "gong", True),
    ]
    assert came[0]["count"] == came[1]["count"] >= 5
    assert (came[0]["reason"].endswith("HTTP 503"), came[1]["remaining"]) == (True, 0)
