"""Before the GPU is busy: inputs read, prompts guarded and upsampled. A clip that stops here costs nothing."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gpu_jobs.cosmos_generate.book import Asked, Stopped, stopped_by
from gpu_jobs.cosmos_generate.media import read_media
from gpu_jobs.cosmos_generate.protocol import Decoded, Media
from worldloop.cosmos.asking import task_of
from worldloop.cosmos.families import ClipShape, Family
from worldloop.cosmos.requests import ClipRequest
from worldloop.cosmos.upsampling import UpsamplingPlan, plan_upsampling
from worldloop.errors import ClipRejectedError, WorldloopError

_GUARD_ERRORS = (WorldloopError, RuntimeError, ValueError, OSError)  # others end the job


@dataclass(frozen=True)
class Prepared:
    """A clip that may be generated.

    Attributes:
        request: As it was asked for.
        prompt: What the model reads: upsampled, with the subject.
        upsampled: Whether `prompt` differs from what was asked because of the upsampler.
        negative_prompt: What guidance leads away from.
        media: Decoded inputs.
    """

    request: ClipRequest
    prompt: str
    upsampled: bool
    negative_prompt: str
    media: Media


def prepare(
    asked: Asked, requests: Sequence[ClipRequest], guards: Any, device: Any
) -> tuple[list[Prepared], list[Stopped]]:
    """Read inputs, guard prompts, upsample them and guard them again.

    Returns:
        Clips that may be generated, and those that stopped here.
    """
    inputs, stopped = read_inputs(requests, asked.family, asked.shape)
    safe: list[tuple[ClipRequest, Media, UpsamplingPlan]] = []
    for request, media in inputs:
        plan = upsampling_of(asked, request)
        unread = plan.upsampler and not request.full_prompt  # written from the picture alone
        stop = None if unread else guard_prompt(guards, request, request.full_prompt)
        if stop is None:
            safe.append((request, media, plan))
        else:
            stopped.append(stop)
    prepared = []
    for clip in _upsample(asked, safe, device, stopped):
        stop = guard_prompt(guards, clip.request, clip.prompt) if clip.upsampled else None
        if stop is None:
            prepared.append(clip)
        else:
            stopped.append(stop)
    guards.release_text()
    return prepared, stopped


def upsampling_of(asked: Asked, request: ClipRequest) -> UpsamplingPlan:
    """What happens to a clip's prompt.

    Raises:
        MalformedRecordError: If there is nothing to write a prompt from.
    """
    asks = asked.spec.upsampler
    return plan_upsampling(
        asked.family,
        task_of(request, asked.shape),
        request,
        enabled=bool(asks),
        upsampler=asks.get("name", ""),
        mode=asks.get("mode"),
        word_limit=asks.get("word_limit"),
    )


def read_inputs(
    requests: Iterable[ClipRequest], family: Family, shape: ClipShape
) -> tuple[list[tuple[ClipRequest, Media]], list[Stopped]]:
    """Decode the inputs of every clip; one that cannot be read stops alone."""
    read, stopped = [], []
    for request in requests:
        try:
            read.append((request, read_media(request, family=family, shape=shape)))
        except (WorldloopError, OSError) as error:
            stopped.append(stopped_by(request, "media", error))
    return read, stopped


def guard_prompt(guards: Any, request: ClipRequest, prompt: str) -> Stopped | None:
    """What the text guards say; a guard that fails stops the clip, as if it had said no."""
    try:
        verdict = guards.check_prompt(prompt)
    except _GUARD_ERRORS as error:  # a failing guard must never pass as "safe"
        return stopped_by(request, "guard", error)
    if verdict.safe:
        return None
    return Stopped(request, "guard", verdict.reason, verdict.guard, verdict.category)


def guard_frames(guards: Any, request: ClipRequest, decoded: Decoded) -> Decoded | Stopped:
    """The clip as the video guards let it pass; one that fails or stops the clip says why."""
    try:
        verdict = guards.check_frames(decoded.frames)
    except _GUARD_ERRORS as error:  # a failing guard must never pass as "safe"
        return stopped_by(request, "guard", error)
    if not verdict.safe:
        return Stopped(request, "guard", verdict.reason, verdict.guard, verdict.category)
    return replace(decoded, frames=verdict.frames)


def _upsample(
    asked: Asked,
    clips: Sequence[tuple[ClipRequest, Media, UpsamplingPlan]],
    device: Any,
    stopped: list[Stopped],
) -> list[Prepared]:
    """The prompts that the model will read; the upsampler is loaded only if one of them needs it."""
    loaded, prepared = None, []
    for request, media, plan in clips:
        prompt = request.full_prompt
        if plan.upsampler:
            try:
                loaded = loaded or _load_upsampler(asked, plan.upsampler, device)
                prompt = loaded.upsample(prompt, media.frames, mode=plan.mode, seed=request.seed)
            except ClipRejectedError as error:
                stopped.append(stopped_by(request, "upsample", error))
                continue
        negative = request.negative_prompt
        if negative is None:
            negative = asked.family.negative_prompt
        prepared.append(Prepared(request, prompt, bool(plan.upsampler), negative, media))
    return prepared


def _load_upsampler(asked: Asked, name: str, device: Any) -> Any:
    from gpu_jobs.cosmos_generate.upsamplers import load_upsampler

    return load_upsampler(name, Path(asked.spec.upsampler["dir"]), device)
