"""Small line charts as SVG, for the Dagster UI: no plotting package, a few hundred bytes a point."""

import base64
import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

_WIDTH_PX, _HEIGHT_PX = 560, 150
_LEFT_PX, _RIGHT_PX, _TOP_PX, _BOTTOM_PX = 70, 12, 26, 24
_INK, _LINE, _GRID = "#444", "#2a6fdb", "#ddd"


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


def svg_as_markdown(svg: str, *, alt: str) -> str:
    """A picture as Markdown that needs no server."""
    return f"![{alt}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"


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
