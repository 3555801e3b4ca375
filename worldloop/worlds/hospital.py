"""A hospital ward: two rows of beds along an aisle, curtains, infusion stands, monitors, a nurses' station.

Style keys:
    accent: `teal`, `blue`, `yellow` or `green`, the colour of curtains, doors and the lower wall.
    floor: `light` or `warm`.

Subjects: `bed`, `curtain`, `infusion stand`, `monitor`, `wheelchair`, `trolley`.
The aisle runs along x; one enters at its low end and sees the doors at its high end.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from worldloop.errors import ClipRejectedError, UnknownKeyError
from worldloop.recipes import Recipe, Shape
from worldloop.scenes.scene import Role, Scene
from worldloop.seeds import stream
from worldloop.worlds.air import indoor_air
from worldloop.worlds.animals import hull
from worldloop.worlds.crowd import Crowd
from worldloop.worlds.geometry import Float, Material, SemanticClass, sphere
from worldloop.worlds.interior import (
    EAST,
    EXIT_BOARD,
    NORTH,
    SOUTH,
    WEST,
    block,
    hang_sign,
    level,
    put_sign,
    upright,
    wall,
    window,
)
from worldloop.worlds.palette import Color, linear, pick
from worldloop.worlds.paths import Path, Paths
from worldloop.worlds.people import Troupe
from worldloop.worlds.player import Start, play
from worldloop.worlds.shapes import Primitive, boxes, joined, loft, shifted, tube
from worldloop.worlds.stage import Sight, Stage, moved
from worldloop.worlds.world import Room, Track, World

ACCENTS: dict[str, Color] = {
    "teal": linear("#4fa39d"),
    "blue": linear("#5c8fc4"),
    "yellow": linear("#d9b45a"),
    "green": linear("#7bae74"),
}
FLOORS: dict[str, Color] = {"light": linear("#b9c4c8"), "warm": linear("#c6bba6")}
SUBJECTS = ("bed", "curtain", "infusion stand", "monitor", "wheelchair", "trolley")
STAFF = ("nurse", "doctor", "orderly", "surgeon", "cleaner")

PITCH_M, BED_LONG_M, MATTRESS_M = 2.9, 2.1, 0.58
HIGH_M = 3.0
_ALL = range(6)
_WHITE: Color = (0.84, 0.85, 0.85)
_STEEL: Color = (0.55, 0.56, 0.58)
_BEECH: Color = linear("#c2a174")
_SCREEN: Color = (0.012, 0.016, 0.018)
_TRACE: Color = (0.04, 0.42, 0.12)


@dataclass(frozen=True)
class Layout:
    """The measures of a ward; beds are numbered from the entrance, left before right."""

    num_beds: int
    half_m: float
    entry_m: float
    length_m: float
    station_m: tuple[float, float]
    accent: Color
    floor: Color

    def bed(self, k: int) -> tuple[float, float]:
        """X of the middle of bed k, and +1 for the left wall or -1 for the right one."""
        return self.entry_m + (k // 2 + 0.5) * PITCH_M, 1.0 if k % 2 == 0 else -1.0


def build(recipe: Recipe) -> World:
    """The world of a hospital scene.

    Raises:
        UnknownKeyError: If a subject or a style is none that a ward has.
        ClipRejectedError: If the scene asks for more than the ward holds.
    """
    scene = recipe.scene
    layout = _lay_out(scene)
    half, length = layout.half_m, layout.length_m
    stage = Stage(scene, low=(0, -half), high=(length, half))
    _put_shell(stage, layout)
    for k in range(layout.num_beds):
        _put_bay(stage, layout, k)
    _put_station(stage, layout)
    _put_equipment(stage, layout)
    _put_signs(stage, layout)
    troupe = Troupe(stage, indoors=True)
    walkers = _place_people(stage, troupe, layout)
    track = play(stage, recipe.shape, _starts(layout))
    _walk_people(stage, troupe, layout, walkers, track, recipe.shape)
    glow = 0.90 if scene.is_night else 1.0
    room = Room((0, -half, 0), (length, half, HIGH_M), (0.66 * glow, 0.68 * glow, 0.69 * glow))
    return stage.finish(air=indoor_air(scene), track=track, room=room)


def _lay_out(scene: Scene) -> Layout:
    for subject in scene.subjects:
        if subject.kind not in SUBJECTS:
            raise UnknownKeyError("hospital subject", subject.kind, SUBJECTS)
    rng = stream(scene.seed, "hospital", "layout")
    beds = _count(scene, "bed")
    accent, floor = _style(scene, "accent", ACCENTS, rng), _style(scene, "floor", FLOORS, rng)
    rows = max(2, -(-beds // 2))
    entry = 1.6 + 3.6 * max(0, 4 - rows)  # few beds stand at the far end, to be seen all the way
    bays_end = entry + rows * PITCH_M
    if rows < 4:
        length, station = bays_end + 3.0, (3.4, entry - 0.9)
    else:
        length, station = bays_end + 6.0, (bays_end + 1.2, bays_end + 4.5)
    return Layout(beds, float(rng.uniform(4.3, 5.0)), entry, length, station, accent, floor)


def _count(scene: Scene, kind: str) -> int:
    return sum(s.count for s in scene.subjects if s.kind == kind)


def _style(scene: Scene, key: str, known: dict[str, Color], rng: np.random.Generator) -> Color:
    chosen = scene.style.get(key, pick(rng, tuple(known)))
    if chosen not in known:
        raise UnknownKeyError(f"hospital {key}", chosen, known)
    return known[chosen]


# -------------------------------------------------------------------------------------- the room


def _put_shell(stage: Stage, layout: Layout) -> None:
    half, length = layout.half_m, layout.length_m
    floor = stage.instance(SemanticClass.FLOOR, "a polished hospital floor")
    stage.put(
        level((0, -half), (length, half), 0.0),
        material=Material.TILE,
        color=layout.floor,
        instance=floor,
    )
    for y in (-1.75, 1.75):
        line = level((0.6, y - 0.06), (length - 0.6, y + 0.06), 0.004)
        stage.put(line, material=Material.MATTE, color=layout.accent, instance=floor)
    _put_ceiling(stage, layout)
    walls = stage.instance(SemanticClass.WALL, "the walls of the ward")
    sides = (
        (NORTH, (0.0, half, 0.0), length),
        (SOUTH, (length, -half, 0.0), length),
        (EAST, (length, half, 0.0), 2 * half),
        (WEST, (0.0, -half, 0.0), 2 * half),
    )
    tint = tuple(0.35 * a + 0.65 * w for a, w in zip(layout.accent, _WHITE, strict=True))
    for facing, origin, wide in sides:
        upper = wall(wide, 1.1, HIGH_M)
        stage.put(
            upper, material=Material.MATTE, color=_WHITE, instance=walls, at=origin, yaw_rad=facing
        )
        lower = wall(wide, 0.0, 1.1)
        stage.put(
            lower, material=Material.MATTE, color=tint, instance=walls, at=origin, yaw_rad=facing
        )
        strips = boxes(
            [(0, -0.02, 0.0), (0, -0.03, 1.07)], [(wide, 0, 0.12), (wide, 0, 1.19)], sides=(0, 4, 5)
        )
        stage.put(
            strips,
            material=Material.MATTE,
            color=layout.accent,
            instance=walls,
            at=origin,
            yaw_rad=facing,
        )
    for x, facing in ((length, EAST), (0.0, WEST)):
        _put_doors(stage, layout, x, facing)


def _put_ceiling(stage: Stage, layout: Layout) -> None:
    half, length = layout.half_m, layout.length_m
    ceiling = stage.instance(SemanticClass.CEILING, "a white ceiling of panels")
    stage.put(
        level((0, -half), (length, half), HIGH_M, down=True),
        material=Material.MATTE,
        color=(0.86, 0.87, 0.87),
        instance=ceiling,
    )
    joints = [
        level((x - 0.012, -half), (x + 0.012, half), HIGH_M - 0.004, down=True)
        for x in np.arange(1.2, length, 1.2)
    ]
    joints += [
        level((0, y - 0.012), (length, y + 0.012), HIGH_M - 0.005, down=True)
        for y in np.arange(-3.6, 3.7, 1.2)
    ]
    stage.put(joined(joints), material=Material.MATTE, color=(0.60, 0.61, 0.61), instance=ceiling)
    for k, x in enumerate(np.arange(1.8, length - 0.6, 2.4)):
        panel = stage.instance(SemanticClass.LAMP, "a lit ceiling panel")
        for y in (-1.8, 1.8) if k % 2 else (0.0,):
            rim = level((x - 0.64, y - 0.34), (x + 0.64, y + 0.34), HIGH_M - 0.008, down=True)
            stage.put(rim, material=Material.MATTE, color=(0.7, 0.7, 0.7), instance=panel)
            pane = level((x - 0.59, y - 0.29), (x + 0.59, y + 0.29), HIGH_M - 0.014, down=True)
            stage.put(pane, material=Material.LAMP, color=(0.58, 0.60, 0.60), instance=panel)
    for x in np.arange(2.4, length, 4.8):
        stage.lamp((x, 0.0, HIGH_M - 0.35), (2.4, 2.5, 2.5), reach_m=8.0)


def _disc(radius: float, num_sides: int = 18) -> Primitive:
    """A round pane in wall axes, centred on the origin, facing its viewer."""
    turn = np.linspace(0, 2 * np.pi, num_sides, endpoint=False)
    rim = radius * np.stack([np.cos(turn), 0 * turn, np.sin(turn)], 1)
    vertices = np.concatenate([[[0, 0, 0]], rim]).astype(np.float32)
    i = np.arange(num_sides)
    faces = np.stack([0 * i, i + 1, (i + 1) % num_sides + 1], 1).astype(np.int32)
    return vertices, faces, np.zeros((num_sides + 1, 2), np.float32)


def _put_doors(stage: Stage, layout: Layout, x: float, facing: float) -> None:
    """A double door with round windows in the middle of an end wall."""
    door = stage.instance(SemanticClass.DOOR, "a double door with round windows")

    def put(primitive: Primitive, material: Material, color: ArrayLike) -> None:
        stage.put(
            primitive, material=material, color=color, instance=door, at=(x, 0, 0), yaw_rad=facing
        )

    frame = boxes(
        [(-1.12, -0.07, 0), (1.0, -0.07, 0), (-1.12, -0.07, 2.15)],
        [(-1.0, 0, 2.27), (1.12, 0, 2.27), (1.12, 0, 2.27)],
        sides=_ALL,
    )
    put(frame, Material.METAL, (0.6, 0.6, 0.6))
    leaves = boxes(
        [(-0.99, -0.05, 0.01), (0.01, -0.05, 0.01)], [(-0.01, 0, 2.15), (0.99, 0, 2.15)], sides=(0,)
    )
    put(leaves, Material.MATTE, layout.accent)
    kicks = boxes(
        [(-0.95, -0.056, 0.03), (0.05, -0.056, 0.03)],
        [(-0.05, 0, 0.3), (0.95, 0, 0.3)],
        sides=(0, 4),
    )
    put(kicks, Material.METAL, _STEEL)
    bars = boxes(
        [(-0.9, -0.1, 1.0), (0.1, -0.1, 1.0)], [(-0.1, -0.05, 1.05), (0.9, -0.05, 1.05)], sides=_ALL
    )
    put(bars, Material.METAL, _STEEL)
    for side in (-0.5, 0.5):
        put(shifted(_disc(0.25), (side, -0.054, 1.58)), Material.METAL, _STEEL)
        put(shifted(_disc(0.2), (side, -0.06, 1.58)), Material.LAMP, (0.22, 0.24, 0.24))


# ---------------------------------------------------------------------------------------- the bays


def _put_bay(stage: Stage, layout: Layout, k: int) -> None:
    """One bed with what belongs to it; the head is at the wall."""
    x, side = layout.bed(k)
    rng = stage.random("bay", k)
    facing = NORTH if side > 0 else SOUTH
    wall_y = side * layout.half_m
    _put_bed(stage, layout, k, rng)
    panel = stage.instance(SemanticClass.MEDICAL_EQUIPMENT, "a bedhead panel with sockets")
    unit = shifted(block(2.1, 0.09, 0.2, bottom=True), (0, 0, 1.3))
    stage.put(
        unit,
        material=Material.MATTE,
        color=(0.74, 0.76, 0.77),
        instance=panel,
        at=(x, wall_y, 0),
        yaw_rad=facing,
    )
    sockets = boxes(
        [(u - 0.05, -0.1, 1.35) for u in (-0.75, -0.55, 0.5, 0.7, 0.88)],
        [(u + 0.05, -0.09, 1.45) for u in (-0.75, -0.55, 0.5, 0.7, 0.88)],
        sides=(0,),
    )
    stage.put(
        sockets,
        material=Material.MATTE,
        color=(0.25, 0.3, 0.32),
        instance=panel,
        at=(x, wall_y, 0),
        yaw_rad=facing,
    )
    light = level((-0.5, -0.085), (0.5, -0.01), 1.298, down=True)
    stage.put(
        light,
        material=Material.LAMP,
        color=(0.55, 0.5, 0.42),
        instance=panel,
        at=(x, wall_y, 0),
        yaw_rad=facing,
    )
    if side > 0:
        window(stage, at=(x, wall_y, 1.66), facing=facing, width_m=1.9, height_m=1.0)
    else:
        _put_board(stage, layout, x - 0.45, wall_y, facing, rng)
    _put_cabinet(stage, x, side, layout, rng)
    if rng.random() < 0.6:
        _put_chair(stage, layout, x - 0.98, side * (layout.half_m - 1.35), facing)
    if k < 2:
        stage.sights.append(Sight((x, side * (layout.half_m - 1.2), 0.8), 0.6))
    stage.sights.append(Sight((x, side * (layout.half_m - 1.2), 0.8), 0.8))


def _put_bed(stage: Stage, layout: Layout, k: int, rng: np.random.Generator) -> None:
    x, side = layout.bed(k)
    y, yaw = side * (layout.half_m - 0.2 - BED_LONG_M / 2), side * np.pi / 2
    patient = k in _occupied(stage.scene, layout)
    phrase = "a hospital bed with a patient" if patient else "an empty hospital bed"
    bed = stage.instance(SemanticClass.BED, phrase)

    def put(primitive: Primitive, material: Material, color: ArrayLike) -> None:
        stage.put(
            primitive, material=material, color=color, instance=bed, at=(x, y, 0), yaw_rad=yaw
        )

    base = boxes(
        [(-0.98, -0.40, 0.30), (-0.6, -0.3, 0.14), (-0.98, -0.44, 0.37)],
        [(0.98, 0.40, 0.37), (0.6, 0.3, 0.30), (0.98, 0.44, 0.41)],
    )
    put(base, Material.METAL, _STEEL)
    legs = boxes(
        [(u - 0.03, v - 0.03, 0.09) for u in (-0.85, 0.85) for v in (-0.36, 0.36)],
        [(u + 0.03, v + 0.03, 0.3) for u in (-0.85, 0.85) for v in (-0.36, 0.36)],
    )
    put(legs, Material.METAL, _STEEL)
    wheels = joined(
        [
            shifted(sphere((0.055, 0.03, 0.055), num_rings=3, num_sides=6), (u, v, 0.055))
            for u in (-0.85, 0.85)
            for v in (-0.36, 0.36)
        ]
    )
    put(wheels, Material.MATTE, (0.05, 0.05, 0.055))
    boards = boxes(
        [(-1.07, -0.46, 0.34), (1.0, -0.46, 0.34)],
        [(-1.01, 0.46, 0.86), (1.06, 0.46, 1.08)],
        sides=_ALL,
    )
    put(boards, Material.MATTE, _BEECH)
    put(
        boxes([(-0.98, -0.43, 0.41)], [(0.98, 0.43, MATTRESS_M)]),
        Material.MATTE,
        (0.80, 0.82, 0.83),
    )
    pillow = shifted(
        sphere((0.2, 0.33, 0.085), num_rings=5, num_sides=10), (0.74, 0, MATTRESS_M + 0.05)
    )
    put(pillow, Material.MATTE, (0.88, 0.88, 0.87))
    rails = boxes(
        [(0.0, v - 0.012, z) for v in (-0.47, 0.47) for z in (0.66, 0.80)]
        + [(u - 0.012, v - 0.012, 0.4) for v in (-0.47, 0.47) for u in (0.02, 0.35, 0.68)],
        [(0.7, v + 0.012, z + 0.03) for v in (-0.47, 0.47) for z in (0.66, 0.80)]
        + [(u + 0.012, v + 0.012, 0.8) for v in (-0.47, 0.47) for u in (0.02, 0.35, 0.68)],
        sides=_ALL,
    )
    put(rails, Material.METAL, (0.66, 0.67, 0.69))
    cover = pick(
        rng, (layout.accent, layout.accent, linear("#8fb3cf"), linear("#d7c9a8"), linear("#a9c4a0"))
    )
    put(boxes([(-1.0, -0.455, 0.40)], [(0.22, 0.455, MATTRESS_M + 0.03)]), Material.MATTE, cover)
    put(
        boxes([(0.2, -0.457, 0.40)], [(0.40, 0.457, MATTRESS_M + 0.035)]),
        Material.MATTE,
        (0.88, 0.89, 0.9),
    )
    if patient:
        put(hull(_BODY_UNDER_BLANKET), Material.MATTE, cover)


_BODY_UNDER_BLANKET = (
    (-0.97, 0.57, 0.66, 0.14),
    (-0.90, 0.57, 0.80, 0.22),
    (-0.55, 0.57, 0.76, 0.24),
    (-0.1, 0.57, 0.82, 0.28),
    (0.18, 0.57, 0.84, 0.31),
    (0.25, 0.58, 0.82, 0.30),
)


def _occupied(scene: Scene, layout: Layout) -> tuple[int, ...]:
    """The beds in which somebody lies."""
    lying = sum(role.count for role in scene.roles if role.action == "lying")
    if lying > layout.num_beds:
        raise ClipRejectedError(
            "build", f"{lying} people lie down in {layout.num_beds} beds; ask for more beds."
        )
    order = stream(scene.seed, "hospital", "patients").permutation(layout.num_beds)
    return tuple(sorted(int(k) for k in order[:lying]))


def _put_board(
    stage: Stage, layout: Layout, x: float, wall_y: float, facing: float, rng: np.random.Generator
) -> None:
    """A notice board or a framed print on the wall without windows."""
    if rng.random() < 0.5:
        board = stage.instance(SemanticClass.FURNITURE, "a notice board")
        stage.put(
            shifted(block(1.2, 0.03, 0.75, bottom=True), (0, 0, 1.72)),
            material=Material.MATTE,
            color=_BEECH,
            instance=board,
            at=(x, wall_y, 0),
            yaw_rad=facing,
        )
        for _ in range(5):
            u, v = float(rng.uniform(-0.45, 0.45)), float(rng.uniform(1.78, 2.15))
            sheet = shifted(upright(0.2, 0.27), (u, -0.034 - 0.002 * float(rng.random()), v))
            stage.put(
                sheet,
                material=Material.MATTE,
                color=pick(rng, (_WHITE, layout.accent, linear("#efd97a"), _WHITE)),
                instance=board,
                at=(x, wall_y, 0),
                yaw_rad=facing,
            )
        return
    prints = stage.instance(SemanticClass.ARTWORK, "a framed print")
    stage.put(
        shifted(block(1.06, 0.03, 0.76, bottom=True), (0, 0, 1.76)),
        material=Material.MATTE,
        color=(0.8, 0.8, 0.78),
        instance=prints,
        at=(x, wall_y, 0),
        yaw_rad=facing,
    )
    image = shifted(upright(0.96, 0.66), (0, -0.034, 1.81))
    stage.put(
        image,
        material=Material.PICTURE,
        color=(float(rng.integers(10_000)), 0, 0),
        instance=prints,
        at=(x, wall_y, 0),
        yaw_rad=facing,
    )


def _put_cabinet(
    stage: Stage, x: float, side: float, layout: Layout, rng: np.random.Generator
) -> None:
    u, y = x + 0.92, side * (layout.half_m - 0.32)
    cabinet = stage.instance(SemanticClass.FURNITURE, "a bedside cabinet")
    stage.box(
        (u - 0.23, y - 0.24, 0.08),
        (u + 0.23, y + 0.24, 0.78),
        material=Material.MATTE,
        color=_BEECH,
        instance=cabinet,
    )
    stage.box(
        (u - 0.25, y - 0.26, 0.78),
        (u + 0.25, y + 0.26, 0.82),
        material=Material.MATTE,
        color=_WHITE,
        instance=cabinet,
        bottom=True,
    )
    front = y - side * 0.245
    for z in (0.42, 0.66):
        stage.box(
            (u - 0.08, front - side * 0.02, z),
            (u + 0.08, front, z + 0.025),
            material=Material.METAL,
            color=_STEEL,
            instance=cabinet,
        )
    if rng.random() < 0.5:
        flowers = stage.instance(SemanticClass.PROP, "a vase of flowers")
        stage.put(
            loft([(0, 0.05, 0.05), (0.16, 0.065, 0.065)], num_sides=8),
            material=Material.PAINT,
            color=(0.3, 0.45, 0.6),
            instance=flowers,
            at=(u, y, 0.82),
        )
        shade = pick(
            rng, (linear("#d8455a"), linear("#e8b731"), linear("#c77fd0"), linear("#f0ede0"))
        )
        blooms = joined(
            [
                shifted(
                    sphere(0.06, num_rings=4, num_sides=6),
                    (0.09 * np.cos(a), 0.09 * np.sin(a), 0.24 + 0.05 * (i % 2)),
                )
                for i, a in enumerate(np.arange(5) * 1.256)
            ]
        )
        stage.put(blooms, material=Material.MATTE, color=shade, instance=flowers, at=(u, y, 0.82))
    else:
        jug = stage.instance(SemanticClass.PROP, "a water jug")
        stage.put(
            loft([(0, 0.06, 0.06), (0.22, 0.055, 0.055)], num_sides=8),
            material=Material.PAINT,
            color=(0.55, 0.68, 0.75),
            instance=jug,
            at=(u, y, 0.82),
        )


def _put_chair(stage: Stage, layout: Layout, x: float, y: float, facing: float) -> None:
    chair = stage.instance(SemanticClass.FURNITURE, "a visitor's chair")
    seat = boxes(
        [(-0.24, -0.24, 0.42), (-0.24, 0.19, 0.46)],
        [(0.24, 0.24, 0.47), (0.24, 0.24, 0.9)],
        sides=_ALL,
    )
    stage.put(
        seat,
        material=Material.MATTE,
        color=layout.accent,
        instance=chair,
        at=(x, y, 0),
        yaw_rad=facing,
    )
    legs = boxes(
        [(u - 0.02, v - 0.02, 0) for u in (-0.22, 0.22) for v in (-0.22, 0.22)],
        [(u + 0.02, v + 0.02, 0.42) for u in (-0.22, 0.22) for v in (-0.22, 0.22)],
    )
    stage.put(
        legs, material=Material.METAL, color=_STEEL, instance=chair, at=(x, y, 0), yaw_rad=facing
    )


# ----------------------------------------------------------------------------------- the equipment


def _put_equipment(stage: Stage, layout: Layout) -> None:
    """Curtains, stands, monitors and the rest, bed by bed; then obstacles on the plan."""
    scene, num = stage.scene, layout.num_beds
    limits = {"curtain": num, "infusion stand": num, "monitor": num, "wheelchair": 2, "trolley": 2}
    for kind, limit in limits.items():
        if _count(scene, kind) > limit:
            raise ClipRejectedError(
                "build", f"{_count(scene, kind)} x {kind!r} for {num} beds; the ward holds {limit}."
            )
    named = {s.kind for s in scene.subjects}
    rng = stage.random("equipment")
    for k in range(_count(scene, "curtain")):
        _put_curtain(stage, layout, k)
    occupied = _occupied(scene, layout)
    free = [k for k in range(num) if k not in occupied]
    order = [*occupied, *(free[int(i)] for i in rng.permutation(len(free)))]
    for k in order[: _count(scene, "infusion stand")]:
        _put_infusion(stage, layout, k)
    num_monitors = _count(scene, "monitor") if "monitor" in named else num
    for k in sorted(order[:num_monitors]):
        _put_monitor(stage, layout, k, lit=k in occupied or "monitor" in named)
    for k in range(_count(scene, "wheelchair")):
        _put_wheelchair(stage, layout, k)
    for k in range(_count(scene, "trolley")):
        x = layout.length_m - 1.3 - 1.1 * k
        _put_trolley(stage, (x, layout.half_m - 0.9, 0), None)
        stage.plan.block_box(
            (x - 0.5, layout.half_m - 1.3), (x + 0.5, layout.half_m - 0.5), height_m=1.0
        )
    inner = layout.half_m - BED_LONG_M - 0.35
    end = layout.entry_m + -(-num // 2) * PITCH_M
    for side in (1.0, -1.0):
        a, b = sorted((side * inner, side * layout.half_m))
        stage.plan.block_box((layout.entry_m + 0.3, a), (end + 0.1, b), height_m=1.3)


def _put_curtain(stage: Stage, layout: Layout, k: int) -> None:
    """A curtain on a rail beyond the bed, drawn back by a share of its own."""
    x, side = layout.bed(k)
    rng = stage.random("curtain", k)
    edge = x + PITCH_M / 2
    reach = float(rng.choice([0.75, 1.1, 1.6, 2.2]))
    curtain = stage.instance(SemanticClass.FURNITURE, "a curtain on a rail")
    num = max(12, int(reach * 16))
    out = np.linspace(0.06, reach, num)
    y = side * (layout.half_m - out)
    wave = edge + 0.075 * np.sin(np.arange(num) * 1.1 + rng.uniform(0, 6))
    vertices = np.concatenate([np.stack([wave, y, 0 * y + z], 1) for z in (0.32, 2.22)]).astype(
        np.float32
    )
    i = np.arange(num - 1)
    faces = np.concatenate(
        [np.stack([i, i + 1, i + 1 + num], 1), np.stack([i, i + 1 + num, i + num], 1)]
    ).astype(np.int32)
    cloth = (vertices, faces, np.zeros((2 * num, 2), np.float32))
    stage.put(cloth, material=Material.MATTE, color=layout.accent, instance=curtain)
    mesh_top = boxes(
        [(edge - 0.02, min(y[0], y[-1]), 2.22)],
        [(edge + 0.02, max(y[0], y[-1]), 2.3)],
        sides=(1, 3),
    )
    stage.put(mesh_top, material=Material.MATTE, color=_WHITE, instance=curtain)
    ends = sorted((side * layout.half_m, side * (layout.half_m - 2.35)))
    rail = boxes(
        [(edge - 0.02, ends[0], 2.3), (edge - 0.012, side * (layout.half_m - 2.3) - 0.012, 2.33)],
        [
            (edge + 0.02, ends[1], 2.34),
            (edge + 0.012, side * (layout.half_m - 2.3) + 0.012, HIGH_M),
        ],
        sides=_ALL,
    )
    stage.put(rail, material=Material.METAL, color=(0.7, 0.71, 0.72), instance=curtain)


def _put_infusion(stage: Stage, layout: Layout, k: int) -> None:
    x, side = layout.bed(k)
    u, y = x - 0.72, side * (layout.half_m - 0.95)
    stand = stage.instance(SemanticClass.MEDICAL_EQUIPMENT, "an infusion stand")
    turn = np.arange(5) * 2 * np.pi / 5
    feet = [
        tube([(0, 0, 0.1), (0.26 * np.cos(a), 0.26 * np.sin(a), 0.05)], 0.018, num_sides=4)
        for a in turn
    ]
    pole = loft([(0.08, 0.018, 0.018), (2.05, 0.014, 0.014)], num_sides=6)
    hooks = tube(
        [(-0.14, 0, 2.0), (-0.1, 0, 2.05), (0.1, 0, 2.05), (0.14, 0, 2.0)], 0.012, num_sides=4
    )
    stage.put(
        joined([*feet, pole, hooks]),
        material=Material.METAL,
        color=(0.68, 0.69, 0.7),
        instance=stand,
        at=(u, y, 0),
    )
    bag = shifted(
        loft(
            [(0, 0.02, 0.012), (0.06, 0.075, 0.03), (0.26, 0.08, 0.03), (0.32, 0.05, 0.012)],
            num_sides=8,
        ),
        (0.13, 0, 1.66),
    )
    stage.put(bag, material=Material.PAINT, color=(0.78, 0.84, 0.88), instance=stand, at=(u, y, 0))
    pump = boxes([(-0.09, -0.09, 1.12)], [(0.09, 0.07, 1.36)], sides=_ALL)
    stage.put(pump, material=Material.MATTE, color=(0.72, 0.75, 0.78), instance=stand, at=(u, y, 0))
    line = tube(
        [
            (0.13, 0, 1.66),
            (0.16, -side * 0.02, 1.2),
            (0.3, -side * 0.12, 0.85),
            (0.5, -side * 0.15, 0.72),
        ],
        0.008,
        num_sides=3,
    )
    stage.put(line, material=Material.MATTE, color=(0.75, 0.8, 0.85), instance=stand, at=(u, y, 0))


def _put_monitor(stage: Stage, layout: Layout, k: int, *, lit: bool) -> None:
    """A patient monitor on an arm beside the bedhead, with traces if somebody lies there."""
    x, side = layout.bed(k)
    facing = NORTH if side > 0 else SOUTH
    u, y = x + 0.62 * side, side * (layout.half_m - 0.14)
    phrase = "a patient monitor with green traces" if lit else "a dark patient monitor"
    monitor = stage.instance(SemanticClass.MEDICAL_EQUIPMENT, phrase)
    facing += side * 0.0

    def put(primitive: Primitive, material: Material, color: ArrayLike) -> None:
        stage.put(
            primitive,
            material=material,
            color=color,
            instance=monitor,
            at=(u, y, 1.62),
            yaw_rad=facing - 0.45,
        )

    put(
        boxes(
            [(-0.27, -0.06, 0), (-0.03, 0.0, 0.1)],
            [(0.27, 0.06, 0.42), (0.03, 0.3, 0.2)],
            sides=_ALL,
        ),
        Material.MATTE,
        (0.62, 0.65, 0.67),
    )
    put(shifted(upright(0.48, 0.34), (0, -0.064, 0.04)), Material.MATTE, _SCREEN)
    if lit:
        for row, color in ((0.27, _TRACE), (0.17, (0.45, 0.4, 0.05)), (0.09, (0.05, 0.3, 0.5))):
            put(_trace(row, 0.05 if row > 0.2 else 0.025), Material.LAMP, color)


def _trace(height: float, swing: float) -> Primitive:
    """A heartbeat drawn as a ribbon in wall axes."""
    beat = [0, 0, 0.15, 0, -0.3, 1.0, -0.5, 0, 0.2, 0]
    z = height + swing * np.array(beat * 2)
    x = np.linspace(-0.22, 0.14, len(z))
    low, high = (
        np.stack([x, 0 * x - 0.068, z - 0.009], 1),
        np.stack([x, 0 * x - 0.068, z + 0.009], 1),
    )
    n, i = len(x), np.arange(len(x) - 1)
    faces = np.concatenate([np.stack([i, i + 1, i + 1 + n], 1), np.stack([i, i + 1 + n, i + n], 1)])
    return (
        np.concatenate([low, high]).astype(np.float32),
        faces.astype(np.int32),
        np.zeros((2 * n, 2), np.float32),
    )


def _put_wheelchair(stage: Stage, layout: Layout, k: int) -> None:
    x, side = layout.length_m - 2.4 - 1.4 * k, 1.0
    y = side * 1.9
    chair = stage.instance(SemanticClass.MEDICAL_EQUIPMENT, "a wheelchair")
    seat = boxes(
        [(-0.24, -0.22, 0.46), (-0.27, -0.22, 0.5)],
        [(0.24, 0.22, 0.51), (-0.22, 0.22, 0.95)],
        sides=_ALL,
    )
    stage.put(
        seat,
        material=Material.MATTE,
        color=(0.04, 0.05, 0.09),
        instance=chair,
        at=(x, y, 0),
        yaw_rad=np.pi,
    )
    turn = np.linspace(0, 2 * np.pi, 17)
    wheels = [
        tube(
            np.stack([0.29 * np.cos(turn) - 0.1, 0 * turn + v, 0.29 * np.sin(turn) + 0.3], 1),
            0.022,
            num_sides=5,
        )
        for v in (-0.28, 0.28)
    ]
    bars = [
        tube(
            [
                (-0.38, v, 0.95),
                (-0.24, v, 0.92),
                (-0.24, v, 0.5),
                (0.28, v, 0.48),
                (0.36, v, 0.12),
                (0.5, v, 0.1),
            ],
            0.016,
            num_sides=4,
        )
        for v in (-0.22, 0.22)
    ]
    arms = [
        tube([(-0.2, v, 0.72), (0.2, v, 0.72), (0.22, v, 0.5)], 0.016, num_sides=4)
        for v in (-0.24, 0.24)
    ]
    stage.put(
        joined([*wheels, *bars, *arms]),
        material=Material.METAL,
        color=_STEEL,
        instance=chair,
        at=(x, y, 0),
        yaw_rad=np.pi,
    )
    stage.plan.block_box((x - 0.5, y - 0.35), (x + 0.5, y + 0.35), height_m=1.0)


def _put_trolley(stage: Stage, at: ArrayLike, part: int | None) -> int:
    """A medicine trolley with drawers; on a part of its own if it moves."""
    trolley = stage.instance(
        SemanticClass.MEDICAL_EQUIPMENT, "a medicine trolley", moves=part is not None
    )

    def put(primitive: Primitive, material: Material, color: ArrayLike) -> None:
        stage.put(primitive, material=material, color=color, instance=trolley, at=at, part=part)

    put(
        boxes(
            [(-0.3, -0.24, 0.16), (-0.32, -0.26, 0.88)],
            [(0.3, 0.24, 0.88), (0.32, 0.26, 0.92)],
            sides=_ALL,
        ),
        Material.MATTE,
        (0.82, 0.83, 0.84),
    )
    fronts = boxes(
        [(0.3, -0.21, z) for z in (0.2, 0.43, 0.66)],
        [(0.312, 0.21, z + 0.2) for z in (0.2, 0.43, 0.66)],
        sides=_ALL,
    )
    put(fronts, Material.MATTE, linear("#c8443c"))
    posts = [(u - 0.02, v - 0.02, 0.06) for u in (-0.27, 0.27) for v in (-0.2, 0.2)]
    put(boxes(posts, [(x + 0.04, y + 0.04, 0.17) for x, y, _ in posts]), Material.METAL, _STEEL)
    put(
        tube(
            [(-0.3, -0.2, 0.86), (-0.42, -0.2, 0.98), (-0.42, 0.2, 0.98), (-0.3, 0.2, 0.86)],
            0.018,
            num_sides=5,
        ),
        Material.METAL,
        _STEEL,
    )
    cups = joined(
        [
            shifted(
                loft([(0, 0.04, 0.04), (0.1, 0.045, 0.045)], num_sides=7),
                (0.14 * i, 0.1 * (i % 2) - 0.05, 0.92),
            )
            for i in (-1, 0, 1)
        ]
    )
    put(cups, Material.MATTE, (0.5, 0.66, 0.78))
    return trolley


def _put_station(stage: Stage, layout: Layout) -> None:
    """The nurses' station: a counter on the right, shelves behind it, chairs to wait on opposite."""
    x0, x1 = layout.station_m
    y = -1.75
    desk = stage.instance(SemanticClass.FURNITURE, "the nurses' station")
    stage.box(
        (x0, y - 0.5, 0), (x1, y, 1.05), material=Material.MATTE, color=layout.accent, instance=desk
    )
    stage.box(
        (x0 - 0.06, y - 0.56, 1.05),
        (x1 + 0.06, y + 0.08, 1.1),
        material=Material.WOOD,
        color=_BEECH,
        instance=desk,
        bottom=True,
    )
    stage.box(
        (x0, y, 0.0), (x1, y + 0.02, 0.12), material=Material.MATTE, color=_STEEL, instance=desk
    )
    for u in (x0 + 0.7, x1 - 0.8):
        screen = stage.instance(SemanticClass.PROP, "a computer screen")
        stage.box(
            (u - 0.28, y - 0.4, 1.2),
            (u + 0.28, y - 0.36, 1.55),
            material=Material.MATTE,
            color=(0.05, 0.05, 0.055),
            instance=screen,
            bottom=True,
        )
        stage.box(
            (u - 0.04, y - 0.42, 1.1),
            (u + 0.04, y - 0.36, 1.2),
            material=Material.MATTE,
            color=(0.05, 0.05, 0.055),
            instance=screen,
        )
    if x1 < layout.entry_m:
        for u in np.arange(x0, x1 - 0.4, 0.62):
            _put_chair(stage, layout, float(u), layout.half_m - 0.32, NORTH)
        stage.plan.block_box((x0 - 0.4, layout.half_m - 0.7), (x1, layout.half_m), height_m=0.9)
    shelf = stage.instance(SemanticClass.FURNITURE, "a shelf of folders")
    back = -layout.half_m
    stage.box(
        (x0, back, 0), (x1, back + 0.35, 1.9), material=Material.MATTE, color=_BEECH, instance=shelf
    )
    rng = stage.random("station")
    for z in (1.0, 1.35):
        u = x0 + 0.1
        while u < x1 - 0.2:
            wide = float(rng.uniform(0.05, 0.1))
            stage.box(
                (u, back + 0.35, z),
                (u + wide, back + 0.37, z + 0.28),
                material=Material.MATTE,
                color=pick(
                    rng,
                    (
                        layout.accent,
                        _WHITE,
                        linear("#c8443c"),
                        linear("#d9b45a"),
                        linear("#3f5b7d"),
                    ),
                ),
                instance=shelf,
            )
            u += wide + 0.015
    stage.plan.block_box((x0 - 0.1, back), (x1 + 0.1, y + 0.12), height_m=1.6)


