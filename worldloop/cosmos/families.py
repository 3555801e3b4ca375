"""Families of world models: what each one can be asked for, its defaults, and what it refuses."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

from worldloop.errors import UnknownKeyError

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
        features: What its models may be able to do beyond the tasks: `control_edge`, `control_blur`, `control_depth`,
            `control_seg`, `subject_name`, `lora`, `extend` (long videos); `Model.features` says it for one model.
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


_NEGATIVE_PROMPT = (
    "The video captures a series of frames showing ugly scenes, static with no motion, motion blur, "
    "over-saturation, shaky footage, low resolution, grainy texture, pixelated images, poorly lit "
    "areas, underexposed and overexposed scenes, poor color balance, washed out colors, choppy "
    "sequences, jerky movements, low frame rate, artifacting, color banding, unnatural transitions, "
    "outdated special effects, fake elements, unconvincing visuals, poorly edited content, jump cuts, "
    "visual noise, and flickering. Overall, the video is of poor quality."
)
"""One text for all lines: cosmos_predict1 (diffusion/inference/inference_utils.py), cosmos_predict2
(examples/video2world.py:46, commit 661da47), cosmos_predict2.5 (cosmos_predict2/config.py:124,
commit 50369b8) and the pipelines of diffusers 0.42.1."""

_LAST = "Its last frames condition the clip, as many as were asked for."
_FIRST = "Its first frames condition the clip, as many as were asked for."
_REFUSED = "It is refused: the error names its frames and those that were asked for."
_STRETCHED = "It is resized to the clip's size; its aspect ratio is not kept."
_COVERED = "It is resized to cover the clip's size and cropped about its centre."
CONTROL_FEATURES = frozenset({"control_edge", "control_blur", "control_depth", "control_seg"})

_COSMOS1 = Family(
    key="cosmos1",
    title="Cosmos 1.0 diffusion",
    tasks=("text2world", "image2world", "video2world", "control2world"),
    shape=ClipShape(121, 1280, 704, 24),
    num_steps=35,
    guidance=7.0,
    samplers=("res", "edm_euler"),
    guardrail="required",
    negative_prompt=_NEGATIVE_PROMPT,
    seed=1,
    rate_fps=(12, 40),
    sizes_px=((960, 960), (960, 704), (704, 960), (1280, 704), (704, 1280)),
    frame_counts=(121,),
    frame_stride=8,
    multiple_px=16,
    conditioning_frames=(1, 9),
    long_video=_LAST,
    short_video=_REFUSED,
    other_size=_STRETCHED,
    max_prompt_tokens=512,
    word_limit_to_skip_upsampler=250,
    features=frozenset({"subject_name", "lora", "extend"}) | CONTROL_FEATURES,
)
_PREDICT2 = Family(
    key="predict2",
    title="Cosmos Predict2",
    tasks=("text2image", "image2world", "video2world"),
    shape=ClipShape(93, 1280, 704, 16),
    num_steps=35,
    guidance=7.0,
    samplers=("res", "flow_euler"),
    guardrail="optional",
    negative_prompt=_NEGATIVE_PROMPT,
    seed=1,
    rate_fps=(10, 16),
    frame_stride=4,
    multiple_px=16,
    conditioning_frames=(1, 5),
    long_video=_LAST,
    short_video=_REFUSED,
    other_size=_COVERED,
    max_prompt_tokens=512,
    features=frozenset({"subject_name", "lora", "extend"}),
)
_PREDICT25 = Family(
    key="predict2.5",
    title="Cosmos Predict2.5",
    tasks=("text2image", "text2world", "image2world", "video2world"),
    shape=ClipShape(93, 1280, 704, 16),
    num_steps=36,
    guidance=7.0,
    samplers=("unipc",),
    guardrail="optional",
    negative_prompt=_NEGATIVE_PROMPT,
    seed=1,
    rate_fps=(10, 30),
    frame_stride=4,
    multiple_px=16,
    conditioning_frames=(1, 5),
    long_video=_LAST,
    short_video=_REFUSED,
    other_size=_COVERED,
    max_prompt_tokens=512,
    features=frozenset({"subject_name", "lora", "extend"}),
)

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        family.key: family
        for family in (
            _COSMOS1,
            replace(_COSMOS1, key="predict1", title="Cosmos Predict1 diffusion"),
            _PREDICT2,
            _PREDICT25,
            replace(
                _PREDICT25,
                key="transfer2.5",
                title="Cosmos Transfer2.5",
                tasks=("control2world",),
                guidance=3.0,
                conditioning_frames=(1,),
                long_video="Its first frames are used, as many as the clip has.",
                short_video=f"{_REFUSED} The last frame of a control video is repeated to the clip's length.",
                other_size=_STRETCHED,
                features=_PREDICT25.features | CONTROL_FEATURES,
            ),
            Family(
                key="cosmos3",
                title="Cosmos 3",
                tasks=(
                    "text2image",
                    "text2world",
                    "image2world",
                    "video2world",
                    "control2world",
                    "action",
                    "sound",
                ),
                shape=ClipShape(189, 1280, 720, 24),
                num_steps=35,
                guidance=6.0,
                samplers=("unipc", "flow_euler"),
                guardrail="optional",
                negative_prompt="",
                seed=1,
                rate_fps=(10, 30),
                frame_stride=4,
                multiple_px=16,
                conditioning_frames=(1, 5),
                long_video=_FIRST,
                short_video=_REFUSED,
                other_size=_COVERED,
                max_prompt_tokens=4096,
                features=frozenset({"subject_name", "lora", "extend"}) | CONTROL_FEATURES,
            ),
        )
    }
)


def family(key: str) -> Family:
    """The family with a key.

    Raises:
        UnknownKeyError: If there is none.

    Example:
        >>> family("cosmos1").num_steps
        35
    """
    if key not in FAMILIES:
        raise UnknownKeyError("family of world models", key, FAMILIES)
    return FAMILIES[key]
