"""The city street: a two-way road between rows of shops with signs in the local script.

Traffic keeps to the side that the place drives on; people walk on the pavements among trees.
The road runs along x; `y_bearing_deg` in the air turns the sun with the street. Style keys that are
understood, with their values (the seed decides what is left out):

    facade   brick, plaster, stone, glass, concrete (each a material of its own), or `mixed`
    era      old (3-5 storeys, cornices), modern (5-9), highrise (10-22)
    road     narrow, standard, wide
    awnings  few, many
    trees    palm, broadleaf, conifer, bare
    centre_line  double, solid or dashed, then yellow or white, e.g. `double yellow`; none without

Subjects that are understood: the kinds of `vehicles.KINDS`, `tree`, `bench`.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldloop.atlas.records import Sign
from worldloop.errors import ClipRejectedError
from worldloop.recipes import Recipe
from worldloop.scenes.scene import Scene
from worldloop.seeds import stream
from worldloop.worlds import kit, palette, vehicles
from worldloop.worlds.air import bearing_towards_sun, outdoor_air
from worldloop.worlds.crowd import Crowd
from worldloop.worlds.geometry import Material, SemanticClass, quad
from worldloop.worlds.palette import Color, pick, tinted
from worldloop.worlds.paths import Path
from worldloop.worlds.people import Troupe
from worldloop.worlds.player import CLEARANCE_M, Start, play
from worldloop.worlds.shapes import BACK, FRONT, LEFT, RIGHT, TOP, boxes, joined
from worldloop.worlds.stage import Sight, Stage
from worldloop.worlds.world import World

HALF_LENGTH_M = 105.0
WALK_M = 38.0
KERB_M = 0.15
PARKING_M = 2.15
SHOP_M = 4.0
TRUNKS_M = 0.85  # from the kerb to the row of trunks
POLE_BERTH_M = 1.3
PASSAGE_M = 2.4  # left to the player by the wall, to get around somebody who stands there
_WALLS = {
    "brick": Material.FACADE_BRICK,
    "plaster": Material.FACADE,
    "stone": Material.FACADE_STONE,
    "glass": Material.FACADE_GLASS,
    "concrete": Material.FACADE_CONCRETE,
}
_ROADS = {"narrow": (3.0, 3.4), "standard": (3.25, 4.6), "wide": (3.5, 6.0)}
_STOREYS = {"old": (2, 5), "modern": (4, 9), "highrise": (8, 20)}
_ASPHALT, _KERB = palette.linear("#565759"), palette.linear("#a9a69f")
_GREEN = (0.05, 1.0, 0.45)
_LENSES = ((3.42, (0.10, 0.01, 0.01)), (3.14, (0.10, 0.07, 0.01)), (2.86, _GREEN))
_ON_POSTS = ("bus_stop", "metro", "no_entry")  # words that no shop has over its door
_DRESSED = palette.linear("#c3b69e")  # cornices and corners of brick houses are cut from stone
_PAINT_LINE = palette.linear("#d9d8d2")
_PAINT = {"white": _PAINT_LINE, "yellow": palette.linear("#d9a21f")}
_DASH_M, _DASHES_M = 3.0, 9.0  # length of a dash, and from one to the next
SUBJECTS = (*vehicles.KINDS, "tree", "bench")


@dataclass(frozen=True)
class _Layout:
    """Widths of the street in metres; `side` is the pavement of the player, +1 is north (+y)."""

    lane: float
    pavement: float
    side: int
    keeps_left: bool
    crossing_x: float

    @property
    def kerb(self) -> float:
        """Distance of the kerb from the centre line."""
        return self.lane + PARKING_M

    @property
    def wall(self) -> float:
        """Distance of the house fronts from the centre line."""
        return self.kerb + self.pavement

    @property
    def player_edge(self) -> float:
        """Where the player's ground begins; where there is room the eyes pass trunks at 1.3 m."""
        clear = TRUNKS_M + POLE_BERTH_M - CLEARANCE_M
        return self.kerb + max(0.35, min(clear, self.pavement - PASSAGE_M))

    def heading(self, side: int) -> float:
        """Heading of traffic on one side of the centre line."""
        eastward = side == (1 if self.keeps_left else -1)
        return 0.0 if eastward else math.pi


