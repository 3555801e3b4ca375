"""What a clip of Cosmos 3 starts from, mode by mode: prompt tokens, given latents, noise.

Given frames are encoded alone, not with the padding behind them that diffusers encodes too: the
autoencoder is causal, and what lies behind is noise. Only its last layer sees as many latent frames
as the clip has, because a matrix product of another length may round otherwise. Pictures and videos are scaled to [-1, 1] by
slightly different arithmetic, as they are in diffusers.
"""

# C channels, T frames, H height, W width

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gpu_jobs.cosmos_generate.protocol import DenoiseOptions, Media
from worldloop.cosmos.families import ClipShape
from worldloop.cosmos.requests import ActionTrack, ClipRequest, Control, is_structured
from worldloop.errors import MalformedRecordError, UnknownKeyError

TIERS = (256, 480, 704, 720)
"""Action canvases: keys of `_ACTION_RESOLUTION_BINS` of diffusers 0.42.1."""

HINTS = ("edge", "blur", "depth", "seg")
"""Controls in the order in which the model was trained to read them."""

_HINT_OF = {"vis": "blur"}


@dataclass(frozen=True)
class Prompts:
    """Tokens of the prompt and of the negative prompt."""

    cond: Sequence[int]
    uncond: Sequence[int]


@dataclass
class Start:
    """A clip before its first step.

    Attributes:
        prompts: Tokens.
        given: Latents of leading frames that are given, (1, C, T, H, W); None without.
        controls: Latents of control videos, in the order of `HINTS`, (1, C, T, H, W) each.
        control_guidance: How far to lead away from the clip without controls; 1 not at all.
        with_sound: Whether sound is made.
        actions: Given actions (L, C) in the model's width, or zeros where they are asked for; None without.
        actions_are_given: Whether the clip follows its actions instead of answering them.
        action_width: Numbers of an action of the embodiment.
        domain_id: Of the embodiment.
    """

    prompts: Prompts
    given: torch.Tensor | None = None
    controls: list[torch.Tensor] = field(default_factory=list)
    control_guidance: float = 1.0
    with_sound: bool = False
    actions: torch.Tensor | None = None
    actions_are_given: bool = False
    action_width: int = 0
    domain_id: torch.Tensor | None = None


def start_world(
    pipeline: Any,
    request: ClipRequest,
    texts: tuple[str, str],
    options: DenoiseOptions,
    media: Media,
) -> Start:
    """A clip of text, or one that goes on from frames; with sound if asked.

    The prompt is taken as it is. The pipeline's own sentences on length and size are put behind words, not
    behind JSON, which states both; `add_duration_template` and `add_resolution_template` of `options.extra`
    decide otherwise.

    Raises:
        MalformedRecordError: If sound is asked of a checkpoint without it, or a picture of a picture.
    """
    shape = options.shape
    if media.frames is not None and shape.num_frames == 1:
        raise MalformedRecordError(
            f"frames of clip {request.clip_id!r}",
            "1 frame that goes on from a picture",
            "2 frames or more: Cosmos 3 makes no pictures from pictures",
            "Leave the picture out, or ask for a longer clip.",
        )
    if request.sound:
        check_sound(pipeline, request)
    ids = pipeline.tokenize_prompt(
        *texts,
        num_frames=shape.num_frames,
        height=shape.height_px,
        width=shape.width_px,
        fps=float(shape.rate_fps),
        **_template_flags(options, texts[0]),
    )
    given = None
    if media.frames is not None:
        still = len(media.frames) == 1
        video_BCTHW = _from_picture(media.frames) if still else from_video(media.frames)
        given = encoded(pipeline, video_BCTHW, num_frames=shape.num_frames)
    return Start(Prompts(*ids), given=given, with_sound=request.sound)


