"""Gmail: history that expired leads by itself to the state that it would have led to."""

# ruff: noqa: F811 - a fixture that is imported is named again where it is used
from __future__ import annotations

import dataclasses
import json
from datetime import timedelta

import pytest

from syncd.records import Message, without
from syncd.sandbox.world import Options
from syncd.sources.gmail_unlisted import Unlisted
from tests.sources.gmail_canned import calls, cursors, live, mail, served  # noqa: F401 - the fixture
from tests.sources.test_contract import Cut, wrapped

GONE = (404, {"error": {"message": "gone", "errors": [{"reason": "notFound"}]}})
ANEW = frozenset({"attachmentId", "historyId"})  # what tells nothing about a record


async def differences(r):
    """What the store holds live and the sandbox's record does not say, and the other way round."""
    told = []
    for kind, record in r.box.gmail.holdings("acme").items():
        stored = {row["external_id"]: row["raw"] for row in await r.rows(kind) if row["deleted_at"] is None}
        told += [(kind, one) for one in stored.keys() ^ record.keys()]
        both = stored.keys() & record.keys()
        told += [(kind, one) for one in both if without(stored[one], ANEW) != without(record[one], ANEW)]
    return told


def act(r, action, **body):
    return r.box.gmail.act("acme", action, body)


async def ready(reader, **more):
    r = await reader("gmail", one_clock=True, **more)
    await r.run()
    assert await differences(r) == []
    calls(r)
    return r


def much(r, threads):
    """Of each kind of change one, in threads that are stored and in others."""
    act(r, "add")
    act(r, "add", thread_id=threads[0])
    act(r, "add", thread_id=threads[1], labels=["SENT"])
    act(r, "label", id=threads[2], add=["STARRED"], remove=["INBOX"])
    act(r, "trash", id=threads[3])
    act(r, "delete", id=act(r, "add")["id"])
    act(r, "delete", thread_id=threads[4])
    act(r, "add", labels=["SENT"])
    act(r, "add", labels=["Label_1"])


async def test_expired_history_ends_in_the_same_state_as_if_it_had_never_expired(reader):
    r = await ready(reader)
    much(r, await live(r, "conversations"))
    act(r, "expire_history")
    status = await r.run()
    assert (status["successful_workspaces"], status["deleted"]) == (1, await deleted(r))
    assert await deleted(r) > 1
    assert await differences(r) == []


async def deleted(r):
    return len([row for kind in ("messages", "conversations") for row in await r.rows(kind) if row["deleted_at"]])


async def test_history_that_expires_by_itself_does_so_too(reader):
    r = await ready(reader)
    much(r, await live(r, "conversations"))
    r.box.world.clock.advance(timedelta(days=9))
    await r.run()
    assert calls(r)["messages.list"] == 1
    assert await differences(r) == []


async def test_after_a_reread_history_is_followed_again(reader):
    r = await ready(reader)
    act(r, "expire_history")
    await r.run()
    assert (await cursors(r, "threads"))[""].isdecimal()
    calls(r)
    act(r, "add")
    await r.run()
    assert calls(r) == {"history.list": 1, "threads.get": 1}
    assert await differences(r) == []


async def test_all_that_changed_is_read_not_the_newest_five(reader):
    r = await ready(reader)
    made = [act(r, "add")["id"] for _ in range(12)]
    act(r, "expire_history")
    await r.run()
    assert set(made) <= set(await live(r))


async def test_what_did_not_change_is_not_read(reader):
    r = await ready(reader)
    act(r, "add")
    act(r, "expire_history")
    await r.run()
    assert calls(r)["threads.get"] == 1


async def test_a_changed_thread_outside_of_the_selected_labels_is_not_stored(reader):
    """Neither a new one nor an old thread of the inbox to which a mail without the label came."""
    r = await ready(reader)
    held = await live(r, "conversations")
    inbox = r.box.gmail._mailboxes["acme"].newest_threads(["INBOX"])
    old = next(one for one in inbox if one not in held)
    act(r, "add", thread_id=old, labels=["SENT"])
    act(r, "add", labels=["Label_1"])
    act(r, "expire_history")
    await r.run()
    assert await live(r, "conversations") == held


async def test_one_message_deleted_for_ever_is_noticed_though_its_thread_shows_no_change(reader):
    r = await ready(reader)
    thread = (await live(r, "conversations"))[0]
    one = act(r, "add", thread_id=thread)["id"]
    two = act(r, "add", thread_id=thread)["id"]
    await r.run()
    act(r, "delete", id=one)
    act(r, "expire_history")
    calls(r)
    await r.run()
    assert calls(r)["threads.get"] == 0
    assert one not in await live(r)
    assert two in await live(r)


async def test_what_arrives_while_the_mailbox_is_read_again_is_in_the_history_from_then_on(reader):
    """The new history id is older than any listing."""
    r = await ready(reader)
    act(r, "expire_history")
    mailbox, made = r.box.gmail._mailboxes["acme"], []
    newest_first = mailbox.by_newest

    def listed(threads):
        """A mail comes when threads are listed first; no listing of theirs shows it."""
        made.extend([] if made else [act(r, "add")])
        return newest_first(set(threads) - {made[0]["threadId"]})

    mailbox.by_newest = listed
    await r.run()
    assert made[0]["id"] in await live(r)


# ---- runs that are cut


