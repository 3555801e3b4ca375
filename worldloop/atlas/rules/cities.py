"""Rules of cities, countries, holidays and aliases."""

import datetime as dt
import re
import zoneinfo
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import get_args

from worldloop.atlas.atlas import Atlas
from worldloop.atlas.records import City, Side
from worldloop.atlas.rules.registry import (
    doubled,
    file_rule,
    is_known_source,
    listed,
    rule,
    source_sentence,
)

INHABITED = frozenset({"AF", "AS", "EU", "NA", "OC", "SA"})
MOST_CITIES = 3  # of one country, so that no country outweighs the others
FREE_CITIES = 78  # the first ones were chosen before there was a limit, and keys stay
WATERFRONTS = ("sea", "river", "lake", "none")
KOEPPEN = re.compile(r"A[fmsw]|B[SW][hk]|[CD][fsw][abcd]|E[FT]")
KEY = re.compile(r"[a-z][a-z0-9_]*")
KEYS_FILE = "keys.txt"


def _cities(atlas: Atlas) -> Iterator[tuple[str, City]]:
    """Cities with the words that name their row."""
    for key, city in atlas.cities.items():
        yield f"cities.csv, row {key!r}", city


@rule
def city_source_is_known(atlas: Atlas) -> Iterator[str]:
    """Languages, climate, waterfront and metro of a city have a source."""
    for where, city in _cities(atlas):
        columns = ("languages", "koeppen", "waterfront", "metro")
        for source in (str(getattr(city, f"{column}_source")) for column in columns):
            if not is_known_source(atlas, source):
                yield source_sentence(source, where)


@rule
def city_is_named(atlas: Atlas) -> Iterator[str]:
    """A city has a name, an endonym, a region and a division."""
    for where, city in _cities(atlas):
        divided = city.admin1.startswith(f"{city.country}.")  # a city state has no code after it
        if not (city.name and city.endonym and city.region and divided):
            yield f"{where} lacks a name, an endonym, a region or a division of its country."


@rule
def city_key_is_plain(atlas: Atlas) -> Iterator[str]:
    """Keys are partition keys and parts of paths."""
    for where, city in _cities(atlas):
        if not KEY.fullmatch(city.key):
            yield f"{where} has a key with other signs than a-z, 0-9 and '_'."


@rule
def city_is_on_the_globe(atlas: Atlas) -> Iterator[str]:
    """Latitude within 90 degrees, longitude within 180."""
    for where, city in _cities(atlas):
        if not (abs(city.latitude_deg) <= 90 and abs(city.longitude_deg) <= 180):
            yield f"{where} lies at {city.latitude_deg}, {city.longitude_deg}: off the globe."


@rule
def city_country_is_known(atlas: Atlas) -> Iterator[str]:
    """Each city's country is in `countries.csv`."""
    for where, city in _cities(atlas):
        if city.country not in atlas.countries:
            yield f"{where} has country {city.country!r}, which countries.csv lacks."


@rule
def city_driving_side_is_left_or_right(atlas: Atlas) -> Iterator[str]:
    """Traffic keeps to one of two sides."""
    for where, city in _cities(atlas):
        if city.driving_side not in get_args(Side):
            yield f"{where} has driving side {city.driving_side!r}; expected 'left' or 'right'."


@rule
def city_waterfront_is_known(atlas: Atlas) -> Iterator[str]:
    """The waterfront is one of four kinds."""
    for where, city in _cities(atlas):
        if city.waterfront not in WATERFRONTS:
            yield f"{where} has waterfront {city.waterfront!r}; expected {listed(WATERFRONTS)}."


@rule
def city_metro_is_known_or_none(atlas: Atlas) -> Iterator[str]:
    """A city has a metro or none, and one that has it cites who says so."""
    for where, city in _cities(atlas):
        cited = ":" in city.metro_source
        if city.metro not in ("yes", "none") or cited != (city.metro == "yes"):
            yield (
                f"{where} has metro {city.metro!r} by {city.metro_source!r}; expected 'yes' with a "
                "network or a page, or 'none'."
            )


@rule
def city_climate_is_a_koeppen_class(atlas: Atlas) -> Iterator[str]:
    """Climate classes are Koeppen's."""
    for where, city in _cities(atlas):
        if not KOEPPEN.fullmatch(city.koeppen):
            yield f"{where} has climate {city.koeppen!r}, which is no Koeppen class."


@rule
def city_time_zone_exists(atlas: Atlas) -> Iterator[str]:
    """The time zone is one of IANA's."""
    for where, city in _cities(atlas):
        if not _is_time_zone(city.time_zone):
            yield f"{where} has time zone {city.time_zone!r}, which IANA lacks."


@rule
def city_language_is_known(atlas: Atlas) -> Iterator[str]:
    """The language of street signs is in `languages.csv`."""
    for where, city in _cities(atlas):
        if city.languages[0] not in atlas.languages:
            yield (
                f"{where} has street language {city.languages[0]!r}, which languages.csv lacks; add "
                "it to inputs/languages.csv and bake again."
            )


@rule
def city_stands_once(atlas: Atlas) -> Iterator[str]:
    """No two keys mean the same GeoNames record."""
    for number in doubled(city.geonameid for city in atlas.cities.values()):
        keys = [city.key for city in atlas.cities.values() if city.geonameid == number]
        yield f"cities.csv has GeoNames id {number} in the rows {listed(keys)}; expected it once."


