"""How the emulated Slack cuts a listing into pages: opaque cursors that expire and fit one request, windows of time."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from syncd.sandbox.world import World

Json = dict[str, Any]


class Refusal(Exception):
    """Slack's ``ok: false`` with ``code``; ``more``: further members of the answer."""

    def __init__(self, code: str, **more: str) -> None:
        super().__init__(code)
        self.answer = {"ok": False, "error": code, **more}


class Pages:
    """Cuts listings into pages. ``most``: objects a page, where Slack restricts the app."""

    def __init__(self, world: World) -> None:
        self._world = world

    def cut(
        self, method: str, args: Json, rows: list[Json], key: str, top: int, most: int = 1000
    ) -> tuple[list[Json], Json]:
        """A page of ``rows`` and its metadata. The cursor names the last row served: what comes later shifts none."""
        newest_first = method == "conversations.history"
        rows = sorted(rows, key=lambda row: str(row[key]), reverse=newest_first)
        top = min(top, most)
        limit = str(args.get("limit") or min(top, 100))
        if not limit.isdigit() or (int(limit) > top and key == "id"):
            raise Refusal("invalid_limit")
        asked = sorted(f"{name}={value}" for name, value in args.items() if name != "cursor")
        query, now = digest(method, *asked), self._world.clock.now().timestamp()
        if args.get("cursor"):
            after = self._position(str(args["cursor"]), query, now)
            rows = [row for row in rows if (row[key] < after if newest_first else row[key] > after)]
        size = self._world.page_size(max(1, min(int(limit), top)))
        if self._world.switch("slack.short_pages", "off") == "on":
            size = max(1, size // 2)
        if len(rows) <= size:
            absent = self._world.switch("slack.metadata_absent_at_end", "off") == "on"
            return rows, {} if absent else {"response_metadata": {"next_cursor": ""}}
        told = f"{rows[size - 1][key]} {int(now) + int(self._world.switch('slack.cursor_life_s', '3600'))} {query}"
        cursor = base64.b64encode(f"{told} {digest(told)}".encode()).decode()
        return rows[:size], {"response_metadata": {"next_cursor": cursor}}

    def _position(self, cursor: str, query: str, now: float) -> str:
        try:
            told, _, seal = base64.b64decode(cursor, validate=True).decode().rpartition(" ")
            after, ends, asked = told.split(" ")
        except ValueError:
            raise Refusal("invalid_cursor") from None
        if seal != digest(told) or asked != query or int(ends) <= now:
            raise Refusal("invalid_cursor")
        return after


def digest(*parts: str) -> str:
    return hashlib.blake2b("/".join(parts).encode(), digest_size=10).hexdigest()


def within(rows: list[Json], args: Json) -> list[Json]:
    """Contract: both bounds are open unless ``inclusive``."""
    bounds = {}
    for name, default in (("oldest", "0"), ("latest", "9999999999.999999")):
        found = re.fullmatch(r"(\d{1,10})(?:\.(\d{1,6}))?", str(args.get(name) or default))
        if not found:
            raise Refusal(f"invalid_ts_{name}")
        bounds[name] = f"{int(found[1]):010d}.{(found[2] or ''):0<6}"
    closed = str(args.get("inclusive", "")).lower() in {"1", "true"}
    ends = (bounds["oldest"], bounds["latest"]) if closed else ()
    return [row for row in rows if bounds["oldest"] < row["ts"] < bounds["latest"] or row["ts"] in ends]
