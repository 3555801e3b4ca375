"""Which scenes a finite wave should hold so that every pair of values is seen: a greedy planner.

A pair is two values of two dimensions, `winter` with `crowded`; it is valid if some possible scene has
both. Scene by scene the planner takes the place that is furthest behind its target or its fair share,
then the possible values there that cover most pairs which nobody has covered yet.

    python -m worldloop.scenes.coverage --num 10000
"""

import argparse
import itertools
import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from worldloop.atlas.atlas import Atlas, load_atlas
from worldloop.errors import MalformedRecordError, UnknownKeyError
from worldloop.scenes.dimensions import (
    CAMERAS,
    DIMENSIONS,
    FREE,
    Asked,
    Possible,
    Space,
    impossible,
    names_of,
    space_of,
)
from worldloop.scenes.draws import draw, purpose_key
from worldloop.scenes.scene import SKETCH_CAMERAS
from worldloop.worlds.grammar import GRAMMARS

AXES = ("season", "daypart", "crowd", "weather", "camera", "category")
"""The free dimensions in the order of the axes of `Possible.joint`."""
PAIRS = tuple(itertools.combinations(DIMENSIONS, 2))
_AGAIN = 0.02  # what a pair is worth that is covered already, divided by how often
_LIKELY = 4.0  # worth of weather that the climate always has, over how often it was planned then
_MOST_LIKELY = 0.9  # less than a pair that is not covered
_TIE = 1e-4  # random part of a score, so that equal ones do not always fall to the first
_GOLDEN = 0.6180339887498949  # its multiples are spread evenly between 0 and 1
_PRIOR = (1, 2)  # clips accepted and made that each place starts with
_LEAST_RATE = 0.2  # a place of which nothing is ever accepted must not take most of a wave


