"""What must hold in scenes: local and physical checks, for whole lists at once.

Nothing here uses the tables or the sun of casting: facts are looked up in the atlas again, in other
ways, and the sun follows the almanac's short formulas. So a mistake there is found here.
"""

import datetime as dt
import math
import re
import weakref
from array import array
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import astuple
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from worldloop.atlas.atlas import Atlas
from worldloop.atlas.opening import WEEKDAYS
from worldloop.atlas.records import (
    ANY_INSTITUTION,
    FALLBACK_LANGUAGE,
    SCOPES,
    Activity,
    City,
    DayKind,
    Institution,
    RoadType,
    Sign,
)
from worldloop.atlas.seasons import plant_class
from worldloop.atlas.sign_checks import off_script
from worldloop.scenes.scene import Dress, Scene
from worldloop.scenes.things import VOCABULARY

SUN_TOLERANCE_DEG = 0.3
TWILIGHT_TOLERANCE_DEG = 0.6  # refraction of a sun that is just down is told in more than one way
AZIMUTH_TOLERANCE_DEG = 1.0
_STEEP_DEG = 80.0  # above it a small step moves the azimuth far
_NORTHERN = ("winter", "winter", *["spring"] * 3, *["summer"] * 3, *["autumn"] * 3, "winter")
_PUBLIC = re.compile(
    "child|commuter|customer|guest|jogger|passenger|patient|pedestrian|pupil|resident|shopper|"
    "spectator|student|tourist|visitor|worshipper"
)
_COMPANIONS = frozenset({"commuter", "shopper", "student", "tourist", "child"})
_TOPS = {
    "cold": {"coat"},
    "cool": {"jacket", "coat"},
    "warm": {"shirt", "jacket"},
    "hot": {"shirt"},
}
_HEAVY = ("coat", "jacket")
_LEVELS = {"empty": "0", "sparse": "123", "lively": "456", "crowded": "789"}
_WEATHERS = ("clear", "cloudy", "rain", "fog", "snow")
_EYE_LEVEL = frozenset({"stroll", "tour", "wander", "still"})
_SHOWN_FROM: Mapping[str, frozenset[str]] = {
    "driving": frozenset({"drive"}),
    "navigation": frozenset({"stroll", "tour", "wander", "drone"}),
    "first_person": _EYE_LEVEL,
    "hand_object": _EYE_LEVEL,
    "dynamic_camera": frozenset({"tour", "wander", "drone", "birds_eye"}),
}
_ON_FOOT_OR_AIR = _EYE_LEVEL | {"drone", "birds_eye"}
_MOST_PEOPLE, _MOST_THINGS = 30, 30
_SPECIES = ("animals", "plants")
_SLOTS_UNSAID = ("hours", "closed_on", "facade", "traffic", "road_markings")
_DENSITIES = {"empty": "free", "sparse": "light", "lively": "dense", "crowded": "queueing"}
_QUEUE_KMH = 20
_TREED = frozenset({"street", "zoo", "amusement_park"})  # and nothing else says its trees
_GROWS = {  # Koeppen classes in which a kind of tree stands where no tree is named
    "palm": re.compile("A|B.h|Cs"),
    "conifer": re.compile("B.k|[CDE]"),
    "broadleaf": re.compile("[ABC]|D.[abc]"),
}
_PALM = re.compile(r"\bpalms?\b")
_NEEDLES = re.compile(
    r"\b(pine|spruce|fir|larch|cedar|cypress|juniper|yew|redwood|hemlock|sequoia)(e?s)?\b"
)
_NEED_PEOPLE: Mapping[str, frozenset[str]] = {  # slots that a crowd leaves unsaid
    "empty": frozenset({"queueing", "courtesy"}),
    "sparse": frozenset({"queueing"}),
    "lively": frozenset(),
    "crowded": frozenset(),
}

Problem = tuple[str, object, object]  # rule, what was found, what was expected
Add = Callable[[Problem], None]
Month = tuple[str, set[str], str, str]  # season, weathers, how warm it is, for what people dress


def scene_problems(atlas: Atlas, scenes: Sequence[Scene]) -> list[str]:
    """Every violation in some scenes as a sentence that names scene, rule, what was found and expected.

    Args:
        atlas: From which the scenes were cast.
        scenes: Of version 2; older ones lack what is checked.

    Returns:
        Empty if all is well.

    Example:
        >>> from worldloop.atlas.atlas import load_atlas
        >>> from worldloop.scenes.casting import cast_scene
        >>> scene_problems(load_atlas(), [cast_scene(load_atlas(), place="tokyo/zoo", seed=7)])
        []
    """
    if not scenes:
        return []
    judge = _judge_of(atlas)
    found = [
        (row, problem) for row, scene in enumerate(scenes) for problem in judge.problems(scene)
    ]
    known = [row for row, scene in enumerate(scenes) if scene.city in atlas.cities]
    found += [
        (known[row], problem) for row, problem in judge.sun_problems([scenes[k] for k in known])
    ]
    return [
        _sentence(row, scenes[row], problem) for row, problem in sorted(found, key=lambda f: f[0])
    ]


