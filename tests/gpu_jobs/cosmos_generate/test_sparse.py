import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.nn.attention.flex_attention import create_mask

from gpu_jobs.cosmos_generate.backends.cosmos3_packing import _without_text
from gpu_jobs.cosmos_generate.backends.cosmos3_text import ReadText, install_reader
from gpu_jobs.cosmos_generate.speed.apply import apply_to
from gpu_jobs.cosmos_generate.speed.sparse import order_of, sparse_attention
from tests.gpu_jobs.cosmos_generate.tiny_transformers import (
    cosmos,
    cosmos3,
    cosmos3_inputs,
    cosmos_inputs,
    far,
)
from worldloop.cosmos.profiles import SpeedProfile
from worldloop.cosmos.tiles import TILE_TOKENS, tiling, window

ALL_TILES = SpeedProfile("tiles", density=0.9999)


def order(grid, density, *, loose=0, ranks=1):
    chosen = window(tiling(grid), density)
    count = chosen.tiling.num_tokens + loose
    return order_of(num_tokens=count, window=chosen, ranks=ranks, device="cpu")


@pytest.mark.parametrize("grid", [(4, 8, 8), (5, 8, 9), (3, 13, 7)])
def test_tokens_come_back_to_where_they_stood(grid):
    tokens = torch.arange(np.prod(grid) + 3)
    found = order(grid, 0.5, loose=3, ranks=4)
    assert torch.equal(tokens[found.token][found.place], tokens)
    assert int(found.valid.sum()) == len(tokens)
    assert len(found.token) % 4 == 0


@pytest.mark.parametrize("noise_per_frame", [False, True])
def test_attention_to_all_tiles_is_dense_attention(noise_per_frame):
    inputs, changed = cosmos_inputs(noise_per_frame=noise_per_frame), cosmos()
    expected = cosmos()(**inputs)[0]
    density = apply_to(changed, ALL_TILES, device="cpu")
    assert far(changed(**inputs)[0], expected) < 1e-6  # a dense step, in tile order
    density.dense = False
    assert far(changed(**inputs)[0], expected) < 1e-6


def test_cosmos3_attends_to_all_tiles_and_to_its_text():
    inputs, changed = cosmos3_inputs(), cosmos3()
    expected = cosmos3()(**inputs)[0][0]
    apply_to(changed, ALL_TILES, device="cpu").dense = False
    assert far(changed(**inputs)[0][0], expected) < 1e-6


def test_cosmos3_recalls_its_text_in_a_sparse_pass():
    inputs, changed = cosmos3_inputs(), cosmos3()
    reader, text = install_reader(changed), ReadText(2)
    apply_to(changed, SpeedProfile("sparse", density=0.4), device="cpu").dense = False
    with reader.reading(text):
        first = changed(**inputs)[0][0]
    with reader.reading(text):
        second = changed(**_without_text(inputs))[0][0]
    torch.testing.assert_close(first, second)


def test_sparse_attention_equals_attention_with_a_mask():
    torch.manual_seed(0)
    found = order((4, 24, 16), 0.4)
    mask = found.mask_of(0, 0)
    q, k, v = (torch.randn(1, 2, found.num_places, 16) for _ in range(3))
    tiles = window(tiling((4, 24, 16)), 0.4).neighbours()
    expected = torch.zeros_like(q)
    for tile, near in enumerate(tiles):
        rows = slice(tile * TILE_TOKENS, (tile + 1) * TILE_TOKENS)
        keys = torch.cat(
            [torch.arange(n * TILE_TOKENS, (n + 1) * TILE_TOKENS) for n in near.tolist()]
        )
        expected[:, :, rows] = functional.scaled_dot_product_attention(
            q[:, :, rows], k[:, :, keys], v[:, :, keys]
        )
    torch.testing.assert_close(sparse_attention(q, k, v, mask), expected)


def test_the_kernels_lists_of_tiles_say_the_same_as_the_mask():
    mask = order((5, 8, 9), 0.4, loose=5).mask_of(9, TILE_TOKENS)
    length, keys = mask.dense_mask().shape
    said = create_mask(mask.blocks.mask_mod, 1, 1, length, keys, device="cpu")[0, 0]
    assert torch.equal(said, mask.dense_mask())
    whole = mask.blocks.full_kv_num_blocks[0, 0] + mask.blocks.kv_num_blocks[0, 0]
    has_tokens = mask.key_valid.view(-1, TILE_TOKENS).any(1)
    assert torch.equal(whole, (mask.tiles & has_tokens).sum(1).int())


def test_text_and_loose_tokens_are_always_attended_to():
    found = order((4, 24, 16), 0.3, loose=5)
    mask = found.mask_of(9, TILE_TOKENS).dense_mask()
    assert bool(mask[:, :9].all())
    assert not bool(mask[:, 9:TILE_TOKENS].any())
    assert bool(mask[:, TILE_TOKENS + 4 * 24 * 16 :][:, :5].all())
    assert bool(mask[4 * 24 * 16, TILE_TOKENS : TILE_TOKENS + 4 * 24 * 16].all())


def test_a_sparse_step_differs_from_a_dense_one():
    changed = cosmos()
    density = apply_to(changed, SpeedProfile("sparse", density=0.4), device="cpu")
    dense = changed(**cosmos_inputs())[0]
    density.dense = False
    assert far(changed(**cosmos_inputs())[0], dense) > 1e-3
