"""The connections: adding, changing, claiming by lease."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import bindparam, case, delete, func, insert, select, update

from syncd.errors import NoCredentials, OtherAccount, UsageError
from syncd.policy import OK, RUNNING
from syncd.store.clock import is_unowned, unowned, unowned_values
from syncd.store.due import active_of, in_turn, takeable
from syncd.store.runs_postgresql import RESTING, claiming, new_values
from syncd.store.runs_sqlite import begin
from syncd.tables import backlog, connections, cursors, runs, watches

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence

    from sqlalchemy import ColumnElement, Row
    from sqlalchemy import Connection as Db
    from sqlalchemy.ext.asyncio import AsyncSession

    from syncd.store.database import Database

LEASE = timedelta(minutes=5)  # by default; renewed with each page, a dead daemon's connection is free after it


@dataclass(frozen=True, slots=True)
class Connection:
    """One workspace's link to one source, as stored. ``sealed``: its encrypted credentials."""

    id: int
    workspace_id: str | None
    source: str
    account: str
    is_active: bool
    status: str
    settings: Mapping[str, Any]
    sealed: str | None = field(repr=False)
    failures: int
    next_sync_at: datetime | None
    lease: str | None
    leased_until: datetime | None
    last_success_at: datetime | None
    last_error: str | None
    last_error_kind: str | None
    last_error_at: datetime | None
    last_sweep_at: datetime | None
    limited_until: datetime | None
    progress: Mapping[str, Any] | None
    status_since: datetime | None
    created_at: datetime
    identity: str | None

    @property
    def unread(self) -> str | None:
        """Why no run takes it, in words; None where runs do."""
        if self.sealed is None:
            return "it has no credentials"
        if not self.is_active:
            return "it is paused"
        if self.workspace_id is None:
            return "it belongs to no workspace"
        if self.status == OK:
            return None
        return f"it waits for a person ({self.status.replace('_', ' ')}): {self.last_error or 'see syncd status'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One connection to add or update. ``credentials``/``is_active`` None: leave as they are (active when new).

    ``identity``: whose account the credentials open, as `source.Owner` has it; None: nobody asked.
    """

    workspace_id: str
    source: str
    account: str = ""
    settings: Mapping[str, Any] | None = None
    credentials: Mapping[str, Any] | None = field(default=None, repr=False)
    is_active: bool | None = None
    identity: str | None = None


_COLUMNS = tuple(
    connections.c.credentials.label("sealed") if name == "sealed" else connections.c[name]
    for name in Connection.__dataclass_fields__
)


# Made once: to make a statement costs more than to run it.
_TAKE = update(connections).where(connections.c.id.in_(bindparam("these", expanding=True))).returning(*_COLUMNS)


@cache
def _next(narrowed: frozenset[str], *, again: bool, sqlite: bool) -> Any:
    """The connections that a claim takes, and their leases. ``narrowed``: by ``due``, ``workspace``, ``only``."""
    of: Any = {name: bindparam(name) for name in ("from_source", "cycle", "now", *narrowed)}
    by = {name: of.get(name) for name in ("due", "workspace", "only")}
    query = takeable(of["from_source"], of["cycle"], of["now"], **by, again=again)
    query = in_turn(query.where(is_unowned(sqlite=sqlite)))
    return query.add_columns(connections.c.lease).limit(bindparam("most")).with_for_update(skip_locked=True)


class Connections:
    def __init__(self, database: Database, now: Callable[[], datetime], lease: timedelta) -> None:
        self._database = database
        self._now = now
        self._lease = lease

    async def put(
        self, lines: Sequence[Line], seal: Callable[[int, Mapping[str, Any]], str], *, force: bool = False
    ) -> tuple[int, int]:
        """Add or update all of ``lines`` or none; answers (added, updated).

        ``seal(connection id, credentials)`` encrypts. New credentials or settings put a connection that waits for a
        person back to ``ok`` and make it due at once; they never end a pause. Raises `OtherAccount` where they are of
        another account than the one stored; with ``force`` that one is read from its start, as if it were new. Raises
        `NoCredentials`.
        """
        added = updated = 0
        without = list[int]()
        async with self._database.write() as session:
            for number, line in enumerate(lines):
                found = (await session.execute(_same_key(line))).one_or_none()
                if found is None:
                    if line.credentials is None:
                        without.append(number)
                        continue
                    connection_id = await self._insert(session, line)
                    added += 1
                else:
                    connection_id = found.id
                    await self._update(session, found, line, force=force)
                    updated += 1
                if line.credentials is not None:
                    await session.execute(_set(connection_id, credentials=seal(connection_id, line.credentials)))
            if without:
                raise NoCredentials(without, f"{lines[without[0]].source} of {lines[without[0]].workspace_id}")
        return added, updated

    async def _insert(self, session: AsyncSession, line: Line) -> int:
        now = self._now()
        made = await session.execute(
            insert(connections)
            .values(
                workspace_id=line.workspace_id,
                source=line.source,
                account=line.account,
                is_active=line.is_active is not False,
                status=OK,
                settings=dict(line.settings or {}),
                identity=line.identity or None,
                failures=0,
                next_sync_at=now,
                status_since=now,
                created_at=now,
                updated_at=now,
            )
            .returning(connections.c.id)
        )
        return int(made.scalar_one())

    async def _update(self, session: AsyncSession, found: Row[Any], line: Line, *, force: bool) -> None:
        values: dict[str, Any] = {"updated_at": self._now()}
        if is_other(found.identity, line.identity):
            if not force:
                refuse_other(line, found.identity)
            for table in (cursors, backlog, watches):  # they point into the other account
                await session.execute(delete(table).where(table.c.connection_id == found.id))
        if line.settings is not None:
            values["settings"] = dict(line.settings)
        if line.is_active is not None:
            values["is_active"] = line.is_active
        if line.settings is not None or line.credentials is not None:
            values |= {"status": OK, "failures": 0, "next_sync_at": self._now(), "status_since": self._now()}
            # A run under way read the old ones: it loses its right to write, and to say how it ended.
            values |= {"lease": None, "leased_until": None, "progress": None}
        if line.credentials is not None:
            values |= {"limited_until": None, "limited_by": None}  # the limit was the old credentials'
            values["identity"] = line.identity or None
            if found.credentials is None and line.is_active is None:
                values["is_active"] = True  # it was removed, not paused
        await session.execute(_set(found.id, **values))

    async def all(self, *, source: str | None = None, workspace: str | None = None) -> list[Connection]:
        query = select(*_COLUMNS).order_by(connections.c.id)
        if source:
            query = query.where(connections.c.source == source)
        if workspace:
            query = query.where(connections.c.workspace_id == workspace)
        async with self._database.read() as session:
            return [Connection(**row._mapping) for row in await session.execute(query)]

    async def sealed(self, *, size: int = 500) -> AsyncGenerator[tuple[int, str], None]:
        """Id and encrypted credentials of the active ones, oldest first; ``size`` of them are held at a time."""
        of, last = connections.c, 0
        query = select(of.id, of.credentials).where(of.is_active.is_(True), of.credentials.is_not(None))
        while True:
            async with self._database.read() as session:
                rows = (await session.execute(query.where(of.id > last).order_by(of.id).limit(size))).all()
            for row in rows:
                yield row.id, row.credentials
            if len(rows) < size:
                return
            last = rows[-1].id

    async def get(self, connection_id: int) -> Connection | None:
        async with self._database.read() as session:
            row = (await session.execute(select(*_COLUMNS).where(connections.c.id == connection_id))).one_or_none()
        return Connection(**row._mapping) if row else None

    async def identify(self, connection_id: int, identity: str, of: Callable[[str], bool]) -> None:
        """Tell whose account it is, where nobody knew; ``of(the stored credentials)`` says whether it is theirs."""
        held = select(connections.c.credentials).where(connections.c.id == connection_id).with_for_update()
        async with self._database.write() as session:
            sealed = (await session.execute(held.where(connections.c.identity.is_(None)))).scalar_one_or_none()
            if sealed is not None and of(sealed):
                await session.execute(_set(connection_id, identity=identity))

    async def mended(self, connection_id: int, of: Callable[[str], bool]) -> bool:
        """What it waited for a person for is put right: it is due at once. ``of``: as in `identify`.

        False: it did not wait, or its credentials are others by now.
        """
        held = select(connections.c.credentials).where(connections.c.id == connection_id).with_for_update()
        async with self._database.write() as session:
            sealed = (await session.execute(held.where(connections.c.status != OK))).scalar_one_or_none()
            if sealed is None or not of(sealed):
                return False
            now = self._now()
            again = {"status": OK, "failures": 0, "next_sync_at": now, "status_since": now, "updated_at": now}
            await session.execute(_set(connection_id, **again))
            return True

    async def set_active(self, connection_id: int, *, active: bool) -> bool:
        """Pause or resume; False when there is no such connection. Raises UsageError on resuming a removed one."""
        async with self._database.write() as session:
            held = await session.execute(select(connections.c.credentials).where(connections.c.id == connection_id))
            if active and (row := held.one_or_none()) is not None and row.credentials is None:
                raise UsageError(
                    f"connection {connection_id} has no credentials: `syncd connections add` gives it new ones"
                )
            now, of = self._now(), connections.c
            since = case((of.is_active.is_(active), of.status_since), else_=now)
            changed = _set(connection_id, is_active=active, status_since=since, updated_at=now)
            result = await session.execute(changed.returning(of.id))
            return result.one_or_none() is not None

    async def remove(self, connection_id: int) -> bool:
        """Take a connection out; False when there is none.

        Its records stay readable: credentials, cursors, backlog and watches go, the row stays as inactive.
        """
        # The lease goes too: a run under way loses its right to write. First, or a page of its could follow the rest.
        gone = _set(
            connection_id, is_active=False, credentials=None, lease=None, leased_until=None, updated_at=self._now()
        )
        async with self._database.write() as session:
            if (await session.execute(gone.returning(connections.c.id))).one_or_none() is None:
                return False
            for table in (cursors, backlog, watches):
                await session.execute(delete(table).where(table.c.connection_id == connection_id))
            return True

    async def claim(
        self, source: str, lease: str, cycle_id: int, *, due: datetime | None, **how: Any
    ) -> tuple[Connection, int] | None:
        """As `claim_some`, but one at most; None when there is none."""
        claimed = await self.claim_some(source, lease, cycle_id, due=due, most=1, **how)
        return claimed[0] if claimed else None

    async def claim_some(
        self,
        source: str,
        lease: str,
        cycle_id: int,
        *,
        due: datetime | None,
        most: int,
        workspace: str | None = None,
        only: int | None = None,
        held: Collection[int] = (),
        again: bool = False,
    ) -> list[tuple[Connection, int]]:
        """Take the connections that wait longest, ``most`` at most, and begin their runs: (connection, run id) of each.

        ``due``: only those whose turn has come by then; None: every active one. ``workspace``, ``only``: of that
        workspace, that connection alone. ``held``: those that run in this process are no one else's to take, though
        their leases look like it after the clock was set. A connection is run once in a cycle; with ``again`` a run
        that was broken off does not count, for a few times.
        One whose vendor said later is left alone until then either way. A run that a dead daemon left as running is
        told as interrupted.
        """
        now = self._now()
        narrowed = {"due": due, "workspace": workspace, "only": only}
        values = {name: value for name, value in narrowed.items() if value is not None}
        query = _next(frozenset(values), again=again, sqlite=self._database.is_sqlite)
        values |= {"from_source": source, "cycle": cycle_id, "most": most, **unowned_values(now, self._lease, held)}
        taking = {"lease": lease, "leased_until": now + self._lease}
        run = {"cycle_id": cycle_id, "started_at": now}
        if not self._database.is_sqlite:
            values |= new_values(connections, taking) | new_values(runs, run)
            statement = claiming(query, _COLUMNS)
            rows: Any = await self._database.ask(lambda db: db.execute(statement, values).all())
            return _in_turn([(Connection(*row[:-1]), int(row[-1])) for row in rows])

        def claimed(db: Db) -> list[tuple[Connection, int]]:
            found = db.execute(query, values).all()
            if not found:
                return []
            taken = [Connection(*row) for row in db.execute(_TAKE, {"these": [one.id for one in found], **taking})]
            if died := [one.id for one in found if one.lease is not None]:  # their owner may have died
                db.execute(end_dead_runs(runs.c.connection_id.in_(died), now))
            begun = begin(db, [one.id for one in taken], **run)
            return _in_turn([(one, begun[one.id]) for one in taken])

        return await self._database.change(claimed)

    async def count_active(self, source: str, workspace: str | None = None, only: int | None = None) -> int:
        query = select(func.count()).select_from(connections).where(active_of(source, workspace, only))
        return await self._database.ask(lambda db: int(db.execute(query).scalar_one()))

    async def hold(self, connection_id: int, lease: str) -> Connection | None:
        """Take the lease of a connection without a run; None while somebody else has it, or when there is none."""
        now = self._now()
        taking = _set(connection_id, lease=lease, leased_until=now + self._lease).returning(*_COLUMNS)
        taking = taking.where(unowned(now, self._lease))
        async with self._database.write() as session:
            row = (await session.execute(taking)).one_or_none()
        return Connection(**row._mapping) if row else None

    async def release(self, connection_id: int, lease: str) -> None:
        """Give back what `hold` took."""
        async with self._database.write() as session:
            await session.execute(
                _set(connection_id, lease=None, leased_until=None).where(connections.c.lease == lease)
            )

    async def waits(self, connection_id: int, lease: str, limit: str, until: datetime) -> None:
        """Tell those who watch for which limit the run that holds ``lease`` waits, and until when."""
        async with self._database.write() as session:
            waiting = _set(connection_id, limited_by=limit, limited_until=until)
            await session.execute(waiting.where(connections.c.lease == lease))


def _in_turn(claimed: list[tuple[Connection, int]]) -> list[tuple[Connection, int]]:
    """Who waits longest comes first, as `due.in_turn` has it: what a database answers of an UPDATE is in no order."""
    never = datetime.min.replace(tzinfo=UTC)
    return sorted(claimed, key=lambda one: (one[0].next_sync_at or never, one[0].id))


def is_other(known: str | None, told: str | None) -> bool:
    """Whether both identities name an account and have nothing in common."""
    return bool(known and told) and set((known or "").split()).isdisjoint((told or "").split())


def refuse_other(line: Line, known: str | None) -> None:
    """Raises `OtherAccount` when a line's credentials are of another account than the known one."""
    if is_other(known, line.identity):
        raise OtherAccount(
            f"{line.source} of {line.workspace_id}: these credentials are of another account than the one that is "
            "connected; to read both, connect this one under an account name of its own"
        )


def end_dead_runs(which: ColumnElement[bool], now: datetime) -> Any:
    """The statement that tells runs as interrupted whose daemon died."""
    return update(runs).where(which, runs.c.status == RUNNING).values(**RESTING, finished_at=now)


def _same_key(line: Line) -> Any:
    return (
        select(connections.c.id, connections.c.credentials, connections.c.identity)
        .where(
            connections.c.source == line.source,
            connections.c.workspace_id == line.workspace_id,
            connections.c.account == line.account,
        )
        .with_for_update()
    )


def _set(connection_id: int, **values: Any) -> Any:
    return update(connections).where(connections.c.id == connection_id).values(**values)
