"""Rounds, releases and outcomes by hand, and the jobs that sensors ask for, as they are named in the graph."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from resources.round_files import end_round, publish_round_plan
from resources.tables import publish_record
from worldloop import layout
from worldloop.cosmos.families import ClipShape
from worldloop.federation.outcomes import Outcome
from worldloop.federation.rounds import Aggregation, Base, RoundPlan, Terms, Training, Trial

MODEL = "Tiny-Cosmos-Predict2-Video2World"
SITES = """
[sites.local]
cities = ["*"]
store = "site"
[sites.aws]
cities = ["lima", "cairo"]
store = "aws"
[sites.gcp]
cities = ["oslo"]
store = "gcp"
"""
JOBS = {
    name: dg.define_asset_job(name, selection=asset)
    for name, asset in (
        ("round_job", "round_plan"),
        ("delta_job", "site_delta"),
        ("phase_job", "site_delta"),
        ("adapter_job", "adapter"),
        ("scores_job", "site_scores"),
        ("verdict_job", "evaluation"),
        ("drift_job", "site_drift"),
    )
}


def round_plan(key: str = "r0001", **changes: Any) -> RoundPlan:
    """A small plan of three sites."""
    facts: dict[str, Any] = {
        "round": key,
        "sites": ("aws", "gcp", "local"),
        "waves": ("w0001",),
        "releases": ("ff",),
        "base": Base(MODEL, "tiny"),
        "training": Training(ClipShape(9, 64, 64, 16)),
        "aggregation": Aggregation(),
        "terms": Terms(),
        "trial": Trial(held_out_cities=("cairo",)),
        "seed": 1,
        "opened_at": datetime(2026, 1, 1, tzinfo=UTC).isoformat(),
    }
    return RoundPlan(**{**facts, **changes})


def open_round(house: Any, key: str = "r0001", **changes: Any) -> RoundPlan:
    """A planned round, with its partition."""
    plan = round_plan(key, **changes)
    house.instance.add_dynamic_partitions("round", [key])
    publish_round_plan(house.store, plan)
    return plan


def end(house: Any, plan: RoundPlan, outcome: str) -> None:
    """The outcome of a round, in its file and in the log."""
    ended = Outcome(
        plan.round,
        plan.plan_id,
        outcome,  # type: ignore[arg-type] # a test names one of the three
        "said by a test",
        datetime(2026, 1, 2, tzinfo=UTC).isoformat(),
    )
    end_round(house.store, house.resources["site_log"], ended)


def promote(house: Any, plan: RoundPlan) -> None:
    """A round that was promoted, with a checkpoint that is used from now on."""
    registry, line = house.resources["registry"], plan.base.model.lower()
    names = ("README.md", "evaluation.json", "pytorch_lora_weights.safetensors")
    registry.publish(line, plan.round, dict.fromkeys(names, b"{}"))
    registry.promote(line, plan.round)
    end(house, plan, "promoted")


def release(house: Any, wave: str, places: Mapping[str, int], *, hours: float = 1.0) -> None:
    """The record of a released wave."""
    record = {
        "version": 1,
        "wave": wave,
        "root_hash": "ff",
        "duration_s": hours * 3600,
        "num_clips_by_place": dict(places),
    }
    publish_record(house.store, layout.release_key(wave), record)


def record_run(
    house: Any, job: str, partition: str, status: dg.DagsterRunStatus, **tags: str
) -> None:
    """A run of a job, as the daemon would have started it."""
    parts = dict(zip(("round", "site"), partition.split("|"), strict=False))
    several = {f"dagster/partition/{name}": part for name, part in parts.items()}
    number = house.instance.get_runs_count()
    house.instance.add_run(
        dg.DagsterRun(
            job_name=job,
            run_id=f"run-{number}",
            status=status,
            tags={
                "dagster/partition": partition,
                **(several if len(parts) > 1 else {}),
                **tags,
            },
        )
    )