def build(recipe: Recipe) -> World:
    """The world of a street scene."""
    scene, shape = recipe.scene, recipe.shape
    layout = _lay_out(scene)
    inner, outer = sorted((layout.side * layout.player_edge, layout.side * layout.wall))
    stage = Stage(scene, low=(-WALK_M, inner), high=(WALK_M, outer))
    _check_subjects(scene)
    _add_ground(stage, layout)
    _add_houses(stage, layout)
    _add_furniture(stage, layout)
    parked, driving = _split_traffic(scene)
    _park(stage, layout, parked)
    troupe = Troupe(stage)
    _place_standing(troupe, layout)
    track = play(stage, shape, _starts(stage, layout), ground_m=KERB_M)
    _drive(stage, layout, driving, track.camera_to_world[:, 0, 3])
    _walk(troupe, Crowd(troupe, track, shape, ground_m=KERB_M), layout)
    bearing = bearing_towards_sun(scene, stage.random("bearing"))
    return stage.finish(air=outdoor_air(scene, y_bearing_deg=bearing), track=track)


def _lay_out(scene: Scene) -> _Layout:
    rng = stream(scene.seed, "street", "layout")
    road = scene.style.get("road") or pick(rng, ("narrow", "standard", "standard", "wide"))
    lane, pavement = _ROADS.get(road, _ROADS["standard"])
    return _Layout(
        lane=lane,
        pavement=pavement,
        side=1 if rng.random() < 0.5 else -1,
        keeps_left=scene.driving_side == "left",
        crossing_x=float(rng.uniform(-14, 14)),
    )


def _check_subjects(scene: Scene) -> None:
    for subject in scene.subjects:
        if subject.kind not in SUBJECTS:
            raise ClipRejectedError(
                "build",
                f"The street cannot show {subject.kind!r}; it knows {', '.join(SUBJECTS)}. "
                "Draw the scene again with one of these.",
            )


def _count(scene: Scene, kind: str) -> int:
    return sum(subject.count for subject in scene.subjects if subject.kind == kind)


# ---------------------------------------------------------------------------------------------
# ground


def _add_ground(stage: Stage, layout: _Layout) -> None:
    far = HALF_LENGTH_M + 14
    kit.ground(
        stage,
        (-far, -layout.kerb),
        (far, layout.kerb),
        material=Material.ASPHALT,
        color=_ASPHALT,
        semantic=SemanticClass.ROAD,
        phrase="a two-way road",
    )
    for x in (-far, far):  # the streets across, at both ends
        low, high = sorted((x, math.copysign(HALF_LENGTH_M, x)))
        kit.ground(
            stage,
            (low, -60),
            (high, 60),
            material=Material.ASPHALT,
            color=_ASPHALT,
            semantic=SemanticClass.ROAD,
            phrase="a road across",
            height_m=-0.01,
        )
    shade = tinted(palette.linear("#a8a49c"), stage.random("paving"), 0.15)
    for side in (-1, 1):
        a, b = side * (layout.kerb + 0.3), side * (layout.wall + 0.5)
        kit.ground(
            stage,
            (-HALF_LENGTH_M, min(a, b)),
            (HALF_LENGTH_M, max(a, b)),
            material=Material.PAVING,
            color=shade,
            semantic=SemanticClass.SIDEWALK,
            phrase="a pavement",
            height_m=KERB_M,
        )
        kerb = stage.instance(SemanticClass.SIDEWALK, "a kerb")
        low, high = sorted((side * layout.kerb, side * (layout.kerb + 0.3)))
        stage.put(
            boxes(
                [(-HALF_LENGTH_M, low, 0.0)],
                [(HALF_LENGTH_M, high, KERB_M)],
                sides=(TOP, LEFT, RIGHT, FRONT if side > 0 else BACK),
            ),
            material=Material.MATTE,
            color=_KERB,
            instance=kerb,
        )
    _add_markings(stage, layout)


