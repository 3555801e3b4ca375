import json
import re
from dataclasses import replace

import pytest

from tests.factories import make_scene
from tests.worldloop.prompts.scenes import ATLAS, SCENES
from worldloop.prompts.captions import short_caption
from worldloop.prompts.cosmos3 import cosmos3_prompt
from worldloop.prompts.negatives import cosmos3_negative_prompt, negative_prose
from worldloop.prompts.prose import write_prose
from worldloop.prompts.table import prompts_table
from worldloop.prompts.times import part_of_day
from worldloop.prompts.words import num_words
from worldloop.recipes import Recipe, Shape
from worldloop.records import PROMPTS
from worldloop.scenes.casting import CASTABLE, cast_scenes
from worldloop.waves import plan_wave

SHAPE = Shape(num_frames=121)
SKETCHED = cast_scenes(
    ATLAS,
    places := [f"{city}/{kind}" for city in list(ATLAS.cities)[::9] for kind in CASTABLE],
    range(len(places)),
    sketch=True,
)
CAPTIONS = [short_caption(s, ATLAS, variant=k) for s in [*SCENES, *SKETCHED] for k in range(2)]
COSMOS3_KEYS = {
    *("subjects", "background_setting", "lighting", "aesthetics", "cinematography"),
    *("style_medium", "artistic_style", "context", "actions", "text_and_signage_elements"),
    *("segments", "transitions", "temporal_caption", "resolution", "aspect_ratio"),
    *("duration", "fps"),
}


def outdoors(scene):
    return ATLAS.institution(scene.institution).setting == "outdoor"


def test_captions_are_well_formed():
    for text in CAPTIONS:
        assert not re.search(r"  |[{}]|None|\s[.,;:]|[.,;:]{2}|,\.", text), text
        assert not re.search(r"\ba (?!uni|use|eu|one)[aeiou]", text, re.IGNORECASE), text
        assert not re.search(r"\ban (?!hour|x-ray)[^aeiou\W]", text, re.IGNORECASE), text
        assert not re.search(r"\b([a-z]+) \1\b", text), text


def test_captions_have_10_to_25_words():
    assert [text for text in CAPTIONS if not 10 <= num_words(text) <= 25] == []


def test_captions_say_nothing_that_a_sketch_does_not_show():
    for scene in SKETCHED:
        bare = scene.from_record(
            {**scene.to_record(), "script": (), "details": (), "drive": None, "activity": ""}
        )
        assert short_caption(scene, ATLAS) == short_caption(bare, ATLAS)


def test_captions_tell_the_part_of_the_day_that_the_index_has():
    """By the sun: neither the clock nor the lamps decide."""
    said = re.compile(r"\b(night|after dark|dawn|morning|afternoon|dusk|midday|evening)\b")
    told = 0
    for scene in [*SCENES, *SKETCHED]:
        for text in (short_caption(scene, ATLAS, variant=k) for k in range(4)):
            parts = {"night" if part == "after dark" else part for part in said.findall(text)}
            assert parts <= {part_of_day(scene)}, (text, scene.hour, scene.sun_elevation_deg)
            told += bool(parts)
    assert told > len(SCENES)


@pytest.mark.parametrize(
    ("hour", "sun_elevation_deg", "part"),
    [
        (17.0, -12.0, "night"),  # Helsinki in December
        (17.0, -4.0, "dusk"),  # lamps are on, the sky is not dark
        (21.0, 9.0, "afternoon"),  # Helsinki in June
        (11.5, 5.0, "dawn"),  # a winter's noon in the north: the sun is low all day
    ],
)
def test_a_caption_goes_by_the_sun_and_not_by_the_clock(hour, sun_elevation_deg, part):
    scene = make_scene("street", hour=hour, sun_elevation_deg=sun_elevation_deg)
    told = " ".join(short_caption(scene, ATLAS, variant=k) for k in range(20))
    others = {"night", "dawn", "morning", "midday", "afternoon", "dusk", "evening"} - {part}
    assert part in told
    assert not others & set(told.split())


def test_captions_vary():
    assert len(set(CAPTIONS)) > 0.95 * len(CAPTIONS)


def test_a_place_without_visitors_where_somebody_works_is_not_deserted():
    scene = make_scene("museum", crowd="empty")
    told = " ".join(short_caption(scene, ATLAS, variant=k) for k in range(20))
    assert "nearly empty" in told
    assert "deserted" not in told + json.dumps(cosmos3_prompt(scene, ATLAS, SHAPE))


def test_captions_of_an_empty_street_have_nobody_in_them():
    scene = make_scene("street", roles=(), crowd="empty")
    told = [short_caption(scene, ATLAS, variant=k) for k in range(20)]
    assert not any(re.search(r"nobody|pedestrian", text) for text in told)


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
        assert scene.holiday.lower() in prompt["background_setting"].lower()
        if outdoors(scene) and (scene.is_night or scene.weather != "clear"):
            assert "Sun " not in prompt["lighting"]["direction"]


def test_cosmos3_actions_follow_the_script_in_its_order():
    scene = next(s for s in SCENES if len(s.script) == 3 and s.drive is None)
    told = [
        action["description"].lower() for action in cosmos3_prompt(scene, ATLAS, SHAPE)["actions"]
    ]
    at = [next(k for k, text in enumerate(told) if step.lower() in text) for step in scene.script]
    assert at == sorted(at)
    (one,) = cosmos3_prompt(scene, ATLAS, Shape(5))["actions"]
    assert all(step.lower() in one["description"].lower() for step in scene.script)


def test_cosmos3_light_is_that_of_the_prose():
    theatre = replace(make_scene("museum"), institution="theatre")
    dim = cosmos3_prompt(theatre, ATLAS, SHAPE)["lighting"]
    dusk = make_scene("zoo", hour=18.5, sun_elevation_deg=-1.5)
    glow = cosmos3_prompt(dusk, ATLAS, SHAPE)["lighting"]
    assert "Dim" in dim["conditions"]
    assert "Sunny" not in glow["conditions"]
    assert glow["direction"] == "From the glow on the horizon in the west"
    assert "sunlit" not in glow["illumination_effect"]


def test_cosmos3_takes_the_prose_that_it_is_given():
    prompt = cosmos3_prompt(SCENES[0], ATLAS, SHAPE, prose="A rewritten prompt.")
    assert prompt["temporal_caption"].startswith("A rewritten prompt. ")


def test_negative_prompts_name_what_would_be_false_here():
    rainy_night = make_scene("street", weather="rain", sun_elevation_deg=-20.0)
    told = negative_prose(rainy_night, ATLAS)
    assert all(words in told for words in ("daylight", "on the right", "sunshine", "than Japanese"))
    assert "daylight" not in negative_prose(make_scene("street"), ATLAS)


def test_the_structured_negative_prompt_has_the_schema_of_the_prompt():
    scene = make_scene("zoo")
    negative = cosmos3_negative_prompt(scene, ATLAS, width_px=64, height_px=32)
    positive = cosmos3_prompt(scene, ATLAS, SHAPE)
    assert set(negative) - {"physical_realism"} <= set(positive)
    assert set(negative["cinematography"]) == set(positive["cinematography"])
    assert json.loads(json.dumps(negative)) == negative


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
