"""Fathom (fathom.video, which records meetings): its external API, https://api.fathom.ai/external/v1.

It knows no "changed since", tells of no deletion, and shows to each user what is the user's own or shared with the
user. A meeting is listed seconds after its end; its parts follow. Nobody is told who they are, and the directory of
users is for admins: people are known as recorders and invitees only, so there is no stream of them.

Calls are in `fathom_api`, windows and the backfill in `fathom_windows`, the parts that come later in `fathom_details`,
what `syncd verify` asks in `fathom_audit`, the records in `fathom_meetings`.
"""

from __future__ import annotations

from contextlib import aclosing

from syncd.errors import Rejected
from syncd.records import Meeting
from syncd.source import Report, Setting, Source, Stream
from syncd.sources.fathom_account import OAUTH, owner, regime
from syncd.sources.fathom_api import Api, connect
from syncd.sources.fathom_audit import lately, older
from syncd.sources.fathom_details import details
from syncd.sources.fathom_meetings import fields, text
from syncd.sources.fathom_windows import backfill, backfilled, estimate, meetings, sweep


async def _check(api: Api) -> Report:
    """One light page of meetings and the teams. Transcripts and summaries are not tried, and that is said."""
    async with aclosing(api.listing()) as pages:
        meetings, last = await anext(pages)
    identity = f"Fathom by {'API key' if api.key else 'OAuth'} (it does not tell whose)"
    recorders = {name for one in meetings if (name := text(fields(one.get("recorded_by")).get("name")))}
    facts = [
        f"meetings seen: {len(meetings)}{'' if last else ' and more'}",
        f"recorded by: {', '.join(sorted(recorders)) or 'nobody'}",
        "transcripts and summaries were not tried",
    ]
    try:
        teams, _ = await api.page("teams", {}, None)  # they have no ids
    except Rejected as error:
        return Report(identity, facts, [(error.message, "ask an admin to let this user see the teams")])
    names = sorted(name for team in teams if (name := text(team.get("name"))))
    visible = f"visible teams: {', '.join(names) or 'none'}"
    unknown = [name for name in api.teams if name not in names]
    problems = [(f"team {name!r} is not visible", f"correct the setting teams; {visible}") for name in unknown]
    return Report(identity, [*facts, visible], problems)


SOURCE = Source(
    name="fathom",
    connect=connect,
    streams=(
        Stream("meetings", meetings),
        Stream("details", details, completes=True, watches=True),
        Stream("sweep", sweep),
    ),
    backfill=(
        Stream("backfill", backfill),
        Stream("details", details, completes=True),
        Stream("backfill", backfilled),
    ),
    estimate=estimate,
    audit=(Stream("meetings", lately), Stream("sweep", older)),
    counts=Meeting,
    total_name="total_ingested",
    credentials=(frozenset({"api_key"}), frozenset({"access_token", "refresh_token", "client_id", "client_secret"})),
    settings={
        "teams": Setting(lambda names: isinstance(names, list) and all(map(text, names)), "a list of team names")
    },
    check=_check,
    owner=owner,
    regime=regime,
    oauth=OAUTH,
)
