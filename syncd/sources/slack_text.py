"""Slack's ways of writing, as a person reads them: mrkdwn, blocks, attachments. And tolerant looks into its JSON."""

from __future__ import annotations

import re
from typing import Any

Json = dict[str, Any]
_ENTITY = re.compile(r"<([^<>]+)>")
_SAID = ("pretext", "title", "text", "value", "alt_text", "fields", "elements", "blocks")


def plain(part: object, mrkdwn: bool = False) -> str:
    """A block, an element of one, a text object or an attachment (these have no type), as a person reads it."""
    if isinstance(part, list):
        return "\n".join(filter(None, [plain(one, mrkdwn) for one in part]))
    if isinstance(part, str):
        return _unmarked(part) if mrkdwn else part
    if not isinstance(part, dict):
        return ""
    kind = text(part, "type")
    if kind in {"rich_text_section", "rich_text_quote", "rich_text_preformatted"}:
        return "".join(map(plain, objects(part.get("elements"))))
    if name := text(part, f"{kind}_id") or text(part, "range"):  # of a person, a group, a channel, here
        return f"#{name}" if kind == "channel" else f"@{name}"
    if kind == "emoji":
        return f":{text(part, 'name')}:"
    if kind == "link" and text(part, "text"):
        return f"{text(part, 'text')} ({text(part, 'url')})"
    said = plain([part.get(key) for key in _SAID], mrkdwn=kind in {"", "mrkdwn"})
    return said or text(part, "fallback") or text(part, "url")


def _unmarked(mrkdwn: str) -> str:
    """Most texts hold no mark at all."""
    if "<" in mrkdwn:
        mrkdwn = _ENTITY.sub(_entity, mrkdwn)
    if "&" in mrkdwn:
        mrkdwn = mrkdwn.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    return mrkdwn


def _entity(found: re.Match[str]) -> str:
    """``<@U1|n>``, ``<#C1|n>``, ``<!here>``, ``<!subteam^S1|@n>``, ``<!date^…|fallback>``, ``<url|label>``."""
    target, _, label = found[1].partition("|")
    if target.startswith("!date^"):
        return label
    if target.startswith(("@", "#", "!")):
        return ("#" if target[0] == "#" else "@") + (label.lstrip("@#") or target[1:].removeprefix("subteam^"))
    target = target.removeprefix("mailto:")
    return f"{label} ({target})" if label and label != target else target


def objects(value: object, keyed_by: str = "") -> list[Json]:
    if not isinstance(value, list):
        return []
    return [part for part in value if isinstance(part, dict) and (not keyed_by or text(part, keyed_by))]


def text(value: object, *path: str) -> str:
    """The text at ``path`` in ``value``, "" where there is none: any field may be null, absent or something else."""
    for key in path:
        if not isinstance(value, dict):
            return ""
        value = value.get(key)
    return value if isinstance(value, str) else ""
