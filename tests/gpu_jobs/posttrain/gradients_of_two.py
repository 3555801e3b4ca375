"""One of two processes that share the tokens of a window of Cosmos 3, beside what one alone computes.

Run as a program: `gradients_of_two.py CHECKPOINTS OUT.json MODEL...`, with the variables of torchrun. AdamW
hides a gradient of another size, so that gradients are compared here and not trained weights.
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from gpu_jobs.posttrain.base import BaseKey, Bases
from gpu_jobs.posttrain.cosmos3 import is_generators
from gpu_jobs.posttrain.model import TrainingRanks, share_tokens, unshare_tokens
from gpu_jobs.posttrain.objectives import Batch, noise_of
from tests.gpu_jobs.posttrain.tiny_footage import SHAPE, moving_square


def gradients(base, batch, scale):
    """Of every weight of the generator, from a loss times a scale."""
    base.transformer.zero_grad(set_to_none=True)
    place = torch.tensor([0.4], dtype=torch.float64)
    loss = base.objective.losses(base.transformer, batch, place, noise_of(batch, [3])).mean()
    (loss * scale).backward()
    return {
        name: one.grad.clone()
        for name, one in base.transformer.named_parameters()
        if one.grad is not None
    }


def difference(name, checkpoints):
    """The largest relative difference of a gradient of both from that of one alone."""
    base = Bases().get(BaseKey(name, checkpoints, precision="fp32"))
    for parameter, one in base.transformer.named_parameters():
        one.requires_grad_(is_generators(parameter))
    latent = base.encode_frames(moving_square(1, SHAPE.num_frames))[None]
    batch = Batch(latent, base.encode_caption("A street.", SHAPE)[None], SHAPE, [1])
    alone = gradients(base, batch, 1)
    done = share_tokens(base.transformer, TrainingRanks(2, dist.get_rank()))
    both = gradients(base, batch, 2)
    for one in both.values():
        dist.all_reduce(one)
        one /= 2
    unshare_tokens(done)
    again = gradients(base, batch, 1)
    assert alone.keys() == both.keys() == again.keys()
    assert all(torch.equal(alone[each], again[each]) for each in alone)
    return max(float((both[each] - alone[each]).norm() / alone[each].norm()) for each in alone)


if __name__ == "__main__":
    dist.init_process_group("gloo")
    checkpoints, out, *names = sys.argv[1:]
    found = {name: difference(name, checkpoints) for name in names}
    if dist.get_rank() == 0:
        Path(out).write_text(json.dumps(found))
    dist.destroy_process_group()
