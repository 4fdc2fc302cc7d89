"""The pages of the emulated Fathom's listings, and the cursors between them. Belongs to `fathom`."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import orjson

from syncd.sandbox.dataset.fathom import zulu
from syncd.sandbox.fathom_answers import answered, fingerprint, moment
from syncd.sandbox.world import page_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aiohttp import web

    from syncd.sandbox.world import World

Json = dict[str, Any]

PAGE = 10  # meetings
_CURSOR_LIVES_S = 600  # UNCONFIRMED


class Pages:
    def __init__(self, world: World) -> None:
        self._world = world

    def page(self, request: web.Request, rows: Sequence[Any], limit: int, shown: Callable[[Any], Json]) -> web.Response:
        """Rows from where the cursor says: a page's number, or (meetings only) the last row of the page before."""
        keyed = limit == PAGE
        place, size = self._place(request), self._world.page_size(limit)
        start = (int(place.get("page_num", 1)) - 1) * size
        if "id" in place:
            start = sum(row.key >= (moment(place["recording_started_at"]), place["id"]) for row in rows)
        page, following = page_of(rows, start, size)
        if keyed and start and self._world.switch("fathom.duplicates", "off") == "on":
            page = [rows[start - 1], *page]
        end = self._world.switch("fathom.end", "null")
        body: Json = {
            "limit": limit,
            "next_cursor": "" if end == "blank" else None,
            "items": [shown(row) for row in page],
        }
        if following is not None:
            held: Json = {"for": fingerprint(request), "at": int(self._world.clock.now().timestamp())}
            if keyed and self._world.switch("fathom.cursor", "keyset") == "keyset":
                at, number = page[-1].key
                held |= {"recording_started_at": zulu(at), "id": number, "finished": []}
            else:
                held["page_num"] = following // size + 1
            body["next_cursor"] = base64.urlsafe_b64encode(orjson.dumps(held)).decode()
        elif end == "absent":
            del body["next_cursor"]
        return answered(body)

    def _place(self, request: web.Request) -> Json:
        """What the cursor holds; it is good for a while, and for the parameters it was made with. Raises ValueError."""
        if not (cursor := request.query.get("cursor")):
            return {}
        try:
            place: Json = orjson.loads(base64.urlsafe_b64decode(cursor))
            age = self._world.clock.now().timestamp() - place["at"]
            good = place["for"] == fingerprint(request) and age <= _CURSOR_LIVES_S
        except (ValueError, TypeError, KeyError):
            good = False
        if not good:
            raise ValueError("cursor is invalid")
        return place
