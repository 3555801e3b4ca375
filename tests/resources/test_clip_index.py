import numpy as np
import polars as pl
import pytest

from resources import index_arrow
from resources.clip_index import ClipIndex
from resources.lance_upkeep import ensure_word_index
from worldloop.errors import MalformedRecordError, StoreError
from worldloop.index_rows import INDEX_COLUMNS
from worldloop.seeds import stream


def make_rows(num_rows: int, *, seed: int = 0, model_id: str = "starter-ab", width: int = 8):
    vectors = stream(seed, "vectors").standard_normal((num_rows, width)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    count = range(num_rows)
    columns = {
        "recipe_id": [f"{seed}-{i}" for i in count],
        "model_id": [model_id] * num_rows,
        "wave": ["w0001"] * num_rows,
        "index": list(count),
        "city": [("tokyo", "lima")[i % 2] for i in count],
        "institution": [("zoo", "street", "museum")[i % 3] for i in count],
        "weather": ["rain"] * num_rows,
        "daypart": ["night"] * num_rows,
        "season": ["spring"] * num_rows,
        "generator": ["procedural"] * num_rows,
        "status": ["accepted"] * num_rows,
        "pack_key": ["packs/w0001/tokyo/ab.tar"] * num_rows,
        "rgb_offset": [1000 * i for i in count],
        "rgb_size_bytes": [900] * num_rows,
        "poster_offset": [None] * num_rows,
        "poster_size_bytes": [None] * num_rows,
        "caption": [f"clip {i}" for i in count],
        "duration_s": [2.5] * num_rows,
        "tier": ["sketch"] * num_rows,
        "sketch_recipe_id": [None] * num_rows,
        "vector": vectors.tolist(),
    }
    types = {"vector": pl.List(pl.Float32), "sketch_recipe_id": pl.String}
    return pl.DataFrame(columns, schema_overrides=types)


@pytest.fixture
def index(tmp_path):
    return ClipIndex(uri=str(tmp_path / "lance"))


def test_rows_are_merged_once_however_often_they_come(index):
    rows = make_rows(40)
    assert index.upsert(rows) == 40
    assert index.upsert(rows[10:30]) == 20
    assert index.upsert(pl.concat([rows[:5], make_rows(7, seed=1)])) == 12
    assert index.count() == 47


def test_a_row_that_comes_again_is_replaced(index):
    rows = make_rows(6)
    index.upsert(rows)
    index.upsert(rows[2:4].with_columns(status=pl.lit("duplicate")))
    assert index.count("status = 'duplicate'") == 2
    assert index.count() == 6


def test_a_table_from_before_a_column_gets_it_with_nulls(index, monkeypatch):
    older = tuple(name for name in INDEX_COLUMNS if name not in ("tier", "sketch_recipe_id"))
    with monkeypatch.context() as before:
        before.setattr(index_arrow, "INDEX_COLUMNS", older)
        index.upsert(make_rows(3))
    index.upsert(make_rows(2, seed=1))

    found = index.search([1.0] * 8, limit=9, model_id="starter-ab")
    assert found["tier"].drop_nulls().to_list() == ["sketch"] * 2
    assert found.height == 5


def test_search_agrees_with_comparing_everything(index):
    rows = make_rows(200)
    index.upsert(rows)
    vectors = np.array(rows["vector"].to_list())
    query = stream(5, "query").standard_normal(8).astype(np.float32)
    found = index.search(query, limit=10, model_id="starter-ab")
    similarity = vectors @ query / np.linalg.norm(query)
    best = np.argsort(-similarity)[:10]
    assert found["recipe_id"].to_list() == rows["recipe_id"].gather(best).to_list()
    assert np.allclose(found["score"], similarity[best], atol=1e-5)
    assert "vector" not in found.columns


def test_filters_apply_before_the_limit(index):
    index.upsert(make_rows(60))
    where = "city = 'lima' AND institution = 'museum'"
    found = index.search(np.ones(8), limit=10, where=where, model_id="starter-ab")
    assert found.height == 10
    assert set(found["city"]) == {"lima"}
    assert set(found["institution"]) == {"museum"}


def test_models_of_different_widths_live_side_by_side(index):
    index.upsert(pl.concat([make_rows(5), make_rows(5, model_id="org/clip@12", width=16)]))
    found = index.search(np.ones(16), limit=9, model_id="org/clip@12")
    assert set(found["model_id"]) == {"org/clip@12"}
    assert (index.count(), index.count(model_id="starter-ab")) == (10, 5)


def test_an_empty_index_finds_nothing(index):
    assert index.count() == 0
    assert index.search(np.ones(8), limit=3, model_id="starter-ab").is_empty()


def test_maintenance_loses_no_row_and_keeps_merging(index):
    rows = make_rows(320)
    for start in range(0, 320, 80):
        index.upsert(rows[start : start + 80])
    index.optimize()
    index.compact(keep_s=0.01)
    assert index.upsert(rows[:100]) == 100
    assert index.count() == 320
    best = index.search(rows["vector"][7], limit=1, model_id="starter-ab")
    assert best["recipe_id"].to_list() == [rows["recipe_id"][7]]


def test_rows_come_and_go_in_one_commit(index):
    rows = make_rows(6)
    index.upsert(rows)
    before = index.version("starter-ab")
    gone = rows["recipe_id"][:2].to_list()
    index.change("starter-ab", make_rows(3, seed=1), gone=gone)
    assert index.version("starter-ab") == before + 1
    assert index.count() == 7
    assert index.count(f"recipe_id = '{gone[0]}'") == 0


def test_an_overwritten_table_has_the_new_rows_alone_and_another_id(index):
    index.upsert(make_rows(6))
    before = index.table_id("starter-ab")
    index.overwrite("starter-ab", [make_rows(2, seed=1), make_rows(3, seed=2)])
    assert index.count() == 5
    assert index.table_id("starter-ab") not in (None, before)


def test_a_refused_commit_leaves_the_table_as_it_was(index):
    index.upsert(make_rows(6))

    def refuse():
        raise StoreError("not now")

    with pytest.raises(StoreError, match="not now"):
        index.change("starter-ab", make_rows(3, seed=1), confirm=refuse)
    assert index.count() == 6


def test_an_open_search_sees_a_table_that_was_made_again(index):
    index.upsert(make_rows(6))
    index.search(np.ones(8), limit=3, model_id="starter-ab")
    ClipIndex(uri=index.uri).drop("starter-ab")
    assert index.search(np.ones(8), limit=3, model_id="starter-ab").is_empty()
    index.upsert(make_rows(2, seed=1))
    assert index.search(np.ones(8), limit=3, model_id="starter-ab").height == 2


def test_words_find_captions(index):
    index.upsert(make_rows(40))
    ensure_word_index(index, "starter-ab")
    index.upsert(make_rows(3, seed=1).with_columns(caption=pl.lit("rainy markets at night")))
    where = "city = 'lima'"
    found = index.find_words("market in the rain", limit=5, model_id="starter-ab", where=where)
    assert found["recipe_id"].to_list() == ["1-1"]


def test_clearing_forgets_every_row(index):
    index.upsert(make_rows(5))
    index.clear()
    assert index.count() == 0
    assert index.upsert(make_rows(3)) == 3


@pytest.mark.parametrize("where", ["planet = 'mars'", "city ==="])
def test_an_unreadable_filter_is_one_clear_error(index, where):
    index.upsert(make_rows(5))
    with pytest.raises(MalformedRecordError, match="an SQL condition on recipe_id"):
        index.search(np.ones(8), limit=3, where=where, model_id="starter-ab")
    with pytest.raises(MalformedRecordError, match="an SQL condition on recipe_id"):
        index.count(where)


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda rows: rows.drop("city"), "no \\['city'\\]"),
        (lambda rows: pl.concat([rows, rows[:1]]), "one row per clip and model"),
    ],
    ids=["column", "key"],
)
def test_bad_rows_are_one_clear_error(index, spoil, found):
    with pytest.raises(MalformedRecordError, match=found):
        index.upsert(spoil(make_rows(4)))
    assert index.count() == 0


def test_vectors_of_another_width_are_refused(index):
    index.upsert(make_rows(3))
    with pytest.raises(MalformedRecordError, match="found '16 numbers', expected 8"):
        index.upsert(make_rows(3, width=16))


def test_the_rows_are_those_of_the_projection():
    assert tuple(make_rows(1).columns) == INDEX_COLUMNS
