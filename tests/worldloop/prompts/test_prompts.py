import json
import re

import pytest

from tests.factories import make_scene
from worldloop.atlas.atlas import load_atlas
from worldloop.prompts.captions import short_caption
from worldloop.prompts.cosmos3 import cosmos3_prompt
from worldloop.prompts.prose import MAX_WORDS, MIN_WORDS, write_prose
from worldloop.prompts.table import prompts_table
from worldloop.prompts.words import num_words, person
from worldloop.recipes import Recipe, Shape
from worldloop.records import PROMPTS
from worldloop.scenes.casting import CASTABLE, cast_scene
from worldloop.scenes.scene import Dress, Role, Subject
from worldloop.waves import plan_wave

ATLAS = load_atlas()
SHAPE = Shape(num_frames=121)
SCENES = [
    cast_scene(ATLAS, place=f"{city}/{institution}", seed=seed)
    for city in ATLAS.cities
    for seed, institution in enumerate(CASTABLE)
]
PROSE = [write_prose(scene, ATLAS) for scene in SCENES]
CAPTIONS = [short_caption(scene, ATLAS, variant=k) for scene in SCENES for k in range(2)]
COSMOS3_KEYS = {
    *("subjects", "background_setting", "lighting", "aesthetics", "cinematography"),
    *("style_medium", "artistic_style", "context", "actions", "text_and_signage_elements"),
    *("segments", "transitions", "temporal_caption", "resolution", "aspect_ratio"),
    *("duration", "fps"),
}


def outdoors(scene):
    return ATLAS.institution(scene.institution).setting == "outdoor"


@pytest.mark.parametrize("texts", [PROSE, CAPTIONS], ids=["prose", "captions"])
def test_english_is_well_formed(texts):
    for text in texts:
        assert "  " not in text
        assert not re.search(r"[{}]|None|\bno [a-z]+s\b", text), text
        assert not re.search(r"\s[.,;:]|[.,;:]{2}|,\.", text), text
        assert not re.search(r"\ba (?!uni|use|eu|one)[aeiou]", text, re.IGNORECASE), text
        assert not re.search(r"\ban [^aeiouh\W]", text, re.IGNORECASE), text
        assert not re.search(r"\b([a-z]+) \1\b", text), text


def test_prose_has_about_120_words_and_ends_like_a_sentence():
    for text in PROSE:
        assert MIN_WORDS <= num_words(text) <= MAX_WORDS
        assert text[0].isupper()
        assert text.endswith((".", "\u201d."))
        assert all(
            sentence[0].isupper() or sentence[0] == "\u201c" for sentence in text.split(". ")
        )


def test_captions_have_10_to_25_words():
    assert all(10 <= num_words(text) <= 25 for text in CAPTIONS)


def test_prose_says_where_it_is_and_what_the_weather_is():
    for scene, text in zip(SCENES, PROSE, strict=True):
        assert ATLAS.city(scene.city).name in text
        for word in ("rain", "snow"):
            told = re.search(rf"\b{word}(y|s|ing|drops|flakes)?\b", text, re.IGNORECASE)
            assert bool(told) == (scene.weather == word), text


def test_prose_never_puts_the_sun_into_the_night_or_under_clouds():
    for scene, text in zip(SCENES, PROSE, strict=True):
        if outdoors(scene) and (scene.is_night or scene.weather != "clear"):
            assert not re.search(r"\bsun\b|sunny|sunlight", text, re.IGNORECASE), text
        if outdoors(scene) and not scene.is_night:
            assert not re.search(r"\b(night|dark sky|lamps are on)\b", text, re.IGNORECASE), text


def test_prose_counts_what_the_scene_holds():
    for scene, text in zip(SCENES, PROSE, strict=True):
        told = text.lower()
        assert all(person(role).lower() in told for role in scene.roles)
        assert all(subject.kind in told for subject in scene.subjects)


def test_prose_quotes_local_signs_letter_for_letter():
    for scene, text in zip(SCENES, PROSE, strict=True):
        quoted = re.findall("\u201c(.+?)\u201d", text)
        assert quoted == [sign.text for sign in scene.signs[:3]]


