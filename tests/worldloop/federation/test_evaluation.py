import json
from dataclasses import replace

import pytest

from tests.worldloop.federation.evaluations import (
    ADAPTER,
    evaluation,
    judged,
    losses,
    plan,
    site_scores,
)
from worldloop.errors import MalformedRecordError
from worldloop.federation.evaluation import (
    Evaluation,
    PairedLoss,
    SiteScores,
    cells,
    merge,
    overall_change,
    paired_losses,
    places,
    weakest_places,
)


def clip(place, before, after, number=0, site="aws"):
    city, institution = place.split("/")
    return PairedLoss(f"{place}{number}", city, institution, before, after, site=site)


def of_clips(*clips):
    of = plan()
    return merge(of, [site_scores("aws", of, losses=tuple(clips))], adapter_sha256=ADAPTER)


def test_an_evaluation_survives_json():
    whole = evaluation(plan())
    read = Evaluation.from_record(json.loads(json.dumps(whole.to_record())))
    assert read == whole


def test_scores_of_a_site_survive_json():
    scores = site_scores("aws", plan(), drift={"starter": 0.2})
    assert SiteScores.from_record(json.loads(json.dumps(scores.to_record()))) == scores


def test_each_clip_counts_once_unless_weights_say_otherwise():
    of = plan()
    sites = [
        site_scores("aws", of, losses=losses("aws", change=-0.1, count=30, noise=0)),
        site_scores("gcp", of, losses=losses("gcp", change=0.1, count=10, noise=0)),
    ]
    by_clips = merge(of, sites, adapter_sha256=ADAPTER)
    evenly = merge(of, sites, adapter_sha256=ADAPTER, weights={"aws": 1, "gcp": 1})
    assert overall_change(by_clips).mean == pytest.approx(-0.05)
    assert overall_change(evenly).mean == pytest.approx(0.0)
    assert by_clips.missing_sites == ("azure",)


def test_the_order_in_which_sites_answer_changes_nothing():
    of = plan()
    scores = [site_scores(site, of) for site in of.sites]
    there, back = (merge(of, s, adapter_sha256=ADAPTER) for s in (scores, scores[::-1]))
    assert there.to_record() == back.to_record()


def test_an_interval_holds_the_mean_and_narrows_with_clips():
    few, many = (
        overall_change(of_clips(*losses("aws", count=count, noise=0.05))) for count in (8, 200)
    )
    assert few.low < few.mean < few.high
    assert many.high - many.low < (few.high - few.low) / 2


def test_places_are_listed_with_their_change():
    found = places(
        of_clips(
            clip("lima/zoo", 1.0, 0.8), clip("lima/zoo", 2.0, 1.8, 1), clip("oslo/zoo", 1.0, 1.1)
        )
    )
    assert [(row.place, row.num_clips) for row in found] == [("lima/zoo", 2), ("oslo/zoo", 1)]
    assert found[0].change == pytest.approx(-0.15)


def test_cells_are_places_cities_and_institutions_with_enough_clips():
    merged = of_clips(clip("lima/zoo", 1, 1), clip("lima/museum", 1, 1), clip("oslo/zoo", 1, 1))
    assert [row.place for row in cells(merged, min_clips=2)] == ["lima", "zoo"]


def test_the_weakest_places_come_first_and_those_that_did_not_improve_not_at_all():
    merged = of_clips(
        clip("lima/zoo", 2.0, 1.0), clip("oslo/zoo", 1.0, 0.9), clip("lima/museum", 3.0, 3.3)
    )
    assert weakest_places(merged, 5) == ("lima/zoo", "oslo/zoo")
    assert weakest_places(merged, 1) == ("lima/zoo",)


def test_a_place_without_held_out_clips_goes_by_its_institution():
    merged = of_clips(clip("lima/zoo", 2.0, 1.0), clip("lima/museum", 1.0, 0.9))
    found = weakest_places(merged, 5, among=["tokyo/zoo", "tokyo/museum", "tokyo/harbor"])
    assert found == ("tokyo/zoo", "tokyo/museum")


def test_a_report_is_paired_by_clip():
    row = {"recipe_id": "a", "city": "lima", "institution": "zoo"}
    rows = [
        {**row, "adapter": "before", "loss": 1.0, "loss_other_caption": 1.2},
        {**row, "adapter": "after", "loss": 0.9, "loss_other_caption": 1.3},
    ]
    (paired,) = paired_losses({"losses": rows}, site="aws")
    assert paired.change == pytest.approx(-0.1)
    assert paired.caption_gain_change == pytest.approx(0.2)
    with pytest.raises(MalformedRecordError, match="under the adapters 'before' and 'after'"):
        paired_losses({"losses": rows[:1]}, site="aws")


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), 0.0, -1.0])
def test_a_loss_that_is_no_number_is_refused(loss):
    with pytest.raises(MalformedRecordError, match="scores of site aws, clip lima/zoo0"):
        site_scores("aws", plan(), losses=(clip("lima/zoo", 1.0, loss),))


def test_scores_of_another_candidate_or_twice_the_same_site_are_refused():
    of = plan()
    scores = site_scores("aws", of)
    with pytest.raises(MalformedRecordError, match="twice"):
        merge(of, [scores, scores], adapter_sha256=ADAPTER)
    with pytest.raises(MalformedRecordError, match="Measure the candidate of this round"):
        merge(of, [replace(scores, adapter_sha256="00" * 32)], adapter_sha256=ADAPTER)


def test_an_unknown_field_or_version_is_refused():
    record = site_scores("aws", plan()).to_record()
    with pytest.raises(MalformedRecordError, match="unknown field 'captions'"):
        SiteScores.from_record({**record, "captions": ["A zoo."]})
    with pytest.raises(MalformedRecordError, match="scores_version 1 to 1"):
        SiteScores.from_record({**record, "scores_version": 9})


def test_a_score_that_is_no_number_is_refused():
    report = {
        "scores": [vars(judged("text_cosine")[0]) | {"low": float("nan")}],
        "clips": [],
        "versions": {},
    }
    with pytest.raises(MalformedRecordError, match="score text_cosine of before"):
        evaluation(plan()).judged(report)


def test_what_the_coordinator_measured_comes_beside_the_sites_scores():
    rows = [{"recipe_id": "grandma", "city": "", "institution": "", "adapter": name, "loss": loss}
            for name, loss in (("before", 1.0), ("after", 0.9))]  # fmt: skip
    report = {"scores": [vars(row) for row in judged("motion")], "clips": [{"group": "after", "index": 0}],
              "versions": {"torch": "2"}}  # fmt: skip
    whole = evaluation(plan()).judged(report, anchor={"losses": rows})
    assert whole.score("after - before", "motion").num_clips == 8
    assert whole.anchor[0].change == pytest.approx(-0.1)
    assert "grandma" not in json.dumps(whole.to_record())
    assert Evaluation.from_record(json.loads(json.dumps(whole.to_record()))) == whole


@pytest.mark.parametrize("odd", [0.0, -1.0, 1e-300, 1e300, float("nan"), float("inf")])
def test_a_loss_that_no_model_has_is_refused_before_it_spoils_a_mean(odd):
    for row in (clip("lima/zoo", odd, 1.0), clip("lima/zoo", 1.0, odd)):
        with pytest.raises(MalformedRecordError, match="scores of site aws, clip lima/zoo0"):
            site_scores("aws", plan(), losses=(row,))
