"""The examples in ``deploy/``, as far as they can be looked at without a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.test_cli import Shell, one_line, syncd

__all__ = ["syncd"]

DEPLOY = Path(__file__).parent.parent / "deploy"


def pods() -> list[dict[str, Any]]:
    given = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    return [one["spec"]["template"]["spec"] for one in given if one["kind"] in {"Job", "Deployment"}]


def test_kubernetes_puts_no_variables_of_its_service_among_the_settings() -> None:
    """Its Service is called syncd: SYNCD_SERVICE_HOST and the like would end each start."""
    assert [pod["enableServiceLinks"] for pod in pods()] == [False] * 3


@pytest.mark.parametrize("name", ["SYNCD_SERVICE_HOST", "SYNCD_PORT", "SYNCD_PORT_8080_TCP"])
def test_such_a_variable_is_refused_with_the_way_out(syncd: Shell, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "10.0.0.1")
    one_line(syncd("config"), name, "enableServiceLinks: false")
