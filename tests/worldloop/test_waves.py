import json
from collections import Counter
from dataclasses import replace

import pytest

from worldloop.atlas.atlas import load_atlas
from worldloop.cosmos.plans import plan_world_model
from worldloop.errors import MalformedRecordError, UnknownKeyError
from worldloop.recipes import Shape
from worldloop.scenes.dimensions import FREE
from worldloop.waves import (
    PlannedClip,
    WavePlan,
    check_wishes,
    needs_sketches,
    next_wave_key,
    parse_scene,
    plan_covering_wave,
    plan_scenes,
    plan_wave,
    scenes_of,
    scenes_of_clips,
    write_scene,
)
from worldloop.worlds.grammar import GRAMMARS, is_sketchable

ATLAS = load_atlas()
SHAPE = Shape(num_frames=61)
PLACES = ("tokyo/zoo", "cairo/street", "tokyo/museum")


def plan(**changes):
    asked = {"wave": "w0001", "places": PLACES, "clips_per_place": 2, "seed": 5, "shape": SHAPE}
    return plan_wave(ATLAS, **{**asked, **changes})


def covering(**changes):
    asked = {"wave": "w0001", "num_cities": 6, "clips_per_place": 1, "seed": 5, "shape": SHAPE}
    return plan_covering_wave(ATLAS, **{**asked, **changes})


def freely():
    """A world model that reads prompts alone."""
    return plan_world_model("Tiny-Cosmos3", tier="tiny")


def test_a_plan_visits_every_place_before_it_comes_again():
    assert [clip.place for clip in plan().clips] == [*PLACES, *PLACES]
    assert [clip.index for clip in plan().clips] == list(range(6))
    assert plan().cities == ("tokyo", "cairo")


def test_a_plan_pins_the_atlas_and_gives_each_clip_a_seed():
    assert plan().atlas_hash == ATLAS.hash
    assert len({clip.seed for clip in plan().clips}) == 6
    assert plan() == plan()
    assert plan(seed=6).clips[0].seed != plan().clips[0].seed


def test_a_place_keeps_its_scenes_when_others_join_the_wave():
    alone = plan(places=("cairo/street",))
    seeds = [clip.seed for clip in plan().clips_of("cairo")]
    assert [clip.seed for clip in alone.clips] == seeds


def test_a_plan_survives_json():
    record = json.loads(json.dumps(plan().to_record()))
    assert WavePlan.from_record(record) == plan()


def test_a_plan_with_a_world_model_survives_json_and_the_first_version_had_none():
    model = plan_world_model("Tiny-Cosmos3", tier="tiny", share=0.5)
    made = plan(world_model=model)
    record = json.loads(json.dumps(made.to_record()))
    first = {k: v for k, v in record.items() if k != "world_model"} | {"plan_version": 1}

    assert WavePlan.from_record(record) == made
    assert WavePlan.from_record(first) == replace(made, world_model=None)


def test_a_plan_of_version_2_asked_for_nothing():
    record = json.loads(json.dumps(plan().to_record()))
    clips = [{k: v for k, v in clip.items() if k != "asked"} for clip in record["clips"]]

    assert WavePlan.from_record({**record, "clips": clips, "plan_version": 2}) == plan()


def test_a_wave_of_given_scenes_has_their_places_and_seeds():
    made = plan_scenes(
        ATLAS, wave="w0002", scenes=["tokyo/zoo@7", "tokyo/zoo@8"], seed=1, shape=SHAPE
    )

    assert [(clip.place, clip.seed) for clip in made.clips] == [("tokyo/zoo", 7), ("tokyo/zoo", 8)]


