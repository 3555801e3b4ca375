"""Street and amusement park: deterministic, true to the scene, and with room for the camera."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tests.factories import make_scene
from worldloop.errors import ClipRejectedError, UnknownKeyError
from worldloop.recipes import Recipe, Shape
from worldloop.scenes.scene import Dress, Role, Scene, Subject
from worldloop.worlds.geometry import Material, SemanticClass
from worldloop.worlds.grammar import build_world
from worldloop.worlds.stage import MAX_TRIANGLES
from worldloop.worlds.world import World

GOLDEN = Path(__file__).parents[2] / "golden"
OUTDOORS = ("street", "amusement_park")
CAMERAS = ("stroll", "tour", "wander")
SHAPE = Shape(num_frames=61)


@cache
def world_of(institution: str, seed: int) -> World:
    """A world, built once for all tests that only look at it."""
    scene = make_scene(institution, seed=seed, camera=CAMERAS[seed % 3])
    side = "left" if seed % 2 else "right"
    return build_world(Recipe(replace(scene, driving_side=side), SHAPE))


def digest(world: World) -> str:
    """A hash over all arrays, the poses of three moments included."""
    sha = hashlib.sha256()
    for mesh in (world.static, world.moving):
        for array in vars(mesh).values():
            sha.update(np.ascontiguousarray(array).tobytes())
    for array in (world.lamps, world.signs, *vars(world.track).values()):
        sha.update(np.ascontiguousarray(array).tobytes())
    for time_s in (0.0, 0.5, 2.0):
        sha.update(world.pose(time_s).tobytes())
    sha.update(repr((world.instances, world.air, world.room)).encode())
    return sha.hexdigest()


def origins(world: World, semantic: SemanticClass, time_s: float) -> np.ndarray:
    """Where the first part of each moving thing of a class is, (N, 3)."""
    mesh, pose = world.moving, world.pose(time_s)
    wanted = [i for i, x in enumerate(world.instances) if x.moves and x.semantic == semantic]
    parts = [mesh.part[mesh.faces[mesh.instance == i]].min() for i in wanted]
    return pose[parts, :, 3]


@pytest.mark.parametrize("institution", OUTDOORS)
def test_a_recipe_gives_the_same_world_in_another_process(institution: str) -> None:
    program = (
        "from tests.worldloop.worlds.test_worlds import digest, world_of;"
        f"print(digest(world_of({institution!r}, 1)))"
    )
    there = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "123", "PYTHONPATH": "."},
    )
    world_of.cache_clear()
    assert there.stdout.strip() == digest(world_of(institution, 1))


@pytest.mark.parametrize("institution", OUTDOORS)
def test_another_seed_gives_another_world(institution: str) -> None:
    assert digest(world_of(institution, 0)) != digest(world_of(institution, 1))


@pytest.mark.parametrize("institution", OUTDOORS)
@pytest.mark.parametrize("seed", range(16))
def test_nobody_walks_into_the_camera(institution: str, seed: int) -> None:
    world = world_of(institution, seed)
    for frame in range(0, SHAPE.num_frames, 3):
        eye = world.track.camera_to_world[frame, :2, 3]
        people = origins(world, SemanticClass.PERSON, frame / SHAPE.rate_fps)[:, :2]
        assert np.hypot(*(people - eye).T).min() > 1.0


@pytest.mark.parametrize("institution", OUTDOORS)
@pytest.mark.parametrize("seed", range(8))
def test_nothing_is_in_front_of_the_lens(institution: str, seed: int) -> None:
    world = world_of(institution, seed)
    mesh = world.static
    centres = mesh.vertices[mesh.faces].mean(1)
    upright = centres[(centres[:, 2] > 0.9) & (centres[:, 2] < 2.4)]
    eyes = world.track.camera_to_world[::6, :3, 3]
    away = np.hypot(*np.moveaxis(upright[None, :, :2] - eyes[:, None, :2], -1, 0))
    assert away.min() > 0.42


@pytest.mark.parametrize("institution", OUTDOORS)
def test_worlds_stay_within_budget_and_every_thing_has_a_phrase(institution: str) -> None:
    for seed in range(4):
        world = world_of(institution, seed)
        assert world.static.num_faces + world.moving.num_faces <= MAX_TRIANGLES
        for mesh in (world.static, world.moving):
            assert mesh.instance.min() > 0
            assert mesh.instance.max() < len(world.instances)
            assert np.isfinite(mesh.vertices).all()
            assert mesh.color[mesh.material != Material.SIGN].max() <= 1.0
        assert all(instance.phrase.split()[0] in _ARTICLES for instance in world.instances)


_ARTICLES = ("a", "an", "the", "road")


@pytest.mark.parametrize("institution", OUTDOORS)
def test_everybody_in_the_scene_is_in_the_world(institution: str) -> None:
    scene, world = make_scene(institution), world_of(institution, 2)
    for role in scene.roles:
        found = [x for x in world.instances if x.phrase.split(" in ")[0][2:].strip() == role.name]
        assert len(found) == role.count


def test_a_street_has_the_vehicles_and_trees_of_the_scene() -> None:
    phrases = [x.phrase for x in world_of("street", 3).instances]
    assert sum(p.endswith(" car") for p in phrases) == 8
    assert sum(p.endswith(" bus") for p in phrases) == 1
    assert sum(p.startswith(("a tree", "a bare tree")) for p in phrases) == 10


@pytest.mark.parametrize(
    ("facade", "material"),
    [
        ("brick", Material.FACADE_BRICK),
        ("plaster", Material.FACADE),
        ("stone", Material.FACADE_STONE),
        ("glass", Material.FACADE_GLASS),
        ("concrete", Material.FACADE_CONCRETE),
    ],
)
def test_houses_along_a_street_are_made_of_what_the_style_says(
    facade: str, material: Material
) -> None:
    world = build_world(Recipe(make_scene(style={"facade": facade}), Shape(num_frames=2)))
    rows = [
        i for i, x in enumerate(world.instances) if x.phrase.startswith(f"a {facade} building with")
    ]
    shown = world.static.material[np.isin(world.static.instance, rows)]
    walls = {Material(m) for m in shown if Material(m).name.startswith("FACADE")}
    assert walls == {material}


def test_a_park_has_the_rides_and_stalls_of_the_scene() -> None:
    phrases = [x.phrase for x in world_of("amusement_park", 3).instances]
    assert sum("turning Ferris wheel" in p for p in phrases) == 1
    assert sum("turning carousel" in p for p in phrases) == 1
    assert sum("coaster train" in p for p in phrases) == 1
    assert sum(p.startswith("a stall") for p in phrases) == 4


@pytest.mark.parametrize("institution", OUTDOORS)
def test_the_signs_of_the_scene_are_shown(institution: str) -> None:
    phrases = {x.phrase for x in world_of(institution, 2).instances}
    for sign in make_scene(institution).signs:
        assert not sign.text or f'a sign that says "{sign.text}"' in phrases


@pytest.mark.parametrize("shade", ["yellow", "white"])
@pytest.mark.parametrize("form", ["double", "solid", "dashed"])
def test_a_centre_line_runs_along_the_middle_but_not_over_the_crossing(
    form: str, shade: str
) -> None:
    middles = {
        line: markings(make_scene("street", style={"centre_line": line} if line else {}))
        for line in ("", f"{form} {shade}")
    }
    added = middles[f"{form} {shade}"][len(middles[""]) :]
    red, _, blue = np.concatenate([color for color, _ in added]).mean(0)
    assert (red > 2 * blue) == (shade == "yellow")
    at = np.concatenate([corners for _, corners in added])
    assert np.abs(at[:, 1]).max() < 0.2
    assert np.ptp(at[:, 0]) > 190
    bars = np.concatenate([corners for _, corners in middles[""]])
    zebra = bars[np.abs(bars[:, 1]) < 0.7][:, 0]
    assert np.abs(at[:, 0][:, None] - zebra).min() > 0.3


def markings(scene: Scene) -> list[tuple[np.ndarray, np.ndarray]]:
    """Colours and corners of the white and yellow paint on the road, block by block."""
    world = build_world(Recipe(scene, Shape(num_frames=5)))
    lines = [i for i, x in enumerate(world.instances) if x.phrase == "road markings"]
    faces = np.flatnonzero(np.isin(world.static.instance, lines))
    corners = world.static.vertices[world.static.faces[faces]]
    return [(world.static.color[[f]], c) for f, c in zip(faces, corners, strict=True)]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("seed", range(3))
def test_traffic_keeps_to_the_side_of_the_place(side: str, seed: int) -> None:
    scene = make_scene(
        "street", seed=seed, driving_side=side, subjects=(Subject("car", 14), Subject("bus", 2))
    )
    world = build_world(Recipe(scene, Shape(num_frames=5)))
    now, later = (origins(world, SemanticClass.VEHICLE, t) for t in (0.0, 0.1))
    velocity = later - now
    left_of_way = now[:, 1] * np.sign(velocity[:, 0])  # +y is on the left of who drives along +x
    assert len(now) >= 4
    assert (left_of_way > 0).all() if side == "left" else (left_of_way < 0).all()
    assert np.abs(velocity[:, 0]).min() > 0.3


@pytest.mark.parametrize("seed", [1, 3, 4])
def test_on_a_broad_pavement_the_player_keeps_away_from_trunks(seed: int) -> None:
    scene = make_scene("street", seed=seed, camera="stroll", style={"road": "standard"})
    world = build_world(Recipe(scene, Shape(num_frames=97)))
    trees = [k for k, x in enumerate(world.instances) if "tree" in x.phrase]
    corners = world.static.vertices[world.static.faces[np.isin(world.static.instance, trees)]]
    trunks = corners[corners[..., 2] < 1.0][:, :2]
    eyes = world.track.camera_to_world[:, :2, 3]
    assert np.linalg.norm(eyes[:, None] - trunks, axis=-1).min() > 1.08


def test_what_a_street_cannot_show_is_refused() -> None:
    scene = make_scene("street", subjects=(Subject("elephant", 1),))
    with pytest.raises(ClipRejectedError, match="cannot show 'elephant'"):
        build_world(Recipe(scene, SHAPE))


def test_more_than_fits_is_refused() -> None:
    for institution, subject in (
        ("street", Subject("tree", 90)),
        ("amusement_park", Subject("stall", 40)),
    ):
        with pytest.raises(ClipRejectedError, match="at most"):
            build_world(Recipe(make_scene(institution, subjects=(subject,)), SHAPE))
    crush = make_scene("street", roles=(Role("pedestrian", 900, Dress()),))
    with pytest.raises(ClipRejectedError, match="No room"):
        build_world(Recipe(crush, SHAPE))


def test_an_unknown_institution_is_refused() -> None:
    scene = replace(make_scene("street"), institution="casino")
    with pytest.raises(UnknownKeyError, match="casino"):
        build_world(Recipe(scene, SHAPE))


@pytest.mark.parametrize("seed", range(12))
def test_a_ride_is_ahead_in_most_frames(seed: int) -> None:
    world = world_of("amusement_park", seed)
    mesh = world.static
    rides = [
        i for i, x in enumerate(world.instances) if x.semantic == SemanticClass.RIDE and not x.moves
    ]
    corners = mesh.vertices[mesh.faces[np.isin(mesh.instance, rides)][:, 0]]
    seen = 0
    for pose in world.track.camera_to_world[::4]:
        local = (corners - pose[:3, 3]) @ pose[:3, :3]
        ahead = local[local[:, 2] > 1]
        inside = (np.abs(ahead[:, 0] / ahead[:, 2]) < 0.7) & (
            np.abs(ahead[:, 1] / ahead[:, 2]) < 0.39
        )
        seen += inside.sum() > 100
    assert seen >= 0.6 * len(world.track.camera_to_world[::4])


@pytest.mark.parametrize("place", ["tokyo-zoo", "mumbai-street"])
def test_scenes_of_version_1_can_still_be_built(place: str) -> None:
    record = json.loads((GOLDEN / "scenes" / "v1" / f"{place}.json").read_text(encoding="utf-8"))
    del record["scene_id"]
    world = build_world(Recipe(Scene.from_record(record), Shape(num_frames=5)))
    assert world.static.num_faces > 1000


@pytest.mark.parametrize("trees", ["broadleaf", "palm", "conifer"])
def test_no_street_lamp_hangs_in_a_crown(trees: str) -> None:
    for seed in range(4):
        scene = make_scene("street", seed=seed, style={"trees": trees})
        world = build_world(Recipe(replace(scene, subjects=(Subject("tree", 16),)), SHAPE))
        leaves = world.static.faces[world.static.material == Material.FOLIAGE]
        at = world.static.vertices[np.unique(leaves)]
        for lamp in world.lamps[:, :3]:
            assert np.linalg.norm(at - lamp, axis=1).min() > 0.5


def test_the_walls_of_stalls_are_not_blank() -> None:
    world = world_of("amusement_park", 1)
    stalls = [i for i, x in enumerate(world.instances) if x.semantic == SemanticClass.STALL]
    mesh = world.static
    blank = np.isin(mesh.instance, stalls) & (mesh.material == Material.MATTE)
    assert stalls
    assert not blank.any()
