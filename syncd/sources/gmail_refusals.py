"""What Gmail and Google's token endpoint refuse, as errors of ours (contract). Pure; belongs to `gmail`."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING

from syncd.errors import AuthError, Misconfigured, RateLimited, Rejected, SourceError, Transient
from syncd.net import retry_after_s
from syncd.sources.gmail_mail import obj, objs, text

if TYPE_CHECKING:
    from syncd.net import Answer

SCOPE = "https://www.googleapis.com/auth/gmail.readonly"

_SIGN_IN = "sign in again; while the OAuth consent screen is in status Testing, every sign-in ends after 7 days"
_WAYS_OUT = (  # of what stays refused until a person acts (contract)
    ({"insufficientPermissions", "ACCESS_TOKEN_SCOPE_INSUFFICIENT"}, f"sign in again and grant {SCOPE}"),
    ({"accessNotConfigured", "SERVICE_DISABLED"}, "enable the Gmail API in the Google Cloud project of this client"),
    ({"failedPrecondition", "FAILED_PRECONDITION"}, "this user has no mailbox or is suspended; check the subject"),
    ({"domainPolicy", "admin_policy_enforced", "access_denied"}, "the domain's administrator must allow this app"),
    ({"forbidden"}, "the token belongs to another mailbox: sign in as the owner of this one"),
    ({"invalid_client"}, "check client_id and client_secret against the Google Cloud console"),
    ({"deleted_client"}, "the OAuth client was deleted: make a new one and sign in again"),
    ({"unauthorized_client"}, f"give the service account domain-wide delegation for {SCOPE}; takes 24 h"),
)


def refused(answer: Answer) -> tuple[list[str], str]:
    """Why, from either error body: the reasons, the most telling first, and the sentence that goes with them.

    Gmail: ``{"error": {"message", "errors": [{"reason"}], "details": [{"reason"}], "status"}}``, or less of it; the
    token endpoint: ``{"error", "error_description"}``.
    """
    body = answer.object_or_none() or {}
    error = obj(body.get("error"))
    told = [one.get("reason") for one in [*objs(error.get("errors")), *objs(error.get("details"))]]
    reasons = [one for one in [*map(text, told), text(error.get("status")), text(body.get("error"))] if one]
    return reasons, text(error.get("message")) or text(body.get("error_description")) or f"HTTP {answer.status}"


def refusal(answer: Answer, reasons: list[str], said: str, now: datetime) -> SourceError:
    """What an answer other than 200 means to us (contract)."""
    words = ": ".join([*reasons[:1], said])[:200]
    if answer.status == 429 or {"rateLimitExceeded", "userRateLimitExceeded"} & set(reasons):
        wait = retry_after_s(answer.headers)
        return RateLimited(words, retry_after_s=_told_s(said, now) if wait is None else wait)
    if {"dailyLimitExceeded", "quotaExceeded"} & set(reasons):
        return RateLimited(words, retry_after_s=3600, hint="the Google Cloud project's daily quota is used up")
    if {"internal_failure", "server_error", "temporarily_unavailable"} & set(reasons):
        return Transient(words, retry_after_s=retry_after_s(answer.headers))
    if passing := answer.passing_fault():
        return passing
    if "metadata scope" in said.lower():
        return Misconfigured(words, hint=f"the sign-in also granted gmail.metadata: grant {SCOPE} alone")
    if way_out := next((way for known, way in _WAYS_OUT if known & set(reasons)), None):
        return Misconfigured(words, hint=way_out)
    if "invalid_grant" in reasons and re.search(r"\bJWT\b|user id", said, re.IGNORECASE):
        return Misconfigured(words, hint="check the service account's subject, and that this machine's clock is right")
    if answer.status == 401 or "invalid_grant" in reasons:
        return AuthError(words, hint=_SIGN_IN)
    return Rejected(words)


def _told_s(said: str, now: datetime) -> float | None:
    """Seconds until the moment of ``… Retry after 2026-09-11T20:00:00.000Z``; None when untold or past."""
    told = re.search(r"retry after (\d{4}-\d\d-\d\dT[\d:.]+Z)", said, re.IGNORECASE)
    try:
        wait = (datetime.fromisoformat(told[1]) - now).total_seconds() if told else 0.0
    except ValueError:
        return None
    return wait if wait > 0 else None
