"""The one way out to a vendor: wait your turn → call → translate → retry.

A source never sends by itself: it hands `Link.call` an attempt (one request, through the vendor's own SDK or through
`Net`), which raises a `SourceError` for what the vendor answered. What the network does is translated here. This is
the only importer of ``backoff`` (archived upstream; swapping it must stay a matter of this file).
"""

from __future__ import annotations

import asyncio
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import aiohttp
import backoff
import structlog

from syncd.errors import AuthError, Misconfigured, RateLimited, Rejected, SourceError, Transient
from syncd.limits import app_budget
from syncd.logs import redact, secrets_of
from syncd.patience import Patience, no_word, uncounted
from syncd.tasks import to_its_end

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from syncd.limits import Buckets, Rate
    from syncd.net import Net
    from syncd.patience import Slot

log = structlog.get_logger(__name__)
T = TypeVar("T")

PATIENCE_S = 60.0  # how long one call may wait and retry on the spot, in all
ATTEMPT_S = 120.0  # one attempt, headers and body together
_BROKEN = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, OSError)
RENEW_EARLY = timedelta(minutes=2)
_LAST_WORD_S = 5.0  # so long a run that is cut waits for new tokens: less than a draining daemon waits for its runs


class _Drawn(NamedTuple):
    """What a call draws: whose budget, and limit → units."""

    whose: str
    units: Mapping[str, int]


