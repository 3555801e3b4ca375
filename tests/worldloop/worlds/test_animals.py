"""Animals: they stand on the ground, walk where they look, and stay inside their extent."""

import numpy as np
import pytest

from worldloop.errors import UnknownKeyError
from worldloop.worlds.animals import KINDS, Action, Habit, Herd, sculpt
from worldloop.worlds.geometry import MeshBuilder

TIMES = np.linspace(0.0, 90.0, 46)


def lone(kind: str, action: Action, size: float = 1.0) -> Herd:
    radii = (7.0, 2.5) if action == "walking" else (0.0, 0.0)
    return Herd(kind, [Habit(action, (3.0, -2.0), 0.5, radii, 0.4, 1, size, 0.3)])


def corners(herd: Herd, time_s: float) -> np.ndarray:
    """Every vertex of the herd in the world, (V, 3)."""
    builder = MeshBuilder()
    herd.add_meshes(builder, range(1, len(herd.habits) + 1), 0)
    mesh, pose = builder.build(), herd.matrices(time_s)
    turn, at = pose[mesh.part, :, :3], pose[mesh.part, :, 3]
    return np.einsum("vij,vj->vi", turn, mesh.vertices) + at


@pytest.mark.parametrize("kind", KINDS)
def test_a_body_stays_within_its_budget_and_its_table(kind: str) -> None:
    body = sculpt(kind)
    assert 300 < body.num_faces < 1200
    assert all(bone.parent < index for index, bone in enumerate(body.bones))
    standing = corners(lone(kind, "standing"), 0.0)
    assert standing[:, 2].max() - 0.5 == pytest.approx(body.height_m, rel=0.12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_standing_animal_has_its_feet_on_the_ground(kind: str) -> None:
    for time_s in (0.0, 1.7, 4.0):
        assert abs(corners(lone(kind, "standing"), time_s)[:, 2].min() - 0.5) < 0.09


@pytest.mark.parametrize("kind", KINDS)
def test_a_resting_animal_is_lower_than_a_standing_one(kind: str) -> None:
    standing, resting = (corners(lone(kind, a), 1.0)[:, 2].max() for a in ("standing", "resting"))
    assert resting < standing


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("action", ["standing", "walking", "grazing", "resting"])
def test_an_animal_never_leaves_its_extent(kind: str, action: Action) -> None:
    herd = lone(kind, action, size=1.05)
    reach = np.array(herd.habits[0].extent_m(herd.body.length_m))
    for time_s in TIMES[:: 1 if action == "walking" else 8]:
        away = np.abs(corners(herd, float(time_s))[:, :2] - [3.0, -2.0]).max(0)
        assert (away <= reach + 0.05).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_walker_goes_where_it_looks_at_its_pace(kind: str) -> None:
    herd = lone(kind, "walking")
    before, now, after = (herd.positions(t)[0] for t in (1.99, 2.0, 2.01))
    step = (after - before)[:2] / 0.02
    assert np.dot(step, [np.cos(now[2]), np.sin(now[2])]) == pytest.approx(
        np.hypot(*step), rel=1e-3
    )
    assert 0.2 * herd.body.speed_mps < np.hypot(*step) <= 1.01 * herd.body.speed_mps


def test_heads_and_tails_of_standing_animals_move() -> None:
    herd = lone("elephant", "standing")
    moved = np.abs(herd.matrices(2.0) - herd.matrices(0.0)).max((1, 2))
    names = [bone.name for bone in herd.body.bones]
    for part in ("head", "tail", "left ear", "lower trunk"):
        assert moved[names.index(part)] > 0.01


def test_individuals_of_a_herd_are_posed_as_if_alone() -> None:
    habits = [lone("zebra", a).habits[0] for a in ("standing", "walking", "grazing")]
    together = Herd("zebra", habits).matrices(3.0).reshape(3, -1, 3, 4)
    for habit, pose in zip(habits, together, strict=True):
        np.testing.assert_array_equal(pose, Herd("zebra", [habit]).matrices(3.0))


def test_an_unknown_animal_is_refused_with_a_hint() -> None:
    with pytest.raises(UnknownKeyError, match="Did you mean 'zebra'"):
        sculpt("zebr")
