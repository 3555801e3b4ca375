"""The zoo: true to its scene, animals in their enclosures, the camera out of them and close by."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from tests.factories import make_scene
from tests.worldloop.worlds.test_worlds import digest, origins
from worldloop.atlas.records import Sign
from worldloop.errors import ClipRejectedError, UnknownKeyError
from worldloop.recipes import Recipe, Shape
from worldloop.scenes.scene import Scene, Subject
from worldloop.worlds.animals import KINDS
from worldloop.worlds.enclosures import lay_out_enclosures
from worldloop.worlds.geometry import Material, SemanticClass
from worldloop.worlds.grammar import build_world
from worldloop.worlds.stage import MAX_TRIANGLES
from worldloop.worlds.world import World

SEEDS = range(12)
SHAPE = Shape(num_frames=49)


def scene_of(seed: int) -> Scene:
    """A zoo with other animals for each seed."""
    kinds = [KINDS[(seed * 3 + k * 5) % len(KINDS)] for k in range(2 + seed % 2)]
    subjects = tuple(Subject(kind, 1 + (seed + k) % 4) for k, kind in enumerate(kinds))
    return make_scene("zoo", seed=seed, subjects=subjects)


@cache
def world_of(seed: int) -> World:
    return build_world(Recipe(scene_of(seed), SHAPE))


def animals(world: World) -> dict[int, str]:
    """Instance ids of animals, and what they are called."""
    return {
        i: x.phrase for i, x in enumerate(world.instances) if x.semantic is SemanticClass.ANIMAL
    }


def test_a_recipe_gives_the_same_zoo_twice() -> None:
    scene = scene_of(1)
    assert digest(build_world(Recipe(scene, SHAPE))) == digest(build_world(Recipe(scene, SHAPE)))


@pytest.mark.parametrize("seed", SEEDS)
def test_animals_and_people_are_as_many_as_the_scene_says(seed: int) -> None:
    scene, world = scene_of(seed), world_of(seed)
    for subject in scene.subjects:
        named = [phrase for phrase in animals(world).values() if f" {subject.kind} " in phrase]
        assert len(named) == subject.count
    people = [x.phrase for x in world.instances if x.semantic is SemanticClass.PERSON]
    assert len(people) == sum(role.count for role in scene.roles)


@pytest.mark.parametrize("seed", SEEDS)
def test_animals_stay_in_their_enclosures_at_all_times(seed: int) -> None:
    world, mesh = world_of(seed), world_of(seed).moving
    homes = {e.kind: e for e in lay_out_enclosures(scene_of(seed))}
    for time_s in (0.0, 2.5, 5.0, 20.0, 47.0):
        pose = world.pose(time_s)
        turn, at = pose[mesh.part, :, :3], pose[mesh.part, :, 3]
        where = np.einsum("vij,vj->vi", turn, mesh.vertices) + at
        for instance, phrase in animals(world).items():
            home = homes[phrase.split()[1]]
            body = where[np.unique(mesh.faces[mesh.instance == instance])]
            assert (body[:, :2] > np.array(home.low)).all()
            assert (body[:, :2] < np.array(home.high)).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_camera_stays_out_of_enclosures_and_away_from_people(seed: int) -> None:
    world = world_of(seed)
    for frame in range(0, SHAPE.num_frames, 4):
        eye = world.track.camera_to_world[frame, :2, 3]
        for home in lay_out_enclosures(scene_of(seed)):
            assert not ((eye > np.array(home.low) - 0.4) & (eye < np.array(home.high) + 0.4)).all()
        people = origins(world, SemanticClass.PERSON, frame / SHAPE.rate_fps)[:, :2]
        assert np.hypot(*(people - eye).T).min() > 1.0


@pytest.mark.parametrize("seed", SEEDS)
def test_an_animal_is_in_view_in_most_frames(seed: int) -> None:
    world = world_of(seed)
    seen = 0
    for frame in range(0, SHAPE.num_frames, 4):
        camera = world.track.camera_to_world[frame]
        away = origins(world, SemanticClass.ANIMAL, frame / SHAPE.rate_fps) - camera[:3, 3]
        right, forward = away @ camera[:3, 0], away @ camera[:3, 2]
        seen += bool(((forward > 2) & (forward < 32) & (np.abs(right) < 0.68 * forward)).any())
    assert seen >= 0.7 * len(range(0, SHAPE.num_frames, 4))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_zoo_stays_within_its_budget(seed: int) -> None:
    assert world_of(seed).static.num_faces + world_of(seed).moving.num_faces <= MAX_TRIANGLES


def test_animals_do_what_their_trait_says() -> None:
    herd = (Subject("zebra", 3, "grazing"), Subject("lion", 2, "resting"))
    phrases = animals(build_world(Recipe(make_scene("zoo", subjects=herd), SHAPE))).values()
    assert sorted(phrases) == [
        *["a lion lying on the ground"] * 2,
        *["a zebra with its head down to feed"] * 3,
    ]


def test_the_signs_of_the_scene_are_shown() -> None:
    phrases = {x.phrase for x in build_world(Recipe(make_scene("zoo"), SHAPE)).instances}
    for sign in make_scene("zoo").signs:
        assert f'a sign that says "{sign.text}"' in phrases


def test_what_a_zoo_cannot_show_is_refused() -> None:
    scene = make_scene("zoo")
    with pytest.raises(UnknownKeyError, match="unicorn"):
        build_world(Recipe(replace(scene, subjects=(Subject("unicorn", 1),)), SHAPE))
    with pytest.raises(UnknownKeyError, match="zoo theme"):
        build_world(Recipe(replace(scene, style={"theme": "space"}), SHAPE))
    with pytest.raises(ClipRejectedError, match="do not fit"):
        build_world(Recipe(replace(scene, subjects=(Subject("elephant", 90),)), SHAPE))


@pytest.mark.parametrize("seed", SEEDS)
def test_an_animal_is_well_inside_the_first_picture(seed: int) -> None:
    world = world_of(seed)
    camera = world.track.camera_to_world[0]
    away = origins(world, SemanticClass.ANIMAL, 0.0)[:, :2] - camera[:2, 3]
    ahead = away @ camera[:2, 2]
    aside = np.abs(away @ camera[:2, 0])
    assert ((ahead > 0) & (aside < np.tan(np.radians(32)) * ahead) & (ahead < 22)).any()


def boards_in_view(world: World, frame: int) -> list[np.ndarray]:
    """Boards that face the camera: distance, and low and high corner as tangents, (5,) each."""
    mesh, camera = world.static, world.track.camera_to_world[frame]
    found = []
    for first in np.flatnonzero(mesh.material == Material.SIGN)[::2]:
        corners = mesh.vertices[np.unique(mesh.faces[first : first + 2])].astype(np.float64)
        a, b, c = mesh.vertices[mesh.faces[first]].astype(np.float64)
        seen = (corners - camera[:3, 3]) @ camera[:3, :3]
        if np.cross(b - a, c - a) @ (camera[:3, 3] - a) > 0 and seen[:, 2].min() > 0.5:
            flat = seen[:, :2] / seen[:, 2:]
            if (np.abs(flat).min(0) < (0.7, 0.4)).all():
                found.append(np.concatenate([[seen[:, 2].mean()], flat.min(0), flat.max(0)]))
    return found


def hides(near: np.ndarray, far: np.ndarray) -> bool:
    """Whether a board covers more than 15 % of one behind it."""
    low, high = np.maximum(near[1:3], far[1:3]), np.minimum(near[3:], far[3:])
    covered = np.prod(np.maximum(high - low, 0)) / np.prod(far[3:] - far[1:3])
    return bool(near[0] < far[0] - 0.2 and covered > 0.15)


def test_boards_seldom_hide_each_other() -> None:
    signs = (
        *make_scene("zoo").signs,
        Sign("giraffe", "キリン", "ja"),
        Sign("ticket", "きっぷ売り場", "ja"),
        Sign("ice_cream", "アイスクリーム", "ja"),
    )
    hidden, frames = 0, range(0, SHAPE.num_frames, 10)
    for seed in range(10):
        scene = make_scene("zoo", seed=seed, signs=signs, camera=("stroll", "tour")[seed % 2])
        world = build_world(Recipe(scene, SHAPE))
        for frame in frames:
            boards = boards_in_view(world, frame)
            hidden += any(hides(near, far) for near in boards for far in boards)
    assert hidden <= 0.2 * 10 * len(frames)
