"""Our strategies against Flower's own; runs where the extra `flower` is installed."""

import os

import numpy as np
import pytest

from worldloop.federation.rounds import Aggregation
from worldloop.federation.strategies import Contribution, aggregate
from worldloop.seeds import stream

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
flower = pytest.importorskip("flwr.serverapp.strategy")
app = pytest.importorskip("flwr.app")

SHAPES = {"layer.lora_A.weight": (8, 30), "layer.lora_B.weight": (20, 8)}
WEIGHTS = {"aws": 12, "azure": 30, "gcp": 7, "local": 1, "oslo": 50}


@pytest.fixture(autouse=True)
def _in_a_task(monkeypatch):
    """Flower's messages name the task that they are made in."""
    identity = pytest.importorskip("flwr.supercore.task_identity").TaskIdentity
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(identity, name, 1)


def drawn(*names):
    random = stream("test", "flower", *names)
    return {n: random.normal(0, 1e-2, s).astype(np.float32) for n, s in SHAPES.items()}


def record(arrays):
    return app.ArrayRecord({name: app.Array(each) for name, each in arrays.items()})


def flowers_round(strategy, number, start, deltas):
    """What Flower makes of the weights that the sites would send it."""
    replies = []
    for site, delta in deltas.items():
        content = app.RecordDict(
            {
                "arrays": record({name: start[name] + delta[name] for name in start}),
                "metrics": app.MetricRecord({"num-examples": WEIGHTS[site]}),
            }
        )
        replies.append(app.Message(content, dst_node_id=1, message_type="train"))
    strategy.current_arrays = {name: each.copy() for name, each in start.items()}
    found, _ = strategy.aggregate_train(number, replies)
    return {name: each.numpy() for name, each in found.items()}


# Flower corrects the bias of its first round as if it were the second (its rounds count from 1, and it adds 1),
# so it is given our number less one.
PAIRS = {
    "fedavg": (flower.FedAvg, {}, {}),
    "fedprox": (lambda: flower.FedProx(proximal_mu=0.1), {}, {}),
    "fedadam": (
        lambda: flower.FedAdam(eta=0.02, beta_1=0.9, beta_2=0.99, tau=1e-3),
        {"learning_rate": 0.02, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3},
        {},
    ),
    "trimmed_mean": (lambda: flower.FedTrimmedAvg(beta=0.2), {"trim": 1}, {}),
    "median": (flower.FedMedian, {}, {}),
}


@pytest.mark.parametrize("num_sites", [3, 4, 5])
@pytest.mark.parametrize("name", PAIRS)
def test_three_rounds_are_flowers_to_float_tolerance(name, num_sites):
    make, options, state = PAIRS[name]
    if name == "trimmed_mean" and num_sites < 5:
        make = lambda: flower.FedTrimmedAvg(beta=0.34)  # noqa: E731 - one dropped at each end of 3 or 4
    strategy, ours, theirs = make(), drawn("start"), drawn("start")
    for number in range(1, 4):
        deltas = {site: drawn(site, number) for site in list(WEIGHTS)[:num_sites]}
        given = [Contribution(site, deltas[site], WEIGHTS[site]) for site in deltas]
        done = aggregate(given, ours, state, Aggregation(name, options))
        theirs = flowers_round(strategy, number - 1, theirs, deltas)
        ours, state = done.adapter, done.state
        for each in SHAPES:
            np.testing.assert_allclose(ours[each], theirs[each], rtol=2e-5, atol=2e-7)
