import json

import pytest

from worldloop.cosmos import gates
from worldloop.cosmos.plans import Lora, WorldModelPlan, check_sketch, plan_world_model
from worldloop.errors import MalformedRecordError, UnknownKeyError
from worldloop.recipes import Shape

V2W, T2W = "Cosmos-Predict2-2B-Video2World", "Cosmos-1.0-Diffusion-7B-Text2World"
TRANSFER = "Cosmos-Transfer2.5-2B"


def plan(name=V2W, **changes):
    asked = {"tier": "draft", "control": ["first_frames"], **changes}
    return plan_world_model(name, **asked)


def test_what_is_left_out_comes_from_tier_model_and_family():
    made = plan()

    assert (made.shape.num_frames, made.shape.width_px, made.shape.rate_fps) == (61, 320, 16)
    assert (made.num_steps, made.guidance, made.sampler) == (35, 7.0, "res")
    assert made.profile.name == "fast"
    assert made.negative_prompt.startswith("The video captures")
    assert (made.conditioning_frames, made.prompt_form) == (1, "prose")
    assert made.text_guards == ("blocklist", "llama_guard")


def test_a_model_that_reads_structure_gets_it_and_a_distilled_profile_says_its_steps():
    assert plan("Cosmos3-Nano", control=[]).prompt_form == "cosmos3"
    assert plan(speed="distilled").num_steps == 4
    assert plan("Tiny-Cosmos-Predict2-Video2World", tier="tiny").num_steps == 2


def test_a_plan_survives_json():
    made = plan(loras=[Lora("adapters/rain", 0.5)], drafts=["a", "b"], source="draft")

    assert WorldModelPlan.from_record(json.loads(json.dumps(made.to_record()))) == made
    with pytest.raises(MalformedRecordError, match="world model of a wave plan"):
        WorldModelPlan.from_record({**made.to_record(), "odd": 1})


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (V2W, {"control": []}, "name a control"),
        (V2W, {"control": ["depth"]}, "expected of: first_frames"),
        (T2W, {"tier": "hero"}, "Leave it out"),
        (T2W, {"tier": "hero", "control": [], "guarded": False}, "requires"),
        (V2W, {"source": "draft"}, "drafts to promote"),
        (TRANSFER, {"control": ["depth"], "source": "draft", "drafts": ["a"]}, "has no depth"),
        (V2W, {"conditioning_frames": 9}, "one of 1, 5"),
        (V2W, {"share": 1.5}, "share of a wave's scenes: found 1.5, expected 0 to 1"),
        (V2W, {"batch_size": 0}, "batch_size"),
        (V2W, {"sampler": "unipc"}, "sampler of"),
    ],
)
def test_what_a_model_cannot_do_is_refused_with_what_it_can(name, changes, message):
    with pytest.raises(MalformedRecordError, match=message):
        plan(name, **changes)


@pytest.mark.parametrize(
    "changes",
    [{"speed": "fastt"}, {"control": ["dept"]}, {"prompt_form": "poem"}, {"tier": "heroic"}],
)
def test_unknown_names_are_named(changes):
    with pytest.raises(UnknownKeyError):
        plan(**changes)


def test_sketches_that_give_control_have_the_frames_of_the_clips():
    transfer = plan(TRANSFER, control=["depth", "seg"])

    check_sketch(transfer, Shape(num_frames=61, rate_fps=16))
    with pytest.raises(MalformedRecordError, match="Set num_frames=61 and rate_fps=16"):
        check_sketch(transfer, Shape(num_frames=61, rate_fps=24))
    with pytest.raises(MalformedRecordError, match="at least 5 frames"):
        check_sketch(plan(conditioning_frames=5), Shape(num_frames=4))


def test_a_profile_that_failed_its_gate_is_refused_unless_it_is_named(monkeypatch):
    monkeypatch.setattr(gates, "refusal", lambda name, *_, **__: f"{name} failed.")
    name = "Cosmos-1.0-Diffusion-7B-Text2World"
    with pytest.raises(MalformedRecordError, match="accept_failed_gate"):
        plan_world_model(name, tier="hero")
    assert plan_world_model(name, tier="hero", accept_failed_gate=True).profile.name == "fast"
    assert plan_world_model("Tiny-Cosmos-1.0-Text2World", tier="tiny").profile.name == "exact"
