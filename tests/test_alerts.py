"""When who is told of what: the decisions, on values alone."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from syncd.alerts import Alert, Decision, Look, Notice, Outage, Seen, decide, horizons, retry_in
from tests.conftest import Clock

WAIT, QUARTER = timedelta(minutes=5), timedelta(minutes=15)


class Watch:
    """The decisions alone, over connections that a test puts into whatever trouble; all of them are Slack's."""

    def __init__(self, clock: Clock, count: int = 1) -> None:
        self.clock, self.started = clock, clock()
        self.seen = {
            at: Seen(id=at, source="slack", trouble=None, last_success_at=clock()) for at in range(1, count + 1)
        }
        self.alerts: dict[int, Alert] = {}
        self.outages: dict[str, Outage] = {}
        self.rounds: dict[int, int] = {}

    def put(self, ids: int | Iterable[int], trouble: str | None, **how: Any) -> None:
        for one in [ids] if isinstance(ids, int) else ids:
            known = {"trouble": trouble, "since": self.clock(), "said": ("HTTP 503", "")} | how
            self.seen[one] = replace(self.seen[one], **known)

    def fail(self, ids: int | Iterable[int], kind: str = "transient") -> None:
        self.put(ids, "failing", kind=kind)

    def read(self, ids: int | Iterable[int]) -> None:
        self.put(ids, None, last_success_at=self.clock())

    def look(self, **later: float) -> list[Notice]:
        """What is told at a look, so much ``later``."""
        self.clock.advance(**later)
        horizon = horizons(self.alerts.values(), self.outages.values())
        read = {
            key: sum(1 for one in self.seen.values() if one.last_success_at and one.last_success_at > since)
            for key, since in horizon.items()
        }
        look = Look(
            now=self.clock(),
            wait=WAIT,
            started=self.started,
            seen=self.seen,
            next_turn={"slack": lambda after: after + QUARTER},
            alerts=list(self.alerts.values()),
            outages=list(self.outages.values()),
            read=read,
            rounds=self.rounds,
        )
        decision = decide(look)
        self._keep(decision)
        again = replace(look, alerts=list(self.alerts.values()), outages=list(self.outages.values()))
        assert not decide(again).notices
        return decision.notices

    def _keep(self, decision: Decision) -> None:
        for alert in decision.alerts:
            self.alerts[alert.connection_id] = alert
            if alert.ended:
                del self.alerts[alert.connection_id]
        for notice in decision.notices:
            if notice.outage and notice.event != "recovered":
                key = notice.outage
                self.outages[key] = Outage(key=key, source="slack", cause=notice.cause, began_at=self.clock())
        for outage in decision.outages:
            self.outages[outage.key] = outage
            if outage.ended:
                del self.outages[outage.key]


def events(notices: Sequence[Notice]) -> list[tuple[str, tuple[int, ...]]]:
    return [(one.event, one.connections) for one in notices]


def test_a_trouble_is_told_once_when_it_has_lasted(clock: Clock) -> None:
    watch = Watch(clock)
    watch.put(1, "needs_reauth", said=("token_revoked", "the token was revoked"))
    assert watch.look() == []
    assert watch.look(minutes=4) == []
    (told,) = watch.look(minutes=1)
    assert (told.event, told.connections, told.reason) == ("needs_reauth", (1,), "token_revoked")
    assert told.way_out.startswith("The token was revoked. Connect it again")
    assert watch.look(minutes=5) == watch.look(hours=5) == []


def test_a_blip_is_not_told(clock: Clock) -> None:
    watch = Watch(clock)
    watch.fail(1)
    watch.look()
    watch.read(1)
    assert watch.look(minutes=4) == watch.look(minutes=10) == []


def test_its_end_is_told_once_when_it_has_lasted(clock: Clock) -> None:
    watch = Watch(clock)
    watch.fail(1)
    watch.look()
    watch.look(minutes=5)
    clock.advance(minutes=10)
    watch.read(1)
    assert watch.look() == watch.look(minutes=4) == []
    assert events(watch.look(minutes=1)) == [("recovered", (1,))]
    assert watch.look(minutes=30) == []


def test_new_credentials_alone_are_no_recovery(clock: Clock) -> None:
    watch = Watch(clock)
    watch.put(1, "needs_reauth")
    watch.look()
    watch.look(minutes=5)
    watch.put(1, None)
    assert watch.look(minutes=10) == watch.look(minutes=10) == []
    watch.read(1)
    watch.look()
    assert events(watch.look(minutes=5)) == [("recovered", (1,))]


