"""What is wrong, in words: grouped by cause, with who, why and the way out; what needs a person first."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from syncd.needs import Ill, Need, needs


def at(minutes: float) -> str:
    return (datetime.now(UTC) + timedelta(minutes=minutes)).strftime("%Y-%m-%dT%H:%M:%SZ")


def row(number: int, source: str = "gong", **more: Any) -> dict[str, Any]:
    known = {
        "id": number, "workspace_id": f"w{number}", "account": "", "source": source, "status_since": at(-60),
        "last_success_at": at(-60), "last_error": None, "last_error_kind": None, "last_error_at": None,
        "next_sync_at": at(30), "limited_until": None, "limited_by": None,
    }  # fmt: skip
    return known | more


def failing(number: int, words: str = "calls: HTTP 503", kind: str = "transient") -> dict[str, Any]:
    return row(number, last_error=words, last_error_kind=kind, last_error_at=at(-1))


def source(
    count: int = 25, *, failed: int = 0, well: int = 20, enabled: bool = True, **troubles: int
) -> dict[str, Any]:
    cycle = {"started_at": at(-10), "failed_workspaces": failed, "successful_workspaces": well}
    fresh = {"on_time": count} if enabled else {}
    return {"enabled": enabled, "connections": count, "troubles": troubles, "freshness": fresh, "last_cycle": cycle,
            "next_turn": at(5), "states": {}}  # fmt: skip


def told(ills: list[Ill], **sources: Any) -> list[Need]:
    return needs(ills, sources or {"gong": source(failing=len(ills[0].rows))})


def test_a_revoked_token_tells_whose_why_and_the_command_that_mends_it() -> None:
    rows = [row(3, "slack", last_error="users.list: token_revoked - install the app again", last_error_kind="auth")]
    (need,) = told([Ill("slack", "needs_reauth", 1, rows)], slack=source(needs_reauth=1))
    assert (need.yours, need.what, need.why) == (
        True, "Slack: 1 connection waits for new credentials", "users.list: token_revoked",
    )  # fmt: skip
    assert need.way_out.startswith("Install the app again. Connect it again: `syncd connect slack --workspace w3`")
    assert "connect-link --source slack --workspace w3`" in need.way_out


def test_the_command_that_mends_a_revoked_token_names_the_account() -> None:
    rows = [row(3, "slack", last_error="token_revoked", last_error_kind="auth", account="eu team")]
    (need,) = told([Ill("slack", "needs_reauth", 1, rows)], slack=source(needs_reauth=1))
    assert need.way_out.count("--workspace w3 --account 'eu team'`") == 2


def test_a_command_to_copy_does_only_what_it_says() -> None:
    rows = [row(3, "slack", last_error="token_revoked", last_error_kind="auth") | {"workspace_id": "a; rm -rf ~"}]
    (need,) = told([Ill("slack", "needs_reauth", 1, rows)], slack=source(needs_reauth=1))
    assert "--workspace 'a; rm -rf ~'`" in need.way_out


def test_connections_with_the_same_words_are_one_need_and_others_another() -> None:
    rows = [failing(n, "HTTP 400: no such call", "rejected") for n in (1, 2)] + [failing(3, "odd", "rejected")]
    found = told([Ill("gong", "failing", 3, rows)])
    assert [(need.count, need.why) for need in found] == [(2, "HTTP 400: no such call"), (1, "odd")]


def test_a_vendor_that_is_away_is_one_need_that_asks_nobody() -> None:
    (need,) = told([Ill("gong", "failing", 25, [failing(n) for n in range(25)])], gong=source(25, failing=25))
    assert (need.kind, need.yours, need.count, need.what) == (
        "away", False, 25, "Gong does not answer: 25 connections fail",
    )  # fmt: skip


def test_who_is_not_read_while_the_vendor_is_away_is_no_need_of_its_own() -> None:
    """Only a few ask for a vendor that is away: the rest becomes late."""
    ills = [Ill("gong", "failing", 5, [failing(n) for n in range(5)]), Ill("gong", "late", 20, [row(9)])]
    (need,) = told(ills, gong=source(25, failing=5, late=20))
    assert need.what == "Gong does not answer: 5 connections fail, 20 more are not read meanwhile"


def test_few_of_many_are_away_only_if_nobody_else_was_answered() -> None:
    ill = Ill("gong", "failing", 5, [failing(n) for n in range(5)])
    assert told([ill], gong=source(1000, failed=5, well=0, failing=5))[0].kind == "away"
    assert told([ill], gong=source(1000, failed=5, well=900, failing=5))[0].kind == "failing"


def test_two_that_are_not_answered_are_no_vendor_that_is_away() -> None:
    (need,) = told([Ill("gong", "failing", 2, [failing(1), failing(2)])], gong=source(2, failing=2))
    assert (need.kind, need.yours) == ("failing", False)
    assert re.search(r"It is tried again in (29|30) min", need.way_out)


def test_one_that_fails_for_another_cause_is_told_beside_a_vendor_that_is_away() -> None:
    rows = [*(failing(n) for n in range(5)), failing(7, "no such call", "rejected")]
    found = told([Ill("gong", "failing", 6, rows)], gong=source(6, failing=6))
    assert [(need.kind, need.count) for need in found] == [("failing", 1), ("away", 5)]


def test_what_needs_a_person_comes_first() -> None:
    ills = [
        Ill("gong", "late", 1, [row(1)]),
        Ill("gong", "limited", 1, [row(2, limited_until=at(9), limited_by="day")]),
        Ill("gong", "misconfigured", 1, [row(4, last_error="404 - wrong address")]),
    ]
    found = told(ills, gong=source(late=1, misconfigured=1))
    assert [(need.kind, need.yours) for need in found] == [("misconfigured", True), ("late", False), ("limited", False)]


def test_overdue_needs_a_person_unless_a_limit_explains_it() -> None:
    held = row(1, limited_until=at(30), limited_by="day")
    for rows, yours in (([row(1)], True), ([held], False)):
        (need,) = told([Ill("gong", "overdue", 1, rows)], gong=source(overdue=1))
        assert need.yours is yours
    assert "1 of them waits for day" in need.why


def test_a_defect_of_ours_needs_a_person() -> None:
    (need,) = told([Ill("gong", "failing", 1, [failing(1, "KeyError at x.py:3", "internal")])])
    assert need.yours
    assert "traceback" in need.way_out


def test_of_more_than_were_looked_at_the_rest_is_counted() -> None:
    same = told([Ill("gong", "failing", 900, [failing(n, "no", "rejected") for n in range(100)])])
    assert [need.count for need in same] == [900]
    mixed = told([Ill("gong", "failing", 900, [failing(n, f"no {n % 2}", "rejected") for n in range(100)])])
    assert [need.count for need in mixed] == [800, 50, 50]
    assert mixed[0].what == "Gong: 800 more connections fail"


def test_a_source_that_is_off_with_connections_is_told() -> None:
    (need,) = told([], gong=source(3, enabled=False))
    assert need.what == "Gong is switched off: 3 connections are not read"


def test_nothing_wrong_is_no_need() -> None:
    assert needs([], {"gong": source(), "slack": source(0)}) == []
