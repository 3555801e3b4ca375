"""Enclosures of a zoo: where they lie, what bounds and furnishes them. `herds.py` fills them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from worldloop.errors import UnknownKeyError
from worldloop.scenes.scene import Scene
from worldloop.seeds import stream
from worldloop.worlds.animals import KINDS, sculpt
from worldloop.worlds.geometry import Material, SemanticClass, sphere
from worldloop.worlds.kit import add_hedge, add_shrub, add_tree
from worldloop.worlds.palette import Color, linear, tinted
from worldloop.worlds.shapes import Primitive, boxes, joined, loft, rotation_y, shifted, turned
from worldloop.worlds.stage import Stage

PATH_HALF_M, FRONT_M = 2.5, 2.9
SOIL_M = 0.02
FIRST_M, PLAZA_M = 5.5, 2.2  # where enclosures begin, and the cross path before the last one
MOAT_M = 1.7
_TERRACES_M = {  # small animals live on a terrace, so that one sees them over people's heads
    "penguin": 0.9,
    "monkey": 0.9,
    "lion": 0.7,
    "tiger": 0.7,
    "gorilla": 0.7,
    "bear": 0.6,
    "kangaroo": 0.4,
    "flamingo": 0.35,
    "hippopotamus": 0.15,
}

_BEHIND_WATER = (
    "lion",
    "tiger",
    "bear",
    "gorilla",
    "monkey",
    "hippopotamus",
    "penguin",
    "flamingo",
)
_SWIMMERS = ("hippopotamus", "flamingo")
TIMBER = linear("#6b5540")
_THATCH = linear("#a98a52")
STONE = linear("#8f887c")


_SOILS = {"savanna": linear("#b59a62"), "forest": linear("#6f8a3f"), "stone": linear("#93905a")}


@dataclass(frozen=True)
class Enclosure:
    """A rectangle with animals, seen from one side.

    Attributes:
        kind: Who lives there.
        count: How many.
        low: Corner with the smallest x and y.
        high: Opposite corner.
        front: Direction that its visitors look in: `x` ahead at the end of the path, `+y` on the
            left of it, `-y` on the right.
    """

    kind: str
    count: int
    trait: str
    low: tuple[float, float]
    high: tuple[float, float]
    front: str

    @property
    def has_water(self) -> bool:
        """Whether a moat keeps its animals in."""
        return self.kind in _BEHIND_WATER

    @property
    def ground_m(self) -> float:
        """Height of the ground that its animals stand on."""
        return _TERRACES_M.get(self.kind, SOIL_M)

    def inside(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The rectangle in which its animals stay, moat and margins left out."""
        low, high = np.array(self.low) + 0.7, np.array(self.high) - 1.4
        setback = MOAT_M + 0.5 if self.has_water else 0.9
        if self.front == "x":
            low[0] = self.low[0] + setback
            high[1] = self.high[1] - 0.7
        elif self.front == "+y":
            low[1] = self.low[1] + setback
            high[0] = self.high[0] - 0.7
        else:
            high = np.array([self.high[0] - 0.7, self.high[1] - setback])
            low = np.array([self.low[0] + 0.7, self.low[1] + 1.4])
        return low, high

    def across(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Left end of its front edge, unit vector along the edge, unit vector into the enclosure."""
        (x0, y0), (_x1, y1) = self.low, self.high
        if self.front == "x":
            return np.array([x0, y1]), np.array([0.0, -1.0]), np.array([1.0, 0.0])
        if self.front == "+y":
            return np.array([x0, y0]), np.array([1.0, 0.0]), np.array([0.0, 1.0])
        return np.array([x0, y1]), np.array([1.0, 0.0]), np.array([0.0, -1.0])

    @property
    def wide_m(self) -> float:
        """Length of its front edge."""
        span = np.array(self.high) - self.low
        return float(span[1] if self.front == "x" else span[0])

    @property
    def deep_m(self) -> float:
        """From its front edge to its back."""
        span = np.array(self.high) - self.low
        return float(span[0] if self.front == "x" else span[1])


def camera_way_m(scene: Scene, kind: str) -> float:
    """How far before the end of the path the camera starts: further for what is tall."""
    least = 12.0 if len(scene.subjects) > 1 else 10.5
    return float(np.clip(6.5 + 3.0 * sculpt(kind).height_m, least, 19.0))


def lay_out_enclosures(scene: Scene) -> list[Enclosure]:
    """The enclosures of a scene, the one at the end of the path first.

    Raises:
        UnknownKeyError: If a subject is no animal that we can draw.
    """
    for subject in scene.subjects:
        if subject.kind not in KINDS:
            raise UnknownKeyError("animal", subject.kind, KINDS)
    subjects = sorted(
        (s for s in scene.subjects if s.count > 0), key=lambda s: -sculpt(s.kind).height_m
    )
    if not subjects:
        return []
    side = 1 if stream(scene.seed, "zoo", "side").random() < 0.5 else -1
    reach = {1: FIRST_M, -1: FIRST_M}
    beside = []
    for subject in subjects[1:]:
        length = sculpt(subject.kind).length_m
        wide = float(np.clip(5.5 + 0.7 * length + 0.55 * length * subject.count, 9.0, 24.0))
        deep = float(np.clip(5.0 + 1.7 * length, 7.5, 14.0))
        x0 = reach[side]
        y = (FRONT_M, FRONT_M + deep) if side > 0 else (-FRONT_M - deep, -FRONT_M)
        front = "+y" if side > 0 else "-y"
        beside.append(
            Enclosure(
                subject.kind, subject.count, subject.trait, (x0, y[0]), (x0 + wide, y[1]), front
            )
        )
        reach[side] = x0 + wide + 0.6
        side = -side if reach[side] > reach[-side] else side
    first = subjects[0]
    length = sculpt(first.kind).length_m
    near = max(camera_way_m(scene, first.kind), max(reach.values()) + PLAZA_M)
    half = float(np.clip(3.5 + 0.5 * length * (1 + first.count), 6.5, 15.0))
    deep = float(np.clip(5.5 + 1.8 * length, 8.5, 15.0))
    ahead = Enclosure(first.kind, first.count, first.trait, (near, -half), (near + deep, half), "x")
    spare = {side: near - PLAZA_M - x for side, x in reach.items()}
    shifted_ones = [
        replace(
            e,
            low=(e.low[0] + spare[1 if e.front == "+y" else -1], e.low[1]),
            high=(e.high[0] + spare[1 if e.front == "+y" else -1], e.high[1]),
        )
        for e in beside
    ]
    return [ahead, *shifted_ones]


def _soil(enclosure: Enclosure, theme: str) -> tuple[Material, Color, str]:
    if enclosure.kind == "penguin":
        return Material.ROCK, linear("#a9aeb2"), "a rocky shore"
    if enclosure.kind == "flamingo":
        return Material.GRASS, linear("#6a8a44"), "a green bank"
    if enclosure.kind in ("camel", "elephant", "rhinoceros", "kangaroo"):
        return Material.SAND, linear("#c0a273"), "sandy ground"
    if enclosure.kind in ("giraffe", "zebra", "lion"):
        return Material.GRASS, _SOILS["savanna"], "dry savanna grass"
    return Material.GRASS, _SOILS[theme], "the grass of an enclosure"


def put_enclosure(stage: Stage, enclosure: Enclosure, theme: str) -> None:
    """Ground, barrier, backdrop and furniture of an enclosure; the plan is blocked."""
    material, color, phrase = _soil(enclosure, theme)
    soil = stage.instance(SemanticClass.TERRAIN, phrase)
    edge = MOAT_M if enclosure.has_water else 0.0
    stage.put(
        _strip(enclosure, edge, enclosure.deep_m, enclosure.ground_m),
        material=material,
        color=color,
        instance=soil,
    )
    if enclosure.ground_m > SOIL_M:
        ledge = _bars(
            enclosure, [(0, enclosure.wide_m, edge, edge + 0.05, 0, enclosure.ground_m - 0.01)]
        )
        stage.put(ledge, material=Material.ROCK, color=linear("#8d8577"), instance=soil)
    rng = stage.random("enclosure", enclosure.kind)
    if enclosure.has_water:
        _put_moat(stage, enclosure, rng)
    else:
        _put_timber_rail(stage, enclosure, theme)
    _put_backdrop(stage, enclosure, theme, rng)
    _furnish(stage, enclosure, rng)
    low, high = enclosure.low, enclosure.high
    stage.plan.block_box(low, high, height_m=1.2)


def _strip(enclosure: Enclosure, out0: float, out1: float, z: float) -> Primitive:
    """A flat strip along the front edge, from one distance inside it to another."""
    start, along, inward = enclosure.across()
    stop = start + along * enclosure.wide_m
    flat = [
        start + inward * out0,
        stop + inward * out0,
        stop + inward * out1,
        start + inward * out1,
    ]
    vertices = np.array([(x, y, z) for x, y in flat], np.float32)
    faces = np.array([(0, 1, 2), (0, 2, 3)], np.int32)
    up = np.cross(np.append(along, 0), np.append(inward, 0))[2] > 0
    return vertices, faces if up else faces[:, ::-1], vertices[:, :2].copy()


def _bars(
    enclosure: Enclosure, spans: Sequence[tuple[float, float, float, float, float, float]]
) -> Primitive:
    """Boxes along the front: (from, to) along it, (from, to) inward, (from, to) up."""
    start, along, inward = enclosure.across()
    lows, highs = [], []
    for a0, a1, d0, d1, z0, z1 in spans:
        one, two = start + along * a0 + inward * d0, start + along * a1 + inward * d1
        lows.append((*np.minimum(one, two), z0))
        highs.append((*np.maximum(one, two), z1))
    return boxes(lows, highs)


def _put_timber_rail(stage: Stage, enclosure: Enclosure, theme: str) -> None:
    """A post-and-rail fence with a planted strip before it."""
    fence = stage.instance(
        SemanticClass.FENCE, "a low wall of stone" if theme == "stone" else "a wooden fence"
    )
    wide = enclosure.wide_m
    if theme == "stone":
        spans = [(0, wide, -0.1, 0.25, 0, 0.62), (-0.05, wide + 0.05, -0.15, 0.3, 0.62, 0.70)]
        stage.put(_bars(enclosure, spans), material=Material.BRICK, color=STONE, instance=fence)
        top = [(0, wide, 0.04, 0.1, 0.98, 1.03)] + [
            (a - 0.03, a + 0.03, 0.04, 0.1, 0.7, 1.0) for a in np.arange(0.5, wide, 2.0)
        ]
        stage.put(
            _bars(enclosure, top), material=Material.METAL, color=(0.05, 0.06, 0.05), instance=fence
        )
        return
    posts = [
        (a - 0.09, a + 0.09, -0.05, 0.13, 0.0, 1.16)
        for a in np.linspace(0.1, wide - 0.1, max(3, round(wide / 2.2)))
    ]
    rails = [(0, wide, 0.0, 0.07, z, z + 0.12) for z in (0.36, 0.7, 1.0)]
    stage.put(
        _bars(enclosure, [*posts, *rails]), material=Material.WOOD, color=TIMBER, instance=fence
    )


def _put_moat(stage: Stage, enclosure: Enclosure, rng: np.random.Generator) -> None:
    """A low wall, a strip of water and a rim of stones."""
    water = stage.instance(SemanticClass.WATER, "a moat")
    stage.put(
        _strip(enclosure, 0.25, MOAT_M, 0.04),
        material=Material.WATER,
        color=(0.06, 0.13, 0.13),
        instance=water,
    )
    barrier = stage.instance(SemanticClass.FENCE, "a low wall with a rail")
    wide = enclosure.wide_m
    stage.put(
        _bars(enclosure, [(0, wide, -0.1, 0.25, 0, 0.5), (0, wide, -0.14, 0.29, 0.5, 0.57)]),
        material=Material.BRICK,
        color=STONE,
        instance=barrier,
    )
    rail = [(0, wide, 0.03, 0.09, 0.98, 1.03)] + [
        (a - 0.025, a + 0.025, 0.03, 0.09, 0.57, 1.0) for a in np.arange(0.4, wide, 1.6)
    ]
    stage.put(
        _bars(enclosure, rail), material=Material.METAL, color=(0.06, 0.07, 0.07), instance=barrier
    )
    rim = stage.instance(SemanticClass.ROCK, "stones along the water")
    start, along, inward = enclosure.across()
    stones = []
    for a in np.arange(0.3, wide, 0.75):
        x, y = start + along * a + inward * (MOAT_M + 0.12 * float(rng.uniform(-1, 1)))
        stones.append(
            shifted(
                _boulder(rng, float(rng.uniform(0.2, 0.36)), flat=0.5, num_sides=6), (x, y, 0.05)
            )
        )
    stage.put(joined(stones), material=Material.ROCK, color=linear("#8a8377"), instance=rim)


def _boulder(
    rng: np.random.Generator, radius: float, *, flat: float = 0.75, num_sides: int = 8
) -> Primitive:
    """A lump of rock."""
    vertices, faces, uv = sphere(1.0, num_rings=max(3, num_sides - 3), num_sides=num_sides)
    waves = rng.uniform(-1, 1, (3, 3)) * 2.6
    bumps = np.sin(vertices @ waves.T + rng.uniform(0, 6.28, 3)).sum(1)
    scaled = vertices * (1 + 0.13 * bumps)[:, None] * [radius, radius, flat * radius]
    return scaled.astype(np.float32), faces, uv


def _put_backdrop(stage: Stage, enclosure: Enclosure, theme: str, rng: np.random.Generator) -> None:
    """What stands behind the animals: a cliff for those that climb or roar, else a hedge with trees."""
    start, along, inward = enclosure.across()
    back = start + inward * enclosure.deep_m
    ends = (back, back + along * enclosure.wide_m)
    if enclosure.has_water and enclosure.kind != "flamingo":
        cliff = stage.instance(SemanticClass.ROCK, "an artificial cliff")
        shade = linear("#9b8467") if enclosure.kind in ("lion", "tiger") else linear("#857d73")
        for a in np.arange(0.6, enclosure.wide_m, 1.9):
            x, y = ends[0] + along * a - inward * 0.1
            tall = float(rng.uniform(1.5, 3.1))
            lump = _boulder(rng, 1.55, flat=tall / 1.55, num_sides=9)
            stage.put(
                lump,
                material=Material.ROCK,
                color=tinted(shade, rng, 0.1),
                instance=cliff,
                at=(x, y, 0.2),
            )
    elif theme == "savanna":
        wall = stage.instance(SemanticClass.FENCE, "a palisade")
        a = np.arange(0.0, enclosure.wide_m, 0.42)
        corners = np.array([ends[0] + along * v for v in a])
        tops = 2.0 + 0.25 * rng.random(len(a))
        stakes = boxes(
            [(x - 0.2, y - 0.2, 0) for x, y in corners],
            [(x + 0.2, y + 0.2, t) for (x, y), t in zip(corners, tops, strict=True)],
        )
        stage.put(stakes, material=Material.WOOD, color=linear("#80603c"), instance=wall)
    else:
        add_hedge(stage, ends[0], ends[1], rng, height_m=2.0, width_m=1.1)
    for side in (0.0, enclosure.wide_m):
        corner = start + along * side
        add_hedge(
            stage,
            corner + inward * 1.2,
            corner + inward * enclosure.deep_m,
            rng,
            height_m=1.25,
            width_m=0.7,
        )
    for a in np.arange(1.5, enclosure.wide_m, 4.6):
        x, y = (
            ends[0]
            + along * (a + float(rng.uniform(-1, 1)))
            + inward * float(rng.uniform(1.8, 3.2))
        )
        add_tree(stage, (x, y, 0), rng, height_m=float(rng.uniform(5.5, 8.0)))


def _furnish(stage: Stage, enclosure: Enclosure, rng: np.random.Generator) -> None:
    """A pool, a shelter, logs and rocks, all near the back or the ends."""
    start, along, inward = enclosure.across()
    wide, deep, base = enclosure.wide_m, enclosure.deep_m, enclosure.ground_m

    def spot(share: float, depth: float) -> tuple[float, float]:
        x, y = start + along * (share * wide) + inward * (depth * deep)
        return float(x), float(y)

    if enclosure.kind in _SWIMMERS:
        pool = stage.instance(SemanticClass.WATER, "a pool")
        disc = (
            _pond(rng, 0.42 * wide, 0.30 * deep)
            if enclosure.front != "x"
            else _pond(rng, 0.30 * deep, 0.42 * wide)
        )
        x, y = spot(0.5, 0.52)
        stage.put(
            disc,
            material=Material.WATER,
            color=(0.07, 0.17, 0.2),
            instance=pool,
            at=(x, y, base + 0.02),
        )
    if enclosure.kind in ("elephant", "giraffe", "zebra", "camel", "rhinoceros"):
        side = 0.16 if rng.random() < 0.5 else 0.84
        _put_shelter(stage, spot(side, 0.86), rng, tall=3.6 if enclosure.kind == "giraffe" else 2.7)
    logs = stage.instance(SemanticClass.PROP, "a fallen trunk")
    log = loft([(0, 0.2, 0.2), (2.4, 0.15, 0.15)], num_sides=7)
    x, y = spot(0.12 if rng.random() < 0.5 else 0.8, 0.42 if not enclosure.has_water else 0.5)
    stage.put(
        turned(log, rotation_y(np.pi / 2)),
        material=Material.BARK,
        color=linear("#6b5138"),
        instance=logs,
        at=(x - 1.0, y, base + 0.15),
        yaw_rad=float(rng.uniform(-0.3, 0.3)),
    )
    rocks = stage.instance(SemanticClass.ROCK, "rocks")
    for _ in range(4):
        x, y = spot(
            float(rng.choice([0.05, 0.95])) + float(rng.uniform(-0.03, 0.03)),
            float(rng.uniform(0.45, 0.9)),
        )
        stage.put(
            _boulder(rng, float(rng.uniform(0.4, 0.8))),
            material=Material.ROCK,
            color=tinted(linear("#8f8577"), rng),
            instance=rocks,
            at=(x, y, base + 0.1),
        )
    for _ in range(3):
        x, y = spot(float(rng.uniform(0.1, 0.9)), 0.95)
        add_shrub(stage, (x, y, 0), rng, radius_m=float(rng.uniform(0.4, 0.75)))


def _pond(rng: np.random.Generator, half_x: float, half_y: float) -> Primitive:
    """A flat, uneven disc that faces up."""
    turn = np.linspace(0, 2 * np.pi, 22, endpoint=False)
    reach = (
        1
        + 0.09 * np.sin(2 * turn + rng.uniform(0, 6))
        + 0.06 * np.sin(3 * turn + rng.uniform(0, 6))
    )
    rim = np.stack([half_x * reach * np.cos(turn), half_y * reach * np.sin(turn), 0 * turn], 1)
    vertices = np.concatenate([[[0, 0, 0]], rim]).astype(np.float32)
    i = np.arange(22)
    faces = np.stack([0 * i, i + 1, (i + 1) % 22 + 1], 1).astype(np.int32)
    return vertices, faces, vertices[:, :2].copy()


def _put_shelter(
    stage: Stage, at: tuple[float, float], rng: np.random.Generator, *, tall: float
) -> None:
    """A thatched feeding hut with a rack of hay."""
    hut = stage.instance(SemanticClass.BUILDING, "a thatched feeding hut")
    x, y = at
    posts = boxes(
        [(u - 0.1, v - 0.1, 0) for u in (-1.3, 1.3) for v in (-1.1, 1.1)],
        [(u + 0.1, v + 0.1, tall) for u in (-1.3, 1.3) for v in (-1.1, 1.1)],
    )
    stage.put(posts, material=Material.WOOD, color=TIMBER, instance=hut, at=(x, y, 0))
    roof = loft(
        [(tall - 0.25, 2.5, 2.3), (tall + 0.05, 2.35, 2.15), (tall + 1.3, 0.12, 0.12)], num_sides=12
    )
    stage.put(roof, material=Material.MATTE, color=tinted(_THATCH, rng), instance=hut, at=(x, y, 0))
    hay = stage.instance(SemanticClass.PROP, "a heap of hay")
    stage.put(
        _boulder(rng, 0.8, flat=0.55),
        material=Material.MATTE,
        color=linear("#c9a94e"),
        instance=hay,
        at=(x, y, 0.2),
    )


def light_enclosure(stage: Stage, enclosure: Enclosure) -> None:
    """Warm floodlights on low masts, so that the animals are seen at night."""
    start, along, inward = enclosure.across()
    for share in (0.25, 0.75):
        x, y = start + along * (share * enclosure.wide_m) + inward * 1.2
        mast = stage.instance(SemanticClass.LAMP, "a floodlight")
        stage.put(
            loft([(0, 0.05, 0.05), (3.2, 0.04, 0.04)], num_sides=6),
            material=Material.METAL,
            color=(0.06, 0.06, 0.06),
            instance=mast,
            at=(x, y, 0),
        )
        stage.put(
            boxes([(-0.14, -0.14, 3.2)], [(0.14, 0.14, 3.4)], sides=range(6)),
            material=Material.LAMP,
            color=(0.5, 0.4, 0.26),
            instance=mast,
            at=(x, y, 0),
        )
        lx, ly = np.array([x, y]) + inward * 1.2
        stage.lamp((lx, ly, 3.6), (10.0, 8.2, 5.6), reach_m=15.0)
