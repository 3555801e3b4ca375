"""Full configurations of `train_world_model`; a variant calls one and changes a field."""

from dataclasses import asdict
from typing import Any

from gpu_jobs.train_world_model.spec import AdaptWorldModelSpec, Stage, TrainWorldModelSpec
from worldloop.cosmos.profiles import profile


def small(shards_dir: str, output_dir: str) -> TrainWorldModelSpec:
    """29 frames of 256x128 px as 4,096 tokens, 32 tiles; six minutes of training on one H200.

    Few clips, many times: it shall draw sharp pictures of what it knows rather than know much.
    """
    return TrainWorldModelSpec(
        shards_dir=shards_dir,
        output_dir=output_dir,
        autoencoder=_autoencoder(128, num_layers=3),
        transformer=_transformer(heads=4, head_dim=128, num_layers=8, text_width=256),
        text_encoder=_text_encoder(256, heads=4, num_layers=2),
        autoencoder_stages=_stages(Stage(17, 8, 2000, 30.0), Stage(29, 4, 400, 8.0)),
        transformer_stages=_stages(Stage(1, 64, 5000, 60.0), Stage(29, 8, 12_000, 270.0)),
        transformer_learning_rate=8e-4,
        num_clips=80,
        windows_per_clip=4,
        whitening=0.5,
        sigma_std=1.4,
        attention="cudnn",
    )


def adapted(trained: TrainWorldModelSpec, output_dir: str) -> AdaptWorldModelSpec:
    """The sparse attention of the profile `sparse` for a trained model; at most 60 s of training."""
    sparse = profile("sparse")
    longest = trained.transformer_stages[-1]
    return AdaptWorldModelSpec(
        shards_dir=trained.shards_dir,
        checkpoint_dir=trained.output_dir,
        output_dir=output_dir,
        stages=({**longest, "num_steps": 3000, "max_s": 60.0},),
        density=sparse.density,
        dense_first_steps=sparse.dense_first_steps,
        dense_last_steps=sparse.dense_last_steps,
        caption_tokens=trained.caption_tokens,
        context_tokens=trained.context_tokens,
        caption_dropout=trained.caption_dropout,
        num_clips=trained.num_clips,
        windows_per_clip=trained.windows_per_clip,
        sigma_mean=trained.sigma_mean,
        sigma_std=trained.sigma_std,
        precision=trained.precision,
        compile=trained.compile,
        attention=trained.attention,
        seed=trained.seed,
        device=trained.device,
    )


def pocket(shards_dir: str, output_dir: str) -> TrainWorldModelSpec:
    """9 frames of 64x64 px as 192 tokens; minutes on two CPU cores, for experiments without a GPU.

    It learns light, layout and colours of a place, no objects: enough for a loss that means something.
    """
    return TrainWorldModelSpec(
        shards_dir=shards_dir,
        output_dir=output_dir,
        autoencoder=_autoencoder(64, num_layers=1),
        transformer=_transformer(heads=4, head_dim=32, num_layers=6, text_width=64),
        text_encoder=_text_encoder(64, heads=4, num_layers=2),
        autoencoder_stages=_stages(Stage(5, 8, 500), Stage(9, 8, 100)),
        transformer_stages=_stages(Stage(1, 8, 400), Stage(9, 4, 800)),
        warmup_steps=50,
        caption_tokens=48,
        windows_per_clip=4,
        whitening=0.5,
        sigma_std=1.4,
        ema_decay=0.99,
        precision="fp32",
        compile=False,
        num_samples=6,
        sample_steps=20,
        device="cpu",
    )


def tiny(shards_dir: str, output_dir: str) -> TrainWorldModelSpec:
    """Seconds on a CPU, for tests: real classes, almost no weights."""
    return TrainWorldModelSpec(
        shards_dir=shards_dir,
        output_dir=output_dir,
        autoencoder=_autoencoder(64, num_layers=1),
        transformer=_transformer(heads=2, head_dim=16, num_layers=2, text_width=16),
        text_encoder=_text_encoder(16, heads=2, num_layers=1),
        autoencoder_stages=_stages(Stage(5, 2, 12), Stage(9, 1, 4)),
        transformer_stages=_stages(Stage(1, 4, 4), Stage(9, 2, 6)),
        warmup_steps=2,
        ema_decay=0.9,
        precision="fp32",
        compile=False,
        num_samples=1,
        sample_steps=2,
        device="cpu",
    )


def _stages(*stages: Stage) -> tuple[dict[str, Any], ...]:
    return tuple(asdict(stage) for stage in stages)


def _autoencoder(width: int, *, num_layers: int) -> dict[str, Any]:
    """Two Haar levels in time and space and no further downsampling: 4x4x4, 16 channels."""
    return {
        "latent_channels": 16,
        "encoder_block_out_channels": [width, width],
        "decode_block_out_channels": [width, width],
        "attention_resolutions": [],
        "num_layers": num_layers,
        "patch_size": 4,
        "spatial_compression_ratio": 4,
        "temporal_compression_ratio": 4,
    }


def _transformer(*, heads: int, head_dim: int, num_layers: int, text_width: int) -> dict[str, Any]:
    """As Cosmos-1.0 Text2World in all but size."""
    return {
        "in_channels": 16,
        "out_channels": 16,
        "num_attention_heads": heads,
        "attention_head_dim": head_dim,
        "num_layers": num_layers,
        "mlp_ratio": 4.0,
        "text_embed_dim": text_width,
        "adaln_lora_dim": heads * head_dim // 2,
        "max_size": [128, 240, 240],
        "patch_size": [1, 2, 2],
        "rope_scale": [2.0, 1.0, 1.0],
        "concat_padding_mask": True,
        "extra_pos_embed_type": "learnable",
    }


def _text_encoder(width: int, *, heads: int, num_layers: int) -> dict[str, Any]:
    return {
        "d_model": width,
        "d_kv": width // heads,
        "d_ff": 2 * width,
        "num_layers": num_layers,
        "num_heads": heads,
        "feed_forward_proj": "gated-gelu",
        "dropout_rate": 0.0,
    }
