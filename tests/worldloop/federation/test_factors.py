import numpy as np
import pytest

from worldloop.federation.adapters import DOWN, UP, initial_adapter
from worldloop.federation.factors import towards_mean_product
from worldloop.federation.rounds import Aggregation
from worldloop.federation.strategies import Contribution, aggregate
from worldloop.seeds import stream

LAYERS = {"blocks.0.attn1.to_q": (24, 16), "blocks.0.ff.net.2": (16, 40)}
START = initial_adapter(7, LAYERS, rank=4)
PRODUCT = Aggregation("fedavg", {"product": 1})


def site_delta(site, size=0.2):
    random = stream("test", "factors", site)
    return {n: random.normal(0, size, each.shape).astype(np.float32) for n, each in START.items()}


def contributions(num_sites=3, size=0.2):
    return [Contribution(f"s{i}", site_delta(i, size), 1.0 + i) for i in range(num_sites)]


def products(adapter):
    return {layer: adapter[layer + UP] @ adapter[layer + DOWN] for layer in LAYERS}


def gap(adapter, given):
    """How far its products are from the mean of the sites' products, over their length."""
    total = sum(each.weight for each in given)
    squares = {"off": 0.0, "mean": 0.0}
    for layer, product in products(adapter).items():
        ends = [{n: START[n] + each.delta[n] for n in START} for each in given]
        mean = sum(
            each.weight / total * products(end)[layer]
            for each, end in zip(given, ends, strict=True)
        )
        squares["off"] += np.square(product - mean).sum()
        squares["mean"] += np.square(mean).sum()
    return float(np.sqrt(squares["off"] / squares["mean"]))


@pytest.mark.parametrize("size", [0.5, 0.2, 0.01])
def test_the_product_is_nearer_to_the_mean_product_than_that_of_the_mean_factors(size):
    given = contributions(size=size)
    plain = aggregate(given, START, {}, Aggregation("fedavg"))

    found = aggregate(given, START, {}, PRODUCT)

    assert gap(found.adapter, given) < 0.9 * gap(plain.adapter, given)


def test_it_is_nearly_as_near_as_any_adapter_of_its_rank_can_be():
    given = contributions()
    found = aggregate(given, START, {}, PRODUCT)
    ends = [{n: START[n] + each.delta[n] for n in START} for each in given]
    off, mean = 0.0, 0.0
    for layer in LAYERS:
        shares = [each.weight / 6 for each in given]
        whole = sum(w * products(end)[layer] for w, end in zip(shares, ends, strict=True))
        values = np.linalg.svd(whole, compute_uv=False)
        off, mean = off + np.square(values[4:]).sum(), mean + np.square(values).sum()

    assert gap(found.adapter, given) < 1.35 * np.sqrt(off / mean)


def test_one_site_keeps_its_own_adapter():
    (one,) = contributions(1)

    found = aggregate([one], START, {}, PRODUCT)

    for name in START:
        np.testing.assert_allclose(found.adapter[name], START[name] + one.delta[name], atol=1e-6)


def test_sites_that_share_one_factor_are_averaged_exactly_as_before():
    given = [
        Contribution(f"s{i}", site_delta(i) | {n: 0 * START[n] for n in START if DOWN in n}, 1.0)
        for i in range(3)
    ]
    plain = aggregate(given, START, {}, Aggregation("fedavg"))

    found = aggregate(given, START, {}, PRODUCT)

    assert gap(plain.adapter, given) < 1e-6
    for name in START:
        np.testing.assert_allclose(found.adapter[name], plain.adapter[name], atol=1e-5)


def test_an_adapter_that_nothing_was_learned_in_stays_as_it_is():
    nothing = [Contribution("aws", {n: 0 * each for n, each in START.items()}, 1.0)]

    found = aggregate(nothing, START, {}, PRODUCT)

    assert all((found.adapter[name] == START[name]).all() for name in START)


def test_tensors_that_are_no_factors_are_left_as_they_were():
    weights = {"norm.weight": np.float32([1, 2]), "a.lora_A.weight": np.ones((2, 3), np.float32)}

    assert towards_mean_product(weights, [weights], [1.0], weights) == weights