def _sentence(row: int, scene: Scene, problem: Problem) -> str:
    rule, found, expected = problem
    where = f"Scene {row}, {scene.place} on {scene.date} at {scene.hour}, seed {scene.seed}"
    return f"{where}: {rule}: found {found!r}, expected {expected}."


class _Place:
    """What the atlas rules at one place, as sets and numbers."""

    def __init__(self, judge: "_Judge", city: City, kind: Institution):
        atlas, self.city, self.kind = judge.atlas, city, kind
        self.has_metro = not kind.needs_metro or city.metro == "yes"
        self.is_wet = not kind.needs_waterfront or city.waterfront in ("sea", "river", "lake")
        warmths = {_warmth(city, _season(city, month)) for month in range(1, 13)}
        self.exists = not kind.needs_warmth or not warmths.isdisjoint(("warm", "hot"))
        self.outdoor = kind.setting == "outdoor"
        self.opens, self.closes = _span(judge.ruled(city, kind.key, "hours")[0])
        self.closing = _closing(judge.ruled(city, kind.key, "closed_on")[0])
        self.weekend = atlas.countries[city.country].weekend
        self.levels = atlas.crowd_profiles[kind.crowd].levels
        self.holidays = judge.holidays(city)
        self.months = judge.months(city)
        self.worn_for = "hot" if kind.needs_warmth else ""
        slots = [slot for slot in kind.decorum_slots if slot not in _SLOTS_UNSAID]
        said = [slot for slot in slots if not slot.startswith("dress:")]
        self.details = judge.details(
            tuple([(slot, judge.ruled(city, kind.key, slot)) for slot in said]), city, kind
        )
        self.dress = judge.dress(
            tuple([judge.ruled(city, kind.key, f"dress:{role}") for role in kind.roles]), kind
        )
        self.signs = judge.signs_of(city)
        self.things = judge.things(kind)
        self.words = judge.words(kind, city)
        self.facades = judge.ruled(city, kind.key, "facade") if "facade" in kind.slots else ()
        pairs = judge.ruled(city, kind.key, "traffic") if "traffic" in kind.slots else ()
        self.vehicles = _mixes(pairs)


