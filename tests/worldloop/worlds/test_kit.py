"""The kit and the vehicles: closed skins, crowns above heads, things that block the way."""

from collections.abc import Callable

import numpy as np
import pytest

from tests.factories import make_scene
from tests.worldloop.worlds.stages import finished
from worldloop.seeds import stream
from worldloop.worlds import kit, vehicles
from worldloop.worlds.geometry import Material, Mesh
from worldloop.worlds.stage import Stage

THINGS: dict[str, Callable[[Stage], int]] = {
    "tree": lambda s: kit.add_tree(s, (0, 0, 0), stream(1)),
    "shrub": lambda s: kit.add_shrub(s, (0, 0, 0), stream(1)),
    "hedge": lambda s: kit.add_hedge(s, (-2, -1), (3, 2), stream(1)),
    "flower bed": lambda s: kit.add_flower_bed(s, (-2, -1), (2, 1), stream(1)),
    "lamp": lambda s: kit.add_lamp_post(s, (0, 0, 0)),
    "lamp with arm": lambda s: kit.add_lamp_post(s, (0, 0, 0), arm_rad=1.0),
    "bench": lambda s: kit.add_bench(s, (0, 0, 0), 0.6),
    "bin": lambda s: kit.add_bin(s, (0, 0, 0), stream(1)),
    "bollard": lambda s: kit.add_bollard(s, (0, 0, 0)),
    "fence": lambda s: kit.add_fence(s, [(-2, 0), (2, 0)]),
    "sign post": lambda s: kit.add_sign_post(s, s.scene.signs[1], at=(0, 0, 0), facing_rad=0.3),
}


def empty(**changes: object) -> Stage:
    """A stage with nothing on it."""
    return Stage(make_scene(**changes), low=(-20, -20), high=(20, 20))  # type: ignore[arg-type]


def volume(mesh: Mesh) -> float:
    """Signed volume of all faces; floors at height 0 add nothing."""
    a, b, c = (mesh.vertices[mesh.faces[:, k]].astype(np.float64) for k in range(3))
    return float((a * np.cross(b, c)).sum() / 6)


@pytest.mark.parametrize("name", THINGS)
def test_things_face_outwards_stand_on_the_ground_and_block_the_way(name: str) -> None:
    stage = empty()
    instance = THINGS[name](stage)
    world = finished(stage)
    assert volume(world.static) > 0
    assert set(world.static.instance) == {instance}
    assert world.static.vertices[:, 2].min() == pytest.approx(0, abs=0.2)
    assert stage.plan.distance([(0, 0)], bounded=False)[0] < 0.3


@pytest.mark.parametrize("climate", ["Af", "BWh", "Cfb", "Dfb"])
@pytest.mark.parametrize("season", ["spring", "summer", "autumn", "winter"])
def test_leaves_hang_above_heads(climate: str, season: str) -> None:
    for seed in range(6):
        stage = empty(climate=climate, season=season)
        kit.add_tree(stage, (0, 0, 0), stream(seed))
        mesh = finished(stage).static
        leaves = mesh.faces[mesh.material == Material.FOLIAGE]
        assert mesh.num_faces < 1500
        if len(leaves):
            assert mesh.vertices[leaves, 2].min() > kit.CROWN_LOW_M - 0.45


def test_winter_trees_are_bare_where_winters_are_cool() -> None:
    for climate, bare in (("Cfb", True), ("Cfa", True), ("Af", False)):
        stage = empty(climate=climate, season="winter")
        kit.add_tree(stage, (0, 0, 0), stream(3))
        assert (Material.FOLIAGE not in finished(stage).static.material) == bare


@pytest.mark.parametrize(
    ("kind", "phrase"),
    [("palm", "a palm tree"), ("conifer", "a fir tree"), ("bare", "a bare tree")],
)
def test_the_style_decides_what_trees_are(kind: str, phrase: str) -> None:
    for seed in range(6):
        stage = empty(climate="Cfb", season="summer", style={"trees": kind})
        tree = kit.add_tree(stage, (0, 0, 0), stream(seed))
        assert finished(stage).instances[tree].phrase == phrase


def test_leaves_stay_in_winter_where_the_style_says_so() -> None:
    stage = empty(climate="Cfb", season="winter", style={"trees": "broadleaf"})
    kit.add_tree(stage, (0, 0, 0), stream(3))
    assert Material.FOLIAGE in finished(stage).static.material


def test_lamps_give_light_where_their_lantern_is() -> None:
    stage = empty()
    kit.add_lamp_post(stage, (1, 2, 0), arm_rad=0.0)
    x, y, z = finished(stage).lamps[0, :3]
    assert (x, y) == pytest.approx((2.5, 2.0))
    assert 5 < z < 6


def test_bunting_hangs_between_its_ends() -> None:
    stage = empty()
    kit.add_bunting(stage, (0, 0, 5), (8, 0, 5), stream(1), bulbs=True)
    mesh = finished(stage).static
    assert Material.NEON in mesh.material
    assert 4 < mesh.vertices[:, 2].min() < 4.7
    assert mesh.vertices[:, 2].max() <= 5.1


@pytest.mark.parametrize("kind", vehicles.KINDS)
def test_vehicles_face_outwards_and_have_their_length(kind: str) -> None:
    stage = empty()
    vehicles.add_vehicle(stage, kind, stream(kind))
    world = finished(stage)
    mesh = world.static
    assert volume(mesh) > 0
    assert np.ptp(mesh.vertices[:, 0]) == pytest.approx(vehicles.LENGTHS_M[kind], abs=0.35)
    assert mesh.vertices[:, 2].min() == pytest.approx(0, abs=0.02)
    assert world.instances[1].phrase.startswith("a parked ")
    assert world.instances[1].phrase.endswith(kind)
    assert stage.plan.distance([(0, 0)], bounded=False)[0] < 0


@pytest.mark.parametrize("kind", ["car", "taxi", "van", "bus", "lorry"])
def test_panes_look_out_of_the_vehicle(kind: str) -> None:
    stage = empty()
    vehicles.add_vehicle(stage, kind, stream(kind))
    mesh = finished(stage).static
    a, b, c = (mesh.vertices[mesh.faces[mesh.material == Material.GLASS]][:, k] for k in range(3))
    middle = np.array([0.0, 0.0, 1.0])
    assert (((a + b + c) / 3 - middle) * np.cross(b - a, c - a)).sum(1).min() > 0


@pytest.mark.parametrize("seed", range(4))
def test_the_crown_of_a_tree_is_half_of_it_and_keeps_its_reach(seed: int) -> None:
    def leaves(height_m: float) -> np.ndarray:
        stage = empty(season="summer", style={"trees": "broadleaf"})
        kit.add_tree(stage, (0, 0, 0), stream(seed), height_m=height_m)
        mesh = finished(stage).static
        return mesh.vertices[np.unique(mesh.faces[mesh.material == Material.FOLIAGE])]

    assert leaves(9.0)[:, 2].min() < 0.48 * 9.0
    assert np.hypot(*leaves(7.6)[:, :2].T).max() < kit.CROWN_REACH_M


def test_a_bare_tree_branches_all_along_its_trunk() -> None:
    stage = empty(style={"trees": "bare"})
    kit.add_tree(stage, (0, 0, 0), stream(5), height_m=8.0)
    vertices = finished(stage).static.vertices
    off = vertices[np.hypot(vertices[:, 0], vertices[:, 1]) > 0.6, 2]
    assert off.min() < 0.5 * 8.0
    assert np.histogram(off, bins=7, range=(3.5, 7.0))[0].min() > 0
