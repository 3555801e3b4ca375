import re
from collections import Counter
from dataclasses import replace

import pytest

from tests.factories import make_scene
from tests.worldloop.prompts.scenes import ATLAS, SCENES, STREET_SCENES
from worldloop.errors import MalformedRecordError
from worldloop.prompts.boards import quoted_signs
from worldloop.prompts.dice import Dice
from worldloop.prompts.facts import missing_facts
from worldloop.prompts.places import words_of
from worldloop.prompts.prose import MAX_WORDS, MIN_WORDS, write_prose
from worldloop.prompts.skies import light_clause, sky_clause, under_weather
from worldloop.prompts.times import part_noun
from worldloop.prompts.words import is_many, joined, num_words
from worldloop.scenes.casting import CASTABLE, cast_scenes
from worldloop.scenes.scene import Detail, Dress, Role

PROSE = [write_prose(scene, ATLAS) for scene in SCENES]
AERIAL = [scene for scene in SCENES if scene.camera in ("drone", "birds_eye")]


def own_words(text):
    return re.sub("\u201c.+?\u201d", "X", text)


def faults(pattern, texts=PROSE, flags=re.IGNORECASE):
    found = [re.search(pattern, own_words(text), flags) for text in texts]
    return [match.string[max(0, match.start() - 30) : match.end() + 30] for match in found if match]


def test_every_prompt_has_about_120_words():
    counts = [num_words(text) for text in PROSE]
    assert min(counts) >= MIN_WORDS
    assert max(counts) <= MAX_WORDS
    assert 112 <= sum(counts) / len(counts) <= 130


def test_every_prompt_keeps_every_fact():
    lost = {text: missing_facts(text, s, ATLAS) for s, text in zip(SCENES, PROSE, strict=True)}
    assert {text: facts for text, facts in lost.items() if facts} == {}


@pytest.mark.parametrize(
    "pattern",
    [
        r"  |\s[.,;:]|[,;:]{2}|,\.|\.\.|^\s|\s$",
        r"[{}]|\bNone\b",
        r"\blettered\b[^.]*\bletters\b|\bunder plain\b|\bedges\b[^.,;]* edges\b",
        r"\ba (?!uni|use|eu|one)[aeiou]",
        r"\ban (?!hour|honest|heir|x-ray|8|11|18)[^aeiou\W]",
        r"\b([a-z]+) \1\b",
        r"\b(a|an|the|this|one|two|three|several) (a|an|the)\b",
        r"(?<!-)\b(a|an|one) (?!few)(\w+ )?(visitors|passengers|pedestrians|children|shoppers)\b",
        r"\b(two|three|nine|ten) (visitor|passenger|pedestrian|child|shopper|keeper)\b",
        r"\b(visitors|children|pedestrians) (walks|strolls|stands|waits|is|has)\b",
        r"\bA (\w+ )?(keeper|guard|visitor|child) in [^.]{0,20} (walk|stroll|stand|wait|are|have)\b",
        r"\bthere is (\w+ )?(two|three|four|five|six|seven)\b|\bthere are an? ",
        r"\b(\w+), and (\w+) and \2\b|, and\.|\band,",
        r"\bin (wet|dry|rainy) season\b|\bin the (spring|summer|autumn|winter)\b",
    ],
)
def test_english_is_well_formed(pattern):
    assert faults(pattern) == []


def test_sentences_begin_with_a_capital_and_end_with_a_full_stop():
    for text in PROSE:
        assert text.endswith(".")
        sentences = re.split(r"(?<=[^A-Z]\.) ", own_words(text))
        assert all(sentence[0].isupper() for sentence in sentences), text
        assert len(set(sentences)) == len(sentences), text


def test_quotation_marks_come_in_pairs_and_hold_signs_letter_for_letter():
    for scene, text in zip(SCENES, PROSE, strict=True):
        assert Counter(re.findall("\u201c(.+?)\u201d", text)) == Counter(
            sign.text for sign in quoted_signs(scene)
        )
        assert text.count("\u201c") == text.count("\u201d")


def test_lists_of_three_have_a_comma_before_and():
    assert joined(["a kiosk", "a bench", "two lamps"]) == "a kiosk, a bench, and two lamps"


@pytest.mark.parametrize(
    ("phrase", "many"),
    [
        ("seats moulded into the tiles", True),
        ("a row of seats", False),
        ("wood panelling", False),
        ("cranks and levers", True),
        ("glass balustrades", True),
        ("a stool and a table", True),
        ("tactile paving", False),
        ("a child's drawing", False),
    ],
)
def test_the_number_of_a_noun_phrase_is_that_of_its_head(phrase, many):
    assert is_many(phrase) is many


def test_one_of_a_kind_takes_an_article_and_a_singular_verb():
    keeper = Role("keeper", 1, Dress("uniform", color="olive"), "standing")
    told = [
        write_prose(make_scene("zoo", seed=seed, roles=(keeper,)), ATLAS).lower()
        for seed in range(20)
    ]
    assert all(
        re.search(r"a keeper (in|wearing|dressed in) an olive uniform", text) for text in told
    )
    assert not any(re.search(r"uniform (stand|wait|linger|have|remain)\b", text) for text in told)


