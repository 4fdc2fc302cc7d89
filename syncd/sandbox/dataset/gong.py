"""Calls as Gong holds them, made from the scripts of `gong_scripts`, and the JSON that Gong shows of them.

What is said is made when asked for, from the call's own seed: a data set of many calls stays small.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from syncd.sandbox.dataset.gong_scripts import BYE, HELLO, SCRIPTS, VOICEMAIL, Script

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from syncd.sandbox.dataset import Company, Customer, Somebody

_PRODUCTS = ("Ledgerline", "Route Desk", "Parcelwise", "Shiftboard", "Docksmith")
AI_BLOCKS = ("brief", "outline", "highlights", "callOutcome", "keyPoints")
SPEECH_BLOCKS = ("structure", "topics", "trackers")
_RIVALS = ("Tallybee", "Gridpost", "Quillforge")


@dataclass(slots=True, kw_only=True)
class Recorded:
    """A call as Gong holds it.

    ``visible_at``, ``content_at`` (AI content) and ``transcript_at`` are never shown: they decide what is.
    """

    id: str
    seed: str
    company: Company
    customer: Customer
    script: Script
    owner: Somebody
    workspace_id: str
    number: int
    started: datetime
    duration_s: int
    visible_at: datetime
    content_at: datetime
    transcript_at: datetime
    is_private: bool
    phone: bool
    scheduled: datetime | None = None
    edits: dict[str, Any] = field(default_factory=dict)
    comments: list[dict[str, Any]] = field(default_factory=list)

    @property
    def words(self) -> dict[str, str]:
        """What stands for the names in the script."""
        rng = random.Random(self.seed)
        steps = dict(zip(("step1", "step2"), self.script.steps, strict=False))
        names = {
            "us": self.company.name,
            "them": self.customer.name,
            "r1": self.owner.first,
            "s1": self.second.first,
            "c1": self.customer.contacts[0].first,
            "c2": self.customer.contacts[-1].first,
            "product": _PRODUCTS[self.company.index % len(_PRODUCTS)],
            "rival": rng.choice(_RIVALS),
            "seats": str(rng.choice((12, 25, 40, 60, 120))),
            "weeks": rng.choice(("four", "five", "six", "eight")),
            "price": f"{rng.randrange(18, 90)},000 euros",
            "percent": str(rng.randrange(55, 96)),
            "day": rng.choice(("Tuesday", "Wednesday", "Thursday", "Friday")),
            "month": rng.choice(("March", "June", "September", "November")),
            "ticket": str(rng.randrange(2000, 9000)),
        }
        return names | {name: step.format_map(names) for name, step in steps.items()}

    @property
    def second(self) -> Somebody:
        others = [one for one in self.company.staff if one is not self.owner]
        return others[self.number % len(others)]

    @property
    def title(self) -> str:
        return str(self.edits.get("title") or self.script.title.format_map(self.words))

    def speaker(self, side: str) -> Somebody:
        ours = {"R": self.owner, "S": self.second}
        return ours.get(side) or self.customer.contacts[0 if side == "C" else -1]


def digits(*path: object) -> str:
    """An id of 19 or 20 digits, the same for the same path; many are beyond what 63 bits hold."""
    return str(random.Random("/".join(map(str, path))).randrange(10**18, 2 * 10**19))


def moment(at: datetime, number: int) -> str:
    """A date-time in one of the forms that Gong's replies mix."""
    if number % 3 == 0:
        return at.astimezone(timezone(timedelta(hours=2))).isoformat(timespec="microseconds")
    digits_after = "milliseconds" if number % 3 == 1 else "seconds"
    return at.astimezone(UTC).isoformat(timespec=digits_after).replace("+00:00", "Z")


