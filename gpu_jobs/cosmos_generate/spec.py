"""What `cosmos_generate` is asked and what it answers."""

from dataclasses import dataclass, field
from typing import Any

AUTO = "auto"
PARTS = ("prompt_upsampler", "guardrail", "text_encoder", "tokenizer", "transformer")


@dataclass(frozen=True)
class CosmosGenerateSpec:
    """Generate these clips with one model, in one shape, with one speed profile.

    Attributes:
        model: Name in `worldloop.cosmos.models.MODELS`, e.g. `Cosmos-1.0-Diffusion-7B-Text2World`.
        revision: Pinned revision of its repository, or the content hash of a local folder.
        checkpoint_dir: Local folder that holds the model folders.
        requests: `ClipRequest.to_record()` of each clip, in the order of the pack.
        shape: `ClipShape` as a mapping: num_frames, width_px, height_px, rate_fps.
        num_steps: Denoising steps.
        guidance: Guidance scale.
        sampler: One of the family's `samplers`.
        profile: `SpeedProfile.to_record()`.
        transformer_dir: Folder of the transformer in `checkpoint_dir`; empty: the model's own. Post-trained weights go here.
        loras: `{"path": str, "weight": float}` each.
        upsampler: `{"name": str, "mode": "text" | "picture" | "picture_and_text", "dir": str, "word_limit": int}`; empty: none.
        guards: `{"text": [names], "video": [names], "dir": str}`: the guards to run, `worldloop.cosmos.guards`; empty lists: unguarded.
        offload: `auto`, or the parts (`PARTS`) that leave the GPU when they are not needed.
        batch_size: Clips denoised together; it is part of the recipe.
        extend_to_frames: Length of long videos made by going on from the last frames; 0: none.
        overlap_frames: Frames that the next part goes on from.
        staging_dir: Local folder for finished clips (`<clip_id>/`), kept so that a killed job resumes.
        pack_path: Pack to write when all clips stand; empty: none.
        save_dir: Folder for `NAME.mp4` beside `NAME.txt`; empty: none.
        max_failed_share: More failed clips than this share end the job with `JobFailedError`.
        device: `auto`, `cpu` or `cuda`.
        cp_size: Context-parallel ranks; must equal the number of processes.
        memory_cap_gb: Refuse to allocate more than this on the GPU; 0: all of it.
    """

    model: str
    revision: str
    checkpoint_dir: str
    requests: tuple[dict[str, Any], ...]
    shape: dict[str, int]
    num_steps: int
    guidance: float
    sampler: str
    profile: dict[str, Any]
    staging_dir: str
    transformer_dir: str = ""
    loras: tuple[dict[str, Any], ...] = ()
    upsampler: dict[str, Any] = field(default_factory=dict)
    guards: dict[str, Any] = field(default_factory=dict)
    offload: str | tuple[str, ...] = AUTO
    batch_size: int = 1
    extend_to_frames: int = 0
    overlap_frames: int = 9
    pack_path: str = ""
    save_dir: str = ""
    max_failed_share: float = 0.25
    device: str = AUTO
    cp_size: int = 1
    memory_cap_gb: float = 0.0


@dataclass(frozen=True)
class CosmosGenerateReport:
    """What was generated.

    Attributes:
        clips: One row per finished clip, columns of `records.CLIPS` less those of the partition.
        failures: One row per failed clip: recipe_id, scene_id, stage, reason.
        blocked: One row per clip that a guard stopped: recipe_id, scene_id, guard, category, reason.
        receipts: One row per finished clip: recipe_id, cpu_s, gpu_s, peak_rss_mb, resumed, guardrail,
            ms_per_step, tflops, peak_gpu_gb, busy_share.
        generations: One row per finished clip, columns of `records.GENERATIONS` less those of the partition.
        versions: Versions and hardware that the bytes depend on.
        recoveries: What had to be tried again, in words, e.g. a larger offload plan.
    """

    clips: list[dict[str, Any]]
    failures: list[dict[str, Any]]
    blocked: list[dict[str, Any]] = field(default_factory=list)
    receipts: list[dict[str, Any]] = field(default_factory=list)
    generations: list[dict[str, Any]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    recoveries: list[str] = field(default_factory=list)
