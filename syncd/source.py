"""Source, Stream, Page, Since: all that the author of a source imports (with `records`, `errors`, `http`).

A source is one file that makes one `Source` value. Its streams are async generators that yield pages. Three rules bind
a stream:

1. Yield pages as they come, and put a cursor on a page only if all that comes before it is covered. A newest-first
   listing carries its cursor only on the window's last page.
2. Never read the clock (`Since.now` is the run's start), never retry, sleep or log.
3. Raise `errors.CursorExpired` when the vendor forgot the point, and let the api object raise everything else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime

    from syncd.http import Link
    from syncd.limits import Rate
    from syncd.records import Deletion, Kind, Record

LONGEST_OUTAGE = timedelta(days=30)  # after a longer one late changes are a backfill's matter: a sweep stays bounded


@dataclass(frozen=True, slots=True)
class Pending:
    """Something known of but not ready or not readable yet: it goes to (or stays in) the backlog.

    ``stream``: the stream that will try again; None = the one that yields this. ``after``: the least wait before the
    next try; None lets policy choose a gap that grows with the number of attempts.
    """

    external_id: str
    reason: str
    stream: str | None = None
    after: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """A backlog item of this stream whose time has come. ``attempts``: how often it was tried before."""

    external_id: str
    reason: str
    attempts: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Watch:
    """Something that is read already and will be asked for again, on its own time: replies may still come to it.

    ``after``: the least wait before that; ``stream``: who asks, None = the one that yields this. A thing that is
    watched already gets the new time.
    """

    external_id: str
    after: timedelta
    stream: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What is stored in one transaction: records, deletions, backlog, watches, and the cursor that covers them.

    ``cursor``: where ``partition`` of this stream resumes; None leaves it as it was. ``forget``: partitions whose
    cursor is dropped. ``resolved``: external ids that leave this stream's backlog, ``unwatched``: its watches.
    ``notes``: what a person should hear once, such as a channel that is no longer visible; logged when the page is
    stored. ``reached``: how far back a backfill has read, for its progress. ``parts``: of a pass (see `Stream`) how
    many parts are read once this page is stored, and how many there are.
    """

    records: Sequence[Record] = ()
    deletions: Sequence[Deletion] = ()
    pending: Sequence[Pending] = ()
    resolved: Sequence[str] = ()
    watches: Sequence[Watch] = ()
    unwatched: Sequence[str] = ()
    partition: str = ""
    cursor: str | None = None
    forget: Sequence[str] = ()
    notes: Sequence[str] = ()
    reached: datetime | None = None
    parts: tuple[int, int] | None = None


class Held(Protocol):
    """What a stream may ask of the store about its own connection. Only live records count."""

    async def stored(self, kind: Kind, ids: Collection[str], *members: str) -> Mapping[str, tuple[Any, ...]]:
        """Of those ids the stored ones, each with the named top-level members of its ``raw`` ("*" = all of it)."""
        ...

    async def select(
        self, kind: Kind, *members: str, between: tuple[datetime, datetime] | None = None, **equal: object
    ) -> Mapping[str, tuple[Any, ...]]:
        """All records of a kind with these values in their columns (a list: one of these), as `stored` answers them.

        ``between``: both ends are taken in; of a message's ``sent_at``, a meeting's ``started_at``. For narrow
        questions: a page's span, a thread. The answer is in memory.
        """
        ...

    def ids(self, kind: Kind) -> AsyncIterator[Sequence[str]]:
        """The ids of all records of a kind, in ascending order, some hundreds at a time."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Since:
    """From where and how far a stream reads in this run.

    ``now``: the run's start (aware UTC). ``lookback``: how far this run's window reaches back from ``now``: a cycle's
    (``cycle_lookback``), or on a sweep the wider ``sweep_lookback``. ``sweep_due_at``: since when this sweep is due; a
    partition that was swept since then is done, so that a sweep may take several runs. ``cursors``: partition →
    cursor of this stream. ``backlog``: this stream's due items, ``watched``: its due watches; the longest due first,
    bounded in number. ``held``: what the store holds. ``began``: when the connection was added. ``pass_began``: the
    start of the run that began a pass which no run since then has ended (see `Stream`); what was read since then is
    not read again in this pass. ``back_to``: how far a backfill reaches. ``sample``: in `Source.audit`, how many
    things are asked for one by one where no listing shows them; None: all of them.
    """

    now: datetime
    lookback: timedelta
    cycle_lookback: timedelta
    sweep_lookback: timedelta
    held: Held
    sweep: bool = False
    sweep_due_at: datetime | None = None
    cursors: Mapping[str, str] = field(default_factory=dict)
    backlog: Sequence[Waiting] = ()
    watched: Sequence[str] = ()
    began: datetime | None = None
    pass_began: datetime | None = None
    back_to: datetime | None = None
    sample: int | None = None

    def sweep_from(self, swept_at: datetime | None) -> datetime:
        """Where this sweep's window begins; ``swept_at``: when the last one was.

        It reaches back from the last one, not from now: what changed while none could be made is not missed.
        """
        last = min(swept_at or self.sweep_due_at or self.now, self.now)
        return max(last, self.now - LONGEST_OUTAGE) - self.sweep_lookback


@dataclass(frozen=True, slots=True)
class Stream:
    """One kind of thing a source yields, with its own cursors: ``read(api, since)`` is an async generator of pages.

    ``completes``: it completes what other streams have read; its records do not count as read once more, and a
    backfill reads it until nothing of it is due. ``watches``: it wants to know its due watches. ``parts``: what its
    partitions are called, where one pass over them all may take several runs; the streams after it are read once such
    a pass is done.
    """

    name: str
    read: Callable[[Any, Since], AsyncIterator[Page]]
    completes: bool = False
    watches: bool = False
    parts: str = ""


@dataclass(frozen=True, slots=True)
class Setting:
    """A key that a connection's settings may hold: ``accepts`` tells a usable value, ``form`` says it in words."""

    accepts: Callable[[object], bool]
    form: str