def test_a_pass_of_several_runs_is_read_with_each(clock: Clock) -> None:
    watch = Watch(clock)
    watch.fail(1)
    watch.look()
    watch.look(minutes=5)
    watch.put(1, None, in_pass=True)
    watch.look()
    assert events(watch.look(minutes=5)) == [("recovered", (1,))]


def test_another_trouble_is_told_as_such(clock: Clock) -> None:
    watch = Watch(clock)
    watch.fail(1)
    watch.look()
    watch.look(minutes=5)
    watch.put(1, "needs_reauth")
    assert watch.look() == []
    assert events(watch.look(minutes=5)) == [("needs_reauth", (1,))]


@pytest.mark.parametrize("after", ["overdue", "failing"])
def test_what_follows_from_being_late_is_no_news(clock: Clock, after: str) -> None:
    watch = Watch(clock)
    clock.advance(hours=1)
    watch.put(1, "late")
    watch.look()
    assert events(watch.look(minutes=5)) == [("late", (1,))]
    began = watch.alerts[1].since
    watch.put(1, after, kind="transient")
    assert watch.look() == watch.look(hours=1) == []
    watch.read(1)
    watch.look()
    (told,) = watch.look(minutes=5)
    assert (told.event, told.since) == ("recovered", began)


@pytest.mark.parametrize("kind", ["rejected", "internal"])
def test_failures_of_another_kind_are_another_trouble(clock: Clock, kind: str) -> None:
    watch = Watch(clock)
    watch.fail(1)
    watch.look()
    watch.look(minutes=5)
    watch.fail(1, kind)
    watch.look()
    assert events(watch.look(minutes=5)) == [("failing", (1,))]


@pytest.mark.parametrize("how", [{"watched": False}, None])
def test_what_nobody_watches_any_more_is_closed_in_silence(clock: Clock, how: dict[str, Any] | None) -> None:
    watch = Watch(clock)
    watch.fail(1)
    watch.look()
    watch.look(minutes=5)
    if how is None:
        del watch.seen[1]
    else:
        watch.put(1, None, **how)
    assert watch.look() == watch.look(minutes=10) == []
    assert watch.alerts == {}


def test_what_is_late_at_the_start_has_a_turns_time(clock: Clock) -> None:
    watch = Watch(clock, 30)
    watch.put(range(1, 31), "overdue")
    watch.look()
    assert watch.look(minutes=14) == []
    watch.read(range(1, 30))
    assert watch.look(minutes=5) == []
    assert events(watch.look(minutes=1)) == [("late", (30,))]


def test_a_daemon_that_keeps_crashing_hides_nothing(clock: Clock) -> None:
    watch = Watch(clock)
    watch.put(1, "late")
    told = []
    for _ in range(6):
        watch.started = clock()
        told += watch.look()
        clock.advance(minutes=4)
    assert events(told) == [("late", (1,))]


def test_one_that_flaps_is_told_ever_more_rarely(clock: Clock) -> None:
    """Failing and read by turns, a quarter of an hour each, for two days."""
    watch = Watch(clock)
    told = []
    for turn in range(2 * 96):
        (watch.fail if turn % 2 else watch.read)(1)
        told += watch.look() + watch.look(minutes=7) + watch.look(minutes=8)
        watch.rounds[1] = sum(1 for one in told if one.event == "recovered")
    assert [one.event for one in told] == ["failing", "recovered", "failing", "recovered"]


# ── many at once ────────────────────────────────────────────────────────────────────────────────────────────────────


def outage_of(watch: Watch, count: int) -> Notice:
    watch.fail(range(1, count + 1))
    watch.look()
    (told,) = watch.look(minutes=5)
    assert told.outage
    return told


def test_a_vendor_that_is_down_is_one_message(clock: Clock) -> None:
    told = outage_of(Watch(clock, 25), 25)
    assert (told.event, told.count, told.reason) == ("failing", 25, "HTTP 503")


def test_it_is_one_where_few_were_tried_and_nobody_was_read(clock: Clock) -> None:
    watch = Watch(clock, 100)
    clock.advance(minutes=1)
    assert outage_of(watch, 5).count == 5


def test_those_that_join_are_covered(clock: Clock) -> None:
    watch = Watch(clock, 25)
    outage_of(watch, 5)
    watch.put(range(6, 26), "late")
    assert watch.look(minutes=15) == watch.look(hours=1) == []


def test_its_end_is_one_message(clock: Clock) -> None:
    watch = Watch(clock, 25)
    outage_of(watch, 25)
    clock.advance(minutes=30)
    watch.read(range(1, 13))
    assert watch.look() == watch.look(minutes=5) == []
    watch.read(range(13, 26))
    assert watch.look() == []
    (told,) = watch.look(minutes=5)
    assert (told.event, told.count, told.remaining) == ("recovered", 25, 0)
    assert watch.alerts == watch.outages == {}


