"""The command line: one clear line for every mistake, nothing half done, no secret shown."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import orjson
import pytest

from syncd.cli import main
from syncd.credentials import generate_key
from tests.process import command, environment

KEY = generate_key()
TOKEN = "xoxb-very-secret-token"


class Typed:
    """What a command did: exit code, stdout, stderr."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


class Shell:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *words: str, stdin: str = "") -> Typed:
        self._monkeypatch.setattr(sys, "argv", ["syncd", *words])
        self._monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        written = self._capsys.readouterr()
        return Typed(int(ended.value.code or 0), written.out, written.err)


@pytest.fixture
def syncd(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Shell:
    """``syncd("status")`` in an empty folder with a key, on SQLite there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SYNCD_SECRET_KEYS", KEY)
    return Shell(monkeypatch, capsys)


@pytest.fixture
def migrated(syncd: Shell) -> Shell:
    assert syncd("migrate").code == 0
    return syncd


def one_line(typed: Typed, *words: str) -> None:
    assert typed.code == 2
    assert typed.err.startswith("error: ")
    assert typed.err.count("\n") == 1
    assert typed.out == ""
    for word in words:
        assert word in typed.err


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["run-once", "--source", "teams"], ["teams", "slack, gong, fathom, gmail, all"]),
        (["connections", "add", "--source", "x", "--workspace", "w", "--credentials-file", "-"], ["'x'"]),
        (["connections", "add", "--source", "slack", "--workspace", "w", "--credentials-file", "nowhere"], ["nowhere"]),
        (["connections", "import", "nowhere.jsonl"], ["nowhere.jsonl"]),
        (["connections", "pause", "99"], ["99", "connections list"]),
        (["connections", "check", "99"], ["99"]),
        (["connections", "pause", "99999999999999999999"], ["connection_id"]),
        (["status", "--config", "nowhere.toml"], ["nowhere.toml"]),
        (["nonsense"], ["nonsense"]),
        (["run-once"], ["--source"]),
        (["sandbox", "--switch", "x"], ["NAME=VALUE"]),
        (["sandbox", "--switch", "slack.mood=bad"], ["slack.mood", "slack.restricted"]),
    ],
    ids=lambda value: " ".join(value[:4]),
)
def test_a_mistake_is_one_line_that_names_it(migrated: Shell, words: list[str], names: list[str]) -> None:
    one_line(migrated(*words, stdin="{}"), *names)


@pytest.mark.parametrize("words", [["status"], ["run-once", "-s", "all"], ["connections", "list"], ["serve"]])
def test_without_a_schema_the_way_out_is_named(syncd: Shell, words: list[str]) -> None:
    one_line(syncd(*words), "syncd migrate")


def test_an_unreachable_database_is_one_line_without_its_password(
    syncd: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYNCD_DATABASE__URL", "postgresql+asyncpg://syncd:hunter2@127.0.0.1:1/syncd")
    typed = syncd("status")
    one_line(typed, "127.0.0.1:1")
    assert "hunter2" not in typed.err


def test_a_database_in_a_folder_that_is_not_there_is_one_line(syncd: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNCD_DATABASE__URL", "sqlite+aiosqlite:///nowhere/syncd.db")
    one_line(syncd("migrate"), "nowhere/syncd.db")


def test_without_a_key_adding_says_how_to_make_one(migrated: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SYNCD_SECRET_KEYS")
    typed = migrated(*ADD, stdin=orjson.dumps({"token": TOKEN}).decode())
    one_line(typed, "syncd keys generate")


ADD = ["connections", "add", "--source", "slack", "--workspace", "acme", "--credentials-file", "-"]


def test_a_connection_is_added_listed_paused_resumed_and_removed(migrated: Shell) -> None:
    def state() -> str:
        (row,) = orjson.loads(migrated("connections", "list", "--json").out)
        return str(row["state"])

    assert migrated(*ADD, stdin=orjson.dumps({"token": TOKEN}).decode()).code == 0
    states = [state()]
    for verb in ("pause", "resume", "remove"):
        assert migrated("connections", verb, "1").code == 0
        states.append(state())
    assert states == ["new", "paused", "new", "removed"]
    assert migrated("connections", "remove", "1", "--purge").code == 0
    assert orjson.loads(migrated("connections", "list", "--json").out) == []


def test_new_credentials_of_a_paused_connection_say_that_it_stays_paused(migrated: Shell) -> None:
    credentials = orjson.dumps({"token": TOKEN}).decode()
    migrated(*ADD, stdin=credentials)
    migrated("connections", "pause", "1")
    assert "syncd connections resume 1" in migrated(*ADD, stdin=credentials).out


@pytest.mark.parametrize(
    ("credentials", "settings", "names"),
    [
        ('{"key": "%s"}', "", "found members: key"),
        ('{"token": ""}', "", "token"),
        ('["%s"]', "", "JSON object"),
        ('{"token": "%s"', "", "not JSON"),
        ('{"token": "%s"}', '{"chanels": "*"}', "chanels"),
        ('{"token": "%s"}', '{"channels": 5}', "channels"),
        ('{"token": "%s"}', "{", "--settings"),
    ],
)
def test_bad_credentials_and_settings_are_named_and_never_shown(
    migrated: Shell, credentials: str, settings: str, names: str
) -> None:
    words = [*ADD, *(["--settings", settings] if settings else [])]
    typed = migrated(*words, stdin=credentials.replace("%s", TOKEN))
    one_line(typed, names)
    assert TOKEN not in typed.err
    assert orjson.loads(migrated("connections", "list", "--json").out) == []


def line(**more: object) -> str:
    body = {"workspace_id": "acme", "source": "slack", "credentials": {"token": TOKEN}} | more
    return orjson.dumps({key: value for key, value in body.items() if value is not ...}).decode()


def test_lines_are_imported_and_updated(migrated: Shell) -> None:
    text = "\n".join(
        [
            line(),
            "",
            line(workspace_id="b"),
            line(source="gong", credentials={"access_key": "k", "access_key_secret": "s"}),
        ]
    )
    assert migrated("connections", "import", "-", stdin=text).out == "3 added, 0 updated\n"
    assert migrated("connections", "import", "-", stdin=text).out == "0 added, 3 updated\n"


@pytest.mark.parametrize(
    ("bad", "names"),
    [
        ("not json", "not JSON"),
        ("[]", "JSON object"),
        (line(source="teams"), "teams"),
        (line(source=...), "unknown source"),
        (line(workspace_id=...), "workspace_id is missing"),
        (line(workspace_id=7), "workspace_id must be text"),
        (line(is_active="yes"), "is_active must be true or false"),
        (line(colour="red"), "colour"),
        (line(credentials={"key": TOKEN}), "credentials must hold"),
    ],
    ids=lambda value: value[:20],
)
def test_of_a_bad_import_nothing_is_stored_and_the_line_is_numbered(migrated: Shell, bad: str, names: str) -> None:
    typed = migrated("connections", "import", "-", stdin=f"{line()}\n{bad}\n")
    one_line(typed, "line 2", names)
    assert TOKEN not in typed.err
    assert orjson.loads(migrated("connections", "list", "--json").out) == []


def test_a_line_separator_inside_of_a_text_ends_no_line(migrated: Shell) -> None:
    assert migrated("connections", "import", "-", stdin=line(workspace_id="a\u2028b")).out == "1 added, 0 updated\n"


def test_a_new_connection_without_credentials_is_refused(migrated: Shell) -> None:
    one_line(migrated("connections", "import", "-", stdin=line(credentials=...)), "needs credentials")


def test_a_removed_connection_is_not_resumed_without_credentials(migrated: Shell) -> None:
    migrated("connections", "import", "-", stdin=line())
    migrated("connections", "remove", "1")
    one_line(migrated("connections", "resume", "1"), "no credentials")


def test_no_connection_is_skipped_and_done(migrated: Shell) -> None:
    typed = migrated("run-once", "--source", "gong", "--json")
    status = orjson.loads(typed.out)
    assert typed.code == 0
    assert (status["status"], status["total_ingested"]) == ("skipped", 0)


def test_a_workspace_that_is_not_there_is_said(migrated: Shell) -> None:
    typed = migrated("run-once", "--source", "gong", "--workspace", "nosuch")
    assert "gong: nothing was read: no connection of workspace nosuch" in typed.err


def test_keys_are_rotated(migrated: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    migrated(*ADD, stdin=orjson.dumps({"token": TOKEN}).decode())
    new = migrated("keys", "generate").out.strip()
    monkeypatch.setenv("SYNCD_SECRET_KEYS", f"{new},{KEY}")
    assert migrated("keys", "rotate").out == "1 credentials are sealed with the first key: 1 anew, 0 were already\n"
    monkeypatch.setenv("SYNCD_SECRET_KEYS", new)
    assert migrated("run-once", "--source", "gong").code == 0


def test_a_secret_that_no_key_opens_is_named_by_the_rotation_and_the_others_are_done(
    migrated: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrated("connections", "import", "-", stdin=line())
    new = generate_key()
    monkeypatch.setenv("SYNCD_SECRET_KEYS", new)
    migrated("connections", "import", "-", stdin=line(workspace_id="b"))
    typed = migrated("keys", "rotate")
    assert typed.code == 1
    assert typed.out.startswith("1 credentials are sealed with the first key: 0 anew, 1 were already\nleft as it is: ")
    assert "connection 1" in typed.out


@pytest.mark.parametrize("key", [generate_key(), ""], ids=["wrong", "missing"])
@pytest.mark.parametrize("words", [["run-once", "--source", "slack"], ["serve"]], ids=["run-once", "serve"])
def test_without_the_right_key_nothing_starts_and_nothing_is_marked_as_broken(
    migrated: Shell, monkeypatch: pytest.MonkeyPatch, words: list[str], key: str
) -> None:
    migrated(*ADD, stdin=orjson.dumps({"token": TOKEN}).decode())
    monkeypatch.setenv("SYNCD_SECRET_KEYS", key)
    one_line(migrated(*words), "secret_keys" if key else "syncd keys generate")
    (row,) = orjson.loads(migrated("connections", "list", "--json").out)
    assert (row["status"], row["state"], row["last_error"]) == ("ok", "new", None)


def test_the_configuration_is_printed_as_toml_without_secrets(syncd: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    import tomllib

    monkeypatch.setenv("SYNCD_DATABASE__URL", "postgresql+asyncpg://syncd:hunter2@db/syncd")
    printed = syncd("config").out
    shown = tomllib.loads(printed)
    assert shown["sources"]["slack"]["cron"] == "0-59/15 * * * *"
    assert shown["sources"]["slack"]["limits"]["users.list"] == "20/1m"
    assert "hunter2" not in printed
    assert KEY not in printed


def test_help_and_version_exit_well(syncd: Shell) -> None:
    assert syncd("--help").code == 0
    assert syncd("--version").out.startswith("syncd ")
    for words in (["serve"], ["run-once"], ["connections", "add"], ["sandbox"], ["demo"], ["doctor"]):
        assert syncd(*words, "--help").code == 0


def test_doctor_says_what_is_wrong_and_what_to_do(migrated: Shell) -> None:
    typed = migrated("doctor", "--url", "http://127.0.0.1:1")
    assert typed.code == 1
    assert "syncd serve" in typed.out
    assert "syncd connections add" in typed.out


async def test_run_once_from_python_gives_the_same_object(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from syncd import run_once

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SYNCD_DATABASE__URL", sqlite_url)
    status = await run_once("slack")
    assert (status["source"], status["status"]) == ("slack", "skipped")
    assert [one["source"] for one in await run_once("all")] == ["slack", "gong", "fathom", "gmail"]


async def test_the_module_runs_as_the_command(sqlite_url: str, tmp_path: Path) -> None:
    code, out, _ = await command(environment(SYNCD_DATABASE__URL=sqlite_url), "status", "--json")
    assert code == 0
    assert set(orjson.loads(out)) == {"timestamp", "sources", "queue", "connections"}
