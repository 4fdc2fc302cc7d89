"""A real ``syncd serve`` as a process, for tests that send signals and ask over HTTP."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any, Self

import httpx

from tests.leaks import watch

WAIT_S = 30


def environment(**values: str) -> dict[str, str]:
    """The variables of this process less any of syncd, plus ``values``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SYNCD_")}
    return kept | {"NO_COLOR": "1"} | values


class Daemon:
    """``async with Daemon(env) as daemon: daemon.base``; killed at the end if it still runs."""

    def __init__(self, env: Mapping[str, str], *arguments: str, command: str = "serve") -> None:
        self._env, self._arguments = dict(env), (command, *arguments)
        self.base = ""
        self.lines: list[str] = []

    async def __aenter__(self) -> Self:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "syncd",
            *self._arguments,
            env=self._env,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        self._readers = [asyncio.create_task(self._read_out()), asyncio.create_task(self._read_log())]
        async with asyncio.timeout(WAIT_S):
            while not self.base:
                if self.process.returncode is not None:
                    raise AssertionError(f"{self._arguments[0]} ended with {self.process.returncode}: {self.lines}")
                await asyncio.sleep(0.02)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        await asyncio.gather(*self._readers)
        watch.look("what serve said", "\n".join(self.lines))

    async def _read_out(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.base = line.decode().strip().removeprefix("syncd serves ")

    async def _read_log(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.lines.append(line.decode().rstrip())

    async def get(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
            answer = await client.get(self.base + path)
        watch.look(f"the answer of {path}", answer.content)
        return answer

    async def until(self, path: str, status: int) -> httpx.Response:
        """Ask until the answer has that status."""
        async with asyncio.timeout(WAIT_S):
            while (answer := await self.get(path)).status_code != status:
                await asyncio.sleep(0.05)
        return answer

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        async with asyncio.timeout(WAIT_S):
            return await self.process.wait()


async def command(env: Mapping[str, str], *arguments: str, stdin: bytes | None = None) -> tuple[int, str, str]:
    """``syncd …`` as a process: exit code, stdout, stderr."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "syncd",
        *arguments,
        env=dict(env),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(120):
        out, err = await process.communicate(stdin)
    assert process.returncode is not None
    watch.look(f"what {' '.join(arguments[:2])} said", out + err)
    return process.returncode, out.decode(), err.decode()


async def wait_for(what: Any) -> None:
    """Until the awaitable ``what()`` is true."""
    async with asyncio.timeout(WAIT_S):
        while not await what():
            await asyncio.sleep(0.05)
