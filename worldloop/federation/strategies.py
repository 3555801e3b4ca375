"""Strategies: how the deltas of the sites become one adapter. Pure functions, tested against Flower.

A strategy first makes one delta of many (`combine`: a weighted mean, a trimmed mean or a median), then takes the
outer step along it (`outer_step`: addition, Adam or Nesterov). Sums run in float64 in order of the sites' names,
so the order of arrival changes no bit.

The two factors of a layer are averaged each by itself, and mean(B) mean(A) is not mean(B A). FedAvg and FedProx have
the option `product` against that, see factors.py. The others do not: the outer optimizers would take the correction
for a direction and go on in it, and a robust strategy trusts no single site's product.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldloop.errors import MalformedRecordError
from worldloop.federation.adapters import Arrays, check_alike, norm
from worldloop.federation.factors import towards_mean_product
from worldloop.federation.options import OPTIONS, PRODUCT, least_sites, option_problems
from worldloop.federation.rounds import ROBUST_STRATEGIES, STRATEGIES, Aggregation

_STEP = "step"
_EXCHANGED = 8  # rows up to which compare and exchange beats sorting

Numbers = NDArray[np.float32]


@dataclass(frozen=True)
class Contribution:
    """What a site gives to a round.

    Attributes:
        site: Its name.
        delta: Decoded; same names and shapes as the round's start.
        weight: How much it counts, more than 0: clips it was trained on, or steps. Robust strategies give each
            site one vote.
        staleness: Rounds that its plan is older than the round's.
    """

    site: str
    delta: Arrays
    weight: float
    staleness: int = 0


@dataclass(frozen=True)
class Aggregated:
    """One adapter of a round.

    Attributes:
        adapter: Start plus outer step, float32.
        state: Of the outer optimizer, for the line's next round; empty where it has none.
            `adapters.adapter_bytes` writes it.
        weights: Share of each site, by name; they add up to 1.
        norms: Length of each site's delta, by name.
        delta_norm: Length of what the adapter differs from the start.
    """

    adapter: dict[str, Numbers]
    state: dict[str, Numbers]
    weights: dict[str, float]
    norms: dict[str, float]
    delta_norm: float


def aggregate(
    contributions: Sequence[Contribution],
    start: Arrays,
    state: Arrays,
    aggregation: Aggregation,
    *,
    staleness_power: float = 0.5,
) -> Aggregated:
    """Make one adapter of what the sites gave; the same in every order of arrival, bit for bit.

    Args:
        contributions: One a site, each as `check_contribution` wants it.
        start: The adapter that the round started from.
        state: Of the line's last round; empty at its first, see `carried_state`.
        aggregation: Of the round's plan.
        staleness_power: `Terms.staleness_power` of the round's plan.

    Raises:
        MalformedRecordError: If there is no contribution or too few for the strategy, two of one site, one that
            `check_contribution` refuses, an option that is not known, or a state of another strategy or adapter.
    """
    norms = {
        each.site: check_contribution(each, start, aggregation) for each in _in_order(contributions)
    }
    delta, weights = combine(contributions, start, aggregation, staleness_power=staleness_power)
    adapter, next_state = outer_step(delta, start, state, aggregation)
    moved = math.sqrt(math.fsum(_squared_distance(adapter[name], start[name]) for name in adapter))
    return Aggregated(adapter, next_state, weights, norms, moved)


def check_contribution(
    contribution: Contribution, start: Arrays, aggregation: Aggregation
) -> float:
    """Refuse what one site must not bring into a round.

    Returns:
        Length of the delta.

    Raises:
        MalformedRecordError: If the delta has other tensors than the start, a number that is not finite, or is
            longer than `aggregation.max_norm`; if weight or staleness are out of range.
    """
    what = f"contribution of {contribution.site}"
    check_alike(contribution.delta, start)
    if not (math.isfinite(contribution.weight) and contribution.weight > 0):
        raise MalformedRecordError(
            f"{what}, weight", contribution.weight, "a finite number above 0", "Leave the site out."
        )
    if contribution.staleness < 0:
        raise MalformedRecordError(
            f"{what}, staleness", contribution.staleness, "0 or more rounds", "Correct it."
        )
    length = norm(contribution.delta)
    limit = aggregation.max_norm or math.inf
    if not (math.isfinite(length) and length <= limit):
        raise MalformedRecordError(
            f"{what}, length of the delta",
            length,
            f"at most {limit:g}" if aggregation.max_norm else "finite numbers",
            "Leave the site out, and look at its training curve.",
        )
    return length


def shares(
    contributions: Sequence[Contribution], aggregation: Aggregation, *, staleness_power: float = 0.5
) -> dict[str, float]:
    """Share of each site in the combined delta, by name in order; they add up to 1.

    Weight times `(1 + staleness) ** -staleness_power`; under robust strategies one vote each, because a bad
    site may claim any weight.

    Raises:
        MalformedRecordError: If there is no contribution, or two of one site.

    Example:
        >>> two = [Contribution("gcp", {}, 30.0, staleness=3), Contribution("aws", {}, 45.0)]
        >>> shares(two, Aggregation())
        {'aws': 0.75, 'gcp': 0.25}
    """
    ordered = _in_order(contributions)
    if aggregation.strategy in ROBUST_STRATEGIES:
        return {each.site: 1 / len(ordered) for each in ordered}
    weights = [each.weight * (1 + each.staleness) ** -staleness_power for each in ordered]
    total = math.fsum(weights)
    return {each.site: weight / total for each, weight in zip(ordered, weights, strict=True)}


def combine(
    contributions: Sequence[Contribution],
    start: Arrays,
    aggregation: Aggregation,
    *,
    staleness_power: float = 0.5,
) -> tuple[dict[str, Numbers], dict[str, float]]:
    """One delta of many, and the share of each site.

    Raises:
        MalformedRecordError: If there are too few for the strategy, or as in `shares` and `options_of`.
    """
    options = options_of(aggregation)
    ordered = _in_order(contributions)
    weights = shares(ordered, aggregation, staleness_power=staleness_power)
    trim = _trim(len(ordered), aggregation.strategy, options)
    delta = {}
    for name in sorted(ordered[0].delta):
        rows = [each.delta[name] for each in ordered]
        if aggregation.strategy in ROBUST_STRATEGIES:
            kept = _sorted_rows(rows)[trim : len(rows) - trim]
            delta[name] = _weighted_sum(kept, [1 / len(kept)] * len(kept))
        else:
            delta[name] = _weighted_sum(rows, weights.values())
    if options.get(PRODUCT):
        deltas = [each.delta for each in ordered]
        delta = towards_mean_product(delta, deltas, weights.values(), start)
    return delta, weights


def outer_step(
    delta: Arrays, start: Arrays, state: Arrays, aggregation: Aggregation
) -> tuple[dict[str, Numbers], dict[str, Numbers]]:
    """Adapter and next state after one step of the outer optimizer along a delta.

    What secure aggregation reveals, a mean delta, goes straight in here.

    Raises:
        MalformedRecordError: If the delta is not like the start, the state is of another strategy or adapter, or as
            in `options_of`.
    """
    check_alike(delta, start)
    _check_state(state, start, aggregation)
    options = options_of(aggregation)
    num_steps = int(state[_key(aggregation, _STEP)][0]) + 1 if state else 1
    adapter: dict[str, Numbers] = {}
    following: dict[str, Numbers] = {}
    for name in sorted(start):
        before = {
            moment: state.get(_key(aggregation, moment, name)) for moment in _moments(aggregation)
        }
        step, after = _STEPS[aggregation.strategy](
            delta[name].astype(np.float64), before, num_steps, options
        )
        step *= options["learning_rate"]
        step += start[name]
        adapter[name] = _narrowed(name, step)
        for moment, numbers in after.items():
            following[_key(aggregation, moment, name)] = _narrowed(name, numbers)
    if following:
        following[_key(aggregation, _STEP)] = np.array([num_steps], np.float32)
    return adapter, following


def carried_state(state: Arrays, aggregation: Aggregation) -> dict[str, Numbers]:
    """What of a line's last state its next round goes on from: all of it, or nothing after a change of strategy."""
    belongs = all(name.startswith(f"{aggregation.strategy}/") for name in state)
    return dict(state) if belongs else {}