def test_no_sun_stands_in_the_night_or_under_clouds():
    place = words_of(ATLAS.institution("street"))
    for seed in range(200):
        for changes in ({"sun_elevation_deg": -20.0}, {"weather": "rain"}, {"weather": "fog"}):
            scene, dice = make_scene("street", **changes), Dice(seed)
            said = " ".join(
                (
                    sky_clause(scene, place, dice),
                    light_clause(scene, place, dice, indoors=False),
                    under_weather(scene, dice),
                )
            )
            assert not re.search(r"\bsun|sunlight|blue", said), said
            if "weather" in changes:
                assert not re.search(r"\b(night|dark|lamps?)\b", said), said


def test_where_somebody_works_no_place_is_quite_empty():
    texts = [
        text
        for scene, text in zip(SCENES, PROSE, strict=True)
        if scene.crowd == "empty" and scene.roles
    ]
    assert texts
    assert faults(r"\bdeserted|(?<!nearly )(?<!all but )\bempty\b", texts) == []


def test_dawn_and_dusk_are_said_only_while_the_sun_is_down():
    by_sun = {
        is_up: [
            text
            for scene, text in zip(SCENES, PROSE, strict=True)
            if scene.daypart in ("dawn", "dusk") and (scene.sun_elevation_deg >= 0) == is_up
        ]
        for is_up in (True, False)
    }
    moments = r"\bat (dusk|nightfall|dawn|daybreak|first light)\b|\bin the twilight\b"
    assert faults(moments, by_sun[True]) == []
    assert faults(moments, by_sun[False])


def test_a_low_noon_sun_in_the_north_makes_no_late_afternoon():
    noon = make_scene("zoo", hour=12.5, sun_elevation_deg=4.0, daypart="dusk", season="winter")
    assert part_noun(noon) == ("early afternoon", "afternoon")


def test_lamps_are_not_told_twice():
    lamps = Detail("fixtures", "strip lights along the ceiling")
    scene = make_scene("museum", details=(lamps,))
    told = {
        light_clause(
            scene, words_of(ATLAS.institution("museum")), Dice(k * 7_919_317), indoors=True
        )
        for k in range(200)
    }
    assert len(told) > 20
    assert not any(text.startswith("strip lights") for text in told)


def test_streets_keep_to_their_side_and_never_to_the_other():
    for scene in STREET_SCENES:
        text = write_prose(scene, ATLAS)
        wrong = "left" if scene.driving_side == "right" else "right"
        stated = re.sub(rf"(turning|to the) {wrong}( lane)?", "", text)
        assert f"on the {wrong}" not in stated
        assert f"keeps to the {wrong}" not in text


def test_speeds_are_in_the_unit_of_the_country():
    (drive,) = cast_scenes(ATLAS, ["london/street"], [3], [{"camera": "drive"}])
    text = write_prose(drive, ATLAS)
    assert re.search(r"\b\d+ mph\b", text)
    assert "km/h" not in text


def test_the_same_scene_gives_the_same_words_and_another_seed_others():
    scene = SCENES[5]
    assert write_prose(scene, ATLAS) == write_prose(scene, ATLAS)
    again = write_prose(replace(scene, seed=scene.seed + 1), ATLAS)
    assert again.split()[:8] != write_prose(scene, ATLAS).split()[:8]


def test_openings_of_one_kind_of_place_differ():
    streets = [write_prose(scene, ATLAS) for scene in STREET_SCENES]
    openings = {" ".join(text.split()[:6]) for text in streets}
    assert len(openings) > 0.95 * len(streets)


@pytest.mark.parametrize("institution", CASTABLE)
def test_hand_made_scenes_without_script_can_be_written(institution):
    text = write_prose(make_scene(institution), ATLAS)
    assert MIN_WORDS <= num_words(text) <= MAX_WORDS
    assert missing_facts(text, make_scene(institution), ATLAS) == []


def test_prose_of_what_is_seen_keeps_script_details_and_drive_to_itself():
    places = [f"{city}/{kind}" for city in list(ATLAS.cities)[::25] for kind in CASTABLE]
    for scene in cast_scenes(ATLAS, places, range(len(places)), sketch=True):
        text = write_prose(scene, ATLAS, seen=True)
        bare = replace(scene, script=(), details=(), activity="", holiday="")
        assert text == write_prose(bare, ATLAS, seen=True)
        assert missing_facts(text, scene, ATLAS, seen=True) == []


def test_the_cinematic_style_tells_skyline_roads_time_and_sky_from_the_air():
    assert len(AERIAL) > 30
    for scene in AERIAL:
        text = write_prose(scene, ATLAS, style="cinematic")
        opening = " ".join(text.split(". ")[:3])
        assert re.search(r"skyline", opening, re.IGNORECASE)
        assert re.search(r"(roads|streets)[^.]* (weave|weaves)", opening, re.IGNORECASE)
        assert re.search(r"\bsky\b|clear, dark|night", opening)
        assert re.search(r"panorama|aerial view", opening)
        assert MIN_WORDS <= num_words(text) <= MAX_WORDS
        assert missing_facts(text, scene, ATLAS) == []


def test_the_cinematic_style_wants_a_camera_in_the_air():
    with pytest.raises(MalformedRecordError, match="drone, birds_eye"):
        write_prose(make_scene("street"), ATLAS, style="cinematic")