@rule
def every_continent_has_a_city(atlas: Atlas) -> Iterator[str]:
    """Each inhabited continent is there."""
    missing = INHABITED - {city.continent for city in atlas.cities.values()}
    if missing:
        yield f"cities.csv has no city on {listed(sorted(missing))}; each continent needs one."


@rule
def no_country_outweighs_the_others(atlas: Atlas) -> Iterator[str]:
    """At most three cities a country, of those that came after the first ones."""
    cities = list(atlas.cities.values())
    counts = Counter(city.country for city in cities)
    for city in cities[FREE_CITIES:]:
        if counts[city.country] > MOST_CITIES:
            yield (
                f"cities.csv, row {city.key!r} is one of {counts[city.country]} cities of "
                f"{city.country!r}; expected at most {MOST_CITIES}."
            )


@rule
def country_is_sound(atlas: Atlas) -> Iterator[str]:
    """Countries have a name, days off, a unit of speed and a numbering system."""
    for key, country in atlas.countries.items():
        where = f"countries.csv, row {key!r}"
        if not set(country.weekend) <= set(range(7)):
            yield f"{where} has weekend {country.weekend}; expected days from 0, Monday, to 6."
        if country.speed_unit not in ("km/h", "mph"):
            yield f"{where} has speed unit {country.speed_unit!r}; expected 'km/h' or 'mph'."
        if not (country.name and country.numbering):
            yield f"{where} lacks a name or a numbering system."


@rule
def country_weekend_has_a_source(atlas: Atlas) -> Iterator[str]:
    """What says on which days people rest is a package or a page."""
    for key, country in atlas.countries.items():
        if not is_known_source(atlas, country.weekend_source):
            yield source_sentence(country.weekend_source, f"countries.csv, row {key!r}")


@rule
def holiday_date_parses(atlas: Atlas) -> Iterator[str]:
    """Holidays lie on ISO dates."""
    for row in atlas.holidays:
        if not _is_date(row.date):
            yield f"holidays.csv, row {row.country} {row.name!r} has date {row.date!r}; expected ISO."


@rule
def holiday_country_is_known(atlas: Atlas) -> Iterator[str]:
    """Holidays belong to countries of the atlas."""
    for row in atlas.holidays:
        if row.country not in atlas.countries:
            yield (
                f"holidays.csv, row {row.country} {row.date} has country {row.country!r}, which "
                "countries.csv lacks."
            )


@rule
def holiday_has_a_name_and_a_source(atlas: Atlas) -> Iterator[str]:
    """Holidays are named and sourced."""
    for row in atlas.holidays:
        where = f"holidays.csv, row {row.country} {row.date}"
        if not row.name:
            yield f"{where} has no name."
        if not is_known_source(atlas, row.source):
            yield source_sentence(row.source, where)


@rule
def holiday_stands_once(atlas: Atlas) -> Iterator[str]:
    """No holiday is listed twice."""
    for key in doubled((row.country, row.date, row.name) for row in atlas.holidays):
        yield f"holidays.csv has the row {key} more than once."


@rule
def alias_points_to_a_key(atlas: Atlas) -> Iterator[str]:
    """Aliases stand for keys."""
    for kind, alias, key in _aliases(atlas):
        if key not in _keys(atlas)[kind]:
            yield f"aliases.csv, row {alias!r} stands for {key!r}, which is no {kind}."


@rule
def alias_is_no_key(atlas: Atlas) -> Iterator[str]:
    """An alias that is a key too would never be heard."""
    for kind, alias, _ in _aliases(atlas):
        if alias in _keys(atlas)[kind]:
            yield f"aliases.csv, row {alias!r} is the key of a {kind} itself; remove the row."


@file_rule
def keys_are_append_only(atlas: Atlas, folder: Path) -> Iterator[str]:
    """Released keys keep their place; new ones come last and are then released in `keys.txt`."""
    released: dict[str, list[str]] = {"city": [], "institution": []}
    for line in (folder / KEYS_FILE).read_text(encoding="utf-8").splitlines():
        kind, _, key = line.partition(" ")
        released[kind].append(key)
    for kind, keys in _keys(atlas).items():
        for number, (old, new) in enumerate(zip(released[kind], keys, strict=False), start=1):
            if old != new:
                yield (
                    f"{KEYS_FILE} has {kind} {old!r} in place {number}, where the table has {new!r}; "
                    "keys are never renamed, moved or removed."
                )
                break
        for key in released[kind][len(keys) :]:
            yield f"{KEYS_FILE} has {kind} {key!r}, which the table lacks; keys are never removed."
        for key in keys[len(released[kind]) :]:
            yield f"{KEYS_FILE} lacks {kind} {key!r}; add the line '{kind} {key}' at its end."


def _aliases(atlas: Atlas) -> Iterator[tuple[str, str, str]]:
    """Kind, alias and key of every alias."""
    for kind, aliases in atlas.aliases.items():
        for alias, key in aliases.items():
            yield kind, alias, key


def _keys(atlas: Atlas) -> dict[str, list[str]]:
    """Keys by kind, in order."""
    return {"city": list(atlas.cities), "institution": list(atlas.institutions)}


@cache
def _is_time_zone(name: str) -> bool:
    """Whether IANA has a time zone."""
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError):
        return False
    return True


def _is_date(text: str) -> bool:
    """Whether a text is an ISO date."""
    try:
        dt.date.fromisoformat(text)
    except ValueError:
        return False
    return True
