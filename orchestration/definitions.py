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
from orchestration.deployments import local_site, resources
from orchestration.housekeeping import housekeeping_job, nightly_housekeeping
from orchestration.jobs import atlas_job, city_job, close_job, plan_job
from sensors.continuous_generation import build_continuous_generation
from sensors.failed_runs import failed_runs
from sensors.promoted_drafts import build_promoted_drafts
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
    return dg.Definitions(
        assets=dg.load_assets_from_modules(_NOUNS),
        asset_checks=dg.load_asset_checks_from_modules(_NOUNS),
        jobs=[atlas_job, plan_job, city_job, close_job, housekeeping_job],
        sensors=[
            build_wave_conductor(city_job, close_job),
            build_continuous_generation(plan_job, local_site()),
            build_promoted_drafts(plan_job, local_site()),
            failed_runs,
        ],
        schedules=[nightly_housekeeping],
        resources=dict(kit),
        executor=dg.in_process_executor,
    )


defs = build_definitions(resources())
