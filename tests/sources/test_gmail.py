"""Gmail: what a run reads and keeps, against the sandbox and against canned answers."""

# ruff: noqa: F811 - a fixture that is imported is named again where it is used
from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from syncd.sandbox.world import Options
from syncd.sources.gmail import SOURCE
from tests.sources.gmail_canned import calls, cursors, mail, served  # noqa: F401 - the fixture


def ids(rows):
    return [row["external_id"] for row in rows if row["deleted_at"] is None]


# ---- what a run reads


async def test_a_first_run_reads_the_five_newest_threads_of_the_inbox(reader):
    r = await reader("gmail")
    status = await r.run()
    truth = r.box.gmail.truth("acme", r.box.world.born)
    assert len(truth["conversations"]) == 5
    assert ids(await r.rows("conversations")) == truth["conversations"]
    assert ids(await r.rows("messages")) == truth["messages"]
    assert status["total_ingested"] == len(truth["messages"])
    assert calls(r).total() == 10


async def test_an_idle_run_is_one_call_and_writes_nothing(reader):
    r = await reader("gmail")
    await r.run()
    before = [await r.rows(table) for table in ("messages", "conversations", "cursors")]
    calls(r)
    await r.run()
    assert calls(r) == {"history.list": 1}
    assert [await r.rows(table) for table in ("messages", "conversations", "cursors")] == before


async def test_a_large_first_read_takes_every_thread_by_small_pages(reader, sandbox):
    box = await sandbox(Options(workspaces=1, page_size=2, limits=False))
    r = await reader("gmail", box=box, overrides={"threads_per_label": 500})
    await r.run()
    assert ids(await r.rows("messages")) == box.gmail.truth("acme", None)["messages"]


async def test_the_text_of_every_mail_is_readable(reader):
    r = await reader("gmail", overrides={"threads_per_label": 500})
    await r.run()
    texts = [row["text"] or "" for row in await r.rows("messages")]
    assert any("お見積り" in text for text in texts)
    assert any("1 200 €" in text for text in texts)
    assert any("¿podríais" in text for text in texts)
    assert any(text.count("41,210 files") == 900 for text in texts), "a text that came as a handle"
    assert not any("<td" in text or "�" in text for text in texts)


@pytest.mark.parametrize(
    ("action", "body"),
    [
        ("add", {}),
        ("add", {"html": "<p>hello</p>"}),
        ("add", {"labels": ["SENT"]}),
        ("add", {"at": "2019-05-01T00:00:00+00:00"}),
        ("label", {"add": ["STARRED"], "remove": ["INBOX"]}),
        ("trash", {}),
        ("delete", {}),
        ("touch", {}),
    ],
)
async def test_a_run_follows_a_change(reader, action, body):
    r = await reader("gmail")
    await r.run()
    done = r.box.gmail.act("acme", action, body)
    await r.run()
    truth = r.box.gmail.truth("acme", r.box.world.born)
    assert ids(await r.rows("messages")) == truth["messages"]
    assert ids(await r.rows("conversations")) == truth["conversations"]
    if action == "label":
        row = next(row for row in await r.rows("messages") if row["external_id"] == done["id"])
        assert "STARRED" in row["labels"]
        assert "INBOX" not in row["labels"]


async def test_a_reply_in_a_stored_thread_is_read_whatever_its_labels(reader):
    r = await reader("gmail")
    await r.run()
    thread = ids(await r.rows("conversations"))[0]
    made = r.box.gmail.act("acme", "add", {"thread_id": thread, "labels": ["SENT"]})
    await r.run()
    assert made["id"] in ids(await r.rows("messages"))


async def test_an_edited_draft_is_another_message_and_the_old_one_is_deleted(reader):
    r = await reader("gmail", settings={"labels": ["draft"]})
    await r.run()
    done = r.box.gmail.act("acme", "edit", {"text": "second thought"})
    await r.run()
    rows = {row["external_id"]: row for row in await r.rows("messages")}
    assert rows[done["id"]]["text"] == "second thought"
    assert rows[done["replaced"]]["deleted_at"] is not None
    assert rows[done["replaced"]]["text"], "content is kept"


async def test_a_deleted_message_leaves_the_rest_of_its_thread(reader):
    r = await reader("gmail")
    await r.run()
    thread = ids(await r.rows("conversations"))[0]
    made = r.box.gmail.act("acme", "add", {"thread_id": thread})
    await r.run()
    r.box.gmail.act("acme", "delete", {"id": made["id"]})
    status = await r.run()
    assert status["deleted"] == 1
    assert made["id"] not in ids(await r.rows("messages"))
    assert thread in ids(await r.rows("conversations"))


async def test_a_deleted_thread_takes_all_its_messages_with_it(reader):
    r = await reader("gmail")
    await r.run()
    thread = ids(await r.rows("conversations"))[0]
    r.box.gmail.act("acme", "delete", {"thread_id": thread})
    await r.run()
    assert thread not in ids(await r.rows("conversations"))
    assert all(row["deleted_at"] for row in await r.rows("messages") if row["conversation_id"] == thread)


async def test_a_label_that_lands_on_one_message_brings_the_whole_thread(reader):
    r = await reader("gmail", settings={"labels": ["STARRED"]})
    await r.run()
    assert await r.rows("messages") == []
    thread = r.box.gmail.act("acme", "add", {"labels": ["INBOX"]})["threadId"]
    reply = r.box.gmail.act("acme", "add", {"thread_id": thread})
    await r.run()
    assert await r.rows("messages") == []
    r.box.gmail.act("acme", "label", {"id": reply["id"], "add": ["STARRED"]})
    await r.run()
    assert len(ids(await r.rows("messages"))) == 2


