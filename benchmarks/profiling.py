"""What a profile says, by library, and a statement by kind. Pure."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pstats

ROOMS = {"store": "syncd: the store", "sources": "syncd: the source", "": "syncd: engine, http, limits, logs"}
LOOP = {"asyncio", "selectors.py", "{method 'send' of '_socket.socket' objects}"}
MOST = 14


def shares(stats: pstats.Stats) -> dict[str, float]:
    """Room or library → its share of all own time, 0 to 1. Waiting for the network is left out."""
    seconds = Counter[str]()
    for (file, _, function), (_, _, own_s, _, _) in stats.stats.items():  # type: ignore[attr-defined]
        if "poll" not in function:
            seconds[_owner(file, function)] += own_s
    whole = sum(seconds.values())
    return {name: own_s / whole for name, own_s in seconds.most_common(MOST)}


def _owner(file: str, function: str) -> str:
    if file == "~":
        return "sockets and the loop" if "socket" in function else "built-in functions"
    parts = PurePath(file).parts
    if "site-packages" in parts:
        return parts[parts.index("site-packages") + 1].removesuffix(".py")
    if "syncd" in parts:
        inside = parts[parts.index("syncd") + 1 :] if parts.count("syncd") == 1 else parts[-2:]
        return ROOMS.get(inside[0] if len(inside) > 1 else "", ROOMS[""])
    return "sockets and the loop" if LOOP & set(parts) else "standard library"


def kind(statement: str) -> str:
    """A statement as its verb and table."""
    found = re.search(r"\b(SELECT|INSERT INTO|UPDATE|DELETE FROM)\b", statement)
    table = re.search(r"\b(?:FROM|INTO|UPDATE) (\w+)", statement)
    return f"{found[1].split()[0].lower()} {table[1] if table else ''}".strip() if found else "other"
