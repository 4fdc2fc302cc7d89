"""Gmail: older mail on request, and the comparison with the mailbox."""

# ruff: noqa: F811 - a fixture that is imported is named again where it is used
from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import delete, update

from syncd import tables
from syncd.audit import Audit
from syncd.backfill import Backfill
from syncd.sandbox.world import Options
from tests.sources.gmail_canned import calls, cursors, live, mail, served  # noqa: F401 - the fixture


def act(r, action, **body):
    return r.box.gmail.act("acme", action, body)


FAR = {"cron": "0 0 1 1 *"}  # no regular turn is near, for which a backfill would wait


async def ready(reader, **more):
    r = await reader("gmail", one_clock=True, **more)
    await r.run()
    calls(r)
    return r


async def backfill(r, **back):
    """A backfill that has come to its end, with its estimate. Waiting moves the clock."""
    clock = r.box.world.clock

    async def sleep(seconds):
        clock.advance(timedelta(seconds=seconds))

    work = Backfill(
        await r.parts.store.connections.all(),
        back_to=clock.now() - timedelta(**back),
        engine=r.parts.engine,
        store=r.parts.store,
        vault=r.parts.vault,
        now=clock.now,
        sleep=sleep,
    )
    await work.estimate()
    calls(r)
    await work.run()
    (part,) = work.parts
    assert part.status == "finished", part.error
    return part


async def verified(r, **how):
    """What `syncd verify` finds."""
    found = await compared(r, r.box.world.clock.now, **how)
    assert found.error is None
    return found


async def compared(r, now, **how):
    audit = Audit(
        await r.parts.store.connections.all(),
        engine=r.parts.engine,
        store=r.parts.store,
        vault=r.parts.vault,
        now=now,
        **how,
    )
    await audit.run()
    (found,) = audit.findings
    return found


def seen(found):
    return {name: [one for _, one in getattr(found, name).named] for name in ("missing", "stale", "extra")}


CLEAN = {"missing": [], "stale": [], "extra": []}


def in_inbox(r, **back):
    """Threads that a backfill should bring."""
    mailbox, since = r.box.gmail._mailboxes["acme"], r.box.world.clock.now() - timedelta(**back)
    late = [one for one in mailbox.messages.values() if int(one["internalDate"]) >= since.timestamp() * 1000]
    return sorted({one["threadId"] for one in late if "INBOX" in one["labelIds"]})


# ---- backfill


async def test_a_backfill_reads_the_labels_threads_back_to_its_date(reader):
    r = await ready(reader)
    first = await live(r, "conversations")
    await backfill(r, days=3)
    assert await live(r, "conversations") == sorted({*first, *in_inbox(r, days=3)})
    assert set(in_inbox(r, days=3)) < set(in_inbox(r, days=9)), "not all there is"


async def test_a_backfill_does_not_read_what_is_stored(reader):
    r = await ready(reader)
    first = await live(r, "conversations")
    await backfill(r, days=9)
    assert calls(r)["threads.get"] == len(await live(r, "conversations")) - len(first) > 0


async def test_an_estimate_tells_the_calls_and_units_that_a_backfill_then_takes(reader, sandbox):
    box = await sandbox(Options(workspaces=1, page_size=4, limits=False))
    r = await ready(reader, box=box)
    part = await backfill(r, days=9)
    made = calls(r)
    late = made["messages.attachments.get"]  # which mail comes with a text by handle, no listing tells
    listed = made["labels.list"] + made["token"] + made["history.list"]  # of a regular turn, should one come between
    assert part.estimate.calls == made.total() - late - listed
    assert part.estimate.draws == {"units": 10 * made["threads.list"] + 40 * made["threads.get"]}
    assert part.estimate.items == f"about {made['threads.get']} threads in 1 label"


async def test_a_backfill_that_is_cut_goes_on_with_what_is_not_stored(reader):
    r = await ready(reader)
    plan = r.parts.engine.plans["gmail"]
    object.__setattr__(plan, "run_timeout", timedelta(0))  # each stint ends after its first page
    part = await backfill(r, days=9)
    assert set(in_inbox(r, days=9)) <= set(await live(r, "conversations"))
    assert calls(r)["threads.get"] == part.estimate.draws["units"] // 40
    assert "backfill" not in {row["stream"] for row in await r.rows("cursors")}


