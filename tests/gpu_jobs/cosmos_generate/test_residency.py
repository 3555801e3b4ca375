import itertools

import pytest
import torch

from gpu_jobs.cosmos_generate.residency import (
    LARGER,
    STREAMED,
    Residency,
    StreamedBlocks,
    next_plan,
)
from gpu_jobs.cosmos_generate.spec import PARTS
from tests.gpu_jobs.cosmos_generate.tiny_transformers import cosmos, cosmos_inputs
from worldloop.errors import MalformedRecordError

ALL = {"text_encoder", "transformer", "controlnet", "tokenizer", "other"}


def residency_of(*, offload=()):
    return Residency({name: torch.nn.Linear(2, 2) for name in ALL}, device="cpu", offload=offload)


def test_without_a_plan_everything_comes_and_stays():
    residency = residency_of()
    residency.enter("encode")
    residency.enter("denoise")
    assert residency.present == ALL
    assert residency.overlaps


def test_a_part_of_the_plan_is_there_in_its_phase_alone():
    residency = residency_of(offload=PARTS)
    present = {}
    for phase in ("encode", "begin", "denoise", "decode"):
        residency.enter(phase)
        present[phase] = residency.present - {"other"}
    assert present == {
        "encode": {"text_encoder"},
        "begin": {"tokenizer"},
        "denoise": {"transformer", "controlnet"},
        "decode": {"tokenizer"},
    }
    assert not residency.overlaps


def test_a_released_part_never_comes_back():
    residency = residency_of()
    residency.enter("encode")
    residency.release("text_encoder")
    residency.enter("encode")
    assert residency.present == ALL - {"text_encoder"}


def test_plans_grow_until_nothing_is_left_to_free():
    plan, seen = (), []
    while plan is not None:
        seen.append(set(plan))
        plan = next_plan(plan)
    assert seen == [set(larger) for larger in LARGER]
    assert all(small < large for small, large in itertools.pairwise(seen))


def test_growing_skips_plans_that_free_nothing_here():
    residency = residency_of()
    residency.enter("denoise")
    assert residency.grow() == ("guardrail", "prompt_upsampler", "text_encoder")
    assert residency.present == ALL - {"text_encoder"}


def test_growing_ends_with_the_streamed_transformer():
    assert STREAMED in residency_of(offload=PARTS).grow()
    assert residency_of(offload=PARTS).grow(streams=False) is None
    assert residency_of(offload=(*PARTS, STREAMED)).grow() is None


def test_streamed_blocks_compute_what_the_whole_computes():
    transformer = cosmos()
    expected = transformer(**cosmos_inputs())[0]
    streamed = StreamedBlocks(transformer, torch.device("cpu"))
    streamed.bring()
    for _ in range(2):
        assert torch.equal(transformer(**cosmos_inputs())[0], expected)
    streamed.leave()
    assert torch.equal(
        transformer.transformer_blocks[1].ff.net[2].weight.cpu(),
        streamed.blocks[1].ff.net[2].weight,
    )


def test_a_plan_that_streams_runs_and_leaves():
    transformer = cosmos()
    expected = transformer(**cosmos_inputs())[0]
    residency = Residency({"transformer": transformer}, device="cpu", offload=(*PARTS, STREAMED))
    residency.enter("denoise")
    assert torch.equal(transformer(**cosmos_inputs())[0], expected)
    residency.enter("decode")
    residency.enter("denoise")
    assert torch.equal(transformer(**cosmos_inputs())[0], expected)


def test_unknown_parts_are_refused():
    with pytest.raises(MalformedRecordError, match=r"found \['vae'\]"):
        residency_of(offload=("vae",))
