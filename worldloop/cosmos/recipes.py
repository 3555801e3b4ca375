"""Recipes of generated clips: everything that decides the bytes a world model is asked for.

Unlike a procedural clip, a generated one is not bit-equal on every machine; the recipe says what
was asked, `content_sha256` what came of it, and the first published pack wins.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from worldloop.atlas.atlas import load_atlas
from worldloop.cosmos.families import ClipShape
from worldloop.cosmos.plans import LOCAL, Lora, WorldModelPlan
from worldloop.cosmos.profiles import SpeedProfile
from worldloop.errors import MalformedRecordError
from worldloop.prompts.negatives import cosmos3_negative_prompt, negative_prose
from worldloop.scenes.scene import Scene
from worldloop.seeds import canonical_json, content_id, derive_seed

_SEED_BITS = 31  # what every sampler's generator takes


@dataclass(frozen=True)
class GeneratedRecipe:
    """A scene, a world model with everything that is asked of it, and where its control comes from.

    Attributes:
        scene: What is shown.
        generator: Name of the model in lower case.
        revision: Revision of its weights.
        shape: Of the clip.
        profile: How denoising is computed; all of it counts, not only its name.
        num_steps: Denoising steps.
        guidance: Guidance scale.
        sampler: Name of the sampler.
        seed: Of the initial noise, 31 bits.
        batch_size: Clips denoised together.
        prompt_form: `prose` or `cosmos3`.
        prompt: What the model is asked to show.
        negative_prompt: What guidance leads away from.
        guards: Guards that may stop the clip or change its pixels.
        control: What is taken from the source clip.
        source_recipe_id: The clip that gives it; empty without control.
        conditioning_frames: First frames of the source that the clip goes on from.
        checkpoint: Post-trained weights; empty: the model's own.
        loras: Adapters.
    """

    scene: Scene
    generator: str
    revision: str
    shape: ClipShape
    profile: SpeedProfile
    num_steps: int
    guidance: float
    sampler: str
    seed: int
    batch_size: int
    prompt_form: str
    prompt: str
    negative_prompt: str
    guards: tuple[str, ...] = ()
    control: tuple[str, ...] = ()
    source_recipe_id: str = ""
    conditioning_frames: int = 0
    checkpoint: str = ""
    loras: tuple[Lora, ...] = ()

    @property
    def recipe_id(self) -> str:
        """Hash of the record, 32 hex digits; the clip's id."""
        record = self.to_record()
        del record["scene"]
        return content_id({"scene_id": self.scene.scene_id, **record})

    def to_record(self) -> dict[str, Any]:
        """The JSON record."""
        return {
            **{name: getattr(self, name) for name in _PLAIN},
            "scene": self.scene.to_record(),
            "shape": asdict(self.shape),
            "profile": self.profile.to_record(),
            "guards": list(self.guards),
            "control": list(self.control),
            "loras": [asdict(lora) for lora in self.loras],
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Read a record back.

        Raises:
            MalformedRecordError: If a field is missing, unknown or of the wrong kind.
        """
        try:
            return cls(
                **{
                    **record,
                    "scene": Scene.from_record(record["scene"]),
                    "shape": ClipShape(**record["shape"]),
                    "profile": SpeedProfile.from_record(record["profile"]),
                    "guards": tuple(record["guards"]),
                    "control": tuple(record["control"]),
                    "loras": tuple(Lora(**lora) for lora in record["loras"]),
                }
            )
        except (KeyError, TypeError) as error:
            raise MalformedRecordError(
                "recipe of a generated clip",
                str(error),
                "the fields of docs/formats.md#generated-recipe",
                "Plan the wave again.",
            ) from error


_PLAIN = (
    "generator",
    "revision",
    "num_steps",
    "guidance",
    "sampler",
    "seed",
    "batch_size",
    "prompt_form",
    "prompt",
    "negative_prompt",
    "source_recipe_id",
    "conditioning_frames",
    "checkpoint",
)


@dataclass(frozen=True)
class AskedClip:
    """One clip that a wave asks of its world model.

    Attributes:
        index: Its place in the wave, which is that of its sketch.
        recipe: What decides it.
        sketch_recipe_id: The sketch that gives its control; empty if none does.
        draft_recipe_id: The draft that it promotes; empty if it promotes none.
    """

    index: int
    recipe: GeneratedRecipe
    sketch_recipe_id: str = ""
    draft_recipe_id: str = ""


def asked_clips(plan: WorldModelPlan, prompts: Iterable[Mapping[str, Any]]) -> list[AskedClip]:
    """The clips that a plan asks for, of one city's prompts.

    Args:
        plan: What the wave asks of its world model.
        prompts: Rows of `records.PROMPTS`: index, scene_id, recipe_id (of the sketch), recipe, prose, cosmos3.
    """
    return [_asked(plan, row) for row in prompts if is_chosen(plan, row["scene_id"])]


def is_chosen(plan: WorldModelPlan, scene_id: str) -> bool:
    """Whether a scene is among the share that the model makes; the same in every wave and order."""
    return derive_seed("world model share", scene_id) < plan.share * 2**63


def noise_seed(scene: Scene) -> int:
    """Seed of a scene's initial noise, the same in every tier; 31 bits."""
    return derive_seed("noise", scene.seed) % (1 << _SEED_BITS)


def _asked(plan: WorldModelPlan, row: Mapping[str, Any]) -> AskedClip:
    scene = Scene.from_record(json.loads(row["recipe"])["scene"])
    draft = plan.drafts[row["index"]] if plan.drafts else ""
    sketch = row["recipe_id"] if plan.control and plan.source == "sketch" else ""
    source = draft if plan.source == "draft" else sketch
    recipe = GeneratedRecipe(
        scene=scene,
        generator=plan.generator,
        revision=plan.revision,
        shape=plan.shape,
        profile=plan.profile,
        num_steps=plan.num_steps,
        guidance=plan.guidance,
        sampler=plan.sampler,
        seed=noise_seed(scene),
        batch_size=plan.batch_size,
        prompt_form=plan.prompt_form,
        prompt=row[plan.prompt_form],
        negative_prompt=_negative_prompt(plan, scene),
        guards=(*plan.text_guards, *plan.video_guards),
        control=plan.control,
        source_recipe_id=source if plan.control else "",
        conditioning_frames=plan.conditioning_frames,
        checkpoint=plan.checkpoint,
        loras=plan.loras,
    )
    return AskedClip(row["index"], recipe, sketch, draft)


def _negative_prompt(plan: WorldModelPlan, scene: Scene) -> str:
    """What guidance leads away from, in the plan's form where it is written for the scene."""
    if plan.negative_prompt != LOCAL:
        return plan.negative_prompt
    atlas, shape = load_atlas(), plan.shape
    if plan.prompt_form == "prose":
        return negative_prose(scene, atlas)
    written = cosmos3_negative_prompt(
        scene, atlas, width_px=shape.width_px, height_px=shape.height_px
    )
    return canonical_json(written).decode()
