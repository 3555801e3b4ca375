"""Losses: what they take the clean latent for is what inference takes it for, with published noise levels."""

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch

from gpu_jobs.cosmos_generate.protocol import DenoiseOptions, Media
from gpu_jobs.cosmos_generate.tiny import write_tiny_checkpoint
from gpu_jobs.posttrain.base import BaseKey, Bases
from gpu_jobs.posttrain.objectives import (
    Batch,
    EdmObjective,
    Predict2Objective,
    Predict25Objective,
    noise_of,
    objective_of,
)
from tests.gpu_jobs.posttrain.tiny_footage import (
    PREDICT2,
    PREDICT25,
    SHAPE,
    TEXT2WORLD,
    VIDEO2WORLD,
    moving_square,
)
from worldloop.cosmos.models import model
from worldloop.cosmos.requests import ClipRequest
from worldloop.errors import MalformedRecordError

BASES = Bases(most=4)


class GivenNoise:
    """Noise that a test chose."""

    def __init__(self, **named):
        self.named = named

    def normal(self, name, like):
        return self.named[name]


def base_of(name, checkpoint_dir):
    write_tiny_checkpoint(name, checkpoint_dir)
    return BASES.get(BaseKey(name, str(checkpoint_dir), precision="fp32"))


def begun(base, *, given, sampler, index):
    """A batch of the backend with a latent of the footage at the noise of a step."""
    frames = moving_square(1, SHAPE.num_frames)
    clean = base.encode_frames(frames)[None]
    options = DenoiseOptions(SHAPE, 6, 0.0, sampler)
    embedding = base.world.encode("A street.", "static")
    denoising = base.world.begin(
        [ClipRequest("a", seed=3)],
        [embedding],
        options,
        device="cpu",
        media=[Media(frames=frames[:given] if given else None)],
    )
    batch = Batch(clean, embedding.cond[None], SHAPE, base.latent_frames([given]))
    return denoising, batch, torch.randn(clean.shape, generator=torch.Generator().manual_seed(4))


def estimate(base, question):
    with torch.no_grad():
        return question.estimate(base.transformer(**question.inputs)[0])


def close(found, expected):
    assert float((found - expected).norm() / expected.norm()) < 2e-5


@pytest.mark.parametrize(("name", "given"), [(TEXT2WORLD, 0), (VIDEO2WORLD, 1)])
def test_edm_takes_the_clean_latent_for_what_inference_does(checkpoint_dir, name, given):
    base = base_of(name, checkpoint_dir)
    denoising, batch, drawn = begun(base, given=given, sampler="res", index=3)
    denoiser, sigma = denoising.denoiser, denoising.sampler.sigmas[3]
    named = {"frames": denoiser.frames.noise} if given else {}
    question = base.objective.question_at(
        batch,
        sigma.view(1),
        torch.tensor([0.001]),
        GivenNoise(latent=drawn, **named),
        dtype=torch.float32,
    )
    with torch.no_grad():
        expected = denoiser.x0("cond", 3, batch.latent + sigma * drawn)
    close(estimate(base, question), expected)


def test_predict2_takes_the_clean_latent_for_what_inference_does(checkpoint_dir):
    base = base_of(PREDICT2, checkpoint_dir)
    denoising, batch, drawn = begun(base, given=1, sampler="res", index=3)
    sigma = denoising.sampler.sigmas[3]
    time_B = (sigma / (sigma + 1)).view(1)
    question = base.objective.question(batch, time_B, GivenNoise(latent=drawn), dtype=torch.float32)
    with torch.no_grad():
        expected = denoising.denoiser.x0("cond", 3, batch.latent + sigma * drawn)
    close(estimate(base, question), expected)


def test_predict25_answers_the_velocity_that_inference_follows(checkpoint_dir):
    base = base_of(PREDICT25, checkpoint_dir)
    denoising, batch, drawn = begun(base, given=1, sampler="unipc", index=2)
    time = denoising.schedule.sigmas[2]
    question = base.objective.question(
        batch, time.view(1), GivenNoise(latent=drawn), dtype=torch.float32
    )
    denoising.latent = (1 - time) * batch.latent + time * drawn
    indicator = batch.indicator()
    told = indicator * 0.0001 + (1 - indicator) * time
    with torch.no_grad():
        velocity = denoising._velocity("cond", told)
    expected = denoising.latent - time * velocity
    close(estimate(base, question)[:, :, 1:], expected[:, :, 1:])


@pytest.mark.parametrize("name", [VIDEO2WORLD, PREDICT2, PREDICT25])
def test_footage_has_the_latents_that_inference_conditions_on(checkpoint_dir, name):
    base = base_of(name, checkpoint_dir)
    sampler = "unipc" if name == PREDICT25 else "res"
    denoising, batch, _ = begun(base, given=1, sampler=sampler, index=0)
    conditioned = denoising.cond if name == PREDICT25 else denoising.denoiser.frames.clean
    close(batch.latent[:, :, :1], conditioned[:, :, :1])