@dataclass(frozen=True)
class PlannedScene:
    """A place, and the values of its free dimensions that cover most."""

    city: str
    institution: str
    asked: dict[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """City and institution, `tokyo/zoo`."""
        return f"{self.city}/{self.institution}"


@dataclass(frozen=True)
class PairCoverage:
    """How many pairs of two dimensions are covered.

    Attributes:
        pair: The two dimensions.
        num_valid: Pairs of values that some possible scene has.
        num_covered: Of them, those that the scenes have.
        ceiling: The most that so many scenes could cover.
    """

    pair: tuple[str, str]
    num_valid: int
    num_covered: int
    ceiling: int

    @property
    def share(self) -> float:
        """Covered share of the valid pairs."""
        return self.num_covered / self.num_valid if self.num_valid else 1.0


class CoveragePlanner:
    """Chooses scenes one by one and keeps count of what they cover.

    Example:
        >>> planner = CoveragePlanner(load_atlas(), sketch=True)
        >>> city, institution = planner.choose_place()
        >>> sorted(planner.plan_at(city, institution).asked)
        ['camera', 'category', 'crowd', 'daypart', 'season', 'weather']
    """

    def __init__(
        self,
        atlas: Atlas,
        *,
        history: Iterable[PlannedScene] = (),
        weights: Mapping[str, float] | None = None,
        mix: Mapping[str, float] | None = None,
        sketch: bool = False,
        seed: int = 0,
    ):
        """Count what was planned before.

        Args:
            atlas: Where the places are described.
            history: Scenes of earlier waves; what they asked for is covered.
            weights: How often places should come, relative to 1 for all others, by
                `<city>/<institution>`, `<city>/*` or `*/<institution>`; 0 leaves them out.
            mix: Shares of content categories; those that are not named get none. Empty: no shares.
            sketch: Whether the procedural renderer must be able to show the scenes.
            seed: Decides ties.

        Raises:
            UnknownKeyError: If a city, an institution or a category is unknown.
            MalformedRecordError: If a weight or share is no number from 0, a weight is of a place that
                is not there, or all shares are 0.
        """
        self.space: Space = space_of(atlas)
        self._atlas, self._sketch, self._seed = atlas, sketch, seed
        space = self.space
        self._weights = self._place_weights(weights or {})
        self._mix = self._category_shares(mix or {})
        self._counts = {
            pair: np.zeros([len(names_of(space, name)) for name in pair], np.int32)
            for pair in PAIRS
        }
        self._by_place = np.zeros(space.has.shape, np.int32)
        self._by_weather = np.zeros(self.space.season_weather.shape, np.int32)
        self._by_category = np.zeros(len(space.categories), np.int32)
        self._continents = np.array(
            [
                sorted({c.continent for c in atlas.cities.values()}).index(c.continent)
                for c in atlas.cities.values()
            ]
        )
        self._num_drawn = 0
        codes: Mapping[str, dict[str, int]] = {
            name: {value: code for code, value in enumerate(names_of(space, name))}
            for name in DIMENSIONS
        }
        for scene in history:
            self._count(codes, scene)

    # -------------------------------------------------------------------- places

    def choose_place(
        self,
        *,
        chosen: Sequence[tuple[str, str]] = (),
        category: str = "",
        asked: Asked | None = None,
    ) -> tuple[str, str]:
        """The place that is furthest behind its fair share: first the city, then its institution.

        Cities that are equally far are spread over the continents.

        Args:
            chosen: Places that were chosen and not yet planned; their cities are left out.
            category: A content category that the place must be able to show.
            asked: Values that some scene of the place must be able to have.

        Raises:
            UnknownKeyError: If a value is unknown.
            MalformedRecordError: If no place is left.
        """
        weights = self._weights.copy()
        weights[[self.space.city_codes[city] for city, _ in chosen]] = 0
        if category:
            weights[:, ~self._shows()[:, self.space.categories.index(category)]] = 0
        while True:
            codes = self._furthest_behind(weights, chosen)
            if not asked or Possible(self.space, *codes, asked, sketch=self._sketch).joint().any():
                return self.space.cities[codes[0]], self.space.institutions[codes[1]]
            weights[codes] = 0

    def _furthest_behind(
        self, weights: NDArray[np.float64], chosen: Sequence[tuple[str, str]]
    ) -> tuple[int, int]:
        """Codes of the next place, of those that have a weight."""
        by_city = weights.sum(axis=1)
        if not by_city.any():
            raise MalformedRecordError(
                "places of a wave",
                0,
                "some place with a weight where all that is asked for can be",
                "Raise a weight, plan fewer cities, or ask for less.",
            )
        luck = self._luck(len(by_city) + weights.shape[1])
        left = by_city > 0
        behind = np.where(left, self._by_place.sum(axis=1) / np.where(left, by_city, 1), np.inf)
        counts = np.bincount(self._continents, self._by_place.sum(axis=1))
        spread = counts[self._continents] + self._on_continents(chosen)
        city = int(np.lexsort((luck[: len(by_city)], spread, behind))[0])
        row = weights[city]
        behind = np.where(row > 0, self._by_place[city] / np.where(row > 0, row, 1), np.inf)
        total = self._by_place.sum(axis=0) + self._of_kinds(chosen)
        total = total / np.maximum(self._weights.sum(axis=0), 1e-9)
        kind = int(np.lexsort((luck[len(by_city) :], total, behind))[0])
        return city, kind

    def choose_category(self) -> str:
        """The category of the mix that is furthest behind its share; empty without a mix."""
        if not self._mix.any():
            return ""
        due = self._mix * (self._by_category.sum() + 1) - self._by_category
        return self.space.categories[int(due.argmax())]

    def category_of_turn(self, number: int) -> str:
        """The category of the mix that the place of a turn should be able to show; empty without a mix.

        Args:
            number: How many places were chosen and not yet planned.
        """
        shares = self._mix.cumsum()
        if not shares[-1]:
            return ""
        point = (number * _GOLDEN) % 1.0
        return self.space.categories[int((shares > point).argmax())]

    # -------------------------------------------------------------------- values

    def plan_in_mix(self, city: str, institution: str, asked: Asked) -> PlannedScene:
        """As `plan_at`, with the category that is furthest behind its share, of those that fit.

        Raises:
            UnknownKeyError: If a value is unknown.
            MalformedRecordError: If nothing that was asked for is possible there.
        """
        if not self._mix.any() or "category" in asked:
            return self.plan_at(city, institution, asked)
        space = self.space
        codes = space.city_codes[city], space.institution_codes[institution]
        space.prepare(codes[0])
        fits = Possible(space, *codes, asked, sketch=self._sketch).values(space)["category"]
        due = self._mix * (self._by_category.sum() + 1) - self._by_category
        wanted = [name for name in fits if self._mix[space.categories.index(name)]]
        if not wanted:
            raise MalformedRecordError(
                f"category mix at {city}/{institution}",
                [name for name, share in zip(space.categories, self._mix, strict=True) if share],
                f"one of {', '.join(fits)}",
                "Add one of them to the mix, or leave the place out.",
            )
        category = max(wanted, key=lambda name: due[space.categories.index(name)])
        return self.plan_at(city, institution, {**asked, "category": category})

    def plan_at(self, city: str, institution: str, asked: Asked | None = None) -> PlannedScene:
        """The values at a place that cover most, given those that are asked for; it counts as planned.

        Raises:
            UnknownKeyError: If a value is unknown.
            MalformedRecordError: If nothing that was asked for is possible there.
        """
        space = self.space
        codes = space.city_codes[city], space.institution_codes[institution]
        possible = Possible(space, *codes, asked or {}, sketch=self._sketch)
        joint = possible.joint()
        if not joint.any():
            raise impossible(space, *codes, asked or {}, sketch=self._sketch)
        score = np.where(joint, self._score(*codes), -1)
        best = np.unravel_index(int(score.argmax()), score.shape)
        chosen = dict(zip(AXES, (int(code) for code in best), strict=True))
        values = {name: names_of(space, name)[chosen[name]] for name in FREE}
        self._add({"city": codes[0], "institution": codes[1], **chosen})
        return PlannedScene(city, institution, values)

    def _score(self, city: int, institution: int) -> NDArray[np.float32]:
        """Worth of every combination of free values: of all pairs that it would cover."""
        score = np.zeros([len(names_of(self.space, name)) for name in AXES], np.float32)
        num_axes = len(AXES)
        parts = self._unary(city, institution)
        groups: dict[tuple[int, ...], NDArray[np.float32]] = {}
        for (first, a), (second, b) in itertools.combinations(enumerate(AXES), 2):
            shape = [1] * num_axes
            shape[first], shape[second] = score.shape[first], score.shape[second]
            worth = self._worth(a, b)
            if parts.get(a) is not None:
                worth = worth + parts.pop(a)[:, None]
            if second == num_axes - 1 and parts.get(b) is not None:
                worth = worth + parts.pop(b)[None]
            key = (0,) if second < 3 else (1,) if first < 3 and second == 3 else (2,)
            groups[key] = groups.get(key, np.zeros(1, np.float32)) + worth.reshape(shape)
        for part in groups.values():  # small sums first
            score += part
        score += self._likely_weather(city)[:, None, None, :, None, None]
        luck = self._luck(score.shape[0] * score.shape[1] * score.shape[2])
        score += (luck.reshape(*score.shape[:3], 1, 1, 1) * _TIE).astype(np.float32)
        return score

    def _likely_weather(self, city: int) -> NDArray[np.float32]:
        """Worth of each weather in each season: what the climate has more often comes again sooner.

        It is the highest-averages rule of d'Hondt, so that shares in a city's season tend to those of its climate.
        """
        chances = self.space.season_weather[city].astype(np.float32)
        shares = chances / np.maximum(chances.sum(axis=1, keepdims=True), 1)
        worth = _LIKELY * shares / (1 + self._by_weather[city])
        return np.asarray(np.minimum(worth, _MOST_LIKELY))

    def _unary(self, city: int, institution: int) -> dict[str, NDArray[np.float32]]:
        """Worth of each value together with the city and with the institution."""
        return {
            name: self._gain(self._counts["city", name][city])
            + self._gain(self._counts["institution", name][institution])
            for name in AXES
        }

    def _worth(self, a: str, b: str) -> NDArray[np.float32]:
        if (a, b) in self._counts:
            return self._gain(self._counts[a, b])
        return self._gain(self._counts[b, a]).T

    @staticmethod
    def _gain(counts: NDArray[np.int32]) -> NDArray[np.float32]:
        """What one more scene is worth to pairs: all if they are not covered, else little."""
        return np.where(counts == 0, 1, _AGAIN / np.maximum(counts, 1)).astype(np.float32)

    # -------------------------------------------------------------------- counting

    def _count(self, codes: Mapping[str, dict[str, int]], scene: PlannedScene) -> None:
        """Count a scene of earlier waves, as far as its values are known."""
        known = {"city": scene.city, "institution": scene.institution, **scene.asked}
        found = {
            name: codes[name][value]
            for name, value in known.items()
            if name in codes and value in codes[name]
        }
        self._add(found)

    def _add(self, found: Mapping[str, int]) -> None:
        for pair in PAIRS:
            if pair[0] in found and pair[1] in found:
                self._counts[pair][found[pair[0]], found[pair[1]]] += 1
        if "city" in found and "institution" in found:
            self._by_place[found["city"], found["institution"]] += 1
        if {"city", "season", "weather"} <= found.keys():
            self._by_weather[found["city"], found["season"], found["weather"]] += 1
        if "category" in found:
            self._by_category[found["category"]] += 1

    def _luck(self, num: int) -> NDArray[np.float64]:
        """Fresh random numbers below 1."""
        self._num_drawn += 1
        numbers = np.arange(num, dtype=np.uint64)
        key = purpose_key("coverage", self._seed, self._num_drawn)
        return np.asarray((draw(numbers, key) >> np.uint64(11)) * 2.0**-53, np.float64)

    def _on_continents(self, places: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
        """How many of some places lie on the continent of each city."""
        found = [self._continents[self.space.city_codes[city]] for city, _ in places]
        counts = np.bincount(np.array(found, np.int64), minlength=self._continents.max() + 1)
        return np.asarray(counts[self._continents], np.float64)

    def _of_kinds(self, places: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
        """How many of some places each institution is."""
        found = [self.space.institution_codes[kind] for _, kind in places]
        counts = np.bincount(np.array(found, np.int64), minlength=len(self.space.institutions))
        return np.asarray(counts, np.float64)

    def _shows(self) -> NDArray[np.bool_]:
        """Which categories an institution can show, shape (institutions, categories)."""
        cameras = self.space.action_cells
        if self._sketch:
            cameras = cameras[:, np.isin(CAMERAS, SKETCH_CAMERAS)]
        return np.asarray(cameras.any(axis=1))

    def _place_weights(self, wishes: Mapping[str, float]) -> NDArray[np.float64]:
        """Weights of all places, 0 for those that cannot be."""
        space = self.space
        weights = space.has.astype(float)
        if self._sketch:
            weights[:, ~np.isin(space.institutions, list(GRAMMARS))] = 0
        for place, weight in wishes.items():
            if not 0 <= weight < math.inf:
                raise MalformedRecordError(
                    f"weight of {place!r}", weight, "a number from 0", "Write 0 to leave it out."
                )
            if place.count("/") != 1:
                raise MalformedRecordError(
                    "place of a weight",
                    place,
                    "<city>/<institution>",
                    f"Write it like 'tokyo/zoo', or '{place.strip('/') or 'tokyo'}/*' for all of a city.",
                )
            city, _, kind = place.partition("/")
            if "*" not in (city, kind):
                self._atlas.parse_place(place)
            rows = slice(None) if city == "*" else space.city_codes[self._atlas.city(city).key]
            cols = (
                slice(None)
                if kind == "*"
                else space.institution_codes[self._atlas.institution(kind).key]
            )
            weights[rows, cols] *= weight
        return weights

    def _category_shares(self, mix: Mapping[str, float]) -> NDArray[np.float64]:
        """Shares of the categories, which sum to 1; all 0 without a mix."""
        shares = np.zeros(len(self.space.categories))
        for name, share in mix.items():
            if name not in self.space.categories:
                raise UnknownKeyError("content category", name, self.space.categories)
            if not 0 <= share < math.inf:
                raise MalformedRecordError(
                    f"share of category {name!r}",
                    share,
                    "a number from 0",
                    "Leave it out for none.",
                )
            shares[self.space.categories.index(name)] = share
        if mix and not shares.any():
            raise MalformedRecordError(
                "category mix of a wave",
                dict(mix),
                "a share above 0",
                "Leave the mix out for none.",
            )
        shown = self._shows().any(axis=0) if mix else shares > 0
        for name in np.array(self.space.categories)[(shares > 0) & ~shown].tolist():
            raise MalformedRecordError(
                "category mix of a wave",
                name,
                "categories that some of its institutions and cameras can show",
                "Leave it out, or use a world model without sketches.",
            )
        return shares / shares.sum() if shares.any() else shares

    # -------------------------------------------------------------------- reporting

    def coverage(self, num_scenes: int) -> list[PairCoverage]:
        """Coverage of each pair of dimensions, by all that was counted.

        Args:
            num_scenes: How many scenes were planned, for the ceiling.
        """
        valid = valid_pairs(self.space, self._weights > 0, sketch=self._sketch)
        return [
            PairCoverage(
                pair,
                int(valid[pair].sum()),
                int((valid[pair] & (self._counts[pair] > 0)).sum()),
                min(num_scenes, int(valid[pair].sum())),
            )
            for pair in PAIRS
        ]


def planned(
    planner: CoveragePlanner, atlas: Atlas, num_scenes: int, *, targets: Mapping[str, int]
) -> list[PlannedScene]:
    """So many scenes of a planner, those of the targets first.

    Args:
        planner: What it planned before counts.
        atlas: Where the places are described.
        num_scenes: How many.
        targets: How many scenes some places get at least, by `<city>/<institution>`.

    Raises:
        UnknownKeyError: If a place of the targets is unknown.
        MalformedRecordError: If the targets are more than the scenes.
    """
    if sum(targets.values()) > num_scenes:
        raise MalformedRecordError(
            "targets of a wave",
            sum(targets.values()),
            f"at most its {num_scenes} scenes",
            "Plan more scenes, or lower the targets.",
        )
    scenes = []
    for place, count in targets.items():
        city, kind = atlas.parse_place(place)
        scenes += [planner.plan_at(city.key, kind.key) for _ in range(count)]
    while len(scenes) < num_scenes:
        category = planner.choose_category()
        city_key, kind_key = planner.choose_place(category=category)
        scenes.append(planner.plan_in_mix(city_key, kind_key, {}))
    return scenes


def accept_weights(counts: Mapping[str, tuple[int, int]]) -> dict[str, float]:
    """Weights that make up for clips which are not accepted: the inverse of each place's accept rate, at most 5.

    Args:
        counts: Clips accepted and made of each place.

    Example:
        >>> accept_weights({"tokyo/zoo": (9, 18)})
        {'tokyo/zoo': 2.0}
    """
    rates = {
        place: (accepted + _PRIOR[0]) / (made + _PRIOR[1])
        for place, (accepted, made) in counts.items()
    }
    return {place: 1 / max(rate, _LEAST_RATE) for place, rate in rates.items()}


def valid_pairs(
    space: Space, places: NDArray[np.bool_], *, sketch: bool = False
) -> dict[tuple[str, str], NDArray[np.bool_]]:
    """For each pair of dimensions, which pairs of values some possible scene has.

    Args:
        space: Of the atlas.
        places: Which places count, shape (cities, institutions).
        sketch: Whether the procedural renderer must be able to show the scene.
    """
    valid = {pair: np.zeros([len(names_of(space, name)) for name in pair], bool) for pair in PAIRS}
    known: dict[tuple[bytes, bytes, int], dict[tuple[str, ...], NDArray[np.bool_]]] = {}
    for city, kind in np.argwhere(places).tolist():
        space.prepare(city)
        key = space.season_cells[city, kind].tobytes(), space.season_weather[city].tobytes(), kind
        if key not in known:
            known[key] = _projections(Possible(space, city, kind, {}, sketch=sketch).joint())
        found = known[key]
        for names, cells in found.items():
            if len(names) == 1:
                valid["city", names[0]][city] |= cells
                valid["institution", names[0]][kind] |= cells
            else:
                pair = names if names in valid else (names[1], names[0])
                valid[pair] |= cells if names in valid else cells.T
        valid["city", "institution"][city, kind] = found[AXES[:1]].any()
    return valid


def _projections(joint: NDArray[np.bool_]) -> dict[tuple[str, ...], NDArray[np.bool_]]:
    """Which values, and pairs of values, of the free dimensions a joint table has."""
    found: dict[tuple[str, ...], NDArray[np.bool_]] = {}
    axes = range(len(AXES))
    for a, b in itertools.combinations(axes, 2):
        others = tuple(x for x in axes if x not in (a, b))
        found[AXES[a], AXES[b]] = np.asarray(joint.any(axis=others))
    for axis in axes:
        other = 0 if axis else 1
        pair = AXES[min(axis, other)], AXES[max(axis, other)]
        found[(AXES[axis],)] = np.asarray(found[pair].any(axis=1 if axis < other else 0))
    return found


def coverage_table(rows: Sequence[PairCoverage]) -> str:
    """Coverage as lines of text, the worst pair of dimensions first."""
    lines = [f"{'pair':28} {'valid':>7} {'covered':>8} {'share':>8} {'ceiling':>8}"]
    for row in sorted(rows, key=lambda row: row.share):
        ceiling = row.ceiling / max(row.num_valid, 1)
        name = " x ".join(row.pair)
        lines.append(
            f"{name:28} {row.num_valid:7} {row.num_covered:8} {row.share:8.2%} {ceiling:8.2%}"
        )
    others = [row for row in rows if row.pair != ("city", "institution")]
    num_valid = sum(row.num_valid for row in others)
    num_covered = sum(row.num_covered for row in others)
    ceiling = sum(row.ceiling for row in others) / max(num_valid, 1)
    name = "all but city x institution"
    share = num_covered / max(num_valid, 1)
    lines.append(f"{name:28} {num_valid:7} {num_covered:8} {share:8.2%} {ceiling:8.2%}")
    return "\n".join(lines)


def main() -> None:
    """Plan so many scenes and print what they cover."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num", type=int, default=10_000)
    parser.add_argument("--sketch", action="store_true", help="only what can be sketched")
    asked = parser.parse_args()
    atlas, began = load_atlas(), time.process_time()
    planner = CoveragePlanner(atlas, sketch=asked.sketch)
    planned(planner, atlas, asked.num, targets={})
    seconds = time.process_time() - began
    sys.stdout.write(f"{coverage_table(planner.coverage(asked.num))}\n")
    sys.stdout.write(f"{asked.num} scenes planned in {seconds:.1f} CPU-s\n")


if __name__ == "__main__":
    main()
