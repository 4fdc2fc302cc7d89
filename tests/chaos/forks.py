"""Real processes of syncd that start in milliseconds: a parent that has imported it forks one at each order.

As a module it is that parent; `Forks` is what tests hold. A process's clock begins where it is told and then runs, so
that a lease is over at once when the next one begins later.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Self

import orjson

from tests.chaos.seeds import LENGTH

WAIT_S = 600 if LENGTH else 60  # many changes at once may have to wait for the vendors' limits


@dataclass(slots=True)
class Fork:
    """One process. ``out``: the JSON it answered; ``log``: all it said."""

    pid: int
    _forks: Forks
    out: Path
    log: Path
    code: int | None = None

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Harmless when it has ended: until it is waited for its id is nobody else's."""
        if self.code is None:
            os.kill(self.pid, number)

    async def ended(self) -> bool:
        if self.code is None:
            self.code = (await self._forks.order({"do": "poll", "pid": self.pid}))["code"]
        return self.code is not None

    async def wait(self) -> int:
        """Its exit code; less than 0: the signal that ended it."""
        assert await self._ended_within(WAIT_S), f"it runs after {WAIT_S} s: {self.said()[-3000:]}"
        assert self.code is not None
        return self.code

    async def _ended_within(self, seconds: float) -> bool:
        ends = time.monotonic() + seconds
        while not await self.ended():
            if time.monotonic() > ends:
                return False
            await asyncio.sleep(0.005)
        return True

    async def killed_after(self, seconds: float) -> bool:
        """Whether the kill found it alive."""
        await self._ended_within(seconds)
        self.kill()
        return await self.wait() == -signal.SIGKILL

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


