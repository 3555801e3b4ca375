"""How near generated clips lie to true ones, clip by clip."""

# N true clips, D numbers of a feature, S seeds, P prompts

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_jobs.posttrain.spec import FootageClip

TRUE = "true"

Features = NDArray[np.float64]


@dataclass(frozen=True)
class Nearness:
    """True clips in some feature spaces.

    Attributes:
        truth: Features by space, (N, D) each.
        facts: Of the true clips.
        scales: By space, what each number is divided by before distances are taken.
    """

    truth: Mapping[str, Features]
    facts: Sequence[FootageClip]
    scales: Mapping[str, Features]

    @classmethod
    def among(
        cls, truth: Mapping[str, Features], facts: Sequence[FootageClip], *, unit: Sequence[str]
    ) -> "Nearness":
        """With each number of a space over its deviation among the true clips; `unit` spaces as they are."""
        scales = {
            space: np.ones(found.shape[1]) if space in unit else _deviation(found)
            for space, found in truth.items()
        }
        return cls(truth, facts, scales)

    def of(
        self, features: Mapping[str, Features], facts: FootageClip, *, without: int = -1
    ) -> dict[str, float]:
        """Measures of one clip.

        Args:
            features: By space, (D,).
            facts: Of the true clip that it was asked to be like.
            without: Number of a true clip that is left out; -1: none.

        Returns:
            By space: `nearest_`, the distance to the nearest true clip of the institution; `right_`, whether the
            nearest of all true clips is of that institution; `same_`, the distance to the true clip itself.
        """
        found: dict[str, float] = {}
        alike = np.array([one.institution == facts.institution for one in self.facts])
        same = [one.recipe_id for one in self.facts].index(facts.recipe_id)
        for space, given in features.items():
            away = np.linalg.norm((self.truth[space] - given) / self.scales[space], axis=1)
            kept = np.arange(len(away)) != without
            found[f"nearest_{space}"] = float(away[alike & kept].min())
            found[f"right_{space}"] = float(alike[np.argmin(np.where(kept, away, np.inf))])
            if same != without:
                found[f"same_{space}"] = float(away[same])
        return found

    def of_truth(self) -> Iterator[dict[str, Any]]:
        """The same for every true clip, among the others: how well a perfect generator would do."""
        for number, facts in enumerate(self.facts):
            own = {space: found[number] for space, found in self.truth.items()}
            yield {"group": TRUE, "prompt": number, **self.of(own, facts, without=number)}


def by_seed_and_prompt(rows: Sequence[Mapping[str, Any]], group: str, measure: str) -> Features:
    """A measure of a group's clips, (S, P) in order."""
    found = [row for row in rows if row["group"] == group and row["seed"] >= 0]
    found.sort(key=lambda row: (row["seed"], row["prompt"]))
    num_seeds = len({row["seed"] for row in found})
    return np.array([row[measure] for row in found]).reshape(num_seeds, -1)


def _deviation(found_ND: Features) -> Features:
    deviation = found_ND.std(axis=0)
    return np.asarray(np.maximum(deviation, 1e-3 * deviation.max()), np.float64)
