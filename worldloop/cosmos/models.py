"""Models: every checkpoint that worldloop can run, where it comes from, and how large it is.

A model is a transformer of one family with a name, which is also its folder in `checkpoint_dir`.
What it needs beside itself (text encoder, video tokenizer, guardrail, prompt upsampler) are
`Companion`s with folders of their own. Revisions are commits where a public source pins them;
`main` and branches are resolved once by `worldloop models download`, which writes the commit to
`models.lock.json` beside the folders.

Sources: the download scripts of nvidia-cosmos/cosmos-predict1 (4ed35fa), cosmos-predict2
(661da47), cosmos-predict2.5 (50369b8) and cosmos-transfer2.5 (2ff49d0), the README of
NVIDIA/cosmos (aca7057), and diffusers 0.42.1. Whether a repository is gated can change: the answer
of the hub decides, `gated` only says what its page said.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

from worldloop.cosmos.families import FAMILIES, ClipShape, Family, Task
from worldloop.errors import MalformedRecordError, UnknownKeyError

Layout = Literal["diffusers", "original"]
Role = Literal["text_encoder", "tokenizer", "prompt_upsampler", "guardrail"]

LICENCE_NVIDIA = "NVIDIA Open Model License"
LICENCE_OPENMDW = "OpenMDW-1.1"  # README.md of NVIDIA/cosmos, commit aca7057
TINY_SHAPE = ClipShape(9, 64, 64, 24)
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
class Companion:
    """A folder that models need beside their own.

    Attributes:
        name: Folder in `checkpoint_dir`.
        role: What it is for.
        repo_id: Repository on the hub.
        revision: Commit, or a branch that is resolved and locked at the first download.
        gated: Whether its page asks to accept a licence first.
        licence: Name of its licence.
        files: Patterns of the files that are needed; empty takes all.
        ignore: Patterns of files that are not.
        size_gb: About how much disk it takes, from its page or its parameter count.
        required: Files or folders without which it is of no use.
    """

    name: str
    role: Role
    repo_id: str
    revision: str = "main"
    gated: bool = False
    licence: str = LICENCE_NVIDIA
    files: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    size_gb: float = 0.0
    required: tuple[str, ...] = ()


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


_T5 = "google-t5/t5-11b"
_TOKENIZER_1 = "Cosmos-1.0-Tokenizer-CV8x8x8"
_TOKENIZER_P1 = "Cosmos-Tokenize1-CV8x8x8-720p"
_UPSAMPLER_1 = "Cosmos-1.0-Prompt-Upsampler-12B-Text2World"
_UPSAMPLER_P1 = "Cosmos-UpsamplePrompt1-12B-Text2World"
_PIXTRAL = "Pixtral-12B"
_QWEN_VL = "Qwen/Qwen2.5-VL-7B-Instruct"
_REASON1 = "Cosmos-Reason1-7B"
_GUARDRAIL_1 = "Cosmos-1.0-Guardrail"
_GUARDRAIL1 = "Cosmos-Guardrail1"
_LLAMA_GUARD = "meta-llama/Llama-Guard-3-8B"
_LLAMA_GUARD_1 = "meta-llama/LlamaGuard-7b"
_SIGLIP = "google/siglip-so400m-patch14-384"
_AEGIS = "nvidia/Aegis-AI-Content-Safety-LlamaGuard-Defensive-1.0"
# what `worldloop.cosmos.guards.default_guards` runs, by whether guards can be turned off
_REQUIRED_GUARDS = (_GUARDRAIL_1, _LLAMA_GUARD_1, _AEGIS, _SIGLIP)
_OPTIONAL_GUARDS = (_GUARDRAIL1, _LLAMA_GUARD, _SIGLIP)
_JIT = ("*.jit", "mean_std.pt", "config.json", "*.safetensors", "README.md")
_UPSAMPLER_FILES = (
    "model.pt",
    "config.json",
    "README.md",
    "tokenizer*",
    "special_tokens_map.json",
    "chat_template*",
)

COMPANIONS: Mapping[str, Companion] = MappingProxyType(
    {
        companion.name: companion
        for companion in (
            Companion(
                _T5,
                "text_encoder",
                "google-t5/t5-11b",
                "90f37703b3334dfe9d2b009bfcbfbf1ac9d28ea3",  # cosmos-predict2 scripts/download_checkpoints.py
                licence="Apache-2.0",
                ignore=("tf_model.h5",),
                size_gb=45.2,
                required=("config.json", "pytorch_model.bin"),
            ),
            Companion(
                _TOKENIZER_1,
                "tokenizer",
                "nvidia/Cosmos-1.0-Tokenizer-CV8x8x8",
                files=_JIT,
                size_gb=0.3,
                required=("decoder.jit", "encoder.jit", "mean_std.pt"),
            ),
            Companion(
                _TOKENIZER_P1,
                "tokenizer",
                "nvidia/Cosmos-Tokenize1-CV8x8x8-720p",
                files=_JIT,
                size_gb=0.3,
                required=("decoder.jit", "encoder.jit", "mean_std.pt"),
            ),
            Companion(
                _UPSAMPLER_1,
                "prompt_upsampler",
                "nvidia/Cosmos-1.0-Prompt-Upsampler-12B-Text2World",
                files=_UPSAMPLER_FILES,
                size_gb=24.5,
                required=("model.pt", "config.json"),
            ),
            Companion(
                _UPSAMPLER_P1,
                "prompt_upsampler",
                "nvidia/Cosmos-UpsamplePrompt1-12B-Text2World",
                files=_UPSAMPLER_FILES,
                size_gb=24.5,
                required=("model.pt", "config.json"),
            ),
            Companion(
                _PIXTRAL,
                "prompt_upsampler",
                # mistralai/Pixtral-12B-2409 in the layout of transformers, which the adapter loads
                "mistral-community/pixtral-12b",
                licence="Apache-2.0",
                size_gb=25.4,
                required=("config.json",),
            ),
            Companion(
                _QWEN_VL,
                "prompt_upsampler",
                "Qwen/Qwen2.5-VL-7B-Instruct",
                licence="Apache-2.0",
                size_gb=16.6,
                required=("config.json",),
            ),
            Companion(
                _REASON1,
                "text_encoder",
                "nvidia/Cosmos-Reason1-7B",
                "3210bec0495fdc7a8d3dbb8d58da5711eab4b423",  # cosmos-predict2.5 checkpoint_db.py:239
                size_gb=16.6,
                required=("config.json",),
            ),
            Companion(
                _GUARDRAIL_1,
                "guardrail",
                "nvidia/Cosmos-1.0-Guardrail",
                gated=True,
                size_gb=0.7,
                required=(
                    "aegis",
                    "blocklist",
                    "face_blur_filter",
                    "video_content_safety_filter",
                ),
            ),
            Companion(
                _GUARDRAIL1,
                "guardrail",
                "nvidia/Cosmos-Guardrail1",
                "d6d4bfa899a71454a700907664f3e88f503950cf",  # cosmos-predict2 scripts/download_checkpoints.py
                gated=True,
                size_gb=0.7,
                required=("blocklist", "face_blur_filter", "video_content_safety_filter"),
            ),
            Companion(
                _LLAMA_GUARD,
                "guardrail",
                "meta-llama/Llama-Guard-3-8B",
                "7327bd9f6efbbe6101dc6cc4736302b3cbb6e425",  # cosmos-predict2 scripts/download_checkpoints.py
                gated=True,
                licence="Llama 3.1 Community License",
                ignore=("original/*",),
                size_gb=16.1,
                required=("config.json",),
            ),
            Companion(
                _LLAMA_GUARD_1,
                "guardrail",
                "meta-llama/LlamaGuard-7b",
                gated=True,
                licence="Llama 2 Community License",
                ignore=("original/*", "*.bin"),
                size_gb=13.5,
                required=("config.json",),
            ),
            Companion(
                # an adapter on LlamaGuard-7b; the guardrail folder of Cosmos 1.0 may hold it already
                _AEGIS,
                "guardrail",
                _AEGIS,
                licence="Llama 2 Community License",
                size_gb=0.1,
                required=("adapter_config.json",),
            ),
            Companion(
                _SIGLIP,
                "guardrail",
                "google/siglip-so400m-patch14-384",
                licence="Apache-2.0",
                size_gb=3.5,
                required=("config.json",),
            ),
            Companion(
                "Qwen/Qwen3Guard-Gen-0.6B",  # by choice, instead of a Llama Guard: small and not gated
                "guardrail",
                "Qwen/Qwen3Guard-Gen-0.6B",
                licence="Apache-2.0",
                size_gb=1.5,
                required=("config.json",),
            ),
        )
    }
)

_ALL_CONTROLS = frozenset({"control_edge", "control_blur", "control_depth", "control_seg"})


def _cosmos1(size: str, task: Task) -> Model:
    """Cosmos 1.0 diffusion; shapes from diffusers' convert_cosmos_to_diffusers.py."""
    large, to_video = size == "14B", task == "video2world"
    title = "Video2World" if to_video else "Text2World"
    return Model(
        name=f"Cosmos-1.0-Diffusion-{size}-{title}",
        family="cosmos1",
        size=size,
        task=task,
        repo_id=f"nvidia/Cosmos-1.0-Diffusion-{size}-{title}",
        revision="main",
        params_b=14.26 if large else 7.24,
        num_layers=36 if large else 28,
        num_heads=40 if large else 32,
        head_dim=128,
        temporal_stride=8,
        tasks=("image2world", "video2world", "control2world") if to_video else ("text2world",),
        features=frozenset({"subject_name", "lora"})
        | (_ALL_CONTROLS | {"extend"} if to_video else frozenset()),
        needs=(_T5, _TOKENIZER_1),
        guards=_REQUIRED_GUARDS,
        upsamplers=(_PIXTRAL,) if to_video else (_UPSAMPLER_1,),
        layouts=("original", "diffusers"),
        size_gb=28.5 if large else 14.5,
    )


