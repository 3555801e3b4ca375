import json
from dataclasses import replace

import dagster as dg
import polars as pl
import pytest

from assets.wave_plan import WavePlanConfig
from resources.checkpoint_registry import CheckpointRegistry
from resources.ledger import Ledger
from resources.tables import publish_record
from resources.wave_plans import publish_plan, read_plan
from sensors.regeneration import build_regeneration, made_waves
from tests import rows
from tests.sensors.rounds import MODEL, end, open_round, record_run, release
from worldloop import layout
from worldloop.atlas.atlas import load_atlas
from worldloop.cosmos.plans import Lora, plan_world_model
from worldloop.federation.comparisons import adapter_of
from worldloop.federation.triggers import CellCount
from worldloop.recipes import Shape
from worldloop.records import RELEASE_CLIPS, SCORES
from worldloop.sites import Budgets, Generation, Regeneration, Retraining, Site
from worldloop.waves import plan_wave

PLAN_JOB = dg.define_asset_job("plan_job", selection="wave_plan")
LINE = MODEL.lower()
PLACES = ["tokyo/street", "tokyo/hospital", "tokyo/zoo"]  # of rows 0, 1 and 2
CONTROL = ("first_frames",)
REGENERATION = Regeneration(
    num_places=2, clips_per_place=2, tier="tiny", control=CONTROL, allow_unguarded=True
)
SETTINGS = Retraining(model=MODEL, regeneration=REGENERATION)
RICH = Budgets(gpu_s=1e6, usd=1e6)


@pytest.fixture(autouse=True)
def nothing_remembered():
    from sensors import regeneration, retraining

    regeneration._made.clear()
    retraining._read.clear()


@pytest.fixture
def promoted(house):
    """A released wave of the model, and a round that was promoted."""
    make_wave(house, "w0001", accepted=(1, 2))
    end(house, open_round(house), "promoted")
    registry = registry_of(house)
    files = dict.fromkeys(
        ("README.md", "evaluation.json", "pytorch_lora_weights.safetensors"), b"{}"
    )
    registry.publish(LINE, "r0001", files)
    registry.promote(LINE, "r0001")
    return house


def registry_of(house):
    return CheckpointRegistry(store=house.store, home=str(house.root))


def make_wave(house, wave, *, accepted, loras=(), carried=True):
    """A wave of one clip of the model at each place; the rows in `accepted` are in its release."""
    plan = plan_wave(
        load_atlas(),
        wave=wave,
        places=PLACES,
        clips_per_place=1,
        seed=1,
        shape=Shape(),
        world_model=plan_world_model(
            MODEL,
            tier="tiny",
            control=CONTROL,
            loras=[Lora(path) for path in loras],
            allow_unguarded=True,
        ),
    )
    publish_plan(house.store, plan)
    house.instance.add_dynamic_partitions("wave", [wave])
    report(house, "wave_plan", wave)
    if not carried:
        return
    log, made = house.resources["site_log"], rows.generated_clips(range(3), wave=wave)
    lineage = made.with_columns(tier=pl.lit("tiny"), sketch_recipe_id=pl.lit(None, pl.String))
    log.append("lineage", lineage.select(list(rows.lineage(range(1)).columns)))
    scores = rows.signals(range(3), wave=wave).with_columns(recipe_id=made["recipe_id"])
    log.append("scores", scores.select(list(SCORES.columns)))
    chosen = made[list(accepted)].with_columns(release=pl.lit(wave))
    log.append("release_clips", chosen.select(list(RELEASE_CLIPS.columns)))
    release(house, wave, {PLACES[i]: 1 for i in accepted})
    report(house, "release", wave)


def report(house, asset, wave):
    house.instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=wave))


