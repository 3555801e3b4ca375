import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldloop.errors import MalformedRecordError
from worldloop.federation.adapters import adapter_bytes, adapter_sha256, read_adapter
from worldloop.federation.options import OPTIONS
from worldloop.federation.rounds import ROBUST_STRATEGIES, STRATEGIES, Aggregation
from worldloop.federation.strategies import (
    Contribution,
    aggregate,
    carried_state,
    check_contribution,
    combine,
    options_of,
    outer_step,
    shares,
)
from worldloop.seeds import stream

SHAPES = {"a": (3, 4), "b": (5,)}
SITES = ("aws", "azure", "gcp", "local", "oslo")


def drawn(seed, size=1.0):
    random = stream("test", "strategies", seed)
    return {n: random.normal(0, size, s).astype(np.float32) for n, s in SHAPES.items()}


def contributions(num_sites=3, **odd):
    return [
        Contribution(site, drawn(site, 1e-3), 10.0 + number, **odd)
        for number, site in enumerate(SITES[:num_sites])
    ]


def constant(site, value, weight=1.0):
    return Contribution(site, {"a": np.full(4, value, np.float32)}, weight)


ZERO = {"a": np.zeros(4, np.float32)}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_order_of_arrival_changes_no_bit(strategy):
    start, found = drawn("start"), set()
    for order in itertools.permutations(contributions()):
        one = aggregate(order, start, {}, Aggregation(strategy))
        two = aggregate(order, one.adapter, one.state, Aggregation(strategy))
        found.add((adapter_sha256(two.adapter), adapter_sha256(two.state), str(two.weights)))
    assert len(found) == 1


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_line_goes_on_from_its_files_as_it_would_have_in_memory(strategy):
    start = drawn("start")
    one = aggregate(contributions(), start, {}, Aggregation(strategy))
    adapter = read_adapter(adapter_bytes(one.adapter))
    state = read_adapter(adapter_bytes(one.state)) if one.state else {}

    in_memory = aggregate(contributions(), one.adapter, one.state, Aggregation(strategy))
    from_files = aggregate(contributions(), adapter, state, Aggregation(strategy))

    assert adapter_bytes(in_memory.adapter) == adapter_bytes(from_files.adapter)


def test_fedavg_weighs_by_clips_and_fedprox_does_the_same_here():
    both = [constant("aws", 1.0, weight=30), constant("gcp", 5.0, weight=10)]

    found = aggregate(both, ZERO, {}, Aggregation("fedavg"))

    assert found.adapter["a"].tolist() == [2.0] * 4
    assert found.weights == {"aws": 0.75, "gcp": 0.25}
    assert found.norms == {"aws": 2.0, "gcp": 10.0}
    assert found.delta_norm == 4.0
    assert aggregate(both, ZERO, {}, Aggregation("fedprox")).adapter["a"].tolist() == [2.0] * 4


def test_a_late_delta_counts_less():
    late = [Contribution("aws", ZERO, 1.0, staleness=3), Contribution("gcp", ZERO, 1.0)]

    assert shares(late, Aggregation(), staleness_power=0.5) == {"aws": 1 / 3, "gcp": 2 / 3}
    assert shares(late, Aggregation(), staleness_power=0.0) == {"aws": 0.5, "gcp": 0.5}


def test_diloco_steps_as_torch_does_with_nesterov():
    torch = pytest.importorskip("torch")
    weights = torch.zeros(4, requires_grad=True)
    optimizer = torch.optim.SGD([weights], lr=0.7, momentum=0.9, nesterov=True)
    adapter, state = dict(ZERO), {}
    for number in range(5):
        delta = stream("test", number).normal(size=4).astype(np.float32)
        weights.grad = torch.from_numpy(-delta)
        optimizer.step()
        adapter, state = outer_step({"a": delta}, adapter, state, Aggregation("diloco"))
    np.testing.assert_allclose(adapter["a"], weights.detach().numpy(), rtol=1e-5)


