"""Triangle meshes as plain arrays, and the primitives that every grammar builds from.

World axes: x and y on the ground, z up, metres. Faces are counter-clockwise seen from outside.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float32]
Int = NDArray[np.int32]


class Material(IntEnum):
    """How the rasterizer shades a face. Append only: the kernel switches on these numbers.

    `color` is linear albedo; for SIGN and PICTURE its first component is an index.
    `uv` is in metres on the surface unless said otherwise.
    """

    MATTE = 0  # plaster, cloth, concrete: plain albedo with faint mottling
    ASPHALT = 1  # road; uv = (metres along, metres across from the centre line)
    PAVING = 2  # slabs with joints
    GRASS = 3  # lawn and soil
    FACADE = (
        4  # plastered wall with windows; uv = (metres along, metres above ground); color = wall
    )
    FOLIAGE = 5  # leaves with alpha-hashed edges
    BARK = 6
    PAINT = 7  # car bodies, ride gondolas: glossy coat
    GLASS = 8  # dark, mirroring
    METAL = 9
    SIGN = 10  # image; uv in [0, 1], v down; color[0] = index into World.signs
    LAMP = 11  # emits its color, strongly at night
    WATER = 12
    WOOD = 13  # boards along u
    TILE = 14  # polished indoor floor, tiles of 0.6 m
    PICTURE = 15  # procedural painting; uv in [0, 1]; color[0] = seed in [0, 1e4)
    STRIPE = 16  # awning or tent: color and white in 0.4 m bands along u
    SKIN = 17  # skin, hide and short fur; uv pattern none
    SPOTS = 18  # giraffe and leopard: dark patches on color, object uv in metres
    BANDS = 19  # zebra and tiger: dark bands on color along u
    ROCK = 20
    ROOF = 21
    SAND = 22
    PARQUET = 23
    BRICK = 24
    NEON = (
        25  # emits its color by day and night: fairground bulbs, screens; uv.x runs the chase light
    )
    FACADE_BRICK = 26  # these four are FACADE in other walls: courses of brick,
    FACADE_STONE = 27  # ashlar blocks,
    FACADE_GLASS = 28  # a curtain wall of panes,
    FACADE_CONCRETE = 29  # panels with bands of windows


class SemanticClass(IntEnum):
    """What a pixel is. Append only: the numbers are in every annotation."""

    SKY = 0
    ROAD = 1
    SIDEWALK = 2
    TERRAIN = 3
    BUILDING = 4
    WALL = 5
    FLOOR = 6
    CEILING = 7
    VEGETATION = 8
    PERSON = 9
    VEHICLE = 10
    ANIMAL = 11
    SIGN = 12
    LAMP = 13
    FURNITURE = 14
    MEDICAL_EQUIPMENT = 15
    ARTWORK = 16
    FENCE = 17
    WATER = 18
    ROCK = 19
    RIDE = 20
    STALL = 21
    BED = 22
    DOOR = 23
    POLE = 24
    PROP = 25


@dataclass(frozen=True)
class Mesh:
    """Triangles with a material, an instance and a colour per face.

    Attributes:
        vertices: float32 (V, 3), metres.
        faces: int32 (F, 3), indices into vertices.
        uv: float32 (V, 2).
        material: int32 (F,), `Material`.
        instance: int32 (F,), index into `World.instances`.
        color: float32 (F, 3), linear albedo in [0, 1].
        part: int32 (V,), the rigid part that carries the vertex; 0 throughout in a static mesh.
    """

    vertices: Float
    faces: Int
    uv: Float
    material: Int
    instance: Int
    color: Float
    part: Int

    @property
    def num_faces(self) -> int:
        """Number of triangles."""
        return len(self.faces)


class MeshBuilder:
    """Collects primitives; `build` concatenates them once."""

    def __init__(self) -> None:
        self._chunks: list[tuple[Float, Int, Float, Int, Int, Float, Int]] = []
        self._num_vertices = 0

    def add(
        self,
        vertices: ArrayLike,
        faces: ArrayLike,
        *,
        material: Material,
        instance: int,
        color: ArrayLike,
        uv: ArrayLike | None = None,
        part: int = 0,
    ) -> Self:
        """Add triangles.

        Args:
            vertices: (V, 3), metres.
            faces: (F, 3).
            material: One material for all faces.
            instance: One instance id for all faces.
            color: (3,) or (F, 3), linear.
            uv: (V, 2), zeros if left out.
            part: Rigid part of all vertices.
        """
        v = np.asarray(vertices, np.float32).reshape(-1, 3)
        f = np.asarray(faces, np.int32).reshape(-1, 3)
        n = len(f)
        self._chunks.append(
            (
                v,
                f + np.int32(self._num_vertices),
                np.zeros((len(v), 2), np.float32) if uv is None else np.asarray(uv, np.float32),
                np.full(n, int(material), np.int32),
                np.full(n, instance, np.int32),
                np.broadcast_to(np.asarray(color, np.float32), (n, 3)),
                np.full(len(v), part, np.int32),
            )
        )
        self._num_vertices += len(v)
        return self

    def build(self) -> Mesh:
        """All primitives as one mesh; an empty builder gives an empty mesh."""
        if not self._chunks:
            none = np.zeros(0, np.int32)
            empty = np.zeros((0, 3), np.float32)
            return Mesh(empty, none.reshape(0, 3), empty[:, :2], none, none, empty, none)
        columns: list[Any] = [np.concatenate(c) for c in zip(*self._chunks, strict=True)]
        return Mesh(*columns)


def box(low: ArrayLike, high: ArrayLike, *, bottom: bool = False) -> tuple[Float, Int, Float]:
    """An axis-aligned box as (vertices, faces, uv in metres); the bottom is left out by default."""
    x0, y0, z0 = np.asarray(low, np.float32)
    x1, y1, z1 = np.asarray(high, np.float32)
    sides = [
        ((x0, y0, z0), (x1, y0, z0), (x1, y0, z1), (x0, y0, z1), x1 - x0, z1 - z0),
        ((x1, y0, z0), (x1, y1, z0), (x1, y1, z1), (x1, y0, z1), y1 - y0, z1 - z0),
        ((x1, y1, z0), (x0, y1, z0), (x0, y1, z1), (x1, y1, z1), x1 - x0, z1 - z0),
        ((x0, y1, z0), (x0, y0, z0), (x0, y0, z1), (x0, y1, z1), y1 - y0, z1 - z0),
        ((x0, y0, z1), (x1, y0, z1), (x1, y1, z1), (x0, y1, z1), x1 - x0, y1 - y0),
    ]
    if bottom:
        sides.append(((x0, y1, z0), (x1, y1, z0), (x1, y0, z0), (x0, y0, z0), x1 - x0, y1 - y0))
    vertices = np.array([corner for side in sides for corner in side[:4]], np.float32)
    first = np.arange(len(sides), dtype=np.int32)[:, None] * 4
    faces = np.concatenate([first + [0, 1, 2], first + [0, 2, 3]], 1).reshape(-1, 3)
    uv = np.array([c for *_, w, h in sides for c in ((0, 0), (w, 0), (w, h), (0, h))], np.float32)
    return vertices, faces.astype(np.int32), uv


def quad(corners: ArrayLike, *, unit_uv: bool = True) -> tuple[Float, Int, Float]:
    """Four corners, counter-clockwise from lower left, as (vertices, faces, uv).

    With `unit_uv` the image stands upright: u runs along the bottom edge, v runs *down*.
    Otherwise uv is in metres from the first corner.
    """
    v = np.asarray(corners, np.float32)
    if unit_uv:
        uv = np.array([(0, 1), (1, 1), (1, 0), (0, 0)], np.float32)
    else:
        w, h = float(np.linalg.norm(v[1] - v[0])), float(np.linalg.norm(v[3] - v[0]))
        uv = np.array([(0, 0), (w, 0), (w, h), (0, h)], np.float32)
    return v, np.array([(0, 1, 2), (0, 2, 3)], np.int32), uv


def cylinder(
    radius_low: float, radius_high: float, height: float, *, num_sides: int = 8, cap: bool = True
) -> tuple[Float, Int, Float]:
    """An upright (truncated) cone on the origin as (vertices, faces, uv in metres)."""
    turn = np.linspace(0, 2 * np.pi, num_sides + 1)
    ring = np.stack([np.cos(turn), np.sin(turn), np.zeros_like(turn)], 1)
    v = np.concatenate([ring * radius_low, ring * radius_high + [0, 0, height], [[0, 0, height]]])
    i, n = np.arange(num_sides), num_sides + 1
    faces = [np.stack([i, i + 1, i + 1 + n], 1), np.stack([i, i + 1 + n, i + n], 1)]
    if cap:
        faces.append(np.stack([i + n, i + 1 + n, np.full(num_sides, 2 * n)], 1))
    around = turn * max(radius_low, radius_high)
    uv = np.concatenate(
        [np.stack([around, 0 * turn], 1), np.stack([around, 0 * turn + height], 1), [[0, height]]]
    )
    return v.astype(np.float32), np.concatenate(faces).astype(np.int32), uv.astype(np.float32)


def sphere(
    radius: ArrayLike = 1.0, *, num_rings: int = 6, num_sides: int = 10
) -> tuple[Float, Int, Float]:
    """An ellipsoid on the origin as (vertices, faces, uv); `radius` is a number or one per axis."""
    lat = np.linspace(-np.pi / 2, np.pi / 2, num_rings + 1)
    lon = np.linspace(0, 2 * np.pi, num_sides + 1)
    grid_lat, grid_lon = np.meshgrid(lat, lon, indexing="ij")
    unit = np.stack(
        [
            np.cos(grid_lat) * np.cos(grid_lon),
            np.cos(grid_lat) * np.sin(grid_lon),
            np.sin(grid_lat),
        ],
        -1,
    ).reshape(-1, 3)
    r, s = np.meshgrid(np.arange(num_rings), np.arange(num_sides), indexing="ij")
    a = (r * (num_sides + 1) + s).ravel()
    b, c = a + 1, a + num_sides + 1
    faces = np.concatenate([np.stack([a, b, c + 1], 1), np.stack([a, c + 1, c], 1)])
    used = np.concatenate([(r > 0).ravel(), (r < num_rings - 1).ravel()])
    uv = np.stack([grid_lon.ravel(), grid_lat.ravel() + np.pi / 2], 1)
    vertices = unit * np.asarray(radius, np.float64)
    return vertices.astype(np.float32), faces[used].astype(np.int32), uv.astype(np.float32)


def rotation_z(angle_rad: float) -> Float:
    """The 3x3 rotation about the vertical, counter-clockwise seen from above."""
    c, s = np.cos(angle_rad), np.sin(angle_rad)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]], np.float32)


def placed(vertices: Float, *, at: ArrayLike = (0, 0, 0), yaw_rad: float = 0.0) -> Float:
    """Vertices turned about the vertical, then moved."""
    return (vertices @ rotation_z(yaw_rad).T + np.asarray(at, np.float32)).astype(np.float32)