def _add_markings(stage: Stage, layout: _Layout) -> None:
    """Zebra crossing, stop lines and the lines of the parking bays."""
    lines = stage.instance(SemanticClass.ROAD, "road markings")
    x0 = layout.crossing_x
    bars = np.arange(-layout.kerb + 0.35, layout.kerb - 0.4, 1.0)
    strips = [(x0 - 1.6, y, x0 + 1.6, y + 0.5) for y in bars]
    for side in (-1, 1):
        ahead = math.cos(layout.heading(side))
        stop = x0 - ahead * 2.9
        near, far = sorted((side * 0.2, side * layout.lane))
        strips.append((stop - 0.15, near, stop + 0.15, far))
        edge = side * (layout.lane + 0.05)
        strips += [
            (x, edge - 0.05, x + 3.0, edge + 0.05)
            for x in np.arange(-90, 88, 6.0)
            if abs(x + 1.5 - x0) > 4
        ]
    low = [(a, b, 0.0) for a, b, _, _ in strips]
    high = [(c, d, 0.012) for _, _, c, d in strips]
    stage.put(
        boxes(low, high, sides=(TOP,)), material=Material.MATTE, color=_PAINT_LINE, instance=lines
    )
    _add_centre_line(stage, layout, lines)


def _add_centre_line(stage: Stage, layout: _Layout, lines: int) -> None:
    """The line along the middle of the road, where the style has one; it stops at the crossing."""
    form, _, shade = stage.scene.style.get("centre_line", "").partition(" ")
    if shade not in _PAINT:
        return
    clear = layout.crossing_x - 3.4, layout.crossing_x + 3.4
    spans = [(-HALF_LENGTH_M, clear[0]), (clear[1], HALF_LENGTH_M)]
    if form == "dashed":
        starts = np.arange(-HALF_LENGTH_M, HALF_LENGTH_M - _DASH_M, _DASHES_M)
        spans = [(x, x + _DASH_M) for x in starts if x + _DASH_M < clear[0] or x > clear[1]]
    middles = (-0.12, 0.12) if form == "double" else (0.0,)
    low = [(x0, y - 0.06, 0.0) for y in middles for x0, _ in spans]
    high = [(x1, y + 0.06, 0.012) for y in middles for _, x1 in spans]
    stage.put(
        boxes(low, high, sides=(TOP,)), material=Material.MATTE, color=_PAINT[shade], instance=lines
    )


# ---------------------------------------------------------------------------------------------
# houses


@dataclass(frozen=True)
class _House:
    """One lot of a row: from x0 to x1 along the street, `height_m` high."""

    x0: float
    x1: float
    height_m: float
    color: Color
    kind: str
    instance: int


def _add_houses(stage: Stage, layout: _Layout) -> None:
    rng = stage.random("houses")
    signs = [sign for sign in stage.scene.signs if sign.text and sign.word not in _ON_POSTS]
    rows = {side: _lots(stage, rng) for side in (layout.side, -layout.side)}
    shops = [(side, shop) for side, row in rows.items() for house in row for shop in _shops(house)]
    for side, row in rows.items():
        _add_row(stage, layout, side, row, rng)
        low, high = sorted((side * layout.wall, side * (layout.wall + 14)))
        stage.plan.block_box((-HALF_LENGTH_M, low), (HALF_LENGTH_M, high), height_m=12)
    _add_shops(stage, layout, shops, signs, rng)
    _close_ends(stage, rng)


