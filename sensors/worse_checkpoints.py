"""Does a checkpoint make worse clips than what it replaced? Has it taken back, or its trial ended."""

import json
from collections.abc import Mapping
from typing import Any

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from assets.checkpoint_lines import NUM_DECISIONS
from resources.checkpoint_lines import due
from resources.checkpoint_registry import CheckpointRegistry
from resources.round_files import released_waves
from resources.site_log import SiteLog
from resources.site_store import SiteStore
from worldloop.errors import UnreachableError
from worldloop.sites import Site

CURSOR_VERSION = 1
_ASSET = dg.AssetKey("checkpoint_lines")


def build_worse_checkpoints(
    lines_job: UnresolvedAssetJobDefinition, site: Site
) -> dg.SensorDefinition:
    """The sensor that watches the checkpoints in use; it runs by default.

    It spends nothing but a reading of scores when a wave was released, it can only go back to what was
    used before, and a shadow waits for it. A safeguard that is off until somebody thinks of it is none.

    Run keys name the cause (`roll_back:r0003`, `promote:r0004`, `withdraw:r0004`), so one is acted upon
    once, whatever becomes of the cursor. The run looks again before it decides. A decision that others
    made is shown by a run of its own (`show:<line>:<number>`).
    """

    @dg.sensor(
        name="worse_checkpoints",
        description="Compares new clips with those that they replace; a worse checkpoint is taken back.",
        job=lines_job,
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def worse_checkpoints(
        context: dg.SensorEvaluationContext,
        store: SiteStore,
        site_log: SiteLog,
        registry: CheckpointRegistry,
    ) -> dg.SensorResult | dg.SkipReason:
        """Compare new clips with those that they replace, and ask for what follows."""
        lines = registry.lines()
        if not lines:
            return dg.SkipReason("No checkpoint has been promoted yet.")
        decided = {line: len(registry.history(line)) for line in lines}
        seen = {
            "version": CURSOR_VERSION,
            "decided": decided,
            "released": len(released_waves(store)),
            "min_pairs": site.training.min_pairs,
        }
        state: dict[str, Any] = json.loads(context.cursor) if context.cursor else {}
        if {**seen, "said": state.get("said")} == state:
            return dg.SkipReason(str(state["said"]))
        shown = _shown(context.instance)
        requests: list[dg.RunRequest] = []
        said: list[str] = []
        try:
            for line in lines:
                found = due(store, site_log, registry, line, min_pairs=site.training.min_pairs)
                said.append(_in_words(found.cause, found.reason, lines_job.name))
                if found.cause:
                    context.log.info("%s: %s", found.cause, found.reason)
                    tags = {"worldloop/reason": found.reason}
                    requests.append(dg.RunRequest(run_key=found.cause, tags=tags))
                elif shown.get(line, 0) < decided[line]:
                    requests.append(dg.RunRequest(run_key=f"show:{line}:{decided[line]}"))
        except UnreachableError as error:
            return dg.SkipReason(f"What was made cannot be compared now: {error}")
        cursor = json.dumps({**seen, "said": " ".join(said)})
        if requests:
            return dg.SensorResult(run_requests=requests, cursor=cursor)
        return dg.SensorResult(skip_reason=dg.SkipReason(" ".join(said)), cursor=cursor)

    return worse_checkpoints


def _in_words(cause: str, reason: str, job: str) -> str:
    if not cause:
        return reason
    return f"{cause} was asked for: {reason}. If it is not done, look at the runs of {job}."


def _shown(instance: dg.DagsterInstance) -> Mapping[str, int]:
    """Decisions of each line that the asset shows."""
    event = instance.get_latest_materialization_event(_ASSET)
    if event is None or event.asset_materialization is None:
        return {}
    value = event.asset_materialization.metadata[NUM_DECISIONS].value
    return dict(value) if isinstance(value, dict) else {}
