"""How the emulated Gmail shows what a mailbox holds: labels, what a search finds, history records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from syncd.sandbox.google import without_empty

if TYPE_CHECKING:
    from collections.abc import Mapping

    from syncd.sandbox.gmail_mailbox import Mailbox

TYPES = {
    "messageAdded": "messagesAdded",
    "messageDeleted": "messagesDeleted",
    "labelAdded": "labelsAdded",
    "labelRemoved": "labelsRemoved",
}


def label_of(one: str, name: str) -> dict[str, str]:
    if one.startswith("Label_"):
        visible = {"messageListVisibility": "show", "labelListVisibility": "labelShow"}
        return {"id": one, "name": name, **visible, "type": "user"}
    hidden = {"messageListVisibility": "hide", "labelListVisibility": "labelHide"} if one in {"CHAT", "TRASH"} else {}
    return {"id": one, "name": name, **hidden, "type": "system"}


def matches(one: Mapping[str, Any], term: str, mailbox: Mailbox) -> bool:
    """A term of a search: after: and before: (epoch seconds), from:, subject:, label:, in:, or a word."""
    name, _, value = term.lower().rpartition(":")
    if name in {"after", "before"} and value.isdecimal():
        return (int(one["internalDate"]) >= int(value) * 1000) is (name == "after")
    if name in {"label", "in"}:
        return any(value in {label.lower(), mailbox.labels[label].lower()} for label in one["labelIds"])
    return value in _searched(one, {"from", "subject"} & {name})


def _searched(message: Mapping[str, Any], only: set[str]) -> str:
    headers = [
        one["value"] for one in message["payload"]["headers"] if one["name"].lower() in (only or {"from", "subject"})
    ]
    return " ".join([*headers, *(() if only else (message["snippet"],))]).lower()


def record_of(one: Mapping[str, Any], kinds: list[str], label: str) -> dict[str, Any] | None:
    """A history record as it is served, or None when the filters leave nothing of it."""
    typed = {
        kind: [entry for entry in one[kind] if not label or label in entry["message"].get("labelIds", [])]
        for kind in (kinds or TYPES.values())
        if kind in one
    }
    if (kinds or label) and not any(typed.values()):
        return None
    return {"id": str(one["id"]), "messages": one["messages"], **without_empty(typed)}
