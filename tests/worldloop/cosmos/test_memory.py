import pytest

from worldloop.cosmos.families import ClipShape
from worldloop.cosmos.memory import (
    GPU_SIZES_GB,
    PARTS,
    PUBLISHED,
    choose_offload,
    estimate,
    plan_offload,
    smallest_gpu_gb,
    usable_gb,
)
from worldloop.cosmos.models import MODELS, model
from worldloop.errors import MalformedRecordError

HERO = ClipShape(121, 1280, 704, 24)
# GB of the guides: offload the first part, the first two, ... of PARTS; None stands for "> 80.0 GB"
TABLE = {
    "Cosmos-1.0-Diffusion-7B-Text2World": (74.0, 57.1, 38.5, 38.3, 24.4),
    "Cosmos-1.0-Diffusion-14B-Text2World": (None, 70.5, 51.9, 51.7, 39.0),
    "Cosmos-1.0-Diffusion-7B-Video2World": (76.5, 59.9, 41.3, 41.1, 27.3),
    "Cosmos-1.0-Diffusion-14B-Video2World": (None, 73.3, 54.8, 54.5, 39.0),
}
ROWS = [(name, number, gb) for name, row in TABLE.items() for number, gb in enumerate(row, start=1)]
PUBLISHED_MODELS = [name for name, one in MODELS.items() if not one.tiny]


@pytest.mark.parametrize(("name", "number", "gb"), ROWS)
def test_the_published_rows_are_met_within_5_percent(name, number, gb):
    need = estimate(
        model(name),
        HERO,
        offloaded=frozenset(PARTS[:number]),
        upsampler=True,
        stack=PUBLISHED,
    )

    if gb is None:
        assert need.peak_gb > 80.0
    else:
        assert need.peak_gb == pytest.approx(gb, rel=0.05)


@pytest.mark.parametrize(
    ("name", "shape", "phase", "gib"),
    [
        ("Cosmos-1.0-Diffusion-7B-Text2World", HERO, "denoise", 19.6),
        ("Cosmos-1.0-Diffusion-7B-Text2World", HERO, "decode", 30.5),
        ("Cosmos-Predict2-2B-Video2World", ClipShape(93, 1280, 704, 16), "denoise", 7.7),
        ("Cosmos-Predict2-2B-Video2World", ClipShape(93, 768, 432, 16), "denoise", 5.2),
        ("Cosmos-Predict2-2B-Video2World", ClipShape(93, 1280, 704, 16), "decode", 10.7),
    ],
)
def test_peaks_measured_on_an_h200_are_met_within_10_percent(name, shape, phase, gib):
    need = estimate(model(name), shape, offloaded=frozenset(PARTS))

    assert need.phases_gb[phase] == pytest.approx(gib * 2**30 / 1e9, rel=0.10)


@pytest.mark.parametrize("name", PUBLISHED_MODELS)
@pytest.mark.parametrize("upsampler", [False, True])
def test_less_memory_never_offloads_less(name, upsampler):
    one, before = model(name), frozenset()
    for size in sorted(GPU_SIZES_GB, reverse=True):
        plan = plan_offload(one, one.default_shape, size, upsampler=upsampler)
        assert plan.offload >= before
        before = plan.offload


@pytest.mark.parametrize("name", PUBLISHED_MODELS)
def test_a_plan_that_fits_stays_within_the_card(name):
    one = model(name)
    size = smallest_gpu_gb(one, one.default_shape)

    plan = choose_offload(one, one.default_shape, size)
    assert plan.peak_gb <= usable_gb(size)
    smaller = [other for other in GPU_SIZES_GB if other < size]
    assert not any(plan_offload(one, one.default_shape, other).fits for other in smaller)


def test_7b_fits_24_gb_with_everything_offloaded_and_a_chunked_decode():
    plan = choose_offload(model("Cosmos-1.0-Diffusion-7B-Text2World"), HERO, 24)

    assert plan.offload == set(PARTS) - {"prompt_upsampler"}
    assert (plan.chunked_decode, plan.frames_per_chunk) == (True, 4)
    assert plan.title.endswith("decode in chunks")


def test_what_does_not_fit_names_a_card_and_a_smaller_model():
    with pytest.raises(MalformedRecordError) as caught:
        choose_offload(model("Cosmos-1.0-Diffusion-14B-Text2World"), HERO, 24)

    assert "found '24 GB'" in str(caught.value)
    assert "Use a GPU of 40 GB, or the model Cosmos-1.0-Diffusion-7B-Text2World" in str(
        caught.value
    )


def test_a_card_that_is_too_small_for_all_names_no_model():
    with pytest.raises(MalformedRecordError, match=r"Use a GPU of \d+ GB\.$"):
        choose_offload(model("Cosmos3-Edge"), ClipShape(121, 832, 480, 24), 2)


def test_a_large_card_keeps_everything():
    plan = choose_offload(model("Cosmos-1.0-Diffusion-7B-Text2World"), HERO, 141)

    assert (plan.offload, plan.chunked_decode, plan.title) == (
        frozenset(),
        False,
        "all parts stay",
    )


def test_offloading_a_part_never_needs_more():
    one = model("Cosmos-1.0-Diffusion-7B-Video2World")
    peaks = [
        round(estimate(one, HERO, offloaded=frozenset(PARTS[:number]), upsampler=True).peak_gb, 6)
        for number in range(len(PARTS) + 1)
    ]

    assert peaks == sorted(peaks, reverse=True)


def test_a_larger_batch_and_a_larger_shape_need_more():
    one = model("Cosmos-Predict2-2B-Video2World")
    small, large = ClipShape(61, 320, 192, 16), ClipShape(93, 1280, 704, 16)

    assert (
        estimate(one, small, batch_size=8).phases_gb["denoise"]
        > (estimate(one, small).phases_gb["denoise"])
    )
    assert estimate(one, large).phases_gb["decode"] > estimate(one, small).phases_gb["decode"]


def test_cosmos3_has_no_text_encoder():
    need = estimate(model("Cosmos3-Nano"), ClipShape(189, 1280, 720, 24))

    assert "text_encoder" not in need.weights_gb
    assert "encode" not in need.phases_gb


def test_fp8_halves_the_transformer():
    one = model("Cosmos-1.0-Diffusion-7B-Text2World")

    need, fp8 = estimate(one, HERO), estimate(one, HERO, fp8=True)
    assert fp8.weights_gb["transformer"] < 0.6 * need.weights_gb["transformer"]
