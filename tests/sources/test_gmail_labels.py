"""Gmail: which labels are selected, and what becomes of one that is renamed, deleted or selected later."""

# ruff: noqa: F811 - a fixture that is imported is named again where it is used
from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import update

from syncd import tables
from tests.sources.gmail_canned import calls, cursors, live, mail, noted, served  # noqa: F401 - the fixture


async def after(r, **time):
    r.box.world.clock.advance(timedelta(**time))
    return await r.run()


async def select(r, *labels):
    async with r.parts.store.database.write() as session:
        await session.execute(update(tables.connections).values(settings={"labels": list(labels)}))


async def test_labels_are_selected_by_id_or_name_and_unknown_ones_wait(reader):
    r = await reader("gmail", settings={"labels": ["Label_1", "invoices", "Nowhere"]}, one_clock=True)
    status = await r.run()
    assert status["successful_workspaces"] == 1
    found = await cursors(r, "labels")
    assert {name: found[name] for name in found if name} == {"Label_1": "Label_1", "invoices": "Label_2", "Nowhere": ""}
    assert [(row["stream"], row["external_id"]) for row in await r.backlog()] == [("labels", "Nowhere")]
    assert {"Label_1", "Label_2"} <= {label for row in await r.rows("messages") for label in row["labels"]}
    r.box.gmail.act("acme", "name_label", {"name": "Nowhere"})
    await after(r, minutes=15)
    assert await r.backlog() == []


async def test_a_label_that_is_selected_later_is_read_and_the_rest_kept(reader):
    r = await reader("gmail", settings={"labels": ["Label_2"]}, one_clock=True)
    await r.run()
    before = await live(r, "conversations")
    await select(r, "Label_2", "DRAFT")
    await after(r, minutes=15)
    assert set(before) < set(await live(r, "conversations"))
    assert any("DRAFT" in row["labels"] for row in await r.rows("messages"))


async def test_a_deselected_label_is_forgotten_and_its_mail_kept_and_kept_up_to_date(reader):
    r = await reader("gmail", settings={"labels": ["INBOX", "DRAFT", "Gone"]}, one_clock=True)
    await r.run()
    held = await live(r)
    draft = next(row for row in await r.rows("messages") if "DRAFT" in row["labels"])
    await select(r, "INBOX")
    await after(r, hours=1)
    assert set(await cursors(r, "threads")) == {"", "label:INBOX"}
    assert set(await cursors(r, "labels")) == {"", "INBOX"}
    assert await r.backlog() == []
    assert await live(r) == held
    reply = r.box.gmail.act("acme", "add", {"thread_id": draft["conversation_id"], "labels": ["SENT"]})
    await after(r, minutes=15)
    assert reply["id"] in await live(r)


async def test_a_label_that_was_deleted_waits_and_stops_nothing(served):
    """Its id is known from an earlier run, so only the listing tells."""
    gone = (400, {"error": {"message": "Invalid label: L", "errors": [{"reason": "invalidArgument"}]}})
    r = await served({"threads": gone, "labels": {"labels": [{"id": "L", "name": "L"}]}}, settings={"labels": ["L"]})
    status = await r.run()
    assert status["successful_workspaces"] == 1
    assert [row["external_id"] for row in await r.backlog()] == ["label:L"]
    r.canned["threads"] = {"threads": [{"id": "t"}]}
    r.canned["threads/t"] = {"id": "t", "messages": [mail("t", labels=["L"])]}
    await r.run()
    assert await r.backlog() == []
    assert await live(r) == ["t"]


async def vip(reader):
    """A reader of a label with one thread."""
    r = await reader("gmail", settings={"labels": ["VIP"]}, one_clock=True)
    label = r.box.gmail.act("acme", "name_label", {"name": "VIP"})["id"]
    made = r.box.gmail.act("acme", "add", {"labels": ["SENT", label]})
    await r.run()
    assert await live(r) == [made["id"]]
    return r, label, made["id"]


async def test_a_deleted_label_is_noticed_within_the_hour_and_takes_nothing_away(reader):
    r, label, one = await vip(reader)
    r.box.gmail.act("acme", "delete_label", {"id": label})
    await after(r, hours=1)
    assert [(row["stream"], row["external_id"]) for row in await r.backlog()] == [("labels", "VIP")]
    assert (await cursors(r, "labels"))["VIP"] == ""
    assert await live(r) == [one]


async def test_a_deleted_label_is_told_once(reader, capsys):
    r, label, _ = await vip(reader)
    r.box.gmail.act("acme", "delete_label", {"id": label})
    for _ in range(4):
        await after(r, hours=1)
    assert len(noted(capsys, "there is no label 'VIP'")) == 1


async def test_a_deleted_label_that_is_made_again_has_its_newest_threads_read(reader, capsys):
    r, label, one = await vip(reader)
    r.box.gmail.act("acme", "delete_label", {"id": label})
    await after(r, hours=1)
    again = r.box.gmail.act("acme", "name_label", {"name": "VIP"})["id"]
    assert again != label
    other = r.box.gmail.act("acme", "add", {"labels": ["SENT", again]})["id"]
    await after(r, hours=1)
    assert await live(r) == sorted([one, other])
    assert await r.backlog() == []
    assert len(noted(capsys, "'VIP' is there again")) == 1


async def test_a_renamed_label_is_read_on_and_told_once(reader, capsys):
    r, label, one = await vip(reader)
    r.box.gmail.act("acme", "name_label", {"id": label, "name": "Key accounts"})
    r.box.gmail.act("acme", "name_label", {"name": "VIP"})  # another label takes its name
    for _ in range(3):
        await after(r, hours=1)
    other = r.box.gmail.act("acme", "add", {"labels": ["SENT", label]})["id"]
    await after(r, hours=1)
    assert await live(r) == sorted([one, other])
    assert len(noted(capsys, "called 'Key accounts' now")) == 1


async def test_labels_are_listed_once_an_hour_and_not_in_each_run(reader):
    r = await reader("gmail", one_clock=True)
    await r.run()
    calls(r)
    made = []
    for _ in range(4):
        await after(r, minutes=30)
        made.append({name: count for name, count in calls(r).items() if name != "token"})
    assert made == [{"history.list": 1}, {"history.list": 1, "labels.list": 1}] * 2


async def test_a_listing_without_any_label_is_not_believed(served):
    r = await served({"labels": {}})
    failure = (await r.run())["failures"][0]
    assert failure["kind"] == "transient"
    assert await r.backlog() == []


async def test_the_bin_and_spam_can_be_selected(reader):
    r = await reader("gmail", settings={"labels": ["SPAM", "TRASH"]})
    await r.run()
    assert {"SPAM", "TRASH"} <= {label for row in await r.rows("messages") for label in row["labels"]}


@pytest.mark.parametrize(("action", "label"), [("trash", "TRASH"), ("spam", "SPAM")])
async def test_bin_and_spam_are_labels_and_delete_nothing(reader, action, label):
    r = await reader("gmail", one_clock=True)
    await r.run()
    held = await live(r)
    one = r.box.gmail.act("acme", action, {})["id"]
    await after(r, minutes=15)
    rows = {row["external_id"]: row for row in await r.rows("messages")}
    assert label in rows[one]["labels"]
    assert await live(r) == held
    if action == "trash":
        r.box.gmail.act("acme", "untrash", {"id": one})
        await after(r, minutes=15)
        rows = {row["external_id"]: row for row in await r.rows("messages")}
        assert label not in rows[one]["labels"]
