"""The code location `worldloop`: the graph from the atlas to the release and the rounds, with what carries it."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from assets import (
    adapter,
    catalog,
    checkpoint_lines,
    cosmos_clips,
    coverage,
    dedup_clusters,
    embeddings,
    evaluation,
    gallery,
    place_atlas,
    promoted_checkpoint,
    prompts,
    release,
    rendered_clips,
    round_plan,
    signals,
    throughput,
    wave_plan,
)
from assets.site_catalogs import asset_name, build_site_catalog, build_site_checks
from assets.site_delta import build_site_delta
from assets.site_drift import build_site_drift
from assets.site_scores import build_site_scores
from orchestration.deployments import local_site, resources
from orchestration.housekeeping import housekeeping_job, nightly_housekeeping
from orchestration.jobs import (
    adapter_job,
    atlas_job,
    build_catalogs_job,
    build_phase_job,
    city_job,
    close_job,
    delta_job,
    drift_job,
    lines_job,
    plan_job,
    round_job,
    scores_job,
    verdict_job,
)
from orchestration.upkeep import build_catalog_upkeep
from resources.catalog_upkeep import Catalogs
from sensors.continuous_generation import build_continuous_generation
from sensors.failed_runs import failed_runs
from sensors.late_catalogs import build_late_catalogs
from sensors.promoted_drafts import build_promoted_drafts
from sensors.regeneration import build_regeneration
from sensors.retraining import build_retraining
from sensors.round_conductor import build_round_conductor
from sensors.uneven_catalogs import build_uneven_catalogs
from sensors.wave_conductor import build_wave_conductor
from sensors.worse_checkpoints import build_worse_checkpoints

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
    coverage,
    throughput,
    round_plan,
    adapter,
    evaluation,
    promoted_checkpoint,
    checkpoint_lines,
]


def build_definitions(kit: Mapping[str, Any]) -> dg.Definitions:
    """The code location with the given resources, by the name that assets ask for."""
    catalogs: Catalogs = kit["catalogs"]
    sites = catalogs.federation.sites.all
    names = [site.name for site in sites]
    upkeep_job, nightly_upkeep = build_catalog_upkeep(sites)
    phase_job = build_phase_job(names)
    return dg.Definitions(
        assets=[
            *dg.load_assets_from_modules(_NOUNS),
            *map(build_site_catalog, sites),
            build_site_drift(names),
            build_site_delta(names),
            build_site_scores(names),
        ],
        asset_checks=[
            *dg.load_asset_checks_from_modules(_NOUNS),
            *map(build_site_checks, sites),
        ],
        jobs=[
            atlas_job,
            plan_job,
            city_job,
            close_job,
            round_job,
            delta_job,
            phase_job,
            drift_job,
            adapter_job,
            scores_job,
            verdict_job,
            lines_job,
            housekeeping_job,
            build_catalogs_job(sites),
            upkeep_job,
        ],
        sensors=[
            build_wave_conductor(city_job, close_job),
            build_continuous_generation(plan_job, local_site()),
            build_promoted_drafts(plan_job, local_site()),
            build_round_conductor(delta_job, phase_job, adapter_job, scores_job, verdict_job),
            build_retraining(round_job, drift_job, local_site()),
            build_regeneration(plan_job, local_site()),
            build_worse_checkpoints(lines_job, local_site()),
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
