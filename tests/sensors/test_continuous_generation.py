import json
from collections import Counter

import dagster as dg
import pytest

from assets.wave_plan import WavePlanConfig
from orchestration.jobs import plan_job
from resources.wave_plans import read_plan
from sensors.continuous_generation import build_continuous_generation
from tests.sensors.lines import FILES
from tests.sensors.rounds import MODEL, open_round
from worldloop.atlas.atlas import load_atlas
from worldloop.federation.rounds import Base
from worldloop.sites import Budgets, Generation, Site


def tick(house, *, cursor=None, ledger=None):
    sensor = house.definitions().resolve_sensor_def("continuous_generation")
    resources = {name: house.resources[name] for name in ("store", "ledger", "registry")}
    resources |= {"ledger": ledger} if ledger else {}
    with dg.build_sensor_context(
        instance=house.instance,
        resources=resources,
        cursor=cursor,
        sensor_name="continuous_generation",
    ) as context:
        return sensor(context)


def test_the_first_wave_opens_with_its_partition_its_run_and_its_budget(house):
    result = tick(house)

    assert result.dynamic_partitions_requests[0].partition_keys == ["w0001"]
    assert result.run_requests[0].run_key == "w0001/plan"
    assert result.run_requests[0].run_config["ops"]["wave_plan"]["config"]["num_cities"] == 5
    reserved = {line.kind: line.reserved for line in house.resources["ledger"].today()}
    assert reserved["cpu_s"] > 0


def test_no_wave_opens_while_one_is_open(house):
    house.plan("w0001", ["tokyo/museum"])

    assert "w0001 is still open" in tick(house).skip_message


def test_no_wave_opens_while_the_last_one_is_being_planned(house):
    cursor = tick(house).cursor

    assert tick(house, cursor=cursor).skip_message == "Wave w0001 is being planned."


def test_a_wave_whose_plan_failed_is_named(house):
    cursor = tick(house).cursor
    house.instance.add_run(
        dg.DagsterRun(
            job_name="plan_job",
            run_id="failed-plan",
            status=dg.DagsterRunStatus.FAILURE,
            tags={"dagster/partition": "w0001"},
        )
    )

    assert "could not be planned" in tick(house, cursor=cursor).skip_message


def test_a_spent_budget_stops_generation_with_its_numbers(house):
    from resources.ledger import Ledger

    poor = Ledger(path=str(house.root / "poor.sqlite"), limits=Budgets(cpu_s=1.0).limits())

    result = tick(house, ledger=poor)

    assert "cpu_s" in result.skip_message
    assert not house.instance.get_dynamic_partitions("wave")


def test_the_cursor_says_what_was_opened_and_when(house):
    cursor = json.loads(tick(house).cursor)

    assert cursor["version"] == 1
    assert cursor["wave"] == "w0001"


def test_after_a_release_the_next_wave_waits_for_its_hour(carried):
    cursor = json.dumps({"version": 1, "wave": "w0001", "opened_at": "2999-01-01T00:00:00+00:00"})

    assert "min_hours_between_waves" in tick(carried, cursor=cursor).skip_message


def config_for(house, **generation):
    """What the sensor of a site asks of its next wave."""
    site = Site("local", ("*",), "site", generation=Generation(**generation))
    resources = {name: house.resources[name] for name in ("store", "ledger", "registry")}
    with dg.build_sensor_context(instance=house.instance, resources=resources) as context:
        return config_of(build_continuous_generation(plan_job, site)(context))


def plan_as_asked(house, config):
    """The plan that the sensor's run makes."""
    house.instance.add_dynamic_partitions("wave", ["w0001"])
    house.execute("plan_job", "w0001", {"ops": {"wave_plan": {"config": config}}})
    return read_plan(house.store, "w0001")


def test_mix_and_weights_of_the_site_decide_its_waves(house):
    nowhere = {f"{city}/*": 0.0 for city in load_atlas().cities if city not in ("lima", "oslo")}
    config = config_for(house, num_cities=2, mix={"nature": 1.0}, weights=nowhere)

    made = plan_as_asked(house, config)

    assert set(made.cities) == {"lima", "oslo"}
    assert {clip.asked["category"] for clip in made.clips} == {"nature"}