def _predict1(size: str, task: Task) -> Model:
    base = _cosmos1(size, task)
    title = "Video2World" if task == "video2world" else "Text2World"
    name = f"Cosmos-Predict1-{size}-{title}"
    return replace(
        base,
        name=name,
        family="predict1",
        repo_id=f"nvidia/{name}",
        needs=(_T5, _TOKENIZER_P1),
        upsamplers=(_PIXTRAL,) if task == "video2world" else (_UPSAMPLER_P1,),
        layouts=("original",),
    )


# num_blocks, num_heads, head_dim, parameters (B): cosmos-predict2 configs/base/config_{text2image,video2world}.py
_PREDICT2_NETS = {
    "0.6B": (20, 20, 64, 0.60),
    "2B": (28, 16, 128, 1.96),
    "14B": (36, 40, 128, 14.26),
}
# REPO_ID_MAPPING of cosmos-predict2 scripts/download_checkpoints.py, commit 661da47
_PREDICT2_REVISIONS = {
    "Cosmos-Predict2-0.6B-Text2Image": "80e9f1599778499e9b5435179861871b5a3561d4",
    "Cosmos-Predict2-2B-Text2Image": "acdb5fde992a73ef0355f287977d002cbfd127e0",
    "Cosmos-Predict2-14B-Text2Image": "015332720f70dd7b497c1cff9fd0c936a77f160b",
    "Cosmos-Predict2-2B-Video2World": "f50c09f5d8ab133a90cac3f4886a6471e9ba3f18",
    "Cosmos-Predict2-14B-Video2World": "03b03a377fede782647afac998f674d9f358e319",
}


