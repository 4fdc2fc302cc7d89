"""Credentials at rest, and that nothing else shows them."""

from __future__ import annotations

import json
import logging
import sys
from datetime import timedelta

import pytest
import structlog

from syncd import logs
from syncd.credentials import Vault, generate_key
from syncd.errors import SealError
from syncd.source import Page
from syncd.store import Line, Store
from tests.conftest import Clock
from tests.scripted import Bench, pages, source

KEY = generate_key()
SECRET = {"token": "xoxb-1234567890-abcdefgh"}


def test_what_is_sealed_opens_again() -> None:
    vault = Vault([generate_key()])
    sealed = vault.seal(7, SECRET)
    assert "xoxb" not in sealed
    assert vault.open(7, sealed) == SECRET


def test_a_secret_opens_only_for_its_connection() -> None:
    vault = Vault([generate_key()])
    with pytest.raises(SealError, match="belong to connection 7"):
        vault.open(8, vault.seal(7, SECRET))


def test_any_of_several_keys_opens_and_the_first_seals() -> None:
    old, new = generate_key(), generate_key()
    sealed = Vault([new, old]).reseal(7, Vault([old]).seal(7, SECRET))
    assert sealed is not None
    assert Vault([new]).open(7, sealed) == SECRET


def test_another_key_does_not_open() -> None:
    with pytest.raises(SealError, match="not in secret_keys"):
        Vault([generate_key()]).open(7, Vault([generate_key()]).seal(7, SECRET))


def test_without_a_key_one_line_says_how_to_make_one() -> None:
    with pytest.raises(SealError, match="syncd keys generate") as caught:
        Vault([]).seal(7, SECRET)
    assert "\n" not in str(caught.value)


def test_what_the_first_key_sealed_is_not_sealed_anew() -> None:
    vault = Vault([generate_key(), generate_key()])
    assert vault.reseal(7, vault.seal(7, SECRET)) is None


def test_what_is_no_sealed_text_is_told_as_such() -> None:
    with pytest.raises(SealError, match="connection 7"):
        Vault([generate_key()]).open(7, "nøthing")


async def test_one_secret_of_an_unknown_key_fails_its_own_run_and_waits_for_the_next_turn(
    store: Store, clock: Clock
) -> None:
    bench = Bench(store, source(pages(Page())), clock)
    await bench.connect("a", "b")
    await store.connections.put([Line(workspace_id="a", source="slack", credentials=SECRET)], Vault([KEY]).seal)
    status = await bench.cycle()
    assert (status["successful_workspaces"], status["failed_workspaces"]) == (1, 1)
    (failed, _) = await bench.rows("connections")
    assert (failed.status, failed.failures, failed.last_error_kind) == ("ok", 0, "sealed")
    assert failed.next_sync_at == clock() + timedelta(minutes=15)


def test_a_line_and_a_connection_do_not_show_their_secret() -> None:
    assert "xoxb" not in repr(Line(workspace_id="w", source="slack", credentials=SECRET))


@pytest.mark.parametrize(
    "secret",
    [
        "xoxb-1234567890-abcdefgh",
        "xoxe.xoxp-1-Mi0yLTEyMzQ1",
        "ya29.a0AfH6SMBx-abc_def",
        "1//0gAbCdEfGhIjKlMnOp",
        "Bearer abcdefghijklmnop",
        "Basic dXNlcjpwYXNzd29yZA==",
        "gAAAAABmQ0v1hJ8kZ0S4u1b2c3d4e5f6g7h8",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA\n-----END RSA PRIVATE KEY-----",
    ],
)
def test_a_secret_in_free_text_is_masked(secret: str) -> None:
    assert secret not in logs.redact(f"it failed with {secret} at the end")


def test_a_password_in_an_address_is_masked() -> None:
    assert "hunter2" not in logs.redact("postgresql+asyncpg://syncd:hunter2@db/syncd")


def test_ordinary_words_are_left_as_they_are() -> None:
    line = "page.stored records=200 token_revoked basic plan https://slack.com/api/ C0123:1700000000.000100"
    assert logs.redact(line) == line


@pytest.mark.parametrize("form", ["json", "console"])
def test_no_log_line_shows_a_secret(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("debug", form)
    log = structlog.get_logger("test")
    log.info(
        "call.failed",
        credentials=SECRET,
        refresh_token="r-plain",
        nested={"client_secret": "s-plain"},
        error=SECRET["token"],
    )
    logging.getLogger("some.library").warning("sent %s", SECRET["token"])
    try:
        token = SECRET["token"]
        raise ValueError(token)
    except ValueError:
        log.exception("run.defect")
    written = capsys.readouterr().err
    assert "call.failed" in written
    for secret in ("1234567890-abcdefgh", "r-plain", "s-plain"):
        assert secret not in written


def test_control_characters_of_a_vendor_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("info", "console")
    structlog.get_logger("test").info("run.finished", error="\x1b]0;renamed\x07\x1b[2J", workspace="a\nforged")
    written = capsys.readouterr().err
    assert "\x1b]0;" not in written
    assert "\nforged" not in written


def test_json_lines_are_json(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("info", "json")
    structlog.get_logger("test").info("run.finished", records=3)
    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["records"], line["level"]) == ("run.finished", 3, "info")


def test_data_stays_off_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("info", "json")
    structlog.get_logger("test").info("x")
    assert capsys.readouterr().out == ""
    assert sys.stdout is not None
