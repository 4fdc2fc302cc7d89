"""Generated months: small moves, made into events of a vendor that keep within what is promised.

A move names its target by a number among what exists at its moment, so that a shorter list of moves is a month too.
A move that finds no target does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from syncd.sandbox.month import Event, Ref

MONTH = timedelta(days=28)
LONGEST_RIPENING = timedelta(days=3)
_HOUR = 3600
_ALTERED, _REPLIED = timedelta(days=6), timedelta(days=29)  # what is promised of Slack: how old a target may be
_CHANGED = timedelta(days=13)  # and of Gong and Fathom

WAITS = (0.0, 1.0, 7.0, 30.0, 70.0, 140.0)  # hours


@dataclass(frozen=True, slots=True)
class Move:
    """After ``wait`` hours: ``do`` something to the ``pick``-th of its possible targets, the newest being the 0th."""

    wait: float
    do: str
    pick: int


@dataclass(slots=True)
class Thing:
    """What a move made. ``above``: the parent of a reply. ``is_draft``: of a mail."""

    name: str
    at: timedelta
    above: Thing | None = None
    replies: list[Thing] = field(default_factory=list)
    is_draft: bool = False


@dataclass(slots=True)
class Scene:
    """The vendor as far as moves know it: what is alive, oldest first."""

    at: timedelta = timedelta()
    alive: list[Thing] = field(default_factory=list)
    made: int = 0

    def chosen(self, pick: int, fits: Callable[[Thing], bool]) -> Thing | None:
        found = [thing for thing in reversed(self.alive) if fits(thing)]
        return found[pick % len(found)] if found else None

    def young(self, age: timedelta) -> Callable[[Thing], bool]:
        return lambda thing: self.at - thing.at <= age

    def new(self, above: Thing | None = None, *, is_draft: bool = False) -> Thing:
        self.made += 1
        thing = Thing(f"n{self.made}", self.at, above, is_draft=is_draft)
        self.alive.append(thing)
        if above is not None:
            above.replies.append(thing)
        return thing

    def drop(self, thing: Thing) -> None:
        self.alive.remove(thing)
        if thing.above is not None:
            thing.above.replies.remove(thing)


Told = tuple[str, Mapping[str, Any], str]  # action, body, name


def events(vendor: str, moves: Sequence[Move]) -> list[Event]:
    scene, made = Scene(), []
    for number, move in enumerate(moves):
        scene.at += timedelta(hours=move.wait)
        if scene.at > MONTH:
            break
        told = VENDORS[vendor](scene, move, number)
        if told is not None:
            made.append(Event(scene.at, vendor, *told))
    return made


def _slack(scene: Scene, move: Move, number: int) -> Told | None:
    text = f"words {number}"
    if move.do == "post":
        return "post", {"text": text}, scene.new().name
    if move.do == "rename":
        return "rename", {"channel": "C000000000", "name": f"general-{number}"}, ""
    if move.do == "person":
        return "person", {"user": 1, "name": f"Name {number}"}, ""
    if move.do in {"reply", "broadcast"}:
        parent = scene.chosen(move.pick, lambda one: one.above is None and _is_lively(scene, one))
        if parent is None:
            return None
        body = _message(parent) | {"text": text, "broadcast": move.do == "broadcast", "user": 2}
        return "reply", body, scene.new(parent).name
    thing = scene.chosen(move.pick, scene.young(_ALTERED))
    if thing is None:
        return None
    if move.do == "delete":
        scene.drop(thing)
    return move.do, _message(thing) | ({"text": text} if move.do == "edit" else {}), ""


def _is_lively(scene: Scene, parent: Thing) -> bool:
    if parent.replies:
        return scene.at - parent.replies[-1].at <= _REPLIED
    return scene.at - parent.at <= _ALTERED


def _message(thing: Thing) -> dict[str, Any]:
    return {"channel": Ref(thing.name, "channel"), "ts": Ref(thing.name, "ts")}


def _gong(scene: Scene, move: Move, number: int) -> Told | None:
    title = f"Call {number}"
    if move.do in _GONG_ADDS:
        return "add", {"title": title, **_GONG_ADDS[move.do]}, scene.new().name
    if move.do == "hire":
        return "hire", {"first": "New", "last": f"Hire {number}"}, ""
    call = scene.chosen(move.pick, scene.young(_CHANGED))
    if call is None:
        return None
    body: dict[str, Any] = {"id": Ref(call.name, "call")}
    if move.do == "delete":
        scene.drop(call)
        return "delete", body, ""
    changes: dict[str, dict[str, Any]] = {"title": {"title": title}, "brief": {"brief": title}}
    changes |= {"comment": {"comment": title}, "private": {"private": True}, "public": {"private": False}}
    return "edit", body | changes[move.do], ""


_GONG_ADDS: Mapping[str, Mapping[str, Any]] = {
    "add": {},
    "add processed late": {"visible_in_s": 30 * _HOUR, "ready_in_s": 30 * _HOUR, "content_in_s": 30 * _HOUR},
    "add transcript late": {"ready_in_s": 26 * _HOUR},
    "add content late": {"content_in_s": 70 * _HOUR},
    "add private": {"private": True},
}


def _fathom(scene: Scene, move: Move, number: int) -> Told | None:
    title = f"Meeting {number}"
    if move.do in _FATHOM_ADDS:
        return "add", {"title": title, **_FATHOM_ADDS[move.do]}, scene.new().name
    meeting = scene.chosen(move.pick, scene.young(_CHANGED))
    if meeting is None:
        return None
    body: dict[str, Any] = {"recording_id": Ref(meeting.name, "recording_id")}
    if move.do == "delete":
        scene.drop(meeting)
        return "delete", body, ""
    changes: dict[str, dict[str, Any]] = {"title": {"title": title}, "summary": {"summary": title}}
    changes |= {"item": {"item": title}, "reorder": {"reorder": True}}
    changes |= {"completed": {"completed": True}, "open": {"completed": False}}
    return "edit", body | changes[move.do], ""


_FATHOM_ADDS: Mapping[str, Mapping[str, Any]] = {
    "add": {},
    "add transcript late": {"ready_in_s": 26 * _HOUR},
    "add summary late": {"summary_in_s": 40 * _HOUR},
    "add items late": {"items_in_s": 70 * _HOUR},
}


def _gmail(scene: Scene, move: Move, number: int) -> Told | None:
    text = f"words {number}"
    if move.do in {"add", "add archived"}:
        labels = {"labels": ["SENT"]} if move.do == "add archived" else {}
        return "add", {"subject": text, "text": text, **labels}, scene.new().name
    if move.do == "expire_history":
        return "expire_history", {}, ""
    mail = scene.chosen(move.pick, lambda one: one.is_draft or move.do != "edit")
    if mail is None:
        return None
    if move.do in {"reply", "draft", "reply archived"}:
        labels = {"draft": ["DRAFT"], "reply archived": ["SENT"]}.get(move.do, ["INBOX", "UNREAD"])
        body = {"thread_id": Ref(mail.name, "threadId"), "text": text, "labels": labels}
        return "add", body, scene.new(is_draft=move.do == "draft").name
    body = {"id": Ref(mail.name, "id")}
    if move.do in {"edit", "delete"}:
        scene.drop(mail)
        return (
            (move.do, body, "")
            if move.do == "delete"
            else ("edit", body | {"text": text}, scene.new(is_draft=True).name)
        )
    labelled = {"star": {"add": ["STARRED"]}, "archive": {"remove": ["INBOX"]}, "inbox": {"add": ["INBOX"]}}
    if move.do in labelled:
        return "label", body | labelled[move.do], ""
    return move.do, body, ""


VENDORS: Mapping[str, Callable[[Scene, Move, int], Told | None]] = {
    "slack": _slack,
    "gong": _gong,
    "fathom": _fathom,
    "gmail": _gmail,
}
DEEDS: Mapping[str, Sequence[str]] = {
    "slack": ("post", "reply", "edit", "delete", "broadcast", "react", "rename", "person"),
    "gong": (*_GONG_ADDS, "title", "brief", "comment", "private", "public", "delete", "hire"),
    "fathom": (*_FATHOM_ADDS, "title", "summary", "item", "reorder", "completed", "open", "delete"),
    "gmail": (
        "add", "reply", "star", "archive", "inbox", "delete", "add archived", "reply archived", "trash", "untrash",
        "spam", "draft", "edit", "touch", "expire_history",
    ),
}  # fmt: skip


def shown(made: Sequence[Event]) -> Iterator[str]:
    """The month in words, for the report of a failure."""
    return map(str, made)
