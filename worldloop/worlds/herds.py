"""Herds: what every animal of an enclosure does and where, so that it stays inside and in view."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from worldloop.errors import ClipRejectedError
from worldloop.scenes.scene import Scene
from worldloop.seeds import stream
from worldloop.worlds.animals import ACTIONS, Action, Habit, Herd, sculpt
from worldloop.worlds.enclosures import Enclosure
from worldloop.worlds.geometry import SemanticClass
from worldloop.worlds.palette import pick
from worldloop.worlds.stage import Sight, Stage

_FACING = ("penguin", "gorilla", "monkey")  # known by their faces and bellies
_GRAZERS = ("zebra", "camel", "rhinoceros", "hippopotamus", "kangaroo", "flamingo")
_DOING: dict[Action, str] = {
    "standing": "{} standing in its enclosure",
    "walking": "{} walking in its enclosure",
    "grazing": "{} with its head down to feed",
    "resting": "{} lying on the ground",
}


def put_herd(stage: Stage, enclosure: Enclosure) -> None:
    """Put the animals of an enclosure on the stage, each with a phrase that is true of it."""
    habits = herd_habits(stage.scene, enclosure)
    herd = Herd(enclosure.kind, habits)
    instances = [
        stage.instance(
            SemanticClass.ANIMAL, _DOING[h.action].format(_an(enclosure.kind)), moves=True
        )
        for h in habits
    ]
    first = stage.parts(herd.num_parts)
    herd.add_meshes(stage.moving, instances, first)
    stage.drive(range(first, first + herd.num_parts), herd.matrices)
    height = herd.body.height_m
    for place in herd.positions(1.0):
        stage.sights.append(
            Sight(
                (float(place[0]), float(place[1]), enclosure.ground_m + 0.7 * height),
                1.3 + 0.25 * height,
            )
        )


def _an(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def herd_habits(scene: Scene, enclosure: Enclosure) -> list[Habit]:
    """What every animal of an enclosure does, and where; nobody stands in another.

    Raises:
        ClipRejectedError: If they do not fit.
    """
    rng = stream(scene.seed, "zoo", "herd", enclosure.kind)
    length = sculpt(enclosure.kind).length_m
    leader: Habit | None = None
    num_behind = 0
    taken: list[NDArray[np.float64]] = []  # rows of x, y, radius
    habits: list[Habit] = []
    for action in _actions(enclosure, rng):
        size = float(rng.uniform(0.9, 1.06))
        habit: Habit | None = None
        if action == "walking" and leader is None:
            habit = leader = _walker(enclosure, length, size, taken, rng)
        elif action != "walking":
            habit = _stander(enclosure, length, size, action, taken, rng)
        if habit is None and leader is not None:
            num_behind += 1
            habit = _follower(leader, length, num_behind, size, rng)
        if habit is None and enclosure.trait != "walking":
            habit = _stander(enclosure, length, size, "standing", taken, rng)
        if habit is None:
            raise ClipRejectedError(
                "build",
                f"{enclosure.count} x {enclosure.kind!r} do not fit in {enclosure.wide_m:.0f} m x "
                f"{enclosure.deep_m:.0f} m; ask for fewer.",
            )
        habits.append(habit)
    return habits


def _follower(
    leader: Habit, length: float, num_behind: int, size: float, rng: np.random.Generator
) -> Habit | None:
    """Somebody who walks behind the leader; None if the way around is too short."""
    apart = 1.4 * length / max(leader.radii_m)
    if (num_behind + 1) * apart > 2 * np.pi:
        return None
    angle = leader.angle_rad - leader.turn * apart * num_behind
    return replace(leader, angle_rad=angle, size=min(size, leader.size), phase=float(rng.random()))


def _actions(enclosure: Enclosure, rng: np.random.Generator) -> list[Action]:
    for action in ACTIONS:
        if enclosure.trait == action:
            return [action] * enclosure.count
    quiet: list[Action] = ["standing", "standing", "resting"]
    if enclosure.kind in _GRAZERS:
        quiet = ["standing", "grazing", "grazing"]
    if enclosure.kind in ("elephant", "giraffe", "penguin"):
        quiet = ["standing"]
    return ["walking", *(pick(rng, quiet) for _ in range(enclosure.count - 1))]


def _walker(
    enclosure: Enclosure,
    length: float,
    size: float,
    taken: list[NDArray[np.float64]],
    rng: np.random.Generator,
) -> Habit | None:
    """Somebody on the largest ellipse that fits, on its long side; None if it is too small."""
    low, high = enclosure.inside()
    middle, half = (low + high) / 2, (high - low) / 2
    long = 1 if enclosure.front == "x" else 0
    for shrink in np.linspace(1.0, 0.2, 24):
        radii = shrink * half
        radii[1 - long] = min(radii[1 - long], 0.42 * radii[long], 2.2)
        habit = _on_ellipse(enclosure, middle, radii, size, rng)
        extent = np.array(habit.extent_m(length))
        if np.all(extent <= half):
            break
    else:
        return None
    if radii[long] < 1.2:
        return None
    inward = enclosure.across()[2]
    middle = middle - inward * (half - extent)[1 - long]
    habit = replace(habit, centre=(float(middle[0]), float(middle[1])))
    angle = np.linspace(0, 2 * np.pi, 40)
    ring = middle + np.stack([np.cos(angle), np.sin(angle)], 1) * radii
    taken.append(np.column_stack([ring, np.full(40, 0.34 * length * size)]))
    return habit


def _on_ellipse(
    enclosure: Enclosure,
    middle: NDArray[np.float64],
    radii: NDArray[np.float64],
    size: float,
    rng: np.random.Generator,
) -> Habit:
    """Starts on the side towards the visitors, so that it passes before them."""
    toward = {"x": np.pi, "+y": -np.pi / 2, "-y": np.pi / 2}[enclosure.front]
    turn = 1 if rng.random() < 0.5 else -1
    angle = toward - turn * float(rng.uniform(0.25, 0.7))
    at = (float(middle[0]), float(middle[1]))
    return Habit(
        "walking",
        at,
        enclosure.ground_m,
        (float(radii[0]), float(radii[1])),
        angle,
        turn,
        size,
        float(rng.random()),
    )


def _stander(
    enclosure: Enclosure,
    length: float,
    size: float,
    action: Action,
    taken: list[NDArray[np.float64]],
    rng: np.random.Generator,
) -> Habit | None:
    """Somebody who stays, turned sideways to the visitors, in a free place near the front; None without one."""
    low, high = enclosure.inside()
    reach = (0.88 if action == "grazing" else 0.64) * length * size
    low, high = low + reach, high - reach
    low, high = np.minimum(low, (low + high) / 2), np.maximum(high, (low + high) / 2)
    side = np.pi / 2 if enclosure.front == "x" else 0.0
    for squeeze in (1.0, 0.85, 0.7, 0.58):
        spots = low + rng.random((60, 2)) * (high - low)
        spots = spots[
            np.argsort(_remoteness(enclosure, spots) + rng.uniform(0, 2.0, 60), kind="stable")
        ]
        for at in spots:
            if all(
                np.all(np.hypot(*(t[:, :2] - at).T) > squeeze * (t[:, 2] + 0.5 * length * size))
                for t in taken
            ):
                taken.append(np.array([[at[0], at[1], 0.5 * length * size]]))
                heading = side + np.pi * int(rng.integers(2)) + float(rng.uniform(-0.55, 0.55))
                if enclosure.kind in _FACING:
                    inward = enclosure.across()[2]
                    heading = float(np.arctan2(-inward[1], -inward[0]) + rng.uniform(-0.8, 0.8))
                return Habit(
                    action,
                    (float(at[0]), float(at[1])),
                    enclosure.ground_m,
                    (0.0, 0.0),
                    heading,
                    1,
                    size,
                    float(rng.random()),
                )
    return None


def _remoteness(enclosure: Enclosure, spots: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far places are from where the camera sees best: near the front, some way ahead of it."""
    start, along, inward = enclosure.across()
    away = np.abs((spots - start) @ along - 0.62 * enclosure.wide_m)
    remote: NDArray[np.float64] = (spots - start) @ inward + 0.4 * away
    return remote