def _lots(stage: Stage, rng: np.random.Generator) -> list[_House]:
    style = stage.scene.style
    era = style.get("era") or pick(
        stage.random("era"), ("old", "old", "modern", "modern", "highrise")
    )
    low, high = _STOREYS.get(era, _STOREYS["modern"])
    row, x = [], -HALF_LENGTH_M
    while x < HALF_LENGTH_M - 0.1:
        width = float(rng.uniform(8, 17))
        x1 = HALF_LENGTH_M if HALF_LENGTH_M - x - width < 8 else x + width
        kind = style.get("facade", "mixed")
        if kind not in palette.FACADES:
            kind = pick(rng, ("brick", "plaster", "stone", "concrete", "plaster"))
        storeys = int(rng.integers(low, high + 1))
        color = tinted(pick(rng, palette.FACADES[kind]), rng, 0.10)
        name = f"a {kind} building with {storeys + 1} storeys"
        instance = stage.instance(SemanticClass.BUILDING, name)
        row.append(_House(x, x1, SHOP_M + 3.35 * storeys + 0.5, color, kind, instance))
        x = x1
    return row


def _add_row(
    stage: Stage, layout: _Layout, side: int, row: list[_House], rng: np.random.Generator
) -> None:
    for k, house in enumerate(row):
        y = side * layout.wall
        _front(stage, house, y, side)
        _roof(stage, house, y, side, rng)
        _trim(stage, house, y, side, rng)
        for other, x in (
            (row[k - 1] if k else None, house.x0),
            (row[k + 1] if k + 1 < len(row) else None, house.x1),
        ):
            _party_wall(stage, house, other, x, y, side)


def _front(stage: Stage, house: _House, y: float, side: int) -> None:
    x0, x1 = (house.x0, house.x1) if side > 0 else (house.x1, house.x0)
    wall = quad(
        [(x0, y, 0), (x1, y, 0), (x1, y, house.height_m), (x0, y, house.height_m)], unit_uv=False
    )
    stage.put(wall, material=_WALLS[house.kind], color=house.color, instance=house.instance)


def _party_wall(
    stage: Stage, house: _House, other: _House | None, x: float, y: float, side: int
) -> None:
    """The part of a side wall that stands above the neighbour, blank."""
    z0 = 0.0 if other is None else other.height_m
    if z0 >= house.height_m - 0.05:
        return
    outwards = 1.0 if x == house.x1 else -1.0
    near, far = y, y + side * 13
    if side * outwards < 0:
        near, far = far, near
    wall = quad(
        [(x, near, z0), (x, far, z0), (x, far, house.height_m), (x, near, house.height_m)],
        unit_uv=False,
    )
    stage.put(
        wall,
        material=Material.BRICK if house.kind == "brick" else Material.MATTE,
        color=tuple(0.85 * c for c in house.color),
        instance=house.instance,
    )


def _roof(stage: Stage, house: _House, y: float, side: int, rng: np.random.Generator) -> None:
    low, high = sorted((y, y + side * 13))
    z = house.height_m
    flat = boxes([(house.x0, low, z - 0.1)], [(house.x1, high, z)], sides=(TOP,))
    stage.put(
        flat, material=Material.ROOF, color=palette.linear("#6f6a64"), instance=house.instance
    )
    things_low, things_high = [], []
    for _ in range(int(rng.integers(1, 4))):
        x, depth = float(rng.uniform(house.x0 + 1.5, house.x1 - 1.5)), float(rng.uniform(1.5, 7))
        tall = float(rng.uniform(0.8, 2.4))
        at = y + side * depth
        things_low.append((x - 0.9, at - 0.7, z))
        things_high.append((x + 0.9, at + 0.7, z + tall))
    stage.put(
        boxes(things_low, things_high),
        material=Material.METAL,
        color=palette.COLORS["gray"],
        instance=house.instance,
    )