def test_a_right_answer_costs_nothing_and_given_frames_are_not_judged(checkpoint_dir):
    base = base_of(VIDEO2WORLD, checkpoint_dir)
    _, batch, _ = begun(base, given=1, sampler="res", index=0)
    question = base.objective.question(
        batch, torch.tensor([1.0]), noise_of(batch, [1]), dtype=torch.float32
    )
    right = question.wanted.clone()
    right[:, :, :1] = 99.0
    assert float(question.losses(right)) == 0
    right[:, :, 1:] += 1
    assert float(question.losses(right)) == pytest.approx(1 / 2)  # one of two latent frames


def test_another_target_is_what_is_wanted_of_the_same_question():
    latent = torch.randn(2, 4, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    whole = Batch(latent, torch.zeros(2, 3, 8), SHAPE, (0, 0))
    turned = Batch(latent, torch.zeros(2, 3, 8), SHAPE, (0, 0), latent.flip(0))
    times = torch.tensor([0.5, 0.25])
    objective = Predict25Objective(True, 0.0001, times_by_frame=True)
    one, other = (
        objective.question(batch, times, noise_of(batch, [1, 2]), dtype=torch.float32)
        for batch in (whole, turned)
    )
    assert torch.equal(one.inputs["hidden_states"], other.inputs["hidden_states"])
    moved = other.wanted - one.wanted
    assert torch.allclose(moved, latent - latent.flip(0), atol=1e-6)


def test_noise_levels_are_those_of_the_published_trainings():
    places = torch.tensor([0.5, 0.8413447460685429, 0.97])
    edm = EdmObjective(True).levels(places, 16)
    assert edm[:2].tolist() == pytest.approx([4.0, 4 * np.e], rel=1e-4)
    flow = Predict25Objective(True, 0.0001, times_by_frame=True).levels(places, 16)
    assert float(flow[0]) == pytest.approx(5 * 0.5 / (1 + 4 * 0.5))
    level = Predict2Objective(True, 0.0001, times_by_frame=True)
    sigma = level.levels(places, 16).double()
    sigma = sigma / (1 - sigma)
    inner = NormalDist().inv_cdf(0.5 / 0.95)  # one in twenty is drawn from the noisier ones
    assert float(sigma[0]) == pytest.approx(4 * math.exp(inner), rel=1e-4)
    assert 200 < float(sigma[2]) < 100_000
    assert float(level.levels(places, 1)[2]) < 0.99  # pictures have no such noise


def test_a_window_has_the_same_noise_in_any_batch():
    latent = torch.zeros(3, 2, 1, 2, 2)
    three = noise_of(Batch(latent, None, SHAPE, (0, 0, 0)), [5, 6, 7])
    one = noise_of(Batch(latent[:1], None, SHAPE, (0,)), [6])
    assert torch.equal(three.normal("latent", latent)[1], one.normal("latent", latent[:1])[0])
    assert three.even("augment", 3)[1] == one.even("augment", 1)[0]
    assert not torch.equal(one.normal("frames", latent[:1]), one.normal("latent", latent[:1]))


def test_losses_of_a_base_repeat_and_an_adapter_changes_them(checkpoint_dir):
    base = base_of(TEXT2WORLD, checkpoint_dir)
    _, batch, _ = begun(base, given=0, sampler="res", index=0)
    asked = {"shape": SHAPE, "place": 0.5, "seeds": [9]}
    before = base.denoising_losses(batch.latent, batch.context, **asked)
    layer = "transformer_blocks.0.attn1.to_q"
    adapter = {
        f"{layer}.lora_A.weight": np.ones((2, 32), np.float32),
        f"{layer}.lora_B.weight": np.ones((32, 2), np.float32),
    }
    with base.adapted(adapter, alpha=2.0):
        within = base.denoising_losses(batch.latent, batch.context, **asked)
    after = base.denoising_losses(batch.latent, batch.context, **asked)
    assert before == after != within


def test_frames_that_a_model_does_not_take_are_refused(checkpoint_dir):
    base = base_of(TEXT2WORLD, checkpoint_dir)
    with pytest.raises(
        MalformedRecordError, match=r"conditioning_frames of Tiny-Cosmos-1\.0-Text2"
    ):
        base.latent_frames([1])


def test_a_family_that_is_not_trained_is_refused():
    with pytest.raises(MalformedRecordError, match="the control models are not trained"):
        objective_of(model("Tiny-Cosmos-Transfer2.5"))
