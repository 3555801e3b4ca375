"""Four sites in folders whose projections are one text object each: the ids of `lineage` of all logs."""

import hashlib
import json
from dataclasses import dataclass

import dagster as dg
import polars as pl

from assets.site_catalogs import asset_name
from resources.catalog_upkeep import Catalogs, shared_heads
from resources.failpoints import reached
from resources.lease import Lease
from resources.log_replicas import read_if_there
from resources.projection import Applied, Standing
from resources.site_store import SiteStore
from resources.site_view import SiteView
from tests import rows
from tests.resources.federated_sites import footage
from worldloop.errors import UnreachableError
from worldloop.layout import projection_key

SITES = ("local", "aws", "gcp", "azure")


@dataclass(frozen=True)
class TextProjection:
    """Honours the whole interface: one committer, idempotent, made again from the logs alone."""

    name: str

    def catch_up(self, view: SiteView) -> Applied:
        with Lease(view.store, f"projection-{self.name}", "test"):
            known, now = self._read(view), self._now(view)
            waiting = self._waiting(known["heads"], now["heads"])
            if waiting:
                self._write(view, now)
            return Applied(waiting, len(now["ids"]) - len(known["ids"]))

    def rebuild(self, view: SiteView) -> Applied:
        now = self._now(view)
        self._write(view, now)
        return Applied(0, len(now["ids"]), rebuilt=True)

    def maintain(self, view: SiteView) -> dict[str, int]:
        return {"compacted": 1}

    def standing(self, view: SiteView) -> Standing:
        known, now = self._read(view), self._now(view)
        waiting = self._waiting(known["heads"], now["heads"])
        oldest = view.log.claimed_at("lineage", 1) if waiting else None
        return Standing(
            self.name, len(known["ids"]), 10, waiting, oldest, 0.99, "none", view.store.url
        )

    def content(self, view: SiteView) -> str:
        return hashlib.sha256("".join(self._read(view)["ids"]).encode()).hexdigest()

    def _now(self, view: SiteView) -> dict:
        ids = [i for log in view.logs.values() for i in log.read("lineage")["id"]]
        return {"heads": {s: shared_heads(g) for s, g in view.logs.items()}, "ids": sorted(ids)}

    def _waiting(self, known: dict, now: dict) -> int:
        return sum(
            head - known.get(site, {}).get(kind, 0)
            for site, heads in now.items()
            for kind, head in heads.items()
        )

    def _read(self, view: SiteView) -> dict:
        found = read_if_there(view.store, projection_key(self.name))
        return json.loads(found) if found else {"heads": {}, "ids": []}

    def _write(self, view: SiteView, record: dict) -> None:
        reached(f"{self.name}.before_commit")
        view.store.put(projection_key(self.name), json.dumps(record).encode())


class TextCatalogs(Catalogs):
    """The real work around stand-in projections, so that a test takes milliseconds."""

    def projections(self, site):
        return [TextProjection("lance"), TextProjection("iceberg")]

    def content_hash(self, view):
        return TextProjection("iceberg").content(view)

    def shown(self, view):
        return []

    def differences(self, view):
        return {}

    def index_own_clips(self):
        return TextProjection("lance").catch_up(self.own_view())


class Federated:
    """A house whose three other sites are folders, and whose projections are quick stand-ins."""

    def __init__(self, house):
        self.house, self.instance = house, house.instance
        real = house.resources["catalogs"]
        self.catalogs = TextCatalogs(federation=real.federation, ledger_folder=real.ledger_folder)
        house.resources["catalogs"] = self.catalogs

    def film(self, wave="w0001"):
        """A wave enters the logs of the coordinator, as the assets `catalog` and `release` do it."""
        store, log = (getattr(self.catalogs.federation, what)("local") for what in ("store", "log"))
        clips, pack = footage(wave, "tokyo", 3)
        store.put(clips["pack_key"][0], pack)
        log.append("clips", clips)
        lineage = rows.lineage(range(3), wave=wave)
        log.append("lineage", lineage.with_columns(pack_key=pl.lit(clips["pack_key"][0])))
        self.instance.add_dynamic_partitions("wave", [wave])
        for asset in ("catalog", "release"):
            self.instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=wave))

    def update(self, *, fails=()):
        result = self.house.execute("catalogs_job", raises=False)
        errors = {e.step_key: e.step_failure_data.error for e in result.get_step_failure_events()}
        assert set(errors) == set(fails), [error.to_string() for error in errors.values()]
        return result

    def metadata(self, site):
        event = self.instance.get_latest_materialization_event(dg.AssetKey(asset_name(site)))
        return {name: value.value for name, value in event.asset_materialization.metadata.items()}

    def checks(self, result):
        return {
            (one.asset_key.to_user_string(), one.check_name): one
            for one in result.get_asset_check_evaluations()
        }


def unplug(monkeypatch, federated, site):
    """The store of a site stops to answer, for reading and for writing."""
    unplug_store(monkeypatch, federated.catalogs.federation.store(site).url)


def unplug_store(monkeypatch, url):
    """The same for a store by its address."""

    def silent(method):
        def ask(self, *args, **kwargs):
            if self.url.startswith(url):
                raise UnreachableError(f"{url!r} did not answer; expected an answer. Try again.")
            return method(self, *args, **kwargs)

        return ask

    for name in ("get", "put", "create", "scan", "exists"):
        monkeypatch.setattr(SiteStore, name, silent(getattr(SiteStore, name)))
