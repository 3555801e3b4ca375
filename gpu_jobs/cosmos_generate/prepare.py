"""Before the GPU is busy: inputs read, prompts guarded and upsampled. A clip that stops here costs nothing."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gpu_jobs.cosmos_generate.book import Asked, Stopped, stopped_by
from gpu_jobs.cosmos_generate.media import read_media
from gpu_jobs.cosmos_generate.protocol import Decoded, Media
from worldloop.cosmos.asking import is_upsampled
from worldloop.cosmos.families import ClipShape, Family
from worldloop.cosmos.requests import ClipRequest
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
    safe: list[tuple[ClipRequest, Media]] = []
    for request, media in inputs:
        stop = guard_prompt(guards, request, request.full_prompt)
        if stop is None:
            safe.append((request, media))
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
    clips: Sequence[tuple[ClipRequest, Media]],
    device: Any,
    stopped: list[Stopped],
) -> list[Prepared]:
    """The prompts that the model will read; the upsampler is loaded only if one of them needs it."""
    asks = asked.spec.upsampler
    limit = int(asks.get("word_limit", asked.family.word_limit_to_skip_upsampler))
    upsampler, prepared = None, []
    for request, media in clips:
        prompt, upsampled = request.full_prompt, False
        if asks and is_upsampled(request, model=asked.model, word_limit=limit):
            try:
                if upsampler is None:
                    upsampler = _load_upsampler(asks, device)
                prompt = upsampler.upsample(
                    prompt, media.frames, mode=asks["mode"], seed=request.seed
                )
                upsampled = True
            except ClipRejectedError as error:
                stopped.append(stopped_by(request, "upsample", error))
                continue
        negative = request.negative_prompt
        if negative is None:
            negative = asked.family.negative_prompt
        prepared.append(Prepared(request, prompt, upsampled, negative, media))
    return prepared


def _load_upsampler(asks: Mapping[str, Any], device: Any) -> Any:
    from gpu_jobs.cosmos_generate.upsamplers import load_upsampler

    return load_upsampler(asks["name"], Path(asks["dir"]), device)
