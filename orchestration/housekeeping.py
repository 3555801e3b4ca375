"""Looks after the house every night: fills holes, sweeps leftovers, prunes old runs, writes the metrics file."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
from dagster import DagsterEventType, DagsterRunStatus, RunsFilter

from orchestration.metrics import write_metrics
from resources.catalog_repair import heal
from resources.catalog_upkeep import Catalogs
from resources.federation import Federation
from resources.ledger import Ledger
from resources.site_store import SiteStore
from resources.staging import Staging
from resources.sweeper import sweep
from worldloop.errors import BudgetExceededError, StoreError

_ENDED = [DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED]


class PruneConfig(dg.Config):
    """How long history stays.

    Attributes:
        keep_days: Runs that ended earlier go, unless a materialisation hangs on them.
        batch_size: Runs looked at in one night.
    """

    keep_days: int = 30
    batch_size: int = 500


@dg.op
def prune_old_runs(context: dg.OpExecutionContext, config: PruneConfig) -> None:
    """Delete old runs that made nothing; a run that made an asset is that asset's history."""
    before = datetime.now(UTC) - timedelta(days=config.keep_days)
    old = context.instance.get_runs(
        RunsFilter(statuses=_ENDED, updated_before=before), limit=config.batch_size
    )
    pruned = 0
    for run in old:
        made = context.instance.get_records_for_run(
            run.run_id, of_type=DagsterEventType.ASSET_MATERIALIZATION, limit=1
        ).records
        if not made:
            context.instance.delete_run(run.run_id)
            pruned += 1
    context.log.info("Pruned %d of %d runs older than %d days", pruned, len(old), config.keep_days)


@dg.op
def fill_holes(context: dg.OpExecutionContext, catalogs: Catalogs) -> None:
    """Reconcile by listings before anything is swept.

    A claim that was lost makes its batch look like a leftover; it has to be put back before the
    sweeper comes. The deep comparison, and the upkeep of the catalogs, are `catalog_upkeep`'s.
    """
    for name in catalogs.federation.members:
        key = f"{context.run_id}/{name}/fill_holes"
        try:
            healed = heal(catalogs, name, key=key)
        except (StoreError, BudgetExceededError) as error:
            raise dg.Failure(f"{name}: {error} Nothing was swept.") from None
        for words in healed.still_missing:
            context.log.error("Missing at %s: %s", name, words)


@dg.op(ins={"after": dg.In(dg.Nothing)})
def sweep_leftovers(
    context: dg.OpExecutionContext, store: SiteStore, staging: Staging, federation: Federation
) -> None:
    """Remove what killed runs and ended rounds left behind at every site: old staging, packs that no table names."""
    going = sweep(store, scratch=Path(staging.root), home=Path(federation.home), apply=True)
    context.log.info(
        "Swept %d objects, %d bytes", len(going), sum(found.size_bytes for found in going)
    )


@dg.op
def write_metrics_file(context: dg.OpExecutionContext, store: SiteStore, ledger: Ledger) -> None:
    """Write `metrics.prom` for Prometheus' textfile collector."""
    try:
        path = store.local_path("metrics.prom")
    except StoreError:
        context.log.info("The site is remote; scrape `worldloop metrics --serve` instead")
        return
    write_metrics(path, context.instance, store, ledger)


@dg.job(description="Fill holes, sweep leftovers, prune old runs, write metrics.")
def housekeeping_job() -> None:
    """What the night does."""
    sweep_leftovers(fill_holes())
    prune_old_runs()
    write_metrics_file()


nightly_housekeeping = dg.ScheduleDefinition(
    name="nightly_housekeeping",
    job=housekeeping_job,
    cron_schedule="17 3 * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
