"""Full configurations of `train_embedder`; a variant calls one and changes a field."""

from typing import Any

from gpu_jobs.train_embedder.spec import TrainEmbedderSpec

# The whole 16:9 frame, squeezed by 4 %: 7 x 12 patches. Mean and std of open_clip's own starters.
_STARTER_PREPROCESS = {
    "size": [84, 144],
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bilinear",
    "resize_mode": "squash",
}
_TINY_PREPROCESS = {**_STARTER_PREPROCESS, "size": [18, 32]}


def starter(shards_dir: str, output_dir: str, *, holdout_dir: str = "") -> TrainEmbedderSpec:
    """The model that ships with worldloop: 2.8 M weights, 6 MB, minutes on one GPU."""
    return TrainEmbedderSpec(
        shards_dir=shards_dir,
        output_dir=output_dir,
        holdout_dir=holdout_dir,
        name="starter",
        model_cfg=_model_cfg((84, 144), 12, embed_dim=128, vision=(160, 6), text=(128, 4)),
        preprocess_cfg=_STARTER_PREPROCESS,
    )


def tiny(shards_dir: str, output_dir: str, *, holdout_dir: str = "") -> TrainEmbedderSpec:
    """Seconds on a CPU, for tests."""
    return TrainEmbedderSpec(
        shards_dir=shards_dir,
        output_dir=output_dir,
        holdout_dir=holdout_dir,
        name="tiny",
        model_cfg=_model_cfg((18, 32), 6, embed_dim=16, vision=(32, 2), text=(16, 2)),
        preprocess_cfg=_TINY_PREPROCESS,
        num_steps=120,
        batch_size=16,
        learning_rate=3e-3,
        warmup_steps=4,
        precision="fp32",
        device="cpu",
    )


def _model_cfg(
    image_size: tuple[int, int],
    patch_size: int,
    *,
    embed_dim: int,
    vision: tuple[int, int],
    text: tuple[int, int],
) -> dict[str, Any]:
    """open_clip's configuration; `vision` and `text` are (width, layers)."""
    return {
        "embed_dim": embed_dim,
        "vision_cfg": {
            "image_size": list(image_size),
            "patch_size": patch_size,
            "width": vision[0],
            "layers": vision[1],
            "head_width": min(32, vision[0]),
        },
        "text_cfg": {
            "context_length": 48,
            "vocab_size": 49408,
            "width": text[0],
            "heads": max(1, text[0] // 32),
            "layers": text[1],
        },
    }
