import numpy as np
import pytest

from worldloop.cosmos.tiles import PADDING, TILE_TOKENS, Tiling, tiling, window

GRIDS = [
    (16, 44, 80),
    (24, 44, 80),
    (24, 27, 48),
    (16, 12, 20),
    (48, 23, 40),
    (16, 15, 27),
    (2, 4, 4),
]


@pytest.mark.parametrize("grid", GRIDS)
def test_every_token_has_one_place_in_tile_order(grid):
    cut = tiling(grid)
    order = cut.order()
    assert len(order) == cut.num_tiles * TILE_TOKENS
    assert sorted(order[order != PADDING]) == list(range(np.prod(grid)))


@pytest.mark.parametrize("grid", GRIDS[:-1])
def test_little_is_filled_up(grid):
    cut = tiling(grid)
    assert cut.num_tokens / (cut.num_tiles * TILE_TOKENS) > 0.9


def test_a_tile_is_a_box_of_neighbours():
    first = Tiling((8, 8, 16), (4, 4, 8)).order()[:TILE_TOKENS]
    t, h, w = np.unravel_index(first, (8, 8, 16))
    assert (t.max(), h.max(), w.max()) == (3, 3, 7)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("density", [0.33, 0.15, 0.1])
def test_every_tile_attends_to_equally_many_and_to_itself(grid, density):
    chosen = window(tiling(grid), density)
    near = chosen.neighbours()
    assert near.shape == (chosen.tiling.num_tiles, np.prod(chosen.size))
    assert all(number in row for number, row in enumerate(near))
    assert all(len(set(row)) == len(row) for row in near)
    assert near.min() >= 0
    assert near.max() < chosen.tiling.num_tiles


@pytest.mark.parametrize("grid", GRIDS[:3])
@pytest.mark.parametrize("density", [0.33, 0.15, 0.125])
def test_the_density_reached_is_near_the_one_wanted(grid, density):
    assert 0.75 * density < window(tiling(grid), density).density <= 1.01 * density


def test_full_density_attends_to_all():
    chosen = window(tiling((16, 44, 80)), 1.0)
    assert chosen.density == 1.0
    assert chosen.neighbours().shape == (440, 440)


def test_a_window_is_shifted_inwards_at_the_border():
    cut = Tiling((4, 4, 64), (4, 4, 8))
    chosen = window(cut, 1.0)
    near = type(chosen)(cut, (1, 1, 3)).neighbours()
    assert near.tolist()[:2] == [[0, 1, 2], [0, 1, 2]]
    assert near.tolist()[-1] == [5, 6, 7]
