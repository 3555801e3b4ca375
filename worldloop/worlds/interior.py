"""Parts of rooms that several institutions share: walls with openings, ceilings, signs, windows.

Everything that hangs on a wall is made in wall axes: x to the right, z up, the viewer at -y. A wall
whose viewer looks north (+y) has `facing` 0; `facing` turns counter-clockwise from there.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from worldloop.atlas.records import Sign
from worldloop.worlds.boards import SIGN_ASPECT
from worldloop.worlds.geometry import Float, Int, Material, SemanticClass, box, quad
from worldloop.worlds.palette import Color
from worldloop.worlds.shapes import Primitive, shifted
from worldloop.worlds.stage import Sight, Stage

NORTH, WEST, SOUTH, EAST = 0.0, np.pi / 2, np.pi, -np.pi / 2  # where the viewer of a wall looks
EXIT_BOARD = ("#0c6b3c", "#f4fff6")


@dataclass(frozen=True)
class Opening:
    """A rectangle that a wall leaves free, in wall axes from the wall's left end, metres."""

    left: float
    right: float
    low: float
    high: float


def upright(width_m: float, height_m: float) -> Primitive:
    """A rectangle in wall axes, centred on x, standing on z = 0, with an upright image uv."""
    half = width_m / 2
    return quad([(-half, 0, 0), (half, 0, 0), (half, 0, height_m), (-half, 0, height_m)])


def block(width_m: float, depth_m: float, height_m: float, *, bottom: bool = False) -> Primitive:
    """A box in wall axes whose back touches the wall at y = 0."""
    return box((-width_m / 2, -depth_m, 0), (width_m / 2, 0, height_m), bottom=bottom)


def wall(length_m: float, low: float, high: float, openings: Iterable[Opening] = ()) -> Primitive:
    """One face of a wall from x = 0 to `length_m`, without its openings; uv in metres."""
    free = list(openings)
    edges = [0.0, length_m, *(x for o in free for x in (o.left, o.right))]
    levels = [low, high, *(z for o in free for z in (o.low, o.high) if low < z < high)]
    xs, zs = sorted(set(edges)), sorted(set(levels))
    cells = [
        (x0, x1, z0, z1)
        for x0, x1 in itertools.pairwise(xs)
        for z0, z1 in itertools.pairwise(zs)
        if not any(o.left <= x0 and x1 <= o.right and o.low <= z0 and z1 <= o.high for o in free)
    ]
    vertices = np.array(
        [[(x0, 0, z0), (x1, 0, z0), (x1, 0, z1), (x0, 0, z1)] for x0, x1, z0, z1 in cells],
        np.float32,
    ).reshape(-1, 3)
    first = np.arange(len(cells), dtype=np.int32)[:, None] * 4
    faces = np.concatenate([first + [0, 1, 2], first + [0, 2, 3]], 1).reshape(-1, 3)
    return vertices, faces.astype(np.int32), vertices[:, [0, 2]]


def level(low: ArrayLike, high: ArrayLike, z: float, *, down: bool = False) -> Primitive:
    """A horizontal rectangle between two corners (x, y), facing up or down; uv in metres."""
    x0, y0 = np.asarray(low, np.float64)
    x1, y1 = np.asarray(high, np.float64)
    corners = [(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)]
    vertices = np.array(corners, np.float32)
    faces: Int = np.array([(0, 1, 2), (0, 2, 3)], np.int32)
    uv: Float = vertices[:, :2].copy()
    return vertices, faces[:, ::-1] if down else faces, uv


def frame(width_m: float, height_m: float, rim_m: float, depth_m: float) -> list[Primitive]:
    """Four bars around a rectangle that stands on z = 0, in wall axes."""
    w, h, r = width_m / 2, height_m, rim_m
    bars = [
        ((-w - r, -depth_m, -r), (w + r, 0, 0)),
        ((-w - r, -depth_m, h), (w + r, 0, h + r)),
        ((-w - r, -depth_m, 0), (-w, 0, h)),
        ((w, -depth_m, 0), (w + r, 0, h)),
    ]
    return [box(low, high, bottom=True) for low, high in bars]


def put_sign(
    stage: Stage,
    sign: Sign,
    *,
    at: Sequence[float],
    facing: float,
    width_m: float,
    board: tuple[str, str] | None = None,
    depth_m: float = 0.05,
    both_sides: bool = False,
) -> int:
    """Hang a sign with its lower edge's middle at a point; returns its instance."""
    instance = stage.instance(SemanticClass.SIGN, f'a sign that says "{sign.text}"')
    image = stage.sign(sign, board=board)
    height = width_m / SIGN_ASPECT
    x, y, z = at
    turn = np.array([np.sin(facing), -np.cos(facing)])
    for side in (1.0, -1.0) if both_sides else (1.0,):
        px, py = np.array([x, y]) + turn * (
            side * (depth_m / 2 + 0.004) if both_sides else depth_m + 0.004
        )
        stage.put(
            upright(width_m, height),
            material=Material.SIGN,
            color=(image, 0, 0),
            instance=instance,
            at=(px, py, z),
            yaw_rad=facing if side > 0 else facing + np.pi,
        )
    back = block(width_m + 0.06, depth_m, height + 0.06, bottom=True)
    offset = turn * (-depth_m / 2 if both_sides else 0.0)
    stage.put(
        back,
        material=Material.METAL,
        color=(0.3, 0.3, 0.31),
        instance=instance,
        at=(x + offset[0], y + offset[1], z - 0.03),
        yaw_rad=facing,
    )
    stage.sights.append(Sight((x, y, z + height / 2), 0.7))
    return instance


