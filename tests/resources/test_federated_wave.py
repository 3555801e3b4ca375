"""A wave asks the homes of its cities and nobody else; a page over all waves asks who answers."""

import pytest

from resources.federated_wave import log_of_wave, store_of_wave, those_that_answer
from resources.federation import Federation
from resources.site_log import SiteLog
from resources.site_store import SiteStore
from resources.wave_plans import publish_plan
from tests import rows
from worldloop import layout
from worldloop.atlas.atlas import load_atlas
from worldloop.errors import UnknownKeyError, UnreachableError
from worldloop.logs import decode_positions
from worldloop.recipes import Shape
from worldloop.waves import plan_wave

SITES = """
[sites.local]
cities = ["oslo"]
store = "sites/local"
[sites.gcp]
cities = ["lima"]
store = "sites/gcp"
[sites.aws]
cities = ["tokyo"]
store = "sites/aws"
"""


@pytest.fixture
def federation(tmp_path):
    path = tmp_path / "sites.toml"
    path.write_text(SITES)
    found = Federation(sites_path=str(path), home=str(tmp_path))
    shape = Shape(13, 96, 54, 24, 1)
    plan = plan_wave(
        load_atlas(), wave="w0001", places=["tokyo/zoo"], clips_per_place=1, seed=1, shape=shape
    )
    publish_plan(found.federated_store(), plan)
    return found


@pytest.fixture
def without_gcp(monkeypatch):
    """The store at `gcp` stops to answer."""
    ask = SiteStore.scan

    def scan(self, *args, **kwargs):
        if "/sites/gcp" in self.url:
            raise UnreachableError(f"{self.url!r} does not answer.")
        return ask(self, *args, **kwargs)

    monkeypatch.setattr(SiteStore, "scan", scan)


def test_a_wave_does_not_wait_for_a_site_that_none_of_its_cities_is_at_home_at(
    federation, without_gcp
):
    whole, log = federation.federated_store(), federation.federated_log()
    whole.put(layout.clips_key("w0001", "tokyo"), b"x")
    log.append("clips", rows.clips(range(2), city="tokyo"))

    store, site_log = store_of_wave(whole, "w0001"), log_of_wave(log, whole, "w0001")

    assert store.list("clips") == [(layout.clips_key("w0001", "tokyo"), 1)]
    assert site_log.read("clips").height == 2
    assert set(decode_positions(site_log.position(), coordinator="local")) == {"aws", "local"}
    with pytest.raises(UnreachableError, match="The site 'gcp' cannot be reached"):
        whole.list("clips")


def test_what_was_frozen_at_a_place_of_all_sites_is_read_again_from_fewer(federation):
    whole, log = federation.federated_store(), federation.federated_log()
    log.append("clips", rows.clips(range(2), city="tokyo"))
    place = log.position()

    site_log = log_of_wave(log, whole, "w0001")

    assert "gcp" in decode_positions(place, coordinator="local")
    assert site_log.read("clips", at=place).equals(log.read("clips", at=place))


def test_a_page_over_all_waves_names_the_sites_that_it_leaves_out(federation, without_gcp):
    needed = those_that_answer(federation.federated_store(), federation.federated_log())

    assert list(needed.silent) == ["gcp"]
    assert needed.store.list("clips") == []
    assert needed.site_log.read("clips").is_empty()


def test_a_wave_without_a_plan_is_refused_by_name(federation):
    with pytest.raises(UnknownKeyError, match="planned wave"):
        store_of_wave(federation.federated_store(), "w0009")


def test_one_site_alone_keeps_its_store_and_its_log(tmp_path):
    store = SiteStore(url=str(tmp_path))
    site_log = SiteLog(store=store)

    assert store_of_wave(store, "w0001") is store
    assert log_of_wave(site_log, store, "w0001") is site_log
    assert those_that_answer(store, site_log) == (store, site_log, {})
