"""The place atlas: cities, institutions and decorum as tables in the site, named by their hash."""

import io

import dagster as dg

from resources.site_store import SiteStore
from worldloop.atlas.atlas import load_atlas
from worldloop.atlas.checks import atlas_problems
from worldloop.atlas.tables import atlas_tables


@dg.asset(group_name="atlas", kinds={"polars", "parquet"}, code_version="1")
def place_atlas(store: SiteStore) -> dg.MaterializeResult[None]:
    """The atlas that ships with this version: one table each of cities, institutions and decorum.

    Written under its content hash, so an older atlas that a wave pins is never overwritten.
    Rebuilding it requests no runs. Formats: docs/formats.md#atlas.
    """
    atlas = load_atlas()
    tables = atlas_tables(atlas)
    for name, table in tables.items():
        sink = io.BytesIO()
        table.write_parquet(sink)
        store.put(f"atlas/{atlas.hash}/{name}.parquet", sink.getvalue())
    return dg.MaterializeResult(
        data_version=dg.DataVersion(atlas.hash),
        metadata={
            **{f"num_{name}": table.height for name, table in tables.items()},
            "num_places": len(atlas.cities) * len(atlas.institutions),
            "atlas_hash": atlas.hash,
            "location": dg.MetadataValue.path(f"{store.url}/atlas/{atlas.hash}"),
            "cities": ", ".join(city.name for city in atlas.cities.values()),
        },
    )


@dg.asset_check(asset=place_atlas, blocking=True)
def every_fact_of_the_atlas_holds() -> dg.AssetCheckResult:
    """Keys are unique, every fact has a source, every sign is in its script, every slot resolves."""
    found = atlas_problems(load_atlas())
    return dg.AssetCheckResult(passed=not found, metadata={"problems": found[:20]})
