"""Wanted clips: what `worldloop generate` can be asked for, and the requests that follow from it.

Which model makes them, in which shape and with which guards, is `generate`'s.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from gpu_jobs.cosmos_generate.spec import PARTS
from worldloop.cosmos.batch_files import BatchLine, read_batch
from worldloop.cosmos.models import Model
from worldloop.cosmos.requests import ClipRequest, Conditioning, Control, ControlKind
from worldloop.errors import MalformedRecordError

Kind = Literal["text2world", "video2world", "text2image", "control2world"]
OFFLOAD_FLAGS = {
    "offload_prompt_upsampler": "prompt_upsampler",
    "offload_guardrail_models": "guardrail",
    "offload_text_encoder_model": "text_encoder",
    "offload_tokenizer": "tokenizer",
    "offload_diffusion_transformer": "transformer",
}
assert tuple(OFFLOAD_FLAGS.values()) == PARTS
_CONTROL_KINDS: tuple[ControlKind, ...] = get_args(ControlKind)


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

    @property
    def save_place(self) -> tuple[Path, str]:
        """Folder of the videos, and the name of a single one without suffix."""
        if self.video_save_path:
            path = Path(self.video_save_path)
            return path.parent, path.stem if path.suffix == ".mp4" else path.name
        return Path(self.video_save_folder), self.video_save_name.removesuffix(".mp4")


def requests_of(
    wanted: Wanted, chosen: Model, upsampler: Mapping[str, Any]
) -> tuple[ClipRequest, ...]:
    """One clip, or those of a batch file.

    Args:
        wanted: From the command line.
        chosen: The model that makes them.
        upsampler: The upsampler's part of the spec; empty if prompts are taken as they are.

    Raises:
        MalformedRecordError: If an input is missing, or a line of the batch file is malformed.
    """
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
    return (_request(wanted, chosen, line, wanted.save_place[1]),)


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
