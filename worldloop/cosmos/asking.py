"""Asking: whether a model can make what is asked of it, before anything is loaded.

Every refusal names what was found, what the family takes, and the nearest thing that it would
make. Nothing here opens a file: what a picture or video really holds is checked by the job when it
reads it. Models with random weights (`tiny`) take any shape of their family's strides.
"""

import math
from collections.abc import Iterable
from pathlib import PurePath

from worldloop.cosmos.families import ClipShape, Task
from worldloop.cosmos.models import Model
from worldloop.cosmos.requests import ClipRequest, Control
from worldloop.errors import MalformedRecordError

VIDEO_TYPES = (".mp4", ".mkv", ".mov", ".webm", ".avi")
UPSAMPLER_MODES = ("", "text", "picture", "picture_and_text")
MAX_CP_SIZE = 8  # the NeMo guide: 1 to 8 devices
_FROM_VIDEO = ("edge", "blur", "vis")  # controls that can be computed from the conditioning video
_FEATURE_OF_CONTROL = {"vis": "control_blur"}


def check_request(
    request: ClipRequest,
    *,
    model: Model,
    shape: ClipShape,
    num_steps: int,
    guidance: float,
    sampler: str,
    upsampler: str = "",
    cp_size: int = 1,
    num_devices: int = 1,
) -> None:
    """Refuse a clip that the model cannot make.

    Args:
        request: What is asked.
        model: The model.
        shape: Of the clip.
        num_steps: Denoising steps.
        guidance: Guidance scale.
        sampler: Name of the sampler.
        upsampler: Mode of the prompt upsampler: `text`, `picture`, `picture_and_text`, or empty for none.
        cp_size: Context-parallel ranks.
        num_devices: Processes that the job is started with.

    Raises:
        MalformedRecordError: If any of it cannot be; the first fault found, in the order of the arguments.
    """
    _check_name(request)
    _check_prompt(request, model, upsampler)
    check_task(request, model=model, shape=shape)
    _check_conditioning(request, model, shape)
    for control in request.controls:
        _check_control(control, request, model)
    _check_extras(request, model, shape)
    check_shape(shape, model=model)
    check_sampling(model=model, num_steps=num_steps, guidance=guidance, sampler=sampler)
    check_parallel(model=model, cp_size=cp_size, num_devices=num_devices)


def task_of(request: ClipRequest, shape: ClipShape) -> Task:
    """What kind of clip a request asks for.

    Example:
        >>> task_of(ClipRequest("a", "A street."), ClipShape(93, 1280, 704, 16))
        'text2world'
    """
    if request.action is not None:
        return "action"
    if request.controls:
        return "control2world"
    if request.conditioning is not None:
        return "image2world" if _is_picture(request.conditioning.path) else "video2world"
    return "text2image" if shape.num_frames == 1 else "text2world"


def check_task(request: ClipRequest, *, model: Model, shape: ClipShape) -> None:
    """Refuse a task that the model was not made for.

    Raises:
        MalformedRecordError: If it is not one of the model's.
    """
    asked, able = task_of(request, shape), model.all_tasks
    if asked in able:
        return
    if asked in ("text2world", "text2image") and "image2world" in able:
        remedy = "Give it a picture or video to go on from (--input_image_or_video_path), or choose a Text2World model."
    elif asked in ("image2world", "video2world") and "text2world" in able:
        remedy = "Leave the picture or video out, or choose a Video2World model."
    else:
        remedy = "See `worldloop models list` for what each model does."
    raise MalformedRecordError(f"task asked of {model.name}", asked, _one_of(able), remedy)


