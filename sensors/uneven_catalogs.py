"""Which catalogs are not level? Asks again for those whose last run failed or left something behind.

And once for a site that is new, for which no wave that is released already asks.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import dagster as dg

from assets.site_catalogs import NOBODY, asset_name
from resources.catalog_upkeep import Catalogs
from worldloop.catalog_incidents import in_words, retry_at
from worldloop.sites import Site

CURSOR_VERSION = 1


class LastTry(NamedTuple):
    """The newest run of a site's catalog.

    Attributes:
        run_id: Of the run.
        ended_at: When it ended; None while it is under way.
        level: Whether it left nothing behind: it succeeded, heard every site, and applied all.
    """

    run_id: str
    ended_at: datetime | None
    level: bool


def build_uneven_catalogs(sites: Sequence[Site]) -> dg.SensorDefinition:
    """The sensor that repeats until every site is level.

    Waves ask once (the automation condition of the assets). A site that did not answer then is
    asked for again after two minutes, four, eight, and then every quarter of an hour. The run key
    names the run that went wrong, so that a restarted daemon asks for nothing twice.
    """
    names = [site.name for site in sites]

    @dg.sensor(
        name="uneven_catalogs",
        description="Asks again for catalogs whose last run failed or left something behind.",
        asset_selection=dg.AssetSelection.assets(*(asset_name(name) for name in names)),
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def uneven_catalogs(context: dg.SensorEvaluationContext, catalogs: Catalogs) -> dg.SensorResult:
        """Ask again for the catalogs whose last run failed, or could not hear every site."""
        tries, requests, said = _tries(context.cursor), [], []
        released = context.instance.get_latest_materialization_event(dg.AssetKey("release"))
        for name in names:
            last = last_try(context.instance, name)
            words, request = _verdict(catalogs, name, last, tries, released=released is not None)
            said.append((name, words))
            if request is not None:
                requests.append(request)
        cursor = json.dumps({"version": CURSOR_VERSION, "tries": tries})
        if requests:
            return dg.SensorResult(run_requests=requests, cursor=cursor)
        return dg.SensorResult(skip_reason=dg.SkipReason(in_words(said)), cursor=cursor)

    return uneven_catalogs


def last_try(instance: dg.DagsterInstance, site: str) -> LastTry | None:
    """The newest run of a site's catalog, if there was one; read from events, not from the store."""
    key = dg.AssetKey(asset_name(site))
    records = instance.get_asset_records([key])
    run_id = records[0].asset_entry.last_run_id if records else None
    record = instance.get_run_record_by_id(run_id) if run_id else None
    if record is None or run_id is None:
        return None
    run = record.dagster_run
    if not run.is_finished or record.end_time is None:
        return LastTry(run_id, None, level=False)
    ended_at = datetime.fromtimestamp(record.end_time, UTC)
    made = records[0].asset_entry.last_materialization
    if made is None:
        return LastTry(run_id, ended_at, level=False)
    stands = made.run_id == run_id or made.timestamp > record.end_time  # the night makes it too
    return LastTry(run_id, ended_at, level=stands and _left_nothing(made))


def _left_nothing(made: dg.EventLogEntry) -> bool:
    """Whether a materialisation says that all logs were heard and nothing was left behind."""
    facts = made.asset_materialization.metadata if made.asset_materialization else {}
    behind, unheard = facts.get("num_behind"), facts.get("unheard")
    return (behind is None or not behind.value) and (unheard is None or unheard.value == NOBODY)


def _verdict(
    catalogs: Catalogs,
    site: str,
    last: LastTry | None,
    tries: dict[str, list[str]],
    *,
    released: bool,
) -> tuple[str, dg.RunRequest | None]:
    """What to say of a site and what to ask for; `tries` gets the runs that left it uneven."""
    if last is None:
        if not released:
            return "not made yet, as there is no release", None
        return "made for the first time now", _request(site, "first")
    if last.ended_at is None:
        return "under way", None
    if last.level:
        tries.pop(site, None)
        return "level", None
    seen = tries.setdefault(site, [])
    if last.run_id not in seen:
        seen.append(last.run_id)
        del seen[:-10]
    due_at = retry_at(last.ended_at, len(seen))
    if datetime.now(UTC) < due_at:
        return f"tried again at {due_at:%H:%M} UTC", None
    refusal = catalogs.why_not_now(site)
    if refusal is not None:
        return refusal, None
    return "tried again now", _request(site, last.run_id)


def _request(site: str, cause: str) -> dg.RunRequest:
    return dg.RunRequest(
        run_key=f"uneven:{site}:{cause}", asset_selection=[dg.AssetKey(asset_name(site))]
    )


def _tries(cursor: str | None) -> dict[str, list[str]]:
    state = json.loads(cursor) if cursor else {}
    return dict(state["tries"]) if state.get("version") == CURSOR_VERSION else {}
