"""Small line charts as SVG, and numbers as people read them, for the Dagster UI: no plotting package."""

import base64
import itertools
import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

_WIDTH_PX, _HEIGHT_PX = 560, 150
_LEFT_PX, _RIGHT_PX, _TOP_PX, _BOTTOM_PX = 70, 12, 26, 24
_INK, _LINE, _GRID = "#444", "#2a6fdb", "#ddd"
# dagster-webserver 1.13, MarkdownMetadataEntry: what is shorter stands in the table itself, not behind a click
_SHOWN_AT_ONCE = 1000
_MOST_POINTS, _LEAST_POINTS = 64, 8
_SMALL_WIDTH_PX, _SMALL_HEIGHT_PX, _SMALL_LEFT_PX, _SMALL_TOP_PX = 420, 96, 48, 18
_COLOURS = ("#26d", "#d52", "#294", "#a3b", "#b80", "#088")


def line_chart(title: str, labels: Sequence[str], values: Sequence[float | None]) -> str:
    """One line over labelled points as an SVG picture; points without a value leave a gap.

    Args:
        title: What is drawn, with its unit.
        labels: Under the first and the last point; all of them are tooltips.
        values: One a label, zero or more.

    Returns:
        The SVG element.

    Raises:
        ValueError: If there are not as many labels as values.
    """
    points = _points(values)
    if len(labels) != len(values):
        raise ValueError(f"{len(labels)} labels and {len(values)} values; expected as many.")
    top = max((value for value in values if value is not None), default=0.0)
    segments = _segments(points)
    lines = [
        f'<polyline fill="none" stroke="{_LINE}" stroke-width="2" points="'
        + " ".join(f"{x:.1f},{y:.1f}" for x, y in segment)
        + '"/>'
        for segment in segments
    ]
    dots = [
        f'<circle cx="{point[0]:.1f}" cy="{point[1]:.1f}" r="2.5" fill="{_LINE}">'
        f"<title>{escape(label)}: {value:.4g}</title></circle>"
        for label, value, point in zip(labels, values, points, strict=True)
        if point is not None and value is not None
    ]
    floor = _HEIGHT_PX - _BOTTOM_PX
    text = f'font-family="sans-serif" font-size="11" fill="{_INK}"'
    ends = [
        f'<text x="{x}" y="{_HEIGHT_PX - 6}" text-anchor="{anchor}" {text}>{escape(label)}</text>'
        for x, anchor, label in (
            (_LEFT_PX, "start", labels[0] if labels else ""),
            (_WIDTH_PX - _RIGHT_PX, "end", labels[-1] if len(labels) > 1 else ""),
        )
    ]
    rules = [
        f'<line x1="{_LEFT_PX}" x2="{_WIDTH_PX - _RIGHT_PX}" y1="{y}" y2="{y}" stroke="{_GRID}"/>'
        f'<text x="{_LEFT_PX - 6}" y="{y + 4}" text-anchor="end" {text}>{value:.4g}</text>'
        for y, value in ((_TOP_PX, top), (floor, 0.0))
    ]
    return "".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH_PX} {_HEIGHT_PX}" ',
            f'width="{_WIDTH_PX}" height="{_HEIGHT_PX}"><rect width="100%" height="100%" fill="#fff"/>',
            f'<text x="{_LEFT_PX}" y="15" {text} font-weight="bold">{escape(title)}</text>',
            *rules,
            *lines,
            *dots,
            *ends,
            "</svg>",
        )
    )


def small_curves(curves: Mapping[str, Sequence[float]], *, under: str, alt: str) -> str:
    """Curves in one picture, from their lowest to their highest value, as Markdown that the UI shows at once.

    Neighbouring points are averaged until the picture is short enough; what is noise in a loss goes with it.
    So many curves that even few points are too long are shown behind a click.

    Args:
        curves: Values from left to right, by what stands above in the curve's colour.
        under: What the horizontal axis is, in words.
        alt: Words in the place of the picture.

    Returns:
        Empty if there are no values.
    """
    full = {name: values for name, values in curves.items() if len(values)}
    text = ""
    for most in range(_MOST_POINTS, _LEAST_POINTS - 1, -4) if full else ():
        svg = _small_svg({name: _thinned(values, most) for name, values in full.items()}, under)
        text = svg_as_markdown(svg, alt=alt)
        if len(text) < _SHOWN_AT_ONCE:
            break
    return text


