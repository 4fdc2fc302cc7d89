"""A company's Slack: who is there, which conversations there are, and what was said in them, relative to a moment."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from syncd.sandbox.dataset.slack_talks import NOTES, TALKS

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping

    from syncd.sandbox.dataset import Company
    from syncd.sandbox.world import Options

Json = dict[str, Any]

FOREIGN, SYNCBOT, CI = -3, -2, -1  # who writes besides the staff: a customer's person, our bot, the build bot
_PUBLIC = ("general", "sales", "support", "engineering", "product")


@dataclass(frozen=True, slots=True)
class Plan:
    """A conversation to be. ``member``: whether our bot is in it. ``share``: of a busy channel's messages."""

    name: str
    topic: str
    kind: str = "public"
    member: bool = True
    archived: bool = False
    share: float = 1.0


def _plans(channels: int) -> list[Plan]:
    """``channels`` that the bot reads, and one of each kind that it meets besides."""
    return [
        *(Plan(_PUBLIC[n] if n < len(_PUBLIC) else f"team-{n}", _PUBLIC[n % len(_PUBLIC)]) for n in range(channels)),
        Plan("watercooler", "general", member=False, share=0.3),
        Plan("leadership", "leadership", "private", share=0.2),
        Plan("board", "leadership", "private", member=False, share=0.1),
        Plan("launch-2025", "product", archived=True, share=0.1),
        Plan("", "direct", "im", share=0.15),
        Plan("mpdm", "direct", "mpim", share=0.15),
    ]


def ts_of(at: datetime) -> str:
    return f"{int(at.replace(microsecond=0).timestamp())}.{at.microsecond:06d}"


@dataclass
class Room:
    """A conversation. ``messages``: ts → message, replies among them. ``threads``: ts of a parent → ts of replies.

    ``hidden_before``: the ts below which a free plan shows nothing. ``kept``: what was live when the bot was sent away.
    """

    id: str
    plan: Plan
    member: bool
    info: Json = field(default_factory=dict)
    messages: dict[str, Json] = field(default_factory=dict)
    threads: dict[str, list[str]] = field(default_factory=dict)
    hidden_before: str = ""
    kept: dict[str, Json] | None = None

    def live(self) -> dict[str, Json]:
        """``<channel>:<ts>`` → message, of all that is not deleted."""
        live = {ts: one for ts, one in self.messages.items() if one.get("subtype") != "tombstone"}
        return {f"{self.id}:{ts}": copy.deepcopy(one) for ts, one in live.items()}

    def post(self, at: datetime, message: Json, thread_ts: str | None = None) -> str:
        """A message of its own or a reply. Its ts is unique here; the last digits are a sequence."""
        while (ts := ts_of(at)) in self.messages:
            at += timedelta(microseconds=1)
        self.messages[ts] = {"type": "message", **message, "ts": ts}
        if thread_ts is not None:
            self.messages[ts] |= {"thread_ts": thread_ts, "parent_user_id": self.messages[thread_ts].get("user")}
            self.threads.setdefault(thread_ts, []).append(ts)
            self._count(thread_ts)
        return ts

    def delete(self, ts: str) -> None:
        """Contract: a parent with replies stays as a tombstone, which goes with its last reply."""
        message = self.messages[ts]
        if self.threads.get(ts):
            kept = ("thread_ts", "reply_count", "reply_users_count", "reply_users", "latest_reply", "is_locked")
            gone = {"type": "message", "subtype": "tombstone", "text": "This message was deleted.", "hidden": True}
            gone |= {"user": "USLACKBOT", "parent_user_id": "USLACKBOT", "ts": ts}
            self.messages[ts] = gone | {key: message[key] for key in kept}
            return
        del self.messages[ts]
        parent = message.get("thread_ts", ts)
        if parent != ts:
            self.threads[parent].remove(ts)
            self._count(parent)

    def _count(self, thread_ts: str) -> None:
        """The parent's counters after a reply came or went."""
        replies, parent = self.replies(thread_ts), self.messages[thread_ts]
        if not replies and parent.get("subtype") == "tombstone":
            del self.messages[thread_ts]
            return
        users = list(dict.fromkeys(one.get("user") or one.get("bot_id") for one in replies))
        parent |= {"thread_ts": thread_ts, "reply_count": len(replies), "reply_users_count": len(users)}
        parent |= {"reply_users": users[:5], "is_locked": False}
        parent["latest_reply"] = replies[-1]["ts"] if replies else "0000000000.000000"

    def replies(self, thread_ts: str) -> list[Json]:
        return [self.messages[ts] for ts in sorted(self.threads.get(thread_ts, ()))]

    def told(self, oldest: str) -> list[str]:
        """The ts of all that can be read from ``oldest`` on: replies only by a parent that is in the window."""
        seen = [one for one in self.history() if one["ts"] >= oldest]
        told = [*seen, *(reply for one in seen for reply in self.replies(one["ts"]))]
        return [one["ts"] for one in told if one.get("subtype") != "tombstone"]

    def history(self) -> list[Json]:
        """Newest first: top-level messages, and replies that were also sent to the channel."""
        found = [
            one
            for one in self.messages.values()
            if one.get("thread_ts", one["ts"]) == one["ts"] or one.get("subtype") == "thread_broadcast"
        ]
        return sorted(found, key=lambda one: str(one["ts"]), reverse=True)


