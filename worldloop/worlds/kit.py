"""Things that stand outdoors in every grammar: trees, hedges, lamps, benches, fences, signs, bunting.

Crowns hang above 2.6 m, so that no frame sits in leaves. What one could walk into is blocked on
the plan. Colours and kinds of trees follow season and climate.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldloop.atlas.records import Sign
from worldloop.scenes.scene import Scene
from worldloop.worlds import palette
from worldloop.worlds.boards import SIGN_ASPECT
from worldloop.worlds.geometry import Material, SemanticClass, cylinder, quad, sphere
from worldloop.worlds.palette import Color, pick, tinted
from worldloop.worlds.shapes import (
    BOTTOM,
    Primitive,
    boxes,
    joined,
    loft,
    shifted,
    tube,
)
from worldloop.worlds.stage import Stage

CROWN_LOW_M = 2.6
CROWN_FROM = 0.42  # of the height of a tree, where that is above CROWN_LOW_M
CROWN_REACH_M = 2.9  # no crown of a tree of the usual height reaches farther from its trunk
LAMP_LIGHT: Color = (36.0, 25.0, 14.0)
IRON = palette.linear("#23282b")
_TRUNK = palette.linear("#5b4634")
_ALL = (0, 1, 2, 3, 4, BOTTOM)

Triple = tuple[float, float, float]


def facing(angle_rad: float) -> NDArray[np.float64]:
    """The unit vector on the ground with that heading, (3,)."""
    return np.array([math.cos(angle_rad), math.sin(angle_rad), 0.0])


def leaf_color(scene: Scene, rng: np.random.Generator) -> Color:
    """A leaf colour of the season; autumn turns leaves only where winters are cool."""
    cool = scene.climate[:1] in ("C", "D") and scene.climate != "Cwa"
    choices = ["#47652c", "#526f33", "#3d5a2b", "#5f7537"]
    if scene.style.get("trees") == "bare":
        choices = ["#5f5540", "#6a5d49", "#544e3c", "#5b5a3e"]
    elif scene.season == "autumn" and cool:
        choices = ["#c07a23", "#b5562a", "#caa038", "#8a8a35", "#a2402a"]
    elif scene.season == "spring":
        choices = ["#5f7f38", "#6f8a40", "#527235"]
    elif scene.season == "dry season":
        choices = ["#6f7638", "#7b7c40", "#616d35"]
    return tinted(palette.linear(pick(rng, choices)), rng, 0.15)


def add_tree(
    stage: Stage,
    at: ArrayLike,
    rng: np.random.Generator,
    *,
    height_m: float | None = None,
    phrase: str | None = None,
) -> int:
    """A tree of the scene's style `trees`, else one that suits climate and season; returns its instance id.

    Args:
        stage: Where it grows.
        at: Foot of the trunk.
        rng: Decides kind, colour and shape.
        height_m: Of the whole tree, 4.5 or more; seeded without.
        phrase: Instead of the one that follows from the kind.
    """
    scene = stage.scene
    height = height_m or float(rng.uniform(5.2, 7.6))
    stage.plan.block_disc(np.asarray(at)[:2], 0.22, height_m=1.5)
    luck = rng.random()
    match scene.style.get("trees") or _tree_of_climate(scene, luck):
        case "palm":
            return _palm(stage, at, rng, height, phrase or "a palm tree")
        case "conifer":
            return _conifer(stage, at, rng, height, phrase or "a fir tree")
        case "bare":
            return _bare(stage, at, rng, height, phrase or "a bare tree")
    return _broadleaf(stage, at, rng, height, phrase)


def _tree_of_climate(scene: Scene, luck: float) -> str:
    """The kind of a tree in scenes of version 1, which do not say it."""
    group, warmth = scene.climate[:1], scene.climate[2:]
    if (group == "A" or warmth == "h") and luck < 0.5:
        return "palm"
    if group in ("D", "E") and luck < 0.3:
        return "conifer"
    if scene.season == "winter" and (group in ("C", "D") or warmth == "k"):
        return "bare"
    return "broadleaf"


def _broadleaf(
    stage: Stage, at: ArrayLike, rng: np.random.Generator, height: float, phrase: str | None
) -> int:
    blossom = stage.scene.season == "spring" and rng.random() < 0.25 and phrase is None
    leaves = leaf_color(stage.scene, rng)
    if blossom:
        leaves = tinted(palette.linear("#dfa3b4"), rng, 0.08)
    name = "a tree in blossom" if blossom else "a tree"
    if stage.scene.season == "autumn" and leaves[0] > 1.6 * leaves[1]:
        name = "a tree with red autumn leaves"
    tree = stage.instance(SemanticClass.VEGETATION, phrase or name)
    spread = 0.27 * height
    low = max(CROWN_LOW_M, CROWN_FROM * height)
    centre, tall = (low + height) / 2, (height - low) / 2
    trunk = loft([(0, 0.20, 0.20), (0.5, 0.14, 0.14), (centre, 0.085, 0.085)], num_sides=7)
    stage.put(trunk, material=Material.BARK, color=_TRUNK, instance=tree, at=at)
    turn = rng.uniform(0, 2 * np.pi)
    for k in range(4):
        a, rise = turn + k * np.pi / 2, float(rng.uniform(0.0, 0.4))
        tip = (0.6 * spread * math.cos(a), 0.6 * spread * math.sin(a), centre + rise * tall)
        limb = tube([(0, 0, low - 0.3), tip], 0.05, num_sides=4)
        stage.put(limb, material=Material.BARK, color=_TRUNK, instance=tree, at=at)
    for k in range(11):  # the middle, then ten around it from the lowest to the highest
        a, level, out = turn + k * 2.4, 0.0, 0.0
        if k:
            level = (k - 5.5) / 5.0 + float(rng.uniform(-0.1, 0.1))
            out = 0.72 * math.sqrt(max(0.1, 1.0 - level**2)) * float(rng.uniform(0.8, 1))
        r = spread * float(rng.uniform(0.42, 0.56) if k else 0.72) * (1.0 - 0.22 * max(level, 0.0))
        z = max(centre + level * (tall - 0.7 * r), CROWN_LOW_M + 0.75 * r)
        middle = np.array([out * spread * math.cos(a), out * spread * math.sin(a), z])
        stage.put(
            _clump(rng, r),
            material=Material.FOLIAGE,
            color=tinted(leaves, rng, 0.14),
            instance=tree,
            at=np.asarray(at) + middle,
        )
    return tree


def _clump(rng: np.random.Generator, radius: float, *, flat: float = 0.8) -> Primitive:
    """A lumpy ball of leaves."""
    vertices, faces, uv = sphere(1.0, num_rings=5, num_sides=8)
    waves = rng.uniform(-1, 1, (3, 3)) * 4.0
    bumps = np.sin(vertices @ waves.T + rng.uniform(0, 6.28, 3)).sum(1)
    scaled = vertices * (1 + 0.09 * bumps)[:, None] * [radius, radius, flat * radius]
    return scaled.astype(np.float32), faces, uv


def _palm(stage: Stage, at: ArrayLike, rng: np.random.Generator, height: float, phrase: str) -> int:
    tree = stage.instance(SemanticClass.VEGETATION, phrase)
    lean = rng.uniform(-0.35, 0.35, 2)
    rise = np.linspace(0, 1, 6)
    path = np.stack([lean[0] * rise**2, lean[1] * rise**2, height * rise], 1)
    for (x0, y0, z0), (x1, y1, z1) in itertools.pairwise(path):
        ring = loft([(z0, 0.17, 0.17, x0, y0), (z1, 0.14, 0.14, x1, y1)], num_sides=7, caps=False)
        stage.put(ring, material=Material.BARK, color=_TRUNK, instance=tree, at=at)
    green = tinted(palette.linear("#4d7a2e"), rng, 0.15)
    top, turn = np.asarray(at) + path[-1], float(rng.uniform(0, 6.28))
    length = max(1.0, height / 6.5)
    for k in range(11):
        frond = _frond(length * (1.9 + 0.5 * float(rng.random())), 0.35 + 0.55 * (k % 2))
        stage.put(
            frond,
            material=Material.FOLIAGE,
            color=tinted(green, rng, 0.15),
            instance=tree,
            at=top,
            yaw_rad=turn + k * 2 * np.pi / 11,
        )
    return tree


def _frond(length: float, rise: float) -> Primitive:
    """One arching leaf of a palm along +x, folded along its rib, both sides."""
    s = np.linspace(0, 1, 6)
    x, z = length * s, rise * np.sin(2.1 * s) - 1.0 * s**3
    width = 0.30 * np.sin(np.pi * (0.10 + 0.88 * s)) + 0.02
    rib = np.stack([x, 0 * x, z], 1)
    parts = []
    for side in (1, -1):
        edge = np.stack([x, side * width, z - 0.45 * width], 1)
        v = np.concatenate([rib, edge]).astype(np.float32)
        i = np.arange(5)
        f = np.concatenate([np.stack([i, i + 1, i + 7], 1), np.stack([i, i + 7, i + 6], 1)])
        uv = np.zeros((12, 2), np.float32)
        parts += [(v, f.astype(np.int32), uv), (v, f[:, ::-1].astype(np.int32), uv)]
    return joined(parts)


def _conifer(
    stage: Stage, at: ArrayLike, rng: np.random.Generator, height: float, phrase: str
) -> int:
    tree = stage.instance(SemanticClass.VEGETATION, phrase)
    trunk = cylinder(0.17, 0.06, height * 0.9, num_sides=6, cap=False)
    stage.put(trunk, material=Material.BARK, color=_TRUNK, instance=tree, at=at)
    green = _needle_color(rng)
    low = CROWN_LOW_M
    for k in range(5):
        z0 = low + (height - low) * k / 5.6
        r = 1.35 * (1 - k / 5.8)
        cone = loft(
            [(z0, r, r), (z0 + 0.25, 0.8 * r, 0.8 * r), (z0 + 1.5, 0.10, 0.10)], num_sides=9
        )
        stage.put(
            cone, material=Material.FOLIAGE, color=tinted(green, rng, 0.1), instance=tree, at=at
        )
    return tree


def _needle_color(rng: np.random.Generator) -> Color:
    """A colour of needles, the same in all seasons."""
    return tinted(palette.linear("#2f5b38"), rng, 0.2)


def _spire(radius: float) -> Primitive:
    """A conifer in the distance, as wide as a clump of this radius and taller."""
    return loft([(-radius, 0.8 * radius, 0.8 * radius), (2.4 * radius, 0.1, 0.1)], num_sides=8)


def _bare(stage: Stage, at: ArrayLike, rng: np.random.Generator, height: float, phrase: str) -> int:
    tree = stage.instance(SemanticClass.VEGETATION, phrase)
    trunk = [
        (0, 0.17, 0.17),
        (0.5, 0.13, 0.13),
        (0.5 * height, 0.10, 0.10),
        (0.92 * height, 0.02, 0.02),
    ]
    limbs = [loft(trunk, num_sides=6)]
    turn = float(rng.uniform(0, 6.28))
    for k in range(9):
        level = 0.34 + 0.056 * k + float(rng.uniform(-0.02, 0.02))
        a, long = turn + k * 2.4, float(rng.uniform(0.26, 0.34)) * (1.24 - level) * height
        root, way = np.array([0, 0, level * height]), np.array([math.cos(a), math.sin(a), 0.62])
        elbow = root + 0.45 * long * way
        tip = root + long * (way + np.array([0, 0, float(rng.uniform(0.05, 0.3))]))
        limbs.append(tube(np.stack([root, elbow, tip]), 0.035, num_sides=3))
        for side in (-0.8, 0.7):
            aside = np.array([math.cos(a + side), math.sin(a + side), float(rng.uniform(0.5, 1.0))])
            limbs.append(tube(np.stack([elbow, elbow + 0.5 * long * aside]), 0.02, num_sides=3))
            limbs.append(tube(np.stack([tip, tip + 0.3 * long * aside]), 0.014, num_sides=3))
    stage.put(joined(limbs), material=Material.BARK, color=_TRUNK, instance=tree, at=at)
    return tree


def add_far_trees(
    stage: Stage, spots: Sequence[tuple[float, float]], rng: np.random.Generator
) -> int:
    """A belt of simple trees in the distance, one instance; returns its id."""
    belt = stage.instance(SemanticClass.VEGETATION, "a belt of trees")
    conifers = stage.scene.style.get("trees") == "conifer"
    crowns: dict[int, list[Primitive]] = {0: [], 1: [], 2: []}
    for k, (x, y) in enumerate(spots):
        for _ in range(3):
            side, radius = rng.uniform(-3.0, 3.0, 2), float(rng.uniform(2.6, 4.2))
            at = (x + side[0], y + side[1], float(rng.uniform(0.3, 1.1)) * radius)
            clump = _spire(radius) if conifers else _clump(rng, radius, flat=1.15)
            crowns[k % 3].append(shifted(clump, at))
    for parts in crowns.values():
        if parts:
            green = _needle_color(rng) if conifers else leaf_color(stage.scene, rng)
            shade = tuple(0.75 * c for c in green)
            stage.put(joined(parts), material=Material.FOLIAGE, color=shade, instance=belt)
    return belt


def add_shrub(
    stage: Stage, at: ArrayLike, rng: np.random.Generator, *, radius_m: float = 0.6
) -> int:
    """A low bush; returns its instance id."""
    bush = stage.instance(SemanticClass.VEGETATION, "a bush")
    green = leaf_color(stage.scene, rng)
    for k in range(3):
        side = rng.uniform(-0.4, 0.4, 2) * radius_m * (k > 0)
        low = np.array([side[0], side[1], 0.55 * radius_m])
        clump = _clump(rng, radius_m * (1.0 if k == 0 else 0.75), flat=0.75)
        stage.put(
            clump,
            material=Material.FOLIAGE,
            color=tinted(green, rng, 0.1),
            instance=bush,
            at=np.asarray(at) + low,
        )
    stage.plan.block_disc(np.asarray(at)[:2], radius_m, height_m=1.2 * radius_m)
    return bush


def add_hedge(
    stage: Stage,
    start: ArrayLike,
    stop: ArrayLike,
    rng: np.random.Generator,
    *,
    height_m: float = 1.0,
    width_m: float = 0.7,
    ground_m: float = 0.0,
) -> int:
    """A clipped hedge between two points (x, y); returns its instance id."""
    hedge = stage.instance(SemanticClass.VEGETATION, "a clipped hedge")
    a, b = np.asarray(start, np.float64)[:2], np.asarray(stop, np.float64)[:2]
    length, yaw = float(np.hypot(*(b - a))), math.atan2(b[1] - a[1], b[0] - a[0])
    n = max(2, round(length / 0.8))
    x = np.linspace(-length / 2, length / 2, n)
    wob = rng.uniform(-0.05, 0.05, (4, n))
    corners = [
        (-width_m / 2, 0.0),
        (-width_m / 2, height_m),
        (width_m / 2, height_m),
        (width_m / 2, 0.0),
    ]
    rows = [
        np.stack([x, y + w, z + (w if z else 0 * w)], 1)
        for (y, z), w in zip(corners, wob, strict=True)
    ]
    i = np.arange(n - 1)
    faces = [
        np.concatenate(
            [
                np.stack([k * n + i, k * n + i + n, k * n + i + n + 1], 1),
                np.stack([k * n + i, k * n + i + n + 1, k * n + i + 1], 1),
            ]
        )
        for k in range(3)
    ]
    ends = [
        (0, n, 2 * n),
        (0, 2 * n, 3 * n),
        (n - 1, 3 * n - 1, 2 * n - 1),
        (n - 1, 4 * n - 1, 3 * n - 1),
    ]
    vertices = np.concatenate(rows).astype(np.float32)
    all_faces = np.concatenate([*faces, np.array(ends)])[:, ::-1].astype(np.int32)
    middle = (a + b) / 2
    stage.put(
        (vertices, all_faces, np.zeros((len(vertices), 2), np.float32)),
        material=Material.FOLIAGE,
        color=tinted(palette.linear("#47702f"), rng, 0.15),
        instance=hedge,
        at=(middle[0], middle[1], ground_m),
        yaw_rad=yaw,
    )
    half = np.array([length / 2, width_m / 2])
    stage.plan.block_box(middle - half, middle + half, yaw_rad=yaw, height_m=height_m)
    return hedge


def add_flower_bed(
    stage: Stage,
    low: ArrayLike,
    high: ArrayLike,
    rng: np.random.Generator,
    *,
    ground_m: float = 0.0,
) -> int:
    """A kerbed bed of flowers between two corners (x, y); returns its instance id."""
    (x0, y0), (x1, y1) = np.asarray(low, np.float64)[:2], np.asarray(high, np.float64)[:2]
    bed = stage.instance(SemanticClass.VEGETATION, "a flower bed")
    stage.box(
        (x0, y0, ground_m),
        (x1, y1, ground_m + 0.28),
        material=Material.MATTE,
        color=palette.linear("#9c968a"),
        instance=bed,
        block=True,
    )
    count = int(np.clip((x1 - x0) * (y1 - y0) * 5, 6, 60))
    at = np.stack(
        [rng.uniform(x0 + 0.15, x1 - 0.15, count), rng.uniform(y0 + 0.15, y1 - 0.15, count)], 1
    )
    for shade in rng.choice(
        ["#d8455a", "#e8b731", "#e27fae", "#8a5bc0", "#efe9dc"], 2, replace=False
    ):
        mine = rng.random(count) < 0.5
        tufts = [
            shifted(sphere((0.13, 0.13, 0.10), num_rings=3, num_sides=5), (x, y, ground_m + 0.40))
            for x, y in at[mine]
        ]
        if tufts:
            stage.put(
                joined(tufts),
                material=Material.MATTE,
                color=palette.linear(str(shade)),
                instance=bed,
            )
    stage.box(
        (x0 + 0.1, y0 + 0.1, ground_m + 0.28),
        (x1 - 0.1, y1 - 0.1, ground_m + 0.36),
        material=Material.FOLIAGE,
        color=palette.linear("#4a7a33"),
        instance=bed,
    )
    return bed


def add_lamp_post(
    stage: Stage,
    at: ArrayLike,
    *,
    arm_rad: float | None = None,
    height_m: float = 5.4,
    color: Color = LAMP_LIGHT,
) -> int:
    """A street lamp, with an arm towards a heading or a lantern on top; returns its instance id."""
    x, y, z = np.asarray(at, np.float64)
    post = stage.instance(SemanticClass.LAMP, "a street lamp")
    pole = loft(
        [(0, 0.13, 0.13), (0.5, 0.10, 0.10), (0.6, 0.065, 0.065), (height_m, 0.045, 0.045)],
        num_sides=7,
    )
    stage.put(pole, material=Material.METAL, color=IRON, instance=post, at=at)
    stage.plan.block_disc((x, y), 0.14, height_m=1.5)
    glow = tuple(c / max(color) for c in color)
    if arm_rad is None:
        head = loft([(0, 0.10, 0.10), (0.12, 0.19, 0.19), (0.42, 0.21, 0.21)], num_sides=8)
        roof = loft([(0.42, 0.26, 0.26), (0.62, 0.05, 0.05)], num_sides=8)
        stage.put(head, material=Material.LAMP, color=glow, instance=post, at=(x, y, z + height_m))
        stage.put(roof, material=Material.METAL, color=IRON, instance=post, at=(x, y, z + height_m))
        stage.lamp((x, y, z + height_m + 0.1), color, reach_m=15.0)
        return post
    arm = tube(
        [(0, 0, height_m - 0.1), (0.5, 0, height_m + 0.22), (1.4, 0, height_m + 0.30)],
        0.035,
        num_sides=5,
    )
    stage.put(arm, material=Material.METAL, color=IRON, instance=post, at=at, yaw_rad=arm_rad)
    shade = boxes([(1.15, -0.13, height_m + 0.22)], [(1.85, 0.13, height_m + 0.34)])
    light = boxes([(1.2, -0.10, height_m + 0.17)], [(1.8, 0.10, height_m + 0.22)], sides=_ALL)
    stage.put(shade, material=Material.METAL, color=IRON, instance=post, at=at, yaw_rad=arm_rad)
    stage.put(light, material=Material.LAMP, color=glow, instance=post, at=at, yaw_rad=arm_rad)
    tip = np.array([x, y, z]) + 1.5 * facing(arm_rad)
    stage.lamp((tip[0], tip[1], z + height_m), color, reach_m=16.0)
    return post


def add_bench(stage: Stage, at: ArrayLike, facing_rad: float, *, length_m: float = 1.7) -> int:
    """A wooden bench whose sitters look towards a heading; returns its instance id."""
    bench = stage.instance(SemanticClass.FURNITURE, "a wooden bench")
    h = length_m / 2
    slats = boxes(
        [(-0.18, -h, 0.41), (0.04, -h, 0.41), (-0.28, -h, 0.55), (-0.31, -h, 0.72)],
        [(0.0, h, 0.45), (0.22, h, 0.45), (-0.24, h, 0.67), (-0.27, h, 0.84)],
        sides=_ALL,
    )
    legs = boxes(
        [(-0.26, y, 0.0) for y in (-h + 0.15, h - 0.2)]
        + [(0.12, y, 0.0) for y in (-h + 0.15, h - 0.2)],
        [(-0.21, y, 0.75) for y in (-h + 0.2, h - 0.15)]
        + [(0.17, y, 0.41) for y in (-h + 0.2, h - 0.15)],
    )
    stage.put(
        slats,
        material=Material.WOOD,
        color=palette.linear("#8a5f38"),
        instance=bench,
        at=at,
        yaw_rad=facing_rad,
    )
    stage.put(legs, material=Material.METAL, color=IRON, instance=bench, at=at, yaw_rad=facing_rad)
    x, y = np.asarray(at, np.float64)[:2]
    stage.plan.block_box((x - 0.32, y - h), (x + 0.26, y + h), yaw_rad=facing_rad, height_m=0.85)
    return bench


def add_bin(stage: Stage, at: ArrayLike, rng: np.random.Generator) -> int:
    """A litter bin; returns its instance id."""
    litter = stage.instance(SemanticClass.PROP, "a litter bin")
    shade = palette.linear(pick(rng, ("#2c4a3a", "#39434a", "#54483a", "#2a3c58")))
    can = loft(
        [(0, 0.22, 0.22), (0.85, 0.26, 0.26), (0.87, 0.28, 0.28), (0.95, 0.24, 0.24)], num_sides=9
    )
    stage.put(can, material=Material.METAL, color=shade, instance=litter, at=at)
    stage.plan.block_disc(np.asarray(at)[:2], 0.28, height_m=0.95)
    return litter


def add_fence(
    stage: Stage,
    points: ArrayLike,
    *,
    height_m: float = 1.1,
    ground_m: float = 0.0,
    color: Color = IRON,
    spacing_m: float = 1.6,
    num_rails: int = 3,
    phrase: str = "a metal railing",
    block: bool = True,
) -> int:
    """A railing of posts and rails along a polyline (N, 2); returns its instance id."""
    fence = stage.instance(SemanticClass.FENCE, phrase)
    corners = np.asarray(points, np.float64)[:, :2]
    for a, b in itertools.pairwise(corners):
        length, yaw = float(np.hypot(*(b - a))), math.atan2(b[1] - a[1], b[0] - a[0])
        x = np.linspace(0, length, max(2, round(length / spacing_m) + 1))
        posts = boxes(
            np.stack([x - 0.03, 0 * x - 0.03, 0 * x], 1),
            np.stack([x + 0.03, 0 * x + 0.03, 0 * x + height_m], 1),
        )
        z = np.linspace(0.18, height_m - 0.06, num_rails)
        rails = boxes(
            np.stack([0 * z, 0 * z - 0.02, z - 0.022], 1),
            np.stack([0 * z + length, 0 * z + 0.02, z + 0.022], 1),
            sides=(0, 2, 4, 5),
        )
        stage.put(
            joined([posts, rails]),
            material=Material.METAL,
            color=color,
            instance=fence,
            at=(a[0], a[1], ground_m),
            yaw_rad=yaw,
        )
        if block:
            middle, half = (a + b) / 2, np.array([length / 2, 0.06])
            stage.plan.block_box(middle - half, middle + half, yaw_rad=yaw, height_m=height_m)
    return fence


def add_bollard(stage: Stage, at: ArrayLike, *, height_m: float = 0.85) -> int:
    """A bollard at a kerb; returns its instance id."""
    bollard = stage.instance(SemanticClass.POLE, "a bollard")
    post = loft(
        [(0, 0.075, 0.075), (height_m - 0.08, 0.065, 0.065), (height_m, 0.02, 0.02)], num_sides=7
    )
    stage.put(post, material=Material.METAL, color=IRON, instance=bollard, at=at)
    stage.plan.block_disc(np.asarray(at)[:2], 0.08, height_m=height_m)
    return bollard


def add_sign(
    stage: Stage,
    sign: Sign,
    *,
    at: ArrayLike,
    facing_rad: float,
    width_m: float = 2.4,
    two_sided: bool = False,
    board: tuple[str, str] | None = None,
    phrase: str | None = None,
) -> int:
    """A board with a sign's text; returns its instance id.

    Args:
        stage: Where it hangs.
        sign: What is written.
        at: Centre of the board.
        facing_rad: Heading that its front faces.
        width_m: Width; the height follows from the proportions of sign images.
        two_sided: Whether the back carries the text too.
        board: Hex colours of board and letters.
        phrase: Instead of `a sign that says "..."`.
    """
    instance = stage.instance(SemanticClass.SIGN, phrase or f'a sign that says "{sign.text}"')
    index = stage.sign(sign, board=board)
    height, half = width_m / SIGN_ASPECT, width_m / 2
    for turn in (0.0, math.pi)[: 2 if two_sided else 1]:
        face = quad(
            [
                (0.045, -half, -height / 2),
                (0.045, half, -height / 2),
                (0.045, half, height / 2),
                (0.045, -half, height / 2),
            ]
        )
        stage.put(
            face,
            material=Material.SIGN,
            color=(index, 0, 0),
            instance=instance,
            at=at,
            yaw_rad=facing_rad + turn,
        )
    rim = 0.03
    backing = boxes(
        [(-0.04, -half - rim, -height / 2 - rim)],
        [(0.04, half + rim, height / 2 + rim)],
        sides=_ALL,
    )
    stage.put(
        backing, material=Material.METAL, color=IRON, instance=instance, at=at, yaw_rad=facing_rad
    )
    return instance


def add_sign_post(
    stage: Stage,
    sign: Sign,
    *,
    at: ArrayLike,
    facing_rad: float,
    width_m: float = 1.6,
    height_m: float = 2.3,
    two_sided: bool = True,
) -> int:
    """A sign board on two posts; `at` is the ground below its middle. Returns its instance id."""
    x, y, z = np.asarray(at, np.float64)
    board_m = width_m / SIGN_ASPECT
    instance = add_sign(
        stage,
        sign,
        at=(x, y, z + height_m - board_m / 2),
        facing_rad=facing_rad,
        width_m=width_m,
        two_sided=two_sided,
    )
    half = width_m / 2 - 0.08
    posts = boxes(
        [(-0.035, s * half - 0.035, 0) for s in (-1, 1)],
        [(0.035, s * half + 0.035, height_m - board_m) for s in (-1, 1)],
    )
    stage.put(
        posts, material=Material.METAL, color=IRON, instance=instance, at=at, yaw_rad=facing_rad
    )
    stage.plan.block_box(
        (x - 0.08, y - half), (x + 0.08, y + half), yaw_rad=facing_rad, height_m=height_m
    )
    return instance


def add_bunting(
    stage: Stage,
    start: ArrayLike,
    stop: ArrayLike,
    rng: np.random.Generator,
    *,
    sag_m: float = 0.5,
    bulbs: bool = False,
) -> int:
    """A string of flags, or of light bulbs, between two points; returns its instance id."""
    name = "a string of lights" if bulbs else "a string of bunting"
    line = stage.instance(SemanticClass.LAMP if bulbs else SemanticClass.PROP, name)
    a, b = np.asarray(start, np.float64), np.asarray(stop, np.float64)
    length = float(np.linalg.norm(b - a))
    s = np.linspace(0, 1, max(4, round(length / 0.9)))
    path = a + (b - a) * s[:, None] - np.array([0, 0, sag_m]) * (4 * s * (1 - s))[:, None]
    stage.put(tube(path, 0.012, num_sides=3), material=Material.MATTE, color=IRON, instance=line)
    spots = np.linspace(0.04, 0.96, max(3, round(length / 0.55)))
    at = np.stack([np.interp(spots, s, column) for column in path.T], 1)
    colors = palette.BULBS if bulbs else palette.FAIR
    along = (b - a) / length
    for k, shade in enumerate(colors):
        mine = at[k :: len(colors)]
        if not len(mine):
            continue
        if bulbs:
            chain = joined(
                [
                    shifted(
                        sphere((0.065, 0.065, 0.08), num_rings=3, num_sides=5), p - [0, 0, 0.07]
                    )
                    for p in mine
                ]
            )
            stage.put(chain, material=Material.NEON, color=shade, instance=line)
        else:
            stage.put(
                joined([_flag(p, along) for p in mine]),
                material=Material.MATTE,
                color=shade,
                instance=line,
            )
    return line


def _flag(at: NDArray[np.float64], along: NDArray[np.float64]) -> Primitive:
    """A hanging triangle, both sides."""
    v = np.array([at - 0.17 * along, at + 0.17 * along, at - [0, 0, 0.36]], np.float32)
    return v, np.array([(0, 2, 1), (0, 1, 2)], np.int32), np.zeros((3, 2), np.float32)


def ground(
    stage: Stage,
    low: Sequence[float],
    high: Sequence[float],
    *,
    material: Material,
    color: Color,
    semantic: SemanticClass,
    phrase: str,
    height_m: float = 0.0,
) -> int:
    """A flat rectangle of ground; uv is in world metres. Returns its instance id."""
    instance = stage.instance(semantic, phrase)
    (x0, y0), (x1, y1) = low[:2], high[:2]
    corners = np.array(
        [(x0, y0, height_m), (x1, y0, height_m), (x1, y1, height_m), (x0, y1, height_m)], np.float32
    )
    flat = (corners, np.array([(0, 1, 2), (0, 2, 3)], np.int32), corners[:, :2].copy())
    stage.put(flat, material=material, color=color, instance=instance)
    return instance
