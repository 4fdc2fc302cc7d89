"""A whole life of syncd, its vendors echoing what they are sent: no secret stands in plain anywhere it leaves a trace."""

from __future__ import annotations

import asyncio
import base64
import io
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from aiohttp import web

from syncd.cli import main
from syncd.connect import Invitation, Signer
from syncd.credentials import Vault, generate_key
from syncd.logs import secrets_of
from syncd.sandbox.app import Sandbox
from syncd.sandbox.world import Options, StandingClock, World
from syncd.store import Database, Store
from tests.connecting import Form

KEYS = [generate_key(), generate_key(), generate_key()]
EXPORT_KEY = generate_key()
SOURCES = ("slack", "gong", "fathom", "gmail")
SINCE = f"{datetime.now(UTC) - timedelta(days=2):%Y-%m-%d}"
PAGES = ("/", "/metrics", "/api/v1/status", "/healthz", "/readyz", "/nothing")


@dataclass
class Traces:
    """All that the life left behind, by where, and the secrets that were used in it."""

    said: dict[str, str] = field(default_factory=dict)
    pages: dict[str, str] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    secrets: set[str] = field(default_factory=set)
    renewed: set[str] = field(default_factory=set)


async def _echo(request: web.Request) -> web.Response:
    """Refuses, and repeats the request's own secrets in whatever member the vendor has for words."""
    words = f"no good: {request.headers.get('Authorization')} {request.query_string} {await request.text()}"
    error = {"message": words, "status": "INVALID", "errors": [{"message": words, "reason": words}]}
    body = {"ok": False, "error": error if "gmail" in request.path else words, "errors": [words], "message": words}
    return web.json_response(body, status=200 if "slack" in request.path else 400)


@contextmanager
def _vendors() -> Iterator[tuple[Sandbox, str]]:
    """A sandbox, and the address of a server that echoes, in a thread of their own: commands have loops of theirs."""
    few = dict.fromkeys(("channels", "messages_per_day", "calls_per_day", "meetings_per_day", "mails_per_day"), 1)
    options = Options(workspaces=2, days=1, limits=False, **few)  # type: ignore[arg-type]
    box, ready, over = Sandbox(options, world=World(options, StandingClock())), threading.Event(), asyncio.Event()
    loop, echo = asyncio.new_event_loop(), ""

    async def serve() -> None:
        nonlocal echo
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", _echo)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        echo = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with box:
            ready.set()
            await over.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=[serve()])
    thread.start()
    ready.wait(10)
    try:
        yield box, echo
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()


