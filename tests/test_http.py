"""The one way out, against a real server on loopback: waiting, retrying, translating, renewing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from syncd.errors import AuthError, Misconfigured, RateLimited, Rejected, SourceError, Transient
from syncd.http import Link
from syncd.limits import Buckets, Rate
from syncd.net import Answer, Net, retry_after_s
from syncd.patience import Patience

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Fixture:
    """A server with one handler and the link towards it."""

    def __init__(self, base: str, net: Net) -> None:
        self.base, self.net, self.saved = base, net, []

    def link(self, **changes: Any) -> Link:
        async def save(credentials: Mapping[str, Any]) -> None:
            self.saved.append(credentials)

        known: dict[str, Any] = {
            "source": "slack",
            "credential": "c",
            "net": self.net,
            "buckets": Buckets(),
            "credentials": {"token": "t"},
            "save": save,
            "patience_s": 5.0,
        }
        return Link(**known | changes)

    async def ask(self, link: Link) -> Answer:
        async def attempt() -> Answer:
            answer = await self.net.ask("GET", self.base)
            if answer.status == 401:
                raise AuthError("401")
            if fault := answer.passing_fault():
                raise fault
            return answer

        return await link.call("method", attempt)


@pytest_asyncio.fixture
async def serve() -> AsyncIterator[Callable[[Handler], Awaitable[Fixture]]]:
    async with AsyncExitStack() as stack:
        net = await stack.enter_async_context(Net())

        async def start(handler: Handler) -> Fixture:
            app = web.Application()
            app.router.add_route("*", "/", handler)
            runner = web.AppRunner(app, shutdown_timeout=0.1)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            return Fixture(f"http://127.0.0.1:{runner.addresses[0][1]}/", net)

        yield start


Serve = Callable[[Handler], Awaitable[Fixture]]


def failing(times: int, answer: Callable[[], web.Response]) -> Handler:
    """Answers ``answer()`` so many times, then well."""
    left = times

    async def handler(request: web.Request) -> web.Response:
        nonlocal left
        left -= 1
        return answer() if left >= 0 else web.json_response({"ok": True})

    return handler


async def test_a_passing_fault_is_tried_again_on_the_spot(serve: Serve) -> None:
    fixture = await serve(failing(1, lambda: web.Response(status=503)))
    link = fixture.link()
    assert (await fixture.ask(link)).json() == {"ok": True}
    assert link.calls == 2


async def test_without_patience_nothing_is_tried_again(serve: Serve) -> None:
    fixture = await serve(failing(1, lambda: web.Response(status=503)))
    link = fixture.link(patience_s=0.0)
    with pytest.raises(Transient, match="HTTP 503"):
        await fixture.ask(link)
    assert link.calls == 1


@pytest.mark.parametrize("status", [429, 408, 500, 503])
async def test_retry_after_is_waited_in_full(serve: Serve, status: int) -> None:
    arrivals: list[datetime] = []

    async def handler(request: web.Request) -> web.Response:
        arrivals.append(datetime.now(UTC))
        refused = web.Response(status=status, headers={"Retry-After": "1.2"})
        return refused if len(arrivals) == 1 else web.json_response({})

    fixture = await serve(handler)
    await fixture.ask(fixture.link())
    assert arrivals[1] - arrivals[0] >= timedelta(seconds=1.2)


@pytest.mark.parametrize("kind", [RateLimited, Transient])
@pytest.mark.parametrize("told", [1.0, 7.5, 40.0])
def test_no_wait_is_shorter_than_retry_after(told: float, kind: type[RateLimited | Transient]) -> None:
    """By itself, whatever the bucket does: a library's jitter would cut it short."""
    patience = Patience(60)
    waits = patience.waits()
    next(waits)
    for _ in range(50):
        assert not patience.gives_up(kind("later", retry_after_s=told))
        assert told <= next(waits) <= told * 1.1


async def test_a_wait_beyond_our_patience_is_given_back_at_once(serve: Serve) -> None:
    fixture = await serve(failing(1, lambda: web.Response(status=429, headers={"Retry-After": "3600"})))
    link = fixture.link()
    with pytest.raises(RateLimited) as caught:
        await fixture.ask(link)
    assert (caught.value.retry_after_s, link.calls) == (3600, 1)


async def test_a_closed_bucket_is_not_asked_early(serve: Serve) -> None:
    """After Retry-After nobody with that credential asks again, not even another run."""
    fixture = await serve(failing(1, lambda: web.Response(status=429, headers={"Retry-After": "3600"})))
    link = fixture.link()
    with pytest.raises(RateLimited):
        await fixture.ask(link)
    other = fixture.link(buckets=link.buckets)
    with pytest.raises(RateLimited):
        await fixture.ask(other)
    assert other.calls == 0


async def test_a_spent_budget_defers_instead_of_waiting_longer_than_patience(serve: Serve) -> None:
    fixture = await serve(failing(0, web.Response))
    link = fixture.link(rates={"method": Rate(1, 3600.0)})
    await fixture.ask(link)
    with pytest.raises(RateLimited, match="budget"):
        await fixture.ask(link)
    assert link.calls == 1


async def test_an_expired_token_is_renewed_once_and_stored_before_it_is_used(serve: Serve) -> None:
    fixture = await serve(failing(1, lambda: web.Response(status=401)))
    link = fixture.link(credentials={"access_token": "old", "refresh_token": "r"})

    async def refresh() -> Mapping[str, Any]:
        return {"access_token": "new"}

    link.refresh = refresh
    assert (await fixture.ask(link)).status == 200
    assert fixture.saved == [{"access_token": "new", "refresh_token": "r"}]


