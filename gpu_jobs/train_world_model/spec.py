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
