"""A real Chromium without a window, driven over its DevTools protocol; for the few claims that only a browser proves."""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WAIT_S = 30
_FLAGS = (
    "--headless=new", "--remote-debugging-port=0", "--no-first-run", "--disable-gpu", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # nobody but loopback
)  # fmt: skip


class Tab:
    """One tab of a browser that nobody used before: no cookies."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session

    async def opens(self, url: str) -> None:
        await self._browser.tell("Page.navigate", self._session, url=url)

    async def runs(self, script: str) -> Any:
        """The value of a JavaScript expression; None while there is no page."""
        told = await self._browser.tell("Runtime.evaluate", self._session, expression=script, returnByValue=True)
        return told.get("result", {}).get("value")

    async def until(self, script: str) -> None:
        """Until that is true on a page that is loaded."""
        async with asyncio.timeout(WAIT_S):
            while not await self.runs(f"document.readyState === 'complete' && Boolean({script})"):
                await asyncio.sleep(0.02)

    async def text(self) -> str:
        return str(await self.runs("document.body.innerText"))

    async def picture(self, file: Path) -> None:
        told = await self._browser.tell("Page.captureScreenshot", self._session)
        file.write_bytes(base64.b64decode(told["data"]))


class Browser:
    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._numbers = socket, itertools.count(1)

    async def tell(self, method: str, session: str = "", **params: Any) -> dict[str, Any]:
        """One command and its result; events that come meanwhile are of no interest."""
        number = next(self._numbers)
        await self._socket.send_json(
            {"id": number, "method": method, "params": params, **({"sessionId": session} if session else {})}
        )
        async with asyncio.timeout(WAIT_S):
            while (answer := await self._socket.receive_json()).get("id") != number:
                pass
        return dict(answer.get("result", {}))

    async def tab(self) -> Tab:
        context = (await self.tell("Target.createBrowserContext"))["browserContextId"]
        target = (await self.tell("Target.createTarget", url="about:blank", browserContextId=context))["targetId"]
        return Tab(self, (await self.tell("Target.attachToTarget", targetId=target, flatten=True))["sessionId"])


@asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    assert CHROMIUM
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # Its own sandbox wants rights that a container's root does not have; the pages are ours.
        flags = [*_FLAGS, f"--user-data-dir={profile}", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        process = await asyncio.create_subprocess_exec(
            CHROMIUM, *flags, "about:blank", stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
        )
        assert process.stderr
        try:
            async with asyncio.timeout(WAIT_S):
                while b"DevTools listening on " not in (line := await process.stderr.readline()):
                    assert line, "Chromium ended at once"
            rest = asyncio.create_task(process.stderr.read())  # or its pipe fills up
            async with (
                aiohttp.ClientSession() as http,
                http.ws_connect(line.decode().rpartition(" ")[2].strip(), max_msg_size=2**26) as socket,
            ):
                one = Browser(socket)
                yield one
                await one.tell("Browser.close")
            async with asyncio.timeout(WAIT_S):
                await process.wait()
            await rest
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
