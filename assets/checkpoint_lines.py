"""Checkpoint lines: which checkpoint each post-trained model uses, and which it tries, since when and why."""

from typing import Any

import dagster as dg

from resources.alerts import Alerts
from resources.checkpoint_lines import (
    audit_rows,
    carry_out,
    due,
    history_table,
    line_of,
    line_table,
    untold,
)
from resources.checkpoint_registry import CheckpointRegistry
from resources.credentials import resolved
from resources.federation import Federation
from resources.site_log import SiteLog
from resources.site_store import SiteStore
from worldloop.errors import MalformedRecordError
from worldloop.federation.comparisons import Due

HUB_TOKEN = {"token": "env:HF_TOKEN"}  # as the hub's own tools call it
NUM_DECISIONS = "num_decisions"  # metadata: by line


class CheckpointLinesConfig(dg.Config):
    """What a person may ask for; nothing: what the clips show is acted upon.

    Attributes:
        roll_back: Round of a promoted checkpoint that is taken back.
        reason: Why, for the history and the alert.
    """

    roll_back: str = ""
    reason: str = ""


@dg.asset(
    group_name="federation",
    kinds={"json"},
    deps=[
        dg.AssetDep(name, partition_mapping=dg.AllPartitionMapping())
        for name in ("promoted_checkpoint", "release")
    ],
    code_version="1",
    retry_policy=dg.RetryPolicy(max_retries=1, delay=3),
)
def checkpoint_lines(
    context: dg.AssetExecutionContext,
    config: CheckpointLinesConfig,
    store: SiteStore,
    site_log: SiteLog,
    federation: Federation,
    registry: CheckpointRegistry,
    alerts: Alerts,
) -> dg.MaterializeResult[None]:
    """One line a post-trained model: the checkpoint that is used, the one that is tried, since when and why.

    Made anew it looks whether clips of released waves show a checkpoint to be worse than what it replaced:
    a promoted one is taken back then, and somebody told; a shadow is withdrawn, or promoted if it is not.
    Every decision becomes an audit row, and `training.upload_repo` has what is used. Format: docs/formats.md#registry.
    """
    lines = registry.lines()
    if config.roll_back:
        _take_back(registry, lines, config)
    settings = federation.site(federation.coordinator).training
    waiting: dict[str, str] = {}
    for line in lines:
        found = due(store, site_log, registry, line, min_pairs=settings.min_pairs)
        if carry_out(registry, line, found):
            context.log.info("%s: %s: %s", line, found.cause, found.reason)
        waiting[line] = found.reason
    histories = {line: registry.history(line) for line in lines}
    log, here = federation.log(federation.coordinator), federation.coordinator
    for line, history in histories.items():
        for one in untold(log, line, history, site=here):
            if one.event == "rolled_back":
                alerts.send(
                    f"worldloop checkpoint taken back: {one.round}",
                    line=line,
                    used_now=one.main or "the base alone",
                    reason=one.reason,
                )
        log.append("audits", audit_rows(line, history, site=here))
    facts: dict[str, Any] = {}
    line = line_of(settings.model)
    if settings.upload_repo and line in histories and (main := registry.main(line)):
        # last, so that a hub that is away keeps nobody from being told; what stands there is not sent again
        token = resolved(HUB_TOKEN)["token"]
        facts["commit"] = registry.upload(line, main, settings.upload_repo, token=token)
    return dg.MaterializeResult(
        metadata={
            **facts,
            "in_use": dg.MetadataValue.md(line_table(histories)),
            "history": dg.MetadataValue.md(history_table(histories)),
            "waiting": dg.MetadataValue.json(waiting),
            NUM_DECISIONS: dg.MetadataValue.json(
                {line: len(history) for line, history in histories.items()}
            ),
            "location": dg.MetadataValue.path(f"{registry.store.url}/registry"),
        }
    )


def _take_back(
    registry: CheckpointRegistry, lines: list[str], config: CheckpointLinesConfig
) -> None:
    """A roll-back that somebody asks for by hand; one that was done already is left alone."""
    used: dict[str, Any] = {registry.main(line): line for line in lines}
    done = any(
        one.event == "rolled_back" and one.round == config.roll_back
        for line in lines
        for one in registry.history(line)
    )
    if config.roll_back in used:
        line = used[config.roll_back]
        asked = Due("roll_back", config.roll_back, config.reason or "asked for by hand")
        carry_out(registry, line, asked)
    elif not done:
        raise MalformedRecordError(
            "roll_back",
            config.roll_back,
            f"a round that is promoted: {', '.join(sorted(filter(None, used))) or 'there is none'}",
            "Name one of them.",
        )
