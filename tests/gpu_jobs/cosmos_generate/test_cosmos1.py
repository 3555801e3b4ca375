import numpy as np
import pytest

from gpu_jobs.cosmos_generate.protocol import DenoiseOptions, Media
from tests.gpu_jobs.cosmos_generate.tiny_worlds import (
    NEGATIVE,
    PROMPT,
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

LONGER = ClipShape(17, 64, 48, 24)
TEXT, VIDEO = "Tiny-Cosmos-1.0-Text2World", "Tiny-Cosmos-1.0-Video2World"


@pytest.fixture(scope="module")
def text2world(checkpoint_dir):
    return load_tiny(TEXT, checkpoint_dir)


@pytest.fixture(scope="module")
def video2world(checkpoint_dir):
    return load_tiny(VIDEO, checkpoint_dir)


@pytest.mark.parametrize("guidance", [7.0, 1.0])
def test_text2world_equals_diffusers_bit_for_bit(text2world, checkpoint_dir, guidance):
    latents, clips = denoise(text2world, [request()], sampler="edm_euler", guidance=guidance)
    expected, frames = diffusers_run(
        checkpoint_dir / TEXT,
        num_frames=9,
        fps=24,
        num_inference_steps=3,
        guidance_scale=guidance,
    )
    np.testing.assert_array_equal(latents, expected)
    np.testing.assert_array_equal(clips[0], frames[0])


@pytest.mark.parametrize("num_frames", [1, 9])
def test_video2world_equals_diffusers_bit_for_bit(video2world, checkpoint_dir, num_frames):
    frames, shape = picture_frames(num_frames), LONGER
    latents, clips = denoise(
        video2world, [request()], frames=frames, sampler="edm_euler", shape=shape
    )
    expected, made = diffusers_run(
        checkpoint_dir / VIDEO, frames=frames, num_frames=17, fps=24, num_inference_steps=3
    )
    np.testing.assert_array_equal(latents, expected)
    np.testing.assert_array_equal(clips[0], made[0])


def test_a_batch_equals_the_batch_of_diffusers_bit_for_bit(text2world, checkpoint_dir):
    latents, clips = denoise(text2world, [request(3), request(4)], sampler="edm_euler")
    expected, frames = diffusers_run(
        checkpoint_dir / TEXT, seeds=(3, 4), num_frames=9, fps=24, num_inference_steps=3
    )
    np.testing.assert_array_equal(latents, expected)
    np.testing.assert_allclose(np.stack(clips).astype(int), frames, atol=1)  # decoded one by one


@pytest.mark.parametrize("extra", [{"input_frames_guidance": True}, {"augment_sigma": 1.0}])
def test_settings_of_given_frames_equal_those_of_diffusers(video2world, checkpoint_dir, extra):
    frames = picture_frames(1)
    latents, _ = denoise(
        video2world, [request()], frames=frames, sampler="edm_euler", extra=extra, num_steps=5
    )
    expected, _ = diffusers_run(
        checkpoint_dir / VIDEO, frames=frames, num_frames=9, fps=24, num_inference_steps=5, **extra
    )
    np.testing.assert_array_equal(latents, expected)


def test_it_equals_diffusers_in_bfloat16_too(text2world, checkpoint_dir):
    world = load_tiny(TEXT, checkpoint_dir, dtype="bfloat16")
    latents, clips = denoise(world, [request()], sampler="edm_euler")
    expected, frames = diffusers_run(
        checkpoint_dir / TEXT, dtype="bfloat16", num_frames=9, fps=24, num_inference_steps=3
    )
    np.testing.assert_array_equal(latents, expected)
    np.testing.assert_array_equal(clips[0], frames[0])


@pytest.mark.parametrize("sampler", ["res", "edm_euler"])
def test_a_clip_of_a_batch_is_near_the_one_made_alone(video2world, sampler):
    asked = {"frames": picture_frames(9), "sampler": sampler, "shape": LONGER}
    together, _ = denoise(video2world, [request(3), request(4)], **asked)
    alone, _ = denoise(video2world, [request(4)], **asked)
    assert not np.allclose(together[0], alone[0], atol=1e-2)  # another seed, another clip
    np.testing.assert_allclose(together[1], alone[0], atol=1e-4, rtol=1e-4)


def test_given_frames_stand_at_the_start_of_the_clip(video2world):
    frames = picture_frames(1)
    latents, _ = denoise(video2world, [request()], frames=frames)
    given = video2world._frames(
        frames[None],
        DenoiseOptions(SHAPE, 3, 7.0, "res"),
        [],
        _scheduler(video2world),
        device="cpu",
    )
    np.testing.assert_allclose(latents[:, :, :1], given.clean[:, :, :1], atol=1e-6)
    assert not np.allclose(latents[:, :, 1:], given.clean[:, :, 1:], atol=1e-2)


def test_steps_without_guidance_run_one_pass(text2world):
    policy = CountingPolicy(unguided=(1,))
    denoise(text2world, [request()], policy=policy, num_steps=2)
    assert policy.passes == ["cond", "uncond", "cond", "cond", "uncond"]


def test_skipping_guidance_leaves_the_noise_of_later_passes_alone(video2world):
    frames, policy = picture_frames(1), CountingPolicy(unguided=(0,))
    drawn = []
    for used in (CountingPolicy(), policy):
        options = DenoiseOptions(SHAPE, 2, 7.0, "edm_euler", policy=used)
        stand = video2world.begin(
            [request()],
            [video2world.encode(PROMPT, NEGATIVE)],
            options,
            device="cpu",
            media=[Media(frames=frames)],
        )
        stand.step(0)
        drawn.append(stand.denoiser.frames.draw())
    np.testing.assert_array_equal(*drawn)


def test_the_default_sampler_has_one_pass_more_than_steps(text2world):
    policy = CountingPolicy()
    denoise(text2world, [request()], policy=policy, num_steps=4, sampler="res")
    assert policy.passes.count("cond") == 5


def test_a_prompt_over_the_limit_is_an_error_with_its_length(text2world):
    with pytest.raises(MalformedRecordError, match=r"601 tokens.*at most 512"):
        text2world.encode("zq " * 600, NEGATIVE)


def test_embeddings_are_on_the_cpu_without_a_batch_axis_and_zero_after_the_end(text2world):
    embedding = text2world.encode(PROMPT, NEGATIVE)
    assert embedding.cond.shape == (512, 32)
    assert embedding.cond.device.type == "cpu"
    assert embedding.cond[0].any()
    assert not embedding.cond[100:].any()


def test_latents_that_are_not_numbers_stop_one_clip(text2world):
    latents, _ = denoise(text2world, [request(3), request(4)])
    latents[0, 0, 0, 0, 0] = float("nan")
    options = DenoiseOptions(SHAPE, 3, 7.0, "res")
    with pytest.raises(ClipRejectedError, match=r"clip3.*NaN") as caught:
        text2world.decode(latents[0], request(3), options)
    assert caught.value.stage == "denoise"
    assert text2world.decode(latents[1], request(4), options).frames.shape == (9, 48, 64, 3)


def test_an_unknown_sampler_is_named(text2world):
    with pytest.raises(UnknownKeyError, match="ddim"):
        denoise(text2world, [request()], sampler="ddim")


def test_video2world_needs_a_legal_number_of_frames(video2world):
    with pytest.raises(MalformedRecordError, match=r"clips with \[0\] frames"):
        denoise(video2world, [request()])
    with pytest.raises(MalformedRecordError, match=r"one of \(1, 9\)"):
        denoise(video2world, [request()], frames=picture_frames(5))


def test_weights_of_another_task_are_refused(checkpoint_dir, text2world, video2world):
    with pytest.raises(
        MalformedRecordError, match=r"17 input channels.*expected.*16 input channels"
    ):
        load_tiny(TEXT, checkpoint_dir, transformer_dir=VIDEO)


def test_a_missing_folder_says_how_to_get_it(tmp_path):
    from gpu_jobs.cosmos_generate.backends.registry import load_model
    from worldloop.cosmos.models import model

    name = "Cosmos-1.0-Diffusion-7B-Text2World"
    with pytest.raises(MalformedRecordError, match=f"worldloop models download {name}"):
        load_model(model(name), tmp_path, dtype="bfloat16", device="cpu")


def _scheduler(world):
    return world.scheduler()
