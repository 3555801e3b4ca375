from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from resources import index_advisor
from resources.index_advisor import Past, Query, advise, build, nearest_scores, sampled
from resources.lance_projection import LanceProjection
from resources.lance_upkeep import TRIAL
from resources.query_log import QueryLog
from resources.site_store import SiteStore
from tests.lance_sites import lance_site
from tests.resources.test_clip_index import make_rows
from worldloop import index_advisor as rules
from worldloop.index_advisor import Targets, VectorIndex
from worldloop.records import QUERIES

MODEL = "starter-ab"
NEVER_FAST_ENOUGH = Targets(recall=0.9, p95_ms=1e-6)


@pytest.fixture
def site(tmp_path):
    made = lance_site(SiteStore(url=str(tmp_path / "site")), tmp_path / "scratch")
    made.index.upsert(make_rows(2000, width=16))
    return made


def ask_often(site, tmp_path, condition="", num=30):
    queries = QueryLog(folder=str(tmp_path / "queries"))
    for vector in make_rows(num, seed=9, width=16)["vector"]:
        facts = {"num_wanted": 10, "num_found": 10, "took_ms": 1.0}
        queries.record("here", vector=vector, model_id=MODEL, condition=condition, **facts)
    queries.flush("here", site.view.log)


def advice(site, targets, past=None):
    return advise(site.view, site.index, MODEL, past=past or Past(), targets=targets)


def test_a_table_that_is_quick_enough_gets_no_index(site):
    found = advice(site, Targets(p95_ms=10_000.0))
    assert (found.present.index, found.present.recall, found.changed) == (VectorIndex(), 1.0, 0)
    assert site.index.vector_index(MODEL).kind == "none"
    assert not found.present.are_real


def test_a_slow_table_gets_the_index_that_was_measured_as_good(site, monkeypatch):
    real = index_advisor._Trial.measure

    def slow_without(self, table, how):
        found = real(self, table, how)
        return replace(found, p95_ms=99_999.0) if how.kind == "none" else found

    monkeypatch.setattr(index_advisor._Trial, "measure", slow_without)
    found = advice(site, Targets(recall=0.9, p95_ms=10_000.0))
    assert found.changed == 1
    assert found.present.recall >= 0.9
    assert site.index.vector_index(MODEL) == found.present.index
    assert found.present.index.kind == "ivf_rq"
    assert TRIAL not in site.index.lance_table(MODEL).branches.list()


def test_nothing_is_built_again_for_a_target_that_nothing_meets(site, monkeypatch):
    first = advice(site, NEVER_FAST_ENOUGH)
    assert first.tried_rows == 2000
    past = Past.from_record(first.record())
    monkeypatch.setattr(index_advisor, "_build", None)
    assert advice(site, NEVER_FAST_ENOUGH, past).present.index == first.present.index


def test_searches_keep_the_old_index_while_a_new_one_is_tried(site, monkeypatch):
    kinds = []

    def watch(table, kind):
        kinds.append((kind, site.index.vector_index(MODEL).kind))
        real(table, kind)

    real = index_advisor._build
    monkeypatch.setattr(index_advisor, "_build", watch)
    advice(site, Targets(recall=2.0, p95_ms=10_000.0))  # no index can
    assert kinds[:2] == [("ivf_rq", "none"), ("ivf_pq", "none")]


def test_enough_real_queries_are_measured_with_and_their_filters_too(site, tmp_path):
    ask_often(site, tmp_path, condition="city = 'lima'")
    rows = site.view.log.read("queries").select(list(QUERIES.columns))
    queries, are_real = sampled(site.index, MODEL, rows)
    assert (are_real, len(queries)) == (True, 20)
    assert {query.condition for query in queries} == {"city = 'lima'"}
    assert advice(site, Targets(p95_ms=10_000.0)).present.are_real


def test_queries_whose_words_were_left_out_are_not_measured_with(site, tmp_path):
    ask_often(site, tmp_path, condition="caption LIKE '%rain%'")
    rows = site.view.log.read("queries").select(list(QUERIES.columns))
    assert sampled(site.index, MODEL, rows)[1] is False


def test_the_true_answers_are_those_of_comparing_everything(site):
    vector = np.ones(16, np.float32)
    found = nearest_scores(site.index.dataset(MODEL), [Query(vector, "city = 'lima'")])[0]
    stored = site.index.rows(MODEL, columns=["vector"], where="city = 'lima'")["vector"].to_numpy()
    scores = np.stack(stored) @ vector / np.linalg.norm(vector)
    assert np.allclose(found, np.sort(scores)[::-1][:10], atol=1e-6)


def test_what_people_filter_by_gets_a_scalar_index(site, tmp_path, monkeypatch):
    monkeypatch.setattr(rules, "_EXACT_ROWS", 10)
    ask_often(site, tmp_path, condition="weather = 'rain'")
    advice(site, Targets(p95_ms=10_000.0))
    kinds = {i.columns[0]: i.index_type for i in site.index.lance_table(MODEL).list_indices()}
    assert kinds["weather"] == kinds["city"] == "Bitmap"
    assert kinds["recipe_id"] == "BTree"
    assert "season" not in kinds


def test_an_index_goes_when_none_is_wanted(site):
    build(site.index, MODEL, VectorIndex("ivf_rq", 16, 10))
    assert site.index.vector_index(MODEL) == VectorIndex("ivf_rq", 16, 10)
    build(site.index, MODEL, VectorIndex())
    assert site.index.vector_index(MODEL) == VectorIndex()


def test_an_index_is_built_again_after_a_rebuild(tmp_path):
    site = lance_site(SiteStore(url=str(tmp_path / "other")), tmp_path / "scratch")
    site.log_wave(num=300)
    lance = LanceProjection(targets=NEVER_FAST_ENOUGH)
    lance.catch_up(site.view)
    lance.maintain(site.view)
    kind = lance.standing(site.view).index
    lance.rebuild(site.view)
    assert site.index.vector_index("starter").kind == kind
    nothing = pl.DataFrame(schema=dict(QUERIES.columns))
    assert len(sampled(site.index, "starter", nothing)[0]) > 0
