"""What a process costs: CPU seconds by getrusage, its children included, and the peak of its memory."""

from __future__ import annotations

import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg

from tests.postgres import Postgres

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ROOT = Path(__file__).parent.parent
POLL_S = 0.05
_TICKS_S = os.sysconf("SC_CLK_TCK")
_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass(frozen=True, slots=True)
class Cost:
    """``cpu_s``: of the process and its children; ``peak_mb``: of resident memory, all of them together.

    ``server_s``: what PostgreSQL used meanwhile. ``told``: the JSON of its last line.
    """

    cpu_s: float
    wall_s: float
    peak_mb: float
    server_s: float = 0.0
    told: dict[str, Any] = field(default_factory=dict)


class Failed(Exception):
    """A measured process did not end well: its last words."""


def run(
    command: Sequence[str | Path],
    *,
    server: Server | None = None,
    env: Mapping[str, str] | None = None,
    timeout_s: float = 900,
    keep: Path | None = None,
    given: bytes = b"",
) -> Cost:
    """Run it to its end. ``keep``: where its output goes, else it is looked at for its last line and dropped.

    ``given``: its input.

    Raises `Failed`.
    """
    server_s, began = server.cpu_s() if server else 0.0, time.monotonic()
    with (
        tempfile.TemporaryFile() as says,
        tempfile.TemporaryFile() as reads,
        keep.open("w+b") if keep else tempfile.TemporaryFile() as out,
    ):
        reads.write(given)
        reads.seek(0)
        environment = {**os.environ, **(env or {})}
        process = subprocess.Popen(
            command, stdin=reads, stdout=out, stderr=says, cwd=ROOT, env=environment, start_new_session=True
        )
        watch = _Watch(process.pid)
        late = threading.Timer(timeout_s, os.killpg, (process.pid, signal.SIGKILL))
        late.start()
        try:
            _, status, used = os.wait4(process.pid, 0)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        finally:
            late.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        peak_mb, wall_s = watch.stop(), time.monotonic() - began
        if process.returncode:
            said = _tail(says) or _tail(out)
            raise Failed(f"exit {process.returncode} after {wall_s:.0f} s: {said}")
        told = {} if keep else _last_json(out)
    after_s = server.cpu_s() if server else 0.0
    return Cost(used.ru_utime + used.ru_stime, wall_s, peak_mb, after_s - server_s, told)


def python(module: str, spec: Any) -> list[str]:
    """A module of ours with its specification as a measured command."""
    return [sys.executable, "-m", module, json.dumps(spec)]


def _tail(file: Any) -> str:
    file.seek(0)
    return "\n".join(file.read().decode(errors="replace").strip().splitlines()[-12:])


def _last_json(file: Any) -> dict[str, Any]:
    lines = _tail(file).splitlines()
    with suppress(ValueError, IndexError):
        told = json.loads(lines[-1])
        return told if isinstance(told, dict) else {}
    return {}


class _Watch:
    """Looks at the memory of a process and its descendants until told to stop."""

    def __init__(self, pid: int) -> None:
        self._pid, self._peak_mb, self._ends = pid, 0.0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._ends.wait(POLL_S):
            together = [_memory_mb(pid) for pid in (self._pid, *_descendants(self._pid))]
            self._peak_mb = max(self._peak_mb, sum(now for now, _ in together), *(most for _, most in together))

    def stop(self) -> float:
        self._ends.set()
        self._thread.join()
        return self._peak_mb


def _descendants(pid: int) -> list[int]:
    found = list[int]()
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *_descendants(child)]
    return found


def _memory_mb(pid: int) -> tuple[float, float]:
    """Now, and the most that this process alone ever had."""
    with suppress(OSError):
        lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return tuple(int(lines.get(key, "0 kB").split()[0]) / 1024 for key in ("VmRSS", "VmHWM"))  # type: ignore[return-value]
    return 0.0, 0.0


def cpu_s() -> float:
    """CPU seconds of this process until now, all its threads and ended children included."""
    mine, theirs = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return mine.ru_utime + mine.ru_stime + theirs.ru_utime + theirs.ru_stime


def peak_mb() -> float:
    """The most resident memory that this process ever had."""
    return _memory_mb(os.getpid())[1]


class Server:
    """A PostgreSQL of our own: fresh databases, what it used, what it wrote."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres, self._made = postgres, 0
        assert postgres._process is not None
        self._pid = postgres._process.pid

    def cpu_s(self) -> float:
        """Of the postmaster, those that serve, and those that are gone."""
        return sum(_ticks(pid) for pid in (self._pid, *_descendants(self._pid))) / _TICKS_S

    def url(self, driver: str = "postgresql+asyncpg") -> str:
        """A database that nobody used yet."""
        self._made += 1
        name = f"bench{self._made}"
        self.ask("postgres", f"CREATE DATABASE {name}")
        return self._postgres.url(name).replace("postgresql+asyncpg", driver)

    def ask(self, database: str, sql: str) -> list[Any]:
        """The rows of a statement in a database, or in that of a URL."""
        import asyncio

        async def asked() -> list[Any]:
            db = await asyncpg.connect(self._postgres.url(database.rpartition("/")[2]).replace("+asyncpg", ""))
            try:
                return list(await db.fetch(sql))
            finally:
                await db.close()

        return asyncio.run(asked())


def _ticks(pid: int) -> int:
    """Of itself and of its children that ended, in ticks of the kernel's clock."""
    with suppress(OSError):
        parts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, parts[11:15]))
    return 0


@contextmanager
def postgres() -> Iterator[Server]:
    with Postgres() as started:
        yield Server(started)


@dataclass(frozen=True, slots=True)
class Spread:
    """Several rounds of one figure."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    def __str__(self) -> str:
        least, most = min(self.rounds), max(self.rounds)
        return shown(self.median) if len(self.rounds) == 1 else f"{shown(self.median)} ({shown(least)}-{shown(most)})"


def ratio(above: Sequence[float], below: Sequence[float]) -> Spread:
    """Round by round, so that what slowed both down falls out."""
    return Spread(tuple(one / other for one, other in zip(above, below, strict=True)))


def shown(number: float) -> str:
    """Three digits that matter."""
    if number == 0:
        return "0"
    if abs(number) >= 100:
        return f"{number:,.0f}"
    return f"{number:.3g}"
