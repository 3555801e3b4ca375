"""How likely each weather is at a place in each month: the season's weights, with rain by the month.

The atlas rules which weathers a season may have, by climate class; what it rules out stays out, and the
rest keeps a chance. Within a season, rain follows the second letter of the class: `f` has no dry months,
`w` is dry while the sun is low, `s` while it is high, `m` and `w` of the tropics have a monsoon.
"""

import datetime as dt

from worldloop.atlas.atlas import Atlas
from worldloop.atlas.records import City
from worldloop.atlas.seasons import TWO_SEASONS_LATITUDE_DEG, may_snow, season_of

MONTHS = range(1, 13)
_RAIN, _SNOW = 2, 4  # columns of the weights
_TROPIC_DEG = 23.5
_SUMMER_RAIN_DEG = 30.0  # hot steppes nearer the equator have their rain from monsoons
# Tenths of a season's weight of rain from January to December north of the equator; half a year later
# south of it. Generic: monsoons are strongest from June to September, and their turns are mixed.
_MONSOON = 3, 3, 3, 10, 7, 15, 15, 15, 15, 7, 10, 3
_WINTER_MONSOON = 15, 15, 15, 7, 10, 3, 3, 3, 3, 10, 7, 15
_DRY_WINTER = 5, 5, 4, 4, 10, 12, 12, 12, 10, 4, 4, 5
_DRY_SUMMER = 12, 12, 8, 8, 4, 4, 4, 4, 4, 8, 8, 12
_SUMMER_STEPPE = 4, 4, 4, 4, 4, 40, 40, 40, 40, 4, 4, 4
_WINTER_STEPPE = 15, 15, 15, 15, 5, 5, 5, 5, 5, 15, 15, 15
_TROPICAL_DESERT = 2, 2, 2, 2, 10, 10, 10, 10, 10, 2, 2, 2
_EVEN = (10,) * 12


def weather_of_months(atlas: Atlas, city: City) -> list[tuple[int, ...]]:
    """Chances of `clear`, `cloudy`, `rain`, `fog` and `snow` from January to December.

    Args:
        atlas: Whose weights of the seasons count.
        city: Where.

    Returns:
        Per cent; at least 1 for what the season may have and 0 for what it may not, so that a month's
        sum is not always 100.

    Raises:
        MalformedRecordError: If no rule of the atlas covers the climate in a season.

    Example:
        >>> from worldloop.atlas.atlas import load_atlas
        >>> months = weather_of_months(load_atlas(), load_atlas().city("mumbai"))
        >>> months[0], months[6]  # January, July
        ((63, 28, 2, 7, 0), (21, 26, 54, 0, 0))
    """
    return [_chances(atlas, city, month) for month in MONTHS]


def _chances(atlas: Atlas, city: City, month: int) -> tuple[int, ...]:
    season = season_of(city, dt.date(2000, month, 1))
    weights = [10 * weight for weight in atlas.weather_weights(city.koeppen, season)]
    weights[_RAIN] = weights[_RAIN] * _tenths_of_rain(city)[_own_month(city, month) - 1] // 10
    if not may_snow(city, season):
        weights[_SNOW] = 0
    total = sum(weights)
    return tuple(max(1, round(100 * weight / total)) if weight else 0 for weight in weights)


def _own_month(city: City, month: int) -> int:
    """The month north of the equator in which the sun stands as high."""
    return month if city.latitude_deg >= 0 else (month + 5) % 12 + 1


def _tenths_of_rain(city: City) -> tuple[int, ...]:
    """How the rain of a season is spread over its months."""
    group, second, latitude_deg = city.koeppen[0], city.koeppen[1], abs(city.latitude_deg)
    if city.koeppen == "As":
        return _WINTER_MONSOON
    if city.koeppen.startswith("BW"):
        return _TROPICAL_DESERT if latitude_deg < _TROPIC_DEG else _EVEN
    if city.koeppen in ("Am", "Aw") or (group != "A" and latitude_deg < TWO_SEASONS_LATITUDE_DEG):
        return _MONSOON
    if city.koeppen == "BSh":
        return _SUMMER_STEPPE if latitude_deg < _SUMMER_RAIN_DEG else _WINTER_STEPPE
    return {"w": _DRY_WINTER, "s": _DRY_SUMMER}.get(second, _EVEN) if group in "CD" else _EVEN
