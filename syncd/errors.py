"""What can go wrong between a vendor and us: one class per way to recover.

    SourceError              kind            what follows
    ├─ Transient             transient       tried again on the spot while patience lasts, later by backoff; where it
    │                                        tells a time, the bucket is closed until then
    ├─ RateLimited           rate_limited    the bucket is closed until then; beyond our patience the run is deferred
    ├─ AuthError             auth            refreshed once where that is possible, else waits for a person
    ├─ Misconfigured         misconfigured   waits for a person: a scope, a setting, a host
    ├─ CursorExpired         cursor_expired  the stream forgets its cursor and reads again from the start
    └─ Rejected              rejected        the vendor refuses this one thing; the run fails, later tries are rarer

``SealError``: a secret cannot be sealed or opened with the keys at hand; nothing is wrong with the connection.
``LeaseLost`` is ours, not a vendor's: another daemon owns the connection now, so this run stops and writes nothing.
``StoreFailed`` is the database's: what was stored stays, the rest is read at the next turn.
``UsageError`` is a person's: a command, a file or a setting that cannot be used; it is shown as one line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class SourceError(Exception):
    """A vendor call that did not succeed.

    ``message`` is safe to store and to show: it holds no secret and no whole vendor body.
    ``hint`` says in words what a person can do about it, empty where nobody needs to do anything.
    ``heeded``: it closed what it is about; it says nothing of the call within which it came.
    """

    kind: ClassVar[str] = "internal"
    heeded = False

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def reword(self, change: Callable[[str], str]) -> None:
        """Pass the words through ``change``."""
        self.message, self.hint = change(self.message), change(self.hint)
        self.args = (self.message,)

    def name_call(self, method: str) -> None:
        """Say which call it was, where the words do not say it themselves."""
        if method not in self.message:
            self.message = f"{method}: {self.message}"
            self.args = (self.message,)


class Transient(SourceError):
    """Passing: a network fault, a 5xx, a body cut short. ``retry_after_s``: seconds from now, None where not told."""

    kind = "transient"

    def __init__(self, message: str, *, retry_after_s: float | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class RateLimited(SourceError):
    """The vendor (or our own budget: ``ours``) says later. ``retry_after_s``: seconds from now, None where not told.

    ``limit``: the name of the limit that is closed or used up, empty where nobody knows.
    """

    kind = "rate_limited"

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float | None = None,
        hint: str = "",
        ours: bool = False,
        limit: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s
        self.ours = ours
        self.limit = limit


class AuthError(SourceError):
    """The credentials are no longer good."""

    kind = "auth"


class Misconfigured(SourceError):
    """The vendor will keep refusing until a person changes a scope, a setting or an address."""

    kind = "misconfigured"


class CursorExpired(SourceError):
    """The vendor no longer knows the point from which we asked it to go on."""

    kind = "cursor_expired"


class Rejected(SourceError):
    """The vendor refuses this one request, and would again: no such channel, an argument it does not take."""

    kind = "rejected"


class SealError(Exception):
    """A secret cannot be sealed or opened with the keys at hand; ``str()`` is one line with the way out."""


class LeaseLost(Exception):
    """Our lease on a connection ran out and somebody else may own it: nothing more may be written for it."""


class StoreFailed(Exception):
    """The database failed in the middle of a run: away, locked or full. ``str()`` is safe to store and to show."""


class UsageError(Exception):
    """Something a person gave us cannot be used; ``str()`` is one line that names the thing and a way out."""


class OtherAccount(UsageError):
    """The new credentials of a connection are of another account at the vendor: two customers' data would mix."""


class NoCredentials(UsageError):
    """New connections that came without credentials. ``at``: which of those that were given, counted from 0."""

    WHY = "a new connection needs credentials"

    def __init__(self, at: Sequence[int], first: str) -> None:
        self.at = frozenset(at)
        super().__init__(f"{first}: {self.WHY}")
