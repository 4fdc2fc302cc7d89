"""One company's Gong, and what a reader that misses nothing should hold of it."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from syncd.sandbox.dataset import gong as data

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from syncd.sandbox.dataset import Company
    from syncd.sandbox.dataset.gong import Recorded

_CYCLE, _SWEEP, _FIRST_SWEEP = timedelta(hours=24), timedelta(days=14), timedelta(hours=6)  # the reader's usual windows
_EVERYTHING: dict[str, Any] = {
    "context": "Extended",
    "exposedFields": {
        "parties": True,
        "content": dict.fromkeys((*data.AI_BLOCKS, *data.SPEECH_BLOCKS, "trackerOccurrences"), True),
        "interaction": dict.fromkeys(("speakers", "personInteractionStats", "video", "questions"), True),
        "collaboration": {"publicComments": True},
    },
}


def basic(client_id: str, client_secret: str) -> str:
    """The header of Basic authentication."""
    return "Basic " + base64.b64encode(f"{client_id}:{client_secret}".encode()).decode()


@dataclass(slots=True, kw_only=True)
class Tenant:
    """One company's Gong. ``turn``: how often its tokens were renewed; the last refresh token is good.

    ``spent``: those before it, and until when they are good all the same.
    """

    company: Company
    users: list[dict[str, Any]]
    calls: dict[str, Recorded]
    workspaces: list[dict[str, Any]]
    secret: str
    revoked: bool = False
    turn: int = 0
    spent: dict[str, datetime] = field(default_factory=dict)
    added: int = 0

    def member(self, kind: str) -> str:
        """A credential, the same for the same seed, workspace and turn."""
        turn = f"/{self.turn}" if kind in ("access_token", "refresh_token") else ""
        return f"{kind}-{hashlib.sha256(f'{self.secret}/{kind}{turn}'.encode()).hexdigest()[:32]}"

    def basic(self, user: str, password: str) -> str:
        """The header of Basic authentication with two of its members."""
        return basic(self.member(user), self.member(password))

    def refreshed_by(self, fields: Mapping[str, Any], now: datetime) -> bool:
        """Whether these parameters hold a refresh token of it that is good."""
        token = fields.get("refresh_token")
        return token == self.member("refresh_token") or (token in self.spent and self.spent[token] > now)

    def listed(self, now: datetime, *, unseen: bool = False) -> list[Recorded]:
        calls = (call for call in self.calls.values() if unseen or call.visible_at <= now)
        return sorted(calls, key=lambda call: (call.started, int(call.id)))

    def holdings(self, born: datetime, now: datetime) -> dict[str, dict[str, Any]]:
        """Kind → external id → JSON. Private calls are not held, nor those that showed up when no window reached them.

        What a change makes of a call that left the sweep's window is held too, though no reader can see it happen.
        """
        reach = _SWEEP if now >= born + _FIRST_SWEEP else _CYCLE
        calls = [
            call
            for call in self.listed(now)
            if not call.is_private and call.started >= max(born, call.visible_at) - reach
        ]
        return {
            "people": {user["id"]: user for user in self.users},
            "meetings": {call.id: data.shown(call, _EVERYTHING, now) for call in calls},
            "transcripts": {call.id: data.transcript(call) for call in calls if call.transcript_at <= now},
        }
