"""Generate clips with one world model; stops and starts anywhere without losing a clip.

The device's memory sets the order: guards and the upsampler first, then all prompts are encoded and
the text encoder leaves, then batches are denoised while finished ones are decoded, guarded and
encoded beside them (`batches.py`). What stands already is not made again (`book.py`). Run by hand
with `python -m gpu_jobs.cosmos_generate.job spec.json`; under `torchrun` all processes work on one
clip at a time (context parallelism), and the first one alone reads, guards, decodes and writes.
"""

import json
import logging
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from gpu_jobs.common.devices import claim_device
from gpu_jobs.common.entry import run_job
from gpu_jobs.common.processes import Processes, joined_processes
from gpu_jobs.common.staged_clips import new_clip, no_space_is_a_store_error, only_job_in
from gpu_jobs.cosmos_generate.batches import Studio, Work
from gpu_jobs.cosmos_generate.book import Asked, Book, OnClip, Stopped, stopped_by
from gpu_jobs.cosmos_generate.measurements import Measured
from gpu_jobs.cosmos_generate.output import write_clip
from gpu_jobs.cosmos_generate.prepare import Prepared, guard_frames, prepare
from gpu_jobs.cosmos_generate.protocol import Decoded, DenoiseOptions, Media, WorldModel
from gpu_jobs.cosmos_generate.spec import AUTO, CosmosGenerateReport, CosmosGenerateSpec
from worldloop.cosmos.memory import OffloadPlan, choose_offload
from worldloop.cosmos.requests import ClipRequest
from worldloop.cosmos.timing import flops_per_forward
from worldloop.errors import ClipRejectedError, MalformedRecordError

CLIP_MB = 20.0  # a hero clip, for the message of a full disk

log = logging.getLogger(__name__)


def cosmos_generate(
    spec: CosmosGenerateSpec, *, on_clip: OnClip | None = None
) -> CosmosGenerateReport:
    """Generate what is not there yet, then write the pack and what is to be saved.

    Args:
        spec: What to generate and where to.
        on_clip: Called after each clip with its facts: event (`clip_done`, `clip_blocked`,
            `clip_failed`), recipe_id, and ms_per_step, tflops, peak_gpu_gb, guardrail, or stage and
            reason.

    Raises:
        UnknownKeyError: If the model, its sampler or its profile is unknown.
        MalformedRecordError: If a request cannot be what the model makes; nothing has been made then.
        MissingExtraError: If a package that the model needs is not installed.
        JobFailedError: If too many clips failed, or the device is too small or lost.
        StoreError: If the disk is full.
    """
    asked = Asked.read(spec)
    with (
        claim_device(spec.device) as device,
        joined_processes(device) as processes,
        _held_by_first(asked, processes),
    ):
        book = Book(asked, on_clip)
        missing = [request for request in asked.requests if not book.stands(request)]
        pending = processes.share(missing if processes.leads else None)
        if pending:
            _generate(asked, pending, book, device, processes)
        return book.close() if processes.leads else CosmosGenerateReport([], [])


def main() -> None:
    """Read the spec from Pipes or from argv, do the work, report."""
    sys.exit(run_job(CosmosGenerateSpec, cosmos_generate, streams=True))


@contextmanager
def _held_by_first(asked: Asked, processes: Processes) -> Iterator[None]:
    """The first process holds the staging folder for all."""
    if not processes.leads:
        yield
        return
    with no_space_is_a_store_error(asked.staging, clip_mb=CLIP_MB), only_job_in(asked.staging):
        yield


def _generate(
    asked: Asked,
    pending: Sequence[ClipRequest],
    book: Book,
    device_name: str,
    processes: Processes,
) -> None:
    """Make clips on a device; what becomes of each goes into the book."""
    import torch

    from gpu_jobs.common.torch_ops import import_diffusers
    from gpu_jobs.cosmos_generate.residency import cap_memory
    from gpu_jobs.cosmos_generate.vae_chunks import enable_chunks

    import_diffusers()
    device = torch.device(device_name)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # kernels of Triton go to the current device
        cap_memory(asked.spec.memory_cap_gb, device)
    guards, prepared = None, None
    if processes.leads:
        guards, prepared = _prepare(asked, pending, book, device)
    prepared = processes.share(prepared)
    if not prepared:
        return
    world = _load(asked, device, processes)
    plan = _offload_plan(asked, device)
    if plan.frames_per_chunk:
        enable_chunks(world.parts["tokenizer"], plan.frames_per_chunk)
        book.conditions["latent_frames_per_chunk"] = str(plan.frames_per_chunk)
    studio = _studio(asked, world, plan, guards, device, processes)
    if guards is not None:
        studio.guard = partial(_guard, guards, book)
        studio.finish = partial(_finish, asked, book, guards.state)
    works, unread = _encode(studio, prepared)
    for stop in unread:
        book.stopped(stop)
    making = (
        _make_long(asked, studio, works)
        if asked.spec.extend_to_frames
        else studio.run(_batches(works, asked.spec.batch_size))
    )
    for stop in making:
        book.stopped(stop)
    book.recoveries += studio.recoveries


