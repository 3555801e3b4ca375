"""A tiny Transfer2.5: a base model with an empty picture context, and one control model for each kind."""

from pathlib import Path
from typing import Any

import torch

from gpu_jobs.common.torch_ops import import_diffusers
from gpu_jobs.cosmos_generate.tiny.predict25 import TRANSFORMER, livened, pipeline_parts

KINDS = ("edge", "blur", "depth", "seg")
BASE: dict[str, Any] = {
    **TRANSFORMER,
    "controlnet_block_every_n": 1,
    "img_context_dim_in": 8,
    "img_context_dim_out": 32,
    "img_context_num_tokens": 4,
}
# what a control network has as its base model has it
SHARED = (
    "num_attention_heads",
    "attention_head_dim",
    "mlp_ratio",
    "text_embed_dim",
    "adaln_lora_dim",
    "patch_size",
    "max_size",
    "rope_scale",
    "extra_pos_embed_type",
    "img_context_dim_in",
    "img_context_dim_out",
    "use_crossattn_projection",
    "crossattn_proj_in_channels",
    "encoder_hidden_states_channels",
)
CONTROL: dict[str, Any] = {
    **{key: BASE[key] for key in SHARED},
    "n_controlnet_blocks": 2,
    "model_channels": 32,
    "in_channels": 34,
    "latent_channels": 18,
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
        pipeline = diffusers.Cosmos2_5_TransferPipeline(**pipeline_parts(BASE), controlnet=None)
        controls = {kind: livened(diffusers.CosmosControlNetModel(**CONTROL)) for kind in KINDS}
    pipeline.save_pretrained(folder)
    for kind, control in controls.items():
        control.save_pretrained(folder / "controlnet" / kind)
