import itertools
import math

import numpy as np
import pytest

from gpu_jobs.cosmos_generate.backends.samplers import (
    EulerSampler,
    ResSampler,
    karras_sigmas,
    res_weights,
)

DEVIATION = 0.5  # of the data; sigma_data of Cosmos-1.0
GENTLE = {"sigma_min": 0.05, "sigma_max": 5.0}


def tensor(values):
    import torch

    return torch.tensor(values, dtype=torch.float64)


def clean_of_gaussian(latent, sigma):
    """The exact estimate of the clean latent when the data are N(0, DEVIATION)."""
    return latent * DEVIATION**2 / (DEVIATION**2 + sigma**2)


def exact(latent, start, end):
    """Where the probability-flow ODE of that data leads from one noise level to another."""
    return latent * math.sqrt((DEVIATION**2 + end**2) / (DEVIATION**2 + start**2))


def error_of(sampler, levels):
    """How far a sampler ends from the exact solution, relative to it."""
    latent = tensor([[levels[0]]])
    end = exact(latent, levels[0], levels[-1])
    for index in range(len(levels) - 1):
        latent = sampler.advance(index, latent, clean_of_gaussian(latent, levels[index]))
    return float(((latent - end) / end).abs())


def euler(num_steps, **span):
    levels = karras_sigmas(num_steps, **span)
    return error_of(EulerSampler(tensor(levels)), levels)


def res(num_steps, **span):
    return error_of(ResSampler(num_steps, **span), karras_sigmas(num_steps, **span))


def slope(errors, counts):
    return -np.polyfit(np.log(counts), np.log(errors), 1)[0]


def test_res_converges_with_second_order_and_euler_with_first():
    counts = [40, 80, 160, 320]
    assert slope([res(n, **GENTLE) for n in counts], counts) == pytest.approx(2.0, abs=0.1)
    assert slope([euler(n, **GENTLE) for n in counts], counts) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(("num_steps", "factor"), [(20, 1.5), (35, 3.5), (70, 8.0)])
def test_res_beats_euler_at_equal_steps(num_steps, factor):
    assert res(num_steps) < euler(num_steps) / factor


def test_weights_leave_a_clean_latent_where_it_is():
    for weights in res_weights(karras_sigmas(12)):
        assert weights.latent + weights.x0 + weights.previous == pytest.approx(1.0)


def test_the_schedule_is_that_of_the_makers():
    sigmas = karras_sigmas(35)
    assert (len(sigmas), sigmas[0], sigmas[-1]) == (36, 80.0, 0.002)
    assert all(a > b for a, b in itertools.pairwise(sigmas))
    assert sigmas[1] ** (1 / 7) == pytest.approx(
        80 ** (1 / 7) + (0.002 ** (1 / 7) - 80 ** (1 / 7)) / 35
    )


def test_the_last_pass_answers_the_clean_latent():
    sampler = ResSampler(2)
    latent, clean = tensor([[1.0]]), tensor([[3.0]])
    assert len(sampler.sigmas) == 3
    for index in (0, 1):
        latent = sampler.advance(index, latent, clean)
    assert latent != clean
    assert sampler.advance(2, latent, clean) == clean


def test_euler_is_the_scheduler_of_diffusers():
    from gpu_jobs.common.torch_ops import import_diffusers

    scheduler = import_diffusers().EDMEulerScheduler(sigma_data=0.5, final_sigmas_type="sigma_min")
    scheduler.set_timesteps(4)
    sampler, latent = EulerSampler(scheduler.sigmas), tensor([[1.0, -2.0], [30.0, 0.5]]).float()
    ours = theirs = latent
    for index, time in enumerate(scheduler.timesteps):
        scheduler.scale_model_input(theirs, time)
        clean = theirs * 0.3
        theirs = scheduler.step(clean, time, theirs, pred_original_sample=clean).prev_sample
        ours = sampler.advance(index, ours, clean)
        np.testing.assert_array_equal(ours, theirs)
