"""What work at a site costs: reserved before, settled after, refused when the day is spent."""

import pytest

from tests.assets.stand_ins import Federated, TextProjection
from worldloop.errors import BudgetExceededError, UnreachableError


@pytest.fixture
def federated(house):
    return Federated(house)


def limit(federated, **budgets):
    path = federated.house.root / "sites.toml"
    words = ", ".join(f"{kind} = {amount}" for kind, amount in budgets.items())
    prices = "prices = { usd_per_1000_writes = 5.0, usd_per_1000_reads = 0.4 }"
    path.write_text(path.read_text() + f"{prices}\nbudgets = {{ {words} }}\n")  # the last: azure


def test_what_a_run_really_asked_is_settled_and_nothing_stays_reserved(federated):
    limit(federated, requests=10_000, usd=100)
    federated.film()

    done = federated.catalogs.follow("azure", key="run")

    lines = {line.kind: line for line in federated.catalogs.budget("azure")}
    assert lines["requests"].reserved == lines["usd"].reserved == 0
    assert lines["requests"].settled == done.status.num_requests > 10
    assert 0 < lines["usd"].settled == pytest.approx(done.status.cost_usd, abs=1e-6)
    assert lines["bytes"].settled > 0


def test_a_site_whose_day_is_spent_waits_and_writes_nothing(federated):
    limit(federated, requests=10, usd=100)
    federated.film()

    with pytest.raises(BudgetExceededError, match=r"Catalogs of 'azure' wait.*requests"):
        federated.catalogs.follow("azure", key="run")

    assert federated.catalogs.federation.store("azure").list() == []


def test_a_run_that_fails_settles_what_it_asked(federated, monkeypatch):
    from resources import failpoints

    limit(federated, requests=10_000, usd=100)
    federated.film()

    def stop(name):
        if name == "iceberg.before_commit":
            raise RuntimeError("killed")

    monkeypatch.setattr(failpoints, "_watchers", [stop])
    with pytest.raises(RuntimeError):
        federated.catalogs.follow("azure", key="run")

    lines = {line.kind: line for line in federated.catalogs.budget("azure")}
    assert lines["requests"].reserved == 0
    assert lines["requests"].settled > 0


def test_a_charging_site_without_a_budget_of_money_is_told(federated):
    limit(federated, requests=10_000)
    federated.film()

    with pytest.raises(BudgetExceededError, match="usd"):
        federated.catalogs.follow("azure", key="run")


def test_each_projection_notes_what_it_asked_of_the_sites_store(federated):
    limit(federated, requests=10_000, usd=100)
    federated.film()

    done = federated.catalogs.follow("azure", key="run")

    noted = federated.catalogs.federation.log("azure").read("projections")
    counts = dict(noted.select("projection", "num_requests").iter_rows())
    assert counts == done.num_requests
    assert all(0 < count < done.status.num_requests for count in counts.values())


def test_upkeep_that_fails_at_one_projection_does_the_others_and_names_it(federated, monkeypatch):
    limit(federated, requests=10_000, usd=100)
    seen = []

    def maintain(self, view):
        seen.append(self.name)
        if self.name == "lance":
            raise UnreachableError("The store did not answer; expected an answer.")
        return {"compacted": 1}

    monkeypatch.setattr(TextProjection, "maintain", maintain)
    with pytest.raises(UnreachableError, match=r"^lance: The store did not answer"):
        federated.catalogs.maintain("azure", key="night")

    assert seen == ["lance", "iceberg"]
