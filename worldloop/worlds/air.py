"""Light and air of a scene: from the height of the sun and the weather to colours and fog.

World axes and compass: +y is north and +x is east, unless a grammar says that its y axis points
elsewhere (`y_bearing_deg`). Nights have a weak moon and lamps, and are never black.
"""

import math

import numpy as np
from numpy.typing import NDArray

from worldloop.scenes.scene import Scene
from worldloop.worlds.world import Air

Triple = tuple[float, float, float]

# Sun elevation in degrees: direct light, zenith, horizon, fog (linear radiance), set by eye.
_SKY: tuple[tuple[float, Triple, Triple, Triple, Triple], ...] = (
    (-18, (0.05, 0.06, 0.10), (0.010, 0.016, 0.042), (0.06, 0.06, 0.10), (0.050, 0.050, 0.080)),
    (-6, (0.06, 0.07, 0.12), (0.030, 0.052, 0.150), (0.32, 0.21, 0.23), (0.120, 0.110, 0.160)),
    (-2, (0.25, 0.17, 0.16), (0.095, 0.150, 0.340), (0.80, 0.45, 0.32), (0.360, 0.270, 0.270)),
    (2, (2.60, 1.10, 0.40), (0.190, 0.270, 0.520), (1.25, 0.68, 0.36), (0.860, 0.540, 0.350)),
    (10, (4.90, 2.75, 1.15), (0.220, 0.340, 0.640), (1.18, 0.82, 0.54), (0.980, 0.740, 0.500)),
    (25, (4.90, 4.10, 3.10), (0.240, 0.450, 0.900), (0.90, 0.97, 1.05), (0.760, 0.810, 0.880)),
    (50, (5.30, 4.90, 4.30), (0.260, 0.500, 1.000), (0.85, 1.00, 1.20), (0.680, 0.780, 0.920)),
)
# Weather: share of direct light left, greyness of the sky, sky brightness, fog per metre,
# wetness, clouds, rain, snow.
_WEATHER: dict[str, tuple[float, ...]] = {
    "clear": (1.00, 0.00, 1.00, 0.0020, 0.00, 0.15, 0.0, 0.0),
    "cloudy": (0.22, 0.75, 0.95, 0.0032, 0.00, 0.85, 0.0, 0.0),
    "rain": (0.06, 0.92, 0.72, 0.0080, 1.00, 1.00, 1.0, 0.0),
    "fog": (0.05, 0.95, 0.85, 0.0330, 0.25, 1.00, 0.0, 0.0),
    "snow": (0.14, 0.90, 0.95, 0.0110, 0.15, 1.00, 0.0, 1.0),
}
_MOON_ELEVATION_DEG = 42.0
_LOWEST_LIGHT_DEG = 3.0


def outdoor_air(scene: Scene, *, y_bearing_deg: float = 0.0) -> Air:
    """The air under the sky of a scene.

    Args:
        scene: Sun, weather and hour are read.
        y_bearing_deg: Compass bearing of the world's y axis; 0 means that +y is north.
    """
    elevation = scene.sun_elevation_deg
    direct, grey, bright, fog, wet, clouds, rain, snow = _WEATHER[scene.weather]
    sun, zenith, horizon, haze = _clear_sky(elevation)
    overcast = (0.35 * zenith + 0.65 * horizon).mean() * np.array([0.95, 1.0, 1.07])
    zenith = bright * (zenith + grey * (0.9 * overcast - zenith))
    horizon = bright * (horizon + grey * (overcast - horizon))
    haze = bright * (haze + grey * (0.92 * overcast - haze))
    lamps = _fall(elevation, 5.0, -3.0)
    dim = 0.25 * (1 - direct) if scene.weather in ("rain", "fog") else 0.0
    golden = _fall(elevation, 14.0, 4.0) * (1 - lamps) * (1 - grey)
    glare = direct * (1 - _fall(elevation, 40.0, 15.0))
    return Air(
        sun_direction=_light_direction(scene, y_bearing_deg),
        sun_color=_triple(sun * direct),
        zenith_color=_triple(zenith),
        horizon_color=_triple(horizon),
        fog_color=_triple(haze),
        fog_per_m=round(fog + 0.002 * golden, 6),
        lamp_level=round(max(lamps, dim), 4),
        wetness=wet,
        clouds=clouds,
        rain=rain,
        snow=snow,
        exposure=round(1.0 + 0.15 * lamps - 0.18 * glare, 4),
    )


def bearing_towards_sun(scene: Scene, rng: np.random.Generator) -> float:
    """A compass bearing for the y axis of a place whose view runs along x.

    A high sun may stand anywhere; a low one shines along the view or against it, within a few
    dozen degrees, because it would not reach the ground of a street otherwise.
    """
    spread_deg = 14.0 + 3.0 * max(0.0, scene.sun_elevation_deg)
    turn = min(90.0, spread_deg) * (2 * rng.random() - 1)
    end = 90.0 if rng.random() < 0.5 else 270.0
    return float((scene.sun_azimuth_deg - end + turn) % 360)


def indoor_air(scene: Scene) -> Air:
    """The air of a lit room: lamps are on, and the light that bounces is the room's `ambient`."""
    night = _fall(scene.sun_elevation_deg, 5.0, -3.0)
    daylight = 1 - 0.35 * night
    return Air(
        sun_direction=(0.27, 0.36, 0.893),
        sun_color=(0.0, 0.0, 0.0),
        zenith_color=_triple(np.array([0.30, 0.31, 0.32]) * daylight),
        horizon_color=_triple(np.array([0.34, 0.35, 0.34]) * daylight),
        fog_color=(0.60, 0.61, 0.61),
        fog_per_m=0.001,
        lamp_level=1.0,
        wetness=0.0,
        clouds=0.0,
        rain=0.0,
        snow=0.0,
        exposure=1.15,
    )


def _clear_sky(elevation_deg: float) -> list[NDArray[np.float64]]:
    heights = [row[0] for row in _SKY]
    table = np.array([row[1:] for row in _SKY])  # (rows, 4 colours, 3)
    at = [np.interp(elevation_deg, heights, column) for column in table.reshape(len(_SKY), -1).T]
    return list(np.array(at).reshape(4, 3))


def _light_direction(scene: Scene, y_bearing_deg: float) -> Triple:
    """Towards the sun, kept a little above the horizon, or towards the moon at night."""
    azimuth, elevation = scene.sun_azimuth_deg, scene.sun_elevation_deg
    if elevation < -4.0:
        azimuth, elevation = azimuth + 140.0, _MOON_ELEVATION_DEG
    turn, height = math.radians(azimuth - y_bearing_deg), max(elevation, _LOWEST_LIGHT_DEG)
    flat = math.cos(math.radians(height))
    return _triple(
        np.array([math.sin(turn) * flat, math.cos(turn) * flat, math.sin(math.radians(height))]), 9
    )


def _fall(value: float, zero_at: float, one_at: float) -> float:
    """0 above `zero_at`, 1 below `one_at`, smooth between."""
    x = min(1.0, max(0.0, (zero_at - value) / (zero_at - one_at)))
    return x * x * (3 - 2 * x)


def _triple(values: NDArray[np.float64], digits: int = 6) -> Triple:
    red, green, blue = (round(float(v), digits) for v in values)
    return red, green, blue
