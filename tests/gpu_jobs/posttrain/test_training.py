"""Training: the same spec gives the same bytes, over kills too; what goes wrong is one clear error."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gpu_jobs.common.entry import read_spec
from gpu_jobs.posttrain import recipes
from gpu_jobs.posttrain.base import BaseKey, Bases
from gpu_jobs.posttrain.learner import NEGATIVE, WORDLESS, Draws, Learner
from gpu_jobs.posttrain.spec import PosttrainSpec
from gpu_jobs.posttrain.training import train, training_of
from tests.gpu_jobs.posttrain.tiny_footage import SHAPE, spec, write_clips
from worldloop.errors import JobFailedError, MalformedRecordError
from worldloop.federation.adapters import initial_adapter, norm, read_adapter
from worldloop.federation.rounds import LORA_TARGETS, Training

BASES = Bases()


@pytest.fixture
def ask(site, checkpoint_dir, tmp_path):
    """Makes specs whose output lies in the test's own folder."""

    def make(name="out", **changes):
        return spec(site, checkpoint_dir, output_dir=str(tmp_path / name), **changes)

    return make


def files_of(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).glob("*.safetensors")}


def test_an_adapter_is_trained_from_the_coordinators_start(ask):
    events = []
    asked = ask(training={"num_steps": 12, "targets": list(LORA_TARGETS)})
    report = train(asked, events.append, BASES)
    start, end = (
        read_adapter(Path(asked.output_dir) / f"{name}.safetensors")
        for name in ("start", "adapter")
    )
    layers = {
        name.removesuffix(".lora_A.weight"): (
            start[name.replace("A.w", "B.w")].shape[0],
            one.shape[1],
        )
        for name, one in start.items()
        if "lora_A" in name
    }
    expected = initial_adapter(7, layers, 2)
    assert all(np.array_equal(start[name], expected[name]) for name in expected)
    assert norm({name: end[name] - start[name] for name in end}) == pytest.approx(report.norm)
    assert report.loss_after < report.loss_before
    assert (report.num_steps, report.num_windows, report.num_clips) == (12, 3, 3)
    assert report.num_parameters == sum(one.size for one in end.values())
    assert [e["step"] for e in events if e["event"] == "step"] == list(range(1, 13))
    assert json.loads((Path(asked.output_dir) / "report.json").read_text())["norm"] == report.norm
    assert report.tokens_per_s > 0 < report.tflops


def test_the_same_spec_gives_the_same_bytes_and_another_site_others(ask):
    changed = {"ema_decay": 0.9, "prox_mu": 0.1, "conditioning_frames": [0]}
    for name, site in (("a", "aws"), ("b", "aws"), ("c", "gcp")):
        train(ask(name, site=site, training=changed), lambda event: None, BASES)
    a, b, c = (files_of(ask(name).output_dir) for name in "abc")
    assert a == b
    assert a["start.safetensors"] == c["start.safetensors"]
    assert a["adapter.safetensors"] != c["adapter.safetensors"]


def test_a_warm_base_is_not_changed_by_what_was_trained_with_it(ask):
    train(ask("before"), lambda event: None, BASES)
    report = train(ask("full", training={"mode": "full"}), lambda event: None, bases := Bases(2))
    assert report.load_s > 0
    train(ask("full2", training={"mode": "full"}), lambda event: None, bases)
    again = train(ask("after"), lambda event: None, BASES)
    assert again.load_s == 0
    assert files_of(ask("full").output_dir) == files_of(ask("full2").output_dir)
    assert files_of(ask("before").output_dir) == files_of(ask("after").output_dir)


def test_full_training_writes_what_it_changed(ask, checkpoint_dir):
    asked = ask(training={"mode": "full", "checkpoint_blocks": True})
    report = train(asked, lambda event: None, BASES)
    delta = read_adapter(Path(asked.output_dir) / "delta.safetensors")
    base = BASES.get(BaseKey(asked.model, str(checkpoint_dir), precision="fp32"))
    assert delta.keys() == dict(base.transformer.named_parameters()).keys()
    assert norm(delta) == pytest.approx(report.norm, rel=1e-5)
    with base.adapted(delta, alpha=1.0):
        assert base.transformer.proj_out.weight.isfinite().all()


def test_activations_that_are_computed_again_give_the_same_weights(ask):
    for name, again in (("kept", False), ("again", True)):
        train(ask(name, training={"checkpoint_blocks": again}), lambda event: None, BASES)
    kept, again = (files_of(ask(name).output_dir) for name in ("kept", "again"))
    assert kept == again