class Forks:
    """``async with Forks() as forks: forks.folder = …; fork = await forks.cycle(settings, at=…)``.

    ``folder``: where processes say what they say.
    """

    folder: Path

    def __init__(self) -> None:
        self._numbers, self._lock = itertools.count(1), asyncio.Lock()

    async def __aenter__(self) -> Self:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SYNCD_")}
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.chaos.forks", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            env=kept, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        await self.order({"do": "nothing"})  # answered when all is imported
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()

    async def end(self) -> None:
        """What still runs is killed."""
        await self.order({"do": "end"})

    async def order(self, order: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        async with self._lock:
            self._process.stdin.write(orjson.dumps(order) + b"\n")
            answer: dict[str, Any] = orjson.loads(await self._process.stdout.readline())
        return answer

    async def cycle(
        self,
        settings: Mapping[str, Any],
        *,
        at: datetime,
        turn: datetime | None = None,
        sources: tuple[str, ...] = ("slack", "gong", "fathom", "gmail"),
        **limits: Any,
    ) -> Fork:
        """A process that runs a cycle of each source, as of ``at``: of that ``turn``, or by hand.

        ``largest_file``: bytes beyond which it may not grow a file. ``busy_ms``: how long SQLite waits for a lock.
        ``attempt_s``: how long a call may take. ``idle_s``: when PostgreSQL ends who is silent in mid-transaction.
        ``right_s``: how long the right to renew outlives who held it.
        """
        return await self._fork("cycle", settings, at=at, turn=turn, sources=sources, **limits)

    async def serve(self, settings: Mapping[str, Any], **limits: Any) -> Fork:
        """A daemon, by the machine's clock."""
        return await self._fork("serve", settings, **limits)

    async def worker(self, settings: Mapping[str, Any], *, at: datetime | None = None, **limits: Any) -> Fork:
        """A worker, as of ``at``; None: by the machine's clock."""
        return await self._fork("worker", settings, at=at, **limits)

    async def _fork(self, what: str, settings: Mapping[str, Any], **order: Any) -> Fork:
        stem = self.folder / f"{what}-{next(self._numbers)}"
        out, log = stem.with_suffix(".json"), stem.with_suffix(".log")
        told = {"do": "fork", "what": what, "settings": settings, "out": str(out), "log": str(log), **order}
        return Fork((await self.order(told))["pid"], self, out, log)


# ── the parent and its children ─────────────────────────────────────────────────────────────────────────────────────


def main() -> None:
    """The slow parts of every start are done once: imports, the authorities that httpx trusts, the migrations."""
    import httpx

    import syncd.daemon
    import syncd.worker  # noqa: F401 - it brings PgQueuer
    from syncd.store import database
    from tests import once  # noqa: F401 - what it keeps the children have

    httpx.create_ssl_context()
    database.head()
    children: set[int] = set()
    for line in sys.stdin.buffer:
        order = orjson.loads(line)
        if order["do"] == "fork":
            pid = os.fork()
            if pid == 0:
                _child(order)
            children.add(pid)
            answer: dict[str, Any] = {"pid": pid}
        elif order["do"] == "nothing":
            answer = {}
        elif order["do"] == "end":
            _end(children)
            answer = {}
        else:
            ended, status = os.waitpid(order["pid"], os.WNOHANG)
            children.discard(ended)
            answer = {"code": os.waitstatus_to_exitcode(status) if ended else None}
        sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")
        sys.stdout.buffer.flush()
    _end(children)


def _end(children: set[int]) -> None:
    for pid in children:
        os.kill(pid, signal.SIGKILL)  # until it is waited for its id is nobody else's
        os.waitpid(pid, 0)
    children.clear()


def _child(order: Mapping[str, Any]) -> None:
    """Never returns: the parent's loop is not ours."""
    code = 70
    try:
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        code = _performed(order)
    except BaseException:  # noqa: BLE001 - a process's edge
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def _performed(order: Mapping[str, Any]) -> int:
    from sqlalchemy.exc import SQLAlchemyError

    from syncd import daemon, http, logs, renewal
    from syncd.errors import UsageError
    from syncd.settings import Settings
    from syncd.store import database, renewals

    settings = Settings(**order["settings"])
    logs.set_up(settings.log.level, "json")
    if "largest_file" in order:
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["largest_file"],) * 2)
    if "attempt_s" in order:
        http.ATTEMPT_S = order["attempt_s"]
    if "idle_s" in order:
        database._IDLE_S = order["idle_s"]
    if "right_s" in order:
        renewal.RIGHT = renewals.RIGHT = timedelta(seconds=order["right_s"])
    if "busy_ms" in order:
        _waits_for_locks(order["busy_ms"])
    try:
        if order["what"] == "serve":
            asyncio.run(daemon.serve(settings, ready=_say))
            return 0
        if order["what"] == "worker":
            if order["at"]:
                now = _clock(datetime.fromisoformat(order["at"]))
                daemon.open_parts = partial(daemon.open_parts, now=now)
            asyncio.run(daemon.serve(settings, schedules=False, works=True, ready=_say))
            return 0
        statuses = asyncio.run(_cycles(settings, order))
    except UsageError as error:
        _say(f"error: {error}")
        return 2
    except (SQLAlchemyError, OSError) as error:  # as the command line does
        _say(f"error: {daemon.unreachable(settings, error)}")
        return 2
    Path(order["out"]).write_bytes(orjson.dumps(statuses))
    return 1 if any(status["failed_workspaces"] for status in statuses) else 0


def _say(words: str) -> None:
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


async def _cycles(settings: Any, order: Mapping[str, Any]) -> list[dict[str, Any]]:
    from syncd import daemon
    from syncd.tasks import all_of

    turn = datetime.fromisoformat(order["turn"]) if order["turn"] else None
    trigger = "cli" if turn is None else "schedule"
    now = _clock(datetime.fromisoformat(order["at"]))
    async with daemon.open_parts(settings, queued=True, now=now) as parts:
        cycles = [parts.engine.cycle(name, trigger=trigger, turn=turn) for name in order["sources"]]
        statuses: list[dict[str, Any]] = await all_of(cycles)
        return statuses


def _clock(at: datetime) -> Callable[[], datetime]:
    began = time.monotonic()
    return lambda: at + timedelta(seconds=time.monotonic() - began)


def _waits_for_locks(milliseconds: int) -> None:
    from syncd.store import database

    connected = database._sqlite_connected

    def quicker(connection: Any, record: object) -> None:
        connected(connection, record)
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={milliseconds}")
        cursor.close()

    database._sqlite_connected = quicker


if __name__ == "__main__":
    main()
