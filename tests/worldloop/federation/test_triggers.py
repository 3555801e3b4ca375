from datetime import UTC, datetime, timedelta

import pytest

from worldloop.federation.triggers import (
    Attempt,
    CellCount,
    MadeWave,
    News,
    RegenerationPlan,
    ReleasedWave,
    estimate_round,
    news_since,
    regeneration_plan,
    trainable_clips,
    why_again,
    why_no_quorum,
    why_not,
    why_train,
)
from worldloop.sites import Regeneration, Retraining

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
SETTINGS = Retraining(model="Tiny-Cosmos3", min_new_hours=2, gap_clips=3)


def released(number, hours=1.0, **clips):
    by_place = {place.replace("_", "/"): count for place, count in clips.items()}
    return ReleasedWave(f"w{number:04d}", hours * 3600, by_place)


def made(number, adapter="", *, generated=True, **cells):
    counts = {place.replace("_", "/"): CellCount(*count) for place, count in cells.items()}
    return MadeWave(f"w{number:04d}", adapter, generated, counts)


def refusal(**changes):
    facts = {
        "settings": SETTINGS,
        "open_rounds": [],
        "last_opened_at": None,
        "now": NOW,
    }
    return why_not(**{**facts, **changes})


def regenerated(*waves, promoted="r0001", asked=None, weakest=(), **settings):
    asked_for = Retraining(model="Tiny-Cosmos3", regeneration=Regeneration(**settings))
    return regeneration_plan(
        waves, promoted=promoted, asked=asked or {}, settings=asked_for, weakest=weakest
    )


def test_only_what_the_used_checkpoint_was_not_trained_on_is_new():
    waves = [released(2, 1.5, lima_zoo=2), released(1, 4.0, lima_zoo=2, oslo_zoo=9)]

    news = news_since(waves, learned_waves={"w0001"}, gap_clips=3)

    assert (news.waves, news.hours) == (("w0002",), 1.5)
    assert news.closed_gaps == ("lima/zoo",)


@pytest.mark.parametrize(("waves", "repeats"), [(["w0001"], True), (["w0001", "w0002"], False)])
def test_a_round_that_would_see_nothing_that_a_refused_one_did_not_is_a_repetition(waves, repeats):
    attempts = [Attempt("r0003", ("w0001", "w0009"), "was refused")]

    words = why_again(News(tuple(waves), 4.0, ()), attempts)

    assert (words is not None) == repeats
    assert not repeats or "Round r0003" in words


def test_without_an_attempt_nothing_is_a_repetition():
    assert why_again(News(("w0001",), 4.0, ()), []) is None


@pytest.mark.parametrize(
    ("news", "settings", "word"),
    [
        (News(("w0001",), 2.0, ()), SETTINGS, "min_new_hours"),
        (News((), 0.1, ("lima/zoo",)), Retraining(min_closed_gaps=1), "first lima/zoo"),
        (News((), 0.1, (), drift=0.5), Retraining(max_drift=0.4), "max_drift"),
    ],
)
def test_each_reason_is_enough_and_is_named(news, settings, word):
    answer = why_train(news, settings)

    assert answer.yes
    assert word in answer.reason


def test_without_a_reason_each_number_is_said_beside_its_limit():
    settings = Retraining(min_new_hours=2, min_closed_gaps=3, max_drift=0.4)

    answer = why_train(News((), 0.5, ("lima/zoo",)), settings)

    assert not answer.yes
    for words in ("0.5 of 2 new", "1 of 3 closed", "no site has said its drift"):
        assert words in answer.reason


def test_a_reason_that_is_switched_off_is_none_however_much_there_is():
    news = News((), 99.0, ("lima/zoo",) * 99, drift=99.0)

    assert not why_train(news, Retraining(min_new_hours=0)).yes


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"settings": Retraining()}, "No model"),
        ({"open_rounds": ["r0003"]}, "r0003 is still open"),
        ({"last_opened_at": NOW - timedelta(hours=23)}, "min_hours_between_rounds"),
    ],
)
def test_what_stands_against_a_round_is_said(changes, word):
    assert word in refusal(**changes)


def test_nothing_stands_against_a_round_after_the_cool_down():
    assert refusal(last_opened_at=NOW - timedelta(hours=24)) is None


