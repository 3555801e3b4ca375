"""What a person asks of a wave reaches its plan."""

from collections import Counter

import pytest

from assets.wave_plan import WavePlanConfig
from resources.wave_plans import read_plan
from worldloop.errors import MalformedRecordError


def plan(house, wave, **config):
    house.instance.add_dynamic_partitions("wave", [wave])
    house.execute("plan_job", wave, {"ops": {"wave_plan": {"config": config}}})
    return read_plan(house.store, wave)


def test_a_wave_without_places_covers_what_earlier_waves_did_not(house):
    first = plan(house, "w0001", num_cities=3, clips_per_place=2)
    second = plan(house, "w0002", num_cities=3, clips_per_place=1)

    assert len(first.clips) == 6
    assert all(clip.asked["camera"] in ("stroll", "tour", "wander") for clip in first.clips)
    assert set(first.cities).isdisjoint(second.cities)


def test_targets_mix_and_weights_reach_the_plan(house):
    asked = {
        "targets": {"tokyo/zoo": 2, "lima/museum": 2},
        "mix": {"nature": 0.5, "navigation": 0.5},
    }
    made = plan(house, "w0001", **asked)

    assert Counter(clip.place for clip in made.clips) == {"tokyo/zoo": 2, "lima/museum": 2}
    assert {clip.asked["category"] for clip in made.clips} <= {"nature", "navigation"}


def test_what_every_scene_should_have_is_asked_of_each_clip(house):
    made = plan(house, "w0001", places=["oslo/street"], asked={"season": "winter"})

    assert [clip.asked for clip in made.clips] == [{"season": "winter"}] * 3


def test_places_leave_nothing_to_pick(house):
    with pytest.raises(MalformedRecordError, match="places together with mix"):
        plan(house, "w0001", places=["oslo/street"], mix={"nature": 1.0})


def test_targets_are_counted_in_the_estimate():
    alone = WavePlanConfig(places=["tokyo/zoo"], clips_per_place=6).estimate(1.0)
    assert WavePlanConfig(targets={"tokyo/zoo": 4, "lima/zoo": 2}).estimate(1.0) == alone
