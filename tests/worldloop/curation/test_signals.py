import numpy as np
import pytest

from tests.worldloop.curation.clips import canvas, encode, pan
from worldloop.curation.frames import read_frames
from worldloop.curation.signals import (
    ClipSignals,
    SignalPolicy,
    hash_distance,
    judge,
    measure_clip,
)
from worldloop.errors import MalformedRecordError


def soft(frame, *, radius_px=10):
    smooth = frame.astype(np.float32)
    for axis in (0, 1):
        shifts = range(-radius_px, radius_px + 1)
        smooth = sum(np.roll(smooth, shift, axis) for shift in shifts) / len(shifts)
    return smooth.astype(np.uint8)


def verdict(frames):
    return judge(measure_clip(encode(frames)), num_frames=len(frames))


@pytest.fixture(scope="module")
def steady() -> ClipSignals:
    return measure_clip(encode(pan(canvas(), step_px=2)))


@pytest.mark.parametrize("step_px", [1, 3, 8])
def test_motion_is_the_speed_of_a_pan_in_pixels(step_px):
    signals = measure_clip(encode(pan(canvas(), step_px=step_px)))
    assert signals.motion_mean_px == pytest.approx(step_px, rel=0.05)
    assert signals.motion_still_share == 0


def test_a_good_clip_is_accepted_without_a_reason(steady):
    assert judge(steady, num_frames=24) == (True, "")
    assert steady.num_cuts == 0


@pytest.mark.parametrize(
    "other", [canvas(3, hue=(0.3, 0.7, 1.0)), canvas(3)], ids=["colours", "layout"]
)
@pytest.mark.parametrize("cut_at", [1, 11, 23])
def test_a_cut_is_counted_once_and_rejected(other, cut_at):
    frames = pan(canvas())[:cut_at] + pan(other)[cut_at:]
    signals = measure_clip(encode(frames))
    assert signals.num_cuts == 1
    assert judge(signals, num_frames=24) == (False, "1 cuts inside the clip")


def test_a_fast_pan_with_many_keyframes_has_no_cut():
    assert measure_clip(encode(pan(canvas(), step_px=4), keyframe_every=4)).num_cuts == 0


def test_a_still_clip_is_rejected():
    accepted, reason = verdict(pan(canvas(), step_px=0))
    assert (accepted, reason) == (False, "still: 100% of steps do not move")


def test_a_blurred_clip_is_rejected(steady):
    frames = [soft(frame) for frame in pan(canvas())]
    assert measure_clip(encode(frames)).sharpness < steady.sharpness / 20
    assert verdict(frames)[1].startswith("blurred")


@pytest.mark.parametrize(("gain", "offset", "word"), [(0.02, 0, "dark"), (0.05, 243, "bright")])
def test_black_and_white_clips_are_rejected(gain, offset, word):
    frames = [(frame * gain + offset).astype(np.uint8) for frame in pan(canvas())]
    accepted, reason = verdict(frames)
    assert not accepted
    assert f"too {word}" in reason


def test_a_clip_of_another_length_is_rejected(steady):
    assert judge(steady, num_frames=25) == (False, "24 frames, not 25")


def test_a_policy_decides_what_is_enough(steady):
    strict = SignalPolicy(version="strict", sharpness_min=steady.sharpness + 1)
    assert not judge(steady, strict, num_frames=24)[0]


def test_a_reencoded_clip_has_nearly_the_same_hashes_and_another_clip_has_not(steady):
    coarse = measure_clip(encode(pan(canvas(), step_px=2), crf=36))
    other = measure_clip(encode(pan(canvas(9), step_px=2)))
    assert len(steady.phash) == 4
    assert hash_distance(steady.phash, coarse.phash) <= 3
    assert hash_distance(steady.phash, other.phash) > 20


def test_measuring_twice_gives_equal_signals(steady):
    assert measure_clip(encode(pan(canvas(), step_px=2))) == steady


@pytest.mark.parametrize("damage", [b"", b"no video", "cut short", "garbled"])
def test_a_broken_video_is_one_clear_error(damage):
    video = encode(pan(canvas()))
    if damage == "cut short":
        damage = video[: len(video) // 2]
    elif damage == "garbled":
        middle = len(video) // 3
        damage = video[:middle] + bytes(range(256)) * 4 + video[middle + 1024 :]
    with pytest.raises(MalformedRecordError, match="Render the clip again"):
        measure_clip(damage)


def test_a_codec_without_motion_vectors_is_refused():
    with pytest.raises(MalformedRecordError, match=r"expected H\.264"):
        measure_clip(encode(pan(canvas(), num_frames=3), codec="libx265"))


def test_frames_that_stand_for_a_clip_are_evenly_spaced():
    shades = [np.full((32, 32, 3), 10 * i, np.uint8) for i in range(24)]
    frames = read_frames(encode(shades), count=4)
    assert frames.shape == (4, 32, 32, 3)
    assert np.allclose(frames.mean(axis=(1, 2, 3)), [30, 90, 150, 210], atol=3)
