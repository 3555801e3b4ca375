"""What work at a site costs: reserved before, settled after, refused when the day is spent."""

import pytest

from tests.assets.stand_ins import Federated
from worldloop.errors import BudgetExceededError


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
