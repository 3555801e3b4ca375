"""The place atlas: cities, institutions and decorum as tables in the site, named by their hash."""

import dagster as dg
from worldloop.atlas.checks import problems
from worldloop.atlas.tables import atlas_tables

from resources.site_store import SiteStore
from worldloop.atlas.atlas import load_atlas


@dg.asset(group_name="atlas", kinds={"polars", "parquet"}, code_version="1")
def place_atlas(store: SiteStore) -> dg.MaterializeResult[None]:
    """The atlas that ships with this version: one table each of cities, institutions and decorum.

    Written under its content hash, so an older atlas that a wave pins is never overwritten.
    Rebuilding it requests no runs. Formats: docs/formats.md#atlas.
    """
    atlas = load_atlas()
    sizes = {}
    for name, table in atlas_tables(atlas).items():
        key = f"atlas/{atlas.hash}/{name}.parquet"
        store.put(key, _parquet(table))
        sizes[f"num_{name}"] = table.height
    return dg.MaterializeResult(
        data_version=dg.DataVersion(atlas.hash),
        metadata={
            **sizes,
            "atlas_hash": atlas.hash,
            "num_places": len(atlas.cities) * len(atlas.institutions),
            "location": dg.MetadataValue.path(f"{store.url}/atlas/{atlas.hash}"),
            "sample": dg.MetadataValue.md(_sample(atlas.cities[:6])),
        },
    )


@dg.asset_check(asset=place_atlas, blocking=True)
def every_fact_of_the_atlas_holds() -> dg.AssetCheckResult:
    """Keys are unique, every fact has a source, every sign is in its script, every slot resolves."""
    found = problems(load_atlas())
    return dg.AssetCheckResult(passed=not found, metadata={"problems": found[:20]})
