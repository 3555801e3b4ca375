"""What `posttrain` is asked and what it answers: training, measuring on held-out footage, judging clips.

A folder of footage has the layout of the published post-training guides: `videos/NAME.mp4`,
`metas/NAME.txt` (the caption), and perhaps `t5_xxl/NAME.pickle` (its encoding). Ours has
`clips.jsonl` beside them, one `FootageClip` a line; a folder of a user's own needs none.
"""

from dataclasses import dataclass, field
from typing import Any

TRAIN, MEASURE, JUDGE = "train", "measure", "judge"
COMMANDS = (TRAIN, MEASURE, JUDGE)


@dataclass(frozen=True)
class FootageClip:
    """What is known of one clip of a folder.

    Attributes:
        name: Of its files, without ending.
        recipe_id: Of the clip; the name where there is none.
        city: Key of its city; empty where unknown.
        institution: Key of its institution; empty where unknown.
    """

    name: str
    recipe_id: str
    city: str = ""
    institution: str = ""

    @property
    def place(self) -> str:
        """`tokyo/zoo`; empty where unknown."""
        return f"{self.city}/{self.institution}" if self.city else ""


@dataclass(frozen=True)
class PosttrainSpec:
    """Train one model on one folder of footage.

    Without a time limit the same spec, footage and versions give the same weights on a CPU, also
    across a kill; on a GPU within the bound that docs/speed.md states.

    Attributes:
        model: Name in `worldloop.cosmos.models.MODELS`.
        revision: Pinned revision of its weights.
        checkpoint_dir: Local folder that holds the model folders.
        footage_dir: Folder of footage, see this module.
        output_dir: Folder for what is written; it appears when it is whole: `adapter.safetensors`
            (lora: `<layer>.lora_A.weight` (rank, in) and `<layer>.lora_B.weight` (out, rank), float32,
            diffusers' layer names; full: `delta.safetensors`), `start.safetensors` (the same tensors at the
            start), `report.json`, and with `keep_optimizer` also `moments.safetensors`: where the optimizer stands,
            see `worldloop.federation.moments`.
        training: `worldloop.federation.rounds.Training` as a mapping; `shape` is a mapping as well.
        seed: Of the adapter's start, data order and noise. All sites of a round start from the same
            adapter: its A is `initial_factor(seed, layer, shape)` of `worldloop.federation.adapters`, its B zero.
        site: Name that tells the data order of sites apart.
        start_adapter: `adapter.safetensors` to go on from; empty: a new one.
        start_moments: `moments.safetensors` that the optimizer goes on from, without warm-up; empty: it begins anew.
        transformer_dir: Folder of post-trained weights in `checkpoint_dir`; empty: the model's own.
        cache_dir: Folder of encoded footage and captions, kept over rounds; empty: `<footage_dir>/cache`.
        state_dir: Folder of the training state, from which a killed job resumes at the same step; empty: `<output_dir>.state`.
        exclude_cities: Clips of these cities are not trained on.
        shuffle_targets: For controls only: every caption goes with the footage of another clip, and every
            noisy window with the clean window of another clip.
        export: `{"project": str, "group": str, "name": str, "root": str}`: also write checkpoints as the
            published guides name them; empty: none.
        checkpoint_every_s: Seconds between two saved states.
        max_s: Training ends after so many seconds of wall time; 0: no limit.
        device: `auto`, `cpu` or `cuda`.
    """

    model: str
    revision: str
    checkpoint_dir: str
    footage_dir: str
    output_dir: str
    training: dict[str, Any]
    seed: int
    site: str = ""
    start_adapter: str = ""
    start_moments: str = ""
    transformer_dir: str = ""
    cache_dir: str = ""
    state_dir: str = ""
    exclude_cities: tuple[str, ...] = ()
    shuffle_targets: bool = False
    export: dict[str, str] = field(default_factory=dict)
    checkpoint_every_s: float = 60.0
    max_s: float = 0.0
    device: str = "auto"


@dataclass(frozen=True)
class PosttrainReport:
    """What was trained.

    Attributes:
        output_dir: As asked; empty if there was no footage to train on.
        num_clips: Clips that were trained on.
        num_windows: Windows that a step could draw from.
        num_steps: Optimizer steps.
        num_parameters: Trained numbers.
        loss_before: Mean loss of the first tenth of the steps.
        loss_after: Mean loss of the last tenth.
        losses: `{"step": int, "loss": float}`, means over some steps each.
        norm: Length of what training changed.
        tokens_per_s: Tokens of the transformer that were trained on, a second.
        tflops: Arithmetic of forward and backward passes, a second, in 10^12; 0 where unknown.
        load_s: Seconds to load the base; 0 when it was warm.
        encode_s: Seconds to encode footage and captions that no cache had.
        train_s: Seconds of the steps.
        wall_s: Seconds in all.
        gpu_s: The same on a GPU; 0 on a CPU.
        peak_gpu_gb: Most memory allocated on the GPU; 0 on a CPU.
        resumed_at: Step that a saved state was found at; 0: from the start.
        start_sha256: Hash of the tensors at the start, equal at all sites.
        exports: Files written for `export`.
        versions: Versions and hardware that the weights depend on.
    """

    output_dir: str
    num_clips: int
    num_windows: int
    num_steps: int
    num_parameters: int
    loss_before: float
    loss_after: float
    losses: list[dict[str, float]]
    norm: float
    tokens_per_s: float
    tflops: float
    load_s: float
    encode_s: float
    train_s: float
    wall_s: float
    gpu_s: float
    peak_gpu_gb: float
    resumed_at: int
    start_sha256: str
    exports: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class MeasureSpec:
    """Measure adapters on footage that none was trained on: the denoising loss at fixed noise.

    Attributes:
        model: As in `PosttrainSpec`.
        revision: As in `PosttrainSpec`.
        checkpoint_dir: As in `PosttrainSpec`.
        footage_dir: Folder of footage.
        adapters: `{"name": str, "path": str}` each; an empty path is the base alone.
        shape: `ClipShape` as a mapping.
        seed: Of noise: the same clip, level and seed get the same noise under every adapter.
        noise_levels: Levels of each clip, evenly spaced quantiles of the training distribution.
        num_clips: Clips that are measured, evenly spaced; 0: all.
        cities: Only clips of these cities; empty: all.
        memorisation: Whether `nearest` is measured: samples against the footage of `footage_dir`.
        samples: Clips (`.mp4`) that `nearest` is measured for, by adapter name.
        alpha: As in training.
        transformer_dir: As in `PosttrainSpec`.
        cache_dir: As in `PosttrainSpec`.
        precision: As in training.
        device: As in `PosttrainSpec`.
        sequence_interval: As in training.
        other_captions: Whether each clip is also measured with the caption of another one, which tells
            how much a model reads captions; twice the work.
    """

    model: str
    revision: str
    checkpoint_dir: str
    footage_dir: str
    adapters: tuple[dict[str, str], ...]
    shape: dict[str, int]
    seed: int
    noise_levels: int = 4
    num_clips: int = 0
    cities: tuple[str, ...] = ()
    memorisation: bool = False
    samples: dict[str, list[str]] = field(default_factory=dict)
    alpha: float = 8.0
    transformer_dir: str = ""
    cache_dir: str = ""
    precision: str = "bf16"
    device: str = "auto"
    sequence_interval: int = 1
    other_captions: bool = True