def hang_sign(
    stage: Stage,
    sign: Sign,
    *,
    at: Sequence[float],
    ceiling_m: float,
    facing: float,
    width_m: float,
    board: tuple[str, str] | None = None,
) -> int:
    """A sign on two rods from the ceiling, readable from both sides."""
    instance = put_sign(
        stage,
        sign,
        at=at,
        facing=facing,
        width_m=width_m,
        board=board,
        depth_m=0.08,
        both_sides=True,
    )
    x, y, z = at
    top = z + width_m / SIGN_ASPECT
    along = np.array([np.cos(facing), np.sin(facing)])
    for share in (-0.38, 0.38):
        px, py = np.array([x, y]) + along * (share * width_m)
        stage.box(
            (px - 0.012, py - 0.012, top),
            (px + 0.012, py + 0.012, ceiling_m),
            material=Material.METAL,
            color=(0.5, 0.5, 0.5),
            instance=instance,
        )
    return instance


def window(
    stage: Stage,
    *,
    at: Sequence[float],
    facing: float,
    width_m: float,
    height_m: float,
    rim: Color = (0.82, 0.82, 0.8),
) -> int:
    """A window in wall axes with its sill at a point: bright by day, dark by night."""
    x, y, z = at
    instance = stage.instance(SemanticClass.BUILDING, "a window")
    night = stage.scene.is_night
    turn = np.array([np.sin(facing), -np.cos(facing)])

    def put(primitive: Primitive, material: Material, color: ArrayLike, out_m: float) -> None:
        px, py = np.array([x, y]) + turn * out_m
        stage.put(
            primitive,
            material=material,
            color=color,
            instance=instance,
            at=(px, py, z),
            yaw_rad=facing,
        )

    if night:
        put(upright(width_m, height_m), Material.GLASS, (0.012, 0.018, 0.035), 0.01)
    else:
        put(_daylight(width_m, height_m), Material.LAMP, _daylight_colors(stage), 0.01)
    for bar in frame(width_m, height_m, 0.07, 0.06):
        put(bar, Material.MATTE, rim, 0.0)
    put(block(0.05, 0.045, height_m), Material.MATTE, rim, 0.0)
    put(
        shifted(block(width_m, 0.045, 0.04, bottom=True), (0, 0, 0.62 * height_m)),
        Material.MATTE,
        rim,
        0.0,
    )
    put(
        shifted(block(width_m + 0.2, 0.16, 0.04, bottom=True), (0, 0, -0.1)),
        Material.MATTE,
        rim,
        0.0,
    )
    return instance


_DAYLIGHT_LEVELS = np.array([0.0, 0.2, 0.3, 0.42, 0.7, 1.0])


def _daylight(width_m: float, height_m: float) -> Primitive:
    """Bands from the ground outside to the sky, one colour each."""
    half, z = width_m / 2, _DAYLIGHT_LEVELS * height_m
    vertices = np.array(
        [
            [(-half, 0, a), (half, 0, a), (half, 0, b), (-half, 0, b)]
            for a, b in itertools.pairwise(z)
        ],
        np.float32,
    ).reshape(-1, 3)
    first = np.arange(len(z) - 1, dtype=np.int32)[:, None] * 4
    faces = np.concatenate([first + [0, 1, 2], first + [0, 2, 3]], 1).reshape(-1, 3)
    return vertices, faces.astype(np.int32), np.zeros((len(vertices), 2), np.float32)


def _daylight_colors(stage: Stage) -> Float:
    """Per face of `_daylight`: hedges, distance, horizon, sky; greyer when the sky is covered."""
    clear = stage.scene.weather == "clear"
    low_sun = stage.scene.sun_elevation_deg < 8
    sky = (0.26, 0.36, 0.52) if clear else (0.36, 0.38, 0.40)
    glow = (0.55, 0.36, 0.22) if low_sun and clear else (0.42, 0.45, 0.48)
    bands = [(0.07, 0.13, 0.05), (0.12, 0.18, 0.10), (0.30, 0.33, 0.32), glow, sky]
    level_of_day = float(np.clip(0.35 + stage.scene.sun_elevation_deg / 25, 0.25, 1.0))
    return np.repeat(np.array(bands, np.float32) * np.float32(level_of_day), 2, axis=0)
