"""The jobs of the graph: plan a wave, carry a city, close a wave, bring the catalogs up to date; the steps of a round."""

from collections.abc import Iterable, Sequence

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from assets.adapter import adapter
from assets.catalog import catalog
from assets.checkpoint_lines import checkpoint_lines
from assets.cosmos_clips import cosmos_clips
from assets.coverage import coverage
from assets.dedup_clusters import dedup_clusters
from assets.embeddings import embeddings
from assets.evaluation import evaluation
from assets.gallery import gallery
from assets.partitions import site_by_round
from assets.place_atlas import place_atlas
from assets.promoted_checkpoint import promoted_checkpoint
from assets.prompts import prompts
from assets.release import release
from assets.rendered_clips import rendered_clips
from assets.round_plan import round_plan
from assets.signals import signals
from assets.site_catalogs import asset_name
from assets.site_delta import secure_phase
from assets.throughput import throughput
from assets.wave_plan import wave_plan
from sensors.wave_conductor import MAX_RUNTIME_TAG, SKETCH_RUNTIME_S
from worldloop.sites import Site

atlas_job = dg.define_asset_job(
    "atlas_job",
    dg.AssetSelection.assets(place_atlas),
    description="Write the installed atlas into the site.",
    tags={MAX_RUNTIME_TAG: "300"},
)
plan_job = dg.define_asset_job(
    "plan_job",
    dg.AssetSelection.assets(wave_plan),
    description="Plan one wave.",
    tags={MAX_RUNTIME_TAG: "300"},
)
city_job = dg.define_asset_job(
    "city_job",
    dg.AssetSelection.assets(prompts, rendered_clips, cosmos_clips, signals, embeddings),
    description="One planned city of one wave, from prompts to vectors.",
    tags={
        MAX_RUNTIME_TAG: str(SKETCH_RUNTIME_S)
    },  # the conductor gives waves with a world model more
)
close_job = dg.define_asset_job(
    "close_job",
    dg.AssetSelection.assets(dedup_clusters, catalog, release, gallery, coverage, throughput),
    description="Close one wave: decide duplicates, append to the log, freeze the release.",
    tags={MAX_RUNTIME_TAG: "3600"},
)
_SITE_STEP_S = 6 * 3600  # training, or measuring with the samples that the first site makes
round_job = dg.define_asset_job(
    "round_job",
    dg.AssetSelection.assets(round_plan),
    description="Plan one federated round.",
    tags={MAX_RUNTIME_TAG: "600"},
)
delta_job = dg.define_asset_job(
    "delta_job",
    dg.AssetSelection.assets("site_delta"),
    description="One site of one round: train, and send what training changed.",
    tags={MAX_RUNTIME_TAG: str(_SITE_STEP_S)},
)
drift_job = dg.define_asset_job(
    "drift_job",
    dg.AssetSelection.assets("site_drift"),
    description="One site: how far its footage has moved from what was trained on.",
    tags={MAX_RUNTIME_TAG: "600"},
)
adapter_job = dg.define_asset_job(
    "adapter_job",
    dg.AssetSelection.assets(adapter),
    description="Make one adapter of the deltas of a round.",
    tags={MAX_RUNTIME_TAG: "600"},
)
scores_job = dg.define_asset_job(
    "scores_job",
    dg.AssetSelection.assets("site_scores"),
    description="One site of one round: measure the candidate on held-out clips.",
    tags={MAX_RUNTIME_TAG: str(_SITE_STEP_S)},
)
verdict_job = dg.define_asset_job(
    "verdict_job",
    dg.AssetSelection.assets(evaluation, promoted_checkpoint),
    description="Judge the candidate of a round; promote it if it passes every gate.",
    tags={MAX_RUNTIME_TAG: str(_SITE_STEP_S)},
)
lines_job = dg.define_asset_job(
    "lines_job",
    dg.AssetSelection.assets(checkpoint_lines),
    description="Show which checkpoints are used; take back those that clips show to be worse.",
    tags={MAX_RUNTIME_TAG: "600"},
)


def build_phase_job(sites: Iterable[str]) -> dg.JobDefinition:
    """The job of the phases of secure rounds in which nobody trains; it takes no GPU."""

    @dg.job(
        name="phase_job",
        description="One site of a secure round: what a phase after the first asks of it.",
        partitions_def=site_by_round(sites),
        tags={MAX_RUNTIME_TAG: "3600"},
    )
    def phase_job() -> None:
        secure_phase()

    return phase_job


def build_catalogs_job(sites: Sequence[Site]) -> UnresolvedAssetJobDefinition:
    """The job that brings the catalogs of all sites up to date; one that fails stops no other."""
    return dg.define_asset_job(
        "catalogs_job",
        dg.AssetSelection.assets(*(asset_name(site.name) for site in sites)),
        description="Bring the catalogs of every site up to date, and check them.",
        tags={MAX_RUNTIME_TAG: "3600"},
    )
