"""What is said in recorded meetings: put together from topics, so that transcript, summary and action items agree."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from syncd.sandbox.dataset import Somebody

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Mapping, Sequence

    from syncd.sandbox.dataset import Company, Customer


@dataclass(frozen=True, slots=True)
class Topic:
    """Turns as ``(who, words)``: who counts in the round of speakers. ``todo``: (who, words) or None."""

    turns: tuple[tuple[int, str], ...]
    noted: str
    todo: tuple[int, str] | None = None


@dataclass(frozen=True, slots=True)
class Kind:
    """A sort of meeting. ``host`` and ``with_roles`` are roles; ``guests``: how many of the customer's people come.

    ``script``: blocks of lines, a block a topic; see `_topics`.
    """

    name: str
    title: str
    type: str | None
    host: str
    with_roles: tuple[str, ...]
    guests: int
    minutes: int
    script: str
    language: str = "en"
    shared_with: str = "all_teams"
    calendar: bool = True


@dataclass(frozen=True, slots=True)
class Talk:
    """One meeting as it went. Times are seconds from the start of the recording."""

    kind: Kind
    title: str
    speakers: Sequence[Somebody]
    customer: Customer | None
    turns: Sequence[tuple[int, Somebody, str]]
    noted: Sequence[str]
    todos: Sequence[tuple[int, Somebody, str]]
    seconds: int


@dataclass(frozen=True, slots=True)
class Planned:
    """When a meeting ended and its parts are ready. ``items_at``: action items; None = with the summary."""

    kind: Kind
    ended: datetime
    transcript_at: datetime
    summary_at: datetime
    items_at: datetime | None = None


TEAMS: Mapping[str, str] = {
    "CEO": "Leadership",
    "Account Executive": "Sales",
    "Marketing": "Sales",
    "Customer Success": "Customers",
    "Support": "Customers",
    "Engineer": "Product",
    "Product": "Product",
}
TEAM_NAMES = ("Customers", "Leadership", "Product", "Sales")
MEETING_TYPES = (("Customer call", "active"), ("Interview", "active"), ("Standup", "active"), ("Town hall", "inactive"))

_HELLO = (
    "Hi all, can everybody hear me?",
    "Morning! Let us give it a minute, {1} is still joining.",
    "Good to see you. I am recording this so nobody has to take notes.",
    "Right, we have {minutes} minutes, shall we start?",
)
_BYE = (
    "That is everything from my side. Thanks, everybody.",
    "Perfect, I will send the notes around. Talk soon!",
    "Let us stop here, I have another call in two minutes.",
)
_STANDUP = """
1 Yesterday I finished the pagination of the export, today I write the tests for it.
2 I am still on the flaky import job. It only fails when the file has an empty last line.
1 I had that once, the parser counts it as a row. I can show you after this.
2 That would save me the morning, thanks.
= The flaky import is traced to an empty last line; {1} pairs with {2} on it.
! 2 Fix the import of files with an empty last line

0 Does anything block the release on Thursday?
1 Only the migration. On staging it ran eleven minutes, I would like it under three.
0 Could it run in two steps, the index later?
1 Yes. Then the lock is short and the index builds while we are live.
= The migration is split: table first, index after the release.
! 1 Split the migration and measure it again on staging
"""
_REVIEW = """
1 This is the new filter bar. You can save a view and share it with your team.
0 What happens to a saved view when its owner leaves?
1 Good question. Right now it disappears.
2 Then let us hand it to an admin instead, otherwise support will hear about it.
= Saved views are shown; a view must survive its owner leaving.
! 1 Hand saved views to an admin when their owner leaves

1 We planned twenty-one points and closed seventeen.
0 What slipped?
1 The audit log. We had underestimated how many places write to it.
2 Fine, but then it is the first thing next sprint, {c} waits for it.
= 17 of 21 points are done; the audit log moves to the front of the next sprint.
! 1 Re-estimate the audit log with the team
"""
_CHECKIN = """
1 Since the update our weekly report arrives empty. The columns are there but no rows.
0 Is that every report, or only the ones with a date filter?
1 Now that you say it: only the filtered ones.
0 Then I know it. We changed the time zone of the filter. I will have it corrected this week.
1 Before Friday would be good, our board reads that report.
= Filtered weekly reports arrive empty at {c} since the update; needed before Friday.
! 0 Have the time zone of report filters corrected for {c}