def start_transfer(
    pipeline: Any,
    request: ClipRequest,
    texts: tuple[str, str],
    options: DenoiseOptions,
    media: Media,
) -> Start:
    """A clip that follows control videos; given frames, if any, are its first ones.

    The prompt is read as it is, under the system prompt for controls.

    Raises:
        UnknownKeyError: If a control is of an unknown kind.
        MalformedRecordError: If controls differ in weight, or sound is asked for.
    """
    if request.sound:
        raise MalformedRecordError(
            f"sound of clip {request.clip_id!r}",
            "asked together with controls",
            "one of them: transfer makes no sound",
            "Leave sound or the controls out.",
        )
    control_videos, length = hints_of(request, media), options.shape.num_frames
    given = None
    if media.frames is not None:
        given = encoded(pipeline, from_video(media.frames), num_frames=length)
    return Start(
        Prompts(*(_transfer_tokens(pipeline, text, options) for text in texts)),
        given=given,
        controls=[
            encoded(pipeline, from_video(frames), num_frames=length) for frames in control_videos
        ],
        control_guidance=_weight_of(request.controls, request.clip_id),
    )


def start_action(
    pipeline: Any,
    request: ClipRequest,
    texts: tuple[str, str],
    options: DenoiseOptions,
    media: Media,
) -> Start:
    """A clip of actions: it follows them, tells them from frames, or makes frames and actions.

    Raises:
        UnknownKeyError: If the mode or the embodiment is unknown.
        MalformedRecordError: If the checkpoint, the frames or the actions do not fit.
    """
    from diffusers.pipelines.cosmos import pipeline_cosmos3_omni as omni

    track = request.action
    assert track is not None
    width = check_action(pipeline, request, track, options.shape, media)
    assert media.frames is not None
    if request.sound:
        check_sound(pipeline, request)
    device = pipeline.vae.device
    whole = track.mode == "inverse_dynamics"
    frames = media.frames[: track.chunk_size + 1 if whole else 1]
    tier, (height, width_px) = tier_of(options.shape)
    video_BCTHW, size, *_ = pipeline._prepare_action_video_conditioning(
        _pictures(frames), tier, len(frames), device=device, dtype=torch.float32
    )
    latent_BCTHW = encoded(pipeline, video_BCTHW, num_frames=options.shape.num_frames)
    given = pipeline._remove_action_video_padding_from_latent(latent_BCTHW, size)
    ids = pipeline.tokenize_prompt(
        *texts,
        num_frames=track.chunk_size + 1,
        height=height,
        width=width_px,
        fps=float(options.shape.rate_fps),
        action_mode=track.mode,
        action_view_point=options.extra.get("view_point", "ego_view"),
        **_template_flags(options, texts[0]),
    )
    follows = track.mode == "forward_dynamics"
    actions = torch.zeros(track.chunk_size, pipeline.transformer.config.action_dim)
    if follows:
        actions[:, :width] = torch.from_numpy(media.actions)
    domain = omni._EMBODIMENT_TO_DOMAIN_ID[track.domain]
    return Start(
        Prompts(*ids),
        given=given,
        with_sound=request.sound,
        actions=actions.to(device),
        actions_are_given=follows,
        action_width=width,
        domain_id=torch.tensor([domain], device=device),
    )


