import pytest
import torch

from gpu_jobs.cosmos_generate.speed.policy import ProfilePolicy
from worldloop.cosmos.profiles import SpeedProfile

CACHED = {"cache_every": 3, "cache_first_steps": 2, "cache_last_steps": 1}


def run(policy, num_steps, line=lambda step: torch.tensor([float(step)])):
    outputs = []
    for step in range(num_steps):
        policy.start_step(step, num_steps)
        outputs.append(policy.run("cond", lambda step=step: line(step)))
    return outputs


def test_without_a_cache_every_pass_runs():
    policy = ProfilePolicy(SpeedProfile("plain"))
    assert [float(out) for out in run(policy, 4)] == [0.0, 1.0, 2.0, 3.0]
    assert policy.num_forwards == 4


def test_order_zero_repeats_the_last_prediction():
    policy = ProfilePolicy(SpeedProfile("cache", **CACHED))
    assert [float(out) for out in run(policy, 8)] == [0, 1, 2, 2, 2, 5, 5, 7]
    assert policy.num_forwards == 5


def test_order_one_follows_a_straight_line_exactly():
    policy = ProfilePolicy(SpeedProfile("cache", cache_order=1, **CACHED))
    assert [float(out) for out in run(policy, 8)] == pytest.approx(range(8))


def test_nested_outputs_keep_their_shape_and_their_gaps():
    policy = ProfilePolicy(SpeedProfile("cache", cache_order=1, **CACHED))
    outputs = run(policy, 5, lambda step: ([torch.tensor([2.0 * step])], None))
    ((video,), sound) = outputs[4]
    assert float(video) == pytest.approx(8.0)
    assert sound is None


def test_branches_are_kept_apart_and_forgotten_between_batches():
    policy = ProfilePolicy(SpeedProfile("cache", **CACHED))
    run(policy, 3)
    assert float(policy.run("uncond", lambda: torch.tensor([9.0]))) == 9.0
    policy.start_step(0, 8)
    policy.start_step(3, 8)
    assert float(policy.run("cond", lambda: torch.tensor([-1.0]))) == -1.0


def test_guidance_ends_where_the_interval_ends():
    policy = ProfilePolicy(SpeedProfile("half", guidance_until=0.5))
    guided = []
    for step in range(4):
        policy.start_step(step, 4)
        guided.append(policy.guided())
    assert guided == [True, True, False, False]