def _prepare(
    asked: Asked, pending: Sequence[ClipRequest], book: Book, device: Any
) -> tuple[Any, list[Prepared]]:
    """The guards, and the clips that may be generated; the others go into the book."""
    from gpu_jobs.cosmos_generate.guardrails import load_guards

    guards = load_guards(
        dict(asked.spec.guards), family=asked.family, tiny=asked.model.tiny, device=device
    )
    prepared, stopped = prepare(asked, pending, guards, device)
    for stop in stopped:
        book.stopped(stop)
    return guards, prepared


def _load(asked: Asked, device: Any, processes: Processes) -> WorldModel:
    """The model, its parts on the CPU; a random one is made where its folder is absent."""
    import torch

    from gpu_jobs.cosmos_generate.backends.registry import load_model
    from gpu_jobs.cosmos_generate.tiny import WRITERS, write_tiny_checkpoint

    checkpoints = Path(asked.spec.checkpoint_dir)
    if asked.model.name in WRITERS and processes.leads:
        write_tiny_checkpoint(asked.model.name, checkpoints)
    processes.share(True if processes.leads else None)  # the others wait until it is there
    return load_model(
        asked.model,
        checkpoints,
        transformer_dir=asked.spec.transformer_dir,
        loras=asked.spec.loras,
        dtype=torch.bfloat16 if device.type == "cuda" else torch.float32,
        device=device,
    )


def _studio(
    asked: Asked,
    world: WorldModel,
    plan: OffloadPlan,
    guards: Any,
    device: Any,
    processes: Processes,
) -> Studio:
    import torch

    from gpu_jobs.cosmos_generate.residency import Residency
    from gpu_jobs.cosmos_generate.speed.apply import apply_profile

    new_policy = apply_profile(world, asked.profile, shape=asked.shape, device=device)
    parts = dict(world.parts)
    if guards is not None and guards.parts:
        parts["guardrail"] = torch.nn.ModuleList(guards.parts.values())
    residency = Residency(
        parts,
        device=device,
        offload=plan.offload,
    )

    def options() -> DenoiseOptions:
        return DenoiseOptions(
            shape=asked.shape,
            num_steps=asked.num_steps,
            guidance=asked.spec.guidance,
            sampler=asked.spec.sampler,
            policy=new_policy(),
        )

    return Studio(world, options, residency, device, leads=processes.leads)


def _offload_plan(asked: Asked, device: Any) -> OffloadPlan:
    """The parts that leave the device and how it decodes, as asked or as its memory needs.

    Raises:
        MalformedRecordError: If the model does not fit, whatever leaves.
    """
    import torch

    spec = asked.spec
    if spec.offload != AUTO:
        named = [spec.offload] if isinstance(spec.offload, str) else spec.offload
        plan = OffloadPlan(frozenset(named), False, 0.0, "denoise", fits=True)  # type: ignore[arg-type]
    elif device.type == "cpu":
        plan = OffloadPlan(frozenset(), False, 0.0, "denoise", fits=True)
    else:
        total_gb = torch.cuda.get_device_properties(device).total_memory / 1e9
        plan = choose_offload(
            asked.model,
            asked.shape,
            spec.memory_cap_gb or total_gb,
            batch_size=spec.batch_size,
            guardrail=bool(spec.guards.get("text") or spec.guards.get("video")),
            upsampler=bool(spec.upsampler),
            fp8=asked.profile.linears != "native",
        )
    words = {"event": "offload_plan", "plan": plan.title, "expected_gb": round(plan.peak_gb, 1)}
    log.info(json.dumps(words))
    return plan


def _encode(studio: Studio, prepared: Sequence[Prepared]) -> tuple[list[Work], list[Stopped]]:
    """Encode all prompts, each text once, and let the text encoder go.

    A prompt that the encoder does not take stops its own clip.
    """
    known: dict[tuple[str, str], Any] = {}
    works, stopped = [], []
    for clip in prepared:
        texts = (clip.prompt, clip.negative_prompt)
        try:
            if texts not in known:
                known[texts] = studio.with_room("encode", partial(studio.world.encode, *texts))
        except MalformedRecordError as error:
            stopped.append(stopped_by(clip.request, "encode", error))
            continue
        works.append(Work(clip, known[texts]))
    studio.residency.release("text_encoder")
    return works, stopped


