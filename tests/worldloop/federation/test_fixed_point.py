import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from worldloop.cosmos.families import ClipShape
from worldloop.errors import MalformedRecordError
from worldloop.federation.fixed_point import FixedPoint, fixed_point
from worldloop.federation.rounds import Aggregation, Base, RoundPlan, Terms, Training, Trial

NUMBERS = hnp.arrays(np.float32, 7, elements=st.floats(-1, 1, width=32))


def plan(**aggregation):
    return RoundPlan(
        round="r0001",
        sites=("aws", "azure", "gcp"),
        waves=(),
        releases=(),
        base=Base("tiny", "1"),
        training=Training(ClipShape(9, 64, 64, 16), learning_rate=1e-3, num_steps=100),
        aggregation=Aggregation(secure=True, **aggregation),
        terms=Terms(),
        trial=Trial(),
        seed=1,
        opened_at="2026-11-21T00:00:00+00:00",
    )


@pytest.mark.parametrize("bits", [16, 32])
@given(deltas=st.lists(NUMBERS, min_size=3, max_size=3), seed=st.integers(1, 200))
def test_the_mean_of_the_sum_is_the_weighted_mean_within_a_step(bits, deltas, seed):
    numbers = FixedPoint(bound=1.0, num_sites=3, max_weight=255, bits=bits)
    weights = [seed, 255, 17]
    total = sum(numbers.quantised(d, w) for d, w in zip(deltas, weights, strict=True))
    mean, weight = numbers.mean(total)
    exact = np.average(np.stack(deltas).astype(np.float64), axis=0, weights=weights)
    assert weight == sum(weights)
    assert np.abs(mean - exact).max() <= 1.5 * numbers.step * 255 / weight + 1e-6


@pytest.mark.parametrize("bits", [16, 32])
def test_the_largest_numbers_of_all_sites_do_not_overflow(bits):
    numbers = FixedPoint(bound=2.0, num_sites=5, max_weight=100, bits=bits)
    for sign in (1, -1):
        each = numbers.quantised(np.full(3, sign * 9.0, np.float32), 10_000)
        mean, weight = numbers.mean((each * 5).astype(each.dtype))
        np.testing.assert_allclose(mean, sign * 2.0, rtol=5e-4)
        assert weight == 500


def test_what_is_lost_is_the_difference_to_what_was_sent():
    numbers = FixedPoint(bound=1.0, num_sites=3, max_weight=15, bits=16)
    values = np.float32([0.1, -0.2, 1.5])
    sent, _ = numbers.mean(numbers.quantised(values, 7))
    np.testing.assert_allclose(numbers.lost(values, 7), values - sent, atol=1e-7)
    assert numbers.lost(values, 7)[2] == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_numbers_that_are_none_are_refused(odd):
    with pytest.raises(MalformedRecordError, match="not finite"):
        FixedPoint(1.0, 3).quantised(np.float32([odd]), 3)


@pytest.mark.parametrize("weight", [0, -1])
def test_a_site_without_weight_is_refused(weight):
    with pytest.raises(MalformedRecordError, match=f"weight {weight}"):
        FixedPoint(1.0, 3).quantised(np.zeros(1, np.float32), weight)


@pytest.mark.parametrize("odd", [{"bits": 8}, {"bound": 0.0}, {"bits": 16, "max_weight": 40_000}])
def test_a_ring_that_overflows_is_refused(odd):
    with pytest.raises(MalformedRecordError, match="fixed point"):
        FixedPoint(**{"bound": 1.0, "num_sites": 3, **odd})


def test_the_sites_agree_on_a_scale_by_what_all_of_them_know():
    keys = {"aws": {"weight_bits": 4}, "gcp": {"weight_bits": 7}}
    assert fixed_point(plan(codec="float32"), keys) == FixedPoint(0.2, 3, 127, 32)
    assert fixed_point(plan(codec="int8", clip_norm=0.1), keys).bound == 0.1
    noised = fixed_point(plan(codec="int8", clip_norm=0.1, noise_multiplier=1.0), keys)
    assert noised.bound == pytest.approx(0.7)
    assert noised.bits == 16


@given(st.integers(1, 40))
def test_no_weight_makes_sixteen_bits_overflow(length):
    numbers = fixed_point(plan(), {"aws": {"weight_bits": length}})
    assert numbers.max_weight * 3 < 1 << 16


@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("weight", [1, 100])
def test_a_number_that_no_sites_could_have_sent_is_noticed(bits, weight):
    numbers = FixedPoint(bound=2.0, num_sites=5, max_weight=100, bits=bits)
    most = np.full(9, numbers.bound, np.float32)
    total = sum(numbers.quantised(most, weight) for _ in range(4))  # one is missing
    mean, _ = numbers.mean(total)
    np.testing.assert_allclose(mean, most, rtol=0.2 if weight == 1 and bits == 16 else 1e-2)
    for sign in (1, -1):
        beyond = total.copy()
        beyond[3] = (sign * int(total[3]) + sign * 12) % (1 << bits)
        with pytest.raises(MalformedRecordError, match="which site cannot be told"):
            numbers.mean(beyond)
