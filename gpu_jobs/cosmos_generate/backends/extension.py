"""Long videos: each next part goes on from the last frames of what stands.

`parts` plans, `extend` carries the plan out with any model that takes conditioning frames.
"""

# T frames, H height, W width

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_jobs.cosmos_generate.protocol import (
    Decoded,
    DenoiseOptions,
    Embedding,
    Media,
    Plain,
    StepPolicy,
    WorldModel,
)
from worldloop.cosmos.models import Model
from worldloop.cosmos.requests import ClipRequest, Conditioning
from worldloop.errors import MalformedRecordError
from worldloop.seeds import derive_seed


@dataclass(frozen=True)
class Part:
    """A part of a long video.

    Attributes:
        start: Where its new frames begin in the long video.
        num_new_frames: How many of its frames are kept; the overlap before them is not.
    """

    start: int
    num_new_frames: int


Generate = Callable[[ClipRequest, Media], Decoded]


def parts(total_frames: int, *, clip_frames: int, overlap_frames: int) -> list[Part]:
    """How a long video is put together from clips of one length.

    The first part keeps all of its frames. Each next one repeats `overlap_frames` of what stands
    and adds the rest; the last one is cut so that the length is exact.

    Args:
        total_frames: Length of the long video, at least 1.
        clip_frames: Length of a generated clip.
        overlap_frames: Frames that the next part goes on from, fewer than `clip_frames`.

    Raises:
        MalformedRecordError: If the overlap leaves nothing new, or a length is not positive.

    Example:
        >>> parts(241, clip_frames=121, overlap_frames=9)
        [Part(start=0, num_new_frames=121), Part(start=121, num_new_frames=112), Part(start=233, num_new_frames=8)]
    """
    if total_frames < 1 or clip_frames < 1:
        raise MalformedRecordError(
            "length of a long video",
            (total_frames, clip_frames),
            "at least one frame in all and in a clip",
            "Correct extend_to_frames.",
        )
    if not 1 <= overlap_frames < clip_frames:
        raise MalformedRecordError(
            "overlap of a long video",
            overlap_frames,
            f"1 to {clip_frames - 1} frames, fewer than a clip of {clip_frames} has",
            "Choose a smaller overlap_frames.",
        )
    starts = [0, *range(clip_frames, total_frames, clip_frames - overlap_frames)]
    ends = [*starts[1:], total_frames]
    return [Part(start, end - start) for start, end in zip(starts, ends, strict=True)]


def part_seed(seed: int, part: int) -> int:
    """Seed of a part: the request's own for the first, which so equals the clip that is not extended."""
    return seed if part == 0 else derive_seed("extend", seed, part)


def check_extension(model: Model, *, overlap_frames: int) -> None:
    """Refuse what cannot go on from frames.

    Raises:
        MalformedRecordError: If the model takes no conditioning video, or not that many frames.
    """
    if "extend" not in model.features:
        raise MalformedRecordError(
            f"long video with {model.name}",
            f"a {model.task} model, which takes no conditioning video",
            "a model that goes on from frames, such as Video2World",
            "Choose such a model, or leave out extend_to_frames.",
        )
    legal = model.record.conditioning_frames
    if legal and overlap_frames not in legal:
        raise MalformedRecordError(
            f"overlap of a long video with {model.name}",
            overlap_frames,
            f"one of {legal}",
            "Choose such an overlap_frames.",
        )


def extend(
    model: Model,
    request: ClipRequest,
    media: Media,
    *,
    generate: Generate,
    clip_frames: int,
    total_frames: int,
    overlap_frames: int,
) -> Decoded:
    """Generate a long video part by part.

    Args:
        model: Its entry in the registry of models.
        request: The clip; its seed is the first part's, the others' are derived from it.
        media: Frames that the first part goes on from.
        generate: Makes one clip of `clip_frames`, for example `Generation(...)`; a job passes its
            own to move parts of the model on and off the device.
        clip_frames: Length of what `generate` makes.
        total_frames: Length of the long video.
        overlap_frames: Frames that the next part goes on from.

    Returns:
        Exactly `total_frames` frames. Sound and actions are not carried over.

    Raises:
        MalformedRecordError: If the model cannot go on from so many frames.
    """
    check_extension(model, overlap_frames=overlap_frames)
    plan = parts(total_frames, clip_frames=clip_frames, overlap_frames=overlap_frames)
    standing = generate(request, media).frames[: plan[0].num_new_frames]
    for index, part in enumerate(plan[1:], start=1):
        going_on = replace(
            request,
            seed=part_seed(request.seed, index),
            conditioning=Conditioning(path="", num_frames=overlap_frames),
        )
        last = Media(frames=standing[-overlap_frames:])
        clip = generate(going_on, last).frames
        new = clip[overlap_frames : overlap_frames + part.num_new_frames]
        standing = np.concatenate([standing, new])
    return Decoded(frames=_exactly(standing, total_frames))


@dataclass(frozen=True)
class Generation:
    """Makes one clip at a time with everything on the device; a `Generate`.

    Attributes:
        world_model: The loaded model.
        embedding: Of the prompt, the same for all parts.
        options: How a clip is denoised; its policy is replaced.
        device: Where the model is.
        new_policy: Makes the policy of one clip.
    """

    world_model: WorldModel
    embedding: Embedding
    options: DenoiseOptions
    device: Any
    new_policy: Callable[[], StepPolicy] = Plain

    def __call__(self, request: ClipRequest, media: Media) -> Decoded:
        """Denoise and decode one clip."""
        options = replace(self.options, policy=self.new_policy())
        denoising = self.world_model.begin(
            [request], [self.embedding], options, device=self.device, media=[media]
        )
        for step in range(denoising.num_steps):
            denoising.step(step)
        return self.world_model.decode(denoising.latents()[0], request, options)


def _exactly(frames: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    assert len(frames) == count, f"{len(frames)} frames came out of a plan for {count}"
    return frames
