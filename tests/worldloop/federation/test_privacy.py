import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldloop.errors import MalformedRecordError
from worldloop.federation.adapters import norm
from worldloop.federation.privacy import (
    SecureGaussian,
    clipped,
    privacy_spent,
    privatised,
    renyi,
    summed_multiplier,
)
from worldloop.seeds import stream

SEED = b"s" * 32
DELTA = {name: stream(name).normal(0, 1, (40, 50)).astype(np.float32) for name in ("a", "b")}


def gaussian_delta(epsilon, multiplier):
    """Exact delta of the Gaussian mechanism (Balle and Wang 2018, arXiv 1805.06530, theorem 8)."""

    def normal(x):
        return math.erfc(-x / math.sqrt(2)) / 2

    half = 1 / (2 * multiplier)
    shifted = epsilon * multiplier
    return normal(half - shifted) - math.exp(epsilon) * normal(-half - shifted)


# dp-accounting 0.6.0, RdpAccountant, delta 1e-5, and its PLDAccountant,
# which is exact up to discretisation: sampling rate, noise multiplier, rounds, epsilon, least epsilon
ORACLE = [
    (1.0, 1.0, 1, 4.728507, 4.377178),
    (1.0, 1.0, 10, 19.053598, 17.856587),
    (1.0, 4.0, 10, 3.617100, 3.341409),
    (1.0, 2.0, 50, 22.019852, 20.675508),
    (1.0, 8.0, 100, 6.122758, 5.679587),
    (256 / 60000, 1.12, 14062, 2.518590, 2.310185),
    (256 / 60000, 0.6, 7031, 8.776576, 7.690027),
    (256 / 60000, 1.2, 2343, 0.931622, 0.792289),
    (0.1, 1.0, 100, 7.903850, 7.046603),
    (0.01, 1.0, 1000, 2.101367, 1.828244),
    (0.5, 3.0, 20, 3.719755, 3.399724),
]


@pytest.mark.parametrize(("rate", "multiplier", "num_rounds", "epsilon", "least"), ORACLE)
def test_epsilon_is_that_of_the_published_accountant(rate, multiplier, num_rounds, epsilon, least):
    spent = privacy_spent(multiplier, num_rounds, delta=1e-5, sampling_rate=rate)
    assert least < spent.epsilon
    assert spent.epsilon == pytest.approx(epsilon, rel=1e-3 if rate == 1 else 1e-2)


# github.com/tensorflow/privacy, tutorials/README.md, commit 047e1ee: MNIST, batches of 256, delta 1e-5,
# converted as Mironov 2017 did: divergence - log(delta) / (order - 1)
@pytest.mark.parametrize(
    ("multiplier", "epochs", "epsilon"), [(1.12, 60, 2.92), (0.6, 30, 9.74), (1.2, 10, 1.20)]
)
def test_composed_divergences_give_the_epsilons_of_a_published_tutorial(
    multiplier, epochs, epsilon
):
    num_steps, rate = epochs * 60000 // 256, 256 / 60000
    found = min(
        num_steps * renyi(multiplier, order, rate) - math.log(1e-5) / (order - 1)
        for order in range(2, 65)
    )
    assert found == pytest.approx(epsilon, rel=0.01)


@given(multiplier=st.floats(0.5, 20), num_rounds=st.integers(1, 200))
def test_the_guarantee_holds_for_the_exact_mechanism(multiplier, num_rounds):
    spent = privacy_spent(multiplier, num_rounds, delta=1e-5)
    exact = gaussian_delta(spent.epsilon, multiplier / math.sqrt(num_rounds))
    if spent.epsilon < 300:  # beyond, the exact formula overflows
        assert exact <= 1e-5


