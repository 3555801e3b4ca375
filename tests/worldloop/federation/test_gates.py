from dataclasses import replace

import pytest

from tests.worldloop.federation.evaluations import (
    ADAPTER,
    JUDGES,
    evaluation,
    judged,
    losses,
    nearest,
    plan,
    site_scores,
)
from worldloop.errors import MalformedRecordError, UnknownKeyError
from worldloop.federation.evaluation import AdapterSize, Guarded, Nearest, PairedLoss, merge
from worldloop.federation.gates import (
    GATES,
    LIMITS,
    chance_of_at_least,
    describe_gate,
    evaluate_gates,
    should_roll_back,
)
from worldloop.federation.rounds import Base, Trial


def failed(of, limits=None, **changes):
    """Names of the gates that do not pass, with why."""
    verdicts = evaluate_gates(evaluation(of, **changes), limits or {}, of)
    return {verdict.name: verdict.why for verdict in verdicts if not verdict.passed}


def of_sites(of, **changes):
    """Clips of all sites."""
    return tuple(row for site in of.sites for row in losses(site, **changes))


def with_scores(**changes):
    return tuple(row for measure in JUDGES for row in judged(measure, **changes.get(measure, {})))


def test_a_good_candidate_passes_every_gate():
    of = plan()
    verdicts = evaluate_gates(evaluation(of), {}, of)
    assert [verdict.name for verdict in verdicts] == list(GATES)
    assert [verdict.name for verdict in verdicts if not verdict.passed] == []
    assert all(verdict.why and describe_gate(verdict.name) for verdict in verdicts)


def test_what_was_not_measured_has_failed_and_says_what_is_missing():
    of = plan(trial=Trial(anchor_dir="anchor"))
    bare = merge(of, [], adapter_sha256=ADAPTER)
    verdicts = {verdict.name: verdict for verdict in evaluate_gates(bare, {}, of)}
    passed = {name for name, verdict in verdicts.items() if verdict.passed}
    assert passed == {"lineage_depth"}
    missing = {name for name, verdict in verdicts.items() if verdict.why.startswith("missing: ")}
    assert missing == set(GATES) - {"lineage_depth", "site_scores"}


def test_a_risen_loss_fails_and_an_uncertain_one_too():
    of = plan()
    assert {"held_out_loss", "improvement"} <= failed(of, clips=of_sites(of, change=0.03)).keys()
    unsure = failed(of, clips=of_sites(of, change=0.0, noise=0.1))
    assert "upper end" in unsure["held_out_loss"]


def test_a_candidate_that_is_only_as_good_needs_the_limits_leave():
    of = plan()
    same = {"clips": of_sites(of, change=0.0, noise=0.001)}
    assert list(failed(of, **same)) == ["improvement"]
    assert failed(of, {"must_improve": 0}, **same) == {}


def test_one_site_alone_cannot_vouch_for_an_improvement():
    of = plan()
    loud = losses("aws", change=-0.9)
    clips = (*loud, *losses("azure", change=0.005, noise=0), *losses("gcp", change=0.005, noise=0))
    assert "fell at 1 of 3 sites" in failed(of, clips=clips)["improvement"]


def test_a_worse_institution_fails_though_the_mean_is_better():
    of = plan()
    clips = tuple(
        replace(row, after=1.1) if row.institution == "zoo" and row.city == "lima" else row
        for row in of_sites(of, change=-0.2)
    )
    assert "lima/zoo: +10.00%" in failed(of, clips=clips)["held_out_cells"]


def test_too_few_held_out_clips_fail_unless_the_limits_allow_them():
    of = plan()
    few = {"clips": tuple(row for site in of.sites for row in losses(site, count=3, noise=0))}
    assert "9 held-out clips, at least 12 are needed" in failed(of, **few)["held_out_loss"]
    allowed = {"min_held_out_clips": 4, "min_cell_clips": 1}
    assert failed(of, allowed, **few) == {}


@pytest.mark.parametrize("measure", ["kernel_distance_starter", "kernel_distance_latent"])
def test_samples_must_not_move_away_in_either_space(measure):
    of = plan()
    away = with_scores(**{measure: {"change": 0.2, "spread": 0.1}})
    assert list(failed(of, scores=away)) == ["distribution"]
    not_shown = with_scores(**{measure: {"change": 0.05, "spread": 0.1}})
    assert failed(of, scores=not_shown) == {}
    without = tuple(row for row in with_scores() if row.measure != measure)
    assert f"missing: {measure}" in failed(of, scores=without)["distribution"]


def test_the_starter_embedder_alone_neither_refuses_nor_passes_the_fit_to_prompts():
    of = plan()
    fell = with_scores(text_cosine={"change": -0.1})
    assert failed(of, scores=fell) == {}
    deaf = tuple(replace(row, after_other=row.after) for row in of_sites(of))
    assert list(failed(of, scores=fell, clips=deaf)) == ["text_fit"]
    unknown = tuple(replace(row, after_other=None) for row in of_sites(of))
    assert failed(of, clips=unknown)["text_fit"].startswith("missing: 0 clips with another clip's")


def test_flicker_and_frozen_samples_fail():
    of = plan()
    flicker = with_scores(temporal_consistency={"change": -0.2})
    assert list(failed(of, scores=flicker)) == ["temporal_consistency"]
    frozen = tuple(
        replace(row, value=0.1) if (row.measure, row.group) == ("motion", "after") else row
        for row in with_scores()
    )
    assert "motion is 20%" in failed(of, scores=frozen)["motion_and_detail"]