async def test_a_token_refused_after_its_renewal_is_an_auth_error(serve: Serve) -> None:
    fixture = await serve(failing(9, lambda: web.Response(status=401)))
    link = fixture.link(credentials={"access_token": "old"})
    renewals = 0

    async def refresh() -> Mapping[str, Any]:
        nonlocal renewals
        renewals += 1
        return {"access_token": f"new{renewals}"}

    link.refresh = refresh
    with pytest.raises(AuthError):
        await fixture.ask(link)
    assert (link.calls, renewals) == (2, 1)


@pytest.mark.parametrize("kind", [AuthError, Misconfigured, Rejected])
async def test_a_refused_refresh_is_not_tried_again(serve: Serve, kind: type[SourceError]) -> None:
    """A refresh token is single-use at some vendors: a second try with the same one would only burn it."""
    fixture = await serve(failing(0, web.Response))
    link = fixture.link(credentials={"refresh_token": "r"})
    refused = 0

    async def refresh() -> Mapping[str, Any]:
        nonlocal refused
        refused += 1
        raise kind("invalid_grant")

    link.refresh = refresh

    async def attempt() -> str:
        return await link.access_token()

    for _ in range(2):
        with pytest.raises(kind, match="invalid_grant"):
            await link.call("method", attempt)
    assert refused == 1


@pytest.mark.parametrize(
    ("expires_in_s", "renewed"), [(3600, False), (30, True), (-5, True)], ids=["fresh", "about to", "expired"]
)
async def test_a_token_about_to_expire_is_renewed_first(serve: Serve, expires_in_s: int, renewed: bool) -> None:
    fixture = await serve(failing(0, web.Response))
    expires_at = datetime.now(UTC) + timedelta(seconds=expires_in_s)
    link = fixture.link(credentials={"access_token": "old", "expires_at": expires_at.isoformat()})

    async def refresh() -> Mapping[str, Any]:
        return {"access_token": "new"}

    link.refresh = refresh
    assert await link.access_token() == ("new" if renewed else "old")


async def test_a_redirect_to_another_host_is_a_wrong_address(serve: Serve) -> None:
    fixture = await serve(
        failing(1, lambda: web.Response(status=302, headers={"Location": "https://eu.api.example/v2"}))
    )
    with pytest.raises(Misconfigured, match=r"eu\.api\.example"):
        await fixture.ask(fixture.link())


async def test_a_refused_connection_is_transient_and_names_the_address(serve: Serve) -> None:
    fixture = await serve(failing(0, web.Response))
    fixture.base = "http://127.0.0.1:1/"
    with pytest.raises(Transient, match="cannot connect"):
        await fixture.ask(fixture.link(patience_s=0.0))


async def test_a_body_cut_short_is_transient(serve: Serve) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b'{"ok"')
        assert request.transport is not None
        request.transport.close()
        return response

    fixture = await serve(handler)
    with pytest.raises(Transient):
        await fixture.ask(fixture.link(patience_s=0.0))


async def test_an_answer_without_end_is_cut_off(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncd.net.BODY_LIMIT", 1000)
    fixture = await serve(failing(1, lambda: web.Response(body=b"x" * 5000)))
    with pytest.raises(Transient, match="cut off"):
        await fixture.net.ask("GET", fixture.base)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b'{"a":'])
def test_a_body_that_is_no_json_object_is_transient(body: bytes) -> None:
    with pytest.raises(Transient):
        Answer(200, {}, body).json()


def test_json_that_only_a_tolerant_reader_takes_is_taken() -> None:
    """Half a character is replaced: no database and no URL takes it."""
    answer = Answer(200, {}, b'{"a":"\\ud800","n":123456789012345678901234567890}').json()
    assert answer == {"a": "?", "n": 123456789012345678901234567890}


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("30", 30.0), ("1.5", 1.5), ("-4", None), ("0", None), ("", None), ("soon", None), ("nan", None), ("1e99", None)],
)
def test_retry_after_in_its_forms(value: str, seconds: float | None) -> None:
    assert retry_after_s({"Retry-After": value}) == seconds


def test_retry_after_as_a_date() -> None:
    in_a_minute = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    found = retry_after_s({"retry-after": in_a_minute})
    assert found is not None
    assert 55 < found <= 60


async def test_no_cookie_of_one_workspace_goes_out_with_anothers_call(serve: Serve) -> None:
    seen: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Cookie", ""))
        response = web.json_response({})
        response.set_cookie("d", "of-the-first")
        return response

    fixture = await serve(handler)
    for _ in range(2):
        await fixture.net.ask(
            "GET", fixture.base.replace("127.0.0.1", "localhost")
        )  # a bare address is given no cookies anyway
    assert seen == ["", ""]


async def test_words_that_repeat_a_secret_lose_it(serve: Serve) -> None:
    fixture = await serve(failing(0, web.Response))
    link = fixture.link(credentials={"api_key": "plain-secret-of-no-form"})

    async def attempt() -> None:
        raise AuthError("key plain-secret-of-no-form is not valid")

    with pytest.raises(AuthError) as caught:
        await link.call("method", attempt)
    assert "plain-secret" not in str(caught.value)


def test_a_link_does_not_show_its_secrets() -> None:
    link = Link(
        source="s",
        credential="c",
        net=None,
        buckets=Buckets(),
        credentials={"token": "xoxb-1"},
        save=None,  # type: ignore[arg-type]
    )
    assert "xoxb" not in repr(link)
