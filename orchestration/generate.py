"""`worldloop generate`: one clip or a batch by hand, with the flags that users of Cosmos know.

The flags (`wanted_clips`) become a `CosmosGenerateSpec` here; the job that the graph starts too
(`spec_runs`) makes the clips and saves `NAME.mp4` beside `NAME.txt`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from gpu_jobs.cosmos_generate.spec import AUTO, CosmosGenerateSpec
from orchestration.wanted_clips import Kind, Wanted, requests_of
from worldloop.cosmos.asking import check_extension, check_request
from worldloop.cosmos.companions import COMPANIONS
from worldloop.cosmos.families import ClipShape
from worldloop.cosmos.gates import check_gate
from worldloop.cosmos.guards import check_policy, default_guards
from worldloop.cosmos.models import MODELS, Model, model
from worldloop.cosmos.profiles import profile
from worldloop.cosmos.tiers import TIERS, tier_shape
from worldloop.cosmos.upsampling import default_upsampler, plan_upsampling, upsampler_kind
from worldloop.errors import MalformedRecordError
from worldloop.seeds import content_id

DEFAULT_MODELS: Mapping[Kind, str] = {
    "text2world": "Cosmos-1.0-Diffusion-7B-Text2World",
    "video2world": "Cosmos-1.0-Diffusion-7B-Video2World",
    "text2image": "Cosmos-Predict2-2B-Text2Image",
    "control2world": "Cosmos-Transfer2.5-2B",
}
_CONTROLLED_MODEL = (
    "Cosmos-1.0-Diffusion-7B-Video2World"  # that control folders of the guides go with
)


def build_spec(
    wanted: Wanted, *, scratch: Path, revision: Callable[[str], str]
) -> CosmosGenerateSpec:
    """The job's spec for what was asked for, checked.

    Args:
        wanted: From the command line.
        scratch: Folder for unfinished runs; the spec's own folder in it follows from its content.
        revision: From the name of a model to the commit that is on disk.

    Raises:
        UnknownKeyError: If a model, profile, tier or upsampler is unknown.
        MalformedRecordError: If the model cannot make what is asked for.
    """
    chosen, transformer_dir = _model_of(wanted)
    family = chosen.record
    _check_tokenizer(wanted, chosen)
    _check_memory_cap(wanted.memory_cap_gb)
    shape, speed = _shape_of(wanted, chosen), profile(_profile_of(wanted))
    if not chosen.tiny:
        check_gate(speed.name, family=family.key, accept_failed=wanted.accept_failed_gate)
    upsampler = _upsampler_of(wanted, chosen)
    num_steps = wanted.num_steps
    if num_steps is None:
        num_steps = speed.num_steps or _tier_steps(wanted) or chosen.default_steps
    guidance = chosen.default_guidance if wanted.guidance is None else wanted.guidance
    sampler = _sampler_of(wanted, chosen)
    requests = requests_of(wanted, chosen, upsampler)
    for request in requests:
        if upsampler:
            plan_upsampling(
                family,
                wanted.kind,
                request,
                enabled=True,
                upsampler=upsampler["name"],
                mode=upsampler["mode"],
            )
        check_request(
            request,
            model=chosen,
            shape=shape,
            num_steps=num_steps,
            guidance=guidance,
            sampler=sampler,
            upsampler=upsampler.get("mode", ""),
            cp_size=wanted.cp_size or wanted.num_devices,
            num_devices=wanted.num_devices,
        )
    overlap = _overlap_of(family.conditioning_frames, shape)
    check_extension(
        model=chosen,
        shape=shape,
        extend_to_frames=wanted.extend_to_frames,
        overlap_frames=overlap,
    )
    spec = CosmosGenerateSpec(
        model=chosen.name,
        revision=revision(chosen.name),
        checkpoint_dir=str(Path(wanted.checkpoint_dir).absolute()),
        requests=tuple(request.to_record() for request in requests),
        shape=asdict(shape),
        num_steps=num_steps,
        guidance=guidance,
        sampler=sampler,
        profile=speed.to_record(),
        staging_dir="",
        transformer_dir=transformer_dir,
        loras=tuple(_lora(wanted, path) for path in wanted.loras),
        upsampler=upsampler,
        guards=_guards_of(wanted, chosen),
        offload=AUTO if wanted.offload is None else wanted.offload,
        extend_to_frames=wanted.extend_to_frames,
        overlap_frames=overlap,
        save_dir=str(wanted.save_place[0].absolute()),
        max_failed_share=1.0,  # a person gets what could be made, and hears of the rest
        cp_size=wanted.cp_size or wanted.num_devices,
        memory_cap_gb=wanted.memory_cap_gb,
    )
    run_id = content_id({key: value for key, value in asdict(spec).items() if key != "offload"})
    return replace(spec, staging_dir=str(scratch / run_id))


def _model_of(wanted: Wanted) -> tuple[Model, str]:
    """The model, and the folder of post-trained weights if there is one."""
    named = wanted.diffusion_transformer_dir.rstrip("/")
    if wanted.nemo_checkpoint:
        if not Path(wanted.nemo_checkpoint).is_dir():
            raise MalformedRecordError(
                "--nemo_checkpoint",
                wanted.nemo_checkpoint,
                "a folder of weights",
                "Check the path.",
            )
        base = wanted.model or named or _default_model(wanted)
        return model(base), str(Path(wanted.nemo_checkpoint).absolute())
    if wanted.model:
        return model(wanted.model), named if named != wanted.model else ""
    if not named or named in MODELS:
        return model(named or _default_model(wanted)), ""
    if not (Path(wanted.checkpoint_dir) / named).is_dir():
        return model(named), ""  # neither a model nor a folder: says which models there are
    return model(_base_of(named) or _default_model(wanted)), named


def _default_model(wanted: Wanted) -> str:
    if wanted.kind == "control2world" and wanted.ctrl_model_dir:
        return _CONTROLLED_MODEL
    return DEFAULT_MODELS[wanted.kind]


def _base_of(folder: str) -> str:
    """The model whose post-trained weights a folder holds, by its name; empty if that says nothing.

    Example:
        >>> _base_of("Cosmos-Predict1-7B-Video2World_post-trained-lora")
        'Cosmos-Predict1-7B-Video2World'
    """
    name = folder.rpartition("/")[2]
    return max((known for known in MODELS if name.startswith(known)), key=len, default="")


def _check_tokenizer(wanted: Wanted, chosen: Model) -> None:
    """Refuse a tokenizer of another model: latents of one are noise to the other."""
    own = [name for name in chosen.needs if COMPANIONS[name].role == "tokenizer"]
    if wanted.tokenizer_dir and wanted.tokenizer_dir.rstrip("/") not in own:
        raise MalformedRecordError(
            f"--tokenizer_dir of {chosen.name}",
            wanted.tokenizer_dir,
            own[0] if own else "none, because its own folder holds it",
            "Leave it out; a tokenizer of your own goes into the model's folder as vae/.",
        )


def _check_memory_cap(cap_gb: float) -> None:
    if not math.isfinite(cap_gb) or cap_gb < 0:
        raise MalformedRecordError(
            "--memory_cap_gb", cap_gb, "GB of GPU memory, or 0 for all of it", "Leave it out."
        )


def _shape_of(wanted: Wanted, chosen: Model) -> ClipShape:
    base = tier_shape(wanted.tier, chosen) if wanted.tier else chosen.default_shape
    return ClipShape(
        base.num_frames if wanted.num_video_frames is None else wanted.num_video_frames,
        base.width_px if wanted.width is None else wanted.width,
        base.height_px if wanted.height is None else wanted.height,
        base.rate_fps if wanted.fps is None else wanted.fps,
    )


def _profile_of(wanted: Wanted) -> str:
    if wanted.profile:
        return wanted.profile
    return TIERS[wanted.tier].profile if wanted.tier else "exact"


def _overlap_of(counts: Sequence[int], shape: ClipShape) -> int:
    """As many frames as the model can go on from, and fewer than one part has."""
    return max((count for count in counts if count < shape.num_frames), default=min(counts))


def _tier_steps(wanted: Wanted) -> int:
    return TIERS[wanted.tier].num_steps if wanted.tier else 0


def _sampler_of(wanted: Wanted, chosen: Model) -> str:
    """The sampler by its name in any case: the guides write RES."""
    for known in chosen.known_samplers:
        if wanted.sampler.casefold() == known:
            return known
    return wanted.sampler or chosen.known_samplers[0]


def _upsampler_of(wanted: Wanted, chosen: Model) -> dict[str, Any]:
    """The upsampler's part of the spec; empty if prompts are taken as they are."""
    if wanted.disable_prompt_upsampler or (chosen.tiny and not wanted.prompt_upsampler_dir):
        return {}
    default = default_upsampler(chosen.record, wanted.kind)
    if not wanted.prompt_upsampler_dir and default is None:
        return {}
    named = wanted.prompt_upsampler_dir.rstrip("/")
    kind = upsampler_kind(named or (default[0] if default else ""))
    mode = default[1] if default and default[0] == kind.name else kind.modes[0]
    limit = wanted.word_limit_to_skip_upsampler
    return {
        "name": kind.name,
        "mode": mode,
        "dir": str(Path(wanted.checkpoint_dir).absolute() / (named or kind.name)),
        "word_limit": chosen.record.word_limit_to_skip_upsampler if limit is None else limit,
    }


def _guards_of(wanted: Wanted, chosen: Model) -> dict[str, Any]:
    """The guards' part of the spec; refused where a family does not allow to leave them out."""
    folder = str(Path(wanted.checkpoint_dir).absolute())
    none: dict[str, Any] = {"text": [], "video": [], "dir": folder}
    if chosen.tiny:
        return none
    if wanted.disable_guardrail and chosen.record.guardrail == "required":
        raise MalformedRecordError(
            "--disable_guardrail",
            chosen.name,
            "a family from Predict2 on, because the guardrail of this one cannot be turned off",
            f"Leave it out, and install the guards: worldloop models download {chosen.name} --guardrail",
        )
    guards = none if wanted.disable_guardrail else default_guards(chosen.record, folder=folder)
    check_policy(chosen.record, guards)
    return guards


def _lora(wanted: Wanted, path: str) -> dict[str, Any]:
    if not Path(path).exists():
        raise MalformedRecordError(
            "--lora", path, "a folder or file of an adapter", "Check the path."
        )
    return {"path": str(Path(path).absolute()), "weight": wanted.lora_weight}
