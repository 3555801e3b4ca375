"""Is a site still level? Asks the logs first, and the projections only when a log has moved.

A close look opens every table of a site, which costs dozens of requests. A site whose projections
had everything is still level while neither its own log nor the shared logs of the others have moved.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from resources.catalog_upkeep import Catalogs
from worldloop.catalog_status import ProjectionStatus, SiteStatus
from worldloop.errors import WorldloopError
from worldloop.logs import UPKEEP_KINDS, batched_kind
from worldloop.seeds import content_id

_Heads = Mapping[str, int]


class Glance(NamedTuple):
    """How a site stands.

    Attributes:
        status: Of a site that is still level only this: one projection `logs`, which is not behind.
        level: Where the logs stood, an id by site, when nothing of them was behind here; empty if
            that is not known. Hand it to the next glance.
    """

    status: SiteStatus
    level: Mapping[str, str]


def glances(catalogs: Catalogs, known: Mapping[str, Mapping[str, str]]) -> dict[str, Glance]:
    """How sites stand, at one listing for each log if they are still level; only reads.

    A projection that lost a table meanwhile is not noticed by this: the site's next run and every
    night look at that.

    Args:
        catalogs: Of all sites.
        known: The sites to look at, each with `level` of its last glance; with none it is looked at
            closely.
    """
    heads, silent = _heads(catalogs)
    found, close = dict[str, Glance](), dict[str, dict[str, str]]()
    for name, level in known.items():
        now = {origin: _place(of, own=origin == name) for origin, of in heads.items()}
        if name in silent:
            found[name] = Glance(_status(catalogs, name, problem=silent[name]), level)
        elif level and all(level.get(origin) == place for origin, place in now.items()):
            found[name] = Glance(_status(catalogs, name), level)
        else:
            close[name] = now
    for status in catalogs.statuses(close):
        is_level = status.reachable and not status.problem and not status.num_behind
        found[status.site] = Glance(status, close[status.site] if is_level else {})
    return found


def _heads(catalogs: Catalogs) -> tuple[dict[str, _Heads], dict[str, str]]:
    """Newest numbers of every site's log, asked all at once, and why the others are not known."""

    def ask(name: str) -> _Heads | str:
        try:
            return catalogs.federation.log(name).heads()
        except WorldloopError as error:
            return str(error)

    names = list(catalogs.federation.names)
    with ThreadPoolExecutor(max_workers=max(len(names), 1)) as pool:
        answers = dict(zip(names, pool.map(ask, names), strict=True))
    silent = {name: answer for name, answer in answers.items() if isinstance(answer, str)}
    return {name: of for name, of in answers.items() if not isinstance(of, str)}, silent


def _place(heads: _Heads, *, own: bool) -> str:
    """Id of where a log stands, as far as a site follows it."""
    followed = {
        kind: head
        for kind, head in heads.items()
        if kind not in UPKEEP_KINDS and (own or batched_kind(kind).log == "shared")
    }
    return content_id(followed)


def _status(catalogs: Catalogs, name: str, *, problem: str = "") -> SiteStatus:
    site = catalogs.federation.site(name)
    level = ProjectionStatus("logs", num_rows=0, size_bytes=0, num_behind=0, lag_s=0.0)
    return SiteStatus(
        name,
        site.cloud,
        projections=() if problem else (level,),
        max_lag_s=site.max_lag_s,
        location=site.store,
        problem=problem,
    )
