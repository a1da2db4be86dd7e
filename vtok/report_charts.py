"""Charts as inline SVG: they take the page's colours, so they are right in light and in dark, and stay sharp."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from vtok.report_html import Html, figure, join, tag

_WIDTH, _HEIGHT = 440.0, 250.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 12.0, 10.0, 40.0
Point = tuple[float, float]


class Series(NamedTuple):
    """One line of a chart.

    Attributes:
        name: in the legend.
        points: (x, y), x ascending.
        colour: 1 to 4, the page's palette.
        dashed: for marks and references.
        told: whether the legend carries its last value.
    """

    name: str
    points: list[Point]
    colour: int
    dashed: bool = False
    told: bool = True


class _Scale:
    """Maps data to the drawing's coordinates."""

    def __init__(self, x: Point, y: Point) -> None:
        self.x, self.y = x, y

    def at(self, point: Point) -> Point:
        across = (point[0] - self.x[0]) / (self.x[1] - self.x[0] or 1.0)
        up = (point[1] - self.y[0]) / (self.y[1] - self.y[0] or 1.0)
        return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)


def line_chart(title: str, caption: str, unit: str, lines: Sequence[Series], across: str = "step") -> Html:
    """Lines over training steps (or else), with a legend that carries the last values; nothing if there are no points.

    Args:
        title: what is shown, for the heading and for screen readers.
        caption: what to look for.
        unit: of the values.
        lines: the series; those without points are left out.
        across: what x is.
    """
    drawn = [line for line in lines if line.points]
    if not drawn:
        return Html("")
    ys = sorted(y for line in drawn for _, y in line.points)
    top = ys[-1]
    typical = ys[min(len(ys) - 1, int(0.97 * len(ys)))]
    if top - ys[0] > 4 * (typical - ys[0]) > 0:  # one early spike must not flatten everything after it
        top = typical
    ticks = nice_ticks(ys[0], top)
    xs = [x for line in drawn for x, _ in line.points]
    scale = _Scale((min(xs), max(xs)), (min(ticks[0], ys[0]), max(ticks[-1], top)))
    body = join([_grid(scale, ticks), _x_axis(scale, across), *[_line(scale, line, unit) for line in drawn]])
    legend = tag("ul", *[_legend(line, unit) for line in drawn], class_="legend")
    return _chart(title, caption, body, legend)


def usage_chart(title: str, caption: str, counts: Sequence[int]) -> Html:
    """How often codes occur, most frequent first, against the height that they would all have if used alike."""
    ordered = sorted(counts, reverse=True)
    size = max(1, math.ceil(len(ordered) / 128))
    groups = [ordered[i : i + size] for i in range(0, len(ordered), size)]
    total = max(1, sum(ordered))
    shares = [100 * sum(group) / len(group) / total for group in groups]
    ticks = nice_ticks(0.0, max(shares))
    scale = _Scale((0.0, float(len(ordered))), (0.0, max(ticks[-1], max(shares))))
    bars = []
    for number, share in enumerate(shares):
        left, top = scale.at((number * size, share))
        right, bottom = scale.at((min(len(ordered), (number + 1) * size), 0.0))
        gap = min(1.0, 0.2 * (right - left))
        bars.append(
            tag(
                "rect",
                class_="bar",
                x=f"{left:.1f}",
                y=f"{top:.1f}",
                width=f"{right - left - gap:.2f}",
                height=f"{bottom - top:.1f}",
            )
        )
    even = Series(
        "if all codes were used alike", [(0.0, 100 / len(ordered)), (len(ordered), 100 / len(ordered))], 2, True
    )
    body = join([_grid(scale, ticks), _x_axis(scale, "code, by frequency"), *bars, _line(scale, even, "%")])
    legend = tag("ul", _legend(even, "%"), class_="legend")
    return _chart(title, caption, body, legend)


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round values that cover low to high."""
    span = high - low
    if span <= 0:
        span = abs(high) or 1.0
        high = low + span
    raw = span / count
    base = 10.0 ** math.floor(math.log10(raw))
    step = next(base * factor for factor in (1, 2, 2.5, 5, 10) if base * factor >= raw * 0.999)
    start = math.floor(low / step + 1e-9)
    ticks = [start * step]
    while ticks[-1] < high - 1e-9 * span and len(ticks) < 20:
        ticks.append((start + len(ticks)) * step)
    return ticks


def number(value: float) -> str:
    """A value for people: four significant digits, thousands separated."""
    if value and abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def _chart(title: str, caption: str, body: Html, legend: Html) -> Html:
    svg = tag(
        "svg",
        tag("title", title),
        body,
        viewBox=f"0 0 {_WIDTH:.0f} {_HEIGHT:.0f}",
        role="img",
        aria_label=f"{title}. {caption}",
        class_="chart",
    )
    return figure(caption, tag("h3", title), legend, svg)


def _grid(scale: _Scale, ticks: list[float]) -> Html:
    parts = []
    for tick in ticks:
        x, y = scale.at((scale.x[0], tick))
        parts.append(tag("line", class_="grid", x1=x, y1=f"{y:.1f}", x2=_WIDTH - _RIGHT, y2=f"{y:.1f}"))
        parts.append(tag("text", number(tick), class_="tick", x=x - 7, y=f"{y + 4:.1f}", text_anchor="end"))
    return join(parts)


def _x_axis(scale: _Scale, name: str) -> Html:
    parts = []
    for tick in nice_ticks(*scale.x, count=4):
        if scale.x[0] <= tick <= scale.x[1] and abs(tick - round(tick)) < 1e-9:  # steps, codes and frames are whole
            x, y = scale.at((tick, scale.y[0]))
            parts.append(tag("text", number(tick), class_="tick", x=f"{x:.1f}", y=y + 17, text_anchor="middle"))
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(tag("text", name, class_="tick", x=middle, y=_HEIGHT - 4, text_anchor="middle"))
    return join(parts)


def _line(scale: _Scale, line: Series, unit: str) -> Html:
    places = [scale.at((x, min(y, scale.y[1]))) for x, y in line.points]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dashes = " dashed" if line.dashed else ""
    drawn = [tag("polyline", class_=f"line colour-{line.colour}{dashes}", points=points)]
    if len(line.points) == 1 or (len(line.points) <= 40 and not line.dashed):
        for (x, y), (left, top) in zip(line.points, places, strict=True):
            hover = tag("title", f"{line.name} at {number(x)}: {number(y)} {unit}".rstrip())
            drawn.append(
                Html(
                    f'<circle class="dot colour-{line.colour}" cx="{left:.1f}" cy="{top:.1f}" r="2.6">{hover}</circle>'
                )
            )
    return join(drawn)


def _legend(line: Series, unit: str) -> Html:
    swatch = tag("span", class_=f"swatch colour-{line.colour}{' dashed' if line.dashed else ''}", aria_hidden="true")
    last = [tag("b", f"{number(line.points[-1][1])} {unit}".rstrip())] if line.told else []
    return tag("li", swatch, f"{line.name} ", *last)
