"""Families of world models: what each one can be asked for, its defaults, and what it refuses."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

Task = Literal[
    "text2image", "text2world", "image2world", "video2world", "control2world", "action", "sound"
]
GuardrailPolicy = Literal["required", "optional"]


@dataclass(frozen=True)
class ClipShape:
    """The shape of a generated clip.

    Attributes:
        num_frames: Length in frames; 1 is a picture.
        width_px: Width.
        height_px: Height.
        rate_fps: Frames per second.
    """

    num_frames: int
    width_px: int
    height_px: int
    rate_fps: int

    @property
    def duration_s(self) -> float:
        """Seconds of footage."""
        return self.num_frames / self.rate_fps


@dataclass(frozen=True)
class Family:
    """What all models of a family have in common.

    Attributes:
        key: `cosmos1`, `predict1`, `predict2`, `predict2.5`, `transfer2.5` or `cosmos3`.
        title: As a reader knows it.
        tasks: What its models can do.
        shape: Default shape.
        num_steps: Default denoising steps.
        guidance: Default guidance scale.
        samplers: Names of the samplers it takes, the default one first.
        seed: Default seed.
        rate_fps: Least and most frames per second.
        sizes_px: (width, height) pairs that it takes; empty takes any multiple of `multiple_px`.
        frame_counts: Legal clip lengths; empty takes any 1 + k * `frame_stride`.
        frame_stride: Frames per latent frame after the first.
        multiple_px: Sides are multiples of this.
        conditioning_frames: Legal counts of conditioning frames.
        long_video: What happens to a conditioning video that is longer than that, in words.
        short_video: What happens to one that is shorter.
        other_size: What happens to a conditioning picture of another size.
        picture_types: Suffixes of conditioning pictures.
        max_prompt_tokens: Tokens that the text encoder takes.
        word_limit_to_skip_upsampler: Longer prompts are not upsampled; 0 has no limit.
        negative_prompt: The full default.
        guardrail: Whether guards can be turned off.
    """

    key: str
    title: str
    tasks: tuple[Task, ...]
    shape: ClipShape
    num_steps: int
    guidance: float
    samplers: tuple[str, ...]
    guardrail: GuardrailPolicy
    negative_prompt: str
    seed: int = 1
    rate_fps: tuple[int, int] = (1, 60)
    sizes_px: tuple[tuple[int, int], ...] = ()
    frame_counts: tuple[int, ...] = ()
    frame_stride: int = 4
    multiple_px: int = 16
    conditioning_frames: tuple[int, ...] = (1,)
    long_video: str = ""
    short_video: str = ""
    other_size: str = ""
    picture_types: tuple[str, ...] = (".png", ".jpg", ".jpeg")
    max_prompt_tokens: int = 512
    word_limit_to_skip_upsampler: int = 0
    features: frozenset[str] = field(default_factory=frozenset)


FAMILIES: Mapping[str, Family] = MappingProxyType({})
