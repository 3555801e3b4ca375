import json
from dataclasses import replace
from datetime import UTC, datetime

import dagster as dg
import numpy as np
import polars as pl
import pytest

from assets.round_plan import RoundPlanConfig
from resources.federation import Federation
from resources.ledger import Ledger
from resources.site_drift import DriftTask, SiteDrift, measure_drift, publish_drift, read_drift
from sensors.retraining import build_retraining
from tests import rows
from tests.sensors.rounds import JOBS, MODEL, SITES, end, open_round, promote, record_run, release
from worldloop import layout
from worldloop.errors import MalformedRecordError
from worldloop.federation.rounds import Base, Terms
from worldloop.sites import Budgets, Retraining, Site

SETTINGS = Retraining(model=MODEL, min_new_hours=1.0, max_gpu_s=60.0)
RICH = Budgets(gpu_s=1e6, usd=1e6)
PLACES = {"lima/zoo": 3, "cairo/zoo": 3, "oslo/zoo": 3, "tokyo/zoo": 3}
FAILED, STARTED = dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.STARTED


@pytest.fixture
def filmed(house):
    """One released wave of an hour, of cities at three sites."""
    (house.root / "sites.toml").write_text(SITES)
    release(house, "w0001", PLACES)
    return house


def tick(house, *, settings=SETTINGS, cursor=None, limits=RICH):
    site = Site("local", ("*",), "site", training=settings)
    ledger = Ledger(path=str(house.root / "ledger.sqlite"), limits=limits.limits())
    sensor = build_retraining(JOBS["round_job"], JOBS["drift_job"], site)
    federation = Federation(sites_path=str(house.root / "sites.toml"), home=str(house.root))
    with dg.build_sensor_context(
        instance=house.instance,
        resources={
            "store": house.store,
            "ledger": ledger,
            "federation": federation,
            "registry": house.resources["registry"],
        },
        cursor=cursor,
        sensor_name="retraining",
    ) as context:
        return sensor(context)


def config_of(result):
    return result.run_requests[0].run_config["ops"]["round_plan"]["config"]


def test_enough_new_hours_open_a_round_with_partition_run_budget_and_reason(filmed):
    result = tick(filmed)

    assert result.dynamic_partitions_requests[0].partition_keys == ["r0001"]
    (request,) = result.run_requests
    assert (request.run_key, request.job_name, request.partition_key) == (
        "r0001/plan",
        "round_job",
        "r0001",
    )
    assert "min_new_hours" in config_of(result)["reason"]
    reserved = {x.kind: x.reserved for x in Ledger(path=str(filmed.root / "ledger.sqlite")).today()}
    assert reserved["gpu_s"] == 60


def test_what_it_asks_for_is_what_round_plan_takes(filmed):
    settings = replace(
        SETTINGS,
        training=replace(SETTINGS.training, rank=4, num_steps=7),
        terms=Terms(quorum=1, deadline_s=60),
    )
    asked = RoundPlanConfig(**config_of(tick(filmed, settings=settings)))

    assert (asked.training.rank, asked.training.num_steps) == (4, 7)
    assert (asked.terms.quorum, asked.terms.deadline_s) == (1, 60)
    assert (asked.training.num_frames, asked.training.width_px) == (61, 320)
    assert len(asked.trial.held_out_cities) == 1


def test_the_cursor_has_a_version_and_its_loss_changes_nothing(filmed):
    result = tick(filmed)

    assert json.loads(result.cursor)["version"] == 1
    assert tick(filmed, cursor=result.cursor).run_requests == tick(filmed).run_requests


def test_too_little_footage_is_no_reason_and_says_how_much_there_is(filmed):
    message = tick(filmed, settings=replace(SETTINGS, min_new_hours=2.0)).skip_message

    assert "1 of 2 new accepted hours" in message


def test_a_round_that_is_open_holds_up_the_next_one(filmed):
    open_round(filmed)

    assert "r0001 is still open" in tick(filmed).skip_message