def tick(house, *, settings=SETTINGS, cursor=None, limits=RICH):
    generation = Generation(width_px=96, height_px=54, num_samples=1)
    site = Site("local", ("*",), "site", training=settings, generation=generation)
    resources = {
        "store": house.store,
        "site_log": house.resources["site_log"],
        "ledger": Ledger(path=str(house.root / "ledger.sqlite"), limits=limits.limits()),
        "registry": registry_of(house),
    }
    with dg.build_sensor_context(
        instance=house.instance,
        resources=resources,
        cursor=cursor,
        sensor_name="regeneration",
    ) as context:
        return build_regeneration(PLAN_JOB, site)(context)


def config_of(result):
    return result.run_requests[0].run_config["ops"]["wave_plan"]["config"]


def adapter_folder(house, key="r0001"):
    return str(house.root / "site" / "registry" / LINE / "snapshots" / key)


def test_a_promotion_opens_a_wave_of_the_weakest_places_with_its_adapter(promoted):
    result = tick(promoted)

    (request,) = result.run_requests
    assert (request.run_key, request.partition_key) == ("regenerate:r0001", "w0002")
    assert result.dynamic_partitions_requests[0].partition_keys == ["w0002"]
    config = config_of(result)
    assert config["places"][0] == "tokyo/street"  # of which no clip was accepted
    assert len(config["places"]) == 2
    assert config["loras"] == [{"path": adapter_folder(promoted), "weight": 1.0}]
    model_plan = WavePlanConfig(**config).model_plan()
    assert (model_plan.model, model_plan.tier, model_plan.revision) == (MODEL, "tiny", "tiny")


def test_the_wave_that_was_asked_for_can_be_planned(promoted):
    result = tick(promoted)
    promoted.instance.add_dynamic_partitions("wave", ["w0002"])

    promoted.execute("plan_job", "w0002", dict(result.run_requests[0].run_config))

    plan = read_plan(promoted.store, "w0002")
    assert (adapter_of(plan), len(plan.clips)) == ("r0001", 4)


def test_a_promotion_is_answered_once_whether_cursor_runs_or_plans_remember(promoted):
    asked = tick(promoted)
    assert "w0002" in json.loads(asked.cursor)["asked"].values()
    assert "made its places anew" in tick(promoted, cursor=asked.cursor).skip_message
    make_wave(promoted, "w0002", accepted=(0, 1, 2), loras=[adapter_folder(promoted)])

    assert "made its places anew" in tick(promoted).skip_message  # by the plan


def test_a_run_remembers_its_cause_without_a_cursor(promoted):
    tags = {"dagster/run_key": "regenerate:r0001", "dagster/sensor_name": "regeneration"}
    make_wave(promoted, "w0002", accepted=(0, 1, 2))
    record_run(promoted, "plan_job", "w0002", dg.DagsterRunStatus.SUCCESS, **tags)

    assert "made its places anew" in tick(promoted).skip_message


def test_places_that_failed_their_checks_since_are_made_anew_and_name_their_wave(promoted):
    make_wave(promoted, "w0002", accepted=(1, 2), loras=[adapter_folder(promoted)])

    result = tick(promoted)

    assert result.run_requests[0].run_key == "regenerate:w0002"
    assert config_of(result)["places"] == ["tokyo/street"]


def test_what_an_adapter_cannot_make_is_given_up_after_so_many_waves(promoted):
    for wave in ("w0002", "w0003"):
        make_wave(promoted, wave, accepted=(1, 2), loras=[adapter_folder(promoted)])

    assert "made its places anew" in tick(promoted).skip_message


def test_an_adapter_that_was_rolled_back_makes_nothing(promoted):
    registry_of(promoted).roll_back(LINE, "worse")

    assert tick(promoted).skip_message == "No round has been promoted yet."


def test_a_trial_begins_with_a_wave_that_the_shadow_makes_whatever_its_share(promoted):
    try_shadow(promoted, share=1e-6)

    result = tick(promoted)

    assert result.run_requests[0].run_key == "regenerate:r0002"
    assert config_of(result)["loras"][0]["path"] == adapter_folder(promoted, "r0002")
    assert "tried as shadow" in result.run_requests[0].tags["worldloop/reason"]
    after = tick(promoted, cursor=result.cursor)  # then the promoted one takes its turn
    assert after.run_requests[0].run_key == "regenerate:r0001"


