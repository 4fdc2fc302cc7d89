"""The log by default: a line for each run, a failure told once, its end told once, all of a run found by its id."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from syncd.backfill import Backfill
from syncd.daemon import open_parts
from syncd.ends import recovers
from syncd.errors import AuthError, Misconfigured, RateLimited, Transient
from syncd.http import Link
from syncd.policy import DEFERRED, OK, Verdict
from syncd.sandbox.world import Options
from syncd.source import Page, Since
from syncd.sources import SOURCES
from syncd.store import Database, Ended, Line, Store
from tests.conftest import Clock
from tests.connecting import settings
from tests.scripted import Bench, message, older, source

Lines = list[dict[str, Any]]
OF_A_RUN = ("run", "cycle", "connection", "workspace", "source")


@pytest.fixture(autouse=True)
def _by_default() -> Iterator[None]:
    """Whatever level a command has set before."""
    before = structlog.get_config() if structlog.is_configured() else None
    structlog.reset_defaults()
    yield
    if before:
        structlog.configure(**before)


@contextmanager
def said() -> Iterator[Lines]:
    """All lines, with what is bound to them."""
    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
        yield lines  # type: ignore[misc]


def told(lines: Lines, level: str) -> list[str]:
    """The events of at least this level, less those of cycles."""
    levels = ["debug", "info", "warning", "error"]
    loud = [one for one in lines if levels.index(one["log_level"]) >= levels.index(level)]
    return [one["event"] for one in loud if one["event"] != "cycle.finished"]


class Scripted:
    """A source whose only stream does next what it is told."""

    def __init__(self) -> None:
        self.raises: Exception | None = None

    async def read(self, link: Link, since: Since) -> AsyncIterator[Page]:
        if self.raises:
            raise self.raises
        yield Page(records=[message("m")])


@pytest.fixture
async def scene(sqlite_url: str, clock: Clock) -> AsyncIterator[tuple[Bench, Scripted]]:
    database, script = Database(sqlite_url), Scripted()
    bench = Bench(Store(database, clock), source(script.read), clock)
    await bench.connect("acme")
    yield bench, script
    await database.close()


async def cycles(bench: Bench, script: Scripted, *errors: Exception | None) -> list[list[str]]:
    """What each cycle says aloud, at warning and above; ``run.finished`` of a good run is not."""
    found = []
    for error in errors:
        script.raises = error
        with said() as lines:
            await bench.cycle()
        found.append(told(lines, "warning"))
        bench.engine._now.advance(minutes=15)  # type: ignore[attr-defined]
    return found


async def test_a_failure_is_a_warning_once(scene: tuple[Bench, Scripted]) -> None:
    down = Transient("HTTP 503")
    assert await cycles(*scene, down, down, down) == [["run.finished"], [], []]


async def test_a_failure_of_another_kind_is_a_warning_again(scene: tuple[Bench, Scripted]) -> None:
    assert await cycles(*scene, Transient("a"), Transient("b"), Misconfigured("c")) == [
        ["run.finished"],
        [],
        ["run.finished"],
    ]


async def test_a_failure_after_a_success_is_a_warning_again(scene: tuple[Bench, Scripted]) -> None:
    assert await cycles(*scene, Transient("a"), None, Transient("a")) == [["run.finished"], [], ["run.finished"]]


async def test_the_same_failure_with_new_credentials_is_a_warning_again(scene: tuple[Bench, Scripted]) -> None:
    bench, script = scene
    assert await cycles(bench, script, AuthError("token_revoked")) == [["run.finished"]]
    await bench.connect("acme")
    assert await cycles(bench, script, AuthError("token_revoked")) == [["run.finished"]]


async def test_a_repeated_failure_is_still_a_line_of_its_own(scene: tuple[Bench, Scripted]) -> None:
    bench, script = scene
    await cycles(bench, script, Transient("HTTP 503"))
    with said() as lines:
        await bench.cycle()
    (line,) = [one for one in lines if one["event"] == "run.finished"]
    assert (line["log_level"], line["status"], line["error"]) == ("info", "failed", "HTTP 503")


async def recovered(bench: Bench, script: Scripted, *errors: Exception | None) -> list[int]:
    """How often each cycle says that it recovered."""
    found = []
    for error in errors:
        script.raises = error
        with said() as lines:
            await bench.cycle()
        found.append(told(lines, "info").count("connection.recovered"))
        bench.engine._now.advance(minutes=15)  # type: ignore[attr-defined]
    return found


async def test_a_recovery_is_told_once(scene: tuple[Bench, Scripted]) -> None:
    assert await recovered(*scene, None, Transient("a"), Transient("a"), None, None) == [0, 0, 0, 1, 0]


async def test_a_run_that_was_deferred_is_no_recovery(scene: tuple[Bench, Scripted]) -> None:
    later = RateLimited("later", retry_after_s=60.0)
    assert await recovered(*scene, Transient("a"), later, None) == [0, 0, 1]


async def test_a_recovery_by_new_credentials_is_told(scene: tuple[Bench, Scripted]) -> None:
    bench, script = scene
    await recovered(bench, script, AuthError("token_revoked"))
    await bench.connect("acme")
    assert await recovered(bench, script, None, None) == [1, 0]


async def test_a_cycle_in_which_nothing_was_due_says_nothing(sqlite_url: str, scene: tuple[Bench, Scripted]) -> None:
    bench, _ = scene
    await bench.cycle()
    with said() as lines:
        await bench.engine.cycle("slack", trigger="schedule", turn=bench.engine._now())
    assert [one["log_level"] for one in lines if one["event"] == "cycle.finished"] == ["debug"]


async def test_a_run_of_any_source_is_one_line_by_default(sandbox: Any, sqlite_url: str) -> None:
    box = await sandbox(Options(workspaces=1, days=1, limits=False))
    async with open_parts(settings(box, sqlite_url)) as parts:
        lines = [Line(**{key: part for key, part in one.items() if key != "is_active"}) for one in box.connections()]
        await parts.store.connections.put(lines, parts.vault.seal)
        for name in SOURCES:
            with said() as lines_of_it:
                await parts.engine.cycle(name, trigger="cli")
            assert told(lines_of_it, "info") == ["run.finished"], name


async def test_each_line_of_a_run_says_whose_it_is(sandbox: Any, sqlite_url: str) -> None:
    """A renewed token's among them; the id is that of the run's row, as the API has it."""
    box = await sandbox(Options(workspaces=2, days=1, limits=False))
    given = next(one for one in box.connections() if (one["source"], one["workspace_id"]) == ("gmail", "northwind"))
    async with open_parts(settings(box, sqlite_url)) as parts:
        line = Line(**{key: part for key, part in given.items() if key != "is_active"})
        await parts.store.connections.put([line], parts.vault.seal)
        with said() as lines:
            await parts.engine.cycle("gmail", trigger="cli")
        (run,) = await parts.store.status.runs(1)
    mine = [one for one in lines if not one["event"].startswith("cycle.")]
    assert {"token.renewed", "page.stored", "run.finished"} <= {one["event"] for one in mine}
    assert {tuple(one.get(name) for name in OF_A_RUN) for one in mine} == {
        (run["id"], run["cycle_id"], 1, "northwind", "gmail")
    }


async def test_a_backfills_run_says_its_cycle_too(scene: tuple[Bench, Scripted], clock: Clock) -> None:
    bench, _ = scene
    await bench.cycle()
    plans = bench.engine.plans
    plans["slack"] = replace(plans["slack"], source=source(backfill=[older("1")]))  # type: ignore[index]
    whose = await bench.store.connections.all()
    work = Backfill(
        whose, back_to=clock() - timedelta(days=9), engine=bench.engine, store=bench.store, vault=bench.vault, now=clock
    )
    with said() as lines:
        await work.run()
    (line,) = [one for one in lines if one["event"] == "run.finished"]
    (run, *_) = await bench.store.status.runs(1)
    assert tuple(line[name] for name in OF_A_RUN) == (run["id"], run["cycle_id"], 1, "acme", "slack")


async def test_the_end_of_a_pass_over_several_runs_ends_the_failure(scene: tuple[Bench, Scripted]) -> None:
    bench, script = scene
    await cycles(bench, script, Transient("HTTP 503"))
    connections, now = bench.store.connections, bench.engine._now()
    cycle_id = await bench.store.cycles.begin("slack", "cli", None)
    claimed = await connections.claim("slack", "lease", cycle_id, due=None)
    assert claimed
    one, run_id = claimed
    ended = Ended(verdict=Verdict(DEFERRED, OK, now, 0), passed=True, progress={"parts": 4})
    assert recovers(one, ended)
    await bench.store.cycles.finish_run(run_id, one, "lease", ended)
    (one,) = await connections.all()
    assert (one.last_error, one.last_error_kind, one.last_error_at) == (None, None, None)
    assert not recovers(one, ended)


async def test_a_run_whose_end_could_not_be_stored_counts_as_interrupted(
    scene: tuple[Bench, Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As its row will tell it, once somebody else has the connection."""
    bench, _ = scene

    async def away(*_: Any) -> bool:
        raise OSError("no route to the database")

    monkeypatch.setattr(bench.store.cycles, "finish_run", away)
    await bench.cycle()
    ways = ("interrupted", "succeeded")
    counted = [
        bench.metrics.registry.get_sample_value("syncd_runs_total", {"source": "slack", "status": way}) for way in ways
    ]
    assert counted == [1.0, None]
