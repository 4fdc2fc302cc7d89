"""A hundred connections of which one is revoked, one late, one limited, and one vendor is away: all tell one story.

The page, doctor, the alerts and the metrics, each asked on its own, of the same daemon.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest_asyncio

from syncd.alerts import Look, decide
from syncd.cli.doctor import _facts
from syncd.daemon import Parts
from syncd.doctor import FAILURES, NO_DATA, Question, examine
from syncd.report import found, missed
from syncd.sandbox.app import Sandbox
from syncd.sandbox.world import StandingClock, World
from syncd.store import Database
from syncd.store.status import Wanted
from tests.hundred import SMALL, hundred
from tests.test_pages import seen


@dataclass
class Story:
    parts: Parts
    base: str
    page: str

    async def rows(self, **wanted: Any) -> list[dict[str, Any]]:
        parts = self.parts
        return (await found(parts.store, parts.engine.plans, parts.settings, Wanted(**wanted)))[0]


@pytest_asyncio.fixture(scope="module")
async def story(tmp_path_factory: Any) -> AsyncIterator[Story]:
    file: Path = tmp_path_factory.mktemp("story") / "syncd.db"
    database = Database(f"sqlite+aiosqlite:///{file}")
    await database.migrate()
    await database.close()
    async with (
        Sandbox(SMALL, world=World(SMALL, StandingClock())) as box,
        hundred(box, f"sqlite+aiosqlite:///{file}") as (parts, base),
        httpx.AsyncClient(base_url=base, trust_env=False) as http,
    ):
        yield Story(parts, base, seen((await http.get("/")).text))


async def test_the_page_alone_says_what_to_do(story: Story) -> None:
    """Word for word, but for times, the names of the first few and how many tried Gong before it was left alone."""
    told = re.sub(r"\d\d:\d\d", "TT:TT", story.page.partition("Sources")[0])
    told = re.sub(r"\d+ (s|min)\b", "N \\1", re.sub(r"\d+-\d+-\d+ ", "", told))
    failing = len(await story.rows(source="gong", trouble="failing"))
    assert 5 <= failing <= 25
    expected = (
        'id="main"> 1 thing needs you '
        "Slack: 1 connection waits for new credentials globex (Globex) : users.list: token_revoked "
        "· since TT:TT UTC (N s ago) The app was removed from the workspace, or its token revoked: install the Slack "
        "app to the workspace again and store its new token. Connect it again: syncd connect slack --workspace "
        "globex --account Globex , or syncd connect-link --source slack --workspace globex --account Globex for a link "
        "that its owner signs in by. It is read at the next turn after that. "
        f"Gong does not answer: {failing} connections fail WHO : calls/extensive: HTTP 503 · since TT:TT UTC (N s ago) "
        "Nothing to do: it is tried again with one connection at the next turn (in N min), and all are read once it "
        "answers. If it answers others, look at this machine's network, its proxy and base_url . "
        "Gmail: 1 connection is late globex (mei.okafor@globex.example) : missed a turn. The last cycle began N min ago "
        "· since TT:TT UTC (N min ago) Nothing to do yet: the next turn (in N min) reads it. "
        "Fathom: 1 connection waits for a limit globex (chidi.lind@globex.example) : the limit calls allows no more until TT:TT "
        "UTC (in N min) Nothing to do: each goes on by itself then. Nothing is lost. "
        "99 of 100 active connections are up to date. "
    )
    assert re.sub(r"(fail) [\w, -]+?( and \d+ more)? : calls", r"\1 WHO : calls", told) == expected


async def test_each_source_says_its_worst_in_a_word(story: Story) -> None:
    for words in ("Slack 1 waits for you", "Gong does not answer", "Fathom 1 limited", "Gmail 1 late"):
        assert words in story.page


async def test_doctor_tells_the_same(story: Story) -> None:
    questions: dict[str, Question] = {
        one.question: one for one in examine(await _facts(story.parts.settings, story.base))
    }
    failures = [one.seen for one in questions[FAILURES].findings if not one.well]
    waiting = " ".join(one.seen for one in questions[NO_DATA].findings)
    assert len(failures) == 2
    assert any("Slack: 1 connection waits for new credentials" in one for one in failures)
    assert any("Gong does not answer" in one for one in failures)
    assert "Gmail: 1 connection is late" in waiting
    assert "Fathom: 1 connection waits for a limit" in waiting


async def test_the_alerts_tell_the_same_but_for_the_limit_which_asks_nobody(story: Story) -> None:
    parts, now = story.parts, story.parts.store.status.now()
    plans = parts.engine.plans
    look = Look(
        now=now,
        wait=timedelta(0),
        started=now - timedelta(hours=1),
        seen={},
        next_turn={name: plan.next_turn for name, plan in plans.items()},
    )
    notices = await parts.store.alerts.look(look, missed(parts.store, plans, parts.settings), decide, [])
    failing = len(await story.rows(source="gong", trouble="failing"))
    assert sorted((one.source, one.event, one.count, bool(one.outage)) for one in notices) == [
        ("gmail", "late", 1, False),
        ("gong", "failing", failing, True),
        ("slack", "needs_reauth", 1, False),
    ]


async def test_the_metrics_count_the_same(story: Story) -> None:
    text = (await story.parts.metrics.scrape()).decode()
    counted = {
        (source, trouble): int(float(count))
        for source, trouble, count in re.findall(
            r'syncd_connections_trouble\{source="(\w+)",trouble="(\w+)"\} ([\d.]+)', text
        )
        if float(count)
    }
    failing = len(await story.rows(source="gong", trouble="failing"))
    assert counted == {("slack", "needs_reauth"): 1, ("gong", "failing"): failing, ("gmail", "late"): 1}
    assert 'syncd_connections{source="fathom",state="limited"} 1.0' in text


async def test_the_api_counts_the_same(story: Story) -> None:
    async with httpx.AsyncClient(base_url=story.base, trust_env=False) as http:
        sources = (await http.get("/api/v1/status")).json()["sources"]
    failing = len(await story.rows(source="gong", trouble="failing"))
    assert {name: source["troubles"] for name, source in sources.items()} == {
        "slack": {"needs_reauth": 1}, "gong": {"failing": failing}, "fathom": {}, "gmail": {"late": 1},
    }  # fmt: skip
    assert sources["fathom"]["states"]["limited"] == 1
