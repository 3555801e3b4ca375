"""Promoted checkpoints: a candidate that passed every gate goes into the registry and becomes what is used."""

from typing import Any

import dagster as dg

from assets.evaluation import gate_table, read_evaluation, sheet_of
from assets.partitions import rounds
from resources.checkpoint_registry import CheckpointRegistry
from resources.credentials import resolved
from resources.failpoints import reached
from resources.federation import Federation
from resources.ledger import Ledger
from resources.round_files import (
    end_round,
    read_adapter_record,
    read_outcome,
    read_round_adapter,
    read_round_plan,
)
from resources.round_verdicts import end
from resources.site_log import SiteLog
from resources.site_store import SiteStore
from resources.world_models import WorldModels
from worldloop.federation.gates import evaluate_gates
from worldloop.federation.model_card import checkpoint_files
from worldloop.federation.outcomes import Outcome
from worldloop.federation.rounds import RoundPlan

_HUB_TOKEN = {"token": "env:HF_TOKEN"}  # as the hub's own tools call it
_PROMOTED = "it passed every gate"


@dg.asset(
    group_name="federation",
    kinds={"diffusers", "huggingface"},
    partitions_def=rounds,
    deps=["evaluation"],
    code_version="1",
    retry_policy=dg.RetryPolicy(max_retries=1, delay=3),
)
def promoted_checkpoint(
    context: dg.AssetExecutionContext,
    store: SiteStore,
    site_log: SiteLog,
    ledger: Ledger,
    federation: Federation,
    world_models: WorldModels,
    registry: CheckpointRegistry,
) -> dg.MaterializeResult[None]:
    """The round's adapter as diffusers and PEFT load it, with its card; what its line uses from now on.

    Published, then promoted, then the outcome is written: a run that is killed in between goes on. A
    candidate that was not compared with what is promoted now is refused. Where the coordinator's
    `training.upload_repo` names a repository, it is uploaded too. Format: docs/formats.md#registry.
    """
    plan = read_round_plan(store, context.partition_key)
    line = plan.base.model.lower()
    over = read_outcome(store, plan.round)
    if over is None:
        over = _promote(store, site_log, ledger, world_models, registry, plan)
    else:
        end_round(store, site_log, over)  # rows that a kill kept out of the log
    if over.outcome != "promoted":
        raise dg.Failure(
            f"Round {plan.round} is over: {over.outcome}, because {over.reason}",
            allow_retries=False,
        )
    facts: dict[str, Any] = {}
    repo = federation.site(federation.coordinator).training.upload_repo
    if repo:
        token = resolved(_HUB_TOKEN)["token"]
        facts["commit"] = registry.upload(line, plan.round, repo, token=token)
        facts["repository"] = dg.MetadataValue.url(f"https://huggingface.co/{repo}")
    return dg.MaterializeResult(
        data_version=dg.DataVersion(over.adapter_sha256),
        metadata={**_describe(store, registry, plan, over), **facts},
    )


def _promote(
    store: SiteStore,
    site_log: SiteLog,
    ledger: Ledger,
    world_models: WorldModels,
    registry: CheckpointRegistry,
    plan: RoundPlan,
) -> Outcome:
    """Publish, promote and end the round; refuse what the gates or the line do not allow."""
    line = plan.base.model.lower()
    record, found = read_adapter_record(store, plan.round), read_evaluation(store, plan.round)
    if record is None or found is None:
        raise dg.Failure(
            f"Round {plan.round} has no evaluation; expected one that every gate has passed. Run "
            "verdict_job for it.",
            allow_retries=False,
        )
    verdicts = evaluate_gates(found, plan.trial.limits, plan)
    failed = [one.name for one in verdicts if not one.passed]
    standing = registry.main(line)
    moved = bool(plan.base.adapter) and standing not in (plan.base.adapter, plan.round)
    ending: tuple[Any, str] = ("promoted", _PROMOTED)
    if failed:
        ending = ("refused", f"gates {', '.join(failed)}")
    elif moved:
        ending = (
            "refused",
            f"{standing or 'the base alone'} is promoted by now, and the candidate was compared with "
            f"{plan.base.adapter}; open a new round",
        )
    else:
        files = checkpoint_files(plan, read_round_adapter(store, plan.round), found, verdicts)
        registry.publish(line, plan.round, files)
        reached("promotion.published")
        registry.promote(line, plan.round, reason=_PROMOTED)
        reached("promotion.promoted")
    return end(
        store,
        site_log,
        ledger,
        plan,
        *ending,
        participation=record.participation,
        usd_per_gpu_hour=world_models.usd_per_gpu_hour,
        adapter_sha256=record.adapter_sha256,
        failed_gates=failed,
        evaluation=found,
    )


def _describe(
    store: SiteStore, registry: CheckpointRegistry, plan: RoundPlan, outcome: Outcome
) -> dict[str, Any]:
    line, found = plan.base.model.lower(), read_evaluation(store, plan.round)
    verdicts = evaluate_gates(found, plan.trial.limits, plan) if found else []
    return {
        "line": line,
        "is_main": registry.main(line) == plan.round,
        "adapter_sha256": outcome.adapter_sha256,
        "loss_before": outcome.loss_before if outcome.loss_before is not None else "not measured",
        "loss_after": outcome.loss_after if outcome.loss_after is not None else "not measured",
        "files": dg.MetadataValue.json(
            {name: len(content) for name, content in registry.files(line, plan.round).items()}
        ),
        "gates": dg.MetadataValue.md(gate_table(verdicts)),
        **sheet_of(store, plan),
        "location": dg.MetadataValue.path(str(registry.local_folder(line, plan.round))),
    }
