"""The sensors that watch the catalogs: who is told, and who is asked for again."""

import json
from datetime import datetime, timedelta

import dagster as dg
import pytest

from resources.alerts import Alerts
from tests.assets.stand_ins import Federated, unplug

NOW = "sensors.{}.datetime"


class Told(Alerts):
    """Keeps what it is told."""

    def send(self, title, **facts):
        TOLD.append((title, facts))
        return True


TOLD: list[tuple[str, dict]] = []


@pytest.fixture
def federated(house, monkeypatch):
    monkeypatch.setattr("assets.site_catalogs.RETRIES", dg.RetryPolicy(max_retries=0))
    TOLD.clear()
    return Federated(house)


def tick(federated, name, cursor=None):
    sensor = federated.house.definitions().resolve_sensor_def(name)
    resources = {"catalogs": federated.catalogs}
    if name == "late_catalogs":
        resources["alerts"] = Told()
    with dg.build_sensor_context(
        instance=federated.instance, resources=resources, cursor=cursor, sensor_name=name
    ) as context:
        return sensor(context)


def later(monkeypatch, minutes):
    """The clock of the sensors goes forward."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(minutes=minutes)

    for module in ("late_catalogs", "uneven_catalogs"):
        monkeypatch.setattr(f"sensors.{module}.datetime", Clock)


def test_a_site_that_nobody_has_used_is_no_incident(federated):
    assert (
        "No catalog has been made yet" in tick(federated, "late_catalogs").skip_reason.skip_message
    )
    assert not TOLD


def test_a_silent_site_is_told_once_and_its_recovery_once(federated, monkeypatch):
    federated.film()
    federated.update()
    with monkeypatch.context() as cut:
        unplug(cut, federated, "gcp")
        first = tick(federated, "late_catalogs")
        second = tick(federated, "late_catalogs", first.cursor)
    third = tick(federated, "late_catalogs", second.cursor)

    assert [title for title, _ in TOLD] == [
        "worldloop catalogs of gcp: unreachable",
        "worldloop catalogs of gcp: recovered",
    ]
    assert json.loads(third.cursor)["open"] == {}


def test_a_site_that_falls_behind_is_late_by_the_age_of_what_it_lacks(federated, monkeypatch):
    federated.film("w0001")
    federated.update()
    federated.film("w0002")
    monkeypatch.setattr("resources.catalog_upkeep._seconds_since", lambda _moment: 901.0)

    tick(federated, "late_catalogs")

    assert sorted(title for title, _ in TOLD)[0] == "worldloop catalogs of aws: late"
    assert "max_lag_s is 900" in TOLD[0][1]["found"]


def test_projections_are_looked_at_again_only_when_a_log_moved_or_a_run_ended(
    federated, monkeypatch
):
    looks = []
    look = type(federated.catalogs).look
    monkeypatch.setattr(
        type(federated.catalogs),
        "look",
        lambda self, name: (looks.append(name), look(self, name))[1],
    )
    federated.film("w0001")
    federated.update()
    counts, cursor = [], None
    for happens in (None, None, lambda: federated.film("w0002"), federated.update, None):
        happens and happens()
        looks.clear()
        cursor = tick(federated, "late_catalogs", cursor).cursor
        counts.append(len(looks))

    assert counts == [4, 0, 4, 4, 0]


def test_catalogs_that_nobody_made_for_a_day_are_stale(federated, monkeypatch):
    federated.film()
    federated.update()
    later(monkeypatch, minutes=60 * 24 + 20)

    tick(federated, "late_catalogs")

    assert {title for title, _ in TOLD} >= {"worldloop catalogs of aws: stale"}


def test_a_site_that_failed_is_asked_for_again_after_a_while_and_only_once(federated, monkeypatch):
    federated.film()
    with monkeypatch.context() as cut:
        unplug(cut, federated, "gcp")
        federated.update(fails=["gcp_catalog"])

    early = tick(federated, "uneven_catalogs")
    later(monkeypatch, minutes=3)
    due = tick(federated, "uneven_catalogs", early.cursor)

    assert "gcp: tried again at" in early.skip_reason.skip_message
    wanted = {key.to_user_string() for one in due.run_requests for key in one.asset_selection}
    assert wanted == {"gcp_catalog", "local_catalog", "aws_catalog", "azure_catalog"}
    assert len({one.run_key for one in due.run_requests}) == 4


def test_level_sites_are_left_alone(federated, monkeypatch):
    federated.film()
    federated.update()
    later(monkeypatch, minutes=60)

    result = tick(federated, "uneven_catalogs")

    assert not result.run_requests
    assert "aws: level" in result.skip_reason.skip_message


def test_a_spent_budget_stops_the_sensor_with_its_numbers(federated, monkeypatch):
    federated.film()
    with monkeypatch.context() as cut:
        unplug(cut, federated, "gcp")
        federated.update(fails=["gcp_catalog"])
    path = federated.house.root / "sites.toml"
    path.write_text(path.read_text() + "budgets = { requests = 10 }\n")  # the last one: azure
    later(monkeypatch, minutes=3)

    result = tick(federated, "uneven_catalogs")

    assert "azure_catalog" not in str([one.asset_selection for one in result.run_requests])
    assert federated.catalogs.why_not_now("azure").startswith("The run needs 210 requests")


def test_each_failed_try_is_no_alert_of_its_own(federated):
    from assets.site_catalogs import is_site_catalog
    from sensors.failed_runs import failed_runs

    assert failed_runs
    assert is_site_catalog(dg.AssetKey("gcp_catalog"))
    assert not is_site_catalog(dg.AssetKey("catalog"))


def test_a_new_site_is_asked_for_once_there_is_a_release(federated):
    before = tick(federated, "uneven_catalogs")
    federated.film()

    after = tick(federated, "uneven_catalogs", before.cursor)

    assert not before.run_requests
    assert sorted(one.run_key for one in after.run_requests) == [
        f"uneven:{site}:first" for site in ("aws", "azure", "gcp", "local")
    ]


def test_a_site_that_is_back_but_still_behind_is_not_told_as_recovered(federated, monkeypatch):
    federated.film("w0001")
    federated.update()
    with monkeypatch.context() as cut:
        unplug(cut, federated, "gcp")
        federated.film("w0002")
        cursor = tick(federated, "late_catalogs").cursor
    back = tick(federated, "late_catalogs", cursor)
    federated.update()
    tick(federated, "late_catalogs", back.cursor)

    assert "gcp: catching up" in back.skip_reason.skip_message
    assert [title for title, facts in TOLD if facts["site"] == "gcp"] == [
        "worldloop catalogs of gcp: unreachable",
        "worldloop catalogs of gcp: recovered",
    ]
