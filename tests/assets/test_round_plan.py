"""Plans of rounds: what is filled in, what stands, and what is refused with one clear line."""

import dagster as dg
import pytest

from assets.round_plan import TrialConfig
from resources.round_files import read_round_plan
from tests.assets.rounds import HELD_OUT, MODEL, MadeUpRounds
from worldloop.errors import MalformedRecordError, PlanConflictError, UnknownKeyError
from worldloop.federation.gates import LIMITS
from worldloop.sites import Retraining


@pytest.fixture
def rounds(tmp_path):
    with dg.DagsterInstance.ephemeral() as instance:
        house = MadeUpRounds(tmp_path, instance)
        house.film()
        yield house


def test_what_is_left_out_follows_from_the_releases(rounds):
    rounds.plan_round(trial={"held_out_cities": []})

    plan = rounds.round_plan()
    assert (plan.sites, plan.waves, plan.base.adapter) == (("aws", "azure", "gcp"), ("w0001",), "")
    assert plan.terms.quorum == 2
    assert plan.trial.held_out_cities
    assert len(plan.trial.prompts) == 2
    assert plan.trial.limits["guards_required"] == 0.0
    shown = rounds.metadata("round_plan")
    assert "| gcp | 2 | 0 |" in shown["clips_by_site"]


def test_cities_that_were_held_out_stay_so(rounds):
    rounds.plan_round()
    rounds.plan_round("r0002", trial={"held_out_cities": []})

    assert set(HELD_OUT) <= set(rounds.round_plan("r0002").trial.held_out_cities)


def test_a_plan_that_stands_is_returned_unchanged(rounds):
    rounds.plan_round()
    before = rounds.store.get("rounds/r0001/plan.json")
    rounds.plan_round()
    rounds.execute("round_job", "r0001")

    assert rounds.store.get("rounds/r0001/plan.json") == before


def test_another_plan_for_the_same_round_is_a_conflict(rounds):
    rounds.plan_round()

    with pytest.raises(PlanConflictError, match="with other seed; plans never change"):
        rounds.plan_round(seed=5)


@pytest.mark.parametrize(
    ("config", "error", "words"),
    [
        ({"sites": ["mars"]}, UnknownKeyError, "No member of the federation has the key 'mars'"),
        ({"waves": ["w0009"]}, UnknownKeyError, "No planned wave has the key 'w0009'"),
        ({"model": "Cosmos-9"}, UnknownKeyError, "Cosmos-9"),
        ({"base": "r0007"}, UnknownKeyError, "No round with an adapter has the key 'r0007'"),
        ({"sites": ["local"]}, MalformedRecordError, "no clip to train on at ['local']"),
        (
            {"aggregation": {"secure": True}, "sites": ["aws", "gcp"]},
            MalformedRecordError,
            "secure: found '2 sites', expected at least 3 sites",
        ),
        ({"aggregation": {"strategy": "trimmed_mean"}}, MalformedRecordError, "at least 3, which"),
        ({"aggregation": {"options": {"x": 1.0}}}, MalformedRecordError, "option of fedavg"),
        ({"trial": {"limits": {"x": 1.0}}}, UnknownKeyError, "No limit of a gate has the key 'x'"),
        ({"trial": {"held_out_cities": ["delhi"]}}, MalformedRecordError, "allow_no_held_out"),
        ({"terms": {"quorum": 7}}, MalformedRecordError, "quorum"),
        ({"training": {"precision": "fp4"}}, MalformedRecordError, "precision: found 'fp4'"),
        (
            {"model": "Cosmos-Predict2-2B-Video2World", "training": {"mode": "full"}},
            MalformedRecordError,
            "7.84 GB a site and round (1.96 GB in int8)",
        ),
    ],
)
def test_what_cannot_be_carried_out_is_refused(rounds, config, error, words):
    with pytest.raises(error) as caught:
        rounds.plan_round(**config)

    assert words in str(caught.value)
    assert not rounds.store.exists("rounds/r0001/plan.json")


def test_as_many_samples_are_planned_as_the_gates_need():
    needed = LIMITS["min_samples"].value

    assert TrialConfig().num_prompts >= needed
    assert Retraining().num_prompts >= needed


def test_a_wave_without_a_release_is_refused(rounds):
    rounds.store.delete("releases/w0001/release.json")

    with pytest.raises(MalformedRecordError, match="wave w0001: found 'no release'"):
        rounds.plan_round(waves=["w0001"])


def test_a_round_without_held_out_clips_needs_a_flag(rounds):
    rounds.plan_round(allow_no_held_out=True, trial={"held_out_cities": ["delhi"]})

    assert read_round_plan(rounds.store, "r0001").base.model == MODEL


def test_without_a_new_wave_there_is_no_round(rounds):
    rounds.store.delete("releases/w0001/release.json")

    with pytest.raises(MalformedRecordError, match="no released wave that is new"):
        rounds.plan_round()


def test_a_round_trains_on_what_its_start_has_not_learned_and_a_roll_back_makes_it_new(rounds):
    rounds.plan_round()
    registry = rounds.resources["registry"]
    names = ("README.md", "evaluation.json", "pytorch_lora_weights.safetensors")
    registry.publish(MODEL.lower(), "r0001", dict.fromkeys(names, b"{}"))
    registry.promote(MODEL.lower(), "r0001")
    with pytest.raises(MalformedRecordError, match="no released wave that is new to r0001"):
        rounds.plan_round("r0002")

    registry.roll_back(MODEL.lower(), "worse clips")
    rounds.plan_round("r0002")

    assert rounds.round_plan("r0002").waves == ("w0001",)


def test_a_new_adapter_trains_on_everything_that_was_released(rounds):
    rounds.plan_round()
    names = ("README.md", "evaluation.json", "pytorch_lora_weights.safetensors")
    rounds.resources["registry"].publish(MODEL.lower(), "r0001", dict.fromkeys(names, b"{}"))
    rounds.resources["registry"].promote(MODEL.lower(), "r0001")

    rounds.plan_round("r0002", base="new")

    assert rounds.round_plan("r0002").waves == ("w0001",)
