"""The code location `worldloop`: the graph from the atlas to the release, with what carries it."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from assets import (
    catalog,
    cosmos_clips,
    dedup_clusters,
    embeddings,
    gallery,
    place_atlas,
    prompts,
    release,
    rendered_clips,
    signals,
    throughput,
    wave_plan,
)
from assets.site_catalogs import asset_name, build_site_catalog, build_site_checks
from orchestration.deployments import local_site, resources
from orchestration.housekeeping import housekeeping_job, nightly_housekeeping
from orchestration.jobs import atlas_job, build_catalogs_job, city_job, close_job, plan_job
from orchestration.upkeep import build_catalog_upkeep
from resources.catalog_upkeep import Catalogs
from sensors.continuous_generation import build_continuous_generation
from sensors.failed_runs import failed_runs
from sensors.late_catalogs import build_late_catalogs
from sensors.promoted_drafts import build_promoted_drafts
from sensors.uneven_catalogs import build_uneven_catalogs
from sensors.wave_conductor import build_wave_conductor

_NOUNS = [
    place_atlas,
    wave_plan,
    prompts,
    rendered_clips,
    cosmos_clips,
    signals,
    embeddings,
    dedup_clusters,
    catalog,
    release,
    gallery,
    throughput,
]


def build_definitions(kit: Mapping[str, Any]) -> dg.Definitions:
    """The code location with the given resources, by the name that assets ask for."""
    catalogs: Catalogs = kit["catalogs"]
    sites = catalogs.federation.sites.all
    upkeep_job, nightly_upkeep = build_catalog_upkeep(sites)
    return dg.Definitions(
        assets=[*dg.load_assets_from_modules(_NOUNS), *map(build_site_catalog, sites)],
        asset_checks=[
            *dg.load_asset_checks_from_modules(_NOUNS),
            *map(build_site_checks, sites),
        ],
        jobs=[
            atlas_job,
            plan_job,
            city_job,
            close_job,
            housekeeping_job,
            build_catalogs_job(sites),
            upkeep_job,
        ],
        sensors=[
            build_wave_conductor(city_job, close_job),
            build_continuous_generation(plan_job, local_site()),
            build_promoted_drafts(plan_job, local_site()),
            failed_runs,
            dg.AutomationConditionSensorDefinition(
                "catalogs_follow_the_logs",
                target=dg.AssetSelection.assets(*(asset_name(site.name) for site in sites)),
                default_status=dg.DefaultSensorStatus.RUNNING,
                minimum_interval_seconds=30,
            ),
            build_uneven_catalogs(sites),
            build_late_catalogs(sites),
        ],
        schedules=[nightly_housekeeping, nightly_upkeep],
        resources=dict(kit),
        executor=dg.in_process_executor,
    )


defs = build_definitions(resources())
