"""The assets of the sites, through the real definitions, with stand-in projections."""

from datetime import UTC, datetime

import dagster as dg
import pytest

from assets.site_catalogs import CHECKS, asset_name
from tests.assets.stand_ins import SITES, Federated, unplug
from worldloop.errors import UnreachableError


@pytest.fixture
def federated(house):
    return Federated(house)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """Nothing is retried within a run."""
    monkeypatch.setattr("assets.site_catalogs.RETRIES", dg.RetryPolicy(max_retries=0))


def test_every_site_gets_the_clips_of_all_and_all_agree(federated):
    federated.film()

    result = federated.update()

    assert result.success
    assert [federated.metadata(site)["dagster/row_count"] for site in SITES] == [3, 3, 3, 3]
    checks = federated.checks(result)
    assert len(checks) == len(SITES) * len(CHECKS)
    assert all(one.passed for one in checks.values())
    agreeing = checks["azure_catalog", "the_catalogs_agree"].metadata["compared_with"].value
    compared = [checks[asset_name(s), "the_catalogs_agree"].metadata for s in SITES]
    assert sum(len(facts["compared_with"].value.split(", ")) for facts in compared) >= len(SITES)
    assert agreeing


def test_a_materialisation_says_lag_rows_bytes_index_requests_cost_and_place(federated):
    federated.film()

    federated.update()

    facts = federated.metadata("aws")
    assert {
        "lag_s",
        "size_bytes",
        "index",
        "recall",
        "num_requests",
        "cost_usd",
        "location",
    } <= set(facts)
    assert facts["num_requests"] > 0
    assert facts["searchable_after_s"] > 0


def test_a_second_run_applies_nothing_and_logs_nothing(federated):
    federated.film()
    federated.update()
    before = federated.catalogs.federation.log("aws").num_batches("projections")

    federated.update()

    assert federated.metadata("aws")["applied_batches"] == 0
    assert federated.catalogs.federation.log("aws").num_batches("projections") == before == 1


def test_a_site_that_does_not_answer_fails_alone_and_catches_up_when_it_is_back(
    federated, monkeypatch
):
    federated.film()
    with monkeypatch.context() as cut:
        unplug(cut, federated, "gcp")
        result = federated.update(fails=["gcp_catalog"])
        assert (
            "did not answer"
            in result.get_step_failure_events()[0].step_failure_data.error.to_string()
        )
        assert federated.metadata("aws")["unheard"] == "gcp"

    assert federated.update().success
    assert federated.metadata("gcp")["dagster/row_count"] == 3
    assert federated.metadata("aws")["unheard"] == "nobody"


def hole_in(store, folder):
    """Deletes a batch of a log, behind everybody's back."""
    key = next(key for key, _ in store.list(folder) if "-" in key.rsplit("/", 1)[1])
    store.delete(key)
    return key


def test_a_hole_in_a_copy_is_filled_by_the_next_run_and_told(federated):
    federated.film()
    federated.update()
    store = federated.catalogs.federation.store("azure")
    hole = hole_in(store, "replicas/local/logs/shared/lineage")

    federated.update()

    assert store.exists(hole)
    assert federated.metadata("azure")["refilled_batches"] == 1
    assert federated.catalogs.look("azure").last_repair is not None


def test_a_hole_at_home_is_filled_before_the_catalogs_follow(federated):
    federated.film()
    federated.update()
    store = federated.catalogs.federation.store("local")
    hole = hole_in(store, "logs/shared/lineage")

    federated.update()

    assert store.exists(hole)
    assert federated.catalogs.look("local").last_repair is not None


def test_what_nobody_can_put_back_fails_the_check_and_is_named(federated):
    federated.film()
    federated.update()
    store = federated.catalogs.federation.store("local")
    (pack, _), *_ = store.list("packs")
    store.delete(pack)

    told = federated.checks(federated.update())["local_catalog", "nothing_is_missing"]

    assert not told.passed
    assert pack in str(told.metadata["still_missing"].value)


def test_another_content_at_the_same_place_in_the_logs_is_told(federated):
    import json

    from worldloop.layout import projection_key

    federated.film()
    federated.update()
    store = federated.catalogs.federation.store("aws")
    record = json.loads(store.get(projection_key("iceberg")))
    store.put(projection_key("iceberg"), json.dumps({**record, "ids": record["ids"][1:]}).encode())

    told = federated.checks(federated.update())["aws_catalog", "the_catalogs_agree"]

    assert not told.passed
    assert "local" in told.metadata["differs_from"].value


def ask(federated, cursor=None):
    wanted = dg.AssetSelection.assets(*(asset_name(site) for site in SITES))
    return dg.evaluate_automation_conditions(
        federated.house.definitions(),
        federated.instance,
        asset_selection=wanted,
        evaluation_time=datetime(2026, 5, 1, 12, tzinfo=UTC),
        cursor=cursor,
    )


def test_a_wave_that_enters_the_logs_asks_once_for_every_site_although_another_is_open(federated):
    federated.film("w0001")
    federated.instance.add_dynamic_partitions("wave", ["w0002"])
    first = ask(federated)
    federated.film("w0001")

    second = ask(federated, cursor=first.cursor)
    third = ask(federated, cursor=second.cursor)

    assert second.total_requested == len(SITES)
    assert third.total_requested == 0


def test_a_rebuilt_atlas_asks_for_no_catalog(federated):
    first = ask(federated)
    federated.instance.report_runless_asset_event(dg.AssetMaterialization("place_atlas"))

    assert ask(federated, cursor=first.cursor).total_requested == 0


def test_a_site_that_does_not_answer_says_so_before_anything_else_is_asked(federated, monkeypatch):
    """Each question takes the client's whole patience, so the first one has to be enough."""
    federated.film()
    asked = []
    unplug(monkeypatch, federated, "gcp")
    ask = type(federated.catalogs.federation.store("gcp")).scan

    def scan(self, *args, **kwargs):
        asked.append(self.url)
        return ask(self, *args, **kwargs)

    monkeypatch.setattr(type(federated.catalogs.federation.store("gcp")), "scan", scan)

    with pytest.raises(UnreachableError):
        federated.catalogs.follow("gcp", key="test")

    assert len(asked) == 1
