"""The stage: instances, signs that read the right way round, moving parts."""

import numpy as np
import pytest

from tests.factories import make_scene
from tests.worldloop.worlds.stages import finished
from worldloop.errors import UnknownKeyError
from worldloop.worlds import kit
from worldloop.worlds.geometry import Material, Mesh, SemanticClass, sphere
from worldloop.worlds.palette import COLORS, color
from worldloop.worlds.stage import Stage, moved


@pytest.fixture
def stage() -> Stage:
    """An empty stage."""
    return Stage(make_scene(), low=(-20, -20), high=(20, 20))


def sign_faces(mesh: Mesh) -> np.ndarray:
    """Indices of the faces that show a sign."""
    return np.flatnonzero(mesh.material == Material.SIGN)


@pytest.mark.parametrize("facing_rad", [0.0, 1.0, np.pi / 2, np.pi, -2.2])
def test_a_sign_is_never_mirrored(stage: Stage, facing_rad: float) -> None:
    kit.add_sign(stage, stage.scene.signs[1], at=(3, 2, 3), facing_rad=facing_rad, two_sided=True)
    mesh = finished(stage).static
    for face in sign_faces(mesh):
        a, b, c = mesh.vertices[mesh.faces[face]].astype(np.float64)
        (ua, va), (ub, vb), (uc, vc) = mesh.uv[mesh.faces[face]].astype(np.float64)
        normal = np.cross(b - a, c - a)
        # solve for the directions in which u and v grow
        grow = np.linalg.solve([[ub - ua, vb - va], [uc - ua, vc - va]], np.stack([b - a, c - a]))
        right, down = grow
        assert down[2] < 0  # v runs down
        assert np.dot(np.cross(right, -down), normal) > 0  # u runs right for who sees the front


def test_both_faces_of_a_blade_sign_look_away_from_each_other(stage: Stage) -> None:
    kit.add_sign(stage, stage.scene.signs[1], at=(0, 0, 3), facing_rad=0.4, two_sided=True)
    mesh = finished(stage).static
    normals = []
    for face in sign_faces(mesh):
        a, b, c = mesh.vertices[mesh.faces[face]]
        normals.append(np.cross(b - a, c - a))
    front = np.array([np.cos(0.4), np.sin(0.4), 0])
    assert sorted(np.sign(np.array(normals) @ front)) == [-1, -1, 1, 1]


def test_equal_signs_share_an_image_and_all_have_one_size(stage: Stage) -> None:
    pharmacy, hotel = stage.scene.signs[1], stage.scene.signs[3]
    board = ("#000000", "#ffffff")
    first = stage.sign(pharmacy, board=board)
    assert stage.sign(hotel, board=board) != first
    assert stage.sign(pharmacy, board=board) == first
    signs = finished(stage).signs
    assert signs.shape[0] == 2
    assert signs.dtype == np.uint8
    assert signs[first].max() > 200
    assert signs[first].min() == 0


def test_moving_parts_follow_their_motion(stage: Stage) -> None:
    ball = stage.instance(SemanticClass.PROP, "a red ball", moves=True)
    part = stage.parts(1)
    stage.put(sphere(0.2), material=Material.PAINT, color=COLORS["red"], instance=ball, part=part)
    stage.drive([part], lambda time_s: moved([(time_s, 2.0, 0.5)], 0.5))
    world = finished(stage)
    assert world.instances[ball].moves
    assert set(world.moving.part) == {part}
    assert world.pose(3.0)[part, :, 3] == pytest.approx([3, 2, 0.5])
    assert np.linalg.det(world.pose(3.0)[part, :, :3]) == pytest.approx(1, abs=1e-4)


def test_a_box_can_block_the_way(stage: Stage) -> None:
    wall = stage.instance(SemanticClass.WALL, "a wall")
    stage.box(
        (1, -1, 0),
        (2, 1, 3),
        material=Material.BRICK,
        color=COLORS["red"],
        instance=wall,
        block=True,
    )
    assert stage.plan.distance([(1.5, 0)])[0] < 0


def test_streams_have_names_of_their_own(stage: Stage) -> None:
    assert stage.random("trees").random() != stage.random("cars").random()
    assert stage.random("trees").random() == stage.random("trees").random()


def test_an_unknown_colour_is_refused() -> None:
    with pytest.raises(UnknownKeyError, match="teal"):
        color("teel")
