"""Promotion: which drafts are worth rendering again at the next tier, and the wave that does it.

Scores come from what is measured anyway: motion and sharpness of the draft, and how near its vector
is to that of its sketch, so that one which lost its scene falls behind. They are ranks within
the wave, so no threshold has to be tuned per model.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import polars as pl

from worldloop.cosmos.models import model
from worldloop.cosmos.tiers import next_tier
from worldloop.errors import MalformedRecordError
from worldloop.sites import Promotion
from worldloop.waves import WavePlan, write_scene

_MEASURES = ("motion_mean_px", "sharpness", "sketch_cosine")
DRAFT_SCHEMA: Mapping[str, pl.DataType | type[pl.DataType]] = {
    "index": pl.Int32,
    "recipe_id": pl.String,
    "accepted": pl.Boolean,
    "status": pl.String,
    "motion_mean_px": pl.Float64,
    "sharpness": pl.Float64,
    "sketch_cosine": pl.Float64,
}


def score_drafts(drafts: pl.DataFrame) -> pl.DataFrame:
    """The surviving drafts of a wave with the column `score`, the best first.

    A draft survives if its signals accept it and it repeats no other. Its score is the mean of its
    ranks among the survivors, 0 to 1, over the measures that it has.

    Args:
        drafts: `DRAFT_SCHEMA`; `sketch_cosine` is null where there is no sketch to compare with.

    Returns:
        `DRAFT_SCHEMA` and `score`, by falling score and then by recipe id: the order depends on the
        rows alone and not on how they came.
    """
    alive = drafts.filter(pl.col("accepted") & (pl.col("status") == "unique"))
    ranks = [(pl.col(name).rank("average") / pl.col(name).count()) for name in _MEASURES]
    scored = alive.with_columns(score=pl.mean_horizontal(ranks).fill_null(0.0).round(9))
    return scored.sort("score", "recipe_id", descending=[True, False])


def choose_drafts(
    drafts: pl.DataFrame, *, share: float, promoted: Collection[str], limit: int
) -> list[str]:
    """Recipe ids of the drafts to promote now.

    The best `share` of a wave's survivors, at least one, are to be promoted; those that have been
    are left out, and a limit takes the best of the rest. So a wave that did not fit into one day goes on
    the next day and ends at the same choice.

    Args:
        drafts: As `score_drafts` takes them, all of the wave.
        share: 0 to 1.
        promoted: Drafts that stand in any plan already.
        limit: How many may be promoted now.
    """
    ranked = score_drafts(drafts)["recipe_id"].to_list()
    wanted = ranked[: max(1, round(share * len(ranked)))] if share > 0 else []
    return [recipe_id for recipe_id in wanted if recipe_id not in promoted][: max(limit, 0)]


def can_promote(plan: WavePlan, settings: Promotion) -> bool:
    """Whether a wave has drafts that a higher tier could render again."""
    return plan.world_model is not None and _target_tier(plan, settings) is not None


def promotion_config(
    plan: WavePlan, chosen: Sequence[tuple[int, str]], settings: Promotion
) -> dict[str, Any]:
    """What to ask of the promotion wave: fields of `WavePlanConfig`.

    It renders the same scenes with the same seeds, so a hero shot shows what its draft showed.

    Args:
        plan: Plan of the wave of the drafts.
        chosen: Index in that plan and recipe id of each draft, the best first.
        settings: The site's.

    Raises:
        MalformedRecordError: If the wave has nothing that can be promoted.
    """
    drafted, tier = plan.world_model, _target_tier(plan, settings)
    if drafted is None or tier is None:
        raise MalformedRecordError(
            f"drafts of wave {plan.wave}",
            drafted.tier if drafted else "no world model",
            "a tier below the highest that the model makes",
            "Name another world_model or tier under [sites.NAME.promotion].",
        )
    name = settings.world_model or drafted.model
    control = list(settings.control or drafted.control)
    follows = settings.source == "sketch" and bool({*control} - {"first_frames"})
    config: dict[str, Any] = {
        "scenes": [write_scene(plan.clips[index]) for index, _ in chosen],
        "drafts": [recipe_id for _, recipe_id in chosen],
        "num_frames": 0 if follows else plan.shape.num_frames,
        "rate_fps": 0 if follows else plan.shape.rate_fps,
        "width_px": plan.shape.width_px,
        "height_px": plan.shape.height_px,
        "num_samples": plan.shape.num_samples,
        "world_model": name,
        "tier": tier,
        "profile": settings.profile,
        "control": control,
        "source": settings.source,
        "batch_size": settings.batch_size,
        "prompt_form": drafted.prompt_form,
        "allow_unguarded": drafted.allow_unguarded,
        "guarded": bool(drafted.text_guards or drafted.video_guards),
    }
    if name != drafted.model:
        return config
    return {
        **config,
        "revision": drafted.revision,
        "negative_prompt": drafted.negative_prompt,
        "checkpoint": drafted.checkpoint,
        "loras": [asdict(lora) for lora in drafted.loras],
    }


def promoted_drafts(plans: Sequence[WavePlan]) -> set[str]:
    """Every draft that a plan promotes: a draft in here is never promoted again."""
    return {
        recipe_id
        for plan in plans
        if plan.world_model is not None
        for recipe_id in plan.world_model.drafts
    }


def _target_tier(plan: WavePlan, settings: Promotion) -> str | None:
    """The tier to render at; None if there is none above that of the drafts."""
    if plan.world_model is None:
        return None
    above = next_tier(plan.world_model.tier, model(settings.world_model or plan.world_model.model))
    return above and (settings.tier or above)
