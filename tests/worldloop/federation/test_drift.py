import numpy as np
import pytest

from worldloop.errors import MalformedRecordError
from worldloop.federation.drift import Moments, drift, frechet_squared

WIDTH = 12


def footage(count, *, shift=0.0, scale=1.0, seed=0):
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(count, WIDTH)) @ np.random.default_rng(9).normal(size=(WIDTH, WIDTH))
    return scale * mixed + shift


def test_like_footage_does_not_drift_and_other_footage_does():
    before = Moments.of(footage(2000))
    same = drift(before, Moments.of(footage(2000, seed=1)))
    moved = drift(before, Moments.of(footage(2000, shift=2.0, seed=1)))
    wider = drift(before, Moments.of(footage(2000, scale=2.0, seed=1)))
    assert same < 0.1
    assert moved > 5 * same
    assert wider == pytest.approx(1.0, abs=0.1)


def test_a_wave_is_added_without_reading_the_older_ones_again():
    vectors = footage(300)
    parts = Moments.of(vectors[:100]) + Moments.of(vectors[100:])
    whole = Moments.of(vectors)
    np.testing.assert_allclose(parts.covariance(), whole.covariance())
    np.testing.assert_allclose(parts.mean, vectors.mean(axis=0))


def test_few_clips_look_less_like_drift_than_without_shrinking():
    before, after = Moments.of(footage(40)), Moments.of(footage(40, seed=1))
    raw = frechet_squared(
        before.mean, np.cov(footage(40).T), after.mean, np.cov(footage(40, seed=1).T)
    )
    spread = np.trace(before.covariance())
    assert drift(before, after) < np.sqrt(raw / spread)


def test_the_distance_is_that_of_known_distributions():
    found = frechet_squared(np.zeros(3), 4 * np.eye(3), np.array([1.0, 0, 0]), np.eye(3))
    assert found == pytest.approx(1 + 3 * (2 - 1) ** 2)


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (np.zeros((5, WIDTH)), "at least 32"),
        (np.zeros((40, WIDTH + 1)), "one width"),
        (np.full((40, WIDTH), np.nan), "finite"),
    ],
)
def test_what_cannot_be_compared_is_refused(after, words):
    with pytest.raises(MalformedRecordError, match=words):
        drift(Moments.of(footage(40)), Moments.of(after))
