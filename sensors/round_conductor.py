"""Which step of which open round is due? Carries every round from its plan to its outcome."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

import dagster as dg
from dagster import DagsterRunStatus, RunsFilter
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from assets.evaluation import END_TAG
from assets.partitions import site_round_key
from resources.federation import Federation
from resources.outbox import Outbox
from resources.round_files import open_rounds, read_round_plan, standing_of
from resources.secure_rounds import due_steps, read_standing, terms_of
from resources.site_store import SiteStore
from worldloop.federation.round_states import (
    END,
    Masking,
    RoundRun,
    Standing,
    due_in_round,
    run_states,
)
from worldloop.federation.rounds import RoundPlan

_ROUND_TAG = "dagster/partition/round"
_SITE_TAG, _PARTITION_TAG = "dagster/partition/site", "dagster/partition"
_RETRY_TAG = "dagster/will_retry"
_TRAINS = "1"  # the phase of a secure round that needs a trainer; the others need none
_STEP_TAG = "worldloop/round_step"  # which phase of a secure round a site is asked for


def build_round_conductor(
    delta_job: UnresolvedAssetJobDefinition,
    phase_job: dg.JobDefinition | UnresolvedAssetJobDefinition,
    adapter_job: UnresolvedAssetJobDefinition,
    scores_job: UnresolvedAssetJobDefinition,
    verdict_job: UnresolvedAssetJobDefinition,
) -> dg.SensorDefinition:
    """The sensor that requests the runs of a round as they become due.

    Run keys name the cause (`r0001/delta/aws`, in a secure round `r0001/delta/aws/2` by phase,
    `r0001/adapter`, `r0001/verdict`), so a restarted daemon asks for nothing twice; a step that failed is run
    again from the UI, never by this sensor. It writes nothing: at a deadline without quorum it asks for the
    verdict, which ends the round as failed. Of a site with `agent = true` in sites.toml it asks for nothing;
    it waits for what the agent sends, until the same deadlines. Nor of one that was taken
    out of sites.toml in mid-round; the round goes on without it.
    """
    jobs = {
        "delta": delta_job.name,
        "phase": phase_job.name,
        "adapter": adapter_job.name,
        "scores": scores_job.name,
        "verdict": verdict_job.name,
        "end": verdict_job.name,
    }

    @dg.sensor(
        name="round_conductor",
        description="Carries open rounds: deltas, adapter, scores, verdict; each step is asked for once.",
        jobs=[delta_job, phase_job, adapter_job, scores_job, verdict_job],
        minimum_interval_seconds=5,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def round_conductor(
        context: dg.SensorEvaluationContext, store: SiteStore, federation: Federation
    ) -> dg.SensorResult | dg.SkipReason:
        """Carry open rounds: train at every site, aggregate, score, decide."""
        requests: list[dg.RunRequest] = []
        progress: list[str] = []
        sites = {site.name: site for site in federation.sites.all}
        by_agents = tuple(name for name, site in sites.items() if site.agent)
        for key in open_rounds(store):
            plan = read_round_plan(store, key)
            # runs first: a run that ends between the two looks has left what it writes by the second
            runs = run_states(_runs_of(context.instance, jobs, key))
            found, now = standing_of(store, key), datetime.now(UTC)
            masked = plan.aggregation.secure and found.adapter_at is None
            due = due_in_round(
                plan,
                Standing(
                    deltas=found.deltas,
                    scores=found.scores,
                    adapter_at=found.adapter_at,
                    has_outcome=found.ended_at is not None,
                    runs=runs,
                    masking=_masking_of(store, plan, now) if masked else None,
                    by_agents=by_agents,
                    # a run for one of them would be refused, and with it all that this tick asks for
                    gone=tuple(site for site in plan.sites if site not in sites),
                ),
                now,
            )
            requests += [_request(key, step, jobs) for step in due.steps]
            progress.append(f"{key}: {due.reason}")
        if requests:
            return dg.SensorResult(run_requests=requests)
        return dg.SkipReason("; ".join(progress) or "No round is open.")

    return round_conductor


def _request(key: str, step: str, jobs: Mapping[str, str]) -> dg.RunRequest:
    kind, site, phase = (*step.split("/", 2), "", "")[:3]
    tags = {END_TAG: key} if step == END else {}
    if phase not in ("", _TRAINS):
        kind = "phase"
    return dg.RunRequest(
        run_key=f"{key}/{step}",
        job_name=jobs[kind],
        partition_key=site_round_key(site, key) if site else key,
        tags={**tags, _STEP_TAG: step} if phase else tags,
    )


def _masking_of(store: SiteStore, plan: RoundPlan, now: datetime) -> Masking:
    """How far the masked deltas of a secure round are; only read."""
    found = read_standing(Outbox(store), plan, now=now)
    return Masking(
        phase=found.phase,
        num_sent=found.num_sent,
        needed=terms_of(plan).threshold,
        steps=due_steps(found, plan, is_late=found.is_late),
        is_late=found.is_late,
        ends_at=found.ends_at or now,
        problem=found.problem,
    )


def _runs_of(instance: dg.DagsterInstance, jobs: Mapping[str, str], key: str) -> Iterator[RoundRun]:
    """Runs of a round, newest first, whoever asked for them."""
    for kind in ("delta", "phase", "scores"):
        for run in _found(instance, jobs[kind], {_ROUND_TAG: key}):
            if _SITE_TAG in run.tags:
                yield _summary(run, run.tags.get(_STEP_TAG, f"{kind}/{run.tags[_SITE_TAG]}"))
    for kind in ("adapter", "verdict"):
        for run in _found(instance, jobs[kind], {_PARTITION_TAG: key}):
            yield _summary(run, END if END_TAG in run.tags else kind)


def _found(
    instance: dg.DagsterInstance, job: str, tags: Mapping[str, str]
) -> Sequence[dg.DagsterRun]:
    records = instance.get_run_records(RunsFilter(job_name=job, tags=dict(tags)))
    return [record.dagster_run for record in records]


def _summary(run: dg.DagsterRun, step: str) -> RoundRun:
    return RoundRun(
        step=step,
        finished=run.is_finished,
        succeeded=run.status == DagsterRunStatus.SUCCESS,
        will_retry=run.status == DagsterRunStatus.FAILURE and run.tags.get(_RETRY_TAG) == "true",
    )
