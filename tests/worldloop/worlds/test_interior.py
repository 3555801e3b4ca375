"""Parts of rooms: walls with openings, signs and windows that face their viewers."""

import numpy as np
import pytest

from tests.factories import make_scene
from worldloop.worlds.geometry import Float, Int, placed
from worldloop.worlds.interior import (
    EAST,
    NORTH,
    SOUTH,
    WEST,
    Opening,
    block,
    frame,
    level,
    put_sign,
    upright,
    wall,
)
from worldloop.worlds.shapes import joined
from worldloop.worlds.stage import Stage


def crosses(vertices: Float, faces: Int) -> Float:
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    return np.cross(b - a, c - a)


def area(vertices: Float, faces: Int) -> float:
    return float(np.linalg.norm(crosses(vertices, faces), axis=1).sum() / 2)


def test_a_wall_leaves_its_openings_free() -> None:
    door, pane = Opening(2.0, 3.0, 0.0, 2.0), Opening(5.0, 6.5, 1.0, 2.0)
    vertices, faces, _ = wall(10.0, 0.0, 3.0, [door, pane])
    assert area(vertices, faces) == pytest.approx(30 - 2.0 - 1.5, abs=1e-4)
    centres = vertices[faces].mean(1)
    in_door = (centres[:, 0] > 2) & (centres[:, 0] < 3) & (centres[:, 2] < 2)
    assert not in_door.any()


@pytest.mark.parametrize(
    ("facing", "normal"),
    [(NORTH, (0, -1)), (SOUTH, (0, 1)), (EAST, (-1, 0)), (WEST, (1, 0))],
)
def test_what_hangs_on_a_wall_faces_its_viewer(facing: float, normal: tuple[int, int]) -> None:
    for primitive in (upright(2.0, 1.0), wall(3.0, 0.0, 2.0)):
        turned = placed(primitive[0], yaw_rad=facing)
        out = crosses(turned, primitive[1]).sum(0)
        np.testing.assert_allclose(out[:2] / np.linalg.norm(out), normal, atol=1e-5)


def test_a_level_faces_up_or_down() -> None:
    for down, sign in ((False, 1.0), (True, -1.0)):
        vertices, faces, _ = level((0, 0), (2, 3), 1.5, down=down)
        assert (np.sign(crosses(vertices, faces)[:, 2]) == sign).all()


def test_a_frame_leaves_its_picture_free() -> None:
    vertices, faces, _ = joined(frame(2.0, 1.0, 0.1, 0.05))
    front = np.abs(vertices[faces][..., 1] + 0.05).max(1) < 1e-6
    assert area(vertices, faces[front]) == pytest.approx(2.2 * 1.2 - 2.0, abs=1e-4)


def test_a_block_touches_the_wall_with_its_back() -> None:
    vertices = block(1.0, 0.2, 0.5)[0]
    assert vertices[:, 1].max() == 0.0
    assert vertices[:, 1].min() == pytest.approx(-0.2)


def test_a_sign_is_in_front_of_its_board() -> None:
    scene = make_scene("museum")
    stage = Stage(scene, low=(-5, -5), high=(5, 5))
    put_sign(stage, scene.signs[0], at=(4.0, 0.0, 2.0), facing=EAST, width_m=2.0)
    mesh = stage.static.build()
    image = mesh.vertices[mesh.faces[mesh.material == 10]]
    board = mesh.vertices[mesh.faces[mesh.material != 10]]
    assert image[..., 0].max() < board[..., 0].min()
