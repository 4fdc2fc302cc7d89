"""Gong: calls with their people, summaries and transcripts, through the public API v2 (https://api.gong.io/v2).

What is peculiar to it:

- "Nothing found" is a 404 with a sentence of its own; any other 404 is a wrong host or path. A key that may see nothing
  gets that same sentence, so a first empty window is checked against the list of users.
- The only filter is a call's start. Nothing says when a call changed or that it was deleted, and calls appear late:
  every cycle reads its window again, and a sweep a wider one. What changes before that window is not seen.
- Transcripts and AI content come later than their call: it waits in the backlogs of ``transcripts`` and ``content``
  for at most ``content_wait``.
- A page token (Gong: cursor) goes into the query of a GET and the body of a POST; it lives an hour from the first page.
- ``duration`` is in seconds, a transcript's times are in milliseconds, ids are text of up to 20 digits.
- A refresh token is good for one use. OAuth accounts live on the host that the token reply names.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from syncd.errors import AuthError, Misconfigured, Rejected
from syncd.records import Meeting
from syncd.source import Page, Report, Setting, Source, Stream
from syncd.sources.gong_account import OAUTH, owner, regime
from syncd.sources.gong_api import SELECTOR, Api, Rows, connect, iso
from syncd.sources.gong_calls import id_text, moment, person, text
from syncd.sources.gong_content import content, transcripts
from syncd.sources.gong_history import audit_meetings, audit_transcripts, backfill, backfilled, estimate
from syncd.sources.gong_window import Mark, gone, slices, spaces, window

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from syncd.source import Since

_PEOPLE_EVERY = timedelta(hours=1)  # users have no "changed since": all are read each time


async def _people(api: Api, since: Since) -> AsyncIterator[Page]:
    last_read = moment(since.cursors.get(""))
    if last_read and since.now - last_read <= _PEOPLE_EVERY and not since.sweep:
        return
    async with aclosing(api.pages("users", "users")) as pages:
        async for rows, last in pages:
            people = [one for row in rows if (one := person(row)).external_id]
            yield Page(records=people, cursor=iso(since.now) if last else None)


async def _meetings(api: Api, since: Since) -> AsyncIterator[Page]:
    """The window of each workspace. A run that was cut in it goes on there; a sweep is not begun twice."""
    unproven, end = not since.cursors, since.now.replace(microsecond=0)  # Gong documents whole seconds
    if since.sweep and api.link.settings.get("skip_private", True):
        # The setting may be new: what was stored before it is not in any window.
        private = await since.held.select(Meeting, is_private=True)
        if private:
            yield Page(deletions=await gone(since, private))
    for space in spaces(api):
        mark = Mark.of(since.cursors.get(space))
        start, swept_at = min(mark.read_to or end, end - since.cycle_lookback), mark.swept_at
        if since.sweep and _sweeps(mark, since):
            start, swept_at = min(start, since.sweep_from(mark.swept_at).replace(microsecond=0)), since.now
        elif mark.halfway and mark.read_to:
            start = mark.read_to
        for begin, until in slices(start, end):
            async with aclosing(window(api, since, begin, until, space, prove=unproven)) as pages:
                async for page, covered in pages:
                    cursor = str(Mark(covered, swept_at, covered < end)) if covered else None
                    yield replace(page, partition=space, cursor=cursor)
            unproven = False


def _sweeps(mark: Mark, since: Since) -> bool:
    """Whether this run sweeps a workspace: it did not since that is due, or was done a day ago and never ended well."""
    if not (mark.swept_at and since.sweep_due_at and mark.swept_at >= since.sweep_due_at):
        return True
    return not mark.halfway and since.now - mark.swept_at >= since.cycle_lookback


async def _check(api: Api) -> Report:
    """Asks once for each thing that a run reads. Raises `SourceError` only for what passes by itself."""
    facts, problems, seen = list[str](), list[tuple[str, str]](), dict[str, Rows]()
    now = api.link.now()
    day = {"filter": {"fromDateTime": iso(now - timedelta(days=1)), "toDateTime": iso(now)}}
    for path, rows_key, body in (
        ("users", "users", None),
        ("workspaces", "workspaces", None),
        ("calls/extensive", "calls", {**day, "contentSelector": SELECTOR}),
        ("calls/transcript", "callTranscripts", day),
    ):
        try:
            seen[path], _, total = await api.ask(path, rows_key, body)
            facts.append(f"{path}: {int(total or len(seen[path]))}{' in the last 24 hours' if body else ''}")
        except (AuthError, Misconfigured, Rejected) as error:
            problems.append((f"{path}: {error.message}", error.hint or "the request itself was refused"))
    spaces = {id_text(row.get("id")): text(row.get("name")) or "unnamed" for row in seen.get("workspaces", ())}
    facts += [f"workspace {space}: {name}" for space, name in spaces.items()]
    if seen.get("users") == []:
        problems.append(("no user is visible", "widen the access; check that base_url is the account's host"))
    unseen = set(api.link.settings.get("workspace_ids") or ()).difference(spaces) if "workspaces" in seen else ()
    problems += [(f"workspace {one} is not visible", "correct workspace_ids or widen the access") for one in unseen]
    emails = [email for row in seen.get("users", ()) if (email := person(row).email) and "@" in email]
    return Report(f"Gong, {emails[0].rpartition('@')[2] if emails else 'company unknown'}", facts, problems)


_COMPLETING = (Stream("transcripts", transcripts, completes=True), Stream("content", content, completes=True))

SOURCE = Source(
    name="gong",
    connect=connect,
    streams=(Stream("meetings", _meetings), *_COMPLETING, Stream("people", _people)),
    counts=Meeting,
    total_name="total_ingested",
    credentials=(
        frozenset({"access_key", "access_key_secret"}),
        frozenset({"access_token", "refresh_token", "client_id", "client_secret"}),
    ),
    settings={
        "workspace_ids": Setting(lambda ids: isinstance(ids, list) and all(map(text, ids)), "a list of ids as text"),
        "skip_private": Setting(lambda value: isinstance(value, bool), "true or false"),
    },
    check=_check,
    owner=owner,
    regime=regime,
    oauth=OAUTH,
    backfill=(Stream("backfill", backfill), *_COMPLETING, Stream("backfill", backfilled)),
    estimate=estimate,
    audit=(Stream("people", _people), Stream("meetings", audit_meetings), Stream("transcripts", audit_transcripts)),
)
