import json

import numpy as np
import pytest

from resources.query_log import QueryLog
from resources.site_log import SiteLog
from resources.site_store import SiteStore


@pytest.fixture
def log(tmp_path):
    return SiteLog(store=SiteStore(url=str(tmp_path / "site")))


@pytest.fixture
def queries(tmp_path):
    return QueryLog(folder=str(tmp_path / "queries"), flush_count=3)


def ask(queries, number, condition="city = 'tokyo'", site="here"):
    return queries.record(
        site,
        vector=np.full(4, number, np.float64),
        model_id="starter",
        condition=condition,
        num_wanted=10,
        num_found=7,
        took_ms=1.5,
    )


def test_queries_go_into_the_private_log_in_batches(queries, log):
    for number in range(5):
        ask(queries, number)
    assert (log.num_batches("queries"), queries.num_waiting("here")) == (0, 5)
    assert queries.flush("here", log) == 5

    rows = log.read("queries")
    assert (log.num_batches("queries"), queries.num_waiting("here")) == (1, 0)
    assert [vector[0] for vector in rows["vector"].to_list()] == [0, 1, 2, 3, 4]
    assert set(rows["condition"]) == {"city = 'tokyo'"}


def test_no_words_of_a_query_are_kept(queries, tmp_path):
    ask(queries, 1, condition="caption LIKE '%ana maria%'")
    kept = (tmp_path / "queries" / "here.jsonl").read_text()
    assert "ana" not in kept
    assert json.loads(kept)["condition"] == "caption LIKE '?'"


def test_the_rate_says_how_many_are_kept(queries):
    tenth = queries.model_copy(update={"rate": 0.1})
    assert 5 <= sum(ask(tenth, number) for number in range(200)) <= 45
    assert not any(ask(queries.model_copy(update={"rate": 0.0}), number) for number in range(20))


def test_a_site_that_cannot_be_reached_gets_its_queries_later(queries, log, monkeypatch):
    ask(queries, 1)
    with monkeypatch.context() as patch:
        patch.setattr(SiteLog, "append", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            queries.flush("here", log)
    ask(queries, 2)
    assert queries.flush("here", log) == 2


def test_a_line_that_a_killed_writer_cut_short_is_skipped(queries, log, tmp_path):
    ask(queries, 1)
    with (tmp_path / "queries" / "here.jsonl").open("a") as file:
        file.write('{"query_id": "ab')
    assert queries.flush("here", log) == 1


def test_each_site_has_its_own_queries(queries, log):
    ask(queries, 1)
    ask(queries, 2, site="far")
    assert queries.flush("here", log) == 1
    assert queries.num_waiting("far") == 1
