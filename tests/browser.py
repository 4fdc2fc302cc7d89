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

    async def runs(self, script: str, *, awaits: bool = False) -> Any:
        """The value of a JavaScript expression, or of its promise; None while there is no page."""
        told = await self._browser.tell(
            "Runtime.evaluate", self._session, expression=script, returnByValue=True, awaitPromise=awaits
        )
        return told.get("result", {}).get("value")

    async def looks(self, width: int, scheme: str = "light", *, scripts: bool = True) -> None:
        """The window's width, the colours that its person prefers, whether scripts may run."""
        tell, mine = self._browser.tell, self._session
        await tell(
            "Emulation.setDeviceMetricsOverride", mine, width=width, height=900, deviceScaleFactor=1, mobile=False
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        await tell("Emulation.setEmulatedMedia", mine, features=features)
        await tell("Emulation.setScriptExecutionDisabled", mine, value=not scripts)

    async def presses(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            await self._browser.tell("Input.dispatchKeyEvent", self._session, type=kind, key=key, code=key,
                                     windowsVirtualKeyCode={"Tab": 9, "Enter": 13}[key])  # fmt: skip

    async def listens(self) -> None:
        """From now on `complaints` has what the browser complains of."""
        for domain in ("Log", "Runtime"):
            await self._browser.tell(f"{domain}.enable", self._session)

    async def complaints(self) -> list[str]:
        """Errors of scripts, policies and loading, on all pages of this tab since it listens."""
        await self.runs("1")
        return [text for session, text in self._browser.complaints if session == self._session]

    async def until(self, script: str) -> None:
        """Until that is true on a page that is loaded."""
        async with asyncio.timeout(WAIT_S):
            while not await self.runs(f"document.readyState === 'complete' && Boolean({script})"):
                await asyncio.sleep(0.02)

    async def text(self) -> str:
        return str(await self.runs("document.body.innerText"))

    async def picture(self, file: Path, *, height: int | None = None) -> None:
        """Of what the window shows, or of the page down to ``height``; PNG or WebP by the file's name."""
        more: dict[str, Any] = {}
        if height is not None:
            size = (await self._browser.tell("Page.getLayoutMetrics", self._session))["cssContentSize"]
            width = await self.runs("innerWidth")  # no scroll bar is drawn
            clip = {"x": 0, "y": 0, "width": width, "height": min(height, size["height"]), "scale": 1}
            more = {"captureBeyondViewport": True, "clip": clip}
        if file.suffix == ".webp":
            more |= {"format": "webp", "quality": 60}
        told = await self._browser.tell("Page.captureScreenshot", self._session, **more)
        file.write_bytes(base64.b64decode(told["data"]))


class Browser:
    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._numbers = socket, itertools.count(1)
        self.complaints: list[tuple[str, str]] = []

    async def tell(self, method: str, session: str = "", **params: Any) -> dict[str, Any]:
        """One command and its result; of events that come meanwhile only complaints are kept."""
        number = next(self._numbers)
        await self._socket.send_json(
            {"id": number, "method": method, "params": params, **({"sessionId": session} if session else {})}
        )
        async with asyncio.timeout(WAIT_S):
            while (answer := await self._socket.receive_json()).get("id") != number:
                if text := _complaint(answer):
                    self.complaints.append((answer.get("sessionId", ""), text))
        return dict(answer.get("result", {}))

    async def tab(self) -> Tab:
        context = (await self.tell("Target.createBrowserContext"))["browserContextId"]
        target = (await self.tell("Target.createTarget", url="about:blank", browserContextId=context))["targetId"]
        return Tab(self, (await self.tell("Target.attachToTarget", targetId=target, flatten=True))["sessionId"])


def _complaint(event: dict[str, Any]) -> str:
    params = event.get("params", {})
    match event.get("method"):
        case "Log.entryAdded" if params["entry"]["level"] in {"error", "warning"}:
            return f"{params['entry']['text']} {params['entry'].get('url', '')}"
        case "Runtime.exceptionThrown":
            return str(params["exceptionDetails"])
        case "Runtime.consoleAPICalled" if params["type"] in {"error", "warning", "assert"}:
            return str(params["args"])
    return ""


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
