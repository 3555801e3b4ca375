import contextlib
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gpu_jobs.cosmos_generate.protocol import Plain
from gpu_jobs.cosmos_generate.speed import fused, te
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
    profile = replace(PROFILES["sparse"], dense_first_steps=2)
    policy = apply_profile(world, profile, shape=SHAPE, device="cpu")()
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


class StubAttention(torch.nn.Module):
    """In the place of `DotProductAttention`: torch's attention on (B, L, H, E), with scales."""

    def __init__(self, *_: Any, **__: Any):
        super().__init__()
        self.quantizers: dict[str, Any] = {}

    def init_fp8_metadata(self, num_gemms: int) -> None:
        scales = [SimpleNamespace(scale=torch.ones(1)) for _ in range(3 * num_gemms)]
        self.quantizers["scaling_fwd"] = scales

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        assert all(one.is_contiguous() for one in (q, k, v))
        out = torch.nn.functional.scaled_dot_product_attention(
            *(one.transpose(1, 2) for one in (q, k, v))
        )
        return out.transpose(1, 2).flatten(2)


def test_transformer_engine_gets_tokens_first_and_the_scales_of_the_call(monkeypatch):
    modules = {
        "transformer_engine.common.recipe": SimpleNamespace(
            DelayedScaling=SimpleNamespace, Format=SimpleNamespace(HYBRID="hybrid")
        ),
        "transformer_engine.pytorch.cpp_extensions.fused_attn": SimpleNamespace(
            META_QKV=0, META_O=3, META_S=8
        ),
    }
    library = SimpleNamespace(
        DotProductAttention=StubAttention, autocast=lambda **_: contextlib.nullcontext()
    )
    monkeypatch.setattr(te.importlib, "import_module", modules.__getitem__)
    monkeypatch.setattr(te, "import_te", lambda: library)
    monkeypatch.setattr(te, "check_gpu", lambda _: None)
    monkeypatch.setattr(te, "_ATTENTIONS", {})
    te._attention_recipe.cache_clear()
    q, k, v = torch.randn(3, 2, 4, 10, 8)
    q = q * 10  # the largest of all; an output lies within the values
    found = te.fp8_attention(torch.device("cpu"))(q, k, v)
    te._attention_recipe.cache_clear()
    torch.testing.assert_close(found, torch.nn.functional.scaled_dot_product_attention(q, k, v))
    scales = te._ATTENTIONS[(4, 4, 8)].quantizers["scaling_fwd"]
    assert float(scales[0].scale) == pytest.approx(448 / float(q.abs().max()))
    assert float(scales[3].scale) == pytest.approx(448 / float(v.abs().max()))
    assert float(scales[8].scale) == 256.0
    assert [float(scales[i].scale) for i in (1, 2, 4, 5, 6, 7)] == [1.0] * 6


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