def sections(call: Recorded) -> list[tuple[str, list[dict[str, Any]]]]:
    """The call as (topic, monologues): sentences with milliseconds, spread over its duration."""
    rng, words = random.Random(call.seed), call.words
    told = list(call.script.sections)
    if call.script.language == "eng":
        told = [("Opening", HELLO), *told, ("Next steps", BYE)]
    turns = [
        (topic, line[0], re.split(r"(?<=[.?!。]) ", line[3:].format_map(words)))
        for topic, text in told
        for line in text.strip().splitlines()
    ]
    lengths = [[300 + 55 * len(sentence) for sentence in said] for _, _, said in turns]
    pause = max(200, (call.duration_s * 950 - sum(map(sum, lengths))) // len(turns))
    made: list[tuple[str, list[dict[str, Any]]]] = []
    at = rng.randrange(200, 900)
    for (topic, side, said), spans in zip(turns, lengths, strict=True):
        sentences = []
        for text, span in zip(said, spans, strict=True):
            sentences.append({"start": at, "end": at + span - 90, "text": text})
            at += span
        if not made or made[-1][0] != topic:
            made.append((topic, []))
        row = {"speakerId": speaker_id(call, call.speaker(side)), "sentences": sentences}
        made[-1][1].append(row | {"topic": topic if len(sentences) > 1 else None})
        at += rng.randrange(pause // 2, pause)
    return made


def transcript(call: Recorded) -> dict[str, Any]:
    """A line of ``callTranscripts``."""
    return {"callId": call.id, "transcript": [one for _, said in sections(call) for one in said]}


def speaker_id(call: Recorded, one: Somebody) -> str:
    return digits(call.id, "speaker", one.index)


def recorded(company: Company, rng: random.Random, started: datetime, number: int, workspaces: list[str]) -> Recorded:
    """One call of that company: a share are private, from a telephone, or in Spanish."""
    phone = number % 8 == 5
    duration_s = rng.randrange(25, 55) if phone else rng.randrange(900, 2900)
    ended = started + timedelta(seconds=duration_s)
    return Recorded(
        id=digits("call", company.workspace, number),
        seed=f"{company.workspace}/{number}/{rng.random()}",
        company=company,
        customer=company.customers[number % len(company.customers)],
        script=VOICEMAIL if phone else SCRIPTS[(number * 3 + company.index) % len(SCRIPTS)],
        owner=rng.choice(company.staff[1:3]),
        workspace_id=workspaces[number % 4 == 2],
        number=number,
        started=started,
        duration_s=duration_s,
        visible_at=ended + timedelta(minutes=rng.randrange(3, 15)),
        content_at=ended + timedelta(minutes=rng.randrange(20, 40)),
        transcript_at=ended + timedelta(minutes=rng.randrange(20, 60)),
        is_private=number % 9 == 4,
        phone=phone,
        scheduled=None if phone else started.replace(minute=started.minute // 15 * 15, second=0, microsecond=0),
    )


def week(company: Company, rng: random.Random, born: datetime, days: int, per_day: int) -> Iterator[Recorded]:
    """Calls of ``days`` up to ``born``, three times as many in the last 24 hours; some of these are not ready yet."""
    workspaces = [digits("workspace", company.workspace, number) for number in range(2)]
    number = 0
    for day in range(days):
        for _ in range(per_day if day else per_day * 3):
            late = number % 8 if day == 0 and number % 8 < 2 else None
            ago = timedelta(hours=rng.uniform(1, 3) if late is not None else rng.uniform(3, 23.5))
            slot = born - timedelta(days=day) - ago
            started = slot.replace(minute=slot.minute // 15 * 15, second=rng.randrange(60), microsecond=0)
            started += timedelta(minutes=rng.randrange(4), microseconds=(118_025, 340_000, 0)[number % 3])
            call = recorded(company, rng, started, number, workspaces)
            if late is not None:
                call.transcript_at = born + timedelta(minutes=rng.randrange(45, 120))
            if late == 1:  # Gong is still at work on it: the call itself appears only then
                call.visible_at = born + timedelta(minutes=rng.randrange(15, 40))
                call.content_at = call.visible_at + timedelta(minutes=10)
            yield call
            number += 1


def comment(call: Recorded, text: str, at: datetime) -> dict[str, Any]:
    return {
        "id": digits(call.id, "comment", len(call.comments)),
        "audioStartTime": 26.0,
        "audioEndTime": 41.0,
        "commenterUserId": user_id(call.company, call.owner),
        "comment": text,
        "posted": moment(at.replace(microsecond=0), call.number),
        "inReplyTo": None,
        "duringCall": False,
    }


def user_id(company: Company, one: Somebody) -> str:
    return digits("user", company.workspace, one.index)


def users(company: Company, born: datetime) -> list[dict[str, Any]]:
    """The company's people in Gong: some left, some have next to nothing filled in."""
    rows = []
    for one in company.staff:
        sparse = one.index % 4 == 3
        rows.append(
            {
                "id": user_id(company, one),
                "emailAddress": one.email,
                "created": moment(born - timedelta(days=400 - 31 * one.index, minutes=7 * one.index), one.index),
                "active": one.index != 6,
                "emailAliases": [] if sparse else [f"{one.first.lower()}@{company.domain}"],
                "trustedEmailAddress": None,
                "firstName": one.first,
                "lastName": one.last,
                "title": None if sparse else one.role,
                "phoneNumber": None,
                "extension": None,
                "personalMeetingUrls": [],
                "settings": None if sparse else {"webConferencesRecorded": True, "emailsImported": one.index % 2 == 0},
                "managerId": None if one.index == 0 else user_id(company, company.staff[0]),
                "meetingConsentPageUrl": None,
                "conferencingProviders": None,
                "spokenLanguages": [] if sparse else [{"language": "en-US", "primary": True}],
            }
        )
    del rows[-1]["settings"], rows[-1]["lastName"]
    return rows


def meta(call: Recorded) -> dict[str, Any]:
    """``metaData`` of a call, the same object as in GET /v2/calls."""
    host = f"us-{10000 + call.company.index}.app.gong.example"
    return {
        "id": call.id,
        "url": f"https://{host}/call?id={call.id}",
        "title": call.title,
        "scheduled": moment(call.scheduled, call.number + 1) if call.scheduled else None,
        "started": moment(call.started, call.number),
        "duration": call.duration_s,
        "primaryUserId": user_id(call.company, call.owner),
        "direction": "Outbound" if call.phone else "Conference",
        "system": "Outreach" if call.phone else "Zoom",
        "scope": "Unknown" if call.phone else "External",
        "media": "Audio" if call.phone else "Video",
        "language": call.script.language,
        "workspaceId": call.workspace_id,
        "sdrDisposition": "Left voicemail" if call.phone else None,
        "clientUniqueId": None,
        "customData": None,
        "purpose": None,
        "meetingUrl": None if call.phone else f"https://{call.company.workspace}.zoom.example/j/{call.id[:9]}",
        "isPrivate": call.is_private,
        "calendarEventId": None,
        "consentProfile": "default",  # a member that is in no specification
    }


def parties(call: Recorded) -> list[dict[str, Any]]:
    """Who was there or invited, with names, addresses and ids missing here and there."""
    ours = [(one, "Internal") for one in (call.owner, call.second)]
    rows: list[dict[str, Any]] = []
    for one, affiliation in [*ours, *((one, "External") for one in call.customer.contacts)]:
        row: dict[str, Any] = {
            "id": digits(call.id, "party", one.index)[:14],
            "emailAddress": one.email,
            "name": one.name,
            "title": one.role,
            "speakerId": speaker_id(call, one),
            "affiliation": affiliation,
            "phoneNumber": None,
            "methods": ["Invitee", "Attendee"],
            "context": [],
        }
        rows.append(row | ({"userId": user_id(call.company, one)} if affiliation == "Internal" else {}))
    if call.number % 3 == 0:
        del rows[2]["emailAddress"]
    silent = {"name": None, "emailAddress": f"purchasing@{call.customer.domain}", "speakerId": None}
    return [*rows, {"id": digits(call.id, "silent")[:14], **silent, "affiliation": "External", "methods": ["Invitee"]}]


def context(call: Recorded, extended: bool) -> list[dict[str, Any]]:
    account = {"objectType": "Account", "objectId": f"001{digits(call.customer.domain)[:12]}", "timing": "Now"}
    fields = [{"name": "Name", "value": call.customer.name}, {"name": "Website", "value": call.customer.domain}]
    return [{"system": "Salesforce", "objects": [account | ({"fields": fields} if extended else {})]}]


def content(call: Recorded, occurrences: bool) -> dict[str, Any]:
    """The blocks that Gong writes by itself, by the names of the selector."""
    words, told = call.words, sections(call)
    starts = [(topic, said[0]["sentences"][0]["start"] / 1000, said) for topic, said in told]
    ends = [start for _, start, _ in starts[1:]] + [float(call.duration_s)]
    spans = [(topic, start, end - start, said) for (topic, start, said), end in zip(starts, ends, strict=True)]
    steps = [step.format_map(words) for step in call.script.steps]
    trackers = []
    for name in call.script.trackers:
        at = {"startTime": spans[len(name) % len(spans)][1], "speakerId": speaker_id(call, call.owner)}
        row = {"id": digits(name)[:6], "name": name, "count": 1, "type": "SMART", "phrases": []}
        trackers.append(row | ({"occurrences": [at]} if occurrences else {}))
    return {
        "structure": [{"name": topic, "duration": round(length)} for topic, _, length, _ in spans],
        "topics": [{"name": topic, "duration": round(length)} for topic, _, length, _ in spans[1:-1]],
        "trackers": trackers,
        "brief": call.edits.get("brief", call.script.brief.format_map(words)),
        "outline": [
            {"section": topic, "startTime": start, "duration": round(length, 1),
             "items": [{"text": said[0]["sentences"][0]["text"], "startTime": start}]}
            for topic, start, length, said in spans
        ],
        "highlights": [
            {"title": "Next steps", "items": [{"text": step, "startTimes": [spans[-1][1]]} for step in steps]}
        ] if call.number % 5 else None,
        "callOutcome": {"id": "NO_ANSWER", "category": "Unanswered", "name": "Left voicemail"} if call.phone else None,
        "keyPoints": [{"text": point.format_map(words)} for point in call.script.points],
    }  # fmt: skip


def interaction(call: Recorded) -> dict[str, Any]:
    """Who spoke how long, by the names of the selector."""
    talked: dict[str, float] = {}
    for _, said in sections(call):
        for one in said:
            spoken = sum(sentence["end"] - sentence["start"] for sentence in one["sentences"]) / 1000
            talked[one["speakerId"]] = round(talked.get(one["speakerId"], 0.0) + spoken, 2)
    ours = talked.get(speaker_id(call, call.owner), 0.0)
    return {
        "speakers": [{"id": speaker, "userId": None, "talkTime": seconds} for speaker, seconds in talked.items()],
        "personInteractionStats": [{"name": "Talk Ratio", "value": round(ours / sum(talked.values()), 2)}],
        "video": [] if call.phone else [{"name": "Webcam", "duration": call.duration_s * 0.9}],
        "questions": {"companyCount": 4 + call.number % 9, "nonCompanyCount": 7 + call.number % 5},
    }


def shown(call: Recorded, selector: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """A call with the blocks that were asked for and are ready; the others are absent."""
    exposed = selector.get("exposedFields") or {}
    row: dict[str, Any] = {"metaData": meta(call)}
    if selector.get("context") in ("Basic", "Extended"):
        row["context"] = context(call, extended=selector["context"] == "Extended")
    if exposed.get("parties") and not call.phone:  # absent on calls imported from a telephone system
        row["parties"] = parties(call)
    asked = exposed.get("content") or {}
    ready = (*AI_BLOCKS,) * (call.content_at <= now) + (*SPEECH_BLOCKS,) * (call.transcript_at <= now)
    if blocks := [name for name in ready if asked.get(name)]:
        made = content(call, occurrences=bool(asked.get("trackerOccurrences")))
        row["content"] = {name: made[name] for name in blocks}
    asked = exposed.get("interaction") or {}
    if call.transcript_at <= now and any(asked.values()):
        made = interaction(call)
        row["interaction"] = {name: made[name] for name in made if asked.get(name)}
        if "personInteractionStats" in row["interaction"]:  # asked by one name, answered by another
            row["interaction"]["interactionStats"] = row["interaction"].pop("personInteractionStats")
    if (exposed.get("collaboration") or {}).get("publicComments"):
        row["collaboration"] = {"publicComments": call.comments}
    return row
