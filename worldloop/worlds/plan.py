"""The plan of a world, seen from above: where one may walk, how far one sees, what is in the way."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Points = NDArray[np.float64]
EYE_M = 1.65


class Plan:
    """Bounds to stay in, and boxes and discs to stay out of. Metres, in world axes x and y.

    Example:
        >>> plan = Plan((0, 0), (10, 10))
        >>> plan.block_disc((5, 5), 1.0)
        >>> plan.distance([(5, 8), (1, 5)]).tolist()
        [2.0, 1.0]
    """

    def __init__(self, low: ArrayLike, high: ArrayLike) -> None:
        self.low, self.high = np.asarray(low, np.float64), np.asarray(high, np.float64)
        self._boxes: list[tuple[float, ...]] = []
        self._discs: list[tuple[float, ...]] = []
        self._poles: list[Points] = []
        self._arrays: tuple[Points, Points] | None = None

    def block_box(
        self, low: ArrayLike, high: ArrayLike, *, yaw_rad: float = 0.0, height_m: float = 3.0
    ) -> None:
        """Nobody walks into this box; `yaw_rad` turns it about its own centre.

        Args:
            low: Corner with the smallest x and y (further components are ignored).
            high: Opposite corner.
            yaw_rad: Counter-clockwise turn.
            height_m: Its top; boxes above eye height also block the view.
        """
        a, b = np.asarray(low, np.float64)[:2], np.asarray(high, np.float64)[:2]
        (cx, cy), (hx, hy) = (a + b) / 2, np.abs(b - a) / 2
        self._boxes.append((cx, cy, hx, hy, np.cos(yaw_rad), np.sin(yaw_rad), height_m))
        self._arrays = None

    def block_disc(self, at: ArrayLike, radius_m: float, *, height_m: float = 1.2) -> None:
        """Nobody walks into this disc, e.g. a trunk, a bin or somebody who stands."""
        x, y = np.asarray(at, np.float64)[:2]
        self._discs.append((x, y, radius_m, height_m))
        self._arrays = None

    def mark_pole(self, at: ArrayLike) -> None:
        """Something slim and tall stands here: no obstacle to the view, but ugly when near."""
        self._poles.append(np.asarray(at, np.float64)[:2])

    def pole_ahead(
        self, at: ArrayLike, headings_rad: ArrayLike, *, within_m: float, half_deg: float
    ) -> NDArray[np.bool_]:
        """Whether a marked pole stands near and within half an angle of view of each heading."""
        origin, rays = _origin_and_rays(at, headings_rad)
        away = np.array(self._poles, np.float64).reshape(-1, 2) - origin
        length = np.hypot(away[:, 0], away[:, 1])
        inside = rays @ away.T >= np.cos(np.radians(half_deg)) * length
        result: NDArray[np.bool_] = (inside & (length < within_m)).any(1)
        return result

    def distance(self, points: ArrayLike, *, bounded: bool = True) -> Points:
        """Metres to the nearest obstacle (negative inside), or to the edge of the bounds.

        Args:
            points: (N, 2).
            bounded: Whether the bounds count; they hold the player, not others who walk.
        """
        p = np.asarray(points, np.float64).reshape(-1, 2)
        boxes, discs = self._frozen()
        nearest = np.full(len(p), np.inf)
        if bounded:
            nearest = np.minimum(p - self.low, self.high - p).min(1)
        if len(boxes):
            local = np.abs(_into_boxes(p, boxes)) - boxes[:, 2:4]
            outside = np.hypot(*np.moveaxis(np.maximum(local, 0), -1, 0))
            nearest = np.minimum(nearest, (outside + np.minimum(local.max(-1), 0)).min(1))
        if len(discs):
            gap = np.hypot(*np.moveaxis(p[:, None] - discs[:, :2], -1, 0)) - discs[:, 2]
            nearest = np.minimum(nearest, gap.min(1))
        result: Points = nearest
        return result

    def walk_distance(
        self, at: ArrayLike, headings_rad: ArrayLike, *, margin_m: float = 0.6, limit_m: float = 30
    ) -> Points:
        """How far one can walk straight along each heading, keeping `margin_m` from everything."""
        origin, rays = _origin_and_rays(at, headings_rad)
        low, high = self.low + margin_m, self.high - margin_m
        with np.errstate(divide="ignore", invalid="ignore"):
            edge = np.where(rays > 0, (high - origin) / rays, (low - origin) / rays)
        edge = np.where(np.abs(rays) < 1e-9, limit_m, edge).min(1)
        boxes, discs = self._frozen()
        hit = _first_hit(origin, rays, boxes, discs, margin_m, limit_m)
        result: Points = np.clip(np.minimum(edge, hit), 0.0, limit_m)
        return result

    def view_distance(
        self, at: ArrayLike, headings_rad: ArrayLike, *, limit_m: float = 60
    ) -> Points:
        """How far one sees along each heading before something taller than the eyes."""
        origin, rays = _origin_and_rays(at, headings_rad)
        boxes, discs = self._frozen()
        tall_boxes, tall_discs = boxes[boxes[:, 6] > EYE_M], discs[discs[:, 3] > EYE_M]
        return _first_hit(origin, rays, tall_boxes, tall_discs, 0.0, limit_m)

    def pushed_out(self, point: Points, clearance_m: float) -> Points:
        """The point moved until it has `clearance_m` around it, as far as four small steps get."""
        step = 1e-3
        offsets = np.array([(0, 0), (step, 0), (-step, 0), (0, step), (0, -step)])
        for _ in range(4):
            here, right, left, up, down = self.distance(point + offsets)
            if here >= clearance_m:
                break
            slope = np.array([right - left, up - down])
            length = float(np.hypot(slope[0], slope[1]))
            if length < 1e-9:
                break
            point = point + slope / length * (clearance_m - here + 1e-4)
        return point

    def _frozen(self) -> tuple[Points, Points]:
        if self._arrays is None:
            self._arrays = (
                np.array(self._boxes, np.float64).reshape(-1, 7),
                np.array(self._discs, np.float64).reshape(-1, 4),
            )
        return self._arrays


def _into_boxes(points: Points, boxes: Points) -> Points:
    """Points in the axes of each box, (N, B, 2)."""
    d = points[:, None] - boxes[:, :2]
    c, s = boxes[:, 4], boxes[:, 5]
    return np.stack([c * d[..., 0] + s * d[..., 1], c * d[..., 1] - s * d[..., 0]], -1)


def _origin_and_rays(at: ArrayLike, headings_rad: ArrayLike) -> tuple[Points, Points]:
    heading = np.asarray(headings_rad, np.float64).reshape(-1)
    return np.asarray(at, np.float64)[:2], np.stack([np.cos(heading), np.sin(heading)], 1)


def _first_hit(
    origin: Points, rays: Points, boxes: Points, discs: Points, margin_m: float, limit_m: float
) -> Points:
    """Distance along each ray to the first box or disc grown by a margin, at most the limit."""
    nearest: Any = np.full(len(rays), float(limit_m))
    if len(boxes):
        nearest = np.minimum(nearest, _box_hits(origin, rays, boxes, margin_m, limit_m).min(1))
    if len(discs):
        away = discs[:, :2] - origin
        along = rays @ away.T
        miss = (away**2).sum(1) - along**2
        reach = (discs[:, 2] + margin_m) ** 2 - miss
        hit = along - np.sqrt(np.maximum(reach, 0))
        gone = (reach <= 0) | (along <= 0)
        nearest = np.minimum(nearest, np.where(gone, limit_m, np.maximum(hit, 0)).min(1))
    result: Points = nearest
    return result


def _box_hits(
    origin: Points, rays: Points, boxes: Points, margin_m: float, limit_m: float
) -> Points:
    """Slab test of every ray with every grown box, (R, B)."""
    start = _into_boxes(origin[None], boxes)[0]
    c, s = boxes[:, 4], boxes[:, 5]
    step = np.stack(
        [
            c * rays[:, :1] + s * rays[:, 1:],
            c * rays[:, 1:] - s * rays[:, :1],
        ],
        -1,
    )
    step = np.where(np.abs(step) < 1e-9, 1e-9, step)
    half = boxes[:, 2:4] + margin_m
    one, two = (-half - start) / step, (half - start) / step
    enter, leave = np.minimum(one, two).max(-1), np.maximum(one, two).min(-1)
    result: Points = np.where(
        (enter < leave) & (leave > 0), np.clip(enter, 0, limit_m), float(limit_m)
    )
    return result
