"""Facts: what the atlas says about one place, each with its scope, its source and its evidence."""

from collections.abc import Iterator
from dataclasses import dataclass, fields

from worldloop.atlas.atlas import Atlas
from worldloop.atlas.opening import WEEKDAYS
from worldloop.atlas.records import (
    FALLBACK_LANGUAGE,
    City,
    Country,
    Decorum,
    Institution,
    SignWord,
)
from worldloop.atlas.seasons import may_snow, seasons_of

WEATHERS = ("clear", "cloudy", "rain", "fog", "snow")
METRO = "metro"
_NOT_FACTS = frozenset({"key"})
_OWN_SOURCES = {  # columns of a city whose source stands beside them, and what decides their scope
    "languages": "languages_source",
    "koeppen": "koeppen_source",
    "waterfront": "waterfront_source",
    "metro": "metro_source",
}


@dataclass(frozen=True)
class Fact:
    """One fact of a place.

    Attributes:
        slot: What is said, e.g. `city.koeppen`, `sign:exit`, `dress:keeper`.
        value: What holds; alternatives are joined by ` | `, and a fallback is named in brackets.
        scope: How far it holds, e.g. `city tokyo`, `country JP`, `world`.
        source: Source id of `sources.toml` or `page:<id>`; empty where nobody named one.
        evidence: `package`, `derived`, `curated` or `generic`.
    """

    slot: str
    value: str
    scope: str
    source: str
    evidence: str


def place_facts(atlas: Atlas, place: str) -> list[Fact]:
    """Every fact of a place: of its city and country, its kind, its decorum, signs and nature.

    Raises:
        MalformedRecordError: If the place is not written as `<city>/<institution>`.
        UnknownKeyError: If either half is unknown.

    Example:
        >>> from worldloop.atlas.atlas import load_atlas
        >>> facts = {fact.slot: fact for fact in place_facts(load_atlas(), "tokyo/zoo")}
        >>> facts["city.driving_side"].value, facts["city.driving_side"].source
        ('left', 'country-coder')
    """
    city, kind = atlas.parse_place(place)
    return [
        *_city_facts(atlas, city),
        *_country_facts(atlas, atlas.country(city.key)),
        *_kind_facts(atlas, kind),
        *_decorum_facts(atlas, city, kind),
        *_sign_facts(atlas, city, kind),
        *_nature_facts(atlas, city, kind),
        *_activity_facts(atlas, kind),
    ]


def evidence_of(atlas: Atlas, source: str) -> str:
    """The class of evidence that a source gives; empty for an unknown one."""
    base = source.partition(":")[0]
    return "curated" if base == "page" else str(atlas.sources.get(base, {}).get("evidence", ""))


def column_source(atlas: Atlas, table: str, column: str) -> str:
    """The source that `sources.toml` names for a column of a table; empty if none does.

    Example:
        >>> from worldloop.atlas.atlas import load_atlas
        >>> column_source(load_atlas(), "cities", "population")
        'geonames'
    """
    for key, source in atlas.sources.items():
        for line in source.get("columns", ()):
            name, _, columns = line.partition(":")
            if name == table and {column, "all"} & set(columns.split()):
                return key
    return ""


def _city_facts(atlas: Atlas, city: City) -> Iterator[Fact]:
    """Columns of the city."""
    for name in (field.name for field in fields(city)):
        if name in _NOT_FACTS or name.endswith("_source"):
            continue
        own = _OWN_SOURCES.get(name)
        source = getattr(city, own) if own else column_source(atlas, "cities", name)
        scope = f"city {city.key}"
        if name == "languages":
            scope = _language_scope(city)
        yield _fact(atlas, f"city.{name}", _text(getattr(city, name)), scope, source)


def _language_scope(city: City) -> str:
    """How far the languages of a city hold: where its override says, else in the country."""
    parts = city.languages_source.split(":")
    return f"{parts[1]} {parts[2]}" if parts[0] == "override" else f"country {city.country}"