def test_one_that_comes_back_within_the_wait_has_not_ended(clock: Clock) -> None:
    watch = Watch(clock, 25)
    outage_of(watch, 25)
    clock.advance(minutes=30)
    watch.read(range(1, 26))
    watch.look()
    clock.advance(minutes=4)
    watch.fail(range(1, 26))
    assert watch.look() == watch.look(minutes=10) == watch.look(hours=3) == []
    watch.read(range(1, 26))
    assert watch.look() == []
    assert len(watch.look(minutes=5)) == 1


def test_who_is_left_is_told_apart_once_it_was_tried_again(clock: Clock) -> None:
    watch = Watch(clock, 25)
    outage_of(watch, 25)
    clock.advance(minutes=30)
    watch.read(range(1, 24))
    watch.put([24, 25], "failing", kind="transient", next_sync_at=clock() + timedelta(hours=1))
    watch.look()
    (told,) = watch.look(minutes=5)
    assert (told.event, told.count, told.remaining) == ("recovered", 23, 2)
    assert watch.look(minutes=50) == []
    watch.read(24)
    assert events(watch.look(minutes=15)) == [("failing", (25,))]


def test_a_customer_of_its_own_trouble_is_told_beside_an_outage(clock: Clock) -> None:
    watch = Watch(clock, 25)
    outage_of(watch, 25)
    watch.put(7, "needs_reauth")
    watch.look()
    assert events(watch.look(minutes=5)) == [("needs_reauth", (7,))]


def test_an_outage_of_which_all_were_paused_ends_in_silence(clock: Clock) -> None:
    watch = Watch(clock, 3)
    outage_of(watch, 3)
    watch.put([1, 2, 3], None, watched=False)
    assert watch.look() == watch.look(minutes=5) == []
    assert watch.outages == {}


def test_a_few_while_most_are_read_are_told_each(clock: Clock) -> None:
    watch = Watch(clock, 25)
    watch.fail([1, 2])
    watch.look()
    watch.read(range(3, 26))
    assert events(watch.look(minutes=5)) == [("failing", (1,)), ("failing", (2,))]


def test_more_while_most_are_read_are_one_message_and_no_outage(clock: Clock) -> None:
    watch = Watch(clock, 25)
    watch.fail([1, 2, 3])
    watch.look()
    clock.advance(minutes=1)
    watch.read(range(4, 26))
    (told,) = watch.look(minutes=4)
    assert (told.count, told.outage) == (3, None)
    clock.advance(minutes=15)
    watch.read(2)
    watch.look()
    assert events(watch.look(minutes=5)) == [("recovered", (2,))]


def test_new_credentials_are_asked_for_in_one_message_where_many_need_them_at_once(clock: Clock) -> None:
    watch = Watch(clock, 4)
    watch.put([1, 2], "needs_reauth")
    watch.look()
    watch.put(3, "needs_reauth")
    watch.look(minutes=2)
    assert events(watch.look(minutes=3)) == [("needs_reauth", (1, 2, 3))]
    watch.put(4, "needs_reauth")
    watch.look()
    assert events(watch.look(minutes=5)) == [("needs_reauth", (4,))]


def test_a_clock_that_was_set_back_hides_nothing(clock: Clock) -> None:
    watch = Watch(clock)
    clock.advance(days=3)
    watch.fail(1)
    watch.look()
    clock.advance(days=-3)
    watch.look()
    assert events(watch.look(minutes=5)) == [("failing", (1,))]


def test_a_message_is_tried_for_a_day() -> None:
    gaps, age = [], timedelta(0)
    while (gap := retry_in(len(gaps) + 1, age)) is not None:
        gaps.append(gap)
        age += gap
    assert gaps[:7] == [timedelta(seconds=15 * 2**at) for at in range(6)] + [timedelta(minutes=15)]
    assert max(gaps) == timedelta(minutes=15)
    assert timedelta(hours=24) < age < timedelta(hours=25)
    assert retry_in(1, timedelta(0), 90.0) == timedelta(seconds=90)
    assert retry_in(1, timedelta(0), 1e9) == timedelta(hours=1)


def test_a_vendor_that_is_down_for_10_000_is_decided_on_quickly(clock: Clock) -> None:
    watch = Watch(clock, 10_000)
    began = time.monotonic()
    assert outage_of(watch, 10_000).count == 10_000
    assert time.monotonic() - began < 20  # what compares each with each takes minutes
