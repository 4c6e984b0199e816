"""Line charts as SVG, by hand: few shapes, exact text, the same bytes for the same figures."""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple
from xml.sax.saxutils import escape

WIDTH: Final = 480
HEIGHT: Final = 340
LEFT, RIGHT, TOP, BOTTOM = 64, 132, 40, 48
"""Room around a chart's plane, in pixels: numbers, the lines' names, a title, a scale."""
TICKS_MAX: Final = 8
LINE_GAP: Final = 13.0
"""Between two names at the right, at least."""
STYLE: Final = """
text { font: 12px system-ui, sans-serif; fill: #1f2328 }
.paper { fill: #ffffff }
.title { font-weight: 600; font-size: 13px }
.axis { stroke: #59636e } .grid { stroke: #d1d9e0 } .line { fill: none; stroke-width: 2 }
.c0 { stroke: #0969da; fill: #0969da } .c1 { stroke: #bc4c00; fill: #bc4c00 }
.c2 { stroke: #1a7f37; fill: #1a7f37 } .c3 { stroke: #8250df; fill: #8250df }
.c4 { stroke: #bf3989; fill: #bf3989 } .c5 { stroke: #59636e; fill: #59636e }
text.name { stroke: none }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .paper { fill: #0d1117 } .axis { stroke: #9198a1 } .grid { stroke: #3d444d }
.c0 { stroke: #4493f8; fill: #4493f8 } .c1 { stroke: #f0883e; fill: #f0883e }
.c2 { stroke: #3fb950; fill: #3fb950 } .c3 { stroke: #ab7df8; fill: #ab7df8 }
.c4 { stroke: #db61a2; fill: #db61a2 } .c5 { stroke: #9198a1; fill: #9198a1 }
}
"""
"""Its own ground, light or dark, so that it can be read on any page; colours that can be told
apart on both, and each line is named beside its end too.
"""
COLOURS: Final = 6


class Line(NamedTuple):
    name: str
    values: Sequence[float]
    """One an x, in the chart's unit; above 0 on a logarithmic scale."""


class Chart(NamedTuple):
    title: str
    unit: str
    x_name: str
    xs: Sequence[float]
    """Above 0: the scale is logarithmic."""
    lines: Sequence[Line]
    logarithmic: bool = False
    """The y scale; else it begins at 0."""


def page(charts: Sequence[Chart], columns: int) -> str:
    """Charts beside and below each other, as one SVG document."""
    rows = -(-len(charts) // columns)
    width, height = WIDTH * columns, HEIGHT * rows
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
        f"<title>{escape(', '.join(chart.title for chart in charts))}</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="paper" width="{width}" height="{height}"/>',
    ]
    for number, chart in enumerate(charts):
        row, column = divmod(number, columns)
        parts.append(f'<g transform="translate({column * WIDTH} {row * HEIGHT})">')
        parts += _chart(chart)
        parts.append("</g>")
    return "\n".join([*parts, "</svg>"]) + "\n"


def _chart(chart: Chart) -> list[str]:
    ticks = _ticks(chart)
    low, high = ticks[0], ticks[-1]
    plane = _Plane(chart, low, high)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = [_text(LEFT, TOP - 18, f"{chart.title}, {chart.unit}", "title", "start")]
    for tick in ticks:
        y = plane.y(tick)
        parts.append(_stroke(LEFT, y, right, y, "grid"))
        parts.append(_text(LEFT - 8, y + 4, short(tick), "", "end"))
    for x in chart.xs:
        parts.append(_stroke(plane.x(x), bottom, plane.x(x), bottom + 5, "axis"))
        parts.append(_text(plane.x(x), bottom + 19, short(x), "", "middle"))
    parts.append(_stroke(LEFT, bottom, right, bottom, "axis"))
    parts.append(_text((LEFT + right) / 2, HEIGHT - 10, chart.x_name, "", "middle"))
    for number, line in enumerate(chart.lines):
        colour = f"c{number % COLOURS}"
        points = [(plane.x(x), plane.y(y)) for x, y in zip(chart.xs, line.values, strict=True)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline class="line {colour}" style="fill:none" points="{path}"/>')
        parts += [f'<circle class="{colour}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in points]
    return parts + _names(chart, plane)


def _names(chart: Chart, plane: "_Plane") -> list[str]:
    """Each beside its line's end with the last value, moved apart where they would overlap."""
    ends = sorted((plane.y(line.values[-1]), n) for n, line in enumerate(chart.lines))
    parts, free = [], float(TOP - LINE_GAP)
    for y, number in ends:
        free = max(y, free + LINE_GAP)
        line = chart.lines[number]
        text = f"{line.name} {short(line.values[-1])}"
        x = WIDTH - RIGHT + 8
        parts.append(_text(x, free + 4, text, f"name c{number % COLOURS}", "start"))
    return parts


class _Plane:
    """Figures to pixels."""

    def __init__(self, chart: Chart, low: float, high: float) -> None:
        self._xs = (math.log10(chart.xs[0]), math.log10(chart.xs[-1]))
        self._log = chart.logarithmic
        self._ys = (self._scaled(low), self._scaled(high))

    def x(self, value: float) -> float:
        first, last = self._xs
        share = 0.5 if first == last else (math.log10(value) - first) / (last - first)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        low, high = self._ys
        share = (self._scaled(value) - low) / (high - low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self._log else value


def _ticks(chart: Chart) -> list[float]:
    values = [value for line in chart.lines for value in line.values]
    if chart.logarithmic:
        low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
        return [10.0**power for power in range(low, max(high, low + 1) + 1)]
    step = _step(max(values))
    return [step * number for number in range(math.ceil(max(values) / step) + 1)]


def _step(most: float) -> float:
    """1, 2 or 5 times a power of ten, so that four to eight of them reach `most`."""
    power: float = 10.0 ** math.floor(math.log10(most))
    steps = (step * power / 10 for step in (2, 5, 10, 20))
    return next(step for step in steps if most / step <= TICKS_MAX)


def short(value: float) -> str:
    """Three digits at most, thousands as k, M, G."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{float(f'{value / size:.3g}'):g}{letter}"
    return f"{float(f'{value:.3g}'):g}"


def _text(x: float, y: float, text: str, style: str, anchor: str) -> str:
    named = f' class="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{named} text-anchor="{anchor}">{escape(text)}</text>'


def _stroke(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line class="{style}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'