class Office:
    """One company's Slack at the moment ``born``. ``ids``: of the staff, then of FOREIGN, SYNCBOT and CI."""

    def __init__(self, company: Company, rng: random.Random, options: Options, born: datetime) -> None:
        number = f"{company.index:03d}"
        self.company, self.id, self._rng, self._born = company, f"T0{number}TEAM", rng, born
        self.ids = [f"U0{number}{n:05d}" for n in (*range(len(company.staff)), 90, 91, 92)]
        self.users = self._people()
        self._names = [user["name"] for user in self.users]
        self._options = options
        self._decks: dict[tuple[Any, ...], list[Any]] = {}

    @cached_property
    def rooms(self) -> dict[str, Room]:
        """By id. Made when first asked for: days of talk take long to make, and who reads another vendor needs none."""
        made: dict[str, Room] = {}
        options, number = self._options, f"{self.company.index:03d}"
        for n, plan in enumerate(_plans(options.channels)):
            letter = {"im": "D", "private": "G"}.get(plan.kind, "C")
            room = Room(f"{letter}0{number}{n:05d}", plan, plan.member)
            room.info = self._room_info(room, self._born - timedelta(days=400 - n))
            made[room.id] = room
            for day in range(1 if plan.archived else 0, options.days):
                count = options.messages_per_day * plan.share * (0.7 if day else 1.0)
                for _ in range(max(1, round(count)) if options.messages_per_day else 0):
                    self._talk(room, self._moment(day))
            for odd in self._oddities()[n :: options.channels] if n < options.channels else ():
                odd(room)
        return made

    def message(self, by: int, text: str, extra: Json) -> Json:
        """A person's post comes with a rich_text block; the build bot has its own name and no user."""
        if by == CI:
            bot: Json = {"subtype": "bot_message", "bot_id": "B0BUILDBOT", "username": "CI"}
            return {**bot, "icons": {"emoji": ":robot_face:"}, "text": text, **extra}
        blocks = {"blocks": [rich_text(text)]} if text and "subtype" not in extra else {}
        team = "T0FOREIGN" if by == FOREIGN else self.id
        return {"user": self.ids[by], "text": text, "team": team, **blocks, **extra}

    def change(self, action: str, body: Mapping[str, Any], now: datetime) -> Json:
        """post, reply, edit, react or delete at ``now``; without channel and ts: the first one's newest message."""
        room = self.rooms[body["channel"]] if "channel" in body else next(iter(self.rooms.values()))
        by, text = int(body.get("user", 0)), str(body.get("text", f"{action} at {now:%H:%M:%S}"))
        if action == "post":
            return {"channel": room.id, "ts": room.post(now, self.message(by, text, {}))}
        ts = str(body.get("ts") or next(one["ts"] for one in room.history() if one.get("subtype") != "tombstone"))
        message = room.messages[ts]
        if action == "reply":
            extra = {"subtype": "thread_broadcast"} if body.get("broadcast") else {}
            return {"channel": room.id, "ts": room.post(now, self.message(by, text, extra), ts), "thread_ts": ts}
        if action == "edit":
            edited = {"user": message.get("user"), "ts": ts_of(now)}
            message |= {"text": text, "blocks": [rich_text(text)], "edited": edited}
        elif action == "react":
            given = {"name": str(body.get("name", "eyes")), "users": [self.ids[by]], "count": 1}
            message["reactions"] = [*message.get("reactions", []), given]
        else:
            room.delete(ts)
        return {"channel": room.id, "ts": ts}

    @property
    def settings(self) -> Mapping[str, Callable[[Mapping[str, Any], datetime], Json]]:
        """What can be done to channels and people, by action."""
        return {
            "invite": self._invite,
            "kick": self._kick,
            "create": self._create,
            "rename": self._rename,
            "archive": self._archive,
            "person": self._call,
            "limit_history": self._limit,
        }

    def _invite(self, body: Mapping[str, Any], now: datetime) -> Json:
        room = self.rooms[body["channel"]]
        room.member, room.kept = True, None
        return {"channel": room.id}

    def _kick(self, body: Mapping[str, Any], now: datetime) -> Json:
        room = self.rooms[body["channel"]]
        room.member, room.kept = False, room.live() if room.member else room.kept
        return {"channel": room.id}

    def _create(self, body: Mapping[str, Any], now: datetime) -> Json:
        room = Room(f"C1{self.company.index:03d}{len(self.rooms):05d}", Plan(str(body["name"]), "general"), member=True)
        room.info = self._room_info(room, now)
        self.rooms[room.id] = room
        return {"channel": room.id}

    def _rename(self, body: Mapping[str, Any], now: datetime) -> Json:
        room, name = self.rooms[body["channel"]], str(body["name"])
        room.info |= {"name": name, "name_normalized": name, "previous_names": [room.info.get("name")]}
        return {"channel": room.id}

    def _archive(self, body: Mapping[str, Any], now: datetime) -> Json:
        room = self.rooms[body["channel"]]
        room.info["is_archived"] = not body.get("undo", False)
        return {"channel": room.id}

    def _call(self, body: Mapping[str, Any], now: datetime) -> Json:
        user = next(one for one in self.users if one["id"] == self.ids[int(body["user"])])
        user["profile"] = {**user["profile"], "display_name": str(body["name"])}
        return {"user": user["id"]}

    def _limit(self, body: Mapping[str, Any], now: datetime) -> Json:
        days = float(body["days"])
        for room in self.rooms.values():
            room.hidden_before = ts_of(now - timedelta(days=days)) if days else ""
        return {"days": days}

    def _moment(self, day: int) -> datetime:
        """Within the 24 hours that end ``day`` days ago, mostly when people are awake."""
        for _ in range(3):
            at = self._born - timedelta(days=day, seconds=self._rng.uniform(90, 86_000))
            if 7 <= at.hour < 19:
                break
        return at

    def _talk(self, room: Room, at: datetime) -> None:
        rng, staff = self._rng, len(self.company.staff)
        by, customer = rng.randrange(staff), rng.choice(self.company.customers)
        words = {
            "customer": customer.name, "contact": rng.choice(customer.contacts).first, "ref": rng.randrange(120, 990),
            "who": f"<@{self.ids[rng.randrange(staff)]}>", "amount": f"{rng.randrange(8, 90)}k €",
            "version": f"v3.{rng.randrange(2, 30)}.0", "day": rng.choice(("Monday", "Tuesday", "Thursday")),
        }  # fmt: skip
        is_talk, topic = self._drawn((True, *[False] * 5)), room.plan.topic
        opening, *answers = self._drawn(TALKS[topic]) if is_talk else (self._drawn(NOTES[topic]),)
        message = self.message(by, opening.format(**words), {})
        if (chance := rng.random()) < 0.15:
            users = [self.ids[one] for one in rng.sample(range(staff), rng.randrange(1, 4))]
            message["reactions"] = [{"name": rng.choice(("+1", "tada", "eyes")), "users": users, "count": len(users)}]
        elif chance < 0.25:
            message["edited"] = {"user": self.ids[by], "ts": ts_of(at + timedelta(seconds=40))}
        ts = room.post(at, message)
        for answer in answers:
            at, by = at + timedelta(seconds=rng.randrange(20, 1500)), (by + rng.randrange(1, 4)) % staff
            if at < self._born - timedelta(minutes=1):
                room.post(at, self.message(by, answer.format(**words), {}), ts)

    def _drawn(self, cards: tuple[Any, ...]) -> Any:
        """A card that was not drawn since the deck was shuffled: people do not say the same all day."""
        if not self._decks.get(cards):
            self._decks[cards] = self._rng.sample(cards, len(cards))
        return self._decks[cards].pop()

    def _say(self, room: Room, hours: float, by: int, text: str, thread: str | None = None, **extra: Any) -> str:
        at = self._born - timedelta(hours=hours, seconds=0 if thread else self._rng.randrange(1200))
        return room.post(at, self.message(by, text, extra), thread)

    def _oddities(self) -> list[Callable[[Room], Any]]:
        """What real channels hold besides talk, most of it in the last day; shared out among the channels."""
        say, number = self._say, self._rng.randrange(400, 900)

        def builds(room: Room) -> None:
            hours = self._rng.uniform(20, 22)
            for state in ("running", "green"):  # the build bot tells of start and end within the same second
                told = {"id": 1, "fallback": state, "title": f"Build {number}", "text": f"main: *{state}*"}
                at = self._born - timedelta(hours=hours)
                room.post(at, self.message(CI, "", {"attachments": [told]}))

        def tombstone(room: Room) -> None:
            wrong = say(room, 11, 0, "Wrong channel, sorry")
            say(room, 10.9, 1, "?", wrong)
            say(room, 10.8, 2, "What was this?", wrong)
            room.delete(wrong)

        def late_reply(room: Room) -> None:
            parent = say(room, 74, 1, "Thread for this week's numbers, please add yours")
            say(room, 73, 2, "Mine are in", parent)
            say(room, 3, 3, "Late, sorry: mine too", parent)

        def broadcast(room: Room) -> None:
            parent = say(room, 13, 2, "Who takes the on-call phone tonight?")
            say(room, 12.9, 4, "I do, told everybody", parent, subtype="thread_broadcast")

        return [
            lambda room: say(room, 9, 2, "set the channel topic: Be kind", subtype="channel_topic", topic="Be kind"),
            late_reply,
            tombstone,
            builds,
            lambda room: say(room, 2, 3, "نراكم غدًا 🙏🏽 — bis morgen", edited=None, files=None, bot_profile=None),
            lambda room: say(room, 15, 1, "", upload=True, files=[_file(f"F0{number:08d}", "numbers.pdf")]),
            lambda room: say(room, 4, SYNCBOT, "", blocks=_report(number)),
            broadcast,
            lambda room: say(room, 40, 4, "is out for lunch", subtype="me_message"),
            lambda room: say(room, 7, FOREIGN, "Hello from the other side, the shared channel works"),
        ]

    def _people(self) -> list[Json]:
        """Slackbot, the staff, two bots, one who left and a guest with hardly a profile; FOREIGN is not listed."""
        staff = [
            _person(self.id, self.ids[one.index], one.first.lower(), one.name, one.email) for one in self.company.staff
        ]
        gone, guest = self.ids[0][:-2] + "98", self.ids[0][:-2] + "99"
        return [
            _person(self.id, "USLACKBOT", "slackbot", "Slackbot", None),
            *staff,
            _person(self.id, self.ids[CI], "ci", "CI", None) | {"is_bot": True},
            _person(self.id, self.ids[SYNCBOT], "syncbot", "syncbot", None) | {"is_bot": True},
            _person(self.id, gone, "gone", "Former Colleague", None) | {"deleted": True},
            {"id": guest, "team_id": self.id, "name": "guest", "profile": {"real_name": "", "display_name": None}},
        ]

    def _room_info(self, room: Room, created: datetime) -> Json:
        """Contract: kinds are told by flags; a DM has the other's id and no name."""
        plan, seconds = room.plan, int(created.timestamp())
        if plan.kind == "im":
            known = {"id": room.id, "created": seconds, "is_im": True, "is_org_shared": False, "user": self.ids[0]}
            return known | {"is_user_deleted": False, "priority": 0}
        mpim = plan.kind == "mpim"
        name = f"mpdm-{self._names[1]}--{self._names[2]}--syncbot-1" if mpim else plan.name
        return {
            "id": room.id, "name": name, "name_normalized": name, "is_channel": plan.kind == "public",
            "is_group": plan.kind == "private", "is_im": False, "is_mpim": mpim, "is_private": plan.kind != "public",
            "created": seconds, "creator": self.ids[0], "is_archived": plan.archived, "is_general": name == "general",
            "unlinked": 0, "is_shared": False, "is_ext_shared": False, "is_org_shared": False, "pending_shared": [],
            "context_team_id": self.id, "updated": seconds * 1000, "parent_conversation": None,
            "topic": {"value": "", "creator": "", "last_set": 0}, "previous_names": [],
            "purpose": {"value": f"All about {plan.topic}", "creator": self.ids[0], "last_set": seconds},
        }  # fmt: skip