def check_action(
    pipeline: Any, request: ClipRequest, track: ActionTrack, shape: ClipShape, media: Media
) -> int:
    """Refuse actions that cannot be; otherwise how many numbers an action of the embodiment has.

    Raises:
        UnknownKeyError: If the mode or the embodiment is unknown.
        MalformedRecordError: If the checkpoint, the frames or the actions do not fit.
    """
    from diffusers.pipelines.cosmos import pipeline_cosmos3_omni as omni

    what = f"actions of clip {request.clip_id!r}"
    modes = ("forward_dynamics", "inverse_dynamics", "policy")
    if track.mode not in modes:
        raise UnknownKeyError("action mode", track.mode, modes)
    widths: dict[str, int] = omni._EMBODIMENT_TO_RAW_ACTION_DIM
    if track.domain not in widths:
        raise UnknownKeyError("embodiment with a known action width", track.domain, widths)
    config = pipeline.transformer.config
    if not config.action_gen or widths[track.domain] > config.action_dim:
        found = f"action width {config.action_dim}" if config.action_gen else "no actions"
        raise MalformedRecordError(
            what,
            f"a checkpoint with {found}",
            f"one that was trained on actions of {track.domain}",
            "Choose another Cosmos 3 model.",
        )
    if request.controls:
        raise MalformedRecordError(
            what, "actions and controls", "one of them", "Leave the controls out."
        )
    if shape.num_frames != track.chunk_size + 1:
        raise MalformedRecordError(
            what,
            f"{track.chunk_size} actions for {shape.num_frames} frames",
            "one frame more than actions",
            f"Ask for {track.chunk_size + 1} frames or chunk_size {shape.num_frames - 1}.",
        )
    needed = shape.num_frames if track.mode == "inverse_dynamics" else 1
    found_frames = 0 if media.frames is None else len(media.frames)
    if found_frames < needed:
        raise MalformedRecordError(
            f"frames of clip {request.clip_id!r}",
            found_frames,
            f"{needed} or more, which {track.mode} starts from",
            "Give a picture or a longer video, and ask for so many conditioning frames.",
        )
    if track.mode == "forward_dynamics":
        _check_rows(what, track, widths[track.domain], media.actions)
    return widths[track.domain]


def check_sound(pipeline: Any, request: ClipRequest) -> None:
    """Refuse sound that a checkpoint cannot make.

    Raises:
        MalformedRecordError: If it has no sound tokenizer, or was not trained on sound.
    """
    if pipeline.sound_tokenizer is None or not pipeline.transformer.config.sound_gen:
        raise MalformedRecordError(
            f"sound of clip {request.clip_id!r}",
            "a checkpoint without sound",
            "one with sound_tokenizer/ and a transformer trained on sound",
            "Leave sound out, or choose Cosmos3-Nano or Cosmos3-Super.",
        )


def hints_of(request: ClipRequest, media: Media) -> list[NDArray[np.uint8]]:
    """Control videos in the order of `HINTS`; `vis` is read as blur.

    Raises:
        UnknownKeyError: If a control is of an unknown kind.
        MalformedRecordError: If two of them are the same to the model.
    """
    by_hint: dict[str, NDArray[np.uint8]] = {}
    for kind, frames in media.controls.items():
        hint = _HINT_OF.get(kind, kind)
        if hint not in HINTS:
            raise UnknownKeyError("control of Cosmos 3", kind, (*HINTS, *_HINT_OF))
        if hint in by_hint:
            raise MalformedRecordError(
                f"controls of clip {request.clip_id!r}",
                list(media.controls),
                "each kind once; vis is read as blur",
                "Leave one out.",
            )
        by_hint[hint] = frames
    return [by_hint[hint] for hint in HINTS if hint in by_hint]


def tier_of(shape: ClipShape) -> tuple[int, tuple[int, int]]:
    """The smallest action canvas that a clip fits on, and its (height, width) in pixels.

    Raises:
        MalformedRecordError: If the clip is larger than all of them.
    """
    from diffusers.pipelines.cosmos import pipeline_cosmos3_omni as omni
    from diffusers.video_processor import VideoProcessor

    for tier in TIERS:
        height, width = VideoProcessor.classify_height_width_bin(
            shape.height_px, shape.width_px, ratios=omni._ACTION_RESOLUTION_BINS[str(tier)]
        )
        if shape.height_px <= height and shape.width_px <= width:
            return tier, (height, width)
    raise MalformedRecordError(
        "size of a clip with actions",
        f"{shape.width_px}x{shape.height_px}",
        "at most 1280x720, or as many pixels in another aspect ratio",
        "Ask for a smaller clip.",
    )


