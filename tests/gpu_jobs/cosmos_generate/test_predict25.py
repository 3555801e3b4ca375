"""Predict2.5 beside the diffusers pipeline, from the same folder at the same seed."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from gpu_jobs.common.torch_ops import import_diffusers
from gpu_jobs.cosmos_generate.protocol import DenoiseOptions, Media, Plain
from worldloop.cosmos.families import ClipShape
from worldloop.cosmos.models import model
from worldloop.cosmos.requests import ClipRequest
from worldloop.errors import ClipRejectedError, MalformedRecordError, UnknownKeyError

# diffusers' own pipeline hands a tensor to numpy.array when it makes its schedule
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
NAME = "Tiny-Cosmos-Predict2.5"
SHAPE = ClipShape(9, 64, 32, 16)
PROMPT, NEGATIVE = "A teal robot waves.", "blurry"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from gpu_jobs.cosmos_generate.tiny.predict25 import write_tiny

    folder = tmp_path_factory.mktemp("checkpoints")
    write_tiny(folder / NAME)
    return folder


@pytest.fixture(scope="module")
def world(checkpoints: Path):
    import torch

    from gpu_jobs.cosmos_generate.backends.predict25 import load

    return load(model(NAME), checkpoints, dtype=torch.float32, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def pipeline(checkpoints: Path, monkeypatch_module):
    from gpu_jobs.cosmos_generate.tiny.predict25 import PassAll

    diffusers = import_diffusers()
    from diffusers.pipelines.cosmos import pipeline_cosmos2_5_predict as module

    monkeypatch_module.setattr(module, "CosmosSafetyChecker", PassAll)
    pipe = diffusers.Cosmos2_5_PredictBasePipeline.from_pretrained(
        checkpoints / NAME, safety_checker=PassAll()
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@dataclass
class Counting(Plain):
    passes: int = 0
    guide: bool = True

    def guided(self) -> bool:
        return self.guide

    def run(self, branch, forward):
        self.passes += 1
        return forward()


def made(world, *, media=None, shape=SHAPE, guidance=7.0, requests=None, policy=None):
    import torch

    requests = requests or [ClipRequest("a", PROMPT, seed=3)]
    media = media or [Media()] * len(requests)
    options = DenoiseOptions(shape, 2, guidance, "unipc", policy or Plain())
    embeddings = [world.encode(request.prompt, NEGATIVE) for request in requests]
    device = torch.device("cpu")
    denoising = world.begin(requests, embeddings, options, device=device, media=media)
    for index in range(denoising.num_steps):
        denoising.step(index)
    latents = denoising.latents()
    return latents, [world.decode(latents[i], r, options).frames for i, r in enumerate(requests)]


def reference(pipeline, *, shape=SHAPE, guidance=7.0, output="np", **inputs):
    import torch

    return pipeline(
        prompt=PROMPT,
        negative_prompt=NEGATIVE,
        height=shape.height_px,
        width=shape.width_px,
        num_frames=shape.num_frames,
        num_inference_steps=2,
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(3),
        output_type=output,
        **inputs,
    ).frames


def footage(count: int) -> np.ndarray:
    rng = np.random.default_rng(7)
    return rng.integers(0, 256, (count, SHAPE.height_px, SHAPE.width_px, 3), np.uint8)


def frames_of(video) -> np.ndarray:
    return (np.asarray(video[0]) * 255).round().astype(np.uint8)


def test_text_makes_the_frames_of_diffusers(world, pipeline) -> None:
    latents, frames = made(world)
    assert np.array_equal(latents, reference(pipeline, output="latent"))
    assert np.array_equal(frames[0], frames_of(reference(pipeline)))
    assert frames[0].std() > 1


def test_half_precision_makes_the_latents_of_diffusers(checkpoints: Path) -> None:
    import torch

    from gpu_jobs.cosmos_generate.backends.predict25 import load
    from gpu_jobs.cosmos_generate.tiny.predict25 import PassAll

    half = torch.bfloat16
    pipe = import_diffusers().Cosmos2_5_PredictBasePipeline.from_pretrained(
        checkpoints / NAME, safety_checker=PassAll(), dtype=half
    )
    pipe.set_progress_bar_config(disable=True)
    loaded = load(model(NAME), checkpoints, dtype=half, device=torch.device("cpu"))
    latents, _ = made(loaded)
    assert np.array_equal(latents, reference(pipe, output="latent"))


@pytest.mark.parametrize("count", [1, 5])
def test_video_conditions_as_in_diffusers(world, pipeline, count: int) -> None:
    from PIL import Image

    seen = footage(count)
    inputs = {
        "video": [Image.fromarray(frame) for frame in footage(count)],
        "num_latent_conditional_frames": (count - 1) // 4 + 1,
    }
    latents, frames = made(world, media=[Media(frames=seen)])
    assert np.array_equal(latents, reference(pipeline, output="latent", **inputs))
    assert np.array_equal(frames[0], frames_of(reference(pipeline, **inputs)))


def test_a_picture_conditions_as_in_diffusers(world, pipeline) -> None:
    from PIL import Image

    seen = footage(1)
    latents, _ = made(world, media=[Media(frames=seen)])
    expected = reference(pipeline, output="latent", image=Image.fromarray(seen[0]))
    assert np.array_equal(latents, expected)


def test_one_frame_is_a_picture(world, pipeline) -> None:
    shape = ClipShape(1, 64, 32, 16)
    _, frames = made(world, shape=shape)
    assert frames[0].shape == (1, 32, 64, 3)
    assert np.array_equal(frames[0], frames_of(reference(pipeline, shape=shape)))


def test_a_batch_makes_the_batch_of_diffusers(world, pipeline) -> None:
    import torch

    requests = [ClipRequest("a", PROMPT, seed=3), ClipRequest("b", "A red bus.", seed=4)]
    latents, _ = made(world, requests=requests)
    expected = pipeline(
        prompt=[PROMPT, "A red bus."],
        negative_prompt=[NEGATIVE, NEGATIVE],
        height=32,
        width=64,
        num_frames=9,
        num_inference_steps=2,
        generator=[torch.Generator().manual_seed(3), torch.Generator().manual_seed(4)],
        output_type="latent",
    ).frames
    assert np.array_equal(latents, expected)


def test_a_batch_may_mix_conditioned_and_free_clips(world) -> None:
    requests = [ClipRequest("a", PROMPT, seed=3), ClipRequest("b", PROMPT, seed=4)]
    media = [Media(frames=footage(5)), Media()]
    both, _ = made(world, requests=requests, media=media)
    for index in range(2):
        alone, _ = made(world, requests=[requests[index]], media=[media[index]])
        assert np.allclose(both[index], alone[0], atol=1e-4)


def test_passes_without_guidance_are_skipped(world, pipeline) -> None:
    never = Counting(guide=False)
    latents, _ = made(world, policy=never)
    assert never.passes == 2
    assert np.array_equal(latents, reference(pipeline, guidance=1.0, output="latent"))
    always = Counting()
    made(world, policy=always)
    assert always.passes == 4


def test_latents_that_are_no_numbers_are_refused(world) -> None:
    latents, _ = made(world)
    latents[0, 0, 0, 0, 0] = float("nan")
    options = DenoiseOptions(SHAPE, 2, 7.0, "unipc")
    with pytest.raises(ClipRejectedError, match="denoise: The latents of 'a' have NaN"):
        world.decode(latents[0], ClipRequest("a"), options)


def test_long_prompts_other_samplers_and_counts_are_refused(world) -> None:
    with pytest.raises(
        MalformedRecordError, match=r"prompt: found '\d+ tokens', expected at most 512"
    ):
        world.encode("word " * 200, NEGATIVE)
    with pytest.raises(UnknownKeyError, match="sampler"):
        world.check_sampler("res")
    with pytest.raises(MalformedRecordError, match=r"found '3 frames', expected one of \(1, 5\)"):
        made(world, media=[Media(frames=footage(3))])


def test_the_same_seed_writes_the_same_checkpoint(checkpoints: Path, tmp_path: Path) -> None:
    from gpu_jobs.cosmos_generate.tiny.predict25 import write_tiny

    write_tiny(tmp_path)
    for name in ("transformer/diffusion_pytorch_model.safetensors", "tokenizer/tokenizer.json"):
        assert (tmp_path / name).read_bytes() == (checkpoints / NAME / name).read_bytes()


def test_the_default_negative_prompt_fits(world) -> None:
    embedding = world.encode(PROMPT, world.family.negative_prompt)
    assert embedding.uncond.shape == embedding.cond.shape == (512, 32)
