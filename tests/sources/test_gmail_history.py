"""Gmail: history is followed without losing, repeating or getting stuck."""

# ruff: noqa: F811 - a fixture that is imported is named again where it is used
from __future__ import annotations

import dataclasses

import pytest

from tests.sources.gmail_canned import calls, cursors, live, mail, served  # noqa: F401 - the fixture
from tests.sources.test_contract import Cut, wrapped


def act(r, action, **body):
    return r.box.gmail.act("acme", action, body)


async def cut(r, place):
    """A run that is cut after so many pages."""
    plans, source = r.parts.engine.plans, r.parts.engine.plans["gmail"].source
    r.parts.engine.plans = plans | {"gmail": dataclasses.replace(plans["gmail"], source=wrapped(source, Cut(place)))}
    status = await r.run()
    r.parts.engine.plans = plans
    return status


def history(*records, at="20"):
    return {"historyId": at, "history": list(records)}


def record(number, kind, name, *, of="t", **more):
    return {"id": number, kind: [{"message": {"id": name, "threadId": of, **more}}]}


# ---- runs that are cut


async def test_the_newest_threads_of_the_first_run_are_read_even_if_newer_ones_come_before_it_can_go_on(reader):
    r = await reader("gmail")
    newest = r.box.gmail.truth("acme", r.box.world.born)["conversations"]
    await cut(r, 5)
    assert set(await live(r, "conversations")) < set(newest)
    made = [act(r, "add")["threadId"] for _ in range(6)]
    await r.run()
    assert await live(r, "conversations") == sorted({*newest, *made})
    assert await r.backlog() == []


async def test_however_little_a_run_stores_history_comes_to_its_end(reader):
    """Also where nothing tells that a thread is stored already: a bare record changes no row."""
    r = await reader("gmail", settings={"labels": ["STARRED"]})
    await r.run()
    inbox = r.box.gmail._mailboxes["acme"].newest_threads(["INBOX"])[:6]
    for thread in inbox:
        act(r, "touch", id=thread)
    calls(r)
    runs = 1
    while (await cut(r, 1))["failed_workspaces"]:
        runs += 1
        assert runs < 10
    assert runs > 3
    assert calls(r)["threads.get"] < 15


async def test_the_cursor_moves_behind_a_thread_only_as_far_as_all_before_is_read(served):
    first, second = mail("a", history="12"), mail("b", history="16")
    r = await served({})
    await r.run()
    r.canned |= {
        "history": history(
            record("12", "messagesAdded", "a", of="a", labelIds=["INBOX"]),
            record("14", "messagesAdded", "b", of="b", labelIds=["INBOX"]),
            record("16", "labelsAdded", "a", of="a", labelIds=["INBOX", "STARRED"]),
        ),
        "threads/a": {"id": "a", "messages": [first]},
        "threads/b": {"id": "b", "messages": [second]},
    }
    await cut(r, 1)
    assert ((await cursors(r, "threads"))[""], await live(r)) == ("13", ["a"])
    await r.run()
    assert ((await cursors(r, "threads"))[""], await live(r)) == ("20", ["a", "b"])


async def test_the_history_id_of_the_first_page_counts(served):
    """What comes between the pages may be on neither."""
    pages = [
        history(record("12", "messagesAdded", "a", of="a", labelIds=["INBOX"]), at="15") | {"nextPageToken": "2"},
        history(at="30"),
    ]
    r = await served({"threads/a": {"id": "a", "messages": [mail("a", history="12")]}})
    await r.run()
    r.canned["history"] = lambda request: pages.pop(0) if pages else history(at="15")
    await r.run()
    assert (await cursors(r, "threads"))[""] == "15"


# ---- what is there and what is gone


async def test_an_announced_message_that_its_thread_does_not_show_yet_is_waited_for(served):
    r = await served({"threads": {"threads": [{"id": "t"}]}, "threads/t": {"id": "t", "messages": [mail("t")]}})
    await r.run()
    r.canned["history"] = history(record("12", "messagesAdded", "m", labelIds=["INBOX"]))
    await r.run()
    assert [row["external_id"] for row in await r.backlog()] == ["t"]
    assert (await cursors(r, "threads"))[""] == "20"


async def test_of_a_thread_that_is_gone_every_message_is_deleted(served):
    """History may name one of them here and the others on a later page."""
    two = {"id": "t", "messages": [mail("a", thread="t"), mail("b", thread="t")]}
    r = await served({"threads": {"threads": [{"id": "t"}]}, "threads/t": two})
    await r.run()
    assert await live(r) == ["a", "b"]
    r.canned |= {"history": history(record("12", "messagesDeleted", "a"))}
    del r.canned["threads/t"]
    await r.run()
    assert (await live(r), await live(r, "conversations")) == ([], [])


async def test_what_a_thread_no_longer_holds_is_deleted_though_history_did_not_say_so(served):
    two = {"id": "t", "messages": [mail("a", thread="t"), mail("b", thread="t")]}
    r = await served({"threads": {"threads": [{"id": "t"}]}, "threads/t": two})
    await r.run()
    r.canned |= {
        "history": history(record("12", "labelsAdded", "a", labelIds=["INBOX", "STARRED"])),
        "threads/t": {"id": "t", "messages": [mail("a", thread="t", labels=["INBOX", "STARRED"])]},
    }
    await r.run()
    assert await live(r) == ["a"]


@pytest.mark.parametrize("touched", ["labelled", "other"])
async def test_a_bare_record_brings_a_thread_only_if_its_message_bears_a_selected_label(served, touched):
    r = await served({})
    await r.run()
    other = mail("other", thread="t", labels=["SENT"], history="12")
    r.canned |= {
        "history": history({"id": "12", "messages": [{"id": touched, "threadId": "t"}]}),
        "threads/t": {"id": "t", "messages": [mail("labelled", thread="t", history="12"), other]},
    }
    await r.run()
    assert await live(r) == (["labelled", "other"] if touched == "labelled" else [])


async def test_a_new_handle_of_an_attachment_rewrites_no_row(reader):
    r = await reader("gmail", overrides={"threads_per_label": 500})
    await r.run()
    with_file = next(row for row in await r.rows("messages") if row["attachments"])
    before = await r.rows("messages")
    act(r, "touch", id=with_file["external_id"])
    calls(r)
    status = await r.run()
    assert calls(r)["threads.get"] == 1
    assert (status["added"], status["changed"]) == (0, 0)
    assert await r.rows("messages") == before
    part = with_file["attachments"][0]
    assert part["id"] == f"{with_file['external_id']}:{part['part_id']}"
