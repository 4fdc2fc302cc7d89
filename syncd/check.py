"""What a vendor says of a connection when it is asked, and which of its limits hold as far as we know."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from syncd.errors import LeaseLost, RateLimited, SealError, SourceError
from syncd.memory import remembered
from syncd.policy import OK
from syncd.source import Known, Owner, Report
from syncd.store.connections import is_other

if TYPE_CHECKING:
    from collections.abc import Iterable

    from syncd.bucket import Budget
    from syncd.daemon import Parts
    from syncd.plan import Plan
    from syncd.source import Regime
    from syncd.store import Connection

_OTHER = "give it that account's credentials, or keep these for good with `syncd connect --force`"


async def asked(parts: Parts, connection: Connection) -> Report:
    """What the vendor says of a connection. Whose account it is is stored where nobody knew it yet.

    One that waits for a person, and of which nothing is wrong any more, is read again from now on.
    """
    plan = parts.engine.plans[connection.source]
    try:
        credentials = parts.vault.open(connection.id, connection.sealed)
        link = parts.engine.runs.link(plan, connection, credentials)
        async with remembered(link, parts.store), plan.source.connect(link) as api:
            report, owner = await plan.source.check(api), Owner("")
            with suppress(SourceError):  # then nobody knows; what is wrong, the report says
                owner = await plan.source.owner(api) if plan.source.owner else owner
    except LeaseLost:
        return Report("not reached", problems=[("its credentials were replaced meanwhile", "check again")])
    except (SourceError, SealError) as error:
        hint = error.hint if isinstance(error, SourceError) else ""
        if isinstance(error, RateLimited):
            hint = f"the vendor asks to wait {error.retry_after_s or 60:.0f} s; check again then"
        hint = hint or f"see the README's part on {connection.source}"
        return Report("not reached", problems=[(str(error), hint)])
    theirs = partial(parts.vault.same, connection.id, parts.vault.seal(connection.id, link.credentials))
    if is_other(connection.identity, owner.identity):
        what = f"the credentials are of another account ({owner.identity}) than was connected ({connection.identity})"
        report = replace(report, problems=[*report.problems, (what, _OTHER)])
    elif owner.identity and not connection.identity:
        await parts.store.connections.identify(connection.id, owner.identity, theirs)
    if not report.problems and connection.status != OK and await parts.store.connections.mended(connection.id, theirs):
        report = replace(report, facts=[*report.facts, "it waited for a person; it is read again at the next turn"])
    found = regime(plan, connection, await parts.store.budgets.of(link.credential))
    return replace(report, facts=[*report.facts, f"limits: {found.words}"]) if found else report


def regime(plan: Plan, connection: Connection, budgets: Iterable[Budget]) -> Regime | None:
    """Which limits hold for a connection, without asking its vendor; None where they never differ.

    ``budgets``: what the store holds of its credential (`plan.budget`).
    """
    if plan.source.regime is None:
        return None
    held = {one.name: one for one in budgets if one.name in plan.rates}
    return plan.source.regime(
        Known(
            rates=plan.rates,
            low_rates=plan.low_rates,
            low_s={name: one.low_s for name, one in held.items() if one.low_s and name in plan.low_rates},
            used={name: max(one.counted(plan.rates[name]), one.most_drawn()) for name, one in held.items()},
            settings=connection.settings,
            options=plan.options,
        )
    )
