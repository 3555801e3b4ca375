"""Tiny Cosmos Predict2 checkpoints: Text2Image and Video2World.

All but widths, depths and weights is that of the published 2B models
(scripts/convert_cosmos_to_diffusers.py, commit 0a88230 of diffusers).
"""

from pathlib import Path
from typing import Any

from gpu_jobs.common.torch_ops import import_diffusers
from gpu_jobs.cosmos_generate.tiny.folders import without_bias, write_index
from gpu_jobs.cosmos_generate.tiny.text import WIDTH, seeded, write_tiny_t5
from gpu_jobs.cosmos_generate.tiny.transformer import NARROW

TRANSFORMER: dict[str, Any] = {
    **NARROW,
    "text_embed_dim": WIDTH,
    "extra_pos_embed_type": None,
}
VAE: dict[str, Any] = {
    "base_dim": 4,
    "z_dim": 16,
    "dim_mult": [1, 2, 4, 4],
    "num_res_blocks": 1,
    "temperal_downsample": [False, True, True],
}
SCHEDULER: dict[str, Any] = {
    "use_karras_sigmas": True,
    "sigma_max": 80.0,
    "sigma_min": 0.002,
    "sigma_data": 1.0,
    "final_sigmas_type": "sigma_min",
}
CONTRAST = 2.0  # of the decoder's last layer, so that frames are neither grey nor clipped


def write_tiny_text2image(folder: Path, *, seed: int = 0) -> None:
    """Write a Text2Image folder.

    Args:
        folder: Folder to write, which holds nothing yet.
        seed: Of the random weights.
    """
    transformer = {"in_channels": 16, "rope_scale": (1.0, 4.0, 4.0), **TRANSFORMER}
    _write(folder, "Cosmos2TextToImagePipeline", transformer, seed=seed)


def write_tiny_video2world(folder: Path, *, seed: int = 0) -> None:
    """Write a Video2World folder: one more input channel marks the given frames.

    Args:
        folder: Folder to write, which holds nothing yet.
        seed: Of the random weights.
    """
    transformer = {"in_channels": 17, "rope_scale": (1.0, 3.0, 3.0), **TRANSFORMER}
    _write(folder, "Cosmos2VideoToWorldPipeline", transformer, seed=seed)


write_tiny = write_tiny_video2world


def _write(folder: Path, pipeline: str, transformer: dict[str, Any], *, seed: int) -> None:
    import_diffusers()
    from diffusers import (
        AutoencoderKLWan,
        CosmosTransformer3DModel,
        FlowMatchEulerDiscreteScheduler,
    )

    write_tiny_t5(folder, seed=seed)
    built = seeded(seed, lambda: CosmosTransformer3DModel(**transformer))
    built.save_pretrained(folder / "transformer")
    vae = seeded(seed, lambda: AutoencoderKLWan(**VAE))
    without_bias(vae)
    vae.decoder.conv_out.weight.data *= CONTRAST
    vae.save_pretrained(folder / "vae")
    scheduler = FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True)
    scheduler.register_to_config(**SCHEDULER)
    scheduler.save_pretrained(folder / "scheduler")
    write_index(
        folder,
        pipeline,
        {
            "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"),
            "text_encoder": ("transformers", "T5EncoderModel"),
            "tokenizer": ("transformers", "T5TokenizerFast"),
            "transformer": ("diffusers", "CosmosTransformer3DModel"),
            "vae": ("diffusers", "AutoencoderKLWan"),
        },
    )
