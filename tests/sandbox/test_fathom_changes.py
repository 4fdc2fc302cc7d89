"""Fathom's emulator as time goes by: what ripens, changes and vanishes, and its own record of what is to be held."""

# ruff: noqa: F811 - a fixture that is imported is named again where it is used

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.sandbox.test_fathom import HEAVY, Caller, caller  # noqa: F401 - a fixture


class TestActions:
    @pytest.mark.parametrize(
        ("wait", "part"),
        [("ready_in_s", "transcript"), ("summary_in_s", "default_summary"), ("items_in_s", "action_items")],
    )
    async def test_each_part_ripens_by_itself(self, caller, wait, part):
        call = await caller()
        others = {"ready_in_s": 0, "summary_in_s": 0, "items_in_s": 0}
        made = call.box.fathom.act("acme", "add", others | {wait: 600})
        seen = []
        for _ in range(2):
            [item] = await self.items(call, made)
            seen.append({part for part in ("transcript", "default_summary", "action_items") if item[part]})
            call.box.world.clock.advance(timedelta(minutes=11))
        whole = {"transcript", "default_summary", "action_items"}
        assert seen == [whole - {part}, whole]

    async def test_an_action_item_is_added_and_their_order_changes(self, caller):
        call = await caller()
        made = call.box.fathom.act("acme", "add", {})
        call.box.fathom.act("acme", "edit", made | {"item": "Send the offer"})
        [before] = await self.items(call, made)
        call.box.fathom.act("acme", "edit", made | {"reorder": True})
        [after] = await self.items(call, made)
        assert before["action_items"][-1]["description"] == "Send the offer"
        assert after["action_items"] == before["action_items"][::-1]

    @staticmethod
    async def items(call: Caller, made) -> list[dict]:
        body = (await call.get("/meetings", **HEAVY, include_action_items="true")).json()
        return [item for item in body["items"] if item["recording_id"] == made["recording_id"]]


class TestHoldings:
    @staticmethod
    def held(call: Caller) -> dict:
        return call.box.fathom.holdings("acme")

    async def test_they_are_what_a_listing_and_the_recordings_show_of_the_first_day(self, caller):
        call = await caller()
        since = (call.box.world.born - timedelta(hours=24)).isoformat()
        parts = {"include_summary": "true", "include_action_items": "true"}
        items = (await call.get("/meetings", created_after=since, **parts)).json()["items"]
        assert self.held(call)["meetings"] == {str(item["recording_id"]): item for item in items}
        for item in items:
            said = (await call.get(f"/recordings/{item['recording_id']}/transcript")).json()
            assert self.held(call)["transcripts"].get(str(item["recording_id"]), {"error": "Not found"}) == said

    async def test_two_weeks_are_held_from_the_first_sweep_on(self, caller):
        call = await caller()
        call.box.world.clock.advance(timedelta(hours=6))
        assert sorted(self.held(call)["meetings"]) == call.box.fathom.truth("acme", None)["meetings"]

    async def test_what_the_user_recorded_and_deleted_is_not_held(self, caller):
        call = await caller()
        made = call.box.fathom.act("acme", "add", {})
        call.box.fathom.act("acme", "delete", made)
        assert not any(str(made["recording_id"]) in of for of in self.held(call).values())

    @pytest.mark.parametrize("action", ["unshare", "delete"])
    async def test_anothers_that_vanished_is_held_as_it_was_last_served(self, caller, action):
        call = await caller()
        made = call.box.fathom.act("acme", "add", {"user": 1, "title": "Seen", "summary_in_s": 60})
        number = str(made["recording_id"])
        await call.get("/meetings", include_action_items="true")
        await call.get(f"/recordings/{number}/transcript")
        call.box.fathom.act("acme", "edit", made | {"title": "Unseen", "completed": True, "item": "Unseen"})
        call.box.world.clock.advance(timedelta(minutes=2))
        call.box.fathom.act("acme", action, made)
        one = self.held(call)["meetings"][number]
        assert (one["title"], one["default_summary"]) == ("Seen", None)
        assert [item["description"] for item in one["action_items"]] != []
        assert "Unseen" not in {item["description"] for item in one["action_items"]}
        assert self.held(call)["transcripts"][number]["transcript"]

    async def test_what_was_never_served_before_it_vanished_is_not_held(self, caller):
        call = await caller()
        made = call.box.fathom.act("acme", "add", {"user": 1})
        call.box.fathom.act("acme", "unshare", made)
        assert str(made["recording_id"]) not in self.held(call)["meetings"]
