"""A meeting that the emulated Fathom has recorded: who sees it, what changes in it, what was served of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from syncd.sandbox.dataset import fathom as dataset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from syncd.sandbox.dataset import Somebody

Json = dict[str, Any]

PARTS = {f"include_{part}": part for part in ("transcript", "action_items", "highlights", "crm_matches")}
PARTS["include_summary"] = "default_summary"
# What a reader that begins at birth sees of the past: at once a day, from its first sweep on two weeks.
_FIRST, _SWEEP, _SWEEP_AFTER = timedelta(hours=24), timedelta(days=14), timedelta(hours=6)


@dataclass(slots=True)
class Recorded:
    """A meeting with all its parts, and when each of them is ready. It is listed from its ``created_at`` on.

    ``shared``: with user 0 alone, as somebody decided; None = as ``shared_with`` says. ``served``: as user 0 was last
    shown it, each part as it was last shown with something in it.
    """

    item: Json
    started: datetime
    ready: Mapping[str, datetime]
    shared: bool | None = None
    deleted: bool = False
    served: Json = field(default_factory=dict)

    @property
    def created(self) -> datetime:
        return datetime.fromisoformat(self.item["created_at"])

    @property
    def key(self) -> tuple[datetime, int]:
        return self.started, self.item["recording_id"]

    def seen_by(self, user: Somebody) -> bool:
        """Own recordings; what is shared with one's team, for an admin (user 0) all that is shared."""
        if self.deleted or self.of(user):
            return not self.deleted
        if user.index == 0:
            return self.item["shared_with"] != "no_teams" if self.shared is None else self.shared
        return dataset.TEAMS[user.role] in dataset.teams_of(self.item)

    def of(self, user: Somebody) -> bool:
        return bool(self.item["recorded_by"]["email"] == user.email)

    def serve(self, shown: Json) -> None:
        """Keep in mind what user 0 got."""
        kept = {part: self.served.get(part) for part in PARTS.values() if shown[part] is None}
        self.served = shown | kept

    def edit(self, body: Mapping[str, Any]) -> None:
        """See the action ``edit``. What was served before stays as it was."""
        changed: Json = {name: str(body[name]) for name in ("title", "shared_with") if name in body}
        todos = [todo | {"completed": bool(body.get("completed", todo["completed"]))} for todo in self._todos(body)]
        if "summary" in body:
            changed["default_summary"] = {"template_name": "General", "markdown_formatted": str(body["summary"])}
        self.item |= changed | {"action_items": todos[::-1] if body.get("reorder") else todos}

    def _todos(self, body: Mapping[str, Any]) -> Iterator[Json]:
        yield from self.item["action_items"]
        if "item" in body:
            yield {
                "description": str(body["item"]),
                "user_generated": True,
                "completed": False,
                "recording_timestamp": "00:00:05",
                "recording_playback_url": f"{self.item['url']}?timestamp=5",
                "assignee": {"name": None, "email": None, "team": None},
            }


def holdings(
    meetings: Iterable[Recorded], user: Somebody, born: datetime, now: datetime, show: Callable[[Recorded], Json]
) -> dict[str, dict[str, Any]]:
    """What a reader with this user's credentials holds now, if it began at birth and missed nothing.

    A meeting is as a listing with its summary and action items shows it (``show``), so without the names that are
    matched to speakers; a transcript is as ``/recordings`` answers. What is no longer visible is held as it was last
    served, but the user's own: that is deleted.
    """
    begins = born - _FIRST if now < born + _SWEEP_AFTER else born + _SWEEP_AFTER - _SWEEP
    held: dict[str, dict[str, Any]] = {"meetings": {}, "transcripts": {}}
    for one in meetings:
        seen = one.seen_by(user)
        if not begins < one.created <= now or (one.of(user) and not seen):
            continue
        item = show(one) if seen else one.served
        if "recording_id" not in item:
            continue  # no listing ever showed it
        number = str(item["recording_id"])
        nameless = {"matched_speaker_display_name": None}
        held["meetings"][number] = item | {
            "calendar_invitees": [who | nameless for who in item["calendar_invitees"]],
            "transcript": None,
            "highlights": None,
            "crm_matches": None,
        }
        said = one.item["transcript"] if seen and one.ready["transcript"] <= now else one.served.get("transcript")
        if said:
            held["transcripts"][number] = {"transcript": said}
    return held
