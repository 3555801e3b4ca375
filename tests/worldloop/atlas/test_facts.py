from collections import defaultdict

import pytest

from worldloop.atlas.atlas import load_atlas
from worldloop.atlas.facts import Fact, place_facts
from worldloop.atlas.records import EVIDENCE
from worldloop.errors import UnknownKeyError

ATLAS = load_atlas()


def facts_of(place: str) -> dict[str, list[Fact]]:
    found = defaultdict(list)
    for fact in place_facts(ATLAS, place):
        found[fact.slot].append(fact)
    return found


@pytest.mark.parametrize("place", ["tokyo/zoo", "lima/museum", "cairo/street", "lusaka/hospital"])
def test_every_fact_of_a_place_has_a_source_a_scope_and_evidence(place):
    for fact in place_facts(ATLAS, place):
        assert fact.source, fact
        assert fact.scope, fact
        assert fact.evidence in EVIDENCE, fact


def test_facts_cover_the_decorum_the_signs_and_the_calendar():
    found, kind = facts_of("tokyo/zoo"), ATLAS.institution("zoo")
    assert set(kind.decorum_slots) <= found.keys()
    assert {f"sign:{word}" for word in kind.sign_words} <= found.keys()
    assert found["holiday:2026-01-01"][0].scope == "country JP"
    assert len([slot for slot in found if slot.startswith("activity:")]) >= 8


def test_weather_is_told_for_the_seasons_of_the_place_and_snow_where_it_may_fall():
    told = {
        place: {
            slot: facts[0].value for slot, facts in facts_of(place).items() if "weather:" in slot
        }
        for place in ("tokyo/zoo", "sydney/zoo", "lagos/zoo")
    }
    four = {f"weather:{season}" for season in ("spring", "summer", "autumn", "winter")}
    assert told["tokyo/zoo"].keys() == told["sydney/zoo"].keys() == four
    assert told["lagos/zoo"].keys() == {"weather:wet season", "weather:dry season"}
    assert "snow" in told["tokyo/zoo"]["weather:winter"]
    assert "snow" not in told["sydney/zoo"]["weather:winter"]


def test_days_off_are_told_by_name():
    assert facts_of("dhaka/zoo")["country.weekend"][0].value == "friday | saturday"
    nepal = facts_of("kathmandu/zoo")["country.weekend"][0]
    assert (nepal.value, nepal.source, nepal.evidence) == ("saturday", "page:w-nepal", "curated")


def test_no_sign_points_to_a_metro_where_there_is_none():
    assert "sign:metro" in facts_of("berlin/train_station")
    assert "sign:metro" not in facts_of("zurich/train_station")


def test_a_fallback_of_a_sign_names_the_languages_that_lack_the_word():
    city = next(
        city
        for city in ATLAS.cities.values()
        if len(city.languages) > 1
        and ATLAS.sign(city.key, "carousel").language != city.languages[0]
    )
    fact = facts_of(f"{city.key}/amusement_park")["sign:carousel"][0]
    assert f"fallback, no word in {city.languages[0]}" in fact.value


def test_a_language_holds_where_its_override_says():
    assert facts_of("montreal/park")["city.languages"][0].scope == "admin1 CA.10"
    assert facts_of("paris/park")["city.languages"][0].scope == "country FR"


def test_facts_of_an_unknown_place_suggest_the_nearest():
    with pytest.raises(UnknownKeyError, match="Did you mean 'tokyo'"):
        place_facts(ATLAS, "tokio/zoo")
