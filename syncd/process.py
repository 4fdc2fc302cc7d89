"""What we are to the operating system and to Python: open files, what systemd is told, what is collected."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import socket
from contextlib import suppress

_OPEN_FILES = 65536  # more than four sources can ever use
_COLLECTED_AFTER = (20_000, 10, 10)  # new objects, and rounds; a page of 200 messages alone is thousands


def raise_open_files() -> None:
    """Allow ourselves as many open files as we may have: each run that waits for its vendor holds a socket."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # then the limit stays what it is
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def keep_what_is_loaded() -> None:
    """Take what is there by now, mostly libraries, out of later garbage collections.

    Of 170,000 objects that stay anyway a full one takes a tenth of a second, in which the loop answers nobody. As they
    count no more, the pages of some runs alone would bring one about all the time: they come less often instead.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECTED_AFTER)


def notify_systemd(state: str) -> None:
    """Tell systemd, when it asks by NOTIFY_SOCKET (a path, or an abstract socket that starts with @)."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect("\0" + address[1:] if address.startswith("@") else address)
        sock.sendall(state.encode())


async def feed_watchdog() -> None:
    """From the loop on purpose: when the loop hangs, systemd shall restart us."""
    interval_s = int(os.environ.get("WATCHDOG_USEC", "0")) / 1_000_000 / 2
    while interval_s:
        notify_systemd("WATCHDOG=1")
        await asyncio.sleep(interval_s)
