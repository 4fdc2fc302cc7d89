"""Months make tens of thousands of log lines: rendered, they would cost more than the reading."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    yield
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cycle that goes by way of the queue would wait a second for its worker to look."""
    for seconds in ("syncd.worker._ASK_S", "syncd.queue._FIRST_LOOK_S", "syncd.queue._LOOK_S"):
        monkeypatch.setattr(seconds, 0.05)
