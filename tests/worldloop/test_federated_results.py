import polars as pl

from worldloop.federated_results import OPEN_COLUMNS, merged

COLUMNS = (*OPEN_COLUMNS, "caption")


def answer(*found, caption=None):
    rows = pl.DataFrame(
        {"recipe_id": [f[0] for f in found], "score": [f[1] for f in found]},
        schema={"recipe_id": pl.String, "score": pl.Float64},
    ).with_columns(pl.lit("tokyo").alias("city"))
    return rows if caption is None else rows.with_columns(pl.lit(caption).alias("caption"))


def test_the_best_of_all_sites_come_first():
    answers = {"a": answer(("r1", 0.5), ("r2", 0.4)), "b": answer(("r3", 0.9), ("r4", 0.1))}
    rows = merged(answers, columns=COLUMNS, limit=3)
    assert list(rows.select("site", "recipe_id").iter_rows()) == [
        ("b", "r3"),
        ("a", "r1"),
        ("a", "r2"),
    ]


def test_ties_are_the_same_in_whatever_order_answers_come():
    answers = {"b": answer(("r2", 0.5), ("r1", 0.5)), "a": answer(("r3", 0.5))}
    turned = dict(reversed(answers.items()))
    rows = merged(answers, columns=COLUMNS, limit=9)
    assert rows["recipe_id"].to_list() == ["r1", "r2", "r3"]
    assert rows.equals(merged(turned, columns=COLUMNS, limit=9))


def test_a_clip_that_two_sites_know_counts_once():
    answers = {"b": answer(("r1", 0.5)), "a": answer(("r1", 0.5))}
    assert merged(answers, columns=COLUMNS, limit=9)["site"].to_list() == ["a"]


def test_what_a_site_keeps_to_itself_is_null():
    answers = {"own": answer(("r1", 0.5), caption="rain"), "far": answer(("r2", 0.4))}
    assert merged(answers, columns=COLUMNS, limit=9)["caption"].to_list() == ["rain", None]
    assert merged({}, columns=COLUMNS, limit=9).columns == ["site", *COLUMNS, "score"]
