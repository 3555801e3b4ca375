import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpu_jobs.cosmos_generate.backends.extension import (
    Generation,
    Part,
    extend,
    part_seed,
    parts,
)
from gpu_jobs.cosmos_generate.protocol import Decoded, DenoiseOptions, Media
from tests.gpu_jobs.cosmos_generate.tiny_worlds import (
    NEGATIVE,
    PROMPT,
    load_tiny,
    picture_frames,
    request,
)
from worldloop.cosmos.families import ClipShape
from worldloop.cosmos.models import model
from worldloop.errors import MalformedRecordError

VIDEO, TEXT = "Tiny-Cosmos-1.0-Video2World", "Tiny-Cosmos-1.0-Text2World"
CLIP = ClipShape(17, 32, 32, 24)


class Counting:
    """Stands for a loaded model; its clips number their frames on from the given ones."""

    def __init__(self, name=VIDEO):
        self.model = model(name)
        self.asked = []

    def __call__(self, request, media):
        self.asked.append((request.seed, len(media.frames)))
        first = int(media.frames[0, 0, 0, 0])
        numbers = np.arange(first, first + CLIP.num_frames, dtype=np.uint8)
        return Decoded(frames=np.tile(numbers[:, None, None, None], (1, 2, 2, 3)))


def extended(world, *, total_frames, overlap_frames=9, frames=None):
    given = np.zeros((1, 2, 2, 3), np.uint8) if frames is None else frames
    return extend(
        world.model,
        request(3),
        Media(frames=given),
        generate=world,
        clip_frames=CLIP.num_frames,
        total_frames=total_frames,
        overlap_frames=overlap_frames,
    )


@settings(deadline=None)  # machines are shared
@given(st.integers(1, 400), st.integers(2, 60), st.data())
def test_parts_fill_the_length_without_gap_or_repetition(total, clip, data):
    overlap = data.draw(st.integers(1, clip - 1))
    plan = parts(total, clip_frames=clip, overlap_frames=overlap)
    assert [part.start for part in plan] == [
        sum(part.num_new_frames for part in plan[:i]) for i in range(len(plan))
    ]
    assert sum(part.num_new_frames for part in plan) == total
    assert plan[0].num_new_frames <= clip
    assert all(0 < part.num_new_frames <= clip - overlap for part in plan[1:])


def test_a_short_video_is_one_part():
    assert parts(100, clip_frames=121, overlap_frames=9) == [Part(0, 100)]


@pytest.mark.parametrize("total_frames", [9, 17, 25, 40, 41])
def test_the_overlap_is_not_repeated_and_the_length_is_exact(total_frames):
    frames = extended(Counting(), total_frames=total_frames).frames
    np.testing.assert_array_equal(frames[:, 0, 0, 0], np.arange(total_frames))


def test_each_part_goes_on_from_the_last_frames_with_a_seed_of_its_own():
    world = Counting()
    extended(world, total_frames=33)
    seeds, counts = zip(*world.asked, strict=True)
    assert counts == (1, 9, 9)
    assert seeds == tuple(part_seed(3, part) for part in range(3))
    assert (len(set(seeds)), seeds[0]) == (3, 3)


def test_a_model_without_video_conditioning_is_refused():
    with pytest.raises(MalformedRecordError, match="text2world model, which takes no conditioning"):
        extended(Counting(TEXT), total_frames=33)


def test_an_overlap_that_the_family_does_not_take_is_refused():
    with pytest.raises(MalformedRecordError, match=r"found 5, expected one of \(1, 9\)"):
        extended(Counting(), total_frames=33, overlap_frames=5)


def test_an_overlap_that_leaves_nothing_new_is_refused():
    with pytest.raises(MalformedRecordError, match="1 to 8 frames"):
        parts(100, clip_frames=9, overlap_frames=9)


def test_a_tiny_model_makes_a_long_video(tmp_path):
    world = load_tiny(VIDEO, tmp_path)
    generation = Generation(
        world_model=world,
        embedding=world.encode(PROMPT, NEGATIVE),
        options=DenoiseOptions(CLIP, 1, 7.0, "res"),
        device="cpu",
    )
    asked = {"generate": generation, "clip_frames": 17}
    given = Media(frames=picture_frames(1, shape=CLIP))
    clip = extend(world.model, request(), given, total_frames=30, overlap_frames=9, **asked)
    assert clip.frames.shape == (30, 32, 32, 3)
    first = generation(request(), given)
    np.testing.assert_array_equal(clip.frames[:17], first.frames)
