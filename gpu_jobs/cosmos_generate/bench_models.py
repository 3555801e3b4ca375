"""Models for the benchmark: the real architectures with random weights, and random inputs."""

# B batch, C channels, T frames, H height, W width

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from worldloop.cosmos.families import ClipShape
from worldloop.cosmos.flops import token_grid
from worldloop.cosmos.models import Model, model

TEXT_WIDTH = 1024  # of T5-11B
TEXT_TOKENS = 512
STD = 0.02  # of random weights


@dataclass(frozen=True)
class Case:
    """What is measured.

    Attributes:
        key: As it is called on the command line.
        model: Name in `MODELS`.
        shape: Of a clip.
        num_steps: Denoising steps.
        batch_size: Clips denoised together.
        target_s: Seconds of an end-to-end run by profile that we want to stay under.
    """

    key: str
    model: str
    shape: ClipShape
    num_steps: int = 35
    batch_size: int = 1

    @property
    def record(self) -> Model:
        """The model."""
        return model(self.model)


CASES = {
    case.key: case
    for case in (
        Case("cosmos1-7b", "Cosmos-1.0-Diffusion-7B-Text2World", ClipShape(121, 1280, 704, 24)),
        Case("cosmos1-14b", "Cosmos-1.0-Diffusion-14B-Text2World", ClipShape(121, 1280, 704, 24)),
        Case("predict2-2b", "Cosmos-Predict2-2B-Video2World", ClipShape(93, 1280, 704, 16)),
        Case("standard", "Cosmos-Predict2-2B-Video2World", ClipShape(93, 768, 432, 16)),
        Case("draft", "Cosmos-Predict2-2B-Video2World", ClipShape(61, 320, 192, 16), 35, 8),
        Case("cosmos3-nano", "Cosmos3-Nano", ClipShape(189, 1280, 720, 24)),
    )
}


@contextlib.contextmanager
def made_on(device: Any, dtype: Any) -> Iterator[None]:
    """Modules are made on a device in a precision, without their slow initialisation."""
    import torch

    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(torch.float32)


def random_weights(module: Any) -> Any:
    """Fill a module's matrices with noise; norms stay as they are."""
    for parameter in module.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0.0, STD)
    return module.eval().requires_grad_(False)


def transformer_of(record: Model, device: Any, *, layers: int = 0) -> Any:
    """A model's transformer with random weights.

    Args:
        record: Its dimensions.
        device: Where it is made.
        layers: Fewer layers than it has; 0 is all of them.
    """
    import torch

    from gpu_jobs.common.torch_ops import import_diffusers

    diffusers = import_diffusers()
    layers = layers or record.num_layers
    with made_on(device, torch.bfloat16):
        if record.family == "cosmos3":
            made = diffusers.Cosmos3OmniTransformer(
                hidden_size=record.token_width,
                head_dim=record.head_dim,
                intermediate_size=record.mlp_width,
                num_attention_heads=record.num_heads,
                num_key_value_heads=record.num_kv_heads,
                num_hidden_layers=layers,
            )
        else:
            made = diffusers.CosmosTransformer3DModel(
                in_channels=16 + ("video2world" in record.all_tasks),
                num_attention_heads=record.num_heads,
                attention_head_dim=record.head_dim,
                num_layers=layers,
                text_embed_dim=TEXT_WIDTH,
                **_positions(record),
            )
    made = random_weights(made)
    for name in made._keep_in_fp32_modules:
        kept = getattr(made, name, None)
        if kept is not None:
            kept.float()
    return made


def _positions(record: Model) -> dict[str, Any]:
    """How positions are embedded, as scripts/convert_cosmos_to_diffusers.py of diffusers has it."""
    if record.family in ("cosmos1", "predict1"):
        scale = (2.0, 2.0, 2.0) if record.size == "14B" else (2.0, 1.0, 1.0)
        return {"rope_scale": scale, "extra_pos_embed_type": "learnable"}
    scale = (20 / 24, 2.0, 2.0) if record.size == "14B" else (1.0, 3.0, 3.0)
    return {"rope_scale": scale, "extra_pos_embed_type": None}


def vae_of(record: Model, device: Any) -> Any:
    """A model's video autoencoder with random weights."""
    import torch

    from gpu_jobs.common.torch_ops import import_diffusers

    diffusers = import_diffusers()
    if record.family in ("cosmos1", "predict1"):
        made = diffusers.AutoencoderKLCosmos()
    elif record.family == "cosmos3":
        made = diffusers.AutoencoderKLWan(**WAN22)
    else:
        made = diffusers.AutoencoderKLWan()
    return made.to(device, torch.bfloat16).eval().requires_grad_(False)


# The autoencoder of Wan 2.2 TI2V 5B, scripts/convert_wan_to_diffusers.py of diffusers 0.42.1
WAN22: dict[str, Any] = {
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "temperal_downsample": [False, True, True],
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
    "latents_mean": [0.0] * 48,
    "latents_std": [1.0] * 48,
}


def forward_of(transformer: Any, case: Case, device: Any) -> Callable[[], Any]:
    """One pass of a transformer over random inputs of a case."""
    if case.record.family == "cosmos3":
        inputs = cosmos3_inputs(case, device)
    else:
        inputs = cosmos_inputs(case, device)
    return lambda: transformer(**inputs)


def cosmos_inputs(case: Case, device: Any) -> dict[str, Any]:
    """Arguments of `CosmosTransformer3DModel.forward`."""
    import torch

    size, shape = case.record.latent_size(case.shape), case.shape
    bf16 = {"device": device, "dtype": torch.bfloat16}
    batch = case.batch_size
    inputs: dict[str, Any] = {
        "hidden_states": torch.randn(batch, 16, *size, **bf16),
        "encoder_hidden_states": torch.randn(batch, TEXT_TOKENS, TEXT_WIDTH, **bf16),
        "padding_mask": torch.zeros(1, 1, shape.height_px, shape.width_px, **bf16),
        "timestep": torch.full((batch,), 0.5, **bf16),
        "fps": shape.rate_fps,
        "return_dict": False,
    }
    if "video2world" in case.record.all_tasks:
        inputs["condition_mask"] = torch.zeros(batch, 1, *size, **bf16)
        inputs["timestep"] = torch.rand(batch, 1, size[0], 1, 1, **bf16)
    return inputs


def cosmos3_inputs(case: Case, device: Any, *, text_tokens: int = 300) -> dict[str, Any]:
    """Arguments of `Cosmos3OmniTransformer.forward` for text to video."""
    import torch

    grid = token_grid(case.record, case.shape)
    count = grid[0] * grid[1] * grid[2]
    text = torch.arange(text_tokens, device=device)
    places = torch.arange(text_tokens, text_tokens + count, device=device)
    axes = torch.meshgrid(*(torch.arange(side, device=device) for side in grid), indexing="ij")
    video = torch.stack([axis.flatten() for axis in axes]) + text_tokens
    size = case.record.latent_size(case.shape)
    return {
        "input_ids": torch.randint(0, 1000, (text_tokens,), device=device),
        "text_indexes": text,
        "position_ids": torch.cat([text.expand(3, -1), video], 1),
        "und_len": text_tokens,
        "sequence_length": text_tokens + count,
        "vision_tokens": [torch.randn(1, 48, *size, device=device, dtype=torch.bfloat16)],
        "vision_token_shapes": [grid],
        "vision_sequence_indexes": places,
        "vision_mse_loss_indexes": places,
        "vision_timesteps": torch.full((count,), 500.0, device=device),
        "vision_noisy_frame_indexes": [torch.arange(grid[0], device=device)],
        "return_dict": False,
    }
