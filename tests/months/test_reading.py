"""The comparison that all months end with tells each kind of difference, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from tests.months.reading import KINDS, compared

MAIL = {"id": "m1", "labelIds": ["INBOX"], "historyId": "7"}


def faults(wanted: dict[str, Any], found: dict[str, tuple[Any, bool]]) -> list[str]:
    held: dict[str, dict[str, tuple[Any, bool]]] = {kind: {} for kind in KINDS} | {"messages": found}
    return list(compared({"messages": wanted}, held, frozenset({"historyId"})))


def test_what_is_held_as_it_is_but_for_what_each_call_makes_anew_is_no_difference() -> None:
    assert faults({"m1": MAIL}, {"m1": (MAIL | {"historyId": "8"}, True), "m2": (MAIL, False)}) == []


@pytest.mark.parametrize(
    ("wanted", "found", "told"),
    [
        ({"m1": MAIL}, {}, "missing messages m1"),
        ({"m1": MAIL}, {"m1": (MAIL, False)}, "wrongly deleted messages m1"),
        (
            {"m1": MAIL},
            {"m1": (MAIL | {"labelIds": ["TRASH"]}, True)},
            "stale messages m1: .labelIds[0] stored 'TRASH'",
        ),
        ({"m1": MAIL}, {"m1": (MAIL | {"snippet": "Hi"}, True)}, "stale messages m1: .snippet only stored"),
        ({}, {"m1": (MAIL, True)}, "wrong messages m1"),
    ],
)
def test_a_difference_is_told_with_its_row(
    wanted: dict[str, Any], found: dict[str, tuple[Any, bool]], told: str
) -> None:
    (fault,) = faults(wanted, found)
    assert fault.startswith(told)
