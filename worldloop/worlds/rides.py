"""Rides of a fairground: the turning Ferris wheel and carousel, and a roller coaster with its train.

Each ride is one instance in the static mesh (what stands) and one in the moving mesh (what turns);
all lights are NEON, so that a fair glows at night.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldloop.worlds import palette
from worldloop.worlds.geometry import Float, Material, SemanticClass, cylinder, rotation_z, sphere
from worldloop.worlds.palette import BULBS, FAIR, Color, pick
from worldloop.worlds.shapes import (
    Primitive,
    boxes,
    flipped,
    joined,
    loft,
    ribbon,
    rotation_x,
    rotation_y,
    shifted,
    tube,
    turned,
)
from worldloop.worlds.stage import Sight, Stage

Float64 = NDArray[np.float64]

_WHITE = palette.COLORS["ivory"]
_STEEL = palette.linear("#cfd3d6")
_GOLD = palette.COLORS["gold"]
_GRAVITY_MPS2 = 9.81


def _two_sided(primitive: Primitive) -> Primitive:
    return joined([primitive, flipped(primitive)])


# ---------------------------------------------------------------------------------------------
# Ferris wheel


def add_ferris_wheel(
    stage: Stage,
    at: ArrayLike,
    facing_rad: float,
    rng: np.random.Generator,
    *,
    radius_m: float = 13.0,
    num_gondolas: int = 16,
    turn_s: float = 46.0,
) -> None:
    """A Ferris wheel on two A-frames whose axle points along a heading."""
    x, y, z = np.asarray(at, np.float64)
    hub_m = radius_m + 2.6
    stands = stage.instance(SemanticClass.RIDE, "the supports of a Ferris wheel")
    wheel = stage.instance(SemanticClass.RIDE, "a turning Ferris wheel", moves=True)
    legs = [
        tube([(s * 1.9, side * 0.45 * hub_m, 0), (s * 1.3, 0, hub_m)], 0.26, num_sides=6)
        for s in (-1, 1)
        for side in (-1, 1)
    ]
    ties = [
        tube([(s * 1.6, -0.24 * hub_m, 0.47 * hub_m), (s * 1.6, 0.24 * hub_m, 0.47 * hub_m)], 0.14)
        for s in (-1, 1)
    ]
    axle = tube([(-1.5, 0, hub_m), (1.5, 0, hub_m)], 0.35, num_sides=8)

    def put(primitive: Primitive, material: Material, color: Color) -> None:
        stage.put(
            primitive,
            material=material,
            color=color,
            instance=stands,
            at=(x, y, z),
            yaw_rad=facing_rad,
        )

    frame = joined([*legs, *ties, axle])
    put(frame, Material.PAINT, _WHITE)
    base = boxes([(-2.6, -0.55 * hub_m, 0)], [(2.6, 0.55 * hub_m, 0.5)])
    put(base, Material.MATTE, palette.linear("#8d8f92"))

    first = stage.parts(1 + num_gondolas)
    accent, light = pick(rng, FAIR[:6]), pick(rng, BULBS)
    for primitive, material, color in _wheel_layers(radius_m, num_gondolas, accent, light):
        stage.put(primitive, material=material, color=color, instance=wheel, part=first)
    for k in range(num_gondolas):
        for primitive, material, color in _gondola_layers(FAIR[k % 6]):
            stage.put(primitive, material=material, color=color, instance=wheel, part=first + 1 + k)

    base_turn = rotation_z(facing_rad).astype(np.float64)
    hub = np.array([x, y, z + hub_m])
    phase = float(rng.uniform(0, 6.28))
    spokes = np.arange(num_gondolas) * 2 * np.pi / num_gondolas

    def motion(time_s: float) -> Float:
        angle = phase + 2 * np.pi * time_s / turn_s
        pose = np.empty((1 + num_gondolas, 3, 4))
        pose[0, :, :3] = base_turn @ rotation_x(angle).astype(np.float64)
        pose[1:, :, :3] = base_turn
        a = spokes + angle
        rim = np.stack([0 * a, radius_m * np.cos(a), radius_m * np.sin(a)], 1)
        pose[0, :, 3], pose[1:, :, 3] = hub, hub + rim @ base_turn.T
        return pose.astype(np.float32)

    stage.drive(range(first, first + 1 + num_gondolas), motion)
    half = np.array([2.8, 0.5 * hub_m])
    stage.plan.block_box((x, y) - half, (x, y) + half, yaw_rad=facing_rad, height_m=1.0)
    stage.sights.append(Sight((float(x), float(y), float(z + hub_m)), 4.0))


def _wheel_layers(
    radius: float, num_gondolas: int, accent: Color, light: Color
) -> list[tuple[Primitive, Material, Color]]:
    turn = np.linspace(0, 2 * np.pi, 49)
    circle = np.stack([0 * turn, np.cos(turn), np.sin(turn)], 1)
    rims = [
        tube(circle * r + [s * 0.8, 0, 0], 0.11, num_sides=4)
        for s in (-1, 1)
        for r in (radius, 0.82 * radius)
    ]
    spokes, struts, bulbs = [], [], []
    for k in range(num_gondolas):
        a = 2 * np.pi * k / num_gondolas
        out = np.array([0, math.cos(a), math.sin(a)])
        nxt = np.array(
            [0, math.cos(a + 2 * np.pi / num_gondolas), math.sin(a + 2 * np.pi / num_gondolas)]
        )
        for s in (-1, 1):
            side = np.array([s * 0.8, 0, 0])
            spokes.append(tube([0.3 * side, side + radius * out], 0.055, num_sides=3))
            struts.append(
                tube([side + 0.82 * radius * out, side + radius * nxt], 0.05, num_sides=3)
            )
            across = np.cross(out, [1.0, 0, 0]) * 0.09
            front = np.array([s * 0.92, 0, 0])
            line = [front + 0.10 * radius * out, front + radius * out]
            strip = ribbon([p + across for p in line], [p - across for p in line])
            bulbs.append(_two_sided(strip))
        struts.append(
            tube([radius * out - [0.8, 0, 0], radius * out + [0.8, 0, 0]], 0.07, num_sides=4)
        )
    rings = []
    for s in (-1, 1):
        for r in (radius + 0.12, 0.82 * radius):
            inner, outer = (
                circle * (r - 0.10) + [s * 0.95, 0, 0],
                circle * (r + 0.10) + [s * 0.95, 0, 0],
            )
            rings.append(_two_sided(ribbon(inner, outer)))
    hub = turned(cylinder(1.3, 1.3, 0.2, num_sides=16), rotation_y(math.pi / 2), (0.85, 0, 0))
    hub_back = turned(
        cylinder(1.3, 1.3, 0.2, num_sides=16), rotation_y(-math.pi / 2), (-0.85, 0, 0)
    )
    return [
        (joined([*rims, *struts]), Material.PAINT, _WHITE),
        (joined(spokes), Material.METAL, _STEEL),
        (joined([hub, hub_back]), Material.NEON, accent),
        (joined(bulbs), Material.NEON, light),
        (joined(rings), Material.NEON, accent),
    ]


def _gondola_layers(color: Color) -> list[tuple[Primitive, Material, Color]]:
    cabin = loft(
        [(-2.30, 0.55, 0.55), (-2.15, 0.85, 0.85), (-1.45, 0.92, 0.92), (-1.40, 0.92, 0.92)],
        num_sides=9,
    )
    roof = loft([(-0.62, 1.0, 1.0), (-0.45, 0.85, 0.85), (-0.12, 0.15, 0.15)], num_sides=9)
    posts = [
        tube(
            [
                (0.85 * math.cos(a), 0.85 * math.sin(a), -1.4),
                (0.85 * math.cos(a), 0.85 * math.sin(a), -0.6),
            ],
            0.05,
            num_sides=3,
        )
        for a in np.arange(4) * np.pi / 2 + 0.4
    ]
    rod = tube([(0, 0, -0.2), (0, 0, 0.05)], 0.08, num_sides=4)
    riders = [
        shifted(sphere((0.14, 0.14, 0.17), num_rings=4, num_sides=6), (0.3 * s, 0.3 * s, -1.08))
        for s in (-1, 1)
    ]
    return [
        (joined([cabin, roof]), Material.PAINT, color),
        (joined([*posts, rod]), Material.METAL, _STEEL),
        (joined(riders), Material.SKIN, palette.SKINS[4]),
    ]


# ---------------------------------------------------------------------------------------------
# carousel


def add_carousel(
    stage: Stage,
    at: ArrayLike,
    rng: np.random.Generator,
    *,
    radius_m: float = 4.4,
    num_horses: int = 10,
    turn_s: float = 15.0,
) -> None:
    """A carousel: horses that rise and fall under a striped, lit canopy."""
    x, y, z = np.asarray(at, np.float64)
    stand = stage.instance(SemanticClass.RIDE, "the platform of a carousel")
    ride = stage.instance(SemanticClass.RIDE, "a turning carousel with painted horses", moves=True)
    step = loft(
        [(0, radius_m + 0.6, radius_m + 0.6), (0.22, radius_m + 0.6, radius_m + 0.6)], num_sides=28
    )
    stage.put(step, material=Material.MATTE, color=palette.linear("#a5906f"), instance=stand, at=at)
    first = stage.parts(1 + num_horses)
    accent = pick(rng, (FAIR[0], FAIR[2], FAIR[4]))
    for primitive, material, color in _canopy_layers(radius_m, num_horses, accent):
        stage.put(primitive, material=material, color=color, instance=ride, part=first)
    for k in range(num_horses):
        coat = (
            palette.COLORS["ivory"],
            palette.linear("#6b4327"),
            palette.COLORS["gray"],
            palette.COLORS["white"],
        )[k % 4]
        for primitive, material, color in _horse_layers(coat, FAIR[k % 6]):
            stage.put(primitive, material=material, color=color, instance=ride, part=first + 1 + k)
    phase, ring = float(rng.uniform(0, 6.28)), radius_m - 0.95
    seats = np.arange(num_horses) * 2 * np.pi / num_horses

    def motion(time_s: float) -> Float:
        angle = phase + 2 * np.pi * time_s / turn_s
        pose = np.zeros((1 + num_horses, 3, 4))
        yaws = np.concatenate([[angle], seats + angle + np.pi / 2])
        pose[:, 0, 0] = pose[:, 1, 1] = np.cos(yaws)
        pose[:, 1, 0] = np.sin(yaws)
        pose[:, 0, 1] = -pose[:, 1, 0]
        pose[:, 2, 2] = 1
        pose[:, :3, 3] = x, y, z
        a = seats + angle
        pose[1:, 0, 3] += ring * np.cos(a)
        pose[1:, 1, 3] += ring * np.sin(a)
        pose[1:, 2, 3] += 0.75 + 0.28 * np.sin(
            2 * np.pi * time_s / 3.4 + 2.4 * np.arange(num_horses)
        )
        return pose.astype(np.float32)

    stage.drive(range(first, first + 1 + num_horses), motion)
    stage.plan.block_disc((x, y), radius_m + 1.0, height_m=5.5)
    for a in np.arange(3) * 2 * np.pi / 3:
        stage.lamp(
            (x + 2.4 * math.cos(a), y + 2.4 * math.sin(a), z + 3.2), (8.0, 5.5, 3.0), reach_m=10
        )
    stage.sights.append(Sight((float(x), float(y), float(z + 2.5)), 1.6))


def _canopy_layers(
    radius: float, num_poles: int, accent: Color
) -> list[tuple[Primitive, Material, Color]]:
    sides = 30
    turn = np.linspace(0, 2 * np.pi, sides + 1)
    ring = np.stack([np.cos(turn), np.sin(turn), 0 * turn], 1)
    r = radius + 0.35
    eave, peak = ring * r + [0, 0, 3.55], ring * 0.5 + [0, 0, 5.1]
    roof = ribbon(peak, eave)
    bands = (
        roof[0],
        roof[1],
        np.stack([np.tile(np.arange(sides + 1) * 0.4, 2), roof[2][:, 1]], 1).astype(np.float32),
    )
    ceiling = flipped(ribbon(ring * 0.5 + [0, 0, 3.6], ring * r + [0, 0, 3.5]))
    low, high = ring * (r + 0.02) + [0, 0, 3.05], ring * (r + 0.02) + [0, 0, 3.62]
    valance = _two_sided(ribbon(high, low))
    crown = [
        shifted(sphere((0.16, 0.16, 0.2), num_rings=4, num_sides=7), (0, 0, 5.55)),
        loft([(5.05, 0.5, 0.5), (5.45, 0.08, 0.08)], num_sides=10),
    ]
    lights = [
        ribbon(ring * (r + 0.05) + [0, 0, z + 0.07], ring * (r + 0.05) + [0, 0, z - 0.07])
        for z in (3.1, 3.58)
    ]
    column = loft([(0.2, 1.05, 1.05), (1.0, 0.9, 0.9), (3.6, 1.1, 1.1)], num_sides=12)
    panels = ribbon(ring[::3] * 1.09 + [0, 0, 2.6], ring[::3] * 1.0 + [0, 0, 1.0])
    floor = loft([(0.22, radius, radius), (0.38, radius, radius)], num_sides=28)
    poles = [
        tube(
            [
                ((radius - 0.95) * math.cos(a), (radius - 0.95) * math.sin(a), 0.38),
                ((radius - 0.95) * math.cos(a), (radius - 0.95) * math.sin(a), 3.5),
            ],
            0.045,
            num_sides=5,
        )
        for a in np.arange(num_poles) * 2 * np.pi / num_poles
    ]
    return [
        (bands, Material.STRIPE, accent),
        (ceiling, Material.MATTE, _WHITE),
        (valance, Material.MATTE, accent),
        (joined(crown), Material.PAINT, _GOLD),
        (joined(lights), Material.NEON, BULBS[0]),
        (column, Material.PAINT, _WHITE),
        (panels, Material.NEON, BULBS[5]),
        (floor, Material.WOOD, palette.linear("#9a6b45")),
        (joined(poles), Material.METAL, _GOLD),
    ]


def _horse_layers(coat: Color, saddle: Color) -> list[tuple[Primitive, Material, Color]]:
    body = shifted(sphere((0.58, 0.21, 0.25), num_rings=6, num_sides=9), (0, 0, 0.55))
    neck = turned(
        loft([(0, 0.17, 0.12), (0.55, 0.10, 0.08)], num_sides=7), rotation_y(0.55), (0.42, 0, 0.62)
    )
    head = turned(
        loft([(-0.05, 0.09, 0.08), (0.36, 0.06, 0.055)], num_sides=7),
        rotation_y(2.1),
        (0.68, 0, 1.14),
    )
    legs = []
    for bx, lean, y in (
        (0.40, 0.75, 0.11),
        (0.34, -0.15, -0.11),
        (-0.42, -0.65, 0.11),
        (-0.38, -0.1, -0.11),
    ):
        limb = loft([(-0.62, 0.04, 0.04), (-0.55, 0.05, 0.05), (0, 0.09, 0.08)], num_sides=6)
        legs.append(turned(limb, rotation_y(-lean), (bx, y, 0.48)))
    tail = turned(
        loft([(-0.5, 0.03, 0.03), (-0.2, 0.08, 0.06), (0, 0.05, 0.04)], num_sides=6),
        rotation_y(0.6),
        (-0.56, 0, 0.68),
    )
    mane = turned(
        boxes([(-0.17, -0.025, 0.02)], [(-0.05, 0.025, 0.58)]), rotation_y(0.55), (0.42, 0, 0.64)
    )
    seat = shifted(sphere((0.24, 0.235, 0.10), num_rings=4, num_sides=8), (-0.02, 0, 0.76))
    cloth = loft([(0.38, 0.20, 0.225), (0.74, 0.17, 0.20)], num_sides=8)
    return [
        (joined([body, neck, head, *legs]), Material.PAINT, coat),
        (
            joined([tail, mane]),
            Material.MATTE,
            palette.linear("#3d2a1b") if coat[0] > 0.3 else _GOLD,
        ),
        (joined([seat, cloth]), Material.PAINT, saddle),
    ]


# ---------------------------------------------------------------------------------------------
# roller coaster

# Control points of the circuit: metres along, across and up; how far the track is banked.
_BEFORE_LOOP = (
    *((-30, 0, 1.6, 0.0), (-22, 0, 1.6, 0.0), (-14, 0, 3.2, 0.0), (-2, 0, 10.5, 0.0)),
    *((8, 0, 16.6, 0.0), (14, 0, 17.6, 0.0), (19, 0.5, 15.4, 0.0), (26, 2, 6.0, 0.0)),
    *((33, 5, 2.4, 0.4), (39, 12, 4.2, 0.9), (36, 20, 7.5, 0.9), (28, 23, 8.2, 0.3)),
    *((20, 23, 3.2, 0.0), (14, 23, 1.9, 0.0)),
)
_AFTER_LOOP = (
    *((0, 25, 1.9, 0.0), (-8, 25, 3.0, 0.0), (-15, 25, 8.4, 0.0), (-21, 25, 9.4, 0.0)),
    *((-28, 24, 5.0, 0.2), (-36, 19, 2.6, 0.9), (-39, 11, 2.6, 0.9), (-36, 3, 1.9, 0.5)),
)
_LOOP_AT, _LOOP_RADIUS_M = (7.0, 24.0, 1.9), 5.0
_CAR_GAP_M, _NUM_CARS = 2.35, 6


def add_roller_coaster(
    stage: Stage, at: ArrayLike, yaw_rad: float, rng: np.random.Generator, *, scale: float = 1.0
) -> None:
    """A roller coaster with a lift hill, a loop and a moving train, on supports."""
    origin, turn = np.asarray(at, np.float64), rotation_z(yaw_rad).astype(np.float64)
    points, ups = _centre_line(scale)
    points, ups = points @ turn.T + origin, ups @ turn.T
    along = _unit(np.roll(points, -1, 0) - np.roll(points, 1, 0))
    ups = _unit(ups - along * (ups * along).sum(1, keepdims=True))
    side = np.cross(along, ups)
    rail, post = pick(
        rng, ((FAIR[0], _WHITE), (FAIR[2], _WHITE), (FAIR[1], FAIR[2]), (FAIR[5], FAIR[1]))
    )
    track = stage.instance(SemanticClass.RIDE, "a roller coaster track")
    for offset, radius, color in ((0.5, 0.09, rail), (-0.5, 0.09, rail), (0.0, 0.17, rail)):
        drop = 0.0 if offset else -0.42
        line = points + offset * side + drop * ups
        stage.put(_closed_tube(line, radius), material=Material.PAINT, color=color, instance=track)
    rungs = []
    for k in range(0, len(points), 3):
        a, b = points[k] - 0.5 * side[k], points[k] + 0.5 * side[k]
        rungs.append(tube([a, points[k] - 0.42 * ups[k], b], 0.05, num_sides=3))
    stage.put(joined(rungs), material=Material.PAINT, color=rail, instance=track)
    _add_supports(stage, points, ups, side, post, track)
    _add_lights(stage, points, ups, side, track)
    _add_train(stage, points, ups, along, rng)
    tall = points[int(np.argmax(points[:, 2]))]
    loop = turn @ (np.array([7.0, 24.0, 0.0]) * scale) + origin
    stage.sights.append(Sight((float(tall[0]), float(tall[1]), float(tall[2])), 2.5))
    stage.sights.append(Sight((float(loop[0]), float(loop[1]), 8.0), 2.5))


def _centre_line(scale: float) -> tuple[Float64, Float64]:
    """Points every metre or so along the circuit, and the direction of the riders' heads."""
    knots: list[tuple[float, ...]] = [control[:3] for control in _BEFORE_LOOP]
    ups: list[tuple[float, ...]] = [_banked(control) for control in _BEFORE_LOOP]
    x, y, z = _LOOP_AT
    for a in np.linspace(0, 2 * np.pi, 13):
        drift = 1.6 * (a / np.pi - 1)
        rise = _LOOP_RADIUS_M * (1 - math.cos(a))
        knots.append((x - _LOOP_RADIUS_M * math.sin(a), y + drift, z + rise))
        ups.append((math.sin(a), 0.0, math.cos(a)))
    knots += [control[:3] for control in _AFTER_LOOP]
    ups += [_banked(control) for control in _AFTER_LOOP]
    p = _catmull(np.array(knots, np.float64) * scale)
    u = _catmull(np.array(ups, np.float64))
    steps = np.linalg.norm(np.diff(np.vstack([p, p[:1]]), axis=0), axis=1)
    s = np.concatenate([[0], np.cumsum(steps)])
    even = np.linspace(0, s[-1], int(s[-1] / 1.1), endpoint=False)
    resample = [np.interp(even, s, np.append(c, c[0])) for c in (*p.T, *u.T)]
    return np.stack(resample[:3], 1), np.stack(resample[3:], 1)