def test_a_round_that_is_being_planned_or_could_not_be_is_named(filmed):
    filmed.instance.add_dynamic_partitions("round", ["r0001"])
    record_run(filmed, "round_job", "r0001", STARTED)
    assert tick(filmed).skip_message == "Round r0001 is being planned."

    record_run(filmed, "round_job", "r0001", FAILED)
    assert "could not be planned" in tick(filmed).skip_message


def test_a_round_that_could_not_be_planned_gives_its_budget_back(filmed):
    tick(filmed)
    filmed.instance.add_dynamic_partitions("round", ["r0001"])
    record_run(filmed, "round_job", "r0001", FAILED)

    tick(filmed)

    held = Ledger(path=str(filmed.root / "ledger.sqlite")).today()
    assert all(line.reserved == 0 for line in held)


def test_a_partition_whose_run_was_never_asked_for_is_asked_for_again(filmed):
    filmed.instance.add_dynamic_partitions("round", ["r0001"])

    assert tick(filmed).run_requests[0].run_key == "r0001/plan"


def test_what_a_failed_round_was_trained_on_is_new_still(filmed):
    end(filmed, open_round(filmed), "failed")

    assert "1 new accepted hours" in config_of(tick(filmed))["reason"]


def test_what_a_refused_round_was_trained_on_is_new_as_soon_as_anything_else_comes(filmed):
    end(filmed, open_round(filmed), "refused")
    assert "Round r0001 was trained on all of this footage" in tick(filmed).skip_message

    release(filmed, "w0002", PLACES, hours=0.25)

    assert "1.25 new accepted hours" in config_of(tick(filmed))["reason"]


def test_what_a_checkpoint_that_was_taken_back_learned_is_new_again(filmed):
    promote(filmed, open_round(filmed))
    assert "0 of 1 new accepted hours" in tick(filmed).skip_message

    filmed.resources["registry"].roll_back(MODEL.lower(), "worse clips")

    assert "start and was taken back" in tick(filmed).skip_message
    release(filmed, "w0002", PLACES, hours=0.25)
    assert "1.25 new accepted hours" in config_of(tick(filmed))["reason"]


def test_footage_of_a_round_that_is_tried_as_shadow_opens_no_second_one(filmed):
    promote(filmed, open_round(filmed))
    release(filmed, "w0002", PLACES)
    tried = open_round(filmed, "r0002", waves=("w0002",), base=Base(MODEL, "tiny", adapter="r0001"))
    registry = filmed.resources["registry"]
    files = registry.files(MODEL.lower(), "r0001")
    registry.publish(MODEL.lower(), "r0002", files)
    registry.try_as_shadow(MODEL.lower(), "r0002", share=0.2)
    end(filmed, tried, "promoted")

    assert "is tried as shadow" in tick(filmed).skip_message


def test_the_cool_down_counts_from_the_last_plan(filmed):
    end(filmed, open_round(filmed, opened_at=datetime.now(UTC).isoformat()), "failed")

    assert "min_hours_between_rounds" in tick(filmed).skip_message


def test_a_budget_that_does_not_suffice_is_said_with_its_numbers(filmed):
    message = tick(filmed, limits=Budgets()).skip_message

    assert "60 gpu_s" in message
    assert "There is reason to train" in message


def test_sites_without_clips_make_no_quorum(house):
    release(house, "w0001", {"tokyo/zoo": 3, "lima/zoo": 3}, hours=9)  # all at one site

    assert "quorum of 2" in tick(house).skip_message


HOMELESS = """
[sites.local]
cities = ["tokyo"]
store = "site"
[sites.aws]
cities = ["lima", "cairo"]
store = "aws"
"""


def test_a_released_city_that_is_at_home_nowhere_is_named_with_what_to_do(filmed):
    (filmed.root / "sites.toml").write_text(HOMELESS)

    message = tick(filmed).skip_message

    assert "oslo" in message
    assert "sites.toml" in message
    assert "lima" not in message
    assert "\n" not in message
    assert not filmed.instance.get_dynamic_partitions("round")


def test_a_city_that_is_at_home_nowhere_hides_no_other_reason(filmed):
    (filmed.root / "sites.toml").write_text(HOMELESS)
    open_round(filmed)

    assert "r0001 is still open" in tick(filmed).skip_message
    assert "name one under" in tick(filmed, settings=Retraining()).skip_message


