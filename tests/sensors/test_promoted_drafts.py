import json

import dagster as dg
import polars as pl
import pytest

from assets.wave_plan import WavePlanConfig
from orchestration.jobs import plan_job
from resources.ledger import Ledger
from resources.tables import publish
from sensors.promoted_drafts import build_promoted_drafts
from tests import rows
from worldloop import layout
from worldloop.records import DEDUP, GENERATIONS, SIGNALS, VECTORS
from worldloop.sites import Budgets, Promotion, Site

MODEL = {
    "world_model": "Cosmos-Predict2-2B-Video2World",
    "tier": "draft",
    "control": ["first_frames"],
}
RICH = Budgets(gpu_s=1e6, usd=1e6)


@pytest.fixture
def drafted(house):
    """A released wave of ten drafts, from tables alone; the later ones are sharper."""
    house.plan("w0001", ["tokyo/zoo"], clips_per_place=10, **MODEL)
    release(house, "w0001")
    return house


def release(house, wave):
    generated = pl.Series([rows.generated_id(i, wave=wave) for i in range(10)])
    signals = rows.signals(range(10), rejected=(9,), wave=wave)
    tables = {
        layout.generations_key(wave, "tokyo"): (
            GENERATIONS,
            rows.generations(range(10), wave=wave),
        ),
        layout.signals_key(wave, "tokyo"): (
            SIGNALS,
            signals.with_columns(recipe_id=generated, sharpness=pl.int_range(10) / 100),
        ),
        layout.dedup_key(wave): (
            DEDUP,
            rows.dedup(range(10), duplicates=(8,), wave=wave).with_columns(recipe_id=generated),
        ),
        layout.vectors_key(wave, "tokyo"): (VECTORS, rows.vectors(range(10), wave=wave)),
    }
    for key, (table, content) in tables.items():
        publish(house.store, table, key, content)
    house.instance.report_runless_asset_event(dg.AssetMaterialization("release", partition=wave))


def tick(house, *, cursor=None, limits=RICH, **settings):
    site = Site("local", ("*",), "sites/local", promotion=Promotion(**settings))
    sensor = build_promoted_drafts(plan_job, site)
    ledger = Ledger(path=str(house.root / "ledger.sqlite"), limits=limits.limits())
    with dg.build_sensor_context(
        instance=house.instance,
        resources={"store": house.store, "ledger": ledger},
        cursor=cursor,
        sensor_name="promoted_drafts",
        definitions=house.definitions(),
    ) as context:
        return sensor(context)


def config_of(result):
    return result.run_requests[0].run_config["ops"]["wave_plan"]["config"]


def test_the_best_drafts_are_rendered_again_one_tier_up(drafted):
    result = tick(drafted, share=0.25)

    config = config_of(result)
    assert config["drafts"] == [rows.generated_id(i) for i in (7, 6)]
    assert (config["tier"], config["source"]) == ("standard", "sketch")
    assert result.run_requests[0].run_key == "promote:w0001:w0002"
    assert result.dynamic_partitions_requests[0].partition_keys == ["w0002"]
    assert WavePlanConfig(**config).model_plan().shape.num_frames == 93


def test_the_wave_that_was_asked_for_can_be_planned_and_promotes_nothing_twice(drafted):
    result = tick(drafted, share=0.25)
    drafted.instance.add_dynamic_partitions("wave", ["w0002"])
    drafted.execute("plan_job", "w0002", dict(result.run_requests[0].run_config))

    assert "w0002 is still open" in tick(drafted, share=0.25).skip_message
    drafted.instance.report_runless_asset_event(
        dg.AssetMaterialization("release", partition="w0002")
    )
    again = tick(drafted, share=0.25)  # without a cursor: the plans remember
    assert "no released wave has drafts left" in again.skip_reason.skip_message.lower()
    more = tick(drafted, share=0.5)
    assert not set(config_of(more)["drafts"]) & set(config_of(result)["drafts"])


def test_a_day_has_a_cap_and_the_cursor_counts(drafted):
    result = tick(drafted, share=1.0, max_per_day=3)

    assert len(config_of(result)["drafts"]) == 3
    assert json.loads(result.cursor)["promoted"] == 3
    assert (
        "max_per_day" in tick(drafted, cursor=result.cursor, share=1.0, max_per_day=3).skip_message
    )
    yesterday = json.dumps({**json.loads(result.cursor), "day": "2020-01-01"})
    assert len(config_of(tick(drafted, cursor=yesterday, share=1.0, max_per_day=3))["drafts"]) == 3


def test_gpu_seconds_that_the_day_does_not_have_stop_it_with_their_numbers(drafted):
    message = tick(drafted, limits=Budgets()).skip_message

    assert "gpu_s" in message
    assert "w0001" in message


def test_nothing_is_promoted_while_a_wave_is_open_or_planned(house):
    house.plan("w0001", ["tokyo/zoo"], clips_per_place=1, **MODEL)
    assert "w0001 is still open" in tick(house).skip_message
    house.instance.add_dynamic_partitions("wave", ["w0002"])
    assert tick(house).skip_message == "Wave w0002 is being planned."


def test_a_wave_of_sketches_has_nothing_to_promote_and_is_not_looked_at_again(carried):
    result = tick(carried)

    assert json.loads(result.cursor)["finished"] == ["w0001"]


def test_it_is_off_until_somebody_switches_it_on(house):
    sensor = house.definitions().resolve_sensor_def("promoted_drafts")

    assert sensor.default_status == dg.DefaultSensorStatus.STOPPED