def test_prose_and_captions_keep_to_the_driving_side():
    for scene, text in zip(SCENES, PROSE, strict=True):
        wrong = "left" if scene.driving_side == "right" else "right"
        assert f"the {wrong}" not in text
        assert (
            f"on the {scene.driving_side}" in text or f"to the {scene.driving_side}" in text
        ) == (scene.institution == "street")


def test_an_empty_street_has_nobody_in_it():
    empty = [k for k, scene in enumerate(SCENES) if not scene.roles]
    assert empty
    for k in empty:
        assert not re.search(r"pedestrians?\b (in|walk)", PROSE[k])
        assert "nobody and" not in CAPTIONS[2 * k]


def test_wording_differs_between_scenes_of_the_same_kind():
    streets = [
        text for scene, text in zip(SCENES, PROSE, strict=True) if scene.institution == "street"
    ]
    openings = {text.split(",")[0] for text in streets}
    assert len(openings) > len(streets) / 2
    assert len(set(PROSE)) == len(PROSE)
    assert len(set(CAPTIONS)) > 0.95 * len(CAPTIONS)


def test_hand_made_scenes_can_be_written_too():
    for institution in CASTABLE:
        scene = make_scene(institution)
        assert num_words(write_prose(scene, ATLAS)) >= 90
        assert num_words(short_caption(scene, ATLAS)) >= 10


def test_one_of_a_kind_takes_an_article_and_a_singular_verb():
    scene = make_scene(
        "zoo",
        roles=(Role("keeper", 1, Dress("uniform", color="olive")),),
        subjects=(Subject("elephant", 1, "resting"),),
    )
    told = {
        write_prose(make_scene("zoo", seed=seed, roles=scene.roles, subjects=scene.subjects), ATLAS)
        for seed in range(12)
    }
    assert all("a resting elephant" in text for text in told)
    assert not any(re.search(r"keeper in an olive uniform (walk|move)\b", text) for text in told)


def test_cosmos3_prompts_have_the_fields_and_facts_of_the_scene():
    for scene in SCENES[::7]:
        prompt = cosmos3_prompt(scene, ATLAS, SHAPE)
        assert set(prompt) == COSMOS3_KEYS
        assert json.loads(json.dumps(prompt)) == prompt
        counts = [subject["number_of_subjects"] for subject in prompt["subjects"]]
        assert counts == [part.count for part in (*scene.roles, *scene.subjects)]
        texts = [element["text"] for element in prompt["text_and_signage_elements"]]
        assert texts == [sign.text for sign in scene.signs]
        assert write_prose(scene, ATLAS) in prompt["temporal_caption"]
        if outdoors(scene) and (scene.is_night or scene.weather != "clear"):
            assert "Sun " not in prompt["lighting"]["direction"]


@pytest.mark.parametrize(
    ("shape", "duration", "aspect", "times"),
    [
        (Shape(121, 256, 144, 24), "5s", "16,9", ["0:00-0:01.7", "0:01.7-0:03.4"]),
        (Shape(5, 64, 48, 24), "0.2s", "4,3", ["0:00-0:00.2"]),
        (Shape(1800, 1280, 704, 24), "75s", "20,11", ["0:00-0:02", "0:02-0:03.9"]),
    ],
)
def test_cosmos3_times_cover_the_clip(shape, duration, aspect, times):
    prompt = cosmos3_prompt(make_scene("zoo"), ATLAS, shape)
    assert (prompt["duration"], prompt["aspect_ratio"]) == (duration, aspect)
    assert [action["time"] for action in prompt["actions"]][:2] == times
    assert prompt["resolution"] == {"H": shape.height_px, "W": shape.width_px}


def test_the_table_of_a_city_follows_the_format_and_the_plan():
    plan = plan_wave(
        ATLAS,
        wave="w0001",
        places=["tokyo/zoo", "cairo/street"],
        clips_per_place=3,
        seed=1,
        shape=SHAPE,
    )
    table = prompts_table(plan, ATLAS, "cairo")
    assert table.schema == PROMPTS.empty().schema
    assert table["index"].to_list() == [1, 3, 5]
    for row in table.iter_rows(named=True):
        recipe = Recipe.from_record(json.loads(row["recipe"]))
        assert (recipe.recipe_id, recipe.scene.scene_id) == (row["recipe_id"], row["scene_id"])
        assert recipe.shape == SHAPE
    assert table.equals(prompts_table(plan, ATLAS, "cairo"))