def _banked(control: tuple[float, ...]) -> tuple[float, ...]:
    """Where riders' heads point at a control point: towards the inside of the circuit."""
    _, across, _, lean = control
    return 0.0, lean * (12.0 - across) / 12.0, 1.0


def _catmull(knots: Float64, *, num_between: int = 8) -> Float64:
    """A closed Catmull-Rom curve through knots."""
    a, b, c, d = (np.roll(knots, shift, 0)[:, None] for shift in (1, 0, -1, -2))
    t = np.linspace(0, 1, num_between, endpoint=False)[None, :, None]
    curve = 0.5 * (
        2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3
    )
    result: Float64 = curve.reshape(-1, knots.shape[1])
    return result


def _unit(vectors: Float64) -> Float64:
    result: Float64 = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    return result


def _closed_tube(line: Float64, radius: float) -> Primitive:
    return tube(np.vstack([line, line[:2]]), radius, num_sides=4)


def _add_supports(
    stage: Stage, points: Float64, ups: Float64, side: Float64, color: Color, track: int
) -> None:
    """Columns under the track where it is high enough and upright."""
    legs = []
    for k in range(0, len(points), 5):
        p = points[k] - 0.5 * ups[k]
        if p[2] < 1.2 or ups[k][2] < 0.45:
            continue
        flat = side[k] * [1, 1, 0]
        spread = 0.16 * p[2]
        for s in (-1, 1) if p[2] > 4 else (0,):
            foot = np.array([p[0], p[1], 0.0]) + s * spread * flat
            legs.append(tube([foot, p], 0.12 if p[2] > 4 else 0.14, num_sides=5))
            stage.plan.block_disc(foot[:2], 0.3, height_m=1.5)
    stage.put(joined(legs), material=Material.PAINT, color=color, instance=track)