def test_fedadam_steps_as_torch_adam_does_when_tau_is_nothing():
    torch = pytest.importorskip("torch")
    weights = torch.zeros(4, requires_grad=True)
    optimizer = torch.optim.Adam([weights], lr=0.01, betas=(0.9, 0.99), eps=1e-12)
    adapter, state = dict(ZERO), {}
    aggregation = Aggregation("fedadam", {"learning_rate": 0.01, "tau": 1e-12})
    for number in range(5):
        delta = stream("test", number).normal(size=4).astype(np.float32)
        weights.grad = torch.from_numpy(-delta)
        optimizer.step()
        adapter, state = outer_step({"a": delta}, adapter, state, aggregation)
    np.testing.assert_allclose(adapter["a"], weights.detach().numpy(), rtol=1e-4)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e15])
def test_under_fedadam_no_number_moves_much_further_than_the_learning_rate(size):
    adapter, state, moved = dict(ZERO), {}, []
    for _ in range(20):
        before, delta = adapter["a"], {"a": np.full(4, size, np.float32)}
        adapter, state = outer_step(delta, adapter, state, Aggregation("fedadam"))
        moved.append(float(adapter["a"][0] - before[0]))
    assert 0.4e-3 < min(moved) <= max(moved) < 1.01e-3


def test_a_step_that_float32_cannot_hold_is_refused():
    with pytest.raises(MalformedRecordError, match=r"outer step of a: .* Set max_norm"):
        outer_step({"a": np.full(4, 1e25, np.float32)}, ZERO, {}, Aggregation("fedadam"))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([("median", 3), ("median", 5), ("trimmed_mean", 3), ("trimmed_mean", 4)]),
    st.floats(-1e30, 1e30),
    st.integers(0, 2**32),
)
def test_one_bad_site_moves_nothing_beyond_the_honest_ones(robust, poison, seed):
    strategy, num_sites = robust
    honest = [Contribution(site, drawn(f"{seed}{site}"), 1.0) for site in SITES[: num_sites - 1]]
    bad = Contribution("zz", {n: np.full(s, poison, np.float32) for n, s in SHAPES.items()}, 1e9)

    found, _ = combine([bad, *honest], drawn(0), Aggregation(strategy))

    for name in SHAPES:
        stack = np.stack([each.delta[name] for each in honest])
        assert (found[name] >= stack.min(axis=0)).all()
        assert (found[name] <= stack.max(axis=0)).all()


def test_one_bad_site_does_move_the_plain_mean():
    bad = constant("zz", 1e6)

    found, _ = combine(
        [constant("aws", 1.0), constant("gcp", 1.0), bad], ZERO, Aggregation("fedavg")
    )

    assert found["a"][0] > 1e5


