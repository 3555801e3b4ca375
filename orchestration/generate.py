"""`worldloop generate`: one clip or a batch by hand, with the flags that users of Cosmos know.

The flags become a `CosmosGenerateSpec`; the job that the graph starts too makes the clips and saves
`NAME.mp4` beside `NAME.txt`. Finished clips of an interrupted run are kept until it has ended well.
"""

import json
import math
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal, get_args

from gpu_jobs.cosmos_generate.spec import AUTO, PARTS, CosmosGenerateSpec
from worldloop.cosmos.asking import check_extension, check_request
from worldloop.cosmos.batch_files import BatchLine, read_batch
from worldloop.cosmos.families import ClipShape
from worldloop.cosmos.gates import check_gate
from worldloop.cosmos.guards import check_policy, default_guards
from worldloop.cosmos.models import COMPANIONS, MODELS, Model, model
from worldloop.cosmos.profiles import profile
from worldloop.cosmos.requests import ClipRequest, Conditioning, Control, ControlKind
from worldloop.cosmos.tiers import TIERS, tier_shape
from worldloop.cosmos.upsampling import default_upsampler, plan_upsampling, upsampler_kind
from worldloop.errors import JobFailedError, MalformedRecordError
from worldloop.seeds import content_id

Kind = Literal["text2world", "video2world", "text2image", "control2world"]
KINDS: tuple[Kind, ...] = get_args(Kind)
DEFAULT_MODELS: Mapping[Kind, str] = {
    "text2world": "Cosmos-1.0-Diffusion-7B-Text2World",
    "video2world": "Cosmos-1.0-Diffusion-7B-Video2World",
    "text2image": "Cosmos-Predict2-2B-Text2Image",
    "control2world": "Cosmos-Transfer2.5-2B",
}
_CONTROLLED_MODEL = (
    "Cosmos-1.0-Diffusion-7B-Video2World"  # that control folders of the guides go with
)
_CONTROL_KINDS: tuple[ControlKind, ...] = get_args(ControlKind)
_JOB = "gpu_jobs.cosmos_generate.job"
_GUARD_PLACES = (
    "Cosmos-1.0-Guardrail",
    "Cosmos-Guardrail1",
    "nvidia/Cosmos-1.0-Guardrail",
    "nvidia/Cosmos-Guardrail1",
    "blocklist",
)


