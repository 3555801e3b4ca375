import dagster as dg
import pytest

from orchestration.metrics import collect, write_metrics
from resources.ledger import Ledger

STANDING = "worldloop_materialized_partitions"


@pytest.fixture
def site(house, tmp_path):
    """Instance, store and ledger of a site that holds a little of everything."""
    ledger = Ledger(path=str(tmp_path / "ledger.sqlite"), limits={"cpu_s": 100.0})
    ledger.settle("w0001", {"cpu_s": 25.0})
    ledger.reserve("w0002", {"cpu_s": 60.0})
    house.store.put("packs/w0001/tokyo/a.tar", b"12345")
    house.store.put("packs/w0001/lima/b.tar", b"678")
    house.instance.report_runless_asset_event(dg.AssetMaterialization("release", partition="w0001"))
    return house.instance, house.store, ledger


def test_bytes_are_counted_by_folder(site):
    numbers = collect(*site)

    assert numbers.get_sample_value("worldloop_store_bytes", {"folder": "packs"}) == 8.0


def test_partitions_that_stand_are_counted_by_asset(site):
    numbers = collect(*site)

    assert numbers.get_sample_value(STANDING, {"asset": "release"}) == 1.0
    assert numbers.get_sample_value(STANDING, {"asset": "embeddings"}) == 0.0


def test_todays_budget_stands_beside_its_limit(site):
    numbers = collect(*site)

    today = {
        what: numbers.get_sample_value("worldloop_budget_today", {"kind": "cpu_s", "what": what})
        for what in ("limit", "reserved", "settled")
    }
    assert today == {"limit": 100.0, "reserved": 60.0, "settled": 25.0}


def test_runs_are_counted_by_job_and_status(house):
    house.plan("w0001", ["tokyo/museum"])

    numbers = collect(house.instance, house.store, house.resources["ledger"])

    labels = {"job": "plan_job", "status": "SUCCESS"}
    assert numbers.get_sample_value("worldloop_recent_runs", labels) == 1.0


def test_the_file_for_a_collector_is_prometheus_text(site, tmp_path):
    path = tmp_path / "worldloop.prom"

    write_metrics(path, *site)

    assert 'worldloop_store_bytes{folder="packs"} 8.0' in path.read_text().splitlines()


def test_the_catalogs_of_sites_are_told_as_they_stood_when_last_made(site):
    instance, *_ = site
    facts = {"lag_s": 2.5, "dagster/row_count": 7, "recall": "not measured"}
    instance.report_runless_asset_event(dg.AssetMaterialization("aws_catalog", metadata=facts))

    numbers = collect(*site)

    told = {
        what: numbers.get_sample_value("worldloop_catalog", {"site": "aws", "what": what})
        for what in ("lag_s", "rows", "recall")
    }
    assert told == {"lag_s": 2.5, "rows": 7.0, "recall": None}


def test_nobody_beyond_this_machine_is_served_without_a_token():
    from orchestration.metrics import check_may_serve
    from worldloop.errors import AccessError

    check_may_serve("127.0.0.1", "")
    check_may_serve("localhost", "")
    check_may_serve("0.0.0.0", "a token")
    with pytest.raises(AccessError, match="WORLDLOOP_METRICS_TOKEN"):
        check_may_serve("0.0.0.0", "")


def test_a_scraper_without_the_token_gets_nothing():
    from orchestration.metrics import _guarded

    def answer(header):
        said = []
        app = _guarded(lambda _environ, start: start("200 OK", []) or [b"numbers"], "right")
        body = app({"HTTP_AUTHORIZATION": header}, lambda status, _headers: said.append(status))
        return said[0][:3], b"".join(body)

    assert answer("Bearer right") == ("200", b"numbers")
    assert answer("Bearer wrong")[0] == answer("")[0] == "401"
