"""The place atlas: cities, institutions and what belongs to them, looked up by key.

The tables lie in `data/` (see its README); `bake.py` and people write them, this module reads
them once and never changes them. How the facts are checked is in `checks.py`.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from typing import Any, Literal

from worldloop.atlas.csv_tables import DATA, read_rows
from worldloop.errors import MalformedRecordError, UnknownKeyError
from worldloop.scenes.scene import Sign
from worldloop.seeds import content_id

Side = Literal["left", "right"]
SCOPES = ("city", "admin1", "country", "region", "world")  # narrowest first
FALLBACK_LANGUAGE = "en"


@dataclass(frozen=True)
class City:
    """A city and the facts of its place.

    Attributes:
        key: Key of the city, e.g. `sao_paulo`; keys are never renamed or removed.
        name: English name.
        endonym: What people there call it, in their script.
        country: ISO 3166 code.
        country_name: English name of the country.
        continent: GeoNames continent code, e.g. `AS`.
        region: UN M49 region, e.g. `eastern_asia`.
        admin1: First-level division, `<country>.<GeoNames code>`.
        latitude_deg: North is positive.
        longitude_deg: East is positive.
        time_zone: IANA name.
        population: Inhabitants, as GeoNames counts them.
        languages: BCP 47 tags; the first is the one on street signs.
        languages_source: Source id, or the override that decided it.
        koeppen: Climate class, e.g. `Cfa`.
        koeppen_source: Source id of the class.
        driving_side: Side of the road that traffic keeps to.
        geonameid: Id of the GeoNames record.
    """

    key: str
    name: str
    endonym: str
    country: str
    country_name: str
    continent: str
    region: str
    admin1: str
    latitude_deg: float
    longitude_deg: float
    time_zone: str
    population: int
    languages: tuple[str, ...]
    languages_source: str
    koeppen: str
    koeppen_source: str
    driving_side: Side
    geonameid: str

    def scope_key(self, scope: str) -> str:
        """The key under which a decorum row of a scope would name this city."""
        keys = {"city": self.key, "admin1": self.admin1, "country": self.country}
        return {**keys, "region": self.region, "world": ""}[scope]


@dataclass(frozen=True)
class Institution:
    """A kind of place.

    Attributes:
        key: Key of the institution, e.g. `zoo`.
        name: What a caption calls it, without an article.
        setting: Whether one stands outdoors or indoors.
        opens: Opening hour, local clock.
        closes: Closing hour, up to 24.
        osm_tag: OpenStreetMap preset of the kind.
        own_word: Sign word of the institution's own sign, or empty.
        roles: Who may be there; each has a decorum slot `dress:<role>`.
        slots: Further decorum slots.
        props: Things that belong there.
        sign_words: Words that stand on its other signs.
    """

    key: str
    name: str
    setting: Literal["outdoor", "indoor"]
    opens: float
    closes: float
    osm_tag: str
    own_word: str
    roles: tuple[str, ...]
    slots: tuple[str, ...]
    props: tuple[str, ...]
    sign_words: tuple[str, ...]

    @property
    def decorum_slots(self) -> tuple[str, ...]:
        """Every slot that must resolve in every city."""
        return (*(f"dress:{role}" for role in self.roles), *self.slots)


@dataclass(frozen=True)
class Decorum:
    """One rule of what belongs to an institution, in one scope.

    Attributes:
        scope: `world`, `region`, `country`, `admin1` or `city`; the narrowest that fits wins.
        scope_key: Which one; empty for the world.
        institution: Key of the institution.
        slot: What is ruled, e.g. `dress:nurse` or `facade`.
        values: Alternatives; a scene's seed chooses among them.
        source: Source id.
        confidence: `generic`, `low`, `medium` or `high`.
        reviewed_by: Who confirmed it, or empty.
    """

    scope: str
    scope_key: str
    institution: str
    slot: str
    values: tuple[str, ...]
    source: str
    confidence: str
    reviewed_by: str


@dataclass(frozen=True)
class Language:
    """A language of signs: BCP 47 tag, English name, endonym, ISO 15924 script, direction."""

    tag: str
    name: str
    endonym: str
    script: str
    direction: Literal["ltr", "rtl"]


@dataclass(frozen=True)
class SignWord:
    """One word in one language: tag, English key, text, and the source of the text."""

    language: str
    word: str
    text: str
    source: str


@dataclass(frozen=True)
class WeatherRule:
    """Weights of the weathers (`clear`, `cloudy`, `rain`, `fog`, `snow`) in a climate and season."""

    classes: str
    seasons: tuple[str, ...]
    weights: tuple[int, ...]


@dataclass(frozen=True)
class Atlas:
    """All tables, by key and in the order of their files."""

    cities: Mapping[str, City]
    institutions: Mapping[str, Institution]
    languages: Mapping[str, Language]
    words: Mapping[str, str]
    signs: tuple[SignWord, ...]
    decorum_rows: tuple[Decorum, ...]
    weather_rules: tuple[WeatherRule, ...]
    sources: Mapping[str, Mapping[str, Any]]

    @cached_property
    def hash(self) -> str:
        """32 hex digits over every record; wave plans pin it."""
        return content_id(self.to_record())

    def to_record(self) -> dict[str, Any]:
        """Every record as JSON values, tables by name."""
        return {
            "cities": [asdict(city) for city in self.cities.values()],
            "institutions": [asdict(kind) for kind in self.institutions.values()],
            "languages": [asdict(language) for language in self.languages.values()],
            "words": dict(self.words),
            "signs": [asdict(sign) for sign in self.signs],
            "decorum": [asdict(row) for row in self.decorum_rows],
            "weather": [asdict(rule) for rule in self.weather_rules],
            "sources": {key: dict(source) for key, source in self.sources.items()},
        }

    def city(self, key: str) -> City:
        """A city.

        Raises:
            UnknownKeyError: If the atlas has none of that key.
        """
        if key not in self.cities:
            raise UnknownKeyError("city", key, self.cities)
        return self.cities[key]

    def institution(self, key: str) -> Institution:
        """An institution.

        Raises:
            UnknownKeyError: If the atlas has none of that key.
        """
        if key not in self.institutions:
            raise UnknownKeyError("institution", key, self.institutions)
        return self.institutions[key]

    def parse_place(self, place: str) -> tuple[City, Institution]:
        """City and institution of a place as people write it.

        Raises:
            MalformedRecordError: If there is not exactly one slash.
            UnknownKeyError: If either half is unknown.

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
        return self.city(parts[0]), self.institution(parts[1])

    def decorum(self, city: str, institution: str, slot: str) -> Decorum:
        """The rule for a slot; the narrowest scope that names the city wins.

        Args:
            city: Key of the city.
            institution: Key of the institution.
            slot: e.g. `dress:nurse`.

        Raises:
            UnknownKeyError: If the city, the institution or the slot is unknown.
        """
        place, rows = self.city(city), self._decorum_index
        slots = self.institution(institution).decorum_slots
        for scope in SCOPES:
            row = rows.get((scope, place.scope_key(scope), institution, slot))
            if row:
                return row
        raise UnknownKeyError(f"decorum slot of {institution!r}", slot, slots)

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
            text = self._sign_index.get((language, word))
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

    @cached_property
    def _decorum_index(self) -> dict[tuple[str, str, str, str], Decorum]:
        """Rows by scope, scope key, institution and slot."""
        rows = self.decorum_rows
        return {(row.scope, row.scope_key, row.institution, row.slot): row for row in rows}

    @cached_property
    def _sign_index(self) -> dict[tuple[str, str], str]:
        """Texts by language and word."""
        return {(sign.language, sign.word): sign.text for sign in self.signs}


