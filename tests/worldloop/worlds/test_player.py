"""The player: actions cause poses, the body keeps its distance, the eyes look where there is room."""

from dataclasses import replace

import numpy as np
import pytest

from tests.factories import make_scene
from worldloop.errors import ClipRejectedError
from worldloop.recipes import Shape
from worldloop.worlds.player import CLEARANCE_M, Start, choose_start, play, replay
from worldloop.worlds.stage import Sight, Stage

SHAPE = Shape(num_frames=97)
START = Start(0.0, 0.0, 0.3)


def furnished(camera: str = "stroll", seed: int = 0) -> Stage:
    """A hall with pillars and a box."""
    stage = Stage(make_scene(camera=camera, seed=seed), low=(-12, -8), high=(12, 8))
    for x, y in ((3, 0.4), (-3, -2), (5, 4), (-6, 3), (8, -3), (0, 5)):
        stage.plan.block_disc((x, y), 0.5, height_m=3)
    stage.plan.block_box((5, -1), (7, 1), yaw_rad=0.6)
    stage.sights.append(Sight((9, 5, 2), 2.0))
    return stage


@pytest.mark.parametrize("camera", ["stroll", "tour", "wander"])
@pytest.mark.parametrize("seed", range(4))
def test_replaying_the_actions_gives_the_same_poses(camera: str, seed: int) -> None:
    stage = furnished(camera, seed)
    track = play(stage, SHAPE, [START])
    again = replay(track.keys, track.mouse_deg, START, furnished().plan, rate_fps=24)
    assert again.camera_to_world.tobytes() == track.camera_to_world.tobytes()
    assert again.velocity_mps.tobytes() == track.velocity_mps.tobytes()
    assert stage.plan.distance(track.camera_to_world[:, :2, 3]).min() >= CLEARANCE_M - 1e-6
    assert not track.keys[-1].any()


def test_other_actions_give_other_poses() -> None:
    track = play(furnished(), SHAPE, [START])
    keys = track.keys.copy()
    keys[5] = ~keys[5]
    again = replay(keys, track.mouse_deg, START, furnished().plan, rate_fps=24)
    same = (again.camera_to_world == track.camera_to_world).all((1, 2))
    assert same[:6].all()
    assert not same[6:].any()


def test_axes_are_those_of_opencv() -> None:
    track = replay(
        np.zeros((1, 6), bool),
        np.zeros((1, 2), np.float32),
        Start(1, 2, np.pi / 2),
        furnished().plan,
        rate_fps=24,
    )
    right, down, forward, at = track.camera_to_world[0, :3].T
    assert forward == pytest.approx([0, 1, 0], abs=1e-6)
    assert right == pytest.approx([1, 0, 0], abs=1e-6)
    assert down == pytest.approx([0, 0, -1], abs=1e-6)
    assert at == pytest.approx([1, 2, 1.65])


def test_keys_and_mouse_do_what_they_say() -> None:
    plan = Stage(make_scene(), low=(-50, -50), high=(50, 50)).plan
    keys, mouse = np.zeros((49, 6), bool), np.zeros((49, 2), np.float32)
    keys[:, 3] = True  # d: to the right
    mouse[0] = 90.0, 10.0  # turn right by a quarter, look up
    track = replay(keys, mouse, Start(0, 0, np.pi / 2), plan, rate_fps=24)
    assert track.camera_to_world[1, :3, 2] == pytest.approx(
        [np.cos(np.radians(10)), 0, np.sin(np.radians(10))], abs=1e-6
    )
    assert track.camera_to_world[-1, 1, 3] < -2.0
    assert np.linalg.norm(track.velocity_mps[-1]) == pytest.approx(1.4, abs=0.01)


def test_running_is_faster() -> None:
    plan = Stage(make_scene(), low=(-50, -50), high=(50, 50)).plan
    keys = np.zeros((30, 6), bool)
    keys[:, 0] = keys[:, 4] = True
    track = replay(keys, np.zeros((30, 2), np.float32), START, plan, rate_fps=24)
    assert np.linalg.norm(track.velocity_mps[-1]) == pytest.approx(3.0, abs=0.05)


def test_one_slides_along_a_wall() -> None:
    stage = Stage(make_scene(), low=(-50, -2), high=(50, 2))
    keys = np.zeros((60, 6), bool)
    keys[:, 0] = True
    track = replay(keys, np.zeros((60, 2), np.float32), Start(0, 0, 0.8), stage.plan, rate_fps=24)
    at = track.camera_to_world[:, :2, 3]
    assert at[:, 1].max() <= 1.5 + 1e-6
    assert at[-1, 0] > at[45, 0] + 0.3


def test_the_start_with_a_view_is_chosen() -> None:
    stage = Stage(make_scene(), low=(-20, -5), high=(20, 5))
    stage.plan.block_box((8, -5), (9, 5))
    into_wall, along = Start(6.5, 0, 0.0), Start(6.5, 0, np.pi)
    assert choose_start(stage, [into_wall, along]) == along


def test_no_free_start_rejects_the_clip() -> None:
    stage = furnished()
    with pytest.raises(ClipRejectedError, match="nowhere to stand"):
        choose_start(stage, [Start(3, 0.4, 0)])


def test_a_tour_looks_at_the_sight() -> None:
    stage = Stage(make_scene(camera="tour"), low=(-20, -20), high=(20, 20))
    stage.sights.append(Sight((6, 12, 2), 3.0))
    track = play(stage, replace(SHAPE, num_frames=73), [Start(0, 0, 0.9)])
    eye, forward = track.camera_to_world[-1, :3, 3], track.camera_to_world[-1, :3, 2]
    towards = np.array([6, 12, 2]) - eye
    assert forward @ towards / np.linalg.norm(towards) > 0.9


@pytest.mark.parametrize("pole_x", [2.0, -2.0])
def test_no_start_faces_a_pole_when_another_does_not(pole_x: float) -> None:
    stage = Stage(make_scene(), low=(-20, -5), high=(20, 5))
    stage.plan.mark_pole((pole_x, 0.3))
    chosen = choose_start(stage, [Start(0, 0, 0.0), Start(0, 0, np.pi)])
    assert np.cos(chosen.heading_rad) * pole_x < 0


def test_the_eyes_turn_away_from_a_pole_that_comes_near() -> None:
    stage = Stage(make_scene(camera="stroll"), low=(-60, -60), high=(60, 60))
    stage.plan.mark_pole((3.4, 0.3))
    track = play(stage, replace(SHAPE, num_frames=37), [Start(0, 0, 0.0)])
    towards = np.array([3.4, 0.3]) - track.camera_to_world[-1, :2, 3]
    cosine = track.camera_to_world[-1, :2, 2] @ towards / np.linalg.norm(towards)
    assert cosine < np.cos(np.radians(22))
