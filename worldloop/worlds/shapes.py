"""Shapes beyond the primitives: lofts, tubes, domes and many boxes at once, as (vertices, faces, uv)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldloop.worlds.geometry import Float, Int

Primitive = tuple[Float, Int, Float]


def loft(rings: ArrayLike, *, num_sides: int = 8, caps: bool = True) -> Primitive:
    """A closed skin over ellipses stacked along z.

    Args:
        rings: (R, 3) rows of height, x radius, y radius, or (R, 5) with the centre's x and y,
            from bottom to top.
        num_sides: Corners of each ellipse.
        caps: Whether both ends are closed.
    """
    table = np.asarray(rings, np.float64)
    if table.shape[1] == 3:
        table = np.hstack([table, np.zeros((len(table), 2))])
    turn = np.linspace(0, 2 * np.pi, num_sides, endpoint=False)
    z, rx, ry, cx, cy = (column[:, None] for column in table.T)
    x, y = cx + rx * np.cos(turn), cy + ry * np.sin(turn)
    skin = np.stack([x, y, np.broadcast_to(z, x.shape)], -1).reshape(-1, 3)
    r, s = np.meshgrid(np.arange(len(table) - 1), np.arange(num_sides), indexing="ij")
    a, b = (r * num_sides + s).ravel(), (r * num_sides + (s + 1) % num_sides).ravel()
    c, d = b + num_sides, a + num_sides
    faces = [np.stack([a, b, c], 1), np.stack([a, c, d], 1)]
    if caps:
        i = np.arange(1, num_sides - 1)
        last = (len(table) - 1) * num_sides
        faces.append(np.stack([0 * i, i + 1, i], 1))
        faces.append(np.stack([0 * i + last, last + i, last + i + 1], 1))
    around = turn * np.maximum(rx, ry)
    uv = np.stack([around, np.broadcast_to(z, around.shape)], -1).reshape(-1, 2)
    return skin.astype(np.float32), np.concatenate(faces).astype(np.int32), uv.astype(np.float32)


def tube(path: ArrayLike, radius_m: float, *, num_sides: int = 6) -> Primitive:
    """A round tube along a polyline (N, 3), open at its ends."""
    p = np.asarray(path, np.float64)
    along = np.gradient(p, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    up = np.where(np.abs(along[:, 2:]) > 0.95, [1.0, 0.0, 0.0], [0.0, 0.0, 1.0])
    side = np.cross(along, up)
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    over = np.cross(side, along)
    turn = np.linspace(0, 2 * np.pi, num_sides, endpoint=False)[:, None]
    ring = side[:, None] * np.cos(turn) + over[:, None] * np.sin(turn)
    skin = (p[:, None] + radius_m * ring).reshape(-1, 3)
    r, s = np.meshgrid(np.arange(len(p) - 1), np.arange(num_sides), indexing="ij")
    a, b = (r * num_sides + s).ravel(), (r * num_sides + (s + 1) % num_sides).ravel()
    faces = np.concatenate(
        [np.stack([a, b + num_sides, b], 1), np.stack([a, a + num_sides, b + num_sides], 1)]
    )
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(p, axis=0), axis=1))])
    uv = np.stack(np.broadcast_arrays(length[:, None], turn[:, 0] * radius_m), -1).reshape(-1, 2)
    return skin.astype(np.float32), faces.astype(np.int32), uv.astype(np.float32)


def ribbon(left: ArrayLike, right: ArrayLike) -> Primitive:
    """A strip between two polylines (N, 3); it faces up when `left` is left of the way along.

    uv is in metres: along the strip, across it.
    """
    a, b = np.asarray(left, np.float64), np.asarray(right, np.float64)
    n, i = len(a), np.arange(len(a) - 1)
    faces = np.concatenate([np.stack([i + n, i + n + 1, i + 1], 1), np.stack([i + n, i + 1, i], 1)])
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(a, axis=0), axis=1))])
    across = np.linalg.norm(b - a, axis=1)
    uv = np.concatenate([np.stack([along, 0 * along], 1), np.stack([along, across], 1)])
    skin = np.concatenate([a, b])
    return skin.astype(np.float32), faces.astype(np.int32), uv.astype(np.float32)


def dome(
    radius: ArrayLike, *, from_deg: float = 0.0, num_rings: int = 3, num_sides: int = 8
) -> Primitive:
    """The part of an ellipsoid above a latitude, open below; `radius` is one per axis."""
    lat = np.linspace(np.radians(from_deg), np.radians(86), num_rings + 1)
    r = np.broadcast_to(np.asarray(radius, np.float64), 3)
    rings = np.stack([r[2] * np.sin(lat), r[0] * np.cos(lat), r[1] * np.cos(lat)], 1)
    vertices, faces, uv = loft(rings, num_sides=num_sides)
    bottom = 2 * num_sides * num_rings
    keep = np.ones(len(faces), bool)
    keep[bottom : bottom + num_sides - 2] = False
    return vertices, faces[keep], uv


_BOX_CORNERS = np.array(
    [
        [(0, 0, 0), (1, 0, 0), (1, 0, 1), (0, 0, 1)],
        [(1, 0, 0), (1, 1, 0), (1, 1, 1), (1, 0, 1)],
        [(1, 1, 0), (0, 1, 0), (0, 1, 1), (1, 1, 1)],
        [(0, 1, 0), (0, 0, 0), (0, 0, 1), (0, 1, 1)],
        [(0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1)],
        [(0, 1, 0), (1, 1, 0), (1, 0, 0), (0, 0, 0)],
    ],
    np.float64,
)
_BOX_SPANS = ((0, 2), (1, 2), (0, 2), (1, 2), (0, 1), (0, 1))
FRONT, RIGHT, BACK, LEFT, TOP, BOTTOM = range(6)
SIDES = (FRONT, RIGHT, BACK, LEFT, TOP)


def boxes(lows: ArrayLike, highs: ArrayLike, *, sides: Sequence[int] = SIDES) -> Primitive:
    """Many axis-aligned boxes at once, with only the sides that can be seen.

    Args:
        lows: (N, 3) corners with the smallest coordinates.
        highs: (N, 3) opposite corners.
        sides: Of FRONT (-y), RIGHT (+x), BACK (+y), LEFT (-x), TOP, BOTTOM.
    """
    low = np.asarray(lows, np.float64).reshape(-1, 3)
    size = np.asarray(highs, np.float64).reshape(-1, 3) - low
    chosen = list(sides)
    corners = low[:, None, None] + _BOX_CORNERS[chosen] * size[:, None, None]
    vertices = corners.reshape(-1, 3)
    first = np.arange(len(low) * len(chosen))[:, None] * 4
    faces = np.concatenate([first + [0, 1, 2], first + [0, 2, 3]], 1).reshape(-1, 3)
    spans: NDArray[np.float64] = np.stack([size[:, _BOX_SPANS[k]] for k in chosen], 1)
    uv = np.zeros((len(low), len(chosen), 4, 2))
    uv[:, :, 1:3, 0] = spans[:, :, :1]
    uv[:, :, 2:, 1] = spans[:, :, 1:]
    return (
        vertices.astype(np.float32),
        faces.astype(np.int32),
        uv.reshape(-1, 2).astype(np.float32),
    )


def turned(primitive: Primitive, rotation: ArrayLike, at: ArrayLike = (0, 0, 0)) -> Primitive:
    """A primitive turned by a 3x3 rotation, then moved."""
    vertices, faces, uv = primitive
    moved = vertices @ np.asarray(rotation, np.float32).T + np.asarray(at, np.float32)
    return moved.astype(np.float32), faces, uv


def shifted(primitive: Primitive, at: ArrayLike) -> Primitive:
    """A primitive moved."""
    vertices, faces, uv = primitive
    return (vertices + np.asarray(at, np.float32)).astype(np.float32), faces, uv


def flipped(primitive: Primitive) -> Primitive:
    """A primitive seen from its other side."""
    vertices, faces, uv = primitive
    return vertices, faces[:, ::-1].copy(), uv


def joined(primitives: Sequence[Primitive]) -> Primitive:
    """Several primitives as one."""
    starts = np.cumsum([0] + [len(v) for v, _, _ in primitives[:-1]])
    vertices = np.concatenate([v for v, _, _ in primitives])
    faces = np.concatenate(
        [f + np.int32(start) for (_, f, _), start in zip(primitives, starts, strict=True)]
    )
    return vertices, faces.astype(np.int32), np.concatenate([uv for _, _, uv in primitives])


def rotation_x(angle_rad: float) -> Float:
    """The 3x3 rotation about x, from y towards z."""
    c, s = np.cos(angle_rad), np.sin(angle_rad)
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]], np.float32)


def rotation_y(angle_rad: float) -> Float:
    """The 3x3 rotation about y, from z towards x."""
    c, s = np.cos(angle_rad), np.sin(angle_rad)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]], np.float32)
