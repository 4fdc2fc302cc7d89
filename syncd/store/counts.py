"""What pages did."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self


@dataclass(slots=True)
class Counts:
    """What a page did: rows really written. ``kinds``: the same by (table, change), of what changed."""

    added: int = 0
    changed: int = 0
    deleted: int = 0
    kinds: dict[tuple[str, str], int] = field(default_factory=dict, compare=False, repr=False)

    def __iadd__(self, other: Counts) -> Self:
        self.added += other.added
        self.changed += other.changed
        self.deleted += other.deleted
        for kind, rows in other.kinds.items():
            self.kinds[kind] = self.kinds.get(kind, 0) + rows
        return self

    def of(self, table: str) -> Self:
        """The same, and all of it is that table's."""
        told = (("added", self.added), ("changed", self.changed), ("deleted", self.deleted))
        self.kinds = {(table, change): rows for change, rows in told if rows}
        return self
