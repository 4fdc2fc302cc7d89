"""The watch over the suite's secrets: it fails a test that leaks one, wherever it does, and leaves the others alone."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import asyncpg
import httpx
from sqlalchemy.engine import make_url

from syncd.sandbox.world import Options
from syncd.store import Line
from tests.connecting import serving, settings
from tests.leaks import Watch, watch
from tests.process import environment

TOKEN = "xoxb-leaked-12345"
SUITE = f"""
import logging
import pytest
from syncd.credentials import Vault, generate_key

TOKEN = "{TOKEN}"

@pytest.fixture(autouse=True)
def used():
    Vault([generate_key()]).seal(1, {{"token": TOKEN, "access_key": "AKEY12345", "access_key_secret": "ASECRET12345"}})

def test_leaks_printing(): print("see", TOKEN)
def test_leaks_logging(): logging.getLogger().warning("see %s", TOKEN)
def test_leaks_though_it_was_read(capsys):
    print(TOKEN)
    capsys.readouterr()
def test_leaks_into_a_file(tmp_path): (tmp_path / "syncd.db").write_bytes(b".." + TOKEN.encode())
def test_leaks_as_it_travels(): print("Authorization: Basic QUtFWTEyMzQ1OkFTRUNSRVQxMjM0NQ==")
def test_honest_print(): print("xoxb-another-12345")
def test_honest_file(tmp_path): (tmp_path / "credentials.json").write_text(TOKEN)
"""


async def test_a_test_that_leaks_fails_and_an_honest_one_does_not(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["tests.leaks"]')
    (tmp_path / "test_suite.py").write_text(SUITE)
    run = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:asyncio", "-p", "no:xdist", "-rA"),
        *("-c", "/dev/null", "--rootdir", str(tmp_path), "test_suite.py"),
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(Path(__file__).parents[1])),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said = (await run.communicate())[0].decode()
    ended = dict.fromkeys(re.findall(r"^(?:FAILED|ERROR) test_suite.py::(\w+)", said, re.MULTILINE))
    assert set(ended) == set(re.findall(r"def (test_leaks\w+)", SUITE)), said
    assert re.search(r"^PASSED test_suite.py::test_honest_print", said, re.MULTILINE), said
    assert re.search(r"^PASSED test_suite.py::test_honest_file", said, re.MULTILINE), said


async def test_a_secret_in_an_answer_of_ours_is_found(sandbox, sqlite_url: str) -> None:
    box = await sandbox(Options(workspaces=1, days=1, limits=False))
    async with serving(settings(box, sqlite_url)) as (parts, base), httpx.AsyncClient(trust_env=False) as http:
        line = Line(workspace_id=TOKEN, source="slack", credentials={"token": TOKEN})
        await parts.store.connections.put([line], parts.vault.seal)
        await http.get(f"{base}/api/v1/status")
    found = set(watch.found)
    watch.found.clear()
    watch.secrets.clear()  # the database's file has it too
    assert found == {"the answer of /api/v1/status"}


async def test_a_secret_in_postgresql_is_found(postgres_url: str) -> None:
    own, at = Watch(), make_url(postgres_url)
    own.uses({"token": TOKEN})
    db = await asyncpg.connect(host=at.host, port=at.port, user=at.username, database=at.database)
    try:
        await db.execute(
            "INSERT INTO runs (cycle_id, connection_id, status, started_at, error) VALUES (1, 1, 'failed', now(), $1)",
            f"HTTP 500: {TOKEN}",
        )
        await own.look_into_database(db, ["connections", "runs"])
    finally:
        await db.close()
    assert own.found == ["the table runs"]


async def test_tokens_that_a_vendor_gave_meanwhile_are_known(sandbox) -> None:
    box, own = await sandbox(Options(workspaces=1, days=1, limits=False)), Watch()
    own.boxes.append(box)
    given = box.slack.act("acme", "rotate", {})
    assert not own.is_in(given["access_token"])
    own.ask_boxes()
    assert own.is_in(given["access_token"])
    assert own.is_in(given["refresh_token"])
