"""Secrets from files: systemd's credentials, Docker's secrets, a file of one's own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from syncd.credentials import generate_key
from syncd.errors import UsageError
from syncd.secret_files import exposed
from syncd.settings import Settings, load, masked

URL = "postgresql+asyncpg://syncd:hunter2@db/syncd"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused() -> str:
    with pytest.raises(UsageError) as caught:
        load()
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)
    return str(caught.value)


def url(settings: Settings) -> str:
    return settings.database.url.get_secret_value()


def test_the_databases_address_comes_from_a_file_without_its_last_line_break(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("url").write_text(f"{URL}\r\n")
    monkeypatch.setenv("SYNCD_DATABASE__URL_FILE", str(Path("url").absolute()))
    assert url(load()) == URL


def test_an_address_from_a_file_is_shown_without_its_password() -> None:
    Path("url").write_text(URL)
    Path("syncd.toml").write_text("[database]\nurl_file = 'url'")
    assert "hunter2" not in str(masked(load())) + repr(load())


def test_a_clients_secret_comes_from_a_file() -> None:
    Path("secret").write_text("s3cret\n")
    Path("syncd.toml").write_text("[sources.slack.oauth]\nclient_id = '1'\nclient_secret_file = 'secret'")
    assert load().sources.slack.oauth.secret() == "s3cret"


def test_a_relative_name_is_one_of_systemds_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, other = generate_key(), generate_key()
    (tmp_path / "handed").mkdir()
    (tmp_path / "handed" / "keys").write_text(key)
    Path("keys").write_text(other)
    Path("syncd.toml").write_text("secret_keys_file = 'keys'")
    assert load().keys() == [other]
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "handed"))
    assert load().keys() == [key]


def test_a_key_in_a_file_that_is_none_is_named_by_file_and_place() -> None:
    Path("keys").write_text(f"{generate_key()}\nhunter2\n")
    Path("syncd.toml").write_text("secret_keys_file = 'keys'")
    assert refused().startswith("secret_keys_file keys: key 2")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "No such file"),
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"\xff\xfe", "not UTF-8"),
        (b"x" * (2**20 + 1), "larger than any secret"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(content: bytes | None, says: str) -> None:
    if content is not None:
        Path("url").write_bytes(content)
    Path("syncd.toml").write_text("[database]\nurl_file = 'url'")
    assert "url_file url" in refused()
    assert says in refused()


def test_a_folder_instead_of_a_file_is_one_line() -> None:
    Path("syncd.toml").write_text("secret_keys_file = '.'")
    assert "secret_keys_file . cannot be read" in refused()


@pytest.mark.parametrize(
    ("toml", "names"),
    [
        ("[database]\nurl = 'sqlite+aiosqlite:///x.db'\nurl_file = 'f'", "database: url and url_file are both given"),
        (
            f"secret_keys = '{generate_key()}'\nsecret_keys_file = 'f'",
            "secret_keys and secret_keys_file are both given",
        ),
    ],
    ids=["url", "keys"],
)
def test_a_value_beside_its_file_is_one_line_and_no_silent_choice(toml: str, names: str) -> None:
    Path("f").write_text("sqlite+aiosqlite:///y.db")
    Path("syncd.toml").write_text(toml)
    assert refused().startswith(names)


def test_both_in_the_environment_are_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNCD_SECRET_KEYS", generate_key())
    monkeypatch.setenv("SYNCD_SECRET_KEYS_FILE", "f")
    assert "both given" in refused()


def test_a_file_named_by_the_environment_wins_over_a_value_in_syncd_toml(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("url").write_text(URL)
    Path("syncd.toml").write_text("[database]\nurl = 'sqlite+aiosqlite:///x.db'")
    monkeypatch.setenv("SYNCD_DATABASE__URL_FILE", "url")
    assert url(load()) == URL


def test_a_value_in_the_environment_wins_over_a_file_named_by_syncd_toml(monkeypatch: pytest.MonkeyPatch) -> None:
    key = generate_key()
    Path("syncd.toml").write_text("secret_keys_file = 'nowhere'")
    monkeypatch.setenv("SYNCD_SECRET_KEYS", key)
    assert load().keys() == [key]


def test_an_empty_variable_is_none_given(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("keys").write_text(key := generate_key())
    Path("syncd.toml").write_text("secret_keys_file = 'keys'")
    monkeypatch.setenv("SYNCD_SECRET_KEYS", "")
    monkeypatch.setenv("SYNCD_DATABASE__URL_FILE", "")
    assert load().keys() == [key]


def test_a_file_that_every_user_may_read_is_found() -> None:
    Path("url").write_text("sqlite+aiosqlite:///x.db")
    Path("syncd.toml").write_text("[database]\nurl_file = 'url'")
    Path("url").chmod(0o644)
    assert list(exposed(load())) == [("database.url_file", Path("url"))]
    Path("url").chmod(0o640)
    assert list(exposed(load())) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_we_may_not_read_is_one_line() -> None:
    Path("url").write_text(URL)
    Path("url").chmod(0)
    Path("syncd.toml").write_text("[database]\nurl_file = 'url'")
    assert "Permission denied" in refused()