def check_shape(shape: ClipShape, *, model: Model) -> None:
    """Refuse a shape that the model cannot make.

    Raises:
        MalformedRecordError: If the frames, the size or the frame rate are not of its family.
    """
    family = model.record
    frames, size = shape.num_frames, (shape.width_px, shape.height_px)
    legal = nearest_shape(shape, model=model)
    still = frames == 1 and "text2image" in model.all_tasks
    if frames != legal.num_frames and not still:
        counts = family.frame_counts if not model.tiny else ()
        expected = _one_of(counts) if counts else f"1 + a multiple of {family.frame_stride} frames"
        raise MalformedRecordError(
            f"frames of a clip by {model.name}",
            frames,
            expected,
            f"Ask for {legal.num_frames} (--num_video_frames).",
        )
    if size != (legal.width_px, legal.height_px):
        sizes = family.sizes_px if not model.tiny else ()
        expected = (
            _one_of(f"{width}x{height}" for width, height in sizes)
            if sizes
            else f"sides that are multiples of {family.multiple_px} px"
        )
        raise MalformedRecordError(
            f"width x height of a clip by {model.name}",
            f"{size[0]}x{size[1]}",
            expected,
            f"Ask for {legal.width_px}x{legal.height_px} (--width {legal.width_px} --height {legal.height_px}).",
        )
    if shape.rate_fps != legal.rate_fps:
        raise MalformedRecordError(
            f"frame rate of a clip by {model.name}",
            shape.rate_fps,
            f"{family.rate_fps[0]} to {family.rate_fps[1]} frames per second",
            f"Ask for {legal.rate_fps} (--fps).",
        )


def nearest_shape(shape: ClipShape, *, model: Model) -> ClipShape:
    """The legal shape that is nearest to one.

    Example:
        >>> from worldloop.cosmos.models import model
        >>> nearest_shape(ClipShape(57, 1920, 1080, 60), model=model("Cosmos-1.0-Diffusion-7B-Text2World"))
        ClipShape(num_frames=121, width_px=1280, height_px=704, rate_fps=40)
    """
    family = model.record
    counts = () if model.tiny else family.frame_counts
    sizes = () if model.tiny else family.sizes_px
    stride, multiple = family.frame_stride, family.multiple_px
    if counts:
        frames = min(counts, key=lambda count: abs(count - shape.num_frames))
    elif model.default_shape.num_frames == 1:
        frames = 1
    else:
        frames = 1 + stride * max(1, round((shape.num_frames - 1) / stride))
    width, height = max(1, shape.width_px), max(1, shape.height_px)
    if sizes:
        width, height = min(sizes, key=lambda size: _unlike(size, (width, height)))
    else:
        width, height = (
            multiple * max(1, round(side / multiple)) for side in (shape.width_px, shape.height_px)
        )
    least, most = (1, 60) if model.tiny else family.rate_fps
    return ClipShape(frames, width, height, min(max(shape.rate_fps, least), most))


def check_sampling(*, model: Model, num_steps: int, guidance: float, sampler: str) -> None:
    """Refuse steps, guidance or a sampler that the model does not have.

    Raises:
        MalformedRecordError: If one of them cannot be.
    """
    if sampler not in model.known_samplers:
        raise MalformedRecordError(
            f"sampler of {model.name}",
            sampler,
            _one_of(model.known_samplers),
            f"Use {model.known_samplers[0]!r}, its default.",
        )
    if num_steps < 1:
        raise MalformedRecordError(
            "denoising steps", num_steps, "1 or more", f"Use {model.default_steps}, the default."
        )
    if "distilled" in model.features and num_steps != model.num_steps:
        raise MalformedRecordError(
            f"denoising steps of {model.name}",
            num_steps,
            f"{model.num_steps}, the schedule that it was distilled for",
            f"Leave --num_steps out, or use {model.num_steps}.",
        )
    if not math.isfinite(guidance) or guidance < 0:
        raise MalformedRecordError(
            "guidance", guidance, "a finite number, 0 or more", f"Use {model.default_guidance:g}."
        )


def check_parallel(*, model: Model, cp_size: int, num_devices: int) -> None:
    """Refuse a context-parallel size that the devices or the heads do not allow.

    Raises:
        MalformedRecordError: If it is not the number of devices, or does not divide the heads.
    """
    if not 1 <= cp_size <= MAX_CP_SIZE:
        raise MalformedRecordError(
            "cp_size", cp_size, f"1 to {MAX_CP_SIZE}", "Use the number of GPUs of one host."
        )
    if cp_size != num_devices:
        raise MalformedRecordError(
            "cp_size",
            cp_size,
            f"the number of devices, {num_devices}",
            f"Use --cp_size {num_devices} --num_devices {num_devices}; for more clips an hour start one job a GPU.",
        )
    if model.num_heads % cp_size:
        legal = [n for n in range(1, MAX_CP_SIZE + 1) if model.num_heads % n == 0]
        raise MalformedRecordError(
            f"cp_size of {model.name}",
            cp_size,
            f"a divisor of its {model.num_heads} heads: {_one_of(legal)}",
            f"Use {max(n for n in legal if n <= cp_size)}.",
        )