@dataclass(frozen=True)
class Wanted:
    """What was asked for on the command line; None and empty take the default of the model.

    Attributes:
        kind: Which command.
        model: Name in the registry; empty follows `diffusion_transformer_dir`, then the command.
        diffusion_transformer_dir: A registered model, or a folder of post-trained weights in `checkpoint_dir`.
        nemo_checkpoint: Folder of post-trained weights anywhere, in NeMo's distributed format or another.
        checkpoint_dir: Folder of all model folders.
        tokenizer_dir: Folder of the video tokenizer, where it is not the model's own.
        prompt: What to show.
        negative_prompt: None takes the family's.
        input_path: Picture or video to go on from.
        num_input_frames: How many of its frames.
        batch_input_path: JSONL file of many clips instead of one.
        subject_name: Subject of a post-trained model.
        num_steps: Denoising steps.
        guidance: Guidance scale.
        sampler: Name of the sampler.
        seed: Of the initial noise.
        fps: Frames per second.
        height: Pixels.
        width: Pixels.
        num_video_frames: Length.
        tier: Named shape and profile, below what is asked for singly.
        profile: Name of the speed profile; empty takes the tier's, else `exact`.
        video_save_name: Name of a single clip, without suffix.
        video_save_folder: Where to.
        video_save_path: Both in one, with suffix.
        offload: Parts that leave the GPU; None lets the memory decide.
        disable_prompt_upsampler: Whether prompts are taken as they are.
        prompt_upsampler_dir: Its folder in `checkpoint_dir`.
        word_limit_to_skip_upsampler: Longer prompts are taken as they are; None takes the family's.
        accept_failed_gate: Whether a speed profile that failed its quality gate may be used all the same.
        disable_guardrail: Whether guards are left out, where the family allows it.
        num_devices: GPUs that work on one clip.
        cp_size: Context-parallel ranks; 0 takes `num_devices`.
        controls: Control inputs, `kind` or `kind=path` each.
        control_weight: Of each of them.
        ctrl_model_dir: Folder of the control model.
        loras: Folders of LoRA adapters.
        lora_weight: Of each of them.
        extend_to_frames: Length of a long video; 0 for none.
        enable_sound: Whether a sound track is made.
        memory_cap_gb: GPU memory to stay within; 0 for all of it.
    """

    kind: Kind
    model: str = ""
    diffusion_transformer_dir: str = ""
    nemo_checkpoint: str = ""
    checkpoint_dir: str = "checkpoints"
    tokenizer_dir: str = ""
    prompt: str = ""
    negative_prompt: str | None = None
    input_path: str = ""
    num_input_frames: int = 1
    batch_input_path: str = ""
    subject_name: str = ""
    num_steps: int | None = None
    guidance: float | None = None
    sampler: str = ""
    seed: int | None = None
    fps: int | None = None
    height: int | None = None
    width: int | None = None
    num_video_frames: int | None = None
    tier: str = ""
    profile: str = ""
    video_save_name: str = "output"
    video_save_folder: str = "outputs"
    video_save_path: str = ""
    offload: tuple[str, ...] | None = None
    disable_prompt_upsampler: bool = False
    prompt_upsampler_dir: str = ""
    word_limit_to_skip_upsampler: int | None = None
    accept_failed_gate: bool = False
    disable_guardrail: bool = False
    num_devices: int = 1
    cp_size: int = 0
    controls: tuple[str, ...] = ()
    control_weight: float = 1.0
    ctrl_model_dir: str = ""
    loras: tuple[str, ...] = ()
    lora_weight: float = 1.0
    extend_to_frames: int = 0
    enable_sound: bool = False
    memory_cap_gb: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Attributes:
        saved: Videos that were written.
        blocked: Clips that a guard stopped: name, guard, reason.
        failures: Clips that failed: name, stage, reason.
        report: The job's own report.
    """

    saved: tuple[Path, ...]
    blocked: tuple[tuple[str, str, str], ...]
    failures: tuple[tuple[str, str, str], ...]
    report: Mapping[str, Any]


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
    requests = _requests_of(wanted, chosen, upsampler)
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
        save_dir=str(_save_place(wanted)[0].absolute()),
        max_failed_share=1.0,  # a person gets what could be made, and hears of the rest
        cp_size=wanted.cp_size or wanted.num_devices,
        memory_cap_gb=wanted.memory_cap_gb,
    )
    run_id = content_id({key: value for key, value in asdict(spec).items() if key != "offload"})
    return replace(spec, staging_dir=str(scratch / run_id))


def check_ready(spec: CosmosGenerateSpec, *, num_devices: int, num_gpus: int) -> None:
    """Refuse at once what this machine cannot run; tiny models run anywhere.

    Args:
        spec: What is to be made.
        num_devices: GPUs that it is asked to run on.
        num_gpus: GPUs that there are.

    Raises:
        MalformedRecordError: If a folder is missing; names all of them and how to get them.
        JobFailedError: If there are fewer GPUs.
    """
    chosen = model(spec.model)
    if chosen.tiny:
        return
    missing = _missing_folders(spec, chosen)
    if missing:
        without = ""
        if spec.upsampler.get("name") in missing:
            without = ", or do without the upsampler: --disable_prompt_upsampler"
        raise MalformedRecordError(
            f"checkpoints in {spec.checkpoint_dir}",
            f"no {', '.join(missing)}",
            f"the folders that {chosen.name} needs",
            f"Run: worldloop models download {chosen.name}{without}",
        )
    if num_gpus < num_devices:
        raise JobFailedError(
            f"{chosen.name} is asked to run on {num_devices} GPU{'s' * (num_devices > 1)}; this machine shows "
            f"{num_gpus or 'none'}. `worldloop doctor --gpu-gb 24` says what a card would run; without one, "
            "`worldloop generate` takes the tiny models of `worldloop models list`."
        )


def run_spec(
    spec: CosmosGenerateSpec,
    *,
    num_devices: int,
    log: Path,
    on_event: Callable[[Mapping[str, Any]], None],
) -> Outcome:
    """Run the job to its end; a run that ended well leaves only what was saved.

    Args:
        spec: What to make.
        num_devices: Processes; more than one start under torchrun.
        log: File that gets what the job says beside its events.
        on_event: Called with each event of the job, e.g. `{"event": "clip_done", ...}`.

    Raises:
        JobFailedError: If the job ended with an error; in its own words.
    """
    staging = Path(spec.staging_dir)
    staging.mkdir(parents=True, exist_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    spec_path = staging.with_suffix(".json")
    spec_path.write_text(json.dumps(asdict(spec)), encoding="utf-8")
    words, answer, code = _watch(command(spec_path, num_devices), log, on_event)
    if code != 0 or answer is None:
        if not any(path.name[0] != "." for path in staging.iterdir()):  # nothing to go on from
            _forget(staging, spec_path)
        raise JobFailedError(f"{(words or _silence(code)).rstrip('.')}. Details: {log}")
    outcome = _outcome(spec, answer)
    if not outcome.failures:
        _forget(staging, spec_path)
    return outcome


def _forget(staging: Path, spec_path: Path) -> None:
    shutil.rmtree(staging, ignore_errors=True)
    spec_path.unlink(missing_ok=True)


def _silence(code: int) -> str:
    """What can be said of a job that ended without a word."""
    if -code == signal.SIGKILL:
        return (
            "The job was killed, most likely because the machine ran out of memory: ask for fewer or smaller "
            "frames, or for a smaller model"
        )
    return f"The job ended with exit code {code} and no report"


def command(spec_path: Path, num_devices: int) -> list[str]:
    """The program that makes the clips of a spec.

    Example:
        >>> command(Path("spec.json"), 1)[1:]
        ['-m', 'gpu_jobs.cosmos_generate.job', 'spec.json']
    """
    if num_devices == 1:
        return [sys.executable, "-m", _JOB, str(spec_path)]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*launcher, f"--nproc_per_node={num_devices}", "-m", _JOB, str(spec_path)]


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


def _missing_folders(spec: CosmosGenerateSpec, chosen: Model) -> list[str]:
    """Folders that are not there; what is in them is for the job to judge."""
    root = Path(spec.checkpoint_dir)
    missing = []
    if not spec.transformer_dir and not (root / chosen.name).is_dir():
        missing.append(chosen.name)
    guarded = spec.guards["text"] or spec.guards["video"]
    if guarded and not any((root / name).is_dir() for name in _GUARD_PLACES):
        missing += chosen.guards
    if spec.upsampler and not Path(spec.upsampler["dir"]).is_dir():
        missing.append(spec.upsampler["name"])
    return missing


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


def _requests_of(
    wanted: Wanted, chosen: Model, upsampler: Mapping[str, Any]
) -> tuple[ClipRequest, ...]:
    if wanted.batch_input_path:
        if wanted.prompt or wanted.input_path:
            raise MalformedRecordError(
                "--batch_input_path",
                "--prompt or --input_image_or_video_path beside it",
                "either one clip or a batch file",
                "Put prompt and visual_input into the file.",
            )
        lines = read_batch(
            Path(wanted.batch_input_path),
            needs_prompt=upsampler.get("mode") != "picture",
            needs_visual=wanted.kind == "video2world",
        )
        return tuple(_request(wanted, chosen, line, str(i)) for i, line in enumerate(lines))
    line = BatchLine(0, wanted.prompt, wanted.input_path)
    return (_request(wanted, chosen, line, _save_place(wanted)[1]),)


def _request(wanted: Wanted, chosen: Model, line: BatchLine, name: str) -> ClipRequest:
    conditioning = None
    if line.visual_input:
        path = Path(line.visual_input)
        if not path.is_file():
            where = f"visual_input in line {line.number}" if line.number else "conditioning"
            raise MalformedRecordError(where, str(path), "a picture or video", "Check the path.")
        conditioning = Conditioning(str(path.absolute()), wanted.num_input_frames)
    return ClipRequest(
        clip_id=name,
        prompt=line.prompt,
        negative_prompt=wanted.negative_prompt,
        seed=chosen.record.seed if wanted.seed is None else wanted.seed,
        conditioning=conditioning,
        controls=tuple(_control(wanted, text) for text in _controls_of(wanted)),
        subject_name=wanted.subject_name,
        sound=wanted.enable_sound,
    )


def _controls_of(wanted: Wanted) -> tuple[str, ...]:
    """Controls as asked for; a control model by itself takes edges, as the guide's example does."""
    if wanted.kind == "control2world" and not wanted.controls:
        return ("edge",)
    return wanted.controls


