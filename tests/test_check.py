"""What `connections check` finds beside the vendor's own report: whose account it is, and which limits hold."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import update
from structlog.testing import capture_logs

from syncd.bucket import Budget, Rate
from syncd.check import asked, regime
from syncd.daemon import Parts, open_parts
from syncd.errors import OtherAccount
from syncd.sandbox.app import Sandbox
from syncd.sandbox.world import Options
from syncd.source import Known
from syncd.sources import SOURCES
from syncd.store import Connection, Line
from syncd.tables import connections
from tests.connecting import settings

MakeSandbox = Callable[..., Awaitable[Sandbox]]
OPTIONS = Options(workspaces=2, days=1, limits=False)


@asynccontextmanager
async def opened(box: Sandbox, url: str, *sources: str) -> AsyncIterator[Parts]:
    """Connections of the first workspace as `connections add` makes them: nobody asked whose they are."""
    async with open_parts(settings(box, url)) as parts:
        for name in sources:
            await parts.store.connections.put([line(box, name, "acme")], parts.vault.seal)
        yield parts


def line(box: Sandbox, source: str, workspace: str) -> Line:
    given = next(one for one in box.connections() if (one["source"], one["workspace_id"]) == (source, workspace))
    return Line(**{key: value for key, value in given.items() if key != "is_active"})


async def only(parts: Parts) -> Connection:
    (one,) = await parts.store.connections.all()
    return one


# ── whose account


@pytest.mark.parametrize("name", SOURCES)
async def test_a_check_stores_whose_account_it_is(sandbox: MakeSandbox, sqlite_url: str, name: str) -> None:
    async with opened(await sandbox(OPTIONS), sqlite_url, name) as parts:
        assert (await only(parts)).identity is None
        assert (await asked(parts, await only(parts))).problems == []
        assert (await only(parts)).identity


async def test_after_a_check_another_account_is_refused(sandbox: MakeSandbox, database_url: str) -> None:
    box = await sandbox(OPTIONS)
    async with opened(box, database_url, "slack") as parts:
        await asked(parts, await only(parts))
        other = replace(line(box, "slack", "acme"), identity="T0ANOTHER")
        with pytest.raises(OtherAccount):
            await parts.store.connections.put([other], parts.vault.seal)


async def test_a_check_never_overwrites_an_identity_and_tells_that_it_found_another(
    sandbox: MakeSandbox, sqlite_url: str
) -> None:
    box = await sandbox(OPTIONS)
    async with opened(box, sqlite_url) as parts:
        mine = replace(line(box, "gmail", "acme"), identity="somebody@else.example")
        await parts.store.connections.put([mine], parts.vault.seal)
        ((what, way_out),) = (await asked(parts, await only(parts))).problems
        assert what.startswith("the credentials are of another account")
        assert "syncd connect --force" in way_out
        assert (await only(parts)).identity == "somebody@else.example"


async def test_credentials_that_are_replaced_during_a_check_do_not_get_the_others_identity(
    sandbox: MakeSandbox, database_url: str
) -> None:
    box = await sandbox(OPTIONS)
    async with opened(box, database_url, "slack") as parts:
        before = await only(parts)
        of_another = replace(line(box, "slack", "acme"), credentials=line(box, "slack", "northwind").credentials)
        await parts.store.connections.put([of_another], parts.vault.seal)
        await asked(parts, before)
        assert (await only(parts)).identity is None


async def test_an_account_that_was_told_meanwhile_stays(sandbox: MakeSandbox, database_url: str) -> None:
    box = await sandbox(OPTIONS)
    async with opened(box, database_url, "slack") as parts:
        before = await only(parts)
        await parts.store.connections.identify(before.id, "T0FIRST", lambda _: True)
        await asked(parts, before)
        assert (await only(parts)).identity == "T0FIRST"


# ── which limits hold


def known(source: str, **changed: Any) -> Known:
    mine = getattr(settings_of_defaults(), source)
    full = Known(
        rates=mine.limits,
        low_rates=getattr(mine, "low_limits", {}),
        low_s={},
        used={},
        settings={},
        options={key: getattr(mine, key) for key in ("app_kind", "price_list") if hasattr(mine, key)},
    )
    return replace(full, **changed)


def settings_of_defaults() -> Any:
    from syncd.settings import Settings

    return Settings().sources


@pytest.mark.parametrize(
    ("source", "changed", "name", "words"),
    [
        ("slack", {}, "app not known yet", "conversations.history and conversations.replies"),
        ("slack", {"low_s": {"conversations.history": 7200.0}}, "restricted app", "1/1m of .* in 2.0 h"),
        ("slack", {"used": {"conversations.history": 9}}, "full limits", "more was read lately"),
        ("slack", {"settings": {"app_kind": "restricted"}}, "restricted app", "by the setting"),
        ("slack", {"settings": {"app_kind": "full"}}, "full limits", "by the setting"),
        ("fathom", {}, "heavy limit full", "30/1m, not lowered"),
        ("fathom", {"low_s": {"heavy": 300.0}}, "heavy limit low", "lowered to 5/1m; tried again in 5 min"),
        ("gong", {"used": {"day": 2310}}, "under half of the day's calls used", "2,310 of 10,000 calls"),
        ("gong", {"used": {"day": 10_000}}, "all of the day's calls used", "10,000 of 10,000"),
        ("gmail", {}, "new price list", "6000/1m quota units"),
        ("gmail", {"options": {"price_list": "old"}}, "old price list", "quota units"),
    ],
)
def test_the_regime_is_told_in_words(source: str, changed: dict[str, Any], name: str, words: str) -> None:
    tell = SOURCES[source].regime
    assert tell
    found = tell(known(source, **changed))
    assert found.name == name
    assert re.search(words, found.words), found.words


async def test_a_lowered_limit_of_the_store_is_in_the_report(sandbox: MakeSandbox, database_url: str) -> None:
    async with opened(await sandbox(OPTIONS), database_url, "slack") as parts:
        plan, one = parts.engine.plans["slack"], await only(parts)
        link = parts.engine.runs.link(plan, one, parts.vault.open(one.id, one.sealed))
        await parts.store.budgets.save(link.credential, [Budget("conversations.history", low_s=3600.0)])
        assert (await asked(parts, one)).facts[-1].startswith("limits: restricted app: 1/1m of")
        everyone = await parts.store.budgets.all()
        found = regime(plan, one, everyone[link.credential])
        assert found
        assert found.name == "restricted app"


async def test_the_days_calls_are_counted_by_the_store(sandbox: MakeSandbox, database_url: str) -> None:
    async with opened(await sandbox(OPTIONS), database_url, "gong") as parts:
        assert (await asked(parts, await only(parts))).facts[
            -1
        ] == "limits: 20 of 10,000 calls of the last 24 hours used"


def test_what_a_step_granted_longer_ago_than_the_period_no_longer_counts() -> None:
    budget = Budget("day", granted=[(86_500.0, 40), (100.0, 20), (-3000.0, 20)])
    assert budget.counted(Rate(10_000, 86_400.0)) == 40


async def test_a_check_says_no_secret(sandbox: MakeSandbox, sqlite_url: str) -> None:
    box = await sandbox(OPTIONS)
    with capture_logs() as lines:
        async with opened(box, sqlite_url, *SOURCES) as parts:
            reports = [await asked(parts, one) for one in await parts.store.connections.all()]
            held = [parts.vault.open(one.id, one.sealed) for one in await parts.store.connections.all()]
    secrets = {str(value) for one in held for key, value in one.items() if key.endswith(("token", "secret", "key"))}
    assert not [secret for secret in secrets if secret in repr(reports) + repr(lines)]


# ── one that waits for a person


@pytest.mark.parametrize("status", ["misconfigured", "needs_reauth"])
async def test_what_waits_for_a_person_is_read_again_once_a_check_finds_nothing_wrong(
    sandbox: MakeSandbox, database_url: str, status: str
) -> None:
    box = await sandbox(OPTIONS)
    async with opened(box, database_url, "slack") as parts:
        await waits(parts, status)
        report = await asked(parts, await only(parts))
        assert "it waited for a person; it is read again at the next turn" in report.facts
        assert (await parts.engine.cycle("slack", trigger="cli"))["successful_workspaces"] == 1


async def test_what_waits_for_a_person_waits_on_while_something_is_wrong(
    sandbox: MakeSandbox, database_url: str
) -> None:
    box = await sandbox(OPTIONS)
    async with opened(box, database_url, "slack") as parts:
        await waits(parts, "misconfigured")
        box.slack.act("acme", "scopes", {"scopes": ["channels:read", "channels:history"]})
        assert (await asked(parts, await only(parts))).problems
        assert (await only(parts)).status == "misconfigured"


async def test_a_check_of_other_credentials_than_by_now_wakes_nobody(sandbox: MakeSandbox, database_url: str) -> None:
    box = await sandbox(OPTIONS)
    async with opened(box, database_url, "slack") as parts:
        await waits(parts, "needs_reauth")
        before = await only(parts)
        theirs = replace(line(box, "slack", "acme"), credentials=line(box, "slack", "northwind").credentials)
        await parts.store.connections.put([theirs], parts.vault.seal)
        await waits(parts, "needs_reauth")
        await asked(parts, before)
        assert (await only(parts)).status == "needs_reauth"


async def waits(parts: Parts, status: str) -> None:
    async with parts.store.database.write() as session:
        await session.execute(update(connections).values(status=status))
