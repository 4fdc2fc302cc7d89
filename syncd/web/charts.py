"""Pictures of what cycles and runs did, as inline SVG: pure, of bounded size, each with its words.

Colours are classes of style.css: the page's policy allows no style of their own.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from syncd.report import span

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

DAY = timedelta(hours=24)
BINS = 96  # a quarter of an hour each: a denser cron still gives a small picture
_LANE = 24
_RUNS = 20
_HEIGHT = {"succeeded": 10, "deferred": 10, "interrupted": 6, "failed": 16, "running": 16}


@dataclass(slots=True)
class _Bin:
    cycles: int = 0
    seconds: float = 0.0
    records: int = 0
    failed: int = 0
    running: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """``svg``: the picture. ``words``: the same in a sentence. ``lanes``: (name, its highest value in words)."""

    svg: Markup
    words: str
    lanes: Sequence[tuple[str, str]] = field(default_factory=tuple)


def day(source: str, cycles: Iterable[Mapping[str, Any]], now: datetime) -> Chart:
    """Duration, records and failed connections of a source's cycles of the last 24 hours, oldest first on the left.

    ``cycles``: rows with ``started_at``, ``finished_at`` (ISO 8601), ``total``, ``failed_workspaces``.
    """
    bins = _binned(cycles, now)
    words = _sentence(bins)
    lanes = (
        ("duration", [one.seconds for one in bins.values()], span),
        ("records", [float(one.records) for one in bins.values()], _number),
        ("failed", [float(one.failed) for one in bins.values()], _number),
    )
    parts, told = [], []
    for at, (name, values, shown) in enumerate(lanes):
        most, foot = max(values, default=0.0), (at + 1) * _LANE
        told.append((name, f"up to {shown(most)}" if most else "none"))
        parts.append(Markup('<path class="foot" d="M0 {0}H{1}"/>').format(foot, BINS))
        bars = "".join(
            f"M{x} {foot}v-{max(1.0, value / most * (_LANE - 3)):.1f}h.8V{foot}z"
            for x, value in zip(bins, values, strict=True)
            if value > 0
        )
        parts.append(Markup('<path class="{0}" d="{1}"/>').format(name, bars))
    hits = (
        f'<path class="hit" d="M{x} 0h1v{3 * _LANE}h-1z"><title>{_of_bin(x, one, now)}</title></path>'
        for x, one in bins.items()
    )
    parts.append(Markup("".join(hits)))  # noqa: S704 - numbers and words of ours
    head = Markup(
        '<svg class="day" viewBox="0 0 {0} {1}" preserveAspectRatio="none" role="img" aria-labelledby="{2}-t {2}-d">'
        '<title id="{2}-t">{3}, the last 24 hours</title><desc id="{2}-d">{4}</desc>'
    ).format(BINS, 3 * _LANE + 1, f"day-{source}", source, words)
    return Chart(head + Markup().join(parts) + Markup("</svg>"), words, told)


def _binned(cycles: Iterable[Mapping[str, Any]], now: datetime) -> dict[int, _Bin]:
    """Place → what the cycles that began in that quarter of an hour did, summed; the longest one's time."""
    bins: dict[int, _Bin] = {}
    for cycle in cycles:
        began = datetime.fromisoformat(cycle["started_at"])
        place = int((began - (now - DAY)) / (DAY / BINS))
        if not 0 <= place <= BINS:
            continue
        one = bins.setdefault(min(place, BINS - 1), _Bin())
        ended = datetime.fromisoformat(cycle["finished_at"]) if cycle["finished_at"] else now
        one.cycles += 1
        one.seconds = max(one.seconds, (ended - began).total_seconds())
        one.records += cycle["total"]
        one.failed += cycle["failed_workspaces"]
        one.running |= cycle["finished_at"] is None
    return dict(sorted(bins.items()))


def _sentence(bins: Mapping[int, _Bin]) -> str:
    if not bins:
        return "no cycle in the last 24 hours"
    cycles = sum(one.cycles for one in bins.values())
    longest = max(one.seconds for one in bins.values())
    records, failing = sum(one.records for one in bins.values()), [one.failed for one in bins.values() if one.failed]
    hours = "quarter hour" if len(failing) == 1 else "quarter hours"
    failed = f"failures in {len(failing)} {hours}, at most {max(failing)}" if failing else "no failure"
    of = "cycle" if cycles == 1 else "cycles"
    return f"{_number(cycles)} {of}, the longest took {span(longest)}; {_number(records)} records; {failed}"


def _of_bin(place: int, one: _Bin, now: datetime) -> str:
    at = now - DAY + (DAY / BINS) * place
    many = f", {one.cycles} cycles" if one.cycles > 1 else ", still running" if one.running else ""
    return f"{at:%H:%M}: {span(one.seconds)}, {_number(one.records)} records, {_number(one.failed)} failed{many}"


def runs(rows: Sequence[Mapping[str, Any]]) -> Markup:
    """The last runs of a connection as bars, the newest on the right. ``rows``: oldest first, each with ``status``.

    A failed run's bar is the highest, an interrupted one's the lowest: nobody needs to tell colours apart.
    """
    return _bar(tuple(row["status"] for row in rows[-_RUNS:]))


@lru_cache(maxsize=1000)  # most connections went the same ways
def _bar(ways: tuple[str, ...]) -> Markup:
    if not ways:
        return Markup('<span class="quiet">no run yet</span>')
    paths: dict[str, str] = {}
    for at, way in enumerate(ways):
        status = way if way in _HEIGHT else "interrupted"
        x = (_RUNS - len(ways) + at) * 4
        paths[status] = paths.get(status, "") + f"M{x} 16v-{_HEIGHT[status]}h3v{_HEIGHT[status]}z"
    drawn = Markup().join(Markup('<path class="{0}" d="{1}"/>').format(name, path) for name, path in paths.items())
    return Markup(
        '<svg class="runs" viewBox="0 0 80 16" role="img" aria-label="{0}"><title>{0}</title>{1}</svg>'
    ).format(_in_words(ways), drawn)


def _in_words(ways: Sequence[str]) -> str:
    """``last 20 runs: 18 succeeded, 2 failed; newest: failed``."""
    counts = Counter(ways)
    told = ", ".join(f"{count} {way}" for way, count in counts.items())
    of = f"last {len(ways)} runs" if len(ways) > 1 else "one run"
    return f"{of}: {told}; newest: {ways[-1]}" if len(counts) > 1 else f"{of}: {told}"


def _number(value: float) -> str:
    return f"{value:,.0f}"
