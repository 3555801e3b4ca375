"""Looks after every site's catalogs at night: compaction, indices, expiry, holes, backup."""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from assets.site_catalogs import NOBODY, as_metadata, asset_name, pool_of
from resources.catalog_repair import NIGHTLY_SHARE, back_up, follow, heal
from resources.catalog_upkeep import Catalogs
from worldloop.errors import BudgetExceededError, LeaseHeldError, StoreError
from worldloop.sites import Site

_FOUR_HOURS = "14400"


def build_catalog_upkeep(
    sites: Sequence[Site],
) -> tuple[dg.JobDefinition, dg.ScheduleDefinition]:
    """The job, with one step a site, and its schedule; a site that fails stops no other."""
    steps = [_upkeep_of(site) for site in sites]

    @dg.job(
        name="catalog_upkeep",
        description="Compact, improve indices, expire, reconcile deeply and back up, site by site.",
        tags={"dagster/max_runtime": _FOUR_HOURS},
    )
    def catalog_upkeep() -> None:
        for step in steps:
            step()

    return catalog_upkeep, dg.ScheduleDefinition(
        name="nightly_catalog_upkeep",
        job=catalog_upkeep,
        cron_schedule="47 3 * * *",  # half an hour behind the house itself
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )


def _upkeep_of(site: Site) -> dg.OpDefinition:
    @dg.op(
        name=f"look_after_{site.name}",
        description=f"What the night does for the catalogs of `{site.name}`.",
        pool=pool_of(site.name),
        retry_policy=dg.RetryPolicy(max_retries=1, delay=30),
    )
    def look_after(context: dg.OpExecutionContext, catalogs: Catalogs) -> None:
        key = f"{context.run_id}/{site.name}/{context.retry_number}"
        try:
            facts = _night(context, catalogs, site, key)
        except (StoreError, LeaseHeldError, BudgetExceededError) as error:
            raise dg.Failure(f"{site.name}: {error}") from None  # clients quote signed addresses
        context.log_event(dg.AssetMaterialization(asset_name(site.name), metadata=facts))

    return look_after


def _night(
    context: dg.OpExecutionContext, catalogs: Catalogs, site: Site, key: str
) -> dict[str, Any]:
    problems: list[StoreError | LeaseHeldError] = []
    unheard, counts = NOBODY, dict[str, Any]()
    try:
        followed, _ = follow(catalogs, site.name, key=f"{key}/follow")
        unheard = ", ".join(followed.unheard) or NOBODY
        counts = catalogs.maintain(site.name, key=f"{key}/maintain")
    except (StoreError, LeaseHeldError) as error:  # what is lost or saved must not wait for it
        problems.append(error)
    healed = heal(catalogs, site.name, deep=NIGHTLY_SHARE, key=f"{key}/heal")
    for words in healed.still_missing:
        context.log.error("Still missing at %s: %s", site.name, words)
    saved = back_up(catalogs, site.name, key=f"{key}/backup")
    if problems:
        raise problems[0]
    return {
        **as_metadata(catalogs.look(site.name)),
        "unheard": unheard,
        "upkeep": dg.MetadataValue.json(counts),
        "num_missing": healed.num_missing,
        "num_repaired": healed.num_repaired,
        "backup": saved,
    }
