"""What is known of a credential's limits outlives the process: learnt before its link is used, told afterwards."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from syncd.tasks import to_its_end

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from syncd.bucket import Budget
    from syncd.http import Link
    from syncd.store import Store


def learn(link: Link, known: Iterable[Budget]) -> None:
    """Take in what other processes, or this one before it was started anew, have found out."""
    link.buckets.restore(link.credential, known, link.rates, link.low_rates)


async def tell(link: Link, store: Store) -> None:
    """Store what the database does not know yet; mostly there is nothing."""
    for whose in sorted(link.drawn_on):
        if news := link.buckets.state(whose):
            await store.budgets.save(whose, news)
            link.buckets.saved(whose, news)


@asynccontextmanager
async def remembered(link: Link, store: Store) -> AsyncIterator[None]:
    """Around what is asked outside a run."""
    learn(link, await store.budgets.of(link.credential))
    try:
        yield
    finally:
        await to_its_end(tell(link, store))
