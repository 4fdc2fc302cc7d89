"""The one way out to a vendor: wait your turn → call → translate → retry.

A source never sends by itself: it hands `Link.call` an attempt (one request, through the vendor's own SDK or through
`Net`), which raises a `SourceError` for what the vendor answered. What the network does is translated here. This is
the only importer of ``backoff`` (archived upstream; swapping it must stay a matter of this file).
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, Self, TypeVar

import aiohttp
import backoff
import httpx
import orjson
import structlog

from syncd.errors import AuthError, Misconfigured, RateLimited, SourceError, Transient
from syncd.logs import redact, secrets_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping

    from syncd.limits import Buckets

log = structlog.get_logger(__name__)
T = TypeVar("T")

PATIENCE_S = 60.0  # how long one call may wait and retry on the spot, in all
ATTEMPT_S = 120.0  # one attempt, headers and body together
BODY_LIMIT = 64 * 1024 * 1024  # bytes of one answer after decompression
RENEW_EARLY = timedelta(minutes=2)
_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 20.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a vendor answered: ``headers`` with lower-case names, ``body`` decompressed."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        """The body as a JSON object. Raises `Transient` when it is not one: a proxy's page, a body cut short."""
        try:
            value = _loads(self.body)
        except (ValueError, RecursionError):
            raise Transient(f"HTTP {self.status} with a body that is not JSON") from None
        if not isinstance(value, dict):
            raise Transient(f"HTTP {self.status} with JSON that is not an object")
        return value

    def object_or_none(self) -> dict[str, Any] | None:
        """The body as a JSON object where it is one: for reading an error's words."""
        try:
            return self.json()
        except Transient:
            return None

    def passing_fault(self) -> SourceError | None:
        """The error for what means the same at every vendor: 429, 5xx, a redirect. None for all other statuses."""
        if self.status == 429:
            return RateLimited("HTTP 429", retry_after_s=retry_after_s(self.headers))
        if self.status >= 500 or self.status == 408:
            return Transient(f"HTTP {self.status}")
        if 300 <= self.status < 400:
            target = httpx.URL(self.headers.get("location", "")).host or "nowhere"
            return Misconfigured(
                f"redirected to {target}", hint=f"wrong base_url: the vendor sends this account to {target}"
            )
        return None


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """``Retry-After`` in seconds from now, given as (fractional) seconds or HTTP date; None if absent or senseless."""
    value = next((text for name, text in headers.items() if name.lower() == "retry-after"), "").strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            at = parsedate_to_datetime(value)
        except ValueError:
            return None
        seconds = (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if seconds == seconds and seconds < 366 * 86400 else None  # noqa: PLR0124 - NaN


class Net:
    """The process's two HTTP clients, shared by every run: aiohttp (slack_sdk, Gmail) and httpx (Gong, Fathom)."""

    aiohttp: aiohttp.ClientSession
    httpx: httpx.AsyncClient

    async def __aenter__(self) -> Self:
        # No total timeout: it would count the wait for a free connection. `Link.call` bounds an attempt.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60)
        # No cookies: both clients serve every workspace, and one's cookie would go out with the next one's call.
        self.aiohttp = aiohttp.ClientSession(timeout=timeout, trust_env=True, cookie_jar=aiohttp.DummyCookieJar())
        self.httpx = httpx.AsyncClient(
            timeout=httpx.Timeout(60, connect=10, pool=None),
            limits=httpx.Limits(max_connections=40, max_keepalive_connections=20),
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            follow_redirects=False,  # across hosts the credentials would be dropped and look revoked
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aiohttp.close()
        await self.httpx.aclose()

    async def ask(self, method: str, url: str, **request: Any) -> Answer:
        """One request through httpx (``params``, ``headers``, ``json``, ``data``, ``auth`` as there)."""
        async with self.httpx.stream(method, url, **request) as response:
            headers = {name.lower(): value for name, value in response.headers.items()}
            return Answer(response.status_code, headers, await _bounded(response.aiter_bytes()))

    async def ask_aiohttp(self, method: str, url: str, **request: Any) -> Answer:
        """One request through aiohttp (arguments as there), never following a redirect."""
        async with self.aiohttp.request(method, url, allow_redirects=False, **request) as response:
            headers = {name.lower(): value for name, value in response.headers.items()}
            return Answer(response.status, headers, await _bounded(response.content.iter_chunked(65536)))


async def _bounded(chunks: AsyncIterator[bytes]) -> bytes:
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > BODY_LIMIT:
            raise Transient(f"an answer of more than {BODY_LIMIT // 2**20} MiB was cut off")
    return bytes(body)


@dataclass(kw_only=True)
class Link:
    """One connection's way to its vendor, for one run.

    ``credentials``: plain, never logged. ``settings``: the connection's. ``options``: the source's part of syncd.toml
    (``base_url``, ``token_url``, its own keys). ``rates``: limit → `Rate`. ``credential``: names the budget that these
    credentials draw on. ``refresh``: set by a source whose access token expires; it asks the vendor once and returns
    the members that changed. ``save``: stores them before they are used. ``secrets``: what no word of ours may hold.
    """

    source: str
    credential: str
    account: str = ""
    net: Net
    buckets: Buckets
    credentials: Mapping[str, Any] = field(repr=False)
    settings: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    rates: Mapping[str, Any] = field(default_factory=dict)
    save: Callable[[Mapping[str, Any]], Awaitable[None]] = field(repr=False)
    patience_s: float = PATIENCE_S
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    on_call: Callable[[str, str, float], None] = lambda *_: None
    refresh: Callable[[], Awaitable[Mapping[str, Any]]] | None = field(default=None, repr=False)
    calls: int = 0
    _refused: AuthError | None = field(default=None, repr=False)
    secrets: set[str] = field(default_factory=set, repr=False)
    _renewing: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)

    def __post_init__(self) -> None:
        self.secrets |= secrets_of(self.credentials)

    async def call(
        self,
        method: str,
        attempt: Callable[[], Awaitable[T]],
        *,
        draws: Mapping[str, int] | None = None,
        renews: bool = True,
    ) -> T:
        """Run ``attempt`` when the budget allows, again while it fails in passing and patience lasts.

        ``method``: the vendor's name of the call, for logs and, without ``draws``, the limit it draws one unit from.
        ``draws``: limit → units. ``renews``: on an `AuthError` refresh the token and try once more.
        Raises `SourceError`.
        """
        drawn = {method: 1} if draws is None else draws
        patience = _Patience(self.patience_s)

        async def once() -> T:
            await self.buckets.acquire(self.credential, drawn, self.rates, patience.left_s())
            return await self._attempt(method, attempt, drawn)

        retrying = backoff.on_exception(
            patience.waits,
            (Transient, RateLimited),
            giveup=patience.gives_up,
            jitter=None,  # its jitters would cut Retry-After short; ours only adds
            on_backoff=lambda details: log.debug(
                "call.retried",
                method=method,
                tries=details["tries"],
                wait_s=details["wait"],
                error=str(details["exception"]),
            ),
            logger=None,
        )(once)
        spent = self.credentials.get("access_token")
        try:
            return await retrying()
        except AuthError as error:
            if not renews or self.refresh is None or error is self._refused:
                raise
            await self._renew(spent)
            return await retrying()

    async def access_token(self) -> str:
        """The access token, refreshed first when it is missing or about to expire. Raises `SourceError`."""
        if self.refresh is not None:
            spent = self.credentials.get("access_token")
            expires_at = _moment(self.credentials.get("expires_at"))
            if not spent or (expires_at is not None and expires_at - self.now() < RENEW_EARLY):
                await self._renew(spent)
        return str(self.credentials["access_token"])

    async def _renew(self, spent: object) -> None:
        """Replace the access token ``spent``, once for all who wait here; stored before it is used."""
        if self.refresh is None:
            return
        async with self._renewing:
            if self._refused is not None:
                raise self._refused  # a refresh token is never spent twice
            if self.credentials.get("access_token") != spent:
                return
            try:
                renewed = {**self.credentials, **await self.refresh()}
            except AuthError as error:
                self._refused = error
                raise
            self.secrets |= secrets_of(renewed)
            await self.save(renewed)
            self.credentials = renewed

    async def _attempt(self, method: str, attempt: Callable[[], Awaitable[T]], drawn: Mapping[str, int]) -> T:
        self.calls += 1
        began, outcome = time.monotonic(), "ok"
        try:
            async with asyncio.timeout(ATTEMPT_S):
                return await attempt()
        except SourceError as error:
            outcome = error.kind
            error.reword(lambda words: redact(words, self.secrets))  # a vendor may echo what we sent
            error.name_call(method)
            if isinstance(error, RateLimited) and error.retry_after_s is not None:
                self.buckets.close(self.credential, drawn, self.rates, error.retry_after_s)
            raise
        except (aiohttp.ClientError, httpx.HTTPError, httpx.InvalidURL, OSError, TimeoutError) as error:
            outcome = Transient.kind
            # `from None`: the original may hold the request with its Authorization header.
            raise Transient(f"{method}: {_network_words(error)}") from None
        finally:
            self.on_call(method, outcome, time.monotonic() - began)


class _Patience:
    """When to give up and how long to wait: ``Retry-After`` in full where told, else exponential; always a bit more."""

    def __init__(self, seconds: float) -> None:
        self._ends = time.monotonic() + seconds
        self._exponential_s = _FIRST_WAIT_S
        self._wait_s = 0.0

    def left_s(self) -> float:
        return max(0.0, self._ends - time.monotonic())

    def gives_up(self, error: Exception) -> bool:
        """Asked by backoff before each wait; decides that wait as well."""
        told = error.retry_after_s if isinstance(error, RateLimited) else None
        if told is None:
            told = self._exponential_s
            self._exponential_s = min(self._exponential_s * 2, _LONGEST_WAIT_S)
        self._wait_s = told * (1 + random.random() / 10)
        return self._wait_s > self.left_s()

    def waits(self) -> Generator[float, Any, None]:
        yield 0.0  # backoff's priming step
        while True:
            yield self._wait_s


def _loads(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return json.loads(body)  # takes what orjson refuses though it is JSON: a lone surrogate, a huge integer


def _network_words(error: Exception) -> str:
    """A network fault in words. Only the classes whose text is a host and a reason speak for themselves."""
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        return "no answer in time"
    if isinstance(error, aiohttp.ClientConnectorError | httpx.ConnectError):
        return f"cannot connect: {error}"
    return type(error).__name__


def _moment(value: object) -> datetime | None:
    """``expires_at`` of credentials: epoch seconds or ISO 8601; None when absent or senseless."""
    try:
        if isinstance(value, int | float):
            return datetime.fromtimestamp(value, UTC)
        if isinstance(value, str) and value:
            at = datetime.fromisoformat(value)
            return at if at.tzinfo else at.replace(tzinfo=UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return None
