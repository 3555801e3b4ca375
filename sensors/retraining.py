"""Is it time to train? Opens a round of post-training when there is reason to and nothing against it."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from assets.partitions import rounds
from resources.checkpoint_lines import line_of
from resources.checkpoint_registry import CheckpointRegistry
from resources.federation import Federation
from resources.ledger import Ledger
from resources.round_files import planned_rounds, read_outcome, read_round_plan
from resources.site_drift import newest_drift
from resources.site_store import SiteStore
from resources.tables import read_record
from worldloop import layout
from worldloop.errors import BudgetExceededError
from worldloop.federation.held_out import pick_held_out
from worldloop.federation.masking import MIN_SITES
from worldloop.federation.outcomes import Outcome
from worldloop.federation.rounds import RoundPlan, learned_waves, next_round_key
from worldloop.federation.triggers import (
    Attempt,
    ReleasedWave,
    estimate_round,
    filmed_cities,
    news_since,
    trainable_clips,
    wave_order,
    why_again,
    why_no_home,
    why_no_quorum,
    why_not,
    why_train,
)
from worldloop.releases import read_release
from worldloop.sites import Retraining, Site, Sites

CURSOR_VERSION = 1
_SHAPE = ("num_frames", "width_px", "height_px", "rate_fps")
_read: dict[tuple[str, str], ReleasedWave] = {}  # by store and wave; a release never changes


@dataclass(frozen=True)
class Rounds:
    """Every planned round of one model, oldest first, with what became of it.

    Attributes:
        plans: By round.
        outcomes: Of those that are over.
        open: Rounds of any model without an outcome.
        main: The one whose checkpoint is used; empty: none.
        shadow: The one whose checkpoint is tried beside it; empty: none.
    """

    plans: Mapping[str, RoundPlan]
    outcomes: Mapping[str, Outcome]
    open: tuple[str, ...]
    main: str = ""
    shadow: str = ""

    @property
    def learned(self) -> set[str]:
        """Waves that the checkpoint that is used was trained on."""
        return learned_waves(self.plans, self.main)

    @property
    def attempts(self) -> list[Attempt]:
        """Rounds that started from what is used now and came to a verdict."""
        return [
            Attempt(key, self.plans[key].waves, self._fate(key, one))
            for key, one in self.outcomes.items()
            if one.outcome != "failed" and self.plans[key].base.adapter == self.main
        ]

    def _fate(self, key: str, outcome: Outcome) -> str:
        if outcome.outcome == "refused":
            return "was refused"
        return "is tried as shadow" if key == self.shadow else "was taken back"

    @property
    def held_out(self) -> set[str]:
        """Cities that any of them held out."""
        return {city for plan in self.plans.values() for city in plan.trial.held_out_cities}

    @property
    def last_opened_at(self) -> datetime | None:
        """When the newest was planned."""
        moments = [datetime.fromisoformat(plan.opened_at) for plan in self.plans.values()]
        return max(moments, default=None)


def build_retraining(
    round_job: UnresolvedAssetJobDefinition,
    drift_job: UnresolvedAssetJobDefinition,
    site: Site,
) -> dg.SensorDefinition:
    """The sensor that opens rounds; switched off until somebody switches it on.

    Where `max_drift` is set it asks each site for its drift first, once for each new wave; a site that
    fails or has too few clips holds nothing up.

    What was trained on, and when, is read from plans and outcomes, so a lost cursor changes nothing; it
    says what the newest round was opened for.
    """
    settings = site.training

    @dg.sensor(
        name="retraining",
        description="Opens a round of post-training when there is reason to, and nothing against it.",
        jobs=[round_job, drift_job],
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.STOPPED,
    )
    def retraining(
        context: dg.SensorEvaluationContext,
        store: SiteStore,
        ledger: Ledger,
        federation: Federation,
        registry: CheckpointRegistry,
    ) -> dg.SensorResult | dg.SkipReason:
        """Open a round: adds its partition, reserves its budget, asks for its plan."""
        known = context.instance.get_dynamic_partitions(rounds_name())
        planned = planned_rounds(store)
        unplanned = sorted(set(known) - set(planned), key=wave_order)
        if unplanned:
            stuck = _why_unplanned(context.instance, unplanned[0], round_job.name, ledger)
            if stuck is not None:
                return dg.SkipReason(stuck)
        before = read_rounds(store, registry, settings.model)
        released = released_waves(store)
        sites = federation.sites
        reason = why_not(
            settings=settings,
            open_rounds=before.open,
            last_opened_at=before.last_opened_at,
            now=datetime.now(UTC),
        ) or why_no_home(_homeless(released, before, sites))
        if reason is not None:
            return dg.SkipReason(reason)
        held_out, num_clips = _trainable(released, before, sites, settings)
        drift, unasked = None, list[dg.RunRequest]()
        if settings.max_drift and before.main:
            unasked = _drift_requests(context.instance, drift_job.name, released, before, num_clips)
            drift = newest_drift(store, num_clips, base=before.main)
        if unasked:
            return dg.SensorResult(run_requests=unasked)
        news = news_since(
            released,
            learned_waves=before.learned,
            gap_clips=settings.gap_clips,
            drift=drift,
        )
        answer = why_train(news, settings)
        if not answer.yes:
            return dg.SkipReason(answer.reason)
        again = why_again(news, before.attempts)
        if again is not None:
            return dg.SkipReason(f"There is reason to train ({answer.reason}), but: {again}")
        least = MIN_SITES if settings.aggregation.secure else 1
        few = why_no_quorum(num_clips, max(settings.terms.quorum, least))
        if few is not None:
            return dg.SkipReason(few)
        if not held_out:
            return dg.SkipReason(
                "Clips of at least two cities are needed, so that one can be held out; released are "
                f"clips of {len(filmed_cities(released))}."
            )
        key = unplanned[0] if unplanned else next_round_key({*known, *planned})
        estimate = estimate_round(
            settings, num_sites=len(num_clips), usd_per_gpu_hour=site.usd_per_gpu_hour
        )
        try:
            ledger.reserve(key, estimate)
        except BudgetExceededError as error:
            return dg.SkipReason(f"There is reason to train ({answer.reason}), but: {error}")
        context.log.info("Opening round %s: %s", key, answer.reason)
        return dg.SensorResult(
            dynamic_partitions_requests=[rounds.build_add_request([key])],
            run_requests=[
                dg.RunRequest(
                    run_key=f"{key}/plan",
                    job_name=round_job.name,
                    partition_key=key,
                    run_config={
                        "ops": {
                            "round_plan": {
                                "config": round_config(
                                    settings, held_out=held_out, reason=answer.reason
                                )
                            }
                        }
                    },
                )
            ],
            cursor=json.dumps(
                {
                    "version": CURSOR_VERSION,
                    "round": key,
                    "reason": answer.reason,
                    "waves": list(news.waves),
                }
            ),
        )

    return retraining


def rounds_name() -> str:
    """Name of the partitions of rounds."""
    assert rounds.name is not None
    return rounds.name


def round_config(settings: Retraining, *, held_out: Iterable[str], reason: str) -> dict[str, Any]:
    """What to ask of `round_plan`: fields of `RoundPlanConfig`; what has its default is left out."""
    training = _changed(settings.training, leave_out=("shape", "mode"))
    shape = {name: getattr(settings.training.shape, name) for name in _SHAPE}
    terms = {"quorum": settings.terms.quorum, **_changed(settings.terms)}
    trial = _changed(settings.trial, leave_out=("held_out_cities",))
    named = set(settings.trial.held_out_cities)
    return {
        "model": settings.model,
        "training": {**shape, **training},
        "aggregation": _changed(settings.aggregation),
        "terms": terms,
        "trial": {
            "num_prompts": settings.num_prompts,
            **trial,
            "held_out_cities": sorted(named | set(held_out)),
        },
        "reason": reason,
    }


def read_rounds(store: SiteStore, registry: CheckpointRegistry, model: str) -> Rounds:
    """Every planned round of a model, with what became of it."""
    line = line_of(model)
    plans = {key: read_round_plan(store, key) for key in planned_rounds(store)}
    ended = {key: read_outcome(store, key) for key in plans}
    mine = {key: plan for key, plan in plans.items() if plan.base.model == model}
    return Rounds(
        plans=mine,
        outcomes={key: one for key, one in ended.items() if one is not None and key in mine},
        open=tuple(key for key, one in ended.items() if one is None),
        main=registry.main(line) if line else "",
        shadow=registry.shadow(line) if line else "",
    )


def released_waves(store: SiteStore) -> list[ReleasedWave]:
    """Every released wave, oldest first; each is read once, as a release never changes."""
    keys = [key.split("/") for key, _ in store.list(layout.RELEASES)]
    waves = sorted((p[1] for p in keys if p[-1] == "release.json"), key=wave_order)
    return [_released(store, wave) for wave in waves]


def _released(store: SiteStore, wave: str) -> ReleasedWave:
    known = _read.get((store.url, wave))
    if known is None:
        record = read_release(read_record(store, layout.release_key(wave)))
        known = ReleasedWave(wave, float(record["duration_s"]), record["num_clips_by_place"])
        _read[store.url, wave] = known
    return known


def _trainable(
    released: list[ReleasedWave], before: Rounds, sites: Sites, settings: Retraining
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Cities that the next round holds out, and clips of each site that it may train on."""
    learned = before.learned
    waves = [one for one in released if one.wave not in learned]
    by_site: dict[str, set[str]] = defaultdict(set)
    for city in filmed_cities(waves):
        by_site[sites.site_of(city).name].add(city)
    home_of = {city: site for site, cities in by_site.items() for city in cities}
    earlier = {*before.held_out, *settings.trial.held_out_cities}
    held_out = pick_held_out(by_site, earlier=earlier, share=settings.held_out_share)
    return held_out, trainable_clips(waves, home_of, held_out=held_out)


