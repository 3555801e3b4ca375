"""Is a site's catalog late, stale or out of reach? Tells somebody when that begins and when it ends."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from assets.site_catalogs import asset_name
from resources.alerts import Alerts
from resources.catalog_glance import glances
from resources.catalog_upkeep import Catalogs
from worldloop.catalog_incidents import changes, in_words, what_is_wrong
from worldloop.sites import Site

CURSOR_VERSION = 1


def build_late_catalogs(sites: Sequence[Site]) -> dg.SensorDefinition:
    """The sensor that watches lag; it looks three times within the shortest `max_lag_s`."""
    shortest = min((site.max_lag_s for site in sites), default=900.0)

    @dg.sensor(
        name="late_catalogs",
        description="Alerts once when a site's catalogs fall behind, and once when they are well again.",
        minimum_interval_seconds=int(min(max(shortest / 3, 60), 3600)),
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def late_catalogs(
        context: dg.SensorEvaluationContext, catalogs: Catalogs, alerts: Alerts
    ) -> dg.SensorResult:
        """Alert once when a site falls behind, gets stale or stops to answer, and once when it is well.

        Projections are only looked at when a log has moved, or a run has ended, since they were level.
        """
        state, now = _state(context.cursor), datetime.now(UTC)
        made = {name: last_made_at(context.instance, name) for name in catalogs.federation.names}
        used = {name: at for name, at in made.items() if at is not None}  # others are not late
        seen = {name: _level(state, name, at) for name, at in used.items()}
        looks = glances(catalogs, seen) if seen else {}
        found = {
            name: what_is_wrong(
                looks[name].status, made_at=at, now=now, was_wrong=name in state.get("open", {})
            )
            for name, at in used.items()
        }
        told = changes(state.get("open", {}), found)
        for site, words in told.begun.items():
            alerts.send(
                f"worldloop catalogs of {site}: {words.split(':')[0]}", site=site, found=words
            )
        for site, words in told.ended.items():
            alerts.send(f"worldloop catalogs of {site}: recovered", site=site, was=words)
        level = {
            name: {"made_at": used[name].isoformat(), "logs": dict(look.level)}
            for name, look in looks.items()
        }
        return dg.SensorResult(
            skip_reason=dg.SkipReason(
                in_words((site, words or "in time") for site, words in found.items())
                or "No catalog has been made yet."
            ),
            cursor=json.dumps({"version": CURSOR_VERSION, "open": told.open, "level": level}),
        )

    return late_catalogs


def last_made_at(instance: dg.DagsterInstance, site: str) -> datetime | None:
    """When the asset of a site was last materialised."""
    event = instance.get_latest_materialization_event(dg.AssetKey(asset_name(site)))
    return None if event is None else datetime.fromtimestamp(event.timestamp, UTC)


def _state(cursor: str | None) -> dict[str, Any]:
    state = json.loads(cursor) if cursor else {}
    return dict(state) if state.get("version") == CURSOR_VERSION else {}


def _level(state: Mapping[str, Any], site: str, made_at: datetime) -> dict[str, str]:
    """Where the logs stood when a site was level, if its catalogs have not been made since."""
    last = state.get("level", {}).get(site, {})
    return dict(last["logs"]) if last.get("made_at") == made_at.isoformat() else {}