class Life:
    """Types commands in this process, and keeps what they say."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self._patch, self._folder = patch, folder
        self.key = folder.parent / f"{folder.name}-key"  # beside: a key's file is no trace
        self.key.write_text(KEYS[1])
        self.key.chmod(0o644)
        self.traces = Traces(secrets={*KEYS, EXPORT_KEY})

    def __call__(self, *words: str, stdin: str = "", expects: int = 0) -> str:
        self._patch.setattr(sys, "argv", ["syncd", *words])
        self._patch.setattr(sys, "stdin", io.StringIO(stdin))
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
            main()
        assert int(ended.value.code or 0) == expects, (words, out.getvalue(), err.getvalue())
        self.traces.said[f"{len(self.traces.said)} {' '.join(words)}"] = out.getvalue() + err.getvalue()
        return out.getvalue()

    def serve(self) -> None:
        """The daemon, until its pages were read."""
        out = io.StringIO()

        def look() -> None:
            while not (found := re.search(r"syncd serves (\S+)", out.getvalue())):
                time.sleep(0.01)
            for path in PAGES:
                self.traces.pages[path] = httpx.get(found[1] + path, trust_env=False).text
            for name in SOURCES:
                self._connects(found[1], name)
            os.kill(os.getpid(), signal.SIGTERM)

        looking = threading.Thread(target=look)
        looking.start()
        self._patch.setattr(sys, "argv", ["syncd", "serve"])
        err = io.StringIO()
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit):
            main()
        looking.join()
        self.traces.said["serve"] = out.getvalue() + err.getvalue()

    def _connects(self, base: str, name: str) -> None:
        """A customer connects by a link, comes back a second time, and with a code that is spent."""
        invitation = Invitation(name, "linked", "", datetime.now(UTC) + timedelta(hours=1))
        link = Signer(KEYS[1:2]).link(base, invitation)
        with httpx.Client(trust_env=False, timeout=20) as http:
            seen = [shown := http.get(link)]
            for _ in range(2):
                left = http.get(shown.url.join(Form(shown.text).on))
                form = Form(http.get(left.headers["location"]).text).fields | {"account": "acme", "answer": "allow"}
                back = httpx.URL(http.post(left.headers["location"], data=form).headers["location"])
                self.traces.secrets |= {back.params["code"], back.params["state"]}
                seen += [http.get(back), http.get(back)]
                shown = http.get(link)
            seen.append(http.get(back.copy_merge_params({"code": "spent"})))
        said = [f"{answer.text} {answer.headers.get('location', '')}" for answer in seen]
        self.traces.pages[f"/connect/{name}"] = "\n".join(said)

    def use(self, credentials: Mapping[str, Any]) -> None:
        """Remember these secrets, and the forms in which they travel."""
        self.traces.secrets |= secrets_of(credentials)
        if "access_key" in credentials:
            pair = f"{credentials['access_key']}:{credentials['access_key_secret']}"
            self.traces.secrets.add(base64.b64encode(pair.encode()).decode())

    def use_stored(self, url: str) -> None:
        """Remember what is stored now: the vendors gave new tokens."""

        async def stored() -> list[dict[str, Any]]:
            database = Database(url)
            found = await Store(database, lambda: None).connections.all()  # type: ignore[arg-type,return-value]
            await database.close()
            return [Vault(KEYS).open(one.id, one.sealed) for one in found if one.sealed]

        given = set(self.traces.secrets)
        for credentials in asyncio.run(stored()):
            self.use(credentials)
        self.traces.renewed |= self.traces.secrets - given

    def look_into_files(self) -> None:
        for file in self._folder.glob("*"):
            self.traces.files[file.name] = file.read_bytes()


def _live(life: Life, box: Sandbox, echo: str, url: str, patch: pytest.MonkeyPatch) -> None:
    """Set up, read, renew, fail, look at it in all ways, change the key, move away, erase."""
    lines = [dict(one) for one in box.connections()]
    for one in lines:
        life.use(one["credentials"])
    life("migrate")
    first, *others = lines
    added = orjson.dumps(first["credentials"]).decode()
    words = ("--source", first["source"], "--workspace", first["workspace_id"], "--account", first["account"])
    life("connections", "add", *words, "--credentials-file", "-", stdin=added)
    life("connections", "import", "-", stdin="\n".join(orjson.dumps(one).decode() for one in others))
    life("run-once", "--source", "all")
    box.world.clock.advance(timedelta(days=2))
    life("run-once", "--source", "all", "--json")
    life.use_stored(url)
    with patch.context() as echoing:
        for name in SOURCES:
            echoing.setenv(f"SYNCD_SOURCES__{name.upper()}__BASE_URL", f"{echo}/{name}/")
        for name in ("gong", "fathom", "gmail"):
            echoing.setenv(f"SYNCD_SOURCES__{name.upper()}__TOKEN_URL", f"{echo}/{name}/token")
        life("run-once", "--source", "all", expects=1)
        life("connections", "check", expects=1)
        life("verify", expects=1)
        life("backfill", "--source", "all", "--since", SINCE, expects=1)
    life.serve()
    life.use_stored(url)
    life("backfill", "--source", "all", "--workspace", "linked", "--since", SINCE)
    life("verify", "--workspace", "linked")
    for look in ("status", "status --json", "connections list", "config"):
        life(*look.split())
    life("doctor", expects=1)
    life.key.write_text("\n".join(KEYS))
    life("keys", "rotate")
    life("connections", "export", "moving.jsonl")
    life("connections", "import", "moving.jsonl")
    life.look_into_files()
    life.key.write_text(KEYS[2])
    life("run-once", "--source", "all", expects=2)
    life("purge", "--workspace", "acme", "--yes")
    life("purge", "--log")


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Traces:
    folder = tmp_path_factory.mktemp("life")
    handlers = list(logging.getLogger().handlers)
    with pytest.MonkeyPatch.context() as patch, _vendors() as (box, echo):
        patch.chdir(folder)
        life = Life(folder, patch)
        url = f"sqlite+aiosqlite:///{folder}/syncd.db"
        chosen = {
            "DATABASE__URL": url,
            "SECRET_KEYS_FILE": str(life.key),
            "EXPORT_KEY": EXPORT_KEY,
            "HTTP__PORT": "0",
            "SOURCES__GONG__LIMITS__CALLS": "100/1s",
            # a backfill waits for a turn that is near
            **{f"SOURCES__{name.upper()}__CRON": "0 0 1 1 *" for name in SOURCES},
            "LOG__LEVEL": "debug",
            "LOG__FORMAT": "json",
        }
        for name, value in (box.environment() | {f"SYNCD_{name}": value for name, value in chosen.items()}).items():
            patch.setenv(name, value)
        _live(life, box, echo, url, patch)
    logging.getLogger().handlers[:] = handlers
    return life.traces


def shown(traces: Traces, text: str) -> list[str]:
    return [secret for secret in traces.secrets if secret in text]


def test_tokens_were_renewed_and_the_vendors_echoed_them(traces: Traces) -> None:
    """Or the other tests would prove nothing."""
    assert len(traces.renewed) >= 6  # a pair of Gong's and one of Fathom's, two access tokens of Gmail's
    failed = next(said for words, said in traces.said.items() if "run-once" in words and "no good" in said)
    assert "no good: **********" in failed.replace("Bearer ", "")
    assert "**********" in traces.pages["/api/v1/status"]


def test_no_command_says_one(traces: Traces) -> None:
    assert {words: found for words, said in traces.said.items() if (found := shown(traces, said))} == {}


def test_no_page_shows_one(traces: Traces) -> None:
    assert set(traces.pages) == {*PAGES, *(f"/connect/{name}" for name in SOURCES)}
    assert all("is connected" in traces.pages[f"/connect/{name}"] for name in SOURCES)
    assert {path: found for path, page in traces.pages.items() if (found := shown(traces, page))} == {}


def test_no_file_of_the_database_or_of_an_export_holds_one(traces: Traces) -> None:
    assert {"syncd.db", "moving.jsonl"} <= set(traces.files)
    held = {name: shown(traces, content.decode("latin-1")) for name, content in traces.files.items()}
    assert {name: found for name, found in held.items() if found} == {}


def test_serve_warned_once_of_a_key_that_every_user_may_read(traces: Traces) -> None:
    assert traces.said["serve"].count("secret_file.exposed") == 1
