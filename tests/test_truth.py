"""All four sources of many workspaces: the store holds exactly what the sandbox says exists."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from syncd.credentials import generate_key
from syncd.daemon import Parts, open_parts
from syncd.sandbox.app import Sandbox
from syncd.sandbox.world import Options, StandingClock, World
from syncd.settings import Settings
from syncd.sources import SOURCES
from syncd.store import Line

KINDS = ("people", "conversations", "messages", "meetings", "transcripts")
WORKSPACES = 4


def configured(box: Sandbox, url: str) -> Settings:
    sources: dict[str, dict[str, Any]] = {}
    for name, value in box.environment().items():
        _, source, *path = name.lower().removeprefix("syncd_").split("__")
        if len(path) == 1:  # the apps by which people sign in are no matter here
            sources.setdefault(source, {})[path[0]] = value
    return Settings(database={"url": url}, secret_keys=generate_key(), sources=sources)


@pytest.fixture
async def scene(database_url: str, sandbox: Callable[..., Awaitable[Sandbox]]) -> AsyncIterator[tuple[Sandbox, Parts]]:
    """The vendors' limits are enforced, and ours are the ones we ship."""
    options = Options(workspaces=WORKSPACES)
    box = await sandbox(options, World(options, StandingClock()))
    async with open_parts(configured(box, database_url)) as parts:
        lines = [Line(**{key: part for key, part in line.items() if key != "is_active"}) for line in box.connections()]
        await parts.store.connections.put(lines, parts.vault.seal)
        yield box, parts


async def cycle(parts: Parts) -> dict[str, dict[str, Any]]:
    statuses = await asyncio.gather(*(parts.engine.cycle(name, trigger="cli") for name in SOURCES))
    return {status["source"]: status for status in statuses}


async def held(parts: Parts, source: str, kind: str) -> dict[str, list[str]]:
    query = text(
        f"SELECT c.workspace_id, r.external_id FROM {kind} r JOIN connections c ON c.id = r.connection_id "
        "WHERE c.source = :source AND r.deleted_at IS NULL ORDER BY 1, 2"
    )
    found: dict[str, list[str]] = {}
    async with parts.store.database.read() as session:
        for workspace, external_id in await session.execute(query, {"source": source}):
            found.setdefault(workspace, []).append(external_id)
    return found


async def test_the_store_holds_exactly_what_exists_and_a_second_run_writes_nothing(
    scene: tuple[Sandbox, Parts],
) -> None:
    box, parts = scene
    since = datetime.now(UTC) - timedelta(hours=24)
    first = await cycle(parts)
    for source, vendor in box.vendors.items():
        truth = {workspace: vendor.truth(workspace, since) for workspace in box.world.companies}
        for kind in KINDS:
            wanted = {workspace: sorted(of[kind]) for workspace, of in truth.items() if of.get(kind)}
            found = {workspace: sorted(ids) for workspace, ids in (await held(parts, source, kind)).items()}
            assert found == wanted, f"{source} {kind}"
        counted = "messages" if source in {"slack", "gmail"} else "meetings"
        total = first[source][SOURCES[source].total_name]
        assert total == sum(len(of[counted]) for of in truth.values()), f"{source} counts a record once"
        assert (first[source]["successful_workspaces"], first[source]["failed_workspaces"]) == (WORKSPACES, 0)
    second = await cycle(parts)
    assert [(one["added"], one["changed"], one["deleted"]) for one in second.values()] == [(0, 0, 0)] * 4
    refused = [call for call in box.world.ledger if call.status == 429]
    assert refused == [], "no vendor's limit was touched"


async def test_an_idle_cycle_makes_the_fewest_calls(scene: tuple[Sandbox, Parts]) -> None:
    box, parts = scene
    await cycle(parts)
    idle = await cycle(parts)
    channels = len([call for call in box.world.ledger if call.method == "conversations.history"]) // 2
    assert {name: status["calls"] for name, status in idle.items()} == {
        "slack": channels,
        "gong": WORKSPACES,
        "fathom": WORKSPACES,
        "gmail": WORKSPACES,
    }