def readable(value: float) -> float:
    """A number with five significant digits, as a table shows it.

    Example:
        >>> readable(7.2365218408145155), readable(131581.0)
        (7.2365, 131580.0)
    """
    return float(f"{value:.5g}")


def svg_as_markdown(svg: str, *, alt: str) -> str:
    """A picture as Markdown that needs no server."""
    return f"![{alt}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"


def _thinned(values: Sequence[float], most: int) -> list[float]:
    """Means of neighbours, at most so many."""
    size = -(-len(values) // most)
    parts = [values[start : start + size] for start in range(0, len(values), size)]
    return [sum(part) / len(part) for part in parts]


def _small_svg(curves: Mapping[str, Sequence[float]], under: str) -> str:
    low = min(min(values) for values in curves.values())
    high = max(max(values) for values in curves.values())
    drawn, named, at_px = "", "", _SMALL_LEFT_PX
    for number, (name, values) in enumerate(curves.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        drawn += f'<path d="{_small_path(values, low, high)}" stroke="{colour}"/>'
        named += f'<text x="{at_px}" y="11" fill="{colour}">{escape(name)}</text>'
        at_px += 7 * len(name) + 14
    floor = _SMALL_HEIGHT_PX - 14
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_SMALL_WIDTH_PX} {_SMALL_HEIGHT_PX}" '
        f'width="{_SMALL_WIDTH_PX}" font-family="Arial" font-size="11">'
        f'<text y="{_SMALL_TOP_PX + 8}">{high:.4g}</text><text y="{floor}">{low:.4g}</text>'
        f'<text x="{_SMALL_LEFT_PX}" y="{_SMALL_HEIGHT_PX - 2}">{escape(under)}</text>'
        f'{named}<g fill="none">{drawn}</g></svg>'
    )


def _small_path(values: Sequence[float], low: float, high: float) -> str:
    """A line in whole pixels, each point told from the one before; one value alone is a level line."""
    level = [values[0], values[0]] if len(values) == 1 else values
    width = _SMALL_WIDTH_PX - _SMALL_LEFT_PX - 2
    height = _SMALL_HEIGHT_PX - 14 - _SMALL_TOP_PX
    places = [
        (
            round(_SMALL_LEFT_PX + width * index / (len(level) - 1)),
            round(_SMALL_TOP_PX + height * (high - value) / ((high - low) or 1.0)),
        )
        for index, value in enumerate(level)
    ]
    steps = [
        f"{x - before_x},{y - before_y}"
        for (before_x, before_y), (x, y) in itertools.pairwise(places)
    ]
    return f"M{places[0][0]},{places[0][1]}l{' '.join(steps)}"


def _points(values: Sequence[float | None]) -> list[tuple[float, float] | None]:
    """Places of the values, the highest at the top; None where there is no value."""
    top = max((value for value in values if value is not None), default=0.0) or 1.0
    width, height = _WIDTH_PX - _LEFT_PX - _RIGHT_PX, _HEIGHT_PX - _TOP_PX - _BOTTOM_PX
    step = width / max(1, len(values) - 1)
    return [
        None
        if value is None or not math.isfinite(value)
        else (_LEFT_PX + i * step, _TOP_PX + height * (1 - value / top))
        for i, value in enumerate(values)
    ]


def _segments(points: Sequence[tuple[float, float] | None]) -> list[list[tuple[float, float]]]:
    """Runs of points without a gap."""
    runs: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if point is None:
            runs.append([])
        else:
            runs[-1].append(point)
    return [run for run in runs if len(run) > 1]
