"""A company's Slack: who is there, which conversations there are, and what was said in them, relative to a moment."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping

    from syncd.sandbox.dataset import Company
    from syncd.sandbox.world import Options

Json = dict[str, Any]

FOREIGN, SYNCBOT, CI = -3, -2, -1  # who writes besides the staff: a customer's person, our bot, the build bot
_PUBLIC = ("general", "sales", "support", "engineering", "product")
# A talk is an opening and its replies; customer, numbers and people stay the same within one. A note stands alone.
_TALKS: dict[str, tuple[tuple[str, ...], ...]] = {
    "general": (
        ("Office is closed on Friday for the fire inspection :house:", "Does that hold for the lab too?",
         "Yes, the whole building", "Thanks, moved the {customer} visit to Thursday"),
        ("All hands moves to 16:00, same link <https://meet.example/allhands|the usual room>",
         "Recording for those who travel?", "Will be in the folder tonight :+1:"),
        ("Please welcome our new colleague in support! :tada:", "Welcome!!", "¡Bienvenida! Un placer tenerte aquí",
         "ようこそ 🎉", "Lunch at noon, come along"),
        ("Expense reports are due on {day}", "Portal says <https://expenses.example/login|403> for me",
         "Try again, your seat had run out &amp; I added one"),
    ),
    "sales": (
        ("{customer} asked for the revised quote by {day}: {amount}, 3 years, 40 seats", "Did legal sign off?",
         "Waiting for it, {who} has the draft", "Signed off just now", "{contact} confirmed receipt :handshake:"),
        ("Discovery call with {contact} of {customer} went well. They keep calls in a spreadsheet", "Budget?",
         "Around {amount}, decision in six weeks", "Let me bring in {who} for the security questions"),
        ("{customer} renewal: up 15% or we keep the price for a case study?", "Case study, they are a great name",
         "Agreed &gt; I draft the mail to {contact}"),
        ("Lost {customer} to “no decision” :disappointed:", "Shall we ask for a retro?", "{contact} offered {day}"),
    ),
    "support": (
        ("{customer} reports exports that stop at 10,000 rows, ticket #{ref}", "Reproduced with their file",
         "{who} is that the old paging bug?", "Looks like it. Fix goes out with {version}", "Told {contact}"),
        ("Ticket #{ref}: SSO login loops at {customer}", "Clock skew on their side? 5 min off breaks it",
         "That was it, {contact} fixed their NTP", "Closing :white_check_mark:"),
        ("Can somebody translate? «Экспорт не открывается в Excel, кодировка сломана»",
         "Export does not open in Excel, encoding broken", "It was UTF-16. Filed as #{ref}"),
        ("{contact} wants to talk to a human about invoice {ref}", "I call back at 3", "Done, wrong VAT number"),
    ),
    "engineering": (
        ("Deploying {version} to staging in 10 min", "Hold on, migration {ref} is not merged", "Merged now",
         "Deployed, dashboards are green"),
        ("p95 of /search doubled since last night <https://graphs.example/d/search|graph>",
         "The new index is not used for short queries", "Rolled the flag back for {customer}", "p95 back to normal",
         "Post-mortem on {day}, I write it up"),
        ("Anybody else seeing `ECONNRESET` in CI? Build {ref} failed 3 times", "Runner 4 is out of disk",
         "Cleaned, retry please", "Green :green_heart:"),
        ("RFC: drop the nightly batch and read by cursor instead", "What happens after an outage?",
         "We go on from where the cursor stands, whatever the gap", "Then I like it. {who}?", "+1", "Merged"),
        ("if (a &lt; b &amp;&amp; b &gt; c) was never true in the retry code. How did this ever work?",
         "It did not :see_no_evil:", "Patch in {version}"),
    ),
    "product": (
        ("Interview notes from {customer}: they want mentions across tools in one list", "The third one asking",
         "Then it goes to the top for next quarter", "{who} can you size it?"),
        ("Mock-ups for the new onboarding are up, comments until {day}", "Step 3 feels long", "Good point, updated"),
    ),
    "leadership": (
        ("Board deck: numbers due on {day}. {who} pipeline please", "{amount} weighted", "Thanks, it is in"),
        ("Do we sign {customer} without the usual liability cap?", "No. Counter with twice the yearly fee"),
    ),
    "direct": (("Can you send me the contract of {customer} again?", "Sure, one minute"),),
}  # fmt: skip
_NOTES: dict[str, tuple[str, ...]] = {
    "general": ("Good morning :sun_with_face:", "The coffee machine on 2 works again", "Fire drill at 11, a drill only",
                "Visitors from {customer} are here today", "<!here> parking lot closes at 20:00 tonight",
                "Lost: one grey scarf. Found: three umbrellas", "Cake in the kitchen :cake:", "Wifi is back"),
    "sales": ("Signed: {customer}, {amount} :moneybag:", "Moved {customer} to stage 4", "Out tomorrow, {who} covers",
              "{contact} is the new buyer at {customer}", "Forecast call at 9, numbers in by 8:30 please",
              "{customer} pushed the call to {day}", "Price list v{ref} is in the folder", "Demo with {contact} done"),
    "support": ("Queue is at {ref}, oldest is two days", "{customer} is happy again", "Shift handover done, two open",
                "<mailto:help@desk.example|help@desk.example> bounced for an hour, fixed", "#{ref} is a duplicate",
                "{contact} says thank you :heart:", "Phone line was down for 4 minutes", "Macro for refunds is live"),
    "engineering": ("Rotated the certificates on staging", "{version} is out", "On call from today: {who}",
                    "`make test` is 40% faster after #{ref}", "Please rebase, main moved a lot today",
                    "Database is on 17.2, no downtime", "Review of #{ref} please, a small one"),
    "product": ("Roadmap doc is updated", "Changelog for {version} is out", "NPS this month: {ref}"),
    "leadership": ("1:1s move to {day}", "Offer for the CS lead went out"),
    "direct": ("Thanks!", "👍", "Call me when you are back", "明日の資料、見ました。ありがとうございます"),
}  # fmt: skip


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
    """A conversation. ``messages``: ts → message, replies among them. ``threads``: ts of a parent → ts of replies."""

    id: str
    plan: Plan
    member: bool
    info: Json = field(default_factory=dict)
    messages: dict[str, Json] = field(default_factory=dict)
    threads: dict[str, list[str]] = field(default_factory=dict)

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
        self.rooms: dict[str, Room] = {}
        self._decks: dict[tuple[Any, ...], list[Any]] = {}
        for n, plan in enumerate(_plans(options.channels)):
            letter = {"im": "D", "private": "G"}.get(plan.kind, "C")
            room = Room(f"{letter}0{number}{n:05d}", plan, plan.member)
            room.info = self._room_info(room, born - timedelta(days=400 - n))
            self.rooms[room.id] = room
            for day in range(1 if plan.archived else 0, options.days):
                count = options.messages_per_day * plan.share * (0.7 if day else 1.0)
                for _ in range(max(1, round(count)) if options.messages_per_day else 0):
                    self._talk(room, self._moment(day))
            for odd in self._oddities()[n :: options.channels] if n < options.channels else ():
                odd(room)

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
        opening, *answers = self._drawn(_TALKS[topic]) if is_talk else (self._drawn(_NOTES[topic]),)
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
        name = f"mpdm-{self.users[1]['name']}--{self.users[2]['name']}--syncbot-1" if mpim else plan.name
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
