"""Gates: what a candidate must show before it is promoted, and when a promoted one is taken back.

Every gate answers with what was found, its limit and why. What was not measured has failed, with a
line that says what is missing. Losses come in hundreds of paired clips, so the worse end of their
interval counts. Samples come in tens, and the worse end of an honest interval over tens holds a loss
for nearly every candidate; so a gate on samples refuses what is shown to be worse: there the better
end counts, and too few samples fail. The starter embedder was trained on our own footage, so no gate
passes by its word alone: the distance must hold in a second space as well, and the fit to prompts is
asked beside what the model itself gains from the right caption, and fails only if both fell.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from worldloop.errors import MalformedRecordError, UnknownKeyError
from worldloop.federation.evaluation import (
    AFTER,
    BEFORE,
    CHANGE,
    FOOTAGE,
    Evaluation,
    Nearest,
    PairedLoss,
    cells,
    mean_interval,
    overall_change,
)
from worldloop.federation.rounds import RoundPlan

DISTANCES = ("kernel_distance_starter", "kernel_distance_latent")
STARTER_MEASURES = frozenset({"kernel_distance_starter", "text_cosine"})
_TYPICAL_SHARE = 0.05  # of held-out footage that lies above its own 95th percentile


@dataclass(frozen=True)
class Limit:
    """The default of a limit.

    Attributes:
        value: The default.
        why: Where it comes from.
    """

    value: float
    why: str


LIMITS: Mapping[str, Limit] = MappingProxyType(
    {
        "held_out_loss_max": Limit(
            0.01, "a rise of the paired loss by 1 % is several times what a round gains"
        ),
        "held_out_cell_max": Limit(
            0.05, "a cell has few clips, so its mean is coarse; 5 % is beyond its noise"
        ),
        "must_improve": Limit(
            1.0, "a checkpoint that is not better is not worth a new line; 0 allows it"
        ),
        "min_held_out_clips": Limit(
            12, "a bootstrap over fewer clips gives intervals that are too narrow"
        ),
        "min_cell_clips": Limit(3, "one or two clips say nothing of a cell"),
        "min_samples": Limit(8, "the kernel distance of fewer samples is noise"),
        "distance_rise_max": Limit(
            0.0,
            "the distance is unbiased, so one that is as good rises in half of all rounds, never by more than its interval",
        ),
        "text_cosine_loss_max": Limit(0.02, "as for speed profiles, worldloop.cosmos.gates.Gate"),
        "caption_gain_loss_max": Limit(
            0.01, "of the loss: a model that reads captions gains several times that by them"
        ),
        "temporal_consistency_loss_max": Limit(
            0.05, "of a frame's contrast; a change of that size is what an eye sees as flicker"
        ),
        "kept_share_min": Limit(
            0.5, "a still or blurred clip is consistent and near to everything; half is no accident"
        ),
        "guardrail_pass_min": Limit(1.0, "prompts are neutral: nothing of them may be stopped"),
        "guards_required": Limit(
            1.0, "unguarded samples say nothing; 0 allows models without guards"
        ),
        "memorisation_chance": Limit(
            0.05, "more samples above the yardstick than 5 % of honest rounds would show"
        ),
        "near_similarity": Limit(
            0.3,
            "a clip and itself a second later had 0.33 and more, docs/log.md; below it nothing is near, however far "
            "the few held-out clips of a site lie",
        ),
        "copy_similarity": Limit(
            0.95,
            "copies encoded again at crf 32 had 0.96 and more, other clips at most 0.70, docs/log.md",
        ),
        "anchor_loss_max": Limit(
            0.02, "real footage lies further from ours, so its loss moves more"
        ),
        "min_anchor_clips": Limit(4, "fewer give no interval"),
        "lineage_depth_max": Limit(
            3,
            "training on own output narrows what a model makes with each generation, arXiv 2307.01850",
        ),
        "adapter_change_max": Limit(
            3.0,
            "times what AdamW can walk in the planned steps: learning rate x steps for each number; an outer "
            "optimizer with momentum goes up to a few times as far",
        ),
    }
)


@dataclass(frozen=True)
class Verdict:
    """What a gate says.

    Attributes:
        name: Of the gate.
        passed: Whether the candidate may go on.
        found: What was measured; None: nothing.
        limit: What it was held against.
        why: One line for a reader.
    """

    name: str
    passed: bool
    found: float | None
    limit: float
    why: str


@dataclass(frozen=True)
class RollBack:
    """Whether a promoted checkpoint is taken back.

    Attributes:
        roll_back: Whether it is.
        why: One line for a reader.
        changes: Mean change by measure, with the ends of its 90 % interval.
    """

    roll_back: bool
    why: str
    changes: Mapping[str, tuple[float, float, float]]


def evaluate_gates(
    measurements: Evaluation, limits: Mapping[str, float], plan: RoundPlan
) -> list[Verdict]:
    """Hold a candidate against every gate.

    Args:
        measurements: What was measured of it.
        limits: Limits by name; what is left out takes its default of `LIMITS`.
        plan: Of the round.

    Returns:
        One verdict a gate, in the order of `GATES`. A candidate is promoted if all have passed.

    Raises:
        UnknownKeyError: If there is no such limit.
        MalformedRecordError: If the measurements are of another plan, or a limit is no number.
    """
    for name, value in limits.items():
        if name not in LIMITS:
            raise UnknownKeyError("limit of a gate", name, LIMITS)
        if not math.isfinite(value) or value < 0:
            raise MalformedRecordError(
                f"limit {name}", value, "a finite number of at least 0", "Correct the plan."
            )
    if (measurements.round, measurements.plan_id) != (plan.round, plan.plan_id):
        raise MalformedRecordError(
            f"evaluation for round {plan.round}",
            (measurements.round, measurements.plan_id),
            f"plan {plan.plan_id} of {plan.round}",
            "Evaluate this round's candidate.",
        )
    chosen = {name: limits.get(name, default.value) for name, default in LIMITS.items()}
    asked = _Asked(measurements, chosen, plan)
    return [_verdict(name, gate, asked) for name, gate in GATES.items()]


def should_roll_back(
    before: Mapping[str, Sequence[float]],
    after: Mapping[str, Sequence[float]],
    *,
    min_pairs: int = 12,
    slack: float = 0.0,
) -> RollBack:
    """Whether regenerated clips are worse than those they replace.

    A checkpoint is taken back if a measure of which more is better is shown to have fallen, that is if
    the upper end of the 90 % interval of the paired changes lies below -`slack`. Measures of the starter
    embedder count only together with another one that fell as well.

    Args:
        before: Scores of the replaced clips by measure, more is better.
        after: Scores of the clips that replace them, in the same order.
        min_pairs: With fewer pairs nothing is decided yet.
        slack: How far a measure may fall.

    Raises:
        MalformedRecordError: If the two do not hold the same measures of the same clips.

    Example:
        >>> should_roll_back({"sharpness": [1.0] * 12}, {"sharpness": [0.5] * 12}).why
        'sharpness fell by 0.5 (90 % interval -0.5 to -0.5, 12 clips)'
    """
    sizes = {
        name: (len(before.get(name, ())), len(after.get(name, ()))) for name in {*before, *after}
    }
    uneven = sorted(name for name, (one, two) in sizes.items() if one != two)
    if uneven:
        raise MalformedRecordError(
            f"scores {uneven[0]} of regenerated clips",
            sizes[uneven[0]],
            "one number before and one after for each clip",
            "Pair the clips by scene.",
        )
    enough = sorted(name for name, (one, _) in sizes.items() if one >= min_pairs)
    if not enough:
        most = max((one for one, _ in sizes.values()), default=0)
        return RollBack(
            roll_back=False,
            why=f"{most} regenerated clips have been scored; {min_pairs} are needed to decide",
            changes={},
        )
    changes = {}
    for name in enough:
        pairs = zip(before[name], after[name], strict=True)
        found = mean_interval([new - old for old, new in pairs], "roll back", name)
        changes[name] = (found.mean, found.low, found.high)
    fell = [name for name in enough if changes[name][2] < -slack]
    others = [name for name in fell if name not in STARTER_MEASURES]
    if others:
        words = "; ".join(_fell(name, changes[name], sizes[name][0]) for name in fell)
        return RollBack(roll_back=True, why=words, changes=changes)
    alone = f"; {fell[0]} alone fell, which the starter embedder says alone" if fell else ""
    by = f" by more than {slack:g}" if slack else ""
    why = f"nothing is shown to have fallen{by} among {', '.join(enough)}{alone}"
    return RollBack(roll_back=False, why=why, changes=changes)


@dataclass(frozen=True)
class _Asked:
    """What every gate is asked with."""

    measured: Evaluation
    limits: Mapping[str, float]
    plan: RoundPlan


@dataclass(frozen=True)
class _Answer:
    """What a gate answers; `found` None: something is missing."""

    passed: bool
    found: float | None
    limit: float
    why: str


def _missing(limit: float, what: str) -> _Answer:
    return _Answer(False, None, limit, f"missing: {what}")


def _verdict(name: str, gate: "Callable[[_Asked], _Answer]", asked: _Asked) -> Verdict:
    answer = gate(asked)
    return Verdict(name, answer.passed, answer.found, answer.limit, answer.why)


def _site_scores(asked: _Asked) -> _Answer:
    """Enough sites measured."""
    found, quorum = len(asked.measured.weights), asked.plan.terms.quorum
    missing = ", ".join(asked.measured.missing_sites)
    why = f"{found} of {len(asked.plan.sites)} sites measured held-out clips, {quorum} are needed"
    return _Answer(
        found >= quorum,
        float(found),
        float(quorum),
        why + (f"; no word from {missing}" if missing else ""),
    )


def _held_out_loss(asked: _Asked) -> _Answer:
    """The held-out loss has not risen."""
    limit = asked.limits["held_out_loss_max"]
    if short := _too_few(asked, asked.measured.clips, "min_held_out_clips", "held-out clips"):
        return _missing(limit, short)
    change = overall_change(asked.measured)
    why = (
        f"the held-out loss changed by {change.mean:+.2%} ({change.low:+.2%} to {change.high:+.2%}, "
        f"{len(asked.measured.clips)} clips); the upper end may be {limit:+.2%}"
    )
    return _Answer(change.high <= limit, change.high, limit, why)


def _held_out_cells(asked: _Asked) -> _Answer:
    """No place, city or institution has become much worse."""
    limit, least = asked.limits["held_out_cell_max"], int(asked.limits["min_cell_clips"])
    found = cells(asked.measured, min_clips=least)
    if not found:
        return _missing(limit, f"no place, city or institution has {least} held-out clips")
    worst = max(found, key=lambda row: (row.change, row.place))
    why = (
        f"the worst of {len(found)} places, cities and institutions is {worst.place}: "
        f"{worst.change:+.2%} ({worst.low:+.2%} to {worst.high:+.2%}, {worst.num_clips} clips); "
        f"{limit:+.2%} may be"
    )
    return _Answer(worst.change <= limit, worst.change, limit, why)


def _improvement(asked: _Asked) -> _Answer:
    """The candidate is better at all, and not by one site's word."""
    if not asked.limits["must_improve"]:
        return _Answer(True, None, 0.0, "the limits do not ask for an improvement")
    if short := _too_few(asked, asked.measured.clips, "min_held_out_clips", "held-out clips"):
        return _missing(0.0, short)
    change = overall_change(asked.measured)
    means = _site_changes(asked.measured)
    better = sum(mean < 0 for mean in means.values())
    why = (
        f"the held-out loss changed by {change.mean:+.2%} ({change.low:+.2%} to {change.high:+.2%}) and fell "
        f"at {better} of {len(means)} sites; the upper end must lie below 0, at more than half of the sites"
    )
    return _Answer(change.high < 0 and 2 * better > len(means), change.high, 0.0, why)