def _control(wanted: Wanted, text: str) -> Control:
    name, _, path = text.partition("=")
    kind = next((known for known in _CONTROL_KINDS if known == name), None)
    if kind is None:
        raise MalformedRecordError(
            "--control",
            text,
            f"KIND or KIND=PATH with one of {', '.join(_CONTROL_KINDS)}",
            "Correct it.",
        )
    if path and not Path(path).is_file():
        raise MalformedRecordError(f"control video of {kind}", path, "a video", "Check the path.")
    return Control(
        kind,
        str(Path(path).absolute()) if path else "",
        wanted.control_weight,
        _control_model(wanted),
    )


def _control_model(wanted: Wanted) -> str:
    """The folder of the control model: a path, or a folder in the checkpoint folder."""
    if not wanted.ctrl_model_dir:
        return ""
    places = (Path(wanted.ctrl_model_dir), Path(wanted.checkpoint_dir) / wanted.ctrl_model_dir)
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        raise MalformedRecordError(
            "--ctrl_model_dir", wanted.ctrl_model_dir, "a folder", "Check the path."
        )
    return str(found.absolute())


def _save_place(wanted: Wanted) -> tuple[Path, str]:
    """Folder and name without suffix."""
    if wanted.video_save_path:
        path = Path(wanted.video_save_path)
        return path.parent, path.stem if path.suffix == ".mp4" else path.name
    return Path(wanted.video_save_folder), wanted.video_save_name.removesuffix(".mp4")


