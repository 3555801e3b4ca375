"""The plan: distances, rays and being pushed out of things."""

import numpy as np
import pytest

from worldloop.worlds.plan import Plan


def test_distance_is_to_the_nearest_thing_and_negative_inside() -> None:
    plan = Plan((-10, -10), (10, 10))
    plan.block_box((2, -1), (4, 1))
    plan.block_disc((-5, 0), 1.0)
    assert plan.distance([(0, 0), (3, 0), (-5, 0), (9, 0)]) == pytest.approx([2, -1, -1, 1])


def test_bounds_hold_the_player_only() -> None:
    plan = Plan((0, 0), (4, 4))
    plan.block_disc((10, 0), 1.0)
    assert plan.distance([(6, 0)], bounded=False)[0] == pytest.approx(3.0)
    assert plan.distance([(6, 0)])[0] == pytest.approx(-2.0)


def test_a_turned_box_is_where_it_was_turned_to() -> None:
    plan = Plan((-10, -10), (10, 10))
    plan.block_box((-3, -0.5), (3, 0.5), yaw_rad=np.pi / 2)
    assert plan.distance([(0, 4), (2, 0)]) == pytest.approx([1.0, 1.5])


def test_one_walks_up_to_the_margin_and_sees_over_low_things() -> None:
    plan = Plan((-20, -20), (20, 20))
    plan.block_box((5, -2), (6, 2), height_m=0.8)
    plan.block_box((9, -2), (10, 2), height_m=3.0)
    assert plan.walk_distance((0, 0), [0.0], margin_m=0.5)[0] == pytest.approx(4.5)
    assert plan.view_distance((0, 0), [0.0])[0] == pytest.approx(9.0)
    assert plan.walk_distance((0, 0), [np.pi], margin_m=0.5)[0] == pytest.approx(19.5)


def test_rays_and_distances_agree() -> None:
    rng = np.random.default_rng(0)
    plan = Plan((-30, -30), (30, 30))
    for _ in range(12):
        x, y = rng.uniform(-20, 20, 2)
        plan.block_box((x, y), (x + 2, y + 3), yaw_rad=rng.uniform(0, 3))
        plan.block_disc(rng.uniform(-20, 20, 2), 0.7, height_m=2)
    at = plan.pushed_out(np.zeros(2), 0.5)
    headings = rng.uniform(-np.pi, np.pi, 40)
    reach = plan.view_distance(at, headings, limit_m=25)
    hits = at + reach[:, None] * np.stack([np.cos(headings), np.sin(headings)], 1)
    free = reach < 25
    assert free.any()
    assert np.abs(plan.distance(hits[free], bounded=False)).max() < 1e-6


def test_a_point_is_pushed_out_of_a_wall() -> None:
    plan = Plan((-10, -10), (10, 10))
    plan.block_box((-1, -5), (1, 5))
    out = plan.pushed_out(np.array([1.2, 0.3]), 0.5)
    assert plan.distance([out])[0] >= 0.5
    assert out[1] == pytest.approx(0.3)


def test_a_pole_is_ahead_when_it_is_near_and_in_view() -> None:
    plan = Plan((-10, -10), (10, 10))
    assert not plan.pole_ahead((0, 0), [0.0], within_m=3, half_deg=30).any()
    plan.mark_pole((2, 0.5))
    headings = [0.0, 0.9, np.pi]
    assert plan.pole_ahead((0, 0), headings, within_m=3, half_deg=30).tolist() == [
        True,
        False,
        False,
    ]
    assert not plan.pole_ahead((0, 0), headings, within_m=2, half_deg=30).any()
