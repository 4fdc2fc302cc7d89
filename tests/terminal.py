"""A command on a real terminal (a pty), for what it asks of a person."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import sqlite3
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import pytest

from syncd.credentials import generate_key
from syncd.sandbox.app import Sandbox
from syncd.sandbox.world import Options
from tests.leaks import watch
from tests.process import environment

WAIT_S = 25
_TAKES_THE_TERMINAL = (
    "import fcntl,os,sys,termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


class Terminal:
    """``async with Terminal(env, "connect", "slack") as one: await one.types("How", "2")``; ``shown``: all so far."""

    def __init__(self, env: Mapping[str, str], *words: str, term: str = "dumb") -> None:
        self._env, self._words = {**env, "TERM": term, "COLUMNS": "200"}, words
        self.shown = ""
        self._seen = 0
        self._closed = False

    async def __aenter__(self) -> Self:
        self._ours, theirs = pty.openpty()
        python = sys.executable
        self._process = await asyncio.create_subprocess_exec(
            *(python, "-c", _TAKES_THE_TERMINAL, python, "-m", "syncd", *self._words),
            env=self._env,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,  # getpass asks the terminal of the session, not stdin
        )
        os.close(theirs)
        os.set_blocking(self._ours, False)
        self._changed = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._ours, self._read)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        asyncio.get_running_loop().remove_reader(self._ours)
        os.close(self._ours)
        watch.look("what the terminal showed", self.shown)

    def _read(self) -> None:
        try:
            data = os.read(self._ours, 65536)
        except OSError:  # the other side is closed
            data = b""
        if not data:
            self._closed = True
            asyncio.get_running_loop().remove_reader(self._ours)
        self.shown += data.decode(errors="replace")
        self._changed.set()

    async def until(self, words: str) -> str:
        """What is shown since the last time, up to these words."""
        async with asyncio.timeout(WAIT_S):
            while (at := self.shown.find(words, self._seen)) < 0:
                assert not self._closed, f"it ended without {words!r}: {self.shown}"
                self._changed.clear()
                await self._changed.wait()
        begun, self._seen = self._seen, at + len(words)
        return self.shown[begun : self._seen]

    async def types(self, after: str, line: str) -> None:
        """Type a line once these words are shown."""
        await self.until(after)
        os.write(self._ours, f"{line}\n".encode())

    def interrupt(self) -> None:
        """Ctrl-C."""
        os.write(self._ours, b"\x03")

    async def ends(self) -> int:
        """The exit code, once all is shown."""
        async with asyncio.timeout(WAIT_S):
            while not self._closed:
                self._changed.clear()
                await self._changed.wait()
            return await self._process.wait()


class Shell:
    """``syncd``'s surroundings: a sandbox with its OAuth apps, a migrated database."""

    def __init__(self, box: Sandbox, folder: Path, url: str) -> None:
        self.box, self._file = box, folder / "syncd.db"
        known = {"SYNCD_DATABASE__URL": url, "SYNCD_SECRET_KEYS": generate_key(), "BROWSER": "true"}
        self.env = environment(**known, **box.environment())

    def stored(self) -> list[tuple[Any, ...]]:
        db = sqlite3.connect(self._file)
        try:
            rows = db.execute("SELECT source, workspace_id, settings, identity FROM connections").fetchall()
        finally:
            db.close()
        return [(source, workspace, json.loads(chosen), identity) for source, workspace, chosen, identity in rows]


@pytest.fixture
async def shell(sandbox, sqlite_url: str, tmp_path: Path) -> Shell:
    return Shell(await sandbox(Options(workspaces=1, days=1, limits=False)), tmp_path, sqlite_url)
