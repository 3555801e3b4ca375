"""Prompts: what the generators are asked to show, one table per city and wave."""

from collections.abc import Sequence

import dagster as dg
import polars as pl

from assets.partitions import city_by_wave, split_key
from resources.prompt_upsampler import PromptUpsampler, Upsampled
from resources.site_store import SiteStore
from resources.tables import publish, read
from resources.wave_plans import read_plan
from worldloop import layout
from worldloop.atlas.atlas import load_atlas
from worldloop.prompts.table import prompts_table
from worldloop.records import PROMPTS
from worldloop.scenes.scene import Scene


@dg.asset(
    group_name="planning",
    kinds={"polars", "parquet"},
    partitions_def=city_by_wave,
    deps=[
        dg.AssetDep(
            "wave_plan", partition_mapping=dg.MultiToSingleDimensionPartitionMapping("wave")
        )
    ],
    code_version="3",
)
def prompts(
    context: dg.AssetExecutionContext, store: SiteStore, prompt_upsampler: PromptUpsampler
) -> dg.MaterializeResult[None]:
    """Scenes and prompts of one city in one wave; institutions are rows. Same plan, same bytes.

    A row is one clip to make: its recipe, its Cosmos 3 JSON, about 120 words of prose and a short
    caption. A language model may write the prose anew where one is configured; answers that drop a fact
    are refused. Format: docs/formats.md#prompts.
    """
    city, wave = split_key(context.partition_key)
    plan, atlas = read_plan(store, wave), load_atlas()
    upsampled: list[Upsampled] = []

    def rewrite(scenes: Sequence[Scene], prose: Sequence[str]) -> Sequence[str]:
        upsampled.append(prompt_upsampler.rewrite(scenes, prose, atlas))
        return upsampled[-1].texts

    table = prompts_table(plan, atlas, city, rewrite=rewrite if prompt_upsampler.is_on else None)
    key = layout.prompts_key(wave, city)
    publish(store, PROMPTS, key, table)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": table.height,
            "location": dg.MetadataValue.path(f"{store.url}/{key}"),
            "sample": dg.MetadataValue.md(f"> {table['prose'][0]}"),
            **(_told(upsampled[0]) if upsampled else {}),
        }
    )


def _told(done: Upsampled) -> dict[str, dg.MetadataValue]:
    """What became of a language model's answers."""
    return {
        "num_upsampled": dg.MetadataValue.int(done.num_accepted),
        "num_upsampling_refused": dg.MetadataValue.int(done.num_refused),
        "num_upsampling_failed": dg.MetadataValue.int(done.num_failed),
        "num_upsampling_cached": dg.MetadataValue.int(done.num_cached),
        "upsampling_refused_for": dg.MetadataValue.json(dict(sorted(done.reasons.items()))),
    }


@dg.asset_check(asset=prompts, blocking=True, partitions_def=city_by_wave)
def prompts_are_distinct(
    context: dg.AssetCheckExecutionContext, store: SiteStore
) -> dg.AssetCheckResult:
    """No two clips of the shard have the same recipe or the same prose."""
    city, wave = split_key(context.partition_key)
    table = read(store, PROMPTS, layout.prompts_key(wave, city))
    repeated = table.filter(pl.col("recipe_id").is_duplicated() | pl.col("prose").is_duplicated())[
        "recipe_id"
    ].to_list()
    return dg.AssetCheckResult(passed=not repeated, metadata={"repeated": repeated})
