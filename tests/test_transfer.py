"""``connections export`` and ``import``: from one database to another, sealed on the way."""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path
from typing import Any

import orjson
import pytest

from syncd.credentials import Vault, generate_key
from tests.test_cli import KEY, TOKEN, Shell, line, migrated, one_line, syncd

__all__ = ["migrated", "syncd"]

EXPORT_KEY = generate_key()


@pytest.fixture
def here(migrated: Shell, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """A database with connections, and a key for exports."""
    monkeypatch.setenv("SYNCD_EXPORT_KEY", EXPORT_KEY)
    lines = [
        line(settings={"channels": ["C1"]}),
        line(workspace_id="other", account="two", is_active=False),
        line(source="gong", credentials={"access_key": "k", "access_key_secret": "s"}),
    ]
    assert migrated("connections", "import", "-", stdin="\n".join(lines)).code == 0
    return migrated


@pytest.fixture
def there(here: Shell, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """``here``, whose next commands meet another database with another key."""

    def moved(*words: str, stdin: str = "") -> Any:
        with monkeypatch.context() as patch:
            patch.setenv("SYNCD_DATABASE__URL", "sqlite+aiosqlite:///there.db")
            patch.setenv("SYNCD_SECRET_KEYS", THERE_KEY)
            return here(*words, stdin=stdin)

    assert moved("migrate").code == 0
    return moved  # type: ignore[return-value]


THERE_KEY = generate_key()


def of(text: str) -> list[dict[str, Any]]:
    return [orjson.loads(one) for one in text.splitlines()]


def listed(shell: Shell) -> list[tuple[str, str, str, bool]]:
    rows = orjson.loads(shell("connections", "list", "--json").out)
    return [(row["workspace_id"], row["source"], row["account"], row["is_active"]) for row in rows]


def test_what_is_exported_arrives_as_it_was(here: Shell, there: Shell) -> None:
    assert here("connections", "export", "moving.jsonl").err == "3 exported\n"
    assert there("connections", "import", "moving.jsonl").out == "3 added, 0 updated\n"
    assert listed(there) == listed(here)


def test_the_credentials_open_there_with_that_databases_key(here: Shell, there: Shell) -> None:
    here("connections", "export", "moving.jsonl", "--source", "slack", "--workspace", "acme")
    there("connections", "import", "moving.jsonl")
    with sqlite3.connect("there.db") as db:
        sealed, settings = db.execute("SELECT credentials, settings FROM connections").fetchone()
    db.close()
    assert Vault([THERE_KEY]).open(1, sealed) == {"token": TOKEN}
    assert orjson.loads(settings) == {"channels": ["C1"]}


def test_whose_account_it_is_moves_along(here: Shell, there: Shell) -> None:
    """So that another account's credentials are refused there as they were here."""
    with sqlite3.connect("syncd.db") as db:
        db.execute("UPDATE connections SET identity = 'T1' WHERE id = 1")
    db.close()
    here("connections", "export", "moving.jsonl")
    assert there("connections", "import", "moving.jsonl").code == 0
    with sqlite3.connect("there.db") as db:
        found = [row[0] for row in db.execute("SELECT identity FROM connections ORDER BY id")]
    db.close()
    assert found == ["T1", None, None]


def test_the_file_shows_no_secret_and_is_nobody_elses(here: Shell) -> None:
    here("connections", "export", "moving.jsonl")
    text = Path("moving.jsonl").read_text()
    assert TOKEN not in text
    assert EXPORT_KEY not in text
    assert [set(one["credentials"]) for one in of(text)] == [{"sealed"}] * 3
    assert stat.S_IMODE(Path("moving.jsonl").stat().st_mode) == 0o600


def test_it_goes_to_standard_output_and_comes_from_standard_input(here: Shell, there: Shell) -> None:
    lines = here("connections", "export", "-").out
    assert there("connections", "import", "-", stdin=lines).out == "3 added, 0 updated\n"


def test_the_key_comes_from_a_file_as_well(here: Shell, there: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SYNCD_EXPORT_KEY")
    Path("key").write_text(f"{EXPORT_KEY}\n")
    lines = here("connections", "export", "-", "--key-file", "key").out
    assert there("connections", "import", "-", "--key-file", "key", stdin=lines).code == 0


def test_what_was_removed_has_no_credentials_to_export(here: Shell) -> None:
    here("connections", "remove", "1")
    typed = here("connections", "export", "-")
    assert len(of(typed.out)) == 2
    assert "1 without credentials" in typed.err


def test_without_a_key_nothing_is_written(here: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SYNCD_EXPORT_KEY")
    one_line(here("connections", "export", "moving.jsonl"), "--key-file", "keys generate")
    assert not Path("moving.jsonl").exists()


def test_a_file_that_is_there_is_not_overwritten(here: Shell) -> None:
    Path("moving.jsonl").write_text("mine")
    one_line(here("connections", "export", "moving.jsonl"), "there already")
    assert Path("moving.jsonl").read_text() == "mine"


def test_a_secret_that_cannot_be_opened_stops_the_export(here: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNCD_SECRET_KEYS", generate_key())
    one_line(here("connections", "export", "moving.jsonl"), "connection 1")
    assert not Path("moving.jsonl").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["--workspace", "nobody"],
        ["--source", "teams"],
        ["--key-file", "nowhere"],
        ["--workspace", "acme", "-s", "gmail"],
    ],
)
def test_a_mistake_is_one_line(here: Shell, words: list[str]) -> None:
    one_line(here("connections", "export", "-", *words))


def test_another_key_imports_nothing(here: Shell, there: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = here("connections", "export", "-").out
    monkeypatch.setenv("SYNCD_EXPORT_KEY", generate_key())
    one_line(there("connections", "import", "-", stdin=lines), "line 1", "another key")
    assert listed(there) == []


def test_a_key_that_is_none_is_said_and_not_shown(here: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNCD_EXPORT_KEY", "geheim")
    typed = here("connections", "export", "-")
    one_line(typed, "not a Fernet key")
    assert "geheim" not in typed.err


def test_without_a_key_a_sealed_line_says_what_it_needs(
    here: Shell, there: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = here("connections", "export", "-").out
    monkeypatch.delenv("SYNCD_EXPORT_KEY")
    one_line(there("connections", "import", "-", stdin=lines), "line 1", "SYNCD_EXPORT_KEY")


@pytest.mark.parametrize(
    "change",
    [
        {"workspace_id": "mallory"},
        {"settings": {"channels": "*"}},
        {"is_active": True},
        {"account": "x"},
        {"credentials": {"sealed": "gAAAAA"}},
        {"credentials": {"sealed": 7}},
        {"colour": "red"},
    ],
)
def test_of_a_tampered_file_nothing_is_imported(here: Shell, there: Shell, change: dict[str, Any]) -> None:
    lines = of(here("connections", "export", "-").out)
    lines[1] |= change
    text = "\n".join(orjson.dumps(one).decode() for one in lines)
    one_line(there("connections", "import", "-", stdin=text), "line 2")
    assert listed(there) == []


def test_credentials_of_one_line_do_not_open_in_another(here: Shell, there: Shell) -> None:
    first, second, _ = of(here("connections", "export", "-").out)
    moved = first | {"credentials": second["credentials"]}
    one_line(there("connections", "import", "-", stdin=orjson.dumps(moved).decode()), "line 1", "changed")


def test_plain_lines_are_imported_beside_a_key(here: Shell, there: Shell) -> None:
    assert there("connections", "import", "-", stdin=line()).out == "1 added, 0 updated\n"
    assert KEY != THERE_KEY


def test_each_new_line_without_credentials_is_named_by_its_number(migrated: Shell) -> None:
    lines = [line(), "", line(workspace_id="b", credentials=None), line(workspace_id="c", credentials=None)]
    failed = migrated("connections", "import", "-", stdin="\n".join(lines))
    why = "a new connection needs credentials"
    one_line(failed, f"-: nothing was imported: line 3: {why}; line 4: {why}")
    assert listed(migrated) == []
