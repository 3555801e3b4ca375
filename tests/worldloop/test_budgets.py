import math

import pytest

from worldloop.budgets import (
    KINDS,
    BudgetLine,
    check_kinds,
    estimate_clips,
    estimate_wave,
    estimate_world_model,
    refusal,
)
from worldloop.cosmos.plans import plan_world_model
from worldloop.recipes import Shape
from worldloop.sites import Generation


def lines(**limits):
    return {kind: BudgetLine(kind, 5.0, 10.0, limits.get(kind, math.inf)) for kind in KINDS}


@pytest.mark.parametrize(("asked", "fits"), [(85.0, True), (85.1, False), (0.0, True)])
def test_what_is_left_may_be_used_to_the_last_second(asked, fits):
    assert (refusal(lines(cpu_s=100.0), {"cpu_s": asked}) is None) == fits


def test_a_day_that_is_overdrawn_refuses_even_nothing():
    assert refusal(lines(cpu_s=1.0), {"cpu_s": 0.0}) is not None


def test_the_reason_names_kind_and_numbers():
    reason = refusal(lines(usd=20.0), {"cpu_s": 1.0, "usd": 6.0})

    assert reason.startswith("The run needs 6 usd; today 5 are reserved and 10 used of 20.")


def test_a_wave_costs_what_its_clips_cost():
    generation = Generation(num_cities=2, clips_per_place=3, num_frames=61)

    assert estimate_wave(generation) == estimate_clips(6, Shape(num_frames=61))


def test_a_wave_of_targets_costs_what_its_targets_cost():
    targets = {"tokyo/zoo": 4, "tokyo/street": 1, "lima/zoo": 1}
    model = {"world_model": "Cosmos-Predict2-2B-Video2World", "control": ("first_frames",)}
    asked = Generation(num_cities=9, targets=targets, **model)

    assert estimate_wave(asked) == estimate_wave(Generation(num_cities=2, **model))


def test_estimates_grow_with_clips_frames_pixels_and_samples():
    small = estimate_clips(1, Shape(num_frames=10))
    for larger in (
        estimate_clips(2, Shape(num_frames=10)),
        estimate_clips(1, Shape(num_frames=20)),
        estimate_clips(1, Shape(num_frames=10, width_px=512)),
    ):
        assert larger["cpu_s"] > small["cpu_s"]
        assert larger["bytes"] > small["bytes"]
    assert estimate_clips(1, Shape(num_frames=10, num_samples=9))["cpu_s"] > small["cpu_s"]
    assert set(small) <= set(KINDS)


def test_a_laptop_day_allows_the_shipped_wave():
    assert estimate_wave(Generation())["cpu_s"] < 600


@pytest.mark.parametrize("amounts", [{"cpu": 1.0}, {"cpu_s": -1.0}, {"cpu_s": math.nan}])
def test_amounts_that_mean_nothing_are_refused(amounts):
    with pytest.raises(ValueError, match="is no amount"):
        check_kinds(amounts)


def test_a_tier_up_costs_more_gpu_seconds_and_money_follows_them():
    costs = [
        estimate_world_model(
            plan_world_model("Cosmos-Predict2-2B-Video2World", tier=tier, control=["first_frames"]),
            10,
            num_cities=1,
            usd_per_gpu_hour=3.6,
        )
        for tier in ("draft", "standard", "hero")
    ]

    assert [cost["gpu_s"] for cost in costs] == sorted(cost["gpu_s"] for cost in costs)
    assert costs[0]["usd"] == pytest.approx(costs[0]["gpu_s"] / 1000)


def test_a_tiny_model_uses_no_gpu_and_half_the_share_half_the_bytes():
    whole, half = (
        estimate_world_model(
            plan_world_model("Tiny-Cosmos3", tier="tiny", share=share), 10, num_cities=1
        )
        for share in (1.0, 0.5)
    )

    assert whole["gpu_s"] == 0.0
    assert half["bytes"] == whole["bytes"] / 2


def test_a_wave_with_a_world_model_reserves_for_both():
    model = Generation(world_model="Cosmos-Predict2-2B-Video2World", control=("first_frames",))

    estimate = estimate_wave(model)

    assert set(estimate) <= set(KINDS)
    assert estimate["cpu_s"] == estimate_wave(Generation())["cpu_s"]
    assert estimate["bytes"] > estimate_wave(Generation())["bytes"]
