"""Memory: what each phase of a generation takes on a GPU, and which parts must leave it to fit.

A phase needs the weights of all parts that stay on the GPU, of the part that works, and its
activations. Two stacks are described by the same formulas: `PUBLISHED` reproduces the memory tables
of the public guides within 5 percent, `OURS` the peaks measured on one H200 (diffusers 0.42.1,
bf16). Parts leave in the order of the guides; the temporal-chunk decode comes last, because its
frames equal those of the whole decode only within a bound. GB are 1e9 bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from types import MappingProxyType
from typing import Literal

from worldloop.cosmos.companions import COMPANIONS
from worldloop.cosmos.families import ClipShape
from worldloop.cosmos.models import MODELS, Model
from worldloop.errors import MalformedRecordError

Part = Literal["prompt_upsampler", "guardrail", "text_encoder", "tokenizer", "transformer"]
Phase = Literal["upsample", "guard", "encode", "begin", "denoise", "decode"]

PARTS: tuple[Part, ...] = (
    "prompt_upsampler",
    "guardrail",
    "text_encoder",
    "tokenizer",
    "transformer",
)
GPU_SIZES_GB = (8, 12, 16, 24, 32, 40, 48, 80, 96, 141, 180, 288)
CONTEXT_GB = 0.6  # CUDA context, cuBLAS and cuDNN workspaces
FRAGMENTATION = 0.03  # share of a card that the caching allocator cannot hand out
_WORKER: Mapping[Phase, Part] = MappingProxyType(
    {
        "upsample": "prompt_upsampler",
        "guard": "guardrail",
        "encode": "text_encoder",
        "begin": "tokenizer",
        "denoise": "transformer",
        "decode": "tokenizer",
    }
)


@dataclass(frozen=True)
class Stack:
    """How much memory an implementation takes.

    Attributes:
        name: What it is.
        text_encoder_bytes: Bytes per parameter of the text encoder.
        activation_bytes: Bytes per token and channel at the peak of a denoising step.
        decode_bytes: Bytes per pixel and frame of a whole decode by AutoencoderKLCosmos (8x8x8).
        wan_bytes: Bytes per pixel of one frame at the peak of a decode by AutoencoderKLWan, which decodes
            latent frame by latent frame.
        chunk_frames: Latent frames that the temporal-chunk decode holds at once.
        upsampler_gb: Activations and cache of a prompt upsampler that reads pictures; a text one takes none to speak of.
    """

    name: str
    text_encoder_bytes: int
    activation_bytes: float
    decode_bytes: float
    wan_bytes: float
    chunk_frames: int
    upsampler_gb: float


# Measured on one H200 (torch 2.11, diffusers 0.42.1, random weights): 7B 121x704x1280 19.6 GiB and 2B
# 93x704x1280 7.7 GiB while denoising; AutoencoderKLCosmos 30.5 GiB, AutoencoderKLWan 10.7 GiB while decoding.
OURS = Stack("worldloop", 2, 28.5, 300.0, 12_200.0, 4, 2.0)
# From the tables of the guides: T5 in float32 (18.6 GB between its two rows), 10.5 GB of activations (14B fully
# offloaded: 39.0 GB), a decode that is never the largest phase.
PUBLISHED = Stack("published", 4, 36.4, 200.0, 12_200.0, 16, 2.0)

_AUTOENCODER_GB = {8: 0.21, 4: 0.25}  # 105 M and 127 M parameters in bf16; by temporal stride
_AUTOENCODER_3_GB = 1.4  # Wan2.2, 705 M parameters
_VIDEO_GUARDS_GB = (
    3.4  # SigLIP so400m, RetinaFace and their activations; with Aegis 16.9 GB as the tables say
)
_GUARD_LLM_GB = {"meta-llama/LlamaGuard-7b": 13.5, "meta-llama/Llama-Guard-3-8B": 16.1}
_CONDITIONING_SHARE = 0.6  # of a decode's activations that encoding takes; not measured


@dataclass(frozen=True)
class MemoryEstimate:
    """Memory of a generation.

    Attributes:
        weights_gb: Of each part, if it is on the GPU.
        phases_gb: Peak of each phase.
        peak_gb: The largest of them.
        phase: Which one that is.
    """

    weights_gb: Mapping[Part, float]
    phases_gb: Mapping[Phase, float]
    peak_gb: float
    phase: Phase


@dataclass(frozen=True)
class OffloadPlan:
    """Which parts leave the GPU while they do not work.

    Attributes:
        offload: Names of parts, in `PARTS`.
        chunked_decode: Whether the video autoencoder decodes in temporal chunks.
        peak_gb: Expected peak.
        phase: Phase of the peak.
        fits: Whether that is within the card.
    """

    offload: frozenset[Part]
    chunked_decode: bool
    peak_gb: float
    phase: Phase
    fits: bool

    @property
    def frames_per_chunk(self) -> int:
        """Latent frames that are decoded at once; 0 decodes the whole."""
        return OURS.chunk_frames if self.chunked_decode else 0

    @property
    def summary(self) -> str:
        """The plan in few words.

        Example:
            >>> OffloadPlan(frozenset(PARTS), True, 21.1, "denoise", True).summary
            'one part at a time; decode in chunks'
        """
        if "transformer" not in self.offload:
            return self.title
        return f"one part at a time{'; decode in chunks' if self.chunked_decode else ''}"

    @property
    def title(self) -> str:
        """The plan in words.

        Example:
            >>> OffloadPlan(frozenset({"guardrail", "prompt_upsampler"}), False, 57.1, "decode", True).title
            'offload prompt_upsampler, guardrail'
        """
        parts = [part for part in PARTS if part in self.offload]
        words = [f"offload {', '.join(parts)}"] if parts else ["all parts stay"]
        return "; ".join(words + (["decode in chunks"] if self.chunked_decode else []))


def estimate(
    model: Model,
    shape: ClipShape,
    *,
    offloaded: frozenset[Part] = frozenset(),
    chunked_decode: bool = False,
    batch_size: int = 1,
    guardrail: bool = True,
    upsampler: bool = False,
    fp8: bool = False,
    stack: Stack = OURS,
) -> MemoryEstimate:
    """Estimate the peak of every phase.

    Args:
        model: The model.
        shape: Of every clip.
        offloaded: Parts that are on the GPU only while they work.
        chunked_decode: Whether decoding goes by temporal chunks.
        batch_size: Clips denoised together.
        guardrail: Whether guards run.
        upsampler: Whether the model's own prompt upsampler runs.
        fp8: Whether large linear layers hold their weights in FP8.
        stack: Whose memory is meant.

    Returns:
        Weights and peaks, in GB of 1e9 bytes, without what the CUDA context takes.
    """
    weights = part_weights(model, guardrail=guardrail, upsampler=upsampler, fp8=fp8, stack=stack)
    resident = sum(gb for part, gb in weights.items() if part not in offloaded)
    phases: dict[Phase, float] = {}
    for phase, activations in _activations(model, shape, chunked_decode, batch_size, stack).items():
        part = _WORKER[phase]
        if part in weights:
            phases[phase] = resident + activations + (weights[part] if part in offloaded else 0.0)
    peak = max(phases, key=lambda phase: phases[phase])
    return MemoryEstimate(weights, phases, phases[peak], peak)


def part_weights(
    model: Model, *, guardrail: bool, upsampler: bool, fp8: bool = False, stack: Stack = OURS
) -> dict[Part, float]:
    """GB of the weights of each part that a generation has."""
    weights: dict[Part, float] = {}
    if upsampler and model.upsamplers:
        weights["prompt_upsampler"] = COMPANIONS[model.upsamplers[0]].size_gb
    if guardrail and not model.tiny:
        weights["guardrail"] = _VIDEO_GUARDS_GB + sum(
            _GUARD_LLM_GB.get(name, 0.0) for name in model.guards
        )
    if model.text_encoder:
        weights["text_encoder"] = model.text_encoder_params_b * stack.text_encoder_bytes
    weights["tokenizer"] = (
        _AUTOENCODER_3_GB if model.latent_channels == 48 else _AUTOENCODER_GB[model.temporal_stride]
    )
    weights["transformer"] = model.params_b * (1.05 if fp8 else 2.0)
    return weights


def plan_offload(
    model: Model,
    shape: ClipShape,
    gpu_gb: float,
    *,
    batch_size: int = 1,
    guardrail: bool = True,
    upsampler: bool = False,
    fp8: bool = False,
) -> OffloadPlan:
    """The smallest plan that fits a card, or the largest plan with `fits` false.

    Less memory never offloads less: the plans are one chain, each a superset of the one before.

    Args:
        model: The model.
        shape: Of every clip.
        gpu_gb: Memory of the card.
        batch_size: Clips denoised together.
        guardrail: Whether guards run.
        upsampler: Whether the model's own prompt upsampler runs.
        fp8: Whether large linear layers hold their weights in FP8.
    """
    weights = part_weights(model, guardrail=guardrail, upsampler=upsampler, fp8=fp8)
    steps: list[frozenset[Part]] = [frozenset({part}) for part in PARTS if part in weights]
    chain = list(accumulate(steps, frozenset.union, initial=frozenset[Part]()))
    levels = [(offloaded, False) for offloaded in chain]
    if model.temporal_stride == 8:  # AutoencoderKLWan goes frame by frame anyway
        levels.append((chain[-1], True))
    plan = None
    for offloaded, chunked in levels:
        need = estimate(
            model,
            shape,
            offloaded=offloaded,
            chunked_decode=chunked,
            batch_size=batch_size,
            guardrail=guardrail,
            upsampler=upsampler,
            fp8=fp8,
        )
        fits = need.peak_gb <= usable_gb(gpu_gb)
        plan = OffloadPlan(offloaded, chunked, need.peak_gb, need.phase, fits)
        if fits:
            return plan
    assert plan is not None  # there is always the plan that offloads nothing
    return plan


def choose_offload(
    model: Model,
    shape: ClipShape,
    gpu_gb: float,
    *,
    batch_size: int = 1,
    guardrail: bool = True,
    upsampler: bool = False,
    fp8: bool = False,
) -> OffloadPlan:
    """The smallest plan that fits a card; arguments as of `plan_offload`.

    Raises:
        MalformedRecordError: If none does; names the smallest card that would do, and a smaller model.
    """
    plan = plan_offload(
        model,
        shape,
        gpu_gb,
        batch_size=batch_size,
        guardrail=guardrail,
        upsampler=upsampler,
        fp8=fp8,
    )
    if plan.fits:
        return plan
    card = smallest_gpu_gb(
        model, shape, batch_size=batch_size, guardrail=guardrail, upsampler=upsampler, fp8=fp8
    )
    smaller = smaller_model(model, shape, gpu_gb, guardrail=guardrail)
    advice = f"Use a GPU of {card} GB" if card else "Use several GPUs, or a smaller shape"
    raise MalformedRecordError(
        f"GPU memory for {model.name} at {shape.num_frames}x{shape.height_px}x{shape.width_px}",
        f"{gpu_gb:g} GB",
        f"about {plan.peak_gb:.1f} GB in the phase {plan.phase!r} with everything else offloaded",
        f"{advice}{f', or the model {smaller.name}' if smaller else ''}.",
    )


def usable_gb(gpu_gb: float) -> float:
    """What a card has left for tensors.

    Example:
        >>> round(usable_gb(24), 2)
        22.68
    """
    return gpu_gb * (1 - FRAGMENTATION) - CONTEXT_GB


def smallest_gpu_gb(
    model: Model,
    shape: ClipShape,
    *,
    batch_size: int = 1,
    guardrail: bool = True,
    upsampler: bool = False,
    fp8: bool = False,
) -> int | None:
    """The smallest usual card that a model fits with everything offloaded; None if there is none."""
    for size in GPU_SIZES_GB:
        plan = plan_offload(
            model,
            shape,
            size,
            batch_size=batch_size,
            guardrail=guardrail,
            upsampler=upsampler,
            fp8=fp8,
        )
        if plan.fits:
            return size
    return None


def smaller_model(
    model: Model, shape: ClipShape, gpu_gb: float, *, guardrail: bool = True
) -> Model | None:
    """The largest published model of the same task that fits a card in its default shape; None if there is none."""
    able = [
        other
        for other in MODELS.values()
        if not (other.tiny or other.variant)
        and other.params_b < model.params_b
        and set(model.all_tasks) & set(other.all_tasks)
        and plan_offload(other, other.default_shape, gpu_gb, guardrail=guardrail).fits
    ]
    same_line = [other for other in able if other.family == model.family]
    return max(same_line or able, key=lambda other: other.params_b, default=None)


def _activations(
    model: Model, shape: ClipShape, chunked_decode: bool, batch_size: int, stack: Stack
) -> dict[Phase, float]:
    """GB beside the weights in each phase."""
    tokens = model.num_tokens(shape) * batch_size
    decode = _decode_gb(model, shape, chunked_decode, stack)
    reads_pictures = model.task != "text2world"
    phases: dict[Phase, float] = {
        "upsample": stack.upsampler_gb if reads_pictures else 0.0,
        "guard": 0.0,
        "encode": 0.3,  # 512 tokens; not measured
        "denoise": tokens * model.token_width * stack.activation_bytes / 1e9,
        "decode": decode,
    }
    if set(model.all_tasks) & {"image2world", "video2world", "control2world"}:
        phases["begin"] = _CONDITIONING_SHARE * decode
    return phases


def _decode_gb(model: Model, shape: ClipShape, chunked: bool, stack: Stack) -> float:
    pixels = shape.width_px * shape.height_px
    frames_out = shape.num_frames * pixels * 3 * 2 / 1e9  # bf16
    if model.temporal_stride == 4:
        return pixels * stack.wan_bytes / 1e9 + frames_out
    whole = shape.num_frames * pixels * stack.decode_bytes / 1e9
    latent_frames = model.latent_size(shape)[0]
    if not chunked or latent_frames <= stack.chunk_frames:
        return whole
    return whole * stack.chunk_frames / latent_frames + frames_out
