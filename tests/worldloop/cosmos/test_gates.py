from dataclasses import replace

import pytest

from worldloop.cosmos.gates import (
    GATES,
    METRICS,
    NOISE_FLOOR,
    OTHER_SEED,
    Estimate,
    Measured,
    feature_share,
    judge,
    judge_adapted,
    measured_quality,
    refusal,
    verdicts,
)
from worldloop.cosmos.profiles import PROFILES, profile
from worldloop.errors import MalformedRecordError, UnknownKeyError

_SAME = {
    "psnr_db": 50.0,
    "ssim": 1.0,
    "feature_distance": 0.0,
    "clip_cosine": 1.0,
    "text_cosine_change": 0.0,
    "detail_ratio": 1.0,
    "motion_ratio": 1.0,
}


def _metrics(**values):
    return {k: Estimate(v, v - 0.01, v + 0.01) for k, v in {**_SAME, **values}.items()}


def _measured(name="sparse", **values):
    controls = {
        NOISE_FLOOR: _metrics(feature_distance=0.1),
        OTHER_SEED: _metrics(feature_distance=1.1),
    }
    return Measured(profile(name).to_record(), _metrics(**values), controls)


def test_a_profile_near_the_dense_run_passes():
    assert judge("sparse", _measured(feature_distance=0.5).to_record()).state == "passed"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"feature_distance": 0.9}, "feature_distance goes 81%"),
        ({"text_cosine_change": -0.05}, "prompts worse by 0.060"),
        ({"detail_ratio": 0.7}, "detail_ratio is 0.69"),
        ({"motion_ratio": 1.3}, "motion_ratio is 1.29"),
    ],
)
def test_what_degrades_fails_and_says_why(change, word):
    verdict = judge("sparse", _measured(**change).to_record())
    assert verdict.state == "failed"
    assert word in verdict.reasons[0]


def test_the_worse_end_of_an_interval_counts():
    measured = _measured(feature_distance=0.65)
    wide = {**measured.metrics, "feature_distance": Estimate(0.65, 0.4, 0.9)}
    assert judge("sparse", measured.to_record()).state == "passed"
    assert judge("sparse", replace(measured, metrics=wide).to_record()).state == "failed"


def test_rounding_alone_may_change_less_than_work_that_is_left_out():
    same = _measured("fast", feature_distance=0.6)
    assert judge("fast", same.to_record()).state == "failed"
    assert judge("sparse", _measured(feature_distance=0.6).to_record()).state == "passed"


def test_a_noise_floor_as_far_as_another_seed_proves_nothing():
    measured = _measured(feature_distance=0.5)
    controls = {**measured.controls, OTHER_SEED: measured.controls[NOISE_FLOOR]}
    assert feature_share(replace(measured, controls=controls)) == 1.0


def test_a_failed_profile_is_refused_by_name_with_what_to_take_instead():
    measured = {
        "families": ["cosmos1"],
        "profiles": {"sparse": _measured(feature_distance=1.0).to_record()},
    }
    message = refusal("sparse", measured, family="cosmos1")
    assert message is not None
    assert message.startswith("The profile 'sparse' failed its quality gate")
    assert message.endswith(
        "Choose one of: exact, fast, fast_fp8_attention, thrifty, lean_fp8_attention, cached, "
        "distilled."
    )
    assert refusal("sparse", measured, family="cosmos3") is None
    assert refusal("fast", measured) is None


def test_adapted_weights_have_a_verdict_of_their_own_that_opens_nothing():
    bad, good = _measured(feature_distance=1.0).to_record(), _measured().to_record()
    measured = {"families": ["cosmos1"], "profiles": {"sparse": bad}, "adapted": {"sparse": good}}
    assert judge_adapted("sparse", good).state == "passed"
    message = refusal("sparse", measured, family="cosmos1")
    assert "With weights that are adapted to its window it passed." in message
    assert judge_adapted("sparse", bad).reasons[0].startswith("with adapted weights, feature")
    assert judge_adapted("sparse", None).state == "unmeasured"


def test_a_profile_measured_under_another_definition_is_unmeasured():
    record = _measured(feature_distance=1.0).to_record()
    record["profile"]["density"] = 0.5
    verdict = judge("sparse", record)
    assert (verdict.state, verdict.reasons) == (
        "unmeasured",
        ("It was measured with another density.",),
    )


def test_every_profile_but_exact_has_a_gate():
    assert set(GATES) == set(PROFILES) - {"exact"}
    assert {verdict.state for verdict in verdicts({})} == {"exact", "unmeasured"}


def test_the_committed_measurement_can_be_judged():
    found = measured_quality()
    assert [verdict.profile for verdict in verdicts(found)] == list(PROFILES)
    assert refusal("exact", found) is None


def test_bad_records_and_names_are_clear_errors():
    record = _measured().to_record()
    del record["metrics"][METRICS[0]]
    with pytest.raises(MalformedRecordError, match="psnr_db"):
        judge("sparse", record)
    with pytest.raises(UnknownKeyError, match="sparse"):
        refusal("spars", {})
