"""How a source is run, and whose budget a connection draws on: values that the composition root takes from settings."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from syncd.limits import Rate
    from syncd.source import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A source and how it is run. ``slots``: runs at once.

    ``next_turn``: the first cron turn after a moment; ``last_turn``: the last one that is not after it.

    ``low_rates``: what the vendor may lower some of ``rates`` to, which then holds for ``low_for_s``.
    """

    source: Source
    slots: int
    lookback: timedelta
    sweep_every: timedelta | None
    sweep_lookback: timedelta
    run_timeout: timedelta
    patience_s: float
    options: Mapping[str, Any]
    rates: Mapping[str, Rate]
    next_turn: Callable[[datetime], datetime]
    last_turn: Callable[[datetime], datetime]
    low_rates: Mapping[str, Rate] = field(default_factory=dict)
    low_for_s: float = 0.0

    def halved(self) -> Plan:
        """The same with half of each limit, for a backfill: the regular cycles keep the other half."""
        return replace(self, rates=_halves(self.rates), low_rates=_halves(self.low_rates))

    def turns_ago(self, now: datetime, turns: int) -> datetime:
        """So many turns before the last one."""
        turn = self.last_turn(now)
        for _ in range(turns):
            turn = self.last_turn(turn - timedelta(seconds=1))
        return turn

    def limits(self, settings: Mapping[str, Any]) -> tuple[Mapping[str, Rate], Mapping[str, Rate]]:
        """The limits of a connection with these settings, and what the vendor may lower some of them to."""
        match settings.get("app_kind") or self.options.get("app_kind"):
            case "restricted":
                return {**self.rates, **self.low_rates}, {}
            case "full":
                return self.rates, {}
            case _:
                return self.rates, self.low_rates


def _halves(rates: Mapping[str, Rate]) -> Mapping[str, Rate]:
    return {name: rate.half() for name, rate in rates.items()}


def budget(source: Source, connection_id: int, credentials: Mapping[str, Any]) -> str:
    """Names the budget: connections with the same long-lived key share it; a token that changes cannot name one."""
    for form in source.credentials:
        if "refresh_token" not in form and "subject" not in form and all(credentials.get(name) for name in form):
            key = "/".join(str(credentials[name]) for name in sorted(form))
            return f"{source.name}/{hashlib.blake2b(key.encode(), digest_size=12).hexdigest()}"
    return f"{source.name}/{connection_id}"
