"""The benchmark of post-training runs here with a few narrow blocks, so that it will run on a GPU."""

import contextlib
import json
import sys
from dataclasses import replace

import pytest
import torch

from gpu_jobs.cosmos_generate import bench_models
from gpu_jobs.posttrain import bench, learner
from gpu_jobs.posttrain.parallel import Fleet


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    """Two narrow blocks in the place of each case's model."""
    made = bench_models.transformer_of

    def tiny(record, device):
        if record.family == "cosmos3":  # its rotary positions are made for heads of 128
            narrow = {"num_heads": 2, "num_kv_heads": 1, "width": 64, "mlp_width": 64}
            return made(replace(record, **narrow), device, layers=2)
        return made(replace(record, num_heads=2, head_dim=48), device, layers=2)

    monkeypatch.setattr(bench, "transformer_of", tiny)
    for cases in (bench_models.CASES, bench._COSMOS3_CASES):
        for key, case in cases.items():
            shape = replace(case.shape, num_frames=9, width_px=64, height_px=64)
            monkeypatch.setitem(cases, key, replace(case, shape=shape))


@pytest.mark.parametrize(
    "arguments",
    [
        ("predict2-2b", "lora"),
        ("v2w-7b", "lora", "again", "2"),
        ("predict2-2b", "full"),
        ("cosmos3-nano-256p", "lora", "again"),
    ],
)
def test_a_training_step_is_measured_with_its_rate(arguments):
    rows = []
    bench.train(lambda name, **values: rows.append({"name": name, **values}), Fleet(), *arguments)
    assert rows[0]["name"].startswith(":".join(("train", *arguments)))
    assert rows[0]["finite"]
    assert rows[0]["tokens_per_s"] > 0 < rows[0]["mfu"]


def test_sections_are_lines_and_one_that_fails_does_not_stop_the_others(tmp_path, monkeypatch):
    path = tmp_path / "out.jsonl"
    sections = ["train:nothing", "train:predict2-2b:lora"]
    monkeypatch.setattr(sys, "argv", ["bench", str(path), *sections])
    monkeypatch.setattr(bench, "NUM_STEPS", 1)
    bench.main()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["name"] for row in rows][:2] == ["machine", "train:nothing"]
    assert rows[1]["error"].startswith("KeyError")
    assert rows[2]["step_s"] > 0


def test_two_trainings_on_a_cpu_end_alike(monkeypatch):
    monkeypatch.setattr(bench, "NUM_STEPS", 0)
    rows = []
    bench.repeat(lambda name, **values: rows.append({"name": name, **values}), Fleet(), "draft")
    assert rows == [{"name": "repeat:draft:lora", "steps": bench.NUM_WARM, "relative": 0.0}]


def test_attention_is_chosen_for_the_pass_back_too_and_is_torchs_choice_on_a_cpu(monkeypatch):
    asked, inside, attended = [], [], []
    attention = torch.nn.functional.scaled_dot_product_attention

    @contextlib.contextmanager
    def kernels(kind):
        asked.append(kind)
        inside.append(kind)
        yield
        inside.pop()

    def watched(*given, **how):
        attended.append(bool(inside))
        return attention(*given, **how)

    monkeypatch.setattr(learner, "attention_kernels", kernels)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    monkeypatch.setattr(bench, "NUM_STEPS", 1)
    bench.train(lambda name, **values: None, Fleet(), "predict2-2b", "lora", "again")

    assert set(asked) == {"auto"}
    assert all(attended)
    assert len(attended) == len(asked) * 8  # two blocks of two, before and again in the pass back
