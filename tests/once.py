"""What is made once for all tests of a process, for each would pay more for it than for what it claims; and what is
dropped after each.

Nothing that a test looks at is shared, only what comes out the same each time.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import structlog
from aiohttp import web_app
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.dialects.sqlite.aiosqlite import SQLiteDialect_aiosqlite
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from syncd.store import database

_new_context = ssl.create_default_context
_context_of = cache(lambda cafile: _new_context(cafile=cafile))
_compiled: dict[str, Any] = {}


def _context(*args: Any, **how: Any) -> ssl.SSLContext:
    """httpx reads all authorities for each client: 50 ms and most of a megabyte."""
    return _context_of(how["cafile"]) if not args and set(how) == {"cafile"} else _new_context(*args, **how)


def _engine(*args: Any, **how: Any) -> AsyncEngine:
    """An engine compiles its statements, some ms each: what a test's has compiled the next one's takes."""
    engine = create_async_engine(*args, **how)
    sync = engine.sync_engine
    sync._compiled_cache = _compiled.setdefault(sync.dialect.name, sync._compiled_cache)
    return engine


# As `logs` has it. With rich, which draws the variables of each frame, one traceback takes as long as ten tests.
structlog.get_config()["processors"][-1].exception_formatter = structlog.dev.plain_traceback
ssl.create_default_context = _context
database.create_async_engine = _engine  # type: ignore[attr-defined]
database.head = cache(database.head)  # reads all migrations
for dialect in (SQLiteDialect_aiosqlite, PGDialect_asyncpg):  # part of a statement's key
    dialect.__eq__ = lambda one, other: type(one) is type(other)  # type: ignore[method-assign]
    dialect.__hash__ = lambda self: hash(type(self))  # type: ignore[method-assign]


@pytest.fixture(autouse=True)
def _without_the_servers_of_others() -> Iterator[None]:
    """aiohttp remembers the handlers of the last thousand applications, and so whole sandboxes: some megabytes each."""
    yield
    web_app._cached_build_middleware.cache_clear()


@pytest.fixture(autouse=True)
def _with_the_usual_log() -> Iterator[None]:
    """A command that runs in this process sets the log up for all that come after it."""
    usual, root = dict(structlog.get_config()), logging.getLogger()
    level = root.level
    yield
    if structlog.get_config() != usual:
        structlog.configure(**usual)
        root.handlers[:] = [one for one in root.handlers if type(one) is not logging.StreamHandler]  # pytest's stay
        root.setLevel(level)
