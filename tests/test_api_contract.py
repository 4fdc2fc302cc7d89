"""The API against its own OpenAPI document: schemathesis asks what the document allows, and what it does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from syncd.web.openapi import document
from tests.serving import TOKEN, in_a_thread

schema = schemathesis.openapi.from_dict(document())


@pytest.fixture(scope="module")
def served(empty_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a daemon's HTTP with a few connections."""
    file = tmp_path_factory.mktemp("contract") / "syncd.db"
    file.write_bytes(empty_sqlite.read_bytes())
    with in_a_thread(f"sqlite+aiosqlite:///{file}", "w1", "w2", "w3", token=TOKEN) as one:
        yield one.base


@schema.parametrize()
@settings(
    max_examples=10,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_the_api_keeps_to_its_document(case: Any, served: str) -> None:
    # That credentials suffice for a vendor is said in words; so what fits the schema may be refused.
    case.call_and_validate(
        base_url=served,
        headers={"Authorization": f"Bearer {TOKEN}"},
        excluded_checks=[positive_data_acceptance],
    )
