"""The place atlas: cities, institutions and what belongs to them, looked up by key.

The tables lie in `data/` (see its README); `bake.py` and people write them, `reading.py` reads
them, and nothing changes them afterwards. How the facts are checked is in `checks.py`.
"""

import datetime as dt
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from worldloop.atlas import reading
from worldloop.atlas.csv_tables import DATA
from worldloop.atlas.opening import parse_hours
from worldloop.atlas.records import (
    ANY_INSTITUTION,
    FALLBACK_LANGUAGE,
    SCOPES,
    Activity,
    City,
    Country,
    CrowdProfile,
    DayKind,
    Decorum,
    Holiday,
    Institution,
    Language,
    OpeningClass,
    Page,
    RoadType,
    Sign,
    SignWord,
    Species,
    WeatherRule,
)
from worldloop.atlas.seasons import has_warm_season, plant_class
from worldloop.errors import MalformedRecordError, UnknownKeyError
from worldloop.seeds import content_id

DecorumKey = tuple[str, str, str, str]


@dataclass(frozen=True)
class Atlas:
    """All tables, by key and in the order of their files.

    A place is meant by the keys of its city and institution; aliases are understood wherever a
    lookup takes one. Sequences of large tables may be read only when somebody looks at them.
    """

    cities: Mapping[str, City]
    countries: Mapping[str, Country]
    holidays: Sequence[Holiday]
    institutions: Mapping[str, Institution]
    aliases: Mapping[str, Mapping[str, str]]
    opening_classes: Mapping[str, OpeningClass]
    crowd_profiles: Mapping[str, CrowdProfile]
    activity_rows: Sequence[Activity]
    categories: Mapping[str, str]
    roads: Mapping[str, RoadType]
    languages: Mapping[str, Language]
    words: Mapping[str, str]
    signs: Sequence[SignWord]
    decorum_rows: Sequence[Decorum]
    species_rows: Sequence[Species]
    weather_rules: Sequence[WeatherRule]
    pages: Mapping[str, Page]
    sources: Mapping[str, Mapping[str, Any]]

    @cached_property
    def hash(self) -> str:
        """32 hex digits over every record; wave plans pin it."""
        return content_id(self.to_record())

    def to_record(self) -> dict[str, Any]:
        """Every record as JSON values, tables by name."""
        return {
            "cities": _records(self.cities.values()),
            "countries": _records(self.countries.values()),
            "holidays": _records(self.holidays),
            "institutions": _records(self.institutions.values()),
            "aliases": {kind: dict(keys) for kind, keys in self.aliases.items()},
            "opening_classes": _records(self.opening_classes.values()),
            "crowd_profiles": _records(self.crowd_profiles.values()),
            "activities": _records(self.activity_rows),
            "categories": dict(self.categories),
            "roads": _records(self.roads.values()),
            "languages": _records(self.languages.values()),
            "words": dict(self.words),
            "signs": _records(self.signs),
            "decorum": _records(self.decorum_rows),
            "species": _records(self.species_rows),
            "weather": _records(self.weather_rules),
            "pages": _records(self.pages.values()),
            "sources": {key: dict(source) for key, source in self.sources.items()},
        }

    # ------------------------------------------------------------------------- places

    def city(self, key: str) -> City:
        """A city by key or alias.

        Raises:
            UnknownKeyError: If the atlas has none of that key; the nearest names are suggested.
        """
        found = self.cities.get(key) or self.cities.get(self.aliases["city"].get(key, ""))
        if found is None:
            raise UnknownKeyError("city", key, self.cities, aliases=self.aliases["city"])
        return found

    def country(self, city: str) -> Country:
        """The country of a city.

        Raises:
            UnknownKeyError: If the city or its country is unknown.
        """
        key = self.city(city).country
        if key not in self.countries:
            raise UnknownKeyError("country", key, self.countries)
        return self.countries[key]

    def institution(self, key: str) -> Institution:
        """An institution by key or alias.

        Raises:
            UnknownKeyError: If the atlas has none of that key; the nearest names are suggested.
        """
        aliases = self.aliases["institution"]
        found = self.institutions.get(key) or self.institutions.get(aliases.get(key, ""))
        if found is None:
            raise UnknownKeyError("institution", key, self.institutions, aliases=aliases)
        return found

    def has(self, city: str, institution: str) -> bool:
        """Whether a city has an institution: a harbour needs water, a water park a warm season."""
        return not _what_lacks(self.city(city), self.institution(institution))

    def parse_place(self, place: str) -> tuple[City, Institution]:
        """City and institution of a place as people write it.

        Raises:
            MalformedRecordError: If there is not exactly one slash, or the city has none of these.
            UnknownKeyError: If either half is unknown; if both are, a whole place is suggested.

        Example:
            >>> city, institution = load_atlas().parse_place("tokyo/zoo")
            >>> city.name, institution.name
            ('Tokyo', 'zoo')
        """
        parts = place.split("/")
        if len(parts) != 2:
            raise MalformedRecordError(
                "place", place, "<city>/<institution>", "Write it like 'tokyo/zoo'."
            )
        try:
            city, institution = self.city(parts[0]), self.institution(parts[1])
        except UnknownKeyError as error:
            raise self._unknown_place(place, error) from None
        needed = _what_lacks(city, institution)
        if needed:
            raise MalformedRecordError("place", place, needed, "Choose another city.")
        return city, institution

    def _unknown_place(self, place: str, error: UnknownKeyError) -> UnknownKeyError:
        """The error of the unknown half, or one that suggests a place if both halves have something near."""
        if error.kind == "institution" or not error.near:
            return error
        try:
            self.institution(place.partition("/")[2])
        except UnknownKeyError as other:
            city, kind = error.near, other.near
            if kind and self.has(city, kind):
                return UnknownKeyError("place", place, self._places, aliases=[f"{city}/{kind}"])
        return error

    @property
    def _places(self) -> list[str]:
        return [
            f"{city}/{kind}"
            for city in self.cities
            for kind in self.institutions
            if self.has(city, kind)
        ]

    # ------------------------------------------------------------------------- decorum

    def decorum(self, city: str, institution: str, slot: str) -> Decorum:
        """The rule for a slot; the narrowest scope that names the city wins.

        Within a scope a row of the institution beats one of all institutions. The world's `hours`
        and `closed_on` are those of the institution's opening class.

        Args:
            city: Key of the city.
            institution: Key of the institution.
            slot: e.g. `dress:nurse`.

        Raises:
            UnknownKeyError: If the city, the institution or the slot is unknown.
        """
        place, kind = self.city(city), self.institution(institution)
        rows = self._decorum_index
        for scope in SCOPES:
            key = place.scope_key(scope)
            row = rows.get((scope, key, kind.key, slot))
            row = row or rows.get((scope, key, ANY_INSTITUTION, slot))
            if row and slot in kind.decorum_slots:
                return row
        raise UnknownKeyError(f"decorum slot of {kind.key!r}", slot, kind.decorum_slots)

    def hours(self, city: str, institution: str) -> tuple[float, float]:
        """Opening and closing hour, local clock; (0, 24) is a place that never closes.

        Raises:
            UnknownKeyError: If the city or the institution is unknown.
            MalformedRecordError: If the decorum row is not written like `09:00-17:30`.

        Example:
            >>> load_atlas().hours("tokyo", "street")
            (0.0, 24.0)
        """
        return parse_hours(self.decorum(city, institution, "hours").values[0])

    @cached_property
    def holiday_years(self) -> frozenset[int]:
        """Years whose public holidays are known."""
        return frozenset(int(row.date[:4]) for row in self.holidays)

    def day_kind(self, city: str, date: dt.date) -> tuple[DayKind, str]:
        """Whether people in a city work on a date, and the English name of its holiday or "".

        A holiday on a weekend is a holiday. Holidays are known for the years of `holidays.csv`.

        Raises:
            UnknownKeyError: If the city or its country is unknown.
        """
        country = self.country(city)
        holiday = self._holiday_index.get((country.key, date.isoformat()), "")
        if holiday:
            return "holiday", holiday
        return ("weekend" if date.weekday() in country.weekend else "workday"), ""

    # ------------------------------------------------------------------------- what is there

    def activities(self, institution: str) -> tuple[Activity, ...]:
        """What may go on at an institution.

        Raises:
            UnknownKeyError: If the institution is unknown.
        """
        return self._activity_index.get(self.institution(institution).key, ())

    def species(self, city: str, institution: str) -> tuple[Species, ...]:
        """Plants and animals that may be seen at a place: those of climate, continent and kind.

        Animals that a zoo or aquarium keeps are no part of it.

        Raises:
            UnknownKeyError: If the city or the institution is unknown.
        """
        place, kind = self.city(city), self.institution(institution)
        return tuple(
            one
            for one in self._species_of(plant_class(place), place.continent)
            if kind.key in one.institutions or (not one.institutions and kind.setting == "outdoor")
        )

    def sign(self, city: str, word: str) -> Sign:
        """A word as it stands on a sign in a city.

        The first of the city's languages that has the word is used, then English;
        `Sign.language` says which one it was.

        Raises:
            UnknownKeyError: If the city or the word is unknown.

        Example:
            >>> load_atlas().sign("tokyo", "hospital")
            Sign(word='hospital', text='病院', language='ja')
        """
        for language in (*self.city(city).languages, FALLBACK_LANGUAGE):
            text = self.sign_texts.get((language, word))
            if text:
                return Sign(word, text, language)
        raise UnknownKeyError("sign word", word, self.words)

    def weather_weights(self, koeppen: str, season: str) -> tuple[int, ...]:
        """Weights of `clear`, `cloudy`, `rain`, `fog` and `snow`.

        Raises:
            MalformedRecordError: If no rule covers the class in that season.
        """
        for rule in self.weather_rules:
            if season in rule.seasons and re.fullmatch(rule.classes, koeppen):
                return rule.weights
        raise MalformedRecordError(
            "climates.toml", (koeppen, season), "a rule that covers both", "Add one."
        )

    # ------------------------------------------------------------------------- indexes

    @cached_property
    def sign_texts(self) -> dict[tuple[str, str], str]:
        """Texts of signs by language and word."""
        return {(sign.language, sign.word): sign.text for sign in self.signs}

    @cached_property
    def _decorum_index(self) -> dict[DecorumKey, Decorum]:
        """Rows by scope, scope key, institution and slot."""
        rows = [*self._opening_rows(), *self.decorum_rows]
        return {(row.scope, row.scope_key, row.institution, row.slot): row for row in rows}

    def _opening_rows(self) -> Iterable[Decorum]:
        """World rows of `hours` and `closed_on`, from the opening classes."""
        for kind in self.institutions.values():
            opening = self.opening_classes.get(kind.hours)
            if opening:
                for slot, value in (("hours", opening.hours), ("closed_on", opening.closed_on)):
                    yield Decorum("world", "", kind.key, slot, (value,), "generic", "generic")

    @cached_property
    def _holiday_index(self) -> dict[tuple[str, str], str]:
        """Names of holidays by country and ISO date; the first row of a date names it."""
        rows = reversed(self.holidays)
        return {(row.country, row.date): row.name for row in rows}

    @cached_property
    def _activity_index(self) -> dict[str, tuple[Activity, ...]]:
        """Activities by institution."""
        found: dict[str, list[Activity]] = {}
        for row in self.activity_rows:
            found.setdefault(row.institution, []).append(row)
        return {key: tuple(rows) for key, rows in found.items()}

    @cached_property
    def _climate_species(self) -> dict[tuple[str, str], tuple[Species, ...]]:
        """What `_species_of` found already."""
        return {}

    def _species_of(self, koeppen: str, continent: str) -> tuple[Species, ...]:
        """Species at home in a climate class of a continent."""
        known = self._climate_species
        if (koeppen, continent) not in known:
            known[koeppen, continent] = tuple(
                one
                for one in self.species_rows
                if re.fullmatch(one.classes, koeppen)
                and (not one.continents or continent in one.continents)
            )
        return known[koeppen, continent]