def test_targets_of_the_site_are_made_and_reserved_for(house):
    config = config_for(house, targets={"tokyo/zoo": 2, "lima/zoo": 1})

    made = plan_as_asked(house, config)

    assert Counter(clip.place for clip in made.clips) == {"tokyo/zoo": 2, "lima/zoo": 1}
    reserved = {line.kind: line.reserved for line in house.resources["ledger"].today()}
    assert reserved["requests"] == 3 * 20


def test_waves_are_weighed_by_acceptance_unless_the_site_says_otherwise(house):
    assert config_for(house)["weigh_by_acceptance"] is True
    assert config_for(house, weigh_by_acceptance=False)["weigh_by_acceptance"] is False
    assert config_for(house, targets={"tokyo/zoo": 2})["weigh_by_acceptance"] is False


def test_a_site_may_generate_with_a_world_model_within_its_gpu_seconds(house):
    from resources.ledger import Ledger

    model = {"world_model": "Cosmos-Predict2-2B-Video2World", "control": ("first_frames",)}
    site = Site("local", ("*",), "sites/local", generation=Generation(**model))
    sensor = build_continuous_generation(plan_job, site)

    def ask(**limits):
        ledger = Ledger(path=str(house.root / "gpu.sqlite"), limits=Budgets(**limits).limits())
        resources = {
            "store": house.store,
            "ledger": ledger,
            "registry": house.resources["registry"],
        }
        with dg.build_sensor_context(instance=house.instance, resources=resources) as context:
            return sensor(context)

    assert "gpu_s" in ask().skip_message
    config = ask(gpu_s=1e5).run_requests[0].run_config["ops"]["wave_plan"]["config"]
    assert WavePlanConfig(**config).model_plan().tier == "draft"


@pytest.fixture
def with_adapter(house):
    """A tick of a site whose waves are made with what is promoted."""
    registry = house.resources["registry"]
    generation = Generation(
        world_model=MODEL, tier="tiny", control=("first_frames",), adapter="promoted"
    )
    sensor = build_continuous_generation(
        plan_job, Site("local", ("*",), "site", generation=generation)
    )
    resources = {name: house.resources[name] for name in ("store", "ledger", "registry")}

    def ask():
        with dg.build_sensor_context(instance=house.instance, resources=resources) as context:
            return sensor(context)

    for key in ("r0001", "r0002"):
        open_round(house, key, base=Base(MODEL, "tiny", checkpoint="/weights"))
        registry.publish(MODEL.lower(), key, FILES)
    return registry, ask


def config_of(result):
    return result.run_requests[0].run_config["ops"]["wave_plan"]["config"]


def test_waves_are_made_with_the_promoted_checkpoint_on_its_base(with_adapter):
    registry, ask = with_adapter
    registry.promote(MODEL.lower(), "r0001")

    plan = WavePlanConfig(**config_of(ask())).model_plan()

    assert plan.loras[0].path == str(registry.local_folder(MODEL.lower(), "r0001"))
    assert (plan.model, plan.revision, plan.checkpoint) == (MODEL, "tiny", "/weights")


def test_a_shadow_makes_its_share_of_the_waves(with_adapter):
    registry, ask = with_adapter
    registry.promote(MODEL.lower(), "r0001")
    registry.try_as_shadow(MODEL.lower(), "r0002", share=1.0)

    assert config_of(ask())["loras"][0]["path"].endswith("r0002")


def test_where_nothing_was_ever_promoted_no_wave_opens_and_it_says_what_to_do(with_adapter):
    _, ask = with_adapter

    assert (
        "no checkpoint of Tiny-Cosmos-Predict2-Video2World was ever promoted" in ask().skip_message
    )


def test_after_the_last_checkpoint_was_taken_back_the_base_makes_waves(with_adapter):
    registry, ask = with_adapter
    registry.promote(MODEL.lower(), "r0001")
    registry.roll_back(MODEL.lower(), "worse")

    assert "loras" not in config_of(ask())
