"""Stages frozen by hand, and their moving vertices at a time."""

import numpy as np

from worldloop.worlds.air import outdoor_air
from worldloop.worlds.player import Start, replay
from worldloop.worlds.stage import Stage
from worldloop.worlds.world import World


def finished(stage: Stage) -> World:
    """The stage as a world with a player who stands still."""
    track = replay(
        np.zeros((2, 6), bool),
        np.zeros((2, 2), np.float32),
        Start(0, 0, 0),
        stage.plan,
        rate_fps=24,
    )
    return stage.finish(air=outdoor_air(stage.scene), track=track)


def posed(world: World, time_s: float) -> np.ndarray:
    """Vertices of the moving mesh at a time."""
    pose = world.pose(time_s)[world.moving.part]
    return np.einsum("vij,vj->vi", pose[:, :, :3], world.moving.vertices) + pose[:, :, 3]
