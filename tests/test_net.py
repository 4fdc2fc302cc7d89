"""What comes back through the two clients, against a real server on loopback: bounded, unpacked, never too deep."""

from __future__ import annotations

import asyncio
import gzip
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from syncd.errors import AuthError, Misconfigured, Transient
from syncd.net import DEEPEST, Answer, Net
from syncd.sandbox.fault_streams import STREAMS
from syncd.sandbox.faults import Fault
from syncd.sources.slack_api import Client

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Ask = Callable[[], Awaitable[Answer | Any]]
CLIENTS = ["net", "slack_sdk"]


class Here:
    """A server with one handler, asked through one of the two ways out."""

    def __init__(self, net: Net, client: str, base: str) -> None:
        self.net, self.client, self.base = net, client, base

    async def ask(self, path: str = "") -> Any:
        """The answer's JSON."""
        if self.client == "slack_sdk":
            return (await Client(self.net, self.base).api_call(path or "m", http_verb="GET")).data
        return (await self.net.ask("GET", self.base + path)).json()


Serve = Callable[[Handler], Awaitable[Here]]


@pytest_asyncio.fixture
async def serve(request: pytest.FixtureRequest) -> AsyncIterator[Serve]:
    """``await serve(handler)``; with the mark ``clients`` once for each client."""
    async with AsyncExitStack() as stack:
        net = await stack.enter_async_context(Net())

        async def start(handler: Handler) -> Here:
            app = web.Application()
            app.router.add_route("*", "/{path:.*}", handler)
            runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            return Here(net, request.param, f"http://127.0.0.1:{runner.addresses[0][1]}/")

        yield start


clients = pytest.mark.parametrize("serve", CLIENTS, indirect=True)
ours = pytest.mark.parametrize("serve", CLIENTS[:1], indirect=True)


def answers(body: bytes, **headers: str) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(body=body, content_type="application/json", headers=named)

    return handler


def acts_out(kind: str) -> Handler:
    """A body of the sandbox's."""

    async def handler(request: web.Request) -> web.StreamResponse:
        return await STREAMS[kind](request, web.Response(content_type="application/json"), Fault(kind))

    return handler


@clients
@pytest.mark.parametrize("kind", ["huge", "endless-body", "gzip-bomb"])
async def test_a_body_without_measure_is_cut_and_takes_no_memory(
    serve: Serve, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 2**20
    monkeypatch.setattr("syncd.net.BODY_LIMIT", limit)
    here = await serve(acts_out(kind))
    if kind == "gzip-bomb":
        with pytest.raises(Transient):
            await here.ask()  # the server has made it once: that is not ours to measure
    tracemalloc.start()
    try:
        with pytest.raises(Transient, match="more than 1 MiB was cut off"):
            await here.ask()
        assert tracemalloc.get_traced_memory()[1] < 3 * limit
    finally:
        tracemalloc.stop()


@clients
@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(b'{"ok": true}')),
        ("x-gzip", gzip.compress(b'{"ok": ') + gzip.compress(b"true}")),
        ("gzip", gzip.compress(b'{"ok": true}') + b"\0" * 100),
        ("deflate", zlib.compress(b'{"ok": true}')),
        ("identity", b'{"ok": true}'),
    ],
    ids=["gzip", "two in a row", "with a tail", "deflate", "identity"],
)
async def test_packed_bodies_are_unpacked(serve: Serve, encoding: str, body: bytes) -> None:
    here = await serve(answers(body, Content_Encoding=encoding))
    assert await here.ask() == {"ok": True}


@clients
@pytest.mark.parametrize(
    "body", [gzip.compress(b'{"ok": true}')[:-12], b'{"ok": true}', b"\x1f\x8b rubbish"], ids=["cut", "plain", "broken"]
)
async def test_what_cannot_be_unpacked_is_a_passing_fault(serve: Serve, body: bytes) -> None:
    here = await serve(answers(body, Content_Encoding="gzip"))
    with pytest.raises(Transient, match=r"unpacked|cut short"):
        await here.ask()


@clients
@pytest.mark.parametrize("levels", [DEEPEST, 1_000, 100_000])
async def test_an_answer_nested_too_deep_is_a_passing_fault(serve: Serve, levels: int) -> None:
    here = await serve(answers(b'{"ok": true, "nested": ' + b"[" * levels + b"]" * levels + b"}"))
    with pytest.raises(Transient, match="nested deeper than 200 levels"):
        await here.ask()


@clients
async def test_the_deepest_answer_that_is_taken_can_be_walked_and_stored(serve: Serve) -> None:
    from syncd.records import without
    from syncd.store.rows import dumped

    levels = DEEPEST - 1
    here = await serve(answers(b'{"ok": true, "nested": ' + b"[" * levels + b"]" * levels + b"}"))
    taken = await here.ask()
    assert dumped({"raw": without(taken, frozenset({"x"}))}).count(b"[") == levels


