"""Options of the strategies: their defaults and ranges, and what is wrong with given ones."""

import math
from collections.abc import Mapping

PRODUCT = "product"  # 1: towards the mean of the factors' products, see factors.py
# FedAdam: Reddi et al., arXiv 2003.00295, betas as there; its learning rate is about how far a number moves in a
# round, so it and tau are of the size of a LoRA delta's numbers, and not tuned. DiLoCo: arXiv 2311.08105, section 3.
OPTIONS: Mapping[str, Mapping[str, float]] = {
    "fedavg": {"learning_rate": 1.0, PRODUCT: 0},
    "fedprox": {"learning_rate": 1.0, PRODUCT: 0},
    "fedadam": {"learning_rate": 1e-3, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-4},
    "diloco": {"learning_rate": 0.7, "momentum": 0.9},
    "trimmed_mean": {"learning_rate": 1.0, "trim": 1},  # sites dropped at each end
    "median": {"learning_rate": 1.0},
}
_FRACTION = (0.0, 1.0)
_RANGES: Mapping[str, tuple[float, float]] = {
    "learning_rate": (math.ulp(0.0), math.inf),
    "momentum": _FRACTION,
    "beta_1": _FRACTION,
    "beta_2": _FRACTION,
    "tau": (math.ulp(0.0), math.inf),
    "trim": (1.0, math.inf),
    PRODUCT: (0.0, 2.0),
}
_WHOLE = {"trim": "a whole number of sites from 1, dropped at each end", PRODUCT: "0 or 1"}

Problem = tuple[str, object, str, str]


def option_problems(strategy: str, options: Mapping[str, float]) -> list[Problem]:
    """What is wrong with the options of a known strategy: field, found, expected, what to do.

    Example:
        >>> option_problems("diloco", {"beta": 0.5})[0][:3]
        ('option of diloco', 'beta', 'one of learning_rate, momentum')
    """
    known = OPTIONS[strategy]
    problems: list[Problem] = [
        (f"option of {strategy}", name, f"one of {', '.join(known)}", "Leave it out.")
        for name in sorted(options.keys() - known.keys())
    ]
    for name in sorted(options.keys() & known.keys()):
        value, (low, high) = options[name], _RANGES[name]
        if not low <= value < high or (name in _WHOLE and value != int(value)):
            problems.append((f"option {name} of {strategy}", value, _spoken(name), "Correct it."))
    return problems


def least_sites(strategy: str, options: Mapping[str, float]) -> int:
    """How many deltas a strategy needs."""
    if strategy != "trimmed_mean":
        return 1
    return 2 * int({**OPTIONS[strategy], **options}["trim"]) + 1


def _spoken(name: str) -> str:
    low, high = _RANGES[name]
    if name in _WHOLE:
        return _WHOLE[name]
    start = "from 0" if low == 0 else "above 0"
    return f"a number {start}" if high == math.inf else f"a number {start} and below {high:g}"
