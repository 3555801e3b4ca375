"""What `train_world_model` is asked and what it answers."""

from dataclasses import dataclass, field
from typing import Any

from worldloop.errors import MalformedRecordError


@dataclass(frozen=True)
class Stage:
    """Part of a training with clips of one length.

    Attributes:
        num_frames: Frames of a window, 1 + k * temporal stride; 1 trains on pictures.
        batch_size: Windows in a step.
        num_steps: Steps.
        max_s: The stage ends after this many seconds of wall time even if steps are left; 0 has no limit.
    """

    num_frames: int
    batch_size: int
    num_steps: int
    max_s: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be trained.

        Raises:
            MalformedRecordError: If a count is not positive.
        """
        for name in ("num_frames", "batch_size", "num_steps"):
            if getattr(self, name) < 1:
                raise MalformedRecordError(
                    f"{name} of a training stage",
                    getattr(self, name),
                    "at least 1",
                    "Correct the recipe.",
                )


@dataclass(frozen=True)
class TrainWorldModelSpec:
    """Train a video autoencoder, then a diffusion transformer with its text encoder.

    With `max_s` in no stage, the same spec and shards give the same weights on the same device and
    versions, also across a kill.

    Attributes:
        shards_dir: Folder of footage shards, `gpu_jobs.train_world_model.data`.
        output_dir: Diffusers folder to write; it appears when it is whole.
        state_dir: Folder of the training state, from which a killed job resumes; empty: `<output_dir>.state`.
        autoencoder: Arguments of diffusers' `AutoencoderKLCosmos`.
        transformer: Arguments of diffusers' `CosmosTransformer3DModel`.
        text_encoder: Arguments of transformers' `T5Config`.
        autoencoder_stages: `Stage` as mappings, in order.
        transformer_stages: `Stage` as mappings, in order.
        autoencoder_learning_rate: Peak of AdamW.
        transformer_learning_rate: Peak of AdamW, for transformer and text encoder.
        warmup_steps: Steps of linear warm-up in either training.
        posterior_std: Standard deviation of the noise on latents while the decoder learns.
        kl_weight: Weight of the KL divergence of that posterior from a standard normal.
        caption_tokens: Tokens that the text encoder reads in training; longer captions are cut.
        context_tokens: Tokens that the transformer attends to, zeros after the caption's end.
        caption_dropout: Share of clips whose caption is replaced by no words or the family's negative prompt.
        num_clips: Evenly spaced clips of the footage that are trained on; 0 takes all.
        windows_per_clip: Windows of a clip whose latents are kept while a stage lasts; evenly spaced.
        whitening: How alike latent channels are in spread: 1 gives all the same, 0 gives each what it
            changes in pixels, so that noise hides fine detail before it hides the scene.
        sigma_mean: Mean of the logarithm of the noise levels to learn on, for a clip of one latent frame.
        sigma_std: Their standard deviation.
        ema_decay: Of the averaged weights, which are what is written.
        precision: `bf16` (autocast) or `fp32`.
        compile: Whether transformer blocks are compiled.
        attention: `cudnn` prefers cuDNN's kernel where it can be used, `auto` is torch's choice.
        num_samples: Clips to draw for the contact sheet; 0: none.
        sample_steps: Denoising steps of these.
        sample_guidance: Guidance scale of these.
        checkpoint_every_s: Seconds between two saved states.
        seed: Of weights, data order and noise.
        device: `cpu` or `cuda`.
    """

    shards_dir: str
    output_dir: str
    autoencoder: dict[str, Any]
    transformer: dict[str, Any]
    text_encoder: dict[str, Any]
    autoencoder_stages: tuple[dict[str, Any], ...]
    transformer_stages: tuple[dict[str, Any], ...]
    state_dir: str = ""
    autoencoder_learning_rate: float = 3e-4
    transformer_learning_rate: float = 6e-4
    warmup_steps: int = 100
    posterior_std: float = 0.1
    kl_weight: float = 3e-4
    caption_tokens: int = 128
    context_tokens: int = 512
    caption_dropout: float = 0.1
    num_clips: int = 0
    windows_per_clip: int = 8
    whitening: float = 1.0
    sigma_mean: float = 0.0
    sigma_std: float = 1.0
    ema_decay: float = 0.999
    precision: str = "bf16"
    compile: bool = True
    attention: str = "auto"
    num_samples: int = 8
    sample_steps: int = 35
    sample_guidance: float = 2.0
    checkpoint_every_s: float = 90.0
    seed: int = 0
    device: str = "cuda"


@dataclass(frozen=True)
class TrainWorldModelReport:
    """What was trained.

    Attributes:
        folder: The diffusers folder.
        num_clips: Clips of the footage.
        autoencoder_psnr_db: Of footage through the autoencoder, mean over clips.
        stages: One row per stage: part, num_frames, batch_size, steps, wall_s, loss (mean of its last tenth).
        losses: Curve of each part: `{"part", "stage", "step", "loss"}`, means over some steps each.
        num_parameters: Of `transformer`, `vae` and `text_encoder`.
        num_tokens: Tokens of the longest clips in the transformer.
        size_bytes: Of the folder.
        wall_s: Seconds of this run, from the call to the report.
        resumed: Whether a saved state was found.
        sheet: Contact sheet: footage, reconstruction and sample side by side; empty if none.
        prompts: Prompts of the samples.
        versions: Versions and hardware that the weights depend on.
    """

    folder: str
    num_clips: int
    autoencoder_psnr_db: float
    stages: list[dict[str, Any]]
    losses: list[dict[str, Any]]
    num_parameters: dict[str, int]
    num_tokens: int
    size_bytes: int
    wall_s: float
    resumed: bool
    sheet: str = ""
    prompts: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class AdaptWorldModelSpec:
    """Adapt a trained transformer to tile-sparse attention: it learns to answer as it did when dense.

    Attributes:
        shards_dir: Folder of footage shards.
        checkpoint_dir: Diffusers folder that `train_world_model` wrote; it stays as it is.
        output_dir: Diffusers folder to write; it appears when it is whole.
        stages: `Stage` as mappings, in order; the length of their clips is the one to adapt to.
        state_dir: Folder of the training state, from which a killed job resumes; empty: `<output_dir>.state`.
        density: Share of key tiles that a tile attends to, as in the speed profile.
        dense_first_steps: Leading denoising steps that stay dense, as in the speed profile.
        dense_last_steps: Trailing steps that stay dense.
        num_steps: Denoising steps that these belong to.
        dense_share: At least this share of training steps is dense, so that dense steps stay as they were.
        learning_rate: Peak of AdamW.
        warmup_steps: Steps of linear warm-up.
        caption_tokens: As in the training.
        context_tokens: As in the training.
        caption_dropout: As in the training.
        num_clips: As in the training.
        windows_per_clip: As in the training.
        sigma_mean: As in the training.
        sigma_std: As in the training.
        ema_decay: Of the averaged weights, which are what is written.
        precision: `bf16` (autocast) or `fp32`.
        compile: Whether transformer blocks are compiled.
        attention: Of dense steps, as in the training.
        checkpoint_every_s: Seconds between two saved states.
        seed: Of data order and noise.
        device: `cpu` or `cuda`.
    """

    shards_dir: str
    checkpoint_dir: str
    output_dir: str
    stages: tuple[dict[str, Any], ...]
    state_dir: str = ""
    density: float = 0.15
    dense_first_steps: int = 2
    dense_last_steps: int = 1
    num_steps: int = 35
    dense_share: float = 0.1
    learning_rate: float = 2e-4
    warmup_steps: int = 50
    caption_tokens: int = 128
    context_tokens: int = 512
    caption_dropout: float = 0.1
    num_clips: int = 0
    windows_per_clip: int = 8
    sigma_mean: float = 0.0
    sigma_std: float = 1.0
    ema_decay: float = 0.99
    precision: str = "bf16"
    compile: bool = True
    attention: str = "auto"
    checkpoint_every_s: float = 90.0
    seed: int = 0
    device: str = "cuda"


@dataclass(frozen=True)
class AdaptWorldModelReport:
    """What was adapted.

    Attributes:
        folder: The diffusers folder.
        density: Share of key tiles that was reached with the tiles of these clips.
        num_tiles: Tiles of a clip.
        before: Squared distance of the sparse transformer's answer from the dense one's before, 1
            being what predicting nothing costs; mean over the first steps.
        after: The same at the end.
        stages: One row per stage, as in the report of a training.
        losses: Curve, as in the report of a training.
        wall_s: Seconds of this run.
        resumed: Whether a saved state was found.
        versions: Versions and hardware that the weights depend on.
    """

    folder: str
    density: float
    num_tiles: int
    before: float
    after: float
    stages: list[dict[str, Any]]
    losses: list[dict[str, Any]]
    wall_s: float
    resumed: bool
    versions: dict[str, str] = field(default_factory=dict)
