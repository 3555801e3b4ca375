from dataclasses import dataclass
from typing import Any

import pytest
import torch

from gpu_jobs.cosmos_generate.protocol import Plain
from gpu_jobs.cosmos_generate.speed import fused
from gpu_jobs.cosmos_generate.speed.apply import apply_profile, apply_to
from gpu_jobs.cosmos_generate.speed.policy import ProfilePolicy
from gpu_jobs.cosmos_generate.speed.te import TELinear
from tests.gpu_jobs.cosmos_generate.tiny_transformers import (
    EDGE,
    cosmos,
    cosmos3,
    cosmos3_inputs,
    cosmos_inputs,
    far,
)
from worldloop.cosmos.families import ClipShape
from worldloop.cosmos.profiles import PROFILES, SpeedProfile
from worldloop.errors import MalformedRecordError, MissingExtraError

COMPILED = SpeedProfile("compiled", compile=True)
SHAPE = ClipShape(9, 64, 64, 24)


@dataclass
class World:
    """As much of a world model as a profile changes."""

    parts: dict[str, Any]


@pytest.mark.parametrize("noise_per_frame", [False, True])
@pytest.mark.parametrize("extra", ["learnable", None])
def test_fast_blocks_compute_what_diffusers_computes(extra, noise_per_frame):
    inputs = cosmos_inputs(noise_per_frame=noise_per_frame)
    expected = cosmos(extra=extra)(**inputs)[0]
    changed = cosmos(extra=extra)
    apply_to(changed, COMPILED, device="cpu")
    assert far(changed(**inputs)[0], expected) < 1e-6


@pytest.mark.parametrize("more", [{}, EDGE], ids=["nano", "edge"])
def test_fast_layers_of_cosmos3_compute_what_diffusers_computes(more):
    inputs, changed = cosmos3_inputs(), cosmos3(**more)
    expected = cosmos3(**more)(**inputs)[0][0]
    apply_to(changed, COMPILED, device="cpu")
    assert far(changed(**inputs)[0][0], expected) < 1e-6


def test_residuals_of_a_control_network_find_their_tokens():
    inputs = cosmos_inputs()
    plain, changed = cosmos(), cosmos()
    for model in (plain, changed):
        model.register_to_config(controlnet_block_every_n=1)
    residuals = [torch.randn(2, 360, 64) for _ in range(2)]
    expected = plain(**inputs, block_controlnet_hidden_states=[r.clone() for r in residuals])[0]
    apply_to(changed, SpeedProfile("tiled", density=0.9999), device="cpu").dense = False
    assert far(changed(**inputs, block_controlnet_hidden_states=residuals)[0], expected) < 1e-6


def test_the_exact_profile_touches_nothing():
    world = World({"transformer": cosmos()})
    block = world.parts["transformer"].transformer_blocks[0]
    new_policy = apply_profile(world, PROFILES["exact"], shape=SHAPE, device="cpu")
    assert isinstance(new_policy(), Plain)
    assert world.parts["transformer"].transformer_blocks[0] is block


@pytest.mark.parametrize("name", ["fast", "sparse", "cached", "distilled"])
def test_every_profile_runs_without_a_gpu(name):
    world = World({"transformer": cosmos()})
    policy = apply_profile(world, PROFILES[name], shape=SHAPE, device="cpu")()
    policy.start_step(0, 4)
    output = policy.run("cond", lambda: world.parts["transformer"](**cosmos_inputs())[0])
    assert bool(torch.isfinite(output).all())


def test_a_policy_tells_attention_when_a_step_is_dense():
    world = World({"transformer": cosmos()})
    policy = apply_profile(world, PROFILES["sparse"], shape=SHAPE, device="cpu")()
    assert isinstance(policy, ProfilePolicy)
    dense = []
    for step in range(5):
        policy.start_step(step, 5)
        dense.append(policy.density.dense)
    assert dense == [True, True, False, False, True]


def test_an_unknown_transformer_is_refused():
    with pytest.raises(MalformedRecordError, match=r"found 'Linear'.*Choose the profile 'exact'"):
        apply_to(torch.nn.Linear(2, 2), PROFILES["fast"], device="cpu")


def test_transformer_engine_names_its_extra_where_it_is_missing():
    with pytest.raises(MissingExtraError, match=r"worldloop\[te\]"):
        apply_to(cosmos(), PROFILES["fast_fp8_attention"], device="cpu")
    with pytest.raises(MissingExtraError, match=r"worldloop\[te\]"):
        TELinear([torch.nn.Linear(2, 2)], "cpu")


def test_rotated_heads_equal_norm_and_rotation_of_diffusers():
    from diffusers.models.embeddings import apply_rotary_emb
    from diffusers.models.normalization import RMSNorm

    torch.manual_seed(0)
    x_BLHE, rope = torch.randn(2, 6, 3, 8), (torch.randn(6, 8), torch.randn(6, 8))
    norm = RMSNorm(8, eps=1e-5)
    expected = apply_rotary_emb(
        norm(x_BLHE).transpose(1, 2), rope, use_real=True, use_real_unbind_dim=-2
    ).transpose(1, 2)
    found = fused.rotated_heads(x_BLHE, norm.weight.detach(), *rope, 1e-5)
    torch.testing.assert_close(found, expected)


def test_fp8_layers_fit_the_mlp_of_edge():
    inputs, changed = cosmos3_inputs(), cosmos3(**EDGE)
    expected = changed(**inputs)[0][0]
    apply_to(changed, PROFILES["fast"], device="cpu")
    assert 0.0 < far(changed(**inputs)[0][0], expected) < 0.1
