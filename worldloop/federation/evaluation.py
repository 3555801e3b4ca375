"""Evaluations: what sites and judges say of a round's candidate, merged into one record.

Only ids, keys of places and numbers come from a site. Losses are paired: the same clip, noise and
noise levels under the adapter before and the one after, so that a difference is the adapter's.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import chain
from typing import Any, Self, TypeVar

import numpy as np

from worldloop.cosmos.gates import Estimate
from worldloop.errors import MalformedRecordError
from worldloop.federation.envelopes import MAX_NUMBER
from worldloop.federation.rounds import RoundPlan
from worldloop.seeds import stream

EVALUATION_VERSION = 1
SCORES_VERSION = 1
BEFORE, AFTER, FOOTAGE = "before", "after", "footage"
CHANGE = f"{AFTER} - {BEFORE}"
NUM_RESAMPLES = 2000
_INTERVAL = (5, 95)  # percentiles
# further out no model is, and ratios of losses and their means stay finite
_LEAST_LOSS, _MOST_LOSS = 1e-15, 1e15

Row = TypeVar("Row")


@dataclass(frozen=True)
class PairedLoss:
    """The denoising loss of one clip that nobody trained on, before and after.

    Attributes:
        recipe_id: Of the clip.
        city: Key of its city; empty where unknown.
        institution: Key of its institution; empty where unknown.
        before: Mean over noise levels under the adapter that the round started from.
        after: The same under the candidate, at the same noise.
        before_other: The first one with the caption of another clip; None where not measured.
        after_other: The second one likewise.
        site: Who measured it.
    """

    recipe_id: str
    city: str
    institution: str
    before: float
    after: float
    before_other: float | None = None
    after_other: float | None = None
    site: str = ""

    @property
    def place(self) -> str:
        """`tokyo/zoo`; empty where unknown."""
        return f"{self.city}/{self.institution}" if self.city else ""

    @property
    def change(self) -> float:
        """Relative change of the loss; negative is better."""
        return self.after / self.before - 1

    @property
    def caption_gain_change(self) -> float | None:
        """How much more the candidate gains from the right caption, as a share of the loss before."""
        if self.before_other is None or self.after_other is None:
            return None
        gained = (self.after_other - self.after) - (self.before_other - self.before)
        return gained / self.before


@dataclass(frozen=True)
class Nearest:
    """How near a sample lies to the nearest window of a site's training footage.

    Attributes:
        adapter: `before` or `after`.
        sample: Its number.
        similarity: Cosine of normalised latents.
        typical: 95th percentile of the same for held-out footage of the site.
        site: Whose footage.
    """

    adapter: str
    sample: int
    similarity: float
    typical: float
    site: str = ""


@dataclass(frozen=True)
class Score:
    """What a judge says of a group of clips.

    Attributes:
        group: `before`, `after`, `footage`, or `after - before` for the paired difference.
        measure: As in `JudgeReport.scores`.
        judge: Name of the model or method.
        value: The score.
        low: Lower end of its 90 % bootstrap interval over clips.
        high: Upper end.
        num_clips: Clips that it rests on.
    """

    group: str
    measure: str
    judge: str
    value: float
    low: float
    high: float
    num_clips: int

    def __post_init__(self) -> None:
        """Refuse what is no number: it would pass every comparison.

        Raises:
            MalformedRecordError: Naming the measure.
        """
        if not all(map(math.isfinite, (self.value, self.low, self.high))):
            raise MalformedRecordError(
                f"score {self.measure} of {self.group}",
                (self.value, self.low, self.high),
                "finite numbers",
                "Judge again; samples without a picture give none.",
            )


@dataclass(frozen=True)
class Guarded:
    """What the guards said of the candidate's samples.

    Attributes:
        num_samples: Prompts that were asked for.
        num_stopped: How many a guard stopped.
        guards: Names of the guards that ran; empty: none.
    """

    num_samples: int
    num_stopped: int
    guards: tuple[str, ...] = ()


@dataclass(frozen=True)
class AdapterSize:
    """How long a candidate's change is.

    Attributes:
        change: Length of candidate minus start of the round.
        num_parameters: Trained numbers.
    """

    change: float
    num_parameters: int


@dataclass(frozen=True)
class SiteScores:
    """What one site measured; the whole of what it sends.

    Attributes:
        site: Who.
        round: Of the plan.
        plan_id: Of the plan.
        adapter_sha256: Of the candidate.
        losses: One row a held-out clip.
        nearest: One row a sample and adapter.
        num_training_clips: Clips of the site that the round may train on.
        drift: Distance of new footage from that of the base's round, by feature space; scalars, see
            `worldloop.federation.drift`.
        wall_s: Seconds that measuring took.
        gpu_s: The same on a GPU; 0 on a CPU.
    """

    site: str
    round: str
    plan_id: str
    adapter_sha256: str
    losses: tuple[PairedLoss, ...]
    nearest: tuple[Nearest, ...] = ()
    num_training_clips: int = 0
    drift: Mapping[str, float] = field(default_factory=dict)
    wall_s: float = 0.0
    gpu_s: float = 0.0
    scores_version: int = SCORES_VERSION

    def __post_init__(self) -> None:
        """Refuse numbers that no measurement gives.

        Raises:
            MalformedRecordError: Naming the site and what is odd.
        """
        _check_losses(f"scores of site {self.site}", self.losses)
        for seconds in (self.wall_s, self.gpu_s):
            if not 0 <= seconds <= MAX_NUMBER:
                raise MalformedRecordError(
                    f"scores of site {self.site}, seconds",
                    seconds,
                    f"0 to {MAX_NUMBER:g}",
                    "Measure again.",
                )
        for row in self.nearest:
            if not (math.isfinite(row.similarity) and math.isfinite(row.typical)):
                raise MalformedRecordError(
                    f"scores of site {self.site}, sample {row.sample}",
                    (row.similarity, row.typical),
                    "finite similarities",
                    "Measure again.",
                )

    @classmethod
    def from_report(
        cls,
        report: Mapping[str, Any],
        *,
        site: str,
        plan: RoundPlan,
        adapter_sha256: str,
        num_training_clips: int = 0,
        drift: Mapping[str, float] | None = None,
    ) -> Self:
        """Scores out of a `MeasureReport` whose adapters are named `before` and `after`.

        Args:
            report: The report as a mapping.
            site: Who measured.
            plan: Of the round.
            adapter_sha256: Of the candidate's file.
            num_training_clips: As the attribute.
            drift: As the attribute.

        Raises:
            MalformedRecordError: If a clip was not measured under both.
        """
        return cls(
            site=site,
            round=plan.round,
            plan_id=plan.plan_id,
            adapter_sha256=adapter_sha256,
            losses=paired_losses(report, site=site),
            nearest=tuple(
                _read(Nearest, {**row, "site": site}, f"report of {site}, nearest")
                for row in report["nearest"]
            ),
            num_training_clips=num_training_clips,
            drift=dict(drift or {}),
            wall_s=float(report.get("wall_s", 0.0)),
            gpu_s=float(report.get("gpu_s", 0.0)),
        )

    def to_record(self) -> dict[str, Any]:
        """The JSON record, which leaves the site."""
        record = asdict(self)
        return {**record, "losses": list(record["losses"]), "nearest": list(record["nearest"])}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Read a record.

        Raises:
            MalformedRecordError: If a field is missing, unknown or odd.
        """
        _check_version("scores of a site", record, "scores_version", SCORES_VERSION)
        what = f"scores of site {record.get('site')}"
        lists = {
            "losses": _rows(PairedLoss, record, "losses", what),
            "nearest": _rows(Nearest, record, "nearest", what),
        }
        return _read(cls, {**record, **lists}, what)