def _country_facts(atlas: Atlas, country: Country) -> Iterator[Fact]:
    """Columns of the country, and its holidays."""
    scope = f"country {country.key}"
    for name in (field.name for field in fields(country)):
        if name not in _NOT_FACTS and not name.endswith("_source"):
            source = column_source(atlas, "countries", name)
            value = getattr(country, name)
            if name == "weekend":
                source = country.weekend_source
                value = tuple(WEEKDAYS[day] for day in value)
            yield _fact(atlas, f"country.{name}", _text(value), scope, source)
    for row in atlas.holidays:
        if row.country == country.key:
            yield _fact(atlas, f"holiday:{row.date}", row.name, scope, row.source)


def _kind_facts(atlas: Atlas, kind: Institution) -> Iterator[Fact]:
    """Columns of the institution, and how full it is."""
    for name in (field.name for field in fields(kind)):
        if name not in _NOT_FACTS:
            source = column_source(atlas, "institutions", name)
            yield _fact(atlas, f"institution.{name}", _text(getattr(kind, name)), "world", source)
    source = column_source(atlas, "crowd_profiles", "levels")
    for day, levels in atlas.crowd_profiles[kind.crowd].levels.items():
        yield _fact(atlas, f"crowd:{day}", levels, "world", source)


def _decorum_facts(atlas: Atlas, city: City, kind: Institution) -> Iterator[Fact]:
    """The row that wins for each slot."""
    for slot in kind.decorum_slots:
        row = atlas.decorum(city.key, kind.key, slot)
        yield Fact(slot, " | ".join(row.values), _scope(row), row.source, row.evidence)


def _scope(row: Decorum) -> str:
    """The scope of a row in words."""
    return f"{row.scope} {row.scope_key}".strip()


def _sign_facts(atlas: Atlas, city: City, kind: Institution) -> Iterator[Fact]:
    """Signs with their language; a fallback says which languages lack the word."""
    words = dict.fromkeys([*filter(None, [kind.own_word]), *kind.sign_words])
    if city.metro == "none":
        words.pop(METRO, None)  # no sign points to a metro where there is none
    rows = {(sign.language, sign.word): sign for sign in atlas.signs if sign.word in words}
    for word in words:
        row = _sign_row(rows, city, word)
        if row:
            lacking = city.languages[: _rank(city, row.language)]
            note = f"; fallback, no word in {', '.join(lacking)}" if lacking else ""
            value = f"{row.text} [{row.language}{note}]"
            yield _fact(atlas, f"sign:{word}", value, f"language {row.language}", row.source)


def _sign_row(rows: dict[tuple[str, str], SignWord], city: City, word: str) -> SignWord | None:
    """The row that stands on the sign, as `Atlas.sign` chooses it."""
    languages = (*city.languages, FALLBACK_LANGUAGE)
    found = (rows.get((language, word)) for language in languages)
    return next((row for row in found if row), None)


def _rank(city: City, language: str) -> int:
    """How many of the city's languages come before one; all of them before the last fallback."""
    tags = city.languages
    return tags.index(language) if language in tags else len(tags)


def _nature_facts(atlas: Atlas, city: City, kind: Institution) -> Iterator[Fact]:
    """Weathers of the climate by season, plants and animals."""
    scope = f"climate {city.koeppen}"
    source = column_source(atlas, "climates", "weights")
    for season in seasons_of(city):
        weights = dict(zip(WEATHERS, atlas.weather_weights(city.koeppen, season), strict=True))
        if not may_snow(city, season):
            weights["snow"] = 0
        value = ", ".join(f"{name} {weight}" for name, weight in weights.items() if weight)
        yield _fact(atlas, f"weather:{season}", value, scope, source)
    for one in atlas.species(city.key, kind.key):
        continents = ", ".join(one.continents) or "every continent"
        where = f"climates {one.classes} of {continents}"
        yield Fact(f"species:{one.kind}", one.name, where, one.source, one.evidence)


def _activity_facts(atlas: Atlas, kind: Institution) -> Iterator[Fact]:
    """What may go on."""
    source = column_source(atlas, "activities", "says")
    for one in atlas.activities(kind.key):
        value = f"{one.says} ({one.category})"
        yield _fact(atlas, f"activity:{one.key}", value, "world", source)


def _fact(atlas: Atlas, slot: str, value: str, scope: str, source: str) -> Fact:
    """A fact whose evidence follows from its source."""
    return Fact(slot, value, scope, source, evidence_of(atlas, source))


def _text(value: object) -> str:
    """A cell in words."""
    if isinstance(value, tuple):
        return " | ".join(str(part) for part in value)
    return str(value)
