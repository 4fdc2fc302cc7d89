"""Every fault at every vendor, through the real engine: how the run ends, and that nothing is lost by it.

Each case has a workspace of its own, and all run in one cycle. Of faults that one code meets each vendor gets one, at
one of its calls; ``SYNCD_FAULTS=all`` takes each fault at each call of each vendor.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import replace

import pytest
import structlog

from syncd.sandbox.faults import KINDS
from syncd.sources import SOURCES
from tests.chaos.expected import (
    ABOUT_PAGES,
    AUTH,
    EXPECTED,
    LISTINGS,
    METHODS,
    ONE_OF_MANY,
    RENEWALS,
    SUCCEEDED,
    TRANSIENT,
    spent,
)  # fmt: skip
from tests.fault_field import Case, fields

NO_FAULT = {"slow", "400", "404"}  # a slow answer is good, these statuses mean something else at each vendor
ALL = os.environ.get("SYNCD_FAULTS") == "all"
SLOW = {"hang", "hang-body", "drip"}  # Gong's calls for many things at once would be tried five times
FAMILIES = (  # one code of ours meets them
    ("429", "429-date", "429-fraction", "429-absurd"),
    ("429-bare", "500", "502", "503"),
    ("503-html", "200-html", "200-empty", "truncated"),
    ("302",),
    ("401",),
    ("hang", "hang-body", "drip"),
    ("reset", "reset-body"),
    ("endless-body", "huge", "gzip-bomb"),
    ("deep", "deep-1000"),
    ("wrong-types", "nulls"),
    ("repeated-token", "endless-pages"),
    ("expired-cursor",),
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Shorter attempts and smaller bounds: what is cut off is cut off all the same. And no log lines to render."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    monkeypatch.setattr("syncd.http.ATTEMPT_S", 3.0)
    monkeypatch.setattr("syncd.net.BODY_LIMIT", 2**20)
    monkeypatch.setattr("syncd.listing.MOST_FRUITLESS", 5)
    yield
    structlog.reset_defaults()


def kinds(vendor: str) -> list[str]:
    """One of each family, another one at each vendor; or all."""
    at = list(SOURCES).index(vendor)
    return list(EXPECTED) if ALL else [family[at % len(family)] for family in FAMILIES]


def cases(vendor: str) -> Iterator[Case]:
    for turn, kind in enumerate(kinds(vendor), list(SOURCES).index(vendor)):
        methods = [one for one in METHODS[vendor] if one in LISTINGS or kind not in ABOUT_PAGES]
        at = 0 if kind in SLOW else turn % len(methods)
        for method in methods if ALL else methods[at : at + 1]:
            yield Case(kind, method, renews=method in RENEWALS, seconds=_seconds(kind))


def _seconds(kind: str) -> float:
    return 60.0 if kind in SLOW else 1.0


def test_the_table_of_outcomes_holds_every_fault() -> None:
    assert EXPECTED.keys() == KINDS.keys() - NO_FAULT
    assert sorted(kind for family in FAMILIES for kind in family) == sorted(EXPECTED)


@pytest.mark.parametrize("vendor", SOURCES)
async def test_each_fault_ends_its_run_as_stated_and_loses_nothing(vendor: str, sqlite_url: str) -> None:
    async with fields(vendor, sqlite_url, cases(vendor)) as field:
        await field.cycle()
        ends = {case: field.ends[one] for case, one in field.whose.items()}
        wrong = {case: end for case, end in ends.items() if end not in EXPECTED[case.kind].ends(vendor, case.method)}
        assert wrong == {}, {case: field.told[field.whose[case]] for case in wrong}
        assert {field.ends[one] for one in field.others} == {SUCCEEDED}, "the other workspaces meet nothing"

        await field.mended()
        lost = {one for case, one in field.whose.items() if spent(vendor, case.kind, case.method)}
        await field.reconnect(lost)
        await field.cycle()
        assert set(field.ends.values()) == {SUCCEEDED}, field.untold(set())
        assert await field.differences() == []


@pytest.mark.parametrize("vendor", SOURCES)
async def test_a_lost_answer_to_a_single_use_refresh_token_waits_for_a_person(vendor: str, sqlite_url: str) -> None:
    """The vendor has spent it. Google's serve again."""
    method = next(one for one in METHODS[vendor] if one in RENEWALS)
    async with fields(vendor, sqlite_url, [Case("reset", method, renews=True)], others=0) as field:
        await field.cycle()
        await field.mended()
        await field.cycle()
        end = next(field.ends[one] for one in field.whose.values())
        assert end == (AUTH if spent(vendor, "reset", method) else SUCCEEDED)


@pytest.mark.parametrize("vendor", SOURCES)
async def test_a_fault_that_passes_is_overcome_on_the_spot(vendor: str, sqlite_url: str) -> None:
    passing = [kind for kind in kinds(vendor) if EXPECTED[kind].passes]
    once = [Case(kind, METHODS[vendor][0], times=1, seconds=_seconds(kind)) for kind in passing[:: 1 if ALL else 2]]
    async with fields(vendor, sqlite_url, once, others=0, patience="30s") as field:
        await field.cycle()
        assert set(field.ends.values()) == {SUCCEEDED}, field.told
        assert field.box.world.breaches == [], "nobody asked before a Retry-After was over"
        assert await field.differences() == []


@pytest.mark.parametrize("vendor", SOURCES)
async def test_answers_of_other_forms_are_never_a_defect_of_ours(vendor: str, sqlite_url: str) -> None:
    """Some members of each answer, others for each seed, are null or of another type, at every call."""
    seeds = range(1, 40 if ALL else 3)
    odd = [Case(kind, "*", seed=seed) for kind in ("wrong-types", "nulls") for seed in seeds]
    if ALL:
        odd += [replace(case, method=method) for case in odd for method in ONE_OF_MANY & set(METHODS[vendor])]
    async with fields(vendor, sqlite_url, odd, others=1) as field:
        await field.cycle()
        assert set(field.ends.values()) <= {SUCCEEDED, TRANSIENT, ("failed", "auth")}, field.told
        await field.mended()
        await field.cycle()
        assert {end for one, end in field.ends.items() if one in field.others} == {SUCCEEDED}
        assert [line for line in await field.differences() if "missing" in line] == []


@pytest.mark.parametrize("vendor", SOURCES)
async def test_a_vendor_that_cannot_be_reached_is_a_passing_fault(vendor: str, sqlite_url: str) -> None:
    async with fields(vendor, sqlite_url, [], others=1) as field:
        plan, here = field.parts.engine.plans[vendor], field.box.base.removeprefix("http://")
        for there in ("http://nowhere.invalid", "http://127.0.0.1:1", f"https://{here}"):  # no name, no port, no TLS
            urls = {key: str(url) for key, url in plan.options.items() if key.endswith("url")}
            moved = {key: url.replace(f"http://{here}", there) for key, url in urls.items()}
            field.parts.engine.plans = {vendor: replace(plan, options={**plan.options, **moved})}
            await field.cycle()
            assert set(field.ends.values()) == {TRANSIENT}
            assert all("cannot connect" in words for words in field.told.values()), field.told
        field.parts.engine.plans = {vendor: plan}
        await field.mended()
        await field.cycle()
        assert await field.differences() == []