def _predict2(size: str, task: Task) -> Model:
    layers, heads, head_dim, params_b = _PREDICT2_NETS[size]
    to_video = task == "video2world"
    name = f"Cosmos-Predict2-{size}-{'Video2World' if to_video else 'Text2Image'}"
    files = ("model-720p-16fps.pt", "tokenizer/*") if to_video else ("model.pt", "tokenizer/*")
    return Model(
        name=name,
        family="predict2",
        size=size,
        task=task,
        repo_id=f"nvidia/{name}",
        revision=_PREDICT2_REVISIONS[name],
        params_b=params_b,
        num_layers=layers,
        num_heads=heads,
        head_dim=head_dim,
        tasks=("image2world", "video2world") if to_video else ("text2image",),
        features=frozenset({"subject_name", "lora"} | ({"extend"} if to_video else set())),
        needs=(_T5,),
        guards=_OPTIONAL_GUARDS,
        upsamplers=(_QWEN_VL,) if to_video else (),
        layouts=("original",) if size == "0.6B" else ("diffusers", "original"),
        original_files=files,
        size_gb=2 * params_b + (0.5 if size == "0.6B" else 10.0),
        # Cosmos2TextToImagePipeline.__call__ of diffusers 0.42.1: 768 x 1360
        shape=None if to_video else ClipShape(1, 1360, 768, 16),
    )


