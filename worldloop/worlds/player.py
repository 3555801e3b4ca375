"""The player: a policy presses keys and moves the mouse, physics turns that into camera poses.

Actions are the cause. `replay` makes the poses from the actions alone, bit for bit; `play` is a
policy in front of the same physics. The eyes are 1.65 m above the ground, the body keeps half a
metre from everything on the plan and slides along what it meets.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldloop.errors import ClipRejectedError
from worldloop.recipes import Shape
from worldloop.worlds.geometry import Float
from worldloop.worlds.plan import EYE_M, Plan
from worldloop.worlds.stage import Sight, Stage
from worldloop.worlds.world import Track

CLEARANCE_M = 0.5
WALK_MPS, RUN_MPS = 1.4, 3.0
STEP_M, BOB_M = 0.75, 0.016
POLE_M = 5.0  # a trunk or a lamp post nearer than this cuts the picture in two
W, A, S, D, SHIFT, INTERACT = range(6)
_MAX_TURN_DEG_S, _MAX_PITCH_DEG = 45.0, 30.0
_FAN = np.radians([-24.0, -12.0, 0.0, 12.0, 24.0])
_AROUND = np.linspace(-np.pi, np.pi, 48, endpoint=False)
_OCTANTS = {  # keys to the direction of travel, counter-clockwise from straight ahead
    (W,): 0.0,
    (W, A): math.pi / 4,
    (A,): math.pi / 2,
    (S, A): 3 * math.pi / 4,
    (S,): math.pi,
    (S, D): -3 * math.pi / 4,
    (D,): -math.pi / 2,
    (W, D): -math.pi / 4,
}


@dataclass(frozen=True)
class Start:
    """Where the player may begin, and which way to face."""

    x: float
    y: float
    heading_rad: float


class Body:
    """The player's body: position, view and speed, moved one frame at a time."""

    def __init__(self, start: Start, plan: Plan, *, rate_fps: int, ground_m: float = 0.0) -> None:
        self.plan, self.step_s, self.ground_m = plan, 1.0 / rate_fps, ground_m
        self.at = _snapped(np.array([start.x, start.y]))
        self.yaw_rad, self.pitch_rad, self.gone_m = start.heading_rad, 0.0, 0.0
        self.velocity = np.zeros(2)

    def move(self, keys: NDArray[np.bool_], mouse_deg: Float) -> None:
        """Apply one frame of actions."""
        limit = math.radians(_MAX_PITCH_DEG)
        self.yaw_rad = _snap(self.yaw_rad - math.radians(float(mouse_deg[0])))
        pitch = self.pitch_rad + math.radians(float(mouse_deg[1]))
        self.pitch_rad = _snap(min(limit, max(-limit, pitch)))
        wish = self._wish(keys)
        self.velocity += (wish - self.velocity) * min(1.0, 8.0 * self.step_s)
        target = self.plan.pushed_out(self.at + self.velocity * self.step_s, CLEARANCE_M)
        if self.plan.distance(target)[0] < CLEARANCE_M:
            target = self.at
        target = _snapped(target)
        self.velocity = (target - self.at) / self.step_s
        self.gone_m = _snap(self.gone_m + float(np.hypot(*(target - self.at))))
        self.at = target

    def camera(self) -> NDArray[np.float64]:
        """Camera to world, 4x4, OpenCV axes."""
        cy, sy = math.cos(self.yaw_rad), math.sin(self.yaw_rad)
        cp, sp = math.cos(self.pitch_rad), math.sin(self.pitch_rad)
        bob = BOB_M * math.sin(2 * math.pi * self.gone_m / STEP_M)
        pose = np.eye(4)
        pose[:3, 0] = sy, -cy, 0.0
        pose[:3, 1] = cy * sp, sy * sp, -cp
        pose[:3, 2] = cy * cp, sy * cp, sp
        pose[:3, 3] = self.at[0], self.at[1], self.ground_m + EYE_M + bob
        return _snapped(pose)

    def _wish(self, keys: NDArray[np.bool_]) -> NDArray[np.float64]:
        ahead, left = float(keys[W]) - float(keys[S]), float(keys[A]) - float(keys[D])
        length = math.hypot(ahead, left)
        if length == 0:
            return np.zeros(2)
        speed = (RUN_MPS if keys[SHIFT] else WALK_MPS) / length
        c, s = math.cos(self.yaw_rad), math.sin(self.yaw_rad)
        return np.array([ahead * c - left * s, ahead * s + left * c]) * speed