def _add_lights(stage: Stage, points: Float64, ups: Float64, side: Float64, track: int) -> None:
    """Light strips along both sides of the track."""
    closed = np.vstack([points, points[:1]])
    up, out = np.vstack([ups, ups[:1]]), np.vstack([side, side[:1]])
    strips = []
    for s in (-1, 1):
        edge = closed + s * 0.62 * out
        strip = ribbon(edge + 0.09 * up, edge - 0.09 * up)
        strips.append(strip if s > 0 else flipped(strip))
    stage.put(
        joined(strips),
        material=Material.NEON,
        color=pick(stage.random("coaster lights"), BULBS),
        instance=track,
    )


def _add_train(
    stage: Stage, points: Float64, ups: Float64, along: Float64, rng: np.random.Generator
) -> None:
    """Cars with riders, as fast as their height allows."""
    train = stage.instance(SemanticClass.RIDE, "a roller coaster train with riders", moves=True)
    first = stage.parts(_NUM_CARS)
    paint = pick(rng, FAIR[:6])
    for k in range(_NUM_CARS):
        for primitive, material, color in _car_layers(paint, k, rng):
            stage.put(primitive, material=material, color=color, instance=train, part=first + k)
    step = float(np.linalg.norm(points[1] - points[0]))
    length = step * len(points)
    speed = np.sqrt(np.maximum(2 * _GRAVITY_MPS2 * (points[:, 2].max() - points[:, 2]), 0) + 16.0)
    clock = np.concatenate([[0], np.cumsum(step / (0.5 * (speed + np.roll(speed, -1))))])
    marks = np.arange(len(points) + 1) * step
    start = float(rng.uniform(0, clock[-1]))
    offsets = np.arange(_NUM_CARS) * _CAR_GAP_M
    frames = np.stack([along, np.cross(ups, along), ups], 2)  # columns: x forward, y left, z up

    def motion(time_s: float) -> Float:
        lead = np.interp((start + time_s) % clock[-1], clock, marks)
        s = ((lead - offsets) % length) / step
        k, share = np.floor(s).astype(int) % len(points), (s % 1)[:, None]
        nxt = (k + 1) % len(points)
        pose = np.empty((_NUM_CARS, 3, 4))
        blend = frames[k] + (frames[nxt] - frames[k]) * share[:, :, None]
        x = _unit(blend[:, :, 0])
        y = _unit(np.cross(blend[:, :, 2], x))
        pose[:, :, 0], pose[:, :, 1], pose[:, :, 2] = x, y, np.cross(x, y)
        pose[:, :, 3] = points[k] + (points[nxt] - points[k]) * share
        return pose.astype(np.float32)

    stage.drive(range(first, first + _NUM_CARS), motion)