def rich_text(text: str) -> Json:
    """The block that a Slack client sends along with mrkdwn ``text``; its ``block_id`` is the server's to give."""
    elements: list[Json] = []
    for part in filter(None, re.split(r"(<[^<>]+>)", text)):
        target, _, label = part[1:-1].partition("|")
        if not part.startswith("<"):
            plain = part.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
            elements.append({"type": "text", "text": plain})
        elif target.startswith("@"):
            elements.append({"type": "user", "user_id": target[1:]})
        elif target.startswith("!"):
            elements.append({"type": "broadcast", "range": target[1:]})
        else:
            elements.append({"type": "link", "url": target} | ({"text": label} if label else {}))
    return {"type": "rich_text", "elements": [{"type": "rich_text_section", "elements": elements}]}


def _report(number: int) -> list[Json]:
    """Blocks of an app, with ids of its own."""
    link = {"type": "mrkdwn", "text": f"Open tickets: *{number}* (<https://desk.example/q|queue>)"}
    return [
        {"type": "header", "block_id": "head", "text": {"type": "plain_text", "text": "Weekly report"}},
        {"type": "section", "block_id": "body", "text": link},
        {"type": "context", "block_id": "foot", "elements": [{"type": "mrkdwn", "text": "from the desk"}]},
    ]


def _file(key: str, name: str) -> Json:
    known = {"id": key, "created": 1700000000, "name": name, "title": "Numbers Q3", "mimetype": "application/pdf"}
    return known | {"filetype": "pdf", "size": 48211, "mode": "hosted", "permalink": f"https://files.example/{key}"}


def _person(team: str, key: str, name: str, real_name: str, email: str | None) -> Json:
    profile = {"real_name": real_name, "display_name": name, "team": team, "image_48": f"https://img.example/{key}.png"}
    return {
        "id": key, "team_id": team, "name": name, "deleted": False, "color": "9f69e7", "real_name": real_name,
        "tz": "Europe/Madrid", "tz_label": "Central European Time", "tz_offset": 3600, "is_bot": False,
        "profile": profile | ({"email": email} if email else {}), "is_admin": False, "is_owner": False,
        "is_restricted": False, "is_app_user": False, "updated": int(datetime(2026, 1, 5, tzinfo=UTC).timestamp()),
    }  # fmt: skip