def replay(
    keys: NDArray[np.bool_],
    mouse_deg: Float,
    start: Start,
    plan: Plan,
    *,
    rate_fps: int,
    ground_m: float = 0.0,
) -> Track:
    """The track that these actions cause from this start on this plan."""
    body = Body(start, plan, rate_fps=rate_fps, ground_m=ground_m)
    cameras, velocities = [], []
    for pressed, turned in zip(keys, mouse_deg, strict=True):
        cameras.append(body.camera())
        velocities.append([*body.velocity, 0.0])
        body.move(pressed, turned)
    return Track(
        keys=np.asarray(keys, np.bool_),
        mouse_deg=np.asarray(mouse_deg, np.float32),
        camera_to_world=np.array(cameras),
        velocity_mps=np.array(velocities, np.float32),
    )


def play(stage: Stage, shape: Shape, starts: Sequence[Start], *, ground_m: float = 0.0) -> Track:
    """Start where the view is best, act by the scene's camera policy, and return the track.

    Raises:
        ClipRejectedError: If there is no free start.
    """
    start = choose_start(stage, starts)
    body = Body(start, stage.plan, rate_fps=shape.rate_fps, ground_m=ground_m)
    policy = _POLICIES[stage.scene.camera](stage, body, start)
    keys = np.zeros((shape.num_frames, 6), np.bool_)
    mouse = np.zeros((shape.num_frames, 2), np.float32)
    for frame in range(shape.num_frames - 1):
        keys[frame], mouse[frame] = policy.act(frame * body.step_s)
        body.move(keys[frame], mouse[frame])
    return replay(keys, mouse, start, stage.plan, rate_fps=shape.rate_fps, ground_m=ground_m)


def choose_start(stage: Stage, starts: Sequence[Start]) -> Start:
    """The start with the widest view, the longest way ahead and the best sights.

    Raises:
        ClipRejectedError: If every start is blocked.
    """
    rng = stage.random("start")
    luck = rng.uniform(0, 0.7, len(starts))
    free = stage.plan.distance([(s.x, s.y) for s in starts]) >= CLEARANCE_M + 0.15
    if not free.any():
        raise ClipRejectedError(
            "build", f"All {len(starts)} starts are blocked; the camera has nowhere to stand."
        )
    scores = [_interest(stage, s) + bonus for s, bonus in zip(starts, luck, strict=True)]
    return starts[int(np.argmax(np.where(free, scores, -np.inf)))]


def _interest(stage: Stage, start: Start) -> float:
    """How much one sees from a start."""
    at = np.array([start.x, start.y])
    view = stage.plan.view_distance(at, start.heading_rad + _FAN, limit_m=25)
    way = stage.plan.walk_distance(at, [start.heading_rad], limit_m=6)[0]
    seen = sum(_sight_score(stage.plan, at, start.heading_rad, sight) for sight in stage.sights)
    room = min(1.5, float(stage.plan.distance([at], bounded=False)[0]))
    cut = stage.plan.pole_ahead(at, [start.heading_rad], within_m=POLE_M + 1.0, half_deg=30)[0]
    score = view.mean() / 25 + view.min() / 8 + way / 6 + 0.5 * room + 1.2 * seen - 2.0 * cut
    return float(score)


def _sight_score(
    plan: Plan, at: NDArray[np.float64], heading_rad: float, sight: Sight, *, half_deg: float = 30
) -> float:
    """Weight of a sight if it can be seen from here within half the angle of view, else 0."""
    x, y, z = sight.at
    bearing, away = math.atan2(y - at[1], x - at[0]), math.hypot(x - at[0], y - at[1])
    if abs(_wrapped(bearing - heading_rad)) > math.radians(half_deg) or away < 2.0:
        return 0.0
    seen_m = plan.view_distance(at, [bearing], limit_m=120)[0]
    hidden = seen_m < away - 3.0 and z < 6.0
    return 0.0 if hidden else sight.weight / (1 + (away / 25) ** 2)


