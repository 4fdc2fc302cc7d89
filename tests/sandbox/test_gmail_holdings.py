"""The emulated Gmail knows what a reader of the inbox holds, whatever happens; and its labels come and go."""

from __future__ import annotations

from datetime import timedelta

import pytest

from syncd.records import without
from tests.sandbox.test_gmail import client  # noqa: F401 - the fixture

# ruff: noqa: F811 - a fixture that is imported is named again where it is used


def holds(c):
    return set(c.box.gmail.holdings("acme")["conversations"])


async def now(c):
    return (await c.ok("profile"))["historyId"]


async def test_a_reader_begins_with_the_five_newest_threads_as_they_are_served(client):
    c = await client()
    newest = (await c.ok("threads", labelIds="INBOX", maxResults="5"))["threads"]
    held = c.box.gmail.holdings("acme")
    assert set(held["conversations"]) == {one["id"] for one in newest}
    for one in newest:
        thread = await c.ok(f"threads/{one['id']}")
        messages = thread.pop("messages")
        assert held["conversations"][one["id"]] == thread
        for message in messages:
            anew = frozenset({"attachmentId"})
            assert without(held["messages"][message["id"]], anew) == without(message, anew)


async def test_a_thread_is_held_from_the_record_on_that_tells_of_the_inbox(client):
    c = await client()
    made = c.act("add", labels=["Label_1"])
    assert made["threadId"] not in holds(c)
    c.act("label", id=made["id"], add=["INBOX"])
    assert made["threadId"] in holds(c)
    c.act("label", id=made["id"], add=[], remove=["INBOX"])
    assert made["threadId"] in holds(c)
    c.act("delete", id=made["id"])
    assert made["threadId"] not in holds(c)


async def test_a_mail_without_the_label_brings_no_old_thread(client):
    c = await client()
    inbox = (await c.ok("threads", labelIds="INBOX"))["threads"]
    old = next(one["id"] for one in inbox if one["id"] not in holds(c))
    c.act("add", thread_id=old, labels=["SENT"])
    assert old not in holds(c)


async def test_a_bare_record_brings_a_thread_while_its_message_is_in_the_inbox_and_for_good_once_read(client):
    c = await client()
    rows = (await c.ok("messages", labelIds="INBOX", maxResults="500"))["messages"]
    unheld = {one["threadId"]: one["id"] for one in rows if one["threadId"] not in holds(c)}
    (read, first), (unread, second) = list(unheld.items())[:2]
    for message in (first, second):
        c.act("touch", id=message)
    assert {read, unread} <= holds(c)
    await c.ok(f"threads/{read}")
    for thread in (read, unread):
        for one in (await c.ok("messages", maxResults="500"))["messages"]:
            if one["threadId"] == thread:
                c.act("label", id=one["id"], add=[], remove=["INBOX"])
    assert read in holds(c)
    assert unread not in holds(c)


async def test_what_left_the_inbox_unread_before_history_was_forgotten_nobody_can_know(client):
    c = await client()
    start = await now(c)
    read, unread, there = (c.act("add") for _ in range(3))
    await c.ok(f"threads/{read['threadId']}")
    for one in (read, unread):
        c.act("trash", id=one["id"])
    assert {read["threadId"], unread["threadId"], there["threadId"]} <= holds(c)
    c.act("expire_history")
    assert (await c("history", startHistoryId=start))[0] == 404
    assert {read["threadId"], there["threadId"]} <= holds(c)
    assert unread["threadId"] not in holds(c)


async def test_history_lasts_for_eight_days(client):
    c = await client()
    start = await now(c)
    c.act("add")
    c.box.world.clock.advance(timedelta(days=7))
    await c.sign_in()
    assert (await c("history", startHistoryId=start))[0] == 200
    c.box.world.clock.advance(timedelta(days=2))
    await c.sign_in()
    assert (await c("history", startHistoryId=start))[0] == 404


@pytest.mark.parametrize(
    ("action", "added", "removed"),
    [("spam", ["SPAM"], ["INBOX"]), ("trash", ["TRASH"], ["INBOX"])],
)
async def test_spam_and_bin_are_records_of_labels(client, action, added, removed):
    c = await client()
    made, start = c.act("add"), await now(c)
    c.act(action, id=made["id"])
    records = (await c.ok("history", startHistoryId=start))["history"]
    assert [one["labelsAdded"][0]["labelIds"] for one in records if "labelsAdded" in one] == [added]
    assert [one["labelsRemoved"][0]["labelIds"] for one in records if "labelsRemoved" in one] == [removed]


async def test_what_leaves_the_bin_loses_its_label(client):
    c = await client()
    made = c.act("add")
    c.act("trash", id=made["id"])
    c.act("untrash")
    assert "TRASH" not in (await c.ok(f"messages/{made['id']}"))["labelIds"]


async def test_a_deleted_label_leaves_its_messages_and_a_record_of_each(client):
    c = await client()
    made, start = c.act("add", labels=["INBOX", "Label_1"]), await now(c)
    carried = (await c.ok("messages", labelIds="Label_1", includeSpamTrash="true", maxResults="500"))["messages"]
    c.act("delete_label", id="Label_1")
    records = (await c.ok("history", startHistoryId=start, maxResults="500"))["history"]
    assert {one["labelsRemoved"][0]["message"]["id"] for one in records} == {one["id"] for one in carried}
    assert (await c.ok(f"messages/{made['id']}"))["labelIds"] == ["INBOX"]
    assert "Label_1" not in [one["id"] for one in (await c.ok("labels"))["labels"]]
    assert (await c("threads", labelIds="Label_1"))[0] == 400
    assert (await c("labels/Label_1"))[0] == 404


async def test_a_label_that_is_made_never_has_the_id_of_another(client):
    c = await client()
    first = c.act("name_label", name="A")["id"]
    c.act("delete_label", id=first)
    assert c.act("name_label", name="A")["id"] not in {first, "Label_1", "Label_2"}


async def test_gmails_own_labels_cannot_be_deleted(client):
    c = await client()
    with pytest.raises(ValueError, match="own labels"):
        c.act("delete_label", id="INBOX")
