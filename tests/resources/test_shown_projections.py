"""Holes in real Lance and Iceberg files: found by rows and by files, mended from the logs."""

import pytest

from resources.iceberg_projection import IcebergProjection
from resources.lance_projection import LanceProjection
from resources.reconciler import reconcile
from resources.shown_projections import shown_iceberg, shown_lance
from resources.site_store import SiteStore
from tests.campaigns.holes import plant
from tests.lance_sites import lance_site

LANCE, ICEBERG = LanceProjection(), IcebergProjection()


@pytest.fixture
def site(tmp_path):
    """A site whose two waves are in Lance and Iceberg; its rows name packs that were never made."""
    site = lance_site(SiteStore(url=str(tmp_path / "site")), tmp_path / "scratch")
    for wave in ("w0001", "w0002"):
        site.log_wave(wave)
        LANCE.catch_up(site.view)
        ICEBERG.catch_up(site.view)
    return site


def look_over(site):
    shown = [shown_lance(site.view, LANCE), shown_iceberg(site.view, ICEBERG)]
    done = reconcile(site.view, projected=shown)
    return [finding for finding in done.findings if finding.of_kind != "packs"]


def test_projections_in_order_have_no_findings(site):
    assert look_over(site) == []
    site.log_wave("w0003")
    LANCE.catch_up(site.view)
    ICEBERG.catch_up(site.view)
    assert look_over(site) == []


@pytest.mark.parametrize("seed", range(4))
def test_holes_in_lance_and_iceberg_files_are_found_and_mended(site, seed):
    rows = site.stored(), ICEBERG.content_hash(site.view)
    assert look_over(site) == []  # every file was seen once

    holes = plant(site.view.store, seed, classes=("lance", "iceberg"))
    findings = look_over(site)

    assert {f.of_kind for f in findings} == {"lance", "iceberg"}, holes
    assert {f.part for f in findings if not f.repaired} <= {"old file"}, holes
    assert (site.stored(), ICEBERG.content_hash(site.view)) == rows
    assert look_over(site) == []
