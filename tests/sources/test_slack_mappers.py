"""Slack's source: pure mappers on odd JSON."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from syncd.errors import AuthError, CursorExpired, Misconfigured, RateLimited, Rejected, SourceError, Transient
from syncd.sources.slack import SOURCE
from syncd.sources.slack_api import _fault
from syncd.sources.slack_records import conversation, message, person


def said(**members: Any) -> str | None:
    return message("C1", {"ts": "1700000000.000100", **members}).text


@pytest.mark.parametrize(
    ("mrkdwn", "readable"),
    [
        ("hi <@U1|ana> and <@U2>", "hi @ana and @U2"),
        ("see <#C1|sales> or <#C2>", "see #sales or #C2"),
        ("<!here> <!channel|channel> <!subteam^S1|@ops> <!subteam^S2>", "@here @channel @ops @S2"),
        ("<!date^1700000000^{date}|14 Nov> it is", "14 Nov it is"),
        (
            "<https://a.example/x?a=1&amp;b=2|docs> <https://b.example>",
            "docs (https://a.example/x?a=1&b=2) https://b.example",
        ),
        ("<mailto:a@b.example|a@b.example>", "a@b.example"),
        ("1 &lt; 2 &amp;&amp; 3 &gt; 2 &amp;lt;", "1 < 2 && 3 > 2 &lt;"),
        ("a <> b < c", "a <> b < c"),
        ("日本語 🙏🏽", "日本語 🙏🏽"),
    ],
)
def test_mrkdwn_becomes_what_a_person_reads(mrkdwn: str, readable: str) -> None:
    assert said(text=mrkdwn) == readable


def test_without_text_rich_text_blocks_speak_literally() -> None:
    elements = [
        {"type": "text", "text": "a <b> &lt; "},
        {"type": "user", "user_id": "U1"},
        {"type": "text", "text": " "},
        {"type": "link", "url": "https://x.example", "text": "x"},
        {"type": "emoji", "name": "tada"},
        {"type": "channel", "channel_id": "C9"},
        {"type": "broadcast", "range": "here"},
        {"type": "usergroup", "usergroup_id": "S1"},
    ]
    section = {"type": "rich_text_section", "elements": elements}
    listed = {"type": "rich_text_list", "elements": [section, {"type": "rich_text_section", "elements": None}]}
    blocks = [{"type": "rich_text", "elements": [listed]}]
    assert said(text="", blocks=blocks) == "a <b> &lt; @U1 x (https://x.example):tada:#C9@here@S1"


def test_without_text_section_header_context_and_fields_speak() -> None:
    blocks = [
        {"type": "header", "text": {"type": "plain_text", "text": "Report"}},
        {
            "type": "section",
            "text": {"type": "mrkdwn", "text": "<https://x.example|all> &amp; more"},
            "fields": [{"text": "f"}],
        },
        {"type": "context", "elements": [{"type": "image", "alt_text": "logo"}, {"type": "mrkdwn", "text": "by us"}]},
        {"type": "image", "alt_text": "chart", "title": {"type": "plain_text", "text": "Chart"}},
        {"type": "divider"},
    ]
    assert said(blocks=blocks) == "Report\nall (https://x.example) & more\nf\nlogo\nby us\nChart\nchart"


def test_without_text_and_blocks_attachments_speak_and_the_fallback_only_in_need() -> None:
    full = {
        "pretext": "new",
        "title": "Build",
        "text": "<@U1> broke it",
        "fields": [{"title": "Branch", "value": "main"}],
        "fallback": "F",
    }
    assert (
        said(text=None, attachments=[full, {"fallback": "only this"}])
        == "new\nBuild\n@U1 broke it\nBranch\nmain\nonly this"
    )


def test_a_post_of_files_alone_is_named_by_them() -> None:
    files = [
        {"id": "F1", "name": "a.pdf", "title": None, "mimetype": "application/pdf", "size": 3, "permalink": "p"},
        None,
    ]
    made = message("C1", {"ts": "1700000000.000100", "text": "", "files": files})
    assert made.text == "a.pdf"
    assert made.attachments == [
        {"id": "F1", "name": "a.pdf", "title": None, "mimetype": "application/pdf", "size": 3, "permalink": "p"}
    ]


def test_a_message_is_keyed_by_its_ts_as_text_and_points_to_its_thread() -> None:
    made = message("C1", {"ts": "1700000000.123456", "thread_ts": "1699999999.000001", "user": "U1", "bot_id": "B1"})
    assert (made.external_id, made.thread_id) == ("C1:1700000000.123456", "C1:1699999999.000001")
    assert made.sent_at == datetime(2023, 11, 14, 22, 13, 20, 123456, UTC)
    assert (made.author_id, made.author) == ("U1", None)


@pytest.mark.parametrize("odd", [None, "", [], {}, 7, True, ["x"], {"text": 3}, [None, [1], {"type": ["x"]}]])
def test_no_shape_of_a_field_breaks_a_mapper(odd: Any) -> None:
    names = (
        "text", "blocks", "attachments", "files", "user", "bot_id", "bot_profile", "username", "edited", "thread_ts",
        "reactions", "subtype", "profile", "name", "real_name", "is_bot", "is_im", "is_private", "is_archived",
    )  # fmt: skip
    raw = dict.fromkeys(names, odd)
    assert message("C1", {**raw, "ts": "not a ts"}).sent_at is None
    assert person({**raw, "id": "U1"}).raw["text"] == odd
    assert conversation({**raw, "id": "C1"}).external_id == "C1"


def test_unknown_fields_survive_in_raw_and_volatile_ones_leave_the_digest_only() -> None:
    raw = {
        "ts": "1.000001",
        "new_thing": {"a": [1]},
        "blocks": [{"block_id": "x", "type": "divider"}],
        "subscribed": True,
    }
    made = message("C1", raw)
    assert made.raw == raw
    assert made.stable == {"ts": "1.000001", "new_thing": {"a": [1]}, "blocks": [{"type": "divider"}]}


@pytest.mark.parametrize(
    ("flags", "kind", "name"),
    [
        ({"is_im": True, "user": "U7"}, "im", "U7"),
        ({"is_im": True}, "im", None),
        ({"is_mpim": True, "is_group": True, "is_private": True, "name": "mpdm-a--b-1"}, "mpim", "mpdm-a--b-1"),
        ({"is_channel": True, "is_private": True, "name": "x"}, "group", "x"),
        ({"is_group": True, "name": "old"}, "group", "old"),
        ({"is_channel": True, "is_private": False, "name": "general"}, "channel", "general"),
    ],
)
def test_the_kind_of_a_conversation_is_told_by_its_flags(flags: dict[str, Any], kind: str, name: str | None) -> None:
    made = conversation({"id": "C1", **flags})
    assert (made.kind, made.name, made.is_private) == (kind, name, kind != "channel")


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (200, {"ok": False, "error": "internal_error"}, Transient),
        (200, {"ok": False, "error": "token_revoked"}, AuthError),
        (200, {"ok": False, "error": "invalid_cursor"}, CursorExpired),
        (200, {"ok": False, "error": "invalid_ts_oldest"}, Misconfigured),
        (200, {"ok": False, "error": "ratelimited"}, RateLimited),
        (200, {"ok": False, "error": "never_heard_of"}, Rejected),
        (200, {}, Transient),
        (200, None, Transient),
        (429, "slow down", RateLimited),
        (503, "<html>", Transient),
        (404, "<html>", Misconfigured),
    ],
)
def test_each_refusal_is_the_error_that_tells_what_follows(status: int, body: object, error: type[SourceError]) -> None:
    assert type(_fault("m", status, {}, body)) is error


def test_settings_take_ids_or_all_and_nothing_else() -> None:
    assert SOURCE.refuse(None, {"channels": ["C1"], "join": True}) is None
    assert SOURCE.refuse(None, {"channels": "*"}) is None
    assert all(SOURCE.refuse(None, {"channels": odd}) for odd in ("general", [], [3], [""], None, {}))