def _predict2_variant(size: str, height_p: int, rate_fps: int) -> Model:
    """Video2World of another resolution or frame rate; they exist in the original layout only."""
    base = _predict2(size, "video2world")
    width_px, height_px = {480: (832, 480), 720: (1280, 704)}[height_p]
    return replace(
        base,
        name=f"{base.name}-{height_p}p-{rate_fps}fps",
        layouts=("original",),
        original_files=(f"model-{height_p}p-{rate_fps}fps.pt", "tokenizer/*"),
        size_gb=2 * base.params_b + 0.5,
        variant=True,
        shape=ClipShape(93, width_px, height_px, rate_fps),
    )


# packages/cosmos-oss/cosmos_oss/checkpoints_predict2.py of cosmos-transfer2.5, commit 2ff49d0
_PREDICT25_ORIGINALS = {
    ("2B", "pre-trained"): "15a82a2ec231bc318692aa0456a36537c806e7d4",
    ("2B", "post-trained"): "15a82a2ec231bc318692aa0456a36537c806e7d4",
    ("14B", "pre-trained"): "03eb354f35eae0d6e0c1be3c9f94d8551e125570",
    ("14B", "post-trained"): "2bc4ca5ba5a20b9858a7ddb856bc82d70b030fbe",
}


def _predict25(size: str, stage: str) -> Model:
    layers, heads, head_dim, params_b = _PREDICT2_NETS[size]
    suffix = "" if stage == "post-trained" else "-Pre-Trained"
    return Model(
        name=f"Cosmos-Predict2.5-{size}{suffix}",
        family="predict2.5",
        size=size,
        task="video2world",
        repo_id=f"nvidia/Cosmos-Predict2.5-{size}",
        # docs/source/en/api/pipelines/cosmos.md of diffusers: a branch, locked at the first download
        revision=f"diffusers/base/{stage}",
        params_b=params_b,
        num_layers=layers,
        num_heads=heads,
        head_dim=head_dim,
        text_encoder="reason1-7b",
        text_encoder_params_b=8.29,
        tasks=("text2image", "text2world", "image2world", "video2world"),
        features=frozenset({"subject_name", "lora", "extend"}),
        needs=(_REASON1,),
        guards=_OPTIONAL_GUARDS,
        upsamplers=(_QWEN_VL,),
        layouts=("diffusers", "original"),
        original_files=(f"base/{stage}/*.pt", "tokenizer.pth"),
        original_revision=_PREDICT25_ORIGINALS[size, stage],
        variant=stage != "post-trained",
        size_gb=2 * params_b + 17.0,
    )


def _transfer25() -> Model:
    base = _predict25("2B", "post-trained")
    return replace(
        base,
        name="Cosmos-Transfer2.5-2B",
        family="transfer2.5",
        task="control2world",
        tasks=("control2world",),
        repo_id="nvidia/Cosmos-Transfer2.5-2B",
        revision="diffusers/general",
        # 28 blocks and a control branch of four: Cosmos-Transfer2.5 in diffusers' convert script
        params_b=2.36,
        features=base.features | _ALL_CONTROLS,
        upsamplers=(),
        original_files=("general/*/*.pt",),
        # checkpoints_transfer2.py of cosmos-transfer2.5, commit 2ff49d0
        original_revision="bd963eabcfc2d61dc4ea365cacf41d45ac480aa5",
        size_gb=23.0,
    )


# layers, width, heads, kv heads, mlp width, parameters (B), of those in a denoising step (B)
_COSMOS3_NETS = {
    "Edge": (28, 2048, 16, 8, 9216, 4.0, 1.41),
    "Nano": (36, 4096, 32, 8, 12288, 16.0, 7.0),
    "Super": (64, 5120, 64, 8, 25600, 64.0, 31.2),
}