def _watch(
    arguments: Sequence[str], log: Path, on_event: Callable[[Mapping[str, Any]], None]
) -> tuple[str, Mapping[str, Any] | None, int]:
    """Run a program; its last words, its report and its exit code."""
    reports: list[Mapping[str, Any]] = []
    with (
        log.open("a", encoding="utf-8") as file,
        subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
        ) as process,
    ):
        assert process.stdout is not None
        assert process.stderr is not None
        listener = threading.Thread(target=_read_reports, args=(process.stdout, reports))
        listener.start()
        try:
            words = _read_events(process.stderr, file, on_event)
            code = process.wait()
        except KeyboardInterrupt:  # the job ends politely; its finished clips stand
            process.send_signal(signal.SIGINT)
            process.wait()
            raise
        finally:
            listener.join()
    return words, reports[-1] if reports else None, code


def _read_reports(stream: IO[str], reports: list[Mapping[str, Any]]) -> None:
    for line in stream:
        record = _json(line)
        if "clips" in record and "failures" in record:
            reports.append(record)


def _read_events(
    stream: IO[str], log: IO[str], on_event: Callable[[Mapping[str, Any]], None]
) -> str:
    """Pass events on, keep all in the log, and answer with the words that an error ended with."""
    words = ""
    for line in stream:
        log.write(line)
        record = _json(line)
        if record.get("event", "log") != "log":
            on_event(record)
        kind, colon, _ = line.partition(": ")
        if colon and kind.rpartition(".")[2].isidentifier() and kind.endswith(("Error", "Failure")):
            words = line.partition(": ")[2].strip()
    return words


def _json(line: str) -> Mapping[str, Any]:
    if not line.startswith("{"):
        return {}
    try:
        record = json.loads(line)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _outcome(spec: CosmosGenerateSpec, report: Mapping[str, Any]) -> Outcome:
    folder = Path(spec.save_dir)
    names = [request["clip_id"] for request in spec.requests]
    return Outcome(
        saved=tuple(folder / f"{row['recipe_id']}.mp4" for row in report.get("receipts", ())),
        blocked=_rows(report, "blocked", "guard", names),
        failures=_rows(report, "failures", "stage", names),
        report=report,
    )


def _rows(
    report: Mapping[str, Any], key: str, where: str, names: Sequence[str]
) -> tuple[tuple[str, str, str], ...]:
    rows = [row for row in report.get(key, ()) if row["recipe_id"] in names]
    return tuple((row["recipe_id"], row[where], row["reason"]) for row in rows)


OFFLOAD_FLAGS = {
    "offload_prompt_upsampler": "prompt_upsampler",
    "offload_guardrail_models": "guardrail",
    "offload_text_encoder_model": "text_encoder",
    "offload_tokenizer": "tokenizer",
    "offload_diffusion_transformer": "transformer",
}
assert tuple(OFFLOAD_FLAGS.values()) == PARTS