@pytest.mark.parametrize(
    ("scenes", "message"),
    [
        (["tokyo/zoo"], "tokyo/zoo@17"),
        (["tokyo/zoo@\u00b2"], "tokyo/zoo@17"),
        ([f"tokyo/zoo@{'9' * 5000}"], "below 2\\*\\*63"),
        (["tokyo/zoo@9223372036854775808"], "below 2\\*\\*63"),
        (["tokyo/zoo@1?camera=tour&camera=stroll"], "each wish once"),
        (["tokyo/zoo@1", "tokyo/zoo@1"], "each scene once"),
        ([], "at least one place"),
    ],
)
def test_scenes_that_cannot_be_planned_are_refused(scenes, message):
    with pytest.raises(MalformedRecordError, match=message):
        plan_scenes(ATLAS, wave="w0002", scenes=scenes, seed=1, shape=SHAPE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"plan_version": 9}, "plan_version 1 to 3"),
        ({"clips": [{"index": 0}]}, "wave plan"),
        ({"accept_counts": {"tokyo/zoo": [1]}}, "wave plan"),
        ({"accept_counts": {"tokyo/zoo": [3, 2]}}, "tokyo/zoo"),
        ({"accept_counts": ["tokyo/zoo"]}, "wave plan"),
    ],
)
def test_a_malformed_plan_is_refused(changes, message):
    with pytest.raises(MalformedRecordError, match=message):
        WavePlan.from_record({**plan().to_record(), **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"places": ("tokio/zoo",)}, "No city has the key 'tokio'"),
        ({"places": ("tokyo/zooo",)}, "No institution has the key 'zooo'"),
        ({"generator": "procedurall"}, "No generator"),
    ],
)
def test_an_unknown_key_in_a_plan_is_named(changes, message):
    with pytest.raises(UnknownKeyError, match=message):
        plan(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wave": "first"}, "wave key"),
        ({"places": ()}, "at least one place"),
        ({"places": ("tokyo/school",)}, "found 'tokyo/school'.* the sketch renderer draws"),
        ({"places": ("tokyo/zoo", "tokyo/zoo")}, "each place once"),
        ({"clips_per_place": 0}, "1 to 1000"),
        ({"clips_per_place": 1001}, "1 to 1000"),
        ({"shape": replace(SHAPE, num_frames=4)}, "num_frames of a wave: found 4, expected 5"),
        ({"shape": replace(SHAPE, num_samples=3)}, "num_samples of a wave: found 3"),
        ({"shape": replace(SHAPE, rate_fps=500)}, "rate_fps"),
    ],
)
def test_a_plan_that_cannot_be_made_is_refused(changes, message):
    with pytest.raises(MalformedRecordError, match=message):
        plan(**changes)


def test_scenes_of_a_city_carry_their_index_and_seed():
    scenes = scenes_of(plan(), ATLAS, "tokyo")
    assert [index for index, _ in scenes] == [0, 2, 3, 5]
    assert [scene.place for _, scene in scenes][:2] == ["tokyo/zoo", "tokyo/museum"]
    assert scenes[0][1].seed == plan().clips[0].seed


def test_a_city_outside_the_plan_has_no_scenes():
    with pytest.raises(UnknownKeyError, match="city in wave w0001"):
        scenes_of(plan(), ATLAS, "lima")


def test_another_atlas_than_the_pinned_one_is_refused():
    with pytest.raises(MalformedRecordError, match="atlas of wave w0001"):
        scenes_of(replace(plan(), atlas_hash="0" * 32), ATLAS, "tokyo")


def test_what_is_asked_for_holds_in_every_scene():
    made = plan(asked={"season": "winter", "camera": "tour"}, places=("berlin/zoo", "oslo/street"))
    scenes = [scene for city in made.cities for _, scene in scenes_of(made, ATLAS, city)]
    assert {(scene.season, scene.camera) for scene in scenes} == {("winter", "tour")}


@pytest.mark.parametrize(
    "asked", [{"camera": "drone"}, {"weather": "snow"}, {"category": "driving"}]
)
def test_what_is_impossible_or_cannot_be_sketched_is_refused(asked):
    with pytest.raises(MalformedRecordError, match="at cairo/street"):
        plan(places=("cairo/street",), asked=asked)