@cache
def load_atlas() -> Atlas:
    """The atlas of this version of worldloop; read once per process, a few milliseconds."""
    hours = _read_toml("hours.toml")
    institutions = _read_toml("institutions.toml")
    signs = read_rows(DATA / "signs.csv")
    words = read_rows(DATA / "inputs/sign_words.csv")
    return Atlas(
        cities={row["key"]: _city(row) for row in read_rows(DATA / "cities.csv")},
        institutions={key: _institution(key, row, hours) for key, row in institutions.items()},
        languages={row["tag"]: _language(row) for row in read_rows(DATA / "languages.csv")},
        words={row["word"]: row["english"] for row in words},
        signs=tuple(SignWord(**row) for row in signs),
        decorum_rows=tuple(_decorum(row) for row in read_rows(DATA / "decorum.csv")),
        weather_rules=tuple(_weather_rule(row) for row in _read_toml("climates.toml")["rule"]),
        sources=_read_toml("sources.toml"),
    )


def _read_toml(name: str) -> dict[str, Any]:
    """A TOML table of the data folder."""
    return tomllib.loads((DATA / name).read_text(encoding="utf-8"))


def _city(row: dict[str, str]) -> City:
    """A city from its cells."""
    facts: dict[str, Any] = {
        **row,
        "latitude_deg": float(row["latitude_deg"]),
        "longitude_deg": float(row["longitude_deg"]),
        "population": int(row["population"]),
        "languages": tuple(row["languages"].split(";")),
    }
    return City(**facts)


def _institution(key: str, row: dict[str, Any], hours: dict[str, Any]) -> Institution:
    """An institution from its TOML table and its opening class."""
    row = {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
    return Institution(key=key, **hours[row.pop("hours")], **row)


def _language(row: dict[str, str]) -> Language:
    """A language from its cells."""
    return Language(
        row["tag"],
        row["name"],
        row["endonym"],
        row["script"],
        "rtl" if row["direction"] == "rtl" else "ltr",
    )


def _decorum(row: dict[str, str]) -> Decorum:
    """A decorum rule from its cells; alternatives are split at `|`."""
    facts = {name: cell for name, cell in row.items() if name != "value"}
    return Decorum(values=tuple(row["value"].split("|")), **facts)


def _weather_rule(row: dict[str, Any]) -> WeatherRule:
    """A weather rule from its TOML table."""
    return WeatherRule(row["classes"], tuple(row["seasons"]), tuple(row["weights"]))
