import polars as pl
import pytest

from assets.wave_plan import WavePlanConfig
from worldloop.atlas.atlas import load_atlas
from worldloop.cosmos.plans import plan_world_model
from worldloop.cosmos.promotion import (
    DRAFT_SCHEMA,
    can_promote,
    choose_drafts,
    promoted_drafts,
    promotion_config,
    score_drafts,
)
from worldloop.errors import MalformedRecordError
from worldloop.recipes import Shape
from worldloop.seeds import stream
from worldloop.sites import Promotion
from worldloop.waves import plan_scenes, plan_wave

MODEL = "Cosmos-Predict2-2B-Video2World"


def drafts(num=10, **columns):
    rng = stream(3, "drafts")
    table = {
        "index": list(range(num)),
        "recipe_id": [f"draft-{i:02d}" for i in range(num)],
        "accepted": [True] * num,
        "status": ["unique"] * num,
        "motion_mean_px": rng.uniform(0, 4, num).tolist(),
        "sharpness": rng.uniform(0, 0.1, num).tolist(),
        "sketch_cosine": rng.uniform(0.5, 1, num).tolist(),
        **columns,
    }
    return pl.DataFrame(table, schema=dict(DRAFT_SCHEMA))


def wave(tier="draft", model=MODEL, **changes):
    return plan_wave(
        load_atlas(),
        wave="w0001",
        places=["tokyo/zoo", "lima/street"],
        clips_per_place=2,
        seed=5,
        shape=Shape(num_frames=61),
        world_model=plan_world_model(model, tier=tier, **{"control": ["first_frames"], **changes}),
    )


def test_only_accepted_drafts_that_repeat_no_other_survive():
    table = drafts(
        4, accepted=[True, False, True, None], status=["unique", "unique", "duplicate", None]
    )

    assert score_drafts(table)["recipe_id"].to_list() == ["draft-00"]


def test_better_in_every_measure_is_better_and_order_of_rows_changes_nothing():
    table = drafts(
        3, motion_mean_px=[1.0, 3.0, 2.0], sharpness=[0.1, 0.3, 0.2], sketch_cosine=[0.5, 0.9, 0.7]
    )

    ranked = score_drafts(table)
    assert ranked["recipe_id"].to_list() == ["draft-01", "draft-02", "draft-00"]
    assert score_drafts(table.reverse()).equals(ranked)


def test_a_measure_that_is_missing_takes_no_part():
    table = drafts(3, sketch_cosine=[None, None, None], motion_mean_px=[1.0, 2.0, 3.0])

    assert score_drafts(table)["score"].null_count() == 0


def test_a_share_is_promoted_once_over_as_many_days_as_the_cap_needs():
    table = drafts(20)
    everything = choose_drafts(table, share=0.5, promoted=(), limit=100)
    days, promoted = [], set()
    for _ in range(4):
        days.append(choose_drafts(table, share=0.5, promoted=promoted, limit=4))
        promoted |= set(days[-1])

    assert len(everything) == 10
    assert [len(day) for day in days] == [4, 4, 2, 0]
    assert [draft for day in days for draft in day] == everything


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.01, 1), (1.0, 10)])
def test_a_share_above_zero_promotes_at_least_one(share, count):
    assert len(choose_drafts(drafts(), share=share, promoted=(), limit=99)) == count


def test_a_promotion_wave_has_the_scenes_and_seeds_of_its_drafts_one_tier_up():
    plan = wave()
    config = WavePlanConfig(
        **promotion_config(plan, [(2, "b"), (1, "a")], Promotion(source="draft"))
    )
    promoted = plan_scenes(
        load_atlas(),
        wave="w0002",
        scenes=config.scenes,
        seed=1,
        shape=config.shape(),
        world_model=config.model_plan(),
    )

    assert [(c.place, c.seed) for c in promoted.clips] == [
        (plan.clips[i].place, plan.clips[i].seed) for i in (2, 1)
    ]
    assert promoted.world_model.tier == "standard"
    assert promoted_drafts([plan, promoted]) == {"a", "b"}


def test_controls_of_the_new_shape_come_from_sketches_of_the_new_shape():
    plan = plan_wave(
        load_atlas(),
        wave="w0001",
        places=["tokyo/zoo"],
        clips_per_place=1,
        seed=5,
        shape=Shape(num_frames=61, rate_fps=16),
        world_model=plan_world_model("Cosmos-Transfer2.5-2B", tier="draft", control=["depth"]),
    )
    config = WavePlanConfig(**promotion_config(plan, [(0, "a")], Promotion()))

    assert (config.shape().num_frames, config.shape().rate_fps) == (93, 16)


def test_what_has_no_higher_tier_is_not_promoted():
    hero = wave(tier="hero")

    assert can_promote(wave(), Promotion())
    assert not can_promote(hero, Promotion())
    with pytest.raises(MalformedRecordError, match="a tier below the highest"):
        promotion_config(hero, [(0, "a")], Promotion())
