from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from worldloop.atlas.atlas import Atlas, load_atlas
from worldloop.atlas.blocklist import blocked_names, name_hash, write_hashes
from worldloop.atlas.checks import atlas_problems, require_sound
from worldloop.atlas.csv_tables import DATA
from worldloop.atlas.records import (
    Activity,
    CrowdProfile,
    Decorum,
    Holiday,
    OpeningClass,
    Page,
    SignWord,
    Species,
    WeatherRule,
)
from worldloop.atlas.rules import names
from worldloop.atlas.rules.registry import RULES
from worldloop.errors import MalformedRecordError

ATLAS = load_atlas()


def city(**changes: object) -> Atlas:
    tokyo = replace(ATLAS.cities["tokyo"], **changes)
    return replace(ATLAS, cities={**ATLAS.cities, "tokyo": tokyo})


def kind(**changes: object) -> Atlas:
    zoo = replace(ATLAS.institutions["zoo"], **changes)
    return replace(ATLAS, institutions={**ATLAS.institutions, "zoo": zoo})


def decorum(**changes: object) -> Atlas:
    """One more row, at the end of its institution and slot."""
    row = Decorum("country", "JP", "zoo", "sign_style", ("red letters",), "osm:zoo", "curated")
    rows = [*ATLAS.decorum_rows, replace(row, **changes)]
    rows.sort(key=lambda one: (one.institution, one.slot, one.scope, one.scope_key))
    return replace(ATLAS, decorum_rows=tuple(rows))


def activity(**changes: object) -> Atlas:
    beats = ("a gate opens", "a bird hops out", "the gate shuts")
    row = Activity("airing", "zoo", "nature", "a bird takes the air", beats, ("keeper",))
    return replace(ATLAS, activity_rows=(*ATLAS.activity_rows, replace(row, **changes)))


def species(**changes: object) -> Atlas:
    row = Species("oaks", "tree", "[CD]f.", ("EU",), (), "osm:natural/tree", "curated")
    return replace(ATLAS, species_rows=(replace(row, **changes),))


def holiday(**changes: object) -> Atlas:
    row = Holiday("JP", "2026-02-30", "Day of Nothing", "holidays")
    return replace(ATLAS, holidays=(replace(row, date="2026-03-01"), replace(row, **changes)))


def sign(**changes: object) -> Atlas:
    row = next(sign for sign in ATLAS.signs if sign.language == "ja")
    return replace(ATLAS, signs=(*ATLAS.signs, replace(row, **changes)))


def page(**changes: object) -> Atlas:
    row = Page("p", "https://example.org/p", "A page", "2026-11-21", "five words are not many")
    return replace(ATLAS, pages={"p": replace(row, **changes)})


def country(**changes: object) -> Atlas:
    japan = replace(ATLAS.countries["JP"], **changes)
    return replace(ATLAS, countries={**ATLAS.countries, "JP": japan})


def road(**changes: object) -> Atlas:
    return replace(ATLAS, roads={"lane": replace(ATLAS.roads["lane"], **changes)})


def weather(classes: str, seasons: tuple[str, ...], weights: tuple[int, ...]) -> Atlas:
    rules = (WeatherRule(classes, seasons, weights), *ATLAS.weather_rules)
    return replace(ATLAS, weather_rules=rules)


def aliased(alias: str, key: str) -> Atlas:
    return replace(ATLAS, aliases={"city": {alias: key}, "institution": {}})


def sourced(**changes: object) -> Atlas:
    osm = {**ATLAS.sources["osm"], **changes}
    return replace(ATLAS, sources={**ATLAS.sources, "osm": osm})


def fourth_city() -> Atlas:
    cities = {
        f"town_{n}": replace(ATLAS.cities["tokyo"], key=f"town_{n}", geonameid=f"{n}")
        for n in range(4)
    }
    return replace(ATLAS, cities={**ATLAS.cities, **cities})


def renamed_key() -> Atlas:
    cities = {("edo" if key == "tokyo" else key): one for key, one in ATLAS.cities.items()}
    return replace(ATLAS, cities=cities)