def _distribution(asked: _Asked) -> _Answer:
    """Samples have not moved away from footage, in either of two feature spaces."""
    limit = asked.limits["distance_rise_max"]
    worst: float | None = None
    words = []
    for measure in DISTANCES:
        change = asked.measured.score(CHANGE, measure)
        if change is None:
            return _missing(limit, f"{measure} before and after, against footage")
        if short := _few(change.num_clips, asked, "min_samples", "samples"):
            return _missing(limit, short)
        worst = change.low if worst is None else max(worst, change.low)
        words.append(
            f"{measure} ({change.judge}) changed by {change.value:+.4g} "
            f"({change.low:+.4g} to {change.high:+.4g})"
        )
    why = f"{'; '.join(words)}; neither may be shown to have risen by more than {limit:g}"
    return _Answer(worst is not None and worst <= limit, worst, limit, why)


def _text_fit(asked: _Asked) -> _Answer:
    """Samples fit their prompts as before: the embedder and the model's own gain from captions agree."""
    limit, gain_limit = (
        asked.limits["text_cosine_loss_max"],
        asked.limits["caption_gain_loss_max"],
    )
    change = asked.measured.score(CHANGE, "text_cosine")
    gains = [g for row in asked.measured.clips if (g := row.caption_gain_change) is not None]
    if change is None:
        return _missing(limit, "text_cosine before and after")
    if short := _few(change.num_clips, asked, "min_samples", "samples"):
        return _missing(limit, short)
    if short := _few(len(gains), asked, "min_held_out_clips", "clips with another clip's caption"):
        return _missing(limit, short)
    gain = mean_interval(gains, "caption gain")
    is_worse = -change.high > limit and -gain.high > gain_limit
    why = (
        f"text_cosine ({change.judge}) changed by {change.value:+.4f} ({change.low:+.4f} to "
        f"{change.high:+.4f}), and what the model gains from the right caption by {gain.mean:+.2%} of the loss "
        f"({gain.low:+.2%} to {gain.high:+.2%}); both may not be shown to fall, by {limit:g} and {gain_limit:.0%}"
    )
    return _Answer(not is_worse, change.value, -limit, why)


