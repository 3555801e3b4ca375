"""Timing: how long a clip takes, from its arithmetic and what was measured on one H200.

A forward pass is the sum of its attention, its linear layers, what is done element by element, and
a launch cost per block. The rates are fitted to ten single passes measured on one H200 (torch 2.11,
random weights) and meet each of them within 8 percent. For another card all rates are scaled by its
dense bf16 peak: an estimate, and marked as one. Text encoding and guards are not in it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from worldloop.cosmos.families import ClipShape
from worldloop.cosmos.models import Model
from worldloop.cosmos.profiles import SpeedProfile
from worldloop.errors import UnknownKeyError

PROMPT_TOKENS = 512
_ATTENTION_TFLOPS = 600.0  # cuDNN in bf16: 621 at 56,320 tokens, 587 at 84,480
_FP8_ATTENTION_TFLOPS = 915.0  # Transformer Engine 2.20: 912 and 929
_SPARSE_ATTENTION_TFLOPS = 390.0  # FlexAttention, of the tiles that it visits
_LINEAR_TFLOPS = 800.0  # bf16
_FP8_LINEAR_TFLOPS = 1450.0  # torch._scaled_mm, row-wise
# seconds per token, channel and block, and per block: eager, compiled, compiled with FP8 linears
_EAGER = (1.4e-10, 5.0e-4)
_COMPILED = (4.0e-11, 2.0e-4)
_COMPILED_FP8 = (3.2e-11, 2.5e-4)
_DECODE_NS_PER_PX = {8: 6.92, 4: 57.0}  # by temporal stride: AutoencoderKLCosmos, AutoencoderKLWan


@dataclass(frozen=True)
class Gpu:
    """A card.

    Attributes:
        name: As its maker calls it.
        memory_gb: Its memory.
        bf16_tflops: Dense peak in bf16, from its data sheet.
        fp8: Whether it multiplies in FP8.
    """

    name: str
    memory_gb: float
    bf16_tflops: float
    fp8: bool = True


GPUS: Mapping[str, Gpu] = MappingProxyType(
    {
        gpu.name: gpu
        for gpu in (
            Gpu("B200", 180, 2250),
            Gpu("H200", 141, 989),
            Gpu("H100", 80, 989),
            Gpu("A100", 80, 312, fp8=False),
            Gpu("RTX PRO 6000", 96, 504),
            Gpu("L40S", 48, 362),
            Gpu("RTX 5090", 32, 210),
            Gpu("RTX 4090", 24, 165),
            Gpu("L4", 24, 121),
            Gpu("RTX 3090", 24, 71, fp8=False),
        )
    }
)
REFERENCE = GPUS["H200"]


@dataclass(frozen=True)
class ClipTime:
    """How long a clip takes.

    Attributes:
        denoise_s: All passes of the transformer.
        decode_s: The video autoencoder.
        num_forwards: Passes of the transformer.
        estimated: Whether the card is not the one that was measured.
    """

    denoise_s: float
    decode_s: float
    num_forwards: int
    estimated: bool

    @property
    def total_s(self) -> float:
        """Denoising and decoding, one after the other."""
        return self.denoise_s + self.decode_s


def gpu(name: str) -> Gpu:
    """The card whose name is in a driver's name of it.

    Raises:
        UnknownKeyError: If none is.

    Example:
        >>> gpu("NVIDIA H100 80GB HBM3").bf16_tflops
        989
    """
    for known in sorted(GPUS, key=len, reverse=True):
        if known.casefold() in name.casefold():
            return GPUS[known]
    raise UnknownKeyError("GPU", name, GPUS)


def gpu_of_size(memory_gb: float) -> Gpu:
    """A usual card with so much memory, for a question that names only that.

    Example:
        >>> gpu_of_size(24).name
        'RTX 4090'
    """
    usual = (
        "RTX 4090",
        "RTX 5090",
        "L40S",
        "H100",
        "RTX PRO 6000",
        "H200",
        "B200",
    )
    fitting = [GPUS[name] for name in usual if GPUS[name].memory_gb <= memory_gb * 1.08]
    return fitting[-1] if fitting else GPUS["RTX 4090"]


def flops_per_forward(model: Model, shape: ClipShape) -> tuple[float, float]:
    """Floating-point operations of one pass over one clip: in attention, and in linear layers.

    Example:
        >>> from worldloop.cosmos.models import model
        >>> attention, linear = flops_per_forward(
        ...     model("Cosmos-1.0-Diffusion-7B-Text2World"), ClipShape(121, 1280, 704, 24)
        ... )
        >>> round((attention + linear) / 1e15, 3)
        2.209
    """
    tokens, width = model.num_tokens(shape), model.token_width
    inner = model.num_heads * model.head_dim
    if model.active_params_b:
        attention = 4.0 * tokens * (tokens + PROMPT_TOKENS) * inner * model.num_layers
        return attention, 2.0 * model.active_params_b * 1e9 * tokens
    attention = 4.0 * tokens * tokens * inner * model.num_layers
    per_token = 2 * (4 * width * inner + 2 * width * inner + 8 * width * width)
    cross = 4.0 * tokens * PROMPT_TOKENS * inner * model.num_layers
    return attention, float(per_token) * tokens * model.num_layers + cross


def forward_s(
    model: Model,
    shape: ClipShape,
    profile: SpeedProfile,
    *,
    dense: bool = True,
    on: Gpu = REFERENCE,
) -> float:
    """Seconds of one pass over one clip.

    Args:
        model: The model.
        shape: Of the clip.
        profile: How it is computed.
        dense: Whether attention is dense in this pass.
        on: The card.
    """
    attention, linear = flops_per_forward(model, shape)
    fp8 = profile.linears != "native" and on.fp8
    if dense or profile.density == 1.0:
        rate = _FP8_ATTENTION_TFLOPS if profile.attention == "fp8" and on.fp8 else _ATTENTION_TFLOPS
    else:
        rate = _SPARSE_ATTENTION_TFLOPS / profile.density
    element_s, launch_s = _EAGER if not profile.compile else _COMPILED_FP8 if fp8 else _COMPILED
    elements = model.num_tokens(shape) * model.token_width * model.num_layers
    arithmetic_s = attention / rate / 1e12 + linear / 1e12 / (
        _FP8_LINEAR_TFLOPS if fp8 else _LINEAR_TFLOPS
    )
    scale = REFERENCE.bf16_tflops / on.bf16_tflops
    return (arithmetic_s + elements * element_s) * scale + launch_s * model.num_layers


def seconds_per_clip(
    model: Model,
    shape: ClipShape,
    profile: SpeedProfile,
    *,
    num_steps: int = 0,
    on: Gpu = REFERENCE,
) -> ClipTime:
    """How long one clip takes, with guidance, step cache and sparsity as the profile has them.

    Args:
        model: The model.
        shape: Of the clip.
        profile: How it is computed.
        num_steps: Denoising steps; 0 takes the profile's, else the model's.
        on: The card.
    """
    steps = num_steps or profile.num_steps or model.default_steps
    steps += model.known_samplers[0] == "res"  # its last pass answers the clean latent
    guided = model.default_guidance > 1.0
    dense, sparse = 0, 0
    for step in range(steps):
        if profile.computed(step, steps):
            passes = 2 if guided and profile.guided(step, steps) else 1
            if profile.dense(step, steps):
                dense += passes
            else:
                sparse += passes
    denoise_s = dense * forward_s(model, shape, profile, on=on)
    if sparse:
        denoise_s += sparse * forward_s(model, shape, profile, dense=False, on=on)
    pixels = shape.num_frames * shape.width_px * shape.height_px
    scale = REFERENCE.bf16_tflops / on.bf16_tflops
    decode_s = pixels * _DECODE_NS_PER_PX[model.temporal_stride] * 1e-9 * scale
    return ClipTime(denoise_s, decode_s, dense + sparse, on.name != REFERENCE.name)