class _Judge:
    """The checks of one atlas, with what they looked up."""

    def __init__(self, atlas: Atlas):
        self.atlas: Atlas = weakref.proxy(atlas)
        self._places: dict[tuple[str, str], _Place] = {}
        self._read_rules(atlas)
        self._read_names(atlas)
        self._signs: dict[tuple[str, ...], dict[str, Sign]] = {}
        self._species: dict[tuple[str, ...], dict[str, frozenset[str]]] = {}
        self._dress: dict[tuple[object, ...], dict[str, frozenset[tuple[str, ...]]]] = {}
        self._details: dict[tuple[object, int], dict[str, Collection[str]]] = {}
        self._months: dict[str, dict[str, Month]] = {}

    def _read_rules(self, atlas: Atlas) -> None:
        """Decorum by institution, slot and scope, and what institutions may show."""
        self._rows: dict[tuple[str, str], dict[tuple[str, str], tuple[str, ...]]] = {}
        for kind in atlas.institutions.values():
            opening = atlas.opening_classes[kind.hours]
            for slot in ("hours", "closed_on"):
                self._rows[kind.key, slot] = {("world", ""): (getattr(opening, slot),)}
        for row in atlas.decorum_rows:
            by_scope = self._rows.setdefault((row.institution, row.slot), {})
            by_scope[row.scope, row.scope_key] = row.values
        self._activities = {(one.institution, one.key): one for one in atlas.activity_rows}
        self._busy = {one.institution for one in atlas.activity_rows}
        self._things = {
            key: VOCABULARY.get(key, frozenset(kind.props))
            for key, kind in atlas.institutions.items()
        }

    def _read_names(self, atlas: Atlas) -> None:
        """Texts and words of signs, species and what they need, and holidays."""
        self._texts: dict[str, dict[str, str]] = {}
        for sign in atlas.signs:
            self._texts.setdefault(sign.word, {})[sign.language] = sign.text
        self._words = {
            (key, metro): frozenset({*kind.sign_words, kind.own_word}) - unsaid
            for key, kind in atlas.institutions.items()
            for metro, unsaid in (("yes", set()), ("none", {"metro"}))
        }
        self._trees = {one.name for one in atlas.species_rows if one.kind == "tree"}
        self._flowers = {one.name for one in atlas.species_rows if one.kind == "flower"}
        self._needs: dict[str, list[tuple[str, ...]]] = {}
        for one in atlas.species_rows:
            self._needs.setdefault(one.name, []).append(one.needs)
        self._holidays: dict[str, dict[str, set[str]]] = {}
        for holiday in atlas.holidays:
            days = self._holidays.setdefault(holiday.country, {})
            days.setdefault(holiday.date, set()).add(holiday.name)

    # -------------------------------------------------------------------- looking up

    def ruled(self, city: City, institution: str, slot: str) -> tuple[str, ...]:
        """Values of the narrowest row; an institution of its own beats all institutions."""
        own = self._rows.get((institution, slot), {})
        common = self._rows.get((ANY_INSTITUTION, slot), {})
        for scope in SCOPES:
            key = scope, city.scope_key(scope)
            if key in own or key in common:
                return own.get(key) or common[key]
        return ("",)

    def signs_of(self, city: City) -> dict[str, Sign]:
        """By word, the signs that were found right where a city's languages are spoken."""
        return self._signs.setdefault(city.languages, {})

    def things(self, kind: Institution) -> frozenset[str]:
        """Subjects that an institution may show."""
        return self._things[kind.key]

    def words(self, kind: Institution, city: City) -> frozenset[str]:
        """Words that its signs may have: none points to a metro where there is none."""
        return self._words[kind.key, city.metro]

    def dress(
        self, values: tuple[tuple[str, ...], ...], kind: Institution
    ) -> dict[str, frozenset[tuple[str, ...]]]:
        """Alternatives of each role; places of a kind where all dress alike share them."""
        key = kind.key, values
        if key not in self._dress:
            dress = dict(zip(kind.roles, map(_dresses, values), strict=True))
            everybody = kind.roles[0] if "patient" not in kind.roles else "patient"
            for role in _COMPANIONS - set(kind.roles) if kind.key in VOCABULARY else ():
                dress[role] = dress[everybody]
            self._dress[key] = dress
        return self._dress[key]

    def details(
        self, slots: tuple[tuple[str, tuple[str, ...]], ...], city: City, kind: Institution
    ) -> dict[str, Collection[str]]:
        """Values of some slots, plants and animals; places where all are alike share them."""
        species = self.species(city, kind)
        key = slots, id(species)
        if key not in self._details:
            self._details[key] = {**dict(slots), **species}
        return self._details[key]

    def species(self, city: City, kind: Institution) -> dict[str, frozenset[str]]:
        """Plants and animals of the place, as details name them."""
        climate = plant_class(city)
        key = climate, city.continent, kind.key
        if key not in self._species:
            here = [
                one
                for one in self.atlas.species_rows
                if re.match(f"(?:{one.classes})$", climate)
                and city.continent in (one.continents or (city.continent,))
                and (
                    kind.key in one.institutions if one.institutions else kind.setting == "outdoor"
                )
            ]
            animals = frozenset(one.name for one in here if one.kind in ("bird", "animal"))
            plants = frozenset(one.name for one in here if one.kind not in ("bird", "animal"))
            self._species[key] = {"animals": animals, "plants": plants}
        return self._species[key]

    def sign(self, place: _Place, word: str) -> tuple[str, str]:
        """Text and language: the first language that has the word, then English."""
        texts = self._texts.get(word, {})
        order = [tag for tag in place.city.languages if tag in texts] + [FALLBACK_LANGUAGE]
        return texts.get(order[0], ""), order[0]

    def months(self, city: City) -> dict[str, Month]:
        """Season, possible weathers, how warm it is and is dressed for, by the digits of the month."""
        if city.key not in self._months:
            seasons = {f"{month:02d}": _season(city, month) for month in range(1, 13)}
            known = {
                season: (
                    *(season, self._weathers(city, season)),
                    *(_warmth(city, season), _dress_warmth(city, season)),
                )
                for season in set(seasons.values())
            }
            self._months[city.key] = {month: known[season] for month, season in seasons.items()}
        return self._months[city.key]

    def holidays(self, city: City) -> Mapping[str, set[str]]:
        """Names of the holidays of a city's country by date."""
        return self._holidays.setdefault(city.country, {})

    def _weathers(self, city: City, season: str) -> set[str]:
        rules = (
            rule
            for rule in self.atlas.weather_rules
            if season in rule.seasons and re.match(f"(?:{rule.classes})$", city.koeppen)
        )
        weights = next(rules).weights
        found = {name for name, weight in zip(_WEATHERS, weights, strict=True) if weight}
        return found if _snows(city, season) else found - {"snow"}

    def place(self, scene: Scene) -> _Place | None:
        """The place of a scene, if there is such a one."""
        key = scene.city, scene.institution
        if key not in self._places:
            city = self.atlas.cities.get(scene.city)
            kind = self.atlas.institutions.get(scene.institution)
            if city is None or kind is None:
                return None
            self._places[key] = _Place(self, city, kind)
        return self._places[key]

    # -------------------------------------------------------------------- judging

    def problems(self, scene: Scene) -> list[Problem]:
        """Everything but the sun, of one scene."""
        place = self.place(scene)
        if place is None:
            return [("place of the atlas", scene.place, "a city and an institution of it")]
        found: list[Problem] = []
        add, road = found.append, self._open_road(scene) if scene.drive else None
        month = place.months[scene.date[5:7]]
        self._judge_time(scene, place, add)
        self._judge_air(scene, place, month, add)
        self._judge_people(scene, place, month, road, add)
        self._judge_subjects(scene, place, road, add)
        self._judge_details(scene, place, month, road, add)
        self._judge_trees(scene, place, month, add)
        self._judge_signs(scene, place, road, add)
        self._judge_activity(scene, month, add)
        self._judge_camera(scene, place, add)
        return found

    def _judge_time(self, scene: Scene, place: _Place, add: Add) -> None:
        """Calendar, opening hours and crowd."""
        weekday = _weekday(scene.date)
        names = place.holidays.get(scene.date)
        day: DayKind = "weekend" if weekday in place.weekend else "workday"
        day = "holiday" if names else day
        if scene.day != day:
            add(("kind of day", scene.day, day))
        if scene.holiday not in (names or ("",)):
            add(("holiday of the country", scene.holiday, names or "none"))
        if not place.opens <= scene.hour < place.closes:
            add(("opening hours", scene.hour, f"from {place.opens} and before {place.closes}"))
        if place.closing and (
            ("holiday" in place.closing and names)
            or ("weekend" in place.closing and weekday in place.weekend)
            or WEEKDAYS[weekday] in place.closing
        ):
            add(("closing days", scene.date, f"no {' or '.join(sorted(place.closing))}"))
        level = place.levels[day][int(scene.hour) % 24]
        if level not in _LEVELS[scene.crowd]:
            add(("crowd of the hour", scene.crowd, f"that of level {level}"))
        part = _daypart(scene.hour, scene.sun_elevation_deg)
        if scene.daypart != part:
            add(("daypart by the sun", scene.daypart, part))

    def _judge_air(self, scene: Scene, place: _Place, month: Month, add: Add) -> None:
        """Season, weather and climate."""
        season, weathers, warmth, _ = month
        if scene.season != season:
            add(("season of the hemisphere", scene.season, season))
        if scene.weather not in weathers:
            add(("weather of the month", scene.weather, f"one of {sorted(weathers)}"))
        if scene.weather == "snow" and not _snows(place.city, season):
            add(
                (
                    "snow only in cold winters",
                    place.city.koeppen,
                    "winter of a D, E or cool C class",
                )
            )
        if scene.climate != place.city.koeppen:
            add(("climate of the city", scene.climate, place.city.koeppen))
        if place.kind.needs_warmth and warmth in ("cool", "cold"):
            add(("warm season at the water", season, "one in which people undress outdoors"))

    def _judge_people(
        self, scene: Scene, place: _Place, month: Month, road: RoadType | None, add: Add
    ) -> None:
        """Roles and their number."""
        warmth, known, outdoor = place.worn_for or month[3], place.dress, place.outdoor
        away = place.kind.day_roles if scene.daypart == "night" else ()
        num_people = num_public = 0
        for role in scene.roles:
            name, count = role.name, role.count
            num_people += count
            is_public = _is_public(name)
            if is_public:
                num_public += count
            allowed = known.get(name)
            if allowed is None:
                add(("roles of the institution", name, sorted(known)))
            elif is_public and outdoor:
                _judge_outdoor_dress(role.dress, warmth, add)
            else:
                dress = role.dress
                if (dress.top, dress.bottom, dress.head, dress.color) not in allowed:
                    add(("dress of decorum", astuple(dress), sorted(allowed)))
                if is_public and warmth == "hot" and dress.top in _HEAVY:
                    _judge_heavy_dress(dress, allowed, add)
            if name in away:
                add(("people who work by day", name, "nobody of that role at night"))
            if count < 1:
                add(("people of a role", count, "at least one"))
        if len({role.name for role in scene.roles}) < len(scene.roles):
            add(("each role once", [role.name for role in scene.roles], "no name twice"))
        if road is not None:
            if scene.roles:
                found = [role.name for role in scene.roles]
                add(("nobody beside a road without pavements", found, "no roles"))
        elif (num_public == 0) != (scene.crowd == "empty"):
            add(("public in a crowd", num_public, "none if it is empty, else some"))
        if num_people > _MOST_PEOPLE:
            add(("people in a scene", num_people, f"at most {_MOST_PEOPLE}"))

    def _open_road(self, scene: Scene) -> RoadType | None:
        """The road of a drive, if it has no pavements."""
        road = self.atlas.roads.get(scene.drive.road) if scene.drive else None
        return road if road and not road.pavements else None

    def _judge_subjects(self, scene: Scene, place: _Place, road: RoadType | None, add: Add) -> None:
        """Subjects and style."""
        things = place.things
        for subject in scene.subjects:
            if subject.kind not in things:
                add(("subjects of the institution", subject.kind, "a prop or what is drawn there"))
            if not 1 <= subject.count <= _MOST_THINGS:
                add(("number of a subject", subject.count, f"1 to {_MOST_THINGS}"))
        if place.kind.key == "hospital":
            beds = sum(subject.count for subject in scene.subjects if subject.kind == "bed")
            lying = sum(role.count for role in scene.roles if role.action == "lying")
            if lying > beds:
                add(("a bed for every patient", lying, f"at most {beds}"))
        if place.vehicles:
            _judge_vehicles(scene, place, road.barred if road else (), add)
        if road and any(subject.kind == "bench" for subject in scene.subjects):
            add(("no furniture beside a road without pavements", "bench", "vehicles and trees"))
        if place.facades and scene.style.get("facade") not in place.facades:
            add(("facade of the city", scene.style.get("facade"), place.facades))

    def _judge_details(
        self, scene: Scene, place: _Place, month: Month, road: RoadType | None, add: Add
    ) -> None:
        """What a prompt may state: decorum, plants and animals."""
        known = place.details if road is None else self._beside(road, place)
        unsaid = _NEED_PEOPLE[scene.crowd]
        bare = self._flowers if place.outdoor and _snows(place.city, month[0]) else ()
        for detail in scene.details:
            slot, says = detail.slot, detail.says
            if says not in known.get(slot, ()):
                rule = "species of the climate" if slot in _SPECIES else "decorum of the place"
                add((rule, (slot, says), "a value that holds there"))
            if slot in unsaid:
                add(("details that need people", says, f"no {slot} if {scene.crowd}"))
            if slot == "animals" and not self._shows(scene, month[2], says):
                add(("animals of season and hour", says, "one that shows itself then"))
            if says in bare:
                add(("no flowers in a snowy winter", says, "another plant"))

    def _judge_trees(self, scene: Scene, place: _Place, month: Month, add: Add) -> None:
        """The kind of all trees: some places have them, and climate and season allow it."""
        shown, expected = scene.style.get("trees", ""), place.kind.key in _TREED
        if bool(shown) != expected:
            add(("trees where they are planted", shown, "a kind of tree" if expected else "none"))
        if not shown:
            return
        named = next((one.says for one in scene.details if one.says in self._trees), "")
        allowed = _trees_of(place.city.koeppen, named.lower(), month[2] == "cold")
        if shown not in allowed:
            add(("trees of climate and season", shown, sorted(allowed)))

    def _beside(self, road: RoadType, place: _Place) -> dict[str, Collection[str]]:
        """What a prompt may state beside a road without pavements."""
        return {"roadside": road.roadside, "plants": place.details["plants"]}

    def _shows(self, scene: Scene, warmth: str, name: str) -> bool:
        """Whether some animal of a name shows itself in the season and at the hour of a scene."""
        holds = {
            "warm": warmth in ("warm", "hot"),
            "mild": warmth != "cold",
            "dark": scene.daypart == "night",
            "light": scene.daypart != "night",
        }
        return any(all(holds[need] for need in needs) for needs in self._needs.get(name, [()]))

    def _judge_signs(self, scene: Scene, place: _Place, road: RoadType | None, add: Add) -> None:
        """Words, languages and scripts."""
        own, right = place.kind.own_word, place.signs
        words: Collection[str] = place.words if road is None else road.sign_words
        if own and (not scene.signs or scene.signs[0].word != own):
            add(("own sign first", scene.signs[:1], own))
        for sign in scene.signs:
            word = sign.word
            if word not in words:
                add(("sign words of the institution", word, sorted(words)))
                continue
            known = right.get(word)
            if known is not sign and known != sign:
                self._judge_sign(sign, place, add)
        if len({sign.word for sign in scene.signs}) != len(scene.signs):
            add(("each sign once", [sign.word for sign in scene.signs], "no word twice"))

    def _judge_sign(self, sign: Sign, place: _Place, add: Add) -> None:
        """Language and script of a sign; one that is right is known from then on."""
        expected, script = self.sign(place, sign.word), self._script(sign.language)
        is_expected = (sign.text, sign.language) == expected
        if not is_expected:
            add(("language of signs", (sign.text, sign.language), expected))
        if not sign.text or off_script(sign.text, script):
            add(("script of signs", sign.text, f"letters of {script}"))
        elif is_expected:
            place.signs[sign.word] = sign

    def _script(self, language: str) -> str:
        known = self.atlas.languages
        return known[language].script if language in known else ""

    def _judge_activity(self, scene: Scene, month: Month, add: Add) -> None:
        """What goes on, and whether those who do it are there."""
        if not scene.activity and scene.institution not in self._busy:
            return
        activity: Activity | None = self._activities.get((scene.institution, scene.activity))
        if activity is None:
            add(("activities of the institution", scene.activity, "one of activities.toml"))
            return
        if scene.category != activity.category:
            add(("category of the activity", scene.category, activity.category))
        if scene.script is not activity.beats and tuple(scene.script) != activity.beats:
            add(("script of the activity", scene.script, activity.beats))
        if activity.roles:
            names = [role.name for role in scene.roles]
            missing = [name for name in activity.roles if name not in names]
            if missing:
                add(("roles of the activity", sorted(missing), "people of these roles"))
        if activity.dayparts and scene.daypart not in activity.dayparts:
            add(("daypart of the activity", scene.daypart, activity.dayparts))
        if activity.weathers and scene.weather not in activity.weathers:
            add(("weather of the activity", scene.weather, activity.weathers))
        if activity.crowds and scene.crowd not in activity.crowds:
            add(("crowd of the activity", scene.crowd, activity.crowds))
        if activity.cameras and scene.camera not in activity.cameras:
            add(("camera of the activity", scene.camera, activity.cameras))
        if activity.needs_warmth and month[2] in ("cool", "cold"):
            add(("season of the activity", month[2], "warm or hot"))
        if scene.camera not in _SHOWN_FROM.get(activity.category, _ON_FOOT_OR_AIR):
            add(("camera of the category", (activity.category, scene.camera), "one that shows it"))

    def _judge_camera(self, scene: Scene, place: _Place, add: Add) -> None:
        """Camera, driving side, the water and the road."""
        if scene.camera not in place.kind.cameras:
            add(("cameras of the institution", scene.camera, place.kind.cameras))
        if scene.driving_side != place.city.driving_side:
            add(("driving side", scene.driving_side, place.city.driving_side))
        if not place.is_wet:
            add(("places at the water", place.city.waterfront, "sea, river or lake"))
        if not place.has_metro:
            add(("places with a metro", place.city.metro, "a city that has one"))
        if not place.exists:
            add(("places of warm cities", place.city.koeppen, "a climate with a warm season"))
        if (scene.camera == "drive") != (scene.drive is not None):
            add(
                ("a road for a drive", scene.camera, "a road with camera `drive`, and only with it")
            )
        if scene.drive is not None:
            self._judge_drive(scene, place, add)

    def _judge_drive(self, scene: Scene, place: _Place, add: Add) -> None:
        drive = scene.drive
        assert drive is not None
        road = self.atlas.roads.get(drive.road)
        if road is None:
            add(("roads", drive.road, sorted(self.atlas.roads)))
            return
        if drive.density not in road.densities:
            add(("density of the road", drive.density, road.densities))
        if drive.density != _DENSITIES[scene.crowd]:
            add(("density of the crowd", drive.density, _DENSITIES[scene.crowd]))
        slow, fast = road.speed_kmh if drive.density != "queueing" else (1, _QUEUE_KMH)
        if not slow <= drive.speed_kmh <= fast:
            add(("speed of the road", drive.speed_kmh, (slow, fast)))
        if drive.manoeuvre not in road.manoeuvres:
            add(("manoeuvres of the road", drive.manoeuvre, road.manoeuvres))
        allowed = road.manoeuvre_densities.get(drive.manoeuvre, road.densities)
        if drive.density not in allowed:
            add(("manoeuvre of the density", (drive.manoeuvre, drive.density), allowed))
        if drive.structure and drive.structure not in road.structures:
            add(("structures of the road", drive.structure, road.structures))
        if any(word in drive.markings for word in road.unpainted):
            add(("lines that a road has not", drive.markings, f"none of {road.unpainted}"))
        if drive.markings not in self.ruled(place.city, "street", road.markings):
            add(("markings of the road", drive.markings, "the city's decorum"))
        if drive.road.startswith("waterfront") and place.city.waterfront == "none":
            add(("roads at the water", drive.road, "one that is not at the water"))

    # -------------------------------------------------------------------- the sun

    def sun_problems(self, scenes: Sequence[Scene]) -> Iterable[tuple[int, Problem]]:
        """Where the almanac has the sun elsewhere."""
        if not scenes:
            return
        by_key = self.atlas.cities
        cities = [by_key[scene.city] for scene in scenes]
        utc_days = np.array(
            [_utc_days(c.time_zone, s.date, s.hour) for c, s in zip(cities, scenes, strict=True)]
        )
        latitudes = np.array([city.latitude_deg for city in cities])
        longitudes = np.array([city.longitude_deg for city in cities])
        elevations, azimuths = almanac_sun(utc_days, latitudes, longitudes)
        told_elevations = np.array([scene.sun_elevation_deg for scene in scenes])
        told_azimuths = np.array([scene.sun_azimuth_deg for scene in scenes])
        is_down = (elevations > -6) & (elevations < 0)
        tolerance = np.where(is_down, TWILIGHT_TOLERANCE_DEG, SUN_TOLERANCE_DEG)
        too_high = np.abs(told_elevations - elevations) > tolerance
        turned = np.abs((told_azimuths - azimuths + 180) % 360 - 180) > AZIMUTH_TOLERANCE_DEG
        for row in np.nonzero(too_high)[0].tolist():
            height = round(elevations[row].item(), 1)
            yield row, ("elevation of the sun", told_elevations[row].item(), height)
        for row in np.nonzero(turned & (np.abs(elevations) < _STEEP_DEG))[0].tolist():
            direction = round(azimuths[row].item(), 1)
            yield row, ("azimuth of the sun", told_azimuths[row].item(), direction)


