"""A museum: an enfilade of galleries with framed pictures, plinths, benches, ropes and guards.

Style keys:
    wall: `red`, `green`, `grey`, `blue` or `white`; the seed decides without it.
    floor: `parquet` or `stone`.
    ceiling: `skylight` or `spots`.

Subjects: `painting`, `sculpture`, `bust`, `vase`, `display case`.
The galleries lie along x; one enters the first at its low end and sees through all doorways.
"""

import itertools
from dataclasses import dataclass

import numpy as np

from worldloop.errors import ClipRejectedError, UnknownKeyError
from worldloop.recipes import Recipe
from worldloop.scenes.scene import Role, Scene
from worldloop.seeds import stream
from worldloop.worlds.air import indoor_air
from worldloop.worlds.crowd import Crowd
from worldloop.worlds.geometry import Material, SemanticClass, sphere
from worldloop.worlds.interior import (
    EAST,
    EXIT_BOARD,
    NORTH,
    SOUTH,
    WEST,
    Opening,
    block,
    frame,
    hang_sign,
    level,
    put_sign,
    upright,
    wall,
)
from worldloop.worlds.palette import Color, linear, pick
from worldloop.worlds.people import Troupe
from worldloop.worlds.player import Start, play
from worldloop.worlds.shapes import Primitive, boxes, joined, loft, shifted, tube
from worldloop.worlds.stage import Sight, Stage
from worldloop.worlds.world import Room, World

WALLS: dict[str, Color] = {
    "red": linear("#8e2f2b"),
    "green": linear("#47664f"),
    "grey": linear("#8d9196"),
    "blue": linear("#3f5b7d"),
    "white": linear("#e6e3dc"),
}
FLOORS = ("parquet", "stone")
CEILINGS = ("skylight", "spots")
HANGING, STANDING = ("painting",), ("sculpture", "bust", "vase", "display case")

DOOR_HALF_M, DOOR_HIGH_M = 1.25, 3.0
WALL_M = 0.4
DADO_M = 0.85
_TRIM: Color = linear("#ece7db")
_GOLD: Color = linear("#b98d3a")
_FRAMES = (
    ("gold", _GOLD),
    ("gold", linear("#a5803c")),
    ("dark wooden", linear("#3a2416")),
    ("black", linear("#191817")),
    ("wooden", linear("#7c5430")),
)
_SPACING_M = 2.75


@dataclass(frozen=True)
class Gallery:
    """One room: from x0 to x1 between two cross walls; `last` has no doorway at its far end."""

    x0: float
    x1: float
    first: bool
    last: bool


@dataclass(frozen=True)
class Place:
    """Where a picture may hang: foot of the wall, direction of its viewer, room to each side."""

    x: float
    y: float
    facing: float
    width_m: float


@dataclass(frozen=True)
class Layout:
    """The measures of a museum."""

    galleries: tuple[Gallery, ...]
    half_m: float
    high_m: float
    wall: Color
    floor: str
    ceiling: str


def build(recipe: Recipe) -> World:
    """The world of a museum scene.

    Raises:
        UnknownKeyError: If a subject or a style is none that a museum has.
        ClipRejectedError: If the scene asks for more than the galleries hold.
    """
    scene = recipe.scene
    layout = _lay_out(scene)
    low, high = layout.galleries[0].x0, layout.galleries[-1].x1
    stage = Stage(scene, low=(low, -layout.half_m), high=(high, layout.half_m))
    _put_shell(stage, layout)
    for gallery in layout.galleries:
        _put_gallery(stage, layout, gallery)
    _hang_signs(stage, layout)
    places = _hang_pictures(stage, layout)
    _put_exhibits(stage, layout)
    troupe = Troupe(stage, indoors=True)
    walkers = _place_people(stage, troupe, layout, places)
    track = play(stage, recipe.shape, _starts(layout))
    crowd = Crowd(troupe, track, recipe.shape)
    for role in walkers:
        crowd.walk(
            role,
            _routes(layout),
            rng=stage.random("walk", role.name),
            spread_m=0.7,
            speed_mps=(0.5, 0.95),
        )
    warm = 0.86 if scene.is_night else 1.0
    ambient = (0.56 * warm, 0.54 * warm, 0.51 * warm)
    room = Room((low, -layout.half_m, 0.0), (high, layout.half_m, layout.high_m), ambient)
    return stage.finish(air=indoor_air(scene), track=track, room=room)