def _trim(stage: Stage, house: _House, y: float, side: int, rng: np.random.Generator) -> None:
    """Cornice, string course and corner strips that stand out from the wall."""

    def strip(
        x0: float, x1: float, z0: float, z1: float, out: float
    ) -> tuple[list[float], list[float]]:
        low, high = sorted((y, y - side * out))
        return [x0, low, z0], [x1, high, z1]

    h = house.height_m
    strips = [strip(house.x0, house.x1, SHOP_M - 0.12, SHOP_M + 0.14, 0.16)]
    if house.kind != "glass":
        strips.append(strip(house.x0, house.x1, h - 0.45, h + 0.25, 0.34))
        strips += [strip(x, x + 0.35, SHOP_M, h - 0.45, 0.10) for x in (house.x0, house.x1 - 0.35)]
    if house.kind in ("brick", "stone") and rng.random() < 0.6:
        strips.append(strip(house.x0, house.x1, SHOP_M + 3.3, SHOP_M + 3.5, 0.10))
    lows, highs = zip(*strips, strict=True)
    facing_road = FRONT if side > 0 else BACK
    stage.put(
        boxes(lows, highs, sides=(facing_road, LEFT, RIGHT, TOP, 5)),
        material=Material.MATTE,
        color=_DRESSED if house.kind == "brick" else tuple(min(0.9, 1.14 * c) for c in house.color),
        instance=house.instance,
    )


def _shops(house: _House) -> list[tuple[float, float]]:
    """Fronts of the shops of a house, (x0, x1)."""
    count = max(1, round((house.x1 - house.x0) / 6.5))
    edges = np.linspace(house.x0 + 0.4, house.x1 - 0.4, count + 1)
    return [(float(a) + 0.15, float(b) - 0.15) for a, b in itertools.pairwise(edges)]


def _add_shops(
    stage: Stage,
    layout: _Layout,
    shops: list[tuple[int, tuple[float, float]]],
    signs: list[Sign],
    rng: np.random.Generator,
) -> None:
    """Signs over the shops nearest to the player first, each text several times; awnings."""
    many = stage.scene.style.get("awnings", "many") == "many"
    order = sorted(range(len(shops)), key=lambda k: abs(sum(shops[k][1]) / 2))
    for rank, k in enumerate(order):
        side, (x0, x1) = shops[k]
        y, middle, width = side * layout.wall, (x0 + x1) / 2, x1 - x0
        towards = -math.pi / 2 if side > 0 else math.pi / 2
        if signs and (rank < 2 * len(signs) or rng.random() < 0.55):
            sign = signs[rank % len(signs)] if rank < 2 * len(signs) else pick(rng, signs)
            wide = min(width - 0.3, 3.4)
            kit.add_sign(
                stage, sign, at=(middle, y - side * 0.1, 3.42), facing_rad=towards, width_m=wide
            )
            if abs(middle) < 30 and side != layout.side:
                stage.sights.append(Sight((middle, y, 3.0), 0.35))
            if rng.random() < 0.5:
                blade_x = x0 + 0.3 if rng.random() < 0.5 else x1 - 0.3
                kit.add_sign(
                    stage,
                    sign,
                    at=(blade_x, y - side * 0.85, 4.75),
                    facing_rad=0.0,
                    width_m=1.5,
                    two_sided=True,
                )
        if abs(middle) < 70 and rng.random() < (0.6 if many else 0.25):
            _awning(
                stage, (x0, x1), y, side, pick(rng, palette.AWNINGS), striped=rng.random() < 0.55
            )


def _awning(
    stage: Stage, span: tuple[float, float], y: float, side: int, color: Color, *, striped: bool
) -> None:
    awning = stage.instance(SemanticClass.PROP, "a striped awning" if striped else "an awning")
    (x0, x1), out, z1, z0 = span, 1.15, 3.0, 2.55
    if side < 0:
        x0, x1 = x1, x0
    edge, front = y - side * 0.05, y - side * out
    top = [(x0, front, z0), (x1, front, z0), (x1, edge, z1), (x0, edge, z1)]
    flap = [(x0, front, z0 - 0.22), (x1, front, z0 - 0.22), (x1, front, z0), (x0, front, z0)]
    under = [(x1, front, z0), (x0, front, z0), (x0, edge, z1), (x1, edge, z1)]
    cloth = joined(
        [quad(top, unit_uv=False), quad(flap, unit_uv=False), quad(under, unit_uv=False)]
    )
    material = Material.STRIPE if striped else Material.MATTE
    stage.put(cloth, material=material, color=color, instance=awning)


