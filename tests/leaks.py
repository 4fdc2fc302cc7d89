"""No secret that a test uses leaves a trace: a watch over the whole suite, as a plugin of pytest.

A secret is what is sealed in a `Vault`, a key that seals, and what the sandbox gave out: their tokens are known once a
test uses them, also where a process of its own reads with them. They are looked for in what a test printed and logged,
in the pages that our server answered, in what commands and daemons said, in the files that it left in its folder, and
in its PostgreSQL database before that is emptied. A test that finds one fails, and names the place but not the secret.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from syncd.credentials import Vault
from syncd.logs import secrets_of

SHORTEST = 8  # a shorter one, such as "t-acme", may be part of an honest word
LARGEST = 64 * 2**20  # bytes of a file
# What a person puts there by hand: credentials and keys in files of their own, settings with a key in them.
BY_HAND = ("*credentials*.json", "*.jsonl", "*.toml", "*key*", "*secret*", "*password*", "*.env")


class Watch:
    """``secrets``: of this test; ``wide``: of what outlives one, such as a module's fixtures. ``found``: where."""

    def __init__(self) -> None:
        self.secrets: set[str] = set()
        self.wide: set[str] = set()
        self.folders: list[Path] = []
        self.found: list[str] = []
        self.boxes: list[Any] = []

    def uses(self, credentials: Mapping[str, Any]) -> None:
        """These secrets are used, in the forms in which they travel."""
        mine = {one for one in secrets_of(credentials) if len(one) >= SHORTEST}
        if "access_key" in credentials and "access_key_secret" in credentials:
            pair = f"{credentials['access_key']}:{credentials['access_key_secret']}"
            mine.add(base64.b64encode(pair.encode()).decode())
        self.secrets |= mine

    def look(self, where: str, text: str | bytes) -> None:
        if self.is_in(text):
            self.found.append(where)

    def is_in(self, text: str | bytes) -> bool:
        known = self.secrets | self.wide
        if isinstance(text, str):
            return any(one in text for one in known)
        return any(one.encode() in text for one in known)

    def look_into_files(self) -> None:
        for folder in self.folders:
            for file in folder.rglob("*"):
                by_hand = any(file.match(pattern) for pattern in BY_HAND)
                if file.is_file() and not file.is_symlink() and not by_hand and file.stat().st_size <= LARGEST:
                    self.look(f"the file {file.relative_to(folder)}", file.read_bytes())

    async def look_into_database(self, db: asyncpg.Connection, tables: list[str]) -> None:
        """All rows of all tables, as text."""
        if not self.secrets | self.wide:
            return
        for table in tables:
            rows = await db.fetch(f"SELECT t::text FROM {table} t")
            self.look(f"the table {table}", "\n".join(row[0] for row in rows))

    def ask_boxes(self) -> None:
        """What the vendors gave meanwhile."""
        for box in self.boxes:
            for line in box.connections():
                self.uses(line["credentials"])


watch = Watch()


# ── where secrets come from, and where they could go


def _after(owner: type, name: str, then: Callable[..., None]) -> None:
    """Call ``then(result, self, *arguments)`` after a method."""
    method = getattr(owner, name)

    @wraps(method)
    def spied(self: Any, *args: Any, **more: Any) -> Any:
        result = method(self, *args, **more)
        then(result, self, *args, **more)
        return result

    setattr(owner, name, spied)


def pytest_configure() -> None:
    _after(Vault, "__init__", lambda _, vault, keys: watch.secrets.update(keys))
    _after(Vault, "seal", lambda _, vault, connection_id, credentials: watch.uses(credentials))
    _after(
        pytest.CaptureFixture, "readouterr", lambda said, capture: watch.look("what was printed", said.out + said.err)
    )


_SPIED: set[str] = set()


def _spy_late() -> None:
    """On what not every test imports."""
    if "syncd.sandbox.app" in sys.modules and "sandbox" not in _SPIED:
        _SPIED.add("sandbox")
        _after(sys.modules["syncd.sandbox.app"].Sandbox, "connections", _gave)
    if "syncd.web.server" in sys.modules and "web" not in _SPIED:
        _SPIED.add("web")
        _after(sys.modules["syncd.web.server"].Web, "__init__", _serves)


def _gave(lines: list[Mapping[str, Any]], box: Any) -> None:
    if box not in watch.boxes:
        watch.boxes.append(box)
    for line in lines:
        watch.uses(line["credentials"])


def _serves(_: None, web: Any, *args: Any, **more: Any) -> None:
    async def answers(request: Any, response: Any) -> None:
        body = getattr(response, "body", None)
        head = " ".join(response.headers.values())
        watch.look(f"the answer of {request.path}", head.encode() + (body if isinstance(body, bytes) else b""))

    web._runner.app.on_response_prepare.append(answers)


# ── a test's beginning and end


@pytest.fixture(scope="module", autouse=True)
def _of_the_module() -> None:
    watch.secrets.clear()
    watch.wide.clear()


@pytest.fixture(autouse=True)
def _no_secret_leaks(_of_the_module: None) -> Iterator[None]:
    _spy_late()
    watch.wide |= watch.secrets  # the fixtures that outlive a test have used them
    watch.secrets.clear()
    watch.folders.clear()
    watch.boxes.clear()
    watch.found.clear()
    yield
    watch.ask_boxes()
    if watch.secrets or watch.wide:
        watch.look_into_files()
    found = sorted(set(watch.found))
    watch.secrets.clear()
    assert not found, f"a secret is in {', '.join(found)}"


@pytest.fixture
def tmp_path(tmp_path: Path) -> Path:
    watch.folders.append(tmp_path)
    return tmp_path


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    said = [words for title, words in report.sections if title.startswith("Captured")]
    if report.passed and any(map(watch.is_in, said)):
        report.outcome = "failed"
        report.longrepr = f"a secret is in what {item.name} printed or logged ({report.when})"
    return report
