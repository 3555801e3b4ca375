"""The stage that every grammar builds on: meshes, instances, signs, lamps, moving parts, a plan."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from worldloop.atlas.records import Sign
from worldloop.scenes.scene import Scene
from worldloop.seeds import stream
from worldloop.worlds.boards import SIGN_HEIGHT_PX, SIGN_WIDTH_PX, board_image
from worldloop.worlds.geometry import (
    Float,
    Int,
    Material,
    Mesh,
    MeshBuilder,
    SemanticClass,
    box,
    placed,
)
from worldloop.worlds.palette import SIGN_BOARDS
from worldloop.worlds.plan import Plan
from worldloop.worlds.world import Air, Instance, Room, Track, UInt8, World

Primitive = tuple[Float, Int, Float]
Motion = Callable[[float], Float]

MAX_TRIANGLES = 120_000


@dataclass(frozen=True)
class Sight:
    """Something worth looking at; the player starts and turns so that sights are in view.

    Attributes:
        at: Centre, metres.
        weight: 1 for a sculpture or an animal, more for what the place is known for.
    """

    at: tuple[float, float, float]
    weight: float = 1.0


class Stage:
    """Collects a world; `finish` freezes it.

    Things that never move go through `put`, `box` and `boxes` without `part`. Things that move
    reserve rigid parts with `parts`, put primitives in the axes of a part (`part=`), and say with
    `drive` where the parts are at any time.

    Attributes:
        scene: The record that is being built.
        plan: Where one may walk; block what one may not walk into.
        static: Mesh of what never moves.
        moving: Mesh of what moves, in part axes.
        sights: What the player likes to see.

    Example:
        >>> from worldloop.worlds.geometry import sphere
        >>> stage = Stage(scene, low=(-20, -5), high=(20, 5))  # doctest: +SKIP
        >>> ball = stage.instance(SemanticClass.PROP, "a red ball", moves=True)  # doctest: +SKIP
        >>> part = stage.parts(1)  # doctest: +SKIP
        >>> stage.put(sphere(0.2), material=Material.PAINT, color=(0.6, 0.1, 0.1),
        ...     instance=ball, part=part)  # doctest: +SKIP
        >>> stage.drive([part], lambda time_s: moved([(0, 0, 0.2 + time_s)]))  # doctest: +SKIP
    """

    def __init__(self, scene: Scene, *, low: ArrayLike, high: ArrayLike) -> None:
        """An empty stage on which one may walk between two corners (x, y)."""
        self.scene = scene
        self.plan = Plan(low, high)
        self.static, self.moving = MeshBuilder(), MeshBuilder()
        self.sights: list[Sight] = []
        self._instances = [Instance(SemanticClass.SKY, "the sky")]
        self._lamps: list[tuple[float, ...]] = []
        self._signs: dict[tuple[str, ...], UInt8] = {}
        self._num_parts = 0
        self._drives: list[tuple[Sequence[int], Motion]] = []

    def random(self, *names: str | int) -> np.random.Generator:
        """The stream of this scene with that name, e.g. `stage.random("trees")`."""
        return stream(self.scene.seed, self.scene.institution, *names)

    def instance(self, semantic: SemanticClass, phrase: str, *, moves: bool = False) -> int:
        """A new thing with its own id; the phrase is what one would call it, with its article."""
        self._instances.append(Instance(semantic, phrase, moves))
        return len(self._instances) - 1

    def put(
        self,
        primitive: Primitive,
        *,
        material: Material,
        color: ArrayLike,
        instance: int,
        at: ArrayLike = (0, 0, 0),
        yaw_rad: float = 0.0,
        part: int | None = None,
    ) -> None:
        """Add a primitive (vertices, faces, uv), turned about the vertical and moved to `at`.

        Args:
            primitive: From `geometry` or `shapes`.
            material: Its material.
            color: Linear albedo, (3,) or one per face.
            instance: From `instance`.
            at: Where its origin goes; world axes, or part axes if `part` is given.
            yaw_rad: Counter-clockwise turn before the move.
            part: A part from `parts`; static without one.
        """
        vertices, faces, uv = primitive
        builder = self.static if part is None else self.moving
        builder.add(
            placed(vertices, at=at, yaw_rad=yaw_rad),
            faces,
            material=material,
            instance=instance,
            color=color,
            uv=uv,
            part=part or 0,
        )

    def box(
        self,
        low: ArrayLike,
        high: ArrayLike,
        *,
        material: Material,
        color: ArrayLike,
        instance: int,
        bottom: bool = False,
        block: bool = False,
        part: int | None = None,
    ) -> None:
        """Add an axis-aligned box between two corners; `block` also blocks it on the plan."""
        a, b = np.minimum(low, high), np.maximum(low, high)
        self.put(
            box(a, b, bottom=bottom), material=material, color=color, instance=instance, part=part
        )
        if block:
            self.plan.block_box(a, b, height_m=float(b[2]))

    def lamp(self, at: ArrayLike, color: ArrayLike, *, reach_m: float = 14.0) -> None:
        """A light at a point; `color` is linear radiance at one metre (street lamp: about 20)."""
        x, y, z = np.asarray(at, np.float64)
        red, green, blue = np.asarray(color, np.float64)
        self._lamps.append((x, y, z, red, green, blue, reach_m))

    def sign(self, sign: Sign, *, board: tuple[str, str] | None = None) -> int:
        """The index of an image of the sign's text, for the first component of a SIGN colour.

        Args:
            sign: What is written, and in which language.
            board: Hex colours of board and letters; a seeded pair of `SIGN_BOARDS` without.
        """
        if board is None:
            rng = self.random("sign board", sign.word, len(self._instances) % 3)
            board = SIGN_BOARDS[int(rng.integers(len(SIGN_BOARDS)))]
        key = (sign.language, sign.text, *board)
        if key not in self._signs:
            self._signs[key] = board_image(sign, *board)
        return list(self._signs).index(key)

    def parts(self, count: int) -> int:
        """Reserve rigid parts in a row; returns the first."""
        first = self._num_parts
        self._num_parts += count
        return first

    def drive(self, parts: Sequence[int], motion: Motion) -> None:
        """Say how parts move: `motion(time_s)` gives float32 (len(parts), 3, 4), part to world.

        `parts` is read at `finish`, so a list may still grow until then.
        """
        self._drives.append((parts, motion))

    def finish(self, *, air: Air, track: Track, room: Room | None = None) -> World:
        """Freeze everything into a world."""
        return World(
            static=_on_grid(self.static.build()),
            moving=_on_grid(self.moving.build()),
            pose=_joint_motion(max(1, self._num_parts), self._drives),
            instances=tuple(self._instances),
            lamps=np.array(self._lamps, np.float32).reshape(-1, 7),
            signs=np.stack(list(self._signs.values())) if self._signs else _blank_signs(),
            air=air,
            room=room,
            track=track,
        )


def moved(positions: ArrayLike, yaws_rad: ArrayLike = 0.0) -> Float:
    """Poses of parts that stand upright: (N, 3) positions and (N,) headings to (N, 3, 4)."""
    at = np.asarray(positions, np.float64).reshape(-1, 3)
    yaw = np.broadcast_to(np.asarray(yaws_rad, np.float64), len(at))
    pose = np.zeros((len(at), 3, 4))
    pose[:, 0, 0] = pose[:, 1, 1] = np.cos(yaw)
    pose[:, 1, 0] = np.sin(yaw)
    pose[:, 0, 1] = -pose[:, 1, 0]
    pose[:, 2, 2] = 1
    pose[:, :, 3] = at
    return pose.astype(np.float32)


def _joint_motion(num_parts: int, drives: Sequence[tuple[Sequence[int], Motion]]) -> Motion:
    frozen = [(np.array(parts, np.int64), motion) for parts, motion in drives if len(parts)]
    rest = np.tile(np.eye(3, 4, dtype=np.float32), (num_parts, 1, 1))

    def pose(time_s: float) -> Float:
        matrices = rest.copy()
        for parts, motion in frozen:
            matrices[parts] = motion(time_s)
        # sin and cos differ in the last bit between processors; a coarser grid hides that
        return np.rint(matrices * 65536).astype(np.float32) / np.float32(65536)

    return pose


def _on_grid(mesh: Mesh) -> Mesh:
    """Vertices and uv on a grid of 1/65536 m, so that last bits do not depend on the processor."""
    grid = np.float64(65536)
    return Mesh(
        (np.rint(mesh.vertices * grid) / grid).astype(np.float32),
        mesh.faces,
        (np.rint(mesh.uv * grid) / grid).astype(np.float32),
        mesh.material,
        mesh.instance,
        mesh.color,
        mesh.part,
    )


def _blank_signs() -> UInt8:
    return np.zeros((1, SIGN_HEIGHT_PX, SIGN_WIDTH_PX, 3), np.uint8)