@pytest.mark.parametrize("place", range(0, 14, 2))
async def test_a_reread_that_is_cut_goes_on_where_it_was(reader, place):
    r = await ready(reader)
    much(r, await live(r, "conversations"))
    act(r, "expire_history")
    await cut(r, place)
    act(r, "add")
    await r.run()
    assert await differences(r) == []


async def cut(r, place):
    plans, source = r.parts.engine.plans, r.parts.engine.plans["gmail"].source
    r.parts.engine.plans = plans | {"gmail": dataclasses.replace(plans["gmail"], source=wrapped(source, Cut(place)))}
    status = await r.run()
    r.parts.engine.plans = plans
    return status


async def test_a_reread_of_which_each_run_stores_one_thread_comes_to_its_end(reader):
    """However much has changed: each page moves the cursor."""
    r = await ready(reader)
    for _ in range(6):
        act(r, "add")
    act(r, "expire_history")
    runs = 1
    while (await cut(r, 2))["failed_workspaces"]:
        runs += 1
        assert runs < 15
    assert await differences(r) == []


async def test_what_was_read_before_the_cut_is_not_read_again(reader):
    r = await ready(reader)
    for _ in range(6):
        act(r, "add")
    act(r, "expire_history")
    await cut(r, 5)
    told = json.loads((await cursors(r, "threads"))[""])
    assert told["after"][0] > told["start"]
    calls(r)
    await r.run()
    assert calls(r)["threads.get"] == 2


async def test_history_that_expires_again_while_the_mailbox_is_read_is_no_different(reader):
    r = await ready(reader)
    threads = await live(r, "conversations")
    much(r, threads)
    act(r, "expire_history")
    await cut(r, 4)
    act(r, "add", thread_id=threads[0])
    act(r, "delete", id=act(r, "add", thread_id=threads[1])["id"])
    act(r, "expire_history")
    status = await r.run()
    assert status["successful_workspaces"] == 1
    assert await differences(r) == []


# ---- what is not believed


async def with_mail(served):
    """Two messages of one thread, stored; then Gmail has forgotten the history."""
    two = {"id": "t", "messages": [mail("a", thread="t"), mail("b", thread="t")]}
    r = await served({"threads": {"threads": [{"id": "t", "historyId": "10"}]}, "threads/t": two})
    await r.run()
    assert await live(r) == ["a", "b"]
    r.canned |= {
        "profile": {"historyId": "20", "messagesTotal": 2},
        "history": lambda request: GONE if request.query["startHistoryId"] == "10" else {"historyId": "20"},
        "messages": {"messages": [{"id": "a", "threadId": "t"}, {"id": "b", "threadId": "t"}]},
    }
    return r


@pytest.mark.parametrize("path", ["threads", "messages"])
async def test_an_empty_listing_of_a_mailbox_with_mail_deletes_nothing(served, path):
    r = await with_mail(served)
    r.canned |= {path: {"resultSizeEstimate": 0}, "threads/t": GONE, "messages/a": GONE, "messages/b": GONE}
    failure = (await r.run())["failures"][0]
    assert failure["kind"] == "transient"
    assert await live(r) == ["a", "b"]


async def test_a_message_that_a_listing_left_out_is_deleted_only_when_it_is_gone(served):
    r = await with_mail(served)
    r.canned |= {"messages": {"messages": [{"id": "x"}]}, "messages/a": mail("a"), "messages/b": GONE}
    await r.run()
    assert await live(r) == ["a"]


async def test_a_message_that_gmail_refuses_to_show_is_not_deleted(served):
    r = await with_mail(served)
    refused = (400, {"error": {"message": "x", "errors": [{"reason": "badRequest"}]}})
    r.canned |= {"messages": {"messages": [{"id": "a"}]}, "messages/b": refused}
    await r.run()
    assert await live(r) == ["a", "b"]


async def test_an_emptied_mailbox_takes_all_with_it(served):
    r = await with_mail(served)
    r.canned |= {"profile": {"historyId": "20", "messagesTotal": 0}, "threads": {}, "messages": {}, "threads/t": GONE}
    await r.run()
    assert (await live(r), await live(r, "conversations")) == ([], [])


async def test_a_row_without_a_history_id_counts_as_changed(served):
    r = await with_mail(served)
    edited = {"id": "t", "messages": [mail("a", thread="t", labels=["STARRED"]), mail("b", thread="t")]}
    r.canned |= {"threads": {"threads": [{"id": "t", "historyId": None}]}, "threads/t": edited}
    await r.run()
    assert [row["labels"] for row in await r.rows("messages")] == [["STARRED"], ["INBOX"]]


async def test_a_history_id_that_gmail_never_takes_is_an_error_and_no_endless_round(served):
    r = await with_mail(served)
    r.canned["history"] = GONE
    failure = (await r.run())["failures"][0]
    assert failure["kind"] == "transient"
    assert r.asked.count("messages") == 1


# ---- the ids that a listing did not show


async def test_only_what_was_not_shown_is_unlisted(reader, sandbox):
    box = await sandbox(Options(workspaces=1, limits=False))
    r = await reader("gmail", box=box, overrides={"threads_per_label": 500})
    await r.run()
    held, stored = r.parts.store.looks.of(1), await live(r)
    unlisted = await Unlisted.of(held, Message)
    unlisted.show([*stored[1:], "elsewhere", "\ud800"])
    assert [one async for batch in unlisted.ids() for one in batch] == stored[:1]