async def test_a_record_that_says_nothing_is_looked_at_and_kept_only_if_a_label_is_ours(reader):
    r = await reader("gmail", settings={"labels": ["STARRED"]})
    await r.run()
    r.box.gmail.act("acme", "touch", {})
    calls(r)
    await r.run()
    assert calls(r)["threads.get"] == 1
    assert await r.rows("messages") == []


async def test_a_change_elsewhere_in_the_mailbox_costs_no_call(reader):
    r = await reader("gmail")
    await r.run()
    r.box.gmail.act("acme", "add", {"labels": ["SPAM"]})
    calls(r)
    await r.run()
    assert calls(r) == {"history.list": 1}


async def test_many_changes_to_one_thread_are_one_read(reader):
    r = await reader("gmail")
    await r.run()
    thread = ids(await r.rows("conversations"))[0]
    for _ in range(5):
        r.box.gmail.act("acme", "add", {"thread_id": thread})
    calls(r)
    await r.run()
    assert calls(r) == {"history.list": 1, "threads.get": 1}


async def test_history_that_was_cut_goes_on_where_it_was(reader, sandbox):
    """The cursor moves along with the pages of history; what could not be read by then waits in the backlog."""
    box = await sandbox(Options(workspaces=1, page_size=2, limits=False, switches={"gmail.empty_history_page": "on"}))
    r = await reader("gmail", box=box)
    await r.run()
    for _ in range(6):
        box.gmail.act("acme", "add", {})
    box.world.faults.add({"kind": "503", "vendor": "gmail", "method": "threads.get", "skip": 3, "times": 3})
    first = await r.run()
    assert first["failures"][0]["kind"] == "transient"
    assert len(await r.backlog()) == 2
    calls(r)
    r.parts.store.looks._now = lambda: datetime.now(UTC) + timedelta(hours=1)
    await r.run()
    assert calls(r)["threads.get"] == 3
    assert ids(await r.rows("messages")) == box.gmail.truth("acme", box.world.born)["messages"]


async def test_what_arrives_during_the_first_read_is_not_missed(served):
    """The history id is older than the listing, and the history is read right after it."""
    new = {"id": "15", "messagesAdded": [{"message": {"id": "n", "threadId": "n", "labelIds": ["INBOX"]}}]}
    r = await served(
        {"history": {"history": [new], "historyId": "20"}, "threads/n": {"id": "n", "messages": [mail("n")]}}
    )
    await r.run()
    assert ids(await r.rows("messages")) == ["n"]
    assert r.asked.index("profile") < r.asked.index("threads") < r.asked.index("history")
    assert (await cursors(r, "threads"))[""] == "20"


# ---- what cannot be read now


async def test_an_announced_thread_that_is_not_there_yet_waits_in_the_backlog(reader):
    r = await reader("gmail")
    await r.run()
    made = r.box.gmail.act("acme", "add", {"unreadable": 1})
    status = await r.run()
    assert status["successful_workspaces"] == 1
    assert [(row["stream"], row["external_id"]) for row in await r.backlog()] == [("threads", made["threadId"])]
    r.box.gmail.act("acme", "touch", {"id": made["id"]})
    await r.run()
    assert await r.backlog() == []
    assert made["id"] in ids(await r.rows("messages"))


async def test_a_waiting_thread_is_read_when_its_time_has_come(reader):
    r = await reader("gmail")
    await r.run()
    made = r.box.gmail.act("acme", "add", {"unreadable": 1})
    await r.run()
    r.parts.store.looks._now = lambda: datetime.now(UTC) + timedelta(hours=1)
    await r.run()
    assert await r.backlog() == []
    assert made["id"] in ids(await r.rows("messages"))


async def test_a_thread_that_gmail_refuses_waits_and_the_others_are_read(served):
    r = await served(
        {
            "threads": {"threads": [{"id": "bad"}, {"id": "empty"}, {"id": None}, {"id": "good"}]},
            "threads/bad": (
                400,
                {"error": {"code": 400, "message": "Invalid id value", "errors": [{"reason": "invalid"}]}},
            ),
            "threads/empty": {"id": "empty"},
            "threads/good": {"id": "good", "messages": [mail("good")]},
        }
    )
    status = await r.run()
    assert status["failed_workspaces"] == 0
    assert ids(await r.rows("messages")) == ["good"]
    assert {row["external_id"]: row["reason"] for row in await r.backlog()} == {
        "bad": "threads.get: invalid: Invalid id value",
        "empty": "the thread came without messages",
    }


async def test_a_404_that_is_not_gmails_deletes_nothing(served):
    """An access error is never taken for a deletion: a proxy's page is no word about the mail."""
    labels = {"id": "12", "labelsAdded": [{"message": {"id": "t", "threadId": "t", "labelIds": ["INBOX"]}}]}
    r = await served({"threads": {"threads": [{"id": "t"}]}, "threads/t": {"id": "t", "messages": [mail("t")]}})
    await r.run()
    r.canned |= {"threads/t": (404, "<h1>Not Found</h1>"), "history": {"history": [labels], "historyId": "12"}}
    await r.run()
    assert ids(await r.rows("messages")) == ["t"]
    assert [row["external_id"] for row in await r.backlog()] == ["t"]


# ---- settings


@pytest.mark.parametrize("labels", [[], "INBOX", [1], [""], None])
def test_senseless_labels_are_refused(labels):
    assert "labels" in (SOURCE.refuse(None, {"labels": labels}) or "")
