"""A checkpoint of the registry, as diffusers and a wave's plan load it."""

import numpy as np
import torch

from gpu_jobs.common.torch_ops import import_diffusers
from gpu_jobs.cosmos_generate.lora import apply_loras
from gpu_jobs.posttrain.lora import added, target_layers
from tests.gpu_jobs.posttrain.tiny_footage import SHAPE
from worldloop.federation.adapters import initial_adapter
from worldloop.federation.model_card import LORA_WEIGHTS, diffusers_lora, lora_settings
from worldloop.federation.rounds import LORA_TARGETS, Training


def transformer():
    torch.manual_seed(5)
    settings = {"num_attention_heads": 2, "attention_head_dim": 16, "num_layers": 1,
                "text_embed_dim": 16, "adaln_lora_dim": 8, "max_size": (16, 16, 16)}  # fmt: skip
    return import_diffusers().CosmosTransformer3DModel(**settings).eval()


def output(net):
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        return net(
            hidden_states=torch.randn(1, 16, 1, 4, 4, generator=generator),
            timestep=torch.tensor([0.3]),
            encoder_hidden_states=torch.randn(1, 3, 16, generator=generator),
            padding_mask=torch.zeros(1, 1, 8, 8),
            return_dict=False,
        )[0]


def test_a_published_adapter_does_the_same_in_training_in_diffusers_and_in_a_wave(tmp_path):
    plain = transformer()
    start = initial_adapter(1, target_layers(plain, LORA_TARGETS), 4)
    rng = np.random.default_rng(3)
    adapter = {
        name: one + rng.normal(0, 0.1, one.shape).astype(np.float32) for name, one in start.items()
    }
    settings = lora_settings(Training(SHAPE, rank=4, alpha=12.0), adapter)
    (tmp_path / LORA_WEIGHTS).write_bytes(diffusers_lora(adapter, settings))
    with added(plain, adapter, alpha=12.0):
        trained = output(plain)
    assert not torch.allclose(trained, output(plain), atol=1e-3)

    loaded, merged = transformer(), transformer()
    loaded.load_lora_adapter(tmp_path, weight_name=LORA_WEIGHTS, prefix="transformer")
    apply_loras(merged, [{"path": str(tmp_path)}])
    torch.testing.assert_close(output(loaded), trained, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(output(merged), trained, atol=1e-5, rtol=1e-4)
