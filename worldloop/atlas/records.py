"""Records of the place atlas: cities, countries, institutions, decorum, species, signs, and their evidence.

The tables lie in `data/`; `atlas.py` reads and looks up, `checks.py` judges, `facts.py` tells what holds at a place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Side = Literal["left", "right"]
Scope = Literal["city", "admin1", "country", "region", "world"]
Evidence = Literal["package", "derived", "curated", "generic"]
DayKind = Literal["workday", "weekend", "holiday"]
Setting = Literal["outdoor", "indoor"]

SCOPES: tuple[Scope, ...] = ("city", "admin1", "country", "region", "world")  # narrowest first
EVIDENCE: tuple[Evidence, ...] = ("package", "derived", "curated", "generic")
ANY_INSTITUTION = "*"
FALLBACK_LANGUAGE = "en"


def is_english(language: str) -> bool:
    """Whether a BCP 47 tag is English, of whatever place.

    Example:
        >>> is_english("en-GB"), is_english("eo")
        (True, False)
    """
    return language.split("-")[0] == FALLBACK_LANGUAGE


@dataclass(frozen=True)
class City:
    """A city and the facts of its place.

    Attributes:
        key: Key of the city, e.g. `sao_paulo`; keys are never renamed or removed, aliases may be added.
        name: English name.
        endonym: What people there call it, in their script.
        country: ISO 3166 code, key of a `Country`.
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
        waterfront: `sea` within 15 km of salt water, `river` or `lake` where a port was named by a source, else `none`.
        waterfront_source: Source id.
        metro: `yes` where a source names an urban rapid transit, else `none`.
        metro_source: Source id.
        geonameid: Id of the GeoNames record.
    """

    key: str
    name: str
    endonym: str
    country: str
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
    waterfront: Literal["sea", "river", "lake", "none"]
    waterfront_source: str
    metro: Literal["yes", "none"]
    metro_source: str
    geonameid: str

    def scope_key(self, scope: str) -> str:
        """The key under which a row of a scope would name this city."""
        keys = {"city": self.key, "admin1": self.admin1, "country": self.country}
        return {**keys, "region": self.region, "world": ""}[scope]


@dataclass(frozen=True)
class Country:
    """What a country decides for its cities.

    Attributes:
        key: ISO 3166 code.
        name: English name, as prompts say it.
        weekend: Days off, 0 is Monday, e.g. `(5, 6)`.
        weekend_source: Source id.
        speed_unit: `km/h` or `mph`; from country-coder.
        numbering: CLDR numbering system of its first language, e.g. `latn`, `arab`, `deva`.
    """

    key: str
    name: str
    weekend: tuple[int, ...]
    weekend_source: str
    speed_unit: Literal["km/h", "mph"]
    numbering: str


@dataclass(frozen=True)
class Holiday:
    """A public holiday of a country: ISO date, English name, source id."""

    country: str
    date: str
    name: str
    source: str


@dataclass(frozen=True)
class Activity:
    """Something that goes on at an institution, all of it true of such places anywhere.

    Attributes:
        key: Unique within the institution, e.g. `feeding`.
        institution: Key of the institution.
        category: Content category, one of `categories.toml`, e.g. `human_activity`.
        says: A finite clause in the present tense, e.g. `a keeper tips feed into a trough`.
        beats: Three finite clauses that follow on each other in one continuous shot.
        roles: Roles of the institution that must be there.
        setting_words: Objects that the clauses name beyond roles; the procedural renderer need not draw them.
        dayparts: Parts of the day at which it goes on; empty for any.
        weathers: Weathers in which it goes on; empty for any.
        cameras: Camera paths that show what the clauses say; empty for all that suit its category.
        crowds: How full the place is when it goes on; empty for any.
        needs_warmth: Whether it goes on only in warm and hot seasons.
    """

    key: str
    institution: str
    category: str
    says: str
    beats: tuple[str, str, str]
    roles: tuple[str, ...]
    setting_words: tuple[str, ...] = ()
    dayparts: tuple[str, ...] = ()
    weathers: tuple[str, ...] = ()
    cameras: tuple[str, ...] = ()
    crowds: tuple[str, ...] = ()
    needs_warmth: bool = False


@dataclass(frozen=True)
class Institution:
    """A kind of place.

    Attributes:
        key: Key of the institution, e.g. `zoo`; append-only, aliases may be added.
        name: What a caption calls it, without an article.
        setting: Whether one stands outdoors or indoors.
        hours: Opening class of `hours.toml`, the world's default; decorum slot `hours` may say otherwise.
        crowd: Crowd profile of `crowds.toml`.
        osm_tag: OpenStreetMap preset of the kind.
        own_word: Sign word of the institution's own sign, or empty.
        roles: Who may be there, the public first; each has a decorum slot `dress:<role>`.
        slots: Further decorum slots beside the common ones.
        props: Things that belong there, noun phrases with article or plural.
        sign_words: Words that stand on its other signs.
        cameras: Camera paths that it allows.
        needs_waterfront: Whether only cities at the water have one.
        needs_metro: Whether only cities with a metro have one.
        needs_warmth: Whether people undress outdoors there: it is open in warm and hot seasons alone, and
            cities without one have none.
        day_roles: Roles of those who do not work at night.
    """

    key: str
    name: str
    setting: Setting
    hours: str
    crowd: str
    osm_tag: str
    own_word: str
    roles: tuple[str, ...]
    slots: tuple[str, ...]
    props: tuple[str, ...]
    sign_words: tuple[str, ...]
    cameras: tuple[str, ...]
    needs_waterfront: bool = False
    needs_metro: bool = False
    needs_warmth: bool = False
    day_roles: tuple[str, ...] = ()

    @property
    def decorum_slots(self) -> tuple[str, ...]:
        """Every slot that must resolve in every city."""
        return (*(f"dress:{role}" for role in self.roles), *COMMON_SLOTS, *self.slots)


COMMON_SLOTS: tuple[str, ...] = (
    *("hours", "closed_on", "architecture", "furniture", "fixtures", "queueing", "courtesy"),
    "sign_style",
)
"""Slots that every institution has.

