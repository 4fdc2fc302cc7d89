"""A connection as people and programs write it: one JSON object, checked before anything is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from syncd.errors import UsageError
from syncd.sources import SOURCES
from syncd.store import Line

if TYPE_CHECKING:
    from collections.abc import Mapping

MEMBERS = {"workspace_id", "source", "account", "settings", "credentials", "is_active"}
LONGEST_NAME = 255  # characters of a workspace or an account: both are in one index


def known_source(name: str, *, all_too: bool = False) -> str:
    """The name, if it is a source's. Raises UsageError."""
    if name in SOURCES or (all_too and name == "all"):
        return name
    raise UsageError(f"unknown source {name!r}; known: {', '.join(SOURCES)}{', all' if all_too else ''}")


def line_of(body: Mapping[str, Any]) -> Line:
    """A checked line. Raises UsageError that names what is wrong and never shows a credential."""
    if unknown := set(body) - MEMBERS:
        raise UsageError(f"unknown member {', '.join(sorted(unknown))}; known: {', '.join(sorted(MEMBERS))}")
    for name, kind, form in (
        ("workspace_id", str, "text"),
        ("source", str, "text"),
        ("account", str, "text"),
        ("settings", dict, "an object"),
        ("credentials", dict, "an object"),
        ("is_active", bool, "true or false"),
    ):
        if body.get(name) is not None and not isinstance(body[name], kind):
            raise UsageError(f"{name} must be {form}")
    if not body.get("workspace_id"):
        raise UsageError("workspace_id is missing")
    source = SOURCES[known_source(body.get("source") or "")]
    for name in ("workspace_id", "account"):
        storable_name(name, body.get(name) or "")
    if why := source.refuse(body.get("credentials"), body.get("settings") or {}):
        raise UsageError(why)
    if _is_deep(body.get("credentials")):
        raise UsageError("credentials are nested deeper than any vendor's")
    if _has_nul(body.get("settings")):
        raise UsageError("settings: a text holds U+0000, which no database takes")
    return Line(**{key: value for key, value in body.items() if value is not None})


def storable_name(what: str, name: str) -> str:
    """The name of a workspace or an account, if it can be stored. Raises UsageError."""
    if "\0" in name:
        raise UsageError(f"{what} holds U+0000, which no database takes")
    if len(name) > LONGEST_NAME:
        raise UsageError(f"{what} is longer than {LONGEST_NAME} characters")
    return name


def _is_deep(value: Any, levels: int = 20) -> bool:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return not levels or any(_is_deep(part, levels - 1) for part in parts)


def _has_nul(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_has_nul(part) for pair in value.items() for part in pair)
    if isinstance(value, list):
        return any(map(_has_nul, value))
    return isinstance(value, str) and "\0" in value