def _temporal_consistency(asked: _Asked) -> _Answer:
    """Neighbouring frames of samples explain each other as before."""
    limit = asked.limits["temporal_consistency_loss_max"]
    change = asked.measured.score(CHANGE, "temporal_consistency")
    if change is None:
        return _missing(limit, "temporal_consistency before and after")
    if short := _few(change.num_clips, asked, "min_samples", "samples"):
        return _missing(limit, short)
    why = (
        f"temporal_consistency ({change.judge}) changed by {change.value:+.4f} ({change.low:+.4f} to "
        f"{change.high:+.4f}); it may not be shown to fall by more than {limit:g}"
    )
    return _Answer(-change.high <= limit, change.value, -limit, why)


def _motion_and_detail(asked: _Asked) -> _Answer:
    """Samples still move and are still sharp; without it a frozen blur would pass the others."""
    limit = asked.limits["kept_share_min"]
    least: float | None = None
    words = []
    for measure in ("motion", "sharpness"):
        scores = [asked.measured.score(group, measure) for group in (AFTER, BEFORE, FOOTAGE)]
        found, *wanted = scores
        known = [one.value for one in wanted if one is not None]
        if found is None or wanted[0] is None:
            return _missing(limit, f"{measure} before and after")
        if short := _few(found.num_clips, asked, "min_samples", "samples"):
            return _missing(limit, short)
        share = found.value / min(known) if min(known) > 0 else 1.0
        least = share if least is None else min(least, share)
        words.append(f"{measure} is {share:.0%}")
    why = f"{' and '.join(words)} of the lower of samples before and footage; at least {limit:.0%} must be kept"
    return _Answer(least is not None and least >= limit, least, limit, why)