`hours`: `09:00-17:30`; `closed_on`: `never`, `weekend`, `weekend+holiday`, `holiday` or names of days joined by `+`;
`architecture`, `furniture`, `fixtures`: noun phrases that carry their article or are plural; `queueing`, `courtesy`: finite
clauses (`people queue in one line before the counter`); `sign_style`: a noun phrase (`white letters on a blue board`).
"""


@dataclass(frozen=True)
class Decorum:
    """One rule of what belongs to an institution, in one scope.

    Attributes:
        scope: The narrowest scope that names the city wins; within it a named institution beats `*`.
        scope_key: Which city, division, country or region; empty for the world.
        institution: Key of the institution, or `*` for each that has the slot.
        slot: What is ruled, e.g. `dress:nurse`, `furniture`, `traffic`.
        values: Alternatives; a scene's seed chooses among them.
        source: Source id, or `page:<id>` of `pages.csv`.
        evidence: Class of the evidence; only world rows may be `generic`.
        reviewed_by: Who confirmed it, or empty.
    """

    scope: str
    scope_key: str
    institution: str
    slot: str
    values: tuple[str, ...]
    source: str
    evidence: str
    reviewed_by: str = ""


@dataclass(frozen=True)
class Species:
    """A plant or animal that is at home in some climates.

    Attributes:
        name: English plural as prose says it, e.g. `date palms`, `house sparrows`.
        kind: `tree`, `shrub`, `flower`, `grass`, `bird` or `animal`.
        classes: Regular expression over whole Koeppen classes.
        continents: GeoNames continent codes where it is common; empty for all.
        institutions: Where it may be seen; empty for every outdoor institution.
        source: Source id, or `page:<id>`.
        evidence: Class of the evidence.
        needs: When it shows: `warm` (warm and hot seasons), `mild` (all but cold ones), `light` (not at
            night), `dark` (at night alone); empty for always.
    """

    name: str
    kind: str
    classes: str
    continents: tuple[str, ...]
    institutions: tuple[str, ...]
    source: str
    evidence: str
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Page:
    """A page that was really opened: id, address, title, ISO date, and a quote of at most 15 words."""

    id: str
    address: str
    title: str
    opened: str
    quote: str


@dataclass(frozen=True)
class Language:
    """A language of signs: BCP 47 tag, English name, endonym, ISO 15924 script, direction."""

    tag: str
    name: str
    endonym: str
    script: str
    direction: Literal["ltr", "rtl"]


@dataclass(frozen=True)
class Sign:
    """A sign with real local words.

    Attributes:
        word: English key of the sign word in the atlas, e.g. `pharmacy`.
        text: What is written on it, in the local language and script.
        language: BCP 47 tag of `text`, e.g. `ja`; English where no language of the city has the word.
    """

    word: str
    text: str
    language: str


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
class OpeningClass:
    """When a kind of place is open unless decorum says otherwise, written as the decorum slots of these names.

    Attributes:
        key: e.g. `office`.
        hours: Local clock, `08:00-17:00`; at most until `24:00`.
        closed_on: `never`, or days joined by `+`: `weekend`, `holiday`, `monday` ...
    """

    key: str
    hours: str
    closed_on: str


@dataclass(frozen=True)
class CrowdProfile:
    """How full a kind of place is by the hour.

    Attributes:
        key: e.g. `offices`, `leisure`, `transport`.
        levels: For each kind of day 24 digits from 0 (empty) to 9 (crowded), one an hour of local clock.
    """

    key: str
    levels: Mapping[DayKind, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RoadType:
    """A kind of road for scenes from a car.

    Attributes:
        key: e.g. `avenue`, `expressway`.
        name: As prose says it, without article.
        lanes: Lanes of both directions.
        speed_kmh: Slowest and fastest own speed while traffic moves; a queue is slower.
        structures: Rare structures that it may have: `tunnel`, `bridge`, `tollbooth`, ...
        manoeuvres: What the own car may do, e.g. `turning left`, `changing to the right lane`.
        densities: Vehicle densities that it may have: `free`, `light`, `dense`, `queueing`.
        markings: Decorum slot of its lines; today `road_markings` of `street`.
        manoeuvre_densities: Densities to which a manoeuvre belongs, where these are not all.
        unpainted: Words of markings that it has not, e.g. `zebra crossing`.
        pavements: Whether people walk beside it; without, there is nobody and no street furniture.
        barred: Vehicle kinds that may not use it.
        roadside: What is beside a road without pavements, noun phrases with article or plural.
        sign_words: Words on the signs of a road without pavements.
    """

    key: str
    name: str
    lanes: int
    speed_kmh: tuple[int, int]
    structures: tuple[str, ...]
    manoeuvres: tuple[str, ...]
    densities: tuple[str, ...]
    markings: str = "road_markings"
    manoeuvre_densities: Mapping[str, Sequence[str]] = field(default_factory=dict)
    unpainted: tuple[str, ...] = ()
    pavements: bool = True
    barred: tuple[str, ...] = ()
    roadside: tuple[str, ...] = ()
    sign_words: tuple[str, ...] = ()
