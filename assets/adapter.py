"""Adapters: what the deltas of a round's sites become."""

import contextlib
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import dagster as dg

from assets.partitions import every_site_of_the_round, rounds
from resources.outbox import Outbox
from resources.round_deltas import Gathered, gather, why_no_quorum
from resources.round_files import (
    decide_participants,
    publish_adapter,
    read_adapter_record,
    read_optimizer,
    read_round_plan,
)
from resources.site_store import SiteStore
from worldloop import layout
from worldloop.errors import MalformedRecordError
from worldloop.federation.adapters import Arrays, adapter_sha256
from worldloop.federation.envelopes import read_record
from worldloop.federation.outbox import RECEIPT, check_outgoing
from worldloop.federation.outcomes import AdapterRecord, participation_table
from worldloop.federation.privacy import privacy_spent
from worldloop.federation.rounds import RoundPlan
from worldloop.federation.strategies import (
    Aggregated,
    Contribution,
    aggregate,
    carried_state,
)
from worldloop.plots import readable, small_curves

_ALL_SITES = "sum"  # of a secure round, in which no site has a share of its own


@dg.asset(
    group_name="federation",
    kinds={"numpy"},
    partitions_def=rounds,
    deps=["round_plan", every_site_of_the_round("site_delta")],
    code_version="1",
    retry_policy=dg.RetryPolicy(max_retries=1, delay=3),
)
def adapter(context: dg.AssetExecutionContext, store: SiteStore) -> dg.MaterializeResult[None]:
    """One adapter of the deltas that are there: verified, aggregated by the plan's strategy, published.

    Which deltas count is decided once; run again, it gives the same bytes, or refuses to change what
    stands. A delta that cannot be used is left out and named. Without a quorum of the others it fails.
    In a secure round the deltas' mean is all that is known of them.
    Format: docs/formats.md#adapter.
    """
    began = time.monotonic()
    plan = read_round_plan(store, context.partition_key)
    gathered = gather(store, plan)
    if gathered.num_accepted < plan.terms.quorum:
        raise dg.Failure(why_no_quorum(plan, gathered.participation), allow_retries=False)
    decided = decide_participants(store, plan.round, gathered.participants)
    if decided != gathered.participants:  # another run was quicker
        gathered = gather(store, plan)
    made = aggregate_round(store, plan, gathered)
    record = record_of(plan, gathered, made, _privacy(store, plan))
    publish_adapter(store, record, made.adapter, made.state)
    for one in record.participation:
        if one.status == "refused":
            context.log.warning("The delta of %s was refused: %s", one.site, one.reason)
    for line in gathered.summed.odd if gathered.summed else ():
        context.log.warning(line)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(record.adapter_sha256),
        metadata=_describe(store, plan, record, time.monotonic() - began),
    )


@dg.asset_check(asset=adapter, partitions_def=rounds)
def every_delta_was_accepted(
    context: dg.AssetCheckExecutionContext, store: SiteStore
) -> dg.AssetCheckResult:
    """Every planned site sent a delta that could be used, or said that it has no clips."""
    record = read_adapter_record(store, context.partition_key)
    entries = record.participation if record else ()
    odd = {e.site: f"{e.status}: {e.reason}" for e in entries if e.status in ("refused", "missing")}
    return dg.AssetCheckResult(
        passed=record is not None and not odd,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"left_out": dg.MetadataValue.json(odd)},
    )


def aggregate_round(store: SiteStore, plan: RoundPlan, gathered: Gathered) -> Aggregated:
    """The deltas as one adapter; the outer optimizer goes on from the base's round."""
    summed = gathered.summed
    contributions = [
        Contribution(
            site=one.participation.site,
            delta=one.delta,
            weight=float(one.participation.num_clips),
            staleness=one.participation.staleness,
        )
        for one in gathered.deltas
        if one.delta is not None
    ]
    if summed is not None:
        contributions = [Contribution(_ALL_SITES, summed.mean, float(summed.weight))]
    return aggregate(
        contributions,
        gathered.start,
        _state(store, plan),
        plan.aggregation,
        staleness_power=plan.terms.staleness_power,
    )


