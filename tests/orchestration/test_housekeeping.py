import os

import dagster as dg

from tests.assets.stand_ins import Federated


def test_the_night_writes_metrics_and_leaves_what_is_needed(carried):
    before = carried.store.list("packs")

    result = carried.execute("housekeeping_job")

    assert result.success
    assert carried.store.list("packs") == before
    assert carried.store.local_path("metrics.prom").read_text().startswith("# HELP")


def test_old_runs_that_made_nothing_are_pruned_and_others_stay(house):
    house.plan("w0001", ["tokyo/museum"])
    made = house.instance.get_runs()[0].run_id
    house.instance.add_run(
        dg.DagsterRun(job_name="city_job", run_id="empty", status=dg.DagsterRunStatus.CANCELED)
    )
    config = {"ops": {"prune_old_runs": {"config": {"keep_days": -1}}}}

    house.execute("housekeeping_job", config=config)

    left = {run.run_id for run in house.instance.get_runs()}
    assert made in left
    assert "empty" not in left


def test_young_runs_stay(house):
    house.instance.add_run(
        dg.DagsterRun(job_name="city_job", run_id="young", status=dg.DagsterRunStatus.CANCELED)
    )

    house.execute("housekeeping_job")

    assert house.instance.get_run_by_id("young") is not None


def test_a_batch_whose_claim_was_lost_is_claimed_again_before_the_sweeper_comes(house):
    federated = Federated(house)
    federated.film()
    federated.update()
    store = house.store
    batch = next(key for key, _ in store.list("logs/shared/lineage") if "-" in key)
    claim = next(key for key, _ in store.list("logs/shared/lineage/claims"))
    store.delete(claim)
    os.utime(store.local_path(batch), (0, 0))

    house.execute("housekeeping_job")

    assert store.exists(claim)
    assert store.exists(batch)
