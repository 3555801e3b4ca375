"""Reads the sites file over, and asks every store whether it can carry the logs of a site."""

from collections.abc import Iterator
from dataclasses import dataclass

from resources.catalog_repair import exposure
from resources.catalog_upkeep import Catalogs
from worldloop.atlas.atlas import load_atlas
from worldloop.costs import estimate_upkeep
from worldloop.errors import StoreError, UnknownKeyError
from worldloop.sites import EVERY_CITY, Site


@dataclass(frozen=True)
class SiteFinding:
    """One thing that was looked at.

    Attributes:
        site: Which site.
        what: What was looked at.
        found: What was found.
        ok: Whether that is as it should be.
        remedy: What to do about it; empty if nothing.
    """

    site: str
    what: str
    found: str
    ok: bool = True
    remedy: str = ""


def examine_sites(catalogs: Catalogs) -> list[SiteFinding]:
    """Look at every site: its cities, its budgets, its store, its backup and who may read them.

    Raises:
        MalformedRecordError: If the sites file cannot be read, or a city is at home at two sites.
    """
    sites = catalogs.federation.sites.all
    found = [_coordinator(catalogs)]
    for site in sites:
        found += [*_cities(site), *_budget(site), *_stores(catalogs, site)]
    return found


def _coordinator(catalogs: Catalogs) -> SiteFinding:
    name = catalogs.federation.coordinator
    if name in catalogs.federation.names:
        return SiteFinding(name, "coordinator", "there")
    return SiteFinding(name, "coordinator", "no such site", False, f"Add [sites.{name}].")


def _cities(site: Site) -> Iterator[SiteFinding]:
    known = load_atlas().cities
    unknown = [city for city in site.cities if city not in known and city != EVERY_CITY]
    for city in unknown:
        words = str(UnknownKeyError("city", city, known))
        yield SiteFinding(site.name, "cities", words, False, "Correct the key, or remove it.")
    if not unknown:
        count = len(site.cities)
        words = "1 city" if count == 1 else f"{count} cities"
        yield SiteFinding(
            site.name, "cities", "every other city" if EVERY_CITY in site.cities else words
        )


def _budget(site: Site) -> Iterator[SiteFinding]:
    """A store that charges needs a budget of money, whose default is none."""
    usd = estimate_upkeep(0, site.prices)["usd"]
    if usd > site.budgets.usd:
        yield SiteFinding(
            site.name,
            "budget",
            f"{usd:.4f} USD a run are reserved, {site.budgets.usd:g} a day allowed",
            False,
            f"Set usd in [sites.{site.name}.budgets].",
        )


def _stores(catalogs: Catalogs, site: Site) -> Iterator[SiteFinding]:
    """Whether store and backup answer, honour create-if-absent, and are closed to everybody."""
    stores = {"store": catalogs.federation.store(site.name)}
    backup = catalogs.federation.backup(site.name)
    if backup is not None:
        stores["backup"] = backup
    for what, store in stores.items():
        try:
            if catalogs.read_only:
                store.list("plans")
            else:
                store.probe()
        except StoreError as error:
            yield SiteFinding(site.name, what, str(error), False, "See the message.")
            continue
        looked = "answers; not probed, as this process may only read"
        honours = "answers, honours create-if-absent"
        yield SiteFinding(site.name, what, looked if catalogs.read_only else honours)
    yield _public(catalogs, site)


def _public(catalogs: Catalogs, site: Site) -> SiteFinding:
    try:
        open_to_all = exposure(catalogs, site.name)
    except StoreError as error:
        return SiteFinding(site.name, "public access", str(error), False, "See the message.")
    if not open_to_all:
        return SiteFinding(site.name, "public access", "none")
    return SiteFinding(
        site.name, "public access", "; ".join(open_to_all), False, "Close it to the public."
    )