def test_sites_without_clips_are_no_quorum():
    assert why_no_quorum({"aws": 3, "gcp": 1}, 2) is None
    assert "1 sites have released clips outside the held-out cities (aws)" in str(
        why_no_quorum({"aws": 3, "gcp": 0}, 2)
    )


def test_held_out_cities_count_for_no_site():
    home_of = {"lima": "aws", "oslo": "gcp"}

    found = trainable_clips([released(1, lima_zoo=2, oslo_zoo=5)], home_of, held_out=["oslo"])

    assert found == {"aws": 2, "gcp": 0}


def test_a_round_reserves_its_gpu_seconds_and_what_they_cost():
    settings = Retraining(max_gpu_s=7200, max_cpu_s=10)

    estimate = estimate_round(settings, num_sites=3, usd_per_gpu_hour=4.0)

    assert (estimate["gpu_s"], estimate["usd"], estimate["cpu_s"]) == (7200, 8.0, 10)


def test_a_promotion_makes_the_weakest_places_anew_and_knows_its_adapter():
    waves = [made(1, lima_zoo=(4, 3), oslo_zoo=(4, 1), cairo_zoo=(4, 2))]

    plan = regenerated(*waves, num_places=2, clips_per_place=5)

    assert isinstance(plan, RegenerationPlan)
    assert (plan.cause, plan.adapter) == ("regenerate:r0001", "r0001")
    assert (plan.places, plan.clips_per_place) == (("oslo/zoo", "cairo/zoo"), 5)


def test_places_without_any_clip_come_first_then_those_that_the_evaluation_found_weak():
    waves = [made(1, lima_zoo=(4, 4), oslo_zoo=(4, 3), cairo_zoo=(4, 0))]

    assert regenerated(*waves, weakest=["lima/zoo"]).places == ("cairo/zoo", "lima/zoo", "oslo/zoo")


def test_with_sketches_alone_the_fewest_clips_are_the_weakest():
    waves = [made(1, generated=False, lima_zoo=(9, 6), oslo_zoo=(3, 3))]

    assert regenerated(*waves, num_places=1).places == ("oslo/zoo",)


def test_what_the_promoted_adapter_made_itself_is_not_what_it_makes_anew():
    waves = [made(1, lima_zoo=(4, 3)), made(2, "r0001", oslo_zoo=(4, 1))]

    assert regenerated(*waves).places == ("lima/zoo",)


def test_one_wave_a_promotion_and_then_one_for_each_wave_below_the_target():
    waves = [made(1, lima_zoo=(4, 3)), made(2, "r0001", lima_zoo=(4, 1), oslo_zoo=(4, 4))]
    asked = {"regenerate:r0001": "w0002"}

    plan = regenerated(*waves, asked=asked, min_quality=0.5)

    assert (plan.cause, plan.places) == ("regenerate:w0002", ("lima/zoo",))
    again = regenerated(*waves, asked={**asked, plan.cause: "w0003"})
    assert "none is below the target" in again


def test_failed_checks_make_a_place_anew_whatever_the_target():
    waves = [made(1, lima_zoo=(4, 3)), made(2, "r0001", lima_zoo=(4, 0))]

    plan = regenerated(*waves, asked={"regenerate:r0001": "w0002"}, min_quality=0.0)

    assert plan.places == ("lima/zoo",)
    assert "1 have no clip" in plan.reason


def test_a_place_that_an_adapter_cannot_make_is_tried_so_often_and_no_more():
    asked = {"regenerate:r0001": "w0001", "regenerate:w0001": "w0002"}
    waves = [made(number, "r0001", lima_zoo=(4, 0)) for number in (1, 2)]

    assert regenerated(*waves, asked=asked, max_attempts=3).cause == "regenerate:w0002"
    assert isinstance(regenerated(*waves, asked=asked, max_attempts=2), str)


def test_a_place_that_a_later_wave_did_well_is_left_alone():
    asked = {"regenerate:r0001": "w0001"}
    waves = [made(2, "r0001", lima_zoo=(4, 0)), made(3, "r0001", lima_zoo=(4, 4))]

    assert isinstance(regenerated(*waves, asked=asked), str)


def test_nothing_is_made_anew_before_a_promotion_or_without_footage():
    assert regenerated(made(1, lima_zoo=(4, 0)), promoted="") == "No round has been promoted yet."
    assert "no released footage" in regenerated()
