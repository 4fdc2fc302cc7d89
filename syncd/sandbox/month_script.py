"""The scripted month: what happens late at each of the vendors, once, in thirty days.

Moments are days and hours after birth. What one event made, later ones name: ``on("plan")`` is the message of "plan".
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from syncd.sandbox.month import Event, Ref

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DAYS = 30
_HOUR, _DAY = 3600, 86400


def script(vendor: str | None = None) -> list[Event]:
    """All events of the month, or those of one vendor, in their order."""
    parts: dict[str, Callable[[], Iterator[Event]]] = {"slack": _slack, "gong": _gong, "fathom": _fathom}
    parts |= {"gmail": _gmail}
    events = [event for name, part in parts.items() if vendor in {None, name} for event in part()]
    return sorted(events, key=lambda event: event.at)


def _on(vendor: str) -> Callable[..., Event]:
    def event(day: int, hour: float, action: str, *, called: str = "", **body: Any) -> Event:
        return Event(timedelta(days=day, hours=hour), vendor, action, body, called)

    return event


def _slack() -> Iterator[Event]:
    yield from _threads()
    yield from _channels()


def _of(message: str) -> dict[str, Ref]:
    """Where a message of Slack is."""
    return {"channel": Ref(message, "channel"), "ts": Ref(message, "ts")}


def _threads() -> Iterator[Event]:
    do = _on("slack")
    # one thread: replies, one of them sent to the channel too, edits and deletions inside of it
    yield do(0, 2, "post", text="Plan for the quarter, comments please", called="plan")
    yield do(0, 3, "reply", **_of("plan"), user=1, text="Step 3 looks long", called="long")
    yield do(0, 4, "reply", **_of("plan"), user=2, text="Shipped, everybody!", broadcast=True, called="shipped")
    yield do(0, 5, "react", **_of("plan"))
    yield do(1, 2, "edit", **_of("plan"), text="Plan for the quarter, second draft")
    yield do(1, 3, "edit", **_of("long"), text="Step 3 is too long")
    yield do(3, 4, "react", **_of("long"))
    yield do(4, 1, "reply", **_of("plan"), user=3, text="Never mind", called="never")
    yield do(4, 9, "edit", **_of("shipped"), text="Shipped!")
    yield do(5, 2, "delete", **_of("never"))
    yield do(6, 1, "delete", **_of("shipped"))
    # a message of five days is edited, another one goes, both older than a cycle's window
    yield do(2, 1, "post", text="The office closes at noon", called="noon")
    yield do(2, 2, "post", text="Wrong channel", user=2, called="astray")
    yield do(7, 3, "edit", **_of("noon"), text="The office closes at one")
    yield do(7, 4, "delete", **_of("astray"))
    # a deleted parent stays as a tombstone and goes with its last reply
    yield do(3, 1, "post", text="Who has the keys?", called="keys")
    yield do(3, 2, "reply", **_of("keys"), user=1, text="Not me", called="not me")
    yield do(3, 3, "reply", **_of("keys"), user=2, text="Me neither", called="neither")
    yield do(6, 5, "delete", **_of("keys"))
    yield do(7, 6, "delete", **_of("not me"))
    yield do(8, 6, "delete", **_of("neither"))
    # replies three weeks late, an edit of one of them
    yield do(1, 5, "post", text="Retro notes go here", user=1, called="retro")
    yield do(1, 6, "reply", **_of("retro"), user=2, text="Mine are in")
    yield do(23, 8, "reply", **_of("retro"), user=3, text="Late, sorry: mine too", called="late")
    yield do(25, 2, "edit", **_of("late"), text="Late, sorry, but complete: mine too")
    yield do(26, 2, "reply", **_of("retro"), user=1, text="Thanks")
    yield do(26, 3, "reply", **_of("plan"), user=1, text="Did this ever ship?")


def _channels() -> Iterator[Event]:
    do = _on("slack")
    # an app's message
    yield do(9, 1, "post", user=-1, text="", called="build")
    yield do(9, 2, "reply", **_of("build"), user=1, text="Green at last")
    # channels come, are renamed and archived; the bot is sent away and asked in again
    yield do(10, 1, "create", called="new", name="launch")
    yield do(10, 2, "post", channel=Ref("new", "channel"), text="First!", called="first")
    yield do(10, 3, "reply", **_of("first"), user=2, text="Second")
    yield do(12, 1, "rename", channel=Ref("new", "channel"), name="launch-2027")
    yield do(13, 1, "edit", **_of("first"), text="First of all")
    yield do(16, 1, "archive", channel=Ref("new", "channel"))
    yield do(11, 1, "create", called="guild", name="guild")
    yield do(11, 2, "post", channel=Ref("guild", "channel"), text="Hello, guild", called="hello")
    yield do(14, 1, "kick", channel=Ref("guild", "channel"))
    yield do(14, 9, "post", channel=Ref("guild", "channel"), text="Nobody reads this yet")
    yield do(18, 1, "invite", channel=Ref("guild", "channel"))
    yield do(18, 5, "post", channel=Ref("guild", "channel"), text="Welcome back")
    yield do(15, 1, "person", user=1, name="Maria Newname")
    # most of the past is hidden: nothing that is held goes
    yield do(28, 1, "limit_history", days=20)
    yield do(28, 2, "post", text="We are on the free plan now")


def _gong() -> Iterator[Event]:
    do = _on("gong")

    def on(call: str) -> dict[str, Ref]:
        return {"id": Ref(call, "call")}

    yield do(0, 1, "add", title="Kick-off", called="kick-off")
    # ripens late: the call itself, its transcript, what the AI writes
    yield do(1, 1, "add", title="Processed a day late", visible_in_s=_DAY, ready_in_s=_DAY, content_in_s=_DAY)
    yield do(2, 1, "add", title="Transcript after 26 hours", ready_in_s=26 * _HOUR, called="slow")
    yield do(2, 2, "add", title="Brief after three days", content_in_s=3 * _DAY)
    yield do(3, 1, "add", title="Everything after ten days", ready_in_s=10 * _DAY, content_in_s=10 * _DAY)
    yield do(3, 2, "add", title="Uploaded ten days after", minutes_ago=10 * 24 * 60)
    # changes late
    yield do(4, 1, "add", title="Pricing", called="pricing")
    yield do(14, 1, "edit", **on("pricing"), title="Pricing, final round")
    yield do(15, 1, "edit", **on("pricing"), comment="Listen to minute four")
    yield do(16, 1, "edit", **on("pricing"), brief="They want three years.")
    # becomes private, and public again
    yield do(5, 1, "add", title="Between us", called="between us")
    yield do(5, 2, "add", title="Never to be seen", private=True)
    yield do(6, 1, "add", title="Salaries", called="salaries")
    yield do(9, 1, "edit", **on("between us"), private=True)
    yield do(9, 2, "edit", **on("salaries"), private=True)
    yield do(12, 1, "edit", **on("salaries"), private=False)
    # goes
    yield do(7, 1, "add", title="A test, to be deleted", called="test")
    yield do(7, 9, "delete", **on("test"))
    yield do(8, 1, "add", title="Deleted after a week", called="week")
    yield do(15, 2, "delete", **on("week"))
    yield do(17, 1, "add", title="Deleted before its transcript", ready_in_s=5 * _DAY, called="unheard")
    yield do(18, 1, "delete", **on("unheard"))
    yield do(19, 1, "hire", first="Nora", last="Newhire")
    for day in range(20, 29):
        yield do(day, 2, "add", title=f"Weekly of day {day}", ready_in_s=2 * _HOUR)


def _fathom() -> Iterator[Event]:
    do = _on("fathom")

    def on(meeting: str) -> dict[str, Ref]:
        return {"recording_id": Ref(meeting, "recording_id")}

    yield do(0, 1, "add", title="Kick-off", called="kick-off")
    # ripens late
    yield do(1, 1, "add", title="Transcript after 26 hours", ready_in_s=26 * _HOUR)
    yield do(1, 2, "add", title="Summary after two days", summary_in_s=2 * _DAY)
    yield do(2, 1, "add", title="Items after three days", items_in_s=3 * _DAY)
    late = {"ready_in_s": 9 * _DAY, "summary_in_s": 10 * _DAY, "items_in_s": 11 * _DAY}
    yield do(2, 2, "add", title="Everything after nine days and more", **late)
    # changes late
    yield do(3, 1, "add", title="Review", called="review")
    yield do(3, 5, "edit", **on("review"), item="Send the offer")
    yield do(4, 1, "edit", **on("review"), completed=True)
    yield do(5, 1, "edit", **on("review"), reorder=True)
    yield do(8, 1, "edit", **on("review"), title="Review with the board")
    yield do(13, 1, "edit", **on("review"), summary="They took the second offer.")
    yield do(14, 1, "edit", **on("review"), completed=False)
    # goes
    yield do(6, 1, "add", title="Recorded by mistake", called="mistake")
    yield do(6, 6, "delete", **on("mistake"))
    yield do(7, 1, "add", title="Deleted after a week", called="week")
    yield do(14, 2, "delete", **on("week"))
    yield do(9, 1, "add", title="Deleted before its transcript", ready_in_s=5 * _DAY, called="unheard")
    yield do(10, 1, "delete", **on("unheard"))
    # another user's: seen while it is shared, held as it was then
    yield do(11, 1, "add", title="Of a colleague", user=1, called="colleague")
    yield do(11, 2, "share", **on("colleague"))
    yield do(12, 1, "edit", **on("colleague"), title="Of a colleague, renamed")
    yield do(15, 1, "unshare", **on("colleague"))
    yield do(15, 9, "edit", **on("colleague"), title="Nobody of us sees this")
    for day in range(16, 29):
        yield do(day, 2, "add", title=f"Weekly of day {day}", ready_in_s=2 * _HOUR)


def _gmail() -> Iterator[Event]:
    do = _on("gmail")

    def on(mail: str) -> dict[str, Ref]:
        return {"id": Ref(mail, "id")}

    def under(mail: str) -> dict[str, Ref]:
        return {"thread_id": Ref(mail, "threadId")}

    yield do(0, 1, "add", subject="Offer", called="offer")
    yield do(0, 2, "add", **under("offer"), text="And the attachment", called="again")
    yield do(1, 1, "label", **on("offer"), add=["STARRED"], remove=["UNREAD"])
    yield do(1, 2, "label", **on("offer"), add=["Label_1"])
    yield do(1, 3, "label", **on("offer"), remove=["INBOX"])
    yield do(1, 4, "touch", **on("again"))
    # the bin and the spam are labels; only deleted is gone
    yield do(2, 1, "add", subject="Newsletter", called="newsletter")
    yield do(2, 5, "trash", **on("newsletter"))
    yield do(3, 1, "untrash", **on("newsletter"))
    yield do(3, 2, "add", subject="You have won", called="won")
    yield do(3, 3, "spam", **on("won"))
    yield do(4, 1, "add", subject="To be deleted", called="gone")
    yield do(5, 1, "delete", **on("gone"))
    yield do(5, 2, "delete", **on("again"))
    # a draft that is edited is another message
    yield do(6, 1, "add", **under("offer"), labels=["DRAFT"], text="First thought", called="draft")
    yield do(6, 2, "edit", **on("draft"), text="Second thought", called="draft2")
    yield do(7, 1, "edit", **on("draft2"), text="Third thought", called="draft3")
    # an old thread that nobody read: a label lands on one of its messages
    yield do(0, 3, "add", subject="Archived", labels=["SENT"], called="archived")
    yield do(0, 4, "add", **under("archived"), labels=["SENT"], called="archived2")
    yield do(15, 1, "label", **on("archived"), add=["INBOX"])
    yield do(16, 1, "label", **on("archived2"), add=["Label_2"])
    # changes, then history is forgotten before anybody asked
    yield do(17, 1, "add", subject="Contract", called="contract")
    yield do(17, 2, "add", **under("contract"), text="Page two", called="page two")
    yield do(17, 3, "add", subject="Gone while nobody looked", called="unseen")
    yield do(18, 1, "label", **on("contract"), add=["STARRED"])
    yield do(18, 1.01, "delete", **on("page two"))
    yield do(18, 1.02, "delete", **on("unseen"))
    yield do(18, 1.03, "add", subject="Came while nobody looked")
    yield do(18, 1.04, "expire_history")
    yield do(20, 1, "trash", **on("contract"))
    # labels themselves
    yield do(21, 1, "name_label", id="Label_1", name="Clients")
    yield do(22, 1, "name_label", called="vip", name="VIP")
    yield do(22, 2, "label", **on("newsletter"), add=[Ref("vip", "id")])
    yield do(24, 1, "delete_label", id=Ref("vip", "id"))
    for day in range(25, 29):
        yield do(day, 3, "add", subject=f"Report of day {day}", called=f"report {day}")
