"""The prompts of one city in one wave as a table; its columns are `records.PROMPTS`."""

from collections.abc import Callable, Sequence

import polars as pl

from worldloop.atlas.atlas import Atlas
from worldloop.prompts.captions import short_caption
from worldloop.prompts.cosmos3 import cosmos3_prompt
from worldloop.prompts.prose import write_prose
from worldloop.recipes import Recipe, Shape
from worldloop.records import PROMPTS
from worldloop.scenes.scene import Scene
from worldloop.seeds import canonical_json
from worldloop.waves import WavePlan, scenes_of

Rewrite = Callable[[Sequence[Scene], Sequence[str]], Sequence[str]]


def prompts_table(
    plan: WavePlan, atlas: Atlas, city: str, *, rewrite: Rewrite | None = None
) -> pl.DataFrame:
    """One row per clip that a plan has for a city, in the order of the plan.

    Args:
        plan: A wave plan.
        atlas: The atlas that the plan pins.
        city: Key of a city that the plan covers.
        rewrite: Gives other prose for scenes and their prose, one text a scene; both renderings use it.

    Returns:
        The columns of `records.PROMPTS`; `recipe` and `cosmos3` are canonical JSON.

    Raises:
        UnknownKeyError: If the plan has no clips of the city.
        MalformedRecordError: If the atlas is not the one that the plan pins.
    """
    indexed, seen_shape = list(scenes_of(plan, atlas, city)), _structured_shape(plan)
    scenes = [scene for _, scene in indexed]
    written: Sequence[str] = [write_prose(scene, atlas) for scene in scenes]
    if rewrite:
        written = rewrite(scenes, written)
    rows = []
    for (index, scene), prose in zip(indexed, written, strict=True):
        recipe = Recipe(scene, plan.shape, plan.generator)
        structured = cosmos3_prompt(scene, atlas, seen_shape, prose=prose)
        rows.append(
            {
                "wave": plan.wave,
                "index": index,
                "city": scene.city,
                "institution": scene.institution,
                "scene_id": scene.scene_id,
                "recipe_id": recipe.recipe_id,
                "recipe": canonical_json(recipe.to_record()).decode(),
                "prose": prose,
                "cosmos3": canonical_json(structured).decode(),
                "caption": short_caption(scene, atlas),
            }
        )
    return PROMPTS.conform(pl.DataFrame(rows))


def _structured_shape(plan: WavePlan) -> Shape:
    """The shape that the structured prompt states: that of the clips which are made from it."""
    if plan.world_model is None:
        return plan.shape
    shape = plan.world_model.shape
    return Shape(shape.num_frames, shape.width_px, shape.height_px, shape.rate_fps)
