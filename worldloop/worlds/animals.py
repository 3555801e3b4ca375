"""Animals as rigid parts: their bodies, their gaits, and herds that walk ellipses.

A body is lofted from short tables in metres (`ANATOMY`), x forward, y to the left, z up, the origin
on the ground beneath the trunk. `sculpt(kind)` makes it once; a `Herd` poses any number of
individuals of one kind in a few numpy calls. What an animal does (`ACTIONS`) is what it is seen to do.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worldloop.errors import UnknownKeyError
from worldloop.worlds.anatomy import ANATOMY, BLACK, GREY, HORN, IVORY, WHITE, Anatomy, Color, Row
from worldloop.worlds.geometry import Float, Int, Material, MeshBuilder, sphere

Action = Literal["standing", "walking", "grazing", "resting"]
ACTIONS: tuple[Action, ...] = ("standing", "walking", "grazing", "resting")


class Piece(NamedTuple):
    """Triangles of one rigid part, in the axes of the part."""

    vertices: Float
    faces: Int
    uv: Float
    material: Material
    color: Float
    part: int


@dataclass(frozen=True)
class Bone:
    """A rigid part: where it turns and how. Angles in radians about x (roll), y (nose down), z (left).

    Attributes:
        name: What it is, e.g. `front left thigh`.
        parent: Index of the part that carries it, -1 for the trunk.
        pivot: Where it turns, in the axes of the body at rest.
        idle: Amplitude of the slow motion that never ceases.
        idle_rate_hz: How fast that is.
        stride: Swing about y while walking.
        stride_phase: Where in the step this part is, [0, 1).
        flex: Bend about y while the limb is in the air.
        graze: Turn about y when the head is down.
        rest: Turn about y when the animal lies.
    """

    name: str
    parent: int
    pivot: tuple[float, float, float]
    idle: tuple[float, float, float] = (0.0, 0.0, 0.0)
    idle_rate_hz: float = 0.2
    stride: float = 0.0
    stride_phase: float = 0.0
    flex: float = 0.0
    graze: float = 0.0
    rest: float = 0.0


@dataclass
class Sculpture:
    """The body of one kind: its pieces and its bones; part numbers index `bones`.

    Attributes:
        kind: e.g. `elephant`.
        anatomy: Its table; None for those built by hand.
        length_m: From nose to tail.
        height_m: Highest point.
        speed_mps: Walking pace.
        leg_m: Height of the hip joints.
        sink: Share of `leg_m` by which the trunk is lower when the animal lies.
        pieces: Triangles.
        bones: Rigid parts, every parent before its children.
    """

    kind: str
    anatomy: Anatomy | None
    length_m: float
    height_m: float
    speed_mps: float
    leg_m: float
    sink: float = 0.66
    pieces: list[Piece] = field(default_factory=list)
    bones: list[Bone] = field(default_factory=list)

    @property
    def num_parts(self) -> int:
        """Rigid parts of one individual."""
        return len(self.bones)

    @property
    def num_faces(self) -> int:
        """Triangles of one individual."""
        return sum(len(piece.faces) for piece in self.pieces)

    def grow(self, bone: Bone) -> int:
        """Add a rigid part and return its number."""
        self.bones.append(bone)
        return len(self.bones) - 1

    def add(
        self,
        shape: tuple[Float, Int, Float],
        part: int,
        material: Material,
        color: Color | Float,
        at: Sequence[float] = (0.0, 0.0, 0.0),
    ) -> None:
        """Add triangles given in the axes of the body."""
        vertices, faces, uv = shape
        moved = vertices + np.asarray(at, np.float32) - np.asarray(self.bones[part].pivot)
        tint = np.broadcast_to(np.asarray(color, np.float32), (len(faces), 3))
        self.pieces.append(Piece(moved.astype(np.float32), faces, uv, material, tint, part))


def tube(
    rows: Sequence[Row], *, num_sides: int = 9, upright: bool = False
) -> tuple[Float, Int, Float]:
    """A closed tube in the plane y = 0 as (vertices, faces, uv): u along it, v around, metres.

    Args:
        rows: (x, z, half width, half height) from end to end.
        num_sides: Facets around.
        upright: Whether cross sections stay vertical instead of square to the tube.
    """
    table = np.asarray(rows, np.float64)
    centre = np.stack([table[:, 0], np.zeros(len(table)), table[:, 1]], 1)
    step = np.gradient(centre, axis=0)
    step /= np.linalg.norm(step, axis=1, keepdims=True)
    if upright:
        step = np.broadcast_to([1.0, 0.0, 0.0], step.shape)
    up = np.stack([-step[:, 2], np.zeros(len(step)), step[:, 0]], 1)
    turn = np.linspace(-np.pi / 2, 1.5 * np.pi, num_sides + 1)
    across = np.cos(turn)[None, :, None] * table[:, 2, None, None] * np.array([0.0, 1.0, 0.0])
    ring = across + np.sin(turn)[None, :, None] * table[:, 3, None, None] * up[:, None, :]
    body = (centre[:, None, :] + ring).reshape(-1, 3)
    vertices = np.concatenate([body, centre[[0, -1]]]).astype(np.float32)
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(centre, axis=0), axis=1))])
    girth = float(np.mean(table[:, 2:4])) * (turn + np.pi / 2)
    uv = np.stack(np.meshgrid(along, girth, indexing="ij"), -1).reshape(-1, 2)
    uv = np.concatenate([uv, [[0.0, 0.0], [along[-1], 0.0]]]).astype(np.float32)
    return vertices, _tube_faces(len(table), num_sides), uv


@cache
def _tube_faces(num_rings: int, num_sides: int) -> Int:
    side = np.arange(num_sides)
    width = num_sides + 1
    start, end = num_rings * width, num_rings * width + 1
    faces = []
    for ring in range(num_rings - 1):
        a = ring * width + side
        faces += [
            np.stack([a, a + 1, a + 1 + width], 1),
            np.stack([a, a + 1 + width, a + width], 1),
        ]
    last = (num_rings - 1) * width + side
    faces.append(np.stack([side + 1, side, np.full(num_sides, start)], 1))
    faces.append(np.stack([last, last + 1, np.full(num_sides, end)], 1))
    return np.concatenate(faces).astype(np.int32)


def hull(rows: Sequence[Row], *, num_sides: int = 12) -> tuple[Float, Int, Float]:
    """A trunk from (x, low, high, half width) rows, with vertical cross sections."""
    turned = [(x, (low + high) / 2, half, (high - low) / 2) for x, low, high, half in rows]
    return tube(turned, num_sides=num_sides, upright=True)


def fan(
    length: float, width: float, thickness: float, *, drop: float = 0.0
) -> tuple[Float, Int, Float]:
    """A flat ear as (vertices, faces, uv): it hangs back from the origin in the plane y = 0."""
    rows = [
        (-0.10 * width, 0.30 * length, 0.4 * thickness, 0.12 * width),
        (-0.32 * width, 0.24 * length, thickness, 0.42 * width),
        (-0.48 * width, -0.05 * length, thickness, 0.55 * width),
        (-0.42 * width, -0.38 * length - drop, thickness, 0.42 * width),
        (-0.26 * width, -0.68 * length - drop, 0.4 * thickness, 0.16 * width),
    ]
    return tube(rows, num_sides=7)


def turned(
    shape: tuple[Float, Int, Float],
    *,
    yaw_rad: float = 0.0,
    pitch_rad: float = 0.0,
    roll_rad: float = 0.0,
) -> tuple[Float, Int, Float]:
    """A shape turned about x, then y, then z."""
    turn = euler(np.array([roll_rad, pitch_rad, yaw_rad]))
    return (shape[0] @ turn.T).astype(np.float32), shape[1], shape[2]


def euler(angles_rad: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotations (..., 3, 3) from (..., 3) angles: roll about x, then pitch about y, then yaw about z."""
    cr, cp, cy = np.moveaxis(np.cos(angles_rad), -1, 0)
    sr, sp, sy = np.moveaxis(np.sin(angles_rad), -1, 0)
    rows = [
        [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
        [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
        [-sp, cp * sr, cp * cr],
    ]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def _countershade(faces: Int, vertices: Float, color: Color, belly: Color, below: float) -> Float:
    """Colours per face: the belly's where a face lies below a height."""
    low = vertices[faces].mean(1)[:, 2] < below
    return np.where(low[:, None], _rgb(belly), _rgb(color)).astype(np.float32)


def _rgb(color: Color) -> Float:
    return np.asarray(color, np.float32)


_LIMBS = (  # name, front, side, phase of the step: the order of a walking horse
    ("hind left", False, 1.0, 0.0),
    ("front left", True, 1.0, 0.25),
    ("hind right", False, -1.0, 0.5),
    ("front right", True, -1.0, 0.75),
)
_STRIDE_RAD = 0.34
_FLEX_RAD = 0.75
_SWUNG_TAILS = ("lion", "tiger", "monkey")
_EYE: Color = (0.012, 0.01, 0.01)


def _eye(body: Sculpture, part: int, at: Sequence[float], radius: float) -> None:
    for side in (1.0, -1.0):
        ball = sphere(radius, num_rings=3, num_sides=4)
        body.add(ball, part, Material.PAINT, _EYE, (at[0], side * at[1], at[2]))


def _add_limb(
    body: Sculpture, name: str, at: tuple[float, float, float], *, front: bool, phase: float
) -> None:
    """A thigh and a shin under the trunk; the shin folds while the foot is in the air."""
    anatomy = body.anatomy
    assert anatomy is not None
    x, y, hip = at
    top, middle, end = anatomy.leg
    knee = hip * anatomy.knee
    fold = 1.25 if front else -1.25
    thigh = body.grow(
        Bone(f"{name} thigh", 0, at, stride=_STRIDE_RAD, stride_phase=phase, rest=-fold)
    )
    shin = body.grow(
        Bone(
            f"{name} shin", thigh, (x, y, knee), stride_phase=phase, flex=_FLEX_RAD, rest=2.1 * fold
        )
    )
    back = -0.05 * hip if front else 0.09 * hip
    upper = [
        (x + 0.02, hip + 0.7 * top, 0.7 * top, top),
        (x, hip, top, 1.25 * top),
        (
            x - back * 0.5,
            0.6 * knee + 0.4 * hip,
            0.8 * middle + 0.2 * top,
            0.7 * middle + 0.3 * top,
        ),
        (x - back, knee - 0.3 * middle, middle, middle),
    ]
    lower = [
        (x - back, knee + 0.5 * middle, 0.92 * middle, 0.95 * middle),
        (x - 0.6 * back, 0.35 * knee, 0.85 * end, 0.85 * end),
        (x, 0.22 * end + 0.03, end, end),
        (x + 0.02, 0.0, 1.05 * end, 1.15 * end),
    ]
    hide, color = anatomy.hide, anatomy.color
    body.add(tube(upper, num_sides=6), thigh, hide, color, (0, y, 0))
    vertices, faces, uv = tube(lower, num_sides=6)
    paint = color if anatomy.foot is None else anatomy.foot
    body.add(
        (vertices, faces, uv),
        shin,
        hide if anatomy.hide is not Material.SPOTS else Material.SKIN,
        _countershade(faces, vertices, color, paint, 0.16 * knee + 0.02),
        (0, y, 0),
    )


def _quadruped(kind: str) -> Sculpture:
    anatomy = ANATOMY[kind]
    hind_x, front_x, stance, hip = anatomy.hips
    body = Sculpture(kind, anatomy, anatomy.length_m, anatomy.height_m, anatomy.speed_mps, hip)
    hide, color = anatomy.hide, anatomy.color
    body.grow(Bone("trunk", -1, (0, 0, 0), idle=(0.0, 0.008, 0.0), idle_rate_hz=0.25))
    vertices, faces, uv = hull(anatomy.trunk, num_sides=11)
    low, high = min(r[1] for r in anatomy.trunk), max(r[2] for r in anatomy.trunk)
    light = tuple(min(0.9, 1.35 * c) for c in color)
    belly = WHITE if kind == "tiger" else (light[0], light[1], light[2])
    body.add(
        (vertices, faces, uv),
        0,
        hide,
        _countershade(faces, vertices, color, belly, low + 0.14 * (high - low)),
    )
    first, last = anatomy.neck[0], anatomy.neck[-1]
    neck = body.grow(
        Bone(
            "neck",
            0,
            (first[0], 0, first[1]),
            idle=(0.0, 0.03, 0.10),
            idle_rate_hz=0.09,
            stride=0.035,
            graze=anatomy.graze_rad,
        )
    )
    body.add(tube(anatomy.neck, num_sides=9), neck, hide, color)
    head = body.grow(
        Bone(
            "head",
            neck,
            (last[0], 0, last[1]),
            idle=(0.0, 0.05, 0.22),
            idle_rate_hz=0.13,
            graze=0.1 * anatomy.graze_rad,
        )
    )
    _add_head(body, head)
    tail_x, tail_z, tail_length, tail_radius, tuft = anatomy.tail
    tail = body.grow(Bone("tail", 0, (tail_x, 0, tail_z), idle=(0.3, 0.06, 0.0), idle_rate_hz=0.55))
    _add_tail(body, tail, (tail_x, tail_z), tail_length, tail_radius, tuft)
    for name, front, side, phase in _LIMBS:
        x = front_x if front else hind_x
        _add_limb(body, name, (x, side * stance, hip), front=front, phase=phase)
    if kind in _EXTRAS:
        _EXTRAS[kind](body, neck, head)
    return body


def _add_head(body: Sculpture, head: int) -> None:
    anatomy = body.anatomy
    assert anatomy is not None
    rows = anatomy.head
    vertices, faces, uv = tube(rows, num_sides=9)
    tint = np.broadcast_to(_rgb(anatomy.color), (len(faces), 3))
    if anatomy.muzzle is not None:
        nose = vertices[faces].mean(1)[:, 0] > 0.55 * rows[-2][0] + 0.45 * rows[-3][0]
        tint = np.where(nose[:, None], _rgb(anatomy.muzzle), tint)
    hide = anatomy.hide if anatomy.hide is not Material.SPOTS else Material.SKIN
    body.add((vertices, faces, uv), head, hide, tint.astype(np.float32))
    brow = rows[len(rows) // 2]
    size = max(0.016, 0.1 * rows[1][3])
    _eye(
        body,
        head,
        (0.45 * rows[1][0] + 0.55 * brow[0], 0.92 * brow[2], brow[1] + 0.45 * brow[3]),
        size,
    )
    length, width, thickness, outward = anatomy.ear
    x, y, z = anatomy.ear_at
    pointed = length < 0.5
    for side, name in ((1.0, "left ear"), (-1.0, "right ear")):
        swing = (0.0, 0.0, 0.22) if not pointed else (0.05, 0.0, 0.12)
        ear = body.grow(Bone(name, head, (x, side * y, z), idle=swing, idle_rate_hz=0.4))
        if pointed:
            shape = sphere((thickness, width / 2, 0.62 * length), num_rings=4, num_sides=6)
            shape = turned(shape, roll_rad=-side * (0.25 + 0.3 * outward))
            body.add(
                shape,
                ear,
                Material.SKIN,
                0.85 * _rgb(anatomy.color),
                (x, side * y, z + 0.3 * length),
            )
        else:
            shape = turned(fan(length, width, thickness), yaw_rad=-side * outward)
            body.add(shape, ear, Material.SKIN, 0.92 * _rgb(anatomy.color), (x, side * y, z))


def _add_tail(
    body: Sculpture, tail: int, at: tuple[float, float], length: float, radius: float, tuft: float
) -> None:
    anatomy = body.anatomy
    assert anatomy is not None
    x, z = at
    hanging = ((-0.12, -0.12), (-0.2, -0.55), (-0.26, -0.9), (-0.27, -1.0))
    swung = ((-0.22, -0.26), (-0.45, -0.5), (-0.72, -0.55), (-0.9, -0.42))
    bends = swung if body.kind in _SWUNG_TAILS else hanging
    thin = (1.0, 0.9, 0.75, 0.6)
    rows = [(x + 0.05, z, radius, radius)]
    rows += [
        (x + u * length, z + w * length, k * radius, k * radius)
        for (u, w), k in zip(bends, thin, strict=True)
    ]
    body.add(tube(rows, num_sides=5), tail, anatomy.hide, anatomy.color)
    if tuft > 1.3 * radius:
        brush = sphere((tuft, tuft, 0.15 * length + tuft), num_rings=3, num_sides=6)
        end_x, end_z = rows[-1][0], rows[-1][1]
        body.add(brush, tail, Material.SKIN, BLACK, (end_x, 0, end_z))


def _trunk_and_tusks(body: Sculpture, neck: int, head: int) -> None:
    del neck
    upper = body.grow(
        Bone(
            "upper trunk",
            head,
            (2.35, 0, 2.25),
            idle=(0.06, 0.08, 0.1),
            idle_rate_hz=0.17,
            graze=0.1,
        )
    )
    rows = [
        (2.3, 2.45, 0.26, 0.25),
        (2.5, 2.1, 0.23, 0.22),
        (2.62, 1.7, 0.19, 0.19),
        (2.64, 1.2, 0.155, 0.155),
    ]
    body.add(tube(rows, num_sides=9), upper, Material.SKIN, GREY)
    lower = body.grow(
        Bone(
            "lower trunk",
            upper,
            (2.64, 0, 1.25),
            idle=(0.1, 0.28, 0.1),
            idle_rate_hz=0.21,
            graze=0.45,
        )
    )
    rows = [
        (2.64, 1.3, 0.15, 0.15),
        (2.63, 0.85, 0.125, 0.125),
        (2.66, 0.45, 0.1, 0.1),
        (2.78, 0.2, 0.085, 0.085),
        (2.95, 0.2, 0.07, 0.07),
    ]
    body.add(tube(rows, num_sides=8), lower, Material.SKIN, GREY)
    tusk = [
        (2.32, 2.1, 0.07, 0.07),
        (2.62, 1.72, 0.065, 0.065),
        (2.95, 1.6, 0.05, 0.05),
        (3.2, 1.72, 0.015, 0.015),
    ]
    for side in (1.0, -1.0):
        body.add(tube(tusk, num_sides=6), head, Material.MATTE, IVORY, (0, 0.29 * side, 0))


def _horns_of_giraffe(body: Sculpture, neck: int, head: int) -> None:
    for side in (1.0, -1.0):
        horn = tube([(1.44, 4.94, 0.03, 0.03), (1.39, 5.16, 0.025, 0.025)], num_sides=5)
        body.add(horn, head, Material.SKIN, (0.5, 0.36, 0.2), (0, 0.07 * side, 0))
        knob = sphere(0.045, num_rings=3, num_sides=5)
        body.add(knob, head, Material.SKIN, BLACK, (1.39, 0.07 * side, 5.18))
    mane = [(0.68, 3.2, 0.03, 0.1), (1.0, 4.0, 0.03, 0.1), (1.29, 4.82, 0.03, 0.08)]
    body.add(tube(mane, num_sides=5), neck, Material.SKIN, (0.42, 0.24, 0.1))


def _mane_of_zebra(body: Sculpture, neck: int, head: int) -> None:
    del head
    rows = [
        (0.34, 1.36, 0.035, 0.06),
        (0.58, 1.6, 0.035, 0.1),
        (0.86, 1.86, 0.035, 0.08),
        (0.98, 1.88, 0.03, 0.04),
    ]
    body.add(tube(rows, num_sides=6), neck, Material.BANDS, (0.8, 0.78, 0.74))


def _mane_of_lion(body: Sculpture, neck: int, head: int) -> None:
    collar = [
        (0.5, 0.86, 0.16, 0.24),
        (0.62, 0.94, 0.32, 0.38),
        (0.84, 1.04, 0.37, 0.43),
        (1.0, 1.12, 0.33, 0.37),
        (1.06, 1.15, 0.2, 0.22),
    ]
    body.add(tube(collar, num_sides=10), neck, Material.SKIN, (0.26, 0.12, 0.045))
    ruff = [(0.9, 1.15, 0.26, 0.3), (1.02, 1.17, 0.31, 0.34), (1.12, 1.16, 0.24, 0.26)]
    body.add(tube(ruff, num_sides=11), head, Material.SKIN, (0.36, 0.18, 0.06))
    body.add(
        sphere((0.03, 0.05, 0.03), num_rings=3, num_sides=5),
        head,
        Material.SKIN,
        BLACK,
        (1.41, 0, 1.07),
    )


def _horns_of_rhinoceros(body: Sculpture, neck: int, head: int) -> None:
    del neck
    for rows in (
        [(2.12, 0.86, 0.1, 0.12), (2.28, 1.1, 0.065, 0.08), (2.3, 1.42, 0.015, 0.015)],
        [(1.86, 1.06, 0.08, 0.1), (1.93, 1.2, 0.05, 0.06), (1.93, 1.34, 0.015, 0.015)],
    ):
        body.add(tube(rows, num_sides=6), head, Material.MATTE, HORN)


def _crest_of_gorilla(body: Sculpture, neck: int, head: int) -> None:
    del neck
    body.add(
        sphere((0.13, 0.15, 0.16), num_rings=4, num_sides=8),
        head,
        Material.SKIN,
        (0.04, 0.038, 0.04),
        (0.62, 0, 1.66),
    )
    silver = hull(
        [
            (-0.4, 0.7, 0.9, 0.1),
            (-0.15, 0.75, 1.06, 0.3),
            (0.15, 0.9, 1.22, 0.32),
            (0.3, 1.1, 1.28, 0.1),
        ]
    )
    body.add(silver, 0, Material.SKIN, (0.12, 0.12, 0.125), (0.0, 0.0, 0.02))


_EXTRAS: dict[str, Callable[[Sculpture, int, int], None]] = {
    "elephant": _trunk_and_tusks,
    "giraffe": _horns_of_giraffe,
    "zebra": _mane_of_zebra,
    "lion": _mane_of_lion,
    "rhinoceros": _horns_of_rhinoceros,
    "gorilla": _crest_of_gorilla,
}


def _flamingo() -> Sculpture:
    pink: Color = (0.86, 0.3, 0.32)
    body = Sculpture("flamingo", None, 0.9, 1.45, 0.4, 0.75)
    body.grow(Bone("trunk", -1, (0, 0, 0), idle=(0.02, 0.02, 0.0), idle_rate_hz=0.2))
    rows = [
        (-0.42, 0.68, 0.72, 0.02),
        (-0.28, 0.64, 0.84, 0.1),
        (-0.05, 0.62, 0.98, 0.17),
        (0.12, 0.66, 0.98, 0.15),
        (0.24, 0.78, 0.94, 0.07),
    ]
    body.add(hull(rows, num_sides=10), 0, Material.SKIN, pink)
    wing = [
        (-0.46, 0.72, 0.2, 0.03),
        (-0.2, 0.8, 0.185, 0.1),
        (0.08, 0.84, 0.17, 0.1),
        (0.16, 0.84, 0.1, 0.05),
    ]
    body.add(tube(wing, num_sides=8), 0, Material.SKIN, (0.9, 0.42, 0.4))
    neck = body.grow(
        Bone("neck", 0, (0.18, 0, 0.86), idle=(0.06, 0.06, 0.14), idle_rate_hz=0.15, graze=1.5)
    )
    rows = [
        (0.16, 0.84, 0.07, 0.08),
        (0.32, 0.88, 0.05, 0.05),
        (0.4, 1.0, 0.042, 0.042),
        (0.33, 1.13, 0.038, 0.038),
        (0.22, 1.24, 0.036, 0.036),
        (0.22, 1.37, 0.036, 0.036),
        (0.3, 1.44, 0.04, 0.04),
    ]
    body.add(tube(rows, num_sides=7), neck, Material.SKIN, pink)
    head = body.grow(
        Bone("head", neck, (0.3, 0, 1.43), idle=(0.0, 0.08, 0.2), idle_rate_hz=0.2, graze=0.6)
    )
    body.add(
        sphere((0.075, 0.055, 0.06), num_rings=4, num_sides=7),
        head,
        Material.SKIN,
        pink,
        (0.33, 0, 1.43),
    )
    body.add(
        tube([(0.37, 1.42, 0.03, 0.035), (0.46, 1.39, 0.026, 0.03)], num_sides=6),
        head,
        Material.SKIN,
        WHITE,
    )
    body.add(
        tube(
            [(0.45, 1.39, 0.026, 0.03), (0.51, 1.33, 0.02, 0.026), (0.52, 1.26, 0.008, 0.01)],
            num_sides=6,
        ),
        head,
        Material.SKIN,
        BLACK,
    )
    _eye(body, head, (0.36, 0.045, 1.45), 0.012)
    _add_bird_legs(body, 0.75, 0.07, 0.014, (0.78, 0.3, 0.3))
    return body


def _add_bird_legs(
    body: Sculpture, hip: float, half_stance: float, radius: float, color: Color
) -> None:
    for side, phase in ((1.0, 0.0), (-1.0, 0.5)):
        y, knee = side * half_stance, 0.5 * hip
        thigh = body.grow(
            Bone(f"leg {side:+.0f}", 0, (0, y, hip), stride=0.32, stride_phase=phase, rest=1.2)
        )
        upper = [(0, hip, 2.2 * radius, 2.2 * radius), (-0.01, knee, radius, radius)]
        body.add(tube(upper, num_sides=5), thigh, Material.SKIN, color, (0, y, 0))
        shin = body.grow(
            Bone(f"shin {side:+.0f}", thigh, (0, y, knee), stride_phase=phase, flex=0.9, rest=-2.3)
        )
        lower = [(-0.01, knee, 1.2 * radius, 1.2 * radius), (0, 0.02, radius, radius)]
        body.add(tube(lower, num_sides=5), shin, Material.SKIN, color, (0, y, 0))
        toes = tube(
            [(-0.03, 0.02, 0.02, 0.012), (0.05, 0.015, 0.045, 0.012), (0.1, 0.01, 0.05, 0.006)],
            num_sides=5,
        )
        body.add(toes, shin, Material.SKIN, color, (0, y, 0))


def _penguin() -> Sculpture:
    body = Sculpture("penguin", None, 0.95, 1.0, 0.3, 0.2, sink=0.2)
    body.grow(Bone("trunk", -1, (0, 0, 0), idle=(0.03, 0.02, 0.0), idle_rate_hz=0.3, graze=0.1))
    rows = [
        (-0.05, 0.04, 0.1, 0.09),
        (-0.02, 0.14, 0.2, 0.17),
        (0.0, 0.38, 0.21, 0.19),
        (0.01, 0.58, 0.16, 0.15),
        (0.02, 0.72, 0.1, 0.1),
    ]
    vertices, faces, uv = tube(rows, num_sides=14)
    centre = vertices[faces].mean(1)
    front = centre[:, 0] > 0.25 * np.abs(centre[:, 1]) + 0.06
    tint = np.where(front[:, None], _rgb((0.84, 0.84, 0.82)), _rgb(BLACK)).astype(np.float32)
    body.add((vertices, faces, uv), 0, Material.SKIN, tint)
    head = body.grow(
        Bone("head", 0, (0.02, 0, 0.7), idle=(0.1, 0.12, 0.4), idle_rate_hz=0.25, graze=0.5)
    )
    body.add(
        sphere((0.105, 0.095, 0.11), num_rings=5, num_sides=9),
        head,
        Material.SKIN,
        BLACK,
        (0.03, 0, 0.82),
    )
    for side in (1.0, -1.0):
        patch = sphere((0.05, 0.02, 0.055), num_rings=3, num_sides=6)
        body.add(patch, head, Material.SKIN, (0.9, 0.62, 0.12), (0.03, 0.083 * side, 0.79))
    beak = tube([(0.11, 0.82, 0.03, 0.025), (0.25, 0.795, 0.006, 0.008)], num_sides=5)
    body.add(beak, head, Material.SKIN, (0.8, 0.38, 0.08))
    for side, name in ((1.0, "left flipper"), (-1.0, "right flipper")):
        flipper = body.grow(
            Bone(name, 0, (0.0, 0.15 * side, 0.6), idle=(0.07, 0.1, 0.0), idle_rate_hz=0.35)
        )
        blade = [
            (0.02, 0.62, 0.02, 0.03),
            (0.0, 0.48, 0.022, 0.065),
            (-0.02, 0.3, 0.02, 0.05),
            (-0.03, 0.22, 0.01, 0.02),
        ]
        shape = turned(
            tube([(x, z - 0.6, w, h) for x, z, w, h in blade], num_sides=6), roll_rad=0.2 * side
        )
        body.add(shape, flipper, Material.SKIN, BLACK, (0.0, 0.165 * side, 0.6))
    for side, phase in ((1.0, 0.0), (-1.0, 0.5)):
        foot = body.grow(
            Bone(f"foot {side:+.0f}", 0, (0, 0.08 * side, 0.08), stride=0.5, stride_phase=phase)
        )
        shape = tube(
            [(-0.06, 0.03, 0.05, 0.03), (0.08, 0.02, 0.07, 0.02), (0.16, 0.01, 0.06, 0.01)],
            num_sides=6,
        )
        body.add(shape, foot, Material.SKIN, (0.75, 0.4, 0.1), (0, 0.08 * side, 0))
    return body


def _kangaroo() -> Sculpture:
    tan: Color = (0.5, 0.31, 0.18)
    body = Sculpture("kangaroo", None, 1.9, 1.6, 0.5, 0.5, sink=0.06)
    body.grow(
        Bone("trunk", -1, (0, 0, 0), idle=(0.0, 0.02, 0.0), idle_rate_hz=0.3, graze=0.45, rest=0.0)
    )
    rows = [
        (-0.24, 0.42, 0.12, 0.1),
        (-0.16, 0.55, 0.25, 0.27),
        (-0.02, 0.78, 0.24, 0.26),
        (0.1, 1.0, 0.17, 0.18),
        (0.18, 1.16, 0.13, 0.13),
        (0.22, 1.3, 0.085, 0.09),
    ]
    vertices, faces, uv = tube(rows, num_sides=11)
    body.add((vertices, faces, uv), 0, Material.SKIN, tan)
    head = body.grow(
        Bone("head", 0, (0.22, 0, 1.3), idle=(0.0, 0.06, 0.3), idle_rate_hz=0.16, graze=0.3)
    )
    rows = [
        (0.12, 1.4, 0.05, 0.07),
        (0.24, 1.42, 0.085, 0.1),
        (0.38, 1.36, 0.06, 0.065),
        (0.47, 1.32, 0.04, 0.04),
    ]
    body.add(tube(rows, num_sides=8), head, Material.SKIN, tan)
    _eye(body, head, (0.3, 0.07, 1.44), 0.016)
    for side, name in ((1.0, "left ear"), (-1.0, "right ear")):
        ear = body.grow(
            Bone(name, head, (0.18, 0.05 * side, 1.47), idle=(0.1, 0.0, 0.2), idle_rate_hz=0.5)
        )
        leaf = turned(sphere((0.02, 0.045, 0.12), num_rings=4, num_sides=6), roll_rad=-0.3 * side)
        body.add(leaf, ear, Material.SKIN, (0.42, 0.25, 0.16), (0.18, 0.085 * side, 1.57))
    tail = body.grow(
        Bone("tail", 0, (-0.22, 0, 0.42), idle=(0.0, 0.02, 0.06), idle_rate_hz=0.2, graze=-0.45)
    )
    rows = [
        (-0.12, 0.48, 0.13, 0.15),
        (-0.4, 0.22, 0.09, 0.09),
        (-0.7, 0.08, 0.065, 0.06),
        (-1.1, 0.05, 0.03, 0.03),
    ]
    body.add(tube(rows, num_sides=7), tail, Material.SKIN, tan)
    for side in (1.0, -1.0):
        name = "left" if side > 0 else "right"
        thigh = body.grow(
            Bone(f"{name} thigh", 0, (-0.12, 0.18 * side, 0.5), stride=0.5, graze=-0.45, rest=0.2)
        )
        rows = [
            (-0.16, 0.62, 0.09, 0.14),
            (-0.02, 0.5, 0.12, 0.2),
            (0.1, 0.34, 0.08, 0.1),
            (0.1, 0.26, 0.05, 0.06),
        ]
        body.add(tube(rows, num_sides=7), thigh, Material.SKIN, tan, (0, 0.18 * side, 0))
        shin = body.grow(Bone(f"{name} shin", thigh, (0.1, 0.18 * side, 0.3), flex=0.4))
        rows = [(0.12, 0.34, 0.06, 0.07), (-0.06, 0.16, 0.045, 0.05), (-0.14, 0.06, 0.045, 0.05)]
        body.add(tube(rows, num_sides=6), shin, Material.SKIN, tan, (0, 0.19 * side, 0))
        rows = [(-0.16, 0.05, 0.04, 0.045), (0.05, 0.035, 0.05, 0.035), (0.26, 0.02, 0.035, 0.02)]
        body.add(
            tube(rows, num_sides=6), shin, Material.SKIN, (0.3, 0.19, 0.12), (0, 0.19 * side, 0)
        )
        arm = body.grow(
            Bone(
                f"{name} arm", 0, (0.18, 0.13 * side, 1.08), idle=(0.0, 0.12, 0.0), idle_rate_hz=0.3
            )
        )
        rows = [
            (0.15, 1.12, 0.045, 0.05),
            (0.24, 0.92, 0.035, 0.04),
            (0.36, 0.84, 0.028, 0.028),
            (0.4, 0.8, 0.03, 0.03),
        ]
        body.add(tube(rows, num_sides=6), arm, Material.SKIN, tan, (0, 0.14 * side, 0))
    return body


_BIPEDS: dict[str, Callable[[], Sculpture]] = {
    "flamingo": _flamingo,
    "penguin": _penguin,
    "kangaroo": _kangaroo,
}
KINDS: tuple[str, ...] = (*ANATOMY, *_BIPEDS)


@cache
def sculpt(kind: str) -> Sculpture:
    """The body of a kind; do not change it, it is shared.

    Raises:
        UnknownKeyError: If we cannot draw this animal.
    """
    if kind in ANATOMY:
        return _quadruped(kind)
    if kind in _BIPEDS:
        return _BIPEDS[kind]()
    raise UnknownKeyError("animal", kind, KINDS)


@dataclass(frozen=True)
class Habit:
    """Where one animal is and what it does there.

    Attributes:
        action: What it does during the whole clip.
        centre: x, y of its place, or of the ellipse that it walks, metres.
        ground_m: Height of the ground there.
        radii_m: Half axes along x and y of that ellipse; (0, 0) unless it walks.
        angle_rad: Heading (0 is +x), or where on the ellipse it starts.
        turn: +1 walks counter-clockwise, -1 clockwise.
        size: Scale of the body.
        phase: Where it is in its idle motions, [0, 1).
    """

    action: Action
    centre: tuple[float, float]
    ground_m: float
    radii_m: tuple[float, float]
    angle_rad: float
    turn: int
    size: float
    phase: float

    def extent_m(self, length_m: float) -> tuple[float, float]:
        """Half the box around `centre` that holds all of its body at all times, along x and y."""
        share = 0.88 if self.action == "grazing" else 0.64  # a head that is down reaches far
        reach, girth = share * length_m * self.size, 0.26 * length_m * self.size
        if self.action != "walking":
            return reach, reach
        angle = np.linspace(0, 2 * np.pi, 65)
        at = np.stack([np.cos(angle), np.sin(angle)], 1) * self.radii_m
        step = np.stack([-np.sin(angle) * self.radii_m[0], np.cos(angle) * self.radii_m[1]], 1)
        step /= np.hypot(step[:, 0], step[:, 1])[:, None]
        corners = np.abs(at) + reach * np.abs(step) + girth * np.abs(step[:, ::-1])
        return float(corners[:, 0].max()), float(corners[:, 1].max())


class Herd:
    """All animals of one kind in a world, posed together."""

    def __init__(self, kind: str, habits: Sequence[Habit]):
        self.kind, self.habits = kind, tuple(habits)
        self.body = sculpt(kind)
        self._centre = np.array([h.centre for h in habits], np.float64).reshape(-1, 2)
        self._radii = np.array([h.radii_m for h in habits], np.float64).reshape(-1, 2)
        self._ground, self._angle, self._turn, self._size, self._phase = (
            np.array([getattr(h, name) for h in habits], np.float64)
            for name in ("ground_m", "angle_rad", "turn", "size", "phase")
        )
        self._walks, self._grazes, self._rests = (
            np.array([h.action == action for h in habits], np.float64)
            for action in ("walking", "grazing", "resting")
        )
        bones = self.body.bones
        self._parent = np.array([b.parent for b in bones])
        pivot = np.array([b.pivot for b in bones], np.float64)
        self._arm = pivot - np.where(self._parent[:, None] < 0, 0.0, pivot[self._parent])
        self._idle = np.array([b.idle for b in bones], np.float64)
        self._rate, self._stride, self._step, self._flex, self._graze, self._rest = (
            np.array([getattr(b, name) for b in bones], np.float64)
            for name in ("idle_rate_hz", "stride", "stride_phase", "flex", "graze", "rest")
        )
        self._levels = _levels(self._parent)

    @property
    def num_parts(self) -> int:
        """Rigid parts of the whole herd: individual by individual."""
        return len(self.habits) * self.body.num_parts

    def positions(self, time_s: float) -> NDArray[np.float64]:
        """x, y, heading of each animal, (N, 3)."""
        pace = self._walks * self._turn * self.body.speed_mps / np.maximum(self._radii.max(1), 1.0)
        angle = self._angle + pace * time_s
        ring = np.stack([np.cos(angle), np.sin(angle)], 1) * self._radii
        step = np.stack([-np.sin(angle), np.cos(angle)], 1) * self._radii * self._turn[:, None]
        along = np.arctan2(step[:, 1], step[:, 0])
        heading = np.where(self._walks > 0, along, self._angle)
        at = self._centre + self._walks[:, None] * ring
        return np.concatenate([at, heading[:, None]], 1)

    def matrices(self, time_s: float) -> Float:
        """Part axes to world at a time, float32 (num_parts, 3, 4)."""
        place = self.positions(time_s)
        turn = euler(self._angles(time_s))
        num = len(self.habits)
        world = np.empty((num, self.body.num_parts, 3, 3))
        origin = np.empty((num, self.body.num_parts, 3))
        stand = euler(np.stack([0 * place[:, 2], 0 * place[:, 2], place[:, 2]], 1))
        world[:, 0] = (stand @ turn[:, 0]) * self._size[:, None, None]
        origin[:, 0, :2] = place[:, :2]
        origin[:, 0, 2] = self._ground + self._size * self._height(time_s)
        for level in self._levels[1:]:
            up = self._parent[level]
            world[:, level] = world[:, up] @ turn[:, level]
            origin[:, level] = origin[:, up] + (world[:, up] @ self._arm[level, :, None])[..., 0]
        return np.concatenate([world, origin[..., None]], -1).reshape(-1, 3, 4).astype(np.float32)

    def add_meshes(self, mesh: MeshBuilder, instances: Sequence[int], first_part: int) -> None:
        """Add the triangles of every individual; its parts follow those of the one before."""
        for k, (habit, instance) in enumerate(zip(self.habits, instances, strict=True)):
            part = first_part + k * self.body.num_parts
            shade = np.float32(0.9 + 0.2 * habit.phase)
            for piece in self.body.pieces:
                mesh.add(
                    piece.vertices,
                    piece.faces,
                    material=piece.material,
                    instance=instance,
                    color=np.clip(piece.color * shade, 0.0, 0.95),
                    uv=piece.uv,
                    part=part + piece.part,
                )

    def _steps_hz(self) -> NDArray[np.float64]:
        reach = 4 * self.body.leg_m * self._size * np.sin(max(float(self._stride.max()), 0.1))
        rate: NDArray[np.float64] = self._walks * self.body.speed_mps / reach
        return rate

    def _height(self, time_s: float) -> NDArray[np.float64]:
        """Lift of the trunk: folded legs when lying, a slight bob when walking."""
        bob = 0.012 * np.abs(np.sin(2 * np.pi * self._steps_hz() * time_s))
        return self.body.leg_m * (bob * self._walks - self.body.sink * self._rests)

    def _angles(self, time_s: float) -> NDArray[np.float64]:
        """Angles of every part of every animal, (N, P, 3)."""
        slow = np.sin(2 * np.pi * (self._rate * time_s + self._phase[:, None] + 3.7 * self._rate))
        angles = self._idle * slow[..., None]
        step = 2 * np.pi * (self._steps_hz()[:, None] * time_s + self._phase[:, None] + self._step)
        walk = self._walks[:, None]
        angles[..., 1] += walk * (
            self._flex * np.maximum(0.0, np.cos(step)) - self._stride * np.sin(step)
        )
        angles[..., 1] += self._grazes[:, None] * self._graze + self._rests[:, None] * self._rest
        return angles


def _levels(parent: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Parts grouped by their depth in the tree, trunk first."""
    depth = np.zeros(len(parent), np.int64)
    for part, up in enumerate(parent):
        depth[part] = 0 if up < 0 else depth[up] + 1
    return [np.flatnonzero(depth == d) for d in range(int(depth.max()) + 1)]
