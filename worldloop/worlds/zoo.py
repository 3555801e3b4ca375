"""A zoo: a path between enclosures that ends before the tallest animals, an arch, visitors, a keeper.

Style keys:
    theme: `savanna` (dry grass, timber, thatch), `forest` (lawn, hedges, timber) or `stone` (lawn,
        walls of stone); the seed decides without it.

Subjects: the kinds of `animals.KINDS`. A subject's trait that is one of `animals.ACTIONS` is what all
of its kind do; without one they do different things. Each kind has an enclosure of its own, and
each individual stays in it at all times. The path runs along x; one enters at its low end.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldloop.errors import UnknownKeyError
from worldloop.recipes import Recipe
from worldloop.scenes.scene import Role, Scene
from worldloop.seeds import stream
from worldloop.worlds.air import outdoor_air
from worldloop.worlds.crowd import Crowd
from worldloop.worlds.enclosures import (
    FRONT_M,
    PATH_HALF_M,
    PLAZA_M,
    STONE,
    TIMBER,
    Enclosure,
    camera_way_m,
    lay_out_enclosures,
    light_enclosure,
    put_enclosure,
)
from worldloop.worlds.geometry import Material, SemanticClass, quad
from worldloop.worlds.herds import put_herd
from worldloop.worlds.kit import (
    add_bench,
    add_bin,
    add_fence,
    add_flower_bed,
    add_hedge,
    add_lamp_post,
    add_shrub,
    add_sign,
    add_sign_post,
    add_tree,
    ground,
)
from worldloop.worlds.palette import linear, pick
from worldloop.worlds.people import Troupe
from worldloop.worlds.player import CLEARANCE_M, Start, play
from worldloop.worlds.shapes import (
    boxes,
    joined,
    loft,
    tube,
)
from worldloop.worlds.stage import Sight, Stage
from worldloop.worlds.world import World

BEHIND_M = 13.0  # the path goes on behind the camera, for people who come from there
VIEW_HALF_RAD = 0.45  # an animal this far from the middle is well inside the picture
_BOARDS = {
    "savanna": ("#8a4b1e", "#fff0cf"),
    "forest": ("#1f5a3a", "#fbf3d6"),
    "stone": ("#1d3f66", "#f6f4ea"),
}
THEMES = tuple(_BOARDS)


def build(recipe: Recipe) -> World:
    """The world of a zoo scene.

    Raises:
        UnknownKeyError: If a subject or a style is none that a zoo has.
        ClipRejectedError: If more animals are asked for than fit.
    """
    scene = recipe.scene
    theme = _theme(scene)
    enclosures = lay_out_enclosures(scene)
    end = enclosures[0].low[0] if enclosures else 18.0
    begin = end - (camera_way_m(scene, enclosures[0].kind) if enclosures else 14.0)
    stage = Stage(scene, low=(begin - BEHIND_M, -PATH_HALF_M), high=(end - 0.9, PATH_HALF_M))
    _put_ground(stage, theme, end)
    for enclosure in enclosures:
        put_enclosure(stage, enclosure, theme)
        put_herd(stage, enclosure)
    animals = tuple(stage.sights)
    _put_lawns(stage, enclosures, begin, end)
    _put_entrance(stage, theme, begin, end)
    _put_furniture(stage, enclosures, begin)
    _put_signs(stage, enclosures, animals, begin, end)
    _put_far_trees(stage, end)
    troupe = Troupe(stage)
    walkers = _place_people(stage, troupe, enclosures)
    track = play(stage, recipe.shape, _starts(stage, animals, begin))
    crowd = Crowd(troupe, track, recipe.shape)
    for role in walkers:
        crowd.walk(
            role,
            _routes(begin, end),
            rng=stage.random("walk", role.name),
            spread_m=0.7,
            speed_mps=(0.7, 1.3),
        )
    return stage.finish(air=outdoor_air(scene), track=track)


def _theme(scene: Scene) -> str:
    theme = scene.style.get("theme", pick(stream(scene.seed, "zoo", "theme"), THEMES))
    if theme not in THEMES:
        raise UnknownKeyError("zoo theme", theme, THEMES)
    return theme


# -------------------------------------------------------------------------------------- the ground

_LAWN = linear("#5f8238")


def _put_ground(stage: Stage, theme: str, end: float) -> None:
    dry = stage.scene.season == "dry season"
    lawn = linear("#8d8c4a") if dry else _LAWN
    ground(
        stage,
        (-60, -70),
        (end + 75, 70),
        material=Material.GRASS,
        color=lawn,
        semantic=SemanticClass.TERRAIN,
        phrase="a lawn",
        height_m=-0.05,
    )
    color = {"savanna": linear("#b8a27c"), "forest": linear("#a59a86"), "stone": linear("#a3a19b")}[
        theme
    ]
    path = ground(
        stage,
        (-40, -FRONT_M),
        (end, FRONT_M),
        material=Material.PAVING,
        color=color,
        semantic=SemanticClass.SIDEWALK,
        phrase="a paved path",
    )
    for y0, y1 in ((-24.0, -FRONT_M), (FRONT_M, 24.0)):
        corners = [(end - PLAZA_M, y0, 0), (end, y0, 0), (end, y1, 0), (end - PLAZA_M, y1, 0)]
        stage.put(
            quad(corners, unit_uv=False), material=Material.PAVING, color=color, instance=path
        )


# ------------------------------------------------------------------------------------- the visitors


def _put_lawns(stage: Stage, enclosures: list[Enclosure], begin: float, end: float) -> None:
    """Beds and trees where no enclosure borders the path; an aviary where a whole side is free."""
    rng = stage.random("lawns")
    for side in (1, -1):
        front = "+y" if side > 0 else "-y"
        until = min((e.low[0] for e in enclosures if e.front == front), default=end - PLAZA_M)
        x0, x1 = begin - BEHIND_M, until - 0.5
        if x1 - x0 < 2.5:
            continue
        rail = [(x0, side * FRONT_M), (x1, side * FRONT_M)]
        add_fence(stage, rail, height_m=0.5, num_rails=2, phrase="a low railing")
        low, high = sorted((side * (FRONT_M + 0.5), side * (FRONT_M + 1.5)))
        add_flower_bed(stage, (x0 + 0.6, low), (x1 - 0.6, high), rng)
        trees_until = x1
        if until == end - PLAZA_M:
            trees_until = end - 12.0
            _put_aviary(stage, (end - 6.8, side * (FRONT_M + 6.4)), rng)
            hedge_y = side * (FRONT_M + 12.5)
            add_hedge(stage, (begin, hedge_y), (end, hedge_y), rng, height_m=2.2, width_m=1.2)
        for x in np.arange(begin - 6.0, trees_until - 0.8, 4.2):
            add_tree(stage, (x, side * (FRONT_M + float(rng.uniform(3.6, 6.0))), 0), rng)


def _put_aviary(stage: Stage, at: tuple[float, float], rng: np.random.Generator) -> None:
    """A round cage of bars with a domed top, planted inside."""
    cage = stage.instance(SemanticClass.BUILDING, "an aviary of metal bars")
    radius, eaves, top = 4.2, 3.4, 6.2
    x, y = at
    base = loft(
        [(0, radius + 0.15, radius + 0.15), (0.6, radius + 0.1, radius + 0.1)], num_sides=20
    )
    stage.put(base, material=Material.BRICK, color=STONE, instance=cage, at=(x, y, 0))
    arc = np.linspace(0, np.pi / 2, 6)
    ribs = []
    for turn in np.arange(0, 2 * np.pi, 2 * np.pi / 20):
        out = np.concatenate([[radius, radius], radius * np.cos(arc[1:])])
        z = np.concatenate([[0.6, eaves], eaves + (top - eaves) * np.sin(arc[1:])])
        ribs.append(
            tube(np.stack([out * np.cos(turn), out * np.sin(turn), z], 1), 0.04, num_sides=4)
        )
    ring = np.linspace(0, 2 * np.pi, 21)
    for height, wide in ((1.5, radius), (2.45, radius), (eaves, radius), (5.0, 0.82 * radius)):
        circle = np.stack([wide * np.cos(ring), wide * np.sin(ring), 0 * ring + height], 1)
        ribs.append(tube(circle, 0.03, num_sides=4))
    stage.put(
        joined(ribs), material=Material.METAL, color=(0.05, 0.09, 0.07), instance=cage, at=(x, y, 0)
    )
    add_tree(stage, (x + 0.8, y, 0), rng, height_m=5.2)
    for dx, dy in ((-1.8, 1.2), (-1.2, -1.9), (2.2, 1.4)):
        add_shrub(stage, (x + dx, y + dy, 0.3), rng, radius_m=0.9)
    stage.plan.block_disc(at, radius + 0.3, height_m=1.5)


def _put_entrance(stage: Stage, theme: str, begin: float, end: float) -> None:
    """The arch over the path with the zoo's own sign, and a hedge behind the start."""
    x = min(begin + 12.0, end - 3.4)
    _put_arch(stage, theme, x)
    if stage.scene.signs:
        add_sign(
            stage,
            stage.scene.signs[0],
            at=(x, 0, 3.78),
            facing_rad=np.pi,
            width_m=3.4,
            two_sided=True,
            board=_BOARDS[theme],
        )
        stage.sights.append(Sight((x, 0.0, 3.7), 0.8))
    rng = stage.random("entrance")
    add_hedge(
        stage,
        (begin - BEHIND_M - 0.6, -FRONT_M),
        (begin - BEHIND_M - 0.6, FRONT_M),
        rng,
        height_m=1.6,
        width_m=1.0,
    )