@pytest.mark.parametrize(("share", "adapter"), [(1.0, "r0002"), (1e-6, "r0001")])
def test_after_that_the_key_of_the_wave_says_which_checkpoint_makes_it(promoted, share, adapter):
    try_shadow(promoted, share=share)
    make_wave(promoted, "w0002", accepted=(0, 1, 2), loras=[adapter_folder(promoted, "r0001")])
    make_wave(promoted, "w0003", accepted=(1, 2), loras=[adapter_folder(promoted, "r0002")])
    make_wave(promoted, "w0004", accepted=(1, 2), loras=[adapter_folder(promoted, "r0001")])

    result = tick(
        promoted, settings=replace(SETTINGS, regeneration=replace(REGENERATION, max_attempts=3))
    )

    assert registry_of(promoted).chosen(LINE, "w0005") == adapter
    assert config_of(result)["loras"][0]["path"] == adapter_folder(promoted, adapter)


def try_shadow(house, *, share):
    """A second round whose candidate is tried."""
    open_round(house, "r0002")
    registry = registry_of(house)
    registry.publish(LINE, "r0002", registry.files(LINE, "r0001"))
    registry.try_as_shadow(LINE, "r0002", share=share)


def test_nothing_opens_while_a_wave_is_open_or_planned(promoted):
    make_wave(promoted, "w0002", accepted=(), carried=False)
    assert "w0002 is still open" in tick(promoted).skip_message

    promoted.instance.add_dynamic_partitions("wave", ["w0003"])
    assert tick(promoted).skip_message == "Wave w0003 is being planned."


def test_a_budget_or_a_disk_that_does_not_suffice_is_said(promoted):
    poor = tick(promoted, limits=Budgets(cpu_s=0.0)).skip_message
    assert "r0001 was promoted" in poor
    assert "cpu_s" in poor


def test_a_model_of_gpu_size_is_stopped_by_the_ledger_and_nothing_is_held(promoted):
    model = "Cosmos-Predict2-2B-Video2World"
    settings = replace(SETTINGS, model=model, regeneration=replace(REGENERATION, tier="draft"))

    assert tick(promoted, settings=settings).skip_message == "No round has been promoted yet."
    held = Ledger(path=str(promoted.root / "ledger.sqlite")).today()
    assert all(line.reserved == 0 for line in held)


def test_without_a_model_in_the_sites_file_it_says_where_to_name_one(house):
    assert "[sites.NAME.training]" in tick(house, settings=Retraining()).skip_message


def test_what_was_planned_and_what_was_accepted_are_counted_by_place(promoted):
    (made,) = made_waves(promoted.store, promoted.resources["site_log"], MODEL)

    assert made.is_generated
    assert made.cells["tokyo/street"].num_accepted == 0
    assert made.cells["tokyo/zoo"] == CellCount(1, 1, made.cells["tokyo/zoo"].sharpness)
    assert made.cells["tokyo/zoo"].sharpness > 0


def test_where_the_evaluation_found_places_weak_they_come_before_the_others(promoted):
    from worldloop.federation.evaluation import Evaluation, PairedLoss

    def loss(place, before, after):
        city, institution = place.split("/")
        return PairedLoss("a", city, institution, before, after, site="local")

    clips = (loss("tokyo/hospital", 0.2, 0.1), loss("tokyo/zoo", 0.9, 0.4))
    found = Evaluation("r0001", "x", "y", {"local": 1.0}, (), clips)
    publish_record(promoted.store, layout.evaluation_key("r0001"), found.to_record())

    assert config_of(tick(promoted))["places"] == ["tokyo/street", "tokyo/zoo"]


def test_it_is_off_until_somebody_switches_it_on():
    sensor = build_regeneration(PLAN_JOB, Site("local", ("*",), "site"))

    assert sensor.default_status == dg.DefaultSensorStatus.STOPPED
