import numpy as np
import pytest

from worldloop.scenes.draws import below, draw, draw_one, pick_true, pick_weighted, purpose_key

SEEDS = np.arange(20_000, dtype=np.uint64)
KEY = purpose_key("test", "cars")


def test_arrays_and_plain_python_agree_to_the_last_bit():
    seeds = [0, 1, 7, 2**63 - 1, 2**64 - 1]
    drawn = draw(np.array(seeds, np.uint64), KEY).tolist()
    assert drawn == [draw_one(seed, KEY) for seed in seeds]


def test_a_number_does_not_depend_on_its_batch():
    assert draw(SEEDS, KEY)[123] == draw(SEEDS[123:124], KEY)[0]


def test_each_purpose_has_numbers_of_its_own():
    others = draw(SEEDS, purpose_key("test", "trees"))
    same = (draw(SEEDS, KEY) >> np.uint64(60)) == (others >> np.uint64(60))
    assert same.mean() == pytest.approx(1 / 16, abs=0.01)


def test_the_numbers_are_recorded():
    assert draw_one(7, purpose_key("cars")) == 8662975691909784578


def test_whole_numbers_are_even():
    counts = np.bincount(below(draw(SEEDS, KEY), 10), minlength=10)
    assert counts.sum() == len(SEEDS)
    assert abs(counts / len(SEEDS) - 0.1).max() < 0.01


def test_only_allowed_cells_are_picked_and_all_of_them():
    allowed = np.tile(np.array([False, True, False, True, True]), (len(SEEDS), 1))
    assert set(pick_true(draw(SEEDS, KEY), allowed).tolist()) == {1, 3, 4}


def test_heavier_cells_are_picked_more_often():
    weights = np.tile(np.array([1, 0, 3], np.uint8), (len(SEEDS), 1))
    counts = np.bincount(pick_weighted(draw(SEEDS, KEY), weights), minlength=3)
    assert counts[1] == 0
    assert counts[2] / counts[0] == pytest.approx(3, abs=0.15)
