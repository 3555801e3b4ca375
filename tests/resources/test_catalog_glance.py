"""What it costs to see that nothing is late: requests that a proxy before S3's emulator counts."""

import pytest

from resources.catalog_glance import glances
from resources.catalog_upkeep import Catalogs
from resources.site_store import SiteStore
from tests import rows
from tests.emulators.faults import faulty
from tests.resources.test_guarded_store import federation_at
from worldloop.errors import UnreachableError

NEVER = {"aws": {}}  # looked at before


def catalogs_at(site, folder):
    catalogs = Catalogs(federation=federation_at(site, folder), ledger_folder=str(folder))
    catalogs.federation.log("local").append("lineage", rows.lineage(range(3)))
    return catalogs


def test_a_site_that_is_still_level_is_asked_for_one_listing(aws_emulator, tmp_path):
    with faulty(aws_emulator.fresh_site()) as proxy:
        catalogs = catalogs_at(proxy.site, tmp_path)
        catalogs.follow("aws", key="run")
        asked = []
        known = NEVER
        for _ in range(3):
            before = proxy.num_requests.total()
            look = glances(catalogs, known)["aws"]
            known = {"aws": look.level}
            asked.append(proxy.num_requests.total() - before)
            assert look.status.reachable
    assert asked[0] > 20
    assert asked[1:] == [1, 1]


@pytest.fixture
def level(tmp_path, aws_emulator):
    catalogs = catalogs_at(aws_emulator.fresh_site(), tmp_path)
    catalogs.follow("aws", key="run")
    return catalogs, {"aws": glances(catalogs, NEVER)["aws"].level}


def test_a_row_at_another_site_is_seen_and_stays_seen_until_it_is_followed(level):
    catalogs, known = level
    catalogs.federation.log("local").append("lineage", rows.lineage(range(3), wave="w0002"))

    behind = glances(catalogs, known)["aws"]
    again = glances(catalogs, {"aws": behind.level})["aws"]
    catalogs.follow("aws", key="next")

    assert behind.status.num_behind == again.status.num_behind == 1
    assert behind.status.lag_s > 0
    assert not behind.level
    assert glances(catalogs, {"aws": again.level})["aws"].level


def test_rows_about_the_catalogs_and_private_rows_of_others_move_nothing(level, monkeypatch):
    catalogs, known = level
    catalogs.audit("aws", "repair", actor="test", of_kind="all", of_id="all")
    catalogs.federation.log("local").append("receipts", rows.receipts(range(1)))

    monkeypatch.setattr(Catalogs, "statuses", lambda _, names: [] if not list(names) else 1 / 0)

    assert glances(catalogs, known)["aws"].level == known["aws"]


def test_a_site_that_does_not_answer_is_told_so_and_known_again_when_it_is_back(level, monkeypatch):
    catalogs, known = level

    def silent(*_, **__):
        raise UnreachableError("'s3://b' did not answer; expected an answer. Try again.")

    with monkeypatch.context() as cut:
        cut.setattr(SiteStore, "scan", silent)
        look = glances(catalogs, known)["aws"]

    assert not look.status.reachable
    assert "did not answer" in look.status.problem
    assert look.level == known["aws"]
