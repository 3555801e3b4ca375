"""Who walks where, decided after the player's track is known, so that nobody walks into the lens."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from worldloop.errors import ClipRejectedError
from worldloop.recipes import Shape
from worldloop.scenes.scene import Role
from worldloop.worlds.paths import Path, Paths
from worldloop.worlds.people import Troupe
from worldloop.worlds.world import Track

CAMERA_GAP_M, WALKER_GAP_M, WALL_GAP_M = 1.3, 0.9, 0.3
_SAMPLE_S = 0.125
_DRAWS, _ROUNDS = 40, 24
Route = Sequence[tuple[float, float]]


class Crowd:
    """Walkers of a world who keep clear of the camera, of walls and of each other."""

    def __init__(self, troupe: Troupe, track: Track, shape: Shape, *, ground_m: float = 0.0):
        self.troupe, self.plan, self.ground_m = troupe, troupe.stage.plan, ground_m
        self.times = np.arange(0, shape.duration_s + _SAMPLE_S, _SAMPLE_S)
        frames = np.clip(np.rint(self.times * shape.rate_fps), 0, shape.num_frames - 1)
        cameras = track.camera_to_world[frames.astype(int)]
        self.eyes, self.looks = cameras[:, :2, 3], cameras[:, :2, 2]
        self._taken: list[NDArray[np.float64]] = []

    def walk(
        self,
        role: Role,
        routes: Sequence[Route],
        *,
        rng: np.random.Generator,
        spread_m: float = 0.8,
        speed_mps: tuple[float, float] = (1.0, 1.5),
        closed: bool = False,
    ) -> list[int]:
        """Put all people of a role on routes, those in view first.

        Args:
            role: How many, and how they look.
            routes: Polylines to choose from.
            rng: Decides who walks where.
            spread_m: How far to the side of a route somebody may walk.
            speed_mps: Slowest and fastest pace.
            closed: Whether routes lead back to their start.

        Returns:
            Their instance ids.

        Raises:
            ClipRejectedError: If there is no room for all of them.
        """
        return [
            self.troupe.walk(
                role, self._find(role, routes, rng, spread_m, speed_mps, closed), rng=rng
            )
            for _ in range(role.count)
        ]

    def _find(
        self,
        role: Role,
        routes: Sequence[Route],
        rng: np.random.Generator,
        spread_m: float,
        speed_mps: tuple[float, float],
        closed: bool,
    ) -> Path:
        for _ in range(_ROUNDS):
            drawn = [self._draw(routes, rng, spread_m, speed_mps, closed) for _ in range(_DRAWS)]
            ways = Paths(drawn)
            tracks = np.stack([ways.at(float(t))[0] for t in self.times], 1)  # (draws, times, 2)
            score = self._score(tracks) + rng.uniform(0, 0.6, _DRAWS)
            best = int(np.argmax(score))
            if np.isfinite(score[best]):
                self._taken.append(tracks[best])
                return drawn[best]
        raise ClipRejectedError(
            "build",
            f"No room for {role.count} x {role.name!r} beside {len(self._taken)} others who walk; "
            "the scene needs a smaller crowd.",
        )

    def _draw(
        self,
        routes: Sequence[Route],
        rng: np.random.Generator,
        spread_m: float,
        speed_mps: tuple[float, float],
        closed: bool,
    ) -> Path:
        corners = np.array(routes[int(rng.integers(len(routes)))], np.float64)
        if rng.random() < 0.5:
            corners = corners[::-1]
        moved = _offset(corners, float(rng.uniform(-spread_m, spread_m)))
        points = tuple((float(x), float(y)) for x, y in moved)
        path = Path(points, float(rng.uniform(*speed_mps)), 0.0, closed, self.ground_m)
        spare = path.length_m if closed else path.length_m - path.speed_mps * self.times[-1]
        start_m = float(rng.uniform(0, max(0.5, spare)))
        return Path(points, path.speed_mps, start_m, closed, self.ground_m)

    def _score(self, tracks: NDArray[np.float64]) -> NDArray[np.float64]:
        """How well each track is seen; minus infinity where it is in the way."""
        apart = tracks - self.eyes
        away = np.hypot(apart[..., 0], apart[..., 1])
        steps = tracks[:, ::4].reshape(-1, 2)
        walls = self.plan.distance(steps, bounded=False).reshape(len(tracks), -1).min(1)
        bad = (away.min(1) < CAMERA_GAP_M) | (walls < WALL_GAP_M)
        if self._taken:
            others = np.stack(self._taken)  # (people, times, 2)
            gaps = tracks[:, None] - others[None]
            bad |= np.hypot(gaps[..., 0], gaps[..., 1]).min((1, 2)) < WALKER_GAP_M
        facing = (apart * self.looks).sum(-1) / np.maximum(away, 1e-6)
        seen = ((facing > 0.80) & (away < 28)).mean(1)
        looming = ((facing > 0.70) & (away < 3.2)).mean(1)
        score = 0.5 * seen - 1.5 * looming + 0.3 * np.exp(-(((away.mean(1) - 12) / 10) ** 2))
        result: NDArray[np.float64] = np.where(bad, -np.inf, score)
        return result


def _offset(corners: NDArray[np.float64], left_m: float) -> NDArray[np.float64]:
    """A polyline moved to its left."""
    along = np.gradient(corners, axis=0)
    along /= np.maximum(np.hypot(*along.T)[:, None], 1e-9)
    result: NDArray[np.float64] = corners + left_m * np.stack([-along[:, 1], along[:, 0]], 1)
    return result
