"""Seasons of a place, whether snow may lie there, and how warmly people dress."""

import datetime as dt
from typing import Literal

from worldloop.atlas.records import City

Temperature = Literal["cold", "cool", "warm", "hot"]
SEASONS = ("spring", "summer", "autumn", "winter", "wet season", "dry season")
SNOW_LATITUDE_DEG = {"north": 35.0, "south": 40.0}  # nearer the equator a C city has no snow cover
TWO_SEASONS_LATITUDE_DEG = 15.0  # within it the year is wet and dry, except in deserts


def season_of(city: City, day: dt.date) -> str:
    """The season at a place: four of them, or wet and dry where the tropics have two.

    Two seasons follow the sun: wet in the half year in which it stands overhead, or in the other
    half in class As. Af has no dry season. Cities with two rains a year are simplified by this.
    """
    northern = city.latitude_deg >= 0
    tropical = abs(city.latitude_deg) < TWO_SEASONS_LATITUDE_DEG
    if city.koeppen == "Af":
        return "wet season"
    if city.koeppen[0] == "A" or (tropical and not city.koeppen.startswith("BW")):
        high_sun = (5 <= day.month <= 10) == northern
        return "wet season" if high_sun != (city.koeppen == "As") else "dry season"
    quarter = (day.month % 12) // 3  # 0 for December to February
    return ("winter", "spring", "summer", "autumn")[quarter if northern else (quarter + 2) % 4]


def seasons_of(city: City) -> tuple[str, ...]:
    """The seasons of a place, from January on."""
    days = (dt.date(2000, month, 1) for month in range(1, 13))
    return tuple(dict.fromkeys(season_of(city, day) for day in days))


def plant_class(city: City) -> str:
    """The Koeppen class whose plants and animals live at a place.

    Class Cfb near the equator is a highland without winter: what grows there is that of Cwb, and not
    the beeches and larches of Europe.
    """
    is_tropical = abs(city.latitude_deg) < TWO_SEASONS_LATITUDE_DEG
    return "Cwb" if city.koeppen == "Cfb" and is_tropical else city.koeppen


def may_snow(city: City, season: str) -> bool:
    """Whether snow may fall: winter in D and E, and in C outside the subtropics, never in Cs."""
    if season != "winter" or city.koeppen[0] not in "CDE" or city.koeppen.startswith("Cs"):
        return False
    needed = SNOW_LATITUDE_DEG["north" if city.latitude_deg > 0 else "south"]
    return city.koeppen[0] != "C" or abs(city.latitude_deg) >= needed


def temperature_of(city: City, season: str) -> Temperature:
    """How warmly people dress outdoors, from climate group, season and latitude."""
    group, third = city.koeppen[0], city.koeppen[2:3]
    if group == "E" or (group == "C" and third == "c"):  # no month is warm
        return "cold" if season == "winter" else "cool"
    if group == "A" or (season == "summer" and third in ("a", "h")):
        return "hot"
    if season == "winter":
        cold = group in "DE" or abs(city.latitude_deg) > SNOW_LATITUDE_DEG["north"]
        return "cold" if cold else "cool"
    if season in ("spring", "autumn"):
        return "warm" if third in ("a", "h") and group != "D" else "cool"
    return "warm"


def is_warm(city: City, season: str) -> bool:
    """Whether people undress outdoors in a season."""
    return temperature_of(city, season) in ("warm", "hot")


def has_warm_season(city: City) -> bool:
    """Whether people undress outdoors in some month of the year."""
    return any(is_warm(city, season) for season in seasons_of(city))
