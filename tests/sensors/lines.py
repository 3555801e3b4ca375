"""Waves of a line of checkpoints by hand: clips of one adapter, with the scores that a test wants."""

from typing import Any

import polars as pl

from resources.checkpoint_registry import CheckpointRegistry
from resources.wave_plans import publish_plan
from tests import rows
from tests.sensors.rounds import MODEL, release
from worldloop.atlas.atlas import load_atlas
from worldloop.cosmos.plans import Lora, plan_world_model
from worldloop.recipes import Shape
from worldloop.records import LINEAGE, SCORES
from worldloop.waves import plan_wave

LINE = MODEL.lower()
FILES = dict.fromkeys(("README.md", "evaluation.json", "pytorch_lora_weights.safetensors"), b"{}")
SKETCH_SHARPNESS = 0.02  # of tests.rows


def publish_rounds(house: Any, *keys: str) -> CheckpointRegistry:
    """Checkpoints in the registry; none is promoted."""
    registry: CheckpointRegistry = house.resources["registry"]
    for key in keys:
        registry.publish(LINE, key, FILES)
    return registry


def film(
    house: Any,
    wave: str,
    adapter: str = "",
    *,
    share: float = 1.0,
    count: int = 12,
    rejected: int = 0,
    duplicates: tuple[int, ...] = (),
) -> None:
    """A released wave of clips by an adapter; each is `share` times as sharp as its sketch."""
    folder = house.root / "site" / "registry" / LINE / "snapshots" / adapter
    plan = plan_wave(
        load_atlas(),
        wave=wave,
        places=["tokyo/street"],
        clips_per_place=count,
        seed=1,
        shape=Shape(),
        world_model=plan_world_model(
            MODEL,
            tier="tiny",
            control=("first_frames",),
            loras=[Lora(str(folder))] if adapter else [],
        ),
    )
    publish_plan(house.store, plan)
    log, which = house.resources["site_log"], range(count)
    made = rows.generated_clips(which, wave=wave)
    sketches = rows.lineage(which, wave=wave)
    log.append("lineage", sketches)
    log.append(
        "lineage",
        made.with_columns(tier=pl.lit("tiny"), sketch_recipe_id=pl.lit(None, pl.String)).select(
            list(LINEAGE.columns)
        ),
    )
    columns = list(SCORES.columns)
    log.append("scores", rows.signals(which, wave=wave).select(columns))
    scores = rows.signals(which, wave=wave, rejected=tuple(range(rejected))).with_columns(
        recipe_id=made["recipe_id"], sharpness=pl.lit(SKETCH_SHARPNESS * share)
    )
    log.append("scores", scores.select(columns))
    log.append(
        "duplicates",
        rows.dedup(which, duplicates=duplicates, wave=wave).with_columns(
            recipe_id=made["recipe_id"]
        ),
    )
    release(house, wave, {"tokyo/street": count})
    house.instance.add_dynamic_partitions("wave", [wave])
