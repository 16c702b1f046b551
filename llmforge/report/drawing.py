"""Pictures of runs as SVG: lines over steps, parallel coordinates, bars.

In: numbers and labels. Out: `Markup` to be set into a page, or `standalone` for a file of its own.
Every text is escaped here. Colours are the page's (`templates/style.css`), named by class, so one
picture serves light and dark; a line of a run carries `data-run`, by which the page's script finds
it. Nothing here decides what is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from markupsafe import Markup, escape

from llmforge.report.scales import Linear, Scale

TEMPLATES = Path(__file__).parent / "templates"

WIDTH, HEIGHT = 480.0, 280.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 12.0, 26.0, 34.0
"""Room around a diagram for what is written there, in the units of the picture."""

MOST_POINTS = 240
"""Points of one line; longer ones are thinned, extremes kept."""


@dataclass(frozen=True)
class Line:
    """One run in a diagram."""

    label: str
    points: Mapping[int, float]
    run: str = ""
    """Identity for the page's script; lines of one run carry the same in every picture."""
    rank: float = 0.0
    """0 for the best run, 1 for the last: decides the colour."""
    best: bool = False
    series: int | None = None
    """Colour of a series instead of a rank."""
    marks: bool = False
    """Show each point: measured now and then."""


@dataclass(frozen=True)
class Axis:
    """One axis of parallel coordinates."""

    name: str
    scale: Scale
    values: Mapping[str, str | float] = field(default_factory=dict)
    """Run -> where it goes through."""


def lines(title: str, drawn: Sequence[Line]) -> Markup:
    """A diagram over optimizer steps; empty when there is nothing to draw."""
    finite = [(line, _finite(line.points)) for line in drawn]
    finite = [(line, points) for line, points in finite if points]
    if not finite:
        return Markup()
    across = Linear.over([step for _, points in finite for step in points])
    up = Linear.over([value for _, points in finite for value in points.values()])
    parts = [_text(LEFT, 14, title, "title"), *_grid(across, up)]
    # the best is drawn last, over the others
    for line, points in sorted(finite, key=lambda pair: (pair[0].best, -pair[0].rank)):
        places = [(_x(across.place(step)), _y(up.place(value))) for step, value in thinned(points)]
        parts.append(_path(line, places))
    parts.append(_text(WIDTH - RIGHT, HEIGHT - 4, "optimizer step", "tick", "end"))
    return _svg(parts, WIDTH, HEIGHT, title)


def parallel(title: str, axes: Sequence[Axis], drawn: Sequence[Line]) -> Markup:
    """One vertical axis for each setting and figure, one line through them for each run."""
    if len(axes) < 2 or not drawn:
        return Markup()
    top, bottom = 40.0, 250.0
    gap = max(150.0, min(240.0, 900.0 / (len(axes) - 1)))  # fills a wide page, never crowds
    width = 60 + gap * (len(axes) - 1) + 110
    places = {axis.name: 60 + gap * number for number, axis in enumerate(axes)}
    parts = []
    for line in sorted(drawn, key=lambda one: (one.best, -one.rank)):
        points = []
        for axis in axes:
            share = axis.scale.place(axis.values.get(line.run))
            if share is not None:
                points.append((places[axis.name], bottom - share * (bottom - top)))
        if len(points) > 1:
            parts.append(_path(line, points))
    for axis in axes:
        x = places[axis.name]
        parts.append(Markup('<line class="axis" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(
            _n(x), _n(top - 6), _n(bottom + 6)))  # fmt: skip
        parts.append(_text(x, 18, _cut(axis.name, 20), "title", "middle", axis.name))
        for share, text in axis.scale.ticks():
            y = bottom - share * (bottom - top)
            parts.append(_text(x + 6, y + 4, _cut(text, 16), "tick halo", whole=text))
    return _svg(parts, width, bottom + 16, title, "wide")


