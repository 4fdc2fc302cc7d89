"""Gong: who speaks in a transcript is told by the call's parties, which come after it and may change."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer
from sqlalchemy import event

from syncd.audit import Audit
from tests.sources.conftest import Reader

KEY = {"access_key": "k", "access_key_secret": "s"}
ROBIN = {"name": "Robin", "speakerId": "s1", "userId": "u1"}
PAT = {"name": "Pat", "speakerId": "s2"}


class Company:
    """Two calls of the same words; ``asked`` counts by path."""

    def __init__(self) -> None:
        started = (datetime.now(UTC) - timedelta(hours=2)).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.calls: dict[str, dict[str, Any]] = {
            call: {"metaData": {"id": call, "started": started, "language": "eng"}, "content": {"brief": "b"}}
            for call in "78"
        }
        self.asked: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        path = request.path.partition("/v2/")[2]
        self.asked.append(path)
        said = [
            {"speakerId": one, "topic": None, "sentences": [{"start": 1, "end": 2, "text": "Hi"}]}
            for one in ("s1", "s2")
        ]
        rows: dict[str, Any] = {
            "users": {"users": []},
            "calls/extensive": {"calls": list(self.calls.values())},
            "calls/transcript": {"callTranscripts": [{"callId": call, "transcript": said} for call in self.calls]},
        }[path]
        return web.json_response({"requestId": "r", "records": {}, **rows})


Serve = Callable[[], Awaitable[tuple[Reader, Company]]]


@pytest_asyncio.fixture
async def served(reader: Callable[..., Awaitable[Reader]]) -> AsyncIterator[Serve]:
    company, app = Company(), web.Application()
    app.add_routes([web.route("*", "/{rest:.*}", company.answer)])
    async with TestServer(app) as server:

        async def serve() -> tuple[Reader, Company]:
            base = str(server.make_url("")).rstrip("/")
            return await reader("gong", box=object(), base_url=base, credentials=KEY), company

        yield serve


async def read(r: Reader) -> dict[str, Any]:
    status = await r.run()
    assert status["failures"] == []
    return status


async def texts(r: Reader) -> dict[str, str]:
    return {one["external_id"]: one["text"] for one in await r.rows("transcripts")}


UNKNOWN = "Unknown speaker: Hi\nUnknown speaker: Hi"


async def test_speakers_that_are_named_after_their_transcript_was_read_are_named_in_it(served: Serve) -> None:
    r, company = await served()
    await read(r)
    assert await texts(r) == {"7": UNKNOWN, "8": UNKNOWN}
    company.calls["7"]["parties"] = [ROBIN]
    await read(r)
    assert await texts(r) == {"7": "Robin: Hi\nUnknown speaker: Hi", "8": UNKNOWN}
    company.calls["7"]["parties"] = [ROBIN, PAT]
    await read(r)
    assert await texts(r) == {"7": "Robin: Hi\nPat: Hi", "8": UNKNOWN}
    segments = {one["external_id"]: one["segments"] for one in await r.rows("transcripts")}
    assert [one["speaker"] for one in segments["7"]] == ["Robin", "Pat"]


async def test_a_speaker_who_is_given_another_name_has_it_in_the_transcript(served: Serve) -> None:
    r, company = await served()
    company.calls["7"]["parties"] = [ROBIN, PAT]
    await read(r)
    company.calls["7"]["parties"] = [{**ROBIN, "name": "Robin Field"}, PAT]
    status = await read(r)
    assert (status["changed"], (await texts(r))["7"]) == (2, "Robin Field: Hi\nPat: Hi")


async def test_a_transcript_is_named_anew_from_what_is_stored(served: Serve) -> None:
    r, company = await served()
    await read(r)
    before = (await r.rows("transcripts"))[0]
    company.asked.clear()
    company.calls["7"]["parties"] = [ROBIN]
    await read(r)
    after = (await r.rows("transcripts"))[0]
    assert company.asked == ["calls/extensive"]
    assert (after["raw"], after["language"]) == (before["raw"], "eng")
    assert await r.backlog() == []


async def test_parties_that_tell_nothing_new_of_the_speakers_write_no_transcript(served: Serve) -> None:
    r, company = await served()
    company.calls["7"]["parties"] = [ROBIN, PAT]
    await read(r)
    company.calls["7"]["parties"] = [{**ROBIN, "title": "AE"}, {"name": "Lee", "speakerId": None}, PAT]
    asked: list[str] = []
    engine = r.parts.store.database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", lambda *given: asked.append(str(given[2])))
    assert (await read(r))["changed"] == 1
    assert not [one for one in asked if "transcripts" in one and "raw" in one]


async def test_a_transcript_whose_speakers_were_named_later_is_as_a_comparison_makes_it(served: Serve) -> None:
    r, company = await served()
    await read(r)
    company.calls["7"]["parties"] = [ROBIN]
    await read(r)
    now = r.parts.engine._now
    connections = await r.parts.store.connections.all()
    audit = Audit(connections, engine=r.parts.engine, store=r.parts.store, vault=r.parts.vault, now=now)
    await audit.run()
    assert (audit.findings[0].error, audit.findings[0].stale.count) == (None, 0)