def _put_arch(stage: Stage, theme: str, x: float) -> None:
    """Two posts and a beam: timber with braces, or pillars of stone."""
    arch = stage.instance(SemanticClass.BUILDING, "an arch over the path")
    stone = theme == "stone"
    for side in (1.0, -1.0):
        y = side * (PATH_HALF_M + 0.1)
        if stone:
            low, high = (x - 0.2, y - 0.2, 0.0), (x + 0.2, y + 0.2, 3.5)
            stage.box(low, high, material=Material.BRICK, color=STONE, instance=arch)
        else:
            post = loft([(0, 0.2, 0.2), (0.3, 0.15, 0.15), (3.75, 0.12, 0.12)], num_sides=8)
            stage.put(post, material=Material.WOOD, color=TIMBER, instance=arch, at=(x, y, 0))
        stage.plan.block_disc((x, y), 0.25, height_m=1.5)
    reach = PATH_HALF_M + (0.05 if stone else 0.25)
    beam = boxes([(x - 0.1, -reach, 3.1)], [(x + 0.1, reach, 3.3)], sides=range(6))
    material, color = (Material.METAL, (0.06, 0.07, 0.07)) if stone else (Material.WOOD, TIMBER)
    stage.put(beam, material=material, color=color, instance=arch)
    if not stone:
        for s in (1.0, -1.0):
            foot, tip = (x, s * (PATH_HALF_M + 0.05), 2.5), (x, s * (PATH_HALF_M - 0.6), 3.15)
            brace = tube([foot, tip], 0.06, num_sides=5)
            stage.put(brace, material=Material.WOOD, color=TIMBER, instance=arch)


