"""Air: the sun stands where the compass says, nights have lamps, weather shows."""

import numpy as np
import pytest

from tests.factories import make_scene
from worldloop.worlds.air import indoor_air, outdoor_air


@pytest.mark.parametrize(
    ("azimuth_deg", "axis"), [(0, (0, 1)), (90, (1, 0)), (180, (0, -1)), (270, (-1, 0))]
)
def test_north_is_plus_y_and_east_is_plus_x(azimuth_deg: float, axis: tuple[int, int]) -> None:
    air = outdoor_air(make_scene(sun_elevation_deg=30.0, sun_azimuth_deg=azimuth_deg))
    x, y, z = air.sun_direction
    assert (x / np.hypot(x, y), y / np.hypot(x, y)) == pytest.approx(axis, abs=1e-6)
    assert np.arcsin(z) == pytest.approx(np.radians(30))


def test_a_grammar_may_turn_its_y_axis() -> None:
    scene = make_scene(sun_elevation_deg=30.0, sun_azimuth_deg=90.0)
    assert outdoor_air(scene, y_bearing_deg=90.0).sun_direction[1] > 0.8


def test_lamps_come_on_as_the_sun_goes_down() -> None:
    levels = [outdoor_air(make_scene(sun_elevation_deg=e)).lamp_level for e in (40, 4, 0, -3, -20)]
    assert levels == sorted(levels)
    assert levels[0] == 0
    assert levels[-1] == 1


@pytest.mark.parametrize("weather", ["clear", "cloudy", "rain", "fog", "snow"])
@pytest.mark.parametrize("elevation_deg", [-40.0, -4.0, 1.0, 8.0, 60.0])
def test_no_air_is_black_and_light_comes_from_above(weather: str, elevation_deg: float) -> None:
    air = outdoor_air(make_scene(weather=weather, sun_elevation_deg=elevation_deg))
    assert min(air.zenith_color + air.horizon_color + air.sun_color) > 0
    assert np.linalg.norm(air.sun_direction) == pytest.approx(1)
    assert air.sun_direction[2] > 0.03
    assert (air.rain > 0) == (weather == "rain")
    assert (air.snow > 0) == (weather == "snow")


def test_golden_hour_is_warmer_than_noon() -> None:
    low, high = (outdoor_air(make_scene(sun_elevation_deg=e)).sun_color for e in (8.0, 60.0))
    assert low[0] / low[2] > 2 * high[0] / high[2]


def test_rooms_are_lit() -> None:
    assert indoor_air(make_scene("hospital", sun_elevation_deg=-30.0)).lamp_level == 1
