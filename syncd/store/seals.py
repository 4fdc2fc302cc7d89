"""Sealing the stored credentials anew, while others use and renew them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlalchemy import func, select, update

from syncd.errors import SealError
from syncd.tables import connections

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from sqlalchemy.sql import ColumnElement

    from syncd.store.database import Database

_Sealed = list[tuple[int, str]]  # connection id, its credentials as stored


@dataclass(slots=True)
class Rotation:
    """How far it is. ``total``: secrets when it began; ``kept``: sealed with the first key already.

    ``refused``: why one could not be opened, by connection.
    """

    total: int
    resealed: int = 0
    kept: int = 0
    refused: dict[int, str] = field(default_factory=dict)

    @property
    def done(self) -> int:
        return self.resealed + self.kept


class Seals:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def rotate(
        self,
        reseal: Callable[[int, str], str | None],
        *,
        size: int = 100,
        told: Callable[[Rotation], None] = lambda _: None,
    ) -> Rotation:
        """Replace each sealed secret by ``reseal(connection id, sealed)``; None = it stays.

        In batches, each its own transaction: cut anywhere it can be begun again, and does what is left. ``told`` hears
        of the progress after each. A secret for which ``reseal`` raises `SealError` stays, and is named in the answer.
        """
        async with self._database.read() as session:
            query = select(func.count()).where(connections.c.credentials.is_not(None))
            rotation = Rotation(int((await session.execute(query)).scalar_one()))
        last = 0
        while batch := await self._read(connections.c.id > last, size):
            last = batch[-1][0]
            while batch:  # again for those that were renewed meanwhile, perhaps with an older key
                moved = await self._replace(_resealed(batch, reseal, rotation))
                rotation.resealed -= len(moved)
                batch = await self._read(connections.c.id.in_(moved), size) if moved else []
            told(rotation)
        return rotation

    async def _read(self, which: ColumnElement[bool], size: int) -> _Sealed:
        query = (
            select(connections.c.id, connections.c.credentials)
            .where(which, connections.c.credentials.is_not(None))
            .order_by(connections.c.id)
            .limit(size)
        )
        async with self._database.read() as session:
            return [(row[0], row[1]) for row in await session.execute(query)]

    async def _replace(self, batch: Collection[tuple[int, str, str]]) -> list[int]:
        """Put the new text where the old one still is; answers the ids where it is not, as somebody renewed it."""
        moved: list[int] = []
        if not batch:
            return moved
        async with self._database.write() as session:
            for connection_id, old, new in batch:
                replaced = await session.execute(
                    update(connections)
                    .where(connections.c.id == connection_id, connections.c.credentials == old)
                    .values(credentials=new)
                    .returning(connections.c.id)
                )
                if replaced.one_or_none() is None:
                    moved.append(connection_id)
        return moved


def _resealed(
    batch: _Sealed, reseal: Callable[[int, str], str | None], rotation: Rotation
) -> list[tuple[int, str, str]]:
    """(id, old, new) of those that change; the others are counted. Outside of a transaction: SQLite has one writer."""
    changed = []
    for connection_id, sealed in batch:
        try:
            fresh = reseal(connection_id, sealed)
        except SealError as error:
            rotation.refused[connection_id] = str(error)
            continue
        if fresh is None:
            rotation.kept += 1
        else:
            rotation.resealed += 1
            changed.append((connection_id, sealed, fresh))
    return changed