def _batches(works: Sequence[Work], size: int) -> Iterator[Sequence[Work]]:
    for start in range(0, len(works), size):
        yield works[start : start + size]


def _make_long(asked: Asked, studio: Studio, works: Sequence[Work]) -> Iterator[Stopped]:
    """Long videos, one after the other, each part going on from the last frames of what stands."""
    from gpu_jobs.cosmos_generate.backends.extension import extend

    for work in works:
        measured = Measured()

        def part(
            request: ClipRequest, media: Media, work: Work = work, measured: Measured = measured
        ) -> Decoded:
            clip = replace(work.prepared, request=request, media=media)
            return studio.make(Work(clip, work.embedding), measured)

        request = work.prepared.request
        try:
            decoded = extend(
                asked.model,
                request,
                work.prepared.media,
                generate=part,
                clip_frames=asked.shape.num_frames,
                total_frames=asked.spec.extend_to_frames,
                overlap_frames=asked.spec.overlap_frames,
            )
            studio.complete(work, decoded, measured)
        except ClipRejectedError as error:
            yield stopped_by(request, error.stage, error)


def _guard(guards: Any, book: Book, work: Work, decoded: Decoded) -> Decoded | None:
    """Frames as the video guards let them pass; None, with the clip noted, if they do not."""
    guarded = guard_frames(guards, work.prepared.request, decoded)
    if isinstance(guarded, Decoded):
        return guarded
    book.stopped(guarded)
    return None


def _finish(
    asked: Asked, book: Book, state: str, work: Work, decoded: Decoded, measured: Measured
) -> None:
    """Encode and note one clip; runs beside denoising, once a clip."""
    request, start_s = work.prepared.request, time.thread_time()
    record = generation_record(asked, work.prepared, num_frames=len(decoded.frames))
    with new_clip(asked.staging / request.clip_id) as folder:
        write_clip(folder, decoded, rate_fps=asked.shape.rate_fps, record=record)
        receipt = _receipt(asked, measured, cpu_s=time.thread_time() - start_s)
        noted = book.noted_in(folder, {**receipt, "guardrail": state})  # appears with its clip
    book.finished(request, noted)


def generation_record(asked: Asked, prepared: Prepared, *, num_frames: int) -> dict[str, Any]:
    """Everything that decided a clip, as its `recipe.json` has it; no times, hosts or outcomes."""
    request, spec = prepared.request, asked.spec
    return {
        "model": asked.model.name,
        "revision": spec.revision,
        "transformer_dir": spec.transformer_dir,
        "loras": [dict(lora) for lora in spec.loras],
        "shape": {**spec.shape, "num_frames": num_frames},
        "num_steps": asked.num_steps,
        "guidance": spec.guidance,
        "sampler": spec.sampler,
        "profile": dict(spec.profile),
        "batch_size": spec.batch_size,
        "seed": request.seed,
        "prompt": request.prompt,
        "upsampled_prompt": prepared.prompt if prepared.upsampled else "",
        "negative_prompt": prepared.negative_prompt,
        "subject_name": request.subject_name,
        "conditioning_frames": request.conditioning.num_frames if request.conditioning else 0,
        "controls": [
            {"kind": control.kind, "weight": control.weight} for control in request.controls
        ],
        "action": _action_record(request),
        "sound": request.sound,
        "scene_id": request.scene_id,
        "sketch_recipe_id": request.sketch_recipe_id,
    }


def _action_record(request: ClipRequest) -> dict[str, Any]:
    """What was asked of actions, without the path of their file; empty if nothing was."""
    if request.action is None:
        return {}
    return {name: getattr(request.action, name) for name in ("mode", "domain", "chunk_size")}


def _receipt(asked: Asked, measured: Measured, *, cpu_s: float) -> dict[str, Any]:
    """What a clip took; a batch's seconds are shared evenly."""
    flops = sum(flops_per_forward(asked.model, asked.shape)) * measured.num_clips
    computing_s = measured.step_s * measured.num_steps
    on_gpu = measured.peak_gpu_gb > 0
    return {
        "cpu_s": round(cpu_s, 3),
        "gpu_s": round(measured.gpu_s, 3) if on_gpu else 0.0,
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "ms_per_step": round(1e3 * measured.step_s, 3),
        "tflops": round(flops * measured.num_forwards / max(computing_s, 1e-9) / 1e12, 3),
        "peak_gpu_gb": round(measured.peak_gpu_gb, 3) if on_gpu else None,
        "busy_share": measured.busy_share,
    }


if __name__ == "__main__":
    main()