def _put_signs(stage: Stage, layout: Layout) -> None:
    """The hospital's sign over the doors, the others on rods above the aisle."""
    hung = 0
    for k, sign in enumerate(stage.scene.signs):
        if k == 0:
            put_sign(
                stage,
                sign,
                at=(layout.length_m - 0.01, 0, 2.36),
                facing=EAST,
                width_m=2.1,
                board=("#0c5c6b", "#f5f8f8"),
            )
            continue
        board = EXIT_BOARD if sign.word == "exit" else ("#155a86", "#f7fbff")
        x = 6.6 + 2.6 * hung
        put_at = (min(x, layout.length_m - 0.8 - 0.3 * hung), 1.3 if hung % 2 else -1.3, 2.36)
        hang_sign(stage, sign, at=put_at, ceiling_m=HIGH_M, facing=EAST, width_m=1.2, board=board)
        hung += 1


# -------------------------------------------------------------------------------------- the people


def _place_people(stage: Stage, troupe: Troupe, layout: Layout) -> list[Role]:
    """Place all who lie, sit or stand; returns the roles that walk."""
    scene = stage.scene
    beds = list(_occupied(scene, layout))
    rng = stage.random("people")
    bedsides = [int(k) for k in rng.permutation(layout.num_beds)]
    bedsides.sort(key=lambda k: (k not in beds, k // 2 == 0))
    chairs = list(bedsides)
    walkers = []
    for role in scene.roles:
        if role.action == "walking":
            walkers.append(role)
            continue
        for n in range(role.count):
            own = stage.random(role.name, n)
            if role.action == "lying":
                _place_in_bed(stage, troupe, layout, role, beds.pop(0), own)
            elif role.action == "sitting" and chairs:
                _place_on_chair(troupe, layout, role, chairs.pop(0), own)
            elif bedsides:
                _place_at_bed(stage, troupe, layout, role, bedsides.pop(0), own)
            else:
                raise ClipRejectedError(
                    "build", f"No room for another {role.name!r}; the scene needs more beds."
                )
    return walkers


def _place_in_bed(
    stage: Stage, troupe: Troupe, layout: Layout, role: Role, k: int, rng: np.random.Generator
) -> None:
    x, side = layout.bed(k)
    y = side * (layout.half_m - 0.2 - BED_LONG_M / 2 + 0.02)
    troupe.place(
        role,
        at=(x, y, MATTRESS_M),
        heading_rad=side * np.pi / 2,
        posture="lying",
        rng=rng,
        block=False,
    )
    stage.sights.append(Sight((x, y, 0.9), 0.6))


def _place_on_chair(
    troupe: Troupe, layout: Layout, role: Role, k: int, rng: np.random.Generator
) -> None:
    x, side = layout.bed(k)
    u, y = x - 0.98, side * (layout.half_m - 1.35)
    _put_chair(troupe.stage, layout, u, y + side * 0.001, NORTH if side > 0 else SOUTH)
    troupe.place(
        role,
        at=(u, y, 0),
        heading_rad=-side * np.pi / 2 + side * 0.7,
        posture="sitting",
        rng=rng,
        seat_m=0.47,
        block=False,
    )


def _place_at_bed(
    stage: Stage, troupe: Troupe, layout: Layout, role: Role, k: int, rng: np.random.Generator
) -> None:
    """At the foot of a bed, or beside it, facing the pillow."""
    x, side = layout.bed(k)
    u, y = x - 0.85, side * (layout.half_m - BED_LONG_M - 0.15)
    heading = float(np.arctan2(side * (layout.half_m - 0.8) - y, x - u))
    troupe.place(role, at=(u, y, 0), heading_rad=heading, posture="standing", rng=rng)
    stage.sights.append(Sight((u, y, 1.5), 0.5))


def _walk_people(
    stage: Stage, troupe: Troupe, layout: Layout, walkers: list[Role], track: Track, shape: Shape
) -> None:
    """One nurse pushes a trolley on the left lane; everybody else walks on the right one."""
    crowd = Crowd(troupe, track, shape)
    x1 = layout.length_m - 1.0
    lanes = [[(1.0, y), (x1, y)] for y in (-0.75, -0.2)]
    pushed = False
    for role in walkers:
        count = role.count
        if role.name == "nurse" and not pushed:
            pushed = _push_trolley(stage, troupe, layout, role, track, shape)
            count -= int(pushed)
        rest = Role(role.name, count, role.dress, role.action)
        free = lanes if pushed else [*lanes, [(1.0, 0.7), (x1, 0.7)]]
        crowd.walk(
            rest, free, rng=stage.random("walk", role.name), spread_m=0.3, speed_mps=(0.7, 1.2)
        )


def _push_trolley(
    stage: Stage, troupe: Troupe, layout: Layout, role: Role, track: Track, shape: Shape
) -> bool:
    """A nurse behind a trolley who keeps away from the camera; False if no such way is found."""
    rng = stage.random("trolley")
    times = np.arange(0.0, shape.duration_s + 0.25, 0.25)
    frames = np.clip(np.rint(times * shape.rate_fps), 0, shape.num_frames - 1).astype(int)
    eyes = track.camera_to_world[frames][:, :2, 3]
    for _ in range(40):
        y, pace = float(rng.uniform(0.7, 1.25)), float(rng.uniform(0.6, 1.1))
        ends = ((1.4, y), (layout.length_m - 1.6, y))
        spare = ends[1][0] - ends[0][0] - pace * shape.duration_s
        start = float(rng.uniform(0, max(spare, 0.3)))
        path = Path(ends if rng.random() < 0.5 else ends[::-1], pace, start)
        ways = Paths([path])
        at = np.array([_ahead(ways, float(t), 0.35) for t in times])
        if spare > 0 and np.hypot(*(at[:, :2] - eyes).T).min() > 1.9:
            break
    else:
        return False
    cloth = f"{role.dress.color} {role.dress.top}".strip()
    wears = cloth if role.dress.top == "scrubs" else f"a {cloth}"
    troupe.walk(role, path, rng=rng, phrase=f"a {role.name} in {wears} pushing a trolley")
    part = stage.parts(1)
    _put_trolley(stage, (0, 0, 0), part)

    def motion(time_s: float) -> Float:
        x, y, heading = _ahead(ways, time_s, 0.78)
        return moved([(x, y, 0.0)], heading)

    stage.drive([part], motion)
    return True


def _ahead(ways: Paths, time_s: float, by_m: float) -> tuple[float, float, float]:
    """x, y, heading of a point some way ahead of the only walker."""
    place, heading, _ = ways.at(time_s)
    turn = float(heading[0])
    return float(place[0, 0] + by_m * np.cos(turn)), float(place[0, 1] + by_m * np.sin(turn)), turn


def _starts(layout: Layout) -> list[Start]:
    return [
        Start(x, y, heading)
        for x in (0.75, 1.1, 1.5, 1.9)
        for y in (-0.9, -0.3, 0.4, 0.9)
        for heading in (-0.2, -0.08, 0.0, 0.08, 0.2)
    ]