def options_of(aggregation: Aggregation) -> dict[str, float]:
    """All options of a strategy, defaults filled in.

    Raises:
        MalformedRecordError: If an option is not known to the strategy or out of its range; the known ones are
            named.
    """
    strategy = aggregation.strategy
    if strategy not in STRATEGIES:
        raise MalformedRecordError(
            "strategy", strategy, f"one of {STRATEGIES}", "Choose one of them."
        )
    for problem in option_problems(strategy, aggregation.options):
        raise MalformedRecordError(*problem)
    return {**OPTIONS[strategy], **aggregation.options}


_Wide = NDArray[np.float64]
_Before = Mapping[str, Numbers | None]
_Stepped = tuple[_Wide, dict[str, _Wide]]


def _plain(delta: _Wide, before: _Before, num_steps: int, options: Mapping[str, float]) -> _Stepped:
    return delta, {}


def _nesterov(
    delta: _Wide, before: _Before, num_steps: int, options: Mapping[str, float]
) -> _Stepped:
    """As torch.optim.SGD(nesterov=True) with the delta as its negative gradient."""
    momentum = _decayed(before["momentum"], delta, options["momentum"])
    momentum += delta
    return delta + options["momentum"] * momentum, {"momentum": momentum}


def _adam(delta: _Wide, before: _Before, num_steps: int, options: Mapping[str, float]) -> _Stepped:
    """Algorithm 2 of arXiv 2003.00295, with the bias correction of arXiv 1412.6980 as Flower has it."""
    beta_1, beta_2 = options["beta_1"], options["beta_2"]
    first = _decayed(before["first"], delta, beta_1)
    first += (1 - beta_1) * delta
    second = _decayed(before["second"], delta, beta_2)
    second += (1 - beta_2) * np.square(delta)
    correction = math.sqrt(1 - beta_2**num_steps) / (1 - beta_1**num_steps)
    step = np.sqrt(second)
    step += options["tau"]
    np.divide(first, step, out=step)
    step *= correction
    return step, {"first": first, "second": second}