def _cosmos3(
    size: str, name: str = "", *, task: Task = "text2world", revision: str = "main"
) -> Model:
    layers, width, heads, kv_heads, mlp_width, params_b, active_b = _COSMOS3_NETS[size]
    family = FAMILIES["cosmos3"]
    everything = frozenset({"lora", "extend", "subject_name", "sound"}) | _ALL_CONTROLS
    actions = {"action_forward_dynamics", "action_inverse_dynamics", "action_policy"}
    return Model(
        name=name or f"Cosmos3-{size}",
        family="cosmos3",
        size=size,
        task=task,
        repo_id=f"nvidia/{name or f'Cosmos3-{size}'}",
        revision=revision,
        licence=LICENCE_OPENMDW,
        params_b=params_b,
        active_params_b=active_b,
        num_layers=layers,
        width=width,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=128,
        mlp_width=mlp_width,
        gated_mlp=True,
        text_encoder="",
        text_encoder_params_b=0.0,
        latent_channels=48,
        spatial_stride=16,
        tasks=family.tasks,
        features=everything | actions,
        guards=_OPTIONAL_GUARDS,
        size_gb=2 * params_b + 3.0,
    )


def _edge(model: Model) -> Model:
    """Edge has an MLP of two matrices and no sound; defaults of the cookbook's run_with_diffusers.ipynb."""
    return replace(
        model,
        gated_mlp=False,
        tasks=tuple(task for task in model.all_tasks if task != "sound"),
        features=model.features - {"sound"},
        shape=ClipShape(121, 832, 480, 24),
        num_steps=50,
        guidance=5.0,
    )


def _cosmos3_distilled(name: str, *, task: Task) -> Model:
    """Distilled to four steps without guidance (cookbooks/cosmos3/generator/audiovisual/distill)."""
    return replace(
        _cosmos3("Super", name, task=task),
        tasks=(task,),
        features=frozenset({"distilled"}),
        num_steps=4,
        guidance=1.0,
        samplers=("flow_euler",),
        shape=ClipShape(1, 1280, 720, 24) if task == "text2image" else None,
    )


def _cosmos3_line() -> Iterator[Model]:
    # the sha that https://huggingface.co/api/models/nvidia/Cosmos3-Edge showed on 2026-08-26
    yield _edge(_cosmos3("Edge", revision="a9d944e2c6a1bf9f48b92ad16348e70c5f1836ba"))
    yield _cosmos3("Nano")
    yield _cosmos3("Super")
    still = ClipShape(1, 1280, 720, 24)
    text2image = _cosmos3("Super", "Cosmos3-Super-Text2Image", task="text2image")
    yield replace(text2image, tasks=("text2image",), features=frozenset({"lora"}), shape=still)
    image2video = _cosmos3("Super", "Cosmos3-Super-Image2Video", task="image2world")
    yield replace(image2video, tasks=("image2world",), features=frozenset({"lora", "extend"}))
    yield _cosmos3_distilled("Cosmos3-Super-Text2Image-4Step", task="text2image")
    yield _cosmos3_distilled("Cosmos3-Super-Image2Video-4Step", task="image2world")
    for size in ("Nano", "Edge"):
        policy = _cosmos3(size, f"Cosmos3-{size}-Policy-DROID", task="action")
        policy = _edge(policy) if size == "Edge" else policy
        yield replace(policy, tasks=("action",), features=frozenset({"action_policy"}))


def _tiny(name: str, parent: Model, **changes: object) -> Model:
    """A random model of a parent's kind: two narrow layers, small clips, nothing to download."""
    shape = TINY_SHAPE if parent.default_shape.num_frames > 1 else replace(TINY_SHAPE, num_frames=1)
    small = replace(
        parent,
        name=name,
        size="tiny",
        repo_id="",
        revision="tiny",
        licence="Apache-2.0",
        params_b=0.001,
        active_params_b=0.0,
        num_layers=2,
        num_heads=2,
        head_dim=16,
        width=0,
        num_kv_heads=0,
        mlp_width=0,
        text_encoder_params_b=0.0001 if parent.text_encoder else 0.0,
        needs=(),
        guards=(),
        upsamplers=(),
        layouts=("diffusers",),
        original_revision="",
        size_gb=0.01,
        shape=shape,
        num_steps=2,
        tiny=True,
    )
    return replace(small, **changes)  # type: ignore[arg-type]