def _close_ends(stage: Stage, rng: np.random.Generator) -> None:
    """Houses across the far ends, so that the street never ends in nothing."""
    for end in (-1, 1):
        x = end * (HALF_LENGTH_M + 14)
        for y0 in np.arange(-48.0, 48.0, 16.0):
            kind = pick(rng, ("brick", "plaster", "stone", "concrete"))
            height = SHOP_M + 3.35 * int(rng.integers(3, 9))
            house = stage.instance(SemanticClass.BUILDING, f"a {kind} building")
            a, b = (y0 + 16, y0) if end < 0 else (y0, y0 + 16)
            wall = quad([(x, b, 0), (x, a, 0), (x, a, height), (x, b, height)], unit_uv=False)
            stage.put(
                wall,
                material=_WALLS[kind],
                color=pick(rng, palette.FACADES[kind]),
                instance=house,
            )
            low, high = sorted((x, x + end * 12))
            roof = boxes([(low, y0, height - 0.1)], [(high, y0 + 16, height)], sides=(TOP,))
            stage.put(roof, material=Material.ROOF, color=palette.linear("#6f6a64"), instance=house)


# ---------------------------------------------------------------------------------------------
# furniture


def _add_furniture(stage: Stage, layout: _Layout) -> None:
    rng = stage.random("furniture")
    clear = layout.crossing_x
    trees = _count(stage.scene, "tree")
    slots = _kerb_slots(layout, trees, 8.5, stage.random("tree slots"), clear)
    for x, side in slots:
        kit.add_tree(
            stage,
            (x, side * (layout.kerb + TRUNKS_M), KERB_M),
            stage.random("tree", round(x * 10), side),
        )
        stage.plan.mark_pole((x, side * (layout.kerb + TRUNKS_M)))
    taken = [x for x, side in slots if side == layout.side]
    for side in (-1, 1):
        trunks = [x for x, of in slots if of == side]
        for x in np.arange(-90.0, 91.0, 18.0):
            at = _between(trunks, float(x) + (9.0 if side < 0 else 0.0))
            towards = -math.pi / 2 if side > 0 else math.pi / 2
            kit.add_lamp_post(stage, (at, side * (layout.kerb + 0.5), KERB_M), arm_rad=towards)
            stage.plan.mark_pole((at, side * (layout.kerb + 0.5)))
    for x in np.arange(-34.0, 35.0, 11.5):
        at = float(x + rng.uniform(-2, 2))
        if all(abs(at - t) > 1.6 for t in taken) and abs(at - clear) > 3:
            kit.add_bin(stage, (at, layout.side * (layout.kerb + 0.6), KERB_M), rng)
    for k in range(_count(stage.scene, "bench")):
        x = (-1) ** k * (6.0 + 9.0 * (k // 2))
        kit.add_bench(
            stage, (x, layout.side * (layout.wall - 0.5), KERB_M), -layout.side * math.pi / 2
        )
    _add_signals(stage, layout)
    for side in (-1, 1):
        for x in (clear - 3.1, clear - 1.9, clear + 1.9, clear + 3.1):
            kit.add_bollard(stage, (x, side * (layout.kerb + 0.22), KERB_M))
    _add_sign_posts(stage, layout, [*taken, clear])


def _between(trunks: list[float], x: float) -> float:
    """The place nearest to x along a kerb at which no crown reaches a lantern."""
    places = sorted(x + np.arange(-4.5, 4.6, 0.25), key=lambda place: abs(place - x))
    gaps = [min((abs(place - trunk) for trunk in trunks), default=math.inf) for place in places]
    clear = [place for place, gap in zip(places, gaps, strict=True) if gap > kit.CROWN_REACH_M]
    return float(clear[0] if clear else places[int(np.argmax(gaps))])


def _add_sign_posts(stage: Stage, layout: _Layout, taken: list[float]) -> None:
    """Boards at the kerb for what is not a shop, where there is room between the trees."""
    signs = [sign for sign in stage.scene.signs if sign.text and sign.word in _ON_POSTS]
    y = layout.side * (layout.kerb + 1.0)
    spots = sorted(np.arange(-20.0, 21.0, 1.5), key=abs)
    for sign in signs:
        x = max(spots, key=lambda spot: min(2.5, *(abs(spot - other) for other in taken)))
        taken.append(x)
        kit.add_sign_post(
            stage, sign, at=(x, y, KERB_M), facing_rad=0.0, width_m=1.3, height_m=2.75
        )
        stage.plan.mark_pole((x, y))


def _kerb_slots(
    layout: _Layout, count: int, gap: float, rng: np.random.Generator, clear: float
) -> list[tuple[float, int]]:
    """Places along both kerbs, from the middle outwards, not at the crossing."""
    slots = [
        (float(gap * k + (0.4 * gap if side < 0 else 0.0) + rng.uniform(-0.8, 0.8)), side)
        for k in range(-10, 11)
        for side in (layout.side, -layout.side)
    ]
    free = [slot for slot in slots if abs(slot[0] - clear) > 3.4]
    free.sort(key=lambda slot: abs(slot[0]) + (0.0 if slot[1] == layout.side else 3.0))
    if count > len(free):
        raise ClipRejectedError(
            "build", f"{count} trees do not fit along the street; at most {len(free)} do."
        )
    return free[:count]


def _add_signals(stage: Stage, layout: _Layout) -> None:
    """Traffic lights at the crossing, green for cars, where their driver looks."""
    for side in (-1, 1):
        ahead = math.cos(layout.heading(side))
        x, y = layout.crossing_x + ahead * 2.2, side * (layout.kerb + 0.45)
        light = stage.instance(SemanticClass.POLE, "a traffic light")
        pole = boxes([(x - 0.05, y - 0.05, KERB_M)], [(x + 0.05, y + 0.05, 3.6)])
        stage.put(pole, material=Material.METAL, color=kit.IRON, instance=light)
        case = boxes(
            [(x - 0.12, y - 0.15, 2.7)], [(x + 0.12, y + 0.15, 3.6)], sides=(0, 1, 2, 3, 4, 5)
        )
        stage.put(case, material=Material.METAL, color=kit.IRON, instance=light)
        low, high = sorted((x - ahead * 0.12, x - ahead * 0.16))
        for z, color in _LENSES:
            lens = boxes([(low, y - 0.09, z - 0.09)], [(high, y + 0.09, z + 0.09)])
            material = Material.LAMP if color == _GREEN else Material.METAL
            stage.put(lens, material=material, color=color, instance=light)
        stage.plan.block_disc((x, y), 0.12, height_m=1.5)
        stage.plan.mark_pole((x, y))


# ---------------------------------------------------------------------------------------------
# traffic and people


def _split_traffic(scene: Scene) -> tuple[list[str], list[str]]:
    """Kinds that stand parked and kinds that drive; buses and lorries always drive."""
    rng = stream(scene.seed, "street", "traffic")
    parked: list[str] = []
    driving: list[str] = []
    for kind in vehicles.KINDS:
        for k in range(_count(scene, kind)):
            stands = kind == "bicycle" or (
                kind not in ("bus", "lorry", "taxi") and (k + rng.random()) % 2 < 1
            )
            (parked if stands else driving).append(kind)
    return parked, driving


def _park(stage: Stage, layout: _Layout, kinds: list[str]) -> None:
    rng = stage.random("parked")
    y = layout.kerb - 1.05
    gap = 5.9
    slots = [
        (gap * k + (2.2 if side < 0 else 0.0), side)
        for k in range(-14, 15)
        for side in (layout.side, -layout.side)
    ]
    free = [s for s in slots if abs(s[0] - layout.crossing_x) > 6.2 and abs(s[0]) < 84]
    luck = rng.uniform(0, 14, len(free))
    order = sorted(range(len(free)), key=lambda k: abs(free[k][0]) + luck[k])
    if len(kinds) > len(free):
        raise ClipRejectedError(
            "build", f"{len(kinds)} parked vehicles do not fit; at most {len(free)} do."
        )
    for kind, k in zip(kinds, order, strict=False):
        x, side = free[k]
        at = (x, side * (layout.kerb + 0.45), KERB_M) if kind == "bicycle" else (x, side * y, 0.0)
        vehicles.add_vehicle(stage, kind, rng, at=at, yaw_rad=layout.heading(side))


def _drive(stage: Stage, layout: _Layout, kinds: list[str], eyes_x: NDArray[np.float64]) -> None:
    """Moving vehicles in both lanes with equal gaps, some of them near the camera."""
    rng = stage.random("driving")
    order = [kinds[int(k)] for k in rng.permutation(len(kinds))]
    large = [kind for kind in order if kind in ("bus", "lorry")]  # beyond the middle: seen whole
    small = [kind for kind in order if kind not in large]
    by_side = {layout.side: small[::2], -layout.side: large + small[1::2]}
    middle = float(eyes_x.mean())
    for side, lane in by_side.items():
        if not lane:
            continue
        speed = float(rng.uniform(5.5, 8.5))
        gap = max(15.0, float(rng.uniform(16, 24)))
        ahead = math.cos(layout.heading(side))
        y, corner, far = side * layout.lane / 2, ahead * (HALF_LENGTH_M + 7), side * 250.0
        points = ((-corner, far), (-corner, y), (corner, y), (corner, far))
        to_middle = abs(far - y) + abs(corner) + ahead * middle
        first = to_middle - gap * (len(lane) - 1) / 2 + float(rng.uniform(-8, 8)) - 6.0
        paths = [Path(points, speed, first + gap * k, corner_m=2.0) for k in range(len(lane))]
        vehicles.drive_along(stage, lane, paths, rng)


def _place_standing(troupe: Troupe, layout: _Layout) -> None:
    """People who stay where they are: officers at the crossing, others along the pavement."""
    stage = troupe.stage
    for role in stage.scene.roles:
        if role.action == "walking":
            continue
        rng = stage.random("standing", role.name)
        for _k in range(role.count):
            x, y, heading = _standing_spot(stage, layout, rng)
            troupe.place(role, at=(x, y, KERB_M), heading_rad=heading, rng=rng)
            stage.sights.append(Sight((x, y, 1.5), 0.3))


def _standing_spot(
    stage: Stage, layout: _Layout, rng: np.random.Generator
) -> tuple[float, float, float]:
    """A free place by the kerb or the wall."""
    for _ in range(60):
        x = float(rng.uniform(-26, 26))
        by_wall = rng.random() < 0.5
        y = layout.side * (layout.wall - 0.45 if by_wall else layout.kerb + 0.75)
        if stage.plan.distance([(x, y)], bounded=False)[0] > 0.35:
            heading = (-layout.side if by_wall else layout.side) * math.pi / 2
            return x, y, heading + float(rng.uniform(-0.7, 0.7))
    raise ClipRejectedError("build", "No free place on the pavement for somebody who stands.")


def _walk(troupe: Troupe, crowd: Crowd, layout: _Layout) -> None:
    routes = []
    for side in (layout.side, -layout.side):
        for share in (0.38, 0.52, 0.66, 0.80):
            y = side * (layout.kerb + 0.3 + share * (layout.pavement - 0.3))
            routes.append(((-60.0, y), (60.0, y)))
    for role in troupe.stage.scene.roles:
        if role.action == "walking":
            crowd.walk(role, routes, rng=troupe.stage.random("walking", role.name), spread_m=0.25)


def _starts(stage: Stage, layout: _Layout) -> list[Start]:
    rng = stage.random("starts")
    starts = []
    for x in np.arange(-22.0, 22.1, 2.0):
        for share in (0.30, 0.45, 0.60):
            first = layout.player_edge + CLEARANCE_M
            y = layout.side * (first + share * (layout.wall - CLEARANCE_M - first))
            inwards = -layout.side * float(rng.uniform(0.02, 0.22))
            starts.append(Start(float(x), y, inwards))
            starts.append(Start(float(x), y, math.pi - inwards))
    return starts