class _Policy:
    """What all policies share: choosing a way, turning the eyes smoothly, never facing a wall."""

    def __init__(self, stage: Stage, body: Body, start: Start) -> None:
        self.stage, self.plan, self.body = stage, stage.plan, body
        self.rng = stage.random("player", stage.scene.camera)
        self.home = self.way = self.gaze = start.heading_rad
        self.pitch = 0.04
        self.turn = np.zeros(2)
        self.next_choice_s = self.next_gaze_s = 0.0

    def act(self, time_s: float) -> tuple[NDArray[np.bool_], Float]:
        """Keys and mouse of the frame that begins at a time."""
        raise NotImplementedError

    def choose_way(self, pull: float = 0.6) -> float:
        """A heading with room ahead, near the present one and the first one."""
        headings = self.way + _AROUND
        room = self.plan.walk_distance(self.body.at, headings, limit_m=10)
        view = self.plan.view_distance(self.body.at, headings, limit_m=20)
        score = room / 10 + 0.5 * view / 20 + 0.7 * np.cos(_AROUND)
        score = score + pull * np.cos(headings - self.home) - 2.0 * (room < 1.2)
        return _snap(float(headings[int(np.argmax(score))]))

    def mouse(self, gaze_rad: float, pitch_rad: float, *, ease_per_s: float = 2.2) -> Float:
        """A smooth hand movement towards a gaze, in degrees for this frame."""
        step = self.body.step_s
        error = np.degrees(
            [-_wrapped(gaze_rad - self.body.yaw_rad), pitch_rad - self.body.pitch_rad]
        )
        wish = np.clip(error * ease_per_s, -_MAX_TURN_DEG_S, _MAX_TURN_DEG_S) * step
        self.turn += (wish - self.turn) * min(1.0, 6.0 * step)
        return np.round(self.turn, 3).astype(np.float32)

    def open_gaze(self, gaze_rad: float) -> float:
        """The gaze, or the nearest heading from which the view is open if it is not.

        What counts as open follows from the place: half of what one sees in most directions.
        """
        turns = _AROUND[np.argsort(np.abs(_AROUND), kind="stable")]
        fans = (gaze_rad + turns)[:, None] + _FAN
        view = self.plan.view_distance(self.body.at, fans.ravel(), limit_m=12).reshape(fans.shape)
        cut = self.plan.pole_ahead(self.body.at, gaze_rad + turns, within_m=POLE_M, half_deg=32)
        nearest = np.where(cut, 0.1, 1.0) * view.min(1)
        least_m = min(5.0, max(2.0, 0.5 * float(np.median(view[:, 2]))))
        if nearest[0] >= least_m:
            return gaze_rad
        best = nearest >= min(least_m, float(nearest.max()) - 1e-6)
        return _snap(gaze_rad + float(turns[int(np.argmax(best))]))

    def keys_towards(self, way_rad: float, *, run: bool = False) -> NDArray[np.bool_]:
        """The keys that come nearest to a way, given where the eyes look."""
        relative = _wrapped(way_rad - self.body.yaw_rad)
        chosen = min(_OCTANTS, key=lambda k: abs(_wrapped(_OCTANTS[k] - relative)))
        keys = np.zeros(6, np.bool_)
        keys[list(chosen)] = True
        keys[SHIFT] = run
        return keys


class _Stroll(_Policy):
    """Walks ahead and looks where it goes, glancing a little to the sides."""

    def act(self, time_s: float) -> tuple[NDArray[np.bool_], Float]:
        if time_s >= self.next_choice_s:
            self.next_choice_s = time_s + 0.5
            self.way = self.choose_way()
        if time_s >= self.next_gaze_s:
            self.next_gaze_s = time_s + float(self.rng.uniform(1.2, 2.4))
            self.gaze = float(self.rng.uniform(-0.16, 0.16))
            self.pitch = float(self.rng.uniform(0.0, 0.09))
        gaze = self.open_gaze(self.way + self.gaze)
        keys = self.keys_towards(self.way)
        if abs(_wrapped(self.way - self.body.yaw_rad)) < 0.5:
            keys = _pressed(W)
        return keys, self.mouse(gaze, self.pitch)