def _lay_out(scene: Scene) -> Layout:
    known = (*HANGING, *STANDING)
    for subject in scene.subjects:
        if subject.kind not in known:
            raise UnknownKeyError("museum subject", subject.kind, known)
    rng = stream(scene.seed, "museum", "layout")
    length = float(rng.uniform(11.0, 13.5))
    half = float(rng.uniform(4.2, 5.2))
    num_pictures = sum(s.count for s in scene.subjects if s.kind in HANGING)
    num_rooms = max(3, -(-num_pictures // 13))
    galleries = tuple(
        Gallery(k * (length + WALL_M), k * (length + WALL_M) + length, k == 0, k == num_rooms - 1)
        for k in range(num_rooms)
    )
    return Layout(
        galleries,
        half,
        float(rng.uniform(4.4, 5.2)),
        WALLS[_style(scene, "wall", tuple(WALLS), rng)],
        _style(scene, "floor", FLOORS, rng),
        _style(scene, "ceiling", CEILINGS, rng),
    )


def _style(scene: Scene, key: str, known: tuple[str, ...], rng: np.random.Generator) -> str:
    drawn = pick(rng, known)
    chosen = scene.style.get(key, drawn)
    if chosen not in known:
        raise UnknownKeyError(f"museum {key}", chosen, known)
    return chosen


# ------------------------------------------------------------------------------------ the building


def _put_shell(stage: Stage, layout: Layout) -> None:
    low, high = layout.galleries[0].x0, layout.galleries[-1].x1
    half, top = layout.half_m, layout.high_m
    stone = layout.floor == "stone"
    floor = stage.instance(
        SemanticClass.FLOOR, "a polished stone floor" if stone else "a parquet floor"
    )
    stage.put(
        level((low, -half), (high, half), 0.0),
        material=Material.TILE if stone else Material.PARQUET,
        color=linear("#b9b1a2") if stone else linear("#a06c3c"),
        instance=floor,
    )
    ceiling = stage.instance(SemanticClass.CEILING, "a white ceiling")
    stage.put(
        level((low, -half), (high, half), top, down=True),
        material=Material.MATTE,
        color=_TRIM,
        instance=ceiling,
    )
    ends = stage.instance(SemanticClass.WALL, "the walls of the gallery")
    for x, facing in ((low, WEST), (high, EAST)):
        origin = (x, half if facing == EAST else -half, 0.0)
        stage.put(
            wall(2 * half, DADO_M, top),
            material=Material.MATTE,
            color=layout.wall,
            instance=ends,
            at=origin,
            yaw_rad=facing,
        )
        _put_trim(stage, ends, origin, facing, 2 * half, top)


def _put_gallery(stage: Stage, layout: Layout, gallery: Gallery) -> None:
    half, top, length = layout.half_m, layout.high_m, gallery.x1 - gallery.x0
    walls = stage.instance(SemanticClass.WALL, "the walls of a gallery")
    for facing, origin in ((NORTH, (gallery.x0, half, 0.0)), (SOUTH, (gallery.x1, -half, 0.0))):
        stage.put(
            wall(length, DADO_M, top),
            material=Material.MATTE,
            color=layout.wall,
            instance=walls,
            at=origin,
            yaw_rad=facing,
        )
        _put_trim(stage, walls, origin, facing, length, top)
    if not gallery.last:
        _put_doorway(stage, layout, gallery, walls)
    _put_ceiling_light(stage, layout, gallery)


def _put_trim(
    stage: Stage,
    instance: int,
    origin: tuple[float, float, float],
    facing: float,
    length: float,
    top: float,
    openings: tuple[tuple[float, float], ...] = (),
) -> None:
    """Wainscot below, cornice above; `openings` are spans of the wall without wainscot."""
    edges = [0.0, *(x for span in openings for x in span), length]
    dado = tuple(0.82 * c for c in _TRIM)
    for x0, x1 in zip(edges[::2], edges[1::2], strict=True):
        panels = max(1, round((x1 - x0) / 1.3))
        at = np.linspace(x0, x1, panels + 1)
        body = boxes([(x0, -0.03, 0.0)], [(x1, 0.0, DADO_M)])
        raised = boxes(
            [(a + 0.14, -0.05, 0.22) for a in at[:-1]],
            [(b - 0.14, -0.03, DADO_M - 0.14) for b in at[1:]],
        )
        rails = boxes(
            [(x0, -0.06, 0.0), (x0, -0.075, DADO_M - 0.06)], [(x1, 0.0, 0.14), (x1, 0.0, DADO_M)]
        )
        stage.put(
            joined([body, raised, rails]),
            material=Material.MATTE,
            color=dado,
            instance=instance,
            at=origin,
            yaw_rad=facing,
        )
    cornice = boxes(
        [(0, -0.10, top - 0.22), (0, -0.2, top - 0.12)],
        [(length, 0, top - 0.12), (length, 0, top)],
        sides=(0, 5),
    )
    stage.put(
        cornice, material=Material.MATTE, color=_TRIM, instance=instance, at=origin, yaw_rad=facing
    )


def _put_doorway(stage: Stage, layout: Layout, gallery: Gallery, instance: int) -> None:
    """The cross wall behind a gallery: both faces, the reveal and a casing."""
    half, top = layout.half_m, layout.high_m
    door = Opening(half - DOOR_HALF_M, half + DOOR_HALF_M, 0.0, DOOR_HIGH_M)
    reach = (half - DOOR_HALF_M - 0.16, half + DOOR_HALF_M + 0.16)
    for x, facing in ((gallery.x1, EAST), (gallery.x1 + WALL_M, WEST)):
        origin = (x, half if facing == EAST else -half, 0.0)
        face = wall(2 * half, DADO_M, top, [door])
        stage.put(
            face,
            material=Material.MATTE,
            color=layout.wall,
            instance=instance,
            at=origin,
            yaw_rad=facing,
        )
        _put_trim(stage, instance, origin, facing, 2 * half, top, (reach,))
        w = DOOR_HALF_M
        casing = boxes(
            [
                (-w - 0.16, -0.07, 0),
                (w, -0.07, 0),
                (-w - 0.16, -0.07, DOOR_HIGH_M),
                (-w - 0.24, -0.12, DOOR_HIGH_M + 0.18),
            ],
            [
                (-w, 0, DOOR_HIGH_M),
                (w + 0.16, 0, DOOR_HIGH_M),
                (w + 0.16, 0, DOOR_HIGH_M + 0.18),
                (w + 0.24, 0, DOOR_HIGH_M + 0.26),
            ],
        )
        stage.put(
            casing,
            material=Material.MATTE,
            color=_TRIM,
            instance=instance,
            at=(x, 0, 0),
            yaw_rad=facing,
        )
    x0, x1 = gallery.x1, gallery.x1 + WALL_M
    reveal = [
        shifted(wall(WALL_M, 0, DOOR_HIGH_M), (0, DOOR_HALF_M, 0)),
        level((0, -DOOR_HALF_M), (WALL_M, DOOR_HALF_M), DOOR_HIGH_M, down=True),
    ]
    stage.put(
        joined(reveal), material=Material.MATTE, color=_TRIM, instance=instance, at=(x0, 0, 0)
    )
    stage.put(
        wall(WALL_M, 0, DOOR_HIGH_M),
        material=Material.MATTE,
        color=_TRIM,
        instance=instance,
        at=(x1, -DOOR_HALF_M, 0),
        yaw_rad=SOUTH,
    )
    for side in (1.0, -1.0):
        a, b = sorted((side * DOOR_HALF_M, side * half))
        stage.plan.block_box((x0, a), (x1, b), height_m=top)


def _put_ceiling_light(stage: Stage, layout: Layout, gallery: Gallery) -> None:
    middle, top = (gallery.x0 + gallery.x1) / 2, layout.high_m
    reach = (gallery.x1 - gallery.x0) / 2 - 1.6
    if layout.ceiling == "skylight":
        _put_skylight(stage, middle, reach, 0.42 * layout.half_m, top)
    else:
        _put_spots(stage, layout, gallery)
    for x in (middle - 0.55 * reach, middle + 0.55 * reach):
        stage.lamp((x, 0.0, top - 0.5), (5.2, 4.9, 4.4), reach_m=11.0)


def _put_skylight(stage: Stage, middle: float, reach: float, half: float, top: float) -> None:
    night = stage.scene.is_night
    glass = stage.instance(
        SemanticClass.CEILING, "a dark skylight" if night else "a bright skylight"
    )
    z = top - 0.03
    pane = level((middle - reach, -half), (middle + reach, half), z, down=True)
    if night:
        stage.put(pane, material=Material.GLASS, color=(0.015, 0.02, 0.04), instance=glass)
    else:
        stage.put(pane, material=Material.LAMP, color=(0.42, 0.45, 0.47), instance=glass)
    bars = [(x - 0.04, -half, z - 0.06) for x in np.linspace(middle - reach, middle + reach, 7)]
    ends = [(x + 0.08, half, z) for x, _, _ in bars]
    bars += [(middle - reach, y - 0.04, z - 0.06) for y in (-half, 0.0, half)]
    ends += [(middle + reach, y + 0.04, z) for y in (-half, 0.0, half)]
    stage.put(
        boxes(bars, ends, sides=(0, 1, 2, 3, 5)),
        material=Material.MATTE,
        color=_TRIM,
        instance=glass,
    )


def _put_spots(stage: Stage, layout: Layout, gallery: Gallery) -> None:
    """Two rails with spot lamps, aimed at the walls."""
    spots = stage.instance(SemanticClass.LAMP, "a rail of spot lamps")
    top, dark = layout.high_m - 0.35, (0.06, 0.06, 0.065)
    for side in (1.0, -1.0):
        y = side * (layout.half_m - 1.9)
        stage.box(
            (gallery.x0 + 0.6, y - 0.03, top),
            (gallery.x1 - 0.6, y + 0.03, top + 0.06),
            material=Material.METAL,
            color=dark,
            instance=spots,
            bottom=True,
        )
        for x in np.arange(gallery.x0 + 1.4, gallery.x1 - 1.0, 1.5):
            stage.put(
                shifted(loft([(-0.22, 0.06, 0.06), (0.0, 0.05, 0.05)], num_sides=7), (0, 0, 0)),
                material=Material.METAL,
                color=dark,
                instance=spots,
                at=(x, y, top),
            )
            stage.put(
                level((-0.045, -0.045), (0.045, 0.045), -0.225, down=True),
                material=Material.LAMP,
                color=(1.0, 0.92, 0.75),
                instance=spots,
                at=(x, y, top),
            )


def _hang_signs(stage: Stage, layout: Layout) -> None:
    """The museum's own sign over the first doorway, the way out below the ceiling, others beside."""
    first = layout.galleries[0]
    for k, sign in enumerate(stage.scene.signs):
        if k == 0:
            put_sign(
                stage,
                sign,
                at=(first.x1 - 0.01, 0.0, DOOR_HIGH_M + 0.36),
                facing=EAST,
                width_m=2.5,
                board=("#2c2926", "#f1e7cf"),
            )
        elif sign.word == "exit":
            hang_sign(
                stage,
                sign,
                at=(first.x1 - 1.1, 2.5, layout.high_m - 1.15),
                ceiling_m=layout.high_m,
                facing=EAST,
                width_m=1.25,
                board=EXIT_BOARD,
            )
        else:
            _put_stand(stage, layout, k)


def _put_stand(stage: Stage, layout: Layout, k: int) -> None:
    """A sign on a stand beside the doorway of a gallery."""
    sign = stage.scene.signs[k]
    gallery = layout.galleries[min(k // 2, len(layout.galleries) - 1)]
    side = 1.0 if k % 2 else -1.0
    x, y = gallery.x1 - 0.8, side * (DOOR_HALF_M + 0.75)
    instance = put_sign(stage, sign, at=(x, y, 1.15), facing=EAST, width_m=1.0)
    stage.box(
        (x + 0.01, y - 0.03, 0),
        (x + 0.05, y + 0.03, 1.15),
        material=Material.METAL,
        color=(0.2, 0.2, 0.2),
        instance=instance,
    )
    stage.plan.block_disc((x, y), 0.35, height_m=1.4)


# ------------------------------------------------------------------------------------ the pictures


def _picture_places(layout: Layout) -> list[Place]:
    """Where pictures may hang, in the order in which a visitor would see them."""
    half, last = layout.half_m, layout.galleries[-1]
    side_m = half - DOOR_HALF_M - 0.3
    middle = DOOR_HALF_M + 0.22 + side_m / 2
    ends = {
        g: [Place(g.x1, s * middle, EAST, side_m - 0.5) for s in (-1.0, 1.0)]
        for g in layout.galleries
    }
    first, second = layout.galleries[:2]
    # the far end of the enfilade is seen through all doorways
    places = [Place(last.x1, 0.0, EAST, 2.6), *ends[first], *ends[second]]
    for gallery in layout.galleries:
        if gallery not in (first, second):
            places += ends[gallery]
        length = gallery.x1 - gallery.x0 - 1.6
        num = int(length // _SPACING_M)
        step = length / num
        for k in reversed(range(num)):
            x = gallery.x0 + 0.8 + (k + 0.5) * step
            places += [Place(x, half, NORTH, step - 0.7), Place(x, -half, SOUTH, step - 0.7)]
        if not gallery.first:
            places += [Place(gallery.x0, s * middle, WEST, side_m - 0.5) for s in (-1.0, 1.0)]
    return places


def _hang_pictures(stage: Stage, layout: Layout) -> list[Place]:
    """Hang as many paintings as the scene has; returns the places that are hung."""
    count = sum(s.count for s in stage.scene.subjects if s.kind in HANGING)
    places = _picture_places(layout)
    if count > len(places):
        raise ClipRejectedError(
            "build", f"{count} paintings for {len(places)} places on the walls; ask for fewer."
        )
    rng = stage.random("pictures")
    for place in places[:count]:
        _hang_picture(stage, place, rng)
    return places[:count]


def _hang_picture(stage: Stage, place: Place, rng: np.random.Generator) -> None:
    height = float(rng.uniform(1.05, 1.75))
    width = float(min(place.width_m - 0.2, height * rng.uniform(0.72, 1.55)))
    kind, color = pick(rng, _FRAMES)
    rim = float(rng.uniform(0.07, 0.15)) if kind == "gold" else float(rng.uniform(0.04, 0.08))
    shape = "wide" if width > 1.25 * height else "tall" if width < 0.85 * height else "large"
    picture = stage.instance(SemanticClass.ARTWORK, f"a {shape} painting in a {kind} frame")
    low = max(DADO_M + 0.12 + rim, 1.72 - height / 2)
    normal = np.array([np.sin(place.facing), -np.cos(place.facing)])
    x, y = np.array([place.x, place.y]) + 0.035 * normal
    stage.put(
        upright(width, height),
        material=Material.PICTURE,
        color=(float(rng.integers(10_000)), 0, 0),
        instance=picture,
        at=(x, y, low),
        yaw_rad=place.facing,
    )
    stage.put(
        joined(frame(width, height, rim, 0.07)),
        material=Material.MATTE if kind != "gold" else Material.METAL,
        color=color,
        instance=picture,
        at=(place.x, place.y, low),
        yaw_rad=place.facing,
    )
    label = stage.instance(SemanticClass.SIGN, "a small label")
    tag = shifted(block(0.24, 0.02, 0.15), (width / 2 + rim + 0.2, 0, 1.2))
    stage.put(
        tag,
        material=Material.MATTE,
        color=(0.88, 0.88, 0.85),
        instance=label,
        at=(place.x, place.y, 0),
        yaw_rad=place.facing,
    )
    _put_picture_light(stage, place, low + height + rim, width)
    stage.sights.append(Sight((place.x, place.y, low + height / 2)))


def _put_picture_light(stage: Stage, place: Place, z: float, width: float) -> None:
    lamp = stage.instance(SemanticClass.LAMP, "a brass picture light")
    long = 0.45 * width
    arm = boxes(
        [(-0.02, -0.3, 0.1), (-long / 2, -0.34, 0.09)],
        [(0.02, 0.0, 0.12), (long / 2, -0.28, 0.14)],
        sides=range(6),
    )
    stage.put(
        arm,
        material=Material.METAL,
        color=_GOLD,
        instance=lamp,
        at=(place.x, place.y, z),
        yaw_rad=place.facing,
    )
    glow = level((-long / 2 + 0.02, -0.335), (long / 2 - 0.02, -0.285), 0.088, down=True)
    stage.put(
        glow,
        material=Material.LAMP,
        color=(0.9, 0.75, 0.5),
        instance=lamp,
        at=(place.x, place.y, z),
        yaw_rad=place.facing,
    )


# ------------------------------------------------------------------------------------ the exhibits


def _put_exhibits(stage: Stage, layout: Layout) -> None:
    """Sculptures and cases beside the axis, the first ones in the first gallery; benches; a rope."""
    kinds = [s.kind for s in stage.scene.subjects if s.kind in STANDING for _ in range(s.count)]
    spots = _exhibit_places(layout)
    if len(kinds) > len(spots):
        raise ClipRejectedError(
            "build", f"{len(kinds)} exhibits for {len(spots)} plinths; ask for fewer."
        )
    rng = stage.random("exhibits")
    for kind, (x, y) in zip(kinds, spots, strict=False):
        _MAKERS[kind](stage, x, y, rng)
    for k, gallery in enumerate(layout.galleries):
        side = 1.0 if (k + int(rng.integers(2))) % 2 else -1.0
        _put_bench(stage, (gallery.x0 + gallery.x1) / 2, side * 0.42 * layout.half_m)
        _put_rope(stage, layout, gallery, -side)


def _exhibit_places(layout: Layout) -> list[tuple[float, float]]:
    out: list[tuple[float, float]] = []
    y = 0.52 * layout.half_m
    for k, gallery in enumerate(layout.galleries):
        length = gallery.x1 - gallery.x0
        sides = (1.0, -1.0) if k % 2 else (-1.0, 1.0)
        out += [(gallery.x0 + 0.76 * length, s * y) for s in sides]
        if gallery.last:
            out.append((gallery.x0 + 0.6 * length, 0.0))
        out += [(gallery.x0 + 0.26 * length, s * y) for s in sides]
    return sorted(out, key=lambda at: (at[0] < 3.5, at[0] // 6))


_MARBLE: Color = (0.78, 0.76, 0.72)
_BRONZE: Color = linear("#5b4630")
_CERAMICS = tuple(linear(c) for c in ("#2f4f7d", "#7a2f22", "#33594a", "#c9a45c", "#d9d2c2"))


def _plinth(stage: Stage, instance: int, x: float, y: float, half: float, high: float) -> None:
    steps = boxes(
        [
            (-half - 0.05, -half - 0.05, 0),
            (-half, -half, 0.1),
            (-half - 0.03, -half - 0.03, high - 0.06),
        ],
        [
            (half + 0.05, half + 0.05, 0.1),
            (half, half, high - 0.06),
            (half + 0.03, half + 0.03, high),
        ],
    )
    stage.put(
        steps, material=Material.MATTE, color=(0.74, 0.73, 0.70), instance=instance, at=(x, y, 0)
    )
    stage.plan.block_box((x - half, y - half), (x + half, y + half), height_m=2.2)


def _sculpture(stage: Stage, x: float, y: float, rng: np.random.Generator) -> None:
    stone = rng.random() < 0.6
    color, name = (_MARBLE, "marble") if stone else (_BRONZE, "bronze")
    material = Material.MATTE if stone else Material.METAL
    kind = pick(rng, ("statue", "statue", "torso", "abstract"))
    phrase = (
        f"an abstract {name} sculpture" if kind == "abstract" else f"a {name} {kind} on a plinth"
    )
    thing = stage.instance(SemanticClass.ARTWORK, phrase)
    high = 0.75 if kind == "statue" else 1.0
    _plinth(stage, thing, x, y, 0.36, high)
    yaw = float(rng.uniform(2.6, 3.7))
    for part in _SHAPES[kind]:
        stage.put(
            part, material=material, color=color, instance=thing, at=(x, y, high), yaw_rad=yaw
        )
    stage.sights.append(Sight((x, y, high + 0.7), 1.3))


def _bust(stage: Stage, x: float, y: float, rng: np.random.Generator) -> None:
    color, name = (_MARBLE, "marble") if rng.random() < 0.7 else (_BRONZE, "bronze")
    thing = stage.instance(SemanticClass.ARTWORK, f"a {name} bust on a plinth")
    _plinth(stage, thing, x, y, 0.27, 1.2)
    yaw = float(rng.uniform(2.7, 3.6))
    material = Material.MATTE if name == "marble" else Material.METAL
    for part in _BUST:
        stage.put(part, material=material, color=color, instance=thing, at=(x, y, 1.2), yaw_rad=yaw)
    stage.sights.append(Sight((x, y, 1.5), 1.2))


def _vase(stage: Stage, x: float, y: float, rng: np.random.Generator) -> None:
    thing = stage.instance(SemanticClass.ARTWORK, "a glazed vase on a plinth")
    _plinth(stage, thing, x, y, 0.3, 0.95)
    stage.put(
        _VASE, material=Material.PAINT, color=pick(rng, _CERAMICS), instance=thing, at=(x, y, 0.95)
    )
    stage.sights.append(Sight((x, y, 1.3)))


def _display_case(stage: Stage, x: float, y: float, rng: np.random.Generator) -> None:
    """Thin bars stand for the glass: one sees the pieces inside."""
    thing = stage.instance(SemanticClass.FURNITURE, "a display case")
    stage.box(
        (x - 0.6, y - 0.35, 0),
        (x + 0.6, y + 0.35, 0.9),
        material=Material.WOOD,
        color=linear("#5b3c24"),
        instance=thing,
    )
    b, t = 0.018, 1.75
    low, high = [], []
    for sx in (-0.6, 0.6):
        for sy in (-0.35, 0.35):
            low.append((x + sx - b, y + sy - b, 0.9))
            high.append((x + sx + b, y + sy + b, t))
    low.append((x - 0.62, y - 0.37, t))
    high.append((x + 0.62, y + 0.37, t + 0.05))
    stage.put(
        boxes(low, high, sides=range(6)),
        material=Material.METAL,
        color=(0.55, 0.52, 0.45),
        instance=thing,
    )
    pieces = stage.instance(SemanticClass.ARTWORK, "old vessels in a display case")
    for k in (-1, 0, 1):
        size = float(rng.uniform(0.45, 0.75))
        shape = (_VASE[0] * np.float32(size), _VASE[1], _VASE[2])
        stage.put(
            shape,
            material=Material.PAINT,
            color=pick(rng, _CERAMICS),
            instance=pieces,
            at=(x + 0.36 * k, y, 0.9),
        )
    stage.plan.block_box((x - 0.62, y - 0.37), (x + 0.62, y + 0.37), height_m=1.8)
    stage.sights.append(Sight((x, y, 1.2)))


_MAKERS = {"sculpture": _sculpture, "bust": _bust, "vase": _vase, "display case": _display_case}


def _limb(*path: tuple[float, float, float], radius: float) -> Primitive:
    return tube(path, radius, num_sides=7)


_HEAD = shifted(sphere((0.105, 0.085, 0.135), num_rings=6, num_sides=9), (0.02, 0, 0))
_BUST = (
    loft([(0.0, 0.1, 0.11), (0.08, 0.06, 0.06), (0.12, 0.09, 0.14)], num_sides=9),
    loft(
        [
            (0.10, 0.08, 0.12),
            (0.2, 0.15, 0.25),
            (0.33, 0.14, 0.25),
            (0.41, 0.08, 0.12),
            (0.46, 0.06, 0.06),
        ],
        num_sides=10,
    ),
    loft([(0.42, 0.062, 0.062), (0.56, 0.058, 0.06)], num_sides=8),
    shifted(_HEAD, (0, 0, 0.66)),
    shifted(sphere((0.03, 0.018, 0.035), num_rings=4, num_sides=6), (0.125, 0, 0.655)),
    shifted(sphere((0.115, 0.098, 0.1), num_rings=5, num_sides=9), (-0.015, 0, 0.72)),
)
_TORSO = (
    loft(
        [
            (0.0, 0.11, 0.13),
            (0.2, 0.14, 0.2),
            (0.34, 0.12, 0.16),
            (0.55, 0.13, 0.19),
            (0.78, 0.15, 0.26),
            (0.88, 0.1, 0.18),
            (0.97, 0.055, 0.06),
        ],
        num_sides=12,
    ),
    _limb((0, 0.22, 0.82), (0.02, 0.29, 0.62), (0.03, 0.3, 0.52), radius=0.06),
    _limb((0, -0.22, 0.82), (0.03, -0.28, 0.68), radius=0.06),
)
_STATUE = (
    loft([(0.0, 0.22, 0.26), (0.08, 0.22, 0.26)], num_sides=10),
    loft(
        [(0.05, 0.07, 0.08, 0.06, 0.1), (0.45, 0.075, 0.08, 0.04, 0.1), (0.85, 0.1, 0.1, 0, 0.08)],
        num_sides=8,
    ),
    loft(
        [
            (0.05, 0.07, 0.08, -0.06, -0.1),
            (0.45, 0.08, 0.08, 0.02, -0.1),
            (0.85, 0.1, 0.1, 0, -0.08),
        ],
        num_sides=8,
    ),
    loft(
        [
            (0.1, 0.2, 0.24, -0.04, -0.02),
            (0.5, 0.15, 0.2, -0.02, 0),
            (0.95, 0.13, 0.19, 0, 0),
            (1.1, 0.11, 0.15, 0, 0),
            (1.3, 0.13, 0.2, 0, 0),
            (1.45, 0.1, 0.18, 0, 0),
            (1.53, 0.05, 0.06, 0, 0),
        ],
        num_sides=11,
    ),
    shifted(_HEAD, (0.01, 0, 1.68)),
    loft([(1.5, 0.05, 0.052), (1.6, 0.05, 0.052)], num_sides=7),
    _limb((0, 0.2, 1.42), (0.1, 0.34, 1.3), (0.2, 0.38, 1.55), (0.22, 0.36, 1.75), radius=0.045),
    _limb((0, -0.2, 1.42), (0.0, -0.3, 1.18), (0.16, -0.22, 1.02), radius=0.045),
)
_ANGLES = np.linspace(0, 1.75 * np.pi, 22)
_ABSTRACT = (
    tube(
        np.stack(
            [0.05 * np.sin(2 * _ANGLES), 0.42 * np.sin(_ANGLES), 0.55 - 0.42 * np.cos(_ANGLES)], 1
        ),
        0.11,
        num_sides=9,
    ),
    shifted(sphere(0.17, num_rings=6, num_sides=10), (0, 0, 0.55)),
    loft([(0.0, 0.16, 0.2), (0.1, 0.1, 0.12)], num_sides=8),
)
_SHAPES: dict[str, tuple[Primitive, ...]] = {
    "statue": _STATUE,
    "torso": _TORSO,
    "abstract": _ABSTRACT,
}
_VASE = loft(
    [
        (0.0, 0.1, 0.1),
        (0.05, 0.09, 0.09),
        (0.3, 0.24, 0.24),
        (0.48, 0.2, 0.2),
        (0.6, 0.085, 0.085),
        (0.7, 0.09, 0.09),
        (0.74, 0.13, 0.13),
    ],
    num_sides=14,
)


def _put_bench(stage: Stage, x: float, y: float) -> None:
    bench = stage.instance(SemanticClass.FURNITURE, "a wooden bench")
    slats = boxes(
        [(-0.8, -0.22 + 0.115 * k, 0.4) for k in range(4)],
        [(0.8, -0.12 + 0.115 * k, 0.46) for k in range(4)],
        sides=range(6),
    )
    legs = boxes(
        [(s * 0.62 - 0.04, -0.2, 0) for s in (-1, 1)],
        [(s * 0.62 + 0.04, 0.22, 0.4) for s in (-1, 1)],
    )
    stage.put(
        joined([slats, legs]),
        material=Material.WOOD,
        color=linear("#4a3020"),
        instance=bench,
        at=(x, y, 0),
    )
    stage.plan.block_box((x - 0.8, y - 0.24), (x + 0.8, y + 0.24), height_m=0.5)


def _put_rope(stage: Stage, layout: Layout, gallery: Gallery, side: float) -> None:
    """Brass posts with a red rope before the pictures of one wall."""
    rope = stage.instance(SemanticClass.FENCE, "a red rope on brass posts")
    y = side * (layout.half_m - 0.8)
    xs = np.linspace(gallery.x0 + 1.2, gallery.x1 - 1.2, 5)
    post = joined(
        [
            loft([(0, 0.15, 0.15), (0.03, 0.13, 0.13)], num_sides=9),
            loft([(0.03, 0.022, 0.022), (0.92, 0.022, 0.022)], num_sides=6),
            shifted(sphere(0.045, num_rings=4, num_sides=7), (0, 0, 0.95)),
        ]
    )
    for x in xs:
        stage.put(post, material=Material.METAL, color=_GOLD, instance=rope, at=(x, y, 0))
    sag = np.linspace(0, 1, 7)
    for a, b in itertools.pairwise(xs):
        path = np.stack([a + (b - a) * sag, 0 * sag + y, 0.86 - 0.8 * sag * (1 - sag)], 1)
        stage.put(
            tube(path, 0.024, num_sides=5),
            material=Material.MATTE,
            color=(0.42, 0.03, 0.04),
            instance=rope,
        )
    stage.plan.block_box((xs[0], y - 0.05), (xs[-1], y + 0.05), height_m=1.0)


# -------------------------------------------------------------------------------------- the people


def _place_people(stage: Stage, troupe: Troupe, layout: Layout, places: list[Place]) -> list[Role]:
    """Place all who stand or sit; returns the roles that walk."""
    rng = stage.random("people")
    views = [_viewpoint(layout, place) for place in places[: max(8, len(places) // 2)]]
    order = [views[int(k)] for k in rng.permutation(len(views))]
    doors = [
        (g.x1 - 0.7, s * (DOOR_HALF_M + 1.0), np.pi) for g in layout.galleries for s in (1.0, -1.0)
    ]
    walkers: list[Role] = []
    for role in stage.scene.roles:
        staff = role.name in ("guard", "attendant", "security guard", "curator")
        spots = doors if staff else order
        num_walking = role.count if role.action == "walking" else 0
        if (
            num_walking and not staff
        ):  # visitors of a museum stand before pictures as often as they walk
            num_walking = role.count - min(role.count // 2, len(spots))
        num_placed = 0
        while num_placed < role.count - num_walking:
            if not spots:
                num_walking = role.count - num_placed
                break
            x, y, heading = spots.pop(0)
            if stage.plan.distance([(x, y)])[0] < 0.5:
                continue
            troupe.place(
                role,
                at=(x, y, 0),
                heading_rad=heading,
                posture="standing",
                rng=stage.random("stand", role.name, num_placed),
            )
            num_placed += 1
        if num_walking:
            walkers.append(Role(role.name, num_walking, role.dress, role.action))
    return walkers


def _viewpoint(layout: Layout, place: Place) -> tuple[float, float, float]:
    """Where somebody stands who looks at a picture: x, y, heading."""
    away = 1.75
    normal = np.array([np.sin(place.facing), -np.cos(place.facing)])
    x, y = np.array([place.x, place.y]) + away * normal
    return float(x), float(y), float(np.arctan2(-normal[1], -normal[0]))


def _starts(layout: Layout) -> list[Start]:
    first = layout.galleries[0]
    return [
        Start(first.x0 + dx, y, heading)
        for dx in (0.9, 1.8)
        for y in (-1.5, -0.6, 0.6, 1.5)
        for heading in (-0.22, -0.1, 0.0, 0.1, 0.22)
    ]


def _routes(layout: Layout) -> list[list[tuple[float, float]]]:
    """Through all doorways along the axis, and to and fro in each gallery."""
    routes = [[(layout.galleries[0].x0 + 1.0, 0.0), (layout.galleries[-1].x1 - 5.2, 0.0)]]
    for gallery in layout.galleries:
        for y in (-1.4, 1.4):
            routes.append([(gallery.x0 + 1.0, y), (gallery.x1 - 1.0, y)])
    return routes