0 How is the rollout going in the second office?
1 Forty of sixty people are in. The others wait for single sign-on.
0 What do you use for sign-in?
1 Our own provider, over SAML. I was told you support that on the larger plan.
0 We do. I will send the guide and come to the set-up call if you like.
= {c}: 40 of 60 seats in use; the rest wait for single sign-on over SAML.
! 0 Send the SAML guide to {1} and offer a set-up call
"""
_DEMO = """
1 We look at two other tools as well, I say that openly.
0 Of course. What would make the decision easy for you?
1 If our data gets in without a project of three months. The last time it took five.
0 With your export it is a day. I can show you on a sample now.
1 Please, and with the German column names, those broke it last time.
= {c} compares three tools; the import decides.
! 0 Load the sample of {c}, with its own column names, before the next call

1 What does it cost for sixty people?
0 Sixty seats on the middle plan, with a year's term that is about eighteen thousand.
1 Our limit without going to the board is fifteen.
0 Then let us look at fifty seats and add ten in spring. I will put both in the offer.
= Budget of {c} is 15,000 without the board; an offer with 50 and with 60 seats.
! 0 Send {1} the order form with 50 and with 60 seats

2 Where is the data kept, and who can see it?
0 In the region you choose. Our support sees it only when you open a ticket and allow it.
2 I would need that in writing, and the last penetration test.
0 You get both under the agreement that is already signed.
= Security questions: region, support access, penetration test.
! 0 Send the security papers to {c}
"""
_INTERVIEW = """
0 Tell us about something you built that you would build differently today.
1 A queue on top of our database. It worked until two workers took the same job.
0 How did you notice?
1 A customer was billed twice. Since then I write down what happens when a process dies in the middle.
= Learned from a double billing: thinks in failures first.
! 0 Send the candidate the exercise
"""
_ONE_TO_ONE = """
1 I would like to hand over the on-call rota after this quarter.
0 Too much, or time for something else?
1 Both. I have done it for two years.
0 That is fair. Let us find a successor together by the end of the month.
= The on-call rota gets a new owner by the end of the month.
! 0 Name a new owner of the on-call rota
"""
_ESCALATION = """
1 We could not send a single invoice between nine and eleven.
0 I am sorry. The queue was full after the import of another customer, we have separated the two now.
1 Will that happen again at the end of the month? That is when it matters.
0 No: your invoices have a queue of their own since yesterday, and we get an alarm at half of its size.
2 Could we have that as a short report? I have to explain it upstairs.
= Two hours without invoices at {c}; separate queue since yesterday, alarm at half size.
! 0 Send {c} a short report of the outage
"""
_SPANISH = """
1 Buenos días. Queremos conectar el sistema de facturas antes de fin de año.
0 Perfecto. ¿Ya tienen acceso a la interfaz de pruebas?
1 Todavía no, la contraseña caducó la semana pasada.
0 La renuevo hoy mismo y le envío el manual en español. ¡Gracias por su paciencia!
= {c} wants its invoicing connected before the end of the year; test access has expired.
! 0 Renew the test access of {c} and send the manual in Spanish
"""
_JAPANESE = """
1 来月から東京のチームでも使いたいと考えています。
0 ありがとうございます。何名くらいになりますか？
1 まずは十二名です。請求書は日本語でお願いできますか。
0 はい、対応できます。見積もりを今週中にお送りします。
= {c} starts with twelve people in Tokyo and needs invoices in Japanese.
! 0 Send a quote for 12 seats in Tokyo
"""
_ENGINEER, _CS, _AE = "Engineer", "Customer Success", "Account Executive"
STANDUP = Kind("standup", "Daily standup", "Standup", "Product", (_ENGINEER, "Support"), 0, 15, _STANDUP)
KINDS = (
    Kind("checkin", "{c} <> {we}: check-in", "Customer call", _CS, (), 1, 30, _CHECKIN),
    Kind("demo", "{we} demo for {c}", "Customer call", _AE, (), 2, 45, _DEMO, shared_with="single_team"),
    Kind("review", "Sprint review 🚀", None, "Product", (_ENGINEER, "CEO"), 0, 45, _REVIEW),
    Kind("escalation", "{c}: invoices", "Customer call", "Support", (), 2, 30, _ESCALATION, "en", "multiple_teams"),
    Kind("interview", "Interview", "Interview", _ENGINEER, ("Product",), 0, 60, _INTERVIEW, shared_with="single_team"),
    Kind("one_to_one", "1:1", None, "CEO", (_ENGINEER,), 0, 30, _ONE_TO_ONE, "en", "no_teams"),
    Kind("private", "1:1 {0} / {1}", None, "Product", (_ENGINEER,), 0, 30, _ONE_TO_ONE, "en", "no_teams"),
    Kind("impromptu", "Impromptu Zoom Meeting", None, _ENGINEER, ("Support",), 0, 10, _STANDUP, calendar=False),
    Kind("spanish", "{c}: integración de facturas", "Customer call", _CS, (), 1, 30, _SPANISH, "es"),
    Kind("japanese", "{c} 東京オフィス導入", "Customer call", _AE, (), 1, 30, _JAPANESE, "ja"),
)
_CANDIDATE = Somebody(90, "Toni", "Varga", "toni.varga@mail.example", "Candidate")


def _topics(text: str) -> list[Topic]:
    """``1 words`` is a turn, ``= words`` goes to the summary, ``! 0 words`` is somebody's task."""
    topics = []
    for block in text.strip().split("\n\n"):
        lines = [line.split(" ", 1) for line in block.splitlines()]
        turns = tuple((int(who), words) for who, words in lines if who.isdecimal())
        noted = next(words for sign, words in lines if sign == "=")
        todo = next((words.split(" ", 1) for sign, words in lines if sign == "!"), None)
        topics.append(Topic(turns, noted, (int(todo[0]), todo[1]) if todo else None))
    return topics


