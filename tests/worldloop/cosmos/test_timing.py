from dataclasses import replace

import pytest

from worldloop.cosmos.families import ClipShape
from worldloop.cosmos.models import model
from worldloop.cosmos.outlook import outlook
from worldloop.cosmos.profiles import PROFILES
from worldloop.cosmos.timing import (
    GPUS,
    flops_per_forward,
    forward_s,
    gpu,
    gpu_of_size,
    seconds_per_clip,
)
from worldloop.errors import UnknownKeyError

SEVEN, TWO = "Cosmos-1.0-Diffusion-7B-Text2World", "Cosmos-Predict2-2B-Video2World"
EXACT, FAST, SPARSE = PROFILES["exact"], PROFILES["fast"], PROFILES["sparse"]
COMPILED = replace(FAST, linears="native")
# ms of one pass measured on one H200: model, frames, width, height, profile, dense, ms
PASSES = [
    (SEVEN, 121, 1280, 704, EXACT, True, 4297),
    (SEVEN, 121, 1280, 704, COMPILED, True, 3647),
    (SEVEN, 121, 1280, 704, FAST, True, 3171),
    (SEVEN, 121, 1280, 704, replace(SPARSE, density=0.33), False, 1970),
    (SEVEN, 121, 1280, 704, replace(SPARSE, density=0.17), False, 1399),
    (TWO, 93, 1280, 704, EXACT, True, 3745),
    (TWO, 93, 1280, 704, FAST, True, 3059),
    (TWO, 93, 768, 432, EXACT, True, 765),
    (TWO, 93, 768, 432, COMPILED, True, 566),
    (TWO, 93, 768, 432, FAST, True, 515),
    (TWO, 61, 432, 240, EXACT, True, 109),
    (TWO, 61, 432, 240, FAST, True, 52),
]


@pytest.mark.parametrize(("name", "frames", "width", "height", "profile", "dense", "ms"), PASSES)
def test_measured_passes_are_met_within_8_percent(name, frames, width, height, profile, dense, ms):
    shape = ClipShape(frames, width, height, 16)

    assert forward_s(model(name), shape, profile, dense=dense) * 1e3 == pytest.approx(ms, rel=0.08)


@pytest.mark.parametrize(
    ("name", "shape", "peta"),
    [
        (SEVEN, ClipShape(121, 1280, 704, 24), 2.209),
        (TWO, ClipShape(93, 1280, 704, 16), 1.925),
        (TWO, ClipShape(93, 768, 432, 16), 0.328),
        (TWO, ClipShape(61, 432, 240, 16), 0.0317),
    ],
)
def test_arithmetic_is_that_of_the_real_networks(name, shape, peta):
    assert sum(flops_per_forward(model(name), shape)) / 1e15 == pytest.approx(peta, rel=0.002)


@pytest.mark.parametrize(
    ("name", "published_s"),
    # diffusers on one H200, from inference_benchmarks.md of NVIDIA/cosmos, commit aca7057
    [("Cosmos3-Nano", 239.6)],
)
def test_a_model_that_was_not_measured_is_near_what_is_published(name, published_s):
    one = model(name)

    time = seconds_per_clip(one, one.default_shape, EXACT)
    assert time.total_s == pytest.approx(published_s, rel=0.15)


def test_guidance_doubles_the_passes_and_profiles_save_some():
    one = model(SEVEN)
    exact, cached = (
        seconds_per_clip(one, one.default_shape, profile) for profile in (EXACT, PROFILES["cached"])
    )

    assert exact.num_forwards == 72  # 35 steps and the last pass of RES, twice each
    assert cached.num_forwards < 45
    assert cached.total_s < exact.total_s / 3


def test_a_distilled_model_takes_four_passes():
    one = model("Cosmos3-Super-Image2Video-4Step")

    assert seconds_per_clip(one, one.default_shape, EXACT).num_forwards == 4


def test_another_card_is_scaled_and_marked():
    one = model(TWO)
    here = seconds_per_clip(one, one.default_shape, FAST)
    there = seconds_per_clip(one, one.default_shape, FAST, on=gpu("RTX 4090"))

    assert (here.estimated, there.estimated) == (False, True)
    assert there.total_s / here.total_s == pytest.approx(989 / 165, rel=0.02)


def test_a_card_without_fp8_gets_no_speed_from_it():
    one, a100 = model(TWO), GPUS["A100"]

    assert forward_s(one, one.default_shape, FAST, on=a100) == pytest.approx(
        forward_s(one, one.default_shape, COMPILED, on=a100)
    )


def test_a_card_is_found_by_the_drivers_name():
    assert gpu("NVIDIA H100 80GB HBM3").name == "H100"
    assert [gpu_of_size(size).name for size in (8, 24, 80, 141)] == [
        "RTX 4090",
        "RTX 4090",
        "H100",
        "H200",
    ]
    with pytest.raises(UnknownKeyError):
        gpu("Voodoo 2")


def test_the_outlook_has_every_published_model_and_says_what_is_missing():
    rows = outlook(replace(gpu("RTX 4090"), memory_gb=24.0))
    by_model = {row.model.name: row for row in rows if not row.tier}

    assert by_model[SEVEN].runs
    assert by_model[SEVEN].seconds["exact"].estimated
    assert not by_model["Cosmos-1.0-Diffusion-14B-Text2World"].runs
    assert by_model["Cosmos-1.0-Diffusion-14B-Text2World"].needs_gb == 40
    assert any(row.tier == "draft" and row.model.name == TWO for row in rows)