async def test_a_backfill_tells_how_far_back_it_is(reader):
    r = await ready(reader)
    part = await backfill(r, days=9)
    mailbox = r.box.gmail._mailboxes["acme"]
    oldest = mailbox.newest_threads(["INBOX"])[-1]
    newest_of_it = mailbox.messages[mailbox.threads[oldest][-1]]
    assert int(part.reached.timestamp() * 1000) == int(newest_of_it["internalDate"])


async def test_a_thread_that_a_backfill_cannot_read_waits_for_the_regular_runs(served):
    refused = (400, {"error": {"message": "x", "errors": [{"reason": "badRequest"}]}})
    answers = {"threads/b": {"id": "b", "messages": [mail("b")]}, "threads/a": refused}
    r = await served(answers, overrides=FAR)
    await r.run()
    r.canned["threads"] = {"threads": [{"id": "a"}, {"id": "b"}]}
    assert (await stinted(r)).status == "finished"
    assert await live(r) == ["b"]
    assert [(row["stream"], row["external_id"]) for row in await r.backlog()] == [("threads", "a")]


async def test_what_a_listing_leaves_out_is_found_by_the_next_one(served):
    """A thread is archived while the label is listed, so that the next page begins one too far."""
    pages = [{"threads": [{"id": "a"}], "nextPageToken": "2"}, {}, {"threads": [{"id": "a"}, {"id": "b"}]}, {}]
    answers = {f"threads/{one}": {"id": one, "messages": [mail(one)]} for one in "ab"}
    r = await served(answers, overrides=FAR)
    await r.run()
    r.canned["threads"] = lambda request: pages.pop(0) if pages else {}
    part = await stinted(r)
    assert part.status == "finished"
    assert await live(r) == ["a", "b"]


async def stinted(r):
    work = Backfill(
        await r.parts.store.connections.all(),
        back_to=r.parts.engine.runs._now() - timedelta(days=9),
        engine=r.parts.engine,
        store=r.parts.store,
        vault=r.parts.vault,
        now=r.parts.engine.runs._now,
    )
    await work.run()
    return work.parts[0]


async def test_a_backfill_takes_spam_only_where_it_is_selected(reader):
    r = await ready(reader, settings={"labels": ["Label_1"]})
    one = act(r, "add", labels=["Label_1", "SPAM"], at="2026-01-02T00:00:00+00:00")
    await r.run()
    async with r.parts.store.database.write() as session:
        await session.execute(delete(tables.messages).where(tables.messages.c.external_id == one["id"]))
        await session.execute(delete(tables.conversations))
    await backfill(r, days=3650)
    assert one["id"] not in await live(r)


# ---- verify


async def test_right_after_a_run_the_mailbox_is_as_it_is_stored(reader):
    r = await ready(reader)
    found = await verified(r)
    assert seen(found) == CLEAN
    assert found.checked == len(await live(r)) + len(await live(r, "conversations"))


async def test_the_counts_of_a_label_are_told(reader):
    r = await ready(reader)
    found = await verified(r)
    there = [one for one in r.box.gmail._mailboxes["acme"].messages.values() if "INBOX" in one["labelIds"]]
    stored = [row for row in await r.rows("messages") if "INBOX" in row["labels"]]
    told = f"INBOX: {len(there)} messages there, {len(stored)} stored; older mail comes by backfill"
    assert list(found.facts) == [told]


async def test_after_a_backfill_of_all_the_counts_agree(reader):
    r = await ready(reader)
    await backfill(r, days=3650)
    found = await verified(r)
    assert seen(found) == CLEAN
    assert all("backfill" not in fact for fact in found.facts)


async def test_a_thread_that_history_should_have_brought_is_missing(reader):
    r = await ready(reader)
    made = act(r, "add")
    await r.run()
    await lose(r, made)
    assert seen(await verified(r)) == CLEAN | {"missing": sorted({made["threadId"], made["id"]}) * 2}


async def lose(r, *made):
    """As if these mails had never been read."""
    async with r.parts.store.database.write() as session:
        for one in made:
            await session.execute(delete(tables.messages).where(tables.messages.c.external_id == one["id"]))
            await session.execute(
                delete(tables.conversations).where(tables.conversations.c.external_id == one["threadId"])
            )


async def test_of_many_missing_threads_a_sample_is_read_and_the_rest_told(reader):
    r = await ready(reader)
    made = [act(r, "add") for _ in range(5)]
    await r.run()
    await lose(r, *made)
    found = await verified(r, sample=2)
    assert found.missing.by_kind["conversations"] == 2
    assert "INBOX: 3 more threads changed and are not stored; they were not looked into" in found.facts