def record_of(
    plan: RoundPlan, gathered: Gathered, made: Aggregated, privacy: Mapping[str, float]
) -> AdapterRecord:
    """What `adapter.json` says; a function of plan and deltas alone."""
    entries = tuple(
        replace(one, weight=round(made.weights.get(one.site, 0.0), 9))
        for one in gathered.participation
    )
    sent = [one for one in entries if one.status == "accepted"]
    num_parameters = sum(each.size for each in made.adapter.values())
    return AdapterRecord(
        round=plan.round,
        plan_id=plan.plan_id,
        strategy=plan.aggregation.strategy,
        start_sha256=adapter_sha256(gathered.start),
        adapter_sha256=adapter_sha256(made.adapter),
        optimizer_sha256=adapter_sha256(made.state) if made.state else "",
        num_parameters=num_parameters,
        update_norm=made.delta_norm,
        participation=entries,
        facts={
            "num_deltas": len(sent),
            "size_bytes": sum(one.size_bytes for one in sent),
            "float32_bytes": 4 * num_parameters * len(sent),
            **privacy,
        },
    )


def _privacy(store: SiteStore, plan: RoundPlan) -> dict[str, float]:
    """What the rounds of this line have cost a site's footage, by the least noise of any; nothing if one had none.

    It is the price of a site's own noise, in a secure round as well: of two survivors one may know its own part.
    """
    line = [plan]
    while base := line[-1].base.adapter:
        line.append(read_round_plan(store, base))
    noise = min(one.aggregation.noise_multiplier for one in line)
    if not noise:
        return {}
    spent = privacy_spent(noise, len(line), delta=plan.aggregation.target_delta)
    return {
        "epsilon": spent.epsilon,
        "target_delta": spent.delta,
        "num_private_rounds": len(line),
    }


def _state(store: SiteStore, plan: RoundPlan) -> Arrays:
    """Where the outer optimizer of the base's round stopped; nothing after a change of strategy."""
    if not plan.base.adapter:
        return {}
    return carried_state(read_optimizer(store, plan.base.adapter), plan.aggregation)


def loss_curves(store: SiteStore, record: AdapterRecord) -> str:
    """The training losses of the sites in one picture, as Markdown; empty if no site has told any."""
    curves: dict[str, list[float]] = {}
    longest = 0
    for one in record.accepted:
        receipt = Outbox(store).sent(record.round, one.site, RECEIPT)
        if receipt is None:
            continue
        with contextlib.suppress(MalformedRecordError, KeyError, TypeError, ValueError):
            check_outgoing(RECEIPT, receipt)  # it may have gone round the outbox
            points = read_record(receipt, what=RECEIPT)["losses"]
            curves[one.site] = [float(point["loss"]) for point in points]
            longest = max(longest, *(int(point["step"]) for point in points))
    return small_curves(curves, under=f"step 1 to {longest}", alt="loss by step and site")


def _describe(
    store: SiteStore, plan: RoundPlan, record: AdapterRecord, took_s: float
) -> dict[str, Any]:
    entries = record.accepted
    shares = {one.site: one.weight or 1.0 for one in entries}  # unknown in a secure round: alike
    weights = sum(shares.values()) or 1.0
    curves = loss_curves(store, record)
    return {
        "participation": dg.MetadataValue.md(participation_table(record.participation)),
        **({"loss_curves": dg.MetadataValue.md(curves)} if curves else {}),
        "dagster/row_count": record.num_parameters,
        "took_s": round(took_s, 3),
        "strategy": record.strategy,
        "codec": plan.aggregation.codec,
        "update_norm": readable(record.update_norm),
        "loss_before": readable(sum(shares[e.site] * e.loss_before for e in entries) / weights),
        "loss_after": readable(sum(shares[e.site] * e.loss_after for e in entries) / weights),
        "adapter_sha256": record.adapter_sha256,
        **{name: readable(fact) if fact % 1 else fact for name, fact in record.facts.items()},
        "location": dg.MetadataValue.path(
            f"{store.url}/{layout.adapter_key(plan.round, 'adapter.safetensors')}"
        ),
    }