def _guardrail(asked: _Asked) -> _Answer:
    """Guards let the samples of neutral prompts pass."""
    limit, guarded = asked.limits["guardrail_pass_min"], asked.measured.guarded
    if guarded is None or not guarded.num_samples:
        return _missing(limit, "what the guards said of the samples")
    if not guarded.guards:
        if asked.limits["guards_required"]:
            return _missing(limit, "a guard that ran; set guards_required to 0 to allow none")
        return _Answer(True, None, limit, "no guard ran, which the limits allow")
    share = 1 - guarded.num_stopped / guarded.num_samples
    why = (
        f"{guarded.num_stopped} of {guarded.num_samples} samples were stopped by "
        f"{', '.join(guarded.guards)}; {limit:.0%} must pass"
    )
    return _Answer(share >= limit, share, limit, why)


def _memorisation(asked: _Asked) -> _Answer:
    """Samples are no nearer to training footage than held-out footage typically is."""
    chance, copy = asked.limits["memorisation_chance"], asked.limits["copy_similarity"]
    by_site: dict[str, list[Nearest]] = defaultdict(list)
    for row in asked.measured.nearest:
        if row.adapter == AFTER:
            by_site[row.site].append(row)
    silent = sorted(set(asked.measured.weights) - by_site.keys())
    if not by_site or silent:
        named = f" at {', '.join(silent)}" if silent else ""
        return _missing(chance, f"samples against training footage{named}")
    over = {
        site: _num_over(rows, asked.limits["near_similarity"]) for site, rows in by_site.items()
    }
    worst = max(by_site, key=lambda site: (over[site], site))
    rows, num_over = by_site[worst], over[worst]
    probability = chance_of_at_least(num_over, len(rows), _TYPICAL_SHARE)
    copies = [
        row for rows in by_site.values() for row in rows if row.similarity > max(copy, row.typical)
    ]
    nearest = max(row.similarity for rows in by_site.values() for row in rows)
    why = (
        f"at {worst} {num_over} of {len(rows)} samples lie nearer to training footage than 95 % of held-out "
        f"footage does, as chance would have it in {probability:.1%} of rounds (at least {chance:.0%}); the "
        f"nearest of all has cosine {nearest:.3f}, {len(copies)} are copies (above {copy:g})"
    )
    return _Answer(not copies and probability >= chance, probability, chance, why)


