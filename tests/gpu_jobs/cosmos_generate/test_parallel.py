import datetime
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing

from gpu_jobs.cosmos_generate.speed.apply import apply_to
from gpu_jobs.cosmos_generate.speed.parallel import Ranks, check_heads, ranks_of
from tests.gpu_jobs.cosmos_generate.tiny_transformers import (
    cosmos,
    cosmos3,
    cosmos3_inputs,
    cosmos_inputs,
    far,
)
from worldloop.cosmos.profiles import PROFILES, SpeedProfile
from worldloop.errors import MalformedRecordError

EXACT, SPARSE = PROFILES["exact"], SpeedProfile("sparse", density=0.4)
CASES = {
    "exact": (cosmos, cosmos_inputs, EXACT),
    "sparse": (cosmos, cosmos_inputs, SPARSE),
    "cosmos3": (lambda: cosmos3_with(2), cosmos3_inputs, replace(SPARSE, density=0.9999)),
}


def cosmos3_with(kv_heads):
    model = cosmos3()
    for layer in model.layers:  # heads of keys are shared among ranks too
        attn = layer.self_attn
        attn.num_key_value_heads = kv_heads
        for name in ("to_k", "to_v", "add_k_proj", "add_v_proj"):
            old = getattr(attn, name)
            weight = torch.cat([old.weight] * kv_heads).contiguous()
            new = torch.nn.Linear(old.in_features, len(weight), bias=False).requires_grad_(False)
            new.weight.data = weight
            setattr(attn, name, new)
    return model


def output(case):
    make, inputs, profile = CASES[case]
    model = make()
    apply_to(model, profile, device="cpu").dense = False
    found = model(**inputs())[0]
    return found[0] if isinstance(found, list) else found


def one_of_two(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meet",
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(seconds=60),
    )
    found = {case: output(case) for case in CASES}
    torch.save(found, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def from_two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(one_of_two, args=(str(folder),), nprocs=2)
    return [torch.load(Path(folder) / f"rank{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("case", sorted(CASES))
def test_two_ranks_compute_what_one_computes(from_two_ranks, case):
    expected = output(case)
    for found in from_two_ranks:
        assert far(found[case], expected) < 1e-5


def test_a_cp_size_that_is_not_the_number_of_processes_is_refused():
    with pytest.raises(MalformedRecordError, match=r"found 4.*torchrun --nproc_per_node=4"):
        ranks_of(4)
    assert ranks_of(1) == Ranks()


def test_heads_that_cannot_be_shared_are_refused():
    with pytest.raises(MalformedRecordError, match=r"\[1, 2, 4\] for 20 attention heads"):
        check_heads(20, Ranks(8, 0))
