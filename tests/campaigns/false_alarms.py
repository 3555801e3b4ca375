"""How often a checkpoint that is as good is taken back, and how often a bad one: by slack and number of looks.

Clips are made up: sharpness and motion lognormal around 0.9 of what footage has (widths 0.35 and 0.5), cut off
at 1 as `worldloop.federation.comparisons.quality` does, 90 % accepted, 95 % distinct.

    python -m tests.campaigns.false_alarms [trials]
"""

import sys
from collections.abc import Sequence

import numpy as np

from worldloop.federation.comparisons import MIN_PAIRS
from worldloop.federation.gates import should_roll_back
from worldloop.seeds import stream

LOOKS = tuple(MIN_PAIRS * 2**step for step in range(4))
CASES = {"as good": (1.0, 0.9), "0.7 as sharp and moving": (0.7, 0.9), "0.5 as sharp and moving": (0.5, 0.9), "0.5 accepted": (1.0, 0.5)}  # fmt: skip


def made_up(
    source: np.random.Generator, *, scale: float, accepted: float
) -> dict[str, list[float]]:
    """Scores of as many clips as the last look takes."""
    count = LOOKS[-1]
    return {
        "accepted": (source.random(count) < accepted).astype(float).tolist(),
        "distinct": (source.random(count) < 0.95).astype(float).tolist(),
        "sharpness": np.minimum(0.9 * scale * source.lognormal(0, 0.35, count), 1).tolist(),
        "motion": np.minimum(0.9 * scale * source.lognormal(0, 0.5, count), 1).tolist(),
    }


def taken_back(
    slack: float, looks: Sequence[int], scale: float, accepted: float, trials: int
) -> float:
    """Share of the trials in which any look takes the checkpoint back."""
    found = 0
    for trial in range(trials):
        source = stream("false alarms", trial)
        before = made_up(source, scale=1.0, accepted=0.9)
        after = made_up(source, scale=scale, accepted=accepted)
        found += any(
            should_roll_back(
                {name: values[:size] for name, values in before.items()},
                {name: values[:size] for name, values in after.items()},
                min_pairs=MIN_PAIRS,
                slack=slack,
            ).roll_back
            for size in looks
        )
    return found / trials


def main() -> None:
    """Print the table."""
    trials = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    for slack in (0.0, 0.05, 0.1):
        for name, (scale, accepted) in CASES.items():
            shares = [
                taken_back(slack, looks, scale, accepted, trials) for looks in (LOOKS[:1], LOOKS)
            ]
            print(f"slack {slack:g}, {name}: one look {shares[0]:.1%}, four looks {shares[1]:.1%}")  # noqa: T201


if __name__ == "__main__":
    main()
