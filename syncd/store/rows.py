"""Records as rows: their JSON, their digests, and nothing in them that a database refuses."""

from __future__ import annotations

import hashlib
import re
from dataclasses import fields
from datetime import UTC, datetime
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
from sqlalchemy import case, or_

from syncd.store.database import Dumped, clean
from syncd.tables import OF_KIND, Json, UtcDateTime

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Table

    from syncd.records import Kind, Record

_EMPTY = Dumped("[]")
_find_nul = re.compile(rb"\\(?=u0000)").search  # a pattern of one byte is looked for three times as fast as of six


class _Shape(NamedTuple):
    """The columns that a kind of record fills by itself: all, and those that hold a time, JSON, or text."""

    names: tuple[str, ...]
    values: Callable[[Any], tuple[Any, ...]]
    times: tuple[str, ...]
    documents: tuple[str, ...]
    texts: tuple[str, ...]


def _shape_of(kind: Kind) -> _Shape:
    names = tuple(one.name for one in fields(kind) if one.name not in {"external_id", "raw", "stable"})
    columns = [(name, OF_KIND[kind].c[name].type) for name in names]
    times = tuple(name for name, of in columns if isinstance(of, UtcDateTime))
    documents = tuple(name for name, of in columns if isinstance(of, type(Json)))
    texts = tuple(name for name, of in columns if name not in {*times, *documents} and of.python_type is str)
    return _Shape(names, attrgetter(*names), times, documents, texts)


_SHAPES = {kind: _shape_of(kind) for kind in OF_KIND}


def rewritten(table: Table, insert: Any) -> Any:
    """``insert`` into a record table that updates the rows that are there with other content, or deleted."""
    keep = {"connection_id", "external_id", "created_at"}
    changed = table.c.digest != insert.excluded.digest
    new = {column.name: insert.excluded[column.name] for column in table.c if column.name not in keep}
    return insert.on_conflict_do_update(
        index_elements=["connection_id", "external_id"],
        set_=new
        | {
            "deleted_at": None,
            # a record that is back as it was has not changed
            "updated_at": case((changed, insert.excluded.updated_at), else_=table.c.updated_at),
        },
        # the guard against a race that the lease should have prevented
        where=or_(changed, table.c.deleted_at.is_not(None)),
    )


def row(kind: Kind, external_id: str, record: Record) -> dict[str, Any]:
    """For PostgreSQL, to be dumped to JSON as it is: with a document's members in order, as ``jsonb`` keeps none."""
    made, raw = _row(kind, external_id, record), dumped(record.raw, orjson.OPT_SORT_KEYS)
    made["raw"] = orjson.Fragment(raw)
    made["digest"] = _fingerprint(raw) if record.stable is None else digest(record.stable)
    return made


def plain_row(kind: Kind, external_id: str, record: Record) -> dict[str, Any]:
    """Of values that the columns take: JSON is text, as it came."""
    made, shape = _row(kind, external_id, record), _SHAPES[kind]
    for name in shape.texts:
        if isinstance(made[name], str):
            made[name] = clean(made[name])
    for name in shape.documents:
        if made[name] is not None:
            made[name] = _EMPTY if made[name] == () else Dumped(dumped(made[name]).decode())
    made["raw"] = Dumped(dumped(record.raw).decode())
    made["digest"] = digest_of(record)
    return made


def _row(kind: Kind, external_id: str, record: Record) -> dict[str, Any]:
    shape = _SHAPES[kind]
    made = dict(zip(shape.names, shape.values(record), strict=True))
    for name in shape.times:
        if made[name] is not None and made[name].tzinfo is not UTC:
            made[name] = _utc(made[name])
    made["external_id"] = external_id
    return made


def _utc(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError(f"a naive time reached the database: {value!r}")
    return value.astimezone(UTC)


def document(value: Any) -> str:
    """JSON as a text, without what PostgreSQL refuses."""
    return dumped(value).decode()


def digest(value: Any) -> str:
    """A fingerprint of JSON: the same for the same content, whatever the order of its members."""
    return _fingerprint(dumped(value, orjson.OPT_SORT_KEYS))


def digest_of(record: Record) -> str:
    """What tells whether a record changed: of `raw`, or of what in it does not change by itself."""
    return digest(record.raw if record.stable is None else record.stable)


def _fingerprint(text: bytes) -> str:
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def dumped(value: Any, option: int = 0) -> bytes:
    """JSON without what PostgreSQL refuses: NUL, lone surrogates."""
    try:
        dumped = orjson.dumps(value, option=option)
    except (TypeError, orjson.JSONEncodeError):  # a lone surrogate, or an integer beyond 64 bits
        return orjson.dumps(_cleaned(value), option=option | orjson.OPT_NON_STR_KEYS)
    if b"\\" in dumped and _find_nul(dumped):
        dumped = orjson.dumps(_cleaned(value), option=option)
    return bytes(
        memoryview(dumped)
    )  # a copy: orjson's own takes up to sixteen times its length, for each row of a page


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {_cleaned(key): _cleaned(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(part) for part in value]
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return str(value)
    return value