@pytest.mark.parametrize(
    "more", [b'"\\ud800"', b"1" + b"0" * 30, b'"' + b"y" * 2**20 + b'"'], ids=["half", "huge", "long"]
)
@pytest.mark.parametrize("levels", [DEEPEST, DEEPEST + 1])
def test_depth_is_told_of_what_orjson_does_not_write_and_of_long_answers_too(more: bytes, levels: int) -> None:
    around = levels - 1  # the object itself is one
    answer = Answer(200, {}, b'{"more": ' + more + b', "nested": ' + b"[" * around + b"]" * around + b"}")
    if levels > DEEPEST:
        with pytest.raises(Transient, match="nested deeper than 200 levels"):
            answer.json()
    else:
        assert len(answer.json()) == 2


def test_half_a_character_is_replaced_for_no_database_and_no_vendor_takes_it() -> None:
    body = b'{"id": "C\\ud800", "n\\udfff": ["\\ud83d\\ude00", 1%s], "next": {"page": "\\udc00"}}' % (b"0" * 30)
    assert Answer(200, {}, body).json() == {"id": "C?", "n?": ["\U0001f600", 10**30], "next": {"page": "?"}}


@pytest.fixture
def unproxied(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@clients
async def test_the_environments_proxy_is_used(serve: Serve, unproxied: None, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        asked.append(request.host)
        return web.json_response({"ok": True})

    proxy = await serve(handler)
    monkeypatch.setenv("HTTP_PROXY", proxy.base)
    async with Net() as net:
        assert await Here(net, proxy.client, "http://vendor.example/").ask() == {"ok": True}
    assert asked == ["vendor.example"]


@clients
async def test_the_environments_exceptions_go_by_no_proxy(
    serve: Serve, unproxied: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = await serve(answers(b'{"ok": true}'))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9/")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    async with Net() as net:
        assert await Here(net, here.client, here.base).ask() == {"ok": True}


@clients
async def test_without_a_proxy_no_call_takes_a_thread(
    serve: Serve, unproxied: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To look for one took longer than the call itself."""
    here = await serve(answers(b'{"ok": true}'))

    def refuse(*_: object) -> None:
        raise AssertionError("a thread")

    async with Net() as net:
        monkeypatch.setattr(asyncio.get_running_loop(), "run_in_executor", refuse)
        assert await Here(net, here.client, here.base).ask() == {"ok": True}


@ours
@pytest.mark.parametrize("token", ["two\nlines", "t\u00f6ken", "nul\x00"])
async def test_credentials_that_no_header_can_hold_are_told_and_not_sent(serve: Serve, token: str) -> None:
    asked: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.json_response({})

    here = await serve(handler)
    with pytest.raises(AuthError, match="a character that cannot be sent") as told:
        await here.net.ask("GET", here.base, headers={"Authorization": f"Bearer {token}"})
    assert (asked, token in str(told.value)) == ([], False)


@ours
async def test_a_query_holds_each_of_several_values(serve: Serve) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.json_response({"query": [list(one) for one in request.query.items()]})

    here = await serve(handler)
    answer = await here.net.ask("GET", here.base, params={"teams[]": ("a b", "c"), "none": (), "page": 2})
    assert answer.json() == {"query": [["teams[]", "a b"], ["teams[]", "c"], ["page", "2"]]}


@clients
async def test_no_redirect_is_followed(serve: Serve) -> None:
    asked: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(status=302, headers={"Location": "https://elsewhere.example/"})

    here = await serve(handler)
    if here.client == "slack_sdk":
        with pytest.raises(Misconfigured, match=r"redirected to elsewhere\.example"):
            await here.ask()
    else:
        assert (await here.net.ask("GET", here.base)).status == 302
    assert len(asked) == 1


@clients
async def test_a_call_on_a_kept_connection_that_breaks_is_not_sent_twice(serve: Serve) -> None:
    """A budget was drawn once for it."""
    asked: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        asked.append(request.path)
        if len(asked) > 1:
            assert request.transport is not None
            request.transport.abort()
        return web.json_response({"ok": True})

    here = await serve(handler)
    await here.ask()
    with pytest.raises(Exception, match=r"(?i)disconnect|reset"):
        await here.ask()
    assert len(asked) == 2


@clients
async def test_calls_that_hang_delay_no_other(serve: Serve) -> None:
    hanging, over = 0, asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        nonlocal hanging
        if request.path == "/hangs":
            hanging += 1
            await over.wait()
        return web.json_response({"ok": True})

    here = await serve(handler)
    held = [asyncio.create_task(here.ask("hangs")) for _ in range(120)]
    try:
        async with asyncio.timeout(10):
            while hanging < len(held):
                await asyncio.sleep(0.01)
        began = time.monotonic()
        async with asyncio.timeout(10):
            assert await here.ask("well") == {"ok": True}
        assert time.monotonic() - began < 5
    finally:
        over.set()
        await asyncio.gather(*held)