@dataclass(frozen=True)
class MeasureReport:
    """What was measured; ids and numbers alone, because it leaves the site.

    Attributes:
        losses: One row a clip and adapter: adapter, recipe_id, city, institution, loss (mean over noise
            levels), and `loss_other_caption`, the same with the caption of another clip, where it was measured.
        nearest: One row a sample and adapter: adapter, sample (its number), similarity of the most similar
            window of footage (cosine of normalised latents), and `typical`: the same for held-out footage,
            its 95th percentile.
        num_clips: Clips that were measured.
        wall_s: Seconds in all.
        gpu_s: The same on a GPU; 0 on a CPU.
        versions: Versions and hardware.
    """

    losses: list[dict[str, Any]]
    nearest: list[dict[str, Any]]
    num_clips: int
    wall_s: float
    gpu_s: float
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class JudgeSpec:
    """Compare generated clips with each other and, if there is any, with footage.

    Attributes:
        groups: `{"name": str, "clips": [paths of .mp4], "prompts": [str, one each]}` each, e.g. before and after.
        footage_dir: Folder of footage as reference of the distribution distances; empty: none.
        num_frames: Frames of each clip that are looked at, evenly spaced.
        model: Model whose autoencoder gives the second feature space; empty: frame statistics instead.
        checkpoint_dir: Folder of the model folders.
        sheet_path: Picture to write: one row a prompt, the groups side by side; empty: none.
        device: As in `PosttrainSpec`.
        transformer_dir: As in `PosttrainSpec`; with `precision` it names the base that is warm already.
        precision: As in training.
        num_footage: Clips of the reference, evenly spaced; 0: all.
    """

    groups: tuple[dict[str, Any], ...]
    footage_dir: str = ""
    num_frames: int = 8
    model: str = ""
    checkpoint_dir: str = ""
    sheet_path: str = ""
    device: str = "auto"
    transformer_dir: str = ""
    precision: str = "bf16"
    num_footage: int = 256


@dataclass(frozen=True)
class JudgeReport:
    """What the clips are like; each score names the model that gave it.

    Attributes:
        scores: One row a group and measure: group (a second row named `after - before` holds the paired
            difference of two groups with the same prompts; footage has the group `footage`), measure
            (`kernel_distance_starter`, `kernel_distance_latent`, `text_cosine`, `temporal_consistency`, `sharpness`,
            `motion`), judge (name of the model), value, low, high (90 % bootstrap interval over clips),
            num_clips. Distances are kernel distances, see `features`: sets are too small for Frechet's.
        clips: One row a clip: group, index, and each measure that a single clip has.
        sheet_path: As asked.
        versions: Versions.
        wall_s: Seconds in all.
        gpu_s: The same on a GPU; 0 on a CPU.
    """

    scores: list[dict[str, Any]]
    clips: list[dict[str, Any]]
    sheet_path: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    wall_s: float = 0.0
    gpu_s: float = 0.0


@dataclass(frozen=True)
class EmbeddingsSpec:
    """Write the text encodings of a folder.

    Attributes:
        model: Name in `worldloop.cosmos.models.MODELS`; its text encoder must be T5.
        checkpoint_dir: Local folder that holds the model folders.
        footage_dir: Folder of footage; needs `videos/` alone where there is a prompt.
        prompt: Of every video that has no caption; it is written to `metas/` too. Empty: captions of
            `metas/` alone.
        overwrite: Whether encodings that are there are made anew.
        device: `auto`, `cpu` or `cuda`.
    """

    model: str
    checkpoint_dir: str
    footage_dir: str
    prompt: str = ""
    overwrite: bool = False
    device: str = "auto"


@dataclass(frozen=True)
class EmbeddingsReport:
    """What was written.

    Attributes:
        written: Names of clips whose encodings were written.
        kept: How many stood already.
        metas: Captions that were written from the prompt.
        width: Of a token.
    """

    written: list[str] = field(default_factory=list)
    kept: int = 0
    metas: int = 0
    width: int = 0
