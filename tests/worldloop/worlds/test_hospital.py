"""The hospital ward: true to its scene, bright, with beds in view and room for the camera."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from tests.factories import make_scene
from tests.worldloop.worlds.test_worlds import digest, origins
from worldloop.errors import ClipRejectedError, UnknownKeyError
from worldloop.recipes import Recipe, Shape
from worldloop.scenes.scene import Dress, Role, Subject
from worldloop.worlds.geometry import Material, SemanticClass
from worldloop.worlds.grammar import build_world
from worldloop.worlds.stage import MAX_TRIANGLES
from worldloop.worlds.world import World

SEEDS = range(12)
SHAPE = Shape(num_frames=49)
CAMERAS = ("stroll", "tour", "wander")


@cache
def world_of(seed: int) -> World:
    scene = make_scene("hospital", seed=seed, camera=CAMERAS[seed % 3])
    return build_world(Recipe(scene, SHAPE))


def test_a_recipe_gives_the_same_ward_twice() -> None:
    recipe = Recipe(make_scene("hospital", seed=3), SHAPE)
    assert digest(build_world(recipe)) == digest(build_world(recipe))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_ward_has_what_its_scene_says(seed: int) -> None:
    phrases = [x.phrase for x in world_of(seed).instances]
    assert phrases.count("a hospital bed with a patient") == 4
    assert phrases.count("an empty hospital bed") == 4
    assert phrases.count("an infusion stand") == 5
    assert phrases.count("a curtain on a rail") == 8
    for name, count in (("nurse", 3), ("doctor", 1), ("patient", 4)):
        assert sum(p.startswith(f"a {name} in ") for p in phrases) == count
    for text in ("病院", "病棟", "出口"):
        assert f'a sign that says "{text}"' in phrases
    assert world_of(seed).static.num_faces + world_of(seed).moving.num_faces <= MAX_TRIANGLES


@pytest.mark.parametrize("seed", SEEDS)
def test_the_camera_keeps_clear_of_people_and_things(seed: int) -> None:
    world = world_of(seed)
    centres = world.static.vertices[world.static.faces].mean(1)
    upright = centres[(centres[:, 2] > 0.3) & (centres[:, 2] < 2.0), :2]
    for frame in range(0, SHAPE.num_frames, 4):
        eye = world.track.camera_to_world[frame, :2, 3]
        people = origins(world, SemanticClass.PERSON, frame / SHAPE.rate_fps)[:, :2]
        assert np.hypot(*(people - eye).T).min() > 1.0
        assert np.hypot(*(upright - eye).T).min() > 0.42


@pytest.mark.parametrize("seed", SEEDS)
def test_patients_lie_in_beds_with_patients(seed: int) -> None:
    world = world_of(seed)
    mesh = world.static
    beds = [i for i, x in enumerate(world.instances) if x.phrase == "a hospital bed with a patient"]
    middles = [mesh.vertices[mesh.faces[mesh.instance == i]].mean((0, 1))[:2] for i in beds]
    people = origins(world, SemanticClass.PERSON, 0.0)
    lying = people[np.abs(people[:, 2] - 0.69) < 0.06]
    assert len(lying) == 4
    for at in lying[:, :2]:
        assert min(np.hypot(*(at - middle)) for middle in middles) < 0.6


@pytest.mark.parametrize("seed", SEEDS)
def test_a_trolley_rolls_ahead_of_the_nurse_who_pushes_it(seed: int) -> None:
    world = world_of(seed)
    phrases = [x.phrase for x in world.instances]
    if "a medicine trolley" not in phrases:
        assert not any("pushing" in p for p in phrases)
        return
    mesh = world.moving
    trolley, nurse = (
        phrases.index("a medicine trolley"),
        next(i for i, p in enumerate(phrases) if p.endswith("pushing a trolley")),
    )
    parts = [mesh.part[mesh.faces[mesh.instance == i]].min() for i in (trolley, nurse)]
    for time_s in (0.0, 1.0, 2.0):
        a, b = world.pose(time_s)[parts, :2, 3]
        assert 0.6 < np.hypot(*(a - b)) < 1.0


def test_windows_are_bright_by_day_and_dark_at_night() -> None:
    panes = {}
    for elevation_deg in (40.0, -30.0):
        scene = make_scene("hospital", sun_elevation_deg=elevation_deg)
        world = build_world(Recipe(scene, Shape(num_frames=5)))
        windows = [i for i, x in enumerate(world.instances) if x.phrase == "a window"]
        panes[elevation_deg] = set(world.static.material[np.isin(world.static.instance, windows)])
        assert world.room is not None
        assert min(world.room.ambient) > 0.5
    assert int(Material.LAMP) in panes[40.0]
    assert int(Material.LAMP) not in panes[-30.0]
    assert int(Material.GLASS) in panes[-30.0]


def test_what_a_ward_cannot_hold_is_refused() -> None:
    scene = make_scene("hospital")
    with pytest.raises(UnknownKeyError, match="hospital subject"):
        build_world(Recipe(replace(scene, subjects=(Subject("car", 1),)), SHAPE))
    with pytest.raises(UnknownKeyError, match="hospital accent"):
        build_world(Recipe(replace(scene, style={"accent": "plaid"}), SHAPE))
    crowd = (Role("patient", 9, Dress("robe", "robe"), "lying"),)
    with pytest.raises(ClipRejectedError, match="ask for more beds"):
        build_world(Recipe(replace(scene, roles=crowd), SHAPE))
    stands = (Subject("bed", 2), Subject("infusion stand", 5))
    with pytest.raises(ClipRejectedError, match="the ward holds"):
        build_world(Recipe(replace(scene, subjects=stands, roles=()), SHAPE))
