"""``syncd connect`` on a real terminal, ``syncd connect-link``: what is asked, what is stored, what is never shown."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from syncd.cli import main
from syncd.credentials import generate_key
from tests.terminal import Shell, Terminal, shell

__all__ = ["shell"]


async def test_a_token_is_asked_for_unseen_tried_and_stored_with_a_choice(shell: Shell) -> None:
    token = next(line for line in shell.box.connections() if line["source"] == "slack")["credentials"]["token"]
    async with Terminal(shell.env, "connect", "slack", "--workspace", "w1") as terminal:
        await terminal.types("1 or 2 [1]: ", "2")
        await terminal.types("slack token: ", token)
        await terminal.until("syncbot in Acme")
        await terminal.types("invited to later: ", "99")
        await terminal.types("invited to later: ", "2")
        assert await terminal.ends() == 0
    assert "connected: slack of w1" in terminal.shown
    assert token not in terminal.shown
    chosen = next(
        room.id for room in shell.box.slack._installs["acme"].office.rooms.values() if room.info["name"] == "general"
    )
    assert [row[:3] for row in shell.stored()] == [("slack", "w1", {"channels": [chosen]})]
    assert shell.stored()[0][3]


async def test_a_key_that_opens_nothing_is_one_line_and_nothing_is_stored(shell: Shell) -> None:
    env = {name: value for name, value in shell.env.items() if "__OAUTH__" not in name}
    async with Terminal(env, "connect", "gong", "--workspace", "w1") as terminal:
        await terminal.types("gong access_key: ", "a-wrong-key")
        await terminal.types("gong access_key_secret: ", "a-wrong-secret")
        assert await terminal.ends() == 1
    assert "error: gong: nothing was stored: " in terminal.shown
    assert not [secret for secret in ("a-wrong-key", "a-wrong-secret", "Traceback") if secret in terminal.shown]
    assert shell.stored() == []


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """``said("connect-link", …)``: exit code, stdout and stderr of a command, with a Slack app in the settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SYNCD_SECRET_KEYS", generate_key())
    monkeypatch.setenv("SYNCD_SOURCES__SLACK__OAUTH__CLIENT_ID", "id")
    monkeypatch.setenv("SYNCD_SOURCES__SLACK__OAUTH__CLIENT_SECRET", "a-hidden-secret")

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["syncd", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        written = capsys.readouterr()
        assert "a-hidden-secret" not in written.out + written.err
        return int(ended.value.code or 0), written.out, written.err

    return run


def test_without_a_terminal_the_way_for_scripts_is_named(said) -> None:
    code, shown, words = said("connect", "slack", "--workspace", "w1")
    assert (code, shown, words.count("\n")) == (2, "", 1)
    assert "connections add --credentials-file -" in words


def test_a_link_is_an_address_of_the_public_url(said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNCD_HTTP__PUBLIC_URL", "https://sync.example.com/")
    code, shown, _ = said("connect-link", "-s", "slack", "-w", "w1", "--expires", "2h")
    assert (code, shown.startswith("https://sync.example.com/connect/slack?workspace=w1&account=&expires=")) == (
        0,
        True,
    )
    assert shown.count("\n") == 1


def test_a_link_without_a_public_url_leads_to_the_listening_address(said) -> None:
    assert said("connect-link", "-s", "slack", "-w", "w1")[1].startswith("http://127.0.0.1:8080/connect/slack?")


@pytest.mark.parametrize(
    ("words", "env", "why"),
    [
        (("--expires", "soon"), {}, "--expires: write a duration"),
        ((), {"SYNCD_HTTP__PORT": "0"}, "set http.public_url"),
        ((), {"SYNCD_SECRET_KEYS": ""}, "no secret key is configured"),
        (("-s", "gong"), {}, "set sources.gong.oauth.client_id"),
    ],
)
def test_why_there_is_no_link_is_one_line(
    said, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], env: dict[str, str], why: str
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    code, shown, line = said("connect-link", "-s", "slack", "-w", "w1", *words)
    assert (code, shown, line.count("\n"), why in line) == (2, "", 1, True), line


def test_the_apps_secret_is_masked_in_what_is_in_force(said) -> None:
    code, shown, _ = said("config")
    assert (code, "sources.slack.oauth.client_id" in shown) == (0, True)
