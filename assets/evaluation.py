"""Evaluations: a round's candidate beside what it started from, and the gates that it has to pass."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg

from assets.partitions import every_site_of_the_round, rounds
from assets.site_delta import lay_out_base
from gpu_jobs.posttrain.spec import JUDGE, MEASURE, JudgeSpec, MeasureSpec
from resources.checkpoint_registry import CheckpointRegistry
from resources.failpoints import reached
from resources.federation import Federation
from resources.job_launcher import JobLauncher
from resources.kept_deltas import forget_delta
from resources.ledger import Ledger
from resources.round_deltas import gather, why_no_quorum
from resources.round_files import (
    publish_evaluation_record,
    read_adapter_record,
    read_evaluation_record,
    read_outcome,
    read_round_adapter,
    read_round_plan,
)
from resources.round_samples import SampleMaker, Samples
from resources.round_verdicts import end, gather_scores, settle_verdict
from resources.secure_rounds import forget_masks
from resources.site_keys import SiteKeys
from resources.site_log import SiteLog
from resources.site_store import SiteStore
from resources.staging import Staging
from resources.trainers import Trainers
from resources.world_models import WorldModels
from worldloop import layout
from worldloop.contact_sheets import as_markdown, small_picture
from worldloop.federation.adapters import adapter_bytes
from worldloop.federation.evaluation import (
    AFTER,
    BEFORE,
    AdapterSize,
    Evaluation,
    merge,
    overall_change,
    places,
)
from worldloop.federation.gates import GATES, Verdict, describe_gate, evaluate_gates
from worldloop.federation.outcomes import AdapterRecord
from worldloop.federation.rounds import RoundPlan
from worldloop.plots import readable

END_TAG = "worldloop/end_round"  # of a run that ends the round whatever there is
SHEET = "sheet.png"
_NO_ADAPTER = (
    "no adapter was made, though enough deltas are there by now: they came after the deadline, or see the "
    "runs of adapter_job"
)
_NO_VERDICT = "its verdict came to no outcome: see the runs of verdict_job"
_MIN_TIMEOUT_S = 60.0
_JUDGE_TIMEOUT_S = 3600.0
_MAX_PLACES = 20


@dg.asset(
    group_name="federation",
    kinds={"json"},
    partitions_def=rounds,
    deps=["adapter", every_site_of_the_round("site_scores")],
    pool="gpu",
    code_version="1",
    retry_policy=dg.RetryPolicy(max_retries=1, delay=3),
)
def evaluation(
    context: dg.AssetExecutionContext,
    store: SiteStore,
    site_log: SiteLog,
    ledger: Ledger,
    federation: Federation,
    staging: Staging,
    launcher: JobLauncher,
    trainers: Trainers,
    world_models: WorldModels,
    registry: CheckpointRegistry,
) -> dg.MaterializeResult[None]:
    """What is known of a round's candidate: held-out losses of all sites, and samples before and after, judged.

    A candidate that a gate refuses, and a round without an adapter, end here: the outcome is written
    before the gates block what follows. Written once; run again, it says the same.
    Format: docs/formats.md#evaluation.
    """
    plan = read_round_plan(store, context.partition_key)
    record = read_adapter_record(store, plan.round)
    kit = (store, site_log, ledger, plan)
    if plan.aggregation.secure:
        _forget_kept_deltas(staging, plan)
    price = world_models.usd_per_gpu_hour
    if record is None:
        gathered = gather(store, plan)
        enough = gathered.num_accepted >= plan.terms.quorum
        reason = _NO_ADAPTER if enough else why_no_quorum(plan, gathered.participation)
        ended = end(
            *kit, "failed", reason, participation=gathered.participation, usd_per_gpu_hour=price
        )
        forget_masks(SiteKeys(federation.home), plan)
        return dg.MaterializeResult(
            metadata={
                "outcome": ended.outcome,
                "reason": ended.reason,
                **({"not_counted": "; ".join(ended.not_counted)} if ended.not_counted else {}),
            }
        )
    found = read_evaluation(store, plan.round)
    if (
        found is None
        and END_TAG not in context.run.tags
        and read_outcome(store, plan.round) is None
    ):
        maker = SampleMaker(context, store, staging, launcher, world_models)
        with staging.lock(plan.round, "coordinator", "evaluation"):
            folder = staging.folder(plan.round, "evaluation")
            made, reports = _evaluate(context, federation, trainers, maker, plan, record, folder)
            settle_verdict(ledger, plan, reports, usd_per_gpu_hour=price)
            reached("evaluation.made")
            publish_evaluation_record(store, plan.round, made.to_record())
            staging.clear(plan.round, "evaluation")
        found = read_evaluation(store, plan.round)
    verdicts = evaluate_gates(found, plan.trial.limits, plan) if found else []
    failed = [verdict for verdict in verdicts if not verdict.passed]
    facts: dict[str, Any] = {
        "participation": record.participation,
        "usd_per_gpu_hour": price,
        "adapter_sha256": record.adapter_sha256,
        "evaluation": found,
    }
    if failed:
        names = [verdict.name for verdict in failed]
        why = f"{len(failed)} of {len(verdicts)} gates: {failed[0].name}: {failed[0].why}"
        end(*kit, "refused", why, failed_gates=names, **facts)
    elif END_TAG in context.run.tags:
        line = plan.base.model.lower()
        registry.settle(line)
        if found is not None and plan.round in (
            registry.main(line),
            registry.shadow(line),
        ):  # killed just before its outcome
            end(*kit, "promoted", "it passed every gate", **facts)
        else:
            end(*kit, "failed", _NO_VERDICT, **facts)
    if read_outcome(store, plan.round) is not None:
        forget_masks(SiteKeys(federation.home), plan)
    return dg.MaterializeResult(metadata=_describe(store, plan, record, found, verdicts))


@dg.multi_asset_check(
    name="gates",
    specs=[
        dg.AssetCheckSpec(
            name,
            asset=evaluation,
            description=describe_gate(name),
            blocking=True,
            partitions_def=rounds,
        )
        for name in GATES
    ],
    can_subset=True,
)
def gates(
    context: dg.AssetCheckExecutionContext, store: SiteStore
) -> Iterator[dg.AssetCheckResult]:
    """Every gate, held against the evaluation that stands and the limits of the plan."""
    plan = read_round_plan(store, context.partition_key)
    found = read_evaluation(store, plan.round)
    verdicts = (
        {one.name: one for one in evaluate_gates(found, plan.trial.limits, plan)} if found else {}
    )
    outcome = read_outcome(store, plan.round)
    why = f"nothing was tried: {outcome.reason}" if outcome else "nothing was tried"
    asked = {key.name for key in context.selected_asset_check_keys}
    for name in (gate for gate in GATES if gate in asked):
        verdict = verdicts.get(name) or Verdict(name, False, None, 0.0, why)
        metadata: dict[str, Any] = {"why": verdict.why, "limit": verdict.limit}
        if verdict.found is not None:
            metadata["found"] = readable(verdict.found)
        yield dg.AssetCheckResult(check_name=name, passed=verdict.passed, metadata=metadata)


def read_evaluation(store: SiteStore, round_key: str) -> Evaluation | None:
    """The evaluation of a round; None if there is none yet."""
    record = read_evaluation_record(store, round_key)
    return Evaluation.from_record(record) if record is not None else None


def sheet_of(store: SiteStore, plan: RoundPlan) -> dict[str, dg.MetadataValue]:
    """Samples before and after side by side, for the UI; nothing if there are none."""
    key = layout.sample_key(plan.round, "all", SHEET)
    if not store.exists(key):
        return {}
    picture = as_markdown(small_picture(store.get(key)), alt=f"{plan.round}: before | after")
    prompts = "\n".join(f"1. {text}" for text in plan.trial.prompts)
    legend = (
        "First, middle and last frame of each sample: **before on the left, after on the right**."
    )
    samples = f"{store.url}/{layout.ROUNDS}/{plan.round}/samples"
    return {
        "before_and_after": dg.MetadataValue.md(
            f"{legend}\n\n{picture}\n\nThe prompts, from the top:\n\n{prompts}"
        ),
        "samples": dg.MetadataValue.path(samples),
    }


def gate_table(verdicts: Sequence[Verdict]) -> str:
    """What each gate says, as a Markdown table."""
    lines = ["| gate | passed | found | limit | why |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| {one.name} | {'yes' if one.passed else '**no**'} | "
        f"{'-' if one.found is None else format(one.found, '.4g')} | {one.limit:g} | {one.why} |"
        for one in verdicts
    ]
    return "\n".join(lines)


def _forget_kept_deltas(staging: Staging, plan: RoundPlan) -> None:
    """Of sites that a secure round went on without, which train no more for it."""
    for site in plan.sites:
        folder = staging.folder(plan.round, site)
        forget_delta(folder)
        with contextlib.suppress(OSError):  # something else of the site lies there
            folder.rmdir()


def _evaluate(
    context: dg.AssetExecutionContext,
    federation: Federation,
    trainers: Trainers,
    maker: SampleMaker,
    plan: RoundPlan,
    record: AdapterRecord,
    folder: Path,
) -> tuple[Evaluation, list[Mapping[str, Any] | None]]:
    """The evaluation, and the reports of the work that was done for it."""
    store = maker.store
    gathered = gather_scores(store, plan, adapter_sha256=record.adapter_sha256)
    for site, why in gathered.refused.items():
        context.log.warning("The scores of %s are left out: %s", site, why)
    merged = merge(plan, gathered.scores, adapter_sha256=record.adapter_sha256)
    samples = maker.samples(plan, folder) if plan.trial.prompts else None
    report = None
    if samples is not None and samples.prompts:
        sheet = folder / SHEET
        report = trainers.run(
            federation.coordinator,
            JUDGE,
            _judge_spec(plan, samples, maker.world_models, sheet),
            timeout_s=_JUDGE_TIMEOUT_S,
        )
        if sheet.exists():
            store.put(layout.sample_key(plan.round, "all", SHEET), sheet.read_bytes())
    anchor = None
    if plan.trial.anchor_dir:
        anchor = trainers.run(
            federation.coordinator,
            MEASURE,
            _anchor_spec(store, plan, maker.world_models, folder),
            timeout_s=max(plan.terms.scores_deadline_s, _MIN_TIMEOUT_S),
        )
    judged = merged.judged(
        report,
        guarded=samples.guarded if samples else None,
        size=AdapterSize(change=record.update_norm, num_parameters=record.num_parameters),
        anchor=anchor,
    )
    return judged, [report, anchor]


def _judge_spec(plan: RoundPlan, samples: Samples, machine: WorldModels, sheet: Path) -> JudgeSpec:
    return JudgeSpec(
        groups=tuple(
            {
                "name": group,
                "clips": [str(path) for path in samples.clips[group]],
                "prompts": list(samples.prompts),
            }
            for group in (BEFORE, AFTER)
        ),
        footage_dir=str(samples.reference_dir) if samples.reference_dir else "",
        model=plan.base.model,
        checkpoint_dir=machine.checkpoint_dir,
        sheet_path=str(sheet),
        device=machine.device,
        transformer_dir=plan.base.checkpoint,
        precision=plan.training.precision,
    )


def _anchor_spec(
    store: SiteStore, plan: RoundPlan, machine: WorldModels, folder: Path
) -> MeasureSpec:
    """The losses on a folder of real footage; what is encoded of it stays in scratch."""
    candidate = folder / "candidate.safetensors"
    candidate.write_bytes(adapter_bytes(read_round_adapter(store, plan.round)))
    return MeasureSpec(
        model=plan.base.model,
        revision=plan.base.revision,
        checkpoint_dir=machine.checkpoint_dir,
        footage_dir=plan.trial.anchor_dir,
        adapters=(
            {"name": BEFORE, "path": lay_out_base(store, plan, folder)},
            {"name": AFTER, "path": str(candidate)},
        ),
        shape=asdict(plan.training.shape),
        seed=plan.trial.seed,
        noise_levels=plan.trial.noise_levels,
        alpha=plan.training.alpha,
        transformer_dir=plan.base.checkpoint,
        cache_dir=str(folder / "anchor_cache"),
        precision=plan.training.precision,
        device=machine.device,
        sequence_interval=plan.training.sequence_interval,
        other_captions=False,
    )


def _describe(
    store: SiteStore,
    plan: RoundPlan,
    record: AdapterRecord,
    found: Evaluation | None,
    verdicts: Sequence[Verdict],
) -> Mapping[str, Any]:
    outcome = read_outcome(store, plan.round)
    facts: dict[str, Any] = {
        "outcome": outcome.outcome if outcome else "none yet",
        "reason": outcome.reason if outcome else "every gate was passed",
    }
    if outcome and outcome.not_counted:
        facts["not_counted"] = "; ".join(outcome.not_counted)
    if found is None:
        return {**facts, "adapter_sha256": record.adapter_sha256}
    # what was decided stands, also where today's gates would say something else
    failed = outcome.failed_gates if outcome else [one for one in verdicts if not one.passed]
    facts["gates_passed"] = f"{len(verdicts) - len(failed)} of {len(verdicts)}"
    if found.clips and found.weights:
        change = overall_change(found)
        facts |= {
            "held_out_change": readable(change.mean),
            "held_out_change_low": readable(change.low),
            "held_out_change_high": readable(change.high),
        }
    rows = sorted(places(found), key=lambda row: row.change)[:_MAX_PLACES]
    lines = ["| place | clips | loss before | after | change |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| {row.place} | {row.num_clips} | {row.before:.4f} | {row.after:.4f} | {row.change:+.2%} |"
        for row in rows
    ]
    return {
        **facts,
        "dagster/row_count": len(found.clips),
        "missing_sites": ", ".join(found.missing_sites) or "none",
        "gates": dg.MetadataValue.md(gate_table(verdicts)),
        "places": dg.MetadataValue.md("\n".join(lines)),
        **sheet_of(store, plan),
        "adapter_sha256": record.adapter_sha256,
        "location": dg.MetadataValue.path(f"{store.url}/{layout.evaluation_key(plan.round)}"),
    }
