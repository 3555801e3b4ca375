from collections import Counter
from dataclasses import replace

import pytest

from worldloop.atlas.atlas import load_atlas
from worldloop.prompts.dice import Dice
from worldloop.prompts.times import (
    SEASON_WORDS,
    clock_forms,
    holiday_clause,
    minutes_of,
    short_clock_forms,
    time_phrase,
)
from worldloop.scenes.casting import cast_scene

ATLAS = load_atlas()
NOON = cast_scene(ATLAS, place="tokyo/street", seed=7, date="2026-10-14", hour=15.25)
DUSK = replace(NOON, hour=17.25, sun_elevation_deg=-2.0)
LAGOS = cast_scene(ATLAS, place="lagos/street", seed=7, date="2026-07-03", hour=9.0)
MOMENTS = ("at dusk", "in the twilight", "at nightfall")


def phrases(scene, num=600):
    return [time_phrase(scene, Dice(number * 7919)) for number in range(num)]


@pytest.mark.parametrize("scene", [NOON, DUSK, LAGOS], ids=["noon", "dusk", "lagos"])
def test_every_phrase_says_the_season_and_leaves_no_gap(scene):
    words = [word.replace("-", " ") for word in SEASON_WORDS[scene.season]]
    for phrase in phrases(scene):
        assert any(word in phrase.replace("-", " ") for word in words), phrase
        assert not {"{", "}", "  "} & set(phrase), phrase


def test_articles_fit_the_season():
    said = " ".join(phrases(NOON))
    assert "an autumn " in said
    assert " a autumn" not in said


def test_all_forms_are_used_about_as_often():
    begins = Counter(phrase.split()[0] for phrase in phrases(NOON))
    assert {"at", "on", "one", "in", "during", "as", "this"} <= begins.keys()
    assert max(begins.values()) < 0.4 * sum(begins.values())


def test_twilight_is_said_in_some_phrases_and_only_in_twilight():
    dusky = [phrase for phrase in phrases(DUSK) if phrase.startswith(MOMENTS)]
    assert 0.35 < len(dusky) / 600 < 0.55
    assert not [phrase for phrase in phrases(NOON) if phrase.startswith(MOMENTS)]


def test_clocks_are_those_of_the_scene():
    minutes = minutes_of(NOON)
    clocks = (*clock_forms(minutes), *short_clock_forms(minutes))
    timed = [phrase for phrase in phrases(NOON) if any(clock in phrase for clock in clocks)]
    assert len(timed) > 300
    assert {"15:15"} <= {clock for clock in clocks if any(clock in phrase for phrase in timed)}


def test_the_same_dice_say_the_same():
    assert time_phrase(NOON, Dice(5)) == time_phrase(NOON, Dice(5))


def test_a_holiday_without_a_name_is_not_said_twice():
    nameless = replace(NOON, holiday="Public holiday")
    clauses = {holiday_clause(nameless, Dice(seed * 7919)) for seed in range(40)}
    assert len(clauses) > 2
    assert all(clause.lower().count("public holiday") == 1 for clause in clauses)
    assert any("Nowruz" in holiday_clause(replace(NOON, holiday="Nowruz"), Dice(n)) for n in (1, 2))
