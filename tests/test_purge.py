"""``purge`` and ``remove --purge``: asked first, done at once, and no run under way writes anything afterwards."""

from __future__ import annotations

import io
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest
from sqlalchemy import text

from syncd.cli import main
from syncd.http import Link
from syncd.source import Page, Pending, Since
from syncd.store import Store, Which
from syncd.tables import metadata
from tests.scripted import Bench, message, pages, source
from tests.test_cli import Shell, line, migrated, one_line, syncd

__all__ = ["migrated", "syncd"]


@pytest.fixture
def two(migrated: Shell) -> Shell:
    """acme has Slack and Gong, other has Slack."""
    gong = line(source="gong", credentials={"access_key": "k", "access_key_secret": "s"})
    assert migrated("connections", "import", "-", stdin="\n".join([line(), gong, line(workspace_id="other")])).code == 0
    return migrated


def left(shell: Shell) -> list[tuple[str, str]]:
    return [(row["workspace_id"], row["source"]) for row in orjson.loads(shell("connections", "list", "--json").out)]


class Person(io.StringIO):
    """Standard input of a terminal at which somebody sits."""

    def isatty(self) -> bool:
        return True


def answered(
    answer: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["syncd", *words])
    monkeypatch.setattr(sys, "stdin", Person(answer))
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0), capsys.readouterr().out


def test_a_workspace_is_erased(two: Shell) -> None:
    typed = two("purge", "--workspace", "acme", "--yes")
    assert (typed.code, typed.out) == (0, "erased: 2 connections with 0 rows of workspace acme\n")
    assert left(two) == [("other", "slack")]


def test_one_source_of_a_workspace_is_erased(two: Shell) -> None:
    assert two("purge", "--workspace", "acme", "--source", "gong", "--yes").code == 0
    assert left(two) == [("acme", "slack"), ("other", "slack")]


def test_where_nobody_can_be_asked_it_wants_yes(two: Shell) -> None:
    one_line(two("purge", "--workspace", "acme"), "2 connections", "--yes")
    assert len(left(two)) == 3


@pytest.mark.parametrize("words", [["purge", "--workspace", "acme"], ["connections", "remove", "1", "--purge"]])
def test_on_a_terminal_a_person_is_asked_and_may_say_no(
    two: Shell, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out = answered("n\n", monkeypatch, capsys, *words)
    assert code == 1
    assert "cannot be undone" in out
    assert "nothing was erased" in out
    assert len(left(two)) == 3


def test_on_a_terminal_a_person_sees_what_goes_and_may_say_yes(
    two: Shell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out = answered("y\n", monkeypatch, capsys, "purge", "--workspace", "acme")
    assert code == 0
    assert "gong" in out
    assert left(two) == [("other", "slack")]


def test_to_end_the_input_erases_nothing(
    two: Shell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert answered("", monkeypatch, capsys, "purge", "--workspace", "acme")[0] == 130
    assert len(left(two)) == 3


def test_a_script_removes_by_id_without_being_asked(two: Shell) -> None:
    typed = two("connections", "remove", "1", "--purge")
    assert (typed.code, typed.out) == (0, "connection 1: erased with all its records\n")
    assert left(two) == [("acme", "gong"), ("other", "slack")]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["purge"], ["--workspace"]),
        (["purge", "--workspace", "acne", "--yes"], ["'acne'", "--log"]),
        (["purge", "--workspace", "other", "--source", "gong", "--yes"], ["gong of workspace 'other'"]),
        (["purge", "--workspace", "acme", "--source", "teams"], ["teams"]),
        (["connections", "remove", "99", "--purge"], ["99"]),
    ],
)
def test_a_mistake_is_one_line_and_erases_nothing(two: Shell, words: list[str], names: list[str]) -> None:
    one_line(two(*words), *names)
    assert len(left(two)) == 3


def test_the_log_says_what_was_erased_by_whom(two: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "ann")
    assert two("purge", "--log").out == "nothing was ever erased\n"
    two("purge", "--workspace", "acme", "--source", "gong", "--yes")
    (kept,) = orjson.loads(two("purge", "--log", "--json").out)
    assert (kept["purged_by"], kept["workspace_id"], kept["source"], kept["counts"]) == ("ann", "acme", "gong", {})
    assert "ann" in two("purge", "--log").out


async def test_a_run_under_way_writes_nothing_after_a_purge(store: Store) -> None:
    """Erased between two of its pages; the second brings records, a cursor, backlog and new credentials."""

    async def read(link: Link, since: Since) -> AsyncIterator[Page]:
        yield Page(records=[message("a")], cursor="1", pending=[Pending("p", "later")], notes=["stored at once"])
        await store.purges.purge(Which(workspace="acme"), by="me")
        yield Page(records=[message("b")], cursor="2", pending=[Pending("q", "later")])

    bench = Bench(store, source(read))
    await bench.connect("acme", "other")
    await bench.cycle(workspace="acme")
    async with store.database.read() as session:
        for table in metadata.sorted_tables:
            if "connection_id" in table.c and table.name != "purges":
                assert (await session.execute(text(f"SELECT * FROM {table.name}"))).all() == [], table.name
    assert [one.workspace_id for one in await store.connections.all()] == ["other"]
    (kept,) = await store.purges.log()
    assert kept["counts"] == {"backlog": 1, "cursors": 1, "messages": 1, "runs": 1}


async def test_the_other_workspaces_of_the_cycle_are_read_all_the_same(store: Store) -> None:
    read = pages(Page(records=[message("a")]))

    async def erasing(link: Link, since: Since) -> AsyncIterator[Page]:
        if link.credentials["token"] == "t-acme":
            await store.purges.purge(Which(workspace="acme"), by="me")
        async for page in read(link, since):
            yield page

    bench = Bench(store, source(erasing))
    await bench.connect("acme", "b", "c")
    status = await bench.cycle()
    assert (status["successful_workspaces"], status["failed_workspaces"]) == (2, 0)
    assert (await store.looks.counts())["messages"] == 2


def test_the_database_is_named_where_it_cannot_be_reached(syncd: Shell, tmp_path: Path) -> None:
    one_line(syncd("purge", "--workspace", "acme", "--yes"), "syncd migrate")