def test_bf16_trains_with_factors_in_float32(ask):
    asked = ask(training={"precision": "bf16", "num_steps": 1})
    train(asked, lambda event: None, Bases())
    end = read_adapter(Path(asked.output_dir) / "adapter.safetensors")
    ups = np.concatenate([one.ravel() for name, one in end.items() if "lora_B" in name])
    assert not np.array_equal(ups, torch.from_numpy(ups).bfloat16().float().numpy())


def test_a_job_killed_in_mid_training_ends_with_the_same_bytes(ask, tmp_path):
    steps = {"num_steps": 60, "ema_decay": 0.9, "prox_mu": 0.01}
    whole = train(ask("whole", training=steps), lambda event: None, BASES)
    asked = ask("killed", training=steps, checkpoint_every_s=0.0)
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(asdict(asked)))
    command = [sys.executable, "-m", "gpu_jobs.posttrain.job", str(path)]
    environment = {**os.environ, "PYTHONPATH": "."}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as job:
        latest = Path(f"{asked.output_dir}.state") / "latest.txt"
        until_s = time.monotonic() + 60
        while not latest.exists() and time.monotonic() < until_s:
            time.sleep(0.01)
        job.send_signal(signal.SIGKILL)
    assert not Path(asked.output_dir).exists()
    report = train(asked, lambda event: None, BASES)
    assert 0 < report.resumed_at < 60
    assert report.losses == whole.losses
    assert files_of(asked.output_dir) == files_of(whole.output_dir)


def test_the_state_of_another_spec_is_refused(ask, tmp_path):
    state_dir = str(tmp_path / "state")
    train(ask(state_dir=state_dir), lambda event: None, BASES)
    with pytest.raises(JobFailedError, match="state of a training with another"):
        train(ask("other", state_dir=state_dir, seed=8), lambda event: None, BASES)


def test_a_round_goes_on_from_a_given_adapter(ask, tmp_path):
    first = ask("first")
    train(first, lambda event: None, BASES)
    given = str(Path(first.output_dir) / "adapter.safetensors")
    second = ask("second", start_adapter=given)
    train(second, lambda event: None, BASES)
    assert files_of(second.output_dir)["start.safetensors"] == Path(given).read_bytes()
    with pytest.raises(MalformedRecordError, match="tensors of an adapter"):
        train(ask("third", start_adapter=given, training={"rank": 3}), lambda e: None, BASES)


def test_training_ends_by_the_clock(ask):
    asked = ask(training={"num_steps": 100_000}, max_s=0.3)
    assert 1 <= train(asked, lambda event: None, BASES).num_steps < 10_000


def test_a_site_without_footage_reports_nothing(ask):
    every = ("city0", "city1", "city2")
    report = train(ask(exclude_cities=every), lambda event: None, BASES)
    assert (report.output_dir, report.num_windows, report.num_steps) == ("", 0, 0)
    assert not Path(ask().output_dir).exists()


def test_a_loss_that_is_no_number_is_one_clear_error_and_no_output(ask):
    asked = ask(training={"learning_rate": 1e30, "num_steps": 20})
    with pytest.raises(JobFailedError, match="The loss is not a number at step"):
        train(asked, lambda event: None, BASES)
    assert not Path(asked.output_dir).exists()


def test_a_finished_training_that_is_run_again_gives_its_bytes_without_steps(ask):
    first = train(ask(), lambda event: None, BASES)
    before = files_of(first.output_dir)
    again = train(ask(), lambda event: None, BASES)
    assert (again.resumed_at, again.losses) == (2, first.losses)
    assert files_of(again.output_dir) == before


def test_a_pull_to_the_start_keeps_an_adapter_near_it(ask):
    steps = {"num_steps": 10, "learning_rate": 1e-3}
    free, held = (
        train(ask(name, training={**steps, "prox_mu": pull}), lambda event: None, BASES).norm
        for name, pull in (("free", 0.0), ("held", 100.0))
    )
    assert held < 0.7 * free


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("[enforce fail] . PytorchStreamWriter failed writing file data/3"),
    ],
)
def test_a_full_disk_is_one_clear_error_and_nothing_half_written(ask, monkeypatch, error):
    def full(*args, **named):
        raise error

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(JobFailedError, match=r"The disk is full .* run it again"):
        train(ask(), lambda event: None, BASES)
    assert not Path(ask().output_dir).exists()
    monkeypatch.undo()
    assert train(ask(), lambda event: None, BASES).num_steps == 2