class _Tour(_Policy):
    """Walks ahead while looking at the sights, and stops now and then before one."""

    def __init__(self, stage: Stage, body: Body, start: Start) -> None:
        super().__init__(stage, body, start)
        self.rest_until_s = 0.0
        self.target: Sight | None = None

    def act(self, time_s: float) -> tuple[NDArray[np.bool_], Float]:
        if time_s >= self.next_choice_s:
            self.next_choice_s = time_s + 0.5
            self.way = self.choose_way()
        if time_s >= self.next_gaze_s:
            self.next_gaze_s = time_s + float(self.rng.uniform(2.0, 3.5))
            self.target = self._choose_sight()
            if self.target and self.rng.random() < 0.35:
                self.rest_until_s = time_s + float(self.rng.uniform(0.8, 1.8))
        keys = np.zeros(6, np.bool_)
        if time_s >= self.rest_until_s:
            keys = self.keys_towards(self.way)
        return keys, self.mouse(*self._look())

    def _choose_sight(self) -> Sight | None:
        at = self.body.at
        scores = [
            _sight_score(self.plan, at, self.way, sight, half_deg=75)
            * float(self.rng.uniform(0.5, 1.0))
            for sight in self.stage.sights
        ]
        if not scores or max(scores) <= 0.0:
            return None
        return self.stage.sights[int(np.argmax(scores))]

    def _look(self) -> tuple[float, float]:
        if self.target is None:
            return self.open_gaze(self.way), 0.02
        x, y, z = self.target.at
        dx, dy = x - self.body.at[0], y - self.body.at[1]
        rise = math.atan2(z - self.body.ground_m - EYE_M, max(2.0, math.hypot(dx, dy)))
        return self.open_gaze(math.atan2(dy, dx)), min(0.20, max(-0.20, 0.6 * rise))


class _Wander(_Policy):
    """Plays freely: unbiased bursts of keys and mouse, turned away from walls."""

    def __init__(self, stage: Stage, body: Body, start: Start) -> None:
        super().__init__(stage, body, start)
        self.keys = _pressed(W)
        self.gaze = start.heading_rad

    def act(self, time_s: float) -> tuple[NDArray[np.bool_], Float]:
        if time_s >= self.next_choice_s:
            self.next_choice_s = time_s + float(self.rng.uniform(0.4, 1.3))
            self.keys = self._burst()
        if time_s >= self.next_gaze_s:
            self.next_gaze_s = time_s + float(self.rng.uniform(0.6, 1.6))
            self.gaze = self._glance()
            self.pitch = float(self.rng.uniform(-0.06, 0.14))
        self.gaze = self.open_gaze(self.gaze)
        return self.keys, self.mouse(self.gaze, self.pitch, ease_per_s=3.0)

    def _glance(self) -> float:
        """Of three directions at random the one in which most can be seen."""
        drawn = [self.body.yaw_rad + float(self.rng.uniform(-1.1, 1.1)) for _ in range(3)]
        score = [
            float(self.plan.view_distance(self.body.at, gaze + _FAN, limit_m=20).mean()) / 20
            + sum(_sight_score(self.plan, self.body.at, gaze, s) for s in self.stage.sights)
            for gaze in drawn
        ]
        return drawn[int(np.argmax(score))]

    def _burst(self) -> NDArray[np.bool_]:
        """Keys at random; a direction with no room is drawn again, at most eight times."""
        names = list(_OCTANTS)
        for _ in range(8):
            pause, chosen = self.rng.random() < 0.12, names[int(self.rng.integers(len(names)))]
            forward = self.rng.random() < 0.4
            way = self.body.yaw_rad + (0.0 if forward else _OCTANTS[chosen])
            if pause:
                return np.zeros(6, np.bool_)
            if self.plan.walk_distance(self.body.at, [way], limit_m=3)[0] > 1.5:
                run = self.rng.random() < 0.12
                return _pressed(*((W,) if forward else chosen), *((SHIFT,) if run else ()))
        return np.zeros(6, np.bool_)


_POLICIES: dict[str, type[_Policy]] = {"stroll": _Stroll, "tour": _Tour, "wander": _Wander}


def _pressed(*names: int) -> NDArray[np.bool_]:
    keys = np.zeros(6, np.bool_)
    keys[list(names)] = True
    return keys


def _wrapped(angle_rad: float) -> float:
    """The angle in (-pi, pi]."""
    return math.pi - (math.pi - angle_rad) % (2 * math.pi)


def _snap(value: float) -> float:
    """On a grid of 2**-24, which hides last bits that differ between processors."""
    return round(value * 16777216) / 16777216


def _snapped(values: NDArray[np.float64]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = np.rint(values * 16777216) / 16777216
    return result
