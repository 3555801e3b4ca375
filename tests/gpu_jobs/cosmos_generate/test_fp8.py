import pytest
import torch

from gpu_jobs.cosmos_generate.speed import fp8
from gpu_jobs.cosmos_generate.speed.apply import apply_to
from gpu_jobs.cosmos_generate.speed.fp8 import FP8Linear, check_gpu
from gpu_jobs.cosmos_generate.speed.fused import gated_rows, gelu_rows, quantise
from tests.gpu_jobs.cosmos_generate.tiny_transformers import (
    cosmos,
    cosmos3,
    cosmos3_inputs,
    cosmos_inputs,
    far,
)
from worldloop.cosmos.profiles import PROFILES
from worldloop.errors import MalformedRecordError


def linear(width_in, width_out, *, bias=False):
    torch.manual_seed(width_out)
    return torch.nn.Linear(width_in, width_out, bias=bias).requires_grad_(False)


def test_the_largest_value_of_a_row_survives_quantisation():
    rows = torch.tensor([[3.0, -7.0, 0.1], [0.0, 0.0, 0.0]])
    values, scale = quantise(rows)
    back = values.float() * scale
    assert float(back[0, 1]) == pytest.approx(-7.0)
    assert float((back - rows).abs().max()) < 0.07 * 7.0
    assert not bool(back[1].any())


def test_a_layer_is_near_to_what_it_was():
    layer, x = linear(64, 48, bias=True), torch.randn(2, 5, 64)
    swapped = FP8Linear([layer], "cpu")
    assert swapped(x).shape == (2, 5, 48)
    assert 0.0 < far(swapped(x), layer(x)) < 0.05


def test_layers_of_one_input_are_computed_side_by_side():
    layers, x = [linear(32, 16), linear(32, 48)], torch.randn(3, 32)
    together = FP8Linear(layers, "cpu")(x)
    apart = torch.cat([FP8Linear([layer], "cpu")(x) for layer in layers], -1)
    torch.testing.assert_close(together, apart)


@pytest.mark.parametrize(
    ("operator", "plain"),
    [
        (gelu_rows, torch.nn.functional.gelu),
        (gated_rows, lambda x: torch.nn.functional.silu(x[:, :32]) * x[:, 32:]),
    ],
)
def test_activations_are_quantised_after_they_are_computed(operator, plain):
    x = torch.randn(4, 64)
    values, scale = operator(x)
    expected_values, expected_scale = quantise(plain(x))
    torch.testing.assert_close(values.float(), expected_values.float())
    torch.testing.assert_close(scale, expected_scale)


def test_transformers_stay_near_to_what_they_were():
    plain, changed = cosmos()(**cosmos_inputs())[0], cosmos()
    apply_to(changed, PROFILES["fast"], device="cpu")
    assert 0.0 < far(changed(**cosmos_inputs())[0], plain) < 0.03
    plain, changed = cosmos3()(**cosmos3_inputs())[0][0], cosmos3()
    apply_to(changed, PROFILES["fast"], device="cpu")
    assert 0.0 < far(changed(**cosmos3_inputs())[0][0], plain) < 0.06


def test_all_large_layers_of_a_block_are_swapped():
    block = cosmos().transformer_blocks[0]
    fp8.swap_block(block, lambda linears: FP8Linear(linears, "cpu"))
    swapped = sorted(
        name for name, module in block.named_modules() if isinstance(module, FP8Linear)
    )
    assert swapped == [
        "attn1.to_out.0",
        "attn1.to_qkv",
        "attn2.to_out.0",
        "attn2.to_q",
        "ff.net.0.proj",
        "ff.net.2",
    ]


def test_an_adapter_stays_above_the_layer_that_is_swapped():
    from peft import LoraConfig

    transformer = cosmos()
    config = LoraConfig(r=4, target_modules=["to_q", "to_k", "to_v", "to_out.0"])
    transformer.add_adapter(config)
    apply_to(transformer, PROFILES["fast"], device="cpu")
    attn = transformer.transformer_blocks[0].block.attn1
    assert isinstance(attn.to_q.base_layer, FP8Linear)
    output = transformer(**cosmos_inputs())[0]
    assert far(output.detach(), cosmos()(**cosmos_inputs())[0]) < 0.03


def test_a_gpu_without_fp8_names_the_profile_to_choose(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    with pytest.raises(MalformedRecordError, match=r"found \(8, 0\).*Choose the profile 'exact'"):
        check_gpu(torch.device("cuda"))
