"""What sites said of a round's candidate, verified, and the end of a round with everything that belongs to it."""

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import polars as pl

from resources.ledger import Ledger
from resources.round_files import (
    end_round,
    now_text,
    read_round_plan,
    read_sent,
    released_clips,
    trial_waves,
)
from resources.round_samples import work_of_samples
from resources.site_keys import public_key
from resources.site_log import SiteLog
from resources.site_store import SiteStore
from worldloop import layout
from worldloop.budgets import granted, priced, total, work_of
from worldloop.errors import (
    AccessError,
    MalformedRecordError,
    StoreError,
    UnreachableError,
)
from worldloop.federation.envelopes import open_record
from worldloop.federation.evaluation import Evaluation, SiteScores
from worldloop.federation.outbox import DELTA, SCORES
from worldloop.federation.outcomes import Ending, Outcome, Participation
from worldloop.federation.rounds import RoundPlan

MAX_GPUS = 8  # of one host, on which a site trains
_CLOCKS_S = 60.0  # by which the clocks of a store and of the coordinator may differ
_EQUAL_S = 1e-3  # what is less is rounding


@dataclass(frozen=True)
class GatheredScores:
    """What the sites of a round said of its candidate.

    Attributes:
        scores: Of the sites whose word counts, in the plan's order.
        refused: Why the others' does not, by site; sites that said nothing are not among them.
    """

    scores: tuple[SiteScores, ...]
    refused: Mapping[str, str]


def gather_scores(store: SiteStore, plan: RoundPlan, *, adapter_sha256: str) -> GatheredScores:
    """Verify what the sites said of a candidate.

    Args:
        store: The coordinator's.
        plan: Of the round.
        adapter_sha256: Of the candidate.
    """
    clips = released_clips(store, trial_waves(store, plan)).filter(
        pl.col("city").is_in(plan.trial.held_out_cities)
    )
    scores: list[SiteScores] = []
    refused: dict[str, str] = {}
    for site in plan.sites:
        content = read_sent(store, plan.round, site, SCORES)
        if content is None:
            continue
        held_out = set(clips.filter(pl.col("site") == site)["recipe_id"])
        try:
            scores.append(_verified(store, plan, site, content, adapter_sha256, held_out))
        except (UnreachableError, AccessError):
            raise
        except (MalformedRecordError, StoreError) as error:
            refused[site] = str(error)
    return GatheredScores(tuple(scores), refused)


def end(
    store: SiteStore,
    site_log: SiteLog,
    ledger: Ledger,
    plan: RoundPlan,
    outcome: Ending,
    reason: str,
    *,
    participation: Sequence[Participation],
    usd_per_gpu_hour: float = 0.0,
    adapter_sha256: str = "",
    failed_gates: Sequence[str] = (),
    evaluation: Evaluation | None = None,
) -> Outcome:
    """End a round: outcome, log rows, budget.

    Settled in the ledger is what training, samples and measuring used; the verdict's own part is there
    already, see `settle_verdict`. What a site claims beyond what is possible or left of the round's
    reservation is not counted, and its entry in the outcome says so.

    Returns:
        The outcome that stands; an earlier one stays.
    """
    clips = evaluation.clips if evaluation else ()
    works = _works(store, ledger, plan, participation)
    ended = Outcome(
        round=plan.round,
        plan_id=plan.plan_id,
        outcome=outcome,
        reason=reason,
        ended_at=now_text(),
        adapter_sha256=adapter_sha256,
        failed_gates=tuple(failed_gates),
        loss_before=sum(row.before for row in clips) / len(clips) if clips else None,
        loss_after=sum(row.after for row in clips) / len(clips) if clips else None,
        participation=tuple(_remarked(one, works) for one in participation),
    )
    return finish(store, site_log, ledger, plan, ended, usd_per_gpu_hour=usd_per_gpu_hour)


def finish(
    store: SiteStore,
    site_log: SiteLog,
    ledger: Ledger,
    plan: RoundPlan,
    outcome: Outcome,
    *,
    usd_per_gpu_hour: float = 0.0,
) -> Outcome:
    """Write an outcome and what belongs to it; after a kill in between, what is lacking.

    Returns:
        The outcome that stands; an earlier one stays.
    """
    ended = end_round(store, site_log, outcome)
    works = _works(store, ledger, plan, ended.participation)
    counted = (work.counted for work in works.values())
    used = total(*counted, work_of_samples(store, plan.round))
    ledger.settle(plan.round, priced(used, usd_per_gpu_hour), once=True)
    return ended


def settle_verdict(
    ledger: Ledger,
    plan: RoundPlan,
    reports: Iterable[Mapping[str, Any] | None],
    *,
    usd_per_gpu_hour: float = 0.0,
) -> None:
    """Settle what judging a round's candidate used, under a key of its own: no record of the round has it.

    Args:
        ledger: The coordinator's.
        plan: Of the round.
        reports: Of the judge and of measuring the anchor, where there were any.
        usd_per_gpu_hour: What a GPU costs.
    """
    used = total(
        *(work_of(one.get("wall_s", 0.0), one.get("gpu_s", 0.0)) for one in reports if one)
    )
    ledger.settle(f"{plan.round}/verdict", priced(used, usd_per_gpu_hour))


