"""Prompt upsampling: which model writes a prompt anew, from what, and when it is left alone.

Three modes: `text` makes a long prompt of a short one, `picture` describes the first picture and
ignores the user's words, `picture_and_text` writes the user's words anew with the picture in view.
The upsamplers themselves are in `gpu_jobs.cosmos_generate.upsamplers`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from worldloop.cosmos.companions import PIXTRAL, QWEN_VL, UPSAMPLER_1, UPSAMPLER_P1
from worldloop.cosmos.families import Family, Task
from worldloop.cosmos.requests import ClipRequest
from worldloop.errors import MalformedRecordError, UnknownKeyError

Mode = Literal["text", "picture", "picture_and_text"]
Architecture = Literal["mistral", "pixtral", "qwen2_5_vl"]


@dataclass(frozen=True)
class UpsamplerKind:
    """A model that writes prompts.

    Attributes:
        name: Key in `UPSAMPLERS` and folder in `checkpoint_dir`.
        architecture: Which adapter loads it.
        modes: What it can read, its own mode first.
        max_new_tokens: Length of its answer.
        temperature: Of sampling; 0 always takes the likeliest token.
    """

    name: str
    architecture: Architecture
    modes: tuple[Mode, ...]
    max_new_tokens: int
    temperature: float = 0.0


@dataclass(frozen=True)
class UpsamplingPlan:
    """What happens to one prompt.

    Attributes:
        upsampler: Name of the upsampler; empty leaves the prompt as it is.
        mode: What it reads.
        reason: Why, in words.
    """

    upsampler: str
    mode: Mode
    reason: str


UPSAMPLERS: Mapping[str, UpsamplerKind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            # Lengths and temperatures: cosmos_predict1/diffusion/prompt_upsampler/
            # {text2world,video2world}_prompt_upsampler_inference.py (4ed35fa), and
            # cosmos_predict2/auxiliary/cosmos_reason1.py (661da47). The first one samples at 0.01
            # there, which is the likeliest token but for ties.
            UpsamplerKind(UPSAMPLER_1, "mistral", ("text",), 512),
            UpsamplerKind(UPSAMPLER_P1, "mistral", ("text",), 512),
            UpsamplerKind(PIXTRAL, "pixtral", ("picture",), 400),
            UpsamplerKind(QWEN_VL, "qwen2_5_vl", ("picture_and_text", "picture", "text"), 512),
        )
    }
)


def upsampler_kind(name: str) -> UpsamplerKind:
    """The upsampler with a name; a folder path ends with it.

    Raises:
        UnknownKeyError: If there is none.

    Example:
        >>> upsampler_kind("checkpoints/Pixtral-12B").modes
        ('picture',)
    """
    for kind in UPSAMPLERS.values():
        if name.rstrip("/").endswith(kind.name) or kind.name.endswith(f"/{name}"):
            return kind
    raise UnknownKeyError("prompt upsampler", name, UPSAMPLERS)


def default_upsampler(family: Family, task: Task) -> tuple[str, Mode] | None:
    """The upsampler that a family was published with for a task, or None if it has none.

    Example:
        >>> from worldloop.cosmos.families import family
        >>> default_upsampler(family("cosmos1"), "video2world")
        ('Pixtral-12B', 'picture')
    """
    pictured = task in ("image2world", "video2world")
    if family.key in ("cosmos1", "predict1"):
        if pictured:
            return PIXTRAL, "picture"
        text = UPSAMPLER_1 if family.key == "cosmos1" else UPSAMPLER_P1
        return (text, "text") if task == "text2world" else None
    if family.key in ("predict2", "predict2.5") and pictured:
        return QWEN_VL, "picture_and_text"
    return None


def plan_upsampling(
    family: Family,
    task: Task,
    request: ClipRequest,
    *,
    enabled: bool,
    upsampler: str = "",
    mode: Mode | None = None,
    word_limit: int | None = None,
) -> UpsamplingPlan:
    """Decide what happens to a prompt.

    Args:
        family: Family of the model.
        task: What is made.
        request: The clip.
        enabled: Whether the user wants upsampling.
        upsampler: Its name; empty takes the family's.
        mode: What it reads; None takes its own mode.
        word_limit: Longer prompts are left as they are; None takes the family's, 0 has no limit. It
            does not count where the user's words are not read.

    Raises:
        MalformedRecordError: If there is no prompt and none is written, no picture where one is read,
            no upsampler for this family and task, or one that cannot read that.
        UnknownKeyError: If the upsampler is unknown.

    Example:
        >>> from worldloop.cosmos.families import family
        >>> plan_upsampling(
        ...     family("cosmos1"), "text2world", ClipRequest("a", "A tram."), enabled=True
        ... ).upsampler
        'Cosmos-1.0-Prompt-Upsampler-12B-Text2World'
    """
    if not enabled:
        _require_prompt(request, "the prompt upsampler is off")
        return UpsamplingPlan("", mode or "text", "the prompt upsampler is off")
    name, reads = _choose(family, task, upsampler, mode)
    if reads != "text" and request.conditioning is None:
        raise MalformedRecordError(
            f"clip {request.clip_id!r}",
            "no picture or video",
            f"one, because {name} reads it in mode {reads!r}",
            "Give --input_image_or_video_path, or use mode 'text', or --disable_prompt_upsampler.",
        )
    if reads == "picture":
        return UpsamplingPlan(
            name, reads, "written from the picture; the user's words are not read"
        )
    _require_prompt(request, f"{name} writes anew what it is given in mode {reads!r}")
    limit = family.word_limit_to_skip_upsampler if word_limit is None else word_limit
    words = len(request.prompt.split())
    if limit and words > limit:
        return UpsamplingPlan("", reads, f"{words} words are more than the limit of {limit}")
    return UpsamplingPlan(name, reads, f"{words} words")


def _choose(family: Family, task: Task, upsampler: str, mode: Mode | None) -> tuple[str, Mode]:
    default = default_upsampler(family, task)
    if not upsampler and default is None:
        raise MalformedRecordError(
            f"prompt upsampler of {family.title} for {task}",
            "none named",
            f"a name among {', '.join(UPSAMPLERS)}, because this family has none of its own for it",
            "Name one, or use --disable_prompt_upsampler.",
        )
    kind = upsampler_kind(upsampler) if upsampler else UPSAMPLERS[default[0]]  # type: ignore[index]
    reads = mode or (default[1] if default and default[0] == kind.name else kind.modes[0])
    if reads not in kind.modes:
        raise MalformedRecordError(
            f"mode of the prompt upsampler {kind.name}",
            reads,
            f"one of {', '.join(kind.modes)}",
            "Choose another mode or another upsampler.",
        )
    return kind.name, reads


def _require_prompt(request: ClipRequest, why: str) -> None:
    if not request.prompt.strip():
        raise MalformedRecordError(
            f"prompt of clip {request.clip_id!r}",
            request.prompt,
            f"words, because {why}",
            "Give --prompt, or leave an upsampler on that reads the picture.",
        )
