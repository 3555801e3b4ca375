import re
from dataclasses import replace

import pytest

from tests.factories import make_scene
from tests.worldloop.prompts.scenes import ATLAS, SCENES, STREET_SCENES
from worldloop.prompts.boards import quoted_signs
from worldloop.prompts.crowds import CROWD_WORDS
from worldloop.prompts.facts import missing_facts
from worldloop.prompts.places import words_of
from worldloop.prompts.prose import activity_of, told_details, write_prose
from worldloop.prompts.roads import speed_text
from worldloop.prompts.skies import WEATHER_WORDS
from worldloop.prompts.times import SEASON_WORDS

SAMPLE = SCENES[::61]
DRIVES = [scene for scene in STREET_SCENES if scene.drive][::4]


def without(text, words):
    pattern = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    return re.sub(pattern, "thing", text, flags=re.IGNORECASE)


def kinds(text, scene):
    return {fact.partition(":")[0] for fact in missing_facts(text, scene, ATLAS)}


@pytest.mark.parametrize("kind", ["city", "country", "institution", "season", "weather", "crowd"])
def test_a_fact_that_is_taken_out_is_missed(kind):
    for scene in SAMPLE:
        place = ATLAS.institution(scene.institution)
        words = {
            "city": [ATLAS.city(scene.city).name],
            "country": [ATLAS.country(scene.city).name.removeprefix("the ")],
            "institution": [place.name, *words_of(place).names],
            "season": SEASON_WORDS[scene.season],
            "weather": WEATHER_WORDS[scene.weather],
            "crowd": CROWD_WORDS[scene.crowd],
        }[kind]
        if scene.drive is None:
            assert kind in kinds(without(write_prose(scene, ATLAS), words), scene)


@pytest.mark.parametrize(
    ("words", "kind", "wanted"),
    [
        (
            "the train leaves, drains gurgle by the misting pipe and a rain barrel",
            "rain",
            "weather",
        ),
        (
            "one Sunday a fair number of people read clear letters on sun loungers",
            "clear",
            "weather",
        ),
        ("a few steps away, in quiet talk, with a calm stride", "sparse", "crowd"),
        ("an attractive view is carefully framed", "lively", "crowd"),
        ("visitors wander by", "wander", "camera"),
    ],
)
def test_words_that_only_look_like_a_fact_do_not_say_it(words, kind, wanted):
    scene = make_scene("zoo", **{wanted: kind})
    assert f"{wanted}: {kind}" in missing_facts(words, scene, ATLAS)


def test_a_sign_that_changes_one_letter_is_missed():
    for scene in SAMPLE:
        for sign in quoted_signs(scene):
            text = write_prose(scene, ATLAS).replace(f"\u201c{sign.text}", f"\u201c{sign.text}x")
            changed = text.replace(sign.text + "x", "x" + sign.text[1:])
            assert "sign" in kinds(changed, scene)


def test_a_wrong_number_is_missed():
    for scene in SAMPLE:
        if scene.roles:
            role = scene.roles[0]
            more = replace(scene, roles=(replace(role, count=role.count + 30), *scene.roles[1:]))
            assert "count" in kinds(write_prose(scene, ATLAS), more)


def test_an_activity_and_details_that_are_left_out_are_missed():
    for scene in SAMPLE:
        text = write_prose(scene, ATLAS)
        activity = activity_of(scene, ATLAS)
        if activity and len(activity.says.split()) > 5:
            words = [word for word in activity.says.split() if len(word) > 2]
            assert "activity" in kinds(without(text, words), scene)
        if len(told_details(scene)) == 3:
            said = [word for detail in told_details(scene) for word in detail.says.split()]
            assert "details" in kinds(without(text, [w for w in said if len(w) > 3]), scene)


def test_facts_of_a_drive_that_are_left_out_are_missed():
    assert DRIVES
    for scene in DRIVES:
        text, drive = write_prose(scene, ATLAS), scene.drive
        other = "left" if scene.driving_side == "right" else "right"
        faults = {
            "speed": without(text, [speed_text(ATLAS, scene, drive)]),
            "road": without(text, [ATLAS.roads[drive.road].name]),
            "side": text.replace(f"the {scene.driving_side}", f"the {other}"),
            "manoeuvre": without(text, drive.manoeuvre.split()),
        }
        for kind, faulty in faults.items():
            assert kind in kinds(faulty, scene), faulty


def test_another_wording_passes():
    scene = next(s for s in SCENES if s.activity and s.crowd != "empty" and s.drive is None)
    text = write_prose(scene, ATLAS)
    assert (
        missing_facts(f"In the film that follows, {text[0].lower()}{text[1:]}", scene, ATLAS) == []
    )