without = partial(replace, ATLAS)
first_sign = ATLAS.signs[0]
PLANTED = {  # one error of every kind
    "city_source_is_known": city(koeppen_source="hearsay"),
    "city_is_named": city(endonym=""),
    "city_key_is_plain": city(key="Tōkyō"),
    "city_is_on_the_globe": city(latitude_deg=123.0),
    "city_country_is_known": city(country="XX"),
    "city_driving_side_is_left_or_right": city(driving_side="middle"),
    "city_waterfront_is_known": city(waterfront="swamp"),
    "city_metro_is_known_or_none": city(metro="yes", metro_source="name-suggestion-index"),
    "city_climate_is_a_koeppen_class": city(koeppen="Cfx"),
    "city_time_zone_exists": city(time_zone="Asia/Edo"),
    "city_language_is_known": city(languages=("tlh",)),
    "city_stands_once": city(geonameid=ATLAS.cities["lima"].geonameid),
    "every_continent_has_a_city": without(cities={"tokyo": ATLAS.cities["tokyo"]}),
    "no_country_outweighs_the_others": fourth_city(),
    "country_is_sound": country(weekend=(7,)),
    "country_weekend_has_a_source": country(weekend_source="hearsay"),
    "holiday_date_parses": holiday(),
    "holiday_country_is_known": holiday(country="XX"),
    "holiday_has_a_name_and_a_source": holiday(source="hearsay"),
    "holiday_stands_once": holiday(date="2026-03-01"),
    "alias_points_to_a_key": aliased("edo", "tokio"),
    "alias_is_no_key": aliased("lima", "tokyo"),
    "keys_are_append_only": renamed_key(),
    "institution_classes_are_known": kind(hours="sometimes"),
    "institution_roles_stand_once": kind(roles=("visitor", "visitor")),
    "day_roles_sleep_at_night": kind(day_roles=("astronaut",)),
    "institution_has_props": kind(props=("benches",)),
    "institution_sign_words_exist": kind(own_word="zooo"),
    "institution_cameras_fit_its_setting": kind(cameras=("drive",)),
    "institution_has_activities": without(activity_rows=ATLAS.activity_rows[:9]),
    "opening_class_parses": without(opening_classes={"x": OpeningClass("x", "9-17", "never")}),
    "crowd_profile_has_every_hour": without(
        crowd_profiles={"x": CrowdProfile("x", {"workday": "0" * 24, "weekend": "12"})}
    ),
    "road_is_sound": road(speed_kmh=(50, 20)),
    "road_conditions_are_known": road(pavements=False),
    "every_road_is_painted": road(unpainted=("line", "crossing", "arrows", "island", "surface")),
    "every_density_has_a_road": without(roads={"lane": ATLAS.roads["lane"]}),
    "driving_needs_no_walkers": activity(
        institution="street", category="driving", roles=("pedestrian",)
    ),
    "activity_institution_is_known": activity(institution="zooo"),
    "activity_category_is_known": activity(category="driving"),
    "activity_roles_exist": activity(roles=("pilot",)),
    "activity_stands_once": activity(key="feeding"),
    "activity_is_three_beats": activity(says="A bird takes the air."),
    "activity_conditions_are_known": activity(dayparts=("teatime",)),
    "activities_leave_no_weather_bare": without(
        activity_rows=[replace(one, weathers=("clear",)) for one in ATLAS.activities("zoo")]
    ),
    "source_is_known": decorum(source="hearsay"),
    "evidence_is_known": decorum(evidence="rumour"),
    "evidence_is_that_of_its_source": decorum(source="generic"),
    "curated_cites_a_page_or_a_package": decorum(source="curated"),
    "generic_is_for_the_world": decorum(source="generic", evidence="generic"),
    "scope_is_known": decorum(scope="galaxy"),
    "scope_names_something": decorum(scope_key="XX"),
    "slot_is_known": decorum(slot="dress:nurse"),
    "decorum_stands_once": decorum(scope="world", scope_key=""),
    "decorum_is_sorted": without(decorum_rows=tuple(reversed(ATLAS.decorum_rows))),
    "values_are_there": decorum(values=("",)),
    "world_has_alternatives": decorum(scope="world", scope_key=""),
    "phrases_fit_a_sentence": decorum(values=("red letters.",)),
    "dress_can_be_drawn": decorum(slot="dress:keeper", values=("a kilt",)),
    "facade_can_be_drawn": decorum(institution="street", slot="facade", values=("jelly",)),
    "hours_parse": decorum(slot="hours", values=("09:00-25:00",)),
    "every_slot_resolves": without(decorum_rows=ATLAS.decorum_rows[:12]),
    "species_classes_match": species(classes="[C"),
    "species_is_sound": species(kind="mineral"),
    "sign_stands_once": without(signs=(first_sign, first_sign)),
    "sign_language_is_known": sign(language="tlh"),
    "sign_word_is_known": sign(word="airpot"),
    "sign_source_is_known": sign(source="guess"),
    "sign_is_in_its_script": sign(text="Zoo"),
    "language_script_is_known": without(
        languages={"ja": replace(ATLAS.languages["ja"], script="Egyp")}
    ),
    "sign_is_drawn": sign(text="未"),
    "sign_word_has_english": without(words={**ATLAS.words, "embassy": "embassy"}),
    "source_is_described": sourced(evidence="rumour"),
    "column_has_a_source": sourced(columns=[]),
    "page_was_opened": page(opened="yesterday"),
    "quote_is_short": page(quote="word " * 16),
    "weather_rule_is_sound": weather(".*", ("winter",), (0, 0, 0, 0, 0)),
    "weather_is_covered": without(weather_rules=ATLAS.weather_rules[:3]),
    "snow_falls_in_cold_winters": weather("A.*", ("winter",), (1, 1, 1, 1, 1)),
    "no_rain_falls_in_deep_frost": weather("D..", ("winter",), (1, 1, 1, 1, 1)),
    "no_name_is_blocked": decorum(values=("the boards of Acme",)),
    "data_is_small": ATLAS,
}