def check_extension(
    *, model: Model, shape: ClipShape, extend_to_frames: int, overlap_frames: int
) -> None:
    """Refuse a long video that cannot be made by going on from the last frames.

    Args:
        model: The model.
        shape: Of one part.
        extend_to_frames: Frames of the whole; 0 for no extension.
        overlap_frames: Frames that each next part goes on from.

    Raises:
        MalformedRecordError: If the model cannot go on from so many frames.
    """
    if not extend_to_frames:
        return
    legal = model.record.conditioning_frames
    if "extend" not in model.features:
        raise MalformedRecordError(
            f"length of a clip by {model.name}",
            extend_to_frames,
            "a model that goes on from video",
            "Choose a Video2World model.",
        )
    usable = tuple(count for count in legal if count < shape.num_frames)
    if overlap_frames not in usable:
        raise MalformedRecordError(
            f"overlap of the parts of a long video by {model.name}",
            overlap_frames,
            f"{_one_of(legal)}, and fewer than the {shape.num_frames} of one part",
            f"Use {max(usable)}." if usable else "Ask for longer parts.",
        )
    if extend_to_frames <= shape.num_frames:
        raise MalformedRecordError(
            "frames of a long video",
            extend_to_frames,
            f"more than the {shape.num_frames} of one part",
            "Leave the extension out.",
        )


def _check_name(request: ClipRequest) -> None:
    name = request.clip_id
    if not name or PurePath(name).name != name or name.startswith("."):
        raise MalformedRecordError(
            "name of a clip", name, "a file name without folders and dots before it", "Rename it."
        )
    if request.seed < 0:
        raise MalformedRecordError("seed", request.seed, "0 or more", "Choose another.")


def _check_prompt(request: ClipRequest, model: Model, upsampler: str) -> None:
    if upsampler not in UPSAMPLER_MODES:
        raise MalformedRecordError(
            "mode of the prompt upsampler",
            upsampler,
            _one_of(mode for mode in UPSAMPLER_MODES if mode),
            "Use 'text' where there is no picture.",
        )
    if upsampler in ("picture", "picture_and_text") and request.conditioning is None:
        raise MalformedRecordError(
            f"mode of the prompt upsampler for clip {request.clip_id!r}",
            upsampler,
            "a picture or video to read",
            "Give --input_image_or_video_path, or use the mode 'text'.",
        )
    if not request.prompt.strip() and upsampler != "picture":
        raise MalformedRecordError(
            f"prompt of clip {request.clip_id!r}",
            request.prompt,
            "words; only an upsampler that reads the picture can do without",
            "Give --prompt, or leave the prompt upsampler on for a Video2World model.",
        )
    limit, words = model.record.max_prompt_tokens, len(request.full_prompt.split())
    if words > limit:
        raise MalformedRecordError(
            f"prompt of clip {request.clip_id!r}",
            f"{words} words",
            f"at most {limit} tokens, and a word is a token or more",
            "Shorten the prompt.",
        )
    if request.subject_name and "subject_name" not in model.features:
        raise MalformedRecordError(
            f"subject_name for {model.name}",
            request.subject_name,
            "a model that can be post-trained on a subject",
            "Leave it out.",
        )