def almanac_sun(
    utc_days: NDArray[np.float64],
    latitude_deg: NDArray[np.float64],
    longitude_deg: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Elevation, with refraction, and azimuth of the sun in degrees.

    The low-precision formulas of the Astronomical Almanac (section C, good to 0.01 degrees from
    1950 to 2050), sidereal time in place of an equation of time, and G. G. Bennett's refraction
    (Journal of Navigation 35, 1982) in T. Saemundsson's form.

    Args:
        utc_days: Days since noon UTC of 1 January 2000.
        latitude_deg: North is positive.
        longitude_deg: East is positive.
    """
    anomaly = np.radians(357.528 + 0.9856003 * utc_days)
    ecliptic = (
        280.460 + 0.9856474 * utc_days + 1.915 * np.sin(anomaly) + 0.020 * np.sin(2 * anomaly)
    )
    longitude, tilt = np.radians(ecliptic), np.radians(23.439 - 4e-7 * utc_days)
    right_ascension = np.degrees(np.arctan2(np.cos(tilt) * np.sin(longitude), np.cos(longitude)))
    declination = np.arcsin(np.sin(tilt) * np.sin(longitude))
    sidereal_deg = 15 * (18.697374558 + 24.06570982441908 * utc_days)
    hour_angle = np.radians(sidereal_deg + longitude_deg - right_ascension)
    north = np.radians(latitude_deg)
    east = -np.cos(declination) * np.sin(hour_angle)
    ahead = np.sin(declination) * np.cos(north)
    ahead = ahead - np.cos(declination) * np.sin(north) * np.cos(hour_angle)
    up = np.sin(declination) * np.sin(north) + np.cos(declination) * np.cos(north) * np.cos(
        hour_angle
    )
    height = np.degrees(np.arctan2(up, np.hypot(east, ahead)))
    near = np.clip(height, -1.0, 90.0)
    bent = 1.02 / np.tan(np.radians(near + 10.3 / (near + 5.11))) / 60
    fades = np.clip((height + 6) / 5, 0, 1)  # far below the horizon nothing is seen
    return height + bent * np.where(height < -1, fades, 1.0), np.degrees(
        np.arctan2(east, ahead)
    ) % 360


_JUDGES: dict[int, tuple[weakref.ref[Atlas], _Judge]] = {}


def _judge_of(atlas: Atlas) -> _Judge:
    """The judge of an atlas; made once."""
    found = _JUDGES.get(id(atlas))
    if found is None or found[0]() is not atlas:
        for key in [key for key, (alive, _) in _JUDGES.items() if alive() is None]:
            del _JUDGES[key]
        found = weakref.ref(atlas), _Judge(atlas)
        _JUDGES[id(atlas)] = found
    return found[1]


def _judge_outdoor_dress(dress: Dress, warmth: str, add: Add) -> None:
    """What the public wears outdoors."""
    tops = _TOPS[warmth]
    if dress.top not in tops or (dress.bottom == "shorts" and warmth != "hot"):
        add(("public dress by temperature", dress.top, sorted(tops)))


def _judge_heavy_dress(dress: Dress, allowed: Collection[tuple[str, ...]], add: Add) -> None:
    """What the public wears indoors where it is hot: something light, if the place knows any."""
    light = sorted(values for values in allowed if values[0] not in _HEAVY)
    if light:
        add(("light dress where it is hot", dress.top, light))


def _judge_vehicles(scene: Scene, place: _Place, barred: Sequence[str], add: Add) -> None:
    """The two kinds of vehicles of a street."""
    pair = scene.subjects[0].kind, scene.subjects[1].kind
    mixes = {tuple("" if kind in barred else kind for kind in mix) for mix in place.vehicles}
    if not any(_fits_mix(pair, mix) for mix in mixes):
        add(("vehicle mix of the city", pair, sorted(place.vehicles)))
    for kind in set(pair) & set(barred):
        add(("vehicles that a road bars", kind, f"none of {sorted(barred)}"))


def _fits_mix(pair: tuple[str, str], mix: tuple[str, ...]) -> bool:
    """Whether two kinds of vehicles are those of a mix; a car or van stands for one that is barred."""
    return all(
        kind == known or (not known and kind in ("car", "van"))
        for kind, known in zip(pair, mix, strict=True)
    )


@lru_cache(maxsize=1000)
def _span(hours: str) -> tuple[float, float]:
    """Opening and closing hour of a text such as `09:00-17:30`."""
    opens, _, closes = hours.partition("-")
    return int(opens[:2]) + int(opens[3:]) / 60, int(closes[:2]) + int(closes[3:]) / 60


@lru_cache(maxsize=1000)
def _closing(days: str) -> frozenset[str]:
    """Closing days of a text such as `monday+holiday`."""
    return frozenset(days.split("+")) - {"never"}


@lru_cache(maxsize=1000)
def _dresses(values: tuple[str, ...]) -> frozenset[tuple[str, ...]]:
    return frozenset(tuple(value.split("/")) for value in values)


@lru_cache(maxsize=1000)
def _mixes(pairs: tuple[str, ...]) -> frozenset[tuple[str, ...]]:
    return frozenset(tuple(pair.split("+")) for pair in pairs)


@lru_cache(maxsize=1000)
def _trees_of(koeppen: str, named: str, is_cold: bool) -> frozenset[str]:
    """Kinds of trees that may be seen: of the tree that is named in lower case, else of the climate.

    When it is cold, trees without needles shed their leaves, unless a named one is evergreen.
    """
    if _PALM.search(named):
        return frozenset({"palm"})
    if _NEEDLES.search(named):
        return frozenset({"conifer", "bare"} if is_cold and "larch" in named else {"conifer"})
    if named:
        return frozenset({"broadleaf", "bare"} if is_cold else {"broadleaf"})
    grow = {kind for kind, classes in _GROWS.items() if classes.match(koeppen)}
    if is_cold and "broadleaf" in grow:
        grow = grow - {"broadleaf"} | {"bare"}
    return frozenset(grow)


@lru_cache(maxsize=1000)
def _weekday(date: str) -> int:
    return dt.date.fromisoformat(date).weekday()


@lru_cache(maxsize=1000)
def _day_of_year(date: str) -> int:
    return dt.date.fromisoformat(date).timetuple().tm_yday - 1


@lru_cache(maxsize=1000)
def _is_public(role: str) -> bool:
    return bool(_PUBLIC.fullmatch(role))


@lru_cache(maxsize=1000)
def _midnights(time_zone: str, year: str) -> "array[float]":
    """Room for what `_midnight` finds of each day of a year, infinite until then."""
    return array("d", [math.inf] * 366)


def _midnight(time_zone: str, date: str) -> float:
    """Days since J2000 at midnight of a date; NaN if clocks change on it."""
    start = dt.datetime.fromisoformat(date).replace(tzinfo=ZoneInfo(time_zone))
    changes = start.utcoffset() != (start + dt.timedelta(days=1)).utcoffset()
    return math.nan if changes else _since_2000(start)


def _utc_days(time_zone: str, date: str, hour: float) -> float:
    """Days since J2000 at an hour of local clock."""
    midnights, day = _midnights(time_zone, date[:4]), _day_of_year(date)
    if midnights[day] == math.inf:
        midnights[day] = _midnight(time_zone, date)
    if not math.isnan(midnights[day]):
        return midnights[day] + hour / 24
    moment = dt.datetime.fromisoformat(date) + dt.timedelta(hours=hour)
    return _since_2000(moment.replace(tzinfo=ZoneInfo(time_zone)))


def _since_2000(moment: dt.datetime) -> float:
    return moment.timestamp() / 86400 - 10957.5  # J2000 is 10957.5 days after 1970


def _daypart(hour: float, elevation_deg: float) -> str:
    if elevation_deg >= 6:
        return "morning" if hour < 12 else "afternoon"
    if elevation_deg >= -6:
        return "dawn" if hour < 12 else "dusk"
    return "night"


def _season(city: City, month: int) -> str:
    """Two seasons between 15 degrees north and south and in A climates, else four."""
    if city.koeppen == "Af":
        return "wet season"
    is_tropical = -15 < city.latitude_deg < 15 and city.koeppen[:2] != "BW"
    southern_month = (month + 5) % 12 + 1
    own_month = month if city.latitude_deg >= 0 else southern_month
    if city.koeppen.startswith("A") or is_tropical:
        rains = {5, 6, 7, 8, 9, 10}
        if city.koeppen == "As":
            rains = {11, 12, 1, 2, 3, 4}
        return "wet season" if own_month in rains else "dry season"
    return _NORTHERN[own_month - 1]


def _snows(city: City, season: str) -> bool:
    if season != "winter":
        return False
    if city.koeppen[0] in "DE":
        return True
    nearest = 35 if city.latitude_deg > 0 else -40
    far = city.latitude_deg >= nearest if nearest > 0 else city.latitude_deg <= nearest
    return city.koeppen[0] == "C" and city.koeppen[1] != "s" and far


def _warmth(city: City, season: str) -> str:
    """How warm it is: `cold`, `cool`, `warm` or `hot`."""
    main, heat = city.koeppen[0], city.koeppen[-1] if len(city.koeppen) > 2 else ""
    if main == "A":
        return "hot"
    is_hot_class = heat in ("a", "h")
    if main == "E" or (main == "C" and heat == "c"):
        return "cold" if season == "winter" else "cool"
    by_season = {
        "summer": "hot" if is_hot_class else "warm",
        "winter": "cold" if main in "DE" or not -35 <= city.latitude_deg <= 35 else "cool",
        "spring": "warm" if is_hot_class and main != "D" else "cool",
    }
    by_season["autumn"] = by_season["spring"]
    return by_season.get(season, "warm")


def _dress_warmth(city: City, season: str) -> str:
    """For what the public dresses: hot dry tropics know no jackets, save along South America's coast."""
    north = abs(city.latitude_deg)
    if city.koeppen[0] == "B" and city.koeppen[-1] == "h" and city.continent != "SA":
        if north < 20 or (north < 22 and season != "winter"):
            return "hot"
        if north < 22:
            return "warm"
    return _warmth(city, season)
