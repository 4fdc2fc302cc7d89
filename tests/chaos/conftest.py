"""Chaos makes thousands of log lines: rendered, they would cost more than the reading."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
import structlog

from tests.chaos.forks import Forks


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    yield
    structlog.reset_defaults()


@pytest_asyncio.fixture(scope="session")
async def _forks() -> AsyncIterator[Forks]:
    """The parent, which takes a second to start."""
    async with Forks() as made:
        yield made


@pytest_asyncio.fixture
async def forks(_forks: Forks, tmp_path: Path) -> AsyncIterator[Forks]:
    """Processes of syncd, quick to start; what still runs at the end is killed."""
    _forks.folder = tmp_path
    yield _forks
    await _forks.end()
