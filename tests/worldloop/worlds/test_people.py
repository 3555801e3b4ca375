"""People: dress, phrases, postures and gait."""

import numpy as np
import pytest

from tests.factories import make_scene
from tests.worldloop.worlds.stages import finished, posed
from worldloop.scenes.scene import Dress, Role
from worldloop.seeds import stream
from worldloop.worlds.geometry import SemanticClass
from worldloop.worlds.paths import Path
from worldloop.worlds.people import FOOT, HEAD, NUM_PARTS, TORSO, Troupe
from worldloop.worlds.stage import Stage
from worldloop.worlds.world import World

NURSE = Role("nurse", 1, Dress("scrubs", color="teal", head="nurse cap"))


def troupe_on(**changes: object) -> Troupe:
    """A troupe on an empty stage."""
    return Troupe(Stage(make_scene(**changes), low=(-20, -20), high=(20, 20)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("dress", "phrase"),
    [
        (Dress("scrubs", color="teal"), "a nurse in teal scrubs"),
        (Dress("robe", "robe", color="pale blue"), "a nurse in a pale blue robe"),
        (
            Dress("hi-vis vest", head="hard hat", color="orange"),
            "a nurse in an orange hi-vis vest and a hard hat",
        ),
        (
            Dress("uniform", head="headscarf", color="navy"),
            "a nurse in a navy uniform and a headscarf",
        ),
    ],
)
def test_a_phrase_says_what_is_worn(dress: Dress, phrase: str) -> None:
    troupe = troupe_on()
    troupe.place(
        Role("nurse", 1, dress), at=(0, 0, 0), heading_rad=0, posture="standing", rng=stream(1)
    )
    instance = finished(troupe.stage).instances[1]
    assert instance.phrase == phrase
    assert instance.semantic == SemanticClass.PERSON
    assert instance.moves


def test_the_main_colour_is_the_one_asked_for() -> None:
    troupe = troupe_on()
    troupe.place(NURSE, at=(0, 0, 0), heading_rad=0, posture="standing", rng=stream(1))
    mesh = finished(troupe.stage).moving
    torso = mesh.part[mesh.faces[:, 0]] == TORSO
    colors, counts = np.unique(mesh.color[torso], axis=0, return_counts=True)
    red, green, blue = colors[np.argmax(counts)]
    assert green > 2 * red
    assert blue > 2 * red


@pytest.mark.parametrize(
    "top", ["shirt", "coat", "scrubs", "uniform", "jacket", "robe", "hi-vis vest"]
)
@pytest.mark.parametrize("head", ["none", "cap", "headscarf", "straw hat", "hard hat", "nurse cap"])
def test_every_dress_can_be_worn_within_budget(top: str, head: str) -> None:
    troupe = troupe_on(weather="rain")
    bottom = {"robe": "robe", "shirt": "shorts", "uniform": "skirt"}.get(top, "trousers")
    role = Role("visitor", 1, Dress(top, bottom, head))
    troupe.walk(role, Path(((0, 0), (9, 0)), 1.3), rng=stream(top, head))
    world = finished(troupe.stage)
    assert 300 < world.moving.num_faces < 1400
    assert np.isfinite(posed(world, 0.7)).all()


@pytest.mark.parametrize("posture", ["standing", "queueing", "walking"])
def test_feet_stay_on_the_ground(posture: str) -> None:
    troupe = troupe_on()
    if posture == "walking":
        troupe.walk(NURSE, Path(((0, 0), (9, 0)), 1.3, height_m=0.15), rng=stream(3))
    else:
        troupe.place(NURSE, at=(0, 0, 0.15), heading_rad=0.5, posture=posture, rng=stream(3))
    world = finished(troupe.stage)
    for time_s in np.linspace(0, 1.2, 9):
        assert posed(world, float(time_s))[:, 2].min() == pytest.approx(0.15, abs=0.05)
        assert 1.5 < posed(world, float(time_s))[:, 2].max() - 0.15 < 2.1


def test_somebody_who_sits_sits_on_the_seat_and_somebody_who_lies_lies_on_the_bed() -> None:
    troupe = troupe_on()
    troupe.place(NURSE, at=(0, 0, 0), heading_rad=0, posture="sitting", seat_m=0.45, rng=stream(4))
    troupe.place(NURSE, at=(5, 0, 0.7), heading_rad=np.pi, posture="lying", rng=stream(4))
    pose = finished(troupe.stage).pose(0.0)
    assert pose[TORSO, 2, 3] == pytest.approx(0.53, abs=0.02)
    lying = pose[NUM_PARTS:]
    assert lying[HEAD, 0, 3] < lying[FOOT, 0, 3] - 1.2  # the head towards the heading, -x
    assert abs(lying[HEAD, 2, 3] - lying[FOOT, 2, 3]) < 0.15


def test_a_walker_faces_forward_and_swings_opposite_limbs() -> None:
    troupe = troupe_on()
    troupe.walk(NURSE, Path(((0, 0), (0, 9)), 1.4), rng=stream(5))
    pose = finished(troupe.stage).pose
    assert pose(0.5)[TORSO, :, 0] == pytest.approx([0, 1, 0], abs=0.02)
    assert pose(1.5)[TORSO, 1, 3] - pose(0.5)[TORSO, 1, 3] == pytest.approx(1.4, abs=0.01)
    stride = np.array(
        [pose(t)[FOOT : FOOT + 2, 1, 3] - pose(t)[TORSO, 1, 3] for t in np.linspace(0, 1.1, 24)]
    )
    assert np.corrcoef(stride.T)[0, 1] < -0.8
    assert np.ptp(stride[:, 0]) > 0.5


def test_people_who_stay_block_the_way() -> None:
    troupe = troupe_on()
    troupe.place(NURSE, at=(2, 1, 0), heading_rad=0, posture="standing", rng=stream(6))
    assert troupe.stage.plan.distance([(2, 1)])[0] < 0


def test_a_child_is_smaller() -> None:
    heights = []
    for name in ("visitor", "child"):
        troupe = troupe_on()
        troupe.place(
            Role(name, 1, Dress()), at=(0, 0, 0), heading_rad=0, posture="standing", rng=stream(7)
        )
        heights.append(posed(finished(troupe.stage), 0.0)[:, 2].max())
    assert heights[1] < 0.85 * heights[0]


def test_umbrellas_open_in_the_rain_but_not_under_a_roof() -> None:
    def open_umbrellas(*, indoors: bool) -> int:
        stage = Stage(make_scene(weather="rain"), low=(-20, -20), high=(20, 20))
        troupe = Troupe(stage, indoors=indoors)
        for k in range(8):
            path = Path([(-5.0, float(k)), (5.0, float(k))], 1.0)
            troupe.walk(Role("visitor", 1, Dress("coat")), path, rng=stream(k))
        return sum("umbrella" in x.phrase for x in finished(stage).instances)

    assert open_umbrellas(indoors=False) > 2
    assert open_umbrellas(indoors=True) == 0


def crowd_of(role: Role, count: int, **changes: object) -> World:
    """So many people of a role who stand apart."""
    troupe = troupe_on(**changes)
    for k in range(count):
        troupe.place(
            role, at=(2.0 * k, 0, 0), heading_rad=0, posture="standing", rng=stream("crowd", k)
        )
    return finished(troupe.stage)


@pytest.mark.parametrize("top", ["shirt", "jacket", "coat"])
def test_the_public_chooses_hats_bags_and_skirts(top: str) -> None:
    phrases = " ".join(x.phrase for x in crowd_of(Role("visitor", 60, Dress(top)), 60).instances)
    hats = [hat for hat in ("cap", "straw hat", "bucket hat", "beanie") if hat in phrases]
    assert len(hats) >= 2
    assert all(bag in phrases for bag in ("backpack", "shoulder bag", "handbag"))


@pytest.mark.parametrize("top", ["shirt", "jacket", "coat"])
def test_bodies_and_garments_of_the_public_differ(top: str) -> None:
    world = crowd_of(Role("visitor", 40, Dress(top)), 40)
    mesh = world.moving
    triangles, breadth = set(), []
    for instance in range(1, len(world.instances)):
        mine = mesh.faces[mesh.instance == instance]
        triangles.add(len(mine))
        arms = mesh.vertices[mine[np.isin(mesh.part[mine[:, 0]] % NUM_PARTS, (2, 3))]]
        breadth.append(np.ptp(arms.reshape(-1, 3)[:, 1]) / np.ptp(arms.reshape(-1, 3)[:, 2]))
    assert len(triangles) >= 22
    assert max(breadth) > 1.15 * min(breadth)


def test_a_uniform_stays_a_uniform() -> None:
    role = Role("guard", 12, Dress("uniform", head="cap", color="navy"))
    world = crowd_of(role, 12)
    assert {x.phrase for x in world.instances[1:]} == {"a guard in a navy uniform and a cap"}


def test_nobody_of_the_public_keeps_a_hat_on_under_a_roof() -> None:
    stage = Stage(make_scene(), low=(-20, -20), high=(20, 20))
    troupe = Troupe(stage, indoors=True)
    for k in range(30):
        at = (0.5 * k, 0, 0)
        troupe.place(
            Role("visitor", 1, Dress()), at=at, heading_rad=0, posture="standing", rng=stream(k)
        )
    assert not any("hat" in x.phrase or " cap" in x.phrase for x in finished(stage).instances)


def test_white_cloth_gives_back_no_more_light_than_linen() -> None:
    world = crowd_of(Role("visitor", 1, Dress("shirt", color="white")), 6)
    torso = world.moving.part[world.moving.faces[:, 0]] % NUM_PARTS == TORSO
    assert 0.6 < world.moving.color[torso].max() <= 0.71
