from collections import Counter

import pytest

from worldloop.atlas.atlas import load_atlas
from worldloop.errors import MalformedRecordError, UnknownKeyError
from worldloop.scenes.casting import cast_scenes
from worldloop.scenes.checks import scene_problems
from worldloop.scenes.coverage import (
    CoveragePlanner,
    accept_weights,
    coverage_table,
    planned,
)
from worldloop.scenes.dimensions import FREE
from worldloop.worlds.grammar import GRAMMARS, is_sketchable

ATLAS = load_atlas()
NUM = 500
PLANNER = CoveragePlanner(ATLAS, sketch=True)
SCENES = planned(PLANNER, ATLAS, NUM, targets={})


def plan_coverage(atlas, num_scenes, *, targets=(), **wishes):
    return planned(CoveragePlanner(atlas, **wishes), atlas, num_scenes, targets=dict(targets))


def test_every_planned_scene_can_be_cast_as_planned():
    made = cast_scenes(
        ATLAS, [s.place for s in SCENES], list(range(NUM)), [s.asked for s in SCENES], sketch=True
    )
    for scene, wish in zip(made, SCENES, strict=True):
        assert {name: getattr(scene, name) for name in FREE} == wish.asked
        assert is_sketchable(scene)
    assert scene_problems(ATLAS, made) == []


def test_a_plan_covers_more_pairs_than_chance():
    greedy = {row.pair: row.num_covered for row in PLANNER.coverage(NUM)}
    random = CoveragePlanner(ATLAS, history=_as_planned(_by_chance()), sketch=True)
    by_chance = {row.pair: row.num_covered for row in random.coverage(NUM)}
    assert greedy["city", "institution"] == NUM  # its ceiling
    assert sum(greedy.values()) > 1.25 * sum(by_chance.values())


def test_no_pair_is_covered_above_its_ceiling_and_none_that_is_invalid():
    rows = PLANNER.coverage(NUM)
    assert all(row.num_covered <= row.ceiling <= row.num_valid for row in rows)
    for scene in SCENES[::50]:
        for row in rows:
            assert row.num_valid > 0, scene
    assert "city x institution" in coverage_table(rows)


def test_cities_and_institutions_get_their_fair_share():
    cities = Counter(scene.city for scene in SCENES)
    kinds = Counter(scene.institution for scene in SCENES)
    assert max(cities.values()) - min(cities.values()) <= 1
    assert max(kinds.values()) - min(kinds.values()) <= 1
    assert set(kinds) == set(GRAMMARS)


def test_history_counts():
    history = plan_coverage(ATLAS, 250, sketch=True)
    more = plan_coverage(ATLAS, 250, sketch=True, history=history)
    assert {scene.place for scene in history}.isdisjoint(scene.place for scene in more)


def test_targets_come_first_and_are_met():
    scenes = plan_coverage(ATLAS, 12, targets={"tokyo/zoo": 7, "lima/library": 3})
    counts = Counter(scene.place for scene in scenes)
    assert (counts["tokyo/zoo"], counts["lima/library"]) == (7, 3)
    assert len({tuple(scene.asked.values()) for scene in scenes[:7]}) == 7


def test_weights_say_how_often_places_come():
    weights = {"*/zoo": 0.0, "tokyo/*": 30.0}
    scenes = plan_coverage(ATLAS, 400, weights=weights)
    counts = Counter(scene.city for scene in scenes)
    assert all(scene.institution != "zoo" for scene in scenes)
    assert counts["tokyo"] > 20 * counts["lima"] / 2


def test_a_mix_gives_categories_their_shares():
    mix = {"driving": 0.25, "human_activity": 0.5, "nature": 0.25}
    counts = Counter(scene.asked["category"] for scene in plan_coverage(ATLAS, 200, mix=mix))
    assert counts == {"driving": 50, "human_activity": 100, "nature": 50}


def test_places_whose_clips_are_refused_weigh_more():
    weights = accept_weights({"tokyo/zoo": (9, 10), "lima/zoo": (1, 10), "oslo/zoo": (0, 0)})
    assert weights["lima/zoo"] > 4 * weights["tokyo/zoo"]
    assert weights["oslo/zoo"] == 2.0


def test_a_place_whose_clips_are_all_refused_comes_five_times_as_often_at_most():
    assert accept_weights({"tokyo/zoo": (0, 3), "lima/zoo": (0, 300)}) == {
        "tokyo/zoo": 5.0,
        "lima/zoo": 5.0,
    }


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"mix": {"driving": 1.0}, "sketch": True}, MalformedRecordError, "category mix"),
        ({"mix": {"flying": 1.0}}, UnknownKeyError, "content category"),
        ({"mix": {"nature": -1.0}}, MalformedRecordError, "share of category"),
        ({"weights": {"tokyo/zoo": -1.0}}, MalformedRecordError, "weight of 'tokyo/zoo'"),
        ({"mix": {"nature": float("nan")}}, MalformedRecordError, "share of category"),
        ({"mix": {"nature": float("inf")}}, MalformedRecordError, "share of category"),
        ({"weights": {"tokyo/zoo": float("nan")}}, MalformedRecordError, "weight of 'tokyo/zoo'"),
        ({"weights": {"madrid/harbour": 1.0}}, MalformedRecordError, "a city at the water"),
        ({"weights": {"tokio/zoo": 1.0}}, UnknownKeyError, "tokio"),
        ({"weights": {"tokyo": 2.0}}, MalformedRecordError, r"'tokyo/zoo', or 'tokyo/\*'"),
        ({"mix": {"nature": 0.0}}, MalformedRecordError, "a share above 0"),
        ({"weights": {"*/*": 0.0}}, MalformedRecordError, "some place with a weight"),
        ({"targets": {"tokyo/zoo": 9}}, MalformedRecordError, "targets of a wave"),
    ],
)
def test_what_cannot_be_planned_is_refused(asked, error, message):
    with pytest.raises(error, match=message):
        plan_coverage(ATLAS, 3, **asked)


def _by_chance():
    places = [f"{city}/{kind}" for city in ATLAS.cities for kind in GRAMMARS]
    return cast_scenes(ATLAS, places[::3][:NUM], list(range(len(places[::3][:NUM]))), sketch=True)


def _as_planned(scenes):
    from worldloop.scenes.coverage import PlannedScene

    return [
        PlannedScene(s.city, s.institution, {name: getattr(s, name) for name in FREE})
        for s in scenes
    ]
