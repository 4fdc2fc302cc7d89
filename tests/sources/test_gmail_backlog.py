"""Gmail: what cannot be read now waits, stops nothing and loses nothing."""

# ruff: noqa: F811 - a fixture that is imported is named again where it is used
from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.sources.gmail_canned import live, mail, served  # noqa: F401 - the fixture

GONE = (404, {"error": {"message": "gone", "errors": [{"reason": "notFound"}]}})
REFUSED = (400, {"error": {"message": "x", "errors": [{"reason": "badRequest"}]}})
BROKEN = (500, "<h1>oops</h1>")


def thread(name, *messages):
    return {"id": name, "messages": list(messages)}


def listing(*names):
    return {"threads": [{"id": name} for name in names]}


def history(*records, at="20"):
    return {"historyId": at, "history": list(records)}


def change(kind, name, *, of="t", **more):
    return {"id": "15", kind: [{"message": {"id": name, "threadId": of, **more}}]}


async def waiting(r):
    return [row["external_id"] for row in await r.backlog()]


async def later(r):
    """A run when all that waits is due."""
    r.parts.store.looks._now = lambda: datetime.now(UTC) + timedelta(hours=1)
    return await r.run()


# ---- deletions


@pytest.mark.parametrize("answer", [GONE, REFUSED, BROKEN])
async def test_a_replaced_draft_is_deleted_though_its_thread_cannot_be_read_yet(served, answer):
    r = await served({"threads": listing("t"), "threads/t": thread("t", mail("m1", thread="t"))})
    await r.run()
    new = change("messagesAdded", "m2", labelIds=["INBOX"])
    r.canned |= {"threads/t": answer, "history": history(change("messagesDeleted", "m1"), new)}
    await r.run()
    r.canned |= {"threads/t": thread("t", mail("m2", thread="t", history="15")), "history": history()}
    await later(r)
    assert await live(r) == ["m2"]


# ---- texts that come as a handle


def by_handle(name):
    body = {"attachmentId": "h", "size": 5}
    return mail(name) | {"snippet": "snip", "payload": {"partId": "", "mimeType": "text/plain", "body": body}}


@pytest.mark.parametrize("answer", [GONE, {"size": 5}, {}, BROKEN])
async def test_a_mail_whose_text_cannot_be_fetched_waits(served, answer):
    r = await served(
        {"threads": listing("m"), "threads/m": thread("m", by_handle("m")), "messages/m/attachments/h": answer}
    )
    await r.run()
    assert (await live(r), await waiting(r)) == ([], ["m"])


async def test_a_text_that_could_not_be_fetched_is_stored_once_it_can(served):
    r = await served({"threads": listing("m"), "threads/m": thread("m", by_handle("m"))})
    await r.run()
    r.canned["messages/m/attachments/h"] = {"size": 5, "data": "aGVsbG8"}
    await later(r)
    assert [row["text"] for row in await r.rows("messages")] == ["hello"]


async def test_an_empty_text_that_came_as_a_handle_is_no_fault(served):
    r = await served(
        {"threads": listing("m"), "threads/m": thread("m", by_handle("m")), "messages/m/attachments/h": {"size": 0}}
    )
    await r.run()
    assert await live(r) == ["m"]


# ---- what is selected


async def looked_at_and_refused(served):
    r = await served({})
    await r.run()
    r.canned |= {"history": history({"id": "15", "messages": [{"id": "m", "threadId": "t"}]}), "threads/t": REFUSED}
    await r.run()
    r.canned["history"] = history()
    assert await waiting(r) == ["t"]
    return r


async def test_a_waiting_thread_without_a_selected_label_is_never_stored(served):
    r = await looked_at_and_refused(served)
    r.canned["threads/t"] = thread("t", mail("m", labels=["Label_private"], thread="t"))
    await later(r)
    assert (await live(r), await waiting(r)) == ([], [])


async def test_a_waiting_thread_that_is_refused_again_is_still_not_selected(served):
    r = await looked_at_and_refused(served)
    await later(r)
    r.canned["threads/t"] = thread("t", mail("m", labels=["Label_private"], thread="t"))
    r.parts.store.looks._now = lambda: datetime.now(UTC) + timedelta(days=9)
    await r.run()
    assert (await live(r), await waiting(r)) == ([], [])


async def test_a_waiting_thread_with_a_selected_label_is_stored(served):
    r = await looked_at_and_refused(served)
    r.canned["threads/t"] = thread("t", mail("m", thread="t"))
    await later(r)
    assert await live(r) == ["m"]


async def test_a_thread_that_was_selected_is_stored_though_its_label_is_gone_by_then(served):
    r = await served({"threads": listing("t"), "threads/t": REFUSED})
    await r.run()
    r.canned["threads/t"] = thread("t", mail("m", labels=["Label_1"], thread="t"))
    await later(r)
    assert await live(r) == ["m"]


# ---- what fails in passing


async def test_a_thread_that_keeps_failing_waits_and_the_others_are_read(served):
    names = ["bad1", "bad2", "good1", "bad3", "good2"]
    r = await served(
        {"threads": listing(*names)}
        | {f"threads/{one}": BROKEN if one.startswith("bad") else thread(one, mail(one)) for one in names}
    )
    status = await r.run()
    assert status["failed_workspaces"] == 0
    assert await live(r) == ["good1", "good2"]
    assert await waiting(r) == ["bad1", "bad2", "bad3"]


async def test_three_threads_in_a_row_that_fail_are_an_outage(served):
    names = ["a", "b", "c", "d"]
    r = await served({"threads": listing(*names)} | {f"threads/{one}": BROKEN for one in names})
    status = await r.run()
    assert status["failures"][0]["kind"] == "transient"
    assert "threads/d" not in r.asked


# ---- a 404 for what every mailbox has


@pytest.mark.parametrize(
    ("path", "answer"),
    [("profile", GONE), ("profile", {"emailAddress": "a@b.example"}), ("labels", GONE), ("threads", GONE)],
)
async def test_what_every_mailbox_has_is_never_missing(served, path, answer):
    r = await served({path: answer})
    failure = (await r.run())["failures"][0]
    assert failure["kind"] == "transient"


async def test_a_mailbox_without_a_history_id_has_no_baseline(served):
    r = await served({"profile": {"emailAddress": "a@b.example"}})
    await r.run()
    assert {row["stream"] for row in await r.rows("cursors")} == {"labels"}


async def test_a_listing_that_is_missing_does_not_count_as_read(served):
    r = await served({"threads": GONE})
    await r.run()
    assert "label:INBOX" not in {row["partition"] for row in await r.rows("cursors")}
