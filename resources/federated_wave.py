"""The sites that a piece of work needs, and no others: so that a site which is away holds up only its own.

A wave needs the homes of the cities that it plans; a page over all waves takes the sites that answer.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from resources.federated_log import FederatedLog
from resources.federated_store import FederatedStore
from resources.federation import Federation
from resources.site_log import SiteLog
from resources.site_store import SiteStore
from resources.wave_plans import read_plan
from worldloop.errors import UnreachableError

_Whole = TypeVar("_Whole", FederatedStore, FederatedLog)


class Needed(NamedTuple):
    """Store and log over the sites that are needed.

    Attributes:
        store: Objects of these sites.
        site_log: Rows of these sites.
        silent: Sites that were left out because they do not answer, each with why.
    """

    store: SiteStore
    site_log: SiteLog
    silent: dict[str, str]


def store_of_wave(store: SiteStore, wave: str) -> SiteStore:
    """A store that asks only the homes of the cities that a wave plans, and the coordinator.

    Raises:
        UnknownKeyError: If the wave has no plan.
    """
    if not isinstance(store, FederatedStore):
        return store
    return _narrowed(store, _of_wave(store.federation, store, wave))


def log_of_wave(site_log: SiteLog, store: SiteStore, wave: str) -> SiteLog:
    """A log that asks only the same sites.

    Raises:
        UnknownKeyError: If the wave has no plan.
    """
    if not isinstance(site_log, FederatedLog):
        return site_log
    return _narrowed(site_log, _of_wave(site_log.federation, store, wave))


def those_that_answer(store: SiteStore, site_log: SiteLog) -> Needed:
    """Store and log over the sites that answer now; the coordinator has to.

    Raises:
        UnreachableError: If the coordinator does not answer.
    """
    if not isinstance(store, FederatedStore) or not isinstance(site_log, FederatedLog):
        return Needed(store, site_log, {})
    everybody = store.federation
    with ThreadPoolExecutor(max_workers=len(everybody.members)) as pool:
        answers = pool.map(lambda name: _silence(everybody, name), everybody.members)
        silent = {name: why for name, why in zip(everybody.members, answers, strict=True) if why}
    if not silent:
        return Needed(store, site_log, {})
    heard = everybody.among(name for name in everybody.members if name not in silent)
    return Needed(_narrowed(store, heard), _narrowed(site_log, heard), silent)


def _narrowed(whole: _Whole, to: Federation) -> _Whole:
    return whole.model_copy(update={"federation": to})


def _of_wave(everybody: Federation, store: SiteStore, wave: str) -> Federation:
    return everybody.among(everybody.homes_of(read_plan(store, wave).cities))


def _silence(everybody: Federation, name: str) -> str:
    """Why a site does not answer; empty if it does."""
    try:
        everybody.log(name).heads()
    except UnreachableError as error:
        if name == everybody.coordinator:
            raise
        return str(error)
    return ""
