import json
import math
from dataclasses import replace

import pytest

from worldloop.cosmos.families import ClipShape
from worldloop.errors import MalformedRecordError
from worldloop.federation.rounds import (
    PLAN_VERSION,
    Aggregation,
    Base,
    RoundPlan,
    Terms,
    Training,
    Trial,
    learned_waves,
    next_round_key,
    rounds_apart,
)


def plan(**changed):
    parts = {
        "round": "r0001",
        "sites": ("aws", "azure", "gcp"),
        "waves": ("w0001", "w0002"),
        "releases": ("hash1", "hash2"),
        "base": Base("Tiny", "main"),
        "training": Training(ClipShape(17, 64, 64, 16), conditioning_frames=(0, 1)),
        "aggregation": Aggregation("diloco", {"momentum": 0.8}),
        "terms": Terms(),
        "trial": Trial(("oslo",), prompts=("A street.",), limits={"norm": 3.0}),
        "seed": 7,
        "opened_at": "2026-11-21T10:00:00+00:00",
    }
    return RoundPlan(**{**parts, **changed})


def test_a_plan_survives_json():
    record = json.loads(json.dumps(plan().to_record()))

    found = RoundPlan.from_record(record)

    assert found == plan()
    assert found.plan_id == plan().plan_id


def test_a_plan_from_before_optimizers_were_kept_has_the_id_that_it_had():
    before = "c495278e1089171423d3dcea3f0d178e"  # of this plan, by the release before

    assert "keep_optimizer" not in plan().to_record()["training"]
    assert plan().plan_id == before
    kept = plan(training=replace(plan().training, keep_optimizer=True))
    assert RoundPlan.from_record(kept.to_record()) == kept
    assert kept.plan_id != before