def _what_lacks(city: City, kind: Institution) -> str:
    """What kind of city an institution needs and this one is not; empty if it can be there."""
    if kind.needs_waterfront and city.waterfront == "none":
        return "a city at the water"
    if kind.needs_metro and city.metro == "none":
        return "a city with a metro"
    if kind.needs_warmth and not has_warm_season(city):
        return "a city that has a warm season"
    return ""


@cache
def load_atlas() -> Atlas:
    """The atlas of this version of worldloop; read once per process, well under 50 milliseconds.

    Raises:
        MalformedRecordError: If a row does not parse or a key stands twice; file and row are named.
    """
    return read_atlas(DATA)


def read_atlas(folder: Path) -> Atlas:
    """The atlas whose tables lie in a folder.

    Raises:
        MalformedRecordError: If a row does not parse or a key stands twice; file and row are named.
            Holidays, activities, species and signs are read, and refused, on their first use.
    """
    return Atlas(
        cities=reading.read_cities(folder),
        countries=reading.read_countries(folder),
        holidays=reading.LazyRows(lambda: reading.read_holidays(folder)),
        institutions=reading.read_institutions(folder),
        aliases=reading.read_aliases(folder),
        opening_classes=reading.read_opening_classes(folder),
        crowd_profiles=reading.read_crowd_profiles(folder),
        activity_rows=reading.LazyRows(lambda: reading.read_activities(folder)),
        categories=reading.read_categories(folder),
        roads=reading.read_roads(folder),
        languages=reading.read_languages(folder),
        words=reading.read_words(folder),
        signs=reading.LazyRows(lambda: reading.read_signs(folder)),
        decorum_rows=reading.read_decorum(folder),
        species_rows=reading.LazyRows(lambda: reading.read_species(folder)),
        weather_rules=reading.read_weather_rules(folder),
        pages=reading.read_pages(folder),
        sources=reading.read_toml(folder / "sources.toml"),
    )


def _records(rows: Iterable[Any]) -> list[dict[str, Any]]:
    """Flat records as JSON values; tuples become lists there."""
    return [dict(vars(row)) for row in rows]