def _decayed(numbers: Numbers | None, like: _Wide, factor: float) -> _Wide:
    return np.zeros_like(like) if numbers is None else numbers.astype(np.float64) * factor


_STEPS = {
    "fedavg": _plain,
    "fedprox": _plain,
    "fedadam": _adam,
    "diloco": _nesterov,
    "trimmed_mean": _plain,
    "median": _plain,
}
_MOMENTS = {"fedadam": ("first", "second"), "diloco": ("momentum",)}


def _moments(aggregation: Aggregation) -> tuple[str, ...]:
    return _MOMENTS.get(aggregation.strategy, ())


def _key(aggregation: Aggregation, *parts: str) -> str:
    return "/".join([aggregation.strategy, *parts])


def _check_state(state: Arrays, start: Arrays, aggregation: Aggregation) -> None:
    """Refuse a state that another strategy or adapter left."""
    expected = {
        _key(aggregation, moment, name): start[name].shape
        for moment in _moments(aggregation)
        for name in start
    }
    if expected:
        expected[_key(aggregation, _STEP)] = (1,)
    found = {name: each.shape for name, each in state.items()}
    odd = sorted(
        name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)
    )
    if state and odd:
        raise MalformedRecordError(
            f"state of the outer optimizer {aggregation.strategy}",
            {name: found.get(name) for name in odd[:3]},
            repr({name: expected.get(name) for name in odd[:3]}),
            "Pass the state of the line's last round, or none to begin anew.",
        )


def _trim(num_sites: int, strategy: str, options: Mapping[str, float]) -> int:
    """Rows to drop at each end of a sorted column."""
    needed = least_sites(strategy, options)
    if num_sites < needed:
        raise MalformedRecordError(
            f"contributions to {strategy}",
            num_sites,
            f"at least {needed}, to drop {needed // 2} at each end",
            "Raise the quorum, or lower trim.",
        )
    return (num_sites - 1) // 2 if strategy == "median" else needed // 2


def _in_order(contributions: Iterable[Contribution]) -> list[Contribution]:
    ordered = sorted(contributions, key=lambda each: each.site)
    sites = [each.site for each in ordered]
    if not sites or len(set(sites)) < len(sites):
        raise MalformedRecordError(
            "contributions", sites, "at least one, and one a site", "Keep the first of each site."
        )
    return ordered


def _weighted_sum(rows: Sequence[Numbers], weights: Iterable[float]) -> Numbers:
    total, product = np.zeros(rows[0].shape), np.empty(rows[0].shape)
    for row, weight in zip(rows, weights, strict=True):
        total += np.multiply(row, weight, out=product, dtype=np.float64)
    return total.astype(np.float32)


def _sorted_rows(rows: Sequence[Numbers]) -> list[Numbers]:
    """The rows sorted in each column."""
    if len(rows) > _EXCHANGED:
        return list(np.sort(np.stack(rows), axis=0))
    found = list(rows)
    for turn in range(len(found)):  # odd-even transposition: as many turns as rows
        for i in range(turn % 2, len(found) - 1, 2):
            one, other = found[i], found[i + 1]
            found[i], found[i + 1] = np.minimum(one, other), np.maximum(one, other)
    return found


def _narrowed(name: str, numbers: _Wide) -> Numbers:
    """As float32, in which everything is kept.

    Raises:
        MalformedRecordError: If a number is too large for that.
    """
    try:
        with np.errstate(over="raise"):
            return numbers.astype(np.float32)
    except FloatingPointError as error:
        raise MalformedRecordError(
            f"outer step of {name}",
            float(np.abs(numbers).max()),
            "numbers that float32 can hold",
            "Set max_norm in the round's plan, so that such a delta is refused.",
        ) from error


def _squared_distance(one: Numbers, other: Numbers) -> float:
    return float(np.square(one - other, dtype=np.float64).sum())