@pytest.mark.parametrize("num_sites", [1, 2, 3, 4, 5, 9, 12])
def test_median_and_trimmed_mean_are_numpys(num_sites):
    many = [Contribution(f"s{i:02d}", drawn(i), 1.0 + i) for i in range(num_sites)]
    stack = np.stack([each.delta["a"] for each in many]).astype(np.float64)

    median, _ = combine(many, ZERO, Aggregation("median"))

    np.testing.assert_allclose(median["a"], np.median(stack, axis=0), rtol=1e-6)
    if num_sites >= 3:
        trimmed, _ = combine(many, ZERO, Aggregation("trimmed_mean", {"trim": 1}))
        kept = np.sort(stack, axis=0)[1:-1]
        np.testing.assert_allclose(trimmed["a"], kept.mean(axis=0), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("strategy", ROBUST_STRATEGIES)
def test_a_robust_strategy_gives_each_site_one_vote(strategy):
    assert shares(contributions(4), Aggregation(strategy)) == dict.fromkeys(SITES[:4], 0.25)


def test_float64_sums_keep_what_float32_would_lose():
    many = [constant(f"s{i}", value) for i, value in enumerate([1e8, 1.0, -1e8, 1.0])]

    found, _ = combine(many, ZERO, Aggregation("fedavg"))

    assert found["a"].tolist() == [0.5] * 4


REFUSED = {
    "nobody": ([], {}, "contributions: found \\[\\], expected at least one"),
    "twice": ([constant("aws", 1), constant("aws", 2)], {}, "found \\['aws', 'aws'\\]"),
    "weight": ([constant("aws", 1, weight=0.0)], {}, "contribution of aws, weight: found 0.0"),
    "nan weight": ([constant("aws", 1, weight=math.nan)], {}, "weight: found nan"),
    "nan": ([constant("aws", math.nan)], {}, "contribution of aws, length.* nan, expected finite"),
    "inf": ([constant("aws", math.inf)], {}, "contribution of aws, length.* inf, expected finite"),
    "long": ([constant("aws", 2)], {"max_norm": 3.9}, "aws, length.* 4.0, expected at most 3.9"),
    "stale": ([Contribution("aws", ZERO, 1.0, -1)], {}, "staleness: found -1"),
    "other": ([Contribution("aws", {"b": ZERO["a"]}, 1.0)], {}, "tensors of an adapter"),
    "few": (
        [constant("aws", 1), constant("gcp", 1)],
        {"strategy": "trimmed_mean"},
        "contributions to trimmed_mean: found 2, expected at least 3, to drop 1 at each end",
    ),
    "half": (
        [constant(each, 1) for each in SITES],
        {"strategy": "trimmed_mean", "options": {"trim": 1.5}},
        "option trim of trimmed_mean: found 1.5",
    ),
    "option": (
        [constant("aws", 1)],
        {"strategy": "diloco", "options": {"beta": 0.5}},
        "option of diloco: found 'beta', expected one of learning_rate, momentum",
    ),
    "range": (
        [constant("aws", 1)],
        {"strategy": "diloco", "options": {"momentum": 1.0}},
        "option momentum of diloco: found 1.0, expected a number from 0 and below 1",
    ),
    "product": (
        [constant("aws", 1)],
        {"options": {"product": 0.5}},
        "option product of fedavg: found 0.5, expected 0 or 1",
    ),
    "strategy": ([constant("aws", 1)], {"strategy": "krum"}, "strategy: found 'krum'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_aggregated_is_refused_in_one_line(name):
    given_contributions, changed, message = REFUSED[name]

    with pytest.raises(MalformedRecordError, match=message):
        aggregate(given_contributions, ZERO, {}, Aggregation(**changed))


def test_a_site_is_refused_alone_so_that_the_others_can_go_on():
    good, bad = constant("aws", 1.0), constant("gcp", 100.0)
    aggregation = Aggregation(max_norm=10.0)

    assert check_contribution(good, ZERO, aggregation) == 2.0
    with pytest.raises(MalformedRecordError, match="contribution of gcp, length of the delta"):
        check_contribution(bad, ZERO, aggregation)


def test_a_state_of_another_strategy_or_adapter_is_refused():
    _, state = outer_step(ZERO, ZERO, {}, Aggregation("diloco"))

    for strategy in ("fedadam", "fedavg"):
        with pytest.raises(MalformedRecordError, match=f"state of the outer optimizer {strategy}"):
            outer_step(ZERO, ZERO, state, Aggregation(strategy))
    wider = {"a": np.zeros(5, np.float32)}
    with pytest.raises(MalformedRecordError, match="Pass the state of the line's last round"):
        outer_step(wider, wider, state, Aggregation("diloco"))


def test_a_state_is_carried_on_within_a_strategy_and_left_behind_at_a_change():
    _, state = outer_step(ZERO, ZERO, {}, Aggregation("diloco"))

    assert carried_state(state, Aggregation("diloco")).keys() == state.keys()
    assert carried_state(state, Aggregation("fedadam")) == {}
    assert carried_state(state, Aggregation("fedavg")) == {}


def test_every_strategy_of_a_plan_has_its_options():
    assert set(OPTIONS) == set(STRATEGIES)
    assert options_of(Aggregation("diloco", {"momentum": 0.5})) == {
        "learning_rate": 0.7,
        "momentum": 0.5,
    }
