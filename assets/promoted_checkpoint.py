"""Promoted checkpoints: a candidate that passed every gate goes into the registry and becomes what is used."""

from datetime import datetime
from typing import Any

import dagster as dg

from assets.evaluation import gate_table, read_evaluation, sheet_of
from assets.partitions import rounds
from resources.checkpoint_lines import line_table, since
from resources.checkpoint_registry import MAIN, CheckpointRegistry
from resources.credentials import resolved
from resources.failpoints import reached
from resources.federation import Federation
from resources.ledger import Ledger
from resources.round_files import (
    read_adapter_record,
    read_outcome,
    read_round_adapter,
    read_round_plan,
)
from resources.round_verdicts import end, finish
from resources.secure_rounds import forget_masks
from resources.site_keys import SiteKeys
from resources.site_log import SiteLog
from resources.site_store import SiteStore
from resources.world_models import WorldModels
from worldloop.federation.gates import evaluate_gates
from worldloop.federation.model_card import checkpoint_files
from worldloop.federation.outcomes import Ending, Outcome
from worldloop.federation.rounds import RoundPlan
from worldloop.plots import readable

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

    Published, then promoted (or, with `training.shadow_share`, tried as shadow on a share of the waves), then
    the outcome is written: a run that is killed in between goes on. A
    candidate that was not compared with what is promoted now is refused. Where the coordinator's
    `training.upload_repo` names a repository, it is uploaded too. Format: docs/formats.md#registry.
    """
    plan = read_round_plan(store, context.partition_key)
    line = plan.base.model.lower()
    over = read_outcome(store, plan.round)
    if over is None:
        share = federation.site(federation.coordinator).training.shadow_share
        over = _promote(store, site_log, ledger, world_models, registry, plan, shadow_share=share)
    else:
        price = world_models.usd_per_gpu_hour
        finish(store, site_log, ledger, plan, over, usd_per_gpu_hour=price)  # what a kill kept out
    forget_masks(SiteKeys(federation.home), plan)
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
    *,
    shadow_share: float,
) -> Outcome:
    """Publish, promote or try, and end the round; refuse what the gates or the line do not allow."""
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
    ending: tuple[Ending, str] = ("promoted", _PROMOTED)
    if failed:
        ending = ("refused", f"gates {', '.join(failed)}")
    elif _was_overtaken(registry, line, plan):
        ending = (
            "refused",
            f"{standing or 'the base alone'} is promoted by now, and the candidate was compared with "
            f"{plan.base.adapter or 'the base alone'}; open a new round",
        )
    else:
        files = checkpoint_files(plan, read_round_adapter(store, plan.round), found, verdicts)
        registry.publish(line, plan.round, files)
        reached("promotion.published")
        ending = ("promoted", _put_to_use(registry, line, plan.round, shadow_share))
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


def _was_overtaken(registry: CheckpointRegistry, line: str, plan: RoundPlan) -> bool:
    """Whether something else is promoted by now than when the round was planned.

    A new adapter may take the place of what stood then: whoever asks for one knows of it.
    """
    if registry.main(line) in (plan.base.adapter, plan.round):
        return False
    decided = since(registry.history(line), MAIN)
    opened_at = datetime.fromisoformat(plan.opened_at)
    is_later = decided is not None and datetime.fromisoformat(decided.at) > opened_at
    return bool(plan.base.adapter) or is_later


def _put_to_use(
    registry: CheckpointRegistry, line: str, round_key: str, shadow_share: float
) -> str:
    """Promote a checkpoint, or try it as shadow; what was decided about it before a kill stays.

    The first of a line has nothing promoted beside which it could be tried, so it is promoted at once.
    """
    tried = (
        f"{_PROMOTED}; it makes {shadow_share:.0%} of the waves as shadow before it is used for all"
    )
    decided = {one.round: one.event for one in registry.history(line)}
    if round_key in decided:
        registry.settle(line)
        return tried if registry.shadow(line) == round_key else _PROMOTED
    if not shadow_share or not registry.main(line):
        registry.promote(line, round_key, reason=_PROMOTED)
        return _PROMOTED
    if registry.shadow(line):
        registry.withdraw_shadow(
            line, reason=f"{round_key} passed its gates and is tried in its place"
        )
    registry.try_as_shadow(line, round_key, share=shadow_share, reason=_PROMOTED)
    return tried


def _describe(
    store: SiteStore, registry: CheckpointRegistry, plan: RoundPlan, outcome: Outcome
) -> dict[str, Any]:
    line, found = plan.base.model.lower(), read_evaluation(store, plan.round)
    verdicts = evaluate_gates(found, plan.trial.limits, plan) if found else []
    return {
        "line": line,
        "is_main": registry.main(line) == plan.round,
        "is_shadow": registry.shadow(line) == plan.round,
        "in_use": dg.MetadataValue.md(line_table({line: registry.history(line)})),
        "adapter_sha256": outcome.adapter_sha256,
        **({"not_counted": "; ".join(outcome.not_counted)} if outcome.not_counted else {}),
        "loss_before": _shown(outcome.loss_before),
        "loss_after": _shown(outcome.loss_after),
        "files": dg.MetadataValue.json(
            {name: len(content) for name, content in registry.files(line, plan.round).items()}
        ),
        "gates": dg.MetadataValue.md(gate_table(verdicts)),
        **sheet_of(store, plan),
        "location": dg.MetadataValue.path(str(registry.local_folder(line, plan.round))),
    }


def _shown(loss: float | None) -> float | str:
    return readable(loss) if loss is not None else "not measured"
