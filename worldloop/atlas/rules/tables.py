"""Rules of sources, pages, weather, names and the data folder as a whole."""

import datetime as dt
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from worldloop.atlas.atlas import Atlas
from worldloop.atlas.records import (
    EVIDENCE,
    Activity,
    City,
    Country,
    CrowdProfile,
    Institution,
    Language,
    OpeningClass,
    RoadType,
    WeatherRule,
)
from worldloop.atlas.rules.registry import file_rule, listed, rule

MOST_BYTES = 2_000_000
LONGEST_QUOTE = 15  # words
SEASONS = ("spring", "summer", "autumn", "winter", "wet season", "dry season")
FROZEN = re.compile(r"Dw.|D.[cd]|E.")  # climates whose winters do not thaw
UNSOURCED = {  # tables whose rows carry no source for some columns; sources.toml says it for them
    "cities": City,
    "countries": Country,
    "institutions": Institution,
    "languages": Language,
    "opening_classes": OpeningClass,
    "crowd_profiles": CrowdProfile,
    "activities": Activity,
    "roads": RoadType,
    "climates": WeatherRule,
}
EDITORIAL = frozenset({"key", "tag", "institution"})  # keys are ours, no facts


@rule
def source_is_described(atlas: Atlas) -> Iterator[str]:
    """A source says what it is, under which licence, and which evidence it gives."""
    for key, source in atlas.sources.items():
        if not (source.get("what") and source.get("licence") and "columns" in source):
            yield f"sources.toml, [{key}] needs `what`, `licence` and `columns`."
        if source.get("evidence") not in EVIDENCE:
            yield f"sources.toml, [{key}] needs `evidence`, one of {listed(EVIDENCE)}."


@rule
def column_has_a_source(atlas: Atlas) -> Iterator[str]:
    """Columns of tables that name no source in the row have one in `sources.toml`."""
    for table, kind in UNSOURCED.items():
        sourced = {column for _, column in _columns(atlas, table)}
        names = {field.name for field in fields(kind)} - EDITORIAL
        own = {name.removesuffix("_source") for name in names if name.endswith("_source")}
        bare = {name for name in names - own if not name.endswith("_source")} - sourced
        if bare and "all" not in sourced:
            yield f"sources.toml says for no source that it gives {table}: {listed(sorted(bare))}."


@rule
def page_was_opened(atlas: Atlas) -> Iterator[str]:
    """Pages have an address, a title and the date on which they were opened."""
    for key, page in atlas.pages.items():
        where = f"pages.csv, row {key!r}"
        try:
            dt.date.fromisoformat(page.opened)
        except ValueError:
            yield f"{where} was opened on {page.opened!r}; expected an ISO date."
        if not re.match(r"https?://[^/\s]+\.[^/\s]+", page.address) or not page.title:
            yield f"{where} needs a title and an address with http, found {page.address!r}."


@rule
def quote_is_short(atlas: Atlas) -> Iterator[str]:
    """A quote proves a fact in at most fifteen words."""
    for key, page in atlas.pages.items():
        words = len(page.quote.split())
        if not 1 <= words <= LONGEST_QUOTE:
            yield (f"pages.csv, row {key!r} quotes {words} words; expected 1 to {LONGEST_QUOTE}.")


@rule
def weather_rule_is_sound(atlas: Atlas) -> Iterator[str]:
    """Five weights, not all zero, known seasons, and classes that parse."""
    for number, one in enumerate(atlas.weather_rules, start=1):
        where = f"climates.toml, rule {number}"
        if len(one.weights) != 5 or min(one.weights) < 0 or not sum(one.weights):
            yield f"{where} needs five weights that are not all zero."
        if not one.seasons or not set(one.seasons) <= set(SEASONS):
            yield f"{where} has seasons {listed(one.seasons)}; expected of {listed(SEASONS)}."


@rule
def weather_is_covered(atlas: Atlas) -> Iterator[str]:
    """Each climate of a city has weather in each season that it may have."""
    for koeppen in sorted({city.koeppen for city in atlas.cities.values()}):
        for season in SEASONS:
            fits = (
                season in one.seasons and re.fullmatch(one.classes, koeppen)
                for one in atlas.weather_rules
            )
            if not any(fits):
                yield f"climates.toml has no rule for {koeppen!r} in {season!r}."


@rule
def snow_falls_in_cold_winters(atlas: Atlas) -> Iterator[str]:
    """Snow has weight in winter alone, and never in tropical or desert climates."""
    warm = {city.koeppen for city in atlas.cities.values() if city.koeppen[0] in "AB"}
    for number, one in enumerate(atlas.weather_rules, start=1):
        tropical = [koeppen for koeppen in sorted(warm) if re.fullmatch(one.classes, koeppen)]
        if (
            len(one.weights) == 5
            and one.weights[4]
            and (set(one.seasons) != {"winter"} or tropical)
        ):
            yield f"climates.toml, rule {number} lets snow fall where or when it cannot."


@rule
def no_rain_falls_in_deep_frost(atlas: Atlas) -> Iterator[str]:
    """Winters of monsoon and subarctic climates, and polar ones, are too cold for rain."""
    for koeppen in sorted({city.koeppen for city in atlas.cities.values()}):
        if not FROZEN.fullmatch(koeppen):
            continue
        fits = (
            one.weights
            for one in atlas.weather_rules
            if "winter" in one.seasons and re.fullmatch(one.classes, koeppen)
        )
        if next(fits, (0,) * 5)[2:3] != (0,):
            yield f"climates.toml lets rain fall in the winter of {koeppen!r}; expected weight 0."


@file_rule
def data_is_small(atlas: Atlas, folder: Path) -> Iterator[str]:
    """All tables together stay below two megabytes."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size >= MOST_BYTES:
        yield f"{folder.name}/ has {size} bytes; expected less than {MOST_BYTES}."


def _columns(atlas: Atlas, table: str) -> Iterator[tuple[str, str]]:
    """Sources and columns that `sources.toml` lists for a table."""
    for key, source in atlas.sources.items():
        for line in source.get("columns", ()):
            name, _, columns = line.partition(":")
            if name == table:
                yield from ((key, column) for column in columns.split())
