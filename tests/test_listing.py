"""What ends a listing that does not end by itself."""

from __future__ import annotations

import pytest

from syncd.errors import Transient
from syncd.listing import MOST_FRUITLESS, Walk


def test_a_listing_that_moves_on_is_walked_to_its_end() -> None:
    walk = Walk("threads")
    for at in range(3 * MOST_FRUITLESS):
        walk.step(f"token {at}", [at], [str(at)])
    walk.step(None, [], [])


def test_any_page_token_that_came_before_is_a_circle() -> None:
    walk = Walk("threads")
    walk.step("a", ["1"], ["1"])
    walk.step("b", ["2"], ["2"])
    with pytest.raises(Transient, match="threads: a page token comes a second time"):
        walk.step("a", ["3"], ["3"])


@pytest.mark.parametrize("rows", [[], ["1"]], ids=["empty", "the same"])
def test_ever_new_tokens_to_nothing_new_come_to_an_end(rows: list[str]) -> None:
    walk = Walk("threads")
    for at in range(MOST_FRUITLESS - 1 + len(rows)):
        walk.step(str(at), rows, rows)
    with pytest.raises(Transient, match="200 pages in a row with nothing new"):
        walk.step("more", rows, rows)


def test_some_empty_pages_between_are_no_end() -> None:
    walk = Walk("threads")
    for at in range(5 * MOST_FRUITLESS):
        rows = [str(at)] if at % MOST_FRUITLESS == 0 else []
        walk.step(str(at), rows, rows)


def test_a_last_page_may_repeat_what_was_there() -> None:
    walk = Walk("threads")
    walk.step("a", ["1"], ["1"])
    walk.step("", ["1"], ["1"])


@pytest.mark.parametrize("token", [None, "a"])
def test_rows_of_which_none_has_an_id_are_not_taken_for_an_empty_page(token: str | None) -> None:
    with pytest.raises(Transient, match="2 rows, and none with an id"):
        Walk("threads").step(token, ["x", "y"], [])