def _put_furniture(stage: Stage, enclosures: list[Enclosure], begin: float) -> None:
    rng = stage.random("furniture")
    side = 1.0 if rng.random() < 0.5 else -1.0
    add_bench(stage, (begin + 3.4, side * (PATH_HALF_M - 0.35), 0), -side * np.pi / 2)
    add_bin(stage, (begin + 4.8, side * (PATH_HALF_M - 0.25), 0), rng)
    for k, x in enumerate((begin - 5.0, begin + 14.0)):
        post_side = side if k % 2 else -side
        add_lamp_post(stage, (x, post_side * (FRONT_M - 0.15), 0), height_m=3.8)
    if stage.scene.is_night:
        for enclosure in enclosures:
            light_enclosure(stage, enclosure)


@dataclass(frozen=True)
class _Board:
    """Where a board on posts may stand, and the heading of its front."""

    x: float
    y: float
    half_m: float
    facing_rad: float


def _put_signs(
    stage: Stage, enclosures: list[Enclosure], animals: tuple[Sight, ...], begin: float, end: float
) -> None:
    """Species' names at their enclosures; other words on posts along the path.

    Every board stands where it hides the others and the animals least.
    """
    homes = {e.kind: e for e in enclosures}
    signs = stage.scene.signs[1:]
    at_home = [homes.pop(sign.word, None) for sign in signs]
    choices = [_before(home) if home else _along_path(begin, end) for home in at_home]
    for sign, home, board in zip(signs, at_home, _clearest(choices, animals, begin), strict=True):
        add_sign_post(
            stage,
            sign,
            at=(board.x, board.y, 0),
            facing_rad=board.facing_rad,
            width_m=2 * board.half_m,
            height_m=1.5 if home else 1.6,  # below the eyes: what is taller turns the gaze away
            two_sided=home is None,
        )


