"""How a run ends that meets a fault at each try: what the README says of faults, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

End = tuple[str, str | None]  # a run's status and its kind of error

SUCCEEDED: End = ("succeeded", None)
TRANSIENT: End = ("failed", "transient")
LATER: End = ("deferred", "rate_limited")
AUTH: End = ("failed", "auth")
MISCONFIGURED: End = ("failed", "misconfigured")


@dataclass(frozen=True, slots=True)
class Outcome:
    """``end``: of the run. ``passes``: one try later all is well, so that a fault that comes once is not seen.

    ``harmless``: at some calls the run succeeds, as what is wrong there is not used or waits in the backlog. ``at``:
    vendor → another end.
    """

    end: End
    passes: bool = True
    harmless: bool = False
    at: Mapping[str, End] = field(default_factory=dict)

    def ends(self, vendor: str, method: str) -> set[End]:
        """How a run may end that meets it at this call."""
        often = {SUCCEEDED} if self.harmless or method in ONE_OF_MANY else set()
        return {self.at.get(vendor, self.end), *often}


EXPECTED: Mapping[str, Outcome] = {
    "429": Outcome(LATER),
    "429-bare": Outcome(LATER),
    "429-date": Outcome(LATER),
    "429-fraction": Outcome(LATER),
    "429-absurd": Outcome(LATER),
    "500": Outcome(TRANSIENT),
    "502": Outcome(TRANSIENT),
    "503": Outcome(TRANSIENT),
    "503-html": Outcome(TRANSIENT),
    "200-html": Outcome(TRANSIENT),
    "200-empty": Outcome(TRANSIENT),
    "truncated": Outcome(TRANSIENT),
    "wrong-types": Outcome(TRANSIENT, passes=False, harmless=True),
    "nulls": Outcome(TRANSIENT, passes=False, harmless=True),
    "302": Outcome(MISCONFIGURED, passes=False),
    "401": Outcome(AUTH, passes=False, at={"slack": MISCONFIGURED}),  # Slack itself says it with HTTP 200
    "hang": Outcome(TRANSIENT),
    "hang-body": Outcome(TRANSIENT),
    "drip": Outcome(TRANSIENT),
    "reset": Outcome(TRANSIENT),
    "reset-body": Outcome(TRANSIENT),
    "repeated-token": Outcome(TRANSIENT, passes=False),
    "endless-pages": Outcome(TRANSIENT, passes=False),
    "endless-body": Outcome(TRANSIENT),
    "huge": Outcome(TRANSIENT),
    "gzip-bomb": Outcome(TRANSIENT),
    "deep": Outcome(TRANSIENT),
    "deep-1000": Outcome(TRANSIENT),
    "expired-cursor": Outcome(TRANSIENT, harmless=True),  # the listing goes on, or begins anew, once
}
# Faults of the network on the way, which are no fault kinds: no such host, a port where nobody listens, no TLS there.
UNREACHABLE = TRANSIENT

# A vendor's calls in a cycle. The first is the one for its main listing.
METHODS: Mapping[str, tuple[str, ...]] = {
    "slack": (
        "conversations.history",
        "users.list",
        "users.conversations",
        "conversations.replies",
        "oauth.v2.access",
    ),
    "gong": ("calls/extensive", "users", "calls/transcript", "oauth2/generate-customer-token"),
    "fathom": ("meetings", "recordings/transcript", "recordings/summary", "oauth2/token"),
    "gmail": ("threads.list", "threads.get", "getProfile", "labels.list", "token"),
}
LISTINGS = {  # with more than one page in the sandbox
    "conversations.history",
    "users.list",
    "calls/extensive",
    "users",
    "meetings",
    "threads.list",
}
RENEWALS = {"oauth.v2.access", "oauth2/generate-customer-token", "oauth2/token", "token"}
# For one thing each, or for some by their ids: what fails there by itself waits in the backlog, and the run goes on.
ONE_OF_MANY = {
    "conversations.replies",
    "calls/transcript",
    "recordings/transcript",
    "recordings/summary",
    "threads.get",
}
ABOUT_PAGES = {"repeated-token", "endless-pages", "expired-cursor"}
# The vendor acted, and its answer is lost: a refresh token that serves once is spent, so a person has to connect anew.
LOST = set(EXPECTED) - {kind for kind in EXPECTED if kind[0].isdigit()} - ABOUT_PAGES


def spent(vendor: str, kind: str, method: str) -> bool:
    """Whether the connection waits for a person after this fault: an operator's matter, not a resync."""
    return method in RENEWALS and kind in LOST and vendor != "gmail"  # Google's refresh tokens serve again
