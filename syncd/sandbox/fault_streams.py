"""Faults of the body on its way: silence in the middle, drops, resets, and bodies that are far too large."""

from __future__ import annotations

import asyncio
import socket
import struct
import zlib
from functools import lru_cache
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from syncd.sandbox.faults import Fault

_HUGE = 300 * 2**20
_BLOCK = b"x" * 2**18
_BITE = 64  # bytes of a drip
_BOMB_BLOCK, _BOMB_BLOCKS = 16 * 2**20, 80  # 1.25 GiB


async def _hang_body(request: web.Request, response: web.Response, fault: Fault) -> web.StreamResponse:
    body = _body(response)
    stream = await _begun(request, response, len(body))
    await stream.write(body[: len(body) // 2])
    await asyncio.sleep(max(fault.seconds, 1.0))
    return await _ended(stream, body[len(body) // 2 :])


async def _drip(request: web.Request, response: web.Response, fault: Fault) -> web.StreamResponse:
    body = _body(response)
    stream = await _begun(request, response, len(body))
    for at in range(0, len(body), _BITE):
        await stream.write(body[at : at + _BITE])
        await asyncio.sleep(fault.seconds)
    return await _ended(stream)


async def _reset_body(request: web.Request, response: web.Response, fault: Fault) -> web.StreamResponse:
    body = _body(response)
    stream = await _begun(request, response, len(body))
    await stream.write(body[: len(body) // 2])
    reset(request)
    return stream


async def _endless_body(request: web.Request, response: web.Response, fault: Fault) -> web.StreamResponse:
    stream = await _begun(request, response, None)
    await stream.write(b'{"ok": true, "text": "')
    while True:
        await stream.write(_BLOCK)
        await asyncio.sleep(0)


async def _huge(request: web.Request, response: web.Response, fault: Fault) -> web.StreamResponse:
    head, tail = b'{"ok": true, "text": "', b'"}'
    blocks = _HUGE // len(_BLOCK)
    stream = await _begun(request, response, len(head) + blocks * len(_BLOCK) + len(tail))
    await stream.write(head)
    for _ in range(blocks):
        await stream.write(_BLOCK)
        await asyncio.sleep(0)
    return await _ended(stream, tail)


async def _gzip_bomb(request: web.Request, response: web.Response, fault: Fault) -> web.StreamResponse:
    bomb = _bomb()
    stream = await _begun(request, response, len(bomb), {"Content-Encoding": "gzip"})
    return await _ended(stream, bomb)


STREAMS: dict[str, Callable[[web.Request, web.Response, Fault], Awaitable[web.StreamResponse]]] = {
    "hang-body": _hang_body,
    "drip": _drip,
    "reset-body": _reset_body,
    "endless-body": _endless_body,
    "huge": _huge,
    "gzip-bomb": _gzip_bomb,
}


def reset(request: web.Request) -> None:
    """Close the connection without waiting for anything: the other side is told "connection reset by peer"."""
    if request.transport is not None:
        linger = struct.pack("ii", 1, 0)
        request.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        request.transport.abort()


def _body(response: web.Response) -> bytes:
    return response.body if isinstance(response.body, bytes) else b"{}"


async def _begun(
    request: web.Request, response: web.Response, length: int | None, headers: dict[str, str] | None = None
) -> web.StreamResponse:
    """The head of the vendor's answer, sent. ``length`` None: the body is chunked."""
    kept = {key: value for key, value in response.headers.items() if key.lower() != "content-length"}
    stream = web.StreamResponse(status=response.status, headers={**kept, **(headers or {})})
    stream.content_length = length
    stream.force_close()
    await stream.prepare(request)
    return stream


async def _ended(stream: web.StreamResponse, rest: bytes = b"") -> web.StreamResponse:
    await stream.write(rest)
    await stream.write_eof()
    return stream


@lru_cache(maxsize=1)
def _bomb() -> bytes:
    """Some 1.3 MB of gzip that expand to more than 1 GiB of JSON.

    After a full flush a deflate stream has no memory: one block is made, and said over and over. The checksum at the
    end is that of nothing, as whoever gets that far has unpacked it all.
    """
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    head = packer.compress(b'{"ok": true, "text": "') + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(b"x" * _BOMB_BLOCK) + packer.flush(zlib.Z_FULL_FLUSH)
    tail = packer.compress(b'"}') + packer.flush()
    return b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff" + head + block * _BOMB_BLOCKS + tail + b"\x00" * 8
