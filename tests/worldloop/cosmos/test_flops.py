import pytest

from worldloop.cosmos.families import ClipShape
from worldloop.cosmos.flops import pass_flops, token_grid
from worldloop.cosmos.models import model

HERO = ClipShape(121, 1280, 704, 24)
SEVEN = "Cosmos-1.0-Diffusion-7B-Text2World"


@pytest.mark.parametrize(
    ("name", "shape", "grid"),
    [
        (SEVEN, HERO, (16, 44, 80)),
        ("Cosmos-Predict2-2B-Video2World", ClipShape(93, 768, 432, 16), (24, 27, 48)),
        ("Cosmos3-Nano", ClipShape(189, 1280, 720, 24), (48, 23, 40)),
    ],
)
def test_tokens_stand_in_the_published_grid(name, shape, grid):
    assert token_grid(model(name), shape) == grid


def test_attention_is_two_thirds_of_the_large_shape():
    counted = pass_flops(model(SEVEN), HERO)
    assert counted.attention / counted.total == pytest.approx(0.66, abs=0.01)


def test_sparse_attention_saves_attention_alone():
    dense = pass_flops(model(SEVEN), HERO)
    sparse = pass_flops(model(SEVEN), HERO, density=0.25)
    assert sparse.attention == dense.attention / 4
    assert sparse.linears == dense.linears


def test_a_batch_counts_every_clip():
    one, two = (pass_flops(model(SEVEN), HERO, batch_size=size) for size in (1, 2))
    assert two.total == 2 * one.total


def test_a_pass_has_a_floor():
    floor_s = pass_flops(model(SEVEN), HERO).floor_s(linears_tflops=790, attention_tflops=790)
    assert floor_s == pytest.approx(2.80, abs=0.01)


def test_cosmos3_has_its_text_among_the_keys():
    nano = pass_flops(model("Cosmos3-Nano"), ClipShape(189, 1280, 720, 24))
    assert nano.linears == pytest.approx(
        36 * 2 * 44160 * (2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 12288)
    )