@dataclass(frozen=True)
class _Work:
    """Work that a site did for a round, by kind of the ledger: what it claims and what is counted of it."""

    claim: Mapping[str, float]
    counted: Mapping[str, float]


def _works(
    store: SiteStore, ledger: Ledger, plan: RoundPlan, participation: Iterable[Participation]
) -> dict[tuple[str, str], _Work]:
    """The work of sites, by site and by the file that tells of it; what was cut before is cut no further.

    A claim is never longer than the time in which the work was done, on all GPUs of a host, and together they
    keep to what the round holds beside its samples.
    """
    took_s = {
        (one.site, DELTA): _took_s(store, plan, one.site, DELTA, one.staleness)
        for one in participation
    }
    claims = {(one.site, DELTA): work_of(one.took_s, one.gpu_s) for one in participation}
    for one in _said(store, plan):
        took_s[one.site, SCORES] = _took_s(store, plan, one.site, SCORES)
        claims[one.site, SCORES] = work_of(one.wall_s, one.gpu_s)
    held, own = ledger.held(plan.round), work_of_samples(store, plan.round)
    counted: dict[tuple[str, str], dict[str, float]] = {who: {} for who in claims}
    for kind, num_units in (("cpu_s", 1), ("gpu_s", MAX_GPUS)):
        possible = {who: min(claims[who][kind], took_s[who] * num_units) for who in claims}
        left = held.get(kind, math.inf) - own.get(kind, 0.0)
        for who, amount in granted(possible, left).items():
            counted[who][kind] = amount
    return {who: _Work(claims[who], counted[who]) for who in claims}


def _took_s(store: SiteStore, plan: RoundPlan, site: str, name: str, staleness: int = 0) -> float:
    """Most seconds between a round's plan and a file of a site, which may be late; infinite if clocks do not tell."""
    sent_in = f"r{int(plan.round[1:]) - staleness:04d}"
    key = layout.sent_key(sent_in, site, name)
    if not store.exists(key):
        return math.inf
    planned = plan if sent_in == plan.round else read_round_plan(store, sent_in)
    opened_at = datetime.fromisoformat(planned.opened_at)
    opened_at = opened_at if opened_at.tzinfo else opened_at.replace(tzinfo=UTC)
    took_s = (store.modified_at(key) - opened_at).total_seconds() + _CLOCKS_S
    return took_s if took_s > 0 else math.inf


def _remarked(one: Participation, works: Mapping[tuple[str, str], _Work]) -> Participation:
    """An entry with what is counted of its work, and in words what is not."""
    words, trained = [one.reason] if one.reason else [], works[one.site, DELTA]
    for name, verb in ((DELTA, "training"), (SCORES, "measuring")):
        work = works.get((one.site, name))
        for kind, amount in work.claim.items() if work else ():
            if work and amount > work.counted[kind] + _EQUAL_S:
                words.append(
                    f"it claims {amount:.6g} {kind} of {verb}, of which {work.counted[kind]:.6g} are "
                    "counted: no more passed between plan and delta, or is left of the round's reservation"
                )
    if not words or words == [one.reason]:
        return one
    took_s = trained.counted["cpu_s"] if trained.claim["cpu_s"] else one.took_s
    return replace(one, reason="; ".join(words), took_s=took_s, gpu_s=trained.counted["gpu_s"])


def _said(store: SiteStore, plan: RoundPlan) -> Iterator[SiteScores]:
    """Signed scores of this round, whether or not they count: measuring was paid for."""
    for site in plan.sites:
        content = read_sent(store, plan.round, site, SCORES)
        if content is None:
            continue
        what = f"{SCORES} of site {site}"
        with contextlib.suppress(MalformedRecordError, StoreError):
            key = public_key(store, site, plan.round)
            scores = SiteScores.from_record(open_record(content, key, what=what))
            if (scores.site, scores.plan_id) == (site, plan.plan_id):
                yield scores


def _verified(
    store: SiteStore,
    plan: RoundPlan,
    site: str,
    content: bytes,
    adapter_sha256: str,
    held_out: set[str],
) -> SiteScores:
    what = f"{SCORES} of site {site}"
    record = open_record(content, public_key(store, site, plan.round), what=what)
    scores = SiteScores.from_record(record)
    found = (scores.site, scores.round, scores.plan_id, scores.adapter_sha256)
    expected = (site, plan.round, plan.plan_id, adapter_sha256)
    if found != expected:
        raise MalformedRecordError(
            what, found, f"site, round, plan and candidate {expected}", "It is a replay."
        )
    strange = sorted({row.recipe_id for row in scores.losses} - held_out)
    if strange:
        raise MalformedRecordError(
            what,
            f"losses of {len(strange)} clips such as {strange[0]}",
            f"clips of its {len(held_out)} released ones of held-out cities",
            "Measure the clips that the plan holds out.",
        )
    return scores
