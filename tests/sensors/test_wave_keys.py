"""Sensors that open waves at the same time: one key, one wave."""

import itertools

import dagster as dg
import pytest

from resources.wave_plans import planned_waves, read_plan
from sensors.continuous_generation import build_continuous_generation
from sensors.promoted_drafts import build_promoted_drafts
from sensors.regeneration import build_regeneration
from tests.sensors.lines import FILES, LINE
from tests.sensors.rounds import end, open_round
from tests.sensors.test_regeneration import (
    PLAN_JOB,
    SETTINGS,
    make_wave,
    nothing_remembered,
)
from worldloop.sites import Generation, Promotion, Site

assert nothing_remembered  # a fixture that every test here uses
SITE = Site(
    "local",
    ("*",),
    "site",
    training=SETTINGS,
    generation=Generation(clips_per_place=1, width_px=96, height_px=54, num_samples=1),
    promotion=Promotion(),
)
SENSORS = {
    "regeneration": build_regeneration,
    "continuous_generation": build_continuous_generation,
    "promoted_drafts": build_promoted_drafts,
}


@pytest.fixture
def promoted(house):
    """A released wave, and a round whose promotion has something to make anew."""
    make_wave(house, "w0001", accepted=(1, 2))
    end(house, open_round(house), "promoted")
    registry = house.resources["registry"]
    registry.publish(LINE, "r0001", FILES)
    registry.promote(LINE, "r0001")
    return house


def tick(house, name):
    """What one look of a sensor answers; nothing of it is carried out yet, as in a daemon at work."""
    names = ("store", "site_log", "ledger", "registry")
    sensor = SENSORS[name](PLAN_JOB, SITE)
    needed = {key: house.resources[key] for key in names if key in sensor.required_resource_keys}
    with dg.build_sensor_context(
        instance=house.instance, resources=needed, sensor_name=name
    ) as context:
        return sensor(context)


def key_of(result):
    (request,) = result.run_requests
    (partitions,) = result.dynamic_partitions_requests
    assert partitions.partition_keys == [request.partition_key]
    return request.partition_key


@pytest.mark.parametrize(
    "order", list(itertools.permutations(["regeneration", "continuous_generation"]))
)
def test_two_sensors_that_look_at_once_get_two_keys(promoted, order):
    keys = [key_of(tick(promoted, name)) for name in order]

    assert keys == ["w0002", "w0003"]


def test_what_both_asked_for_is_planned_under_its_own_key(promoted):
    results = [tick(promoted, name) for name in ("continuous_generation", "regeneration")]
    for result in results:
        promoted.instance.add_dynamic_partitions("wave", [key_of(result)])
        config = dict(result.run_requests[0].run_config)
        promoted.execute("plan_job", key_of(result), config)

    assert planned_waves(promoted.store) == ["w0001", "w0002", "w0003"]
    assert read_plan(promoted.store, "w0003").world_model is not None
    assert read_plan(promoted.store, "w0002").world_model is None


@pytest.mark.parametrize("name", ["regeneration", "continuous_generation"])
def test_two_daemons_that_look_for_one_cause_ask_for_one_wave(promoted, name):
    first, second = tick(promoted, name), tick(promoted, name)

    assert key_of(first) == key_of(second) == "w0002"
    assert first.run_requests[0].run_key == second.run_requests[0].run_key


def test_each_key_has_its_own_reservation(promoted):
    once = {}
    for name in ("regeneration", "continuous_generation"):
        tick(promoted, name)
        held = {line.kind: line.reserved for line in promoted.resources["ledger"].today()}
        assert held["cpu_s"] > once.get("cpu_s", 0)
        once = held


def test_a_plan_whose_partition_was_deleted_keeps_its_key(promoted):
    promoted.instance.delete_dynamic_partition("wave", "w0001")

    assert key_of(tick(promoted, "continuous_generation")) == "w0002"
