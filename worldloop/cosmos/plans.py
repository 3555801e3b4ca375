"""What a wave asks of a world model: every value that decides its clips, checked before anything is opened.

A checkpoint reaches a wave as a value in this record, never as an upstream asset.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from worldloop.cosmos.asking import check_sampling
from worldloop.cosmos.families import ClipShape
from worldloop.cosmos.gates import check_gate
from worldloop.cosmos.guards import default_guards
from worldloop.cosmos.models import Model, model
from worldloop.cosmos.profiles import SpeedProfile, profile
from worldloop.cosmos.tiers import TIERS, tier_shape
from worldloop.errors import MalformedRecordError, UnknownKeyError
from worldloop.recipes import Shape

PromptForm = Literal["prose", "cosmos3"]
Source = Literal["sketch", "draft"]
FIRST_FRAMES = "first_frames"
VIDEO_CONTROLS = ("depth", "seg", "edge", "blur")
CONTROLS = (FIRST_FRAMES, *VIDEO_CONTROLS)
PROMPT_FORMS: tuple[PromptForm, ...] = ("prose", "cosmos3")
SOURCES: tuple[Source, ...] = ("sketch", "draft")
MAX_BATCH = 64
LOCAL = (
    "local"  # a negative prompt that is written for each scene, see `worldloop.prompts.negatives`
)


@dataclass(frozen=True)
class Lora:
    """A LoRA adapter: a local folder or file, and how strongly it counts."""

    path: str
    weight: float = 1.0


@dataclass(frozen=True)
class WorldModelPlan:
    """What one world model makes of a wave's scenes.

    Attributes:
        model: Name in `worldloop.cosmos.models.MODELS`.
        revision: Pinned revision of its weights.
        tier: One of `worldloop.cosmos.tiers.TIERS`.
        shape: Of every clip.
        profile: How denoising is computed.
        num_steps: Denoising steps.
        guidance: Guidance scale.
        sampler: One of the model's samplers.
        negative_prompt: What guidance leads away from; empty for none, `LOCAL` for each scene's own.
        prompt_form: Whether the model reads prose or the structured prompt.
        batch_size: Clips denoised together; it is part of the recipe.
        share: Share of the wave's scenes, 0 to 1; which ones follows from their ids.
        control: Of `CONTROLS`; what is taken from the source clip of the same scene. Empty: the prompt alone.
        source: Which clip gives the control: the procedural sketch of this wave, or the draft that is promoted.
        conditioning_frames: First frames of the source that a clip goes on from; 0 without `first_frames`.
        text_guards: Guards of prompts, in order; empty: none.
        video_guards: Guards of frames, in order; empty: none.
        allow_unguarded: Whether the wave's release may hold unguarded clips and those of tiny models.
        checkpoint: Folder of post-trained weights of the transformer; empty: the model's own.
        loras: Adapters on top.
        drafts: For a promotion wave: recipe id of the draft of each clip, in the order of the wave's clips.
    """

    model: str
    revision: str
    tier: str
    shape: ClipShape
    profile: SpeedProfile
    num_steps: int
    guidance: float
    sampler: str
    negative_prompt: str = ""
    prompt_form: PromptForm = "prose"
    batch_size: int = 1
    share: float = 1.0
    control: tuple[str, ...] = ()
    source: Source = "sketch"
    conditioning_frames: int = 0
    text_guards: tuple[str, ...] = ()
    video_guards: tuple[str, ...] = ()
    allow_unguarded: bool = False
    checkpoint: str = ""
    loras: tuple[Lora, ...] = ()
    drafts: tuple[str, ...] = ()

    @property
    def generator(self) -> str:
        """Name of the generator in tables: the model's name in lower case."""
        return self.model.lower()

    @property
    def video_controls(self) -> tuple[str, ...]:
        """Controls that follow the whole source clip, frame by frame."""
        return tuple(kind for kind in self.control if kind != FIRST_FRAMES)

    def to_record(self) -> dict[str, Any]:
        """The JSON record."""
        lists = {name: list(getattr(self, name)) for name in _LISTS}
        return {**asdict(self), **lists, "loras": [asdict(lora) for lora in self.loras]}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Read a record back.

        Raises:
            MalformedRecordError: If a field is missing, unknown or odd.
        """
        try:
            return cls(
                **{
                    **record,
                    **{name: tuple(record[name]) for name in _LISTS},
                    "shape": ClipShape(**record["shape"]),
                    "profile": SpeedProfile.from_record(record["profile"]),
                    "loras": tuple(Lora(**lora) for lora in record["loras"]),
                }
            )
        except (KeyError, TypeError) as error:
            raise MalformedRecordError(
                "world model of a wave plan",
                str(error),
                "the fields of docs/formats.md#wave-plan",
                "Plan it again.",
            ) from error


_LISTS = ("control", "text_guards", "video_guards", "drafts")


def plan_world_model(
    name: str,
    *,
    tier: str,
    speed: str = "",
    revision: str = "",
    num_steps: int = 0,
    guidance: float | None = None,
    sampler: str = "",
    negative_prompt: str | None = None,
    prompt_form: str = "",
    batch_size: int = 1,
    share: float = 1.0,
    control: Sequence[str] = (),
    source: str = "sketch",
    conditioning_frames: int = 0,
    guarded: bool = True,
    allow_unguarded: bool = False,
    accept_failed_gate: bool = False,
    checkpoint: str = "",
    loras: Sequence[Lora] = (),
    drafts: Sequence[str] = (),
) -> WorldModelPlan:
    """The plan of a world model, with what is left out taken from tier, model and family.

    Args:
        name: Name of the model.
        tier: Name of the tier; the model must be able to make it.
        speed: Name of the speed profile; empty takes the tier's.
        revision: Revision of the weights; empty takes the registered one.
        num_steps: Denoising steps; 0 takes the profile's, the tier's, or the model's.
        guidance: Guidance scale; None takes the model's.
        sampler: Name of the sampler; empty takes the model's first.
        negative_prompt: None takes the family's; `LOCAL` names what would be false in each scene.
        prompt_form: `prose` or `cosmos3`; empty takes what the family reads.
        batch_size: Clips denoised together.
        share: Share of the wave's scenes.
        control: What is taken from the source clip.
        source: `sketch` or `draft`.
        conditioning_frames: For `first_frames`: how many; 0 takes the fewest that the family takes.
        guarded: Whether the guards run. Models that require them cannot be planned without; tiny models have none.
        allow_unguarded: Whether a release may take unguarded and tiny clips.
        accept_failed_gate: Whether a profile that failed its quality gate may be used all the same.
        checkpoint: Folder of post-trained weights.
        loras: Adapters.
        drafts: Recipe ids of the drafts of a promotion wave.

    Raises:
        UnknownKeyError: If the model, the tier, the profile or a control is unknown.
        MalformedRecordError: If the model cannot do what is asked.
    """
    known = model(name)
    shape = tier_shape(tier, known)
    speed_profile = profile(speed or TIERS[tier].profile)
    family = known.record
    if not known.tiny:
        check_gate(speed_profile.name, family=family.key, accept_failed=accept_failed_gate)
    steps = num_steps or speed_profile.num_steps or TIERS[tier].num_steps or known.default_steps
    scale = known.default_guidance if guidance is None else guidance
    chosen = sampler or known.known_samplers[0]
    check_sampling(model=known, num_steps=steps, guidance=scale, sampler=chosen)
    _check_control(known, control, source, drafts)
    _check_guards(known, guarded=guarded)
    _check_numbers(share, batch_size)
    guards = default_guards(family) if guarded and not known.tiny else {"text": (), "video": ()}
    return WorldModelPlan(
        model=known.name,
        revision=revision or known.revision,
        tier=tier,
        shape=shape,
        profile=speed_profile,
        num_steps=steps,
        guidance=scale,
        sampler=chosen,
        negative_prompt=family.negative_prompt if negative_prompt is None else negative_prompt,
        prompt_form=_prompt_form(prompt_form, known),
        batch_size=batch_size,
        share=share,
        control=tuple(control),
        source="draft" if source == "draft" else "sketch",
        conditioning_frames=_conditioning_frames(conditioning_frames, control, known),
        text_guards=tuple(guards["text"]),
        video_guards=tuple(guards["video"]),
        allow_unguarded=allow_unguarded,
        checkpoint=checkpoint,
        loras=tuple(loras),
        drafts=tuple(drafts),
    )


def check_sketch(plan: WorldModelPlan, sketch: Shape) -> None:
    """Refuse a sketch that cannot give the control that is planned.

    Raises:
        MalformedRecordError: If its frames do not match those of the generated clips.
    """
    if plan.source != "sketch":
        return
    found = f"{sketch.num_frames} frames at {sketch.rate_fps} a second"
    if plan.video_controls and (sketch.num_frames, sketch.rate_fps) != (
        plan.shape.num_frames,
        plan.shape.rate_fps,
    ):
        raise MalformedRecordError(
            f"sketches that control {plan.model}",
            found,
            f"{plan.shape.num_frames} frames at {plan.shape.rate_fps} a second, as its clips have",
            f"Set num_frames={plan.shape.num_frames} and rate_fps={plan.shape.rate_fps}, or 0 for both.",
        )
    if sketch.num_frames < plan.conditioning_frames:
        raise MalformedRecordError(
            f"sketches that {plan.model} goes on from",
            found,
            f"at least {plan.conditioning_frames} frames",
            "Raise num_frames.",
        )


def _check_control(
    known: Model, control: Sequence[str], source: str, drafts: Sequence[str]
) -> None:
    """The model takes the controls, and has those that it needs."""
    for kind in control:
        if kind not in CONTROLS:
            raise UnknownKeyError("control of a world model", kind, CONTROLS)
        if kind != FIRST_FRAMES and f"control_{kind}" not in known.features:
            raise MalformedRecordError(
                f"control of {known.name}", kind, _takes(known), "Choose another, or another model."
            )
    tasks = set(known.all_tasks)
    if FIRST_FRAMES in control and not tasks & {"image2world", "video2world"}:
        raise MalformedRecordError(
            f"control of {known.name}", FIRST_FRAMES, _takes(known), "Leave it out."
        )
    if not control and "text2world" not in tasks:
        raise MalformedRecordError(
            f"control of {known.name}",
            "none",
            _takes(known),
            "This model makes no clip of a prompt alone: name a control.",
        )
    if source not in SOURCES:
        raise UnknownKeyError("source of the control", source, SOURCES)
    if source == "draft" and not drafts:
        raise MalformedRecordError(
            "source of the control",
            source,
            "drafts to promote",
            "Take 'sketch', or let the sensor `promoted_drafts` plan the wave.",
        )
    if source == "draft" and {"depth", "seg"} & set(control):
        raise MalformedRecordError(
            "control from a draft",
            sorted({"depth", "seg"} & set(control)),
            "first_frames, edge or blur, as a draft has no depth and no segmentation",
            "Take the source 'sketch' for them.",
        )
    if source == "draft" and {"edge", "blur"} & set(control) and tasks != {"control2world"}:
        raise MalformedRecordError(
            f"control from a draft for {known.name}",
            list(control),
            "first_frames, as only models of Transfer2.5 compute edge and blur from footage alone",
            "Take the source 'sketch' for them.",
        )


def _takes(known: Model) -> str:
    """The controls that a model takes, in words."""
    tasks = set(known.all_tasks)
    kinds = [FIRST_FRAMES] if tasks & {"image2world", "video2world"} else []
    kinds += [kind for kind in VIDEO_CONTROLS if f"control_{kind}" in known.features]
    if "text2world" in tasks:
        kinds.append("none")
    return f"of: {', '.join(kinds)}"


def _check_guards(known: Model, *, guarded: bool) -> None:
    if known.record.guardrail == "required" and not guarded and not known.tiny:
        raise MalformedRecordError(
            f"guards of {known.name}",
            "none",
            f"guards, which {known.record.title} requires",
            "Leave guarded on, or choose a model of Predict2 or later.",
        )


def _check_numbers(share: float, batch_size: int) -> None:
    for name, value, least, most in (
        ("share of a wave's scenes", share, 0.0, 1.0),
        ("batch_size of a world model", batch_size, 1, MAX_BATCH),
    ):
        if not least <= value <= most:
            raise MalformedRecordError(name, value, f"{least:g} to {most:g}", "Choose another.")


def _prompt_form(asked: str, known: Model) -> PromptForm:
    if asked and asked not in PROMPT_FORMS:
        raise UnknownKeyError("form of prompts", asked, PROMPT_FORMS)
    structured = asked == "cosmos3" if asked else known.family == "cosmos3"
    return "cosmos3" if structured else "prose"


def _conditioning_frames(asked: int, control: Sequence[str], known: Model) -> int:
    if FIRST_FRAMES not in control:
        return 0
    legal = known.record.conditioning_frames
    if asked and asked not in legal:
        raise MalformedRecordError(
            f"conditioning_frames of {known.name}",
            asked,
            f"one of {', '.join(str(count) for count in legal)}",
            "Choose one of them, or 0 for the fewest.",
        )
    return asked or min(legal)
