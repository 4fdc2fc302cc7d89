"""How the emulated Gong reads a request and pages its answer: bodies, filters, signed cursors that expire."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aiohttp import web

    from syncd.sandbox.world import World

BAD_JSON = "Json parse error, verify Json format matches the API description."
CURSOR_S = 3600  # from the first request of a sequence


class Refused(Exception):
    """Answered with Gong's error envelope."""

    def __init__(self, status: int, words: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(words)
        self.status, self.words, self.headers = status, words, headers or {}


class Pages:
    """Cuts listings into pages. A cursor holds its place, not a number, and is signed: clients cannot make one."""

    def __init__(self, world: World) -> None:
        self._world = world

    def cut(
        self, rows: Sequence[tuple[tuple[int, ...], Any]], asked: object, cursor: object
    ) -> tuple[list[Any], dict[str, Any]]:
        """The rows after the cursor's place, and ``records``. A cursor fits only the request that it came from."""
        now = int(self._world.clock.now().timestamp())
        shape = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
        held: dict[str, Any] = {"total": len(rows), "pageNumber": -1, "place": [], "asked": shape}
        held["exp"] = now + CURSOR_S
        if cursor:
            held = self._opened(str(cursor))
            if held.get("asked") != shape:
                raise Refused(400, "Failed to verify cursor")
            if held["exp"] <= now:
                raise Refused(400, "The provided cursor has expired")
        left = [row for row in rows if list(row[0]) > held["place"]]
        page = left[: self._world.page_size(100)]
        number = held["pageNumber"] + 1
        records = {"totalRecords": held["total"], "currentPageSize": len(page), "currentPageNumber": number}
        if len(left) > len(page):
            records["cursor"] = self._signed(held | {"pageNumber": number, "place": list(page[-1][0])})
        return [row for _, row in page], records

    def _signed(self, payload: Mapping[str, Any]) -> str:
        parts = [base64.urlsafe_b64encode(json.dumps(one).encode()).rstrip(b"=") for one in ({"alg": "HS256"}, payload)]
        return b".".join([*parts, self._signature(b".".join(parts))]).decode()

    def _opened(self, cursor: str) -> dict[str, Any]:
        signed, _, signature = cursor.encode().rpartition(b".")
        if not hmac.compare_digest(self._signature(signed), signature):
            return {}
        payload = signed.rpartition(b".")[2]
        return dict(json.loads(base64.urlsafe_b64decode(payload + b"=" * (-len(payload) % 4))))

    def _signature(self, signed: bytes) -> bytes:
        key = f"gong/{self._world.options.seed}".encode()
        return base64.urlsafe_b64encode(hmac.digest(key, signed, "sha256")).rstrip(b"=")


async def body_of(request: web.Request) -> tuple[dict[str, Any], dict[str, Any]]:
    """A POST's body and its ``filter``, which must be there."""
    if request.content_type != "application/json":
        raise Refused(415, "Unsupported Media Type")
    try:
        body = orjson.loads(await request.read())
    except orjson.JSONDecodeError:
        raise Refused(400, BAD_JSON) from None
    if not isinstance(body, dict) or not isinstance(body.get("filter"), dict):
        raise Refused(400, BAD_JSON)
    return body, body["filter"]


def date(wanted: Mapping[str, Any], member: str) -> datetime | None:
    if wanted.get(member) is None:
        return None
    try:
        at = datetime.fromisoformat(wanted[member])
    except (TypeError, ValueError):
        raise Refused(400, BAD_JSON) from None
    if at.tzinfo is None:
        raise Refused(400, f"filter.{member}: must be a date-time with an offset")
    return at


def ids(wanted: Mapping[str, Any], member: str) -> list[str] | None:
    found = wanted.get(member)
    if found is not None and not (isinstance(found, list) and all(isinstance(one, str) for one in found)):
        raise Refused(400, BAD_JSON)
    if found == []:
        raise Refused(400, f"filter.{member}: must not be empty")
    return found
