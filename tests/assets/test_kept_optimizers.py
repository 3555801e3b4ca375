"""Sites that keep their optimizer's state, through the real definitions: what goes on, what is rolled back, what stays at home."""

import dagster as dg
import numpy as np
import pytest

from resources import failpoints
from resources.round_files import read_adapter_record
from tests.assets.rounds import HOMES, LAYERS, TRAINING, MadeUpRounds, Rounds, files_of
from worldloop.federation.adapters import read_adapter
from worldloop.layout import moments_key

KEPT = {"training": {**TRAINING, "keep_optimizer": True}}
STEP = "transformer_blocks.0.attn1.to_q.lora_A.weight.step"


class KilledError(BaseException):
    """As if the process had ended."""


@pytest.fixture
def rounds(tmp_path):
    with dg.DagsterInstance.ephemeral() as instance:
        house = MadeUpRounds(tmp_path, instance)
        house.film()
        yield house


def adapt(house, key, **config):
    """A round up to its adapter."""
    house.plan_round(key, waves=["w0001"], **{**KEPT, **config})
    for site in HOMES:
        house.train(site, key)
    house.execute("adapter_job", key)


def kept(house, key="r0001", site="gcp"):
    return house.federation.store(site).get(moments_key(key))


def steps(house, key, site="gcp"):
    """Steps that the optimizer has behind it."""
    return float(read_adapter(kept(house, key, site))[STEP])


def test_a_round_goes_on_where_the_delta_beneath_it_left_the_optimizer(rounds):
    adapt(rounds, "r0001")
    adapt(rounds, "r0002", base="r0001")
    adapt(rounds, "r0003", base="r0001")  # r0002 came to nothing

    assert [steps(rounds, key) for key in ("r0001", "r0002", "r0003")] == [4, 8, 8]
    tensors = read_adapter(kept(rounds, "r0003"))
    assert len(tensors) == 2 * len(LAYERS) * 3


def test_nothing_of_it_leaves_the_site(rounds):
    adapt(rounds, "r0001")

    files = files_of(rounds.root / "site")
    assert files
    assert not [name for name, content in files.items() if b"exp_avg" in content]
    for site in HOMES:
        assert b"exp_avg" in kept(rounds, site=site)


@pytest.mark.parametrize(
    "moment", ["site_delta.trained", "site_delta.moments_kept", "site_delta.before_send"]
)
def test_a_site_killed_before_its_delta_goes_on_as_if_it_had_not_been(rounds, monkeypatch, moment):
    def die(name):
        if name == moment:
            raise KilledError(name)

    adapt(rounds, "r0001")
    rounds.plan_round("r0002", waves=["w0001"], base="r0001", **KEPT)
    with monkeypatch.context() as killed:
        killed.setattr(failpoints, "_watchers", [die])
        with pytest.raises(KilledError):
            rounds.train("gcp", "r0002")
    for site in HOMES:
        rounds.train(site, "r0002")
    rounds.execute("adapter_job", "r0002")

    assert steps(rounds, "r0002") == 8
    sent = read_adapter_record(rounds.store, "r0002").of("gcp").content_sha256
    assert sent.encode() in kept(rounds, "r0002")[:4096]  # in the file's header


def test_a_round_from_other_weights_begins_anew_and_says_so_once_a_site(rounds):
    adapt(rounds, "r0001")
    adapt(rounds, "r0002", base="r0001", revision="another")

    assert steps(rounds, "r0002") == 4
    lines = [
        entry.user_message
        for run in rounds.instance.get_runs()
        for entry in rounds.instance.all_logs(run.run_id)
        if "begins its optimizer anew: base, rank, alpha or targets" in entry.user_message
    ]
    assert sorted(line.split()[0] for line in lines) == sorted(HOMES)


def test_a_round_that_does_not_ask_for_it_keeps_nothing(rounds):
    adapt(rounds, "r0001", training=TRAINING)

    assert not rounds.federation.store("gcp").exists(moments_key("r0001"))


def test_the_tensors_are_those_that_training_left(rounds):
    adapt(rounds, "r0001")
    for name, each in read_adapter(kept(rounds)).items():
        expected = 4 if name.endswith(".step") else 0
        np.testing.assert_array_equal(each, np.full(each.shape, expected, np.float32))


@pytest.mark.slow
def test_a_real_optimizer_goes_on_at_every_site(tmp_path):
    with dg.DagsterInstance.ephemeral() as instance:
        house = Rounds(tmp_path, instance)
        house.film()
        house.make_model()
        try:
            adapt(house, "r0001")
            adapt(house, "r0002", base="r0001")
        finally:
            house.stop_trainers()

    for site in HOMES:
        stands = read_adapter(kept(house, "r0002", site))
        assert {float(each) for name, each in stands.items() if name.endswith(".step")} == {8.0}
        assert all(each.any() for each in stands.values())