@dataclass(kw_only=True)
class Link:
    """One connection's way to its vendor, for one run.

    ``credentials``: plain, never logged. ``settings``: the connection's. ``options``: the source's part of syncd.toml
    (``base_url``, ``token_url``, its own keys). ``rates``: limit → `Rate`; ``low_rates``: what the vendor may lower
    some of them to, which then holds for ``low_for_s``. ``credential``: names the budget that these credentials draw
    on. ``refresh``: set by a source whose access token expires; it asks the vendor once and returns the members that
    changed. ``alone``: held meanwhile, as a refresh token may be good for one use; gives the credentials as stored by
    then, None where they are not stored. ``save``: stores them before they are used. ``drawn_on``: the budgets that its
    calls drew on. ``secrets``: what no word of ours may hold. ``slot``: lent to others while a call waits. ``owned``:
    raises `LeaseLost` when the connection may be another's by now. ``on_wait``: told the limit (empty: a retry after a
    passing fault) and the seconds before a long wait, ``("", 0.0)`` after it. ``on_waited``: told of each wait, however
    short: the reason (``pacing``, or the kind of the error that is retried), the limit or an empty text, the seconds.
    """

    source: str
    credential: str
    account: str = ""
    net: Net
    buckets: Buckets
    credentials: Mapping[str, Any] = field(repr=False)
    settings: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    rates: Mapping[str, Rate] = field(default_factory=dict)
    low_rates: Mapping[str, Rate] = field(default_factory=dict)
    low_for_s: float = 0.0
    save: Callable[[Mapping[str, Any]], Awaitable[None]] = field(repr=False)
    alone: Callable[[], AbstractAsyncContextManager[Mapping[str, Any] | None]] = nullcontext
    patience_s: float = PATIENCE_S
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    on_call: Callable[[str, str, float], None] = lambda *_: None
    slot: Slot | None = None
    owned: Callable[[], None] = lambda: None
    on_wait: Callable[[str, float], Awaitable[None]] = no_word
    on_waited: Callable[[str, str, float], None] = uncounted
    refresh: Callable[[], Awaitable[Mapping[str, Any]]] | None = field(default=None, repr=False)
    calls: int = 0
    _refused: SourceError | None = field(default=None, repr=False)
    drawn_on: set[str] = field(default_factory=set)
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
        whose: str = "",
        renews: bool = True,
    ) -> T:
        """Run ``attempt`` when the budget allows, again while it fails in passing and patience lasts.

        ``method``: the vendor's name of the call, for logs and, without ``draws``, the limit it draws one unit from.
        ``draws``: limit → units. ``whose``: the budget that they are of, where it is not the credential's. ``renews``:
        on an `AuthError` refresh the token and try once more. Raises `SourceError`.
        """
        drawn = _Drawn(whose or self.credential, {method: 1} if draws is None else draws)
        self.drawn_on.add(drawn.whose)
        patience = Patience(self.patience_s, self.slot, self.on_wait, self.on_waited, regains=renews)
        spent: object = None

        async def once() -> T:
            nonlocal spent
            await patience.back()
            if renews and self.refresh is not None:
                await self.access_token()  # now: between its turn and the call itself nothing may take time
                await patience.regain()
            await self.buckets.acquire(*drawn, self.rates, patience.left_s(), patience.paced)
            spent = self.credentials.get("access_token")
            return await patience.answered(self._attempt(method, attempt, drawn, patience))

        for _ in range(2):
            try:
                return await _patiently(method, once, patience)
            except AuthError as error:
                if not renews or self.refresh is None or error is self._refused:
                    raise
                if await self._renew(spent):
                    break  # else another process had renewed it: theirs may be refused as well
        return await _patiently(method, once, patience)

    def app(self) -> str:
        """Names the budget of the OAuth app, which all of its connections share."""
        return app_budget(self.source, str(self.credentials.get("client_id")))

    async def access_token(self) -> str:
        """The access token, refreshed first when it is missing or about to expire. Raises `SourceError`."""
        if self.refresh is not None and self._is_spent():
            await self._renew(self.credentials.get("access_token"))
        return str(self.credentials["access_token"])

    def _is_spent(self, refused: object = None) -> bool:
        """Whether the access token is missing, about to expire, or the ``refused`` one."""
        token, expires_at = self.credentials.get("access_token"), _moment(self.credentials.get("expires_at"))
        return not token or token == refused or (expires_at is not None and expires_at - self.now() < RENEW_EARLY)

    async def _renew(self, spent: object) -> bool:
        """Replace the access token ``spent``, once for all who wait here and in other processes; stored before it is
        used. False: another process had done it.
        """
        async with self._renewing:
            if self._refused is not None:
                raise self._refused  # a refresh token is never spent twice
            if self.credentials.get("access_token") != spent:
                return True
            # Though we are cut: what the vendor gave, it gives no second time.
            return await to_its_end(self._renewed(spent), _LAST_WORD_S)

    async def _renewed(self, spent: object) -> bool:
        async with self.alone() as stored:
            if stored is not None:
                self._use(stored)
                if not self._is_spent(spent):
                    return False
            assert self.refresh is not None  # noqa: S101 - or nobody comes here
            try:
                renewed = {**self.credentials, **await self.refresh()}
            except SourceError as error:
                error.heeded = True
                if isinstance(error, AuthError | Misconfigured | Rejected):
                    self._refused = error
                raise
            self.secrets |= secrets_of(renewed)
            await self.save(renewed)
            self._use(renewed)
            log.debug("token.renewed")
            return True

    def _use(self, credentials: Mapping[str, Any]) -> None:
        self.secrets |= secrets_of(credentials)
        self.credentials = credentials

    # ── a limit that the vendor lowers ──────────────────────────────────────────────────────────────────────────────

    def is_low(self, limit: str) -> bool:
        return self.buckets.is_low(self.credential, limit)

    def is_proven_low(self, limit: str) -> bool:
        """Whether an answer has shown it, not a refusal alone."""
        return self.buckets.is_proven(self.credential, limit)

    def prove_low(self, limit: str) -> bool:
        """An answer shows that ``limit`` is low; False where it cannot be."""
        if limit not in self.low_rates:
            return False
        if not self.is_low(limit):
            self.buckets.lower(self.credential, limit, self.low_rates[limit], self.low_for_s)
        self.buckets.prove(self.credential, limit)
        return True

    def raise_again(self, limit: str) -> None:
        """An answer shows that ``limit`` is not low any more."""
        self.buckets.raise_again(self.credential, limit)

    # ── one attempt ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _attempt(self, method: str, attempt: Callable[[], Awaitable[T]], drawn: _Drawn, patience: Patience) -> T:
        began, outcome = time.monotonic(), "unsent"
        try:
            self.owned()
            self.calls, outcome = self.calls + 1, "ok"
            async with asyncio.timeout(ATTEMPT_S):
                return await attempt()
        except SourceError as error:
            outcome = "unsent" if error.heeded else error.kind
            error.reword(lambda words: redact(words, self.secrets))  # a vendor may echo what we sent
            error.name_call(method)
            if not error.heeded:
                self._later(error, drawn, patience)
            raise
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            outcome = Transient.kind
            # `from None`: the original may hold the request with its Authorization header.
            raise Transient(f"{method}: {_network_words(error)}") from None
        finally:
            self.buckets.settle(*drawn, self.rates, well=outcome not in {"unsent", RateLimited.kind})
            if outcome != "unsent":
                self.on_call(method, outcome, time.monotonic() - began)

    def _later(self, error: SourceError, drawn: _Drawn, patience: Patience) -> None:
        """Where the vendor said later nobody asks until then, and what it may lower is taken for lowered."""
        if isinstance(error, Transient) and error.retry_after_s is not None:
            self.buckets.close(*drawn, self.rates, error.retry_after_s)
        if not isinstance(error, RateLimited):
            return
        told_s = patience.exponential_s if error.retry_after_s is None else error.retry_after_s
        self.buckets.close(*drawn, self.rates, told_s)
        error.limit = self.buckets.refused(*drawn, self.rates, self.low_rates, self.low_for_s, error.retry_after_s)


async def _patiently(method: str, once: Callable[[], Awaitable[T]], patience: Patience) -> T:
    """``once``, again while it fails in passing and patience lasts. What retries is made only where it is wanted."""
    failed: SourceError | None
    try:
        return await once()
    except (Transient, RateLimited) as error:
        failed = error

    async def again() -> T:
        nonlocal failed
        first, failed = failed, None
        if first is not None:
            raise first  # for backoff to see
        return await once()

    async def before_retry(details: Mapping[str, Any]) -> None:
        told = {"method": method, "tries": details["tries"], "wait_s": details["wait"]}
        log.debug("call.retried", **told, error=str(details["exception"]))
        await patience.before_retry(details)

    retrying = backoff.on_exception(
        patience.waits,
        (Transient, RateLimited),
        giveup=patience.gives_up,
        jitter=None,  # its jitters would cut Retry-After short; ours only adds
        on_backoff=before_retry,
        logger=None,
    )(again)
    return await retrying()


def _network_words(error: Exception) -> str:
    """A network fault in words. Only the classes whose text is a host and a reason speak for themselves."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot connect: {error}"
    if isinstance(error, _BROKEN):
        return "the connection broke off"
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
