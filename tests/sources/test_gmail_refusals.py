"""Gmail: limits, refusals and credentials, and what `connections check` says of them."""

# ruff: noqa: F811 - a fixture that is imported is named again where it is used
from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from syncd.sandbox.world import Options
from syncd.sources.gmail import SOURCE
from tests.sources.gmail_canned import calls, served  # noqa: F401 - the fixture


async def report(r):
    connection = await r.parts.store.connections.get(1)
    credentials = r.parts.vault.open(1, connection.sealed)
    async with SOURCE.connect(r.parts.engine.runs.link(r.parts.engine.plans["gmail"], connection, credentials)) as api:
        return await SOURCE.check(api)


def envelope(code, reason, message, **more):
    return code, {"error": {"code": code, "message": message, "errors": [{"reason": reason}], **more}}


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ((500, "<h1>oops</h1>"), "transient"),
        ((502, "<h1>Bad gateway</h1>"), "transient"),
        ((200, "<html>sign in</html>"), "transient"),
        ((200, []), "transient"),
        ((302, "", {"Location": "https://elsewhere.example/"}), "misconfigured"),
        (envelope(401, "authError", "Invalid Credentials"), "auth"),
        (envelope(403, "insufficientPermissions", "Insufficient Permission"), "misconfigured"),
        ((403, {"error": {"message": "no", "details": [{"reason": "SERVICE_DISABLED"}]}}), "misconfigured"),
        (
            (403, {"error": {"message": "no", "details": [{"reason": "ACCESS_TOKEN_SCOPE_INSUFFICIENT"}]}}),
            "misconfigured",
        ),
        (envelope(403, "domainPolicy", "The domain administrators have disabled Gmail apps."), "misconfigured"),
        (envelope(403, "forbidden", "Delegation denied for a@b.example"), "misconfigured"),
        ((403, {"error": {"message": "Metadata scope does not support 'q' parameter"}}), "misconfigured"),
        (envelope(400, "failedPrecondition", "Mail service not enabled"), "misconfigured"),
        (envelope(400, "invalidArgument", "Invalid label"), "rejected"),
        ((403, "<h1>Forbidden</h1>"), "rejected"),
        ((400, {"error": [None]}), "rejected"),
    ],
)
async def test_a_refusal_is_told_apart(served, answer, kind):
    r = await served({"profile": answer, "token": (200, {"access_token": "b", "expires_in": "3599"})})
    failure = (await r.run())["failures"][0]
    assert failure["kind"] == kind
    assert len(failure["error"]) <= 200
    assert failure["hint"] or kind not in {"auth", "misconfigured"}


@pytest.mark.parametrize(
    "answer",
    [
        envelope(403, "userRateLimitExceeded", "User-rate limit exceeded.  Retry after 2999-01-01T00:00:00.000Z"),
        envelope(403, "rateLimitExceeded", "Rate Limit Exceeded"),
        envelope(403, "dailyLimitExceeded", "Daily Limit Exceeded"),
        envelope(429, "rateLimitExceeded", "Too many concurrent requests for user"),
        (429, "", {"Retry-After": "7200"}),
    ],
)
async def test_a_limit_defers_the_run_whatever_its_status(served, answer):
    r = await served({"profile": answer})
    status = await r.run()
    assert (status["deferred_workspaces"], status["failed_workspaces"]) == (1, 0)


async def test_the_moment_in_the_sentence_is_when_the_next_turn_is(served):
    at = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=3)
    said = f"User-rate limit exceeded.  Retry after {at:%Y-%m-%dT%H:%M:%S}.000Z"
    r = await served({"profile": envelope(403, "userRateLimitExceeded", said)})
    await r.run()
    assert abs((await r.connection())["next_sync_at"] - at) < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, {"error": "invalid_grant", "error_description": "Token has been expired or revoked."}, "auth"),
        (400, {"error": "invalid_grant", "error_description": "Bad Request", "error_subtype": "invalid_rapt"}, "auth"),
        (401, {"error": "invalid_client"}, "misconfigured"),
        (401, {"error": "deleted_client"}, "misconfigured"),
        (400, {"error": "admin_policy_enforced"}, "misconfigured"),
        (400, {"error": "internal_failure"}, "transient"),
        (503, "<h1>later</h1>", "transient"),
        (200, {"expires_in": 3599}, "transient"),
        (400, {"error": "invalid_request"}, "rejected"),
    ],
)
async def test_a_refused_refresh_is_told_apart_and_keeps_secrets(served, status, body, kind):
    secret = {"refresh_token": "1//hidden", "client_id": "c", "client_secret": "GOCSPX-hidden"}
    r = await served({"token": (status, body)}, credentials=secret)
    failure = (await r.run())["failures"][0]
    assert failure["kind"] == kind
    assert "hidden" not in repr(failure)
    if kind == "auth":
        assert "7 days" in failure["hint"]


async def test_a_token_is_renewed_once_it_has_expired_and_kept(reader):
    r = await reader("gmail")
    await r.run()
    await r.run()
    assert calls(r)["token"] == 1
    r.box.world.clock.advance(timedelta(hours=2))
    assert (await r.run())["successful_workspaces"] == 1
    assert calls(r)["token"] == 1


async def test_a_revoked_sign_in_waits_for_a_person(reader):
    r = await reader("gmail")
    await r.run()
    r.box.gmail.act("acme", "revoke", {})
    assert (await r.run())["failures"][0]["kind"] == "auth"
    assert (await r.connection())["status"] == "needs_reauth"


async def test_a_service_account_reads_in_the_name_of_its_subject(reader, sandbox):
    box = await sandbox(Options(workspaces=1, limits=False))
    r = await reader("gmail", box=box, credentials=box.gmail.act("acme", "service_account", {}))
    assert (await r.run())["total_ingested"] > 0


@pytest.mark.parametrize(
    ("account", "subject", "said"),
    [
        ({"client_email": "x@y.example"}, "me", "lacks private_key"),
        ({"private_key": "hidden"}, "me", "lacks client_email"),
        ({"client_email": "x@y.example", "private_key": "hidden"}, "me", "no usable private_key"),
        (None, "nobody@acme.example", "Invalid email or User ID"),
    ],
)
async def test_a_service_account_that_cannot_be_used_says_why(reader, sandbox, account, subject, said):
    box = await sandbox(Options(workspaces=1, limits=False))
    account = account or box.gmail.act("acme", "service_account", {})["service_account"]
    r = await reader("gmail", box=box, credentials={"service_account": account, "subject": subject})
    failure = (await r.run())["failures"][0]
    assert failure["kind"] == "misconfigured"
    assert said in failure["error"]
    assert failure["hint"]
    assert "hidden" not in repr(failure)


async def test_check_names_what_is_missing(reader):
    r = await reader("gmail", settings={"labels": ["INBOX", "Nowhere"]})
    found = await report(r)
    assert found.identity == next(r.box.gmail.connections())["account"]
    assert "the body of a mail was read" in found.facts
    assert [what for what, _ in found.problems] == ["no label 'Nowhere' in this mailbox"]


async def test_check_tells_a_sign_in_that_cannot_read_bodies(reader):
    r = await reader("gmail")
    r.box.gmail.act("acme", "scopes", {"scopes": ["gmail.metadata"]})
    found = await report(r)
    assert any("a mail cannot be read" in what and "gmail.readonly" in way for what, way in found.problems)