@dataclass(frozen=True, slots=True)
class Report:
    """What `connections check` found: who we are there, and what is wrong, each with its way out.

    ``identity``: a line a person recognises. ``facts``: further lines (scopes, channels, labels seen).
    ``problems``: ``(what, way out)``; empty = all that was checked is well.
    """

    identity: str
    facts: Sequence[str] = ()
    problems: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of a credential's limits without asking the vendor.

    ``rates``, ``low_rates``: limit → `Rate`, as in `Link`. ``low_s``: of the lowered ones, for how many seconds still.
    ``used``: units that count now; of a short limit the most that was lately drawn within one period.
    ``settings``: the connection's, ``options``: the source's, as in `Link`.
    """

    rates: Mapping[str, Rate]
    low_rates: Mapping[str, Rate]
    low_s: Mapping[str, float]
    used: Mapping[str, int]
    settings: Mapping[str, Any]
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Regime:
    """Which of a vendor's limits hold for a connection. ``name``: the same for all of whom the same holds."""

    name: str
    words: str


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose account it is that credentials open, as the vendor says.

    ``identity``: what stays the same while the account does; of several, separated by blanks, one is enough to know it
    again; empty where the vendor does not tell. ``account``: the name under which a person knows it, such as an
    address; empty where the connection's own name must do.
    """

    identity: str
    account: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """A setting by which a person chooses what is read. ``listed(api)`` answers what there is, as (id, name)."""

    setting: str
    listed: Callable[[Any], Awaitable[Sequence[tuple[str, str]]]]
    without: str  # what is read when nothing is chosen, in words


@dataclass(frozen=True, slots=True)
class Grant:
    """What a person's consent came back as. ``verifier``: of the PKCE challenge that went out, empty without one."""

    code: str = field(repr=False)
    redirect_uri: str
    verifier: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class OAuth:
    """How a person signs in at the vendor with a browser.

    ``scopes``: what is asked for, as the address has it; ``extra``: its further parameters. ``pkce``: the vendor takes
    a challenge by S256. ``loopback``: it sends the browser back to http://127.0.0.1 too, not to https alone.
    ``exchange(link, grant)``: the credentials that a code stands for, asked for once; the link's own credentials are
    the app's ``client_id`` and ``client_secret``. Raises `SourceError`; `Rejected` when the code is no good.
    """

    scopes: str
    exchange: Callable[[Link, Grant], Awaitable[dict[str, Any]]]
    pkce: bool = False
    loopback: bool = False
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a backfill takes. ``draws``: units by limit, as in `Link.call`. ``items``: how many of what, in words."""

    calls: int
    draws: Mapping[str, int]
    items: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A vendor we read.

    ``connect``: from a `Link` to an api object, for one run. ``streams``: read one after the other, in this order.
    ``counts``: the kind of record that the status object's total counts, under the name ``total_name``.
    ``credentials``: the sets of members that suffice, any one of them. ``settings``: the keys a connection may have.
    ``check``: asks the vendor who we are and what we may read.

    For connecting an account: ``owner(api)`` tells whose it is and raises `AuthError` where the credentials open
    nothing; ``choice``, ``oauth``: what a person may choose, and how one signs in with a browser.

    ``regime``: which limits hold, where that may differ from one connection or day to the next.

    ``backfill``: the streams that read older history, from now back to ``Since.back_to``; ``estimate(api, since)``
    tells beforehand what that takes. ``audit``: the streams that read what the store should hold, for `syncd verify`:
    their pages are compared, never stored, so a record that differs is stale, one that is not stored is missing, a
    deletion is something stored that the vendor no longer has.
    """

    name: str
    connect: Callable[[Link], AbstractAsyncContextManager[Any]]
    streams: tuple[Stream, ...]
    counts: Kind
    total_name: str
    credentials: tuple[frozenset[str], ...]
    settings: Mapping[str, Setting]
    check: Callable[[Any], Awaitable[Report]]
    backfill: tuple[Stream, ...] = ()
    estimate: Callable[[Any, Since], Awaitable[Estimate]] | None = None
    audit: tuple[Stream, ...] = ()
    owner: Callable[[Any], Awaitable[Owner]] | None = None
    choice: Choice | None = None
    oauth: OAuth | None = None
    regime: Callable[[Known], Regime] | None = None

    def refuse(self, credentials: Mapping[str, object] | None, settings: Mapping[str, object]) -> str | None:
        """Why these cannot be used, in one line without any value of a credential; None when they can."""
        if credentials is not None and not any(_suffices(form, credentials) for form in self.credentials):
            forms = " or ".join("{" + ", ".join(sorted(form)) + "}" for form in self.credentials)
            return f"{self.name} credentials must hold {forms}; found members: {_names(credentials)}"
        for key, value in settings.items():
            if key not in self.settings:
                return f"{self.name} has no setting {key!r}; it knows: {_names(self.settings)}"
            if not self.settings[key].accepts(value):
                return f"{self.name} setting {key!r} must be {self.settings[key].form}"
        return None


def _suffices(form: Collection[str], credentials: Mapping[str, object]) -> bool:
    return all(credentials.get(member) not in (None, "") for member in form)


def _names(mapping: Mapping[str, object]) -> str:
    return ", ".join(sorted(map(str, mapping))) or "none"
