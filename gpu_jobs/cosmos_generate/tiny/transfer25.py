"""A tiny Transfer2.5: a base model with an empty picture context, and one control model for each kind."""

from pathlib import Path
from typing import Any

import torch

from gpu_jobs.common.torch_ops import import_diffusers
from gpu_jobs.cosmos_generate.tiny.predict25 import (
    SCHEDULER,
    TRANSFORMER,
    PassAll,
    livened,
    tiny_text_encoder,
    tiny_tokenizer,
    tiny_vae,
)

KINDS = ("edge", "blur", "depth", "seg")
BASE: dict[str, Any] = {
    **TRANSFORMER,
    "controlnet_block_every_n": 1,
    "img_context_dim_in": 8,
    "img_context_dim_out": 32,
    "img_context_num_tokens": 4,
}
CONTROL: dict[str, Any] = {
    "n_controlnet_blocks": 2,
    "model_channels": 32,
    "in_channels": 34,
    "latent_channels": 18,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "mlp_ratio": 4.0,
    "text_embed_dim": 16,
    "adaln_lora_dim": 8,
    "patch_size": (1, 2, 2),
    "max_size": (128, 240, 240),
    "rope_scale": (1.0, 3.0, 3.0),
    "extra_pos_embed_type": None,
    "img_context_dim_in": 8,
    "img_context_dim_out": 32,
    "use_crossattn_projection": True,
    "crossattn_proj_in_channels": TRANSFORMER["crossattn_proj_in_channels"],
    "encoder_hidden_states_channels": 16,
}


def write_tiny(folder: Path, *, seed: int = 0) -> None:
    """Write a diffusers folder of a tiny model with `controlnet/<kind>/`, the same for the same seed.

    Args:
        folder: Where to; made if it is not there.
        seed: Of all weights.
    """
    diffusers = import_diffusers()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = diffusers.Cosmos2_5_TransferPipeline(
            text_encoder=tiny_text_encoder(),
            tokenizer=tiny_tokenizer(),
            transformer=livened(diffusers.CosmosTransformer3DModel(**BASE)),
            vae=tiny_vae(),
            scheduler=diffusers.UniPCMultistepScheduler(**SCHEDULER),
            controlnet=None,
            safety_checker=PassAll(),
        )
        controls = {kind: livened(diffusers.CosmosControlNetModel(**CONTROL)) for kind in KINDS}
    pipeline.save_pretrained(folder)
    for kind, control in controls.items():
        control.save_pretrained(folder / "controlnet" / kind)
