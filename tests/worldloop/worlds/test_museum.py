"""The museum: true to its scene, with pictures in view and room for the camera."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from tests.factories import make_scene
from tests.worldloop.worlds.test_worlds import digest, origins
from worldloop.errors import ClipRejectedError, UnknownKeyError
from worldloop.recipes import Recipe, Shape
from worldloop.scenes.scene import Subject
from worldloop.worlds.geometry import Material, SemanticClass
from worldloop.worlds.grammar import build_world
from worldloop.worlds.museum import WALLS
from worldloop.worlds.stage import MAX_TRIANGLES
from worldloop.worlds.world import World

SEEDS = range(12)
SHAPE = Shape(num_frames=49)
CAMERAS = ("stroll", "tour", "wander")


@cache
def world_of(seed: int) -> World:
    scene = make_scene("museum", seed=seed, camera=CAMERAS[seed % 3])
    return build_world(Recipe(scene, SHAPE))


def test_a_recipe_gives_the_same_museum_twice() -> None:
    recipe = Recipe(make_scene("museum", seed=3), SHAPE)
    assert digest(build_world(recipe)) == digest(build_world(recipe))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_museum_has_what_its_scene_says(seed: int) -> None:
    phrases = [x.phrase for x in world_of(seed).instances]
    assert sum(" painting in a " in p for p in phrases) == 14
    assert sum(p.endswith((" on a plinth", " sculpture")) for p in phrases) == 3
    assert sum(p.startswith("a visitor") for p in phrases) == 7
    assert sum(p.startswith("a guard") for p in phrases) == 1
    assert 'a sign that says "博物館"' in phrases
    assert 'a sign that says "出口"' in phrases
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
def test_art_is_in_view_in_most_frames(seed: int) -> None:
    world = world_of(seed)
    pictures = world.static.faces[world.static.material == Material.PICTURE]
    at = world.static.vertices[pictures].mean(1)
    seen = 0
    for camera in world.track.camera_to_world[::4]:
        away = at - camera[:3, 3]
        right, forward = away @ camera[:3, 0], away @ camera[:3, 2]
        seen += bool(((forward > 1) & (forward < 16) & (np.abs(right) < 0.68 * forward)).any())
    assert seen >= 0.75 * len(world.track.camera_to_world[::4])


def test_the_wall_has_the_colour_of_the_style() -> None:
    for name, color in WALLS.items():
        scene = make_scene("museum", style={"wall": name})
        world = build_world(Recipe(scene, Shape(num_frames=5)))
        walls = [i for i, x in enumerate(world.instances) if x.phrase == "the walls of a gallery"]
        shown = world.static.color[np.isin(world.static.instance, walls)]
        assert np.isclose(shown, color, atol=1e-5).all(1).any()


def test_nobody_has_an_umbrella_indoors() -> None:
    world = build_world(Recipe(make_scene("museum", weather="rain"), SHAPE))
    assert not any("umbrella" in x.phrase for x in world.instances)


def test_the_skylight_is_dark_at_night_and_the_room_is_lit() -> None:
    scene = make_scene("museum", sun_elevation_deg=-30.0, style={"ceiling": "skylight"})
    world = build_world(Recipe(scene, SHAPE))
    assert "a dark skylight" in {x.phrase for x in world.instances}
    assert world.room is not None
    assert min(world.room.ambient) > 0.4


def test_what_a_museum_cannot_show_is_refused() -> None:
    scene = make_scene("museum")
    with pytest.raises(UnknownKeyError, match="museum subject"):
        build_world(Recipe(replace(scene, subjects=(Subject("car", 1),)), SHAPE))
    with pytest.raises(UnknownKeyError, match="museum wall"):
        build_world(Recipe(replace(scene, style={"wall": "plaid"}), SHAPE))
    with pytest.raises(ClipRejectedError, match="plinths"):
        build_world(Recipe(replace(scene, subjects=(Subject("vase", 80),)), SHAPE))
