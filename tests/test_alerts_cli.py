"""``syncd alerts``, and the settings by which people are told."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import orjson
import pytest

from syncd.alerting import Alerting
from syncd.daemon import open_store, plan
from syncd.errors import UsageError
from syncd.notify import Undelivered, names
from syncd.settings import Settings, load, masked
from syncd.sources import SOURCES
from tests.test_alerting import Inbox
from tests.test_cli import Shell, line, migrated, one_line, syncd

__all__ = ["migrated", "syncd"]


@pytest.fixture
def receiver() -> Iterator[tuple[str, list[bytes]]]:
    """The address of a receiver, and what came."""
    came: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            came.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hook", came
    server.shutdown()
    thread.join()
    server.server_close()


def test_without_a_receiver_it_says_how_to_set_one(migrated: Shell) -> None:
    assert "alerts.slack" in migrated("alerts").out
    one_line(migrated("alerts", "--test"), "alerts.slack", "syncd.toml")


def test_a_test_message_goes_to_each_receiver(
    migrated: Shell, receiver: tuple[str, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, came = receiver
    monkeypatch.setenv("SYNCD_ALERTS__SLACK__URL", url)
    assert (typed := migrated("alerts", "--test")).out == "slack: delivered\n"
    assert typed.code == 0
    assert b"A test message of syncd" in came[0]
    monkeypatch.setenv("SYNCD_ALERTS__WEBHOOK__URL", "http://127.0.0.1:9/very-secret")
    monkeypatch.setenv("SYNCD_ALERTS__WEBHOOK__SECRET", "s")
    typed = migrated("alerts", "--test")
    assert typed.code == 1
    assert typed.out == "webhook: not delivered: it cannot be reached (ConnectError)\nslack: delivered\n"


async def _told(settings: Settings) -> None:
    """A connection that waits for credentials, told to nobody who listens."""
    inbox = Inbox()
    inbox.fault = Undelivered("HTTP 503")
    async with open_store(settings) as store:
        async with store.database.write() as session:
            from sqlalchemy import text

            await session.execute(text("UPDATE connections SET status = 'needs_reauth', last_error = 'revoked'"))
        plans = {name: plan(settings, name) for name in SOURCES}
        watch = Alerting(settings, store, plans, {"slack": inbox}, "http://page")
        await watch.look()
        await watch.deliver("slack")


def test_it_shows_receivers_open_alerts_and_messages(migrated: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNCD_ALERTS__SLACK__URL", "http://127.0.0.1:9/very-secret")
    monkeypatch.setenv("SYNCD_ALERTS__WAIT", "0s")
    assert migrated("connections", "import", "-", stdin=line()).code == 0
    asyncio.run(_told(load()))
    report = orjson.loads(migrated("alerts", "--json").out)
    assert report["receivers"] == {"slack": {"waiting": 1, "last_sent_at": None, "error": "HTTP 503"}}
    (alert,), (message,) = report["open"], report["messages"]
    assert (alert["workspace_id"], alert["trouble"], alert["told"]) == ("acme", "needs_reauth", "needs_reauth")
    assert (message["event"], message["connections"], message["deliveries"][0]["attempts"]) == ("needs_reauth", [1], 1)
    assert datetime.fromisoformat(message["made_at"]).tzinfo == UTC
    shown = migrated("alerts").out
    for words in ("HTTP 503", "needs reauth", "revoked", "slack not yet: HTTP 503"):
        assert words in shown
    assert "very-secret" not in shown


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"webhook": {"url": "http://127.0.0.1/x"}}, "alerts.webhook: give both url and secret"),
        ({"webhook": {"url": "ftp://x", "secret": "s"}}, "alerts.webhook.url: write an address"),
        ({"slack": {"url": "T0/B0/secret"}}, "alerts.slack.url: write an address"),
        ({"mail": {"host": "mx"}}, "alerts.mail: give from and to"),
        ({"mail": {"from": "syncd"}}, "alerts.mail.from: write a mail address"),
        ({"mail": {"to": "a@b\nBcc: c@d"}}, "alerts.mail.to: write a mail address"),
        ({"mail": {"host": "mx", "from": "a@b", "to": "c@d", "user": "ann"}}, "alerts.mail: give both user and pass"),
        (
            {"mail": {"host": "mx", "from": "a@b", "to": "c@d", "user": "u", "password": "p", "security": "none"}},
            "alerts.mail: a password goes to another machine",
        ),
    ],
)
def test_a_wrong_setting_is_one_line(
    given: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for part, values in given.items():
        for name, value in values.items():
            monkeypatch.setenv(f"SYNCD_ALERTS__{part}__{name}".upper(), value)
    with pytest.raises(UsageError) as told:
        load()
    assert str(told.value).startswith(words)
    assert "\n" not in str(told.value)


def test_addresses_and_passwords_are_masked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hook").write_text("https://hooks.slack.com/services/T0/B0/verysecret\n")
    (tmp_path / "hook").chmod(0o600)
    (tmp_path / "syncd.toml").write_text(
        '[alerts]\nslack = {url_file = "hook"}\nwebhook = {url = "https://x/verysecret", secret = "verysecret"}\n'
        'mail = {host = "mx", from = "a@b", to = ["c@d", "e@f"], user = "u", password = "verysecret"}\n'
    )
    monkeypatch.chdir(tmp_path)
    settings = load()
    assert names(settings.alerts) == ["webhook", "slack", "mail"]
    assert settings.alerts.mail.recipients() == ["c@d", "e@f"]
    shown = masked(settings)["alerts"]
    assert (shown["mail"]["from"], shown["slack"]["url"], shown["webhook"]["url"]) == ("a@b", *["**********"] * 2)
    assert "verysecret" not in repr(settings) + str(shown)


def test_without_settings_nobody_is_told() -> None:
    assert names(Settings().alerts) == []