def encoded(pipeline: Any, video_BCTHW: torch.Tensor, *, num_frames: int) -> torch.Tensor:
    """The most likely latents of a clip's first frames, normalised, float32.

    Args:
        pipeline: With the autoencoder.
        video_BCTHW: Frames in [-1, 1].
        num_frames: Of the clip that they belong to.
    """
    vae = pipeline.vae
    given, whole = (1 + (count - 1) // 4 for count in (video_BCTHW.shape[2], num_frames))
    longer = vae.quant_conv.register_forward_pre_hook(
        lambda _, seen: torch.nn.functional.pad(seen[0], (0, 0, 0, 0, 0, whole - given))
    )
    try:
        latent_BCTHW: torch.Tensor = pipeline._encode_video(video_BCTHW.to(vae.device))
    finally:
        longer.remove()
    return latent_BCTHW[:, :, :given].contiguous().float()


def from_video(frames_THWC: NDArray[np.uint8]) -> torch.Tensor:
    """Frames of a video in [-1, 1], (1, C, T, H, W), as diffusers' `VideoProcessor` scales them."""
    unit = torch.from_numpy(frames_THWC.astype(np.float32) / 255.0)
    return (2.0 * unit - 1.0).permute(3, 0, 1, 2)[None]


def _from_picture(frames_THWC: NDArray[np.uint8]) -> torch.Tensor:
    """A picture in [-1, 1], (1, C, 1, H, W), as Cosmos 3 scales pictures."""
    pixels = torch.from_numpy(frames_THWC.astype(np.float32))
    return (pixels / 127.5 - 1.0).permute(3, 0, 1, 2)[None]


def _pictures(frames_THWC: NDArray[np.uint8]) -> list[Any]:
    from PIL import Image

    return [Image.fromarray(frame) for frame in frames_THWC]


def _template_flags(options: DenoiseOptions, prompt: str) -> dict[str, Any]:
    """What is put around the prompt; JSON states length and size itself, and is trained without sentences."""
    names = ("use_system_prompt", "add_resolution_template", "add_duration_template")
    without = dict.fromkeys(names[1:], False) if is_structured(prompt) else {}
    return without | {name: options.extra[name] for name in names if name in options.extra}


def _transfer_tokens(pipeline: Any, text: str, options: DenoiseOptions) -> list[int]:
    """Tokens of a prompt of transfer: no sentences on length and size."""
    from diffusers.modular_pipelines.cosmos import encoders

    conversation = [{"role": "user", "content": text}]
    if options.extra.get("use_system_prompt", True):
        system = {"role": "system", "content": encoders._SYSTEM_PROMPT_TRANSFER}
        conversation.insert(0, system)
    tokens = pipeline.text_tokenizer.apply_chat_template(
        conversation,
        tokenize=True,
        add_generation_prompt=True,
        add_vision_id=False,
        return_dict=True,
    )
    special = pipeline.llm_special_tokens
    return [*tokens.input_ids, special["eos_token_id"], special["start_of_generation"]]


def _weight_of(controls: Sequence[Control], clip_id: str) -> float:
    weights = sorted({control.weight for control in controls})
    if len(weights) > 1:
        raise MalformedRecordError(
            f"control weights of clip {clip_id!r}",
            weights,
            "one weight for all controls, which Cosmos 3 reads together",
            "Give them the same weight.",
        )
    return weights[0] if weights else 1.0


def _check_rows(
    what: str, track: ActionTrack, width: int, actions: NDArray[np.float32] | None
) -> None:
    found = None if actions is None else actions.shape
    if found != (track.chunk_size, width):
        raise MalformedRecordError(
            what,
            "no file" if found is None else f"{found[0]} rows of {found[1:]} numbers",
            f"{track.chunk_size} rows (chunk_size) of {width} numbers, as {track.domain} has",
            "Write one row for each step from a frame to the next.",
        )
