"""Where the sun stands: elevation and azimuth for whole arrays of places and moments.

The formulas are those of the NOAA solar calculator (https://gml.noaa.gov/grad/solcalc/, after
J. Meeus, "Astronomical Algorithms", 1991), with its refraction; astral uses them too.
"""

import datetime as dt
from functools import cache, lru_cache
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
_J2000_DAY = dt.date(2000, 1, 1).toordinal()  # noon of it is the epoch J2000
_DAYS_PER_CENTURY = 36525.0


def sun_position(
    days: ArrayLike, utc_hours: ArrayLike, latitude_deg: ArrayLike, longitude_deg: ArrayLike
) -> tuple[Floats, Floats]:
    """Elevation and azimuth of the sun; arguments of any shapes that broadcast.

    Args:
        days: Proleptic Gregorian ordinals of dates, as `datetime.date.toordinal` counts.
        utc_hours: Hours since midnight UTC of these dates, also below 0 or over 24.
        latitude_deg: North is positive.
        longitude_deg: East is positive.

    Returns:
        Elevation over the horizon with refraction, and compass direction clockwise from north, both in
        degrees and rounded to a tenth, as scenes have them.

    Example:
        >>> elevation, azimuth = sun_position(dt.date(2026, 6, 21).toordinal(), 2.7, 35.6895, 139.6917)
        >>> float(elevation), float(azimuth)
        (77.8, 178.9)
    """
    total = np.asarray(days, np.float64) * 24 + np.asarray(utc_hours, np.float64)
    declination, equation_min = _slow_terms(total / 24)
    elevation, hour_angle, north = _stand(
        total, declination, equation_min, np.asarray(latitude_deg), np.asarray(longitude_deg)
    )
    azimuth = np.arctan2(
        -np.cos(declination) * np.sin(hour_angle),
        np.sin(declination) * np.cos(north)
        - np.cos(declination) * np.sin(north) * np.cos(hour_angle),
    )
    return elevation, np.round(np.degrees(azimuth) % 360, 1) % 360


def sun_elevations(
    first_day: int, offsets_h: Floats, latitude_deg: float, longitude_deg: float
) -> Floats:
    """Elevations at every quarter of an hour of local clock, of days that follow on each other.

    The same numbers as `sun_position`, sooner: what depends on the date alone is computed once.

    Args:
        first_day: Ordinal of the first date.
        offsets_h: Hours ahead of UTC, shape (days, 96).
        latitude_deg: North is positive.
        longitude_deg: East is positive.
    """
    num_days = len(offsets_h)
    quarters = np.arange(num_days)[:, None] * 96 + np.arange(96) - np.round(offsets_h * 4)
    declinations, equations = _year_terms(first_day, num_days)
    index = quarters.astype(np.int64) + 96
    total = first_day * 24 + quarters / 4
    place = np.asarray(latitude_deg), np.asarray(longitude_deg)
    return _stand(total, declinations[index], equations[index], *place)[0]


@cache
def _year_terms(first_day: int, num_days: int) -> tuple[Floats, Floats]:
    """`_slow_terms` of every quarter of an hour UTC, from a day before to a day after."""
    return _slow_terms((first_day * 24 + np.arange(-96, (num_days + 1) * 96) / 4) / 24)


def _stand(
    total_h: Floats, declination: Floats, equation_min: Floats, latitude: Floats, longitude: Floats
) -> tuple[Floats, Floats, Floats]:
    """Elevation in degrees, hour angle and latitude in radians, at hours UTC."""
    turn = (total_h % 24) * 15 + equation_min / 4 + longitude.astype(np.float64)
    hour_angle, north = np.radians(turn - 180), np.radians(latitude.astype(np.float64))
    sine = np.sin(north) * np.sin(declination)
    sine = sine + np.cos(north) * np.cos(declination) * np.cos(hour_angle)
    elevation = np.degrees(np.arcsin(np.clip(sine, -1, 1)))
    seen = np.round(elevation + refraction_deg(elevation), 1) + 0.0  # no negative zero
    return seen, hour_angle, north