def _check_conditioning(request: ClipRequest, model: Model, shape: ClipShape) -> None:
    given, family = request.conditioning, model.record
    if given is None:
        return
    suffix = PurePath(given.path).suffix.lower()
    if suffix not in (*family.picture_types, *VIDEO_TYPES):
        raise MalformedRecordError(
            f"conditioning of clip {request.clip_id!r}",
            given.path,
            f"a picture ({', '.join(family.picture_types)}) or a video ({', '.join(VIDEO_TYPES)})",
            "Convert it to .png or .mp4.",
        )
    if _is_picture(given.path) and given.num_frames > 1:
        raise MalformedRecordError(
            f"conditioning frames of clip {request.clip_id!r}",
            given.num_frames,
            f"1, because {PurePath(given.path).name} is a picture",
            "Use --num_input_frames 1, or give a video.",
        )
    legal = family.conditioning_frames
    if request.action is not None:  # one frame more than actions: the whole clip is given
        whole = request.action.chunk_size + 1
        legal = (whole,) if request.action.mode == "inverse_dynamics" else (*legal, whole)
    if given.num_frames not in legal:
        near = min(legal, key=lambda count: abs(count - given.num_frames))
        raise MalformedRecordError(
            f"conditioning frames of clip {request.clip_id!r}",
            given.num_frames,
            f"{_one_of(legal)} for {family.title}",
            f"Use --num_input_frames {near}.",
        )
    if request.action is None and given.num_frames >= shape.num_frames:
        raise MalformedRecordError(
            f"conditioning frames of clip {request.clip_id!r}",
            given.num_frames,
            f"fewer than the {shape.num_frames} frames of the clip",
            "Ask for a longer clip (--num_video_frames), or for fewer conditioning frames.",
        )


def _check_control(control: Control, request: ClipRequest, model: Model) -> None:
    feature = _FEATURE_OF_CONTROL.get(control.kind, f"control_{control.kind}")
    if feature not in model.features:
        able = sorted(name[8:] for name in model.features if name.startswith("control_"))
        raise MalformedRecordError(
            f"control of {model.name}",
            control.kind,
            _one_of(able) if able else "no control at all",
            "Choose another control, or Cosmos-Transfer2.5-2B.",
        )
    if not math.isfinite(control.weight) or control.weight < 0:
        raise MalformedRecordError(
            f"control_weight of {control.kind}",
            control.weight,
            "a finite number, 0 or more",
            "Use 1, the default.",
        )
    if not control.path and (control.kind not in _FROM_VIDEO or request.conditioning is None):
        raise MalformedRecordError(
            f"control video of {control.kind} for clip {request.clip_id!r}",
            control.path,
            "a path; only edge and blur can be computed, from a conditioning video",
            "Name the control video.",
        )
    if control.path and PurePath(control.path).suffix.lower() not in (*VIDEO_TYPES, ""):
        raise MalformedRecordError(
            f"control video of {control.kind} for clip {request.clip_id!r}",
            control.path,
            f"a video ({', '.join(VIDEO_TYPES)}), or the folder of a procedural clip",
            "Convert it to .mp4.",
        )


def _check_extras(request: ClipRequest, model: Model, shape: ClipShape) -> None:
    if request.sound and "sound" not in model.features:
        raise MalformedRecordError(
            f"sound by {model.name}",
            True,
            "a model with sound",
            "Leave it out, or use Cosmos3-Nano.",
        )
    action = request.action
    if action is None:
        return
    if f"action_{action.mode}" not in model.features:
        able = sorted(name[7:] for name in model.features if name.startswith("action_"))
        raise MalformedRecordError(
            f"action mode of {model.name}",
            action.mode,
            _one_of(able) if able else "no actions at all",
            "Choose another mode, or Cosmos3-Nano.",
        )
    if action.mode == "forward_dynamics" and not action.path:
        raise MalformedRecordError(
            f"actions of clip {request.clip_id!r}",
            action.path,
            "a JSON file of actions to follow",
            "Name the file, or use the mode 'policy'.",
        )
    if action.chunk_size < 1 or shape.num_frames != action.chunk_size + 1:
        raise MalformedRecordError(
            f"frames of clip {request.clip_id!r}",
            shape.num_frames,
            f"{action.chunk_size + 1}, one more than its {action.chunk_size} actions",
            "Change --num_video_frames or the chunk size.",
        )


def _is_picture(path: str) -> bool:
    return PurePath(path).suffix.lower() not in VIDEO_TYPES


def _unlike(size: tuple[int, int], other: tuple[int, int]) -> tuple[float, float]:
    """How far a size is from another: first in aspect, then in area."""
    aspect = abs(math.log(size[0] / size[1]) - math.log(other[0] / other[1]))
    return round(aspect, 3), abs(math.log(size[0] * size[1]) - math.log(other[0] * other[1]))


def _one_of(values: Iterable[object]) -> str:
    words = [str(value) for value in values]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