def test_memory_that_runs_out_names_what_to_lower(ask, monkeypatch):
    def full(*args, **named):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(Learner, "step", full)
    with pytest.raises(JobFailedError, match=r"batch_size=2, checkpoint_blocks=False.*set check"):
        train(ask(), lambda event: None, BASES)
    monkeypatch.undo()
    assert train(ask(), lambda event: None, BASES).num_steps == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mode": "half"}, "mode of a training: found 'half'"),
        ({"precision": "fp8"}, "precision of a training"),
        ({"speed": 3}, "training of a spec"),
        ({"conditioning_frames": [1]}, r"conditioning_frames of Tiny-Cosmos-1\.0-Text2World"),
        ({"targets": ["to_z"]}, "targets of an adapter"),
    ],
)
def test_trainings_that_cannot_be_are_refused(ask, changes, words):
    asked = ask()
    with pytest.raises(MalformedRecordError, match=words):
        train(replace(asked, training={**asked.training, **changes}), lambda e: None, BASES)


def test_a_gpu_that_is_not_there_is_one_clear_error(ask):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(JobFailedError, match="no CUDA device"):
        train(ask(device="cuda"), lambda event: None, BASES)


class ThreeClips:
    """Two windows each of three clips."""

    num_clips, fingerprint, encode_s = 3, "x", 0.0

    def __len__(self):
        return 6

    def clip(self, index):
        return index // 2


def test_captions_are_dropped_to_no_words_or_the_negative_prompt():
    training = Training(SHAPE, batch_size=6, caption_dropout=0.5, conditioning_frames=(0, 1))
    drawn = [draw for step in range(60) for draw in Draws(ThreeClips(), training, 1, "a").of(step)]
    shares = [np.mean([draw.caption == kind for draw in drawn]) for kind in (WORDLESS, NEGATIVE)]
    assert shares == pytest.approx([0.25, 0.25], abs=0.07)
    assert np.mean([draw.given for draw in drawn]) == pytest.approx(0.5, abs=0.1)
    assert all(draw.target == draw.window for draw in drawn)
    assert len({draw.seed for draw in drawn}) == len(drawn)
    assert sorted(draw.window for draw in drawn[:6]) == list(range(6))


def test_the_shuffled_control_takes_captions_and_targets_of_another_clip():
    training = Training(SHAPE, batch_size=6, caption_dropout=0.0)
    windows = ThreeClips()
    drawn = Draws(windows, training, 1, "a", shuffled=True).of(0)
    assert all(windows.clip(draw.target) != windows.clip(draw.window) for draw in drawn)
    assert all(draw.caption == draw.target for draw in drawn)
    windows.clip = lambda index: 0
    with pytest.raises(MalformedRecordError, match="windows of at least 2 clips"):
        Draws(windows, training, 1, "a", shuffled=True)


def test_the_shuffled_control_is_another_training(ask):
    for name, shuffled in (("true", False), ("control", True)):
        train(ask(name, shuffle_targets=shuffled), lambda event: None, BASES)
    true, control = (
        files_of(ask(name).output_dir)["adapter.safetensors"] for name in ("true", "control")
    )
    assert true != control


@pytest.mark.parametrize(
    "recipe",
    [
        recipes.predict1_video2world_lora,
        recipes.predict1_video2world_full,
        recipes.predict2_video2world_lora,
        recipes.predict25_lora,
        recipes.tiny,
    ],
)
def test_recipes_survive_json_and_can_be_trained(recipe, tmp_path):
    made = recipe(footage_dir="footage", checkpoint_dir="checkpoints", output_dir="out")
    again = read_spec(PosttrainSpec, json.loads(json.dumps(asdict(made))))
    training = training_of(again)
    assert training == training_of(made)
    assert training.shape.num_frames > 1


def test_the_guides_lora_recipe_adapts_q_and_v_of_both_attentions_in_28_blocks():
    made = recipes.predict1_video2world_lora(footage_dir="f", checkpoint_dir="c", output_dir="o")
    training = training_of(made)
    assert training.targets == ("attn1.to_q", "attn1.to_v", "attn2.to_q", "attn2.to_v")
    assert (training.rank, training.alpha / training.rank, training.first_blocks) == (8, 1.0, 28)
    assert training.shape.num_frames == 121


def test_the_job_needs_neither_tables_nor_dagster():
    names = "polars dagster dagster_pipes pyarrow"
    modules = "job training learner exports parallel base objectives lora recipes bench"
    code = f"import sys\nfor name in {names!r}.split(): sys.modules[name] = None\n" + "".join(
        f"import gpu_jobs.posttrain.{module}\n" for module in modules.split()
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=120)


def test_footage_of_one_clip_is_enough(checkpoint_dir, tmp_path):
    write_clips(tmp_path / "footage", 1)
    report = train(spec(tmp_path, checkpoint_dir), lambda event: None, BASES)
    assert report.num_windows == 1