OTHERS = {
    "round": plan(round="r0002"),
    "seed": plan(seed=8),
    "sites": plan(sites=("aws", "gcp", "azure")),
    "base": plan(base=Base("Tiny", "main", adapter="r0001")),
    "training": plan(training=replace(plan().training, rank=4)),
    "aggregation": plan(aggregation=Aggregation("diloco", {"momentum": 0.9})),
    "terms": plan(terms=Terms(quorum=1)),
    "trial": plan(trial=Trial(("lima",))),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_plan_has_another_id(name):
    assert OTHERS[name].plan_id != plan().plan_id


BAD = {
    "round": {"round": "1"},
    "sites": {"sites": ("aws", "aws", "gcp")},
    "releases": {"releases": ("hash1",)},
    "strategy": {"aggregation": Aggregation("krum")},
    "codec": {"aggregation": Aggregation(codec="int2")},
    "secure": {"aggregation": Aggregation("median", secure=True)},
    "noise_multiplier": {"aggregation": Aggregation(noise_multiplier=1.0)},
    "quorum": {"terms": Terms(quorum=4)},
    "deadline_s": {"terms": Terms(deadline_s=0.0)},
    "scores_deadline_s": {"terms": Terms(scores_deadline_s=1e18)},
    "max_staleness": {"terms": Terms(max_staleness=-1)},
    "target_delta": {"aggregation": Aggregation(target_delta=0.0)},
    "max_norm": {"aggregation": Aggregation(max_norm=math.nan)},
    "learning_rate": {"training": Training(ClipShape(17, 64, 64, 16), learning_rate=math.inf)},
    "conditioning_frames": {
        "training": Training(ClipShape(17, 64, 64, 16), conditioning_frames=())
    },
    "guidance": {"trial": Trial(guidance=math.nan)},
    "limit distance_rise_max": {"trial": Trial(limits={"distance_rise_max": -0.1})},
    "mode": {"training": Training(ClipShape(17, 64, 64, 16), mode="half")},
    "training": {"training": Training(ClipShape(17, 64, 64, 16), num_steps=0)},
    "keep_optimizer": {
        "training": Training(ClipShape(17, 64, 64, 16), mode="full", keep_optimizer=True)
    },
}


@pytest.mark.parametrize("name", BAD)
def test_a_plan_that_cannot_be_carried_out_names_its_field(name):
    with pytest.raises(MalformedRecordError, match=f"^round plan, {name}: found "):
        plan(**BAD[name])


def test_two_sites_cannot_be_secure():
    aggregation = Aggregation("fedavg", secure=True)

    with pytest.raises(MalformedRecordError, match="found '2 sites', expected at least 3 sites"):
        plan(sites=("aws", "gcp"), aggregation=aggregation)
    assert plan(aggregation=aggregation).aggregation.secure


def test_a_secure_round_cannot_look_at_products():
    aggregation = Aggregation("fedavg", {"product": 1}, secure=True)

    with pytest.raises(
        MalformedRecordError, match="option product: found 1, expected 0 with secure"
    ):
        plan(aggregation=aggregation)


def test_an_option_that_its_strategy_does_not_know_is_refused_when_the_round_is_planned():
    with pytest.raises(MalformedRecordError, match="option of fedavg: found 'momentum'"):
        plan(aggregation=Aggregation("fedavg", {"momentum": 0.9}))


def test_more_trimming_than_a_quorum_allows_is_refused_when_the_round_is_planned():
    with pytest.raises(
        MalformedRecordError, match="round plan, quorum: found 2, expected at least 3"
    ):
        plan(aggregation=Aggregation("trimmed_mean"))
    assert plan(aggregation=Aggregation("trimmed_mean"), terms=Terms(quorum=3))


@pytest.mark.parametrize("version", [0, PLAN_VERSION + 1, None, "1"])
def test_a_plan_of_another_version_is_not_guessed_at(version):
    record = {**plan().to_record(), "plan_version": version}

    with pytest.raises(MalformedRecordError, match="expected plan_version 1 to"):
        RoundPlan.from_record(record)


@pytest.mark.parametrize("change", ["missing", "unknown", "unknown inside", "odd"])
def test_a_record_with_other_fields_is_refused_in_one_line(change):
    record = plan().to_record()
    match change:
        case "missing":
            del record["training"]["rank"], record["terms"]
        case "unknown":
            record["speed"] = 1
        case "unknown inside":
            record["terms"]["patience"] = 1
        case "odd":
            record["training"]["shape"] = [17, 64, 64, 16]
    with pytest.raises(MalformedRecordError, match="expected the fields of docs/formats"):
        RoundPlan.from_record(record)


def test_rounds_are_counted_from_their_keys():
    assert next_round_key([]) == "r0001"
    assert next_round_key(["r0009", "r12000", "w0100", "r1"]) == "r12001"
    assert rounds_apart("r0002", "r0010") == 8


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_a_plan_with_a_number_that_json_does_not_have_is_none(odd):
    with pytest.raises(
        MalformedRecordError, match=f"learning_rate: found {odd}, expected a finite"
    ):
        plan(training=replace(plan().training, learning_rate=odd))


def test_an_adapter_has_learned_the_waves_of_its_own_line_and_of_no_other_round():
    plans = {
        key: plan(
            round=key, waves=(wave,), releases=("ff",), base=Base("Tiny-Cosmos3", "x", adapter=base)
        )
        for key, wave, base in (
            ("r0001", "w0001", ""),
            ("r0002", "w0002", "r0001"),  # refused: nothing goes on from it
            ("r0003", "w0003", "r0001"),
        )
    }

    assert learned_waves(plans, "r0003") == {"w0001", "w0003"}
    assert learned_waves(plans, "r0001") == {"w0001"}
    assert learned_waves(plans, "") == set()


def test_a_number_out_of_its_range_is_refused_with_the_range():
    with pytest.raises(
        MalformedRecordError,
        match=r"target_delta: found 1\.0, expected a finite number above 0 and below 1\.",
    ):
        plan(aggregation=Aggregation(target_delta=1.0))
    with pytest.raises(
        MalformedRecordError, match=r"guidance: found nan, expected a finite number\. "
    ):
        plan(trial=Trial(guidance=math.nan))