def week(rng: random.Random, born: datetime, days: int, per_day: int) -> Iterator[Planned]:
    """The meetings of the days before ``born``, most in the last 24 h, two of them not ready yet.

    None is near 24 h ago: what a default window shows hangs on no second.
    """
    kinds, made = rng.sample(KINDS, len(KINDS)), 0
    for day in range(days):
        weekend = (born - timedelta(days=day, hours=12)).weekday() >= 5
        count = 2 * per_day + 1 if day == 0 else rng.randint(0, 1) if weekend else per_day
        for n in range(count):
            ended = born - timedelta(hours=24 * day + 2.5 + (n + rng.random()) * 19 / count)
            heard, noted = (ended + timedelta(minutes=at + 4 * rng.random()) for at in (3, 8))
            if (day, n) == (0, 0):  # just over: nothing is ready
                ended, heard, noted = (born + timedelta(minutes=at) for at in (-6, 12, 16))
            elif (day, n) == (0, 1):  # its summary is late
                ended, heard, noted = (born + timedelta(minutes=at) for at in (-70, -60, 9))
            elif (day, n) == (2, 0):  # nobody spoke: it will have neither
                heard = noted = born + timedelta(days=3650)
            yield Planned(STANDUP if n == count - 1 else kinds[made % len(kinds)], ended, heard, noted)
            made += 1


def talk(rng: random.Random, company: Company, kind: Kind) -> Talk:
    """A meeting of that kind at that company."""
    customer = rng.choice(company.customers) if kind.guests else None
    speakers = [company.role(kind.host), *(customer.contacts[: kind.guests] if customer else ())]
    if kind.type == "Interview":
        speakers.append(_CANDIDATE)
    for role in kind.with_roles:
        others = [one for one in company.staff if one.role == role and one not in speakers]
        speakers += [rng.choice(others)] if others else []
    words = {"c": (customer or company.customers[0]).name, "we": company.name, "minutes": kind.minutes}
    firsts = [speakers[number % len(speakers)].first for number in range(4)]

    def fill(text: str) -> str:
        return text.format(*firsts, **words)

    def speaker(number: int) -> Somebody:
        return speakers[number % len(speakers)]

    turns: list[tuple[int, Somebody, str]] = []
    todos: list[tuple[int, Somebody, str]] = []
    topics = _topics(kind.script)
    topics = rng.sample(topics, min(len(topics), rng.randint(1, 3)))
    at = rng.randint(2, 9)
    hello, bye = rng.choice(_HELLO), rng.choice(_BYE)
    if kind.language == "en":
        turns.append((at, speaker(0), fill(hello)))
    for topic in topics:
        for who, text in topic.turns:
            at += rng.randint(8, 90)
            turns.append((at, speaker(who), fill(text)))
        if topic.todo:
            todos.append((at, speaker(topic.todo[0]), fill(topic.todo[1])))
    if kind.language == "en":
        at += rng.randint(8, 60)
        turns.append((at, speaker(0), fill(bye)))
    noted = [fill(topic.noted) for topic in topics]
    return Talk(kind, fill(kind.title), speakers, customer, turns, noted, todos, at + rng.randint(10, 40))