def _anchor(asked: _Asked) -> _Answer:
    """The loss on a folder of real footage has not risen."""
    limit = asked.limits["anchor_loss_max"]
    if not asked.plan.trial.anchor_dir:
        return _Answer(True, None, limit, "the plan names no folder of real footage")
    rows = asked.measured.anchor
    if short := _few(len(rows), asked, "min_anchor_clips", "clips of the anchor folder"):
        return _missing(limit, short)
    change = mean_interval([row.change for row in rows], "anchor")
    why = (
        f"the loss on the anchor folder changed by {change.mean:+.2%} ({change.low:+.2%} to "
        f"{change.high:+.2%}, {len(rows)} clips); the upper end may be {limit:+.2%}"
    )
    return _Answer(change.high <= limit, change.high, limit, why)


def _lineage_depth(asked: _Asked) -> _Answer:
    """Not too many generations of own footage lie beneath."""
    limit, found = asked.limits["lineage_depth_max"], asked.measured.lineage_depth
    why = f"{found} rounds of generated footage lie beneath the candidate; {limit:g} may"
    return _Answer(found <= limit, float(found), limit, why)


def _adapter_size(asked: _Asked) -> _Answer:
    """The change is not longer than training can make it."""
    limit, size = asked.limits["adapter_change_max"], asked.measured.size
    training = asked.plan.training
    if size is None or not math.isfinite(size.change) or size.num_parameters < 1:
        return _missing(limit, "the length of the candidate's change")
    reach = training.learning_rate * training.num_steps * math.sqrt(size.num_parameters)
    share = size.change / reach if reach else math.inf
    why = (
        f"the change has length {size.change:.3g}, {share:.3g} times what {training.num_steps} steps of "
        f"{training.learning_rate:g} can walk with {size.num_parameters} numbers; {limit:g} may be"
    )
    return _Answer(share <= limit, share if math.isfinite(share) else None, limit, why)


GATES: Mapping[str, Callable[[_Asked], _Answer]] = MappingProxyType(
    {
        "site_scores": _site_scores,
        "held_out_loss": _held_out_loss,
        "held_out_cells": _held_out_cells,
        "improvement": _improvement,
        "distribution": _distribution,
        "text_fit": _text_fit,
        "temporal_consistency": _temporal_consistency,
        "motion_and_detail": _motion_and_detail,
        "guardrail": _guardrail,
        "memorisation": _memorisation,
        "anchor": _anchor,
        "lineage_depth": _lineage_depth,
        "adapter_size": _adapter_size,
    }
)


def describe_gate(name: str) -> str:
    """What a gate asks, in one sentence.

    Raises:
        UnknownKeyError: If there is no such gate.

    Example:
        >>> describe_gate("anchor")
        'The loss on a folder of real footage has not risen.'
    """
    if name not in GATES:
        raise UnknownKeyError("gate", name, GATES)
    return str(GATES[name].__doc__)


def chance_of_at_least(count: int, total: int, share: float) -> float:
    """Probability of `count` or more hits in `total` independent draws with probability `share`.

    Example:
        >>> round(chance_of_at_least(1, 1, 0.05), 3), chance_of_at_least(0, 8, 0.05)
        (0.05, 1.0)
    """
    below = sum(
        math.comb(total, hits) * share**hits * (1 - share) ** (total - hits)
        for hits in range(count)
    )
    return 1.0 - below


def _num_over(rows: Sequence[Nearest], near: float) -> int:
    return sum(row.similarity > max(row.typical, near) for row in rows)


def _site_changes(measured: Evaluation) -> dict[str, float]:
    changes: dict[str, list[float]] = defaultdict(list)
    for row in measured.clips:
        changes[row.site].append(row.change)
    return {site: math.fsum(found) / len(found) for site, found in sorted(changes.items())}


def _too_few(asked: _Asked, rows: Sequence[PairedLoss], limit: str, what: str) -> str:
    counted = [row for row in rows if asked.measured.weights.get(row.site)]
    return _few(len(counted), asked, limit, what)


def _few(found: int, asked: _Asked, limit: str, what: str) -> str:
    """Why there are too few; empty if there are enough."""
    least = max(int(asked.limits[limit]), 1)
    return "" if found >= least else f"{found} {what}, at least {least} are needed ({limit})"


def _fell(name: str, change: tuple[float, float, float], count: int) -> str:
    mean, low, high = change
    return f"{name} fell by {-mean:.3g} (90 % interval {low:.3g} to {high:.3g}, {count} clips)"