@dataclass(frozen=True)
class Evaluation:
    """All that is known of a round's candidate.

    Attributes:
        round: Partition key.
        plan_id: Of the round's plan.
        adapter_sha256: Of the candidate.
        weights: Weight of each site whose scores are in; they sum to 1.
        missing_sites: Planned sites whose scores did not come.
        clips: Held-out clips of all sites.
        nearest: Samples against training footage, of all sites.
        anchor: Losses on the plan's folder of real footage.
        scores: What judges say.
        clip_scores: One row a sample: group, index and each measure of a single clip.
        guarded: What guards said; None: not known.
        size: Length of the change; None: not known.
        lineage_depth: Rounds of generated footage beneath the candidate.
        drift: By site and feature space.
        versions: Versions and hardware of the judges.
    """

    round: str
    plan_id: str
    adapter_sha256: str
    weights: Mapping[str, float]
    missing_sites: tuple[str, ...]
    clips: tuple[PairedLoss, ...]
    nearest: tuple[Nearest, ...] = ()
    anchor: tuple[PairedLoss, ...] = ()
    scores: tuple[Score, ...] = ()
    clip_scores: tuple[Mapping[str, Any], ...] = ()
    guarded: Guarded | None = None
    size: AdapterSize | None = None
    lineage_depth: int = 0
    drift: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    evaluation_version: int = EVALUATION_VERSION

    def judged(
        self,
        report: Mapping[str, Any] | None,
        *,
        guarded: Guarded | None = None,
        size: AdapterSize | None = None,
        anchor: Mapping[str, Any] | None = None,
    ) -> Self:
        """This evaluation with what was measured at the coordinator.

        Args:
            report: A `JudgeReport` as a mapping, with the groups `before` and `after`; None: not judged.
            guarded: What the guards said of the samples.
            size: Length of the change.
            anchor: A `MeasureReport` of the anchor folder as a mapping; its clips are numbered, because
                their ids are names of a user's files.
        """
        judged = report or {"scores": (), "clips": (), "versions": {}}
        what = f"judge's report of round {self.round}"
        return replace(
            self,
            scores=tuple(_read(Score, row, what) for row in judged["scores"]),
            clip_scores=tuple(judged["clips"]),
            versions=dict(judged["versions"]),
            guarded=guarded,
            size=size,
            anchor=_anonymous(paired_losses(anchor, site="anchor")) if anchor else (),
        )

    def score(self, group: str, measure: str) -> Score | None:
        """One score; None where it is not there."""
        return next((s for s in self.scores if (s.group, s.measure) == (group, measure)), None)

    def to_record(self) -> dict[str, Any]:
        """The JSON record; `places` and `overall` stand in it for readers and are derived."""
        record = asdict(self)
        for name in (*_TABLES, "clip_scores", "missing_sites"):
            record[name] = list(record[name])
        if self.guarded:
            record["guarded"]["guards"] = list(self.guarded.guards)
        return {
            **record,
            "places": [asdict(row) for row in places(self)],
            "overall": asdict(overall_change(self)) if self.clips else None,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Read a record of any released version, in today's fields.

        Raises:
            MalformedRecordError: If the version is not one that we read, or a field is missing or odd.
        """
        _check_version("evaluation", record, "evaluation_version", EVALUATION_VERSION)
        what = f"evaluation of round {record.get('round')}"
        read: dict[str, Any] = {k: v for k, v in record.items() if k not in ("places", "overall")}
        for name, kind in _TABLES.items():
            read[name] = _rows(kind, record, name, what)
        for name in ("clip_scores", "missing_sites"):
            read[name] = tuple(record.get(name, ()))
        if guarded := record.get("guarded"):
            read["guarded"] = _read(
                Guarded, {**guarded, "guards": tuple(guarded.get("guards", ()))}, what
            )
        if size := record.get("size"):
            read["size"] = _read(AdapterSize, size, what)
        return _read(cls, read, what)


_TABLES: Mapping[str, type[Any]] = {
    "clips": PairedLoss,
    "nearest": Nearest,
    "anchor": PairedLoss,
    "scores": Score,
}


@dataclass(frozen=True)
class PlaceScore:
    """The losses of one place, or of all clips of a city or institution.

    Attributes:
        place: `tokyo/zoo`, `tokyo` or `zoo`.
        num_clips: Held-out clips that it rests on.
        before: Mean loss before.
        after: Mean loss after.
        change: Mean of the clips' relative changes; negative is better.
        low: Lower end of its 90 % interval.
        high: Upper end.
    """

    place: str
    num_clips: int
    before: float
    after: float
    change: float
    low: float
    high: float


def paired_losses(report: Mapping[str, Any], *, site: str) -> tuple[PairedLoss, ...]:
    """Rows of a `MeasureReport`, one a clip instead of one a clip and adapter.

    Raises:
        MalformedRecordError: If a clip was not measured under both, or a loss is odd.
    """
    found: dict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for row in report["losses"]:
        found[row["recipe_id"]][row["adapter"]] = row
    lone = sorted(name for name, under in found.items() if not {BEFORE, AFTER} <= under.keys())
    if lone:
        raise MalformedRecordError(
            f"measurements of {site}, clip {lone[0]}",
            sorted(found[lone[0]]),
            f"losses under the adapters {BEFORE!r} and {AFTER!r}",
            "Measure both in one job.",
        )
    paired = tuple(
        PairedLoss(
            recipe_id=name,
            city=under[BEFORE]["city"],
            institution=under[BEFORE]["institution"],
            before=float(under[BEFORE]["loss"]),
            after=float(under[AFTER]["loss"]),
            before_other=under[BEFORE].get("loss_other_caption"),
            after_other=under[AFTER].get("loss_other_caption"),
            site=site,
        )
        for name, under in found.items()
    )
    _check_losses(f"measurements of {site}", paired)
    return paired


def merge(
    plan: RoundPlan,
    scores: Iterable[SiteScores],
    *,
    adapter_sha256: str,
    weights: Mapping[str, float] | None = None,
    lineage_depth: int | None = None,
) -> Evaluation:
    """The scores of all sites as one evaluation.

    Args:
        plan: Of the round.
        scores: Of the sites that answered, in any order.
        adapter_sha256: Of the candidate.
        weights: How much each site counts; by default by its held-out clips, so that each clip counts
            once. Sites without clips count nothing.
        lineage_depth: Of the candidate; the base's by default.

    Raises:
        MalformedRecordError: If scores are of another plan or candidate, or a site answers twice.
    """
    by_site: dict[str, SiteScores] = {}
    for one in scores:
        _check_belongs(one, plan, adapter_sha256, by_site)
        by_site[one.site] = one
    present = [by_site[site] for site in plan.sites if site in by_site]
    raw = {
        one.site: (weights or {}).get(one.site, 0.0) if weights else float(len(one.losses))
        for one in present
        if one.losses
    }
    total = sum(raw.values())
    return Evaluation(
        round=plan.round,
        plan_id=plan.plan_id,
        adapter_sha256=adapter_sha256,
        weights={site: value / total for site, value in raw.items()} if total else {},
        missing_sites=tuple(site for site in plan.sites if site not in by_site),
        clips=tuple(
            replace(row, site=one.site)
            for one in present
            for row in sorted(one.losses, key=lambda row: row.recipe_id)
        ),
        nearest=tuple(replace(row, site=one.site) for one in present for row in one.nearest),
        lineage_depth=plan.base.lineage_depth if lineage_depth is None else lineage_depth,
        drift={one.site: dict(one.drift) for one in present if one.drift},
    )


def overall_change(evaluation: Evaluation) -> Estimate:
    """Relative change of the held-out loss over all sites, by their weights, with a 90 % interval.

    Clips are resampled within each site, so that the weights stay as they are.

    Raises:
        MalformedRecordError: If there is no clip with a weight.
    """
    groups = [
        (weight, [row.change for row in evaluation.clips if row.site == site])
        for site, weight in sorted(evaluation.weights.items())
    ]
    groups = [(weight, changes) for weight, changes in groups if weight and changes]
    if not groups:
        raise MalformedRecordError(
            f"evaluation of round {evaluation.round}",
            "no held-out clip with a weight",
            "losses of at least one site",
            "Run the sites' scores again.",
        )
    means = sum(
        weight * _resampled(changes, "overall", str(i))
        for i, (weight, changes) in enumerate(groups)
    )
    found = sum(weight * float(np.mean(changes)) for weight, changes in groups)
    low, high = np.percentile(means, _INTERVAL)
    return Estimate(float(found), float(low), float(high))


def mean_interval(values: Sequence[float], *names: str) -> Estimate:
    """Mean with a 90 % bootstrap interval; the same values and names give the same interval.

    Raises:
        ValueError: If there is no value.

    Example:
        >>> mean_interval([1.0, 1.0])
        Estimate(mean=1.0, low=1.0, high=1.0)
    """
    if not len(values):
        raise ValueError("A mean of no values was asked for; give at least one.")
    low, high = np.percentile(_resampled(values, *names), _INTERVAL)
    return Estimate(float(np.mean(values)), float(low), float(high))


def places(evaluation: Evaluation) -> tuple[PlaceScore, ...]:
    """One row a place with held-out clips, by its key."""
    return _grouped(evaluation.clips, lambda row: row.place)


def cells(evaluation: Evaluation, *, min_clips: int) -> tuple[PlaceScore, ...]:
    """Every place, city and institution with enough held-out clips."""
    keys: tuple[Callable[[PairedLoss], str], ...] = (
        lambda row: row.place,
        lambda row: row.city,
        lambda row: row.institution,
    )
    found = chain.from_iterable(_grouped(evaluation.clips, key) for key in keys)
    return tuple(row for row in found if row.num_clips >= min_clips)


def weakest_places(
    evaluation: Evaluation, n: int, *, among: Iterable[str] | None = None
) -> tuple[str, ...]:
    """Places to regenerate first: where the model before did badly and the candidate does better.

    The order is by the mean of two ranks, of the loss before and of its relative change. Places that the
    candidate did not improve are left out. A place without held-out clips takes the figures of its
    institution, and comes behind a measured one of equal rank.

    Args:
        evaluation: Of the round.
        n: Most places.
        among: Places to choose from; those with held-out clips by default.
    """
    measured = {row.place: row for row in places(evaluation)}
    of_institution = {row.place: row for row in _grouped(evaluation.clips, lambda r: r.institution)}
    wanted = sorted(measured) if among is None else sorted(set(among))
    rows = {
        place: row
        for place in wanted
        if (row := measured.get(place) or of_institution.get(place.partition("/")[2]))
        and row.change < 0
    }
    by_loss = _ranks({place: -row.before for place, row in rows.items()})
    by_change = _ranks({place: row.change for place, row in rows.items()})
    order = sorted(rows, key=lambda p: (by_loss[p] + by_change[p], p not in measured, p))
    return tuple(order[:n])


def _anonymous(rows: Sequence[PairedLoss]) -> tuple[PairedLoss, ...]:
    """Rows without names of files and places."""
    return tuple(
        replace(row, recipe_id=f"anchor{number:04d}", city="", institution="")
        for number, row in enumerate(rows)
    )


def _grouped(
    rows: Sequence[PairedLoss], key: Callable[[PairedLoss], str]
) -> tuple[PlaceScore, ...]:
    groups: dict[str, list[PairedLoss]] = defaultdict(list)
    for row in rows:
        if name := key(row):
            groups[name].append(row)
    return tuple(_place_score(name, groups[name]) for name in sorted(groups))


def _place_score(name: str, rows: Sequence[PairedLoss]) -> PlaceScore:
    change = mean_interval([row.change for row in rows], "place", name)
    return PlaceScore(
        place=name,
        num_clips=len(rows),
        before=float(np.mean([row.before for row in rows])),
        after=float(np.mean([row.after for row in rows])),
        change=change.mean,
        low=change.low,
        high=change.high,
    )


def _resampled(values: Sequence[float], *names: str) -> Any:
    given = np.asarray(values, np.float64)
    drawn = stream("evaluation bootstrap", *names).integers(
        0, len(given), (NUM_RESAMPLES, len(given))
    )
    return given[drawn].mean(axis=1)


def _ranks(values: Mapping[str, float]) -> dict[str, int]:
    """Place of each value, ascending; equal values share the lowest."""
    order = sorted(values.values())
    return {name: order.index(value) for name, value in values.items()}


def _check_losses(what: str, rows: Sequence[PairedLoss]) -> None:
    seen: set[str] = set()
    for row in rows:
        given = [row.before, row.after, row.before_other, row.after_other]
        numbers = [value for value in given if value is not None]
        if not all(_LEAST_LOSS <= value <= _MOST_LOSS for value in numbers):
            raise MalformedRecordError(
                f"{what}, clip {row.recipe_id}",
                numbers,
                f"losses above 0, from {_LEAST_LOSS:g} to {_MOST_LOSS:g}",
                "The adapter gives no numbers there; train it again.",
            )
        if row.recipe_id in seen:
            raise MalformedRecordError(
                what, f"clip {row.recipe_id} twice", "each clip once", "Measure again."
            )
        seen.add(row.recipe_id)


def _check_belongs(
    scores: SiteScores, plan: RoundPlan, adapter_sha256: str, known: Mapping[str, SiteScores]
) -> None:
    found = (scores.round, scores.plan_id, scores.adapter_sha256)
    expected = (plan.round, plan.plan_id, adapter_sha256)
    if found != expected:
        raise MalformedRecordError(
            f"scores of site {scores.site}",
            found,
            f"round, plan and candidate {expected}",
            "Measure the candidate of this round.",
        )
    if scores.site not in plan.sites or scores.site in known:
        raise MalformedRecordError(
            f"scores for round {plan.round}",
            f"site {scores.site!r}" + (" twice" if scores.site in known else ""),
            f"each of {list(plan.sites)} at most once",
            "Send them under the site's own name.",
        )


def _check_version(what: str, record: Mapping[str, Any], name: str, newest: int) -> None:
    version = record.get(name)
    if not isinstance(version, int) or not 1 <= version <= newest:
        raise MalformedRecordError(
            what,
            version,
            f"{name} 1 to {newest}",
            "Read it with the release of worldloop that wrote it.",
        )


def _rows(kind: type[Row], record: Mapping[str, Any], name: str, what: str) -> tuple[Row, ...]:
    return tuple(_read(kind, row, f"{what}, {name}") for row in record.get(name, ()))


def _read(kind: type[Row], record: Mapping[str, Any], what: str) -> Row:
    known = {one.name for one in fields(kind)}  # type: ignore[arg-type]  # every kind is a dataclass
    unknown = sorted(set(record) - known)
    try:
        if unknown:
            raise TypeError(f"unknown field {unknown[0]!r}")
        return kind(**record)
    except TypeError as error:
        raise MalformedRecordError(
            what, str(error), "the fields of docs/formats.md", "Write it again."
        ) from error