async def test_what_came_after_the_last_run_is_not_missing_nor_stale_nor_extra(reader):
    r = await ready(reader)
    threads = await live(r, "conversations")
    act(r, "add")
    act(r, "label", id=(await live(r))[0], add=["STARRED"])
    act(r, "delete", thread_id=threads[-1])
    one = act(r, "add", thread_id=threads[-2])["id"]
    await r.run()
    act(r, "delete", id=one)
    act(r, "add")
    act(r, "label", id=(await live(r))[0], remove=["STARRED"])
    act(r, "delete", thread_id=threads[-3])
    assert seen(await verified(r)) == CLEAN


async def test_mail_from_before_the_first_read_is_not_missing(reader):
    r = await ready(reader)
    assert set(in_inbox(r, days=9)) > set(await live(r, "conversations"))
    assert seen(await verified(r)) == CLEAN
    assert not [fact for fact in (await verified(r, sample=0)).facts if "not looked into" in fact]


async def test_mail_of_a_label_selected_later_is_not_missing_from_before(reader):
    r = await ready(reader)
    made = [act(r, "add", labels=["Label_2"]) for _ in range(7)]
    await r.run()
    async with r.parts.store.database.write() as session:
        await session.execute(update(tables.connections).values(settings={"labels": ["INBOX", "Label_2"]}))
    await r.run()
    assert len({one["threadId"] for one in made} - set(await live(r, "conversations"))) == 2
    assert seen(await verified(r)) == CLEAN


async def test_a_stored_mail_that_differs_is_stale(reader):
    r = await ready(reader)
    one = (await live(r))[0]
    async with r.parts.store.database.write() as session:
        changed = update(tables.messages).where(tables.messages.c.external_id == one)
        await session.execute(changed.values(digest="0" * 32))
    assert seen(await verified(r)) == CLEAN | {"stale": [one]}


@pytest.mark.parametrize("gone", ["message", "thread"])
async def test_what_the_mailbox_no_longer_has_is_extra(reader, gone):
    r = await ready(reader)
    made = act(r, "add")
    two = act(r, "add", thread_id=made["threadId"])["id"]
    await r.run()
    act(r, "delete", **({"id": two} if gone == "message" else {"thread_id": made["threadId"]}))
    await r.run()
    async with r.parts.store.database.write() as session:
        for table in (tables.messages, tables.conversations):  # as if the deletion had been missed
            await session.execute(update(table).values(deleted_at=None))
    extra = [two] if gone == "message" else [made["threadId"], made["id"], two]
    assert sorted(seen(await verified(r))["extra"]) == sorted(extra)


async def test_a_mailbox_that_was_not_read_yet_is_said_to_be_so(reader):
    r = await reader("gmail", one_clock=True)
    assert "the mailbox was not read yet" in (await verified(r)).facts


async def test_a_label_that_an_older_version_read_is_not_compared_and_that_is_told(reader):
    r = await ready(reader)
    async with r.parts.store.database.write() as session:
        old = update(tables.cursors).where(tables.cursors.c.partition == "label:INBOX")
        await session.execute(old.values(cursor="read"))
    found = await verified(r)
    assert seen(found) == CLEAN
    assert "INBOX: it is not known since when it is read" in found.facts


async def test_verifying_writes_nothing(reader):
    r = await ready(reader)
    act(r, "add")
    tables_before = [await r.rows(name) for name in ("messages", "conversations", "cursors", "backlog")]
    await verified(r)
    assert [await r.rows(name) for name in ("messages", "conversations", "cursors", "backlog")] == tables_before
    assert (await cursors(r, "threads"))[""].isdecimal()


async def test_verifying_ends_though_history_goes_round(served):
    r = await served({"threads": {"threads": [{"id": "m"}]}, "threads/m": {"id": "m", "messages": [mail("m")]}})
    await r.run()
    r.asked.clear()

    def history(_):  # it would go round for ever: a test that fails should not
        return {"historyId": "10", **({"nextPageToken": "again"} if r.asked.count("history") < 9 else {})}

    del r.canned["threads/m"]
    r.canned |= {
        "threads": {"resultSizeEstimate": 0},
        "messages": {"messages": [{"id": "x", "threadId": "x"}]},
        "labels/INBOX": {"id": "INBOX", "name": "INBOX", "messagesTotal": 1},
        "history": history,
    }
    found = await compared(r, r.parts.engine._now)
    assert (found.error, r.asked.count("history")) == ("history.list: a page token comes a second time", 2)
