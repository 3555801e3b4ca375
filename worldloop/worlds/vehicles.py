"""Road vehicles: cars, taxis, vans, buses, lorries, motorbikes, bicycles and auto rickshaws.

A vehicle stands on the origin and points along +x. Traffic keeps to the side of the road that the
scene says, with constant gaps.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from worldloop.worlds import palette
from worldloop.worlds.geometry import Material, SemanticClass, cylinder, quad, sphere
from worldloop.worlds.palette import Color, pick
from worldloop.worlds.paths import Path, Paths
from worldloop.worlds.shapes import (
    BOTTOM,
    Primitive,
    boxes,
    dome,
    flipped,
    joined,
    loft,
    rotation_x,
    shifted,
    tube,
    turned,
)
from worldloop.worlds.stage import Stage, moved

Layer = tuple[Primitive, Material, Color]
Section = tuple[float, float, float, float]  # x, half width, bottom, top

LENGTHS_M = {
    "car": 4.3,
    "taxi": 4.4,
    "van": 5.0,
    "bus": 10.6,
    "lorry": 7.4,
    "motorbike": 2.0,
    "bicycle": 1.75,
    "auto rickshaw": 2.8,
}
_TYRE, _RIM, _TRIM = (palette.linear(c) for c in ("#141416", "#9ba0a4", "#1b1c1f"))
_PANE = palette.linear("#20272c")
_HEAD, _TAIL, _AMBER = (1.0, 0.95, 0.82), (0.85, 0.05, 0.03), (1.0, 0.55, 0.1)


def add_vehicle(
    stage: Stage,
    kind: str,
    rng: np.random.Generator,
    *,
    at: ArrayLike = (0, 0, 0),
    yaw_rad: float = 0.0,
    part: int | None = None,
    block: bool = True,
) -> int:
    """A vehicle; parked at a place, or in the axes of a moving part. Returns its instance id."""
    layers, phrase = _SHAPES[kind](stage, rng)
    if part is not None and kind in _SEATS:
        layers = [*layers, *_rider_layers(*_SEATS[kind], rng)]
    state = "" if part is not None else "parked "
    article, _, rest = phrase.partition(" ")
    instance = stage.instance(
        SemanticClass.VEHICLE,
        f"a {state}{rest}" if state else f"{article} {rest}",
        moves=part is not None,
    )
    for primitive, material, color in layers:
        stage.put(
            primitive,
            material=material,
            color=color,
            instance=instance,
            at=at,
            yaw_rad=yaw_rad,
            part=part,
        )
    if part is None and block:
        x, y = np.asarray(at, np.float64)[:2]
        tall = 2.1 if kind in ("van", "bus", "lorry") else 1.5
        half = np.array([LENGTHS_M[kind] / 2, 1.25 if kind in ("bus", "lorry") else 0.9])
        stage.plan.block_box((x, y) - half, (x, y) + half, yaw_rad=yaw_rad, height_m=tall)
    return instance


def drive_along(
    stage: Stage, kinds: Sequence[str], paths: Sequence[Path], rng: np.random.Generator
) -> list[int]:
    """Vehicles that drive along paths; returns their instance ids."""
    first = stage.parts(len(kinds))
    parts = range(first, first + len(kinds))
    instances = [
        add_vehicle(stage, kind, rng, part=part) for kind, part in zip(kinds, parts, strict=True)
    ]
    ways = Paths(paths)

    def motion(time_s: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        at, heading, _ = ways.at(time_s)
        return moved(np.column_stack([at, ways.height_m]), heading)

    stage.drive(parts, motion)
    return instances


def hull(sections: Sequence[Section], *, shoulder: float = 0.93) -> Primitive:
    """A body lofted along x through sections with slanted sides, closed at both ends."""
    rows = []
    for x, w, low, top in sections:
        waist = low + 0.62 * (top - low)
        half = [(0.90 * w, low), (w, waist), (shoulder * w, top)]
        rows.append([(x, -y, z) for y, z in half] + [(x, y, z) for y, z in reversed(half)])
    ring = np.array(rows, np.float64)
    n, k = ring.shape[:2]
    quads = []
    for i in range(n - 1):
        for j in range(k):
            a, b = ring[i, j], ring[i + 1, j]
            c, d = ring[i + 1, (j + 1) % k], ring[i, (j + 1) % k]
            if j < k - 1:
                quads.append((a, b, c, d))
    vertices = [corner for four in quads for corner in four]
    first = np.arange(len(quads))[:, None] * 4
    faces = np.concatenate([first + [0, 1, 2], first + [0, 2, 3]], 1).reshape(-1, 3)
    ends = []
    for row, back in ((ring[0], True), (ring[-1], False)):
        base, fan = len(vertices), np.arange(1, k - 1)
        vertices += list(row)
        triangle = np.stack([0 * fan, fan, fan + 1], 1)
        ends.append(base + (triangle if back else triangle[:, ::-1]))
    mesh = np.array(vertices, np.float32)
    return (
        mesh,
        np.concatenate([faces, *ends]).astype(np.int32),
        np.zeros((len(mesh), 2), np.float32),
    )


def _cabin(low: Sequence[float], top: Sequence[float], z0: float, z1: float) -> list[Layer]:
    """A greenhouse between two rectangles (x back, x front, half width): frame and panes."""
    (b0, f0, w0), (b1, f1, w1) = low, top
    lower = [(b0, -w0, z0), (f0, -w0, z0), (f0, w0, z0), (b0, w0, z0)]
    upper = [(b1, -w1, z1), (f1, -w1, z1), (f1, w1, z1), (b1, w1, z1)]
    panes: list[Primitive] = []
    for k in range(4):
        j = (k + 1) % 4
        corners = [lower[k], lower[j], upper[j], upper[k]]
        spans = [(0.06, 0.94)] if k % 2 else [(0.05, 0.47), (0.52, 0.95)]
        panes += [_pane(corners, *span) for span in spans]
    return [(joined(panes), Material.GLASS, _PANE)]


def _pane(corners: Sequence[Sequence[float]], left: float, right: float) -> Primitive:
    """Part of a slanted quad, inset and lifted a centimetre off it."""
    a, b, c, d = (np.array(p, np.float64) for p in corners)
    low, high = 0.06, 0.90

    def at(u: float, v: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        bottom, top = a + (b - a) * u, d + (c - d) * u
        point: np.ndarray[tuple[int, ...], np.dtype[np.float64]] = bottom + (top - bottom) * v
        return point

    normal = np.cross(b - a, d - a)
    lift = 0.012 * normal / np.linalg.norm(normal)
    return quad(
        [at(left, low) + lift, at(right, low) + lift, at(right, high) + lift, at(left, high) + lift]
    )


def _frustum(low: Sequence[float], top: Sequence[float], z0: float, z1: float) -> Primitive:
    """The body behind the panes: sides and roof with hard edges."""
    (b0, f0, w0), (b1, f1, w1) = low, top
    p = [(b0, -w0, z0), (f0, -w0, z0), (f0, w0, z0), (b0, w0, z0)]
    q = [(b1, -w1, z1), (f1, -w1, z1), (f1, w1, z1), (b1, w1, z1)]
    sides = [quad([p[k], p[(k + 1) % 4], q[(k + 1) % 4], q[k]]) for k in range(4)]
    return joined([*sides, quad(q)])


def _wheels(axles: Sequence[float], half_width: float, radius: float, width: float) -> list[Layer]:
    tyres, rims = [], []
    for side in (-1, 1):
        turn = rotation_x(math.pi / 2 if side < 0 else -math.pi / 2)
        for x in axles:
            hub = (x, side * (half_width - width), radius)
            tyres.append(turned(cylinder(radius, radius, width, num_sides=12), turn, hub))
            rim = cylinder(0.62 * radius, 0.55 * radius, 0.02, num_sides=9)
            rims.append(turned(rim, turn, (x, side * half_width, radius)))
    return [(joined(tyres), Material.MATTE, _TYRE), (joined(rims), Material.METAL, _RIM)]


def _lights(
    front: float, back: float, half_width: float, z_front: float, z_back: float
) -> list[Layer]:
    y, w = half_width - 0.26, 0.17
    head = boxes(
        [(front - 0.06, s * y - w, z_front - 0.07) for s in (-1, 1)],
        [(front + 0.02, s * y + w, z_front + 0.07) for s in (-1, 1)],
    )
    tail = boxes(
        [(back - 0.02, s * y - w, z_back - 0.08) for s in (-1, 1)],
        [(back + 0.06, s * y + w, z_back + 0.08) for s in (-1, 1)],
    )
    plate = boxes(
        [(back - 0.015, -0.26, z_back - 0.30), (front - 0.02, -0.26, z_front - 0.28)],
        [(back + 0.02, 0.26, z_back - 0.18), (front + 0.015, 0.26, z_front - 0.16)],
    )
    return [
        (head, Material.LAMP, _HEAD),
        (tail, Material.LAMP, _TAIL),
        (plate, Material.MATTE, palette.COLORS["white"]),
    ]


def _car_layers(color: Color) -> list[Layer]:
    body = hull(
        [
            *((-2.13, 0.70, 0.40, 0.80), (-2.04, 0.82, 0.27, 0.93), (-1.5, 0.87, 0.20, 0.97)),
            *((0.0, 0.88, 0.19, 0.95), (0.95, 0.88, 0.19, 0.94), (1.75, 0.85, 0.22, 0.84)),
            *((2.06, 0.78, 0.27, 0.72), (2.15, 0.66, 0.36, 0.62)),
        ]
    )
    low, top = (-1.78, 1.10, 0.80), (-1.12, 0.28, 0.60)
    sill = boxes([(-1.9, -0.86, 0.17)], [(1.9, 0.86, 0.30)])
    mirrors = boxes(
        [(0.62, s * 0.92 - 0.07, 0.94) for s in (-1, 1)],
        [(0.74, s * 0.92 + 0.07, 1.06) for s in (-1, 1)],
    )
    return [
        (joined([body, _frustum(low, top, 0.93, 1.46), mirrors]), Material.PAINT, color),
        (sill, Material.MATTE, _TRIM),
        *_cabin(low, top, 0.93, 1.46),
        *_wheels((-1.33, 1.36), 0.88, 0.325, 0.22),
        *_lights(2.12, -2.11, 0.80, 0.64, 0.74),
    ]


def _car(stage: Stage, rng: np.random.Generator) -> tuple[list[Layer], str]:
    name = pick(rng, tuple(palette.CARS))
    return _car_layers(palette.CARS[name]), f"a {name} car"


def _taxi(stage: Stage, rng: np.random.Generator) -> tuple[list[Layer], str]:
    name = pick(stage.random("taxi"), ("yellow", "black", "white", "dark green"))
    sign = boxes([(-0.62, -0.22, 1.46)], [(-0.38, 0.22, 1.62)])
    layers = [*_car_layers(palette.CARS[name]), (sign, Material.LAMP, _AMBER)]
    return layers, f"a {name} taxi"


def _van(stage: Stage, rng: np.random.Generator) -> tuple[list[Layer], str]:
    name = pick(rng, ("white", "silver", "blue", "red", "gray"))
    body = hull(
        [
            *((-2.48, 0.90, 0.36, 2.05), (-2.40, 0.96, 0.28, 2.12), (0.75, 0.97, 0.24, 2.14)),
            *((1.35, 0.96, 0.24, 1.98), (1.92, 0.94, 0.26, 1.16), (2.42, 0.88, 0.30, 0.98)),
            (2.52, 0.74, 0.40, 0.80),
        ],
        shoulder=0.90,
    )
    windscreen = quad(
        [(1.96, -0.72, 1.20), (1.96, 0.72, 1.20), (1.42, 0.70, 1.92), (1.42, -0.70, 1.92)]
    )
    sides = [
        quad(
            [(0.62, -0.972, 1.22), (1.62, -0.962, 1.22), (1.32, -0.912, 1.82), (0.62, -0.922, 1.82)]
        ),
        quad([(1.62, 0.962, 1.22), (0.62, 0.972, 1.22), (0.62, 0.922, 1.82), (1.32, 0.912, 1.82)]),
        quad(
            [(-2.47, 0.62, 1.35), (-2.47, -0.62, 1.35), (-2.47, -0.60, 1.86), (-2.47, 0.60, 1.86)]
        ),
    ]
    layers: list[Layer] = [
        (body, Material.PAINT, palette.CARS[name]),
        (joined([windscreen, *sides]), Material.GLASS, _PANE),
        *_wheels((-1.55, 1.62), 0.95, 0.34, 0.23),
        *_lights(2.47, -2.47, 0.92, 0.72, 0.80),
    ]
    return layers, f"a {name} van"


def _bus(stage: Stage, rng: np.random.Generator) -> tuple[list[Layer], str]:
    name = pick(stage.random("bus"), ("red", "blue", "green", "amber", "teal"))
    color = palette.COLORS[name]
    length, w = 5.3, 1.25
    body = hull(
        [
            *((-length, 1.12, 0.42, 2.86), (-length + 0.12, w, 0.34, 2.98)),
            *((length - 0.15, w, 0.34, 2.98), (length, 1.12, 0.42, 2.84)),
        ],
        shoulder=0.96,
    )
    roof = boxes([(-length + 0.3, -w + 0.12, 2.96)], [(length - 0.3, w - 0.12, 3.06)])
    panes = [
        quad(
            [
                (length + 0.012, -1.02, 1.15),
                (length + 0.012, 1.02, 1.15),
                (length + 0.012, 1.0, 2.42),
                (length + 0.012, -1.0, 2.42),
            ]
        )
    ]
    panes.append(
        quad(
            [
                (-length - 0.012, 0.9, 1.6),
                (-length - 0.012, -0.9, 1.6),
                (-length - 0.012, -0.9, 2.4),
                (-length - 0.012, 0.9, 2.4),
            ]
        )
    )
    for x in np.arange(-4.9, 4.6, 1.42):
        for s in (-1, 1):
            four = [
                (x, s * 1.262, 1.35),
                (x + 1.28, s * 1.262, 1.35),
                (x + 1.28, s * 1.245, 2.35),
                (x, s * 1.245, 2.35),
            ]
            panes.append(quad(four) if s < 0 else flipped(quad(four)))
    stripe = boxes(
        [(-length + 0.1, s * 1.235 - 0.02, 0.55) for s in (-1, 1)],
        [(length - 0.1, s * 1.235 + 0.02, 0.80) for s in (-1, 1)],
    )
    board = quad(
        [
            (length + 0.012, -0.8, 2.52),
            (length + 0.012, 0.8, 2.52),
            (length + 0.012, 0.8, 2.76),
            (length + 0.012, -0.8, 2.76),
        ]
    )
    layers: list[Layer] = [
        (joined([body, roof]), Material.PAINT, color),
        (joined(panes), Material.GLASS, _PANE),
        (stripe, Material.MATTE, palette.COLORS["ivory"]),
        (board, Material.LAMP, _AMBER),
        *_wheels((-3.2, 3.4), 1.24, 0.48, 0.28),
        *_lights(length, -length, 1.16, 0.80, 0.95),
    ]
    return layers, f"a {name} bus"


def _lorry(stage: Stage, rng: np.random.Generator) -> tuple[list[Layer], str]:
    name = pick(rng, ("white", "blue", "red", "silver"))
    cab = hull(
        [
            (1.7, 1.1, 0.5, 2.5),
            (3.3, 1.1, 0.45, 2.45),
            (3.68, 1.02, 0.45, 1.5),
            (3.7, 0.98, 0.5, 1.4),
        ],
        shoulder=0.95,
    )
    load = boxes([(-3.7, -1.2, 0.95)], [(1.6, 1.2, 3.0)], sides=(0, 1, 2, 3, 4, BOTTOM))
    frame = boxes([(-3.6, -0.5, 0.6)], [(3.4, 0.5, 0.95)])
    glass = [quad([(3.67, -0.9, 1.55), (3.67, 0.9, 1.55), (3.36, 0.88, 2.3), (3.36, -0.88, 2.3)])]
    layers: list[Layer] = [
        (cab, Material.PAINT, palette.CARS[name]),
        (load, Material.MATTE, palette.COLORS["ivory"]),
        (frame, Material.MATTE, _TRIM),
        (joined(glass), Material.GLASS, _PANE),
        *_wheels((-2.4, 2.6), 1.15, 0.46, 0.3),
        *_lights(3.7, -3.7, 1.1, 0.75, 0.8),
    ]
    return layers, f"a {name} lorry"


def _discs(xs: Sequence[float], radius: float, width: float) -> Primitive:
    """Wheels on the middle line, closed on both sides."""
    half = cylinder(radius, radius, width / 2, num_sides=14)
    turns = [rotation_x(angle) for angle in (math.pi / 2, -math.pi / 2)]
    return joined([turned(half, turn, (x, 0, radius)) for x in xs for turn in turns])


def _motorbike(stage: Stage, rng: np.random.Generator) -> tuple[list[Layer], str]:
    name = pick(rng, ("red", "black", "blue", "white"))
    tank = shifted(sphere((0.36, 0.15, 0.16), num_rings=5, num_sides=8), (0.15, 0, 0.82))
    seat = shifted(sphere((0.42, 0.14, 0.09), num_rings=4, num_sides=8), (-0.38, 0, 0.78))
    engine = boxes([(-0.25, -0.15, 0.28)], [(0.30, 0.15, 0.66)], sides=(0, 1, 2, 3, 4, BOTTOM))
    bars = joined(
        [
            tube([(0.66, 0, 0.32), (0.42, 0, 1.02)], 0.04, num_sides=5),
            tube([(0.38, -0.36, 1.04), (0.42, 0, 1.02), (0.38, 0.36, 1.04)], 0.022, num_sides=5),
        ]
    )
    light = shifted(sphere((0.08, 0.09, 0.09), num_rings=4, num_sides=6), (0.58, 0, 0.90))
    layers: list[Layer] = [
        (tank, Material.PAINT, palette.CARS[name]),
        (seat, Material.MATTE, _TRIM),
        (joined([engine, bars]), Material.METAL, _RIM),
        (light, Material.LAMP, _HEAD),
        (_discs((-0.68, 0.68), 0.31, 0.13), Material.MATTE, _TYRE),
        (shifted(_discs((-0.68, 0.68), 0.19, 0.15), (0, 0, 0.12)), Material.METAL, _RIM),
    ]
    return layers, f"a {name} motorbike"


def _bicycle(stage: Stage, rng: np.random.Generator) -> tuple[list[Layer], str]:
    name = pick(rng, ("red", "black", "blue", "white", "dark green"))
    r, hub = 0.317, [(-0.52, 0, 0.34), (0.53, 0, 0.34)]
    turn = np.linspace(0, 2 * np.pi, 17)
    tyres = [
        tube(
            np.stack([x + r * np.cos(turn), 0 * turn, z + r * np.sin(turn)], 1), 0.022, num_sides=4
        )
        for x, _, z in hub
    ]
    seat, head, crank = (-0.18, 0, 0.84), (0.36, 0, 0.86), (-0.05, 0, 0.30)
    lines = [
        (hub[0], seat),
        (hub[0], crank),
        (crank, seat),
        (crank, head),
        (seat, head),
        (head, hub[1]),
    ]
    frame = [tube([a, b], 0.022, num_sides=5) for a, b in lines]
    bars = tube([(0.26, -0.26, 1.02), (0.36, 0, 1.0), (0.26, 0.26, 1.02)], 0.018, num_sides=4)
    saddle = shifted(sphere((0.14, 0.08, 0.04), num_rings=3, num_sides=6), (-0.2, 0, 0.90))
    layers: list[Layer] = [
        (joined([*frame, bars]), Material.PAINT, palette.CARS[name]),
        (joined([*tyres, saddle]), Material.MATTE, _TYRE),
    ]
    return layers, f"a {name} bicycle"


def _auto_rickshaw(stage: Stage, rng: np.random.Generator) -> tuple[list[Layer], str]:
    name = pick(stage.random("rickshaw"), ("green", "yellow", "blue"))
    body = hull(
        [
            (-1.35, 0.60, 0.32, 0.95),
            (-1.2, 0.66, 0.26, 1.0),
            (0.35, 0.66, 0.24, 0.72),
            (1.0, 0.42, 0.28, 1.0),
            (1.32, 0.20, 0.40, 0.95),
        ]
    )
    hood = _frustum((-1.3, 0.95, 0.64), (-1.15, 0.60, 0.58), 1.30, 1.76)
    posts = [
        tube([(x, s * y, 0.9), (x - 0.1, s * y, 1.35)], 0.03, num_sides=4)
        for x, y in ((0.85, 0.45), (-1.2, 0.62))
        for s in (-1, 1)
    ]
    back = quad(
        [(-1.31, 0.62, 0.95), (-1.31, -0.62, 0.95), (-1.28, -0.62, 1.32), (-1.28, 0.62, 1.32)]
    )
    pane = quad([(1.02, -0.4, 0.98), (1.02, 0.4, 0.98), (0.88, 0.5, 1.36), (0.88, -0.5, 1.36)])
    layers: list[Layer] = [
        (joined([body, *posts]), Material.PAINT, palette.COLORS[name]),
        (
            joined([hood, back]),
            Material.MATTE,
            palette.COLORS["amber"] if name == "green" else _TRIM,
        ),
        (pane, Material.GLASS, _PANE),
        *_wheels((-0.85,), 0.66, 0.24, 0.12),
        (_discs((0.95,), 0.24, 0.11), Material.MATTE, _TYRE),
        (
            shifted(sphere((0.07, 0.1, 0.1), num_rings=4, num_sides=6), (1.33, 0, 0.78)),
            Material.LAMP,
            _HEAD,
        ),
    ]
    return layers, f"a {name} auto rickshaw"


# Of the driver, in the axes of the vehicle: hips, hands and feet; and whether a helmet is worn.
_SEATS = {
    "motorbike": ((-0.30, 0.86), (0.36, 1.04), (0.02, 0.34), True),
    "auto rickshaw": ((0.12, 0.72), (0.62, 0.98), (0.55, 0.35), False),
}


def _rider_layers(
    hips: tuple[float, float],
    hands: tuple[float, float],
    feet: tuple[float, float],
    helmet: bool,
    rng: np.random.Generator,
) -> list[Layer]:
    """Somebody who drives, leaning a little forward."""
    (hx, hz), (gx, gz), (fx, fz) = hips, hands, feet
    torso = [(hz - 0.08, 0.13, 0.17, hx, 0.0), (hz + 0.2, 0.11, 0.15, hx + 0.05, 0.0)]
    torso += [(hz + 0.45, 0.11, 0.19, hx + 0.13, 0.0), (hz + 0.56, 0.05, 0.06, hx + 0.16, 0.0)]
    arms, legs = [], []
    for s in (-1, 1):
        elbow = (0.5 * (hx + 0.13 + gx), s * 0.30, hz + 0.26)
        arms.append(tube([(hx + 0.13, s * 0.19, hz + 0.45), elbow, (gx, s * 0.26, gz)], 0.045))
        knee = (hx + 0.45, s * 0.20, hz - 0.02)
        legs.append(tube([(hx, s * 0.10, hz), knee, (fx, s * 0.19, fz)], 0.07))
    at = (hx + 0.18, 0.0, hz + 0.71)
    head = shifted(sphere((0.10, 0.08, 0.12), num_rings=5, num_sides=8), at)
    layers: list[Layer] = [
        (joined([loft(torso), *arms]), Material.MATTE, palette.COLORS[pick(rng, palette.CLOTHES)]),
        (joined(legs), Material.MATTE, pick(rng, palette.TROUSERS)),
        (head, Material.SKIN, pick(rng, palette.SKINS)),
    ]
    if helmet:
        shell = shifted(
            dome((0.14, 0.13, 0.16), from_deg=-5, num_sides=9), (at[0], 0, at[2] + 0.01)
        )
        layers.append((shell, Material.PAINT, palette.CARS[pick(rng, tuple(palette.CARS))]))
    return layers


_SHAPES = {
    "car": _car,
    "taxi": _taxi,
    "van": _van,
    "bus": _bus,
    "lorry": _lorry,
    "motorbike": _motorbike,
    "bicycle": _bicycle,
    "auto rickshaw": _auto_rickshaw,
}
KINDS: tuple[str, ...] = tuple(_SHAPES)