def _car_layers(
    paint: Color, index: int, rng: np.random.Generator
) -> list[tuple[Primitive, Material, Color]]:
    hull = loft([(0.12, 0.95, 0.52), (0.35, 1.08, 0.62), (0.80, 1.0, 0.60)], num_sides=10)
    nose = shifted(sphere((0.75, 0.5, 0.34), num_rings=5, num_sides=8), (0.75, 0, 0.45))
    shapes = [hull, nose] if index == 0 else [hull]
    bodies, heads = [], []
    for x in (-0.42, 0.38):
        for y in (-0.26, 0.26):
            bodies.append(
                shifted(loft([(0.6, 0.15, 0.19), (1.18, 0.11, 0.15)], num_sides=7), (x, y, 0))
            )
            arms = tube([(x, y - 0.16, 1.12), (x + 0.12, y - 0.2, 1.55)], 0.05, num_sides=4)
            bodies += [
                arms,
                tube([(x, y + 0.16, 1.12), (x + 0.12, y + 0.2, 1.55)], 0.05, num_sides=4),
            ]
            heads.append(
                shifted(sphere((0.11, 0.10, 0.13), num_rings=4, num_sides=7), (x, y, 1.33))
            )
    return [
        (joined(shapes), Material.PAINT, paint),
        (joined(bodies), Material.MATTE, palette.COLORS[pick(rng, palette.CLOTHES)]),
        (joined(heads), Material.SKIN, pick(rng, palette.SKINS)),
    ]