def test_a_world_model_without_sketches_may_show_any_institution_and_camera():
    assert needs_sketches(None)
    assert not needs_sketches(freely())
    made = plan(places=("tokyo/library", "tokyo/zoo"), world_model=freely())
    scenes = dict(scenes_of(made, ATLAS, "tokyo"))
    assert {scene.institution for scene in scenes.values()} == {"library", "zoo"}
    assert all(is_sketchable(scene) for scene in scenes.values() if scene.institution == "zoo")
    drones = plan(places=("tokyo/zoo",), world_model=freely(), asked={"camera": "drone"})
    assert not any(is_sketchable(scene) for _, scene in scenes_of(drones, ATLAS, "tokyo"))


def test_an_alias_is_planned_under_its_key():
    alias, key = next(iter(ATLAS.aliases["institution"].items()))
    made = plan(places=(f"tokyo/{alias}",), world_model=freely())
    assert {clip.institution for clip in made.clips} == {key}


def test_the_scene_of_a_clip_is_written_and_read_back():
    for clip in covering(num_cities=3).clips:
        place, seed, asked = parse_scene(write_scene(clip))
        assert (place, seed, asked) == (clip.place, clip.seed, dict(clip.asked))
        again = PlannedClip(99, *place.split("/"), seed, asked)
        assert scenes_of_clips(ATLAS, [again]) == scenes_of_clips(ATLAS, [clip])


def test_a_covering_wave_asks_for_every_dimension_and_gets_it():
    made = covering(clips_per_place=3)
    for clip, scene in zip(made.clips, scenes_of_clips(ATLAS, made.clips), strict=True):
        assert {name: getattr(scene, name) for name in FREE} == clip.asked
        assert is_sketchable(scene)
    assert len({tuple(clip.asked.values()) for clip in made.clips}) == 18


