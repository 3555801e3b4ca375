"""The amusement park: an avenue of stalls under bunting and bulbs that leads to the rides.

The avenue runs along x from the entrance arch to the Ferris wheel; the roller coaster stands
beside it, the carousel at its end. Without a wheel the coaster takes its place. Style keys:

    stalls   striped, plain
    trees    palm, broadleaf, conifer, bare

Subjects that are understood: `ferris wheel`, `carousel`, `roller coaster` (one of each at most),
`stall`, `tree`, `balloon`, `bench`.
"""

import math

import numpy as np

from worldloop.atlas.records import Sign
from worldloop.errors import ClipRejectedError
from worldloop.recipes import Recipe
from worldloop.scenes.scene import Scene
from worldloop.worlds import kit, palette, rides
from worldloop.worlds.air import bearing_towards_sun, outdoor_air
from worldloop.worlds.crowd import Crowd
from worldloop.worlds.geometry import Float, Material, SemanticClass, quad, sphere
from worldloop.worlds.palette import BULBS, FAIR, Color, pick, tinted
from worldloop.worlds.people import Troupe
from worldloop.worlds.player import Start, play
from worldloop.worlds.shapes import (
    BOTTOM,
    Primitive,
    boxes,
    flipped,
    joined,
    loft,
    shifted,
    tube,
)
from worldloop.worlds.stage import Sight, Stage, moved
from worldloop.worlds.world import World

WEST_M, EAST_M, HALF_WIDTH_M = -47.0, 19.0, 9.0
ARCH_X = -24.0
_MOST = {
    "ferris wheel": 1,
    "carousel": 1,
    "roller coaster": 1,
    "stall": 12,
    "tree": 24,
    "balloon": 30,
    "bench": 8,
}
SUBJECTS = tuple(_MOST)


def build(recipe: Recipe) -> World:
    """The world of an amusement park scene."""
    scene, shape = recipe.scene, recipe.shape
    _check_subjects(scene)
    stage = Stage(scene, low=(WEST_M, -HALF_WIDTH_M), high=(EAST_M, HALF_WIDTH_M))
    hand = 1 if stage.random("hand").random() < 0.5 else -1  # the side of the roller coaster
    signs = [sign for sign in scene.signs if sign.text]
    _add_ground(stage)
    _add_rides(stage, hand)
    _add_arch(stage, signs)
    _add_stalls(stage, signs)
    _add_sign_posts(stage, signs[1:], hand)
    _add_avenue(stage)
    _add_surroundings(stage, hand)
    troupe = Troupe(stage)
    _place_standing(troupe)
    track = play(stage, shape, _starts(stage))
    crowd = Crowd(troupe, track, shape)
    routes = _routes(hand)
    for role in scene.roles:
        if role.action == "walking":
            crowd.walk(role, routes, rng=stage.random("walking", role.name), spread_m=1.0)
    bearing = bearing_towards_sun(scene, stage.random("bearing"))
    return stage.finish(air=outdoor_air(scene, y_bearing_deg=bearing), track=track)


def _check_subjects(scene: Scene) -> None:
    for subject in scene.subjects:
        most = _MOST.get(subject.kind)
        if most is None:
            raise ClipRejectedError(
                "build",
                f"The amusement park cannot show {subject.kind!r}; it knows "
                f"{', '.join(SUBJECTS)}. Draw the scene again with one of these.",
            )
        if subject.count > most:
            raise ClipRejectedError(
                "build",
                f"The scene asks for {subject.count} x {subject.kind!r}; at most {most} fit. "
                "Draw the scene again with fewer.",
            )


def _count(scene: Scene, kind: str) -> int:
    return sum(subject.count for subject in scene.subjects if subject.kind == kind)


def _add_ground(stage: Stage) -> None:
    kit.ground(
        stage,
        (-140, -140),
        (170, 140),
        material=Material.GRASS,
        color=palette.linear("#5b7f3a"),
        semantic=SemanticClass.TERRAIN,
        phrase="a lawn",
        height_m=-0.03,
    )
    shade = tinted(palette.linear("#b79f86"), stage.random("paving"), 0.12)
    kit.ground(
        stage,
        (WEST_M - 12, -HALF_WIDTH_M - 3.5),
        (EAST_M + 26, HALF_WIDTH_M + 3.5),
        material=Material.PAVING,
        color=shade,
        semantic=SemanticClass.SIDEWALK,
        phrase="a paved avenue",
    )