def test_more_rounds_cost_more_and_more_noise_less():
    by_rounds = [privacy_spent(2.0, n, delta=1e-5).epsilon for n in (0, 1, 5, 50)]
    by_noise = [privacy_spent(z, 5, delta=1e-5).epsilon for z in (8.0, 2.0, 0.5, 0.0)]
    assert by_rounds == sorted(set(by_rounds))
    assert by_noise == sorted(set(by_noise))
    assert by_rounds[0] == 0
    assert by_noise[-1] == math.inf


def test_the_statement_says_guarantee_and_price():
    said = privacy_spent(4.0, 10, delta=1e-5).statement(1_000_000)
    assert "(3.62, 1e-05)" in said
    assert "10 rounds" in said
    assert "4000 times as long" in said
    assert "No differential privacy" in privacy_spent(0.0, 3, delta=1e-5).statement(9)


@pytest.mark.parametrize(
    ("odd", "rounds", "delta", "rate"),
    [(-1.0, 1, 1e-5, 1.0), (1.0, -1, 1e-5, 1.0), (1.0, 1, 0.0, 1.0), (1.0, 1, 1e-5, 1.5)],
)
def test_numbers_out_of_range_are_refused(odd, rounds, delta, rate):
    with pytest.raises(MalformedRecordError, match="privacy accountant"):
        privacy_spent(odd, rounds, delta=delta, sampling_rate=rate)


@given(limit=st.floats(1e-3, 1e3))
def test_a_clipped_delta_is_never_longer_than_the_limit(limit):
    found = clipped(DELTA, limit)
    assert norm(found) <= limit
    assert norm(found) == pytest.approx(min(limit, norm(DELTA)), rel=1e-5)


def test_a_short_delta_is_left_as_it_is():
    assert all(np.array_equal(clipped(DELTA, 1e6)[name], DELTA[name]) for name in DELTA)


def test_the_noise_has_the_planned_deviation_and_is_new_each_time():
    noised = [privatised(DELTA, clip_norm=3.0, noise_multiplier=0.5) for _ in range(2)]
    limited = clipped(DELTA, 3.0)
    noise = np.concatenate([(noised[0][name] - limited[name]).ravel() for name in DELTA])
    assert noise.std() == pytest.approx(1.5, rel=0.05)
    assert abs(noise.mean()) < 0.12
    assert not np.array_equal(noised[0]["a"], noised[1]["a"])


def test_a_seed_gives_the_same_noise_for_tests():
    first, again = (
        privatised(DELTA, clip_norm=1.0, noise_multiplier=1.0, seed=SEED) for _ in range(2)
    )
    assert all(np.array_equal(first[name], again[name]) for name in DELTA)


def test_the_numbers_are_standard_normal():
    drawn = np.sort(SecureGaussian(SEED).draw(20_001))
    cumulative = np.array([math.erfc(-x / math.sqrt(2)) / 2 for x in drawn])
    distance = np.abs(cumulative - (np.arange(drawn.size) + 0.5) / drawn.size).max()
    assert distance < 2.0 / math.sqrt(drawn.size)  # Kolmogorov and Smirnov: p above 0.0007
    assert np.isfinite(drawn).all()


def test_without_noise_a_delta_is_only_clipped():
    found = privatised(DELTA, clip_norm=1.0, noise_multiplier=0.0)
    np.testing.assert_array_equal(found["a"], clipped(DELTA, 1.0)["a"])


@pytest.mark.parametrize("limit", [0.0, -1.0, math.nan])
def test_noise_without_a_limit_is_refused(limit):
    with pytest.raises(MalformedRecordError, match="noise_multiplier"):
        privatised(DELTA, clip_norm=limit, noise_multiplier=1.0)


def test_numbers_that_are_none_are_refused():
    with pytest.raises(MalformedRecordError, match="not finite"):
        privatised({"a": np.float32([np.nan])}, clip_norm=1.0, noise_multiplier=1.0)


def test_the_noise_of_a_sum_counts_for_the_site_with_most_weight():
    assert summed_multiplier(1.0, {"a": 3, "b": 4}) == pytest.approx(1.25)
    assert summed_multiplier(2.0, {"a": 7}) == 2.0
