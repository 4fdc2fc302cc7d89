"""Where nobody knows what a vendor does, the sandbox can do either: the variants, by name. The first value is usual."""

from __future__ import annotations

SWITCHES = {
    "slack.429": "json|empty|text: the body of a 429",
    "slack.restricted": "off|on: history and replies 1 a minute, 15 objects a page",
    "slack.parent_on_pages": "all|first: on which pages of replies the parent stands",
    "slack.short_pages": "off|on: pages shorter than asked for, with more to come",
    "slack.metadata_absent_at_end": "off|on: the last page has no response_metadata",
    "slack.cursor_life_s": "3600: seconds until a page token is stale",
    "slack.token_life_s": "43200: seconds until a rotating token expires",
    "slack.refresh_grace_s": "60: seconds in which a spent refresh token still works",
    "gong.transcript_not_ready": "omit|empty|404: how a transcript that is not ready is answered",
    "gong.transcript_first": "off|on: transcripts are there before their calls",
    "gong.visibility": "all|none: credentials that see nothing",
    "gong.missing_scope": "a scope such as api:users:read that the credentials lack",
    "gong.second": "3/1s: the limit of calls a second",
    "gong.day": "10000/1d: the limit of calls a day",
    "gong.redirect": "a host that all requests are sent to",
    "fathom.oauth_flags": "400|ignore: what OAuth gets for include_transcript and include_summary",
    "fathom.not_ready": "404|null|empty: how content that is not ready is answered",
    "fathom.heavy": "30: heavy calls a minute; Fathom may lower it to 5",
    "fathom.inclusive": "off|on: whether created_after takes its own second in",
    "fathom.duplicates": "off|on: a meeting repeats on the next page",
    "fathom.end": "null|blank|absent: next_cursor at the end of a listing",
    "fathom.cursor": "keyset|page: the form of next_cursor",
    "fathom.nulls": "off|on: nulls where Fathom's description promises values",
    "gmail.prices": "new|old: quota units of projects since May 2026, or of older ones",
    "gmail.old_attachment": "404|400: the answer to a stale attachment id",
    "gmail.future_history": "404|empty: the answer to a history id that is not there yet",
    "gmail.empty_history_page": "off|on: a history page without records but with a page token",
}
