"""Optimizers that go on: rounds of one site alone are one long training."""

from pathlib import Path

import pytest

from gpu_jobs.posttrain import training as posttraining
from gpu_jobs.posttrain.base import Bases
from gpu_jobs.posttrain.learner import Draws
from gpu_jobs.posttrain.training import train
from tests.gpu_jobs.posttrain.tiny_footage import spec
from worldloop.errors import JobFailedError, MalformedRecordError
from worldloop.federation.adapters import adapter_bytes, difference, norm, read_adapter
from worldloop.federation.codecs import decode, encode
from worldloop.federation.rounds import Aggregation
from worldloop.federation.strategies import Contribution, aggregate

BASES = Bases()
KEPT = {"num_steps": 3, "keep_optimizer": True, "warmup_steps": 2}


@pytest.fixture
def ask(site, checkpoint_dir, tmp_path):
    """Makes specs whose output lies in the test's own folder."""

    def make(name, **changes):
        return spec(site, checkpoint_dir, output_dir=str(tmp_path / name), **changes)

    return make


def trained(asked):
    """Adapter, start and the optimizer's state after a training."""
    train(asked, lambda event: None, BASES)
    names = ("adapter", "start", "moments")
    return [read_adapter(Path(asked.output_dir) / f"{name}.safetensors") for name in names]


def federated(asked, path):
    """The adapter of a round with one site, FedAvg and float32."""
    end, start, _ = trained(asked)
    sent = encode(difference(end, start), "float32").content
    contribution = Contribution("aws", decode(sent), 3.0)
    made = aggregate([contribution], start, {}, Aggregation(codec="float32")).adapter
    path.write_bytes(adapter_bytes(made))
    return str(path)


def left_by(asked):
    return str(Path(asked.output_dir) / "moments.safetensors")


def later(monkeypatch, after):
    """Steps draw what they would draw in a training that has `after` steps behind it."""
    of = Draws.of
    monkeypatch.setattr(Draws, "of", lambda draws, number: of(draws, number + after))


@pytest.mark.parametrize("goes_on", [True, False])
def test_two_rounds_are_one_long_training_if_the_optimizer_goes_on(
    ask, tmp_path, monkeypatch, goes_on
):
    long = trained(ask("long", training={**KEPT, "num_steps": 6}))
    first = ask("first", training=KEPT)
    adapter = federated(first, tmp_path / "adapter.safetensors")
    later(monkeypatch, 3)
    moments = left_by(first) if goes_on else ""
    second = trained(ask("second", training=KEPT, start_adapter=adapter, start_moments=moments))

    averages = [{n: e for n, e in one[2].items() if "exp_avg" in n} for one in (second, long)]
    apart = [norm(difference(*pair)) / norm(pair[1]) for pair in ((second[0], long[0]), averages)]
    # a float32 delta keeps start + (end - start) to half a unit in the last place, 6e-8 of a number
    assert (max(apart) < 1e-6) is goes_on, apart
    assert all((each == 6) == goes_on for n, each in second[2].items() if n.endswith(".step"))


def test_an_optimizer_that_is_kept_changes_no_weight_of_its_own_round(ask):
    kept = trained(ask("kept", training=KEPT))[0]
    train(ask("plain", training={**KEPT, "keep_optimizer": False}), lambda event: None, BASES)

    plain = Path(ask("plain").output_dir)
    assert (plain / "adapter.safetensors").read_bytes() == adapter_bytes(kept)
    assert not (plain / "moments.safetensors").exists()


def test_a_training_that_goes_on_and_is_stopped_ends_with_the_same_bytes(ask, monkeypatch):
    first = ask("first", training=KEPT)
    train(first, lambda event: None, BASES)
    goes_on = {"start_moments": left_by(first), "training": {**KEPT, "num_steps": 6}}
    whole, stopped = ask("whole", **goes_on), ask("stopped", checkpoint_every_s=0.0, **goes_on)
    train(whole, lambda event: None, BASES)

    def stop(event):
        if event.get("step") == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(stopped, stop, BASES)
    assert 0 < train(stopped, lambda event: None, BASES).resumed_at < 6
    for name in ("adapter", "moments"):
        files = [Path(one.output_dir) / f"{name}.safetensors" for one in (whole, stopped)]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_a_saved_training_with_another_start_of_its_optimizer_is_refused(ask, tmp_path):
    first = ask("first", training=KEPT)
    train(first, lambda event: None, BASES)
    state_dir = str(tmp_path / "state")
    train(ask("a", state_dir=state_dir, training=KEPT), lambda event: None, BASES)

    asked = ask("b", state_dir=state_dir, training=KEPT, start_moments=left_by(first))
    with pytest.raises(JobFailedError, match="state of a training with another"):
        train(asked, lambda event: None, BASES)


def test_a_state_of_other_tensors_is_refused(ask):
    first = ask("first", training=KEPT)
    train(first, lambda event: None, BASES)

    asked = ask("other", training={**KEPT, "rank": 4}, start_moments=left_by(first))
    with pytest.raises(MalformedRecordError, match="tensors of an adapter"):
        train(asked, lambda event: None, BASES)


@pytest.mark.parametrize(
    "changes",
    [
        {"training": {"mode": "full", "keep_optimizer": True}},
        {"training": {"mode": "full"}, "start_moments": "moments.safetensors"},
    ],
)
def test_the_optimizer_of_all_weights_is_not_kept(ask, changes):
    with pytest.raises(MalformedRecordError, match="keep_optimizer of a training"):
        posttraining.training_of(ask("full", **changes))
