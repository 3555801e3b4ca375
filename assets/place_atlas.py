"""The place atlas: cities, institutions and decorum as tables in the site, named by their hash."""

import dagster as dg

from resources.footage import put_frame
from resources.site_store import SiteStore
from worldloop import layout
from worldloop.atlas.atlas import load_atlas
from worldloop.atlas.checks import atlas_problems, require_sound
from worldloop.atlas.rules.registry import RULES
from worldloop.atlas.tables import atlas_tables
from worldloop.coverage_counts import place_table


@dg.asset(group_name="atlas", kinds={"polars", "parquet"}, code_version="2")
def place_atlas(store: SiteStore) -> dg.MaterializeResult[None]:
    """The atlas that ships with this version, one table for each kind of fact.

    Tables that break a rule are not written: the run fails and names row and rule. Written under
    its content hash, so an older atlas that a wave pins is never overwritten; `atlas/places.parquet`
    has the places of the newest one, for the marts. Rebuilding it requests
    no runs. Formats: docs/formats.md#atlas.
    """
    atlas = load_atlas()
    require_sound(atlas)
    tables = atlas_tables(atlas)
    for name, table in tables.items():
        put_frame(store, f"atlas/{atlas.hash}/{name}.parquet", table)
    put_frame(store, layout.PLACES, place_table(atlas))
    cities, kinds = atlas.cities, atlas.institutions
    return dg.MaterializeResult(
        data_version=dg.DataVersion(atlas.hash),
        metadata={
            **{f"num_{name}": table.height for name, table in tables.items()},
            "num_places": sum(atlas.has(city, kind) for city in cities for kind in kinds),
            "atlas_hash": atlas.hash,
            "location": dg.MetadataValue.path(f"{store.url}/atlas/{atlas.hash}"),
            "cities": ", ".join(city.name for city in cities.values()),
        },
    )


@dg.asset_check(asset=place_atlas, blocking=True)
def every_fact_of_the_atlas_holds() -> dg.AssetCheckResult:
    """Every rule of `worldloop/atlas/rules` holds: sources, scopes, scripts, hours, totality, names."""
    found = atlas_problems(load_atlas())
    return dg.AssetCheckResult(
        passed=not found,
        description=found[0] if found else "",
        metadata={"problems": found[:20], "num_problems": len(found), "num_rules": len(RULES)},
    )
