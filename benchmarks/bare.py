"""The bare limit: the same pages by aiohttp, decoded by orjson, the same rows by COPY, and nothing else.

No second look, no cursor, no limits, no errors, no comparison with what is stored: nothing that keeps data could do
less. ``python -m benchmarks.bare SPEC`` of Slack's messages or Gong's calls and transcripts, into PostgreSQL.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import aiohttp
import asyncpg
import orjson

from benchmarks.measure import cpu_s, peak_mb

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Store = Callable[[str, list[tuple[Any, ...]]], Awaitable[None]]

AT_ONCE = 20
PER_PAGE = "200"
TABLES = """
CREATE TABLE people (connection_id int, external_id text, name text, raw jsonb,
  PRIMARY KEY (connection_id, external_id));
CREATE TABLE conversations (LIKE people INCLUDING ALL);
CREATE TABLE messages (connection_id int, external_id text, conversation_id text, thread_id text, author_id text,
  sent_at timestamptz, text text, raw jsonb, PRIMARY KEY (connection_id, external_id));
CREATE TABLE meetings (connection_id int, external_id text, title text, started_at timestamptz, raw jsonb,
  PRIMARY KEY (connection_id, external_id));
CREATE TABLE transcripts (connection_id int, external_id text, text text, raw jsonb,
  PRIMARY KEY (connection_id, external_id));
"""


class Slack:
    """One workspace: who is there, where, what was said, and each thread."""

    def __init__(
        self, http: aiohttp.ClientSession, base: str, line: dict[str, Any], oldest: datetime, _: Any = None
    ) -> None:
        self._http, self._base, self._oldest = http, f"{base}/slack/api/", f"{oldest.timestamp():.6f}"
        self._headers = {"Authorization": f"Bearer {line['credentials']['token']}"}

    async def _pages(self, method: str, **asked: str) -> AsyncIterator[dict[str, Any]]:
        asked["limit"] = PER_PAGE
        while True:
            async with self._http.get(self._base + method, params=asked, headers=self._headers) as answer:
                body = orjson.loads(await answer.read())
            yield body
            if not (token := (body.get("response_metadata") or {}).get("next_cursor")):
                return
            asked["cursor"] = token

    async def read(self, number: int, store: Store) -> None:
        async for page in self._pages("users.list"):
            await store("people", [(number, one["id"], one["name"], _text(one)) for one in page["members"]])
        async for page in self._pages("users.conversations", types="public_channel,private_channel,mpim,im"):
            rooms = page["channels"]
            await store("conversations", [(number, one["id"], one.get("name"), _text(one)) for one in rooms])
            for room in rooms:
                await self._room(number, room["id"], store)

    async def _room(self, number: int, room: str, store: Store) -> None:
        async for page in self._pages("conversations.history", channel=room, oldest=self._oldest):
            await store("messages", [_message(number, room, one) for one in page["messages"]])
            for one in page["messages"]:
                if one.get("reply_count"):
                    async for answer in self._pages("conversations.replies", channel=room, ts=one["ts"]):
                        replies = [reply for reply in answer["messages"] if reply["ts"] != one["ts"]]
                        await store("messages", [_message(number, room, reply) for reply in replies])


class Gong:
    """One company: its users, its calls, their transcripts."""

    def __init__(
        self, http: aiohttp.ClientSession, base: str, line: dict[str, Any], oldest: datetime, selector: Any
    ) -> None:
        self._selector, held = selector, line["credentials"]
        basic = b64encode(f"{held.get('access_key')}:{held.get('access_key_secret')}".encode()).decode()
        login = f"Bearer {held['access_token']}" if "access_token" in held else f"Basic {basic}"
        self._http, self._base, self._headers = http, f"{base}/gong/v2/", {"Authorization": login}
        self._window = {"fromDateTime": oldest.isoformat(), "toDateTime": datetime.now(UTC).isoformat()}

    async def _pages(self, path: str, body: dict[str, Any] | None = None) -> AsyncIterator[dict[str, Any]]:
        token = ""
        while True:
            given = {} if body is None else {"data": orjson.dumps(body | ({"cursor": token} if token else {}))}
            headers = self._headers | {"Content-Type": "application/json"}
            query = {"cursor": token} if token and body is None else {}
            async with self._http.request(
                "GET" if body is None else "POST", self._base + path, params=query, headers=headers, **given
            ) as answer:
                page = orjson.loads(await answer.read())
            yield page
            if not (token := (page.get("records") or {}).get("cursor", "")):
                return

    async def read(self, number: int, store: Store) -> None:
        ids = list[str]()
        async for page in self._pages("calls/extensive", {"filter": self._window, "contentSelector": self._selector}):
            calls = [(one["metaData"], one) for one in page.get("calls", ()) if not one["metaData"].get("isPrivate")]
            ids += [meta["id"] for meta, _ in calls]
            rows = [
                (number, meta["id"], meta.get("title"), datetime.fromisoformat(meta["started"]), _text(one))
                for meta, one in calls
            ]
            await store("meetings", rows)
        for at in range(0, len(ids), 100):
            async for page in self._pages("calls/transcript", {"filter": {"callIds": ids[at : at + 100]}}):
                found = page.get("callTranscripts") or []
                await store("transcripts", [(number, one["callId"], _said(one), _text(one)) for one in found])
        async for page in self._pages("users"):
            await store("people", [(number, one["id"], one.get("firstName"), _text(one)) for one in page["users"]])


def _said(transcript: dict[str, Any]) -> str:
    spoken = transcript.get("transcript") or []
    return "\n".join(sentence["text"] for one in spoken for sentence in one.get("sentences") or ())


def _message(number: int, room: str, one: dict[str, Any]) -> tuple[Any, ...]:
    thread = one.get("thread_ts")
    at = datetime.fromtimestamp(float(one["ts"]), UTC)
    key, thread_id = f"{room}:{one['ts']}", f"{room}:{thread}" if thread else None
    return number, key, room, thread_id, one.get("user"), at, one.get("text"), _text(one)


def _text(value: Any) -> str:
    return orjson.dumps(value).decode()


async def main(spec: dict[str, Any]) -> dict[str, Any]:
    """``url``, ``base``, ``days``, ``lines``: the connections, of one source; ``selector``: what to ask of Gong."""
    oldest = datetime.now(UTC) - timedelta(days=spec["days"])
    pool = await asyncpg.create_pool(spec["url"].replace("+asyncpg", ""), min_size=5, max_size=10)
    await pool.execute(TABLES)
    slots, stored = asyncio.Semaphore(AT_ONCE), dict[str, int]()

    async def store(table: str, rows: list[tuple[Any, ...]]) -> None:
        if rows:
            async with pool.acquire() as db:
                await db.copy_records_to_table(table, records=rows)
            stored[table] = stored.get(table, 0) + len(rows)

    async def one(number: int, line: dict[str, Any]) -> None:
        async with slots:
            reader = {"slack": Slack, "gong": Gong}[line["source"]](http, spec["base"], line, oldest, spec["selector"])
            await reader.read(number, store)

    used_s, began = cpu_s(), time.monotonic()
    async with aiohttp.ClientSession() as http:
        await asyncio.gather(*(one(number, line) for number, line in enumerate(spec["lines"], 1)))
    told = {"cpu_s": cpu_s() - used_s, "wall_s": time.monotonic() - began, "peak_mb": peak_mb(), "stored": stored}
    await pool.close()
    return told


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(json.loads(sys.argv[1])))))
