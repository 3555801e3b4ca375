"""Adapters inside a transformer: where they start, what they compute, and that they leave no trace."""

import numpy as np
import pytest
import torch

from gpu_jobs.common.torch_ops import import_diffusers
from gpu_jobs.cosmos_generate.lora import apply_loras
from gpu_jobs.posttrain.exports import peft_adapter
from gpu_jobs.posttrain.lora import added, attach, detach, target_layers, to_arrays
from worldloop.errors import MalformedRecordError
from worldloop.federation.adapters import initial_adapter
from worldloop.federation.rounds import LORA_TARGETS


def transformer():
    torch.manual_seed(5)
    settings = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 2,
                "text_embed_dim": 16, "adaln_lora_dim": 8, "max_size": (16, 16, 16)}  # fmt: skip
    return import_diffusers().CosmosTransformer3DModel(**settings)


def inputs():
    generator = torch.Generator().manual_seed(2)
    return {
        "hidden_states": torch.randn(1, 16, 1, 4, 4, generator=generator),
        "timestep": torch.tensor([0.3]),
        "encoder_hidden_states": torch.randn(1, 3, 16, generator=generator),
        "padding_mask": torch.zeros(1, 1, 8, 8),
        "return_dict": False,
    }


def output(net):
    with torch.no_grad():
        return net(**inputs())[0]


def trained(net, rank=4):
    """An adapter whose second factors are not zero any more."""
    adapter = initial_adapter(1, target_layers(net, LORA_TARGETS), rank)
    rng = np.random.default_rng(3)
    return {
        name: one if "lora_A" in name else rng.normal(0, 0.1, one.shape).astype(np.float32)
        for name, one in adapter.items()
    }


def test_default_targets_are_the_projections_of_attention_and_mlp():
    net = transformer()
    layers = target_layers(net, LORA_TARGETS)
    assert len(layers) == 2 * (4 + 4 + 2)
    assert layers["transformer_blocks.0.ff.net.2"] == (32, 128)
    early = target_layers(net, ("to_q", "to_v"), first_blocks=1)
    assert sorted(early) == [
        f"transformer_blocks.0.attn{number}.{name}"
        for number in (1, 2)
        for name in ("to_q", "to_v")
    ]


def test_a_target_that_no_layer_has_is_refused():
    with pytest.raises(MalformedRecordError, match=r"targets of an adapter: found \['to_z'\]"):
        target_layers(transformer(), ("to_q", "to_z"))


def test_a_new_adapter_changes_nothing_and_is_the_coordinators_to_the_last_bit():
    net, whole = transformer(), output(transformer())
    start = initial_adapter(7, target_layers(net, LORA_TARGETS), 4)
    parameters = attach(net, start, alpha=8.0)
    assert torch.equal(output(net), whole)
    kept = to_arrays(parameters)
    assert all(np.array_equal(kept[name], start[name]) for name in start)


def test_gradients_reach_the_factors_alone():
    net = transformer().requires_grad_(False)
    parameters = attach(net, trained(net), alpha=8.0)
    net(**inputs())[0].square().mean().backward()
    assert all(one.grad is not None and one.grad.any() for one in parameters.values())
    names = {name for name, one in net.named_parameters() if one.requires_grad}
    assert names == set(parameters)


def test_adapted_layers_compute_what_merged_weights_compute(tmp_path):
    beside, merged = transformer(), transformer()
    adapter = trained(beside)
    (tmp_path / "a.safetensors").write_bytes(peft_adapter(adapter, alpha=2.0))
    apply_loras(merged, [{"path": str(tmp_path / "a.safetensors")}])
    with added(beside, adapter, alpha=2.0):
        assert torch.allclose(output(beside), output(merged), atol=1e-5)


def test_an_adapter_leaves_no_trace():
    net = transformer()
    before, state = output(net), {k: v.clone() for k, v in net.state_dict().items()}
    with added(net, trained(net), alpha=8.0):
        assert not torch.equal(output(net), before)
    assert torch.equal(output(net), before)
    assert net.state_dict().keys() == state.keys()


def test_a_difference_of_weights_is_added_and_taken_away():
    net = transformer()
    before = output(net)
    with added(net, {"proj_out.weight": np.ones((64, 32), np.float32)}, alpha=1.0):
        assert not torch.equal(output(net), before)
    assert torch.equal(output(net), before)
    with (
        pytest.raises(MalformedRecordError, match="tensors that the transformer does not have"),
        added(net, {"nothing.weight": np.ones(3, np.float32)}, alpha=1.0),
    ):
        pass


def test_adapters_of_another_model_are_refused():
    net = transformer()
    wrong = {
        "transformer_blocks.0.attn1.to_q.lora_A.weight": np.ones((2, 99), np.float32),
        "transformer_blocks.0.attn1.to_q.lora_B.weight": np.ones((32, 2), np.float32),
    }
    with pytest.raises(MalformedRecordError, match=r"\(out, in\) \(32, 32\)"):
        attach(net, wrong, alpha=1.0)
    with pytest.raises(MalformedRecordError, match=r"adapter of 'transformer_blocks\.9"):
        attach(net, {k.replace("blocks.0", "blocks.9"): v for k, v in wrong.items()}, alpha=1.0)


def test_bf16_layers_have_factors_in_float32():
    net = transformer().to(torch.bfloat16).requires_grad_(False)
    parameters = attach(net, trained(net), alpha=8.0)
    cast = {
        k: v.to(torch.bfloat16) if isinstance(v, torch.Tensor) else v for k, v in inputs().items()
    }
    net(**cast)[0].float().square().mean().backward()
    assert {one.grad.dtype for one in parameters.values()} == {torch.float32}
    detach(net)
    assert not any("lora" in name for name in net.state_dict())
