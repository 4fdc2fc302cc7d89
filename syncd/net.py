"""The process's HTTP client, and what comes back through it: bounded, unpacked, read as JSON.

A vendor, or whatever answers in its place, may send any number of bytes at any depth: no more than `BODY_LIMIT` bytes
of an answer are ever held, after decompression, and JSON deeper than `DEEPEST` is refused before anything walks it.
"""

from __future__ import annotations

import json
import zlib
from base64 import b64encode
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit
from urllib.request import getproxies

import aiohttp
import orjson

from syncd.errors import AuthError, Misconfigured, RateLimited, SourceError, Transient

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

BODY_LIMIT = 64 * 1024 * 1024  # bytes of one answer; the largest good one is a mail thread of 100 long messages
DEEPEST = 200  # levels of JSON; what is stored as raw may have 254
_GZIP_OR_ZLIB, _GZIP = 47, b"\x1f\x8b"  # how zlib is told to find out which; how a packed file begins
_PIECE = 2**18  # bytes that are unpacked at once
_ORJSON_DEEPEST = 254  # levels that orjson writes
_PROBED = 2**20  # bytes of an answer whose depth orjson may tell by writing it once more
_LONGEST_WAIT_S = 366 * 86400.0
_PACKED = {"Accept-Encoding": "gzip"}  # of those that may be asked for, the one that `_bounded` unpacks


@dataclass(frozen=True, slots=True)
class Answer:
    """What a vendor answered: ``headers`` by names in lower case, ``body`` decompressed."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        """The body as a JSON object. Raises `Transient` when it is not one: a proxy's page, a body cut short."""
        try:
            value = _loads(self.body)
        except ValueError:
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
            return Transient(f"HTTP {self.status}", retry_after_s=retry_after_s(self.headers))
        if 300 <= self.status < 400:
            target = _host(self.headers.get("location", "")) or "nowhere"
            return Misconfigured(
                f"redirected to {target}", hint=f"wrong base_url: the vendor sends this account to {target}"
            )
        return None