def _clearest(
    choices: list[list[_Board]], animals: tuple[Sight, ...], begin: float
) -> list[_Board]:
    """One place of each list; all are chosen in turn, and twice, as the first knew no others."""
    chosen: dict[int, _Board] = {}
    for _ in range(2):
        for k, places in enumerate(choices):
            others = [board for j, board in chosen.items() if j != k]
            costs = [_hides(place, others, animals, begin) for place in places]
            chosen[k] = places[int(np.argmin(costs))]
    return [chosen[k] for k in range(len(choices))]


def _before(home: Enclosure) -> list[_Board]:
    """Places for the name of an animal at the fence of its enclosure."""
    start, along, inward = home.across()
    ahead = home.front == "x"
    middle = 0.5 * home.wide_m
    offsets = (3.0, -3.0, 4.0, -4.0, 2.2, -2.2) if ahead else (0.0, 1.2, -1.2, 2.4, -2.4, 3.4, -3.4)
    turn = 0.0 if ahead else 0.6 if home.front == "+y" else -0.6
    places = []
    for offset in offsets:
        if abs(offset) <= middle - 0.75 or offset == offsets[0]:
            x, y = start + along * (middle + offset) - inward * 0.4
            places.append(_Board(float(x), float(y), 0.65, math.pi + turn))
    return places


def _along_path(begin: float, end: float) -> list[_Board]:
    """Places for other words, beside the path and before its end."""
    return [
        _Board(x, side * (PATH_HALF_M - 0.25), 0.475, math.pi + side * 0.35)
        for x in np.arange(begin + 6.5, end - 1.9, 0.9).tolist() or [end - 2.0]
        for side in (1.0, -1.0)
    ]


def _hides(board: _Board, others: list[_Board], animals: tuple[Sight, ...], begin: float) -> float:
    """How much a board would hide others and animals, or be hidden, on a walk along the path."""
    eyes = np.array([(begin + x, y) for x in (-1.0, 1.5, 4.0, 6.5) for y in (-1.1, 0.0, 1.1)])
    here = _bearings(eyes, board.x, board.y, board.half_m)
    hidden = 0.0
    for other in others:
        share = _share(here, _bearings(eyes, other.x, other.y, other.half_m))
        hidden += float(share.mean() + 0.5 * share.max())
    for animal in animals:
        there = _bearings(eyes, animal.at[0], animal.at[1], 0.9)
        hidden += 0.3 * float((_share(here, there) * (here[2] < there[2])).mean())
    return round(hidden, 3)


_Seen = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


def _bearings(eyes: NDArray[np.float64], x: float, y: float, half_m: float) -> _Seen:
    """Bearing and half the angle in radians, and distance in metres, from each of the eyes."""
    dx, dy = x - eyes[:, 0], y - eyes[:, 1]
    away = np.hypot(dx, dy)
    return np.arctan2(dy, dx), np.arctan2(half_m + 0.05, away), away


def _share(one: _Seen, other: _Seen) -> NDArray[np.float64]:
    """Share of the narrower of two that lies behind or before the other, where both are ahead."""
    overlap = one[1] + other[1] - np.abs(one[0] - other[0])
    ahead = (np.abs(one[0]) < 1.0) & (np.abs(other[0]) < 1.0)
    share: NDArray[np.float64] = np.clip(overlap / (2 * np.minimum(one[1], other[1])), 0, 1) * ahead
    return share


