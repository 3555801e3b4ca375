import numpy as np
import pytest

from gpu_jobs.cosmos_generate.protocol import DenoiseOptions
from tests.gpu_jobs.cosmos_generate.tiny_worlds import (
    SHAPE,
    CountingPolicy,
    denoise,
    diffusers_run,
    load_tiny,
    picture_frames,
    request,
)
from worldloop.cosmos.families import ClipShape
from worldloop.errors import ClipRejectedError, MalformedRecordError, UnknownKeyError

PICTURE = ClipShape(1, 64, 48, 16)
IMAGE, VIDEO = "Tiny-Cosmos-Predict2-Text2Image", "Tiny-Cosmos-Predict2-Video2World"

# diffusers hands a tensor to numpy, which warns of a signature of torch's
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy")


@pytest.fixture(scope="module")
def text2image(checkpoint_dir):
    return load_tiny(IMAGE, checkpoint_dir)


@pytest.fixture(scope="module")
def video2world(checkpoint_dir):
    return load_tiny(VIDEO, checkpoint_dir)


@pytest.mark.parametrize("guidance", [7.0, 1.0])
def test_text2image_equals_diffusers_bit_for_bit(text2image, checkpoint_dir, guidance):
    latents, clips = denoise(
        text2image, [request()], sampler="flow_euler", shape=PICTURE, guidance=guidance
    )
    expected, pictures = diffusers_run(
        checkpoint_dir / IMAGE, num_inference_steps=3, guidance_scale=guidance
    )
    np.testing.assert_array_equal(latents[:, :, 0], expected)
    np.testing.assert_array_equal(clips[0][0], pictures[0])


@pytest.mark.parametrize("num_frames", [1, 5])
@pytest.mark.parametrize("guidance", [7.0, 1.0])
def test_video2world_equals_diffusers_bit_for_bit(
    video2world, checkpoint_dir, num_frames, guidance
):
    frames = picture_frames(num_frames)
    latents, clips = denoise(
        video2world, [request()], frames=frames, sampler="flow_euler", guidance=guidance
    )
    expected, made = diffusers_run(
        checkpoint_dir / VIDEO,
        frames=frames,
        num_frames=9,
        fps=24,
        num_inference_steps=3,
        guidance_scale=guidance,
    )
    np.testing.assert_array_equal(latents, expected)
    np.testing.assert_array_equal(clips[0], made[0])


@pytest.mark.parametrize(("name", "shape"), [(IMAGE, PICTURE), (VIDEO, SHAPE)])
def test_it_equals_diffusers_in_bfloat16_too(checkpoint_dir, name, shape):
    world = load_tiny(name, checkpoint_dir, dtype="bfloat16")
    frames = picture_frames(1) if name == VIDEO else None
    asked = {"num_frames": 9, "fps": 24} if name == VIDEO else {}
    latents, clips = denoise(world, [request()], sampler="flow_euler", shape=shape, frames=frames)
    expected, made = diffusers_run(
        checkpoint_dir / name, frames=frames, dtype="bfloat16", num_inference_steps=3, **asked
    )
    np.testing.assert_array_equal(latents.reshape(expected.shape), expected)
    np.testing.assert_array_equal(clips[0].reshape(made[0].shape), made[0])


@pytest.mark.parametrize("sampler", ["flow_euler", "res"])
def test_a_clip_of_a_batch_is_near_the_one_made_alone(video2world, sampler):
    asked = {"frames": picture_frames(5), "sampler": sampler}
    together, _ = denoise(video2world, [request(3), request(4)], **asked)
    alone, _ = denoise(video2world, [request(4)], **asked)
    assert not np.allclose(together[0], alone[0], atol=1e-2)  # another seed, another clip
    np.testing.assert_allclose(together[1], alone[0], atol=1e-4, rtol=1e-4)


def test_the_makers_sampler_keeps_given_frames_exactly(video2world):
    asked = {"frames": picture_frames(1), "sampler": "res"}
    first, _ = denoise(video2world, [request(3)], **asked)
    second, _ = denoise(video2world, [request(4)], **asked)
    np.testing.assert_array_equal(first[:, :, :1], second[:, :, :1])
    assert not np.allclose(first[:, :, 1:], second[:, :, 1:], atol=1e-2)


def test_steps_without_guidance_run_one_pass(video2world):
    policy = CountingPolicy(unguided=(1,))
    denoise(
        video2world,
        [request()],
        frames=picture_frames(1),
        policy=policy,
        num_steps=2,
        sampler="flow_euler",
    )
    assert policy.passes == ["cond", "uncond", "cond"]


def test_a_picture_has_one_frame(text2image):
    with pytest.raises(MalformedRecordError, match=r"9 frames.*expected 1 frame"):
        denoise(text2image, [request()], sampler="flow_euler")


def test_video2world_needs_a_legal_number_of_frames(video2world):
    with pytest.raises(MalformedRecordError, match=r"clips with \[2\] frames.*one of \(1, 5\)"):
        denoise(video2world, [request()], frames=picture_frames(2), sampler="flow_euler")


def test_an_unknown_sampler_is_named(text2image):
    with pytest.raises(UnknownKeyError, match="edm_euler"):
        denoise(text2image, [request()], sampler="edm_euler", shape=PICTURE)


def test_a_prompt_over_the_limit_is_an_error_with_its_length(text2image):
    with pytest.raises(MalformedRecordError, match=r"negative prompt: found '601 tokens'"):
        text2image.encode("zq", "zq " * 600)


def test_latents_that_are_not_numbers_stop_the_clip(text2image):
    latents, _ = denoise(text2image, [request()], sampler="flow_euler", shape=PICTURE)
    options = DenoiseOptions(PICTURE, 3, 7.0, "flow_euler")
    with pytest.raises(ClipRejectedError, match="NaN"):
        text2image.decode(latents[0] / 0.0 * 0.0, request(), options)


def test_weights_of_cosmos1_are_refused(checkpoint_dir, tmp_path):
    from gpu_jobs.cosmos_generate.tiny import write_tiny_checkpoint

    other = write_tiny_checkpoint("Tiny-Cosmos-1.0-Text2World", tmp_path)
    other.rename(tmp_path / IMAGE)
    with pytest.raises(MalformedRecordError, match="'CosmosTextToWorldPipeline'"):
        load_tiny(IMAGE, tmp_path)
