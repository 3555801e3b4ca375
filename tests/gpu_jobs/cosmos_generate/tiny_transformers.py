"""Tiny transformers and inputs with seeds, for the tests of speed."""

from typing import Any

import torch

from gpu_jobs.common.torch_ops import import_diffusers

diffusers = import_diffusers()
GRID = (5, 8, 9)
EDGE = {"hidden_act": "relu2", "qk_norm_for_text": False, "use_und_k_norm_for_gen": True}


def cosmos(*, extra: str | None = "learnable", heads: int = 2) -> Any:
    torch.manual_seed(1)
    model = diffusers.CosmosTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=heads,
        attention_head_dim=32,
        num_layers=2,
        text_embed_dim=16,
        adaln_lora_dim=8,
        max_size=(8, 32, 32),
        extra_pos_embed_type=extra,
    )
    return _noisy(model)


def cosmos_inputs(*, noise_per_frame: bool = False, batch: int = 2) -> dict[str, Any]:
    torch.manual_seed(2)
    frames, rows, columns = GRID
    level = torch.rand(batch, 1, frames, 1, 1) if noise_per_frame else torch.rand(batch)
    return {
        "hidden_states": torch.randn(batch, 4, frames, 2 * rows, 2 * columns),
        "timestep": level,
        "encoder_hidden_states": torch.randn(batch, 7, 16),
        "padding_mask": torch.zeros(1, 1, 16 * rows, 16 * columns),
        "fps": 24,
        "return_dict": False,
    }


def cosmos3(**more: Any) -> Any:
    torch.manual_seed(1)
    model = diffusers.Cosmos3OmniTransformer(
        head_dim=32,
        hidden_size=64,
        intermediate_size=128,
        latent_channel=4,
        patch_latent_dim=16,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_hidden_layers=2,
        vocab_size=50,
        rope_axes_dim=(6, 5, 5),
        **more,
    )
    return model.eval().requires_grad_(False)


def cosmos3_inputs(num_text: int = 11) -> dict[str, Any]:
    torch.manual_seed(2)
    frames, rows, columns = GRID
    count = frames * rows * columns
    places = torch.arange(num_text, num_text + count)
    return {
        "input_ids": torch.randint(0, 50, (num_text,)),
        "text_indexes": torch.arange(num_text),
        "position_ids": torch.arange(num_text + count).expand(3, -1),
        "und_len": num_text,
        "sequence_length": num_text + count,
        "vision_tokens": [torch.randn(1, 4, frames, 2 * rows, 2 * columns)],
        "vision_token_shapes": [GRID],
        "vision_sequence_indexes": places,
        "vision_mse_loss_indexes": places,
        "vision_timesteps": torch.full((count,), 500.0),
        "vision_noisy_frame_indexes": [torch.arange(frames)],
        "return_dict": False,
    }


def far(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative distance."""
    return float((found - expected).norm() / expected.norm())


def _noisy(model: Any) -> Any:
    for parameter in model.parameters():
        parameter.data = 0.1 * torch.randn_like(parameter)
    return model.eval().requires_grad_(False)
