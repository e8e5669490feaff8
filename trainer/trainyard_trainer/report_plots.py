"""Line charts as inline SVG, coloured by the page's style sheet, so that dark mode and print work."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from trainyard_trainer.report_format import format_number

WIDTH, HEIGHT = 440, 250
LEFT, RIGHT, TOP, BOTTOM = 54, 12, 12, 34
MAXIMUM_POINTS = 400
"""Points per line; longer ones keep the smallest and largest of each bucket, so that spikes stay visible."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """One line of a chart."""

    label: str
    """Shown in the legend."""
    points: Sequence[Point]
    """(step, value); values that are not finite are left out."""
    style: str
    """Class in the style sheet: train, faint, evaluation or reference."""
    dots: bool = False
    """Whether each point gets a dot that tells its value."""


@dataclass(frozen=True)
class Axis:
    """The scale of one direction."""

    low: float
    high: float
    start: float
    """Place of `low`, in units of the drawing."""
    end: float
    """Place of `high`."""

    def place(self, value: float) -> float:
        """Where a value lies in the drawing."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def smoothed(points: Sequence[Point], half_life: float) -> list[Point]:
    """Weighted mean around each point, the weight halved with every `half_life` points to either side.

    It looks both ways, because a mean over the past alone lags behind a falling loss.

    Args:
        points: (step, value), by step.
        half_life: points, at least 1.
    """
    values = [value for _, value in points]
    before = _running_sums(values, half_life)
    after = _running_sums(values[::-1], half_life)[::-1]
    return [
        (step, (total + later_total - value) / (weight + later_weight - 1.0))
        for (step, value), (total, weight), (later_total, later_weight) in zip(
            points, before, after, strict=True
        )
    ]


def _running_sums(values: Sequence[float], half_life: float) -> list[tuple[float, float]]:
    """The decaying sum of the values up to each one, and of their weights."""
    keep = 0.5 ** (1 / half_life)
    total = weight = 0.0
    sums = []
    for value in values:
        total, weight = total * keep + value, weight * keep + 1.0
        sums.append((total, weight))
    return sums


def thinned(points: Sequence[Point], maximum: int = MAXIMUM_POINTS) -> list[Point]:
    """At most `maximum` points: the smallest and the largest of each of maximum / 2 equal buckets."""
    if len(points) <= maximum:
        return list(points)
    num_buckets = maximum // 2
    result: list[Point] = []
    for bucket in range(num_buckets):
        part = points[bucket * len(points) // num_buckets : (bucket + 1) * len(points) // num_buckets]
        extremes = {min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])}
        result += sorted(extremes)
    return result


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) between two values."""
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def line_chart(
    name: str, series: Sequence[Series], *, from_zero: bool = False, marks: Sequence[tuple[float, str]] = ()
) -> Markup | None:
    """A chart over optimizer steps, or None where there is nothing to draw.

    Args:
        name: what it shows, for readers who cannot see it.
        series: the lines, drawn in their order.
        from_zero: whether the value axis starts at 0.
        marks: (step, what happened), drawn as vertical lines.
    """
    drawn = [(line, [point for point in line.points if all(map(math.isfinite, point))]) for line in series]
    points = [point for line, part in drawn if line.style != "reference" for point in part]
    if not points:
        return None
    every_value = [value for _, part in drawn for _, value in part]
    steps = [step for step, _ in points]
    across = Axis(min(steps), max(*steps, min(steps) + 1), LEFT, WIDTH - RIGHT)
    low, high = (0.0 if from_zero else min(every_value)), max(every_value)
    margin = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    up = Axis(low if from_zero else low - margin, high + margin, HEIGHT - BOTTOM, TOP)
    parts = [_grid(across, up)]
    parts += [_mark(across, step, label) for step, label in marks if across.low <= step <= across.high]
    parts += [_line(line, part, across, up) for line, part in drawn if part]
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, name, Markup().join(parts)
    )


def _grid(across: Axis, up: Axis) -> Markup:
    parts = []
    for value in ticks(up.low, up.high):
        y = round(up.place(value), 1)
        parts.append(
            Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(LEFT, WIDTH - RIGHT, y, y)
            + Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(
                LEFT - 6, y + 4, format_number(value)
            )
        )
    parts += [
        Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(
            round(across.place(value), 1), HEIGHT - BOTTOM + 16, f"{value:,.0f}"
        )
        for value in ticks(across.low, across.high)
        if value == int(value)
    ]
    parts.append(
        Markup('<text x="{}" y="{}" text-anchor="end">step</text>').format(WIDTH - RIGHT, HEIGHT - 3)
    )
    return Markup().join(parts)


def _mark(across: Axis, step: float, label: str) -> Markup:
    x = round(across.place(step), 1)
    return Markup('<line class="mark" x1="{}" x2="{}" y1="{}" y2="{}"><title>{}</title></line>').format(
        x, x, TOP, HEIGHT - BOTTOM, label
    )


def _line(line: Series, points: Sequence[Point], across: Axis, up: Axis) -> Markup:
    shown = thinned(points)
    places = " ".join(f"{across.place(step):.1f},{up.place(value):.1f}" for step, value in shown)
    drawing = Markup('<polyline class="{}" points="{}"><title>{}</title></polyline>').format(
        line.style, places, line.label
    )
    if line.dots or len(shown) == 1:
        for step, value in shown:
            drawing += Markup('<circle class="{}" cx="{}" cy="{}" r="2.6"><title>{}</title></circle>').format(
                line.style,
                round(across.place(step), 1),
                round(up.place(value), 1),
                escape(f"step {step:,.0f}: {format_number(value)}"),
            )
    return drawing
