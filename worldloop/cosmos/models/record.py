"""What is known of one checkpoint."""

from dataclasses import dataclass, field
from typing import Literal

from worldloop.cosmos.companions import LICENCE_NVIDIA
from worldloop.cosmos.families import FAMILIES, ClipShape, Family, Task

Layout = Literal["diffusers", "original"]

_DIFFUSERS_FILES = (
    "model_index.json",
    "modular_model_index.json",
    "scheduler/*",
    "transformer/*",
    "vae/*",
    "text_encoder/*",
    "tokenizer/*",
    "text_tokenizer/*",
    "sound_tokenizer/*",
    "vision_encoder/*",
    "controlnet/*",
    "config.json",
    "README.md",
    "LICENSE*",
)


@dataclass(frozen=True)
class Model:
    """One checkpoint.

    Attributes:
        name: Key in `MODELS` and folder in `checkpoint_dir`.
        family: Key in `FAMILIES`.
        size: As its makers say it: `7B`, `Nano`.
        task: What it is mainly for.
        repo_id: Repository on the hub; empty for tiny models.
        revision: Commit, or a branch that is resolved and locked at the first download.
        params_b: Parameters of the transformer, in billions.
        num_layers: Transformer blocks.
        num_heads: Attention heads.
        head_dim: Width of a head; `num_heads * head_dim` is the width of a token, unless `width` says otherwise.
        gated: Whether its page asks to accept a licence first.
        licence: Name of its licence.
        width: Width of a token; 0 takes `num_heads * head_dim`.
        num_kv_heads: Heads of keys and values; 0 takes `num_heads`.
        mlp_width: Inner width of the MLP; 0 takes four times the width.
        gated_mlp: Whether the MLP has three matrices instead of two.
        active_params_b: Parameters that a denoising step multiplies with, in billions; 0 takes `params_b`.
        text_encoder: `t5-11b`, `reason1-7b`, or empty where the transformer reads text itself.
        text_encoder_params_b: Its parameters, in billions.
        latent_channels: Channels of the video autoencoder's latent.
        temporal_stride: Frames per latent frame after the first.
        spatial_stride: Pixels per latent pixel, each way.
        patch: Latent pixels per token, each way.
        tasks: All that it can be asked for; empty takes `task` alone.
        features: As in `Family.features`, and `sound`, `action_forward_dynamics`, `action_inverse_dynamics`,
            `action_policy`, `distilled`.
        needs: Names of companions, in `COMPANIONS`, for the original layout.
        guards: Names of companions of the guardrail.
        upsamplers: Names of companions that write prompts, the default one first.
        layouts: Layouts that its repository has, the one that is downloaded by default first.
        original_files: Files of the original layout.
        original_revision: Revision of the original layout, if it is not `revision`.
        size_gb: About how much disk its own folder takes in its default layout.
        shape: Its default shape, where it is not the family's.
        num_steps: Its default steps; 0 takes the family's.
        guidance: Its default guidance; None takes the family's.
        samplers: Its samplers; empty takes the family's.
        variant: Another resolution, frame rate or stage of a model; downloaded by its name only.
        tiny: A small random model for tests.
    """

    name: str
    family: str
    size: str
    task: Task
    repo_id: str
    revision: str
    params_b: float
    num_layers: int
    num_heads: int
    head_dim: int
    gated: bool = False
    licence: str = LICENCE_NVIDIA
    width: int = 0
    num_kv_heads: int = 0
    mlp_width: int = 0
    gated_mlp: bool = False
    active_params_b: float = 0.0
    text_encoder: str = "t5-11b"
    text_encoder_params_b: float = 4.76
    latent_channels: int = 16
    temporal_stride: int = 4
    spatial_stride: int = 8
    patch: int = 2
    tasks: tuple[Task, ...] = ()
    features: frozenset[str] = field(default_factory=frozenset)
    needs: tuple[str, ...] = ()
    guards: tuple[str, ...] = ()
    upsamplers: tuple[str, ...] = ()
    layouts: tuple[Layout, ...] = ("diffusers",)
    original_files: tuple[str, ...] = ("model.pt", "config.json")
    original_revision: str = ""
    size_gb: float = 0.0
    shape: ClipShape | None = None
    num_steps: int = 0
    guidance: float | None = None
    samplers: tuple[str, ...] = ()
    variant: bool = False
    tiny: bool = False

    @property
    def record(self) -> Family:
        """Its family."""
        return FAMILIES[self.family]

    @property
    def all_tasks(self) -> tuple[Task, ...]:
        """All that it can be asked for."""
        return self.tasks or (self.task,)

    @property
    def default_shape(self) -> ClipShape:
        """The shape of a clip that asks for none."""
        return self.shape or self.record.shape

    @property
    def default_steps(self) -> int:
        """Denoising steps of a clip that asks for none."""
        return self.num_steps or self.record.num_steps

    @property
    def default_guidance(self) -> float:
        """Guidance scale of a clip that asks for none."""
        return self.record.guidance if self.guidance is None else self.guidance

    @property
    def known_samplers(self) -> tuple[str, ...]:
        """Samplers, the default one first."""
        return self.samplers or self.record.samplers

    @property
    def token_width(self) -> int:
        """Width of a token."""
        return self.width or self.num_heads * self.head_dim

    def latent_size(self, shape: ClipShape) -> tuple[int, int, int]:
        """Latent frames, rows and columns of a clip.

        Example:
            >>> from worldloop.cosmos.models import model
            >>> model("Cosmos-1.0-Diffusion-7B-Text2World").latent_size(ClipShape(121, 1280, 704, 24))
            (16, 88, 160)
        """
        frames = 1 + -(-(shape.num_frames - 1) // self.temporal_stride)
        return (
            frames,
            -(-shape.height_px // self.spatial_stride),
            -(-shape.width_px // self.spatial_stride),
        )

    def num_tokens(self, shape: ClipShape) -> int:
        """Tokens of a clip.

        Example:
            >>> from worldloop.cosmos.models import model
            >>> model("Cosmos-1.0-Diffusion-7B-Text2World").num_tokens(ClipShape(121, 1280, 704, 24))
            56320
        """
        frames, rows, columns = self.latent_size(shape)
        return frames * -(-rows // self.patch) * -(-columns // self.patch)

    def files(self, layout: Layout) -> tuple[str, ...]:
        """Patterns of the files that a download takes."""
        if layout == "diffusers":
            return _DIFFUSERS_FILES
        return (*self.original_files, "README.md", "LICENSE*")