def test_footage_that_was_learned_needs_no_home(filmed):
    promote(filmed, open_round(filmed))
    (filmed.root / "sites.toml").write_text(HOMELESS)
    release(filmed, "w0002", {"lima/zoo": 3, "cairo/zoo": 3, "tokyo/zoo": 3})

    assert tick(filmed).run_requests[0].run_key == "r0002/plan"


def test_one_city_alone_cannot_be_held_out(house):
    release(house, "w0001", {"tokyo/zoo": 3}, hours=9)

    message = tick(house, settings=replace(SETTINGS, terms=Terms(quorum=1))).skip_message

    assert "at least two cities" in message


def test_cities_that_were_held_out_stay_held_out(filmed):
    end(filmed, open_round(filmed), "failed")  # held out cairo

    assert "cairo" in config_of(tick(filmed))["trial"]["held_out_cities"]


def test_drift_is_measured_at_each_site_once_before_the_answer(filmed):
    settings = replace(SETTINGS, min_new_hours=0.0, max_drift=0.5)
    promote(filmed, open_round(filmed))
    release(filmed, "w0002", PLACES, hours=0.1)

    requests = tick(filmed, settings=settings).run_requests
    assert [r.run_key for r in requests] == [
        f"drift/r0001/w0002/{site}" for site in ("aws", "gcp", "local")
    ]
    for request in requests:
        run_key = {"dagster/run_key": request.run_key}
        record_run(filmed, "drift_job", request.partition_key, FAILED, **run_key)
    assert "no site has said its drift" in tick(filmed, settings=settings).skip_message
    publish_drift(filmed.store, SiteDrift("aws", "r0001", "w0002", 0.7, 40))
    assert "max_drift" in config_of(tick(filmed, settings=settings))["reason"]


def test_drift_from_another_base_counts_for_nothing(filmed):
    publish_drift(filmed.store, SiteDrift("aws", "r0000", "w0002", 9.0, 40))
    settings = replace(SETTINGS, min_new_hours=0.0, max_drift=0.5)
    promote(filmed, open_round(filmed))

    assert "no site has said its drift" in tick(filmed, settings=settings).skip_message


def test_a_site_measures_drift_on_its_own_released_vectors_alone(house):
    federation = Federation(sites_path=str(house.root / "sites.toml"), home=str(house.root))
    random = np.random.default_rng(1)
    for wave, shift in (("w0001", 0.0), ("w0002", 4.0)):
        vectors = rows.vectors(range(40), wave=wave)
        moved = random.normal(shift, 1.0, (40, 8)).astype(np.float32)
        values = pl.Series("vector", moved.tolist(), pl.List(pl.Float32))
        federation.log("local").append("vectors", vectors.with_columns(values))
        clips = rows.clips(range(40), wave=wave).with_columns(release=pl.lit(wave))
        names = ["release", "wave", "recipe_id", "content_sha256", "pack_key"]
        federation.log("local").append("release_clips", clips.select(names))

    moved_far = measure_drift(federation, DriftTask("local", "r0001", ("w0001",), ("w0002",)))

    assert (moved_far.num_clips, moved_far.wave) == (40, "w0002")
    assert moved_far.drift > 1
    assert measure_drift(federation, DriftTask("aws", "r0001", ("w0001",), ("w0002",))) is None


def test_a_drift_that_nobody_measured_is_refused(house):
    house.store.put(layout.drift_key("aws"), b'{"site": "aws"}')

    with pytest.raises(MalformedRecordError, match="drift of a site"):
        read_drift(house.store, "aws")
    with pytest.raises(MalformedRecordError, match="drift of site aws"):
        SiteDrift("aws", "r0001", "w0001", float("nan"), 3)


def test_it_is_off_until_somebody_switches_it_on():
    sensor = build_retraining(JOBS["round_job"], JOBS["drift_job"], Site("local", ("*",), "site"))

    assert sensor.default_status == dg.DefaultSensorStatus.STOPPED