def refraction_deg(elevation_deg: Floats) -> Floats:
    """How much higher the sun looks than it stands.

    Args:
        elevation_deg: True elevation in degrees.
    """
    height = np.asarray(elevation_deg, np.float64)
    slope = np.tan(np.radians(np.where(np.abs(height) < 0.01, 0.01, height)))
    high = (58.1 - (0.07 - 0.000086 / slope**2) / slope**2) / slope
    low = 1735.0 + height * (-518.2 + height * (103.4 + height * (-12.79 + height * 0.711)))
    seconds = np.select(
        [height > 85, height > 5, height > -0.575], [0.0, high, low], -20.774 / slope
    )
    return np.asarray(seconds / 3600, np.float64)


def utc_offsets_h(time_zone: str, days: ArrayLike, hours: ArrayLike) -> Floats:
    """Hours that wall clocks are ahead of UTC; on days when clocks change, the hour decides.

    Args:
        time_zone: IANA name.
        days: Ordinals of local dates, any shape.
        hours: Local clock of each; broadcasts with `days`.
    """
    dates = np.asarray(days)
    first_day = int(dates.min())
    ends = _day_offsets_h(time_zone, first_day, int(dates.max()))[dates - first_day]
    first, last = ends[..., 0], ends[..., 1]
    clocks = np.asarray(hours, np.float64)
    offsets = np.broadcast_to(first, np.broadcast_shapes(dates.shape, clocks.shape)).copy()
    if (changes := first != last).any():
        where = np.nonzero(np.broadcast_to(changes, offsets.shape))
        spread_days = np.broadcast_to(dates, offsets.shape)[where].tolist()
        spread_hours = np.broadcast_to(clocks, offsets.shape)[where].tolist()
        moments = zip(spread_days, spread_hours, strict=True)
        offsets[where] = [_clock_offset_h(time_zone, day, hour) for day, hour in moments]
    return offsets


@cache
def _zone(time_zone: str) -> ZoneInfo:
    return ZoneInfo(time_zone)


@lru_cache(maxsize=256)  # cities share time zones
def _day_offsets_h(time_zone: str, first_day: int, last_day: int) -> Floats:
    """Offsets at midnight and a minute before the next, of all days from one to another, shape (days, 2)."""
    days = range(first_day, last_day + 1)
    return np.array(
        [[_clock_offset_h(time_zone, day, hour) for hour in (0.0, 23.98)] for day in days]
    )


def _clock_offset_h(time_zone: str, day: int, hour: float) -> float:
    clock = dt.datetime.fromordinal(day) + dt.timedelta(hours=hour)
    offset = _zone(time_zone).utcoffset(clock)
    return offset.total_seconds() / 3600 if offset is not None else 0.0


def _slow_terms(moments: Floats) -> tuple[Floats, Floats]:
    """Declination in radians and equation of time in minutes at moments in days UTC."""
    century = (moments - _J2000_DAY - 0.5) / _DAYS_PER_CENTURY
    longitude = np.radians((280.46646 + century * (36000.76983 + century * 0.0003032)) % 360)
    anomaly = np.radians(357.52911 + century * (35999.05029 - 0.0001537 * century))
    eccentricity = 0.016708634 - century * (0.000042037 + 0.0000001267 * century)
    sine, double = np.sin(anomaly), np.sin(2 * anomaly)
    center = (
        sine * (1.914602 - century * (0.004817 + 0.000014 * century))
        + double * (0.019993 - 0.000101 * century)
        + np.sin(3 * anomaly) * 0.000289
    )
    node = np.radians(125.04 - 1934.136 * century)
    apparent = longitude + np.radians(center - 0.00569 - 0.00478 * np.sin(node))
    obliquity = 23 + (26 + (21.448 - century * (46.815 + century * 0.00059)) / 60) / 60
    tilt = np.radians(obliquity + 0.00256 * np.cos(node))
    square = np.tan(tilt / 2) ** 2
    equation = (
        square * np.sin(2 * longitude)
        - 2 * eccentricity * sine
        + 4 * eccentricity * square * sine * np.cos(2 * longitude)
        - 0.5 * square**2 * np.sin(4 * longitude)
        - 1.25 * eccentricity**2 * double
    )
    return np.arcsin(np.sin(tilt) * np.sin(apparent)), 4 * np.degrees(equation)