def _add_rides(stage: Stage, hand: int) -> None:
    scene = stage.scene
    has_wheel = _count(scene, "ferris wheel") == 1
    rng = stage.random("rides")
    if has_wheel:
        rides.add_ferris_wheel(
            stage, (36.0, -4.0 * hand, 0), math.pi, rng, radius_m=float(rng.uniform(11.5, 13.5))
        )
    if _count(scene, "roller coaster"):
        at = (16.0, 15.5 * hand, 0.0) if has_wheel else (28.0, 0.0, 0.0)
        beside = 0.0 if hand > 0 else math.pi
        rides.add_roller_coaster(stage, at, beside if has_wheel else -math.pi / 2, rng)
    if _count(scene, "carousel"):
        rides.add_carousel(stage, (12.5, 4.3 * hand, 0), rng)


def _add_arch(stage: Stage, signs: list[Sign]) -> None:
    """The gate over the avenue with the name of the place."""
    rng = stage.random("arch")
    arch = stage.instance(SemanticClass.BUILDING, "the entrance arch of an amusement park")
    color, trim = pick(rng, FAIR[:6]), pick(rng, FAIR[:6])
    towers, roofs = [], []
    for s in (-1, 1):
        y = s * 5.6
        towers.append(loft([(0, 1.0, 1.0, ARCH_X, y), (6.2, 0.85, 0.85, ARCH_X, y)], num_sides=10))
        roofs.append(
            loft([(6.2, 1.25, 1.25, ARCH_X, y), (9.0, 0.06, 0.06, ARCH_X, y)], num_sides=10)
        )
        stage.plan.block_disc((ARCH_X, y), 1.1, height_m=6.2)
        ring = np.linspace(0, 2 * np.pi, 17)
        line = np.stack([ARCH_X + 0.98 * np.cos(ring), y + 0.98 * np.sin(ring), 0 * ring], 1)
        for z in (2.2, 4.2, 6.1):
            stage.put(
                tube(line + [0, 0, z], 0.07, num_sides=4),
                material=Material.NEON,
                color=BULBS[0],
                instance=arch,
            )
    stage.put(joined(towers), material=Material.STRIPE, color=color, instance=arch)
    stage.put(joined(roofs), material=Material.PAINT, color=trim, instance=arch)
    beam = boxes(
        [(ARCH_X - 0.35, -5.0, 4.55)], [(ARCH_X + 0.35, 5.0, 6.35)], sides=(0, 1, 2, 3, 4, BOTTOM)
    )
    stage.put(beam, material=Material.PAINT, color=trim, instance=arch)
    for x in (ARCH_X - 0.42, ARCH_X + 0.42):
        for z in (4.62, 6.3):
            line_y = np.linspace(-4.9, 4.9, 12)
            string = tube(np.stack([0 * line_y + x, line_y, 0 * line_y + z], 1), 0.06, num_sides=4)
            stage.put(string, material=Material.NEON, color=BULBS[0], instance=arch)
    stage.sights.append(Sight((ARCH_X, 0.0, 4.5), 1.0))
    if signs:
        for turn, x in ((math.pi, ARCH_X - 0.40), (0.0, ARCH_X + 0.40)):
            kit.add_sign(stage, signs[0], at=(x, 0, 5.45), facing_rad=turn, width_m=5.6)


def _add_stalls(stage: Stage, signs: list[Sign]) -> None:
    """Stalls on both sides of the avenue, nearest to the middle first."""
    rng = stage.random("stalls")
    slots = [(x, s) for x in (-2.5, -8.0, -13.5, 3.0, -19.0, 8.5) for s in (1, -1)]
    free = [(x, s) for x, s in slots if stage.plan.distance([(x, s * 8.0)], bounded=False)[0] > 2.2]
    count = _count(stage.scene, "stall")
    if count > len(free):
        raise ClipRejectedError(
            "build", f"{count} stalls do not fit beside the avenue; at most {len(free)} do."
        )
    tickets = [sign for sign in signs if sign.word == "ticket"]
    for k, (x, s) in enumerate(free[:count]):
        sign = tickets[0] if tickets and k % 2 == 0 else None
        _stall(stage, (x, s * 8.0), -s * math.pi / 2, pick(rng, FAIR[:6]), sign, rng)