def test_too_few_samples_fail():
    of = plan()
    few = tuple(row for measure in JUDGES for row in judged(measure, count=3))
    assert failed(of, scores=few).keys() == {
        "distribution", "text_fit", "temporal_consistency", "motion_and_detail"
    }  # fmt: skip


def test_a_stopped_sample_fails_and_no_guard_is_not_a_passed_one():
    of = plan()
    assert "1 of 8" in failed(of, guarded=Guarded(8, 1, ("text",)))["guardrail"]
    assert failed(of, guarded=Guarded(8, 0))["guardrail"].startswith("missing: a guard that ran")
    assert failed(of, {"guards_required": 0}, guarded=Guarded(8, 0)) == {}


def test_samples_that_repeat_training_footage_fail():
    of = plan()
    honest = tuple(row for site in of.sites for row in nearest(site))
    near = tuple(Nearest("after", number, 0.7, 0.6, "gcp") for number in range(4))
    assert "at gcp 4 of 12" in failed(of, nearest=(*honest, *near))["memorisation"]
    copy = Nearest("after", 9, 0.99, 0.6, "aws")
    assert "1 are copies" in failed(of, nearest=(*honest, copy))["memorisation"]
    assert failed(of, nearest=(*honest, Nearest("after", 9, 0.7, 0.6, "aws"))) == {}


def test_samples_that_are_far_from_all_footage_repeat_none_of_it():
    of = plan()  # a site whose few held-out clips lie further still is no yardstick
    honest = tuple(row for site in of.sites for row in nearest(site))
    far = tuple(Nearest("after", number, 0.2, 0.08, "gcp") for number in range(8))
    assert failed(of, nearest=(*honest, *far)) == {}


def test_a_site_that_did_not_measure_memorisation_is_named():
    of = plan()
    assert failed(of, nearest=nearest("aws"))["memorisation"].endswith("footage at azure, gcp")


def test_the_anchor_folder_counts_where_the_plan_names_one():
    of = plan(trial=Trial(anchor_dir="anchor"))
    assert failed(of)["anchor"].startswith("missing: 0 clips of the anchor folder")
    anchor = tuple(PairedLoss(f"a{n}", "", "", 1.0, 1.1) for n in range(4))
    assert "+10.00%" in failed(of, anchor=anchor)["anchor"]
    assert failed(of, anchor=tuple(replace(row, after=1.0) for row in anchor)) == {}


def test_too_many_generations_of_own_footage_fail():
    of = plan(base=Base("Tiny-Cosmos-1.0-Text2World", "tiny", lineage_depth=4))
    assert list(failed(of)) == ["lineage_depth"]


@pytest.mark.parametrize(
    "size", [AdapterSize(9.0, 10_000), AdapterSize(float("nan"), 10_000), AdapterSize(0.1, 0), None]
)
def test_an_oversized_or_odd_change_fails(size):
    assert list(failed(plan(), size=size)) == ["adapter_size"]


def test_scores_below_the_quorum_fail_and_name_who_is_silent():
    of = plan()
    alone = merge(of, [site_scores("aws", of)], adapter_sha256=ADAPTER)
    fields = {"weights": alone.weights, "missing_sites": alone.missing_sites}
    assert "no word from azure, gcp" in failed(of, clips=alone.clips, **fields)["site_scores"]


def test_unknown_and_odd_limits_are_refused():
    of = plan()
    with pytest.raises(UnknownKeyError, match="Did you mean 'must_improve'"):
        evaluate_gates(evaluation(of), {"must_improv": 1}, of)
    with pytest.raises(MalformedRecordError, match="finite number"):
        evaluate_gates(evaluation(of), {"must_improve": float("nan")}, of)
    with pytest.raises(MalformedRecordError, match="Evaluate this round's candidate"):
        evaluate_gates(evaluation(of), {}, plan(seed=4))
    assert all(limit.why for limit in LIMITS.values())


def test_chances_are_those_of_the_binomial_distribution():
    assert chance_of_at_least(2, 8, 0.05) == pytest.approx(0.0572, abs=1e-4)
    assert chance_of_at_least(3, 8, 0.05) == pytest.approx(0.0058, abs=1e-4)


def test_worse_regenerated_clips_roll_back_and_better_ones_do_not():
    old, worse = [1.0 + 0.01 * n for n in range(12)], [0.9 + 0.01 * n for n in range(12)]
    assert should_roll_back({"sharpness": old}, {"sharpness": worse}).roll_back
    assert not should_roll_back({"sharpness": worse}, {"sharpness": old}).roll_back
    few = should_roll_back({"sharpness": old[:3]}, {"sharpness": worse[:3]})
    assert not few.roll_back
    assert "12 are needed" in few.why


def test_the_starter_embedder_alone_does_not_roll_back():
    old, worse = [0.5] * 12, [0.3] * 12
    alone = should_roll_back(
        {"text_cosine": old, "motion": old}, {"text_cosine": worse, "motion": old}
    )
    assert not alone.roll_back
    both = should_roll_back(
        {"text_cosine": old, "motion": old}, {"text_cosine": worse, "motion": worse}
    )
    assert both.roll_back
    with pytest.raises(MalformedRecordError, match="Pair the clips"):
        should_roll_back({"motion": old}, {"motion": old[:2]})
