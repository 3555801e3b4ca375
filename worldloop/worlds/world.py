"""A world: the geometry, the air, the lights, the moving parts and the player of one scene.

It is what a grammar makes and what a rasterizer draws; it holds arrays only, no engine objects.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldloop.worlds.geometry import Float, Mesh, SemanticClass

UInt8 = NDArray[np.uint8]


@dataclass(frozen=True)
class Instance:
    """One thing that has an id in the annotations. Id 0 is the sky or the background.

    Attributes:
        semantic: What it is.
        phrase: What one would call it, e.g. `a nurse in teal scrubs`.
        moves: Whether it is in the moving mesh.
    """

    semantic: SemanticClass
    phrase: str
    moves: bool = False


@dataclass(frozen=True)
class Air:
    """Light and air of the moment. Colours are linear RGB radiance, 1.0 about a sunlit white wall / 5.

    Attributes:
        sun_direction: Unit vector towards the sun, or the moon at night.
        sun_color: Radiance of direct light.
        zenith_color: Sky overhead.
        horizon_color: Sky at the horizon.
        fog_color: What distance fades to.
        fog_per_m: Extinction.
        lamp_level: 0 by day, 1 at night: how far street lamps and windows are on.
        wetness: 0 dry, 1 puddles.
        clouds: 0 none, 1 overcast.
        rain: Streaks of rain in view, 0 to 1.
        snow: Flakes in view and cover on upward faces, 0 to 1.
        exposure: Multiplier on the automatic exposure.
    """

    sun_direction: tuple[float, float, float]
    sun_color: tuple[float, float, float]
    zenith_color: tuple[float, float, float]
    horizon_color: tuple[float, float, float]
    fog_color: tuple[float, float, float]
    fog_per_m: float
    lamp_level: float
    wetness: float
    clouds: float
    rain: float
    snow: float
    exposure: float


@dataclass(frozen=True)
class Room:
    """An indoor space for ambient light and floor mirrors; None outdoors.

    Attributes:
        low: Corner with the smallest coordinates, metres.
        high: Opposite corner.
        ambient: Linear radiance of the light that bounces in the room.
    """

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    ambient: tuple[float, float, float]


@dataclass(frozen=True)
class Track:
    """What the player did and what the camera therefore saw.

    Actions cause poses: `keys[t]`, `mouse_deg[t]` are applied between frame t and t + 1; the last
    row is padding. Camera axes are OpenCV's: x right, y down, z forward.

    Attributes:
        keys: bool (T, 6): w, a, s, d, shift (run), e (interact).
        mouse_deg: float32 (T, 2): yaw to the right and pitch up asked for, degrees per frame.
        camera_to_world: float64 (T, 4, 4).
        velocity_mps: float32 (T, 3) in world axes.
        fov_deg: Horizontal field of view.
    """

    keys: NDArray[np.bool_]
    mouse_deg: Float
    camera_to_world: NDArray[np.float64]
    velocity_mps: Float
    fov_deg: float = 70.0


@dataclass(frozen=True)
class World:
    """Everything a rasterizer needs to draw every frame of one scene.

    Attributes:
        static: What never moves; `instance` indexes `instances`.
        moving: Vertices in the axes of their rigid part.
        pose: Time in seconds to float32 (P, 3, 4), part axes to world, one matrix a part.
        instances: Index is the instance id; entry 0 is the sky (or background).
        lamps: float32 (L, 7): x, y, z, red, green, blue (radiance at 1 m), reach in metres.
        signs: uint8 (K, h, w, 3), sRGB images that SIGN faces show, all of one size.
        air: Light and weather.
        room: Indoor box, or None outdoors.
        track: The player.
    """

    static: Mesh
    moving: Mesh
    pose: Callable[[float], Float]
    instances: tuple[Instance, ...]
    lamps: Float
    signs: UInt8
    air: Air
    room: Room | None
    track: Track