def _add_sign_posts(stage: Stage, signs: list[Sign], hand: int) -> None:
    """The names of rides before them, and boards along the avenue for everything else."""
    before = {
        "ferris_wheel": (18.2, -3.5 * hand),
        "roller_coaster": (3.0, 5.2 * hand),
        "carousel": (5.4, 2.2 * hand),
    }
    along = [(x, s * 4.6) for x in (-8.3, -14.8, -1.8, -20.3) for s in (hand, -hand)]
    for sign in signs:
        if sign.word == "ticket" and _count(stage.scene, "stall"):
            continue
        x, y = before.get(sign.word) or along.pop(0)
        width = 2.4 if sign.word in before else 1.5
        kit.add_sign_post(
            stage, sign, at=(x, y, 0), facing_rad=math.pi, width_m=width, height_m=2.5
        )


def _stall(
    stage: Stage,
    at: tuple[float, float],
    facing_rad: float,
    color: Color,
    sign: Sign | None,
    rng: np.random.Generator,
) -> None:
    """A stall with a striped roof, a counter and a wall of prizes; it opens towards a heading."""
    goods = pick(rng, ("toys", "sweets", "balloons", "prizes"))
    stall = stage.instance(SemanticClass.STALL, f"a stall with {goods} under a striped awning")
    x, y = at

    def put(primitive: Primitive, material: Material, shade: Color) -> None:
        stage.put(
            primitive,
            material=material,
            color=shade,
            instance=stall,
            at=(x, y, 0),
            yaw_rad=facing_rad,
        )

    w = 1.9
    put(boxes([(0.75, -w, 0)], [(1.15, w, 1.0)]), Material.STRIPE, color)
    put(
        boxes([(0.70, -w - 0.05, 1.0)], [(1.25, w + 0.05, 1.07)]),
        Material.WOOD,
        palette.linear("#a9794c"),
    )
    back = boxes(
        [(-1.1, -w, 0), (-1.1, -w, 0), (-1.1, w - 0.1, 0)],
        [(-1.0, w, 2.6), (1.0, -w + 0.1, 2.6), (1.0, w, 2.6)],
    )
    put(back, Material.WOOD, tuple(0.26 + 0.34 * c for c in color))  # type: ignore[arg-type]
    skirting = boxes(
        [(-1.0, -w - 0.03, 0), (-1.0, w, 0), (-1.13, -w, 0)],
        [(0.75, -w, 1.0), (0.75, w + 0.03, 1.0), (-1.1, w, 1.0)],
    )
    put(skirting, Material.STRIPE, color)
    ledge = boxes(
        [(-1.0, -w - 0.06, 1.0), (-1.0, w - 0.1, 1.0)], [(0.75, -w, 1.07), (0.75, w + 0.06, 1.07)]
    )
    put(ledge, Material.WOOD, palette.linear("#a9794c"))
    posts = boxes(
        [(1.05, s * w - 0.06, 0) for s in (-1, 1)], [(1.17, s * w + 0.06, 2.6) for s in (-1, 1)]
    )
    put(posts, Material.PAINT, palette.COLORS["ivory"])
    eaves = [
        (1.75, -w - 0.2, 2.45),
        (1.75, w + 0.2, 2.45),
        (0.0, w + 0.2, 3.35),
        (0.0, -w - 0.2, 3.35),
    ]
    rear = [
        (-1.25, w + 0.2, 2.6),
        (-1.25, -w - 0.2, 2.6),
        (0.0, -w - 0.2, 3.35),
        (0.0, w + 0.2, 3.35),
    ]
    flap = [
        (1.75, -w - 0.2, 2.2),
        (1.75, w + 0.2, 2.2),
        (1.75, w + 0.2, 2.45),
        (1.75, -w - 0.2, 2.45),
    ]
    cloth = joined([quad(four, unit_uv=False) for four in (eaves, rear, flap)])
    gable = np.array(
        [[(1.75, s, 2.45), (0.0, s, 3.35), (-1.25, s, 2.6)] for s in (-w - 0.2, w + 0.2)],
        np.float32,
    )
    ends = (
        gable.reshape(-1, 3),
        np.array([(0, 1, 2), (3, 5, 4)], np.int32),
        np.zeros((6, 2), np.float32),
    )
    put(joined([cloth, flipped(cloth), ends, flipped(ends)]), Material.STRIPE, color)
    for k in range(3):
        balls = [
            shifted(
                sphere((0.16, 0.16, 0.17), num_rings=4, num_sides=6),
                (-0.85, float(yy), 1.25 + 0.42 * k),
            )
            for yy in np.linspace(-w + 0.4, w - 0.4, 7)
        ]
        put(joined(balls[k % 2 :: 2]), Material.PAINT, FAIR[(2 * k) % 6])
        put(joined(balls[(k + 1) % 2 :: 2]), Material.PAINT, FAIR[(2 * k + 1) % 6])
    bulbs = tube(
        [(1.8, float(yy), 2.2) for yy in np.linspace(-w - 0.2, w + 0.2, 8)], 0.05, num_sides=4
    )
    put(bulbs, Material.NEON, BULBS[0])
    c, s = math.cos(facing_rad), math.sin(facing_rad)
    stage.lamp((x + 0.3 * c, y + 0.3 * s, 2.3), (3.6, 2.6, 1.5), reach_m=7)
    if sign is not None:
        kit.add_sign(
            stage, sign, at=(x + 1.45 * c, y + 1.45 * s, 3.05), facing_rad=facing_rad, width_m=2.6
        )
    stage.plan.block_box(
        (x - 1.3, y - w - 0.2), (x + 1.3, y + w + 0.2), yaw_rad=facing_rad, height_m=3.2
    )