def problems_of(name: str, atlas: Atlas, folder: Path = DATA) -> list[str]:
    return list(RULES[name](atlas, folder))


def test_the_atlas_has_no_problems():
    assert atlas_problems(ATLAS) == []


def test_conditions_of_roads_and_species_that_mean_nothing_are_found():
    name, conditions = "road_conditions_are_known", {"turning left": ("queueing",)}
    assert list(RULES[name](ATLAS, DATA)) == []
    assert problems_of(name, road(manoeuvre_densities=conditions))
    assert problems_of(name, road(sign_words=("airport",)))
    assert problems_of("species_is_sound", species(needs=("tea",)))
    assert problems_of("activity_conditions_are_known", activity(crowds=("packed",)))


def test_an_error_of_every_kind_is_planted():
    assert PLANTED.keys() == RULES.keys()


@pytest.fixture
def acme_is_blocked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A block list of one name."""
    write_hashes(tmp_path / "names.bin", [name_hash(["acme"])])
    finding = partial(blocked_names, among=tmp_path / "names.bin")
    monkeypatch.setattr(names, "blocked_names", finding)


@pytest.mark.usefixtures("acme_is_blocked")
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_error_is_caught_by_its_rule(name, tmp_path):
    if name == "data_is_small":
        (tmp_path / "big.bin").write_bytes(bytes(2_000_000))
        assert len(problems_of(name, ATLAS, tmp_path)) == 1
    else:
        assert set(problems_of(name, PLANTED[name])) - set(problems_of(name, ATLAS))


def test_a_problem_names_its_row_and_its_rule():
    broken = city(driving_side="middle")
    assert set(atlas_problems(broken)) - set(atlas_problems(ATLAS)) == {
        "cities.csv, row 'tokyo' has driving side 'middle'; expected 'left' or 'right'. "
        "[city_driving_side_is_left_or_right]"
    }


def test_a_broken_atlas_is_refused_with_row_and_rule():
    with pytest.raises(MalformedRecordError, match=r"row 'tokyo' lies at .*on_the_globe.*check"):
        require_sound(city(latitude_deg=123.0))


@pytest.mark.parametrize(
    ("released", "problem"),
    [
        ("city kyoto\n", "has city 'kyoto' in place 1, where the table has 'tokyo'"),
        ("", "lacks city 'tokyo'; add the line 'city tokyo' at its end"),
    ],
)
def test_a_key_that_moved_or_was_not_released_is_named(released, problem, tmp_path):
    (tmp_path / "keys.txt").write_text(released, encoding="utf-8")
    assert any(problem in one for one in problems_of("keys_are_append_only", ATLAS, tmp_path))


def test_a_sign_word_of_a_page_needs_that_page():
    row = SignWord("ja", "zoo", "動物園", "page:nowhere")
    assert problems_of("sign_source_is_known", replace(ATLAS, signs=(row,)))