def _homeless(released: list[ReleasedWave], before: Rounds, sites: Sites) -> list[str]:
    """Cities of footage to train on that no site is the home of."""
    new = [one for one in released if one.wave not in before.learned]
    return [city for city in filmed_cities(new) if not sites.has_home(city)]


def _drift_requests(
    instance: dg.DagsterInstance,
    drift_job: str,
    released: list[ReleasedWave],
    before: Rounds,
    sites: Iterable[str],
) -> list[dg.RunRequest]:
    """Runs that measure what no run was asked to measure yet: the newest wave against the base."""
    trained = before.learned
    since = [one.wave for one in released if one.wave not in trained]
    if not since:
        return []
    config = {"base": before.main, "before": sorted(trained), "since": since}
    requests = [
        dg.RunRequest(
            run_key=f"drift/{before.main}/{since[-1]}/{site}",
            job_name=drift_job,
            partition_key=site,
            run_config={"ops": {"site_drift": {"config": config}}},
        )
        for site in sorted(sites)
    ]
    return [
        request
        for request in requests
        if not instance.get_run_records(
            dg.RunsFilter(tags={"dagster/run_key": str(request.run_key)}), limit=1
        )
    ]


def _why_unplanned(
    instance: dg.DagsterInstance, key: str, round_job: str, ledger: Ledger
) -> str | None:
    """Why a round without a plan holds up the next one; None if its plan was never asked for.

    One that could not be planned gives back what it holds.
    """
    newest = instance.get_run_records(
        dg.RunsFilter(job_name=round_job, tags={"dagster/partition": key}), limit=1
    )
    if not newest:
        return None  # killed between adding the partition and asking for the run
    if newest[0].dagster_run.is_finished:
        ledger.release_reservation(key)
        return (
            f"Round {key} could not be planned: see its run, and materialise round_plan of {key} in the "
            "UI or delete the partition."
        )
    return f"Round {key} is being planned."


def _changed(part: Any, *, leave_out: Iterable[str] = ()) -> dict[str, Any]:
    """Fields of a part of a plan that differ from their defaults, as a run's config has them."""
    found: dict[str, Any] = {}
    for field in fields(part):
        value = getattr(part, field.name)
        if field.name in leave_out or value == field.default:
            continue
        if isinstance(value, Mapping):
            if value:
                found[field.name] = dict(value)
        elif not (isinstance(value, tuple) and not value):
            found[field.name] = list(value) if isinstance(value, tuple) else value
    return found
