import pytest

from worldloop.cosmos.asking import check_shape
from worldloop.cosmos.models import MODELS, model
from worldloop.cosmos.profiles import PROFILES
from worldloop.cosmos.tiers import TIERS, legal_tiers, next_tier, tier_shape
from worldloop.errors import MalformedRecordError, UnknownKeyError


@pytest.mark.parametrize("name", MODELS)
def test_every_tier_that_a_model_is_said_to_make_is_a_shape_that_it_takes(name):
    for tier in legal_tiers(model(name)):
        check_shape(tier_shape(tier, model(name)), model=model(name))


def test_a_tier_that_a_model_cannot_make_is_refused_with_those_it_can():
    with pytest.raises(MalformedRecordError, match="found 'draft', expected one of: hero"):
        tier_shape("draft", model("Cosmos-1.0-Diffusion-7B-Text2World"))
    with pytest.raises(MalformedRecordError, match="makes pictures, not clips"):
        tier_shape("draft", model("Cosmos-Predict2-2B-Text2Image"))
    with pytest.raises(MalformedRecordError, match="random weights"):
        tier_shape("tiny", model("Cosmos-Predict2-2B-Video2World"))
    with pytest.raises(UnknownKeyError, match="Did you mean 'draft'"):
        tier_shape("drafts", model("Cosmos-Predict2-2B-Video2World"))


def test_tiers_climb_one_step_at_a_time_and_skip_what_a_model_cannot_make():
    world = model("Cosmos-Predict2-2B-Video2World")

    assert [next_tier(name, world) for name in ("draft", "standard", "hero", "tiny")] == [
        "standard",
        "hero",
        None,
        None,
    ]
    assert next_tier("draft", model("Cosmos-1.0-Diffusion-7B-Text2World")) == "hero"


def test_every_tier_names_a_profile_and_costs_more_than_the_one_before():
    pixels = [
        tier.num_frames * tier.width_px * tier.height_px
        for tier in (TIERS[name] for name in ("tiny", "draft", "standard", "hero"))
    ]

    assert pixels == sorted(pixels)
    assert {tier.profile for tier in TIERS.values()} <= set(PROFILES)
