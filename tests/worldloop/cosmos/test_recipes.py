import json
from dataclasses import fields, replace

import pytest

from worldloop.atlas.atlas import load_atlas
from worldloop.cosmos.plans import Lora, plan_world_model
from worldloop.cosmos.profiles import PROFILES
from worldloop.cosmos.recipes import GeneratedRecipe, asked_clips, is_chosen, noise_seed
from worldloop.errors import MalformedRecordError
from worldloop.prompts.table import prompts_table
from worldloop.recipes import Shape
from worldloop.waves import plan_scenes, plan_wave

ATLAS = load_atlas()
MODEL = "Cosmos-Predict2-2B-Video2World"


def wave(num_clips=2, **changes):
    model = plan_world_model(MODEL, **{"tier": "draft", "control": ["first_frames"], **changes})
    return plan_wave(
        ATLAS,
        wave="w0001",
        places=["tokyo/zoo"],
        clips_per_place=num_clips,
        seed=5,
        shape=Shape(num_frames=61),
        world_model=model,
    )


def asked(plan):
    assert plan.world_model is not None
    return asked_clips(plan.world_model, prompts_table(plan, ATLAS, "tokyo").iter_rows(named=True))


def test_a_clip_is_asked_for_with_its_scene_prompt_and_sketch():
    plan = wave()
    prompts = prompts_table(plan, ATLAS, "tokyo")
    first = asked(plan)[0]

    assert first.recipe.prompt == prompts["prose"][0]
    assert first.sketch_recipe_id == first.recipe.source_recipe_id == prompts["recipe_id"][0]
    assert first.recipe.generator == "cosmos-predict2-2b-video2world"
    assert first.recipe.recipe_id != prompts["recipe_id"][0]
    assert first == asked(wave())[0]


@pytest.mark.parametrize("form", ["prose", "cosmos3"])
def test_a_plan_may_lead_away_from_what_would_be_false_in_each_scene(form):
    plans = [wave(prompt_form=form, negative_prompt=text) for text in ("local", "rain", None)]
    local, given, usual = (asked(plan)[0].recipe for plan in plans)

    assert "False here: " in local.negative_prompt
    assert local.negative_prompt.startswith("{") == (form == "cosmos3")
    assert given.negative_prompt == "rain"
    assert usual.negative_prompt == plans[2].world_model.negative_prompt != ""
    assert len({one.recipe_id for one in (local, given, usual)}) == 3


def test_a_recipe_survives_json():
    recipe = replace(asked(wave())[0].recipe, loras=(Lora("rain", 0.5),))
    record = json.loads(json.dumps(recipe.to_record()))

    assert GeneratedRecipe.from_record(record) == recipe
    with pytest.raises(MalformedRecordError, match="recipe of a generated clip"):
        GeneratedRecipe.from_record({**record, "odd": 1})


def test_every_field_of_a_recipe_decides_its_id():
    recipe = asked(wave())[0].recipe
    other = asked(wave())[1].recipe.scene
    odd = {int: 77, float: 0.5, str: "other", tuple[str, ...]: ("edge",)}
    changes = {
        "scene": other,
        "shape": replace(recipe.shape, num_frames=93),
        "profile": PROFILES["sparse"],
        "loras": (Lora("rain"),),
    }
    for field in fields(GeneratedRecipe):
        value = changes.get(field.name) or odd[field.type]
        assert replace(recipe, **{field.name: value}).recipe_id != recipe.recipe_id, field.name


def test_the_same_scene_has_the_same_noise_in_every_tier():
    draft = asked(wave())[0].recipe
    hero = asked(wave(tier="hero"))[0].recipe

    assert draft.seed == hero.seed == noise_seed(draft.scene) < 2**31
    assert draft.recipe_id != hero.recipe_id


def test_a_share_chooses_scenes_by_their_ids_and_a_larger_one_adds_to_it():
    small, large = wave(40, share=0.3), wave(40, share=0.7)
    chosen = [{clip.index for clip in asked(plan)} for plan in (small, large, wave(40))]

    assert chosen[0] < chosen[1] < chosen[2] == set(range(40))
    assert 4 <= len(chosen[0]) <= 20
    assert not is_chosen(
        plan_world_model(MODEL, tier="draft", control=["first_frames"], share=0.0), "a"
    )


def test_a_promotion_renders_the_same_scenes_and_names_its_drafts():
    drafts = wave()
    scenes = [f"{clip.place}@{clip.seed}" for clip in reversed(drafts.clips)]
    ids = [clip.recipe.recipe_id for clip in reversed(asked(drafts))]
    model = plan_world_model(
        MODEL, tier="hero", control=["first_frames"], source="draft", drafts=ids
    )
    hero = plan_scenes(
        ATLAS, wave="w0002", scenes=scenes, seed=1, shape=Shape(num_frames=61), world_model=model
    )

    promoted = asked(hero)
    assert [clip.recipe.scene for clip in promoted] == [
        clip.recipe.scene for clip in reversed(asked(drafts))
    ]
    assert [clip.recipe.source_recipe_id for clip in promoted] == ids
    assert [clip.draft_recipe_id for clip in promoted] == ids


def test_a_structured_prompt_states_the_shape_of_the_generated_clip():
    plan = wave(prompt_form="cosmos3")

    prompt = json.loads(asked(plan)[0].recipe.prompt)
    assert prompt["resolution"] == {"H": 192, "W": 320}