def bars(title: str, shares: Mapping[str, float]) -> Markup:
    """One bar for each name; the longest is full."""
    if not shares:
        return Markup()
    top = max(shares.values()) or 1.0
    step, parts = 26.0, []
    for number, (name, share) in enumerate(shares.items()):
        y = number * step
        parts.append(_text(150, y + 16, _cut(name, 22), "label", "end", name))
        parts.append(
            Markup('<rect class="bar" x="160" y="{}" width="{}" height="14" rx="2"/>').format(
                _n(y + 5), _n(max(1.0, 250 * share / top))
            )
        )
        parts.append(_text(166 + 250 * share / top, y + 16, f"{share:.2f}", "tick"))
    return _svg(parts, WIDTH, step * len(shares) + 4, title)


def standalone(picture: Markup) -> str:
    """The picture as a file of its own, with the page's colours."""
    style = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    head = '<svg xmlns="http://www.w3.org/2000/svg"'
    text = str(picture).replace("<svg", head, 1)
    return text.replace(">", f"><style>{style}</style>", 1)


def thinned(points: Mapping[int, float], most: int = MOST_POINTS) -> list[tuple[int, float]]:
    """The points in order; of many, lowest and highest of each of `most / 2` stretches."""
    known = sorted(points.items())
    if len(known) <= most:
        return known
    stretches = most // 2
    kept: list[tuple[int, float]] = [known[0]]
    for number in range(stretches):
        part = known[number * len(known) // stretches : (number + 1) * len(known) // stretches]
        ends = {min(part, key=lambda pair: pair[1]), max(part, key=lambda pair: pair[1])}
        kept += sorted(ends)
    return list(dict.fromkeys([*kept, known[-1]]))


def _grid(across: Linear, up: Linear) -> Iterable[Markup]:
    floor = HEIGHT - BOTTOM
    for share, text in up.ticks():
        y = _y(share)
        yield Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
            _n(LEFT), _n(WIDTH - RIGHT), _n(y), _n(y)
        )
        yield _text(LEFT - 6, y + 4, text, "tick", "end")
    for share, text in across.ticks():
        if "." not in text:  # there is no half step
            yield _text(_x(share), floor + 16, text, "tick", "middle")
    yield Markup('<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
        _n(LEFT), _n(WIDTH - RIGHT), _n(floor), _n(floor)
    )


def _path(line: Line, places: Sequence[tuple[float, float]]) -> Markup:
    drawn = "M" + "L".join(f"{_n(x)} {_n(y)}" for x, y in places)
    kind = f"line series{line.series}" if line.series is not None else "line"
    if line.best:
        kind += " best"
    found = Markup('<g data-run="{}" style="--rank:{}"><title>{}</title>').format(
        line.run, _n(line.rank), line.label
    )
    found += Markup('<path class="{}" d="{}"/>').format(kind, drawn)
    if line.marks or len(places) == 1:
        for x, y in places[:60]:
            found += Markup('<circle class="{}" cx="{}" cy="{}" r="2.5"/>').format(
                kind.replace("line", "mark"), _n(x), _n(y)
            )
    # a wide line that nobody sees is what a finger can hit
    found += Markup('<path class="touch" d="{}"/></g>').format(drawn)
    return found


def _svg(
    parts: Sequence[Markup], width: float, height: float, title: str, kind: str = ""
) -> Markup:
    head = Markup(
        '<svg class="plot {}" viewBox="0 0 {} {}" width="{}" height="{}" role="img" '
        'aria-label="{}">'
    ).format(kind, _n(width), _n(height), _n(width), _n(height), title)
    return head + Markup("").join(parts) + Markup("</svg>")


def _text(
    x: float, y: float, text: str, kind: str, anchor: str = "start", whole: str = ""
) -> Markup:
    hover = Markup("<title>{}</title>").format(whole) if whole and whole != text else Markup()
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}{}</text>').format(
        kind, _n(x), _n(y), anchor, escape(text), hover
    )


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}\u2026"


def _finite(points: Mapping[int, float]) -> dict[int, float]:
    return {step: value for step, value in points.items() if math.isfinite(value)}


def _x(share: float | None) -> float:
    return LEFT + (share or 0.0) * (WIDTH - LEFT - RIGHT)


def _y(share: float | None) -> float:
    return HEIGHT - BOTTOM - (share or 0.0) * (HEIGHT - TOP - BOTTOM)


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