def test_the_least_covered_cities_and_institutions_come_first():
    history: list[PlannedClip] = []
    for wave in range(len(ATLAS.cities) // 80):
        history += covering(num_cities=80, history=history, seed=wave + 1).clips
    cities = Counter(clip.city for clip in history)
    kinds = Counter(clip.institution for clip in history)
    assert max(cities.values()) == 1
    assert max(kinds.values()) - min(kinds.values()) <= 1
    assert set(kinds) == set(GRAMMARS)


def test_a_first_choice_spans_the_continents():
    continents = {ATLAS.city(clip.city).continent for clip in covering().clips}
    assert len(continents) == 6


def test_a_city_that_comes_again_shows_something_else():
    everywhere = [PlannedClip(0, city, "street", 1) for city in ATLAS.cities]
    chosen = covering(num_cities=40, history=everywhere)
    assert "street" not in {clip.institution for clip in chosen.clips}


def test_targets_take_the_place_of_picked_cities():
    made = covering(targets={"tokyo/zoo": 3, "lima/street": 1})
    assert [clip.place for clip in made.clips] == [
        *("tokyo/zoo", "lima/street"),
        *["tokyo/zoo"] * 2,
    ]
    assert len({clip.seed for clip in made.clips}) == 4


def test_a_mix_and_weights_decide_what_is_picked():
    mix = {"driving": 0.5, "nature": 0.5}
    made = covering(num_cities=8, mix=mix, weights={"*/zoo": 0}, world_model=freely())
    assert Counter(clip.asked["category"] for clip in made.clips) == {"driving": 4, "nature": 4}
    assert "zoo" not in {clip.institution for clip in made.clips}


ZOOS = ("tokyo/zoo", "lima/zoo", "oslo/zoo", "cairo/zoo")
ONLY_ZOOS = {f"*/{kind}": 0.0 for kind in GRAMMARS if kind != "zoo"} | {
    f"{city}/*": 0.0 for city in ATLAS.cities if f"{city}/zoo" not in ZOOS
}


def waves_of_zoos(num, accept_counts, **weights):
    """How often each zoo comes in so many waves of one place."""
    history: list[PlannedClip] = []
    for wave in range(num):
        history += covering(
            num_cities=1,
            history=history,
            seed=wave + 1,
            weights={**ONLY_ZOOS, **weights},
            accept_counts=accept_counts,
        ).clips
    return Counter(clip.place for clip in history)


def test_places_that_lost_clips_get_more_of_the_next_waves():
    lost = {"lima/zoo": (0, 1), "oslo/zoo": (8, 14)}  # weights 3 and 16/9
    assert waves_of_zoos(20, {}) == dict.fromkeys(ZOOS, 5)
    assert waves_of_zoos(20, lost) == {
        "lima/zoo": 9,
        "oslo/zoo": 5,
        "tokyo/zoo": 3,
        "cairo/zoo": 3,
    }


def test_acceptance_multiplies_the_weights_given_by_hand():
    by_hand = {"tokyo/zoo": 3.0, "oslo/zoo": 0.0}
    counts = waves_of_zoos(24, {"tokyo/zoo": (0, 1), "oslo/zoo": (0, 1)}, **by_hand)
    assert counts == waves_of_zoos(24, {}, **{**by_hand, "tokyo/zoo": 9.0})
    assert counts["oslo/zoo"] == 0
    assert counts["tokyo/zoo"] > 2 * counts["lima/zoo"]


def test_a_plan_keeps_the_counts_it_was_weighed_by_and_follows_from_them():
    made = covering(accept_counts={"lima/zoo": (0, 9)})
    again = WavePlan.from_record(json.loads(json.dumps(made.to_record())))
    assert again == made
    assert again.accept_counts == {"lima/zoo": (0, 9)}
    assert covering(accept_counts=again.accept_counts) == made


def test_a_plan_without_counts_has_the_record_that_it_always_had():
    record = covering(accept_counts={}).to_record()
    assert record == covering().to_record()
    assert "accept_counts" not in record
    assert len(record) == 8


@pytest.mark.parametrize(
    ("wishes", "error", "message"),
    [
        ({"weights": {"*/*": 0.0}}, MalformedRecordError, "some place with a weight"),
        ({"weights": ONLY_ZOOS}, MalformedRecordError, "plan fewer cities"),
        (
            {"targets": {"tokyo/zoo": 1001}},
            MalformedRecordError,
            "target of 'tokyo/zoo'.*1 to 1000",
        ),
        ({"targets": {"tokyo/library": 1}}, MalformedRecordError, "the sketch renderer draws"),
        ({"mix": {"driving": 1.0}}, MalformedRecordError, "category mix"),
    ],
)
def test_wishes_that_no_wave_could_be_planned_with_are_refused_before(wishes, error, message):
    with pytest.raises(error, match=message):
        check_wishes(ATLAS, num_cities=5, sketch=True, **wishes)
    with pytest.raises(error, match=message):
        covering(num_cities=5, **wishes)


def test_wishes_that_a_wave_can_be_planned_with_pass():
    check_wishes(ATLAS, num_cities=4, weights=ONLY_ZOOS, mix={"nature": 1.0}, sketch=True)
    check_wishes(ATLAS, num_cities=5, targets={"tokyo/library": 9}, sketch=False)
    assert len(covering(num_cities=4, weights=ONLY_ZOOS).clips) == 4


def test_places_that_cannot_be_as_asked_for_are_not_chosen():
    wet = covering(num_cities=9, asked={"season": "wet season"})
    assert len(wet.cities) == 9
    with pytest.raises(MalformedRecordError, match="where all that is asked for can be"):
        covering(num_cities=1, weights=ONLY_ZOOS, asked={"season": "summer", "weather": "snow"})


def test_a_category_that_no_sketch_shows_is_refused():
    with pytest.raises(MalformedRecordError, match="category mix of a wave"):
        covering(mix={"driving": 1.0})


@pytest.mark.parametrize("num_cities", [0, 10_000])
def test_no_more_cities_can_be_chosen_than_there_are(num_cities):
    with pytest.raises(MalformedRecordError, match="num_cities"):
        covering(num_cities=num_cities)


def test_wave_keys_count_on_from_the_highest():
    assert next_wave_key(["w0009", "w0002"]) == "w0010"
    with pytest.raises(MalformedRecordError, match="wave key"):
        next_wave_key(["backfill"])
