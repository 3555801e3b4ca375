"""Polylines that people and vehicles follow at a constant pace, many at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Path:
    """A way on the ground.

    Attributes:
        points: At least two corners, (x, y) in metres.
        speed_mps: Pace along it.
        start_m: How far along it things are at time 0.
        closed: Whether it leads back to its first corner; an open one is walked to and fro.
        height_m: Height of the ground.
        corner_m: Over which length a corner is turned.
    """

    points: tuple[tuple[float, float], ...]
    speed_mps: float
    start_m: float = 0.0
    closed: bool = False
    height_m: float = 0.0
    corner_m: float = 0.35

    @property
    def length_m(self) -> float:
        """Length from the first corner to the last, or around."""
        corners = np.array(self.points + self.points[:1] if self.closed else self.points)
        return float(np.hypot(*np.diff(corners, axis=0).T).sum())


class Paths:
    """Where many paths lead at a time; computed for all of them at once."""

    def __init__(self, paths: Sequence[Path]) -> None:
        rings = [np.array(p.points + p.points[:1] if p.closed else p.points) for p in paths]
        most = max((len(ring) for ring in rings), default=2)
        self.num_paths = len(paths)
        self._corners = np.zeros((len(paths), most, 2))
        self._knots = np.full((len(paths), most), np.inf)
        for row, ring in enumerate(rings):
            self._corners[row, : len(ring)], self._corners[row, len(ring) :] = ring, ring[-1]
            steps = np.hypot(*np.diff(ring, axis=0).T)
            self._knots[row, : len(ring)] = np.concatenate([[0], np.cumsum(steps)])
        self._length = np.array([p.length_m for p in paths]).reshape(-1)
        self._speed = np.array([p.speed_mps for p in paths]).reshape(-1)
        self._start = np.array([p.start_m for p in paths]).reshape(-1)
        self._closed = np.array([p.closed for p in paths], bool)
        self._corner = np.array([p.corner_m for p in paths]).reshape(-1)
        self.height_m = np.array([p.height_m for p in paths]).reshape(-1)

    def at(self, time_s: float) -> tuple[Float64, Float64, Float64]:
        """Positions (N, 2), headings in radians (N,), metres gone since time 0 (N,)."""
        gone = self._speed * time_s
        here = self._start + gone
        ahead, behind = self._look_up(here + self._corner), self._look_up(here - self._corner)
        step = ahead - behind
        return self._look_up(here), np.arctan2(step[:, 1], step[:, 0]), gone

    def _look_up(self, s: Float64) -> Float64:
        """Points at a length along each path, wrapped or folded back at its ends."""
        length = self._length
        folded = np.abs((s + length) % (2 * length) - length)
        s = np.where(self._closed, s % length, folded)
        row = np.arange(self.num_paths)
        at = np.clip((s[:, None] >= self._knots[:, 1:]).sum(1), 0, self._knots.shape[1] - 2)
        start, stop = self._knots[row, at], self._knots[row, at + 1]
        share = np.where(np.isfinite(stop), (s - start) / np.maximum(stop - start, 1e-9), 0.0)
        a, b = self._corners[row, at], self._corners[row, at + 1]
        result: Float64 = a + (b - a) * share[:, None]
        return result
