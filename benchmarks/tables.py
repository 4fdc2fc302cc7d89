"""What the command writes: tables in Markdown, and plots as SVG of a few lines of our own."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING

from benchmarks.measure import shown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

INK, FILL = ("#24292f", "#8b949e"), ("#2f6feb", "#d29922", "#3fb950", "#a371f7", "#f85149", "#57606a")
WIDTH, BAR, LEFT, RIGHT = 720, 22, 250, 90


@dataclass(slots=True)
class Bars:
    """One number for each name, on a logarithmic scale."""

    file: str
    title: str
    values: list[tuple[str, float]]

    def svg(self) -> str:
        values = [(name, value) for name, value in self.values if value > 0]
        low = math.floor(math.log10(min(value for _, value in values)))
        high = max(low + 1, *(math.log10(value) for _, value in values))
        height, parts = 40 + BAR * len(values), [_words(8, 20, self.title, bold=True)]
        for at, (name, value) in enumerate(values):
            top = 34 + at * BAR
            wide = (math.log10(value) - low) / (high - low) * (WIDTH - LEFT - RIGHT)
            parts += [
                _words(LEFT - 8, top + 13, name, anchor="end"),
                f'<rect x="{LEFT}" y="{top}" width="{max(wide, 1):.1f}" height="{BAR - 6}" fill="{FILL[0]}"/>',
                _words(LEFT + wide + 6, top + 13, shown(value)),
            ]
        return _drawn(height, parts)


@dataclass(slots=True)
class Curves:
    """Series of (x, y), both on a logarithmic scale."""

    file: str
    title: str
    x: str
    series: dict[str, list[tuple[float, float]]]

    def svg(self) -> str:
        points = [point for series in self.series.values() for point in series if min(point) > 0]
        spans = [(min(one), max(*one, min(one) * 2)) for one in zip(*points, strict=True)]
        height, box = 300, (70, 40, WIDTH - 300, 215)

        def place(x: float, y: float) -> tuple[float, float]:
            shares = [
                math.log(value / low) / math.log(high / low) for value, (low, high) in zip((x, y), spans, strict=True)
            ]
            return box[0] + shares[0] * box[2], box[1] + (1 - shares[1]) * box[3]

        parts = [_words(8, 20, self.title, bold=True), _words(box[0] + box[2] / 2, height - 8, self.x)]
        parts.append(
            f'<rect x="{box[0]}" y="{box[1]}" width="{box[2]}" height="{box[3]}" fill="none" stroke="{INK[1]}"/>'
        )
        left, low = spans[0][0], spans[1][0]
        parts += [_words(box[0] - 6, place(left, y)[1] + 4, shown(y), anchor="end") for y in spans[1]]
        bottom = box[1] + box[3] + 16
        parts += [_words(place(x, low)[0], bottom, shown(x), anchor="middle") for x in sorted({x for x, _ in points})]
        for number, (name, series) in enumerate(self.series.items()):
            colour = FILL[number % len(FILL)]
            placed = [place(*point) for point in series if min(point) > 0]
            line = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
            parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in placed]
            parts.append(_words(box[0] + box[2] + 10, box[1] + 14 + 18 * number, name, colour=colour))
        return _drawn(height, parts)


@dataclass(slots=True)
class Table:
    """``notes``: what a reader must know to trust the figures. ``plots``: drawn beside it."""

    title: str
    head: Sequence[str]
    rows: list[Sequence[object]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    plots: list[Bars | Curves] = field(default_factory=list)

    def markdown(self) -> str:
        lines = [f"## {self.title}", "", _row(self.head), _row(["---"] * len(self.head))]
        lines += [_row([str(cell) for cell in row]) for row in self.rows]
        for note in self.notes:
            lines += ["", note]
        for plot in self.plots:
            lines += ["", f"![{plot.title}](plots/{plot.file}.svg)"]
        return "\n".join(lines) + "\n"

    def write_plots(self, folder: Path) -> None:
        if self.plots:
            folder.mkdir(exist_ok=True)
        for plot in self.plots:
            (folder / f"{plot.file}.svg").write_text(plot.svg())


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _words(x: float, y: float, words: str, *, anchor: str = "start", bold: bool = False, colour: str = INK[0]) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"{weight}>{escape(words)}</text>'


def _drawn(height: int, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif"'
    ground = f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>'
    return "\n".join([f'{head} font-size="12">', ground, *parts, "</svg>"]) + "\n"