def _all() -> Iterator[Model]:
    sizes = ("7B", "14B")
    for task in ("text2world", "video2world"):
        yield from (_cosmos1(size, task) for size in sizes)
        yield from (_predict1(size, task) for size in sizes)
    yield from (_predict2(size, "text2image") for size in ("0.6B", "2B", "14B"))
    for size in ("2B", "14B"):
        yield _predict2(size, "video2world")
        for height_p, rate_fps in ((480, 10), (480, 16), (720, 10), (720, 16)):
            yield _predict2_variant(size, height_p, rate_fps)
        yield _predict25(size, "post-trained")
        yield _predict25(size, "pre-trained")
    yield _transfer25()
    yield from _cosmos3_line()
    yield _tiny("Tiny-Cosmos-1.0-Text2World", _cosmos1("7B", "text2world"))
    yield _tiny("Tiny-Cosmos-1.0-Video2World", _cosmos1("7B", "video2world"))
    yield _tiny("Tiny-Cosmos-Predict2-Text2Image", _predict2("2B", "text2image"))
    yield _tiny("Tiny-Cosmos-Predict2-Video2World", _predict2("2B", "video2world"))
    yield _tiny("Tiny-Cosmos-Predict2.5", _predict25("2B", "post-trained"))
    yield _tiny("Tiny-Cosmos-Transfer2.5", _transfer25())
    yield _tiny("Tiny-Cosmos3", _cosmos3("Nano"))
    yield _tiny("Tiny-Cosmos3-Edge", _edge(_cosmos3("Edge")))
    four_steps = _cosmos3_distilled("Cosmos3-Super-Image2Video-4Step", task="image2world")
    yield _tiny("Tiny-Cosmos3-4Step", four_steps, num_steps=4)


MODELS: Mapping[str, Model] = MappingProxyType({model.name: model for model in _all()})


def model(name: str) -> Model:
    """The model with a name.

    Raises:
        UnknownKeyError: If there is none.

    Example:
        >>> model("Cosmos3-Nano").licence
        'OpenMDW-1.1'
    """
    if name not in MODELS:
        raise UnknownKeyError("world model", name, MODELS)
    return MODELS[name]


def companion(name: str) -> Companion:
    """The companion folder with a name.

    Raises:
        UnknownKeyError: If there is none.
    """
    if name not in COMPANIONS:
        raise UnknownKeyError("companion folder", name, COMPANIONS)
    return COMPANIONS[name]


# which line a size belongs to in the public download scripts; 14B alone is of the oldest line
_LINE_OF_SIZE = {
    "7B": "cosmos1",
    "0.6B": "predict2",
    "2B": "predict2",
    "Edge": "cosmos3",
    "Nano": "cosmos3",
    "Super": "cosmos3",
}


def select(sizes: tuple[str, ...], types: tuple[str, ...], *, line: str = "") -> tuple[Model, ...]:
    """Models by the sizes and types of the public download scripts.

    Args:
        sizes: `7B`, `14B`, `2B`, `Nano` ...; empty takes every size of the line.
        types: `Text2World`, `Video2World`, `Text2Image`, `Control2World`, in any case; empty takes every type.
        line: Key of a family; empty follows from the sizes: 7B and 14B are Cosmos 1.0, 2B and 14B are Predict2,
            Edge, Nano and Super are Cosmos 3.

    Returns:
        Published models in the order of the registry, without tiny ones and variants.

    Raises:
        UnknownKeyError: If there is no such family.
        MalformedRecordError: If nothing has such a size and type.

    Example:
        >>> [one.name for one in select(("2B", "14B"), ("Video2World",))]
        ['Cosmos-Predict2-2B-Video2World', 'Cosmos-Predict2-14B-Video2World']
    """
    if line and line not in FAMILIES:
        raise UnknownKeyError("family of world models", line, FAMILIES)
    lines = {line} if line else {_LINE_OF_SIZE[size] for size in sizes if size in _LINE_OF_SIZE}
    lines = lines or {"cosmos1"}
    wanted = {kind.casefold() for kind in types}
    found = tuple(
        one
        for one in MODELS.values()
        if one.family in lines
        and not (one.tiny or one.variant)
        and (not sizes or one.size in sizes)
        and (not wanted or wanted & set(one.all_tasks))
    )
    if not found:
        raise MalformedRecordError(
            "models to download",
            {"sizes": list(sizes), "types": list(types), "families": sorted(lines)},
            "sizes and types that exist together",
            "See `worldloop models list`.",
        )
    return found
