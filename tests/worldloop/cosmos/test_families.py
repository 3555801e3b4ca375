import hashlib

import pytest

from worldloop.cosmos.families import FAMILIES, ClipShape, family
from worldloop.errors import UnknownKeyError

KEYS = ["cosmos1", "predict1", "predict2", "predict2.5", "transfer2.5", "cosmos3"]


def test_every_line_is_a_family():
    assert list(FAMILIES) == KEYS
    assert all(FAMILIES[key].key == key for key in KEYS)


def test_cosmos_1_has_the_defaults_of_its_guide():
    it = family("cosmos1")

    assert it.shape == ClipShape(num_frames=121, width_px=1280, height_px=704, rate_fps=24)
    assert (it.num_steps, it.guidance, it.seed) == (35, 7.0, 1)
    assert it.samplers == ("res", "edm_euler")
    assert it.rate_fps == (12, 40)
    assert it.frame_counts == (121,)
    assert it.word_limit_to_skip_upsampler == 250
    assert it.conditioning_frames == (1, 9)
    assert set(it.sizes_px) == {(960, 960), (960, 704), (704, 960), (1280, 704), (704, 1280)}


def test_the_negative_prompt_is_the_whole_one():
    text = family("cosmos1").negative_prompt

    assert text.startswith("The video captures a series of frames showing ugly scenes, static")
    assert text.endswith("Overall, the video is of poor quality.")
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "6d7ca93077e7e4a8"  # of the guide's


@pytest.mark.parametrize("key", KEYS)
def test_only_png_jpg_and_jpeg_are_pictures(key):
    assert family(key).picture_types == (".png", ".jpg", ".jpeg")


@pytest.mark.parametrize("key", KEYS)
def test_a_family_says_what_becomes_of_other_media(key):
    it = family(key)

    assert all(text.endswith(".") for text in (it.long_video, it.short_video, it.other_size))
    assert set(it.conditioning_frames) <= {1, 5, 9}


@pytest.mark.parametrize("key", KEYS)
def test_the_default_shape_is_legal(key):
    it = family(key)

    assert (it.shape.num_frames - 1) % it.frame_stride == 0
    assert it.shape.width_px % it.multiple_px == it.shape.height_px % it.multiple_px == 0
    assert it.rate_fps[0] <= it.shape.rate_fps <= it.rate_fps[1]


def test_guards_are_required_up_to_predict1_only():
    required = [key for key in KEYS if family(key).guardrail == "required"]

    assert required == ["cosmos1", "predict1"]


def test_an_unknown_family_is_named():
    with pytest.raises(UnknownKeyError, match="Did you mean 'cosmos3'"):
        family("cosmos33")


def test_a_shape_knows_its_duration():
    assert ClipShape(121, 64, 64, 24).duration_s == pytest.approx(5.0417, abs=1e-4)
