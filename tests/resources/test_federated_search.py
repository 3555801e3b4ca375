import time

import numpy as np
import pytest

from resources.clip_index import ClipIndex
from resources.federated_search import search_everywhere
from resources.federation import Federation
from resources.query_log import QueryLog
from tests.resources.test_clip_index import make_rows
from worldloop.errors import MalformedRecordError, UnknownKeyError, UnreachableError

SITES = """
[sites.local]
cities = ["*"]
store = "sites/local"
[sites.lima]
cities = ["lima"]
store = "sites/lima"
[sites.oslo]
cities = ["oslo"]
store = "sites/oslo"
"""
QUERY = np.ones(8)


@pytest.fixture
def federation(tmp_path):
    (tmp_path / "sites.toml").write_text(SITES)
    made = Federation(sites_path=str(tmp_path / "sites.toml"), home=str(tmp_path))
    for seed, name in enumerate(made.names):
        ClipIndex.of_store(made.store(name)).upsert(make_rows(20, seed=seed))
    return made


def ask(federation, **changes):
    return search_everywhere(federation, QUERY, model_id="starter-ab", **{"limit": 9, **changes})


def fail_at(monkeypatch, site, act):
    """Let one site answer otherwise."""
    search = ClipIndex.search

    def answer(self, *args, **kwargs):
        return act() if f"sites/{site}" in self.uri else search(self, *args, **kwargs)

    monkeypatch.setattr(ClipIndex, "search", answer)


def test_one_search_finds_the_best_of_all_sites(federation):
    found = ask(federation)
    everything = [
        ClipIndex.of_store(federation.store(name)).search(QUERY, limit=20, model_id="starter-ab")
        for name in federation.names
    ]
    best = sorted((score for rows in everything for score in rows["score"]), reverse=True)
    assert found.rows["score"].to_list() == best[:9]
    assert found.is_complete
    assert set(found.took_ms) == {"local", "lima", "oslo"}


def test_captions_and_addresses_stay_at_their_site(federation):
    rows = ask(federation, limit=60).rows
    far = rows.filter(rows["site"] != "local")
    for column in ("caption", "pack_key", "rgb_offset", "weather"):
        assert far[column].null_count() == far.height == 40
        assert rows.filter(rows["site"] == "local")[column].null_count() == 0


def test_filters_are_applied_at_the_sites(federation):
    rows = ask(federation, limit=60, where="city = 'lima' AND weather = 'rain'").rows
    assert (set(rows["city"]), rows.height) == ({"lima"}, 30)


def test_a_site_that_cannot_be_reached_is_named_and_the_rest_answers(federation, monkeypatch):
    def refuse():
        raise UnreachableError("'sites/lima' does not answer")

    fail_at(monkeypatch, "lima", refuse)
    found = ask(federation, limit=60)
    assert found.missing == {"lima": "'sites/lima' does not answer"}
    assert not found.is_complete
    assert set(found.rows["site"]) == {"local", "oslo"}


def test_a_site_that_hangs_is_not_waited_for(federation, monkeypatch):
    fail_at(monkeypatch, "oslo", lambda: time.sleep(3))
    ask(federation, limit=1, sites=["local"])  # opens lancedb
    started = time.monotonic()
    found = ask(federation, timeout_s=0.5)
    assert found.missing == {"oslo": "no answer within 0.5 s"}
    assert time.monotonic() - started < 2


def test_a_filter_that_nobody_understands_is_an_error_and_not_a_gap(federation):
    with pytest.raises(MalformedRecordError, match="planet"):
        ask(federation, where="planet = 'mars'")


def test_only_the_sites_that_were_named_are_asked(federation):
    assert set(ask(federation, limit=60, sites=["oslo"]).rows["site"]) == {"oslo"}
    with pytest.raises(UnknownKeyError, match="oslo"):
        ask(federation, sites=["olso"])


def test_answers_are_sampled_at_each_site(federation, tmp_path):
    queries = QueryLog(folder=str(tmp_path / "queries"))
    ask(federation, query_log=queries, where="city = 'lima'")
    assert [queries.num_waiting(name) for name in federation.names] == [1, 1, 1]
    assert queries.flush("oslo", federation.log("oslo")) == 1
    assert federation.log("oslo").read("queries")["num_found"].to_list() == [9]
