import datetime as dt
from zoneinfo import ZoneInfo

import astral
import astral.sun
import numpy as np
import pytest

from worldloop.scenes.checks import almanac_sun
from worldloop.scenes.sun import sun_elevations, sun_position, utc_offsets_h

FIRST = dt.date(2026, 1, 1).toordinal()


def test_the_sun_is_where_astral_has_it_to_a_tenth_of_a_degree():
    rng = np.random.default_rng(3)
    days, hours = rng.integers(365, size=400), rng.integers(96, size=400) / 4
    latitudes, longitudes = rng.uniform(-70, 70, 400), rng.uniform(-180, 180, 400)
    elevations, azimuths = sun_position(FIRST + days, hours, latitudes, longitudes)
    for k in range(400):
        moment = dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + dt.timedelta(
            days=int(days[k]), hours=hours[k]
        )
        observer = astral.Observer(latitudes[k], longitudes[k])
        assert elevations[k] == pytest.approx(astral.sun.elevation(observer, moment), abs=0.1)
        if abs(elevations[k]) < 85:
            turn = azimuths[k] - astral.sun.azimuth(observer, moment)
            assert abs((turn + 180) % 360 - 180) < 0.1


def test_the_almanac_agrees():
    rng = np.random.default_rng(4)
    days, latitudes = rng.uniform(0, 365, 2000), rng.uniform(-65, 65, 2000)
    elevations, azimuths = sun_position(FIRST, days * 24, latitudes, 10.0)
    since_2000 = FIRST + days - dt.date(2000, 1, 1).toordinal() - 0.5
    others, turned = almanac_sun(since_2000, latitudes, np.full(2000, 10.0))
    clear = (others > 0.5) | (others < -6)
    assert np.abs(elevations - others)[clear].max() < 0.12
    low = np.abs(others) < 80
    assert np.abs((azimuths - turned + 180) % 360 - 180)[low].max() < 0.3


def test_a_year_at_once_is_the_same_as_moment_by_moment():
    zone, quarters = "America/New_York", np.arange(96) / 4
    ordinals = FIRST + np.arange(365)[:, None]
    offsets = utc_offsets_h(zone, ordinals, quarters)
    elevations, _ = sun_position(ordinals, quarters - offsets, 40.7, -74.0)
    np.testing.assert_array_equal(sun_elevations(FIRST, offsets, 40.7, -74.0), elevations)


def test_clocks_are_ahead_of_utc_as_their_zone_says():
    days = dt.date(2026, 3, 29).toordinal() + np.array([-1, 0, 0, 1])
    hours = np.array([12.0, 1.0, 12.0, 12.0])
    assert utc_offsets_h("Europe/Paris", days, hours).tolist() == [1.0, 1.0, 2.0, 2.0]
    noon = dt.datetime(2026, 7, 1, 12, tzinfo=ZoneInfo("Asia/Kathmandu"))
    offset = utc_offsets_h("Asia/Kathmandu", np.array([noon.toordinal()]), 12.0)
    assert offset.tolist() == [noon.utcoffset().total_seconds() / 3600]