def _put_far_trees(stage: Stage, end: float) -> None:
    """A belt of trees around everything."""
    rng = stage.random("belt")
    spots = [
        (x, s * float(rng.uniform(21, 27)))
        for x in np.arange(-14, end + 16, 7.5)
        for s in (1.0, -1.0)
    ]
    spots += [(end + float(rng.uniform(17, 24)), y) for y in np.arange(-18, 19, 6.0)]
    spots += [(-20.0 - float(rng.uniform(0, 5)), y) for y in (-9.0, 9.0)]
    for x, y in spots:
        add_tree(
            stage, (x + float(rng.uniform(-2, 2)), y, 0), rng, height_m=float(rng.uniform(7, 10))
        )


def _place_people(stage: Stage, troupe: Troupe, enclosures: list[Enclosure]) -> list[Role]:
    """Some visitors stand at the railings and watch; returns the roles that walk."""
    rng = stage.random("people")
    spots = [spot for e in enclosures for spot in _lookouts(e)]
    order = [spots[int(k)] for k in rng.permutation(len(spots))]
    walkers = []
    for role in stage.scene.roles:
        still = role.count if role.action != "walking" else min(role.count // 2, len(order))
        if role.name == "keeper" and role.action == "walking":
            still = 0
        placed = 0
        while placed < still and order:
            x, y, heading = order.pop(0)
            if stage.plan.distance([(x, y)])[0] < 0.32:
                continue
            troupe.place(
                role,
                at=(x, y, 0),
                heading_rad=heading,
                posture="standing",
                rng=stage.random("stand", role.name, placed),
            )
            placed += 1
        if role.count > placed:
            walkers.append(Role(role.name, role.count - placed, role.dress, role.action))
    return walkers


def _lookouts(enclosure: Enclosure) -> list[tuple[float, float, float]]:
    """Where somebody watches the animals from the path: x, y, heading."""
    start, along, inward = enclosure.across()
    heading = float(np.arctan2(inward[1], inward[0]))
    out = []
    for a in np.arange(1.2, enclosure.wide_m - 0.8, 1.5):
        x, y = start + along * a - inward * (0.95 if enclosure.front != "x" else 1.35)
        if abs(y) < PATH_HALF_M - 0.35 and (enclosure.front != "x" or abs(y) > 1.3):
            out.append((float(x), float(y), heading))
    return out


def _routes(begin: float, end: float) -> list[list[tuple[float, float]]]:
    return [[(begin - BEHIND_M + 1.0, y), (end - 2.0, y)] for y in (-1.4, 1.4, -1.6, 1.6, 0.0)]


def _starts(stage: Stage, animals: tuple[Sight, ...], begin: float) -> list[Start]:
    """Where the player may begin: of all free places those from which an animal looks largest."""
    starts = [
        Start(begin + x, y, heading)
        for x in (-1.0, 0.0, 1.0, 2.0, 3.0)
        for y in (-1.1, 0.0, 1.1)
        for heading in (-0.45, -0.3, -0.15, 0.0, 0.15, 0.3, 0.45)
    ]
    free = stage.plan.distance([(s.x, s.y) for s in starts]) >= CLEARANCE_M + 0.15
    starts = [start for start, ok in zip(starts, free, strict=True) if ok] or starts
    size = np.array([_largest_animal(stage, animals, start) for start in starts])
    return [start for start, s in zip(starts, size, strict=True) if s >= 0.85 * size.max()]


def _largest_animal(stage: Stage, animals: tuple[Sight, ...], start: Start) -> float:
    """How large the best animal looks that stands well inside the picture and behind nothing tall."""
    best = 0.0
    for animal in animals:
        x, y = animal.at[0] - start.x, animal.at[1] - start.y
        away, bearing = float(np.hypot(x, y)), float(np.arctan2(y, x))
        if abs(bearing - start.heading_rad) > VIEW_HALF_RAD or away < 2.0:
            continue
        beside = bearing + np.array([-0.5, 0.0, 0.5]) / away
        if stage.plan.view_distance((start.x, start.y), beside).min() > away - 2.0:
            best = max(best, animal.weight / away)
    return best