def _host(location: str) -> str | None:
    try:
        return urlsplit(location).hostname
    except ValueError:
        return None


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """``Retry-After`` in seconds from now, given as (fractional) seconds or HTTP date.

    None if absent or senseless: no time at all, a past one, more than a year. Asked again at once, a vendor that says
    "0" for long would be asked a thousand times.
    """
    value = next((text for name, text in headers.items() if name.lower() == "retry-after"), "").strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            at = parsedate_to_datetime(value)
            seconds = (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
        except (ValueError, OverflowError):
            return None
    return seconds if 0 < seconds < _LONGEST_WAIT_S else None


class Net:
    """The process's HTTP client, shared by every run.

    It does not bound the number of connections: as many runs as there are slots call at once, and a pool that is full
    of hanging calls would make all the others wait. (httpx takes three to seven times the CPU of a call, and more with
    each that is under way.)
    """

    aiohttp: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        self.aiohttp = aiohttp.ClientSession(
            # No total timeout: it would count the wait for a free connection. `Link.call` bounds an attempt.
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60),
            connector=aiohttp.TCPConnector(limit=0),
            auto_decompress=False,
            headers=_PACKED,
            # Where the environment names no proxy, it would look for one, and for a netrc, in threads for each call.
            trust_env=not {"http", "https"}.isdisjoint(getproxies()),
            # No cookies: it serves every workspace, and one's cookie would go out with the next one's call.
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        # It would send a GET again by itself when a kept connection turns out to be closed: a call that no budget saw.
        self.aiohttp._retry_connection = False  # noqa: SLF001 - there is no other way to say so
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aiohttp.close()

    async def ask(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        auth: tuple[str, str] | None = None,
        **body: Any,
    ) -> Answer:
        """One request, never following a redirect.

        ``params``: for the query, a text, a number or a sequence of them by name. ``auth``: name and password, for HTTP
        Basic. ``body``: ``json`` or ``data``, as aiohttp has them. Raises `AuthError` where credentials cannot be sent.
        """
        sent = dict(headers or ())
        if auth is not None:
            sent["Authorization"] = "Basic " + b64encode(":".join(auth).encode()).decode()
        said = "".join(sent.values())
        if not (said.isascii() and said.isprintable()):
            raise AuthError("the credentials hold a character that cannot be sent", hint="copy them again")
        async with self.aiohttp.request(
            method, url, params=params, headers=sent, allow_redirects=False, **body
        ) as response:
            try:
                whole = await _bounded(response.content, response.headers.get("Content-Encoding", ""))
            except BaseException:
                response.close()  # what is left of it nobody reads
                raise
            return Answer(response.status, response.headers, whole)


async def _bounded(content: aiohttp.StreamReader, encoding: str) -> bytes:
    """A whole body, unpacked. Raises `Transient` where it is larger than `BODY_LIMIT` or cannot be unpacked."""
    body, unpacker = bytearray(), _Unpacker()
    packed = encoding.strip().lower() not in {"", "identity"}
    try:
        while chunk := await content.readany():
            for piece in unpacker.pieces(chunk) if packed else (chunk,):
                body += piece
                if len(body) > BODY_LIMIT:
                    raise Transient(f"an answer of more than {BODY_LIMIT // 2**20} MiB was cut off")
            if unpacker.over:
                break
        if packed and body and not unpacker.whole:
            raise Transient("an answer was cut short")
        return bytes(body)
    except zlib.error:
        raise Transient(f"an answer that cannot be unpacked ({encoding[:20]})") from None
    finally:
        body.clear()  # an error's traceback would keep it


class _Unpacker:
    """gzip or zlib, in pieces of no more than a known size. ``over``: what follows is nothing of the packed file."""

    def __init__(self) -> None:
        self.over = False
        self._zlib = zlib.decompressobj(_GZIP_OR_ZLIB)

    @property
    def whole(self) -> bool:
        return self._zlib.eof

    def pieces(self, packed: bytes) -> Iterator[bytes]:
        """What a further part of the packed file holds. Raises zlib.error."""
        rest, piece = packed, b""
        while rest or len(piece) == _PIECE:
            if self._zlib.eof:  # two packed files, one after the other, are one
                if not rest.startswith(_GZIP):
                    self.over = bool(rest)
                    return
                self._zlib = zlib.decompressobj(_GZIP_OR_ZLIB)
            piece = self._zlib.decompress(rest, _PIECE)
            yield piece
            rest = self._zlib.unused_data if self._zlib.eof else self._zlib.unconsumed_tail


def _loads(body: bytes) -> Any:
    """Raises ValueError where it is no JSON, `Transient` where it is too deep for all who would walk it later."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        try:
            # It takes what orjson refuses though it is JSON: a lone surrogate, a huge integer. No database and no URL
            # takes half a character: it is replaced, in the names of members as well.
            whole = json.dumps(json.loads(body), ensure_ascii=False)
            value = json.loads(whole.encode("utf-8", "replace"))
        except RecursionError:
            raise _too_deep() from None
    if body.count(b"{") + body.count(b"[") <= DEEPEST:
        return value
    if (len(body) > _PROBED or not _can_be_written(value)) and _is_too_deep(value):
        raise _too_deep()
    return value


def _can_be_written(value: Any) -> bool:
    """Whether orjson writes it with so many levels around it that one too many inside is too many for it.

    A walk in Python takes as long as the call itself; this is one in C. It refuses other things as well.
    """
    for _ in range(_ORJSON_DEEPEST - DEEPEST):
        value = [value]
    try:
        orjson.dumps(value)
    except TypeError:
        return False
    return True


def _is_too_deep(value: Any) -> bool:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(DEEPEST):
        if not level:
            return False
        level = [part for holder in level for part in _parts(holder) if type(part) is dict or type(part) is list]
    return bool(level)


def _parts(holder: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return holder.values() if isinstance(holder, dict) else holder


def _too_deep() -> Transient:
    return Transient(f"an answer that is nested deeper than {DEEPEST} levels")