def _add_avenue(stage: Stage) -> None:
    """Lamp posts with bunting and bulbs across the avenue, bins, beds of flowers, benches."""
    rng = stage.random("avenue")
    xs = np.arange(-18.0, 8.0, 6.5)
    for k, x in enumerate(xs):
        for s in (-1, 1):
            kit.add_lamp_post(stage, (x, s * 5.7, 0), height_m=4.4)
        ends = (float(x), -5.7, 5.0), (float(x), 5.7, 5.0)
        kit.add_bunting(stage, *ends, rng, sag_m=0.55, bulbs=k % 2 == 0)
        if k + 1 < len(xs):
            cross = (float(x), -5.7, 5.0), (float(xs[k + 1]), 5.7, 5.0)
            kit.add_bunting(stage, *cross, rng, sag_m=0.7, bulbs=k % 2 == 1)
    for x, s in ((-29.0, 1), (-29.0, -1), (-36.0, 1), (-36.0, -1)):
        kit.add_lamp_post(stage, (x, s * 6.0, 0), height_m=4.4)
    for x in (-16.2, -4.8, 6.0):
        kit.add_bin(stage, (x, 5.2 * (1 if rng.random() < 0.5 else -1), 0), rng)
    for k in range(_count(stage.scene, "bench")):
        kit.add_bench(
            stage, (-15.0 + 5.5 * (k // 2), (-1) ** k * 4.9, 0), (-1) ** (k + 1) * math.pi / 2
        )
    kit.add_flower_bed(stage, (17.0, -6.0), (18.5, -2.0), rng)
    kit.add_fence(
        stage,
        [(EAST_M + 0.4, -9.5), (EAST_M + 0.4, 9.5)],
        color=palette.COLORS["yellow"],
        phrase="a queue barrier",
        num_rails=2,
    )
    _add_balloons(stage, _count(stage.scene, "balloon"))


def _add_balloons(stage: Stage, count: int) -> None:
    """Balloons on strings, swaying over the avenue's edge."""
    if not count:
        return
    rng = stage.random("balloons")
    first, anchors = stage.parts(count), []
    for k in range(count):
        shade = k % 6
        balloon = stage.instance(SemanticClass.PROP, "a balloon on a string", moves=True)
        bunch = (-11.0, 5.0) if k % 2 else (1.0, -5.0)
        anchors.append(
            (
                bunch[0] + rng.uniform(-0.6, 0.6),
                bunch[1] + rng.uniform(-0.6, 0.6),
                rng.uniform(2.4, 3.4),
            )
        )
        skin = sphere((0.17, 0.17, 0.21), num_rings=6, num_sides=8)
        stage.put(
            skin, material=Material.PAINT, color=FAIR[shade], instance=balloon, part=first + k
        )
        string = tube([(0, 0, -1.4), (0, 0, -0.2)], 0.008, num_sides=3)
        stage.put(string, material=Material.MATTE, color=kit.IRON, instance=balloon, part=first + k)
    at = np.array(anchors)

    def motion(time_s: float) -> Float:
        sway = 0.07 * np.sin(1.3 * time_s + np.arange(count))
        return moved(at + np.stack([sway, 0.6 * sway, 0 * sway], 1))

    stage.drive(range(first, first + count), motion)


def _add_surroundings(stage: Stage, hand: int) -> None:
    """Trees in the park and a belt of trees around it, hedges beside the avenue."""
    rng = stage.random("surroundings")
    spots = [(x, s * (HALF_WIDTH_M + 4.5)) for x in np.arange(-24.0, 30.0, 6.3) for s in (1, -1)]
    order = sorted(range(len(spots)), key=lambda k: abs(spots[k][0]) + float(rng.uniform(0, 8)))
    for k in order[: _count(stage.scene, "tree")]:
        kit.add_tree(stage, (*spots[k], 0), stage.random("tree", k))
    for s in (-1, 1):
        kit.add_hedge(
            stage,
            (WEST_M - 8, s * (HALF_WIDTH_M + 2.8)),
            (EAST_M, s * (HALF_WIDTH_M + 2.8)),
            rng,
            height_m=0.9,
        )
    belt = [
        (float(x), s * float(rng.uniform(62, 74)))
        for x in np.arange(-80, 110, 7.0)
        for s in (-1, 1)
    ]
    belt += [
        (x + float(rng.uniform(-6, 6)), float(y))
        for y in np.arange(-60, 61, 7.0)
        for x in (-78.0, 100.0)
    ]
    kit.add_far_trees(stage, belt, rng)


def _place_standing(troupe: Troupe) -> None:
    """Attendants at the rides, others beside the stalls."""
    stage = troupe.stage
    spots = [(17.2, 1.2, math.pi), (6.2, 3.4, 2.6), (17.0, -7.2, 2.4), (-21.0, 3.2, 2.9)]
    spots += [
        (float(x), s * 5.0, -s * math.pi / 2 + 0.5)
        for x in (-5.4, -10.8, 0.4, -16.4)
        for s in (1, -1)
    ]
    free = [spot for spot in spots if stage.plan.distance([spot[:2]], bounded=False)[0] > 0.4]
    standing = [
        role for role in stage.scene.roles if role.action != "walking" for _ in range(role.count)
    ]
    if len(standing) > len(free):
        raise ClipRejectedError(
            "build", f"{len(standing)} people who stand do not fit; at most {len(free)} do."
        )
    for role, (x, y, heading) in zip(standing, free, strict=False):
        troupe.place(
            role,
            at=(x, y, 0),
            heading_rad=heading,
            rng=stage.random("standing", role.name, round(x)),
        )


def _routes(hand: int) -> list[list[tuple[float, float]]]:
    lanes = [
        [(-50.0, y), (5.0, y), (16.5, 0.4 * y - 2.0 * hand)] for y in (-3.6, -1.8, 0.0, 1.8, 3.6)
    ]
    across = [[(-6.0, -4.6), (4.0, 4.4)], [(-15.0, 4.4), (-4.0, -4.4)]]
    return [*lanes, *lanes, *across]


def _starts(stage: Stage) -> list[Start]:
    rng = stage.random("starts")
    before_the_gate = stage.scene.camera == "stroll" and rng.random() < 0.4
    columns = np.arange(-45.0, -36.0, 1.5) if before_the_gate else np.arange(-22.0, -5.0, 1.5)
    starts = [
        Start(float(x), float(y), float(rng.uniform(-0.25, 0.25)))
        for x in columns
        for y in (-3.4, -1.7, 0.0, 1.7, 3.4)
    ]
    return starts
