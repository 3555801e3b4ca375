"""Tiny Cosmos-1.0 checkpoints: Text2World and Video2World.

All but widths, depths and weights is that of the published 7B models
(scripts/convert_cosmos_to_diffusers.py, commit 0a88230 of diffusers).
"""

from pathlib import Path
from typing import Any

import torch

from gpu_jobs.common.torch_ops import import_diffusers
from gpu_jobs.cosmos_generate.tiny.folders import without_bias, write_index
from gpu_jobs.cosmos_generate.tiny.text import WIDTH, seeded, write_tiny_t5
from gpu_jobs.cosmos_generate.tiny.transformer import NARROW

TRANSFORMER: dict[str, Any] = {
    **NARROW,
    "text_embed_dim": WIDTH,
    "rope_scale": (2.0, 1.0, 1.0),
    "extra_pos_embed_type": "learnable",
}
VAE = {
    "latent_channels": 16,
    "encoder_block_out_channels": (8, 8, 16, 16),
    "decode_block_out_channels": (8, 16, 16, 16),
    "attention_resolutions": (32,),
    "resolution": 1024,
    "num_layers": 1,
    "patch_size": 4,
    "patch_type": "haar",
    "spatial_compression_ratio": 8,
    "temporal_compression_ratio": 8,
}
SCHEDULER = {
    "sigma_min": 0.002,
    "sigma_max": 80,
    "sigma_data": 0.5,
    "sigma_schedule": "karras",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "rho": 7.0,
    "final_sigmas_type": "sigma_min",
}
CONTRAST = 2.0  # of the decoder's last layer, so that frames are neither grey nor clipped
FINE_DETAIL = (
    0.05  # of the wavelet bands but the coarsest, so that neighbours are alike as in a picture
)


def write_tiny_text2world(folder: Path, *, seed: int = 0) -> None:
    """Write a Text2World folder.

    Args:
        folder: Folder to write, which holds nothing yet.
        seed: Of the random weights.
    """
    _write(folder, "CosmosTextToWorldPipeline", in_channels=16, seed=seed)


def write_tiny_video2world(folder: Path, *, seed: int = 0) -> None:
    """Write a Video2World folder: one more input channel marks the given frames.

    Args:
        folder: Folder to write, which holds nothing yet.
        seed: Of the random weights.
    """
    _write(folder, "CosmosVideoToWorldPipeline", in_channels=17, seed=seed)


write_tiny = write_tiny_text2world


def _write(folder: Path, pipeline: str, *, in_channels: int, seed: int) -> None:
    import_diffusers()
    from diffusers import AutoencoderKLCosmos, CosmosTransformer3DModel, EDMEulerScheduler

    write_tiny_t5(folder, seed=seed)
    transformer = seeded(
        seed, lambda: _moved(CosmosTransformer3DModel(in_channels=in_channels, **TRANSFORMER))
    )
    transformer.save_pretrained(folder / "transformer")
    vae = seeded(seed, lambda: AutoencoderKLCosmos(**VAE))
    without_bias(vae)
    vae.decoder.conv_out.conv_t.weight.data[:3] *= CONTRAST
    vae.decoder.conv_out.conv_t.weight.data[3:] *= CONTRAST * FINE_DETAIL
    vae.save_pretrained(folder / "vae")
    EDMEulerScheduler(**SCHEDULER).save_pretrained(folder / "scheduler")
    write_index(
        folder,
        pipeline,
        {
            "scheduler": ("diffusers", "EDMEulerScheduler"),
            "text_encoder": ("transformers", "T5EncoderModel"),
            "tokenizer": ("transformers", "T5TokenizerFast"),
            "transformer": ("diffusers", "CosmosTransformer3DModel"),
            "vae": ("diffusers", "AutoencoderKLCosmos"),
        },
    )


def _moved(transformer: Any) -> Any:
    """A transformer whose position embeddings are not zero, as they are after training."""
    for parameter in transformer.learnable_pos_embed.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return transformer
