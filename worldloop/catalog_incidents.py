"""When somebody is told about a site's catalogs, and when a site is tried again: decisions only."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from worldloop.catalog_status import SiteStatus

_FIRST_RETRY, _LAST_RETRY = timedelta(minutes=2), timedelta(minutes=15)
STALE_AFTER = timedelta(
    days=1
)  # the night makes every catalog, so older is a daemon that stood still


@dataclass(frozen=True)
class Changes:
    """What has to be told.

    Attributes:
        begun: Site to what is wrong with it since now.
        ended: Sites that are well again, each with what was wrong.
        open: All that is wrong now, by site; the next look compares with it.
    """

    begun: dict[str, str]
    ended: dict[str, str]
    open: dict[str, str]


def what_is_wrong(
    status: SiteStatus, *, made_at: datetime | None, now: datetime, was_wrong: bool = False
) -> str:
    """Why somebody should hear of a site, in words; empty if nobody needs to.

    Args:
        status: How it stands.
        made_at: When its asset was last materialised; None if never, which is no incident.
        now: The moment.
        was_wrong: Whether something was wrong at the last look. Then it is over when the site has
            everything: what was copied a moment ago looks young, however long it was lacking.

    Example:
        >>> from datetime import UTC
        >>> now = datetime(2026, 5, 1, tzinfo=UTC)
        >>> what_is_wrong(SiteStatus("aws", "aws", problem="no answer"), made_at=None, now=now)
        'unreachable: no answer'
    """
    if not status.reachable:
        return f"unreachable: {status.problem}"
    if status.late:
        return (
            f"late: {status.num_behind} log batches behind, the oldest for {status.lag_s:.0f} s; "
            f"max_lag_s is {status.max_lag_s:.0f}"
        )
    if was_wrong and status.num_behind:
        return f"catching up: {status.num_behind} log batches behind"
    stale_after = STALE_AFTER + timedelta(seconds=status.max_lag_s)
    if made_at is not None and now - made_at > stale_after:
        return f"stale: last made at {made_at:%Y-%m-%d %H:%M} UTC; expected every night"
    return ""


def changes(known: Mapping[str, str], found: Mapping[str, str]) -> Changes:
    """What has to be told, once an incident: its begin and its end, not each look in between.

    Args:
        known: What was wrong at the last look, by site.
        found: What each site that was looked at now says; empty text if it is well.

    Example:
        >>> changes({"aws": "late: 3"}, {"aws": "late: 4", "gcp": "late: 1"}).begun
        {'gcp': 'late: 1'}
        >>> changes({"aws": "late: 3"}, {"aws": ""}).ended
        {'aws': 'late: 3'}
    """
    wrong = {site: words for site, words in found.items() if words}
    return Changes(
        begun={site: words for site, words in wrong.items() if site not in known},
        ended={site: known[site] for site in known if found.get(site) == ""},
        open={**{site: words for site, words in known.items() if site not in found}, **wrong},
    )


def retry_at(ended_at: datetime, num_tries: int) -> datetime:
    """When a site that is not level is tried again: soon at first, then every quarter of an hour.

    Args:
        ended_at: End of the last try.
        num_tries: Tries in a row that did not make it level, the last one included.

    Example:
        >>> [(retry_at(datetime(2026, 5, 1), n) - datetime(2026, 5, 1)).seconds for n in (1, 2, 3, 9)]
        [120, 240, 480, 900]
    """
    wait: timedelta = _FIRST_RETRY * 2 ** min(max(num_tries - 1, 0), 8)
    return ended_at + min(wait, _LAST_RETRY)


def in_words(found: Iterable[tuple[str, str]]) -> str:
    """Sites and what they say as one sentence for the UI.

    Example:
        >>> in_words([("aws", "level"), ("gcp", "tried again at 12:05")])
        'aws: level; gcp: tried again at 12:05'
    """
    return "; ".join(f"{site}: {words}" for site, words in found)