def recording(rng: random.Random, company: Company, one: Talk, started: datetime, number: int) -> dict[str, Any]:
    """The meeting as Fathom's JSON with all of its parts. ``number`` is its id; the one in its addresses is another."""
    ended = started + timedelta(seconds=one.seconds)
    calendar, host, customer = one.kind.calendar, one.speakers[0], one.customer
    due = started.replace(minute=started.minute // 15 * 15, second=0) if calendar else started
    call = f"https://fathom.video/calls/{number + 74_100_000}"
    invited = [_invitee(rng, company, who) for who in one.speakers] if calendar else []
    external = any(who["is_external"] for who in invited)
    return {
        "title": one.title,
        "meeting_title": one.title if calendar else None,
        "meeting_type": one.kind.type,
        "meeting_url": f"https://{company.domain}/meet/{rng.randint(100, 999)}" if calendar else None,
        "recording_id": number,
        "url": call,
        "share_url": f"https://fathom.video/share/{rng.getrandbits(64):x}",
        "created_at": zulu(ended + timedelta(seconds=7)),
        "scheduled_start_time": zulu(due),
        "scheduled_end_time": zulu(due + timedelta(minutes=one.kind.minutes) if calendar else ended),
        "recording_start_time": zulu(started),
        "recording_end_time": zulu(ended),
        "calendar_invitees_domains_type": "one_or_more_external" if external else "only_internal",
        "shared_with": one.kind.shared_with,
        "transcript_language": one.kind.language,
        "calendar_invitees": invited,
        "recorded_by": recorder(company, host),
        "transcript": [_turn(at, who, text, matched=calendar) for at, who, text in one.turns],
        "default_summary": {"template_name": "General", "markdown_formatted": markdown(one)},
        "action_items": [
            {
                "description": text,
                "user_generated": rng.random() < 0.2,
                "completed": rng.random() < 0.2,
                "recording_timestamp": str(timedelta(seconds=at)).zfill(8),
                "recording_playback_url": f"{call}?timestamp={at}",
                "assignee": _person(who) if rng.random() < 0.8 else {"name": None, "email": None, "team": None},
            }
            for at, who, text in one.todos
        ],
        "highlights": [
            {"type": "Key takeaway", "summary": text, "start_time": 60.0 * n, "end_time": 60.0 * n + 21.5}
            for n, text in enumerate(one.noted, 1)
        ],
        "crm_matches": _crm(customer) if customer else {"error": "No CRM is connected"},
    }


def recorder(company: Company, who: Somebody) -> dict[str, Any]:
    return {**_person(who), "email_domain": company.domain}


def teams_of(item: Mapping[str, Any]) -> set[str]:
    """The teams that a meeting is shared with: its recorder's, and further ones."""
    own = {str(item["recorded_by"]["team"])}
    shared = {"single_team": own, "multiple_teams": own | {"Product"}, "all_teams": set(TEAM_NAMES)}
    return shared.get(item["shared_with"], set())


def _turn(at: int, who: Somebody, text: str, *, matched: bool) -> dict[str, Any]:
    speaker = {"display_name": who.name, "matched_calendar_invitee_email": who.email if matched else None}
    return {"speaker": speaker, "text": text, "timestamp": str(timedelta(seconds=at)).zfill(8)}


def _person(who: Somebody) -> dict[str, Any]:
    return {"name": who.name, "email": who.email, "team": TEAMS.get(who.role)}


def _invitee(rng: random.Random, company: Company, who: Somebody) -> dict[str, Any]:
    """Outsiders are often known by their address alone, and a dialled-in one by nothing."""
    domain, external = who.email.partition("@")[2], not who.email.endswith(f"@{company.domain}")
    named, mailed = not external or rng.random() < 0.6, not external or rng.random() < 0.9
    return {
        "name": who.name if named else None,
        "email": who.email if mailed else None,
        "email_domain": domain if mailed else None,
        "is_external": external,
        "matched_speaker_display_name": who.name,
    }


def _crm(customer: Customer) -> dict[str, Any]:
    at = f"https://crm.example/{customer.domain}"
    return {
        "contacts": [
            {"name": who.name, "email": who.email, "record_url": f"{at}/{who.index}"} for who in customer.contacts
        ],
        "companies": [{"name": customer.name, "record_url": at}],
        "deals": [{"name": f"{customer.name} renewal", "amount": 18000, "record_url": f"{at}/deal"}],
        "error": None,
    }


def markdown(one: Talk) -> str:
    """The summary as Fathom writes it."""
    lines = ["## Meeting purpose", "", one.title, "", "## Key takeaways", "", *(f"- {text}" for text in one.noted)]
    if one.todos:
        lines += ["", "## Next steps", "", *(f"- **{who.name}**: {text}" for _, who, text in one.todos)]
    return "\n".join(lines) + "\n"


def zulu(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")
