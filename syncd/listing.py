"""What holds of every vendor's listing: it comes to an end, and its rows can be told apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from syncd.errors import Transient

if TYPE_CHECKING:
    from collections.abc import Collection, Sized

MOST_FRUITLESS = 200  # pages in a row with nothing new; Slack and Gmail give empty pages where filters leave nothing


class Walk:
    """Watches a listing that is read page by page. ``what``: the listing, in words.

    It keeps a number for each page, not the rows. A listing that goes on for ever with ever new rows is the run's time
    limit's matter.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._tokens: set[int] = set()
        self._pages: set[int] = set()
        self._fruitless = 0

    def step(self, token: str | None, rows: Sized, ids: Collection[str]) -> None:
        """A page came: ``token`` leads to the next one, ``ids`` are those of its ``rows`` that have one.

        Raises `Transient` where none has one, where the token led to a page before, where nothing new comes any more.
        """
        if rows and not ids:  # taken for an empty page, it would seem read, and what is stored deleted
            raise Transient(f"{self._what}: {len(rows)} rows, and none with an id")
        if not token:
            return
        if hash(token) in self._tokens:
            raise Transient(f"{self._what}: a page token comes a second time")
        self._tokens.add(hash(token))
        page = hash(frozenset(ids))
        self._fruitless = self._fruitless + 1 if not ids or page in self._pages else 0
        self._pages.add(page)
        if self._fruitless >= MOST_FRUITLESS:
            raise Transient(f"{self._what}: {self._fruitless} pages in a row with nothing new")
