"""Is a site's catalog late, stale or out of reach? Tells somebody when that begins and when it ends."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime

import dagster as dg

from assets.site_catalogs import asset_name
from resources.alerts import Alerts
from resources.catalog_upkeep import Catalogs
from worldloop.catalog_incidents import changes, in_words, what_is_wrong
from worldloop.sites import Site

CURSOR_VERSION = 1


def build_late_catalogs(sites: Sequence[Site]) -> dg.SensorDefinition:
    """The sensor that watches lag; it looks three times within the shortest `max_lag_s`."""
    shortest = min((site.max_lag_s for site in sites), default=900.0)

    @dg.sensor(
        name="late_catalogs",
        minimum_interval_seconds=int(min(max(shortest / 3, 60), 3600)),
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def late_catalogs(
        context: dg.SensorEvaluationContext, catalogs: Catalogs, alerts: Alerts
    ) -> dg.SensorResult:
        """Alert once when a site falls behind, gets stale or stops to answer, and once when it is well."""
        now, found = datetime.now(UTC), {}
        for status in catalogs.statuses():
            made_at = last_made_at(context.instance, status.site)
            if made_at is not None:  # a site that nobody has used yet is not late
                found[status.site] = what_is_wrong(status, made_at=made_at, now=now)
        told = changes(_open_incidents(context.cursor), found)
        for site, words in told.begun.items():
            alerts.send(
                f"worldloop catalogs of {site}: {words.split(':')[0]}", site=site, found=words
            )
        for site, words in told.ended.items():
            alerts.send(f"worldloop catalogs of {site}: recovered", site=site, was=words)
        return dg.SensorResult(
            skip_reason=dg.SkipReason(
                in_words((site, words or "in time") for site, words in found.items())
                or "No catalog has been made yet."
            ),
            cursor=json.dumps({"version": CURSOR_VERSION, "open": told.open}),
        )

    return late_catalogs


def last_made_at(instance: dg.DagsterInstance, site: str) -> datetime | None:
    """When the asset of a site was last materialised."""
    event = instance.get_latest_materialization_event(dg.AssetKey(asset_name(site)))
    return None if event is None else datetime.fromtimestamp(event.timestamp, UTC)


def _open_incidents(cursor: str | None) -> dict[str, str]:
    state = json.loads(cursor) if cursor else {}
    return dict(state["open"]) if state.get("version") == CURSOR_VERSION else {}
